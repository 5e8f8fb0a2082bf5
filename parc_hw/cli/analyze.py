"""`parc-hw analyze`: what would be compiled, by which kernel, and why?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from parc_hw.cli.model import MODEL_HELP, TARGET_HELP, check_plan, parse_shapes, resolve
from parc_hw.cli.records import RECORDS_HELP, records_for
from parc_hw.cli.session import Session, table


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="NAME", help=TARGET_HELP)
    ] = "host",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .pt or .safetensors checkpoint.")
    ] = None,
    input_shape: Annotated[
        list[str] | None, typer.Option(metavar="1x3x224x224", help="Repeat to see several shapes.")
    ] = None,
    plan: Annotated[
        str, typer.Option(metavar="PLAN", help="auto, direct, fft or N1xN2 for every ParC.")
    ] = "auto",
    records: Annotated[str | None, typer.Option(metavar="FILE", help=RECORDS_HELP)] = None,
) -> None:
    """Show operators, ParC sites with their plans and why, MACs, bytes, and what is unsupported."""
    session: Session = context.obj
    show(session, analyse(session, model, target, weights, input_shape, plan, records))


def analyse(
    session: Session,
    model: str,
    target: str,
    weights: Path | None,
    input_shape: list[str] | None,
    plan: str,
    records: str | None = None,
    threads: int = 1,
) -> list[Any]:
    """Check the arguments and ask `parc_hw.build.analyze` about each input shape.

    `compile --dry-run` does the same.
    """
    check_plan(plan)
    shapes = parse_shapes(input_shape)
    from parc_hw.device import load_device

    load_device(target)  # a misspelled target should not wait for TVM and torch to load
    found = records_for(session, records)
    resolved = resolve(model, shapes=shapes)

    from parc_hw import build

    wanted: list[tuple[int, ...] | None] = [*shapes] if shapes else [None]
    return [
        build.analyze(
            resolved,
            target=target,
            input_shape=shape,
            weights=weights,
            seed=session.seed,
            plan=plan,
            records=found,
            threads=threads,
        )
        for shape in wanted
    ]


def show(session: Session, analyses: list[Any]) -> None:
    """Print each `Analysis`: one row per kernel call, then the sums.

    `-v` adds why each kernel is as it is, `-vv` why others did not apply. The JSON is an object,
    or a list of them for several input shapes.
    """
    documents = [_document(analysis) for analysis in analyses]
    shown = [line for analysis in analyses for line in _lines(session, analysis)]
    session.result(documents[0] if len(documents) == 1 else documents, *shown)


def _lines(session: Session, analysis: Any) -> list[Any]:
    """An analysis for people."""
    detailed = session.verbosity > 0
    columns = ("layer", "operators", "kernel", "MMAC", "KiB", "shape")
    rows = table(
        *columns,
        *(["why"] if detailed else []),
        right=("MMAC", "KiB"),
        fold="why" if detailed else "operators",
    )
    for row in analysis.rows:
        rows.add_row(
            row.name,
            row.ops.replace(".", " "),
            row.rule,
            f"{row.macs / 1e6:.1f}",
            f"{row.bytes / 1024:.0f}",
            _times(row.shape),
            *(["; ".join(filter(None, (row.note, row.tuning)))] if detailed else []),
        )
    shown: list[Any] = [
        f"{analysis.model} at {', '.join(map(_times, analysis.inputs))} for "
        f"{analysis.device.name} ({analysis.weights})",
        rows,
    ]
    if analysis.parc_sites:
        sites = table("ParC site", "shape", "plan and why")
        for row in analysis.parc_sites:
            sites.add_row(row.name, _times(row.shape), row.note)
        shown.append(sites)
    if analysis.near_misses:
        misses = table("no ParC", "why")
        for name, reason in analysis.near_misses:
            misses.add_row(name or "the top module", reason)
        shown.append(misses)
    if session.verbosity > 1:
        shown.append("Kernels that were passed over:")
        shown += [f"  {row.name}: {reason}" for row in analysis.rows for reason in row.refusals]
    shown.append(
        f"{len(analysis.rows)} kernel calls, {len(analysis.parc_sites)} ParC sites, "
        f"{analysis.macs / 1e6:.1f} million MACs, {_bytes(analysis) / 2**20:.1f} MiB read and "
        "written"
    )
    return shown


def _document(analysis: Any) -> dict[str, Any]:
    """An analysis for programs."""
    return {
        "model": analysis.model,
        "weights": analysis.weights,
        "target": analysis.device.name,
        "inputs": analysis.inputs,
        "outputs": analysis.outputs,
        "macs": analysis.macs,
        "bytes": _bytes(analysis),
        "parc_sites": [_row(row) for row in analysis.parc_sites],
        "near_misses": [{"name": name, "reason": reason} for name, reason in analysis.near_misses],
        "rows": [_row(row) for row in analysis.rows],
    }


def _bytes(analysis: Any) -> int:
    """Bytes that all kernel calls read and write."""
    return sum(row.bytes for row in analysis.rows)


_FIELDS = ("name", "ops", "rule", "note", "macs", "bytes", "shape", "refusals", "tuning")


def _row(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _FIELDS}


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
