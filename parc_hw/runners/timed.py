"""How do runners that take times build candidates, and read what the measuring program says?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from parc_hw.artifact.toolchain import Toolchain, find_toolchain
from parc_hw.device import Device
from parc_hw.errors import InputError, MeasurementError
from parc_hw.runners.build import Part, compile_harness, write_inputs
from parc_hw.runners.worker import Answer, Pool
from schedules.tuning.trial import Ratio, Status, Trial

if TYPE_CHECKING:
    from schedules.tuning.space import Choice
    from schedules.tuning.task import Task

__all__ = ["CONFIRM", "USUAL", "Limits", "Reading", "TimedRunner", "check_common", "processors"]

BUILD = "parc_hw.runners.build:build"  # called in a worker process
_KEPT = 6  # built parts that stay: incumbents come back
# How a kernel's code and data happen to lie decides that much, beyond what the rounds can show.
_SYSTEMATIC = 1.004
_FIELDS = (
    "status", "low", "mid", "high", "seconds", "seconds_first", "rounds", "calls", "at", "seen",
    "expected", "allowed", "hz_before", "hz_after", "celsius", "signal", "started",
)  # fmt: skip
_WRONG, _FAILED = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a trial is measured: until `width` of its interval is reached, or `seconds`."""

    seconds: float
    width: float


USUAL = Limits(seconds=0.25, width=0.01)
CONFIRM = Limits(seconds=4.0, width=0.004)


@dataclass(frozen=True, slots=True)
class Reading:
    """The numbers that `measure.c` gives of one candidate, by name; None where they are no number."""

    values: dict[str, float | None]

    @classmethod
    def of(cls, numbers: Sequence[float | None]) -> Reading:
        """From the program's list."""
        if len(numbers) != len(_FIELDS):
            raise MeasurementError(
                f"the measuring program gave {len(numbers)} numbers, not {len(_FIELDS)}; it is of "
                "another version."
            )
        return cls(dict(zip(_FIELDS, numbers, strict=True)))

    def __getitem__(self, name: str) -> float:
        value = self.values[name]
        return float("nan") if value is None else value

    def known(self, name: str) -> float | None:
        """A number that a machine may not have: None where it could not be read."""
        value = self[name]
        return value if value > 0 else None


def check_common(threads: int, timeout_s: float) -> None:
    """Refuse what no runner accepts.

    Raises
    ------
    InputError
        `threads` or `timeout_s` are not positive.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 64:
        raise InputError(f"threads is {threads!r}; accepted: a whole number from 1 to 64.")
    if not 0 < timeout_s < 1e6:
        raise InputError(f"the time-out is {timeout_s!r} s; accepted: a positive number.")


class TimedRunner:
    """Base of `local`, `ssh` and `rpc`: builds ahead in worker processes, measures one by one.

    A subclass measures parts that are built: `_measure_parts`.

    Parameters
    ----------
    device : Device
        What is compiled for.
    threads : int
        Of a kernel.
    timeout_s : float
        What a call of a candidate, and compiling one, may take.
    builders : int
        Processes that compile.
    cpus : sequence of int, optional
        Processors that they may use.
    """

    name = ""
    unit = "s"
    version = "interleaved-1"
    exact = False
    trust = ""

    def __init__(
        self,
        *,
        device: Device,
        threads: int,
        timeout_s: float,
        builders: int,
        cpus: Sequence[int] | None = None,
        shared: bool = False,
    ) -> None:
        check_common(threads, timeout_s)
        self.device, self.threads, self.timeout_s = device, threads, timeout_s
        self.width = 8
        self._tools: Toolchain = find_toolchain(device)
        self._directory = tempfile.TemporaryDirectory(prefix="parc_hw-tune-")
        self._root = Path(self._directory.name)
        self._shared = shared
        self._harness = compile_harness(self._tools, self._root, shared=shared)
        self._pool = Pool(builders, timeout_s=max(timeout_s, 30.0), cpus=cpus)
        self._parts: OrderedDict[tuple[str, Choice | None], Part] = OrderedDict()
        self._inputs: tuple[str, Path] | None = None
        self._texts: tuple[str, str] | None = None
        self._first: Choice | None = None  # the present incumbent
        self._serial = 0

    # ------------------------------------------------------------------ as a context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and remove the files."""
        self._pool.close()
        self._directory.cleanup()

    # ------------------------------------------------------------------ measuring

    def measure(
        self,
        task: Task,
        choices: Sequence[Choice],
        *,
        incumbent: Choice,
        deadline: float,
        confirm: bool = False,
    ) -> Iterator[Trial]:
        """Measure choices beside the incumbent; see `schedules.tuning.trial.Runner`.

        Raises
        ------
        MeasurementError
            The incumbent cannot be built or run, or the device is gone.
        """
        limits = CONFIRM if confirm else USUAL
        first = self._incumbent(task, incumbent)
        yield from self._measure_built(
            task,
            self._built(task, choices, incumbent, deadline),
            incumbent,
            first,
            limits,
            deadline,
        )

    def _measure_built(
        self,
        task: Task,
        built: Iterator[tuple[Choice, Part] | Trial],
        incumbent: Choice,
        first: Part,
        limits: Limits,
        deadline: float,
    ) -> Iterator[Trial]:
        """Trials of parts as they come; the subclass's."""
        raise NotImplementedError

    # ------------------------------------------------------------------ building

    def _incumbent(self, task: Task, incumbent: Choice) -> Part:
        self._first = incumbent
        part = self._parts.get((task.key, incumbent))
        if part is None:
            answer = self._submit(task, incumbent).result()
            if answer.kind != "ok":
                raise MeasurementError(
                    f"{task.title}: the incumbent {incumbent} cannot be built: {answer.message}"
                )
            part = answer.value
            self._keep(task, incumbent, part)
        return part

    def _submit(self, task: Task, choice: Choice) -> Future[Answer]:
        if self._texts is None or self._texts[0] != task.key:
            self._texts = (task.key, json.dumps(task.to_json()))
        self._serial += 1
        return self._pool.submit(
            BUILD,
            self._texts[1],
            choice.to_json(),
            str(self._root),
            f"c{self._serial}",
        )

    def _built(
        self, task: Task, choices: Sequence[Choice], incumbent: Choice, deadline: float
    ) -> Iterator[tuple[Choice, Part] | Trial]:
        """Parts, or trials that ended with the build, in order; some are built ahead."""
        waiting = deque(choices)
        ahead: deque[tuple[Choice, Future[Answer] | Part]] = deque()
        try:
            while True:
                while waiting and len(ahead) < self.width + self._pool.count:
                    choice = waiting.popleft()
                    part = self._parts.get((task.key, choice))
                    ahead.append((choice, part or self._submit(task, choice)))
                if not ahead or time.monotonic() >= deadline:
                    return
                choice, found = ahead.popleft()
                if isinstance(found, Future):
                    try:
                        answer = found.result(timeout=max(0.0, deadline - time.monotonic()))
                    except TimeoutError:
                        found.cancel()
                        return
                    if answer.kind != "ok":
                        what = "" if answer.kind == "failed" else f"the compiler {answer.kind}: "
                        yield Trial(
                            choice=choice,
                            against=incumbent,
                            status=Status.BUILD_FAILED,
                            message=f"{what}{answer.message}",
                        )
                        continue
                    found = answer.value
                self._keep(task, choice, found)
                yield choice, found
        finally:
            for _, left in ahead:
                if isinstance(left, Future):
                    left.cancel()

    def _keep(self, task: Task, choice: Choice, part: Part) -> None:
        self._parts[(task.key, choice)] = part
        self._parts.move_to_end((task.key, choice))
        if (incumbent := (task.key, self._first)) in self._parts:
            self._parts.move_to_end(incumbent)
        while len(self._parts) > _KEPT + self.width:
            _, old = self._parts.popitem(last=False)
            for name in old.objects:
                Path(name).unlink(missing_ok=True)

    # ------------------------------------------------------------------ programs

    def _task_inputs(self, task: Task) -> Path:
        """The file of the task's inputs."""
        if self._inputs is None or self._inputs[0] != task.key:
            path = self._root / "inputs.bin"
            write_inputs(task, path)
            self._inputs = (task.key, path)
        return self._inputs[1]

    def _link(self, first: Part, parts: Sequence[Part], output: Path) -> list[int]:
        """The measuring program, or library, of the incumbent and of candidates; their numbers."""
        linked = [first]
        for part in parts:
            if part not in linked:  # the incumbent may be a candidate too
                linked.append(part)
        objects = [Path(name) for part in linked for name in part.objects]
        link = self._tools.link_shared if self._shared else self._tools.link_executable
        link([*self._harness, *objects], output, threads=True)
        return [linked.index(part) for part in parts]

    def _arguments(self, inputs: str, limits: Limits, cpu: int) -> list[str]:
        """The program's arguments but for the numbers of the candidates."""
        timeout_s = str(max(1, round(self.timeout_s)))
        return [
            inputs, str(limits.seconds), str(limits.width), timeout_s, str(cpu), str(self.threads),
        ]  # fmt: skip

    # ------------------------------------------------------------------ results

    def _trial(
        self, choice: Choice, incumbent: Choice, part: Part, reading: Reading, *, device: str = ""
    ) -> Trial:
        """What a reading means.

        Raises
        ------
        MeasurementError
            The incumbent did not run.
        """
        died, status = int(reading["signal"]), int(reading["status"])
        if not reading["started"]:
            how = f"it was stopped by {_signal(died)}" if died else "it could not be run"
            raise MeasurementError(
                f"the incumbent {incumbent} failed on {device or 'this machine'}: {how}."
            )
        evidence: dict[str, Any] = {"build_s": round(part.seconds, 3)}

        def ended(how: Status, message: str) -> Trial:
            return Trial(
                choice=choice, against=incumbent, status=how, message=message, device=device,
                evidence=evidence,
            )  # fmt: skip

        if died == signal.SIGALRM:
            return ended(Status.HUNG, f"no end within {self.timeout_s:g} s")
        if died:
            return ended(Status.CRASHED, f"stopped by {_signal(died)}")
        if status == _WRONG and reading["at"] < 0:
            return ended(Status.WRONG, "it writes outside of its result or its scratch memory")
        if status == _WRONG:
            return ended(
                Status.WRONG,
                f"result number {reading['at']:.0f} is {reading['seen']:.9g}, not "
                f"{reading['expected']:.9g}; accepted is a difference of "
                f"{reading['allowed']:.1e}",
            )
        if status == _FAILED:
            return ended(Status.CRASHED, "it returned an error")
        evidence |= {
            "rounds": int(reading["rounds"]),
            "calls_a_round": int(reading["calls"]),
            "incumbent_s": reading["seconds_first"],
            "frequency_hz": reading.known("hz_before"),
            "frequency_after_hz": reading.known("hz_after"),
            "celsius": reading.known("celsius"),
            "threads": self.threads,
            "note": part.note,
        }
        return Trial(
            choice=choice,
            against=incumbent,
            status=Status.OK,
            ratio=Ratio(
                reading["low"] / _SYSTEMATIC, reading["mid"], reading["high"] * _SYSTEMATIC
            ),
            cost=reading["seconds"],
            evidence=evidence,
            device=device,
        )


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def processors() -> list[int]:
    """Processors this process may use, in order."""
    return sorted(os.sched_getaffinity(0))
