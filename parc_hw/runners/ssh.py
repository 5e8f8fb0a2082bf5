"""How are candidates timed on a board that has nothing but a shell?

One static program holds the incumbent and several candidates. It is copied to a new directory there
and run; its answer is JSON on its output. The board needs neither Python nor a compiler.
"""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from parc_hw.device import Device
from parc_hw.errors import InputError, MeasurementError, ToolchainError
from parc_hw.runners.build import Part
from parc_hw.runners.timed import Limits, Reading, TimedRunner, processors
from schedules.tuning.trial import Status, Trial

if TYPE_CHECKING:
    from schedules.tuning.space import Choice
    from schedules.tuning.task import Task

__all__ = ["SshRunner"]

_CONNECT_S = 15
_BATCH = 8  # candidates of a program: the copy is mostly libc, and a connection takes long
# Never a question: a tuner runs unattended. One connection serves all calls.
_OPTIONS = (
    "-o", "BatchMode=yes",
    "-o", f"ConnectTimeout={_CONNECT_S}",
    "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=3",
    "-o", "ControlMaster=auto",
    "-o", "ControlPersist=60",
)  # fmt: skip


class SshRunner(TimedRunner):
    """Times candidates on a board.

    Parameters
    ----------
    device : Device
        What the board is.
    host : str
        USER@BOARD, or a name of ~/.ssh/config; it must be reachable without a password.
    threads, timeout_s, jobs
        As for every runner.

    Raises
    ------
    InputError
        `host` is none.
    ToolchainError
        There is no cross compiler, or no ssh.
    MeasurementError
        The board cannot be reached, or is of another architecture.
    """

    name = "ssh"

    def __init__(
        self,
        *,
        device: Device,
        host: str,
        threads: int = 1,
        timeout_s: float = 10.0,
        jobs: int | None = None,
    ) -> None:
        if not host or host.startswith("-") or any(c.isspace() for c in host):
            raise InputError(
                f"--host is {host!r}; accepted: USER@BOARD or a name of ~/.ssh/config."
            )
        for tool in ("ssh", "scp"):
            if shutil.which(tool) is None:
                raise ToolchainError(
                    f"{tool} was not found; install it with\n"
                    "    sudo apt-get install -y openssh-client"
                )
        super().__init__(
            device=device, threads=threads, timeout_s=timeout_s, builders=jobs or len(processors())
        )
        self.host = host
        self.width = _BATCH
        self._there = ""
        self._sent: str | None = None  # the task whose inputs are there
        self._numbers = itertools.count()
        try:
            self._there = self._open()
        except BaseException:
            super().close()
            raise

    def _control(self) -> tuple[str, ...]:
        return (*_OPTIONS, "-o", f"ControlPath={self._root / 'c'}")

    def _ssh(self, command: str, timeout_s: float) -> str:
        """Run a command of the board's shell; give what it prints."""
        try:
            done = subprocess.run(
                ["ssh", *self._control(), self.host, command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MeasurementError(
                f"{self.host} did not answer within {timeout_s:g} s to {command.split()[0]!r}."
            ) from None
        if done.returncode:
            words = done.stderr.strip().splitlines()
            raise MeasurementError(
                f"{self.host}: {command.split()[0]} ended with status {done.returncode}: "
                f"{words[-1] if words else 'no message'}. Check that `ssh {self.host} true` "
                "works without a password."
            )
        return done.stdout

    def _open(self) -> str:
        """Make a directory on the board, after a look at what it is."""
        said = self._ssh("uname -m && mktemp -d", _CONNECT_S + 10).split()
        if len(said) != 2:
            raise MeasurementError(
                f"{self.host} answered {' '.join(said)!r} to `uname -m && mktemp -d`; expected: its "
                "architecture and a directory. Its shell must print nothing else."
            )
        machine, there = said
        if machine not in _MACHINES[self.device.isa.value]:
            self._ssh(f"rm -rf {shlex.quote(there)}", 20)
            raise MeasurementError(
                f"{self.host} is {machine}, but {self.device.name} is {self.device.isa.value}. Name "
                "the board's own --target."
            )
        return there

    def close(self) -> None:
        """Remove the board's directory, end processes and connection."""
        if self._there:
            # a board that is gone has nothing to remove
            subprocess.run(
                ["ssh", *self._control(), self.host, f"rm -rf {shlex.quote(self._there)}"],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_CONNECT_S + 10, check=False,
            )  # fmt: skip
            subprocess.run(
                ["ssh", *self._control(), "-O", "exit", self.host],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_CONNECT_S, check=False,
            )  # fmt: skip
            self._there = ""
        super().close()

    def _copy(self, file: Path, name: str) -> None:
        try:
            done = subprocess.run(
                ["scp", "-q", *self._control(), str(file), f"{self.host}:{self._there}/{name}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MeasurementError(
                f"copying {name} to {self.host} took longer than 300 s."
            ) from None
        if done.returncode:
            raise MeasurementError(
                f"copying {name} to {self.host} failed with status {done.returncode}: "
                f"{done.stderr.strip() or 'no message'}."
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
        if self._sent != task.key:
            self._copy(self._task_inputs(task), "inputs.bin")
            self._sent = task.key
        while True:
            batch: list[tuple[Choice, Part]] = []
            for found in itertools.islice(built, _BATCH):
                if isinstance(found, Trial):
                    yield found
                else:
                    batch.append(found)
            if not batch or time.monotonic() >= deadline:
                return
            yield from self._batch(batch, incumbent, first, limits, deadline)

    def _batch(
        self,
        batch: Sequence[tuple[Choice, Part]],
        incumbent: Choice,
        first: Part,
        limits: Limits,
        deadline: float,
    ) -> Iterator[Trial]:
        """Link, copy and run a batch; a candidate's answer counts as soon as its line is there."""
        program = self._root / "measure"
        numbers = self._link(first, [part for _, part in batch], program)
        name = f"measure{next(self._numbers)}"
        self._copy(program, name)
        there = shlex.quote(self._there)
        words = ["./" + name, *self._arguments("inputs.bin", limits, self._cpu())]
        words += map(str, numbers)
        command = f"cd {there} && chmod +x {name} && {shlex.join(words)}; rm -f {name}"
        process = subprocess.Popen(
            ["ssh", *self._control(), self.host, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        patience_s = 3 * self.timeout_s + 8 * (limits.seconds + 2)
        answered = 0
        try:
            assert process.stdout is not None
            for choice, part in batch:
                # a line that does not come: the board's own alarm should have ended the candidate
                timer = threading.Timer(patience_s, process.kill)
                timer.start()
                line = process.stdout.readline()
                timer.cancel()
                if not line:
                    break
                answered += 1
                reading = Reading.of(json.loads(line)["result"])
                yield self._trial(choice, incumbent, part, reading, device=self.host)
                if time.monotonic() >= deadline:
                    return
        finally:
            process.kill()
            _, said = process.communicate()
        if answered < len(batch):
            words_ = said.strip().splitlines()
            # The program ends a candidate that crashes or hangs; so the board or the line failed.
            if self._alive():
                choice, _ = batch[answered]
                yield Trial(
                    choice=choice,
                    against=incumbent,
                    status=Status.CRASHED,
                    message=words_[-1] if words_ else "the measuring program ended",
                    device=self.host,
                )
                rest = batch[answered + 1 :]
                if rest:
                    yield from self._batch(rest, incumbent, first, limits, deadline)
                return
            raise MeasurementError(
                f"{self.host} is gone: {words_[-1] if words_ else 'no message'}. Trials until now "
                "are kept."
            )

    def _alive(self) -> bool:
        try:
            self._ssh("true", _CONNECT_S + 10)
        except MeasurementError:
            return False
        return True

    def _cpu(self) -> int:
        """The processor that a kernel of one thread is pinned to: the last, often the biggest."""
        return (self.device.cores or 1) - 1 if self.threads == 1 else -1


_MACHINES = {
    "x86_64": ("x86_64", "amd64"),
    "aarch64": ("aarch64", "arm64"),
    "armv7a": ("armv7l", "armv8l", "aarch64"),  # the last: most run 32-bit programs too
}
