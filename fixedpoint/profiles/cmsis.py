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

import numba
import numpy as np
from numpy.typing import NDArray

from fixedpoint._frames import LANES_32, LANES_64, enter, leave, pairs
from fixedpoint._inside import inside
from fixedpoint._threads import over_lines
from fixedpoint._vector import load, low_half, maximum, minimum, store
from fixedpoint.profiles.profile import Profile, Words

__all__ = ["cmsis_q15", "cmsis_q31"]

LENGTHS = tuple(1 << k for k in range(4, 13))  # 16 to 4096
REAL_LENGTHS = tuple(1 << k for k in range(5, 14))  # 32 to 8192

# Run-time numbers of a stage's kind.
_FIRST, _MIDDLE, _LAST = 0, 1, 2


# ---------------------------------------------------------------- tables
@lru_cache(maxsize=32)
def _tables(length: int, bits: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return twiddle factors (N, 2) as (cos, sin), and the output's places (N,)."""
    angle = 2 * np.pi * np.arange(length) / length
    values = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    scale = float(1 << (bits - 1))
    # q31: the tables were printed with one decimal before they were cut
    quantised = np.floor(values * scale) if bits == 16 else np.floor(np.round(values * scale, 1))
    # In int32 also for q31: a compiler that sees narrow factors takes the narrow multiplier.
    twiddles = np.clip(quantised, -scale, scale - 1).astype(np.int32)
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


# ---------------------------------------------------------------- arithmetic
# On vectors of signals: q15 in int32 lanes, as in the library; q31 in int64 lanes, which take its
# products whole, and wrap to 32 bits where its sums do.
@inside(forceinline=True)
def _read(work, place, before):  # type: ignore[no-untyped-def]
    return load(work, 2 * place) >> before, load(work, 2 * place + 1) >> before


@inside(forceinline=True)
def _write(work, place, re, im):  # type: ignore[no-untyped-def]
    store(work, 2 * place, re)
    store(work, 2 * place + 1, im)


@inside(forceinline=True)
def _sat16(value):  # type: ignore[no-untyped-def]
    return minimum(maximum(value, -32768), 32767)


@inside(forceinline=True)
def _times_q15(re, im, cosine, sine):  # type: ignore[no-untyped-def]
    """(re + j im)(cos - j sin): bits 16 to 31 of an int32 sum of two products, wrapped."""
    return (re * cosine + im * sine) >> 16, (im * cosine - re * sine) >> 16


@inside(forceinline=True)
def _times_q31(re, im, cosine, sine):  # type: ignore[no-untyped-def]
    """(re + j im)(cos - j sin): the upper words of the four products, cut apart."""
    real = ((re * cosine) >> 32) + ((im * sine) >> 32)
    imaginary = ((im * cosine) >> 32) - ((re * sine) >> 32)
    return low_half(real), low_half(imaginary)


@inside()
def _upper_rounded(product):  # type: ignore[no-untyped-def]
    """The upper word of a product after half of its unit is added (SMMULR)."""
    return (product + (1 << 31)) >> 32


# ---------------------------------------------------------------- butterflies
@inside()
def _radix4_q15(work, twiddles, at, m, turn, kind):  # type: ignore[no-untyped-def]
    # Only the first stage divides its inputs; the others halve the terms of their second sums.
    before = 2 if kind == _FIRST else 0
    half = 0 if kind == _FIRST else 1
    after = 1 if kind == _MIDDLE else 0
    a_re, a_im = _read(work, at, before)
    b_re, b_im = _read(work, at + m, before)
    c_re, c_im = _read(work, at + 2 * m, before)
    d_re, d_im = _read(work, at + 3 * m, before)
    r_re, r_im = _sat16(a_re + c_re), _sat16(a_im + c_im)
    s_re, s_im = _sat16(a_re - c_re) >> half, _sat16(a_im - c_im) >> half
    t_re, t_im = _sat16(b_re + d_re), _sat16(b_im + d_im)
    u_re, u_im = _sat16(b_re - d_re) >> half, _sat16(b_im - d_im) >> half
    _write(work, at, ((r_re >> 1) + (t_re >> 1)) >> after, ((r_im >> 1) + (t_im >> 1)) >> after)
    # The halved terms cannot saturate; in the first stage the division by 4 keeps them small.
    y2_re = _sat16((r_re >> half) - (t_re >> half))
    y2_im = _sat16((r_im >> half) - (t_im >> half))
    y1_re, y1_im = _sat16(s_re + u_im), _sat16(s_im - u_re)
    y3_re, y3_im = _sat16(s_re - u_im), _sat16(s_im + u_re)
    if kind != _LAST:
        y1_re, y1_im = _times_q15(y1_re, y1_im, twiddles[turn, 0], twiddles[turn, 1])
        y2_re, y2_im = _times_q15(y2_re, y2_im, twiddles[2 * turn, 0], twiddles[2 * turn, 1])
        y3_re, y3_im = _times_q15(y3_re, y3_im, twiddles[3 * turn, 0], twiddles[3 * turn, 1])
    _write(work, at + m, y2_re, y2_im)
    _write(work, at + 2 * m, y1_re, y1_im)
    _write(work, at + 3 * m, y3_re, y3_im)


@inside()
def _radix2_q15(work, twiddles, at, m):  # type: ignore[no-untyped-def]
    cosine, sine = twiddles[at, 0], twiddles[at, 1]
    a_re, a_im = _read(work, at, 1)
    b_re, b_im = _read(work, at + m, 1)
    re, im = a_re - b_re, a_im - b_im
    _write(work, at, (a_re + b_re) >> 1, (a_im + b_im) >> 1)
    # here each product is cut apart; two halves of a 16-bit word do not wrap
    _write(
        work,
        at + m,
        ((re * cosine) >> 16) + ((im * sine) >> 16),
        ((im * cosine) >> 16) - ((re * sine) >> 16),
    )


@inside(forceinline=True)
def _radix4_q31(work, twiddles, at, m, turn, kind):  # type: ignore[no-untyped-def]
    before = 4 if kind == _FIRST else 0
    down = 2 if kind == _MIDDLE else 0
    # the upper word of a product by a fraction is half of it: doubled at first, halved after
    up, halve = (1, 0) if kind == _FIRST else (0, 1)
    a_re, a_im = _read(work, at, before)
    b_re, b_im = _read(work, at + m, before)
    c_re, c_im = _read(work, at + 2 * m, before)
    d_re, d_im = _read(work, at + 3 * m, before)
    r_re, r_im = a_re + c_re, a_im + c_im
    s_re, s_im = a_re - c_re, a_im - c_im
    t_re, t_im = b_re + d_re, b_im + d_im
    u_re, u_im = b_re - d_re, b_im - d_im
    _write(work, at, low_half(r_re + t_re) >> down, low_half(r_im + t_im) >> down)
    y2_re, y2_im = low_half(r_re - t_re), low_half(r_im - t_im)
    y1_re, y1_im = low_half(s_re + u_im), low_half(s_im - u_re)
    y3_re, y3_im = low_half(s_re - u_im), low_half(s_im + u_re)
    if kind != _LAST:
        y1_re, y1_im = _times_q31(y1_re, y1_im, twiddles[turn, 0], twiddles[turn, 1])
        y2_re, y2_im = _times_q31(y2_re, y2_im, twiddles[2 * turn, 0], twiddles[2 * turn, 1])
        y3_re, y3_im = _times_q31(y3_re, y3_im, twiddles[3 * turn, 0], twiddles[3 * turn, 1])
        y1_re, y1_im = low_half(y1_re << up) >> halve, low_half(y1_im << up) >> halve
        y2_re, y2_im = low_half(y2_re << up) >> halve, low_half(y2_im << up) >> halve
        y3_re, y3_im = low_half(y3_re << up) >> halve, low_half(y3_im << up) >> halve
    _write(work, at + m, y2_re, y2_im)
    _write(work, at + 2 * m, y1_re, y1_im)
    _write(work, at + 3 * m, y3_re, y3_im)


@inside()
def _radix2_q31(work, twiddles, at, m):  # type: ignore[no-untyped-def]
    cosine, sine = twiddles[at, 0], twiddles[at, 1]
    a_re, a_im = _read(work, at, 2)
    b_re, b_im = _read(work, at + m, 2)
    re, im = a_re - b_re, a_im - b_im
    _write(work, at, a_re + b_re, a_im + b_im)
    real = _upper_rounded(re * cosine) + _upper_rounded(im * sine)
    imaginary = _upper_rounded(im * cosine) + _upper_rounded(-(re * sine))
    _write(work, at + m, low_half(real << 1), low_half(imaginary << 1))


# ---------------------------------------------------------------- transforms
@inside()
def _stage_kind(m, size):  # type: ignore[no-untyped-def]
    if 4 * m == size:
        return _FIRST
    return _LAST if m == 1 else _MIDDLE


@inside(forceinline=True)
def _pass_q31(work, twiddles, m, kind):  # type: ignore[no-untyped-def]
    """One stage of radix 4; where `kind` is a constant, its shifts are."""
    turns = work.shape[0] // (4 * m)
    for group in range(turns):
        for u in range(m):
            _radix4_q31(work, twiddles, group * 4 * m + u, m, u * turns, kind)


@inside()
def _leave(work, result, places, first, held, swap, halves):  # type: ignore[no-untyped-def]
    if halves == 2:  # the doubling wraps as it is stored
        for k in range(2 * work.shape[0]):
            store(work, k, load(work, k) << 1)
    leave(work, result, places, first, held, swap)


@numba.njit(cache=True, nogil=True)
def _transform_q15(begin, end, words, result, work, twiddles, straight, places, swap, halves):  # type: ignore[no-untyped-def]
    """Transform lines [begin, end) of `words`; halves: 1 or 2 radix-4 transforms."""
    length, lanes = work.shape[0], work.shape[2]
    size = length // halves
    for first in range(begin, end, lanes):
        held = min(lanes, end - first)
        enter(words, work, straight, first, held, swap)
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
        _leave(work, result, places, first, held, swap, halves)


@numba.njit(cache=True, nogil=True)
def _transform_q31(begin, end, words, result, work, twiddles, straight, places, swap, halves):  # type: ignore[no-untyped-def]
    """Transform lines [begin, end) of `words`: as `_transform_q15`."""
    length, lanes = work.shape[0], work.shape[2]
    size = length // halves
    for first in range(begin, end, lanes):
        held = min(lanes, end - first)
        enter(words, work, straight, first, held, swap)
        if halves == 2:
            for i in range(size):
                _radix2_q31(work, twiddles, i, size)
        m = size // 4
        while m > 0:
            kind = _stage_kind(m, size)
            if kind == _FIRST:
                _pass_q31(work, twiddles, m, _FIRST)
            elif kind == _MIDDLE:
                _pass_q31(work, twiddles, m, _MIDDLE)
            else:
                _pass_q31(work, twiddles, m, _LAST)
            m //= 4
        _leave(work, result, places, first, held, swap, halves)


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
    lanes, lane = (LANES_32, np.int32) if bits == 16 else (LANES_64, np.int64)
    twiddles, places = _tables(length, bits)
    target = np.argsort(places)  # where the word at each place goes
    straight = np.arange(length, dtype=np.int64)
    frames = pairs(words), pairs(result)

    def piece(begin: int, end: int) -> None:
        work = np.zeros((length, 2, lanes), lane)
        tables = twiddles, straight, target, int(inverse), halves
        transform(begin, end, *frames, work, *tables)

    over_lines(piece, len(words), lanes)
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
