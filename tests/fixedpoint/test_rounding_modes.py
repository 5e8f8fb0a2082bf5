"""Rounding and fitting of one word: the kernels against fractions, and the laws of each mode."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixedpoint import Overflow, QFormat, Rounding, exact
from fixedpoint.modes import ROUNDING_NAMES, overflow_code, parse_rounding, rounding_code
from fixedpoint.rounding import fit, round_shift, round_with, rounding_terms
from parc_hw.dataflow import Dag, Input, Round, evaluate
from parc_hw.errors import InputError

int64 = st.integers(-(1 << 63), (1 << 63) - 1)


def expected(value: int, shift: int, mode: Rounding) -> int:
    return exact.round_to_integer(Fraction(value, 1 << shift), mode)


@pytest.mark.parametrize("mode", Rounding)
def test_every_value_and_tie_of_small_words_rounds_as_its_definition_says(mode: Rounding) -> None:
    code = rounding_code(mode)
    for shift, value in itertools.product(range(6), range(-128, 128)):
        assert round_shift(value, shift, code) == expected(value, shift, mode), (value, shift)


@pytest.mark.parametrize("mode", Rounding)
def test_every_tie_of_every_shift_rounds_as_its_definition_says(mode: Rounding) -> None:
    code = rounding_code(mode)
    for shift in range(1, 65):
        half = 1 << (shift - 1)
        for tie in (-3 * half, -half, half, 3 * half):
            for value in (tie - 1, tie, tie + 1):
                if -(1 << 63) <= value < 1 << 63:
                    assert round_shift(value, shift, code) == expected(value, shift, mode)


@given(int64, st.integers(0, 80), st.sampled_from(Rounding))
def test_round_shift_is_exact_for_any_word_and_shift(
    value: int, shift: int, mode: Rounding
) -> None:
    assert round_shift(value, shift, rounding_code(mode)) == expected(value, shift, mode)


@given(int64, st.integers(0, 62), st.sampled_from(Rounding))
def test_hoisted_terms_round_as_round_shift_does(value: int, shift: int, mode: Rounding) -> None:
    terms = rounding_terms(shift, rounding_code(mode))
    assert round_with(value, shift, *terms) == expected(value, shift, mode)


@given(int64, st.integers(1, 64), st.sampled_from(Rounding))
def test_modes_keep_the_error_bounds_they_promise(value: int, shift: int, mode: Rounding) -> None:
    error = round_shift(value, shift, rounding_code(mode)) - Fraction(value, 1 << shift)
    if mode is Rounding.FLOOR:
        assert -1 < error <= 0
    elif mode is Rounding.TOWARD_ZERO:
        assert abs(error) < 1
        assert error * value <= 0
    else:
        assert abs(error) <= Fraction(1, 2)


@given(int64, int64, st.integers(0, 64), st.sampled_from(Rounding))
def test_rounding_is_monotone(a: int, b: int, shift: int, mode: Rounding) -> None:
    code = rounding_code(mode)
    assert (round_shift(min(a, b), shift, code)) <= round_shift(max(a, b), shift, code)


@given(st.integers(-(1 << 63) + 1, (1 << 63) - 1), st.integers(0, 64))
def test_symmetric_modes_are_odd_functions(value: int, shift: int) -> None:
    for mode in (Rounding.TOWARD_ZERO, Rounding.HALF_EVEN, Rounding.HALF_AWAY):
        code = rounding_code(mode)
        assert round_shift(-value, shift, code) == -round_shift(value, shift, code)


def mean_error(mode: Rounding, shift: int) -> Fraction:
    """Over one period of the error: two units of the result, centred on zero."""
    span = range(-(1 << shift), 1 << shift)
    total = sum(expected(v, shift, mode) - Fraction(v, 1 << shift) for v in span)
    return total / len(span)


@pytest.mark.parametrize("shift", [1, 2, 5])
def test_bias_of_each_mode_over_all_ties_is_the_textbook_one(shift: int) -> None:
    tie = Fraction(1, 2 << shift)  # half a unit, once every 2**shift words
    assert mean_error(Rounding.FLOOR, shift) == tie - Fraction(1, 2)
    assert mean_error(Rounding.HALF_UP, shift) == tie
    for mode in (Rounding.HALF_EVEN, Rounding.HALF_AWAY, Rounding.TOWARD_ZERO):
        assert mean_error(mode, shift) == 0


@pytest.mark.parametrize("mode", Rounding)
def test_integer_graphs_and_kernels_round_alike(mode: Rounding) -> None:
    words = np.arange(-64, 64)
    for shift in range(5):
        graph = Dag(1, (Input(0), Round(0, shift, mode)), (1,))
        kernel = [round_shift(int(word), shift, rounding_code(mode)) for word in words]
        assert np.array_equal(evaluate(graph, words[None])[0], kernel)


@given(int64, st.integers(1, 64), st.booleans())
def test_fit_keeps_saturates_and_wraps_as_python_integers_do(
    value: int, bits: int, signed: bool
) -> None:
    if bits == 64:
        signed = True  # 64 unsigned bits are no int64
    fmt = QFormat(bits, 0, signed)
    outside = not fmt.min_raw <= value <= fmt.max_raw
    for mode in Overflow:
        word, overflowed = fit(value, fmt.min_raw, fmt.max_raw, overflow_code(mode))
        assert overflowed == outside
        if mode is Overflow.WRAP:
            assert word == exact.wrap(value, fmt)
        else:
            assert word == min(max(value, fmt.min_raw), fmt.max_raw)


def test_modes_have_distinct_codes_and_other_things_have_none() -> None:
    assert sorted(map(rounding_code, Rounding)) == [0, 1, 2, 3, 4]
    assert sorted(map(overflow_code, Overflow)) == [0, 1, 2]
    with pytest.raises(InputError, match=r"rounding is 'floor': expected one of Rounding.FLOOR"):
        rounding_code("floor")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"overflow is 1: expected one of Overflow.SATURATE"):
        overflow_code(1)  # type: ignore[arg-type]


def test_names_of_other_tools_mean_one_mode_each() -> None:
    for mode in Rounding:
        assert parse_rounding(mode.name) is parse_rounding(mode.value) is mode
    for names in ROUNDING_NAMES.values():
        for name, mode in zip(names, Rounding, strict=True):
            assert name == "-" or parse_rounding(name) is mode
    for prefix in ("AP_", "AC_", "SC_"):
        assert parse_rounding(prefix + "TRN_ZERO") is Rounding.TOWARD_ZERO


@pytest.mark.parametrize("text", ["-", "", "half_evn", None])
def test_a_name_of_no_rounding_is_refused_with_the_accepted_ones(text: object) -> None:
    with pytest.raises(InputError, match=r"is no rounding.* Accepted: floor, toward_zero"):
        parse_rounding(text)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Did you mean half_even"):
        parse_rounding("half_evn")
