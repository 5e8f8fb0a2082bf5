"""What is each operator of the integer rule exactly, in Python's integers and fractions?

The oracle of `fixedpoint.integer`: docs/integer_rule.md read aloud, one word at a time, from the
definition of rounding (`fixedpoint.exact.round_to_integer`) instead of shifts. Arrays are of
Python integers (dtype object) or any integers, channels last. Slow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fixedpoint.exact import round_to_integer
from fixedpoint.modes import Rounding
from fixedpoint.qformat import QFormat

__all__ = [
    "End",
    "activation",
    "affine",
    "convolution",
    "depthwise",
    "finish",
    "input_word",
    "layer_norm",
    "linear",
    "matrix_product",
    "mean",
    "parc",
    "parc_dense",
    "product",
    "requantize",
    "softmax",
    "sum_of",
    "table",
]

Array = NDArray[Any]


class End(Protocol):
    """How an operator ends: its output format, rounding, and the ends of a clip."""

    @property
    def format(self) -> QFormat:
        """Of the words."""

    @property
    def rounding(self) -> Rounding:
        """What happens to dropped bits."""

    @property
    def lowest(self) -> float | None:
        """Lower end of a clip, a real number."""

    @property
    def highest(self) -> float | None:
        """Upper end of a clip, a real number."""


def finish(value: Fraction, end: End) -> int:
    """Q of the rule: the word that an exact real number becomes."""
    fmt = end.format
    lsb = Fraction(2) ** -fmt.frac_bits
    low, high = fmt.min_raw, fmt.max_raw
    word = round_to_integer(value / lsb, end.rounding)
    if end.lowest is not None:
        ends = round_to_integer(Fraction(end.lowest) / lsb, Rounding.HALF_EVEN)
        low = min(max(low, ends), high)
    if end.highest is not None:
        ends = round_to_integer(Fraction(end.highest) / lsb, Rounding.HALF_EVEN)
        high = max(min(high, ends), fmt.min_raw)
    return low if word < low else high if word > high else word


def _value(word: int, frac_bits: int) -> Fraction:
    return int(word) * Fraction(2) ** -int(frac_bits)


def _points(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(extent) for extent in shape))


def input_word(x: float, end: End) -> int:
    """The word of a real number.

    >>> from fixedpoint.integer.operators import Ending
    >>> input_word(0.375, Ending(format=QFormat.parse("Q6.2")))
    2
    """
    return finish(Fraction(float(x)), end)


def linear(x: Array, weight: Array, bias: Array, frac: Sequence[int], fx: int, end: End) -> Array:
    """Rows (R, K) times weight (K, O)."""
    out = np.empty((x.shape[0], weight.shape[1]), object)
    for r, o in _points(out.shape):
        total = int(bias[o]) + sum(int(a) * int(b) for a, b in zip(x[r], weight[:, o], strict=True))
        out[r, o] = finish(_value(total, fx + frac[o]), end)
    return out


def convolution(
    x: Array, weight: Array, bias: Array, frac: Sequence[int], fx: int, end: End, window: Any
) -> Array:
    """x (B, H, W, C), weight (kh, kw, C, O); `window` as `operators.Window`."""
    batch, height, width, channels = x.shape
    rows, columns, _, outputs = weight.shape
    top, left, bottom, right = window.padding
    reach = [
        spread * (taps - 1) + 1
        for spread, taps in zip(window.dilation, (rows, columns), strict=True)
    ]
    shape = (
        batch,
        (height + top + bottom - reach[0]) // window.strides[0] + 1,
        (width + left + right - reach[1]) // window.strides[1] + 1,
        outputs,
    )
    out = np.empty(shape, object)
    for b, i, j, o in _points(shape):
        total = int(bias[o])
        for u, v, c in _points((rows, columns, channels)):
            h = i * window.strides[0] + u * window.dilation[0] - top
            w = j * window.strides[1] + v * window.dilation[1] - left
            if 0 <= h < height and 0 <= w < width:
                total += int(x[b, h, w, c]) * int(weight[u, v, c, o])
        out[b, i, j, o] = finish(_value(total, fx + frac[o]), end)
    return out


def depthwise(
    x: Array, weight: Array, bias: Array, frac: Sequence[int], fx: int, end: End, window: Any
) -> Array:
    """x (B, H, W, C), weight (kh, kw, O), O a multiple of C: a convolution that is mostly zeros."""
    channels, outputs = x.shape[3], weight.shape[2]
    dense = np.zeros((*weight.shape[:2], channels, outputs), object)
    for o in range(outputs):
        dense[:, :, o // (outputs // channels), o] = weight[:, :, o]
    return convolution(x, dense, bias, frac, fx, end, window)


def parc_dense(
    x: Array, weight: Array, bias: Array, frac: Sequence[int], fx: int, end: End, axis: int
) -> Array:
    """x (B, H, W, C), weight (O, C, N), bias (O, N); N along `axis` of x."""
    outputs, channels, length = weight.shape
    out = np.empty((*x.shape[:3], outputs), object)
    for b, h, w, o in _points(out.shape):
        i = (h, w)[axis - 1]
        total = int(bias[o, i])
        for c, k in _points((channels, length)):
            j = (i + k) % length
            word = x[b, j, w, c] if axis == 1 else x[b, h, j, c]
            total += int(weight[o, c, k]) * int(word)
        out[b, h, w, o] = finish(_value(total, fx + frac[o]), end)
    return out


def parc(
    x: Array, weight: Array, bias: Array, frac: Sequence[int], fx: int, end: End, axis: int
) -> Array:
    """x (B, H, W, C), weight and bias (C, N): a dense one that is mostly zeros."""
    channels, length = weight.shape
    dense = np.zeros((channels, channels, length), object)
    dense[range(channels), range(channels)] = weight
    return parc_dense(x, dense, bias, frac, fx, end, axis)


def affine(x: Array, weight: Array, bias: Array, frac: Sequence[int], fx: int, end: End) -> Array:
    """x (..., C), weight (C,)."""
    out = np.empty(x.shape, object)
    for point in _points(x.shape):
        c = point[-1]
        total = int(bias[c]) + int(weight[c]) * int(x[point])
        out[point] = finish(_value(total, fx + frac[c]), end)
    return out


def requantize(x: Array, fx: int, end: End) -> Array:
    """Another format."""
    out = np.empty(x.shape, object)
    for point in _points(x.shape):
        out[point] = finish(_value(x[point], fx), end)
    return out


def sum_of(a: Array, b: Array, fa: int, fb: int, end: End, *, sign: int = 1) -> Array:
    """a + sign * b, broadcast."""
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.shape, object)
    for point in _points(a.shape):
        out[point] = finish(_value(a[point], fa) + sign * _value(b[point], fb), end)
    return out


def product(a: Array, b: Array, fa: int, fb: int, end: End) -> Array:
    """a * b, broadcast."""
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.shape, object)
    for point in _points(a.shape):
        out[point] = finish(_value(a[point], fa) * _value(b[point], fb), end)
    return out


def matrix_product(a: Array, b: Array, fa: int, fb: int, end: End) -> Array:
    """(..., I, K) times (..., K, J)."""
    out = np.empty((*a.shape[:-1], b.shape[-1]), object)
    for point in _points(out.shape):
        *batch, i, j = point
        row, column = a[tuple(batch)][i], b[tuple(batch)][:, j]
        total = sum(int(p) * int(q) for p, q in zip(row, column, strict=True))
        out[point] = finish(_value(total, fa + fb), end)
    return out


def mean(x: Array, fx: int, end: End, *, keep: bool) -> Array:
    """Over the axes 1 and 2 of (B, H, W, C)."""
    batch, height, width, channels = x.shape
    count = height * width
    exponent = 15
    while 2 ** (exponent - 15) < count:
        exponent += 1
    factor = round_to_integer(Fraction(2**exponent, count), Rounding.HALF_EVEN)
    out = np.empty((batch, channels), object)
    for b, c in _points(out.shape):
        total = sum(int(x[b, h, w, c]) for h in range(height) for w in range(width))
        out[b, c] = finish(_value(total * factor, fx + exponent), end)
    return out[:, None, None, :] if keep else out


def table(name: str) -> list[int]:
    """T of the rule from the functions' own definitions (math.erfc and math.exp)."""

    def hard(a: float) -> float:
        return max(3.0 - a, 0.0) / 6.0

    def logistic(a: float) -> float:
        return 1.0 / (1.0 + math.exp(a))

    def tanh_form(a: float) -> float:
        return a * logistic(2.0 * math.sqrt(2.0 / math.pi) * (a + 0.044715 * a**3))

    tails = {
        "gelu": (8, lambda a: a * math.erfc(a / math.sqrt(2.0)) / 2.0),
        "gelu_tanh": (8, tanh_form),
        "silu": (16, lambda a: a * logistic(a)),
        "hardswish": (4, lambda a: a * hard(a)),
        "sigmoid": (16, logistic),
        "hardsigmoid": (4, hard),
        "exp": (16, lambda a: math.exp(-a)),
    }
    reach, tail = tails[name]
    return [
        round_to_integer(Fraction(tail(i / 128)) * 2**20, Rounding.HALF_EVEN)
        for i in range(reach * 128 + 1)
    ]


def _interpolated(words: Sequence[int], a: int, frac_bits: int) -> Fraction:
    """h at a * 2**-frac_bits, a >= 0, on the line between two points; 0 behind the last."""
    place = Fraction(a) * 128 / Fraction(2) ** frac_bits
    i = math.floor(place)
    if i >= len(words) - 1:
        return Fraction(0)
    return (words[i] + (words[i + 1] - words[i]) * (place - i)) / 2**20


def activation(name: str, x: Array, fx: int, end: End) -> Array:
    """One of `tables.NAMES` of each word."""
    words = table(name)
    out = np.empty(x.shape, object)
    for point in _points(x.shape):
        word = int(x[point])
        tail = _interpolated(words, abs(word), fx)
        if name in ("sigmoid", "hardsigmoid"):
            value = 1 - tail if word >= 0 else tail
        else:
            value = max(_value(word, fx), Fraction(0)) - tail
        out[point] = finish(value, end)
    return out


def layer_norm(
    x: Array,
    weight: Array,
    bias: Array,
    frac: Sequence[int],
    eps: float,
    fx: int,
    end: End,
) -> Array:
    """Over the last axis of x; `bias` has 16 fraction bits more than `weight`."""
    count = x.shape[-1]
    added = round_to_integer(count**2 * Fraction(eps) * Fraction(4) ** fx, Rounding.HALF_EVEN)
    out = np.empty(x.shape, object)
    for row in _points(x.shape[:-1]):
        words = [int(word) for word in x[row]]
        total = sum(words)
        spread = count * sum(word * word for word in words) - total**2 + max(added, 1)
        t = next(t for t in range(-24, 9) if 2**46 <= spread * Fraction(4) ** -t < 2**48)
        reciprocal = 2**47 // math.isqrt(math.floor(spread * Fraction(4) ** -t))
        for c, word in enumerate(words):
            exact = (count * word - total) * reciprocal * Fraction(2) ** -(31 + t)
            norm = round_to_integer(exact, end.rounding)
            result = int(weight[c]) * norm + int(bias[c])
            out[(*row, c)] = finish(_value(result, 16 + frac[c]), end)
    return out


def softmax(x: Array, fx: int, end: End) -> Array:
    """Over the last axis of x."""
    words = table("exp")
    out = np.empty(x.shape, object)
    for row in _points(x.shape[:-1]):
        line = [int(word) for word in x[row]]
        powers = [
            round_to_integer(_interpolated(words, max(line) - word, fx) * 2**20, end.rounding)
            for word in line
        ]
        for c, power in enumerate(powers):
            out[(*row, c)] = finish(_value(power * (2**46 // sum(powers)), 46), end)
    return out
