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

from fixedpoint._threads import over_lines
from fixedpoint.profiles.profile import Profile, Words

__all__ = ["kissfft_16", "kissfft_32"]

LONGEST = 512
LANES = 16  # signals side by side in the innermost loop: one 512-bit vector of int32


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


def _quantised(phases: list[float], fraction_bits: int, dtype: Any) -> NDArray[Any]:
    """Return floor(1/2 + M exp(j phase)) as (re, im) rows; M = 2^fraction_bits - 1."""
    scale = (1 << fraction_bits) - 1
    return np.array(
        [
            (math.floor(0.5 + scale * math.cos(p)), math.floor(0.5 + scale * math.sin(p)))
            for p in phases
        ],
        dtype=dtype,
    ).reshape(-1, 2)


@lru_cache(maxsize=64)
def _tables(length: int, bits: int, inverse: bool) -> tuple[NDArray[Any], ...]:
    """Return stages' radices, the input's places (N,) and twiddle factors (N, 2).

    The twiddle factors are stored in the type of the products: int32 for 16-bit words, int64
    for 32-bit words.
    """
    radices = factors(length)
    # Decimation in time: the digit taken first selects the input with the smallest stride.
    places = np.zeros(1, dtype=np.int64)
    stride = 1
    for radix in radices:
        places = (places[:, None] + stride * np.arange(radix)).reshape(-1)
        stride *= radix
    sign = 1 if inverse else -1
    phases = [sign * (2 * math.pi * i / length) for i in range(length)]
    twiddles = _quantised(phases, bits - 1, np.int32 if bits == 16 else np.int64)
    return np.array(radices, dtype=np.int64), places, twiddles


@lru_cache(maxsize=64)
def _split_table(half: int, bits: int) -> NDArray[Any]:
    """Return the twiddle factors (N/4, 2) that take two interleaved real signals apart."""
    phases = [-math.pi * ((i + 1) / half + 0.5) for i in range(half // 2)]
    return _quantised(phases, bits - 1, np.int32 if bits == 16 else np.int64)


# ---------------------------------------------------------------- arithmetic
# `word` and `wide` are the types of a stored word and of a product; casts wrap.
@numba.njit(cache=True)
def _rounded(total, bits, word, wide):  # type: ignore[no-untyped-def]
    """floor((total + half) / 2^B), ties up, wrapped into a word."""
    return word(wide(wide(total) + wide(1 << (bits - 2))) >> (bits - 1))


@numba.njit(cache=True)
def _product(a, b, bits, word, wide):  # type: ignore[no-untyped-def]
    return _rounded(wide(wide(a) * wide(b)), bits, word, wide)


@numba.njit(cache=True)
def _times(re, im, w_re, w_im, bits, word, wide):  # type: ignore[no-untyped-def]
    """Complex product, one rounding per word."""
    real = wide(wide(wide(re) * w_re) - wide(wide(im) * w_im))
    imaginary = wide(wide(wide(re) * w_im) + wide(wide(im) * w_re))
    return _rounded(real, bits, word, wide), _rounded(imaginary, bits, word, wide)


# ---------------------------------------------------------------- butterflies
# Each works on rows of `work` (N, 2, LANES): places `at + i m` for i < radix, all lanes at once.
# `step` is the stride in the twiddle table, `u` the butterfly's number within its group.
@numba.njit(cache=True)
def _radix2(work, twiddles, at, m, step, u, bits, word, wide):  # type: ignore[no-untyped-def]
    part = ((1 << (bits - 1)) - 1) // 2
    w_re, w_im = twiddles[u * step]
    for lane in range(LANES):
        a_re = _product(work[at, 0, lane], part, bits, word, wide)
        a_im = _product(work[at, 1, lane], part, bits, word, wide)
        b_re = _product(work[at + m, 0, lane], part, bits, word, wide)
        b_im = _product(work[at + m, 1, lane], part, bits, word, wide)
        t_re, t_im = _times(b_re, b_im, w_re, w_im, bits, word, wide)
        work[at, 0, lane] = word(a_re + t_re)
        work[at, 1, lane] = word(a_im + t_im)
        work[at + m, 0, lane] = word(a_re - t_re)
        work[at + m, 1, lane] = word(a_im - t_im)


@numba.njit(cache=True)
def _radix3(work, twiddles, at, m, step, u, bits, word, wide):  # type: ignore[no-untyped-def]
    part = ((1 << (bits - 1)) - 1) // 3
    sine = twiddles[step * m, 1]
    w1_re, w1_im = twiddles[u * step]
    w2_re, w2_im = twiddles[2 * u * step]
    for lane in range(LANES):
        a_re = _product(work[at, 0, lane], part, bits, word, wide)
        a_im = _product(work[at, 1, lane], part, bits, word, wide)
        b_re = _product(work[at + m, 0, lane], part, bits, word, wide)
        b_im = _product(work[at + m, 1, lane], part, bits, word, wide)
        c_re = _product(work[at + 2 * m, 0, lane], part, bits, word, wide)
        c_im = _product(work[at + 2 * m, 1, lane], part, bits, word, wide)
        b_re, b_im = _times(b_re, b_im, w1_re, w1_im, bits, word, wide)
        c_re, c_im = _times(c_re, c_im, w2_re, w2_im, bits, word, wide)
        sum_re, sum_im = word(b_re + c_re), word(b_im + c_im)
        turn_re = _product(word(b_re - c_re), sine, bits, word, wide)
        turn_im = _product(word(b_im - c_im), sine, bits, word, wide)
        mid_re, mid_im = word(a_re - (sum_re >> 1)), word(a_im - (sum_im >> 1))
        work[at, 0, lane] = word(a_re + sum_re)
        work[at, 1, lane] = word(a_im + sum_im)
        work[at + m, 0, lane] = word(mid_re - turn_im)
        work[at + m, 1, lane] = word(mid_im + turn_re)
        work[at + 2 * m, 0, lane] = word(mid_re + turn_im)
        work[at + 2 * m, 1, lane] = word(mid_im - turn_re)


@numba.njit(cache=True)
def _radix4(work, twiddles, at, m, step, u, inverse, bits, word, wide):  # type: ignore[no-untyped-def]
    part = ((1 << (bits - 1)) - 1) // 4
    w1_re, w1_im = twiddles[u * step]
    w2_re, w2_im = twiddles[2 * u * step]
    w3_re, w3_im = twiddles[3 * u * step]
    # the quarter turn is by -j forward and by +j inverse
    second, fourth = (at + 3 * m, at + m) if inverse else (at + m, at + 3 * m)
    for lane in range(LANES):
        a_re = _product(work[at, 0, lane], part, bits, word, wide)
        a_im = _product(work[at, 1, lane], part, bits, word, wide)
        b_re = _product(work[at + m, 0, lane], part, bits, word, wide)
        b_im = _product(work[at + m, 1, lane], part, bits, word, wide)
        c_re = _product(work[at + 2 * m, 0, lane], part, bits, word, wide)
        c_im = _product(work[at + 2 * m, 1, lane], part, bits, word, wide)
        d_re = _product(work[at + 3 * m, 0, lane], part, bits, word, wide)
        d_im = _product(work[at + 3 * m, 1, lane], part, bits, word, wide)
        b_re, b_im = _times(b_re, b_im, w1_re, w1_im, bits, word, wide)
        c_re, c_im = _times(c_re, c_im, w2_re, w2_im, bits, word, wide)
        d_re, d_im = _times(d_re, d_im, w3_re, w3_im, bits, word, wide)
        even_re, even_im = word(a_re + c_re), word(a_im + c_im)
        odd_re, odd_im = word(b_re + d_re), word(b_im + d_im)
        p_re, p_im = word(a_re - c_re), word(a_im - c_im)
        q_re, q_im = word(b_re - d_re), word(b_im - d_im)
        work[at, 0, lane] = word(even_re + odd_re)
        work[at, 1, lane] = word(even_im + odd_im)
        work[at + 2 * m, 0, lane] = word(even_re - odd_re)
        work[at + 2 * m, 1, lane] = word(even_im - odd_im)
        work[second, 0, lane] = word(p_re + q_im)
        work[second, 1, lane] = word(p_im - q_re)
        work[fourth, 0, lane] = word(p_re - q_im)
        work[fourth, 1, lane] = word(p_im + q_re)


@numba.njit(cache=True)
def _radix5(work, twiddles, at, m, step, u, bits, word, wide):  # type: ignore[no-untyped-def]
    part = ((1 << (bits - 1)) - 1) // 5
    ya_re, ya_im = twiddles[step * m]
    yb_re, yb_im = twiddles[2 * step * m]
    for lane in range(LANES):
        re0 = _product(work[at, 0, lane], part, bits, word, wide)
        im0 = _product(work[at, 1, lane], part, bits, word, wide)
        re1 = _product(work[at + m, 0, lane], part, bits, word, wide)
        im1 = _product(work[at + m, 1, lane], part, bits, word, wide)
        re2 = _product(work[at + 2 * m, 0, lane], part, bits, word, wide)
        im2 = _product(work[at + 2 * m, 1, lane], part, bits, word, wide)
        re3 = _product(work[at + 3 * m, 0, lane], part, bits, word, wide)
        im3 = _product(work[at + 3 * m, 1, lane], part, bits, word, wide)
        re4 = _product(work[at + 4 * m, 0, lane], part, bits, word, wide)
        im4 = _product(work[at + 4 * m, 1, lane], part, bits, word, wide)
        w = u * step
        re1, im1 = _times(re1, im1, twiddles[w, 0], twiddles[w, 1], bits, word, wide)
        re2, im2 = _times(re2, im2, twiddles[2 * w, 0], twiddles[2 * w, 1], bits, word, wide)
        re3, im3 = _times(re3, im3, twiddles[3 * w, 0], twiddles[3 * w, 1], bits, word, wide)
        re4, im4 = _times(re4, im4, twiddles[4 * w, 0], twiddles[4 * w, 1], bits, word, wide)
        outer_re, outer_im = word(re1 + re4), word(im1 + im4)
        outer_d_re, outer_d_im = word(re1 - re4), word(im1 - im4)
        inner_re, inner_im = word(re2 + re3), word(im2 + im3)
        inner_d_re, inner_d_im = word(re2 - re3), word(im2 - im3)
        work[at, 0, lane] = word(re0 + outer_re + inner_re)
        work[at, 1, lane] = word(im0 + outer_im + inner_im)

        c_re = word(
            re0
            + _product(outer_re, ya_re, bits, word, wide)
            + _product(inner_re, yb_re, bits, word, wide)
        )
        c_im = word(
            im0
            + _product(outer_im, ya_re, bits, word, wide)
            + _product(inner_im, yb_re, bits, word, wide)
        )
        s_re = word(
            _product(outer_d_im, ya_im, bits, word, wide)
            + _product(inner_d_im, yb_im, bits, word, wide)
        )
        s_im = word(
            -_product(outer_d_re, ya_im, bits, word, wide)
            - _product(inner_d_re, yb_im, bits, word, wide)
        )
        work[at + m, 0, lane] = word(c_re - s_re)
        work[at + m, 1, lane] = word(c_im - s_im)
        work[at + 4 * m, 0, lane] = word(c_re + s_re)
        work[at + 4 * m, 1, lane] = word(c_im + s_im)

        c_re = word(
            re0
            + _product(outer_re, yb_re, bits, word, wide)
            + _product(inner_re, ya_re, bits, word, wide)
        )
        c_im = word(
            im0
            + _product(outer_im, yb_re, bits, word, wide)
            + _product(inner_im, ya_re, bits, word, wide)
        )
        s_re = word(
            _product(inner_d_im, ya_im, bits, word, wide)
            - _product(outer_d_im, yb_im, bits, word, wide)
        )
        s_im = word(
            _product(outer_d_re, yb_im, bits, word, wide)
            - _product(inner_d_re, ya_im, bits, word, wide)
        )
        work[at + 2 * m, 0, lane] = word(c_re + s_re)
        work[at + 2 * m, 1, lane] = word(c_im + s_im)
        work[at + 3 * m, 0, lane] = word(c_re - s_re)
        work[at + 3 * m, 1, lane] = word(c_im - s_im)


@numba.njit(cache=True)
def _radix_any(work, copy, twiddles, at, m, radix, step, u, bits, word, wide):  # type: ignore[no-untyped-def]
    """Sum directly: out[q] = sum_i in[i] w[step i (u + q m)], each product rounded, sums wrap."""
    length = twiddles.shape[0]
    part = ((1 << (bits - 1)) - 1) // radix
    for i in range(radix):
        for c in range(2):
            for lane in range(LANES):
                copy[i, c, lane] = _product(work[at + i * m, c, lane], part, bits, word, wide)
    for q in range(radix):
        place = at + q * m
        for c in range(2):
            for lane in range(LANES):
                work[place, c, lane] = copy[0, c, lane]
        turn = 0
        for i in range(1, radix):
            turn += step * (u + q * m)
            if turn >= length:
                turn -= length
            w_re, w_im = twiddles[turn]
            for lane in range(LANES):
                re, im = _times(copy[i, 0, lane], copy[i, 1, lane], w_re, w_im, bits, word, wide)
                work[place, 0, lane] = word(work[place, 0, lane] + re)
                work[place, 1, lane] = word(work[place, 1, lane] + im)


@numba.njit(cache=True, nogil=True)
def _transform(begin, end, words, result, radices, places, twiddles, inverse, bits):  # type: ignore[no-untyped-def]
    """Transform lines [begin, end) of `words` (lines, N, 2), LANES at a time."""
    length = words.shape[1]
    word, wide = words.dtype.type, twiddles.dtype.type
    for first in range(begin, end, LANES):
        held = min(LANES, end - first)
        work = np.zeros((length, 2, LANES), words.dtype)
        copy = np.empty((radices.max(), 2, LANES), words.dtype)
        for lane in range(held):
            for i in range(length):
                work[i, 0, lane] = words[first + lane, places[i], 0]
                work[i, 1, lane] = words[first + lane, places[i], 1]
        m = 1
        for stage in range(len(radices) - 1, -1, -1):
            radix = radices[stage]
            groups = length // (radix * m)  # also the stride in the twiddle table
            for group in range(groups):
                for u in range(m):
                    at = group * radix * m + u
                    if radix == 4:
                        _radix4(work, twiddles, at, m, groups, u, inverse, bits, word, wide)
                    elif radix == 2:
                        _radix2(work, twiddles, at, m, groups, u, bits, word, wide)
                    elif radix == 3:
                        _radix3(work, twiddles, at, m, groups, u, bits, word, wide)
                    elif radix == 5:
                        _radix5(work, twiddles, at, m, groups, u, bits, word, wide)
                    else:
                        _radix_any(work, copy, twiddles, at, m, radix, groups, u, bits, word, wide)
            m *= radix
        for lane in range(held):
            for i in range(length):
                result[first + lane, i, 0] = work[i, 0, lane]
                result[first + lane, i, 1] = work[i, 1, lane]


@numba.njit(cache=True)
def _split(packed, result, twiddles, bits):  # type: ignore[no-untyped-def]
    """Take the spectrum of even + j odd samples (lines, N/2, 2) apart: (lines, N/2 + 1, 2)."""
    half = packed.shape[1]
    word, wide = packed.dtype.type, twiddles.dtype.type
    part = ((1 << (bits - 1)) - 1) // 2
    for line in range(packed.shape[0]):
        re = _product(packed[line, 0, 0], part, bits, word, wide)
        im = _product(packed[line, 0, 1], part, bits, word, wide)
        result[line, 0, 0] = word(re + im)
        result[line, half, 0] = word(re - im)
        result[line, 0, 1] = 0
        result[line, half, 1] = 0
        for k in range(1, half // 2 + 1):
            a_re = _product(packed[line, k, 0], part, bits, word, wide)
            a_im = _product(packed[line, k, 1], part, bits, word, wide)
            b_re = _product(packed[line, half - k, 0], part, bits, word, wide)
            b_im = _product(word(-packed[line, half - k, 1]), part, bits, word, wide)
            sum_re, sum_im = word(a_re + b_re), word(a_im + b_im)
            t_re, t_im = _times(
                word(a_re - b_re),
                word(a_im - b_im),
                twiddles[k - 1, 0],
                twiddles[k - 1, 1],
                bits,
                word,
                wide,
            )
            # C adds in int before halving: 16-bit words do not wrap here, 32-bit words do
            result[line, k, 0] = np.int32(sum_re + t_re) >> 1
            result[line, k, 1] = np.int32(sum_im + t_im) >> 1
            result[line, half - k, 0] = np.int32(sum_re - t_re) >> 1
            result[line, half - k, 1] = np.int32(t_im - sum_im) >> 1


# ---------------------------------------------------------------- profiles
def _fft(words: Words, bits: int, inverse: bool) -> Words:
    result = np.empty_like(words)
    tables = _tables(words.shape[1], bits, inverse)
    over_lines(_transform, len(words), LANES, words, result, *tables, inverse, bits)
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
