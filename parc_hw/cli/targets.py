"""`parc-hw targets`: what can be compiled for, and where does each number come from?"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer

from parc_hw.cli.session import Session, table


def command(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show this one, or this .toml file, with all sources."),
    ] = None,
) -> None:
    """List targets and boards, or show one with the source of each number."""
    from parc_hw.device import device_names, load_device

    session: Session = context.obj
    if name is not None:
        device = load_device(name)
        data = _plain(device)
        rows = table("what", "value", "source")
        for key, value in data.items():
            if key not in ("sources", "name", "title"):
                rows.add_row(key, _text(key, value), device.sources.get(key, ""))
        session.result(data, f"{device.name}: {device.title}", rows)
        return
    listed = table("target", "SIMD", "L1D", "L2", "runs here", "what it is")
    devices = {each: load_device(each) for each in device_names()}
    for each, device in devices.items():
        title = f"this machine: {device.name}" if each == "host" else device.title
        listed.add_row(
            each,
            f"{device.vector_bits}",
            _text("l1d_bytes", device.l1d_bytes),
            _text("l2_bytes", device.l2_bytes),
            "natively" if device.runs_here else "qemu",
            title,
        )
    session.result(
        [{"target": each, **_plain(device)} for each, device in devices.items()],
        listed,
        "`parc-hw targets NAME` shows all numbers with their sources.",
    )


def _plain(device: Any) -> dict[str, Any]:
    data = {f.name: getattr(device, f.name) for f in fields(device)}
    return {**data, "isa": device.isa.value, "features": list(device.features)}


def _text(key: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, int) and key.endswith("_bytes") and value >= 1024:
        mebi = value >= 1 << 20
        return f"{value / (1 << 20):g} MiB" if mebi else f"{value / 1024:g} KiB"
    if isinstance(value, int) and key.endswith("_hz"):
        return f"{value / 1e9:g} GHz"
    return str(value)
