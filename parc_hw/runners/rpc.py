"""How are candidates timed on many boards at once, by the servers of a TVM tracker?

The work is cut into pieces of a few candidates. The tracker gives each to the next free server; what a
server does not answer goes to another one.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

from parc_hw.device import Device
from parc_hw.errors import InputError, MeasurementError
from parc_hw.runners.build import Part
from parc_hw.runners.timed import CONFIRM, Limits, Reading, TimedRunner, processors
from parc_hw.runners.worker import Answer, Pool
from schedules.tuning.trial import Status, Trial

if TYPE_CHECKING:
    from schedules.tuning.space import Choice
    from schedules.tuning.task import Task

__all__ = ["RpcRunner", "parse_tracker"]

_PIECE = 4  # candidates of a session: to begin one takes a third of a second
_CONNECT_S = 5.0
_TRIES = 3  # of a candidate, on servers that end in the middle


def parse_tracker(text: str) -> tuple[str, int]:
    """Host and port of `--tracker`.

    Raises
    ------
    InputError
        It is not HOST:PORT.

    >>> parse_tracker("192.168.1.5:9190")
    ('192.168.1.5', 9190)
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--tracker is {text!r}; accepted: HOST:PORT, such as 127.0.0.1:9190.")
    return host, int(port)


class RpcRunner(TimedRunner):
    """Times candidates on all servers that a tracker has under a key.

    Parameters
    ----------
    device : Device
        What the servers' boards are.
    tracker : str
        HOST:PORT.
    key : str
        Of the servers.
    threads, timeout_s, jobs
        As for every runner.

    Raises
    ------
    InputError
        `tracker` is not HOST:PORT.
    MeasurementError
        The tracker cannot be reached, or has no server of this key.
    """

    name = "rpc"

    def __init__(
        self,
        *,
        device: Device,
        tracker: str,
        key: str,
        threads: int = 1,
        timeout_s: float = 10.0,
        jobs: int | None = None,
    ) -> None:
        self._tracker, self._key = parse_tracker(tracker), key
        try:
            socket.create_connection(self._tracker, timeout=_CONNECT_S).close()
        except OSError as error:
            raise MeasurementError(
                f"the tracker {tracker} cannot be reached: {error.strerror or error}. Start one "
                "with\n    python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port "
                f"{self._tracker[1]}"
            ) from None
        super().__init__(
            device=device,
            threads=threads,
            timeout_s=timeout_s,
            builders=jobs or len(processors()),
            shared=True,
        )
        self._clients: Pool | None = None
        self._numbers = itertools.count()
        try:
            count = self._servers()
        except BaseException:
            super().close()
            raise
        self.width = _PIECE * count
        self._clients = Pool(count, timeout_s=self._session_s(_PIECE, CONFIRM.seconds) + 30)

    def _servers(self) -> int:
        answer = self._pool.submit(
            "schedules.tuning.remote:server_count", *self._tracker, self._key
        ).result()
        if answer.kind != "ok":
            raise MeasurementError(f"the tracker does not answer: {answer.message}")
        count, keys = answer.value
        if not count:
            host, port = self._tracker
            raise MeasurementError(
                f"the tracker has no server with the key {self._key!r}; it has "
                f"{', '.join(keys) or 'none at all'}. Start one on the board with\n    python -m "
                f"tvm.exec.rpc_server --tracker {host}:{port} --key {self._key}"
            )
        return int(count)

    def _session_s(self, candidates: int, seconds: float) -> float:
        """What a session may take."""
        return 30 + candidates * (2 * self.timeout_s + 4 * seconds)

    def close(self) -> None:
        """End the sessions and the processes."""
        if self._clients is not None:
            self._clients.close()
        super().close()

    def _measure_built(
        self,
        task: Task,
        built: Iterator[tuple[Choice, Part] | Trial],
        incumbent: Choice,
        first: Part,
        limits: Limits,
        deadline: float,
    ) -> Iterator[Trial]:
        assert self._clients is not None
        inputs = self._task_inputs(task)
        running: dict[Future[Answer], list[tuple[Choice, Part]]] = {}
        again: deque[tuple[Choice, Part]] = deque()
        tries: Counter[Choice] = Counter()
        more = True
        try:
            while True:
                while more and len(running) <= self._clients.count:
                    piece: list[tuple[Choice, Part]] = []
                    while again and len(piece) < _PIECE:
                        piece.append(again.popleft())
                    while more and len(piece) < _PIECE:
                        found = next(built, None)
                        if found is None:
                            more = bool(again)
                            break
                        if isinstance(found, Trial):
                            yield found
                        else:
                            piece.append(found)
                    if not piece:
                        break
                    running[self._send(piece, first, str(inputs), limits)] = piece
                if not running:
                    return
                left_s = deadline - time.monotonic()
                done, _ = wait(running, timeout=max(0.0, left_s), return_when=FIRST_COMPLETED)
                if not done:
                    return
                for future in done:
                    piece = running.pop(future)
                    server, readings, error = self._answered(future)
                    for (choice, part), numbers in zip(piece, readings, strict=False):
                        reading = Reading.of(numbers)
                        yield self._trial(choice, incumbent, part, reading, device=server)
                    left = piece[len(readings) :]
                    if not left:
                        continue
                    # The first one was running, or the server could not be reached at all.
                    choice = left[0][0]
                    tries[choice] += 1
                    if tries[choice] >= _TRIES:
                        if not server:
                            raise MeasurementError(
                                f"no server of the key {self._key!r} answers: {error}. Trials until "
                                "now are kept."
                            )
                        message = f"{_TRIES} servers ended while it ran, the last: {error}"
                        yield Trial(
                            choice=choice,
                            against=incumbent,
                            status=Status.CRASHED,
                            message=message,
                            device=server,
                        )
                        left = left[1:]
                    again.extend(left)
                    more = more or bool(again)
        finally:
            for future in running:
                future.cancel()

    def _send(
        self, piece: list[tuple[Choice, Part]], first: Part, inputs: str, limits: Limits
    ) -> Future[Answer]:
        assert self._clients is not None
        library = self._root / f"piece{next(self._numbers)}.so"
        numbers = self._link(first, [part for _, part in piece], library)
        options = (limits.seconds, limits.width, self.timeout_s, self._cpu(), self.threads)
        return self._clients.submit(
            "schedules.tuning.remote:measure",
            self._tracker,
            self._key,
            str(library),
            inputs,
            numbers,
            options,
            self._session_s(len(piece), limits.seconds),
        )

    def _answered(self, future: Future[Answer]) -> tuple[str, list[list[float]], str]:
        """Server, readings and error of a piece."""
        answer = future.result()
        if answer.kind != "ok":
            return "", [], f"{answer.kind}: {answer.message}"
        server, readings, error = answer.value
        return server, readings, error

    def _cpu(self) -> int:
        """The processor that a kernel is pinned to; several servers here would share one."""
        if self.threads > 1 or self.device.runs_here:
            return -1
        return (self.device.cores or 1) - 1
