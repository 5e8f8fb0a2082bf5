"""Do two formats answer the same pictures rightly, or is one better than chance explains?

Two formats see the same pictures, so their accuracies are not independent and their intervals say
little about the difference. McNemar's test looks at the pictures that exactly one of them answers
rightly: if neither is better, each of these is a fair coin.

References
----------
McNemar, Psychometrika 12, 1947 (here the exact binomial form); Holm, Scandinavian Journal of
Statistics 6, 1979, for many tests at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parc_hw.study.evaluate import Evaluated

__all__ = ["Pair", "compare", "holm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two points of one network on the same pictures.

    Attributes
    ----------
    first, second : str
        Their ids; the second has the higher cost.
    only_first, only_second : int
        Pictures that only the one answers rightly (for an untrained network: as the real one).
    difference : float
        Share of right answers of the first minus that of the second.
    p_value : float
        Of the exact two-sided test that neither is better.
    adjusted_p_value : float
        After Holm's correction for all pairs of the study.
    """

    first: str
    second: str
    only_first: int
    only_second: int
    difference: float
    p_value: float
    adjusted_p_value: float

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def compare(results: Sequence[Evaluated]) -> list[Pair]:
    """Compare all points of each network in pairs.

    Parameters
    ----------
    results : sequence of Evaluated
        Of a study of networks, with "answers" and "labels" among the metrics.

    Returns
    -------
    list of Pair
        Network by network, cheap points first.
    """
    from parc_hw.integer import mcnemar

    able = sorted(
        (result for result in results if not result.refused), key=lambda r: r.cost["total"]
    )
    tests = []
    for first, second in itertools.combinations(able, 2):
        if first.point["model"] != second.point["model"]:
            continue
        right, other = _right(first), _right(second)
        if len(right) == len(other):
            difference = float(right.mean() - other.mean())
            tests.append((first.id, second.id, difference, mcnemar(right, other)))
    adjusted = holm([float(test.p_value) for *_, test in tests])
    return [
        Pair(
            first=first,
            second=second,
            only_first=int(test.only_first),
            only_second=int(test.only_second),
            difference=difference,
            p_value=float(test.p_value),
            adjusted_p_value=after,
        )
        for (first, second, difference, test), after in zip(tests, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false alarm among all tests stays below alpha.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    order = sorted(range(count), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * count, 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _right(result: Evaluated) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which pictures the point answers rightly; without training, as the real network does."""
    metrics = result.metrics
    wanted = metrics["labels"] if "accuracy" in metrics else metrics["real"]
    return np.asarray(metrics["answers"]) == np.asarray(wanted)
