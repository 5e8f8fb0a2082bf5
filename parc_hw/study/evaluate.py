"""How do points become results: computed once, by whoever is free, and written down at once?"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from parc_hw.errors import InputError, MeasurementError, ToolchainError, UnsupportedError
from parc_hw.study.journal import Journal
from parc_hw.study.knobs import Values
from parc_hw.study.spec import StudySpec
from parc_hw.study.subjects import DETAILS, Subject, compute, subject_of
from parc_hw.study.workers import Workers

__all__ = ["DETAILS", "Evaluated", "Evaluator", "OutOfTime", "point_id"]

#: `progress(stage, done, total, message)`.
Progress = Callable[[str, int, int, str], None]

_POLL_S = 0.25  # between looks at the clock while all workers are busy


class OutOfTime(Exception):
    """The time that a study may take is over; what was computed is in the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A point and what came of it.

    Attributes
    ----------
    id : str
        Of the point; the same for equal points everywhere.
    point : dict
    metrics : dict
        Numbers by name; empty for a refused point.
    cost : dict
        `parc_hw.study.cost.Cost` as plain data; empty for a refused point.
    refused : str
        Why the point cannot be, or "".
    details : dict
        Traces and histograms where they were asked for.
    """

    id: str
    point: Values
    metrics: dict[str, Any]
    cost: dict[str, Any]
    refused: str = ""
    details: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {name: getattr(self, name) for name in self.__slots__}


def point_id(point: Values) -> str:
    """Return 16 hexadecimal digits that name a canonical point.

    >>> point_id({"length": 56}) == point_id({"length": 56}) != point_id({"length": 28})
    True
    """
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:16]


class Evaluator:
    """Evaluates points; what the journal has is not computed again.

    Parameters
    ----------
    spec : StudySpec
    journal : Journal
    workers : Workers
    progress : callable
        `progress(stage, done, total, message)`; done and total count calls of workers.
    deadline : float or None
        `time.monotonic()` at which to stop.
    """

    def __init__(
        self,
        spec: StudySpec,
        journal: Journal,
        workers: Workers | None,
        *,
        progress: Progress = lambda stage, done, total, message: None,
        deadline: float | None = None,
    ) -> None:
        self.spec = spec
        self.subject: Subject = subject_of(spec)
        self.computed = 0
        self._journal = journal
        self._workers = workers
        self._progress = progress
        self._deadline = deadline
        self._text = json.dumps(spec.to_json())
        self._points: dict[str, Values] = {}
        self._results: dict[tuple[str, int], dict[str, Any]] = {}
        self._merged: dict[str, Evaluated] = {}
        for record in journal.records:
            self._keep(record)

    def __call__(
        self,
        points: Iterable[Values],
        *,
        stage: str = "points",
        before: int = 0,
        of: int = 0,
    ) -> list[Evaluated]:
        """Evaluate canonical points; the results come in the same order.

        Parameters
        ----------
        points : iterable of dict
        stage : str
            What progress calls this work.
        before, of : int
            Calls of this stage before these, and about how many there will be; a search does not
            know at its beginning which points it will ask for.

        Raises
        ------
        OutOfTime
            The deadline passed.
        MeasurementError
            A worker process died.
        """
        wanted = list(points)
        tasks = [
            (part, point)
            for point in wanted
            for part in range(self.subject.parts(point))
            if (point_id(point), part) not in self._results
        ]
        # All points of one part of the data come together, so that a worker keeps that part.
        unique = {(point_id(point), part): (point, part) for part, point in tasks}
        ordered = sorted(unique.values(), key=lambda task: task[1])
        have = sum(self.subject.parts(point) for point in wanted) - len(tasks)
        self._run(ordered, stage, before + have, of)
        return [self.result(point) for point in wanted]

    def details(self, points: Iterable[Values]) -> list[Evaluated]:
        """Evaluate points and trace them; as a call."""
        wanted = list(points)
        self(wanted)
        missing = [
            (point, DETAILS)
            for point in wanted
            if (point_id(point), DETAILS) not in self._results
            and not self._merged[point_id(point)].refused
        ]
        self._run(missing, "traces", 0, 0)
        return [self.result(point) for point in wanted]

    def cost(self, point: Values) -> float:
        """What a point costs in all; inf for one that cannot be."""
        try:
            return self.subject.cost(point).total
        except ToolchainError:
            raise
        except (InputError, UnsupportedError):
            return math.inf

    def complete(self) -> list[Evaluated]:
        """Every point of which all parts are there, in the order in which they were begun."""
        return [
            self.result(point)
            for identity, point in self._points.items()
            if all((identity, part) in self._results for part in range(self.subject.parts(point)))
        ]

    def begun(self) -> list[Evaluated]:
        """Every begun point by the first parts of the data, as many as all of them have.

        What a study that was interrupted can say: all points by the same part of the data.
        """
        have = {
            identity: next(
                part
                for part in itertools.count()
                if (identity, part) not in self._results or part == self.subject.parts(point)
            )
            for identity, point in self._points.items()
        }
        # Points that wait for their first part are left out.
        shared = min((count for count in have.values() if count), default=0)
        return [
            self._merge(point, shared, None)
            for identity, point in self._points.items()
            if have[identity]
        ]

    def result(self, point: Values) -> Evaluated:
        """The result of a point all of whose parts are there."""
        identity = point_id(point)
        details = self._results.get((identity, DETAILS))
        known = self._merged.get(identity)
        if known is None or known.details is not details:
            known = self._merge(point, self.subject.parts(point), details)
            self._merged[identity] = known
        return known

    def _merge(self, point: Values, count: int, details: dict[str, Any] | None) -> Evaluated:
        identity = point_id(point)
        parts = [self._results[identity, part] for part in range(count)]
        refused = next((part["refused"] for part in parts if "refused" in part), "")
        return Evaluated(
            id=identity,
            point=point,
            metrics={} if refused else self.subject.merge(point, parts),
            cost={} if refused else self.subject.cost(point).to_json(),
            refused=refused,
            details=details,
        )

    def _keep(self, record: dict[str, Any]) -> None:
        self._points.setdefault(record["id"], record["point"])
        self._results[record["id"], record["part"]] = record["result"]

    def _run(self, tasks: Sequence[tuple[Values, int]], stage: str, have: int, of: int) -> None:
        """Compute tasks and journal them as they come."""
        if not tasks:
            return
        assert self._workers is not None
        total = max(of, have + len(tasks))
        began, done = time.monotonic(), 0
        self._progress(stage, have, total, f"on {self._workers.title}")
        left = iter(tasks)
        running: dict[Future[dict[str, Any]], tuple[Values, int]] = {}
        more = True
        while more or running:
            while more and len(running) < 2 * self._workers.count:
                task = next(left, None)
                if task is None:
                    more = False
                    break
                self._in_time()
                running[self._workers.submit(compute, self._text, *task)] = task
                if self._workers.count == 1:
                    break  # computed already: on the disk before the next begins
            ready, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            records = []
            for future in ready:
                point, part = running.pop(future)
                records.append(
                    {"id": point_id(point), "part": part, "point": point, "result": _of(future)}
                )
            self._journal.append(records)
            for record in records:
                self._keep(record)
            done += len(records)
            self.computed += len(records)
            if records:
                rest_s = (time.monotonic() - began) / done * (total - have - done)
                message = f"about {duration(rest_s)} left" if have + done < total else ""
                self._progress(stage, have + done, total, message)
            if more or running:
                self._in_time()

    def _in_time(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise OutOfTime


def _of(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise MeasurementError(
            "a worker process died, perhaps for want of memory. All results until then are kept: "
            "run the same command again, with fewer --jobs."
        ) from None


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> [duration(s) for s in (0.2, 12.3, 95, 3000, 9000)]
    ['1 s', '12 s', '95 s', '50 min', '2.5 h']
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
