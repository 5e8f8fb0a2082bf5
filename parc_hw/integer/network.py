"""What is a model as the integer rule sees it: which layers, with which real constants?

A `Network` is the graph of lowering with BatchNorm and every other constant per channel folded
into the layer before it, so that each layer is one operator of docs/integer_rule.md. It computes
in real numbers too: calibration and every comparison stand on that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.integer.operators import max_pool
from fixedpoint.integer.parallel import over_batches
from parc_hw.errors import InputError, nearest

__all__ = ["MOVES", "WEIGHTED", "Layer", "Network", "real_value"]

Reals = NDArray[Any]  # float32: what models are trained and deployed in

# Layers that only move words: they have the format of their operand.
MOVES: Final = frozenset({"max_pool", "permute", "reshape", "slice"})
# Layers with weights, and the axis of the weights that counts output channels.
WEIGHTED: Final = {
    "affine": 0,
    "convolution": 3,
    "depthwise": 2,
    "layer_norm": 0,
    "linear": 1,
    "parc": 0,
    "parc_dense": 0,
}
_BLOCK_WORDS: Final = 1 << 22  # of the widest layer: longer batches gain nothing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One operator of the rule.

    Attributes
    ----------
    name : str
        Where in the source model, unique: "stages.0.0.widen".
    kind : str
        "input", "convolution", "depthwise", "linear", "parc", "parc_dense", "affine", "add",
        "subtract", "multiply", "matmul", "concat", "clip", "mean", "layer_norm", "softmax",
        "max_pool", "slice", "reshape", "permute", or a name of `fixedpoint.integer.tables`.
    inputs : tuple of int
        Numbers of the layers read.
    shape : tuple of int
        Of the result in memory order (channels last), batch first; batch 1.
    source : str
        The source graph's node with this value, "" when there is none.
    weight : float64 array or None
        Real weights: convolution (kh, kw, C_in, O), depthwise (kh, kw, O), linear (K, O), parc
        (C, N), parc_dense (O, C, N), affine and layer_norm (C,).
    bias : float64 array or None
        (O,); for ParC (O, N), with the position embedding folded in.
    attrs : mapping
        What else the operator needs.
    lowest, highest : float or None
        Ends of a ReLU or clip that belongs to the layer.
    macs : int
        Multiply-accumulates of one image.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    source: str = ""
    weight: NDArray[np.float64] | None = field(default=None, repr=False)
    bias: NDArray[np.float64] | None = field(default=None, repr=False)
    attrs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lowest: float | None = None
    highest: float | None = None
    macs: int = 0

    @property
    def has_weights(self) -> bool:
        """Whether it has weights, and so weight formats."""
        return self.weight is not None

    @property
    def has_format(self) -> bool:
        """Whether it rounds into a format of its own."""
        return self.kind not in MOVES

    @property
    def channels(self) -> int:
        """Output channels of the weights, or the extent of the last axis."""
        if self.weight is None:
            return self.shape[-1]
        return int(self.weight.shape[WEIGHTED[self.kind]])

    @property
    def weight_words(self) -> int:
        """How many weights, biases not counted."""
        return 0 if self.weight is None else int(self.weight.size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """A model with one input and one output; made by `read_network`.

    Attributes
    ----------
    name : str
    layers : tuple of Layer
        In execution order; the input is the first.
    output : int
        The layer with the result.
    input_shape : tuple of int
        Of one image at the user's boundary, (C, H, W).
    input_axes : tuple of int
        The order in which the input's words lie in memory: (0, 2, 3, 1) for NHWC.
    origin : str
        Where the weights come from, for reports.
    trained : bool
        Whether they are trained: a figure from others is agreement, never accuracy.
    """

    name: str
    layers: tuple[Layer, ...]
    output: int
    input_shape: tuple[int, ...]
    input_axes: tuple[int, ...]
    origin: str
    trained: bool

    def layer(self, name: str) -> Layer:
        """The layer of that name, or InputError with the nearest."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        raise InputError(
            f"{self.name} has no layer {name!r}.{nearest(name, names)} "
            f"`parc_hw.integer.read_network` lists all {len(names)}."
        )

    @property
    def batches(self) -> bool:
        """Whether images may run together: a reshape or permutation may mix the batch in."""
        return all(
            layer.attrs["axes"][0] == 0
            if layer.kind == "permute"
            else layer.shape[0] == self.layers[layer.inputs[0]].shape[0] == 1
            for layer in self.layers
            if layer.kind in ("permute", "reshape")
        )

    def in_memory(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images (n, C, H, W) in the order of `input_axes`."""
        return np.ascontiguousarray(images.transpose(self.input_axes))

    def images(self, x: ArrayLike, *, name: str = "x") -> NDArray[np.float32]:
        """Return `x` as float32 (n, C, H, W) after checking shape and values."""
        array = np.asarray(x)
        if array.dtype.kind not in "fiu":
            raise InputError(f"{name}: real numbers are expected, not {array.dtype}.")
        if array.ndim != 1 + len(self.input_shape) or array.shape[1:] != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise InputError(
                f"{name} has shape {array.shape}; {self.name} was read for (n, {wanted})."
            )
        if array.shape[0] == 0:
            raise InputError(f"{name}: shape {array.shape} holds no image; give at least one.")
        array = np.ascontiguousarray(array, np.float32)
        bad = ~np.isfinite(array)
        if bad.any():
            index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
            raise InputError(
                f"{name}: {array[index]} at index {index} is no finite number, and no word stands "
                f"for it. Clean the data first."
            )
        return array

    def blocks(self, count: int) -> Iterator[slice]:
        """Cut `count` images into batches that run together."""
        widest = max(
            max(int(np.prod(layer.shape[1:])), layer.attrs.get("gathered", 0))
            for layer in self.layers
        )
        size = max(1, _BLOCK_WORDS // widest) if self.batches else 1
        for begin in range(0, count, size):
            yield slice(begin, min(begin + size, count))

    def walk(
        self, first: Any, compute: Callable[[Layer, list[Any]], Any]
    ) -> Iterator[tuple[Layer, list[Any], Any]]:
        """Run the layers in order from the input's value `first`; forget what nobody reads again.

        Yields
        ------
        (layer, operands, value)
        """
        last = {used: n for n, layer in enumerate(self.layers) for used in layer.inputs}
        values: dict[int, Any] = {}
        for number, layer in enumerate(self.layers):
            operands = [values[used] for used in layer.inputs]
            value = first if layer.kind == "input" else compute(layer, operands)
            values[number] = value
            yield layer, operands, value
            for used in layer.inputs:
                if last[used] == number:
                    values.pop(used, None)

    def real_walk(self, x: NDArray[np.float32]) -> Iterator[tuple[Layer, list[Any], Any]]:
        """`walk` in real numbers (float32), from images (n, C, H, W)."""
        return self.walk(self.in_memory(x), lambda layer, operands: real_value(layer, operands))

    def evaluate(self, x: ArrayLike) -> NDArray[np.float64]:
        """Return the model's output for images (n, C, H, W): float64 (n, ...), computed in float32.

        Raises
        ------
        InputError
            Another shape, no image, or a value that is not finite.
        """
        images = self.images(x)

        def output(block: slice) -> Reals:
            walk = enumerate(self.real_walk(images[block]))
            return next(step[2] for number, step in walk if number == self.output)

        results = over_batches(output, list(self.blocks(len(images))))
        return np.concatenate(results).astype(np.float64)

    def check_names(self, names: Collection[str]) -> None:
        """Raise InputError when one of `names` is no layer."""
        for name in names:
            self.layer(name)


def move(layer: Layer, operands: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The result of a layer of `MOVES`: words or real numbers alike."""
    x = operands[0]
    if layer.kind == "slice":
        return np.ascontiguousarray(x[layer.attrs["index"]])
    if layer.kind == "reshape":
        # A layer of batch 1 takes any number of images.
        return x.reshape(-1, *layer.shape[1:]) if layer.shape[0] == 1 else x.reshape(layer.shape)
    if layer.kind == "permute":
        return np.ascontiguousarray(x.transpose(layer.attrs["axes"]))
    return max_pool(x, layer.attrs["window"])


def real_value(
    layer: Layer,
    operands: Sequence[Reals],
    weight: NDArray[np.float64] | None = None,
    bias: NDArray[np.float64] | None = None,
) -> Reals:
    """What a layer computes in float32 on real operands.

    `weight` and `bias` take the place of the layer's own: what its words stand for, for instance.
    """
    if layer.kind in MOVES:
        return move(layer, operands)
    weight = layer.weight if weight is None else weight
    bias = layer.bias if bias is None else bias
    w = None if weight is None else weight.astype(np.float32)
    b = None if bias is None else bias.astype(np.float32)
    y = _REAL[layer.kind](layer, operands, w, b)
    if layer.lowest is not None or layer.highest is not None:
        y = np.clip(y, layer.lowest, layer.highest)
    return np.asarray(y, np.float32)


def _convolution(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    columns = layer.attrs["window"].columns(operands[0], np.float32)
    rows = columns.reshape(*columns.shape[:3], -1)
    return np.asarray(rows @ w.reshape(-1, w.shape[-1]) + b)


def _depthwise(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    x, window = operands[0], layer.attrs["window"]
    if w.shape[2] != x.shape[3]:
        x = np.repeat(x, w.shape[2] // x.shape[3], axis=3)
    top, left, bottom, right = window.padding
    rows, columns = window.extents(*x.shape[1:3])
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.broadcast_to(b, (x.shape[0], rows, columns, w.shape[2])).astype(np.float32)
    for u in range(w.shape[0]):
        for v in range(w.shape[1]):
            first, second = u * window.dilation[0], v * window.dilation[1]
            y += (
                w[u, v]
                * x[
                    :,
                    first : first + window.strides[0] * (rows - 1) + 1 : window.strides[0],
                    second : second + window.strides[1] * (columns - 1) + 1 : window.strides[1],
                ]
            )
    return np.asarray(y)


def _parc(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    axis = layer.attrs["axis"]
    x = np.moveaxis(operands[0], axis, 1)  # (B, N, other, C)
    twice = np.concatenate([x, x], axis=1)
    y = np.broadcast_to(b.T[None, :, None, :], x.shape).astype(np.float32)
    for k in range(w.shape[1]):
        y += w[:, k] * twice[:, k : k + w.shape[1]]
    return np.ascontiguousarray(np.moveaxis(y, 1, axis))


def _parc_dense(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    axis, length = layer.attrs["axis"], w.shape[2]
    x = np.moveaxis(operands[0], axis, 1)
    y = b.T[None, :, None, :] + np.zeros((*x.shape[:3], 1), np.float32)
    for k in range(length):
        y = y + np.roll(x, -k, axis=1) @ w[:, :, k].T
    return np.ascontiguousarray(np.moveaxis(y, 1, axis))


def _layer_norm(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    x = operands[0].astype(np.float64)
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(variance + layer.attrs["epsilon"]) * w + b)


def _mean(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    return np.asarray(operands[0].mean(axis=(1, 2), keepdims=layer.attrs["keep"], dtype=np.float64))


def _softmax(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    from scipy import special

    return np.asarray(special.softmax(operands[0], axis=-1))


def _curve(layer: Layer, operands: Sequence[Reals], w: Any, b: Any) -> Reals:
    from fixedpoint.integer.tables import curve

    return curve(layer.kind).function(operands[0])


_REAL: dict[str, Callable[[Layer, Sequence[Reals], Any, Any], Reals]] = {
    "input": lambda layer, operands, w, b: operands[0],
    "convolution": _convolution,
    "depthwise": _depthwise,
    "linear": lambda layer, operands, w, b: operands[0] @ w + b,
    "parc": _parc,
    "parc_dense": _parc_dense,
    "affine": lambda layer, operands, w, b: operands[0] * w + b,
    "add": lambda layer, operands, w, b: operands[0] + operands[1],
    "subtract": lambda layer, operands, w, b: operands[0] - operands[1],
    "multiply": lambda layer, operands, w, b: operands[0] * operands[1],
    "matmul": lambda layer, operands, w, b: operands[0] @ operands[1],
    "concat": lambda layer, operands, w, b: np.concatenate(operands, axis=layer.attrs["axis"]),
    "clip": lambda layer, operands, w, b: operands[0],
    "mean": _mean,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "gelu": _curve,
    "gelu_tanh": _curve,
    "silu": _curve,
    "hardswish": _curve,
    "sigmoid": _curve,
    "hardsigmoid": _curve,
}
