"""How fast is a bundle here, and how fast are its peers in the same minutes?

Times on a shared machine drift by tens of percent, so runtimes are measured interleaved: one
process per runtime and thread count stays ready, and the parent gives each a short slice in
turn, round after round. Processes keep thread pools, allocators and CPU state apart.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from parc_hw.errors import InputError, MeasurementError

__all__ = [
    "Job",
    "Series",
    "Worker",
    "export_onnx",
    "interleave",
    "machine",
    "measure",
    "open_worker",
    "quantile",
    "time_calls",
    "to_csv",
    "to_json",
]

_SLICE_S = 0.25  # long against a process switch, short against the drift of a shared machine
_MIN_ROUNDS = 5
_PAUSE_S = 0.02  # until the threads of the last runtime have stopped to spin
_ANSWER_S = 600.0  # a worker that is silent for longer hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One runtime with one number of threads.

    Parameters
    ----------
    runtime : str
        "parc_hw", "torch", "torch.compile", "onnxruntime" or "openvino"; "float64", torch in
        double precision, says what the numbers should be.
    threads : int
        Threads it may compute with, at least 1.
    source : str
        A bundle's directory or an ONNX file, as the runtime needs; for torch a zoo name, or
        "package.module:function", which makes a module from a seed.
    shapes : tuple of tuple of int
        Shape of each input.
    seed : int
        Of the inputs, and of the weights of an untrained model.
    """

    runtime: str
    threads: int
    source: str
    shapes: tuple[tuple[int, ...], ...]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The times of one job.

    `max_difference` is the largest difference of any output from the first job's, in units of
    that output's standard deviation; `error` the same from the reference, None without one.
    """

    job: Job
    times_s: tuple[float, ...]
    rounds: int
    max_difference: float
    error: float | None = None

    @property
    def median_s(self) -> float:
        """Half of the runs took at most this long."""
        return statistics.median(self.times_s)

    @property
    def p10_s(self) -> float:
        """A tenth of the runs took at most this long."""
        return quantile(self.times_s, 0.1)

    @property
    def p90_s(self) -> float:
        """Nine tenths of the runs took at most this long."""
        return quantile(self.times_s, 0.9)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of `values` lies, linear between order statistics.

    >>> quantile([4.0, 1.0, 3.0, 2.0, 5.0], 0.1)
    1.4
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def measure(
    jobs: Sequence[Job],
    *,
    seconds: float,
    tolerance: float | None = None,
    reference: Job | None = None,
    absent: Callable[[Job, MeasurementError], None] | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> list[Series]:
    """Measure all jobs interleaved.

    Parameters
    ----------
    jobs : sequence of Job
        What to measure; the first one's outputs are what the others are compared with.
    seconds : float
        Measuring time of each job; a slow one still gets five runs.
    tolerance : float, optional
        The largest difference from the first job's outputs that is accepted, in standard
        deviations; None accepts any.
    reference : Job, optional
        Runs once, before the others start: its outputs are what `Series.error` is taken from.
    absent : callable of (Job, MeasurementError), optional
        Told of every job but the first that cannot start or run; such a job is left out. None:
        the error is raised.
    progress : callable of (stage, done, total, message), optional
        Called after every round.

    Returns
    -------
    list of Series
        In the order of `jobs`.

    Raises
    ------
    MeasurementError
        A worker failed or hung, says which and shows its last words; or outputs differ by more
        than `tolerance`.
    """
    right = None
    if reference is not None:
        with _worker(reference) as worker:
            right = worker.ask("output", None)
    with contextlib.ExitStack() as stack:
        workers, outputs, ready = [], [], []
        for job in jobs:
            try:
                with contextlib.ExitStack() as starting:
                    worker = starting.enter_context(_worker(job))
                    outputs.append(worker.ask("output", None))
                    stack.push(starting.pop_all())
            except MeasurementError as error:
                if absent is None or job is jobs[0]:
                    raise
                absent(job, error)
                continue
            workers.append(worker)
            ready.append(job)
        jobs = ready
        differences = [_difference(outputs[0], result) for result in outputs]
        errors = [None if right is None else _difference(right, result) for result in outputs]
        for job, difference in zip(jobs, differences, strict=True):
            if tolerance is not None and not difference <= tolerance:  # NaN is no agreement
                raise MeasurementError(
                    f"{job.runtime} and {jobs[0].runtime} with {job.threads} threads differ by "
                    f"{difference:.2g} standard deviations on {job.source}; {tolerance:g} is "
                    "accepted. They do not compute the same, so their times are not compared."
                )
        runs = []
        for worker in workers:
            worker.ask("time", 2)  # warm-up: page faults, caches, clock
            runs.append(max(1, round(_SLICE_S / min(worker.ask("time", 3)))))
        slices = [
            partial(_turn, worker, n, job.threads)
            for worker, n, job in zip(workers, runs, jobs, strict=True)
        ]
        rounds = max(_MIN_ROUNDS, round(seconds / _SLICE_S))
        times, done = interleave(
            slices, rounds=rounds, limit_s=seconds * len(jobs), progress=progress
        )
    return [
        Series(
            job=job,
            times_s=tuple(collected),
            rounds=done,
            max_difference=difference,
            error=error,
        )
        for job, collected, difference, error in zip(jobs, times, differences, errors, strict=True)
    ]


def _difference(expected: Sequence[Any], seen: Sequence[Any]) -> float:
    """The largest difference of two lists of outputs, in standard deviations of the first's."""
    import numpy as np

    worst = 0.0
    for ours, theirs in zip(expected, seen, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        deviation = float(np.std(ours)) or 1.0
        # np.maximum keeps a NaN, max() may drop it.
        worst = float(np.maximum(worst, np.abs(ours - theirs).max() / deviation))
    return worst


def _turn(worker: Worker, runs: int, threads: int) -> Any:
    if threads > 1:
        time.sleep(_PAUSE_S)
    return worker.ask("time", runs)


def interleave(
    slices: Sequence[Callable[[], Sequence[float]]],
    *,
    rounds: int,
    limit_s: float = float("inf"),
    progress: Callable[[str, int, int, str], None] | None = None,
) -> tuple[list[list[float]], int]:
    """Call every slice once a round, in the same order, and collect what they return.

    Parameters
    ----------
    slices : sequence of callable
        Each measures for a short while and returns its times.
    rounds : int
        How many at most; five of them are done whatever they take.
    limit_s : float
        No round begins later than this after the first.
    progress : callable of (stage, done, total, message), optional
        Called after every round.

    Returns
    -------
    times : list of list of float
        For each slice.
    done : int
        How many rounds there were.
    """
    times: list[list[float]] = [[] for _ in slices]
    began = time.monotonic()
    done = 0
    while done < min(rounds, _MIN_ROUNDS) or (done < rounds and time.monotonic() - began < limit_s):
        for measured, collected in zip(slices, times, strict=True):
            collected.extend(measured())
        done += 1
        if progress is not None:
            progress("measure", done, rounds, f"{len(slices)} in turn")
    if progress is not None:
        progress("measure", rounds, rounds, f"{done} rounds")
    return times, done


def export_onnx(name: str, path: Path, *, shape: tuple[int, ...], seed: int) -> None:
    """Write a model, named as in `Job`, as an ONNX file, in a process of its own.

    Raises
    ------
    MeasurementError
        torch or onnx are missing, or the model cannot be exported.
    """
    job = Job(runtime="export", threads=1, source=name, shapes=(shape,), seed=seed)
    with _worker(job) as worker:
        worker.ask("export", str(path))


def machine() -> dict[str, Any]:
    """What the numbers were measured on and with."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Hardware")):
                model = line.partition(":")[2].strip()
                break
    versions = {}
    for name in ("apache-tvm", "numpy", "torch", "onnxruntime", "scipy", "pyfftw"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def check_same_origin(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to bring two documents of results together that do not belong together.

    Raises
    ------
    InputError
        Their `schema` or `machine` differ.
    """
    for key in ("schema", "machine"):
        if old.get(key) != new[key]:
            raise InputError(
                f"the results there are of {old.get(key)}, the new ones of {new[key]}. "
                "Write to another file, or delete the old one."
            )


def to_json(series: Sequence[Series], **about: Any) -> str:
    """All figures as one JSON document; `about` says what was measured."""
    document = {
        **about,
        "machine": machine(),
        "method": f"interleaved slices of {_SLICE_S} s, one process per runtime and thread count",
        "series": [_row(each, series[0]) for each in series],
    }
    return json.dumps(document, indent=2) + "\n"


def to_csv(series: Sequence[Series]) -> str:
    """The same rows as comma-separated values with a header line."""
    rows = [_row(each, series[0]) for each in series]
    lines = [",".join(rows[0])]
    lines += [",".join(str(value) for value in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def _row(series: Series, first: Series) -> dict[str, Any]:
    return {
        "runtime": series.job.runtime,
        "threads": series.job.threads,
        "median_s": series.median_s,
        "p10_s": series.p10_s,
        "p90_s": series.p90_s,
        "runs": len(series.times_s),
        "rounds": series.rounds,
        "relative_to_first": series.median_s / first.median_s,
        "max_difference_std": series.max_difference,
    }


# ---------------------------------------------------------------- parent's end of a worker


class Worker:
    """A process that answers one request at a time; made by `open_worker`."""

    def __init__(self, name: str, connection: Connection, process: Any, log: Path) -> None:
        self._name, self._connection, self._process, self._log = name, connection, process, log
        self.doing = "its start"  # for errors: in the middle of what

    def call(self, function: str, *arguments: object) -> Any:
        """Call `package.module:function` in the process and give back what it returns.

        Raises
        ------
        MeasurementError
            The process failed, hung or ended; says in the middle of what.
        """
        return self.ask("call", (function, arguments))

    def ask(self, what: str, argument: object) -> Any:
        """Send a request and wait for its answer."""
        try:
            self._connection.send((what, argument))
            if not self._connection.poll(_ANSWER_S):
                raise MeasurementError(
                    f"{self._name} did not answer for {_ANSWER_S:.0f} s and was stopped."
                )
            good, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.wait()
            words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise MeasurementError(
                f"{self._name} ended with status {self._process.returncode} in the middle of "
                f"{self.doing}: {' | '.join(words[-3:]) or 'it said nothing'}."
            ) from None
        if not good:
            raise MeasurementError(f"{self._name} failed on {self.doing}: {answer}")
        return answer


@contextlib.contextmanager
def _worker(job: Job) -> Iterator[Worker]:
    """A worker that has prepared `job`."""
    with open_worker(f"{job.runtime} with {job.threads} threads", threads=job.threads) as worker:
        worker.doing = job.source
        worker.ask("job", job)
        yield worker


@contextlib.contextmanager
def open_worker(name: str, *, threads: int) -> Iterator[Worker]:
    """Start a worker; it is ended when the block is left, however that happens.

    Parameters
    ----------
    name : str
        For errors.
    threads : int
        Threads its numeric libraries may compute with.
    """
    root = str(Path(__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }
    ours, theirs = Pipe()
    with tempfile.TemporaryDirectory(prefix="parc_hw-measure-") as directory:
        log = Path(directory) / "stderr"
        with log.open("wb") as words:
            process = subprocess.Popen(
                [sys.executable, "-m", "parc_hw.measure", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )
        theirs.close()
        try:
            yield Worker(name, ours, process, log)
        finally:
            ours.close()  # the worker ends at the end of its input
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# ---------------------------------------------------------------- the worker's side


def _serve(connection: Connection) -> None:
    """Answer requests until the parent closes its end."""
    run: Callable[[], list[Any]] | None = None
    job: Job | None = None
    while True:
        try:
            what, argument = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer: Any = None
            if what == "job":
                job = argument
                run = _PREPARE[job.runtime](job)
            elif what == "output":
                assert run is not None
                answer = run()
            elif what == "time":
                assert run is not None
                answer = time_calls(run, argument)
            elif what == "call":
                function, arguments = argument
                module, _, attribute = function.partition(":")
                answer = getattr(importlib.import_module(module), attribute)(*arguments)
            elif what == "export":
                assert job is not None
                _export(job, argument)
            connection.send((True, answer))
        except KeyboardInterrupt:
            return
        except Exception as error:
            connection.send((False, f"{type(error).__name__}: {error}"))


def time_calls(run: Callable[[], Any], count: int, *, in_a_row: int = 1) -> list[float]:
    """Seconds of a call of `run`, `count` times, after one that is not timed.

    The untimed one brings caches and clock back after another worker's slice.

    Parameters
    ----------
    run : callable
        What is measured.
    count : int
        How many times are taken.
    in_a_row : int
        Calls between two looks at the clock; a time is their mean.
    """
    run()
    clock = time.perf_counter
    times = []
    more = range(in_a_row - 1)
    for _ in range(count):
        began = clock()
        run()
        for _ in more:
            run()
        times.append((clock() - began) / in_a_row)
    return times


def _inputs(job: Job) -> list[Any]:
    import numpy as np

    generator = np.random.default_rng(job.seed)
    return [generator.standard_normal(shape, np.float32) for shape in job.shapes]


def _prepare_bundle(job: Job) -> Callable[[], list[Any]]:
    from parc_hw.artifact import Bundle

    bound = Bundle.open(Path(job.source)).bind(*_inputs(job), threads=job.threads)

    def run() -> list[Any]:
        bound()
        return list(bound.outputs)

    return run


def _model(job: Job) -> Any:
    module, made_by, function = job.source.partition(":")
    if made_by:
        return getattr(importlib.import_module(module), function)(job.seed)
    from parc_hw import models

    return models.prepare(job.source, seed=job.seed)[0]


def _prepare_torch(job: Job) -> Callable[[], list[Any]]:
    import torch

    torch.set_num_threads(job.threads)
    model = _model(job)
    tensors = [torch.from_numpy(array) for array in _inputs(job)]
    if job.runtime == "torch.compile":
        model = torch.compile(model)
    elif job.runtime == "float64":
        model, tensors = model.double(), [tensor.double() for tensor in tensors]

    def run() -> list[Any]:
        with torch.inference_mode():
            result = model(*tensors)
        return [t.numpy() for t in (result if isinstance(result, tuple | list) else (result,))]

    return run


def _prepare_onnxruntime(job: Job) -> Callable[[], list[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(job.source, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    feed = dict(zip(names, _inputs(job), strict=True))

    def run() -> list[Any]:
        return list(session.run(None, feed))

    return run


def _prepare_openvino(job: Job) -> Callable[[], list[Any]]:
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
        "INFERENCE_PRECISION_HINT": "f32",  # some processors would compute in bfloat16
    }
    compiled = openvino.Core().compile_model(job.source, "CPU", options)
    request = compiled.create_infer_request()
    inputs = _inputs(job)

    def run() -> list[Any]:
        results = request.infer(inputs, share_inputs=True, share_outputs=True)
        return [results[port] for port in compiled.outputs]

    return run


def _nothing(job: Job) -> Callable[[], list[Any]]:
    return list


def _export(job: Job, path: str) -> None:
    import torch

    example = tuple(torch.from_numpy(array) for array in _inputs(job))
    # The exporter that traces: it needs no further package, and 17 is what all peers read.
    torch.onnx.export(_model(job), example, path, dynamo=False, opset_version=17)


_PREPARE: dict[str, Callable[[Job], Callable[[], list[Any]]]] = {
    "parc_hw": _prepare_bundle,
    "torch": _prepare_torch,
    "torch.compile": _prepare_torch,
    "float64": _prepare_torch,
    "onnxruntime": _prepare_onnxruntime,
    "openvino": _prepare_openvino,
    "export": _nothing,
}


if __name__ == "__main__":
    # The classes must be those of the module, not of __main__: `Job` comes by pickle.
    from parc_hw import measure as _module

    _module._serve(Connection(int(sys.argv[1])))
