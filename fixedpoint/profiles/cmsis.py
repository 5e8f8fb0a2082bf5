"""What does CMSIS-DSP compute in q15 and q31, word for word?

CMSIS-DSP (Apache-2.0, version 1.10.3 of its Python package), the plain-C path: neither the DSP
extension nor Neon nor Helium, which round at other places. In-place radix 4, decimation in
frequency; an odd power of two starts with one radix-2 stage. The documented scale is 1/N, forward
and inverse. What its documentation does not say:

* twiddle tables are floors, not roundings: floor(x 2^15) in q15 and floor(x 2^31 + 0.05) in q31,
  clipped at the top; the tables of the real transform are rounded;
* q15 saturates the sums of two words, halves both terms before it adds them (so the sum of two
  odd words loses one LSB), and drops 16 bits of the sum of the two products of a complex product;
* q31 never saturates: it divides the input by 16, drops 32 bits of each product apart, and wraps;
* the radix-2 stage divides once more than the length needs; a final doubling, which wraps, mends
  the scale but not the lost bit;
* the inverse transform is the forward one with real and imaginary parts exchanged, at both ends.

The first word of each pair is named by its position in the butterfly: inputs a, b, c, d are N/4
apart; sums are a + c and b + d, differences a - c and b - d.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fixedpoint._threads import over_lines
from fixedpoint.profiles.profile import Profile, Words

__all__ = ["cmsis_q15", "cmsis_q31"]

LENGTHS = tuple(1 << k for k in range(4, 13))  # 16 to 4096
REAL_LENGTHS = tuple(1 << k for k in range(5, 14))  # 32 to 8192
LANES = 16  # signals side by side in the innermost loop: one 512-bit vector of int32

# Run-time numbers of a stage's kind.
_FIRST, _MIDDLE, _LAST = 0, 1, 2


# ---------------------------------------------------------------- tables
@lru_cache(maxsize=32)
def _tables(length: int, bits: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return twiddle factors (N, 2) as (cos, sin), and the output's places (N,)."""
    angle = 2 * np.pi * np.arange(length) / length
    values = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    scale = float(1 << (bits - 1))
    # q31: the tables were printed with one decimal before they were cut
    quantised = np.floor(values * scale) if bits == 16 else np.floor(np.round(values * scale, 1))
    twiddles = np.clip(quantised, -scale, scale - 1).astype(np.int32 if bits == 16 else np.int64)
    places = np.zeros(1, dtype=np.int64)
    for _ in range(length.bit_length() - 1):
        places = np.concatenate([2 * places, 2 * places + 1])
    return twiddles, places


@lru_cache(maxsize=32)
def _split_tables(half: int, bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return A = (1 - sin, -cos) / 2 and B = (1 + sin, cos) / 2, each (N/2, 2), rounded."""
    angle = np.pi * np.arange(half) / half
    scale = 1 << (bits - 1)

    def rounded(values: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.clip(np.floor(values * scale + 0.5), -scale, scale - 1).astype(np.int64)

    sine, cosine = np.sin(angle), np.cos(angle)
    return (
        rounded(0.5 * np.stack([1 - sine, -cosine], axis=1)),
        rounded(0.5 * np.stack([1 + sine, cosine], axis=1)),
    )


# ---------------------------------------------------------------- q15
@numba.njit(cache=True)
def _sat16(value):  # type: ignore[no-untyped-def]
    return np.int32(min(max(value, -32768), 32767))


@numba.njit(cache=True)
def _times_q15(re, im, cosine, sine):  # type: ignore[no-untyped-def]
    """(re + j im)(cos - j sin): bits 16 to 31 of an int32 sum of two products, wrapped."""
    real = np.int32(np.int32(cosine * re) + np.int32(sine * im))
    imaginary = np.int32(np.int32(cosine * im) - np.int32(sine * re))
    return np.int32(np.int16(real >> 16)), np.int32(np.int16(imaginary >> 16))


@numba.njit(cache=True)
def _radix4_q15(work, twiddles, at, m, turn, kind):  # type: ignore[no-untyped-def]
    c1, s1 = twiddles[turn]
    c2, s2 = twiddles[2 * turn]
    c3, s3 = twiddles[3 * turn]
    # Only the first stage divides its inputs; the others halve the terms of their second sums.
    before = 2 if kind == _FIRST else 0
    half = 0 if kind == _FIRST else 1
    after = 1 if kind == _MIDDLE else 0
    for lane in range(LANES):
        a_re = work[at, 0, lane] >> before
        a_im = work[at, 1, lane] >> before
        b_re = work[at + m, 0, lane] >> before
        b_im = work[at + m, 1, lane] >> before
        c_re = work[at + 2 * m, 0, lane] >> before
        c_im = work[at + 2 * m, 1, lane] >> before
        d_re = work[at + 3 * m, 0, lane] >> before
        d_im = work[at + 3 * m, 1, lane] >> before
        r_re, r_im = _sat16(a_re + c_re), _sat16(a_im + c_im)
        s_re, s_im = _sat16(a_re - c_re) >> half, _sat16(a_im - c_im) >> half
        t_re, t_im = _sat16(b_re + d_re), _sat16(b_im + d_im)
        u_re, u_im = _sat16(b_re - d_re) >> half, _sat16(b_im - d_im) >> half
        work[at, 0, lane] = ((r_re >> 1) + (t_re >> 1)) >> after
        work[at, 1, lane] = ((r_im >> 1) + (t_im >> 1)) >> after
        # The halved terms cannot saturate; in the first stage the division by 4 keeps them small.
        y2_re, y2_im = (
            _sat16((r_re >> half) - (t_re >> half)),
            _sat16((r_im >> half) - (t_im >> half)),
        )
        y1_re, y1_im = _sat16(s_re + u_im), _sat16(s_im - u_re)
        y3_re, y3_im = _sat16(s_re - u_im), _sat16(s_im + u_re)
        if kind != _LAST:
            y1_re, y1_im = _times_q15(y1_re, y1_im, c1, s1)
            y2_re, y2_im = _times_q15(y2_re, y2_im, c2, s2)
            y3_re, y3_im = _times_q15(y3_re, y3_im, c3, s3)
        work[at + m, 0, lane] = y2_re
        work[at + m, 1, lane] = y2_im
        work[at + 2 * m, 0, lane] = y1_re
        work[at + 2 * m, 1, lane] = y1_im
        work[at + 3 * m, 0, lane] = y3_re
        work[at + 3 * m, 1, lane] = y3_im


@numba.njit(cache=True)
def _radix2_q15(work, twiddles, at, m):  # type: ignore[no-untyped-def]
    cosine, sine = twiddles[at]
    for lane in range(LANES):
        a_re, a_im = work[at, 0, lane] >> 1, work[at, 1, lane] >> 1
        b_re, b_im = work[at + m, 0, lane] >> 1, work[at + m, 1, lane] >> 1
        re, im = a_re - b_re, a_im - b_im
        work[at, 0, lane] = (a_re + b_re) >> 1
        work[at, 1, lane] = (a_im + b_im) >> 1
        # here each product is cut apart
        work[at + m, 0, lane] = np.int16(((re * cosine) >> 16) + ((im * sine) >> 16))
        work[at + m, 1, lane] = np.int16(((im * cosine) >> 16) - ((re * sine) >> 16))


# ---------------------------------------------------------------- q31
@numba.njit(cache=True)
def _times_q31(re, im, cosine, sine):  # type: ignore[no-untyped-def]
    """(re + j im)(cos - j sin): the upper words of the four products, cut apart."""
    real = np.int32(((re * cosine) >> 32) + ((im * sine) >> 32))
    imaginary = np.int32(((im * cosine) >> 32) - ((re * sine) >> 32))
    return real, imaginary


@numba.njit(cache=True)
def _radix4_q31(work, twiddles, at, m, turn, kind):  # type: ignore[no-untyped-def]
    c1, s1 = twiddles[turn]
    c2, s2 = twiddles[2 * turn]
    c3, s3 = twiddles[3 * turn]
    before = 4 if kind == _FIRST else 0
    down = 2 if kind == _MIDDLE else 0
    # the upper word of a product by a fraction is half of it: doubled at first, halved after
    up, halve = (1, 0) if kind == _FIRST else (0, 1)
    for lane in range(LANES):
        a_re = work[at, 0, lane] >> before
        a_im = work[at, 1, lane] >> before
        b_re = work[at + m, 0, lane] >> before
        b_im = work[at + m, 1, lane] >> before
        c_re = work[at + 2 * m, 0, lane] >> before
        c_im = work[at + 2 * m, 1, lane] >> before
        d_re = work[at + 3 * m, 0, lane] >> before
        d_im = work[at + 3 * m, 1, lane] >> before
        r_re, r_im = np.int32(a_re + c_re), np.int32(a_im + c_im)
        s_re, s_im = np.int32(a_re - c_re), np.int32(a_im - c_im)
        t_re, t_im = np.int32(b_re + d_re), np.int32(b_im + d_im)
        u_re, u_im = np.int32(b_re - d_re), np.int32(b_im - d_im)
        work[at, 0, lane] = np.int32(r_re + t_re) >> down
        work[at, 1, lane] = np.int32(r_im + t_im) >> down
        y2_re, y2_im = np.int32(r_re - t_re), np.int32(r_im - t_im)
        y1_re, y1_im = np.int32(s_re + u_im), np.int32(s_im - u_re)
        y3_re, y3_im = np.int32(s_re - u_im), np.int32(s_im + u_re)
        if kind != _LAST:
            y1_re, y1_im = _times_q31(y1_re, y1_im, c1, s1)
            y2_re, y2_im = _times_q31(y2_re, y2_im, c2, s2)
            y3_re, y3_im = _times_q31(y3_re, y3_im, c3, s3)
            y1_re, y1_im = np.int32(y1_re << up) >> halve, np.int32(y1_im << up) >> halve
            y2_re, y2_im = np.int32(y2_re << up) >> halve, np.int32(y2_im << up) >> halve
            y3_re, y3_im = np.int32(y3_re << up) >> halve, np.int32(y3_im << up) >> halve
        work[at + m, 0, lane] = y2_re
        work[at + m, 1, lane] = y2_im
        work[at + 2 * m, 0, lane] = y1_re
        work[at + 2 * m, 1, lane] = y1_im
        work[at + 3 * m, 0, lane] = y3_re
        work[at + 3 * m, 1, lane] = y3_im


@numba.njit(cache=True)
def _upper_rounded(product):  # type: ignore[no-untyped-def]
    """The upper word of a product after half of its unit is added (SMMULR)."""
    return (product + (1 << 31)) >> 32


@numba.njit(cache=True)
def _radix2_q31(work, twiddles, at, m):  # type: ignore[no-untyped-def]
    cosine, sine = twiddles[at]
    for lane in range(LANES):
        a_re, a_im = work[at, 0, lane] >> 2, work[at, 1, lane] >> 2
        b_re, b_im = work[at + m, 0, lane] >> 2, work[at + m, 1, lane] >> 2
        re, im = a_re - b_re, a_im - b_im
        work[at, 0, lane] = a_re + b_re
        work[at, 1, lane] = a_im + b_im
        real = _upper_rounded(re * cosine) + _upper_rounded(im * sine)
        imaginary = _upper_rounded(im * cosine) + _upper_rounded(-(re * sine))
        work[at + m, 0, lane] = np.int32(real << 1)
        work[at + m, 1, lane] = np.int32(imaginary << 1)


# ---------------------------------------------------------------- transforms
@numba.njit(cache=True)
def _load(words, work, first, held, swap):  # type: ignore[no-untyped-def]
    for lane in range(held):
        for i in range(words.shape[1]):
            work[i, swap, lane] = words[first + lane, i, 0]
            work[i, 1 - swap, lane] = words[first + lane, i, 1]


@numba.njit(cache=True)
def _store(work, result, places, first, held, swap, double):  # type: ignore[no-untyped-def]
    word = result.dtype.type
    for lane in range(held):
        for i in range(result.shape[1]):
            result[first + lane, i, 0] = word(work[places[i], swap, lane] << double)
            result[first + lane, i, 1] = word(work[places[i], 1 - swap, lane] << double)


@numba.njit(cache=True)
def _stage_kind(m, size):  # type: ignore[no-untyped-def]
    if 4 * m == size:
        return _FIRST
    return _LAST if m == 1 else _MIDDLE


@numba.njit(cache=True, nogil=True)
def _transform_q15(begin, end, words, result, twiddles, places, swap, halves):  # type: ignore[no-untyped-def]
    """Transform lines [begin, end) of `words` (lines, N, 2), LANES at a time; halves: 1 or 2."""
    length = words.shape[1]
    size = length // halves
    for first in range(begin, end, LANES):
        held = min(LANES, end - first)
        work = np.zeros((length, 2, LANES), np.int32)
        _load(words, work, first, held, swap)
        if halves == 2:
            for i in range(size):
                _radix2_q15(work, twiddles, i, size)
        m = size // 4
        while m > 0:
            kind = _stage_kind(m, size)
            for group in range(length // (4 * m)):
                for u in range(m):
                    turn = u * (length // (4 * m))
                    _radix4_q15(work, twiddles, group * 4 * m + u, m, turn, kind)
            m //= 4
        _store(work, result, places, first, held, swap, halves - 1)


@numba.njit(cache=True, nogil=True)
def _transform_q31(begin, end, words, result, twiddles, places, swap, halves):  # type: ignore[no-untyped-def]
    """Transform lines [begin, end) of `words` (lines, N, 2): as `_transform_q15`."""
    length = words.shape[1]
    size = length // halves
    for first in range(begin, end, LANES):
        held = min(LANES, end - first)
        work = np.zeros((length, 2, LANES), np.int32)
        _load(words, work, first, held, swap)
        if halves == 2:
            for i in range(size):
                _radix2_q31(work, twiddles, i, size)
        m = size // 4
        while m > 0:
            kind = _stage_kind(m, size)
            for group in range(length // (4 * m)):
                for u in range(m):
                    turn = u * (length // (4 * m))
                    _radix4_q31(work, twiddles, group * 4 * m + u, m, turn, kind)
            m //= 4
        _store(work, result, places, first, held, swap, halves - 1)


@numba.njit(cache=True)
def _split(packed, result, table_a, table_b, bits):  # type: ignore[no-untyped-def]
    """Take the spectrum of even + j odd samples (lines, N/2, 2) apart: (lines, N/2 + 1, 2)."""
    half = packed.shape[1]
    for line in range(packed.shape[0]):
        result[line, 0, 0] = np.int32(packed[line, 0, 0] + packed[line, 0, 1]) >> 1
        result[line, half, 0] = np.int32(packed[line, 0, 0] - packed[line, 0, 1]) >> 1
        result[line, 0, 1] = 0
        result[line, half, 1] = 0
        for k in range(1, half):
            re, im = packed[line, k, 0], packed[line, k, 1]
            re2, im2 = packed[line, half - k, 0], packed[line, half - k, 1]
            a_re, a_im = table_a[k]
            b_re, b_im = table_b[k]
            if bits == 16:
                # one int32 sum of four products, cut once
                real = re * a_re - im * a_im + re2 * b_re + im2 * b_im
                imaginary = re2 * b_im - im2 * b_re + im * a_re + re * a_im
                result[line, k, 0] = np.int32(real) >> 16
                result[line, k, 1] = np.int32(imaginary) >> 16
            else:
                # four rounded upper words; the library reads -A_im for B_im, their table's twin
                result[line, k, 0] = (
                    _upper_rounded(re * a_re)
                    + _upper_rounded(-(im * a_im))
                    + _upper_rounded(-(im2 * a_im))
                    + _upper_rounded(re2 * b_re)
                )
                result[line, k, 1] = (
                    _upper_rounded(re * a_im)
                    + _upper_rounded(im * a_re)
                    + _upper_rounded(-(im2 * b_re))
                    + _upper_rounded(-(re2 * a_im))
                )


# ---------------------------------------------------------------- profiles
def _fft(words: Words, bits: int, inverse: bool) -> Words:
    result = np.empty_like(words)
    length = words.shape[1]
    halves = 1 + (length.bit_length() - 1) % 2  # an odd power of two: one radix-2 stage first
    transform = _transform_q15 if bits == 16 else _transform_q31
    tables = _tables(length, bits)
    over_lines(transform, len(words), LANES, words, result, *tables, int(inverse), halves)
    return result


def _rfft(words: Words, bits: int) -> Words:
    lines, length = words.shape
    packed = _fft(words.reshape(lines, length // 2, 2), bits, False)
    result = np.empty((lines, length // 2 + 1, 2), words.dtype)
    _split(packed.astype(np.int64), result, *_split_tables(length // 2, bits), bits)
    return result


def _profile(name: str, bits: int) -> Profile:
    return Profile(
        name=name,
        bits=bits,
        lengths="a power of two from 16 to 4096",
        real_lengths="a power of two from 32 to 8192",
        accepts=lambda length: length in LENGTHS,
        accepts_real=lambda length: length in REAL_LENGTHS,
        transform=lambda words, inverse: _fft(words, bits, inverse),
        real_transform=lambda words: _rfft(words, bits),
    )


cmsis_q15 = _profile("cmsis_q15", 16)
cmsis_q31 = _profile("cmsis_q31", 32)
