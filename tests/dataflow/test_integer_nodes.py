"""Do shift, round and saturate mean what fixed-point arithmetic means, and are ranges sharp?"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc_hw.dataflow import (
    Add,
    Builder,
    Dag,
    Fma,
    Input,
    Mul,
    Round,
    Rounding,
    Saturate,
    Shift,
    Sub,
    count,
    evaluate,
    is_linear,
    ranges,
    signed_bits,
    transpose,
)
from parc_hw.errors import InputError


def exactly_rounded(value: Fraction, rounding: Rounding) -> int:
    """The integer next to `value` that the mode's name promises."""
    below = math.floor(value)
    fraction = value - below
    half = Fraction(1, 2)
    match rounding:
        case Rounding.FLOOR:
            up = False
        case Rounding.TOWARD_ZERO:
            up = value < 0 and fraction > 0
        case Rounding.HALF_UP:
            up = fraction >= half
        case Rounding.HALF_EVEN:
            up = fraction > half or (fraction == half and below % 2 == 1)
        case Rounding.HALF_AWAY:
            up = fraction > half or (fraction == half and value > 0)
    return below + up


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("bits", [0, 1, 2, 3, 5])
def test_round_is_exact_over_all_ten_bit_integers(rounding, bits):
    raw = np.arange(-512, 512)
    expected = [exactly_rounded(Fraction(int(r), 1 << bits), rounding) for r in raw]
    dag = Dag(1, (Input(0), Round(0, bits, rounding)), (1,))
    assert evaluate(dag, raw[None])[0].tolist() == expected
    assert evaluate(dag, raw[None].astype(object))[0].tolist() == expected


def test_shift_multiplies_and_saturate_clamps():
    dag = Dag(1, (Input(0), Shift(0, 3), Saturate(1, 8)), (1, 2))
    shifted, saturated = evaluate(dag, np.array([[-17, -16, 0, 15, 16]]))
    assert shifted.tolist() == [-136, -128, 0, 120, 128]
    assert saturated.tolist() == [-128, -128, 0, 120, 127]


def test_python_integers_never_overflow():
    dag = Dag(1, (Input(0), Shift(0, 100), Round(1, 99, Rounding.HALF_EVEN)), (2,))
    assert evaluate(dag, np.array([7**40], dtype=object))[0] == 2 * 7**40


def test_builder_rounds_the_negative_of_a_term_as_a_value():
    # half up is not odd: round(-(a)) must negate before it rounds
    builder = Builder(2)
    difference = builder.sub(builder.input(1), builder.input(0))
    rounded = builder.round(difference, 1, Rounding.HALF_UP)
    dag = builder.finish([builder.saturate(rounded, 3), builder.shift(difference, 1)])
    assert evaluate(dag, np.array([3, 0])).tolist() == [-1, -6]
    assert evaluate(dag, np.array([0, 9])).tolist() == [3, 18]


def test_range_of_a_butterfly_is_attained():
    # 2**7 * a rounded by 7 bits is a: ranges know the rounding result only as an interval
    nodes = (
        Input(0), Input(1), Mul(181, 1), Round(2, 8, Rounding.HALF_UP), Add(0, 3), Sub(0, 3),
        Saturate(4, 8),
    )  # fmt: skip
    dag = Dag(2, nodes, (4, 5, 6))
    found = ranges(dag, [(-128, 127)] * 2)
    grid = np.array(list(itertools.product(range(-128, 128), repeat=2))).T
    each = evaluate(Dag(2, nodes, tuple(range(len(nodes)))), grid)
    assert found == tuple((int(v.min()), int(v.max())) for v in each)
    assert [signed_bits(found[i]) for i in (4, 5, 6)] == [9, 9, 8]


def test_range_sees_what_cancels():
    dag = Dag(2, (Input(0), Input(1), Add(0, 1), Sub(2, 0), Fma(-3, 1, 2)), (3, 4))
    found = ranges(dag, [(-8, 7), (-2, 3)])
    assert found[3] == (-2, 3)
    assert found[4] == (-8 - 6, 7 + 4)  # x0 - 2 x1


@given(
    inputs=st.lists(st.integers(-40, 40), min_size=4, max_size=4),
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "sub", "mul", "shift", "round", "saturate"]),
                  st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(Rounding)),
        min_size=1, max_size=12,
    ),
)  # fmt: skip
def test_every_value_lies_in_its_range(inputs, steps):
    nodes: list = [Input(k) for k in range(4)]
    for kind, first, second, rounding in steps:
        a, b = first % len(nodes), second % len(nodes)
        nodes.append(
            {
                "add": Add(a, b),
                "sub": Sub(a, b),
                "mul": Mul(second % 7 - 3, a),
                "shift": Shift(a, second % 3),
                "round": Round(a, second % 4, rounding),
                "saturate": Saturate(a, 3 + second % 4),
            }[kind]
        )
    dag = Dag(4, tuple(nodes), tuple(range(len(nodes))))
    values = evaluate(dag, np.array(inputs, dtype=object))
    for value, (low, high) in zip(values, ranges(dag, [(-40, 40)] * 4), strict=True):
        assert low <= value <= high


def test_integer_nodes_are_no_float_operations():
    dag = Dag(1, (Input(0), Round(0, 2, Rounding.FLOOR)), (1,))
    assert not is_linear(dag)
    assert count(dag).operations == 0
    with pytest.raises(InputError, match=r"act on integers, but x is float64"):
        evaluate(dag, np.zeros(1))
    with pytest.raises(InputError, match="only a linear graph has a transpose"):
        transpose(dag)


def test_integer_graph_refuses_a_fractional_constant():
    dag = Dag(1, (Input(0), Mul(0.5, 0)), (1,))
    with pytest.raises(InputError, match=r"cannot multiply by 0\.5; quantize"):
        evaluate(dag, np.array([2]))
    with pytest.raises(InputError, match=r"cannot multiply by 0\.5; quantize"):
        ranges(dag, [(0, 1)])


def test_ranges_need_an_interval_per_input():
    dag = Dag(2, (Input(0), Input(1), Add(0, 1)), (2,))
    with pytest.raises(InputError, match=r"has 2 inputs; got the intervals \[\(0, 1\)\]"):
        ranges(dag, [(0, 1)])


@pytest.mark.parametrize("node", [Shift(0, -1), Round(0, -1, Rounding.FLOOR), Saturate(0, 0)])
def test_bits_out_of_range_are_refused(node):
    with pytest.raises(InputError, match=r"bits must be at least [01]\. To drop bits use Round"):
        Dag(1, (Input(0), node), (1,))
