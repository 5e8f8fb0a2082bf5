"""How does a study run from its specification to its report, whatever interrupts it?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parc_hw.study.evaluate import Evaluated, Evaluator, OutOfTime, point_id
from parc_hw.study.journal import Journal
from parc_hw.study.knobs import Values
from parc_hw.study.search import Found, find, holds
from parc_hw.study.spec import StudySpec
from parc_hw.study.subjects import subject_of
from parc_hw.study.workers import workers
from parc_hw.version import VERSION

__all__ = ["StudyResult", "estimate_s", "run_study"]

_TRACED = 4  # points whose stages and ranges are shown
_GREEDY_POINTS = 250  # what a greedy search of a few knobs asks for, to estimate its time


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study came to.

    Attributes
    ----------
    spec : StudySpec
    results : list of Evaluated
        All points that are complete: those of the grids in their order, then by cost. Of a study
        of networks that ended early: all that were begun, by the pictures that all have seen.
    found : list of Found
        Of the searches that came to their end.
    winner : Evaluated or None
        The cheapest point of all that holds the search's target.
    missing : int
        Points of the grids that are not complete.
    ended : str
        "", "interrupted" or "out of time".
    elapsed_s : float
        Of this run.
    computed : int
        Parts that this run computed; the others were in the journal.
    directory : Path
    """

    spec: StudySpec
    results: list[Evaluated]
    found: list[Found]
    winner: Evaluated | None
    missing: int
    ended: str
    elapsed_s: float
    computed: int
    directory: Path


def run_study(
    spec: StudySpec,
    directory: Path,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    limit_s: float | None = None,
    progress: Callable[[str, int, int, str], None] = lambda stage, done, total, message: None,
    write: Callable[[StudyResult], None] | None = None,
) -> StudyResult:
    """Run a study, or go on with it, and write its report.

    Parameters
    ----------
    spec : StudySpec
    directory : Path
        Holds the journal and the report. What its journal has is not computed again.
    jobs : int or None
        Processes; None for one per core.
    scheduler : str or None
        Address of a dask.distributed scheduler, in place of processes here.
    limit_s : float or None
        Stop after so many seconds with what there is.
    progress : callable
        `progress(stage, done, total, message)`.
    write : callable, optional
        Writes the report of a result; by default `parc_hw.study.report.write_report`.

    Returns
    -------
    StudyResult
        Its `ended` is "out of time" where the limit was reached.

    Raises
    ------
    InputError
        The directory holds another study, or cannot be written.
    KeyboardInterrupt
        After the report of what there is was written.
    """
    if write is None:
        from parc_hw.study.report import write_report

        write = write_report
    began = time.monotonic()
    header = {"study": spec.digest, "name": spec.name, "version": VERSION, "spec": spec.to_json()}
    with Journal.open(directory, header) as journal:
        if journal.dropped:
            progress("journal", 1, 1, "dropped an unfinished last line")
        found: list[Found] = []
        ended = ""
        deadline = None if limit_s is None else began + limit_s
        evaluator: Evaluator | None = None
        try:
            with workers(jobs=jobs, scheduler=scheduler) as crew:
                evaluator = Evaluator(spec, journal, crew, progress=progress, deadline=deadline)
                _compute(spec, evaluator, found)
        except OutOfTime:
            ended = "out of time"
        except KeyboardInterrupt:
            ended = "interrupted"
        reader = evaluator or Evaluator(spec, journal, None)
        result = _result(spec, reader, found, ended, directory, time.monotonic() - began)
        write(result)
    if ended == "interrupted":
        raise KeyboardInterrupt
    return result


def _compute(spec: StudySpec, evaluator: Evaluator, found: list[Found]) -> None:
    """Grids, then searches, then the traces of a few points."""
    grid = evaluator(spec.points())
    if spec.search is not None:
        budget = _search_points(spec)
        asked: set[str] = set()

        def evaluate(points: Sequence[Values]) -> list[Evaluated]:
            before = len(asked)
            asked.update(map(point_id, points))
            return evaluator(points, stage="search", before=before, of=budget)

        found += find(spec, evaluate, evaluator.cost, known=grid)
    evaluator.details(result.point for result in _shown(spec, _ordered(spec, evaluator)))


def _shown(spec: StudySpec, results: list[Evaluated]) -> list[Evaluated]:
    """The points whose traces the report shows."""
    able = [result for result in results if not result.refused]
    winner = _winner(spec, results)
    if winner is not None:
        return [winner]
    if spec.subject == "model":
        # Every format's layers are compared; a network in real numbers has nothing to compare.
        return [result for result in able if result.point["arithmetic"] != "float"]
    # Evenly spread over the points in their order: widths ascend in most grids.
    step = max(1, -(-len(able) // _TRACED))
    return able[step - 1 :: step]


def _winner(spec: StudySpec, results: list[Evaluated]) -> Evaluated | None:
    if spec.search is None:
        return None
    held = [result for result in results if holds(spec, result)]
    return min(held, key=lambda result: (result.cost["total"], result.id), default=None)


def _result(
    spec: StudySpec,
    evaluator: Evaluator,
    found: list[Found],
    ended: str,
    directory: Path,
    elapsed_s: float,
) -> StudyResult:
    have = {result.id for result in evaluator.complete()}
    missing = sum(point_id(point) not in have for point in spec.points())
    # Where points have many parts, an end in the middle left all of them with some.
    results = _ordered(spec, evaluator, partial=bool(ended and missing and spec.subject == "model"))
    return StudyResult(
        spec=spec,
        results=results,
        found=found,
        winner=_winner(spec, results),
        missing=missing,
        ended=ended,
        elapsed_s=elapsed_s,
        computed=evaluator.computed,
        directory=directory,
    )


def _ordered(spec: StudySpec, evaluator: Evaluator, *, partial: bool = False) -> list[Evaluated]:
    """All results in the grids' order and then by cost, however the workers came to them."""
    place = {point_id(point): index for index, point in enumerate(spec.points())}
    return sorted(
        evaluator.begun() if partial else evaluator.complete(),
        key=lambda r: (place.get(r.id, len(place)), r.cost.get("total", 0.0), r.id),
    )


def _search_points(spec: StudySpec) -> int:
    """About how many points the searches will ask for."""
    assert spec.search is not None
    greedy = _GREEDY_POINTS if "greedy" in spec.search.methods else 0
    return greedy + (spec.search.trials if "optuna" in spec.search.methods else 0)


def estimate_s(spec: StudySpec, *, workers: int) -> float:
    """Guess how long the study will take on so many workers, from counts of operations.

    The guess is for the command line's first line; progress then tells the measured rest.
    """
    subject = subject_of(spec)
    total = sum(subject.seconds(point) for point in spec.points())
    if spec.search is not None:
        middle = {name: values[len(values) // 2] for name, values in spec.search.over}
        total += _search_points(spec) * subject.seconds(spec.point(middle))
    return total / workers
