"""Does a SplitPlan always cover its length with codelets that can be compiled?"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc_hw.errors import InputError
from parc_hw.plan import MAX_TRANSFORM, SplitPlan


@given(st.integers(1, MAX_TRANSFORM), st.integers(1, 300))
def test_a_plan_survives_json_and_its_own_text(n1, n2):
    plan = SplitPlan(n1=n1, n2=n2)
    copy = SplitPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert copy == plan
    assert hash(copy) == hash(plan)
    assert SplitPlan.parse(str(plan), length=n1 * n2) == plan


def test_direct_and_fft_exist_for_every_length():
    for length in range(1, 300):
        direct, fft = (SplitPlan.parse(text, length=length) for text in ("direct", "fft"))
        assert direct == SplitPlan(n1=1, n2=length)
        assert fft.length == length
        larger = range(fft.n1 + 1, MAX_TRANSFORM + 1)
        assert all(length % divisor for divisor in larger), "fft is the largest codelet there is"


@pytest.mark.parametrize(
    "text, message",
    [
        ("7x7", r"plan 7x7 covers length 49, but the axis has 56 points; N1 \* N2 must be 56"),
        ("7", r"plan '7' is not understood; accepted are auto, direct, fft and N1xN2"),
        ("axb", "plan 'axb' is not understood"),
        ("-7x-8", "plan '-7x-8' is not understood"),
        ("0x56", "n1 must be a whole number of at least 1, not 0"),
        ("56x1", "n1 = 56 is longer than the longest codelet, 32"),
        ("", "plan '' is not understood"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        SplitPlan.parse(text, length=56)


@pytest.mark.parametrize("name", ["n1", "n2"])
@pytest.mark.parametrize("value", [0, -2, 2.0, "4", True, None])
def test_a_factor_that_is_no_positive_whole_number_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must be a whole number of at least 1, not"):
        SplitPlan(**{"n1": 2, "n2": 2} | {name: value})


def test_foreign_json_is_refused_by_key():
    with pytest.raises(InputError, match="split plan: missing n2"):
        SplitPlan.from_json({"n1": 4})
    with pytest.raises(InputError, match="split plan: unknown key 'n3'"):
        SplitPlan.from_json({"n1": 4, "n2": 4, "n3": 1})
