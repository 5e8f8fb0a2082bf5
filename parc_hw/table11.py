"""How fast is one ParC here, beside everything else that computes it? The papers' Table 11.

Table 11 times one one-dimensional correlation of a feature map: a single layer. Here it is timed
at the papers' sizes and at those of the networks in the zoo, along either axis, beside
peers in the same rounds. One worker process for each thread pool (`parc_hw.measure`); the
programs are `parc_hw.peers`, what is to be reached is in `parc_hw.table11_goals`.

The result is one document of plain data. Rows can be measured one by one: `merge` joins them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parc_hw import measure
from parc_hw.artifact.toolchain import find_toolchain
from parc_hw.count_instructions import count_instructions, estimate_cycles
from parc_hw.device import Isa, load_device
from parc_hw.errors import InputError, ToolchainError, UnsupportedError
from parc_hw.peers import (
    PROXIES,
    RUNTIMES,
    Entry,
    Size,
    kernel_for,
    proxy_device,
)

__all__ = [
    "DENSE",
    "LAYOUTS",
    "PAPER",
    "QUICK",
    "SIZES",
    "ZOO",
    "Document",
    "count_on_arm",
    "entries",
    "find_size",
    "left_out",
    "measure_sizes",
    "merge",
    "missing_runtimes",
    "new_document",
    "read",
]

Document = dict[str, Any]
Progress = Callable[[str, int, int, str], None]


def _size(height: int, width: int | None = None) -> Size:
    """A map with the channels that networks have at this extent."""
    width = height if width is None else width
    extent = min(height, width)
    channels = 384 if extent <= 10 else 192 if extent <= 20 else 96
    return Size(height, width, channels)


PAPER = tuple(_size(n) for n in (7, 14, 28, 56, 112, 224))
"""Table 11's sizes."""

ZOO = (
    *(_size(n) for n in (8, 10, 16, 20, 32, 40, 64)),
    _size(25, 42),
    _size(50, 84),
    _size(100, 168),
)
"""Sizes at which networks of the zoo really correlate, and the rectangles of detection."""

DENSE = (Size(14, 14, 128), Size(7, 7, 256))
"""Of the dense operator; as many output channels as input channels."""

SIZES = (*PAPER, *ZOO, *DENSE)
QUICK = (PAPER[0], PAPER[1], PAPER[2], DENSE[1])

_COUNTED = PAPER[2:]  # where the floor of the arithmetic is asked for
_PROXY_SIZES = PAPER[:5]
_ARM_SIZES = PAPER[2:5]

_CORRELATIONS = (
    ("cat conv", "NCHW"),
    ("cat conv", "NHWC"),
    ("rfft", "NCHW"),
    ("baddbmm", "NCHW"),
    ("slice concat conv", "NCHW"),
    ("fftw", "NCHW"),
    ("scipy", "NCHW"),
)
_DENSE_PEERS = (("cat conv", "NCHW"), ("cat conv", "NHWC"), ("rfft", "NCHW"))
LAYOUTS = ("NHWC", "NCHW")


def find_size(text: str) -> Size:
    """The size that a user means by `56`, `56x56`, `25x42` or `14x14x128`.

    Raises
    ------
    InputError
        It is none of `SIZES`.

    >>> find_size("28"), find_size("25x42"), find_size("14x14x128")
    (Size(height=28, width=28, channels=96), Size(height=25, width=42, channels=96), \
Size(height=14, width=14, channels=128))
    """
    parts = text.split("x")
    wanted = "x".join(parts * 2 if len(parts) == 1 else parts)
    for size in SIZES:
        if wanted in (str(size), f"{size.height}x{size.width}"):
            return size
    accepted = ", ".join(str(size) for size in SIZES)
    raise InputError(f"size {text!r} is not one of the table's; accepted: {accepted}.")


def entries(size: Size, threads: int) -> list[Entry]:
    """Everything that is timed on one size, one runtime after the other.

    The direct form, the parts of `half`, the proxies and the peak are timed with one thread alone.
    """
    made = partial(Entry, size=size, threads=threads)
    found: list[Entry] = []
    plans = ("auto", "direct") if threads == 1 else ("auto",)
    for axis in ("H", "W"):
        if size in DENSE:
            operator = f"dense {axis}"
            found += [
                made(operator=operator, program="ours", layout=layout, plan=plan)
                for layout in LAYOUTS
                for plan in plans
            ]
            found += [made(operator=operator, program=p, layout=where) for p, where in _DENSE_PEERS]
            continue
        found += [
            made(operator=axis, program="ours", layout=layout, plan=plan)
            for layout in LAYOUTS
            for plan in plans
        ]
        if threads == 1:
            found += [
                made(operator=f"{axis} part", program="ours", layout=layout) for layout in LAYOUTS
            ]
        if threads == 1 and size in _PROXY_SIZES:
            found += [made(operator=axis, program=name, layout="NHWC") for name in PROXIES]
        found += [made(operator=axis, program=p, layout=where) for p, where in _CORRELATIONS]
    if size not in DENSE:
        found += [
            made(operator=operator, program="ours", layout=layout)
            for operator in ("half", "HW")
            for layout in LAYOUTS
        ]
        for operator in ("dw3", "dw7"):
            found.append(made(operator=operator, program="ours", layout="NHWC"))
            found += [made(operator=operator, program="conv", layout=where) for where in LAYOUTS]
    if threads == 1 and size in _COUNTED:
        most = load_device("host").lanes()
        found += [
            made(operator="peak", program=f"{lanes} {what}")
            for lanes in (16, 8, 4)
            for what in ("fma", "fma, add")
            if lanes <= most
        ]
    order = list(RUNTIMES)
    return sorted(found, key=lambda entry: order.index(entry.runtime))


# ---------------------------------------------------------------- measuring

_SLICE_S = 0.008  # of an entry's turn; there are tens of entries, and the machine drifts
_IN_A_ROW = 64
_ROW_S = 0.05  # calls that are slower than that apart are as slow in a row
_PAUSE_S = 0.02  # until the threads of the last runtime have stopped to spin


def missing_runtimes() -> list[str]:
    """What cannot be measured here for want of a package, each with the line that adds it."""
    lines = []
    for runtime, (packages, extra) in RUNTIMES.items():
        absent = [name for name in packages if find_spec(name) is None]
        if absent:
            lines.append(f'{runtime}: needs {", ".join(absent)}; pip install "parc_hw[{extra}]"')
    return lines


def new_document() -> Document:
    """A document without rows, about this machine."""
    return {
        "schema": 1,
        "about": "the papers' Table 11: one ParC on float32 maps of a batch of one",
        "machine": {**measure.machine(), "device": load_device("host").name},
        "method": (
            "interleaved slices, one process for each runtime and number of threads; arrays begin at "
            "cache lines; every result checked against float64 before; ours includes position embedding and bias, peers do "
            f"not; in a row: up to {_IN_A_ROW} calls between two looks at the clock"
        ),
        "missing": [],
        "cases": [],
        "counts": [],
    }


def measure_sizes(
    sizes: Collection[Size],
    *,
    threads: Sequence[int],
    rounds: int = 12,
    peers: bool = True,
    progress: Progress | None = None,
) -> Iterator[Document]:
    """Measure sizes one after the other; give a document of one size as soon as it is done.

    Parameters
    ----------
    sizes : collection of Size
    threads : sequence of int
        For each of them all sizes are measured.
    rounds : int
        In which every program has two turns: calls apart and calls in a row.
    peers : bool
        False: ours alone.
    progress : callable of (stage, done, total, message), optional

    Raises
    ------
    MeasurementError
        A program failed, or computes other numbers than float64 says.
    """
    absent = missing_runtimes() if peers else []
    runtimes = [r for r in RUNTIMES if not any(line.startswith(f"{r}:") for line in absent)]
    if not peers:
        runtimes = ["parc_hw"]
    total, done = len(sizes) * len(threads), 0
    for count in threads:
        with contextlib.ExitStack() as stack:
            workers = {
                runtime: stack.enter_context(
                    measure.open_worker(f"{runtime} with {count} threads", threads=count)
                )
                for runtime in runtimes
            }
            for size in sizes:
                if progress is not None:
                    progress("table11", done, total, f"{size}, {count} threads")
                yield _measure_size(size, count, workers, rounds, absent)
                done += 1
    if progress is not None:
        progress("table11", total, total, f"{total} sizes")


def _measure_size(
    size: Size, threads: int, workers: dict[str, measure.Worker], rounds: int, absent: list[str]
) -> Document:
    missing = [*absent]
    slices: list[Callable[[], list[float]]] = []
    prepared: list[tuple[Entry, Any, dict[str, dict[str, int]] | None, int]] = []
    countable = _can_count(size, threads, missing)
    runtime = ""
    for entry in _possible(entries(size, threads), missing):
        if entry.runtime not in workers:
            continue
        worker = workers[entry.runtime]
        worker.doing = f"{entry.text} on {entry.operator} of {size}"
        ready = worker.call("parc_hw.peers:prepare", entry)
        arithmetic = None
        if (
            countable
            and (entry.program, entry.plan) == ("ours", "auto")
            and entry.operator in ("H", "W")
        ):
            arithmetic = worker.call("parc_hw.peers:count_arithmetic", entry)
        ask = partial(worker.call, "parc_hw.peers:time_entry", entry)
        call_s = min(ask(3, 1))
        in_a_row = max(1, min(_IN_A_ROW, int(_ROW_S / call_s)))
        apart = partial(ask, max(1, min(200, round(_SLICE_S / call_s))), 1)
        if threads > 1 and entry.runtime != runtime:
            apart = partial(_after_pause, apart)
        runtime = entry.runtime
        slices.append(apart)
        # A call that is slow enough is as slow in a row.
        runs = max(1, round(_SLICE_S / call_s / in_a_row))
        slices.append(partial(ask, runs, in_a_row) if in_a_row > 1 else list)
        prepared.append((entry, ready, arithmetic, in_a_row))
    times, done = measure.interleave(slices, rounds=rounds)
    rows = [
        {
            "operator": entry.operator,
            "program": entry.program,
            "layout": entry.layout,
            "plan": entry.plan,
            "runtime": entry.runtime,
            "text": entry.text,
            "note": ready.note,
            "error": _rounded(ready.error),
            "bound": _rounded(ready.bound),
            "arithmetic": arithmetic,
            "apart": _statistics(apart_s, 1),
            "in_a_row": _statistics(row_s or apart_s, in_a_row),
        }
        for (entry, ready, arithmetic, in_a_row), apart_s, row_s in zip(
            prepared, times[::2], times[1::2], strict=True
        )
    ]
    for worker in workers.values():
        worker.call("parc_hw.peers:forget")
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    case = {
        "size": str(size),
        "threads": threads,
        "rounds": done,
        "measured": now.isoformat(),
        "missing": sorted(set(missing)),
        "rows": rows,
    }
    return {**new_document(), "cases": [case]}


def _possible(wanted: list[Entry], missing: list[str]) -> list[Entry]:
    """Without the proxies that this machine cannot be; those go to `missing`."""
    impossible = set()
    for name in PROXIES:
        try:
            proxy_device(name)
        except UnsupportedError as error:
            impossible.add(name)
            missing.append(str(error))
    return [entry for entry in wanted if entry.program not in impossible]


def _can_count(size: Size, threads: int, missing: list[str]) -> bool:
    """Whether arithmetic is counted, for its floor: on x86-64 with a compiler."""
    host = load_device("host")
    if threads != 1 or size not in _COUNTED:
        return False
    if host.isa is not Isa.X86_64:
        missing.append(f"floor: arithmetic is counted on x86_64 alone, not on {host.isa.value}")
        return False
    try:
        find_toolchain(host)
    except ToolchainError as error:
        missing.append(f"floor: {error}")
        return False
    return True


def _after_pause(slice_: Callable[[], list[float]]) -> list[float]:
    time.sleep(_PAUSE_S)
    return slice_()


def _statistics(times: Sequence[float], calls: int) -> dict[str, float]:
    figures = {
        "median_s": statistics.median(times),
        "min_s": min(times),
        "p10_s": measure.quantile(times, 0.1),
        "p90_s": measure.quantile(times, 0.9),
    }
    return {**{k: _rounded(v) for k, v in figures.items()}, "runs": len(times), "calls": calls}


def _rounded(value: float) -> float:
    """To five digits, which is more than a time has."""
    return float(f"{value:.5g}")


# ---------------------------------------------------------------- counts for ARM

_ARM_COUNTED = ("cortex-a76", "cortex-a17")
_ARM_MODELLED = ("cortex-a53", "cortex-a55", "neoverse-n1")


def count_on_arm(progress: Progress | None = None) -> Document:
    """Count what our kernels execute on ARM, in qemu, and weigh it by models of cores.

    Counts are exact and the same on every machine; they are no times.

    Returns
    -------
    Document
        With `counts`, one for each kernel: instructions of one call, and by output (point of the
        result); for the modelled cores cycles by output as llvm-mca has them. What is not
        installed is in `missing`.
    """
    document = new_document()
    wanted = [
        Entry(size=size, operator=operator, program="ours", layout=layout, plan=plan)
        for size in _ARM_SIZES
        for operator, layout, plan in (
            *((axis, where, "auto") for axis in ("H", "W") for where in LAYOUTS),
            ("H", "NHWC", "direct"),
            ("dw3", "NHWC", "auto"),
            ("dw7", "NHWC", "auto"),
        )
    ]
    jobs = [(name, entry) for name in _ARM_COUNTED for entry in wanted]
    jobs += [
        (name, entry)
        for name in _ARM_MODELLED
        for entry in wanted
        if (entry.layout, entry.plan) == ("NHWC", "auto")
    ]
    missing = set()
    for done, (name, entry) in enumerate(jobs):
        if progress is not None:
            progress("count", done, len(jobs), f"{name}, {entry.operator} of {entry.size}")
        device = load_device(name)
        kernel = kernel_for(entry, device)
        try:
            execution = count_instructions(kernel, device)
        except ToolchainError as error:
            missing.add(f"counts for {device.isa.value}: {error}")
            continue
        outputs = entry.size.height * entry.size.width * entry.size.channels
        cycles = tool = None
        if name in _ARM_MODELLED:
            try:
                estimate = estimate_cycles(execution)
                cycles, tool = _rounded(estimate.cycles / outputs), estimate.tool
            except ToolchainError as error:
                missing.add(f"modelled cycles: {error}")
        document["counts"].append(
            {
                "device": name,
                "size": str(entry.size),
                "operator": entry.operator,
                "layout": entry.layout,
                "plan": entry.plan,
                "note": kernel.note,
                "instructions": execution.instructions,
                "instructions_per_output": _rounded(execution.instructions / outputs),
                "modelled_cycles_per_output": cycles,
                "model": tool,
            }
        )
    if progress is not None:
        progress("count", len(jobs), len(jobs), f"{len(jobs)} kernels")
    document["missing"] = sorted(missing)
    return document


# ---------------------------------------------------------------- documents


def merge(old: Document | None, new: Document) -> Document:
    """One document with the rows of both; where both have a size and threads, the new ones.

    Raises
    ------
    InputError
        They are of different machines or versions.
    """
    if old is None:
        return new
    measure.check_same_origin(old, new)
    merged = dict(new)
    order = [str(size) for size in SIZES]
    cases = {(case["threads"], case["size"]): case for case in (*old["cases"], *new["cases"])}
    merged["cases"] = [
        cases[key] for key in sorted(cases, key=lambda key: (key[0], order.index(key[1])))
    ]
    if not (new["counts"] or new["missing"]):  # nothing was counted
        merged["counts"], merged["missing"] = old["counts"], old["missing"]
    return merged


def left_out(document: Document) -> list[str]:
    """What could not be measured or counted, each with what would mend it."""
    lines = {line for case in document["cases"] for line in case["missing"]}
    return sorted(lines.union(document["missing"]))


def read(path: Path) -> Document | None:
    """The document in a file; None where there is no file.

    Raises
    ------
    InputError
        The file holds something else.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not (isinstance(document, dict) and {"machine", "cases", "counts"} <= set(document)):
        raise InputError(
            f"{path} is not a result of `parc-hw bench table11`, to which rows could be added. "
            "Give another file."
        )
    return document
