"""`parc-hw tune --target` of an accelerator: the best tiles of a model's kernels, simulated."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from parc_hw.cli.budget import PARTIAL
from parc_hw.cli.compile_accel import check_dtype, own_records, read_quantised
from parc_hw.cli.session import ProgressCallback, Session, table
from parc_hw.errors import InputError

if TYPE_CHECKING:
    from parc_hw.accel.description import Description
    from parc_hw.accel.tune import Measured, Record
    from schedules.accel.kernel import Kernel
    from schedules.accel.tiling import Tiling

__all__ = ["check_options", "check_processor", "tune_model"]

_OF_PROCESSORS = (
    "runner", "resume", "kernel", "shortlist", "plan", "threads", "timeout", "tracker", "key",
    "host",
)  # fmt: skip
_OF_ACCELERATORS = ("dtype", "objective", "calibration")


def _given(context: typer.Context, names: tuple[str, ...]) -> str | None:
    """The first of some options that the command line has, as it is written there."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            return f"--{name}"
    return None


def check_options(context: typer.Context, target: str) -> None:
    """Raise when an option is given that has a meaning only where kernels are measured."""
    if option := _given(context, _OF_PROCESSORS):
        raise InputError(
            f"{option} has no meaning for the accelerator {target}, whose kernels are simulated "
            f"here; leave it out."
        )


def check_processor(context: typer.Context, target: str) -> None:
    """Raise when an option is given that has a meaning only for accelerators."""
    if option := _given(context, _OF_ACCELERATORS):
        from parc_hw.accel.description import description_names

        raise InputError(
            f"{option} is for accelerators ({', '.join(description_names())}), and {target} is "
            f"none; leave it out."
        )


@dataclass
class _Tuned:
    """One kernel of a model, and what became of it."""

    kernel: Kernel
    default: Tiling
    calls: int
    weight: float
    tried: list[Measured] = field(default_factory=list)
    record: Record | None = None


def tune_model(
    session: Session,
    model: str,
    *,
    target: str,
    dtype: str | None,
    objective: str,
    limit_s: float | None,
    trials: int | None,
    records: Path | None,
    input_shape: str | None,
    calibration: Path | None,
) -> None:
    """Simulate other tiles of each kernel and keep the best; a finished kernel is on the disk."""
    began = time.monotonic()
    dtype = check_dtype(dtype, target)
    from parc_hw.accel.description import load_description
    from parc_hw.accel.tune import TRIALS, RecordBook, add_record, check_objective
    from parc_hw.records import check_writable

    check_objective(objective)
    machine = load_description(target)
    path = own_records() if records is None else records
    check_writable(path)
    book = RecordBook.load(path if path.exists() else "none", machine)

    def over() -> bool:
        return limit_s is not None and time.monotonic() - began >= limit_s

    shapes = [input_shape] if input_shape else None
    quantised, _ = read_quantised(session, model, dtype, None, shapes, calibration)
    ended = ""
    with session.progress() as progress:
        kernels = _kernels(quantised, machine, progress)
        try:
            for number, each in enumerate(kernels):
                if over():
                    break
                known = book.records.get(_key(each.kernel))
                each.record = book.tune(
                    each.kernel,
                    objective=objective,
                    trials=trials or TRIALS,
                    first=[each.default, *([known.tiling] if known else [])],
                    watch=_watch(progress, each, number, len(kernels)),
                    stop=over,
                )
                add_record(path, each.record)
                progress("tune", number + 1, len(kernels), each.record.name)
            if over():
                ended = "the time ended"
        except KeyboardInterrupt:
            ended = "interrupted"
    _show(session, kernels, path, machine, objective, ended, time.monotonic() - began)
    if ended == "interrupted":
        raise KeyboardInterrupt
    if ended:
        raise typer.Exit(PARTIAL)


def _key(kernel: Kernel) -> str:
    from parc_hw.accel.tune import record_key

    return record_key(kernel)


def _kernels(quantised: Any, machine: Description, progress: ProgressCallback) -> list[_Tuned]:
    """The model's kernels without records, the longest by estimate first."""
    from parc_hw.accel.choose import estimate
    from parc_hw.accel.network import compile_network
    from parc_hw.accel.scheduled import Scheduled, Schedules, kernel_key

    calls: Counter[str] = Counter()
    found: dict[str, tuple[Kernel, Tiling]] = {}

    class Listing(Schedules):
        def get(self, kernel: Kernel) -> Scheduled:
            scheduled = super().get(kernel)
            calls[kernel_key(kernel)] += 1
            found.setdefault(kernel_key(kernel), (kernel, scheduled.tiling))
            return scheduled

    compile_network(
        quantised,
        machine,
        schedules=Listing(machine),
        progress=lambda name, done, total: progress("compile", done + 1, total, name),
    )
    kernels = [
        _Tuned(kernel, tiling, calls[key], calls[key] * estimate(kernel, tiling, machine).cycles)
        for key, (kernel, tiling) in found.items()
    ]
    return sorted(kernels, key=lambda each: -each.weight)


def _watch(
    progress: ProgressCallback, each: _Tuned, number: int, total: int
) -> Callable[[Measured], None]:
    def watch(found: Measured) -> None:
        each.tried.append(found)
        best = min(tried.cycles for tried in each.tried)
        text = f"{each.kernel.name}: trial {len(each.tried)}, {best:,} cycles"
        progress("tune", number, total, text)

    return watch


# ---------------------------------------------------------------- at the end


def _show(
    session: Session,
    kernels: list[_Tuned],
    path: Path,
    machine: Description,
    objective: str,
    ended: str,
    elapsed_s: float,
) -> None:
    """Print what was found and where it is."""
    tuned = [(each, each.record) for each in kernels if each.record is not None]
    rows = table(
        "calls", "cycles", "after", "uJ", "after", "trials", "kernel", "tiles",
        right=("calls", "cycles", "after", "uJ", "trials"), fold="kernel",
    )  # fmt: skip
    for each, record in tuned:
        before = each.tried[0]
        rows.add_row(
            str(each.calls),
            f"{before.cycles:,}",
            f"{record.cycles:,}",
            f"{before.energy_pj / 1e6:.2f}",
            f"{record.energy_pj / 1e6:.2f}",
            str(len(each.tried)),
            record.name,
            "by estimate" if record.tiling == each.default else "changed",
        )
    lines: list[Any] = [rows] if tuned else []
    cycles = [sum(e.calls * e.tried[0].cycles for e, _ in tuned)]
    cycles.append(sum(e.calls * r.cycles for e, r in tuned))
    energy = [sum(e.calls * e.tried[0].energy_pj for e, _ in tuned) / 1e6]
    energy.append(sum(e.calls * r.energy_pj for e, r in tuned) / 1e6)
    if tuned:
        lines.append(
            f"all calls of these kernels, each simulated alone on {machine.name}: "
            f"{cycles[0]:,} cycles before, {cycles[1]:,} after: {cycles[0] / cycles[1]:.3f} times; "
            f"{energy[0]:.4g} uJ before, {energy[1]:.4g} after"
        )
    trials = sum(len(each.tried) for each in kernels)
    lines.append(
        f"{trials} trials by {objective} in {elapsed_s:.0f} s; {len(tuned)} records in {path}"
    )
    if ended:
        lines.append(
            f"{ended}: {len(kernels) - len(tuned)} of {len(kernels)} kernels have no new record; "
            f"what was found is kept, and the same command begins with it"
        )
    session.result(
        {
            "database": str(path),
            "machine": machine.name,
            "description": machine.hash.hex(),
            "objective": objective,
            "ended": ended,
            "elapsed_s": elapsed_s,
            "trials": trials,
            "cycles": {"before": cycles[0], "after": cycles[1]},
            "energy_uj": {"before": energy[0], "after": energy[1]},
            "kernels": [
                {
                    "kernel": each.kernel.name,
                    "calls": each.calls,
                    "trials": len(each.tried),
                    "cycles_before": each.tried[0].cycles if each.tried else None,
                    "energy_pj_before": each.tried[0].energy_pj if each.tried else None,
                    "record": None if each.record is None else _plain(each.record),
                }
                for each in kernels
            ],
        },
        *lines,
    )


def _plain(record: Record) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(record.to_line())
    return data
