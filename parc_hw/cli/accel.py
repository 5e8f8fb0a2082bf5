"""`parc-hw accel`: is a machine described rightly, and what does it do with a program?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from parc_hw.cli import accel_estimate, accel_run
from parc_hw.cli.session import Session, table

__all__ = ["make"]


def make(epilog: str) -> typer.Typer:
    """Return the group of the accelerator's commands."""
    group = typer.Typer(
        help="Check the description of an accelerator, run programs on its simulator, and see where "
        "their cycles go.",
        epilog=epilog,
        no_args_is_help=False,
        invoke_without_command=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for function, name, does in (
        (check, "check", "Whether a description is right, and what it says."),
        (accel_run.command, "run", "Run a program on the simulated machine."),
        (accel_estimate.command, "estimate", "Where a program's cycles go, layer by layer."),
    ):
        group.command(name, short_help=does, epilog=epilog)(function)
    return group


def check(
    context: typer.Context,
    description: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.toml", help="A description of the package, or one of your own."
        ),
    ],
) -> None:
    """Check a description: every error with its line and what is accepted; else what it says."""
    from parc_hw.accel.description import FIELDS, load_description

    session: Session = context.obj
    machine = load_description(description)
    rows = table("what", "value", "unit", "meaning")
    for part, keys in FIELDS.items():
        for key, field in keys.items():
            value = getattr(getattr(machine, part), key)
            rows.add_row(f"{part}.{key}", f"{value:,}", field.unit, field.meaning)
        if part == "butterfly":
            for radix, cycles in machine.butterfly.intervals:
                name = f"radix {radix}" if radix else "nodes of a graph"
                rows.add_row(
                    f"{part}.intervals", f"{cycles}", "cycles", f"from one to the next: {name}"
                )
        if part == "vector":
            for function, cycles in machine.vector.cycles:
                rows.add_row(f"{part}.cycles", f"{cycles}", "cycles", f"an element of {function}")
    session.result(_plain(machine), f"{machine.name}: {machine.title}", rows, _summary(machine))


def _summary(machine: Any) -> str:
    hz, mac, bus = machine.clock.hz, machine.mac, machine.external
    peak = 2 * mac.count / mac.interval * hz / 1e9
    bandwidth = bus.bytes_per_cycle * hz / 1e9
    return (
        f"{peak:,.4g} GOP/s of {mac.operand_bits}-bit words, {bandwidth:,.3g} GB/s, "
        f"{mac.count / mac.interval / bus.bytes_per_cycle:,.3g} products per byte to keep both busy. "
        f"Nothing contradicts. Hash {machine.hash.hex()[:16]}."
    )


def _plain(machine: Any) -> dict[str, Any]:
    data: dict[str, Any] = machine.to_json()
    data["butterfly"]["intervals"] = {
        str(radix) if radix else "graph": cycles for radix, cycles in machine.butterfly.intervals
    }
    data["vector"]["cycles"] = dict(machine.vector.cycles)
    return {**data, "hash": machine.hash.hex()}
