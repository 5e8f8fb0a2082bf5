"""The operator against its oracle in Python integers, word for word, on every way."""

from __future__ import annotations

import numpy as np
import pytest
from operator_cases import ROUTES, draw

from fixedpoint import OverflowCounter, ParcDatapath, exact_operator, parc
from fixedpoint.ntt import NttPlan


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("route", ROUTES)
def test_every_word_is_the_oracles(route: str, seed: int) -> None:
    case = draw(route, seed)
    arguments = {"spec": case.spec, "datapath": case.datapath, **case.extra}
    y = parc(case.x, case.w, plan=case.plan, **arguments)
    plan = None if route == "ntt" else case.plan
    assert (y == exact_operator.parc(case.x, case.w, plan=plan, **arguments)).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24, 200))
@pytest.mark.parametrize("route", ROUTES)
def test_every_word_is_the_oracles_at_length(route: str, seed: int) -> None:
    test_every_word_is_the_oracles(route, seed)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("route", ROUTES)
def test_tracing_and_counting_change_no_word(route: str, seed: int) -> None:
    case = draw(route, seed)
    arguments = {"spec": case.spec, "plan": case.plan, "datapath": case.datapath, **case.extra}
    y = parc(case.x, case.w, **arguments)
    counter = OverflowCounter()
    counted = parc(case.x, case.w, **arguments, counter=counter)
    traced, trace = parc(case.x, case.w, **arguments, trace=True)
    assert (counted == y).all()
    assert (traced == y).all()
    assert counter.total == trace.overflowed
    for stage in trace.stages:
        fmt = stage.format
        fits = fmt.min_raw <= stage.lowest and stage.highest <= fmt.max_raw
        # A stage's count has every point in it, its extremes the last one's.
        assert fits or stage.overflowed > 0
        if stage.name in counter.overflowed:
            assert counter.overflowed[stage.name] == stage.overflowed
            assert counter.words[stage.name] == stage.words


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("route", ROUTES)
def test_a_datapath_survives_json(route: str, seed: int) -> None:
    path = draw(route, seed).datapath
    assert ParcDatapath.from_json(path.to_json()) == path


def test_an_ntt_plan_of_ones_own_gives_the_same_words() -> None:
    from fixedpoint import ntt_plan

    case = draw("ntt", 3)
    fmt = case.datapath.summand
    plan = ntt_plan(case.spec.length, data_bits=fmt.bits + 1, kernel_bits=case.datapath.kernel.bits)
    assert isinstance(plan, NttPlan)
    arguments = {"spec": case.spec, "datapath": case.datapath, **case.extra}
    own = parc(case.x, case.w, plan=plan, **arguments)
    assert np.array_equal(own, parc(case.x, case.w, plan="ntt", **arguments))
