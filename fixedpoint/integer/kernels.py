"""How do the operators of the integer rule run fast: numba kernels over lines of int32 words?

Every kernel handles lines [begin, end) of its outermost axis, so that `over_lines` can share them
among threads. Accumulators are int64 here, or what a BLAS product left in floating point, where
the caller has proved that every partial sum is an integer that the type holds exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from fixedpoint.rounding import round_shift, round_with, rounding_terms

__all__ = [
    "activate",
    "add",
    "affine",
    "depthwise",
    "layer_norm",
    "look_up",
    "multiply",
    "parc",
    "quantize",
    "requantize",
    "softmax",
]


@njit(cache=True, nogil=True)
def _rounded(
    value: int, up: int, shift: int, always: int, odd: int, negative: int, lo: int, hi: int
) -> int:
    return min(max(round_with(value << up, shift, always, odd, negative), lo), hi)


@njit(cache=True, nogil=True)
def quantize(
    begin: int, end: int, x: Any, scale: float, mode: int, lo: int, hi: int, out: Any
) -> None:
    """Words of real numbers (flat float64): x * scale rounded once; `scale` is a power of two.

    What lies beyond the format saturates before it becomes an integer.
    """
    for i in range(begin, end):
        value = min(max(x[i] * scale, lo - 1.0), hi + 1.0)
        whole = np.floor(value)
        rest = value - whole  # exact: in [0, 1)
        word = int(whole)
        if mode == 1:  # TOWARD_ZERO
            up = rest > 0.0 and word < 0
        elif mode == 2:  # HALF_UP
            up = rest >= 0.5
        elif mode == 3:  # HALF_EVEN
            up = rest > 0.5 or (rest == 0.5 and word & 1 == 1)
        elif mode == 4:  # HALF_AWAY
            up = rest > 0.5 or (rest == 0.5 and word >= 0)
        else:
            up = False
        out[i] = min(max(word + (1 if up else 0), lo), hi)


@njit(cache=True, nogil=True)
def _finish(sums: Any, terms: Any, lo: int, hi: int, out: Any) -> None:
    """out[c] = Q(sums[c], shift[c]) for one row of int64 sums, which it may overwrite.

    Where only a constant is added below the cut, as HALF_UP and FLOOR do, the loop has so few
    arrays that LLVM makes vectors of it.
    """
    up, shift, always = terms[0], terms[1], terms[2]
    if terms[5, 0] == 0:
        for c in range(sums.shape[0]):
            out[c] = min(max((sums[c] + always[c]) >> shift[c], lo), hi)
        return
    for c in range(sums.shape[0]):
        out[c] = _rounded(sums[c], up[c], shift[c], always[c], terms[3, c], terms[4, c], lo, hi)


@njit(cache=True, nogil=True)
def requantize(
    begin: int, end: int, sums: Any, bias: Any, terms: Any, lo: int, hi: int, out: Any
) -> None:
    """out[i, c] = Q(sums[i, c] + bias[c], shift[c]).

    `sums` (rows, C) of integers in any type; `terms` int64 (6, C) as `Ending.terms` makes them.
    """
    channels = sums.shape[1]
    row = np.empty(channels, np.int64)
    for i in range(begin, end):
        for c in range(channels):
            row[c] = np.int64(sums[i, c]) + bias[c]
        _finish(row, terms, lo, hi, out[i])


@njit(cache=True, nogil=True)
def affine(
    begin: int, end: int, x: Any, weight: Any, bias: Any, terms: Any, lo: int, hi: int, out: Any
) -> None:
    """out[i, c] = Q(x[i, c] * weight[c] + bias[c], shift[c])."""
    channels = x.shape[1]
    row = np.empty(channels, np.int64)
    for i in range(begin, end):
        for c in range(channels):
            row[c] = np.int64(x[i, c]) * weight[c] + bias[c]
        _finish(row, terms, lo, hi, out[i])


@njit(cache=True, nogil=True)
def parc(
    begin: int, end: int, x: Any, weight: Any, bias: Any, terms: Any, lo: int, hi: int, out: Any
) -> None:
    """Circular correlation of lines: x and out (outer, N, middle, C), weight and bias (N, C).

    A line is one (outer, middle) pair; C may stand for channels at several points side by side.
    weight is int32, so that the product of two words is one multiplication of 32 by 32 bits.
    """
    _, length, middle, channels = x.shape
    sums = np.empty(channels, np.int64)
    for line in range(begin, end):
        o, m = line // middle, line % middle
        for i in range(length):
            sums[:] = bias[i]
            for k in range(length):
                j = i + k
                if j >= length:
                    j -= length
                row, taps = x[o, j, m], weight[k]
                for c in range(channels):
                    sums[c] += np.int64(row[c]) * np.int64(taps[c])
            _finish(sums, terms, lo, hi, out[o, i, m])


@njit(cache=True, nogil=True)
def depthwise(
    begin: int,
    end: int,
    x: Any,
    weight: Any,
    bias: Any,
    terms: Any,
    lo: int,
    hi: int,
    window: Any,
    out: Any,
) -> None:
    """Depthwise convolution: x (B, H, W, C), weight int32 (kh, kw, C), out (B, Ho, Wo, C).

    `window` holds stride, dilation and padding before, each for rows and columns. A line is one
    row of `out`; what lies outside x counts as 0.
    """
    _, height, width, channels = x.shape
    rows, columns = out.shape[1], out.shape[2]
    sums = np.empty(channels, np.int64)
    for line in range(begin, end):
        b, r = line // rows, line % rows
        for q in range(columns):
            sums[:] = bias
            for u in range(weight.shape[0]):
                h = r * window[0] + u * window[2] - window[4]
                if h < 0 or h >= height:
                    continue
                for v in range(weight.shape[1]):
                    w = q * window[1] + v * window[3] - window[5]
                    if w < 0 or w >= width:
                        continue
                    row, taps = x[b, h, w], weight[u, v]
                    for c in range(channels):
                        sums[c] += np.int64(row[c]) * np.int64(taps[c])
            _finish(sums, terms, lo, hi, out[b, r, q])


@njit(cache=True, nogil=True)
def add(
    begin: int,
    end: int,
    a: Any,
    b: Any,
    up_a: int,
    up_b: int,
    sign: int,
    terms: Any,
    lo: int,
    hi: int,
    out: Any,
) -> None:
    """out = Q(a * 2**up_a + sign * b * 2**up_b); flat arrays, `terms` of one channel."""
    up, shift, always, odd, negative = (
        terms[0, 0],
        terms[1, 0],
        terms[2, 0],
        terms[3, 0],
        terms[4, 0],
    )
    for i in range(begin, end):
        value = (np.int64(a[i]) << up_a) + sign * (np.int64(b[i]) << up_b)
        out[i] = _rounded(value, up, shift, always, odd, negative, lo, hi)


@njit(cache=True, nogil=True)
def multiply(begin: int, end: int, a: Any, b: Any, terms: Any, lo: int, hi: int, out: Any) -> None:
    """out = Q(a * b); flat arrays, `terms` of one channel."""
    up, shift, always, odd, negative = (
        terms[0, 0],
        terms[1, 0],
        terms[2, 0],
        terms[3, 0],
        terms[4, 0],
    )
    for i in range(begin, end):
        value = np.int64(a[i]) * np.int64(b[i])
        out[i] = _rounded(value, up, shift, always, odd, negative, lo, hi)


@njit(cache=True, nogil=True)
def activate(
    begin: int,
    end: int,
    x: Any,
    words: Any,
    grows: bool,
    up: int,
    k: int,
    terms: Any,
    lo: int,
    hi: int,
    out: Any,
) -> None:
    """The tabulated functions of the rule on flat words: x' = x * 2**up, points 2**k apart."""
    last = words.shape[0] - 1
    for i in range(begin, end):
        scaled = np.int64(x[i]) << up
        a = abs(scaled)
        point = a >> k
        tail = np.int64(0)
        if point < last:
            tail = (words[point] << k) + (words[point + 1] - words[point]) * (a - (point << k))
        if grows:
            value = (max(scaled, np.int64(0)) << 13) - tail
        elif scaled >= 0:
            value = (np.int64(1) << (k + 20)) - tail
        else:
            value = tail
        out[i] = _rounded(
            value, terms[0, 0], terms[1, 0], terms[2, 0], terms[3, 0], terms[4, 0], lo, hi
        )


@njit(cache=True, nogil=True)
def look_up(begin: int, end: int, x: Any, words: Any, lowest: int, out: Any) -> None:
    """out = words[x - lowest]: a function of short words, tabulated whole."""
    for i in range(begin, end):
        out[i] = words[x[i] - lowest]


@njit(cache=True, nogil=True)
def layer_norm(
    begin: int,
    end: int,
    x: Any,
    epsilon: int,
    mode: int,
    weight: Any,
    bias: Any,
    terms: Any,
    lo: int,
    hi: int,
    out: Any,
) -> None:
    """LayerNorm of the rows of x (rows, C); `epsilon` is already n**2 * eps * 4**fx."""
    count = x.shape[1]
    sums = np.empty(count, np.int64)
    for i in range(begin, end):
        row = x[i]
        total, squares = np.int64(0), np.int64(0)
        for c in range(count):
            word = np.int64(row[c])
            total += word
            squares += word * word
        spread = count * squares - total * total + epsilon
        t = 0
        while spread >> 48 != 0:  # only the dropped low bits differ from one shift by 2 t
            spread >>= 2
            t += 1
        while spread >> 46 == 0:
            spread <<= 2
            t -= 1
        # Exact: spread < 2**48, and neighbouring squares of 24-bit roots differ by more than the
        # rounding of a float64 root.
        root = np.int64(np.sqrt(np.float64(spread)))
        reciprocal = (np.int64(1) << 47) // root
        always, odd, negative = rounding_terms(31 + t, mode)
        for c in range(count):
            norm = (count * np.int64(row[c]) - total) * reciprocal
            sums[c] = weight[c] * round_with(norm, 31 + t, always, odd, negative) + bias[c]
        _finish(sums, terms, lo, hi, out[i])


@njit(cache=True, nogil=True)
def softmax(
    begin: int,
    end: int,
    x: Any,
    words: Any,
    up: int,
    k: int,
    mode: int,
    terms: Any,
    lo: int,
    hi: int,
    out: Any,
) -> None:
    """Softmax of the rows of x (rows, n); `words` are those of exp(-a)."""
    count, last = x.shape[1], words.shape[0] - 1
    powers = np.empty(count, np.int64)
    for i in range(begin, end):
        largest = np.int64(x[i].max())
        total = np.int64(0)
        for c in range(count):
            d = (largest - np.int64(x[i, c])) << up
            point = d >> k
            power = np.int64(0)
            if point < last:
                value = (words[point] << k) + (words[point + 1] - words[point]) * (d - (point << k))
                power = round_shift(value, k, mode)
            powers[c] = power
            total += power
        reciprocal = (np.int64(1) << 46) // total
        for c in range(count):
            out[i, c] = _rounded(
                powers[c] * reciprocal,
                terms[0, 0],
                terms[1, 0],
                terms[2, 0],
                terms[3, 0],
                terms[4, 0],
                lo,
                hi,
            )
