"""Claims about the transforms against APyTypes: its arrays, its rounding, none of our code.

Radix 2, each word of a stage rounded once (convergently, behind exact product, sum and halving)
and saturated: what `FftDatapath.of(..., product="once", scaling="half")` describes.
"""

import numpy as np
import pytest
from apytypes import APyFixedArray, OverflowMode, QuantizationMode

from fixedpoint import fft
from fixedpoint.stage import FftDatapath
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.plan import FftPlan

# bits of the data, and of the twiddle factors, of which 2 are integer bits: 1 and -1 are exact
WIDTHS = [
    (6, 8),
    (8, 8),
    (10, 12),
    (12, 10),
    (14, 16),
    (16, 16),
    (18, 18),
    (20, 16),
    (24, 18),
    (28, 20),
]


def fixed(words, bits):
    """Words as numbers of `bits` integer bits."""
    return APyFixedArray.from_array(words.astype(np.float64), int_bits=bits, frac_bits=0)


def words(numbers):
    return numbers.to_numpy().astype(np.int64)


def rounded(numbers, bits):
    """Halve, round convergently to integers and saturate: one cast."""
    return (numbers >> 1).cast(
        int_bits=bits,
        frac_bits=0,
        quantization=QuantizationMode.RND_CONV,
        overflow=OverflowMode.SAT,
    )


def factor(turn, twiddle_bits):
    """cos and sin of a part of a turn as numbers of the twiddle format, ties away from zero."""
    pair = np.array([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)])
    return APyFixedArray.from_float(pair, int_bits=2, frac_bits=60).cast(
        int_bits=2,
        frac_bits=twiddle_bits - 2,
        quantization=QuantizationMode.RND_INF,
        overflow=OverflowMode.SAT,
    )


def times(re, im, turn, twiddle_bits):
    """Multiply by the quantised exp(2 pi j turn), exactly."""
    pair = factor(turn, twiddle_bits)
    c, s = pair[0], pair[1]
    return re * c - im * s, re * s + im * c


def transform_dif(lines, bits, twiddle_bits, sign):
    """Return int64 words (lines, N, 2) in natural order."""
    length = lines.shape[1]
    re = [fixed(lines[:, i, 0], bits) for i in range(length)]
    im = [fixed(lines[:, i, 1], bits) for i in range(length)]
    order = [0]
    span = length
    while span > 1:
        half = span // 2
        for begin in range(0, length, span):
            for j in range(half):
                a, b = begin + j, begin + j + half
                sums = re[a] + re[b], im[a] + im[b]
                differences = re[a] - re[b], im[a] - im[b]
                re[a], im[a] = (rounded(part, bits) for part in sums)
                product = times(*differences, sign * j / span, twiddle_bits)
                re[b], im[b] = (rounded(part, bits) for part in product)
        order = [2 * i for i in order] + [2 * i + 1 for i in order]
        span = half
    result = np.empty_like(lines)
    for place in range(length):
        result[:, order[place]] = np.stack([words(re[place]), words(im[place])], axis=-1)
    return result


def transform_dit(lines, bits, twiddle_bits, sign):
    """Return int64 words (lines, N, 2) in natural order."""
    length = lines.shape[1]
    order = [0]
    while len(order) < length:
        order = [2 * i for i in order] + [2 * i + 1 for i in order]
    re = [fixed(lines[:, i, 0], bits) for i in order]
    im = [fixed(lines[:, i, 1], bits) for i in order]
    half = 1
    while half < length:
        for begin in range(0, length, 2 * half):
            for j in range(half):
                a, b = begin + j, begin + j + half
                p_re, p_im = times(re[b], im[b], sign * j / (2 * half), twiddle_bits)
                sums = re[a] + p_re, im[a] + p_im
                differences = re[a] - p_re, im[a] - p_im
                re[a], im[a] = (rounded(part, bits) for part in sums)
                re[b], im[b] = (rounded(part, bits) for part in differences)
        half *= 2
    return np.stack(
        [np.stack([words(p) for p in re], axis=1), np.stack([words(p) for p in im], axis=1)],
        axis=-1,
    )


@pytest.mark.parametrize(("bits", "twiddle_bits"), WIDTHS)
@pytest.mark.parametrize("decimation", ["dif", "dit"])
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("length", [16, 64])
def test_no_word_differs_from_apytypes(bits, twiddle_bits, decimation, inverse, length):
    random = np.random.default_rng(bits)
    limit = 1 << (bits - 1)
    lines = random.integers(-limit, limit, (200, length, 2))
    lines[150:] = random.choice([-limit, limit - 1], lines[150:].shape)  # these saturate
    plan = FftPlan(radices=(2,) * (length.bit_length() - 1), decimation=decimation)
    twiddle = TwiddleFormat(bits=twiddle_bits, frac_bits=twiddle_bits - 2)
    datapath = FftDatapath.of(plan, bits=bits, twiddle=twiddle, scaling="half", product="once")
    got, trace = fft(lines, plan=plan, datapath=datapath, inverse=inverse, trace=True)
    assert trace.overflowed > 0
    transform = transform_dif if decimation == "dif" else transform_dit
    expected = transform(lines, bits, twiddle_bits, 1 if inverse else -1)
    np.testing.assert_array_equal(got, expected)


def test_the_oracle_is_the_dft():
    lines = np.random.default_rng(0).integers(-(1 << 19), 1 << 19, (5, 16, 2))
    exact = np.fft.fft(lines @ np.array([1, 1j])) / 16
    for transform in (transform_dif, transform_dit):
        got = transform(lines, 24, 22, -1) @ np.array([1, 1j])
        assert (
            np.abs(got - exact).max() < 2.5
        )  # under one LSB per stage, halved from stage to stage
