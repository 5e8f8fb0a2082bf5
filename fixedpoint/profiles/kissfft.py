"""What does kissfft compute in its fixed-point builds, word for word?

kissfft (BSD-3, version 131.1.0 and commit 6e9e673e420c) built with FIXED_POINT=16 or 32: a mixed
radix transform, decimation in time, with factors 4, then 2, 3, 5, 7, ...; radices 2 to 5 have
butterflies of their own, every other prime p is summed directly. Its arithmetic, with B = 15 or
31 fraction bits and M = 2^B - 1:

* twiddle factors floor(1/2 + M cos), floor(1/2 + M sin): the scale is M, not 2^B;
* a rounded product is floor((a b + 2^(B - 1)) / 2^B): half an LSB is added, ties go up; a complex
  product is rounded once per word, after its two products are added;
* every stage first multiplies its inputs by floor(M / p) in the place of 1/p: the whole
  transform scales by nearly 1/N, forward and inverse;
* nothing saturates: a sum that leaves the word length wraps (in C this is formally undefined;
  the compiled library wraps, and so do the golden vectors).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fixedpoint._frames import LANES_32, LANES_64, enter, leave, pairs
from fixedpoint._inside import inside
from fixedpoint._threads import over_lines
from fixedpoint._vector import load, low_half, store
from fixedpoint.profiles.profile import Profile, Words

__all__ = ["kissfft_16", "kissfft_32"]

LONGEST = 512


# ---------------------------------------------------------------- tables
def factors(length: int) -> tuple[int, ...]:
    """Return the radices of kissfft's stages, outermost first: 4s, then 2, 3, 5, 7, ...

    >>> factors(224), factors(1), factors(46)
    ((4, 4, 2, 7), (1,), (2, 23))
    """
    found = []
    rest, radix, largest = length, 4, math.isqrt(length)
    while True:
        while rest % radix:
            radix = {4: 2, 2: 3}.get(radix, radix + 2)
            if radix > largest:
                radix = rest  # no factor is left but the number itself
        rest //= radix
        found.append(radix)
        if rest == 1:
            return tuple(found)


def _quantised(phases: list[float], fraction_bits: int) -> NDArray[np.int32]:
    """Return floor(1/2 + M exp(j phase)) as (re, im) rows; M = 2^fraction_bits - 1."""
    scale = (1 << fraction_bits) - 1
    return np.array(
        [
            (math.floor(0.5 + scale * math.cos(p)), math.floor(0.5 + scale * math.sin(p)))
            for p in phases
        ],
        dtype=np.int32,
    ).reshape(-1, 2)


@lru_cache(maxsize=64)
def _tables(length: int, bits: int, inverse: bool) -> tuple[NDArray[Any], ...]:
    """Return stages' radices, the input's places (N,) and twiddle factors (N, 2)."""
    radices = factors(length)
    # Decimation in time: the digit taken first selects the input with the smallest stride.
    places = np.zeros(1, dtype=np.int64)
    stride = 1
    for radix in radices:
        places = (places[:, None] + stride * np.arange(radix)).reshape(-1)
        stride *= radix
    sign = 1 if inverse else -1
    phases = [sign * (2 * math.pi * i / length) for i in range(length)]
    twiddles = _quantised(phases, bits - 1)
    return np.array(radices, dtype=np.int64), places, twiddles


@lru_cache(maxsize=64)
def _split_table(half: int, bits: int) -> NDArray[np.int32]:
    """Return the twiddle factors (N/4, 2) that take two interleaved real signals apart."""
    phases = [-math.pi * ((i + 1) / half + 0.5) for i in range(half // 2)]
    return _quantised(phases, bits - 1)


# ---------------------------------------------------------------- arithmetic
# On vectors of signals: 16-bit words in int32 lanes, 32-bit words in int64 lanes, so that the same
# code serves both. The library wraps every sum; here a sum may leave the word until it is stored,
# because adding commutes with wrapping. What is multiplied or shifted inside a stage never leaves
# it: inputs are divided by the radix p, a rotated part is below sqrt(2)/p of full scale, and no
# more than two of them are added before.
@inside(forceinline=True)
def _product(a, b, bits):  # type: ignore[no-untyped-def]
    """floor((a b + half) / 2^B), ties up."""
    return (low_half(a) * b + (1 << (bits - 2))) >> (bits - 1)


@inside(forceinline=True)
def _times(re, im, w_re, w_im, bits):  # type: ignore[no-untyped-def]
    """Complex product, one rounding per word."""
    half = 1 << (bits - 2)
    re, im = low_half(re), low_half(im)  # as they are; what the compiler does not know
    return (
        (re * w_re - im * w_im + half) >> (bits - 1),
        (re * w_im + im * w_re + half) >> (bits - 1),
    )


@inside(forceinline=True)
def _part(work, place, part, bits):  # type: ignore[no-untyped-def]
    """The words at a place times `part`, the library's 1/p."""
    return (
        _product(load(work, 2 * place), part, bits),
        _product(load(work, 2 * place + 1), part, bits),
    )


@inside(forceinline=True)
def _put(work, place, re, im):  # type: ignore[no-untyped-def]
    store(work, 2 * place, low_half(re))
    store(work, 2 * place + 1, low_half(im))


# ---------------------------------------------------------------- butterflies
# Each works on places `at + i m` for i < radix. `step` is the stride in the twiddle table, `u` the
# butterfly's number within its group, `part` floor(M / radix).
@inside()
def _radix2(work, twiddles, at, m, part, turn, bits):  # type: ignore[no-untyped-def]
    a_re, a_im = _part(work, at, part, bits)
    b_re, b_im = _part(work, at + m, part, bits)
    b_re, b_im = _times(b_re, b_im, twiddles[turn, 0], twiddles[turn, 1], bits)
    _put(work, at, a_re + b_re, a_im + b_im)
    _put(work, at + m, a_re - b_re, a_im - b_im)


@inside()
def _radix3(work, twiddles, at, m, part, turn, step, bits):  # type: ignore[no-untyped-def]
    sine = twiddles[step * m, 1]
    a_re, a_im = _part(work, at, part, bits)
    b_re, b_im = _part(work, at + m, part, bits)
    c_re, c_im = _part(work, at + 2 * m, part, bits)
    b_re, b_im = _times(b_re, b_im, twiddles[turn, 0], twiddles[turn, 1], bits)
    c_re, c_im = _times(c_re, c_im, twiddles[2 * turn, 0], twiddles[2 * turn, 1], bits)
    sum_re, sum_im = b_re + c_re, b_im + c_im
    turn_re, turn_im = _product(b_re - c_re, sine, bits), _product(b_im - c_im, sine, bits)
    mid_re, mid_im = a_re - (sum_re >> 1), a_im - (sum_im >> 1)
    _put(work, at, a_re + sum_re, a_im + sum_im)
    _put(work, at + m, mid_re - turn_im, mid_im + turn_re)
    _put(work, at + 2 * m, mid_re + turn_im, mid_im - turn_re)


@inside()
def _radix4(work, twiddles, at, m, part, turn, inverse, bits):  # type: ignore[no-untyped-def]
    a_re, a_im = _part(work, at, part, bits)
    b_re, b_im = _part(work, at + m, part, bits)
    c_re, c_im = _part(work, at + 2 * m, part, bits)
    d_re, d_im = _part(work, at + 3 * m, part, bits)
    b_re, b_im = _times(b_re, b_im, twiddles[turn, 0], twiddles[turn, 1], bits)
    c_re, c_im = _times(c_re, c_im, twiddles[2 * turn, 0], twiddles[2 * turn, 1], bits)
    d_re, d_im = _times(d_re, d_im, twiddles[3 * turn, 0], twiddles[3 * turn, 1], bits)
    even_re, even_im = a_re + c_re, a_im + c_im
    odd_re, odd_im = b_re + d_re, b_im + d_im
    p_re, p_im = a_re - c_re, a_im - c_im
    q_re, q_im = b_re - d_re, b_im - d_im
    # the quarter turn is by -j forward and by +j inverse
    second, fourth = (at + 3 * m, at + m) if inverse else (at + m, at + 3 * m)
    _put(work, at, even_re + odd_re, even_im + odd_im)
    _put(work, at + 2 * m, even_re - odd_re, even_im - odd_im)
    _put(work, second, p_re + q_im, p_im - q_re)
    _put(work, fourth, p_re - q_im, p_im + q_re)


@inside()
def _radix5(work, twiddles, at, m, part, turn, step, bits):  # type: ignore[no-untyped-def]
    ya_re, ya_im = twiddles[step * m, 0], twiddles[step * m, 1]
    yb_re, yb_im = twiddles[2 * step * m, 0], twiddles[2 * step * m, 1]
    re0, im0 = _part(work, at, part, bits)
    re1, im1 = _part(work, at + m, part, bits)
    re2, im2 = _part(work, at + 2 * m, part, bits)
    re3, im3 = _part(work, at + 3 * m, part, bits)
    re4, im4 = _part(work, at + 4 * m, part, bits)
    re1, im1 = _times(re1, im1, twiddles[turn, 0], twiddles[turn, 1], bits)
    re2, im2 = _times(re2, im2, twiddles[2 * turn, 0], twiddles[2 * turn, 1], bits)
    re3, im3 = _times(re3, im3, twiddles[3 * turn, 0], twiddles[3 * turn, 1], bits)
    re4, im4 = _times(re4, im4, twiddles[4 * turn, 0], twiddles[4 * turn, 1], bits)
    outer_re, outer_im = re1 + re4, im1 + im4
    outer_d_re, outer_d_im = re1 - re4, im1 - im4
    inner_re, inner_im = re2 + re3, im2 + im3
    inner_d_re, inner_d_im = re2 - re3, im2 - im3
    _put(work, at, re0 + outer_re + inner_re, im0 + outer_im + inner_im)

    c_re = re0 + _product(outer_re, ya_re, bits) + _product(inner_re, yb_re, bits)
    c_im = im0 + _product(outer_im, ya_re, bits) + _product(inner_im, yb_re, bits)
    s_re = _product(outer_d_im, ya_im, bits) + _product(inner_d_im, yb_im, bits)
    s_im = -_product(outer_d_re, ya_im, bits) - _product(inner_d_re, yb_im, bits)
    _put(work, at + m, c_re - s_re, c_im - s_im)
    _put(work, at + 4 * m, c_re + s_re, c_im + s_im)

    c_re = re0 + _product(outer_re, yb_re, bits) + _product(inner_re, ya_re, bits)
    c_im = im0 + _product(outer_im, yb_re, bits) + _product(inner_im, ya_re, bits)
    s_re = _product(inner_d_im, ya_im, bits) - _product(outer_d_im, yb_im, bits)
    s_im = _product(outer_d_re, yb_im, bits) - _product(inner_d_re, ya_im, bits)
    _put(work, at + 2 * m, c_re + s_re, c_im + s_im)
    _put(work, at + 3 * m, c_re - s_re, c_im - s_im)


@inside()
def _radix_any(work, copy, twiddles, at, m, radix, part, step, u, bits):  # type: ignore[no-untyped-def]
    """Sum directly: out[q] = sum_i in[i] w[step i (u + q m)], each product rounded, sums wrap."""
    length = twiddles.shape[0]
    for i in range(radix):
        re, im = _part(work, at + i * m, part, bits)
        store(copy, 2 * i, re)
        store(copy, 2 * i + 1, im)
    for q in range(radix):
        total_re, total_im = load(copy, 0), load(copy, 1)
        turn = 0
        for i in range(1, radix):
            turn += step * (u + q * m)
            if turn >= length:
                turn -= length
            re, im = load(copy, 2 * i), load(copy, 2 * i + 1)
            re, im = _times(re, im, twiddles[turn, 0], twiddles[turn, 1], bits)
            total_re = total_re + re
            total_im = total_im + im
        _put(work, at + q * m, total_re, total_im)


@numba.njit(cache=True, nogil=True)
def _transform(  # type: ignore[no-untyped-def]
    begin, end, words, result, work, copy, radices, places, straight, twiddles, inverse, bits
):
    """Transform lines [begin, end) of `words`, as many at a time as `work` has lanes."""
    length, lanes = work.shape[0], work.shape[2]
    for first in range(begin, end, lanes):
        held = min(lanes, end - first)
        enter(words, work, places, first, held, 0)
        m = 1
        for stage in range(len(radices) - 1, -1, -1):
            radix = radices[stage]
            part = twiddles.dtype.type(((1 << (bits - 1)) - 1) // radix)
            groups = length // (radix * m)  # also the stride in the twiddle table
            for group in range(groups):
                for u in range(m):
                    at = group * radix * m + u
                    turn = u * groups
                    if radix == 4:
                        _radix4(work, twiddles, at, m, part, turn, inverse, bits)
                    elif radix == 2:
                        _radix2(work, twiddles, at, m, part, turn, bits)
                    elif radix == 3:
                        _radix3(work, twiddles, at, m, part, turn, groups, bits)
                    elif radix == 5:
                        _radix5(work, twiddles, at, m, part, turn, groups, bits)
                    else:
                        _radix_any(work, copy, twiddles, at, m, radix, part, groups, u, bits)
            m *= radix
        leave(work, result, straight, first, held, 0)


@inside()
def _rounded(total, bits, word):  # type: ignore[no-untyped-def]
    """floor((total + half) / 2^B) of a number, ties up, wrapped into a word."""
    return word((total + (1 << (bits - 2))) >> (bits - 1))


@numba.njit(cache=True)
def _split(packed, result, twiddles, bits):  # type: ignore[no-untyped-def]
    """Take the spectrum of even + j odd samples (lines, N/2, 2) apart: (lines, N/2 + 1, 2)."""
    half = packed.shape[1]
    word = packed.dtype.type
    part = ((1 << (bits - 1)) - 1) // 2
    for line in range(packed.shape[0]):
        re = _rounded(np.int64(packed[line, 0, 0]) * part, bits, word)
        im = _rounded(np.int64(packed[line, 0, 1]) * part, bits, word)
        result[line, 0, 0] = word(re + im)
        result[line, half, 0] = word(re - im)
        result[line, 0, 1] = 0
        result[line, half, 1] = 0
        for k in range(1, half // 2 + 1):
            a_re = _rounded(np.int64(packed[line, k, 0]) * part, bits, word)
            a_im = _rounded(np.int64(packed[line, k, 1]) * part, bits, word)
            b_re = _rounded(np.int64(packed[line, half - k, 0]) * part, bits, word)
            b_im = _rounded(np.int64(word(-packed[line, half - k, 1])) * part, bits, word)
            sum_re, sum_im = word(a_re + b_re), word(a_im + b_im)
            d_re, d_im = np.int64(word(a_re - b_re)), np.int64(word(a_im - b_im))
            w_re, w_im = np.int64(twiddles[k - 1, 0]), np.int64(twiddles[k - 1, 1])
            t_re = _rounded(d_re * w_re - d_im * w_im, bits, word)
            t_im = _rounded(d_re * w_im + d_im * w_re, bits, word)
            # C adds in int before halving: 16-bit words do not wrap here, 32-bit words do
            result[line, k, 0] = np.int32(sum_re + t_re) >> 1
            result[line, k, 1] = np.int32(sum_im + t_im) >> 1
            result[line, half - k, 0] = np.int32(sum_re - t_re) >> 1
            result[line, half - k, 1] = np.int32(t_im - sum_im) >> 1


# ---------------------------------------------------------------- profiles
def _fft(words: Words, bits: int, inverse: bool) -> Words:
    result = np.empty_like(words)
    length = words.shape[1]
    radices, places, twiddles = _tables(length, bits, inverse)
    lanes, lane = (LANES_32, np.int32) if bits == 16 else (LANES_64, np.int64)
    straight = np.arange(length, dtype=np.int64)
    frames = pairs(words), pairs(result)

    def piece(begin: int, end: int) -> None:
        work = np.zeros((length, 2, lanes), lane)
        copy = np.empty((radices.max(), 2, lanes), lane)
        tables = radices, places, straight, twiddles
        _transform(begin, end, *frames, work, copy, *tables, inverse, bits)

    over_lines(piece, len(words), lanes)
    return result


def _rfft(words: Words, bits: int) -> Words:
    lines, length = words.shape
    packed = _fft(words.reshape(lines, length // 2, 2), bits, False)
    result = np.empty((lines, length // 2 + 1, 2), words.dtype)
    _split(packed, result, _split_table(length // 2, bits), bits)
    return result


def _profile(bits: int) -> Profile:
    return Profile(
        name=f"kissfft_{bits}",
        bits=bits,
        lengths=f"every length from 1 to {LONGEST}",
        real_lengths=f"every even length from 2 to {2 * LONGEST}",
        accepts=lambda length: 1 <= length <= LONGEST,
        accepts_real=lambda length: length % 2 == 0 and 2 <= length <= 2 * LONGEST,
        transform=lambda words, inverse: _fft(words, bits, inverse),
        real_transform=lambda words: _rfft(words, bits),
    )


kissfft_16 = _profile(16)
kissfft_32 = _profile(32)
