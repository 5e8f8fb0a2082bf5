"""Is the split form N = n1 * n2 the same correlation for every factorisation?"""

from __future__ import annotations

import numpy as np
import pytest

from parc_hw.errors import InputError
from parc_hw.plan import SplitPlan
from parc_hw.reference import UNIT_ROUNDOFF, depth_bound, equation_2, split_correlate


def plans(length):
    return [SplitPlan(n1=d, n2=length // d) for d in range(1, 33) if length % d == 0]


@pytest.mark.parametrize("length", range(1, 65))
def test_every_factorisation_of_every_length_gives_equation_2(length):
    """Integer data: the exact result is an integer, and rounding must find it."""
    rng = np.random.default_rng(length)
    x, w = rng.integers(-8, 9, (2, length)).astype(float)
    for plan in plans(length):
        y = split_correlate(x, w, plan)
        assert np.array_equal(np.rint(y), equation_2(x, w)), plan
        assert np.max(np.abs(y - np.rint(y))) < 1e-9, plan


def test_leading_axes_are_independent_lines():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 12)), rng.normal(size=(3, 12))
    y = split_correlate(x, w, SplitPlan(n1=4, n2=3))
    for n in range(2):
        for c in range(3):
            alone = split_correlate(x[n, c], w[c], SplitPlan(n1=4, n2=3))
            assert np.allclose(y[n, c], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["x", "w"])
def test_a_line_of_another_length_is_refused(name):
    lines = {"x": np.zeros(12), "w": np.zeros(12)} | {name: np.zeros(10)}
    with pytest.raises(InputError, match=rf"{name} .* \(10,\); accepted for the plan 4x3: .* 12"):
        split_correlate(**lines, plan=SplitPlan(n1=4, n2=3))


@pytest.mark.parametrize("plan", ["1x14", "7x2", "14x1", "8x7", "14x4", "28x2", "16x7", "32x7"])
def test_float32_transforms_stay_far_inside_the_bound_of_the_design(plan):
    """The bound is proven for n1 = 1; here the split form is seen to keep it.

    Plain matrix transforms in float32, an upper end for codelets: depth n1 for the transform,
    2 n2 for complex Toeplitz products, n1 for the inverse.
    """
    n1, n2 = map(int, plan.split("x"))
    rng = np.random.default_rng(n1 * n2)
    turns = np.outer(np.arange(n1), np.arange(n1)) / n1
    matrix = np.exp(-2j * np.pi * turns).astype(np.complex64)
    omega = np.exp(-2j * np.pi * np.arange(n1) / n1)
    worst = 0.0
    for _ in range(20):
        x, w = rng.normal(size=(2, n1 * n2)).astype(np.float32)
        reverse = np.float64(w)[-np.arange(n1 * n2) % (n1 * n2)].reshape(n1, n2)
        table = np.exp(-2j * np.pi * turns) @ reverse  # a constant: float64, rounded once
        x_k = matrix @ x.reshape(n1, n2)
        y_k = np.zeros((n1, n2), np.complex64)
        for r in range(n2):
            for s in range(n2):
                entry = table[:, r - s] if s <= r else omega * table[:, n2 + r - s]
                y_k[:, r] += (entry / n1).astype(np.complex64) * x_k[:, s]
        y = (matrix.conj() @ y_k).real.reshape(-1)
        error = np.max(np.abs(y - equation_2(x, w)))
        worst = max(worst, error / depth_bound(x, w, depth=2 * n1 + 2 * n2))
    assert worst < 0.1, f"{worst:.3f} of the bound (u = {UNIT_ROUNDOFF})"
