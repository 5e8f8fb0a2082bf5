"""`parc-hw models`: which networks are there, how large, and what do they expect?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from parc_hw.cli.session import Session, table


def command(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this one in full.")
    ] = None,
) -> None:
    """List the models with parameters and MACs, ours beside the papers', and expected input."""
    from parc_hw import models

    session: Session = context.obj
    if name is not None:
        info = models.info(name)
        rows = table("what", "value")
        for what, value in _facts(info):
            rows.add_row(what, value)
        session.result(asdict(info), f"{info.name}: {info.title}", rows)
        return
    infos = [models.info(each) for each in models.names()]
    columns = ("parameters", "paper", "MACs", "paper ")
    rows = table("model", *columns, "input", "weights", right=columns)
    for info in infos:
        rows.add_row(
            info.name,
            _millions(info.parameters),
            _paper(info.paper_parameters, "M"),
            _millions(info.macs),
            _paper(info.paper_macs, "G"),
            _times(info.input_shape),
            "trained" if info.trained else "untrained",
        )
    session.result(
        [asdict(info) for info in infos],
        rows,
        "paper: as printed there. `parc-hw models NAME` tells what the input must look like.",
    )


def _facts(info: Any) -> list[tuple[str, str]]:
    """What one model is, line by line."""
    low, high = info.value_range
    facts = [
        ("family", info.family),
        ("input", f"{_times(info.input_shape)}, NCHW, float32"),
        ("channel order", info.channel_order),
        ("pixel range", f"{low:g} to {high:g}, then (pixel - mean) / deviation"),
        ("mean", _numbers(info.mean)),
        ("deviation", _numbers(info.std)),
        ("classes", str(info.classes)),
        ("weights", "trained, shipped" if info.trained else "untrained: filled from --seed"),
        ("parameters", f"{info.parameters:,}"),
        ("parameters, paper", _paper(info.paper_parameters, " million")),
        ("parameters, authors' code", f"{info.official_parameters or '-'}"),
        ("MACs", f"{info.macs:,}"),
        ("MACs, paper", _paper(info.paper_macs, " billion")),
    ]
    facts += [("option " + o.name, f"{o.what}; default {o.default!r}") for o in info.options]
    if info.notes:
        facts.append(("notes", info.notes))
    return facts


def _times(shape: Any) -> str:
    return "x".join(map(str, shape))


def _numbers(values: Any) -> str:
    return " ".join(f"{value:g}" for value in values)


def _millions(count: int) -> str:
    return f"{count / 1e9:.2f}G" if count >= 1e9 else f"{count / 1e6:.3g}M"


def _paper(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:g}{unit}"
