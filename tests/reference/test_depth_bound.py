"""Does the error bound of the exactness rules hold for float32 sums, and is it sharp enough?"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from parc_hw.errors import InputError
from parc_hw.reference import UNIT_ROUNDOFF, depth_bound, direct_depth


def float32_dot(w, x, fused):
    """A sequential float32 sum; an exact product and one rounding are what fma does."""
    total = np.float32(0)
    for a, b in zip(w, x, strict=True):
        if fused:
            total = np.float32(np.float64(a) * np.float64(b) + np.float64(total))
        else:
            total = np.float32(a * b) + total
    return total


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 14, 28, 56, 112])
def test_a_sequential_float32_sum_stays_within_the_bound(length, fused):
    rng = np.random.default_rng(length)
    for _ in range(50):
        w, x = rng.normal(size=(2, length)).astype(np.float32)
        exact = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(w, x, strict=True))
        error = abs(Fraction(float(float32_dot(w, x, fused))) - exact)
        assert error <= depth_bound(x, w, depth=direct_depth(length, fused=fused))


def test_a_dropped_term_breaks_the_bound():
    """Sharp enough: leaving out the smallest of 56 typical terms is 1000 times too much."""
    rng = np.random.default_rng(0)
    w, x = rng.uniform(0.5, 1, size=(2, 56))
    assert np.min(w * x) > 1000 * depth_bound(x, w, depth=direct_depth(56))


def test_the_bound_counts_what_one_output_sums():
    ones = np.ones((2, 3, 4))
    assert depth_bound(1.0, ones[0], depth=1) == 2 * UNIT_ROUNDOFF * 4  # depthwise: taps
    assert depth_bound(1.0, ones, depth=1) == 2 * UNIT_ROUNDOFF * 12  # dense: taps and channels
    assert depth_bound(1.0, ones, depth=1, constant=[-5.0, 1.0]) == 2 * UNIT_ROUNDOFF * 17


@pytest.mark.parametrize("depth", [0, -1, 4096])
def test_a_depth_without_a_bound_is_refused(depth):
    with pytest.raises(InputError, match=f"no bound for a depth of {depth} roundings"):
        depth_bound([1.0], [1.0], depth=depth)
