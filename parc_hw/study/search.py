"""Which point is the cheapest that holds a quality?

Two ways, which may both be asked for. *greedy* is the min+1 algorithm of word-length optimisation
with a descent after it: each width alone is taken as low as the others at their widest allow; from
all these at once, the step that gains most quality for its cost is taken until the target holds;
then whatever can go lower goes lower, and knobs without an order (scalings, roundings, plans) are
exchanged where that makes room. *optuna* samples by a tree-structured Parzen estimator with the
target as a constraint, begins with the cheapest point that is known and so can only improve on it.

Both ask for points in batches whose size does not depend on the workers, and are deterministic: a
search that is started again asks the same questions and finds the answers in the journal.

References
----------
Sung and Kum, IEEE Transactions on Signal Processing 43(12), 1995 (minimum word lengths and search
upward); Constantinides, Cheung and Luk, Synthesis and Optimization of DSP Algorithms, 2004.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from parc_hw.errors import InputError, ToolchainError
from parc_hw.study.evaluate import Evaluated
from parc_hw.study.knobs import KNOBS, Values
from parc_hw.study.spec import StudySpec

__all__ = ["Found", "find", "holds"]

#: Evaluates the points of a batch.
Evaluate = Callable[[Sequence[Values]], list[Evaluated]]

_STARTS = 3  # combinations of unordered knobs from which greedy begins
_MOST_COMBINATIONS = 4096
_BATCH = 8  # trials of optuna that are drawn before their results are told
_LEAST_GAIN = 1e-9  # of cost, relative: less is rounding of floats
_LEAST_QUALITY = 1e-3  # dB or share: less is no reason for another schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search came to.

    Attributes
    ----------
    method : str
    best : Evaluated or None
        The cheapest point that holds; None where none does.
    nearest : Evaluated or None
        Without `best`: the point of the highest quality.
    evaluated : int
        Different points that the search asked for.
    steps : tuple of (str, float, float)
        How it went down: what was done, the quality and the cost after it.
    """

    method: str
    best: Evaluated | None
    nearest: Evaluated | None
    evaluated: int
    steps: tuple[tuple[str, float, float], ...]


def find(
    spec: StudySpec,
    evaluate: Evaluate,
    cost: Callable[[Values], float],
    *,
    known: Sequence[Evaluated] = (),
) -> list[Found]:
    """Run the searches of a study, one after the other.

    Parameters
    ----------
    spec : StudySpec
        With a search.
    evaluate : callable
        Takes a batch of canonical points.
    cost : callable
        What a point costs, without evaluating it; inf for a point that cannot be.
    known : sequence of Evaluated
        Points of the study's grids: optuna may begin with the cheapest of them that holds.

    Raises
    ------
    InputError
        Too many combinations of knobs without an order.
    ToolchainError
        optuna is asked for and not installed.
    """
    assert spec.search is not None
    best = _cheapest(spec, known)
    found = []
    for method in spec.search.methods:
        walk = _Walk(spec, evaluate, cost)
        found.append(_greedy(walk) if method == "greedy" else _optuna(walk, best))
        best = _cheapest(spec, [each for each in (best, found[-1].best) if each is not None])
    return found


def quality(spec: StudySpec, result: Evaluated) -> float:
    """The quality that the search holds; -inf for a refused point."""
    assert spec.search is not None
    value = result.metrics.get(spec.search.hold[0])
    return -math.inf if result.refused or value is None else float(value)


def holds(spec: StudySpec, result: Evaluated) -> bool:
    """Whether a point reaches the quality that the search holds."""
    assert spec.search is not None
    return quality(spec, result) >= spec.search.hold[1]


def _cheapest(spec: StudySpec, results: Sequence[Evaluated]) -> Evaluated | None:
    """The cheapest point that holds; of equally cheap ones, the best."""
    held = [result for result in results if holds(spec, result)]
    key = lambda result: (result.cost["total"], -quality(spec, result), result.id)  # noqa: E731
    return min(held, key=key, default=None)


class _Walk:
    """Positions in the grid of a search, evaluated in batches and remembered."""

    def __init__(
        self, spec: StudySpec, evaluate: Evaluate, cost: Callable[[Values], float]
    ) -> None:
        assert spec.search is not None
        self.spec = spec
        self.search = spec.search
        self.names = [name for name, _ in self.search.over]
        self.values = [values for _, values in self.search.over]
        knobs = KNOBS[spec.subject]
        # A width costs more and is better the larger it is; every other knob has no order.
        self.widths = [
            index
            for index, (name, values) in enumerate(self.search.over)
            if knobs[name].is_width and all(type(value) is int for value in values)
        ]
        self.others = [index for index in range(len(self.names)) if index not in self.widths]
        for index in self.widths:
            self.values[index] = tuple(sorted(self.values[index]))
        self.steps: list[tuple[str, float, float]] = []
        self.seen: dict[str, Evaluated] = {}
        self._evaluate = evaluate
        self._cost = cost

    def point(self, position: Sequence[int]) -> Values:
        chosen = zip(self.names, self.values, position, strict=True)
        return self.spec.point({name: values[at] for name, values, at in chosen})

    def __call__(self, positions: Sequence[tuple[int, ...]]) -> list[Evaluated]:
        results = self._evaluate([self.point(position) for position in positions])
        self.seen.update({result.id: result for result in results})
        return results

    def price(self, position: Sequence[int]) -> float:
        return self._cost(self.point(position))

    def quality(self, result: Evaluated) -> float:
        return quality(self.spec, result)

    def holds(self, result: Evaluated) -> bool:
        return holds(self.spec, result)

    def note(self, what: str, result: Evaluated) -> None:
        self.steps.append((what, self.quality(result), float(result.cost.get("total", math.nan))))

    def found(self, method: str) -> Found:
        everything = list(self.seen.values())
        best = _cheapest(self.spec, everything)
        best_quality = max(everything, key=lambda r: (self.quality(r), r.id), default=None)
        return Found(
            method=method,
            best=best,
            nearest=best_quality if best is None else None,
            evaluated=len(everything),
            steps=tuple(self.steps),
        )


# ---------------------------------------------------------------- greedy
def _greedy(walk: _Walk) -> Found:
    combinations = math.prod(len(walk.values[index]) for index in walk.others)
    if combinations > _MOST_COMBINATIONS:
        names = ", ".join(walk.names[index] for index in walk.others)
        raise InputError(
            f"the greedy search would begin from {combinations} combinations of {names}; "
            f"accepted: at most {_MOST_COMBINATIONS}. Give these knobs fewer values, or take "
            f'methods = ["optuna"].'
        )
    starts = []
    for choice in itertools.product(*(range(len(walk.values[index])) for index in walk.others)):
        position = [len(values) - 1 for values in walk.values]  # every width at its widest
        for index, at in zip(walk.others, choice, strict=True):
            position[index] = at
        starts.append(tuple(position))
    results = _widest_that_can_be(walk, starts)
    able = [(r, start) for start, r in results if walk.holds(r)]
    # The cheapest and the best beginnings: a plan may be dear and good, or cheap and good enough.
    by_cost = sorted(able, key=lambda pair: (pair[0].cost["total"], pair[0].id))[:_STARTS]
    by_quality = sorted(able, key=lambda pair: (-walk.quality(pair[0]), pair[0].id))[:_STARTS]
    begun = {start: result for result, start in [*by_cost, *by_quality]}
    for start, result in begun.items():
        walk.note(f"begin {_words(walk, start, walk.others)}", result)
        _descend(walk, _min_plus_one(walk, start))
    return walk.found("greedy")


def _widest_that_can_be(
    walk: _Walk, starts: Sequence[tuple[int, ...]]
) -> list[tuple[tuple[int, ...], Evaluated]]:
    """Evaluate beginnings; where the widest words do not fit the arithmetic, narrower ones.

    All widths of a refused one go down together. The first of those that are left finds how far,
    and the others follow it.
    """
    results = list(zip(starts, walk(starts), strict=True))
    able = [pair for pair in results if not pair[1].refused]
    left = [start for start, result in results if result.refused]
    for down in range(1, max((len(walk.values[i]) for i in walk.widths), default=0)):

        def lower(start: tuple[int, ...], down: int = down) -> tuple[int, ...]:
            return tuple(
                max(0, at - down) if index in walk.widths else at for index, at in enumerate(start)
            )

        if not left:
            break
        if walk([lower(left[0])])[0].refused:
            continue
        lowered = [lower(start) for start in left]
        results = list(zip(lowered, walk(lowered), strict=True))
        left = [start for start, (_, r) in zip(left, results, strict=True) if r.refused]
        able += [pair for pair in results if not pair[1].refused]
    return able


def _min_plus_one(walk: _Walk, start: tuple[int, ...]) -> tuple[int, ...]:
    """From the least widths of each knob alone upward, until the target holds."""
    position = list(start)
    for index in walk.widths:
        position[index] = _least_alone(walk, start, index)
    while not walk.holds(now := walk([tuple(position)])[0]):
        steps = [i for i in walk.widths if position[i] < start[i]]
        if not steps:
            return start  # these widths hold
        moves = [_moved(position, i, +1) for i in steps]
        gains = []
        for index, result in zip(steps, walk(moves), strict=True):
            gain = walk.quality(result) - max(walk.quality(now), -1e9)
            price = max(result.cost.get("total", math.inf) - now.cost.get("total", 0.0), 1e-9)
            gains.append((gain / price if gain > 0 else gain, -index))
        chosen = -max(gains)[1]
        position[chosen] += 1
        walk.note(f"{walk.names[chosen]} up", walk([tuple(position)])[0])
    walk.note("holds", now)
    return tuple(position)


def _least_alone(walk: _Walk, start: tuple[int, ...], index: int) -> int:
    """The lowest position of one width that holds while all others are at their widest."""
    low, high = 0, start[index]  # high holds
    while low < high:
        middle = (low + high) // 2
        if walk.holds(walk([_moved(start, index, middle - start[index])])[0]):
            high = middle
        else:
            low = middle + 1
    return high


def _descend(walk: _Walk, position: tuple[int, ...]) -> None:
    """Take every step down in cost that holds; where there is none, gain quality at no cost.

    First single steps, then one width against another, then knobs without an order: each kind is
    asked for only when the one before has nothing.
    """
    now = walk([position])[0]
    while True:
        cost, quality_now = now.cost["total"], walk.quality(now)
        kinds = (
            [_moved(position, i, -1) for i in walk.widths if position[i] > 0],
            _exchanges(walk, position),
            [
                (*position[:i], at, *position[i + 1 :])
                for i in walk.others
                for at in _neighbours(walk.values[i], position[i])
            ],
        )
        chosen: tuple[int, ...] | None = None
        for moves in kinds:
            prices = {move: walk.price(move) for move in moves}
            cheaper = [move for move in moves if prices[move] < cost * (1 - _LEAST_GAIN)]
            held = [
                (prices[move], -walk.quality(result), move)
                for move, result in zip(cheaper, walk(cheaper), strict=True)
                if walk.holds(result)
            ]
            if held:
                chosen = min(held)[2]
                break
            equal = [
                move for move in moves if move not in cheaper and prices[move] <= cost * (1 + 1e-9)
            ]
            better = [
                (-walk.quality(result), prices[move], move)
                for move, result in zip(equal, walk(equal), strict=True)
                if walk.quality(result) > quality_now + _LEAST_QUALITY
            ]
            if better:
                chosen = min(better)[2]
                break
        if chosen is None:
            return
        # Either the cost falls or, at equal cost, the quality rises: this ends.
        position = chosen
        now = walk([position])[0]
        walk.note(_words(walk, position, range(len(position))), now)


def _exchanges(walk: _Walk, position: tuple[int, ...]) -> list[tuple[int, ...]]:
    """One width lower by one or two bits and another higher."""
    moves = []
    for i, j in itertools.permutations(walk.widths, 2):
        for down, up in ((1, 1), (1, 2), (2, 1)):
            if position[i] >= down and position[j] + up < len(walk.values[j]):
                moves.append(_moved(_moved(position, i, -down), j, up))
    return moves


def _moved(position: Sequence[int], index: int, by: int) -> tuple[int, ...]:
    return (*position[:index], position[index] + by, *position[index + 1 :])


def _neighbours(values: Sequence[Any], at: int) -> list[int]:
    """Positions to try instead: all, or for lists of shifts those one step or one exchange away."""
    here = values[at]
    near = []
    for other, value in enumerate(values):
        if other == at:
            continue
        if isinstance(here, list) and isinstance(value, list) and len(here) == len(value):
            change = [b - a for a, b in zip(here, value, strict=True) if a != b]
            if sorted(change) not in ([-1], [1], [-1, 1]):
                continue
        near.append(other)
    return near


def _words(walk: _Walk, position: Sequence[int], indices: Sequence[int]) -> str:
    chosen = (f"{walk.names[i]} {walk.values[i][position[i]]}" for i in indices)
    return ", ".join(chosen)


# ---------------------------------------------------------------- optuna
def _optuna(walk: _Walk, best: Evaluated | None) -> Found:
    try:
        import optuna
    except ImportError:
        raise ToolchainError(
            "methods has optuna, which is not installed: pip install 'parc_hw[report]'."
        ) from None
    import warnings

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    least = walk.search.hold[1]

    def shortfall(trial: Any) -> tuple[float]:
        return (trial.user_attrs["shortfall"],)

    with warnings.catch_warnings():
        # `constraints_func` is what optuna 4 has and optuna 5 still takes.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=walk.search.seed, constraints_func=shortfall, constant_liar=True, multivariate=True
        )
    study = optuna.create_study(sampler=sampler, direction="minimize")
    widest = {n: len(v) - 1 for n, v in zip(walk.names, walk.values, strict=True)}
    study.enqueue_trial(widest)
    if best is not None and (position := _position_of(walk, best)) is not None:
        study.enqueue_trial(dict(zip(walk.names, position, strict=True)))
        walk.note("begin", best)
    lowest = math.inf
    for first in range(0, walk.search.trials, _BATCH):
        trials = [study.ask() for _ in range(min(_BATCH, walk.search.trials - first))]
        positions = []
        for trial in trials:
            drawn: list[int] = []
            for index, (name, values) in enumerate(zip(walk.names, walk.values, strict=True)):
                last = len(values) - 1
                drawn.append(
                    trial.suggest_int(name, 0, last)
                    if index in walk.widths
                    else trial.suggest_categorical(name, range(last + 1))
                )
            positions.append(tuple(drawn))
        for trial, result in zip(trials, walk(positions), strict=True):
            # What cannot be is as bad as can be.
            missing = least - max(walk.quality(result), least - 1e3)
            trial.set_user_attr("shortfall", missing)
            cost = result.cost.get("total", 1e18)
            study.tell(trial, cost)
            if missing <= 0 and cost < lowest:
                lowest = cost
                walk.note(f"trial {trial.number}", result)
    return walk.found("optuna")


def _position_of(walk: _Walk, result: Evaluated) -> tuple[int, ...] | None:
    """Where a point lies in the grid of the search; None for one outside it."""
    position = []
    for name, values in zip(walk.names, walk.values, strict=True):
        value = result.point.get(name, values[0])  # an idle knob may stand anywhere
        if value not in values:
            return None
        position.append(values.index(value))
    return tuple(position) if walk.point(position) == result.point else None
