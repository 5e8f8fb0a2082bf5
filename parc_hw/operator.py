"""How is one ParC called from Python, on this machine, without a bundle or a C compiler?

`compile_parc` makes the same kernels as `compile` does, in memory, and hands out a function of
numpy arrays.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import load_device
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.planner import LAYOUTS, check_plan

if TYPE_CHECKING:
    from schedules.jit import LoadedKernel
    from schedules.rule import Composite, Scheduled

__all__ = ["ParcOperator", "compile_parc"]

AXES = ("H", "W", "half", "HW")
_ALIGNMENT = 64  # bytes, of constants and scratch memory

Array = NDArray[Any]
Arrays = Array | Sequence[Array | None]


def compile_parc(
    weight: Arrays,
    axis: str,
    shape: Sequence[int],
    *,
    position_embedding: Arrays | None = None,
    bias: Arrays | None = None,
    target: str = "host",
    plan: str = "auto",
    threads: int = 1,
    layout: str = "NCHW",
) -> ParcOperator:
    """Compile one ParC with constant kernels for arrays of one shape.

    Parameters
    ----------
    weight : array, shape (C, N) or (C_out, C, N), or a pair of arrays
        Correlation kernels; N is the extent of the correlated axis. Three axes: the dense operator
        (equation 4), for axis H or W in NHWC. For axis "half" a pair (C1, H), (C2, W) with
        C1 + C2 = C, or one (C, N) where H = W = N, of which the first C // 2 kernels run along H.
        For axis "HW" a pair (C, H), (C, W).
    axis : {"H", "W", "half", "HW"}
        Along the height (tensor axis -2 of NCHW) or the width (-1); half: the first part of the
        channels along H, the rest along W; HW: along H, then the result along W.
    shape : sequence of int
        Of the input, in the order of `layout`.
    position_embedding : array, shape (C, N), or a pair, or None
        Added to the input before each correlation. A pair where `weight` is one; either of it may
        be None.
    bias : array, shape (C,) or (C_out,), or None
        Per output channel. For axis "HW" a pair, one for each correlation.
    target : str
        "host" or a described CPU whose code this machine executes.
    plan : str
        auto, direct, fft or N1xN2.
    threads : int
        How many threads share a call. The result does not depend on it.
    layout : {"NCHW", "NHWC"}
        Of input and output.

    Returns
    -------
    ParcOperator
        `y = op(x)`, `op(x, out=y)`, or `call = op.bind(x, y)` for calls without checks.

    Raises
    ------
    InputError
        A value, shape or type that is not acceptable.
    UnsupportedError
        A target whose code does not run here, or a dense kernel in NCHW or along both axes.

    Examples
    --------
    A kernel that is 1 at tap 1 moves every column up by one point:

    >>> weight = np.array([[0, 1, 0, 0]], np.float32)
    >>> op = compile_parc(weight=weight, axis="H", shape=(1, 1, 4, 1))
    >>> op(np.array([5, 6, 7, 8], np.float32).reshape(1, 1, 4, 1)).ravel()
    array([6., 7., 8., 5.], dtype=float32)
    """
    if axis not in AXES:
        raise InputError(f"axis is {axis!r}; accepted: {', '.join(AXES)}.")
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; accepted: {', '.join(sorted(LAYOUTS))}.")
    if not _whole(threads) or threads < 1:
        raise InputError(f"threads is {threads!r}; accepted: a whole number of at least 1.")
    check_plan(plan)
    extents = _shape(shape, layout)
    device = load_device(target)
    if not device.runs_here:
        raise UnsupportedError(
            f"target {target} does not run on this machine, and an operator is called in this "
            'process. Take target="host", or compile a model with parc_hw.compile for a bundle.'
        )
    channels = extents[1 if layout == "NCHW" else 3]
    height, width = extents[2:] if layout == "NCHW" else extents[1:3]
    parts = _parts(axis, weight, position_embedding, bias, channels, height, width)
    if parts[0][0].ndim == 3 and layout == "NCHW":
        raise UnsupportedError(
            "a dense kernel (C_out, C, N) in NCHW has no kernel. "
            'Give the arrays in NHWC (np.ascontiguousarray(x.transpose(0, 2, 3, 1))) and layout="NHWC".'
        )

    from schedules.cpu.parc import parc, parc_twice
    from schedules.cpu.parc_dense import parc_dense
    from schedules.cpu.parc_nchw import parc_nchw
    from schedules.jit import load_kernel
    from schedules.rule import Context, NotApplicable

    composite = _composite(axis, layout, extents, parts)
    if layout == "NCHW":
        rule = parc_nchw
    elif axis == "HW":
        rule = parc_twice
    else:
        rule = parc_dense if parts[0][0].ndim == 3 else parc
    scheduled = rule(composite, Context(device=device, plan=plan))
    if isinstance(scheduled, NotApplicable):
        raise UnsupportedError(f"no kernel for this operator: {scheduled.reason}.")
    kernel = load_kernel(scheduled.func, device)
    return ParcOperator(scheduled, kernel, composite, threads=threads)


class ParcOperator:
    """A compiled ParC; made by `compile_parc`.

    Safe to call from several threads only with `op(x)`; see `bind` for its own rule.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        In the layout the operator was compiled for.
    plan : str
        The plan of each correlation and why it was chosen, one line.
    macs : int
        Multiply-accumulates of the direct form.
    """

    def __init__(
        self, scheduled: Scheduled, kernel: LoadedKernel, composite: Composite, *, threads: int
    ) -> None:
        self.input_shape = composite.inputs[0]
        self.output_shape = composite.shape
        self.plan = scheduled.note
        self.macs = scheduled.macs
        self._kernel = kernel
        self._constants = [_aligned(c) for c in scheduled.constants]
        self._ranges = _ranges(kernel.signature.extent, threads)
        self._pool = ThreadPoolExecutor(len(self._ranges) - 1) if len(self._ranges) > 1 else None

    def __repr__(self) -> str:
        return f"<ParcOperator {self.input_shape} -> {self.output_shape}, {self.plan}>"

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """Compute the operator.

        Parameters
        ----------
        x : float32 array, shape `input_shape`
            C-contiguous; may be read-only and of any alignment of its elements. NaN and infinity
            spread along their lines as IEEE 754 says.
        out : float32 array, shape `output_shape`, or None
            C-contiguous, writable, apart from `x`. None: a new array.

        Returns
        -------
        array
            `out`, or the new one.

        Raises
        ------
        InputError
            An array that is not as described; nothing has been written.
        """
        if out is None:
            out = np.empty(self.output_shape, np.float32)
        self.bind(x, out)()
        return out

    def bind(self, x: Array, y: Array) -> Callable[[], object]:
        """Check the arrays once and return a call without arguments that computes `y` from `x`.

        The call keeps both arrays alive and has its own scratch memory. It must not run in two
        threads at once, as any writing to `y` must not.

        Raises
        ------
        InputError
            As for calling the operator.
        """
        _check("x", x, self.input_shape)
        _check("out", y, self.output_shape)
        if not y.flags.writeable:
            raise InputError("out is read-only; give an array that can be written to.")
        if np.may_share_memory(x, y):
            raise InputError(
                "x and out overlap in memory; the operator cannot work in place. "
                "Give another array, or none for a new one."
            )
        calls = [self._call(x, y, begin, end) for begin, end in self._ranges]
        if self._pool is None:
            (call,) = calls
            return call
        return partial(_run_all, self._pool, calls)

    def _call(self, x: Array, y: Array, begin: int, end: int) -> Callable[[], object]:
        """The kernel for tasks `begin` to `end`."""
        arguments: list[Any] = [_pointer(a) for a in (x, *self._constants, y)]
        arguments.append(ctypes.c_int32(0))
        if self._kernel.signature.extent:
            arguments += [ctypes.c_int32(begin), ctypes.c_int32(end)]
        if self._kernel.signature.scratch_bytes:
            scratch = np.empty(self._kernel.signature.scratch_bytes // 4, np.float32)
            arguments.append(_pointer(_aligned(scratch)))
        return partial(self._kernel.function, *arguments)


def _run_all(pool: ThreadPoolExecutor, calls: list[Callable[[], object]]) -> None:
    """The first call here and the others in the pool, to the end of all."""
    waiting = [pool.submit(call) for call in calls[1:]]
    calls[0]()
    for future in waiting:
        future.result()


def _ranges(extent: int, threads: int) -> list[tuple[int, int]]:
    """At most `threads` ranges, nearly of the same size, that cover [0, extent)."""
    parts = max(1, min(threads, extent))
    cuts = [extent * i // parts for i in range(parts + 1)]
    return list(pairwise(cuts))


def _pointer(array: Array) -> ctypes.c_void_p:
    """The address of the array's first element; keeps the array alive."""
    return array.ctypes.data_as(ctypes.c_void_p)


def _aligned(array: Array) -> Array:
    """A copy as flat float32 whose first element is aligned to `_ALIGNMENT`."""
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    room = np.empty(flat.nbytes + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    result = room[first : first + flat.nbytes].view(np.float32)
    result[:] = flat
    return result


# ---------------------------------------------------------------- what the user gave


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _shape(shape: Sequence[int], layout: str) -> tuple[int, int, int, int]:
    """The four extents as plain numbers."""
    extents = tuple(shape) if isinstance(shape, (tuple, list)) else ()
    if len(extents) != 4 or not all(_whole(e) and e >= 1 for e in extents):
        raise InputError(
            f"shape is {shape!r}; accepted: four whole numbers of at least 1, in the order {layout}."
        )
    if math.prod(int(e) for e in extents) >= 2**31:
        raise InputError(f"shape {extents} has 2**31 elements or more; kernels count with 32 bits.")
    a, b, c, d = (int(e) for e in extents)
    return a, b, c, d


def _check(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse what the kernel cannot take."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{name} is a {type(array).__name__}; accepted: a numpy array.")
    if array.dtype != np.float32:
        raise InputError(
            f"{name} has dtype {array.dtype.str}; accepted: float32 in this machine's byte order."
        )
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}; the operator was compiled for {shape}.")
    if not array.flags.c_contiguous:
        raise InputError(
            f"{name} has strides {array.strides} and is not C-contiguous; "
            "copy it with np.ascontiguousarray."
        )
    if not array.flags.aligned:
        raise InputError(f"{name} does not begin at a multiple of 4 bytes; copy it with np.array.")


def _parts(
    axis: str,
    weight: Arrays,
    position_embedding: Arrays | None,
    bias: Arrays | None,
    channels: int,
    height: int,
    width: int,
) -> list[tuple[Array, Array, Array]]:
    """Kernel, position embedding and bias of each correlation, checked, float32."""
    lengths = {"H": (height,), "W": (width,)}.get(axis, (height, width))
    weights: list[Any]
    if len(lengths) == 1:
        weights, embeddings, biases = [weight], [position_embedding], [bias]
    elif axis == "HW":
        weights = _pair("weight", weight)
        embeddings = _pair("position_embedding", position_embedding)
        biases = _pair("bias", bias)
    else:
        if isinstance(weight, np.ndarray) and weight.ndim == 2 and height == width:
            cut = channels // 2
            weight = (weight[:cut], weight[cut:])
            if isinstance(position_embedding, np.ndarray) and position_embedding.ndim == 2:
                position_embedding = (position_embedding[:cut], position_embedding[cut:])
        weights = _pair("weight", weight)
        embeddings = _pair("position_embedding", position_embedding)
        biases = [bias, None]
    found = [_numbers("weight", w) for w in weights]
    if len(found) == 2 and any(w.ndim == 3 for w in found):
        raise UnsupportedError(
            f'a dense kernel (C_out, C, N) along axis "{axis}" is not supported. '
            "Compile one operator for each axis."
        )
    if axis == "half":
        counts = [len(w) if w.ndim else 0 for w in found]
        if sum(counts) != channels or 0 in counts:
            raise InputError(
                f"the weights of axis half have {counts[0]} and {counts[1]} channels; together they "
                f"must have the input's {channels}, and each at least one."
            )
        bias = np.zeros(channels) if bias is None else _numbers("bias", bias)
        if bias.shape != (channels,):
            raise InputError(f"bias has shape {bias.shape}; it must be ({channels},).")
        biases = [bias[: counts[0]], bias[counts[0] :]]
    else:
        counts = [channels] * len(found)
    parts = []
    for w, pe, b, count, length in zip(found, embeddings, biases, counts, lengths, strict=True):
        if w.ndim not in (2, 3) or w.shape[-2:] != (count, length) or w.shape[0] < 1:
            raise InputError(
                f"weight has shape {w.shape}; with {count} channels and {length} points along "
                f"the axis it must be ({count}, {length}), or (C_out, {count}, {length})."
            )
        pe = np.zeros((count, length)) if pe is None else _numbers("position_embedding", pe)
        if pe.shape != (count, length):
            raise InputError(
                f"position_embedding has shape {pe.shape}; it must be ({count}, {length})."
            )
        b = np.zeros(len(w)) if b is None else _numbers("bias", b)
        if b.shape != (len(w),):
            raise InputError(f"bias has shape {b.shape}; it must be ({len(w)},).")
        parts.append((w, pe.astype(np.float32), b.astype(np.float32)))
    return parts


def _pair(name: str, value: Arrays | None) -> list[Any]:
    """The two of a pair; two times None for None."""
    if value is None:
        return [None, None]
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return list(value)
    kind = f"of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)
    raise InputError(
        f"{name} is {kind}; an operator along both axes takes a pair (along H, along W)."
    )


def _numbers(name: str, value: Any) -> NDArray[np.float32]:
    """A constant as float32."""
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name} is a {type(value).__name__}; accepted: a numpy array.")
    if value.dtype.kind != "f":
        raise InputError(f"{name} has dtype {value.dtype}; accepted: floating-point numbers.")
    return np.ascontiguousarray(value, np.float32)


def _composite(
    axis: str, layout: str, shape: tuple[int, ...], parts: list[tuple[Array, Array, Array]]
) -> Composite:
    """The operator as the rules read it."""
    from schedules.rule import Composite, Node, Ref

    dim = layout.index("C")

    def parc(source: Ref, along: str, part: tuple[Array, Array, Array]) -> Node:
        extents = tuple(len(part[0]) if i == dim else n for i, n in enumerate(shape))
        attrs = {"axis": along, "layout": layout}
        return Node(op="relax.parc", args=(source, *part), attrs=attrs, shape=extents)

    x = Ref("input", 0)
    if axis in ("H", "W"):
        nodes = [parc(x, axis, parts[0])]
    elif axis == "HW":
        nodes = [parc(x, "H", parts[0]), parc(Ref("node", 0), "W", parts[1])]
    else:
        nodes = []
        begin = 0
        for along, part in zip("HW", parts, strict=True):
            end = begin + len(part[0])
            attrs = {"axes": (dim,), "begin": (begin,), "end": (end,), "strides": (1,)}
            extents = tuple(end - begin if i == dim else n for i, n in enumerate(shape))
            cut = Node(op="relax.strided_slice", args=(x,), attrs=attrs, shape=extents)
            nodes += [cut, parc(Ref("node", len(nodes)), along, part)]
            begin = end
        joined = (Ref("node", 1), Ref("node", 3))
        nodes.append(Node(op="relax.concat", args=(joined,), attrs={"axis": dim}, shape=shape))
    return Composite(inputs=(shape,), nodes=tuple(nodes))
