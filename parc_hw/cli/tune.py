"""`parc-hw tune`: the best choices for a model's kernels on a device, measured."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli import compile_accel, tune_accel
from parc_hw.cli.budget import PARTIAL, seconds
from parc_hw.cli.model import MODEL_HELP, TARGET_HELP, check_plan, parse_shapes, resolve
from parc_hw.cli.records import own_database
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError, MeasurementError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from parc_hw.tune import Progress, TuneResult

_EVERY_S = 5.0  # between plain lines
_MOST_ROWS = 24  # of the live table
_SCALES = {"s": (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))}


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="NAME", help=TARGET_HELP)
    ] = "host",
    runner: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Who measures: local, rpc, ssh, qemu (counts) or static (a model)."
        ),
    ] = "local",
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of each kernel, at most.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="30m", help="Stop after so long with what there is.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the trials of the last session.")
    ] = False,
    kernel: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only kernels of this rule, such as parc. Repeatable."),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The database; by default one of yours for all models."),
    ] = None,
    shortlist: Annotated[
        bool, typer.Option("--shortlist", help="Measure only what the static model ranks best.")
    ] = False,
    input_shape: Annotated[
        str | None, typer.Option(metavar="1x3x224x224", help="Default: the model's own.")
    ] = None,
    plan: Annotated[
        str, typer.Option(metavar="PLAN", help="auto lets the tuner choose the plan of a ParC.")
    ] = "auto",
    threads: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Threads that share a kernel.")
    ] = 1,
    timeout: Annotated[
        str, typer.Option(metavar="10s", help="What a call of one candidate may take.")
    ] = "10s",
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of TVM's RPC tracker, for rpc.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the boards at the tracker, for rpc.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="USER@BOARD", help="Where to measure, for ssh.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="int8|int16", help="Words; for accelerators, which are simulated."),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(metavar="WHAT", help="cycles, energy or product of both; for accelerators."),
    ] = "cycles",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="x.npy", help="Images that --dtype takes ranges from; the zoo has its own."
        ),
    ] = None,
) -> None:
    """Measure choices for a model's kernels and keep the best; `compile` then uses them.

    Kernels are tuned in the order of the time they take. Every trial is on the disk before the next:
    after Ctrl-C or a kill, --resume goes on.
    """
    session: Session = context.obj
    limit_s = None if time is None else seconds(time)
    if compile_accel.is_accelerator(target):
        tune_accel.check_options(context, target)
        tune_accel.tune_model(
            session,
            model,
            target=target,
            dtype=dtype,
            objective=objective,
            limit_s=limit_s,
            trials=trials,
            records=records,
            input_shape=input_shape,
            calibration=calibration,
        )
        return
    tune_accel.check_processor(context, target)
    check_plan(plan)
    shapes = parse_shapes([input_shape] if input_shape else None)
    database = own_database() if records is None else records
    from parc_hw.device import load_device
    from parc_hw.records import check_writable
    from parc_hw.runners import make_runner

    device = load_device(target)
    check_writable(database)
    options: dict[str, Any] = {"threads": threads, "jobs": session.jobs}
    began = clock.monotonic()
    with ExitStack() as stack:
        measurer = stack.enter_context(
            make_runner(
                runner,
                device=device,
                timeout_s=seconds(timeout),
                tracker=tracker,
                key=key,
                host=host,
                **options,
            )
        )
        lister = None
        if shortlist:
            if runner in ("static", "qemu"):
                raise InputError(f"--shortlist is for runners that take time; {runner} counts.")
            lister = stack.enter_context(make_runner("static", device=device, **options))
        resolved = resolve(model, shapes=shapes)

        from parc_hw import build
        from parc_hw.tune import described, model_sites, tune

        session.note(f"{model} for {described(device)}: choosing kernels")
        lowering = build.schedule(
            resolved,
            target=device,
            input_shape=shapes[0] if shapes else None,
            seed=session.seed,
            plan=plan,
            records=None,
        )
        sites = model_sites(lowering, plan=plan, threads=threads, kernels=kernel or ())
        if limit_s is not None:  # the model's import is a part of it
            limit_s = max(1.0, limit_s - (clock.monotonic() - began))
        with _watching(session, began, limit_s) as watch:
            result = tune(
                sites,
                measurer,
                database=database,
                title=f"{model} {input_shape or ''} {' '.join(kernel or ())}".strip(),
                trials=trials,
                time_s=limit_s,
                resume=resume,
                seed=session.seed,
                warm=_warm(),
                shortlist=lister,
                watch=watch,
            )
    _show(session, result)
    if result.ended == "interrupted":
        raise KeyboardInterrupt
    if all(each.record is None for each in result.kernels) and not result.ended:
        worst = next(each.state for each in result.kernels)
        raise MeasurementError(f"no kernel could be tuned; the first {worst}")
    if result.ended:
        raise typer.Exit(PARTIAL)


def _warm() -> Any:
    from schedules.tuning.database import committed

    return committed()


# ---------------------------------------------------------------- while it goes on


@contextmanager
def _watching(
    session: Session, began: float, limit_s: float | None
) -> Iterator[Callable[[Sequence[Progress]], None]]:
    """A live table on a terminal, plain lines elsewhere."""
    until = None if limit_s is None else clock.monotonic() + limit_s
    if session.verbosity < 0:
        yield lambda kernels: None
        return
    if not session.err.is_terminal or session.err.is_dumb_terminal:
        yield _Lines(session.err, until)
        return
    from rich.live import Live

    with Live(console=session.err, auto_refresh=False, transient=True) as live:
        shown = 0.0

        def draw(kernels: Sequence[Progress]) -> None:
            nonlocal shown
            now = clock.monotonic()
            if now - shown > 0.1:
                shown = now
                live.update(_live_table(session.err, kernels, until), refresh=True)

        yield draw


def _live_table(console: Console, kernels: Sequence[Progress], until: float | None) -> Table:
    rows = table("kernel", "share", "best", "trial", "failed", "state", right=("share", "best"))
    if until is not None:
        rows.title = f"{_left(until)} left"
    whole = sum(kernel.weight for kernel in kernels) or 1.0
    most = max(3, min(_MOST_ROWS, console.height - 6))
    now = [k for k in kernels if k.state in ("measuring", "confirming")]
    listed = [*now, *(k for k in kernels if k not in now)][:most]
    for kernel in (k for k in kernels if k in listed):
        rows.add_row(
            kernel.site.task.title,
            f"{100 * kernel.weight / whole:.0f} %" if kernel.cost else "",
            _gain(kernel),
            f"{kernel.trials} of {kernel.budget}" if kernel.budget else "",
            _failed(kernel),
            kernel.state,
        )
    if len(kernels) > len(listed):
        rows.caption = f"and {len(kernels) - len(listed)} more"
    return rows


class _Lines:
    """A line when a kernel's state changes, and one every few seconds."""

    def __init__(self, console: Console, until: float | None) -> None:
        self._console = console
        self._until = until
        self._states: dict[str, str] = {}
        self._printed = 0.0

    def __call__(self, kernels: Sequence[Progress]) -> None:
        now = clock.monotonic()
        for number, kernel in enumerate(kernels, 1):
            name = kernel.site.task.key
            if kernel.state == "waiting":
                continue
            changed = self._states.get(name) != kernel.state
            active = kernel.state == "measuring" and now - self._printed >= _EVERY_S
            if not changed and not active:
                continue
            self._states[name] = kernel.state
            self._printed = now
            parts = [
                f"kernel {number}/{len(kernels)}",
                kernel.site.task.title,
                f"trial {kernel.trials} of {kernel.budget}" if kernel.budget else "",
                f"best {_gain(kernel)}" if kernel.ratio else "",
                f"failed {_failed(kernel)}" if kernel.failures else "",
                kernel.state,
                f"{_left(self._until)} left" if self._until is not None else "",
            ]
            self._console.print(
                "  ".join(part for part in parts if part), markup=False, soft_wrap=True
            )


def _gain(kernel: Progress) -> str:
    return "" if kernel.ratio is None else f"{1 / kernel.ratio.mid:.3f}x"


def _failed(kernel: Progress) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(kernel.failures.items()))


def _left(until: float) -> str:
    left = max(0.0, until - clock.monotonic())
    return f"{int(left // 60)}:{int(left % 60):02d}"


# ---------------------------------------------------------------- at the end


def _show(session: Session, result: TuneResult) -> None:
    """Print what was found and where it is."""
    rows = table(
        "kernel", "calls", "default", "best", "at least", "trials", "failed", "choice",
        right=("calls", "default", "best", "at least", "trials"),
    )  # fmt: skip
    for kernel in result.kernels:
        record = kernel.record
        rows.add_row(
            kernel.site.task.title,
            str(kernel.site.calls),
            _cost(kernel.cost, result.unit) if kernel.cost else "",
            f"{record.gain:.3f}x" if record else "",
            f"{1 / record.ratio[2]:.3f}x" if record else "",
            str(kernel.trials),
            _failed(kernel),
            (_changed(kernel) if record else kernel.state),
        )
    made = sum(kernel.record is not None for kernel in result.kernels)
    lines: list[Any] = [rows]
    if result.before:
        lines.append(
            f"all calls of these kernels: {_cost(result.before, result.unit)} before, "
            f"{_cost(result.after, result.unit)} after: {result.before / result.after:.3f} times"
        )
    if result.trust:
        lines.append(result.trust)
    lines.append(
        f"{result.trials} trials in {result.elapsed_s:.0f} s "
        f"({result.trials / max(result.elapsed_s, 1e-9):.1f} per second); {made} records in "
        f"{result.database}; every trial is in {result.journal}"
    )
    if result.ended:
        lines.append(f"{result.ended}: the same command with --resume goes on")
    session.result(_document(result), *lines)


def _changed(kernel: Progress) -> str:
    """The dimensions in which the choice is not the default."""
    assert kernel.record is not None
    changed = [
        f"{name}={value}"
        for name, value in sorted(kernel.record.choice.items())
        if value != kernel.record.default.get(name)
    ]
    return " ".join(changed) or "the default"


def _cost(value: float, unit: str) -> str:
    for name, scale in _SCALES.get(unit, ()):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.4g} {unit}"


def _document(result: TuneResult) -> dict[str, Any]:
    return {
        "database": str(result.database),
        "journal": str(result.journal),
        "ended": result.ended,
        "elapsed_s": result.elapsed_s,
        "trials": result.trials,
        "unit": result.unit,
        "trust": result.trust,
        "before": result.before,
        "after": result.after,
        "kernels": [
            {
                "kernel": kernel.site.task.kernel,
                "title": kernel.site.task.title,
                "shape": kernel.site.task.shape,
                "layers": list(kernel.site.names),
                "state": kernel.state,
                "points": kernel.points,
                "trials": kernel.trials,
                "failures": dict(kernel.failures),
                "default_cost": kernel.cost,
                "record": kernel.record,
            }
            for kernel in result.kernels
        ],
    }
