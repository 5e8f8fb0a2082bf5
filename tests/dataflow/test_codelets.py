"""Are the transform graphs right, small, and printable as straight-line code?"""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest

from parc_hw.dataflow import (
    Add,
    Builder,
    Dag,
    Define,
    Fma,
    Input,
    Mul,
    Store,
    Sub,
    absolute,
    count,
    evaluate,
    fuse,
    half_complex,
    live_values,
    operands,
    order,
    real_dft,
    transpose,
)
from parc_hw.errors import InputError

LENGTHS = range(1, 33)
FLOAT32 = 2.0**-24  # unit roundoff
FLOAT64 = 2.0**-53

# (additions, multiplications) of an independent generator, which these must not exceed
KNOWN_COUNTS = {
    4: (6, 0), 7: (24, 18), 8: (20, 2), 14: (68, 48), 16: (60, 14), 28: (168, 108), 32: (160, 46),
}  # fmt: skip


def slow_dft(x: np.ndarray) -> np.ndarray:
    """The definition: X[k] = sum_j x[j] exp(-2 pi i j k / n), half-complex."""
    n = len(x)
    spectrum = [
        sum(x[j] * cmath.exp(-2j * math.pi * (j * k % n) / n) for j in range(n))
        for k in range(n // 2 + 1)
    ]
    return np.array(
        [spectrum[k].real if part == "re" else spectrum[k].imag for k, part in half_complex(n)]
    )


def bound(dag: Dag, x: np.ndarray, unit: float) -> np.ndarray:
    """Largest possible rounding error of each output: ((1 + u)**depth - 1) * |dag| |x|."""
    growth = math.expm1(count(dag).depth * math.log1p(unit))
    return growth * evaluate(absolute(dag), np.abs(x).astype(np.float64))


def graphs(n: int) -> dict[str, Dag]:
    forward = real_dft(n)
    backward = transpose(forward)
    return {
        "forward": forward,
        "transposed": backward,
        "forward fused": fuse(forward),
        "transposed fused": fuse(backward),
    }


@pytest.mark.parametrize("n", LENGTHS)
def test_transform_is_the_definition(n):
    x = np.random.default_rng(n).standard_normal(n)
    for dag in (real_dft(n), fuse(real_dft(n))):
        # the slow sum itself rounds: n terms of one product each
        tolerance = bound(dag, x, FLOAT64) + (n + 3) * FLOAT64 * np.abs(x).sum()
        assert np.all(np.abs(evaluate(dag, x) - slow_dft(x)) <= tolerance)


@pytest.mark.parametrize("n", LENGTHS)
def test_impulse_at_j_becomes_one_turn_of_frequency_j(n):
    spectra = evaluate(real_dft(n), np.eye(n))
    for row, (k, part) in enumerate(half_complex(n)):
        angles = 2 * np.pi * (np.arange(n) * k % n) / n
        expected = np.cos(angles) if part == "re" else -np.sin(angles)
        np.testing.assert_allclose(spectra[row], expected, rtol=0, atol=20 * FLOAT64)


@pytest.mark.parametrize("n", LENGTHS)
def test_transform_is_linear(n):
    rng = np.random.default_rng(n)
    x, y = rng.integers(-100, 101, (2, n)).astype(np.float64)
    dag = real_dft(n)
    together = evaluate(dag, 3 * x - 2 * y)
    apart = 3 * evaluate(dag, x) - 2 * evaluate(dag, y)
    tolerance = 2 * bound(dag, 3 * np.abs(x) + 2 * np.abs(y), FLOAT64)
    assert np.all(np.abs(together - apart) <= tolerance + 1e-300)


@pytest.mark.parametrize("n", LENGTHS)
def test_shift_by_one_multiplies_frequency_k_by_exp_minus_2_pi_i_k_over_n(n):
    x = np.random.default_rng(n).standard_normal(n)

    def spectrum(values):
        rows = dict(zip(half_complex(n), evaluate(real_dft(n), values), strict=True))
        return np.array([rows[k, "re"] + 1j * rows.get((k, "im"), 0) for k in range(n // 2 + 1)])

    turned = spectrum(x) * np.exp(-2j * np.pi * np.arange(n // 2 + 1) / n)
    tolerance = 4 * (count(real_dft(n)).depth + 4) * FLOAT64 * np.abs(x).sum() * n**0.5
    np.testing.assert_allclose(spectrum(np.roll(x, 1)), turned, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", LENGTHS)
def test_transpose_is_the_adjoint(n):
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((2, n))
    forward, backward = real_dft(n), transpose(real_dft(n))
    left, right = evaluate(forward, x) @ y, x @ evaluate(backward, y)
    tolerance = bound(forward, x, FLOAT64) @ np.abs(y) + np.abs(x) @ bound(backward, y, FLOAT64)
    tolerance += n * FLOAT64 * (evaluate(absolute(forward), np.abs(x)) @ np.abs(y))
    assert abs(left - right) <= tolerance
    np.testing.assert_allclose(
        evaluate(backward, np.eye(n)), evaluate(forward, np.eye(n)).T, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("n", LENGTHS)
def test_transpose_keeps_the_operation_counts(n):
    forward, backward = count(real_dft(n)), count(transpose(real_dft(n)))
    assert backward.additions == forward.additions
    assert backward.multiplications == forward.multiplications


@pytest.mark.parametrize("n", LENGTHS)
def test_transposing_twice_gives_the_same_map(n):
    twice = transpose(transpose(real_dft(n)))
    np.testing.assert_allclose(
        evaluate(twice, np.eye(n)), evaluate(real_dft(n), np.eye(n)), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(("n", "most"), KNOWN_COUNTS.items())
def test_no_more_operations_than_the_known_generator(n, most):
    counts = count(real_dft(n))
    assert counts.additions <= most[0]
    assert counts.multiplications <= most[1]


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_powers_of_two_cost_what_split_radix_costs(m):
    """Split radix (Duhamel and Hollmann 1984; complex products by 4 and 2), solved for n = 2**m."""
    n = 2**m
    complex_additions = (24 * m * n - 16 * n - 2 * (-1) ** m) / 9 + 2
    complex_multiplications = (12 * m * n - 38 * n + 2 * (-1) ** m) / 9 + 6
    counts = count(real_dft(n))
    # a complex transform is two real ones and 2 n - 4 additions
    assert counts.additions == (complex_additions - (2 * n - 4)) / 2
    assert counts.multiplications == complex_multiplications / 2


@pytest.mark.parametrize("n", LENGTHS)
def test_no_operation_only_negates(n):
    for name, dag in graphs(n).items():
        assert not [node for node in dag.nodes if isinstance(node, Mul) and node.constant == -1], (
            name
        )


@pytest.mark.parametrize("n", LENGTHS)
def test_order_defines_before_use_and_stores_every_output_once(n):
    for dag in graphs(n).values():
        defined: set[int] = set()
        stored: dict[int, int] = {}
        for step in order(dag):
            match step:
                case Define(value, node):
                    assert value not in defined
                    assert set(operands(node)) <= defined
                    assert node == dag.nodes[value]
                    defined.add(value)
                case Store(output, value):
                    assert value in defined
                    assert output not in stored
                    stored[output] = value
        assert stored == dict(enumerate(dag.outputs))
        assert len(defined) == len(dag.nodes), "a node nobody needs"


@pytest.mark.parametrize("n", LENGTHS)
def test_printed_code_computes_what_evaluate_computes(n):
    x = np.random.default_rng(n).standard_normal(n)
    for dag in graphs(n).values():
        values: dict[int, float] = {}
        out = np.full(n, np.nan)
        for step in order(dag):
            match step:
                case Define(v, Input(k)):
                    values[v] = x[k]
                case Define(v, Add(a, b)):
                    values[v] = values[a] + values[b]
                case Define(v, Sub(a, b)):
                    values[v] = values[a] - values[b]
                case Define(v, Mul(c, a)):
                    values[v] = c * values[a]
                case Define(v, Fma(c, a, b)):
                    values[v] = c * values[a] + values[b]
                case Store(k, v):
                    out[k] = values[v]
        assert np.array_equal(out, evaluate(dag, x))


@pytest.mark.parametrize("n", LENGTHS)
def test_float32_error_is_within_the_depth_bound(n):
    x = np.random.default_rng(n).uniform(-1, 1, (n, 200)).astype(np.float32)
    for name, dag in graphs(n).items():
        exact = evaluate(dag, x.astype(np.float64))
        error = np.abs(evaluate(dag, x).astype(np.float64) - exact)
        assert np.all(error <= bound(dag, x, FLOAT32) * (1 + 1e-6)), name


def test_live_values_are_counted_as_registers_would_be():
    # v0 = x0; v1 = x1; v2 = v0 + v1 (takes a dead operand's register); store
    dag = Dag(2, (Input(0), Input(1), Add(0, 1)), (2,))
    assert live_values(order(dag)) == (2, 4)
    # both operands live on: a butterfly needs a third register
    butterfly = Dag(2, (Input(0), Input(1), Add(0, 1), Sub(0, 1)), (2, 3))
    assert live_values(order(butterfly))[0] == 3


@pytest.mark.parametrize("n", [8, 12, 14, 16, 20, 24])
def test_codelets_of_good_lengths_fit_32_registers(n):
    for name, dag in graphs(n).items():
        if "fused" in name:
            assert count(dag).live <= 26, name  # leaves 6 for constants and addresses' broadcasts


@pytest.mark.parametrize("n", LENGTHS)
def test_fusing_only_removes_operations(n):
    for dag in (real_dft(n), transpose(real_dft(n))):
        plain, fused = count(dag), count(fuse(dag))
        assert fused.operations <= plain.operations
        assert fused.additions + fused.fused == plain.additions
        assert plain.operations - fused.operations == plain.multiplications - fused.multiplications


def test_graphs_are_cached_and_hashable():
    assert real_dft(12) is real_dft(12)
    assert transpose(real_dft(12)) is transpose(real_dft(12))
    assert hash(real_dft(5)) != hash(real_dft(6))


def test_builder_shares_equal_nodes_and_drops_zeros():
    builder = Builder(2)
    x, y = builder.input(0), builder.input(1)
    total = builder.add(x, y)
    assert builder.add(y, x) == total
    assert builder.sub(x, x) is None
    assert builder.add(None, y) == y
    assert builder.mul(1, x) == x
    assert builder.mul(0, x) is None
    assert builder.sub(y, x) == -builder.sub(x, y)
    doubled = builder.finish([builder.add(total, total)])
    assert evaluate(doubled, [3.0, 4.0]).tolist() == [14.0]


def test_a_negated_output_costs_an_operation_only_when_it_must():
    free = Builder(2)
    difference = free.sub(free.input(0), free.input(1))
    assert count(free.finish([-difference])).operations == 1
    both = Builder(2)
    difference = both.sub(both.input(0), both.input(1))
    dag = both.finish([difference, -difference])
    assert evaluate(dag, [5.0, 3.0]).tolist() == [2.0, -2.0]
    negated_sum = Builder(2)
    dag = negated_sum.finish([-negated_sum.add(negated_sum.input(0), negated_sum.input(1))])
    assert evaluate(dag, [5.0, 3.0]).tolist() == [-8.0]


@pytest.mark.parametrize("n", [0, -1, 33])
def test_lengths_without_a_graph_are_refused(n):
    with pytest.raises(InputError, match=rf"length {n}: accepted are 1 to 32"):
        real_dft(n)


def test_graph_must_be_in_order():
    with pytest.raises(InputError, match=r"node 1.*reads a node that does not come before it"):
        Dag(1, (Input(0), Add(0, 2), Add(0, 0)), (2,))


def test_graph_inputs_and_outputs_must_exist():
    with pytest.raises(InputError, match=r"input 3, but the graph has 1 inputs"):
        Dag(1, (Input(3),), (0,))
    with pytest.raises(InputError, match=r"output 0 is node 7"):
        Dag(1, (Input(0),), (7,))


def test_evaluate_checks_the_input_length():
    with pytest.raises(InputError, match=r"has 4 inputs, but x has shape \(3,\)"):
        evaluate(real_dft(4), np.zeros(3))


def test_zero_output_is_refused():
    builder = Builder(1)
    x = builder.input(0)
    with pytest.raises(InputError, match="output 1 is identically zero"):
        builder.finish([x, builder.sub(x, x)])


def test_transpose_needs_every_input_used():
    with pytest.raises(InputError, match="output 1 is identically zero"):
        transpose(Dag(2, (Input(0),), (0,)))
