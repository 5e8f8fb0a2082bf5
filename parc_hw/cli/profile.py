"""`parc-hw profile`: where does a bundle spend its time, or its instructions?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError

if TYPE_CHECKING:
    from parc_hw.profile import LayerProfile, Profile


def command(
    context: typer.Context,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A directory that `parc-hw compile` made.")
    ],
    instructions: Annotated[
        bool,
        typer.Option("--instructions", help="Count on this machine too, where times can be had."),
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600.0, metavar="S", help="How long to measure times.")
    ] = 5.0,
    threads: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="Threads of a timed run.")
    ] = 1,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The source of a foreign bundle, if it was a file."),
    ] = None,
    by_share: Annotated[
        bool, typer.Option("--by-share", help="The most expensive first, not the model's order.")
    ] = False,
) -> None:
    """Show every layer's time and GFLOP/s; for a foreign target its executed instructions."""
    session: Session = context.obj
    from parc_hw.artifact import Bundle
    from parc_hw.cli.model import resolve
    from parc_hw.profile import count_bundle, time_bundle

    opened = Bundle.open(bundle)
    if opened.device.runs_here and not instructions:
        if model is not None:
            raise InputError("--model is for counting instructions; times need the bundle alone.")
        profile = time_bundle(opened, seconds=seconds, threads=threads)
    else:
        if threads != 1:
            raise InputError(f"instructions are counted with one thread, not {threads}.")
        shapes = [port.shape for port in opened.inputs]
        source = None if model is None else resolve(model, shapes=shapes)
        with session.progress() as progress:
            profile = count_bundle(opened, model=source, progress=progress)
    _show(session, bundle, profile, by_share=by_share)


def _show(session: Session, bundle: Path, profile: Profile, *, by_share: bool) -> None:
    timed = profile.total_s is not None
    unit = "ms" if timed else "M instr."
    numbers = (unit, "share", *(("GFLOP/s", "of peak") if timed else ("MAC/instr.",)), "KiB out")
    rows = table("layer", "operators", "kernel", *numbers, right=numbers, fold="operators")

    def spent(layer: LayerProfile) -> float:
        return (layer.time_s if timed else layer.instructions) or 0.0

    total = sum(map(spent, profile.layers)) or 1.0
    layers = sorted(profile.layers, key=spent, reverse=True) if by_share else profile.layers
    for layer in layers:
        rate = layer.macs / spent(layer) if spent(layer) else 0.0
        last = [f"{layer.result_bytes / 1024:.0f}"]
        if timed and profile.peak_flops:
            flops = 2.0 * rate
            shown = ["", ""] if not layer.macs else [
                f"{1e-9 * flops:.1f}", f"{100 * flops / profile.peak_flops:.0f} %"
            ]  # fmt: skip
        else:
            shown = [f"{rate:.2f}" if layer.macs else ""]
        value = f"{1e3 * spent(layer):.3f}" if timed else f"{1e-6 * spent(layer):.3f}"
        rows.add_row(
            layer.name,
            layer.ops.replace(".", " "),
            layer.rule,
            value,
            f"{100 * spent(layer) / total:.1f} %",
            *shown,
            *last,
        )
    session.result({"bundle": str(bundle), **profile.to_json()}, rows, _summary(profile))


def _summary(profile: Profile) -> str:
    macs = f"{1e-6 * profile.macs:.1f} million MACs"
    if profile.total_s is None or profile.peak_flops is None:
        count = profile.instructions or 0
        return (
            f"{1e-6 * count:.1f} million instructions of {profile.target}, {macs}; a count of what "
            "the kernels execute, which is no time"
        )
    flops = 2.0 * profile.macs / profile.total_s
    threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
    return (
        f"{1e3 * profile.total_s:.2f} ms a run ({threads}, median), {macs}, "
        f"{1e-9 * flops:.1f} GFLOP/s: {100 * flops / profile.peak_flops:.0f} % of the "
        f"{1e-9 * profile.peak_flops:.0f} GFLOP/s that one thread reaches on registers"
    )
