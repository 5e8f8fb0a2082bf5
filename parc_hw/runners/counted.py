"""How are candidates compared without a clock: by what they execute?

`qemu` counts instructions. `static` weighs the blocks with llvm-mca's model of the processor, and
adds what that does not see of memory. Both are the same on every run.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from parc_hw.artifact.toolchain import find_emulator, find_toolchain
from parc_hw.count_instructions import block_cycles, find_mca
from parc_hw.device import Device, Isa
from parc_hw.errors import MeasurementError
from parc_hw.runners import static
from parc_hw.runners.build import compile_harness, write_inputs
from parc_hw.runners.count import Counted
from parc_hw.runners.timed import check_common, processors
from parc_hw.runners.worker import Answer, Pool
from schedules.tuning.trial import Ratio, Status, Trial

if TYPE_CHECKING:
    from schedules.tuning.space import Choice
    from schedules.tuning.task import Task

__all__ = ["CountedRunner"]

COUNT = "parc_hw.runners.count:count"  # called in a worker process
# Multiply-adds of a run: an emulator needs about 30 ns for each of them.
_MOST_MACS = {"qemu": 100_000_000, "static": 4_000_000}
_MOST_MACS_HERE = 400_000_000
_STATUS = {"wrong": Status.WRONG, "crashed": Status.CRASHED, "hung": Status.HUNG}


class CountedRunner:
    """Counts what candidates execute; deterministic.

    Parameters
    ----------
    name : {"qemu", "static"}
        Instructions, or cycles of a model.
    device : Device
        One whose code runs here, or that qemu knows.
    threads : int
        Noted only: counts are of the work of all threads.
    timeout_s : float
        What running a candidate may take.
    jobs : int, optional
        Processes; one for each processor if not given.

    Raises
    ------
    ToolchainError
        Compiler, emulator or llvm-mca are missing, or llvm-mca has no model of the processor.
    """

    version = "blocks-1"
    exact = True

    def __init__(
        self,
        name: str,
        *,
        device: Device,
        threads: int = 1,
        timeout_s: float = 10.0,
        jobs: int | None = None,
    ) -> None:
        check_common(threads, timeout_s)
        self.name, self.device, self.threads, self.timeout_s = name, device, threads, timeout_s
        self.unit = "cycles" if name == "static" else "instructions"
        find_emulator(device)
        tools = find_toolchain(device)
        self._mca = ""
        self.trust = ""
        if name == "static":
            self._mca, tool = find_mca()
            nothing = "bx lr" if device.isa is Isa.ARMV7A else "ret"
            block_cycles([("nop", nothing)], device, iterations=8, mca=self._mca)
            self.version = f"{tool} {static.version()}"
            self.trust = static.trust_line(device)
        self._most_macs = _MOST_MACS_HERE if device.runs_here else _MOST_MACS[name]
        self.width = jobs or len(processors())
        self._directory = tempfile.TemporaryDirectory(prefix="parc_hw-count-")
        self._root = Path(self._directory.name)
        self._harness = [str(path) for path in compile_harness(tools, self._root)]
        self._pool = Pool(self.width, timeout_s=timeout_s + 60.0)
        self._known: dict[tuple[str, Choice], Counted] = {}
        self._task: tuple[str, str, Path] | None = None  # key, text, inputs
        self._serial = 0

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

    def measure(
        self,
        task: Task,
        choices: Sequence[Choice],
        *,
        incumbent: Choice,
        deadline: float,
        confirm: bool = False,
    ) -> Iterator[Trial]:
        """Count choices beside the incumbent; see `schedules.tuning.trial.Runner`.

        Raises
        ------
        MeasurementError
            The incumbent cannot be compiled or run.
        """
        first = self._known.get((task.key, incumbent))
        if first is None:
            answer = self._submit(task, incumbent, incumbent).result()
            first = answer.value if answer.kind == "ok" else None
            if first is None or first.status != "ok":
                message = answer.message if first is None else first.message
                raise MeasurementError(f"{task.title}: the incumbent {incumbent} failed: {message}")
            self._known[(task.key, incumbent)] = first
        waiting = deque(choices)
        ahead: deque[tuple[Choice, Future[Answer] | Counted]] = deque()
        try:
            while True:
                while waiting and len(ahead) < 2 * self.width + 2:
                    choice = waiting.popleft()
                    known = self._known.get((task.key, choice))
                    ahead.append((choice, known or self._submit(task, choice, incumbent)))
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
                yield self._trial(task, choice, incumbent, found, first)
        finally:
            for _, left in ahead:
                if isinstance(left, Future):
                    left.cancel()

    def _submit(self, task: Task, choice: Choice, incumbent: Choice) -> Future[Answer]:
        if self._task is None or self._task[0] != task.key:
            path = self._root / "inputs.bin"
            write_inputs(task, path)
            self._task = (task.key, json.dumps(task.to_json()), path)
            self._known.clear()
        _, text, inputs = self._task
        self._serial += 1
        name = hashlib.sha256(f"{task.key} {incumbent}".encode()).hexdigest()[:16]
        return self._pool.submit(
            COUNT,
            text,
            choice.to_json(),
            str(self._root),
            f"c{self._serial}",
            self._harness,
            str(inputs),
            str(self._root / f"{name}.expected"),
            incumbent.to_json(),
            self._most_macs,
            self.timeout_s,
            self._mca,
        )

    def cost(self, task: Task, counted: Counted) -> float:
        """What a count is worth in the runner's unit."""
        if self.name == "qemu":
            return counted.instructions
        return static.cost(
            counted,
            task_bytes=task.bytes,
            result_bytes=4 * math.prod(task.composite.shape),
            device=self.device,
            weights=static.weights_for(task.family),
        )

    def _trial(
        self, task: Task, choice: Choice, incumbent: Choice, found: Counted, first: Counted
    ) -> Trial:
        evidence: dict[str, Any] = {"build_s": round(found.seconds, 3)}
        if found.status != "ok":
            return Trial(
                choice=choice,
                against=incumbent,
                status=_STATUS[found.status],
                message=found.message,
                evidence=evidence,
            )
        self._known[(task.key, choice)] = found
        evidence |= {
            "instructions": round(found.instructions),
            "accesses": round(found.accesses),
            "prefetches": round(found.prefetches),
            "streamed": round(found.streamed),
            "tasks_run": found.tasks_run,
            "tasks": found.tasks,
            "note": found.note,
        }
        if self.name == "static":
            evidence |= {
                "cycles": round(found.cycles),
                "throughput": round(found.throughput),
                "trust": static.trust_of(task.family),
            }
        cost = self.cost(task, found)
        return Trial(
            choice=choice,
            against=incumbent,
            status=Status.OK,
            ratio=Ratio.exact(cost / self.cost(task, first)),
            cost=cost,
            evidence=evidence,
        )
