"""Which formats does a model get from data: observe ranges, choose fraction lengths?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.qformat import QFormat
from parc_hw.errors import InputError, nearest
from parc_hw.integer.datapath import FRAC_BITS, WEIGHT_BITS, LayerFormats, ModelDatapath
from parc_hw.integer.network import WEIGHTED, Layer, Network

__all__ = ["METHODS", "PERCENTILE", "Calibration", "choose_formats", "fit_weights", "observe"]

METHODS: Final = ("minmax", "percentile", "mse")
PERCENTILE: Final = 99.99

Ints = NDArray[np.int64]

# Histograms of log2 |x|: 64 bins an octave (values to 1.1 %), from 2**-40, below which nothing
# matters, to 2**40.
_PER_OCTAVE: Final = 64
_OCTAVES: Final = 40
_BINS: Final = 2 * _OCTAVES * _PER_OCTAVE


@dataclass(frozen=True, slots=True)
class Range:
    """What one layer's values were: their number, largest magnitude, and histogram of log2 |x|."""

    count: int
    largest: float
    bins: Ints

    def merged(self, other: Range) -> Range:
        """The range of both."""
        return Range(
            self.count + other.count, max(self.largest, other.largest), self.bins + other.bins
        )

    def percentile(self, percent: float) -> float:
        """A magnitude that `percent` % of the values do not exceed, to a bin's width."""
        below = self.count - int(self.bins.sum())  # zeros, and what is smaller than every bin
        reached = below + np.cumsum(self.bins)
        index = int(np.searchsorted(reached, math.ceil(self.count * percent / 100.0)))
        if index >= _BINS or self.largest == 0.0:
            return self.largest
        edge = 2.0 ** ((index + 1) / _PER_OCTAVE - _OCTAVES)
        return min(edge, self.largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the layers' values are on some images; made by `observe`.

    Attributes
    ----------
    model : str
    images : int
        How many were seen.
    ranges : dict of str to Range
        For every layer that has a format.
    """

    model: str
    images: int
    ranges: dict[str, Range]


def observe(
    network: Network, images: ArrayLike, *, progress: Callable[[int, int], None] | None = None
) -> Calibration:
    """Run images through the real model and record every layer's values.

    Parameters
    ----------
    network : Network
    images : array, shape (n, C, H, W)
    progress : callable of (done, total), optional

    Raises
    ------
    InputError
        No image, another shape, a value that is not finite.
    """
    array = network.images(images, name="calibration")
    ranges: dict[str, Range] = {}
    for block in network.blocks(len(array)):
        for layer, _, value in network.real_walk(array[block]):
            if layer.has_format:
                seen = _range(value)
                old = ranges.get(layer.name)
                ranges[layer.name] = seen if old is None else old.merged(seen)
        if progress is not None:
            progress(block.stop, len(array))
    return Calibration(model=network.name, images=len(array), ranges=ranges)


def _range(value: NDArray[Any]) -> Range:
    magnitude = np.abs(value).reshape(-1)
    magnitude = magnitude[magnitude > 2.0**-_OCTAVES]
    places = (np.log2(magnitude, dtype=np.float32) + _OCTAVES) * _PER_OCTAVE
    index = np.minimum(places.astype(np.int64), _BINS - 1)
    bins = np.bincount(index, minlength=_BINS).astype(np.int64)
    return Range(int(value.size), float(np.abs(value).max()), bins)


def most_frac_bits(largest: float, bits: int) -> int:
    """The most fraction bits with which `largest` fits a signed word: rint(largest * 2**f) <= max.

    >>> most_frac_bits(0.99, 8), most_frac_bits(1.0, 8), most_frac_bits(100.0, 8)
    (7, 6, 0)
    """
    limit = (1 << (bits - 1)) - 1
    if largest <= 0.0:
        return bits - 1
    f = math.floor(math.log2(limit / largest)) + 1
    while np.rint(largest * 2.0**f) > limit:
        f -= 1
    return max(min(f, FRAC_BITS), -FRAC_BITS)


def _format(seen: Range, bits: int, method: str) -> QFormat:
    largest = seen.percentile(PERCENTILE) if method == "percentile" else seen.largest
    f = most_frac_bits(largest, bits)
    if method == "mse" and seen.largest > 0.0:
        f = _best_frac_bits(seen, bits, f)
    return QFormat(bits - f, f)


def _best_frac_bits(seen: Range, bits: int, first: int) -> int:
    """Among `first` and up to 4 more fraction bits, the one of least squared error."""
    limit = float((1 << (bits - 1)) - 1)
    centres = 2.0 ** ((np.arange(_BINS) + 0.5) / _PER_OCTAVE - _OCTAVES)
    errors = []
    for f in range(first, first + 5):
        scaled = centres * 2.0**f
        # Inside a bin the remainder is anything once a bin spans an LSB: 1/12 LSB^2 on average.
        inside = np.where(scaled > _PER_OCTAVE, 1 / 12, (scaled - np.rint(scaled)) ** 2)
        error = np.where(scaled > limit, (scaled - limit) ** 2, inside)
        errors.append(float((seen.bins * error).sum()) * 4.0**-f)
    return first + int(np.argmin(errors))


def choose_formats(
    network: Network,
    calibration: Calibration,
    *,
    bits: int,
    weight_bits: int | None = None,
    method: str = "minmax",
) -> ModelDatapath:
    """Give every layer a format of `bits` bits by the calibration, as docs/integer_rule.md says.

    Parameters
    ----------
    network : Network
    calibration : Calibration
        Of this network.
    bits : int
        Of every layer's words, 2 to 24.
    weight_bits : int, optional
        Of every weight; `bits` by default.
    method : {"minmax", "percentile", "mse"}

    Raises
    ------
    InputError
        A word length or a method that is not accepted; a calibration of another model.
    """
    weight_bits = bits if weight_bits is None else weight_bits
    for name, count in (("bits", bits), ("weight_bits", weight_bits)):
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= 24:
            raise InputError(f"{name} is {count!r}: expected a word length from 2 to 24.")
    if method not in METHODS:
        raise InputError(
            f"unknown calibration method {method!r}: one of {', '.join(METHODS)}."
            f"{nearest(str(method), METHODS)}"
        )
    names = [layer.name for layer in network.layers if layer.has_format]
    missing = [name for name in names if name not in calibration.ranges]
    if missing:
        raise InputError(
            f"the calibration of {calibration.model} has no values of layer {missing[0]!r} of "
            f"{network.name}; observe this network."
        )
    outputs = {name: _format(calibration.ranges[name], bits, method) for name in names}
    _share_with_concat(network, outputs)
    layers = {}
    formats = layer_formats(network, outputs)
    for number, layer in enumerate(network.layers):
        if not layer.has_format:
            continue
        if not layer.has_weights:
            layers[layer.name] = LayerFormats(output=outputs[layer.name])
            continue
        x = formats[layer.inputs[0]]
        fractions = fit_weights(layer, x, weight_bits, method=method)
        layers[layer.name] = LayerFormats(
            output=formats[number],
            weight_bits=weight_bits,
            weight_frac_bits=tuple(int(f) for f in fractions),
        )
    return ModelDatapath(model=network.name, layers=layers)


def layer_formats(network: Network, outputs: dict[str, QFormat]) -> list[QFormat]:
    """The format of every layer's words, movers included."""
    formats: list[QFormat] = []
    for layer in network.layers:
        own = outputs[layer.name] if layer.has_format else formats[layer.inputs[0]]
        formats.append(own)
    return formats


def _share_with_concat(network: Network, outputs: dict[str, QFormat]) -> None:
    """Let operands that only a concatenation reads have its format: it then only moves words."""
    readers: dict[int, list[Layer]] = {}
    for layer in network.layers:
        for used in layer.inputs:
            readers.setdefault(used, []).append(layer)
    for layer in reversed(network.layers):
        if layer.kind != "concat":
            continue
        for used in layer.inputs:
            operand = network.layers[used]
            if operand.has_format and readers[used] == [layer] and used != network.output:
                outputs[operand.name] = outputs[layer.name]


def operand_bound(layer: Layer, x: QFormat) -> tuple[int, int]:
    """Fraction bits and largest magnitude of what a layer's weights multiply."""
    if layer.kind == "layer_norm":  # the norm itself, 16 fraction bits, at most sqrt(channels)
        return 16, (math.isqrt(layer.channels) + 2) << 16
    return x.frac_bits, -x.min_raw


def channel_rows(layer: Layer, array: NDArray[np.float64]) -> NDArray[np.float64]:
    """A layer's weights as (channels, weights of a channel)."""
    return np.moveaxis(array, WEIGHTED[layer.kind], 0).reshape(layer.channels, -1)


def fit_weights(layer: Layer, x: QFormat, bits: int, *, method: str = "minmax") -> Ints:
    """The fraction bits of each output channel's weights.

    Parameters
    ----------
    layer : Layer
        With weights.
    x : QFormat
        Of its operand.
    bits : int
        Word length of the weights.
    method : str
        "mse" may saturate a channel's largest weights; the others do not.

    Returns
    -------
    int array, shape (channels,)
    """
    assert layer.weight is not None
    assert layer.bias is not None
    low, high = WEIGHT_BITS
    if not low <= bits <= high:
        raise InputError(f"{layer.name}: weight_bits is {bits}: expected {low} to {high}.")
    rows = channel_rows(layer, layer.weight)
    starts = np.abs(layer.bias.reshape(layer.channels, -1)).max(axis=1)
    limit = (1 << (bits - 1)) - 1
    fractions = np.array([most_frac_bits(float(a), bits) for a in np.abs(rows).max(axis=1)])
    if method == "mse":
        errors = []
        for more in range(3):
            scale = 2.0 ** (fractions + more)[:, None]
            words = np.clip(np.rint(rows * scale), -limit, limit)
            errors.append(((words / scale - rows) ** 2).sum(axis=1))
        # A channel of zeros has no error with any; argmin takes the first.
        fractions = np.minimum(fractions + np.argmin(errors, axis=0), FRAC_BITS)
    operand_frac, operand = operand_bound(layer, x)
    short = bits <= 8 and x.bits <= 8 and layer.kind != "layer_norm"
    most = 2.0 ** (31 if short else 47)
    while True:
        scale = 2.0**fractions
        words = np.minimum(np.rint(np.abs(rows) * scale[:, None]), limit)
        reach = words.sum(axis=1) * operand + np.rint(starts * scale * 2.0**operand_frac)
        over = (reach >= most) & (fractions > -FRAC_BITS)
        if not over.any():
            return fractions.astype(np.int64)
        fractions = fractions - over
