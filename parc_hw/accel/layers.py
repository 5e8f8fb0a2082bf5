"""Which kernel, with which constants, is a layer of a quantised network?

What comes out has the words of `fixedpoint.integer` and nothing else; what the machine has no
instruction for is refused with the reason, and runs on the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.integer.operators import Ending, normal_epsilon
from fixedpoint.integer.tables import NAMES, STEP_BITS, TABLE_BITS, curve
from fixedpoint.modes import Rounding, rounding_code
from parc_hw.accel import rom
from schedules.accel.kernel import Kernel
from schedules.accel.operators import (
    View,
    circular,
    convolution,
    elementwise,
    matrix,
    mean,
    multiplied,
    permutation,
    rows,
    windows,
)

if TYPE_CHECKING:
    from fixedpoint.qformat import QFormat
    from parc_hw.integer.execute import Prepared

__all__ = ["Map", "OnHost", "Work", "border_of", "dtype_of", "lower_layer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """A layer's words in external memory.

    Attributes
    ----------
    base : int
        First byte of the array.
    view : View
        The array, and where in it the words lie.
    extents : tuple of int
        Rows, columns, channels: what the words are as a map (batches count as rows).
    format : QFormat
    """

    base: int
    view: View
    extents: tuple[int, int, int]
    format: QFormat

    @property
    def is_dense(self) -> bool:
        """Whether the words fill the array."""
        return self.view.shape == self.extents


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A layer for the machine.

    Attributes
    ----------
    kernel : Kernel
    operands : mapping of str to Map
        The tensors of the kernel that are words of layers; "Y" is the result.
    constants : mapping of str to array
        Its other tensors, in the types that the kernel says.
    tables : mapping of str to bytes
        Those in read-only memory.
    """

    kernel: Kernel
    operands: Mapping[str, Map]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    tables: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnHost:
    """A layer that the machine has no instruction for, and why."""

    reason: str


def dtype_of(fmt: QFormat) -> str | None:
    """The type that holds a format's words in memory; None for one that no unit takes."""
    return "int8" if fmt.bits <= 8 else "int16" if fmt.bits <= 16 else None


def border_of(prepared: Prepared) -> tuple[int, int, int, int]:
    """Rows and columns of zeros that a layer reads around its operand: top, left, bottom, right."""
    layer = prepared.layer
    if layer.kind not in ("convolution", "depthwise", "max_pool"):
        return 0, 0, 0, 0
    padding = layer.attrs["window"].padding
    return padding[0], padding[1], padding[2], padding[3]


def lower_layer(
    prepared: Prepared, operands: Sequence[Map], result: Map, rounding: Rounding
) -> Work | OnHost:
    """Return a layer's kernel and constants, or why it runs on the host.

    Parameters
    ----------
    prepared : Prepared
        With a format of at most 16 bits, as its operands.
    operands : sequence of Map
    result : Map
    rounding : Rounding
    """
    layer = prepared.layer
    ending = Ending(
        format=prepared.format, rounding=rounding, lowest=layer.lowest, highest=layer.highest
    )
    fields = {"lo": ending.lo, "hi": ending.hi, "rounding": rounding_code(rounding)}
    lowering = _LAYERS.get("curve" if layer.kind in NAMES else layer.kind)
    if lowering is None:
        return OnHost(f"the machine has no instruction for {layer.kind}")
    return lowering(prepared, operands, result, fields)


# ---------------------------------------------------------------- layers with weights
def _weights(prepared: Prepared, x: Map, weight: NDArray[Any], bias: NDArray[Any]) -> Any:
    """Types and constants of a layer with weights: (types, constants)."""
    assert prepared.frac_bits is not None
    largest = int(np.abs(weight).max(initial=0))
    dtype = "int8" if largest < 1 << 7 else "int16"
    if largest >= 1 << 15:
        return None
    wide = int(np.abs(bias).max(initial=0)) >= 1 << 31
    shifts = x.format.frac_bits + prepared.frac_bits - prepared.format.frac_bits
    if np.abs(shifts).max(initial=0) > 127:
        return None
    types = {"weights": dtype, "bias": "int64" if wide else "int32"}
    return types, {
        "W": weight.astype(dtype),
        "B": bias.astype(types["bias"]),
        "S": shifts.astype(np.int8),
    }


_TOO_WIDE = OnHost("its weights have more than 16 bits")


def _convolution(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work | OnHost:
    layer, x = prepared.layer, operands[0]
    assert prepared.weight is not None
    assert prepared.bias is not None
    window = layer.attrs["window"]
    depthwise = layer.kind == "depthwise"
    made = _weights(prepared, x, prepared.weight, prepared.bias)
    if made is None:
        return _TOO_WIDE
    types, constants = made
    top, left, _, _ = window.padding
    around = View(
        shape=x.view.shape,
        origin=(x.view.origin[0] - top, x.view.origin[1] - left, x.view.origin[2]),
        dtype=x.view.dtype,
    )
    height, width, outputs = y.extents
    channels = x.extents[2]
    if depthwise and outputs != channels:
        multiplier = outputs // channels
        kernel = multiplied(
            around, y.view, height=height, width=width, channels=channels, multiplier=multiplier,
            taps=window.taps, strides=window.strides, dilation=window.dilation, ending=fields,
            **types,
        )  # fmt: skip
        apart = {
            "W": constants["W"].reshape(*window.taps, channels, multiplier),
            "B": constants["B"].reshape(channels, multiplier),
            "S": constants["S"].reshape(channels, multiplier),
        }
        return Work(kernel=kernel, operands={"X": x, "Y": y}, constants=apart)
    view, out = around, y.view
    if window.is_point and x.is_dense and y.is_dense:  # rows need not be apart
        view = View(shape=(1, height * width, channels), dtype=x.view.dtype)
        out = View(shape=(1, height * width, outputs), dtype=y.view.dtype)
        height, width = 1, height * width
    kernel = convolution(
        view,
        out,
        height=height,
        width=width,
        channels=channels,
        outputs=outputs,
        taps=window.taps,
        strides=window.strides,
        dilation=window.dilation,
        depthwise=depthwise,
        ending=fields,
        **types,
    )
    return Work(kernel=kernel, operands={"X": x, "Y": y}, constants=constants)


def _points(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work | OnHost:
    """Linear layers, and constants per channel as a depthwise convolution of one tap."""
    x = operands[0]
    assert prepared.weight is not None
    assert prepared.bias is not None
    depthwise = prepared.layer.kind == "affine"
    shape = (1, 1, *prepared.weight.shape)
    made = _weights(prepared, x, prepared.weight.reshape(shape), prepared.bias)
    if made is None:
        return _TOO_WIDE
    types, constants = made
    height, width, outputs = y.extents
    channels = x.extents[2]
    view, out = x.view, y.view
    if x.is_dense and y.is_dense:
        view = View(shape=(1, height * width, channels), dtype=view.dtype)
        out = View(shape=(1, height * width, outputs), dtype=out.dtype)
        height, width = 1, height * width
    kernel = convolution(
        view, out, height=height, width=width, channels=channels, outputs=outputs, taps=(1, 1),
        depthwise=depthwise, ending=fields, **types,
    )  # fmt: skip
    return Work(kernel=kernel, operands={"X": x, "Y": y}, constants=constants)


def _parc(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work | OnHost:
    layer, x = prepared.layer, operands[0]
    assert prepared.weight is not None
    assert prepared.bias is not None
    dense = layer.kind == "parc_dense"
    weight = prepared.weight.transpose(2, 1, 0) if dense else prepared.weight.T
    made = _weights(prepared, x, weight, prepared.bias.T)
    if made is None:
        return _TOO_WIDE
    types, constants = made
    axis = layer.attrs["axis"] - 1
    if x.view.origin[axis] or x.view.shape[axis] != x.extents[axis]:
        return OnHost("its operand has a border along the ring")
    kernel = circular(
        x.view,
        y.view,
        axis=axis,
        length=x.extents[axis],
        others=x.extents[1 - axis],
        channels=x.extents[2],
        outputs=y.extents[2] if dense else None,
        ending=fields,
        **types,
    )
    return Work(kernel=kernel, operands={"X": x, "Y": y}, constants=constants)


# ---------------------------------------------------------------- words with words
def _flat(maps: Sequence[Map]) -> tuple[tuple[View, ...], tuple[int, int, int]]:
    """Views and extents of maps of one shape; one long row where nothing lies between."""
    height, width, channels = maps[-1].extents
    if all(each.is_dense and each.extents == maps[-1].extents for each in maps):
        points = height * width
        views = tuple(View(shape=(1, points, channels), dtype=each.view.dtype) for each in maps)
        return views, (1, points, channels)
    return tuple(each.view for each in maps), (height, width, channels)


def _pair(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work | OnHost:
    kind = prepared.layer.kind
    a, b = operands
    if a.base == b.base and a.view == b.view:
        return OnHost("both of its operands are the same words")
    if a.extents != y.extents:
        if kind == "subtract" or b.extents != y.extents:
            return OnHost("both of its operands are broadcast")
        a, b = b, a
    rows_held, columns_held, channels_held = (
        one == 1 and every > 1 for one, every in zip(b.extents, y.extents, strict=True)
    )
    held = rows_held, columns_held, channels_held
    if any(extent not in (1, all_) for extent, all_ in zip(b.extents, y.extents, strict=True)):
        return OnHost("its operands are broadcast over merged axes")
    fa, fb, fy = (each.format.frac_bits for each in (a, b, y))
    if kind == "multiply":
        fields = {**fields, "shift": fa + fb - fy}
    else:
        point = max(fa, fb)
        fields = {**fields, "up_a": point - fa, "up_b": point - fb, "shift": point - fy}
    (va, vb, vy), extents = _flat((a, b, y))
    kernel = elementwise(
        kind, {"P": va, "Q": vb}, vy, extents=extents, broadcast={"Q": held}, fields=fields
    )
    return Work(kernel=kernel, operands={"P": a, "Q": b, "Y": y})


def _requantised(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work:
    return copy_work(operands[0], y, fields)


def copy_work(x: Map, y: Map, fields: Mapping[str, Any]) -> Work:
    """Words into another place, format or pair of ends."""
    (vx, vy), extents = _flat((x, y))
    shift = x.format.frac_bits - y.format.frac_bits
    kernel = elementwise("copy", {"P": vx}, vy, extents=extents, fields={**fields, "shift": shift})
    return Work(kernel=kernel, operands={"P": x, "Y": y})


def _curve(prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]) -> Work:
    x, name = operands[0], prepared.layer.kind
    words = rom.activation_words(name)
    up, k = _grid(x.format)
    (vx, vy), extents = _flat((x, y))
    kernel = elementwise(
        "activate",
        {"P": vx},
        vy,
        extents=extents,
        table=len(words) // 4,
        fields={
            **fields,
            "immediate": len(words) // 4,
            "immediate2": int(curve(name).grows),
            "up_a": up,
            "up_b": k,
            "shift": k + TABLE_BITS - y.format.frac_bits,
        },
    )
    return Work(kernel=kernel, operands={"P": x, "Y": y}, tables={"L": words})


def _grid(fmt: QFormat) -> tuple[int, int]:
    return max(STEP_BITS - fmt.frac_bits, 0), max(fmt.frac_bits - STEP_BITS, 0)


# ---------------------------------------------------------------- rows and positions
def _layer_norm(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work | OnHost:
    layer, x = prepared.layer, operands[0]
    assert prepared.weight is not None
    assert prepared.bias is not None
    assert prepared.frac_bits is not None
    if np.abs(prepared.weight).max() >= 1 << 31:
        return _TOO_WIDE
    epsilon = normal_epsilon(layer.attrs["epsilon"], len(prepared.weight), x.format)
    if epsilon >> 62:
        return OnHost("its epsilon has more than 62 bits")
    shift = 16 + prepared.frac_bits - y.format.frac_bits
    records = rom.norm_records(prepared.weight, prepared.bias, shift)
    (vx, vy), extents = _flat((x, y))
    kernel = rows(
        "layer_norm",
        vx,
        vy,
        extents=extents,
        constants=((x.extents[2], 2), "int64", "external"),
        fields={
            **fields,
            "immediate": epsilon & ((1 << 31) - 1),
            "immediate2": epsilon >> 31,
        },
    )
    constants = {"L": np.frombuffer(records, "<i8").reshape(-1, 2)}
    return Work(kernel=kernel, operands={"P": x, "Y": y}, constants=constants)


def _softmax(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work:
    x = operands[0]
    words = rom.softmax_words()
    up, k = _grid(x.format)
    (vx, vy), extents = _flat((x, y))
    kernel = rows(
        "softmax",
        vx,
        vy,
        extents=extents,
        constants=((len(words) // 4,), "int32", "rom"),
        fields={
            **fields,
            "immediate": len(words) // 4,
            "up_a": up,
            "up_b": k,
            "shift": 46 - y.format.frac_bits,
        },
    )
    return Work(kernel=kernel, operands={"P": x, "Y": y}, tables={"L": words})


def _mean(prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]) -> Work:
    x, count = operands[0], prepared.layer.attrs["count"]
    exponent = 15 + (count - 1).bit_length()
    factor = int(np.rint(2.0**exponent / count))
    kernel = mean(
        x.view,
        y.view,
        height=x.extents[0],
        width=x.extents[1],
        channels=x.extents[2],
        ending={
            **fields,
            "immediate": factor,
            "shift": exponent + x.format.frac_bits - y.format.frac_bits,
        },
    )
    return Work(kernel=kernel, operands={"P": x, "Y": y})


def _max_pool(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work | OnHost:
    window, x = prepared.layer.attrs["window"], operands[0]
    top, left, _, _ = window.padding
    view = View(
        shape=x.view.shape,
        origin=(x.view.origin[0] - top, x.view.origin[1] - left, x.view.origin[2]),
        dtype=x.view.dtype,
    )
    height, width, channels = y.extents
    kernel = windows(
        view, y.view, height=height, width=width, channels=channels, taps=window.taps,
        strides=window.strides, dilation=window.dilation, fields={},
    )  # fmt: skip
    return Work(kernel=kernel, operands={"P": x, "Y": y})


def _matmul(
    prepared: Prepared, operands: Sequence[Map], y: Map, fields: Mapping[str, Any]
) -> Work | OnHost:
    layer = prepared.layer
    a, b = operands
    shape = layer.shape
    lines, outputs, count = shape[-2], shape[-1], layer.attrs["count"]
    batch = math.prod(shape[:-2])
    if not (a.is_dense and b.is_dense and y.is_dense):
        return OnHost("its matrices lie apart in memory")
    if (
        math.prod(a.extents) != batch * lines * count
        or math.prod(b.extents) != batch * count * outputs
    ):
        return OnHost("one of its matrices is broadcast")
    kernel = matrix(
        View(shape=(batch, lines, count), dtype=a.view.dtype),
        View(shape=(batch, count, outputs), dtype=b.view.dtype),
        View(shape=(batch, lines, outputs), dtype=y.view.dtype),
        batch=batch,
        lines=lines,
        count=count,
        outputs=outputs,
        ending={
            **fields,
            "shift": a.format.frac_bits + b.format.frac_bits - y.format.frac_bits,
        },
    )
    return Work(kernel=kernel, operands={"X": a, "W": b, "Y": y})


def permute_work(x: Map, y: Map, shape: Sequence[int], axes: Sequence[int]) -> Work | OnHost:
    """A dense array `shape` with its axes reordered."""
    if not x.is_dense or not y.is_dense:
        return OnHost("its words lie apart in memory")
    merged, order = _merged_axes(tuple(shape), tuple(axes))
    kernel = permutation(merged, order, x.view.dtype, fields={})
    return Work(kernel=kernel, operands={"P": x, "Y": y})


def cut_work(
    x: Map, y: Map, shape: Sequence[int], index: Sequence[slice], fields: Mapping[str, Any]
) -> Work | OnHost:
    """The part `index` of a dense array `shape`, where it is consecutive along one axis."""
    if not x.is_dense or not y.is_dense:
        return OnHost("its words lie apart in memory")
    ranges = [range(*cut.indices(extent)) for cut, extent in zip(index, shape, strict=True)]
    if any(each.step != 1 for each in ranges):
        return OnHost("it takes every other word")
    cut = [axis for axis, each in enumerate(ranges) if len(each) != shape[axis]]
    if len(cut) > 1:
        return OnHost(f"it cuts {len(cut)} axes at once")
    axis = cut[0] if cut else 0
    before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    extents = before, len(ranges[axis]), behind
    source = View(
        shape=(before, shape[axis], behind), origin=(0, ranges[axis].start, 0), dtype=x.view.dtype
    )
    return copy_work(
        replace(x, view=source, extents=extents),
        replace(y, view=View(shape=extents, dtype=y.view.dtype), extents=extents),
        fields,
    )


def _merged_axes(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[Any, Any]:
    """The same permutation with axes of one element dropped and those that stay together merged."""
    kept = [axis for axis in axes if shape[axis] > 1]
    groups: list[list[int]] = []
    for axis in kept:
        before = [a for a in range(axis) if shape[a] > 1]
        if groups and before and groups[-1][-1] == before[-1]:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    ascending = sorted(groups, key=lambda group: group[0])
    merged = tuple(math.prod(shape[axis] for axis in group) for group in ascending) or (1,)
    order = tuple(ascending.index(group) for group in groups) or (0,)
    return merged, order


_LAYERS: dict[str, Any] = {
    "convolution": _convolution,
    "depthwise": _convolution,
    "linear": _points,
    "affine": _points,
    "parc": _parc,
    "parc_dense": _parc,
    "add": _pair,
    "subtract": _pair,
    "multiply": _pair,
    "clip": _requantised,
    "curve": _curve,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "mean": _mean,
    "max_pool": _max_pool,
    "matmul": _matmul,
}
