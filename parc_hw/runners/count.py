"""What does one candidate execute: how often does each block run, and what does its pipeline say?

These functions run in worker processes. The kernel's assembly gets a counter in every block, is
linked into the measuring program, and runs once, under qemu for another machine.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from parc_hw.artifact.toolchain import Emulator, Toolchain, find_emulator, find_toolchain
from parc_hw.count_instructions import BlockCycles, block_cycles, instrumented
from parc_hw.device import Device, Isa
from parc_hw.errors import MeasurementError
from parc_hw.runners.build import description, task_from

__all__ = ["Counted", "count", "features_of"]

_LONG = 20_000  # instructions of a block's repetitions that llvm-mca looks at
_MOST, _FEWEST = 100, 8  # repetitions


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What running a candidate once tells; it ended in `status` ("ok", "wrong", "crashed", "hung").

    Attributes
    ----------
    instructions : float
        Executed by a call.
    cycles, throughput : float
        Of a call as llvm-mca says, `BlockCycles` has both; 0 if it was not asked.
    accesses, prefetches, streamed : float
        Instructions with an operand in memory; that fetch a line; stores past the caches.
    tasks_run, tasks : int
        Iterations of the parallel loop that ran, and all there are.
    """

    status: str
    message: str = ""
    instructions: float = 0.0
    cycles: float = 0.0
    throughput: float = 0.0
    accesses: float = 0.0
    prefetches: float = 0.0
    streamed: float = 0.0
    tasks_run: int = 0
    tasks: int = 0
    note: str = ""
    seconds: float = 0.0


@lru_cache(maxsize=4)
def _tools(device: Device) -> tuple[Toolchain, Emulator]:
    return find_toolchain(device), find_emulator(device)


def count(
    task_text: str,
    choice: dict[str, Any],
    directory: str,
    prefix: str,
    harness: Sequence[str],
    inputs: str,
    expected: str,
    against: dict[str, Any],
    most_macs: int,
    timeout_s: float,
    mca: str,
) -> Counted:
    """Compile a choice with counters and run it.

    Parameters
    ----------
    task_text, choice
        The JSON of a task and of a choice.
    directory, prefix : str
        Where files are written, and what their names begin with.
    harness : sequence of str
        Objects of the measuring program.
    inputs : str
        The file of the task's inputs.
    expected : str
        File of the incumbent's result; it is written if it is not there.
    against : dict
        The JSON of the incumbent.
    most_macs : int
        Tasks are left out of a kernel with more multiply-adds; the others stand for them.
    timeout_s : float
        What the run may take.
    mca : str
        The program llvm-mca, or "" if cycles are not wanted.
    """
    from schedules._tvm import Target, llvm_module
    from schedules.aot import finalize, lower_kernel
    from schedules.tuning.space import Choice

    began = time.monotonic()
    task = task_from(task_text)
    device, chosen = task.device, Choice.from_json(choice)
    tools, emulator = _tools(device)
    scheduled = task.schedule(chosen)
    target = Target(device.llvm_target())
    module, signature = lower_kernel(scheduled.func, f"{prefix}_k0", target)
    assembly = llvm_module(finalize(module), target).inspect_source("asm")
    runs = f"{prefix}_runs"
    text, blocks = instrumented(assembly, signature.symbol, device.isa, runs=runs)
    where = Path(directory)
    files = [where / f"{prefix}{end}" for end in (".s", ".bin", "", ".out")]
    source, blob, program, output = files
    try:
        lines = description(
            scheduled, signature, device, blob, prefix=prefix, counters=(runs, len(blocks))
        )
        source.write_text("\n".join([text, *lines]) + "\n", encoding="utf-8")
        tools.link_executable([*map(Path, harness), source], program, threads=True)
        ranges = _ranges(signature.extent, task.macs, most_macs)
        arguments = [inputs, "run", str(output)]
        arguments += [str(bound) for begin, end in ranges for bound in (begin, end)]
        try:
            done = subprocess.run(
                emulator.command(program, arguments),
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            return Counted(status="hung", message=f"no end within {timeout_s:g} s")
        if done.returncode < 0:
            return Counted(
                status="crashed", message=f"stopped by {signal.Signals(-done.returncode).name}"
            )
        if done.returncode:
            words = done.stderr.strip().splitlines()
            return Counted(
                status="crashed",
                message=f"status {done.returncode}: {words[-1] if words else 'no message'}",
            )
        data = output.read_bytes()
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    times = np.frombuffer(data[: 8 * len(blocks)], "<u8").astype(np.float64)
    result = np.frombuffer(data[8 * len(blocks) :], "<f4")
    allowed = task.tolerance(chosen) + task.tolerance(Choice.from_json(against))
    wrong = _compare(Path(expected), result, allowed)
    if wrong:
        return Counted(status="wrong", message=wrong)
    run = sum(end - begin for begin, end in ranges)
    if signature.extent:
        times *= signature.extent / run
    executed = [(b, float(n)) for b, n in zip(blocks, times, strict=True) if n]
    found = features_of(executed, device)
    cycles, throughput = _cycles(executed, device, mca) if mca else (0.0, 0.0)
    return Counted(
        status="ok",
        cycles=cycles,
        throughput=throughput,
        tasks_run=run,
        tasks=signature.extent,
        note=scheduled.note,
        seconds=time.monotonic() - began,
        instructions=found["instructions"],
        accesses=found["accesses"],
        prefetches=found["prefetches"],
        streamed=found["streamed"],
    )


def _ranges(extent: int, macs: int, most_macs: int) -> list[tuple[int, int]]:
    """The tasks to run: all, or some evenly spread, the first and the last among them."""
    if extent < 3 or macs <= most_macs:
        return [(0, extent)]
    count = max(2, min(extent, round(extent * most_macs / macs)))
    picked = sorted({round(i * (extent - 1) / (count - 1)) for i in range(count)})
    return [(i, i + 1) for i in picked]


def _compare(expected: Path, result: np.ndarray[Any, Any], allowed: float) -> str:
    """Why a result is wrong, or ''; what was not computed by both is not looked at."""
    if not expected.exists():
        if not np.isfinite(result).any():
            raise MeasurementError("the incumbent computes nothing that is finite.")
        fresh = expected.with_name(f"{expected.name}.new")
        fresh.write_bytes(result.tobytes())
        fresh.replace(expected)
        return ""
    right = np.fromfile(expected, "<f4")
    if right.size != result.size:
        return f"{result.size} results, not {right.size}"
    # memory that nothing was written to reads as this NaN
    both = (right.view(np.uint32) != 0xFFFFFFFF) & (result.view(np.uint32) != 0xFFFFFFFF)
    with np.errstate(invalid="ignore"):
        apart = np.abs(result.astype(np.float64) - right)
        bad = both & (result != right) & ~(apart <= allowed)
    if not both.any():
        return "no result was computed by both"
    if not bad.any():
        return ""
    first = int(np.argmax(bad))
    return (
        f"result number {first} is {result[first]:.9g}, not {right[first]:.9g}; accepted is a "
        f"difference of {allowed:.1e}"
    )


# ---------------------------------------------------------------- what blocks cost

_Block = tuple[str, ...]
_known: dict[tuple[str, str, _Block], BlockCycles] = {}


def _cycles(
    executed: Sequence[tuple[_Block, float]], device: Device, mca: str
) -> tuple[float, float]:
    """Sums of runs times cycles, and times throughput; a block that was seen before is not asked for again."""
    fresh: dict[int, list[_Block]] = {}
    for block, _ in executed:
        if (device.triple, device.cpu, block) not in _known:
            count = max(_FEWEST, min(_MOST, _LONG // (4 * len(block))))
            fresh.setdefault(1 << (count.bit_length() - 1), []).append(block)
    for iterations, blocks in fresh.items():
        cycles = block_cycles(blocks, device, iterations=iterations, mca=mca)
        for block, each in zip(blocks, cycles, strict=True):
            _known[(device.triple, device.cpu, block)] = each
    weighed = [(runs, _known[(device.triple, device.cpu, block)]) for block, runs in executed]
    return (
        sum(runs * found.cycles for runs, found in weighed),
        sum(runs * found.throughput for runs, found in weighed),
    )


_ACCESS = {
    Isa.X86_64: re.compile(r"(?!lea|nop|prefetch|v?movnt).*\("),
    Isa.AARCH64: re.compile(r"(?:ld|st)(?!n)"),
    Isa.ARMV7A: re.compile(r"(?:v?ld|v?st|pop|push|vpop|vpush)"),
}
_PREFETCH = re.compile(r"prefetch|prfm|pld")
_STREAM = re.compile(r"v?movnt|stnp")


def features_of(executed: Sequence[tuple[_Block, float]], device: Device) -> dict[str, float]:
    """Instructions of the kinds that a memory term weighs, by `Counted`'s names."""
    patterns = {
        "accesses": _ACCESS[device.isa],
        "prefetches": _PREFETCH,
        "streamed": _STREAM,
    }
    found = dict.fromkeys(patterns, 0.0)
    found["instructions"] = 0.0
    for block, runs in executed:
        found["instructions"] += runs * len(block)
        for name, pattern in patterns.items():
            found[name] += runs * sum(bool(pattern.match(text)) for text in block)
    return found
