"""Do a plan's constants make the three stages equal the operator, bias and embedding included?"""

from __future__ import annotations

import numpy as np
import pytest

from parc_hw.dataflow import evaluate, plan_depth, real_dft, transpose
from parc_hw.errors import InputError
from parc_hw.plan import MAX_TRANSFORM, SplitPlan
from parc_hw.weights import complex_rows, fold_scale, reference_split, split_tables, start_values

FLOAT64 = 2.0**-53


def plans(length: int) -> list[SplitPlan]:
    return [
        SplitPlan(n1=n1, n2=length // n1)
        for n1 in range(1, min(length, MAX_TRANSFORM) + 1)
        if length % n1 == 0
    ]


def operator(x, weight, pe=None, bias=None):
    """Equation 2 as written: y[i] = b + sum_k w[k] (x + pe)[(i+k) mod N]; last axis."""
    if pe is not None:
        x = x + pe
    length = x.shape[-1]
    turned = x[..., (np.arange(length)[:, None] + np.arange(length)) % length]
    spec = "ck,...cik->...ci" if weight.ndim == 2 else "ock,...cik->...oi"
    y = np.einsum(spec, weight, turned)
    return y if bias is None else y + bias[:, None]


def tolerance(weight, x, pe, bias, length):
    """Float64 rounding of both sides: about 4 N + 40 roundings on terms whose sum is at most this."""
    largest = np.abs(x).max() + (0 if pe is None else np.abs(pe).max())
    rows = np.abs(weight).reshape(weight.shape[0], -1).sum(1).max()
    size = rows * largest + (0 if bias is None else np.abs(bias).max())
    # sum of the rows of a half-complex spectrum is at most 2 sqrt(N) times the vector's
    return (4 * length + 40) * FLOAT64 * 4 * length**0.5 * size


@pytest.mark.parametrize("length", range(1, 65))
def test_three_stages_equal_the_operator_for_every_plan(length):
    rng = np.random.default_rng(length)
    weight, pe = rng.standard_normal((2, 3, length))
    bias = rng.standard_normal(3)
    x = rng.standard_normal((2, 3, length))
    for plan in plans(length):
        tables = split_tables(weight, plan)
        assert tables.shape == (3, plan.n1 * (2 * plan.n2 - 1))
        for pe_, bias_ in ((pe, bias), (None, bias), (pe, None), (None, None)):
            start = start_values(weight, pe_, bias_, plan)
            assert start.shape == (3, length)
            y = reference_split(x, tables, start, plan)
            bound = tolerance(weight, x, pe_, bias_, length)
            np.testing.assert_allclose(y, operator(x, weight, pe_, bias_), rtol=0, atol=bound)


@pytest.mark.parametrize("length", [1, 6, 7, 12, 28])
def test_dense_kernels_sum_over_channels(length):
    rng = np.random.default_rng(length)
    weight, pe = rng.standard_normal((4, 3, length)), rng.standard_normal((3, length))
    bias, x = rng.standard_normal(4), rng.standard_normal((2, 3, length))
    for plan in plans(length):
        start = start_values(weight, pe, bias, plan)
        y = reference_split(x, split_tables(weight, plan), start, plan)
        assert y.shape == (2, 4, length)
        bound = 3 * tolerance(weight, x, pe, bias, length)
        np.testing.assert_allclose(y, operator(x, weight, pe, bias), rtol=0, atol=bound)


@pytest.mark.parametrize(("n1", "n2"), [(1, 6), (2, 3), (7, 2), (8, 3), (14, 2), (28, 1)])
def test_kernel_loops_as_the_docstring_states_them(n1, n2):
    """Stage 2 written as a kernel's author would, with the codelets of dataflow round it."""
    plan = SplitPlan(n1=n1, n2=n2)
    rng = np.random.default_rng(0)
    weight, pe, x = rng.standard_normal((3, 1, plan.length))
    bias = rng.standard_normal(1)
    table, z = split_tables(weight, plan)[0], start_values(weight, pe, bias, plan)[0]
    taps = 2 * n2 - 1
    u = np.array([evaluate(real_dft(n1), x[0, m::n2]) for m in range(n2)]).T
    v = z.reshape(n1, n2).copy()
    for row in complex_rows(n1):
        tr, ti = table[row * taps :][:taps], table[(row + 1) * taps :][:taps]
        for m in range(n2):
            for q in range(n2):
                d = m - q + n2 - 1
                v[row, m] += tr[d] * u[row, q] - ti[d] * u[row + 1, q]
                v[row + 1, m] += tr[d] * u[row + 1, q] + ti[d] * u[row, q]
    for row in sorted({0, n1 - 1} if n1 % 2 == 0 else {0}):
        t = table[row * taps :][:taps]
        for m in range(n2):
            for q in range(n2):
                v[row, m] += t[m - q + n2 - 1] * u[row, q]
    y = np.empty(plan.length)
    for m in range(n2):
        y[m::n2] = evaluate(transpose(real_dft(n1)), v[:, m])
    bound = tolerance(weight, x, pe, bias, plan.length)
    np.testing.assert_allclose(y, operator(x, weight, pe, bias)[0], rtol=0, atol=bound)


@pytest.mark.parametrize("n1", range(1, 33))
def test_every_row_is_either_real_or_in_one_pair(n1):
    pairs = [r for row in complex_rows(n1) for r in (row, row + 1)]
    real = [0] + ([n1 - 1] if n1 % 2 == 0 else [])
    assert sorted(pairs + real) == list(range(n1))


def test_a_delta_kernel_is_the_identity():
    weight = np.zeros((2, 12))
    weight[:, 0] = 1
    x = np.random.default_rng(0).standard_normal((2, 12))
    for plan in plans(12):
        y = reference_split(x, split_tables(weight, plan), np.zeros((2, 12)), plan)
        np.testing.assert_allclose(y, x, rtol=0, atol=1e-14)


def test_float32_stays_float32():
    plan = SplitPlan(n1=4, n2=3)
    weight = np.ones((1, 12), np.float32)
    tables = split_tables(weight, plan).astype(np.float32)
    start = start_values(weight, None, None, plan).astype(np.float32)
    assert reference_split(np.ones((1, 12), np.float32), tables, start, plan).dtype == np.float32
    assert split_tables(weight, plan).dtype == np.float64


@pytest.mark.parametrize("dense", [False, True])
def test_batch_norm_after_parc_folds_into_kernel_and_bias(dense):
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((4, 4, 9) if dense else (4, 9))
    pe, bias, x = rng.standard_normal((4, 9)), rng.standard_normal(4), rng.standard_normal((4, 9))
    gamma, beta, mean = rng.standard_normal((3, 4))
    variance = rng.uniform(0.5, 2, 4)
    scale = gamma / np.sqrt(variance + 1e-5)
    shift = beta - mean * scale
    folded_weight, folded_bias = fold_scale(weight, bias, scale, shift)
    np.testing.assert_allclose(
        operator(x, folded_weight, pe, folded_bias),
        operator(x, weight, pe, bias) * scale[:, None] + shift[:, None],
        rtol=0,
        atol=1e-12,
    )
    _, without = fold_scale(weight, None, scale, shift)
    assert np.array_equal(without, shift)


def test_constants_of_the_wrong_shape_are_refused():
    plan = SplitPlan(n1=4, n2=3)
    weight = np.ones((2, 12))
    with pytest.raises(
        InputError, match=r"weight has shape \(2, 11\), but plan 4x3 covers length 12"
    ):
        split_tables(np.ones((2, 11)), plan)
    with pytest.raises(
        InputError, match=r"position embedding has shape \(12,\).*must be \(2, 12\)"
    ):
        start_values(weight, np.ones(12), None, plan)
    with pytest.raises(InputError, match=r"bias has shape \(3,\).*must be \(2,\)"):
        start_values(weight, None, np.ones(3), plan)
    with pytest.raises(InputError, match=r"accepted are \(C, N\) depthwise and \(C_out, C, N\)"):
        start_values(np.ones(12), None, None, plan)
    with pytest.raises(InputError, match=r"plan 4x3 needs x \(\.\.\., 2, 12\)"):
        reference_split(np.ones((3, 12)), np.ones((2, 20)), np.ones((2, 12)), plan)
    with pytest.raises(InputError, match=r"scale has shape \(5,\).*one per output channel"):
        fold_scale(weight, None, np.ones(5), np.ones(2))


@pytest.mark.parametrize("length", [1, 2, 7, 13, 14, 28, 31, 37, 56, 64])
def test_float32_error_is_within_the_depth_bound_of_the_plan(length):
    rng = np.random.default_rng(length)
    weight, x = rng.standard_normal((2, 16, length)).astype(np.float32)
    exact = operator(x.astype(np.float64), weight.astype(np.float64))
    size = np.abs(weight).sum(1).max() * np.abs(x).max()
    for plan in plans(length):
        tables = split_tables(weight, plan).astype(np.float32)
        y = reference_split(x, tables, np.zeros((16, length), np.float32), plan)
        assert np.abs(y - exact).max() <= (plan_depth(plan) + 1) * 2.0**-24 * size, plan
