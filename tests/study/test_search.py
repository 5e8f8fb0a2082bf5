"""The searches: they find what trying everything finds, and say so when nothing holds."""

from __future__ import annotations

import itertools
import math

import pytest

from parc_hw.errors import InputError
from parc_hw.study.evaluate import Evaluated, point_id
from parc_hw.study.run import run_study
from parc_hw.study.search import find, holds
from parc_hw.study.spec import parse_spec

HEAD = 'schema = 1\nname = "s"\nsubject = "parc"\n[common]\nlength = 7\n'


def specification(hold: float, over: str, methods: str = '["greedy"]', trials: int = 60):
    return parse_spec(
        f"{HEAD}[search]\nmethods = {methods}\ntrials = {trials}\n[search.hold]\n"
        f"sqnr_db = {hold}\n[search.over]\n{over}",
        where="s",
    )


def modelled(quality, cost):
    """An evaluation by formulas, which counts what it was asked."""

    def evaluate(points):
        evaluate.asked.update(map(point_id, points))
        return [
            Evaluated(
                id=point_id(point),
                point=point,
                metrics={"sqnr_db": quality(point)},
                cost={"total": cost(point)},
            )
            for point in points
        ]

    evaluate.asked, evaluate.cost = set(), cost
    return evaluate


WIDTHS = "data_bits = {from = 4, to = 16}\nkernel_bits = {from = 4, to = 16}\n"


def parallel_noise(point):
    """Two independent noises: 6 dB per bit of either."""
    noise = 4.0 ** -point["data_bits"] + 3 * 4.0 ** -point["kernel_bits"]
    return -10 * math.log10(noise)


@pytest.mark.parametrize(
    "hold, prices, method",
    [
        *itertools.product((25.0, 40.0, 61.3, 77.0), ((1, 1), (1, 3), (5, 2)), ("greedy",)),
        (61.3, (5, 2), "optuna"),
    ],
)
def test_the_optimum_of_two_widths_is_found(hold, prices, method):
    def cost(point):
        return prices[0] * point["data_bits"] + prices[1] * point["kernel_bits"]

    spec = specification(hold, WIDTHS, f'["{method}"]', trials=160)
    evaluate = modelled(parallel_noise, cost)
    found = find(spec, evaluate, cost)[0]
    candidates = [
        spec.point({"data_bits": a, "kernel_bits": b})
        for a, b in itertools.product(range(4, 17), repeat=2)
    ]
    best = min(cost(p) for p in candidates if parallel_noise(p) >= hold)
    assert found.best.cost["total"] == best
    if method == "greedy":
        assert len(evaluate.asked) < len(candidates) / 3


def test_shifts_are_moved_one_stage_at_a_time_until_the_best_schedule():
    """Each stage wants a shift of its own; a wrong one costs 3 dB, and quality buys width."""
    wanted = (2, 0, 1)
    over = "data_bits = {from = 4, to = 16}\nscaling = {stages = 3, from = 0, to = 2}\n"

    def quality(point):
        off = sum(abs(a - b) for a, b in zip(point["scaling"], wanted, strict=True))
        return 6.02 * point["data_bits"] - 3 * off

    spec = parse_spec(
        HEAD.replace("length = 7", 'length = 56\nplan = "fft"')
        + f"[search]\nmethods = ['greedy']\nhold.sqnr_db = 60\n[search.over]\n{over}",
        where="s",
    )
    evaluate = modelled(quality, lambda point: point["data_bits"])
    found = find(spec, evaluate, evaluate.cost)[0]
    assert found.best.point["data_bits"] == 10
    assert tuple(found.best.point["scaling"]) == wanted


def test_a_target_beyond_reach_is_told_with_the_nearest_point():
    spec = specification(200.0, WIDTHS, '["greedy", "optuna"]', trials=16)
    evaluate = modelled(parallel_noise, lambda point: point["data_bits"])
    for found in find(spec, evaluate, evaluate.cost):
        assert found.best is None
        assert found.nearest.point["data_bits"] == 16
        assert not holds(spec, found.nearest)


def test_words_too_wide_for_the_arithmetic_are_no_end_of_the_search():
    """A product of more than 24 bits is refused; the optimum lies below."""

    def cost(point):
        return point["data_bits"] + point["kernel_bits"]

    def evaluate(points):
        plain = modelled(parallel_noise, cost)(points)
        return [
            Evaluated(id=e.id, point=e.point, metrics={}, cost={}, refused="too wide")
            if e.point["data_bits"] + e.point["kernel_bits"] > 24
            else e
            for e in plain
        ]

    found = find(specification(60.0, WIDTHS), evaluate, cost)[0]
    assert found.best.cost["total"] == 22


def test_searches_are_deterministic():
    spec = specification(50.0, WIDTHS, '["greedy", "optuna"]', trials=40)
    runs = []
    for _ in range(2):
        evaluate = modelled(parallel_noise, lambda p: p["data_bits"] + 2 * p["kernel_bits"])
        found = find(spec, evaluate, evaluate.cost)
        runs.append(([each.steps for each in found], evaluate.asked))
    assert runs[0] == runs[1]


def test_optuna_begins_with_what_is_known():
    spec = specification(50.0, WIDTHS, '["optuna"]', trials=4)
    evaluate = modelled(parallel_noise, lambda p: p["data_bits"] + p["kernel_bits"])
    known = evaluate([spec.point({"data_bits": 9, "kernel_bits": 10})])
    assert find(spec, evaluate, evaluate.cost, known=known)[0].best.cost["total"] <= 19


def test_too_many_unordered_combinations_are_refused():
    over = (
        "scaling = {stages = 3, from = 0, to = 8}\n"
        'rounding = ["half_even", "half_up", "floor", "half_away", "toward_zero"]\n'
        'product = ["once", "first"]\n'
    )
    with pytest.raises(InputError, match="begin from 7290 combinations of scaling, rounding"):
        find(specification(50.0, over), modelled(parallel_noise, lambda p: 1), lambda p: 1.0)


def test_the_measured_optimum_of_a_small_case_is_found(tmp_path):
    """Real datapaths: every pair of widths is tried, and the search must not do worse."""
    data = "[data]\nlines = 64\nkernels = 4\n"
    over = "data_bits = {from = 6, to = 11}\nkernel_bits = {from = 6, to = 11}\n"
    everything = parse_spec(HEAD + f"[grid]\n{over}" + data, where="s")
    searched = parse_spec(
        HEAD + f"[search]\nmethods = ['greedy']\nhold.sqnr_db = 40\n[search.over]\n{over}" + data,
        where="s",
    )
    quiet = {"jobs": 1, "write": lambda result: None}
    grid = run_study(everything, tmp_path / "all", **quiet)
    best = min(
        (r for r in grid.results if r.metrics["sqnr_db"] >= 40), key=lambda r: r.cost["total"]
    )
    found = run_study(searched, tmp_path / "searched", **quiet)
    assert found.winner.point == best.point
    assert len(found.results) < len(grid.results)
