"""Paired comparisons of formats, against the definitions and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from parc_hw.study.evaluate import Evaluated
from parc_hw.study.pairs import compare, holm


def answered(identity: str, answers, labels, *, cost: float, model="parc_canvas", trained=True):
    metrics = {
        "answers": np.asarray(answers).tolist(),
        "real": np.asarray(labels).tolist(),
        "labels": np.asarray(labels).tolist(),
    }
    if trained:
        metrics["accuracy"] = float(np.mean(np.asarray(answers) == labels))
    else:
        metrics["labels"] = [-1] * len(answers)  # nothing may look at them
    return Evaluated(
        id=identity,
        point={"model": model, "arithmetic": "integer"},
        metrics=metrics,
        cost={"total": cost},
    )


@pytest.fixture(params=[True, False], ids=["trained", "untrained"])
def formats(request):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, 3000)
    worse = np.where(rng.random(3000) < 0.1, (labels + 1) % 10, labels)
    slightly = np.where(rng.random(3000) < 0.08, (labels + 2) % 10, labels)
    return [
        answered("a", worse, labels, cost=1, trained=request.param),
        answered("b", slightly, labels, cost=2, trained=request.param),
        answered("c", labels, labels, cost=3, trained=request.param),
    ]


def test_p_values_are_those_of_the_exact_binomial_test(formats):
    pairs = compare(formats)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in pairs:
        first, second = (next(f for f in formats if f.id == i) for i in (pair.first, pair.second))
        right = [np.equal(f.metrics["answers"], f.metrics["real"]) for f in (first, second)]
        only_first = int((right[0] & ~right[1]).sum())
        only_second = int((right[1] & ~right[0]).sum())
        assert (pair.only_first, pair.only_second) == (only_first, only_second)
        wanted = stats.binomtest(only_first, only_first + only_second, 0.5).pvalue
        assert pair.p_value == pytest.approx(wanted, rel=1e-9)
        assert pair.difference == pytest.approx((only_first - only_second) / 3000)


def test_equal_answers_are_no_evidence(formats):
    same = [formats[0], formats[0].__class__(**{**formats[0].to_json(), "id": "z"})]
    pair = compare(same)[0]
    assert (pair.only_first, pair.only_second, pair.p_value) == (0, 0, 1.0)


def test_different_networks_are_not_compared():
    labels = np.arange(10)
    one = answered("a", labels, labels, cost=1)
    other = answered("b", labels, labels, cost=2, model="conv_canvas")
    assert compare([one, other]) == []


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_definition_and_never_below_the_p_value(seed):
    p = np.random.default_rng(seed).random(20) ** 3
    adjusted = np.array(holm(p.tolist()))
    assert (adjusted >= p - 1e-15).all()
    assert (adjusted <= np.minimum(1, 20 * p) + 1e-15).all()  # Bonferroni is no sharper
    # A hypothesis is rejected at alpha if and only if all smaller p-values pass their own step.
    order = np.argsort(p)
    for alpha in (0.01, 0.05, 0.2):
        passed = p[order] <= alpha / (20 - np.arange(20))
        stop = 20 if passed.all() else int(np.argmin(passed))
        assert set(np.flatnonzero(adjusted <= alpha)) == set(order[:stop])
