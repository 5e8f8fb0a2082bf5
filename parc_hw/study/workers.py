"""Who computes the points of a study: this process, processes of this machine, or many machines?

All three are a `concurrent.futures.Executor`. A worker computes with one thread of each numeric
library, because there is a worker for every core.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from parc_hw.errors import InputError, MeasurementError, ToolchainError
from parc_hw.version import VERSION

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Workers", "available_cores", "workers"]

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TVM_NUM_THREADS",
)


class Workers:
    """Where calls go and how many are computed at once.

    Parameters
    ----------
    executor : Executor
    count : int
        Calls that are computed at the same time.
    title : str
        For people: "2 processes".
    """

    def __init__(self, executor: Executor, count: int, title: str) -> None:
        self._executor = executor
        self.count = count
        self.title = title

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have `function(*arguments)` computed; processes are started here when needed."""
        # A Ctrl-C goes to all processes of the terminal, and is this one's to answer: what is
        # started while the signal is blocked keeps it blocked.
        blockable = threading.current_thread() is threading.main_thread()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if blockable else None
        try:
            return self._executor.submit(function, *arguments)
        finally:
            if before is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_cores() -> int:
    """Cores that this process may use.

    >>> available_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(*, jobs: int | None = None, scheduler: str | None = None) -> Iterator[Workers]:
    """Give workers, and end them: at once when the block is left by an exception.

    Parameters
    ----------
    jobs : int or None
        Processes on this machine; None for one per core, 1 computes in this process.
    scheduler : str or None
        Address of a dask.distributed scheduler instead, such as "tcp://10.0.0.1:8786".

    Raises
    ------
    InputError
        No scheduler answers, it has no workers, or they have another version of parc_hw.
    ToolchainError
        dask.distributed is not installed.
    """
    if scheduler is not None:
        with _cluster(scheduler) as cluster:
            yield cluster
    elif (count := jobs or available_cores()) == 1:
        yield Workers(_Here(), 1, "this process")
    else:
        with _processes(count) as pool:
            yield pool


class _Here(Executor):
    """Computes when it is asked, so that a debugger and a Ctrl-C see everything."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **names: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with _one_thread():
            try:
                future.set_result(function(*arguments, **names))
            except Exception as error:
                future.set_exception(error)
        return future


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let loaded libraries use one thread in the block."""
    numba, torch = sys.modules.get("numba"), sys.modules.get("torch")
    before = (numba and numba.get_num_threads(), torch and torch.get_num_threads())
    if numba:
        numba.set_num_threads(1)
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if numba:
            numba.set_num_threads(before[0])
        if torch:
            torch.set_num_threads(before[1])


@contextmanager
def _processes(count: int) -> Iterator[Workers]:
    import multiprocessing

    # Not forked: threads of numeric libraries do not survive a fork.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(theirs,))
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))  # read when the libraries are imported
    try:
        yield Workers(pool, count, f"{count} processes")
        pool.shutdown()
    except BaseException:
        ours.close()  # the end of file that all workers wait for
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        ours.close()
        theirs.close()


def _begin(parent: Connection) -> None:
    """First thing in a worker process: end with the study, whatever it dies of."""

    def watch() -> None:
        try:
            parent.poll(None)  # true at the end of file as well
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _cluster(address: str) -> Iterator[Workers]:
    try:
        from distributed import Client
    except ImportError:
        raise ToolchainError(
            "--scheduler needs dask.distributed: pip install 'parc_hw[report]'."
        ) from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"--scheduler {address}: no dask scheduler answers there ({error}). Start one with "
            f"`dask scheduler` and give the tcp:// address that it prints."
        ) from None
    try:
        versions: dict[str, str] = client.run(_version)
        if not versions:
            raise InputError(
                f"--scheduler {address} has no workers. Start some with `dask worker {address}` on "
                f"machines that have parc_hw {VERSION}."
            )
        other = {where: found for where, found in versions.items() if found != VERSION}
        if other:
            where, found = next(iter(other.items()))
            raise InputError(
                f"--scheduler {address}: worker {where} has parc_hw {found}, and this is "
                f"{VERSION}. Bits may differ between versions: install the same on all."
            )
        threads = sum(client.nthreads().values())
        machines = f"{len(versions)} dask worker{'s' * (len(versions) > 1)}"
        yield Workers(_Dask(client), threads, f"{machines} with {threads} threads")
    finally:
        client.close()


class _Dask(Executor):
    """A dask client's own executor, whose lost calls are an error of the machines."""

    def __init__(self, client: Any) -> None:
        self._executor = client.get_executor(retries=2)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **names: Any) -> Future[Any]:
        try:
            future: Future[Any] = self._executor.submit(_alone, function, arguments, names)
        except RuntimeError as error:
            raise MeasurementError(f"the dask scheduler is gone: {error}.") from None
        return future


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...], names: dict[str, Any]) -> Any:
    """On a machine of a cluster: its worker's threads are the parallelism, ours would be more."""
    with _one_thread():
        return function(*arguments, **names)


def _version() -> str:
    return VERSION
