"""Claims about `FftPlan`: what it accepts, and which order digit-reversed is."""

import json
import math

import pytest

from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import Decimation, FftPlan, Order

COVERED = [n for n in range(1, 449) if math.gcd(n, 210**9) == n]


@pytest.mark.parametrize("decimation", list(Decimation))
def test_every_length_of_the_factors_2_3_5_7_has_a_plan(decimation):
    for length in COVERED:
        plan = FftPlan.of(length, decimation=decimation)
        assert plan.length == length
        assert sorted(plan.digit_reversal) == list(range(length))


@pytest.mark.parametrize(
    ("length", "factors"), [(46, "2*23"), (11, "11"), (13 * 64, "2*2*2*2*2*2*13")]
)
def test_another_length_is_refused_with_its_factors_and_what_to_do(length, factors):
    message = rf"length {length} = {factors.replace('*', '.')}: the radices are 2, 3, 4, 5, 7"
    with pytest.raises(UnsupportedError, match=message + r".*direct plan.*ParC is circular"):
        FftPlan.of(length)


@pytest.mark.parametrize("length", [0, -4, 2.0, True, "8", None])
def test_a_length_is_a_whole_number_of_at_least_1(length):
    with pytest.raises(InputError, match=r"length is .*at least 1"):
        FftPlan.of(length)


@pytest.mark.parametrize("length", [2, 8, 56, 60, 210, 448])
def test_a_plan_and_its_transposed_one_mean_the_same_digit_reversed_order(length):
    plan = FftPlan.of(length, output_order="digit_reversed")
    assert plan.transposed.transposed == plan
    assert plan.transposed.decimation is Decimation.DIT
    assert plan.transposed.input_order is Order.DIGIT_REVERSED
    assert plan.digit_reversal == plan.transposed.digit_reversal
    assert plan.digit_reversal == FftPlan.of(length, decimation="dit").digit_reversal


def test_bits_are_reversed_when_every_radix_is_2():
    places = FftPlan(radices=(2,) * 6).digit_reversal
    assert places == tuple(int(f"{p:06b}"[::-1], 2) for p in range(64))


def test_the_widest_stage_takes_the_lowest_digit():
    # 6 = 2 * 3, legs of the first DIF stage 3 apart: even frequencies come first
    assert FftPlan(radices=(2, 3)).digit_reversal == (0, 2, 4, 1, 3, 5)
    assert FftPlan(radices=(3, 2)).digit_reversal == (0, 3, 1, 4, 2, 5)


@pytest.mark.parametrize(
    "plan",
    [
        FftPlan(radices=()),
        FftPlan(radices=(7,), decimation="dit"),
        FftPlan(radices=(2,) * 6, groups=(2, 2, 2), output_order="digit_reversed"),
        FftPlan.of(420, decimation="dit", input_order="digit_reversed"),
    ],
)
def test_a_plan_survives_json(plan):
    assert FftPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert hash(FftPlan.from_json(plan.to_json())) == hash(plan)


def test_groups_of_one_stage_are_no_groups():
    assert FftPlan(radices=(4, 2), groups=(1, 1)) == FftPlan(radices=(4, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"radices": (2, 6)}, "no butterfly of radix 6; accepted: 2, 3, 4, 5, 7"),
        ({"radices": (2, 1)}, r"radices: 1 in \(2, 1\) is no whole number of at least 2"),
        ({"radices": (2, 2.0)}, r"radices: 2\.0 in"),
        ({"radices": 8}, "radices is 8: expected a sequence"),
        ({"radices": "22"}, "radices is '22': expected a sequence"),
        ({"radices": (2, 2), "groups": (3,)}, r"groups \(3,\) cover 3 stages"),
        ({"radices": (2, 2), "groups": (0, 2)}, "groups: 0 in"),
        ({"radices": (2,), "decimation": "time"}, "decimation is 'time'; accepted: dit, dif"),
        ({"radices": (2,), "input_order": "bit"}, "input_order is 'bit'; accepted: natural, digit"),
        ({"radices": (2,), "output_order": None}, "output_order is None"),
    ],
)
def test_what_is_no_plan_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        FftPlan(**fields)


def test_unknown_keys_of_json_are_refused():
    with pytest.raises(InputError, match=r"unknown key 'radixes'\. Did you mean radices"):
        FftPlan.from_json({"radixes": [2]})
