"""How are whole arrays of words brought through the points of a datapath, compiled?

Private to `fixedpoint.arith`, which checks everything before; each kernel has a twin in
`fixedpoint.exact`. Formats, shifts and modes are run-time numbers: one compilation serves all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fixedpoint.rounding import (
    FLOOR,
    HALF_AWAY,
    HALF_EVEN,
    HALF_UP,
    TOWARD_ZERO,
    WRAP,
    fit,
    round_shift,
    round_with,
    rounding_terms,
    shift_fit,
)

__all__ = ["accumulate", "complex_multiply", "cut", "cut_wide", "quantize"]

Words = NDArray[np.int64]
Bits = NDArray[np.uint64]  # of int64 or uint64 words


@njit(cache=True, nogil=True)
def cut(
    raw: Words, out: Words, shift: int, lo: int, hi: int, rounding: int, overflow: int
) -> tuple[int, int]:
    """`shift_fit` on every element; returns the overflows and the first one's position, or -1."""
    count = 0
    if 0 <= shift <= 62:
        always, odd, negative = rounding_terms(shift, rounding)
        for i in range(raw.size):
            out[i], overflowed = fit(
                round_with(raw[i], shift, always, odd, negative), lo, hi, overflow
            )
            count += overflowed
    else:
        for i in range(raw.size):
            out[i], overflowed = shift_fit(raw[i], shift, rounding, lo, hi, overflow)
            count += overflowed
    if count:
        for i in range(raw.size):
            if shift_fit(raw[i], shift, rounding, lo, hi, overflow)[1]:
                return count, i
    return count, -1


@njit(cache=True, nogil=True)
def _fit_magnitude(
    negative: bool, magnitude: Any, shift: int, low: Any, high: Any, rounding: int, overflow: int
) -> tuple[Any, bool]:
    """Return the bits of `+-magnitude / 2**shift` in a format of [-low, high], and if it overflows.

    As `shift_fit`, for any 65-bit integer given as a sign and uint64, and any uint64 limits.
    """
    zero, one = np.uint64(0), np.uint64(1)
    lost = False
    if shift >= 0:
        if shift <= 63:
            quotient = magnitude >> np.uint64(shift)
            rest = magnitude & ((one << np.uint64(shift)) - one)
            half = (one << np.uint64(shift)) >> one
        elif shift == 64:
            quotient, rest, half = zero, magnitude, one << np.uint64(63)
        else:  # below one half, whatever it is
            quotient, rest, half = zero, min(magnitude, one), np.uint64(2)
        if rest != zero:
            if rounding == FLOOR:
                carry = negative
            elif rounding == TOWARD_ZERO:
                carry = False
            elif rest == half:
                carry = (
                    rounding == HALF_AWAY
                    or (rounding == HALF_UP and not negative)
                    or (rounding == HALF_EVEN and quotient & one == one)
                )
            else:
                carry = rest > half
            if carry:
                quotient += one
    elif shift < -63:
        quotient, lost = zero, magnitude != zero
    else:
        quotient = magnitude << np.uint64(-shift)
        lost = quotient >> np.uint64(-shift) != magnitude
    overflowed = lost or quotient > (low if negative else high)
    if overflowed and overflow != WRAP:
        return (zero - low if negative else high), True
    bits = zero - quotient if negative else quotient
    return ((bits + low) & (low + high)) - low, overflowed


@njit(cache=True, nogil=True)
def cut_wide(
    raw: Bits,
    signed: bool,
    out: Bits,
    shift: int,
    low: Any,
    high: Any,
    rounding: int,
    overflow: int,
) -> tuple[int, int]:
    """As `cut`, for words of which some are 64 unsigned bits; all as uint64 bits."""
    count, first = 0, -1
    zero, top = np.uint64(0), np.uint64(1) << np.uint64(63)
    for i in range(raw.size):
        negative = signed and raw[i] >= top
        magnitude = zero - raw[i] if negative else raw[i]
        out[i], overflowed = _fit_magnitude(
            negative, magnitude, shift, low, high, rounding, overflow
        )
        if overflowed:
            if count == 0:
                first = i
            count += 1
    return count, first


@njit(cache=True, nogil=True)
def quantize(
    value: NDArray[np.float64],
    out: Bits,
    frac_bits: int,
    low: Any,
    high: Any,
    rounding: int,
    overflow: int,
) -> tuple[int, int, int]:
    """Quantise float64; returns overflows, first position or -1, first non-finite one or -1."""
    count, first = 0, -1
    for i in range(value.size):
        if not math.isfinite(value[i]):
            return count, first, i
        # value = mantissa * 2**exponent, and mantissa * 2**53 is an integer: no rounding yet.
        mantissa, exponent = math.frexp(value[i])
        out[i], overflowed = _fit_magnitude(
            mantissa < 0.0,
            np.uint64(abs(mantissa) * 2.0**53),
            53 - frac_bits - exponent,
            low,
            high,
            rounding,
            overflow,
        )
        if overflowed:
            if count == 0:
                first = i
            count += 1
    return count, first, -1


@njit(cache=True, nogil=True)
def accumulate(
    rows: Words,
    totals: Words,
    term_up: int,
    sum_up: int,
    rounding: int,
    lo: int,
    hi: int,
    overflow: int,
) -> tuple[int, int]:
    """Sum each row through a register; returns overflows and the first term's position, or -1."""
    count, first = 0, -1
    for i in range(rows.shape[0]):
        total = 0
        for k in range(rows.shape[1]):
            exact = (total << sum_up) + (rows[i, k] << term_up)
            total, overflowed = fit(round_shift(exact, sum_up, rounding), lo, hi, overflow)
            if overflowed:
                if count == 0:
                    first = i * rows.shape[1] + k
                count += 1
        totals[i] = total
    return count, first


@njit(cache=True, nogil=True)
def _through(value: int, point: int, part: int, table: Words, counts: Words, firsts: Words) -> int:
    """One word through row `point` of `table`: shift, rounding, lo, hi, overflow."""
    word, overflowed = shift_fit(
        value, table[point, 0], table[point, 1], table[point, 2], table[point, 3], table[point, 4]
    )
    if overflowed:
        counts[point] += 1
        if firsts[point] < 0 or part < firsts[point]:
            firsts[point] = part
    return word


@njit(cache=True, nogil=True)
def complex_multiply(
    x: Words, w: Words, out: Words, three: bool, table: Words, counts: Words, firsts: Words
) -> None:
    """Complex products; rows of `table` are the points product, accumulator, result."""
    for i in range(x.shape[0]):
        a, b, c, d = x[i, 0], x[i, 1], w[i, 0], w[i, 1]
        re, im = 2 * i, 2 * i + 1
        if three:
            first = _through(c * (a + b), 0, re, table, counts, firsts)
            real = first - _through(b * (c + d), 0, re, table, counts, firsts)
            imag = first + _through(a * (d - c), 0, im, table, counts, firsts)
        else:
            real = _through(a * c, 0, re, table, counts, firsts)
            real -= _through(b * d, 0, re, table, counts, firsts)
            imag = _through(a * d, 0, im, table, counts, firsts)
            imag += _through(b * c, 0, im, table, counts, firsts)
        out[i, 0] = _through(
            _through(real, 1, re, table, counts, firsts), 2, re, table, counts, firsts
        )
        out[i, 1] = _through(
            _through(imag, 1, im, table, counts, firsts), 2, im, table, counts, firsts
        )
