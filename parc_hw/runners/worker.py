"""What does a process do that compiles for the tuner, and how is it ended when it hangs?

A `Pool` has processes that answer one request after the other. One that crashes or takes too long
is replaced, and costs its request alone. The compiler lives in these processes only.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

__all__ = ["Answer", "Pool"]

_START_S = 60.0  # beyond the time-out of a request: a new process imports the compiler first


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: `value` if `kind` is "ok", else `message` says what happened.

    "failed": the function raised; "crashed": its process ended; "hung": it took too long.
    """

    kind: str
    value: Any = None
    message: str = ""


class Pool:
    """Processes that call functions by name.

    Parameters
    ----------
    count : int
        Processes, at least 1.
    timeout_s : float
        What a request may take.
    cpus : iterable of int, optional
        Processors they may run on; all if not given.
    """

    def __init__(self, count: int, *, timeout_s: float, cpus: Iterable[int] | None = None) -> None:
        self.count = count
        self.timeout_s = timeout_s
        self._cpus = None if cpus is None else set(cpus)
        self._threads = ThreadPoolExecutor(count)
        self._mine = threading.local()
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, function: str, *arguments: object) -> Future[Answer]:
        """Call `package.module:function` in one of the processes, in the order of submission."""
        return self._threads.submit(self._ask, function, arguments)

    def _ask(self, function: str, arguments: tuple[object, ...]) -> Answer:
        process = getattr(self._mine, "process", None)
        if process is None:
            with self._lock:
                if self._closed:
                    return Answer("failed", message="the pool is closed")
                process = _Process(self._cpus)
                self._all.add(process)
            self._mine.process = process
        answer = process.ask(function, arguments, self.timeout_s)
        if answer.kind in ("crashed", "hung"):
            self._mine.process = None
            with self._lock:
                self._all.discard(process)
            process.end()
        return answer

    def close(self) -> None:
        """End all processes; requests under way come to nothing."""
        with self._lock:
            self._closed = True
            processes = list(self._all)
        for process in processes:
            process.end()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            process.forget()


class _Process:
    """The parent's end of one process."""

    def __init__(self, cpus: set[int] | None) -> None:
        root = str(Path(__file__).resolve().parent.parent.parent)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TVM_NUM_THREADS": "1",
        }
        self._connection, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "parc_hw.runners.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        theirs.close()
        if cpus:
            with contextlib.suppress(OSError):  # it has ended already: the next request tells
                os.sched_setaffinity(self._process.pid, cpus)
        self._fresh = True

    def ask(self, function: str, arguments: tuple[object, ...], timeout_s: float) -> Answer:
        """Send a request and wait for the answer."""
        limit_s = timeout_s + (_START_S if self._fresh else 0.0)
        try:
            self._connection.send((function, arguments))
            if not self._connection.poll(limit_s):
                return Answer("hung", message=f"no answer within {limit_s:g} s")
            good, value = self._connection.recv()
        except (EOFError, OSError):
            return Answer("crashed", message=self._end_of())
        self._fresh = False
        return Answer("ok", value) if good else Answer("failed", message=value)

    def _end_of(self) -> str:
        """How the process ended, and its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        code = self._process.poll()
        if code is not None and code < 0:
            how = f"stopped by {signal.Signals(-code).name}"
        else:
            how = f"ended with status {code}"
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip().splitlines()
            if words:
                return f"{how}: {words[-1]}"
        return how

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Close what is left of it."""
        self._connection.close()
        self._log.close()


# ---------------------------------------------------------------- the process's side


def _serve(connection: Connection) -> None:
    """Answer requests until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        module, _, name = function.partition(":")
        try:
            value = getattr(importlib.import_module(module), name)(*arguments)
            answer = (True, value)
        except Exception as error:
            text = " ".join(str(error).split())
            answer = (False, f"{type(error).__name__}: {text[:500]}")
        try:
            connection.send(answer)
        except OSError:
            return


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
