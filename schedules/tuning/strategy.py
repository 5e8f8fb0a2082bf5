"""Which choices of a space should be measured next?

A small space is measured point by point. A large one is searched by evolution: the best choices so
far are changed in a dimension or two and crossed with each other, and a model of the costs that
were measured picks among the offspring. The model is a Gaussian process over the dimensions, as few
measurements as a session can afford are what it is good at; it knows how unsure it is, and an
offspring counts for what it may well turn out to be (lower confidence bound: Srinivas et al.,
"Gaussian process optimization in the bandit setting", 2010).

MetaSchedule's own search is not used. Its evolution replays traces of primitives on blocks, and its
cost model (XGBoost) reads features of blocks; the kernels here are written statement by statement
and have no blocks, so that neither would see a difference between two choices.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.tuning.space import Choice, Space

__all__ = ["EXHAUSTIVE", "Search"]

EXHAUSTIVE = 48  # points of a space that is measured whole
_POPULATION = 12  # parents: the best choices so far
_OFFSPRING = 96  # among which the model picks
_FRESH = 0.15  # share of random choices among those picked: what the model never asks for
_MODELLED = 300  # measurements the model is made from at most, the best and the latest
_FAILED = 0.7  # log of how much slower than the slowest a failed choice counts


class Search:
    """The search of one space; give it what was measured, take what to measure.

    Parameters
    ----------
    space : Space
    seed : int
        The same measurements and seed give the same proposals.
    first : sequence of Choice
        To measure before anything else: what was best on a similar device.

    Examples
    --------
    >>> from schedules.tuning.space import Dimension
    >>> space = Space(
    ...     kernel="example",
    ...     dimensions=(Dimension("a", tuple(range(16)), ""), Dimension("b", tuple(range(16)), "")),
    ...     default=Choice.of({"a": 0, "b": 0}),
    ... )
    >>> search = Search(space, seed=1)
    >>> for _ in range(8):
    ...     for choice in search.propose(8):
    ...         search.tell(choice, 1 + (choice["a"] - 9) ** 2 + (choice["b"] - 5) ** 2)
    >>> str(search.best), len(search.seen)
    ('a=9 b=5', 64)
    """

    def __init__(self, space: Space, *, seed: int = 0, first: Sequence[Choice] = ()) -> None:
        self.space = space
        self._random = random.Random(f"{seed} {space.kernel}")
        self._costs: dict[Choice, float | None] = {}
        self._asked: set[Choice] = set()
        self._first = [choice for choice in dict.fromkeys(first) if space.contains(choice)]
        self._encoded = _Encoding(space)
        self._rest: list[Choice] | None = None
        if space.size <= EXHAUSTIVE:
            self._rest = list(space.points())
            self._random.shuffle(self._rest)

    @property
    def seen(self) -> set[Choice]:
        """The choices that were told or proposed."""
        return self._asked

    @property
    def best(self) -> Choice | None:
        """The cheapest choice that was told."""
        known = [choice for choice, cost in self._costs.items() if cost is not None]
        return min(known, key=lambda choice: self._costs[choice] or 0.0, default=None)

    @property
    def exhausted(self) -> bool:
        """Whether every point was told or proposed."""
        return len(self._asked) >= self.space.size

    def tell(self, choice: Choice, cost: float | None) -> None:
        """Say what a choice costs, in any unit; None: it failed."""
        self._asked.add(choice)
        self._costs[choice] = cost

    def propose(self, count: int) -> list[Choice]:
        """At most `count` choices to measure, none of them proposed or told before."""
        found: list[Choice] = []

        def take(choices: Iterable[Choice], most: int) -> None:
            for choice in choices:
                if len(found) >= most:
                    return
                if choice not in self._asked:
                    self._asked.add(choice)
                    found.append(choice)

        take(self._first, count)
        self._first = [choice for choice in self._first if choice not in self._asked]
        if self._rest is not None:
            take(self._rest, count)
            return found
        fresh = sum(self._random.random() < _FRESH for _ in range(count - len(found)))
        take(self._evolved(), count - fresh)
        tries = 0
        while len(found) < count and tries < 50 * count:
            take([self.space.sample(self._random)], count)
            tries += 1
        if len(found) < count:
            take(self.space.points(), count)
        return found

    def _evolved(self) -> list[Choice]:
        """Offspring of the best choices, the most promising first."""
        space, source = self.space, self._random
        known = sorted(
            ((cost, choice) for choice, cost in self._costs.items() if cost is not None),
            key=lambda item: item[0],
        )
        parents = [choice for _, choice in known[:_POPULATION]] or [space.default]
        offspring: dict[Choice, None] = {}
        for choice in space.neighbours(parents[0]):
            offspring[choice] = None
        while len(offspring) < _OFFSPRING:
            before = len(offspring)
            for _ in range(_OFFSPRING):
                parent = parents[min(int(source.expovariate(0.4)), len(parents) - 1)]
                if len(parents) > 1 and source.random() < 0.3:
                    other = source.choice(parents)
                    parent = space.crossed(parent, other, source)
                offspring[space.mutated(parent, source)] = None
            if len(offspring) < before + _OFFSPRING // 16:
                break
        pool = [choice for choice in offspring if choice not in self._asked]
        source.shuffle(pool)
        if len(known) < 4 or not pool:
            return pool
        bound = self._model(pool)
        return [pool[i] for i in np.argsort(bound, kind="stable")]

    def _model(self, pool: Sequence[Choice]) -> NDArray[np.float64]:
        """What each of `pool` may well cost: the lower confidence bound of the log."""
        known = [(choice, cost) for choice, cost in self._costs.items() if cost is not None]
        worst = max(math.log(cost) for _, cost in known)
        logs = {choice: math.log(cost) for choice, cost in known}
        failed = [choice for choice, cost in self._costs.items() if cost is None]
        logs |= dict.fromkeys(failed, worst + _FAILED)
        if len(logs) > _MODELLED:
            best = sorted(logs, key=lambda choice: logs[choice])[: _MODELLED // 2]
            latest = list(logs)[-(_MODELLED // 2) :]
            logs = {choice: logs[choice] for choice in dict.fromkeys((*best, *latest))}
        return _lower_bound(
            self._encoded.of(list(logs)),
            np.array(list(logs.values())),
            self._encoded.of(pool),
        )


class _Encoding:
    """Choices as points: numbers by the place of their logarithm, texts by a corner of their own."""

    def __init__(self, space: Space) -> None:
        self._columns: list[tuple[str, dict[object, NDArray[np.float64]]]] = []
        for dimension in space.dimensions:
            values = dimension.values
            codes: dict[object, NDArray[np.float64]] = {}
            if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
                places = np.log2(1.0 + np.array(values, np.float64))
                span = max(float(places.max() - places.min()), 1e-9)
                for value, place in zip(values, places, strict=True):
                    codes[value] = np.array([2.0 * (place - places.min()) / span])
            else:
                for number, value in enumerate(values):
                    codes[value] = np.eye(len(values))[number] / math.sqrt(0.5)
            self._columns.append((dimension.name, codes))

    def of(self, choices: Sequence[Choice]) -> NDArray[np.float64]:
        """One row for each choice."""
        return np.array(
            [
                np.concatenate([codes[choice[name]] for name, codes in self._columns])
                for choice in choices
            ]
        )


def _lower_bound(
    known: NDArray[np.float64], values: NDArray[np.float64], asked: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean minus one deviation of a Gaussian process through `values` at `known`.

    The scale of distances and the noise are those of a few that make the values most likely
    (Rasmussen & Williams, Gaussian Processes for Machine Learning, equations 2.25, 2.26, 5.8).
    """
    mean, spread = float(values.mean()), float(values.std()) or 1.0
    targets = (values - mean) / spread
    between = _squares(known, known)
    best: tuple[float, float, NDArray[Any], NDArray[Any]] | None = None
    for scale in (0.5, 1.0, 2.0, 4.0):
        for noise in (0.01, 0.1):
            kernel = np.exp(-between / (2 * scale**2)) + noise * np.eye(len(known))
            try:
                factor = np.linalg.cholesky(kernel)
            except np.linalg.LinAlgError:
                continue
            weights = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
            likelihood = -0.5 * float(targets @ weights) - float(np.log(np.diag(factor)).sum())
            if best is None or likelihood > best[0]:
                best = (likelihood, scale, factor, weights)
    assert best is not None  # with noise the kernel is positive definite
    _, scale, factor, weights = best
    cross = np.exp(-_squares(asked, known) / (2 * scale**2))
    reduced = np.linalg.solve(factor, cross.T)
    deviation = np.sqrt(np.maximum(1e-9, 1.0 - (reduced**2).sum(axis=0)))
    return mean + spread * (cross @ weights - deviation)


def _squares(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances between the rows of two matrices."""
    return np.maximum(
        0.0, (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
    )
