"""How is a model tuned: which kernels, in which order, for how long, and what survives a crash?

Every trial is in the journal, on the disk, before the next one is asked for; every kernel whose search
came to its end is a record in the database. A kill costs the trials that were running.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.device import Device
from parc_hw.errors import InputError, MeasurementError, UnsupportedError
from parc_hw.records import Records, TuningRecord, add_record, check_writable, read_records
from parc_hw.version import VERSION

if TYPE_CHECKING:
    from parc_hw.lower import Lowering
    from schedules.tuning.space import Choice
    from schedules.tuning.strategy import Search
    from schedules.tuning.task import Task
    from schedules.tuning.trial import Ratio, Runner, Trial

__all__ = ["Progress", "Site", "TuneResult", "described", "model_sites", "tune"]

_BATCH = 2  # choices asked for at once, for each that the runner works on at a time
_PATIENCE = 48  # trials without a better choice after which a kernel's search ends
_TRIALS = 64  # of a kernel, where neither they nor the time were said
_ENOUGH = 12  # choices beside the default, without which it is not known to be the best
_LEAST_S = 2.0  # of a kernel's share of the time: less would measure nothing
_CONFIRM_S = 6.0  # of a kernel's time, kept for the last measurement of its winner,
_CONFIRM = 0.4  # but no larger share of it
_WIDER = 3  # how many times more choices than asked for a shortlist is made from
_WARM = 6  # choices of similar kernels and devices that are measured first


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A kernel of a model and where it occurs.

    Parameters
    ----------
    task : Task
    names : tuple of str
        Of the layers that run it; as many as calls.
    """

    task: Task
    names: tuple[str, ...]

    @property
    def calls(self) -> int:
        """How often one inference runs it."""
        return len(self.names)


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far the tuning of one kernel is; changes as it goes on.

    Attributes
    ----------
    site : Site
    state : str
        "waiting", "measuring", "confirming", "done", "out of time", or why it cannot be measured.
    points : int
        Of its space.
    budget : int
        Trials at most.
    trials, failures : int, Counter
        Done so far, of all sessions; those that failed by class.
    cost : float
        Of the default, in the runner's unit; 0 until it is known.
    best : Choice or None
    ratio : Ratio or None
        Of the best choice's cost to the default's.
    record : TuningRecord or None
        What went into the database.
    """

    site: Site
    state: str = "waiting"
    points: int = 1
    budget: int = 0
    trials: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    cost: float = 0.0
    best: Choice | None = None
    ratio: Ratio | None = None
    record: TuningRecord | None = None

    @property
    def weight(self) -> float:
        """What all calls of it cost by default."""
        return self.cost * self.site.calls

    @property
    def finished(self) -> bool:
        """Whether its search came to an end, or cannot be done."""
        return self.state not in ("waiting", "measuring", "confirming", "out of time")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """What a session came to.

    Attributes
    ----------
    kernels : tuple of Progress
        In the order in which they were tuned: the one that takes most first.
    database : Path
    journal : Path
        Every trial, one JSON document a line.
    ended : str
        "" when every kernel's search came to its end, "out of time" or "interrupted".
    elapsed_s : float
    trials : int
        Of this session.
    unit, trust : str
        Of the runner.
    """

    kernels: tuple[Progress, ...]
    database: Path
    journal: Path
    ended: str
    elapsed_s: float
    trials: int
    unit: str
    trust: str

    @property
    def before(self) -> float:
        """Cost of all kernels that were measured, by default."""
        return sum(kernel.weight for kernel in self.kernels)

    @property
    def after(self) -> float:
        """The same with the records that were made."""
        return sum(
            kernel.weight * (kernel.record.ratio[1] if kernel.record else 1.0)
            for kernel in self.kernels
        )


# ---------------------------------------------------------------- what is tuned


def model_sites(
    lowering: Lowering, *, plan: str = "auto", threads: int = 1, kernels: Sequence[str] = ()
) -> list[Site]:
    """The kernels of a lowered model that have a choice, equal ones once.

    Parameters
    ----------
    lowering : Lowering
        From `parc_hw.build.schedule`.
    plan : str
        What it was scheduled with.
    threads : int
        How many share a kernel.
    kernels : sequence of str
        Rules to tune; all if empty.

    Raises
    ------
    InputError
        No kernel of the model has one of these rules.
    """
    from parc_hw.errors import nearest
    from schedules.tuning.task import Task

    named: dict[Task, list[str]] = {}
    for step in lowering.steps:
        space = step.scheduled.space
        if space is None or all(len(d.values) == 1 for d in space.dimensions):
            continue
        task = Task(
            kernel=step.scheduled.rule,
            composite=step.composite,
            device=lowering.device,
            plan=plan,
            threads=threads,
        )
        named.setdefault(task, []).append(lowering.layer_name(step))
    known = sorted({task.kernel for task in named})
    unknown = sorted(set(kernels) - set(known))
    if unknown:
        raise InputError(
            f"no kernel of this model that can be tuned is called {unknown[0]!r}."
            f"{nearest(unknown[0], known)} Accepted: {', '.join(known) or 'none'}."
        )
    sites = [Site(task=task, names=tuple(names)) for task, names in named.items()]
    return [site for site in sites if not kernels or site.task.kernel in kernels]


# ---------------------------------------------------------------- the journal


class _Journal:
    """All trials of one session, on the disk before anybody is told of them."""

    def __init__(self, path: Path, descriptor: int, lines: list[dict[str, Any]]) -> None:
        self.path = path
        self.lines = lines  # those of an earlier session that is gone on with
        self._descriptor = descriptor

    @classmethod
    def open(cls, database: Path, header: dict[str, Any], *, resume: bool) -> _Journal:
        """Begin the journal of a session beside the database, or go on with it.

        A journal that another process is writing is left alone: the next number is taken.
        """
        name = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:10]
        folder = database.with_name(f"{database.name}.sessions")
        number = 0
        while True:
            number += 1
            path = folder / f"{name}{f'-{number}' if number > 1 else ''}.jsonl"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            except OSError as error:
                raise InputError(
                    f"the journal {path} cannot be written: {(error.strerror or '').lower()}. Name "
                    "a file in another directory with --records FILE."
                ) from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            break
        data = path.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]
        lines = [document for line in complete.splitlines() if (document := _document(line))]
        if not resume or not lines or lines[0].get("session") != header:
            lines, complete = [], b""
        os.ftruncate(descriptor, len(complete))
        journal = cls(path, descriptor, lines[1:])
        if not complete:
            journal.write({"session": header})
        return journal

    def write(self, document: dict[str, Any]) -> None:
        """Add a line; on return it is on the disk."""
        data = (json.dumps(document, separators=(",", ":")) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise InputError(
                f"the journal {self.path} cannot be written: {(error.strerror or '').lower()}. What "
                "it holds is kept; the same command with --resume goes on."
            ) from None

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._descriptor)


def _document(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


# ---------------------------------------------------------------- the loop


def tune(
    sites: Sequence[Site],
    runner: Runner,
    *,
    database: Path,
    title: str,
    trials: int | None = None,
    time_s: float | None = None,
    resume: bool = False,
    seed: int = 0,
    warm: Records | None = None,
    shortlist: Runner | None = None,
    watch: Callable[[Sequence[Progress]], None] = lambda kernels: None,
) -> TuneResult:
    """Search the spaces of kernels and put what is best into a database.

    Parameters
    ----------
    sites : sequence of Site
        What to tune, from `model_sites`.
    runner : Runner
        Who measures.
    database : Path
        Of the records; made if missing.
    title : str
        What is tuned, for the journal's name: the same title, device and runner go on together.
    trials : int or None
        Of each kernel, at most.
    time_s : float or None
        Of the session, at most. Kernels get shares by what they cost.
    resume : bool
        Go on with the trials of an earlier session.
    seed : int
        Of everything random.
    warm : Records, optional
        Where to begin: the choices of the nearest device and shape.
    shortlist : Runner, optional
        A cheap one; `runner` then measures only what it ranks best.
    watch : callable
        Called with the state of all kernels whenever something changed.

    Returns
    -------
    TuneResult
        Also after Ctrl-C: then `ended` is "interrupted".

    Raises
    ------
    InputError
        Database or journal cannot be read or written, or nothing is to be tuned.
    MeasurementError
        The device is gone.
    """
    if not sites:
        raise InputError(
            "no kernel of this model has anything to choose; there is nothing to tune."
        )
    began = time.monotonic()
    check_writable(database)
    stored = read_records(database, missing_ok=True)
    device = sites[0].task.device
    header = {
        "title": title,
        "device": device.name,
        "plan": sites[0].task.plan,
        "threads": sites[0].task.threads,
        "runner": f"{runner.name} {runner.version}",
        "version": VERSION,
    }
    journal = _Journal.open(database, header, resume=resume)
    session = _Session(
        runner=runner,
        shortlist=shortlist,
        journal=journal,
        database=database,
        warm=stored if warm is None else stored + warm,
        trials=trials,
        deadline=float("inf") if time_s is None else began + time_s,
        seed=seed,
        watch=watch,
        kernels=[Progress(site=site) for site in sites],
    )
    ended = ""
    try:
        session.run()
    except KeyboardInterrupt:
        ended = "interrupted"
    finally:
        journal.close()
    if not ended and not all(kernel.finished for kernel in session.kernels):
        ended = "out of time"
    return TuneResult(
        kernels=tuple(session.kernels),
        database=database,
        journal=journal.path,
        ended=ended,
        elapsed_s=time.monotonic() - began,
        trials=session.done,
        unit=runner.unit,
        trust=runner.trust,
    )


@dataclass(slots=True, kw_only=True)
class _Session:
    """One call of `tune`."""

    runner: Runner
    shortlist: Runner | None
    journal: _Journal
    database: Path
    warm: Records
    trials: int | None
    deadline: float
    seed: int
    watch: Callable[[Sequence[Progress]], None]
    kernels: list[Progress]
    done: int = 0  # trials of this session

    def run(self) -> None:
        """Weigh all kernels, then search one after the other."""
        from schedules.tuning.trial import Trial

        past: dict[str, list[Trial]] = {}
        over: set[str] = set()
        for line in self.journal.lines:
            if "trial" in line:
                past.setdefault(line["task"], []).append(Trial.from_json(line["trial"]))
            elif line.get("over"):
                over.add(line["task"])
        self.watch(self.kernels)
        for kernel in self.kernels:
            if time.monotonic() > self.deadline:
                break
            self._weigh(kernel, past.get(kernel.site.task.key, []))
        self.kernels.sort(key=lambda kernel: -kernel.weight)
        for number, kernel in enumerate(self.kernels):
            if kernel.finished or not kernel.cost:
                continue
            trials = past.get(kernel.site.task.key, [])
            if kernel.site.task.key in over:
                self._recall(kernel, trials)
                continue
            left = sum(k.weight for k in self.kernels[number:] if not k.finished)
            now = time.monotonic()
            share = (self.deadline - now) * kernel.weight / left if left else 0.0
            until = min(self.deadline, now + max(share, _LEAST_S))
            if now >= self.deadline:
                break
            try:
                self._search(kernel, trials, until)
            except MeasurementError as error:
                kernel.state = f"cannot be measured: {error}"
                self.watch(self.kernels)

    # ------------------------------------------------------------------ one kernel

    def _weigh(self, kernel: Progress, past: Iterable[Trial]) -> None:
        """Find out what the default costs."""
        task = kernel.site.task
        kernel.points = task.space.size
        limit = _TRIALS if self.trials is None and self.deadline == float("inf") else self.trials
        kernel.budget = kernel.points if limit is None else min(limit, kernel.points)
        for trial in past:
            self._count(kernel, trial)
            if trial.choice == task.default and trial.cost:
                kernel.cost = trial.cost
        if kernel.cost:
            return
        kernel.state = "measuring"
        self.watch(self.kernels)
        try:
            for trial in self._measure(kernel, [task.default], task.default, self.deadline):
                kernel.cost = trial.cost or 0.0
        except (MeasurementError, UnsupportedError, InputError) as error:
            kernel.state = f"cannot be measured: {error}"
            self.watch(self.kernels)
            return
        kernel.state = "waiting"
        if not kernel.cost and time.monotonic() < self.deadline:
            kernel.state = "cannot be measured: the kernel's own choice failed"
        self.watch(self.kernels)

    def _search(self, kernel: Progress, past: list[Trial], until: float) -> None:
        """Measure choices until the trials, the time or the hope for better ones end."""
        from schedules.tuning.strategy import Search
        from schedules.tuning.trial import Ratio

        task = kernel.site.task
        search = Search(task.space, seed=self.seed, first=self._beginnings(task))
        search.tell(task.default, 1.0)
        incumbent, to_default = task.default, Ratio.exact(1.0)
        better: list[tuple[float, Choice]] = []
        idle = 0

        def learn(trial: Trial) -> None:
            """Take a trial into account."""
            nonlocal incumbent, to_default, idle
            idle += 1
            if trial.ratio is None:
                search.tell(trial.choice, None)
                return
            known = to_default if trial.against == incumbent else ratios.get(trial.against)
            if known is None or trial.choice == task.default:
                return
            ratio = trial.ratio.times(known)
            ratios.setdefault(trial.choice, ratio)
            search.tell(trial.choice, ratio.mid)
            better.append((ratio.mid, trial.choice))
            if trial.ratio.better and ratio.mid < to_default.mid:
                incumbent, to_default, idle = trial.choice, ratio, 0
                kernel.best, kernel.ratio = incumbent, to_default

        ratios: dict[Choice, Ratio] = {task.default: Ratio.exact(1.0)}
        for trial in past:
            learn(trial)
        kernel.state = "measuring"
        self.watch(self.kernels)
        confirm_s = 0.0
        if not self.runner.exact:
            confirm_s = min(_CONFIRM_S, _CONFIRM * max(0.0, until - time.monotonic()))
        searching_until = until - confirm_s
        while (
            kernel.trials < kernel.budget
            and idle < _PATIENCE
            and not search.exhausted
            and time.monotonic() < searching_until
        ):
            wanted = min(_BATCH * max(1, self.runner.width), kernel.budget - kernel.trials)
            choices = self._promising(task, search, wanted, searching_until)
            if not choices:
                break
            before = kernel.trials
            for trial in self._measure(kernel, choices, incumbent, searching_until):
                learn(trial)
            if kernel.trials == before:
                break  # the time ended before one was measured
        self._conclude(kernel, sorted(better, key=lambda item: item[0]), until)

    def _promising(self, task: Task, search: Search, wanted: int, deadline: float) -> list[Choice]:
        """Choices to measure; with a shortlist, those that it ranks best among more."""
        if self.shortlist is None or search.space.size <= wanted:
            return search.propose(wanted)
        choices = search.propose(_WIDER * wanted)
        costs = {
            trial.choice: trial.cost
            for trial in self.shortlist.measure(
                task, choices, incumbent=task.default, deadline=deadline
            )
            if trial.cost
        }
        return sorted(costs, key=lambda choice: costs[choice])[:wanted]

    def _beginnings(self, task: Task) -> list[Choice]:
        """What was best for this kernel on the nearest devices and for the nearest shapes."""
        from schedules.tuning.database import query_of
        from schedules.tuning.space import Choice

        query = query_of(
            task.space, task.composite, task.device, plan=task.plan, threads=task.threads
        )
        found: dict[Choice, None] = {}
        for record in self.warm.alike(query):
            found[task.space.nearest(Choice.from_json(dict(record.choice)))] = None
            if len(found) >= _WARM:
                break
        found.pop(task.default, None)
        return list(found)

    def _conclude(
        self, kernel: Progress, ranked: Sequence[tuple[float, Choice]], until: float
    ) -> None:
        """Measure the winner once more against the default, and make the record."""
        from schedules.tuning.trial import Ratio, Status

        task = kernel.site.task
        kernel.best, kernel.ratio = task.default, Ratio.exact(1.0)
        cost, evidence = kernel.cost, {}
        candidates = [choice for mid, choice in ranked[:2] if mid < 1]
        if self.runner.exact:
            if candidates:
                (mid, choice) = ranked[0]
                kernel.best, kernel.ratio, cost = choice, Ratio.exact(mid), mid * kernel.cost
        elif candidates:
            kernel.state = "confirming"
            self.watch(self.kernels)
            asked = max(until, min(self.deadline, time.monotonic() + _LEAST_S))
            for choice in candidates:
                found = None
                for found in self.runner.measure(
                    task, [choice], incumbent=task.default, deadline=asked, confirm=True
                ):
                    self.journal.write(
                        {"task": task.key, "confirmed": found.to_json(), "at_s": time.time()}
                    )
                if found is None:
                    self._out_of_time(kernel)
                    return
                if found.status is Status.OK and found.ratio and found.ratio.better:
                    kernel.best, kernel.ratio = choice, found.ratio
                    cost, evidence = found.cost or 0.0, found.evidence
                    break
        tried = kernel.trials - 1
        if kernel.best == task.default and tried < min(_ENOUGH, kernel.budget - 1):
            self._out_of_time(kernel)
            return
        self._record(kernel, cost, evidence)
        self.journal.write({"task": task.key, "over": True})
        kernel.state = "done"
        self.watch(self.kernels)

    def _out_of_time(self, kernel: Progress) -> None:
        """Leave a kernel without a record; --resume goes on with it."""
        kernel.state = "out of time"
        self.watch(self.kernels)

    def _record(self, kernel: Progress, cost: float, evidence: dict[str, Any]) -> None:
        """Put what was found into the database."""
        from dataclasses import asdict

        from schedules.tuning.database import query_of

        task = kernel.site.task
        assert kernel.best is not None
        assert kernel.ratio is not None
        query = query_of(
            task.space, task.composite, task.device, plan=task.plan, threads=task.threads
        )
        kernel.record = TuningRecord(
            **asdict(query),
            runner=f"{self.runner.name} {self.runner.version}",
            unit=self.runner.unit,
            choice=kernel.best.to_json(),
            ratio=(kernel.ratio.low, kernel.ratio.mid, kernel.ratio.high),
            cost=cost,
            trials=max(1, kernel.trials),
            evidence=evidence,
        )
        add_record(self.database, kernel.record)

    def _recall(self, kernel: Progress, past: Iterable[Trial]) -> None:
        """A kernel whose search ended in an earlier session."""
        from schedules.tuning.database import query_of
        from schedules.tuning.space import Choice
        from schedules.tuning.trial import Ratio

        task = kernel.site.task
        query = query_of(
            task.space, task.composite, task.device, plan=task.plan, threads=task.threads
        )
        runner = f"{self.runner.name} {self.runner.version}"
        own = Records.of(
            r for r in read_records(self.database, missing_ok=True) if r.runner == runner
        )
        found = own.find(query).record
        if found is None:  # somebody deleted it
            self._search(kernel, list(past), self.deadline)
            return
        kernel.record, kernel.state = found, "done"
        kernel.best, kernel.ratio = Choice.from_json(dict(found.choice)), Ratio(*found.ratio)
        self.watch(self.kernels)

    # ------------------------------------------------------------------ trials

    def _measure(
        self, kernel: Progress, choices: Sequence[Choice], incumbent: Choice, deadline: float
    ) -> Iterable[Trial]:
        """Measure choices; every trial is in the journal before it is used."""
        task = kernel.site.task
        for trial in self.runner.measure(task, choices, incumbent=incumbent, deadline=deadline):
            self.journal.write({"task": task.key, "trial": trial.to_json(), "at_s": time.time()})
            self.done += 1
            self._count(kernel, trial)
            yield trial
            self.watch(self.kernels)

    def _count(self, kernel: Progress, trial: Trial) -> None:
        kernel.trials += 1
        if trial.ratio is None:
            kernel.failures[trial.status.value] += 1


def described(device: Device) -> str:
    """The device and the processor that stands for it here, for people."""
    from parc_hw.device import processor_of

    processor = processor_of(device)
    return f"{device.name} ({processor})" if processor else device.name
