"""`parc-hw models`: which networks are there, how large, and what do they expect?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli.session import Session, table

if TYPE_CHECKING:
    from parc_hw.models import ModelInfo

MILLION, BILLION = 10**6, 10**9


def command(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show this one in full.")
    ] = None,
) -> None:
    """List the models: parameters and MACs beside the papers', why they differ, expected input."""
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
    columns = ("params", "paper", "MACs", "paper ")
    rows = table("model", *columns, "input", "order", right=columns)
    for info in infos:
        rows.add_row(
            info.name,
            f"{info.parameters / MILLION:.2f}M",
            _marked(info.parameters, MILLION, info.paper_parameters),
            f"{info.macs / BILLION:.3g}G" if info.macs < BILLION else f"{info.macs / BILLION:.2f}G",
            _marked(info.macs, BILLION, info.paper_macs),
            times(info.input_shape),
            info.channel_order,
        )
    reasons = table("differs *", "why")
    for info in filter(is_different, infos):
        reasons.add_row(info.name, info.notes)
    inputs = table("order", "what a pixel is")
    for order, text in expected_inputs(infos).items():
        inputs.add_row(order, text)
    trained = " and ".join(info.name for info in infos if info.trained)
    session.result(
        [asdict(info) for info in infos],
        rows,
        "",
        reasons,
        "",
        inputs,
        "",
        f"{trained} carry trained weights.\n"
        "The others get yours (--weights), or are filled from --seed.\n"
        "`parc-hw models NAME` tells all about one.",
    )


def printed(value: float | None, unit: str = "") -> str:
    """A paper's number as the paper prints it: 4.0 keeps its zero, 15 gets none."""
    return "-" if value is None else f"{value}{unit}"


def differs(count: int, unit: int, paper: float | None) -> bool:
    """Whether `count`, rounded as the paper prints its number, is another number."""
    if paper is None:
        return False
    decimals = len(printed(paper).partition(".")[2])
    return round(count / unit, decimals) != paper


def is_different(info: ModelInfo) -> bool:
    """Whether the paper prints other parameters or MACs than ours."""
    return differs(info.parameters, MILLION, info.paper_parameters) or differs(
        info.macs, BILLION, info.paper_macs
    )


def expected_inputs(infos: Sequence[ModelInfo]) -> dict[str, str]:
    """For each channel order, what becomes of a pixel before the network sees it."""
    texts = {}
    for info in infos:
        low, high = info.value_range
        text = f"{low:g} to {high:g}"
        if any(info.mean) or set(info.std) != {1.0}:
            text += f", minus {_numbers(info.mean)}, divided by {_numbers(info.std)}"
        texts[info.channel_order] = text  # one per order: a test holds the registry to that
    return texts


def times(shape: Sequence[int]) -> str:
    """1x3x224x224."""
    return "x".join(map(str, shape))


def _facts(info: Any) -> list[tuple[str, str]]:
    """What one model is, line by line."""
    low, high = info.value_range
    facts = [
        ("family", info.family),
        ("input", f"{times(info.input_shape)}, NCHW, float32"),
        ("channel order", info.channel_order),
        ("pixel range", f"{low:g} to {high:g}, then (pixel - mean) / deviation"),
        ("mean", _numbers(info.mean)),
        ("deviation", _numbers(info.std)),
        ("classes", str(info.classes)),
        ("weights", "trained, shipped" if info.trained else "untrained: filled from --seed"),
        ("parameters", f"{info.parameters:,}"),
        ("parameters, paper", printed(info.paper_parameters, " million")),
        (
            "parameters, authors' code",
            "-" if info.official_parameters is None else f"{info.official_parameters:,}",
        ),
        ("MACs", f"{info.macs:,}"),
        ("MACs, paper", printed(info.paper_macs, " billion")),
    ]
    facts += [("option " + o.name, f"{o.what}; default {o.default!r}") for o in info.options]
    if info.notes:
        facts.append(("notes", info.notes))
    return facts


def _numbers(values: Any) -> str:
    return " ".join(f"{value:g}" for value in values)


def _marked(count: int, unit: int, paper: float | None) -> str:
    """The paper's number, with a star where ours is another."""
    return printed(paper) + ("*" if differs(count, unit, paper) else "")
