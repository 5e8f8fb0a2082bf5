"""`parc-hw accel estimate`: how many cycles does each layer of a program take, and why?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parc_hw.cli.session import Session, table

if TYPE_CHECKING:
    from rich.table import Table

    from parc_hw.accel.estimate import Estimate


def command(
    context: typer.Context,
    bundle: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What `parc-hw compile --target edge-npu` made."),
    ],
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the layers under the machine's roofline."),
    ] = None,
) -> None:
    """Simulate a program's cycles: each layer's share, what bounds it, bytes and energy."""
    session: Session = context.obj
    from parc_hw.accel.bundle import AcceleratorBundle
    from parc_hw.accel.estimate import estimate_program, plot_roofline

    opened = AcceleratorBundle.open(bundle)
    estimate = estimate_program(opened)
    if plot is not None:
        bits = 8 if opened.manifest["source"]["dtype"] == "int8" else 16
        plot_roofline(plot, estimate, opened.machine, passes=opened.machine.mac.passes(bits, bits))
    source = opened.manifest["source"]
    session.result(
        {"bundle": str(bundle), **source, **estimate.to_json()},
        _table(estimate),
        *_host(estimate),
        _summary(estimate, f"{source['model']} {source['dtype']}", opened.machine.clock.hz),
    )


def _table(estimate: Estimate) -> Table:
    columns = ["layer", "cycles", "share", "at least", "bound by", "busy", "KiB", "uJ", "figures"]
    rows = table(*columns, right=("cycles", "share", "at least", "busy", "KiB", "uJ"), fold="layer")
    for each in estimate.layers:
        rows.add_row(
            each.name,
            f"{each.cycles}",
            f"{100 * each.cycles / max(estimate.cycles, 1):.1f} %",
            f"{each.bound_cycles}",
            each.bound_by,
            f"{100 * each.utilisation:.0f} %",
            f"{each.bytes / 1024:.1f}",
            f"{each.energy_uj:.2f}",
            each.source,
        )
    return rows


def _host(estimate: Estimate) -> list[str]:
    return [
        f"on the host, {100 * each.cycles / max(estimate.cycles, 1):.1f} % of the time (estimated): "
        f"{each.name} ({each.kind}): {each.reason}"
        for each in estimate.layers
        if each.source == "estimated"
    ]


def _summary(estimate: Estimate, what: str, hz: int) -> str:
    simulated = estimate.cycles - estimate.host_cycles
    return (
        f"{what} on {estimate.machine}: {estimate.milliseconds:.3f} ms at {hz / 1e6:g} MHz: "
        f"{simulated} cycles simulated, {estimate.host_cycles} estimated for the host; "
        f"{estimate.macs / 1e6:.0f} M multiply-accumulates, {estimate.bytes / 1e6:.2f} MB moved, "
        f"{estimate.energy_uj:.0f} uJ (simulated). Layers overlap: each one's cycles count from the end of "
        "the one before, and may be fewer than it takes alone, `at least`."
    )
