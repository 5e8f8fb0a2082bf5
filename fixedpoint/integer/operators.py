"""What does each operator of the integer rule need before its first word, and what may it hold?

Every class takes constants as words with their formats, proves at construction that no exact
result can leave 64 bits (or the 53 of a floating-point product), and maps int32 words to int32
words when it is called. Arrays have the channels last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint import rounding
from fixedpoint._threads import over_lines
from fixedpoint.errors import FormatError
from fixedpoint.integer import kernels
from fixedpoint.integer.tables import STEP_BITS, TABLE_BITS, exponential, table
from fixedpoint.modes import Rounding, rounding_code
from fixedpoint.qformat import QFormat

__all__ = [
    "EXACT_BITS",
    "WORD_BITS",
    "Activation",
    "Affine",
    "Convolution",
    "Depthwise",
    "Ending",
    "LayerNorm",
    "Linear",
    "MatrixProduct",
    "Mean",
    "Parc",
    "ParcDense",
    "Product",
    "Requantize",
    "Softmax",
    "Sum",
    "Window",
    "input_words",
    "max_pool",
    "normal_epsilon",
]

Words = NDArray[np.int32]
Ints = NDArray[np.int64]

WORD_BITS: Final = 32  # of an activation's word: what the arrays hold
EXACT_BITS: Final = 53  # sums of products: integers that float64 holds exactly
_HELD: Final = 62  # magnitude of every other exact result: int64 with room for a rounding term
_PIECE: Final = 1 << 19  # words per thread below which threads cost more than they save
_SINGLE: Final = 1 << 24  # integers to here are float32's


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an operator's exact result becomes words.

    Parameters
    ----------
    format : QFormat
        Signed, 2 to 32 bits.
    rounding : Rounding
    lowest, highest : float or None
        Of a ReLU or clip that follows; they narrow the format's ends.
    """

    format: QFormat
    rounding: Rounding = Rounding.HALF_UP
    lowest: float | None = None
    highest: float | None = None

    def __post_init__(self) -> None:
        if not self.format.signed or not 2 <= self.format.bits <= WORD_BITS:
            raise FormatError(
                f"{self.format}: the words of a layer are signed and have 2 to {WORD_BITS} bits."
            )

    @property
    def lo(self) -> int:
        """The smallest word that leaves the operator."""
        if self.lowest is None:
            return self.format.min_raw
        return min(max(self.format.min_raw, self._word(self.lowest)), self.format.max_raw)

    @property
    def hi(self) -> int:
        """The largest word that leaves the operator."""
        if self.highest is None:
            return self.format.max_raw
        return max(min(self.format.max_raw, self._word(self.highest)), self.format.min_raw)

    def _word(self, value: float) -> int:
        return int(np.rint(value * 2.0**self.format.frac_bits))

    def terms(self, frac_bits: ArrayLike, bound: int, what: str) -> Ints:
        """What the kernels take for each channel: int64 (6, channels).

        Shift up, shift down, the three numbers of `rounding_terms`, and whether any channel needs
        more than `(sum + first number) >> shift down`.

        Parameters
        ----------
        frac_bits : int or int array
            Fraction bits of the exact result.
        bound : int
            No exact result is larger in magnitude.
        what : str
            What the message calls it.
        """
        shifts = np.atleast_1d(np.asarray(frac_bits, np.int64)) - self.format.frac_bits
        up = np.maximum(-shifts, 0)
        if (bound << int(up.max())) >> _HELD:
            raise FormatError(
                f"{what} reaches 2**{bound.bit_length()} and is shifted up by {int(up.max())} bits "
                f"for {self.format}: 64-bit arithmetic holds 2**{_HELD}. Give the output fewer "
                f"fraction bits, or the operands."
            )
        # Beyond 62, as the value is below 2**61, every shift gives the same: 0, or -1 by FLOOR.
        down = np.minimum(np.maximum(shifts, 0), _HELD)
        mode = rounding_code(self.rounding)
        rows = np.array([rounding.rounding_terms(int(shift), mode) for shift in down], np.int64)
        more = np.full_like(up, bool(up.any() or rows[:, 1:].any()))
        return np.ascontiguousarray(np.vstack([up, down, rows.T, more]))


def _lines(kernel: Any, lines: int, cost: int, *arguments: Any) -> None:
    """Run a kernel over lines of `cost` words' work each, on all threads where that pays."""
    over_lines(kernel, lines, max(1, _PIECE // max(cost, 1)), *arguments)


def _checked(what: str, bound: int, bits: int = _HELD) -> int:
    if bound >> bits:
        raise FormatError(
            f"{what} reaches 2**{bound.bit_length()}, and exact arithmetic holds 2**{bits}: its "
            f"operands have too many bits, by {bound.bit_length() - bits} in all."
        )
    return bound


def _largest(fmt: QFormat) -> int:
    return -fmt.min_raw


def input_words(x: NDArray[Any], ending: Ending) -> Words:
    """Return the words of real numbers, any shape; they are finite."""
    flat = np.ascontiguousarray(x, np.float64).reshape(-1)
    out = np.empty(flat.size, np.int32)
    mode, scale = rounding_code(ending.rounding), 2.0**ending.format.frac_bits
    _lines(kernels.quantize, flat.size, 1, flat, scale, mode, ending.lo, ending.hi, out)
    return out.reshape(x.shape)


class Linear:
    """y[o] = Q(bias[o] + sum_k weight[k, o] * x[k]).

    Parameters
    ----------
    weight : int array, shape (K, O)
    bias : int array, shape (O,)
        With the fraction bits of x and weight together.
    x : QFormat
    frac_bits : int array, shape (O,)
        Of the weights.
    weight_bits : int
        Their word length, for messages.
    ending : Ending
    name : str
        What messages call the layer.

    Attributes
    ----------
    bound : int
        No sum, bias included, is larger in magnitude.
    dtype : numpy dtype
        Of the product: float32 where all partial sums are below 2**24, else float64.
    """

    def __init__(
        self,
        weight: Ints,
        bias: Ints,
        *,
        x: QFormat,
        frac_bits: Ints,
        weight_bits: int,
        ending: Ending,
        name: str,
    ) -> None:
        # Any partial sum, in whatever order a BLAS takes it and fused or not, is an integer of at
        # most sum |w| * max |x|: below 2**24 (2**53) float32 (float64) holds it exactly.
        products = int(np.abs(weight).sum(axis=0).max(initial=0)) * _largest(x)
        what = f"{name}: the sum of {weight.shape[0]} products of {x} and {weight_bits}-bit weights"
        self.bound = _sums_bound(what, products, bias)
        self.dtype = np.dtype(np.float32 if products <= _SINGLE else np.float64)
        self._weight = np.ascontiguousarray(weight, self.dtype)
        self._bias = np.ascontiguousarray(bias, np.int64)
        self._terms = ending.terms(x.frac_bits + frac_bits, self.bound, what)
        self._ends = ending.lo, ending.hi

    def __call__(self, rows: NDArray[Any]) -> Words:
        """Words (..., O) of words (..., K), which may already be of `dtype`."""
        flat = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]), self.dtype)
        sums = flat @ self._weight
        out = np.empty(sums.shape, np.int32)
        _lines(
            kernels.requantize, len(sums), sums.shape[1], sums, self._bias, self._terms,
            *self._ends, out,
        )  # fmt: skip
        return out.reshape(*rows.shape[:-1], -1)


def _sums_bound(what: str, products: int, bias: Ints) -> int:
    return _checked(what, products + int(np.abs(bias).max(initial=0)), EXACT_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Where a convolution or a pooling looks: (rows, columns) of each; padding (t, l, b, r)."""

    taps: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    def extents(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the result."""
        top, left, bottom, right = self.padding
        sizes = (height + top + bottom, width + left + right)
        rows, columns = (
            (size - spread * (taps - 1) - 1) // stride + 1
            for size, taps, spread, stride in zip(
                sizes, self.taps, self.dilation, self.strides, strict=True
            )
        )
        return rows, columns

    @property
    def is_point(self) -> bool:
        """Whether it looks at one point and misses none."""
        return self.taps == self.strides == (1, 1) and not any(self.padding)

    def columns(self, x: NDArray[Any], dtype: Any, fill: float = 0) -> NDArray[Any]:
        """The words under every place of the window, shape (B, rows, columns, taps, C)."""
        batch, height, width, channels = x.shape
        if self.is_point:
            return np.asarray(x, dtype)[:, :, :, None]
        top, left, bottom, right = self.padding
        if any(self.padding):
            x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
        rows, columns = self.extents(height, width)
        out = np.empty((batch, rows, columns, self.taps[0] * self.taps[1], channels), dtype)
        for u in range(self.taps[0]):
            for v in range(self.taps[1]):
                first, second = u * self.dilation[0], v * self.dilation[1]
                out[:, :, :, u * self.taps[1] + v] = x[
                    :,
                    first : first + self.strides[0] * (rows - 1) + 1 : self.strides[0],
                    second : second + self.strides[1] * (columns - 1) + 1 : self.strides[1],
                ]
        return out


class Convolution:
    """A dense convolution as `Linear` over windows; its K runs over (row, column, channel)."""

    def __init__(self, linear: Linear, window: Window) -> None:
        self._linear, self._window = linear, window

    def __call__(self, x: Words) -> Words:
        """Words (B, rows, columns, O) of words (B, H, W, C)."""
        columns = self._window.columns(x, self._linear.dtype)
        return self._linear(columns.reshape(*columns.shape[:3], -1))


class Depthwise:
    """y[o] = Q(bias[o] + sum over taps of weight[u, v, o] * x[o // multiplier]).

    `weight` is (kh, kw, O); the other parameters are as for `Linear`.
    """

    def __init__(
        self,
        weight: Ints,
        bias: Ints,
        window: Window,
        *,
        x: QFormat,
        frac_bits: Ints,
        weight_bits: int,
        ending: Ending,
        name: str,
    ) -> None:
        products = int(np.abs(weight).sum(axis=(0, 1)).max(initial=0)) * _largest(x)
        what = (
            f"{name}: the sum of {window.taps[0] * window.taps[1]} products of {x} and "
            f"{weight_bits}-bit weights"
        )
        self.bound = _sums_bound(what, products, bias)
        self._weight = np.ascontiguousarray(weight, np.int32)
        self._bias = np.ascontiguousarray(bias, np.int64)
        self._terms = ending.terms(x.frac_bits + frac_bits, self.bound, what)
        self._ends, self._window = (ending.lo, ending.hi), window

    def __call__(self, x: Words) -> Words:
        """Words (B, rows, columns, O) of words (B, H, W, C)."""
        window, outputs = self._window, self._weight.shape[2]
        rows, columns = window.extents(*x.shape[1:3])
        if outputs != x.shape[3]:
            x = np.repeat(x, outputs // x.shape[3], axis=3)
        out = np.empty((x.shape[0], rows, columns, outputs), np.int32)
        place = np.array([*window.strides, *window.dilation, *window.padding[:2]], np.int64)
        cost = columns * outputs * window.taps[0] * window.taps[1] // 4
        _lines(
            kernels.depthwise, x.shape[0] * rows, cost, np.ascontiguousarray(x), self._weight,
            self._bias, self._terms, *self._ends, place, out,
        )  # fmt: skip
        return out


class Parc:
    """Depthwise circular correlation along one axis of (B, H, W, C), `axis` 1 or 2.

    y[c, i] = Q(bias[c, i] + sum_k weight[c, k] * x[c, (i + k) mod N]); `weight` and `bias` are
    (C, N), the other parameters as for `Linear`.
    """

    def __init__(
        self,
        weight: Ints,
        bias: Ints,
        axis: int,
        *,
        x: QFormat,
        frac_bits: Ints,
        weight_bits: int,
        ending: Ending,
        name: str,
    ) -> None:
        products = int(np.abs(weight).sum(axis=1).max(initial=0)) * _largest(x)
        what = f"{name}: the sum of {weight.shape[1]} products of {x} and {weight_bits}-bit weights"
        self.bound = _sums_bound(what, products, bias)
        self._weight = np.ascontiguousarray(weight.T, np.int32)
        self._bias = np.ascontiguousarray(bias.T, np.int64)
        self._terms = ending.terms(x.frac_bits + frac_bits, self.bound, what)
        self._ends, self._axis = (ending.lo, ending.hi), axis

    def __call__(self, x: Words) -> Words:
        """Words of the shape of `x`."""
        if self._axis == 2:  # lines of neighbours in memory would leave too short vectors
            return np.ascontiguousarray(
                self._along_rows(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
            )
        return self._along_rows(x)

    def _along_rows(self, x: Words) -> Words:
        """The lines along axis 1 of (outer, N, middle, C)."""
        outer, length, middle, channels = x.shape
        side = _side_by_side(middle, channels)
        lines = np.ascontiguousarray(x).reshape(outer, length, middle // side, side * channels)
        out = np.empty(lines.shape, np.int32)
        weight, bias, terms = (
            np.tile(array, (1, side)) for array in (self._weight, self._bias, self._terms)
        )
        _lines(
            kernels.parc, outer * lines.shape[2], length * length * lines.shape[3] // 4, lines,
            weight, bias, terms, *self._ends, out,
        )  # fmt: skip
        return out.reshape(x.shape)


def _side_by_side(middle: int, channels: int) -> int:
    """How many of `middle` points a kernel takes at once: a divisor that keeps sums in 4 kB."""
    return max(
        n for n in range(1, middle + 1) if middle % n == 0 and (n * channels <= 512 or n == 1)
    )


class ParcDense:
    """Dense circular correlation: y[o, i] = Q(bias[o, i] + sum_ck w[o, c, k] * x[c, (i + k) mod N]).

    `weight` is (O, C, N), `bias` (O, N), `axis` 1 or 2; the other parameters as for `Linear`.
    """

    def __init__(
        self,
        weight: Ints,
        bias: Ints,
        axis: int,
        *,
        x: QFormat,
        frac_bits: Ints,
        weight_bits: int,
        ending: Ending,
        name: str,
    ) -> None:
        outputs, _, length = weight.shape
        self._axis = axis
        # sum_k w[k] x[(i + k) mod N] = sum_j w[(j - i) mod N] x[j]: for each i a kernel turned by i
        # meets the line as it lies.
        self._places = [
            Linear(
                np.roll(weight, i, axis=2).transpose(2, 1, 0).reshape(-1, outputs),
                bias[:, i],
                x=x,
                frac_bits=frac_bits,
                weight_bits=weight_bits,
                ending=ending,
                name=name,
            )
            for i in range(length)
        ]
        self.bound = max(place.bound for place in self._places)

    def __call__(self, x: Words) -> Words:
        """Words (B, H, W, O) of words (B, H, W, C)."""
        lines = np.moveaxis(x, self._axis, 2)  # (B, other axis, N, C)
        rows = np.ascontiguousarray(lines, self._places[0].dtype)
        flat = rows.reshape(*rows.shape[:2], -1)
        out = np.stack([place(flat) for place in self._places], axis=2)
        return np.ascontiguousarray(np.moveaxis(out, 2, self._axis))


class Affine:
    """y[c] = Q(bias[c] + weight[c] * x[c]); parameters as for `Linear`, weight (C,)."""

    def __init__(
        self,
        weight: Ints,
        bias: Ints,
        *,
        x: QFormat,
        frac_bits: Ints,
        weight_bits: int,
        ending: Ending,
        name: str,
    ) -> None:
        what = f"{name}: the product of {x} and {weight_bits}-bit weights"
        self.bound = _sums_bound(what, int(np.abs(weight).max(initial=0)) * _largest(x), bias)
        self._weight = np.ascontiguousarray(weight, np.int64)
        self._bias = np.ascontiguousarray(bias, np.int64)
        self._terms = ending.terms(x.frac_bits + frac_bits, self.bound, what)
        self._ends = ending.lo, ending.hi

    def __call__(self, x: Words) -> Words:
        """Words of the shape of `x`, channels last."""
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty(rows.shape, np.int32)
        _lines(
            kernels.affine, len(rows), rows.shape[1], rows, self._weight, self._bias, self._terms,
            *self._ends, out,
        )  # fmt: skip
        return out.reshape(x.shape)


class Requantize:
    """y = Q(x): another format, or ends narrowed by a clip; also of sums (`Mean`, int64)."""

    def __init__(self, *, frac_bits: int, bound: int, ending: Ending, name: str) -> None:
        self.bound = bound
        self._terms = ending.terms(frac_bits, bound, name)
        self._ends = ending.lo, ending.hi
        lowest, highest = -bound, bound - 1
        moves = not self._terms[:2].any()
        self._is_identity = moves and self._ends[0] <= lowest and self._ends[1] >= highest

    def __call__(self, x: NDArray[Any]) -> Words:
        """Words of the shape of `x`; `x` itself where nothing changes."""
        if self._is_identity:
            return np.asarray(x, np.int32)
        rows = np.ascontiguousarray(x, np.int64).reshape(-1, 1)
        out = np.empty(rows.shape, np.int32)
        _lines(
            kernels.requantize, len(rows), 1, rows, np.zeros(1, np.int64), self._terms,
            *self._ends, out,
        )  # fmt: skip
        return out.reshape(x.shape)


def _pair(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], tuple[int, ...]]:
    """Two arrays broadcast against each other and flat, and their common shape."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    first, second = (
        np.ascontiguousarray(np.broadcast_to(array, shape)).reshape(-1) for array in (a, b)
    )
    return first, second, shape


class Sum:
    """y = Q(a + b), or a - b where `negative`; unit extents broadcast."""

    def __init__(
        self, *, a: QFormat, b: QFormat, negative: bool = False, ending: Ending, name: str
    ) -> None:
        point = max(a.frac_bits, b.frac_bits)
        self._ups = point - a.frac_bits, point - b.frac_bits
        self._sign = -1 if negative else 1
        what = f"{name}: the sum of {a} and {b}"
        self.bound = _checked(
            what, sum(_largest(f) << up for f, up in zip((a, b), self._ups, strict=True))
        )
        self._terms = ending.terms(point, self.bound, what)
        self._ends = ending.lo, ending.hi

    def __call__(self, a: Words, b: Words) -> Words:
        """Words of the broadcast shape."""
        first, second, shape = _pair(a, b)
        out = np.empty(first.size, np.int32)
        _lines(
            kernels.add, first.size, 1, first, second, *self._ups, self._sign, self._terms,
            *self._ends, out,
        )  # fmt: skip
        return out.reshape(shape)


class Product:
    """y = Q(a * b); unit extents broadcast."""

    def __init__(self, *, a: QFormat, b: QFormat, ending: Ending, name: str) -> None:
        what = f"{name}: the product of {a} and {b}"
        self.bound = _checked(what, _largest(a) * _largest(b))
        self._terms = ending.terms(a.frac_bits + b.frac_bits, self.bound, what)
        self._ends = ending.lo, ending.hi

    def __call__(self, a: Words, b: Words) -> Words:
        """Words of the broadcast shape."""
        first, second, shape = _pair(a, b)
        out = np.empty(first.size, np.int32)
        _lines(kernels.multiply, first.size, 1, first, second, self._terms, *self._ends, out)
        return out.reshape(shape)


class MatrixProduct:
    """y[i, j] = Q(sum_k a[i, k] * b[k, j]) of two computed operands; leading axes are batches."""

    def __init__(self, *, a: QFormat, b: QFormat, count: int, ending: Ending, name: str) -> None:
        what = f"{name}: the sum of {count} products of {a} and {b}"
        self.bound = _checked(what, count * _largest(a) * _largest(b), EXACT_BITS)
        self.dtype = np.dtype(np.float32 if self.bound <= _SINGLE else np.float64)
        self._finish = Requantize(
            frac_bits=a.frac_bits + b.frac_bits, bound=self.bound, ending=ending, name=what
        )

    def __call__(self, a: Words, b: Words) -> Words:
        """Words (..., I, J) of words (..., I, K) and (..., K, J)."""
        return self._finish(np.matmul(a.astype(self.dtype), b.astype(self.dtype)))


class Activation:
    """GELU, SiLU and their like from a table of their tails; `name` is one of `tables.NAMES`."""

    def __init__(self, curve: str, *, x: QFormat, ending: Ending, name: str) -> None:
        from fixedpoint.integer.tables import curve as known

        self._grows = known(curve).grows
        self._words = table(curve)
        self._x = x
        self._up, self._k = _grid(x)
        what = f"{name}: {curve} of {x}"
        scaled = _checked(what, _largest(x) << self._up)
        base = scaled << (TABLE_BITS - STEP_BITS) if self._grows else 0
        tail = int(np.abs(self._words).max()) << self._k
        self.bound = _checked(what, base + tail + (1 << (TABLE_BITS + self._k)))
        self._terms = ending.terms(self._k + TABLE_BITS, self.bound, what)
        self._ends = ending.lo, ending.hi
        # Short words: the function's value for each of them, computed once.
        self._whole: Words | None = None
        if x.bits <= 16:
            self._whole = self._compute(np.arange(x.min_raw, x.max_raw + 1, dtype=np.int32))

    def __call__(self, x: Words) -> Words:
        """Words of the shape of `x`."""
        flat = np.ascontiguousarray(x).reshape(-1)
        if self._whole is None:
            return self._compute(flat).reshape(x.shape)
        out = np.empty(flat.size, np.int32)
        _lines(kernels.look_up, flat.size, 1, flat, self._whole, self._x.min_raw, out)
        return out.reshape(x.shape)

    def _compute(self, flat: Words) -> Words:
        out = np.empty(flat.size, np.int32)
        _lines(
            kernels.activate, flat.size, 4, flat, self._words, self._grows, self._up, self._k,
            self._terms, *self._ends, out,
        )  # fmt: skip
        return out


def _grid(x: QFormat) -> tuple[int, int]:
    """How far words of `x` are shifted up, and log2 of the table's step then, in LSBs."""
    return max(STEP_BITS - x.frac_bits, 0), max(x.frac_bits - STEP_BITS, 0)


def normal_epsilon(eps: float, count: int, x: QFormat) -> int:
    """Return eps in units of the variance of `count` words of `x`, times count**2; at least 1."""
    return max(int(np.rint(count**2 * eps * 4.0**x.frac_bits)), 1)


class LayerNorm:
    """y[c] = Q(weight[c] * z[c] + bias[c]) with z = (x - mean) / sqrt(variance + eps).

    Parameters
    ----------
    weight, bias : int arrays, shape (C,)
        `bias` with 16 fraction bits more than `weight`.
    eps : float
    x, frac_bits, weight_bits, ending, name
        As for `Linear`.
    """

    def __init__(
        self,
        weight: Ints,
        bias: Ints,
        eps: float,
        *,
        x: QFormat,
        frac_bits: Ints,
        weight_bits: int,
        ending: Ending,
        name: str,
    ) -> None:
        count = len(weight)
        self._epsilon = normal_epsilon(eps, count, x)
        what = f"{name}: the variance of {count} words of {x}, times {count}**2,"
        _checked(what, count**2 * _largest(x) ** 2 + self._epsilon)
        # |D| = |C * x - sum x| <= C * 2**bits and r <= 2**47 / 2**23. |z| <= sqrt(C), with 16
        # fraction bits, and a little more for the error of r.
        _checked(f"{name}: a deviation times a reciprocal root", (2 * count * _largest(x)) << 24)
        largest = (math.isqrt(count) + 2) << 16
        what = f"{name}: the product of a norm and {weight_bits}-bit weights"
        self.bound = _checked(
            what, largest * int(np.abs(weight).max()) + int(np.abs(bias).max()), EXACT_BITS
        )
        self._weight = np.ascontiguousarray(weight, np.int64)
        self._bias = np.ascontiguousarray(bias, np.int64)
        self._terms = ending.terms(16 + frac_bits, self.bound, what)
        self._ends, self._mode = (ending.lo, ending.hi), rounding_code(ending.rounding)

    def __call__(self, x: Words) -> Words:
        """Words of the shape of `x`, normed over its last axis."""
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty(rows.shape, np.int32)
        _lines(
            kernels.layer_norm, len(rows), 4 * rows.shape[1], rows, self._epsilon, self._mode,
            self._weight, self._bias, self._terms, *self._ends, out,
        )  # fmt: skip
        return out.reshape(x.shape)


class Softmax:
    """y = Q(exp(x - max) / sum) over the last axis."""

    def __init__(self, count: int, *, x: QFormat, ending: Ending, name: str) -> None:
        self._up, self._k = _grid(x)
        _checked(f"{name}: a difference of {x}", (2 * _largest(x)) << self._up)
        _checked(f"{name}: a power", 1 << (TABLE_BITS + self._k + 1))
        _checked(f"{name}: the sum of {count} powers", count << TABLE_BITS, 46)
        self.bound = 1 << 46
        self._terms = ending.terms(46, self.bound, f"{name}: a quotient")
        self._ends, self._mode = (ending.lo, ending.hi), rounding_code(ending.rounding)

    def __call__(self, x: Words) -> Words:
        """Words of the shape of `x`."""
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty(rows.shape, np.int32)
        _lines(
            kernels.softmax, len(rows), 8 * rows.shape[1], rows, exponential(), self._up, self._k,
            self._mode, self._terms, *self._ends, out,
        )  # fmt: skip
        return out.reshape(x.shape)


class Mean:
    """y = Q(M * sum) over `count` positions: the axes 1 and 2 of (B, H, W, C)."""

    def __init__(self, count: int, *, keep: bool, x: QFormat, ending: Ending, name: str) -> None:
        exponent = 15 + (count - 1).bit_length()
        self._factor = int(np.rint(2.0**exponent / count))
        what = f"{name}: the sum of {count} words of {x} times {self._factor}"
        self.bound = _checked(what, count * _largest(x) * self._factor)
        self._finish = Requantize(
            frac_bits=exponent + x.frac_bits, bound=self.bound, ending=ending, name=what
        )
        self._keep = keep

    def __call__(self, x: Words) -> Words:
        """Words (B, C), or (B, 1, 1, C), of words (B, H, W, C)."""
        sums = x.sum(axis=(1, 2), dtype=np.int64, keepdims=self._keep)
        return self._finish(sums * self._factor)


def max_pool(x: NDArray[Any], window: Window) -> NDArray[Any]:
    """The largest under each place of the window, of words or real numbers; never the padding."""
    least = -math.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)
    return np.asarray(window.columns(x, x.dtype, fill=least).max(axis=3))
