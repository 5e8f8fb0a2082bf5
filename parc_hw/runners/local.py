"""How are candidates timed on this machine?

Each in a process of its own, in turn with the incumbent in slices of half a millisecond, pinned to a
processor that the compiling processes do not use.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from parc_hw.device import Device
from parc_hw.errors import InputError, MeasurementError
from parc_hw.runners.build import Part
from parc_hw.runners.timed import Limits, Reading, TimedRunner, check_common, processors
from schedules.tuning.trial import Status, Trial

if TYPE_CHECKING:
    from schedules.tuning.space import Choice
    from schedules.tuning.task import Task

__all__ = ["LocalRunner"]


class LocalRunner(TimedRunner):
    """Times candidates here.

    Where processors are left beside those that a kernel uses, they compile the next candidates
    meanwhile; the noise that this makes meets candidate and incumbent alike.

    Parameters
    ----------
    device : Device
        One whose code runs here.
    threads : int
        Of a kernel.
    timeout_s : float
        What one call may take before the candidate counts as hanging.
    jobs : int, optional
        Processes that compile; by default one for each processor that is left.

    Raises
    ------
    InputError
        The device's code does not run here, or there are fewer processors than threads.
    ToolchainError
        There is no C compiler.
    """

    name = "local"

    def __init__(
        self, *, device: Device, threads: int = 1, timeout_s: float = 10.0, jobs: int | None = None
    ) -> None:
        check_common(threads, timeout_s)
        if not device.runs_here:
            raise InputError(
                f"runner local: code for {device.name} does not run on this machine. Accepted: a "
                "target whose code does, such as host; or --runner ssh or rpc for a board, qemu or "
                "static without one."
            )
        cpus = processors()
        if threads > len(cpus):
            raise InputError(
                f"runner local: {threads} threads are asked for; this process may use {len(cpus)} "
                "processors."
            )
        free = cpus[: len(cpus) - threads]
        super().__init__(
            device=device,
            threads=threads,
            timeout_s=timeout_s,
            builders=jobs or max(1, len(free)),
            cpus=free or None,
        )
        self._cpu = cpus[-1] if threads == 1 else -1
        self._apart = not free  # nothing may compile while it is measured
        self._program = self._root / "measure"

    def _measure_built(
        self,
        task: Task,
        built: Iterator[tuple[Choice, Part] | Trial],
        incumbent: Choice,
        first: Part,
        limits: Limits,
        deadline: float,
    ) -> Iterator[Trial]:
        inputs = self._task_inputs(task)
        if self._apart:
            built = iter(list(built))
        for found in built:
            if isinstance(found, Trial):
                yield found
                continue
            if time.monotonic() >= deadline:
                return
            choice, part = found
            (number,) = self._link(first, [part], self._program)
            reading = self._run(self._program, inputs, limits, number)
            if reading is None:
                message = f"no end within {self.timeout_s:g} s, and it could not be interrupted"
                yield Trial(choice=choice, against=incumbent, status=Status.HUNG, message=message)
                continue
            yield self._trial(choice, incumbent, part, reading)

    def _run(self, program: Path, inputs: Path, limits: Limits, number: int) -> Reading | None:
        """Measure a candidate; None when the program did not end."""
        command = [str(program), *self._arguments(str(inputs), limits, self._cpu), str(number)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        # the program ends its children itself; this is for one that cannot be interrupted
        patience_s = 3 * self.timeout_s + 8 * (limits.seconds + 2)
        try:
            said, words = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return None
        except BaseException:
            _end(process)
            raise
        if process.returncode:
            raise MeasurementError(
                f"the measuring program ended with status {process.returncode}: "
                f"{words.strip() or 'it said nothing'}."
            )
        return Reading.of(json.loads(said)["result"])


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a program and its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
