"""`parc-hw compile`: from a model to a verified bundle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.accel.description import description_names
from parc_hw.cli import analyze, compile_accel
from parc_hw.cli.model import MODEL_HELP, TARGET_HELP, check_plan, parse_shapes, resolve
from parc_hw.cli.records import RECORDS_HELP, records_for
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError, nearest

if TYPE_CHECKING:
    from rich.table import Table

_DUMPS = ("relax", "tir", "ll", "asm")


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="The bundle; written whole or not."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="NAME", help=TARGET_HELP)
    ] = "host",
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .pt or .safetensors checkpoint.")
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="1x3x224x224", help="Default: the model's own. Repeat to accept several."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Prefix of all symbols and files, a C identifier."),
    ] = None,
    plan: Annotated[
        str, typer.Option(metavar="PLAN", help="auto, direct, fft or N1xN2 for every ParC.")
    ] = "auto",
    threads: Annotated[
        int,
        typer.Option(
            min=1, max=64, metavar="N", help="Threads of the bundle's own example and test."
        ),
    ] = 1,
    records: Annotated[str | None, typer.Option(metavar="FILE", help=RECORDS_HELP)] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="int8|int16", help="Words; for accelerators, which have no others."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="x.npy", help="Images that --dtype takes ranges from; the zoo has its own."
        ),
    ] = None,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not run and compare it with the source.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    dump: Annotated[
        str, typer.Option(metavar="LIST", help="Of relax,tir,ll,asm: keep in DIR/dump.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be compiled; write nothing.")
    ] = False,
) -> None:
    """Compile a model to a freestanding library, and verify it against the source model."""
    session: Session = context.obj
    if accelerated := compile_accel.is_accelerator(target):
        _only_libraries(target, {"--name": name, "--dump": dump, "--dry-run": dry_run})
    elif dtype not in (None, "f32") or calibration is not None:
        raise InputError(
            f"--target {target} is a processor, and libraries compute in f32: --dtype and "
            f"--calibration are for accelerators ({', '.join(description_names())})."
        )
    if dry_run:
        shown = analyze.analyse(
            session, model, target, weights, input_shape, plan, records, threads
        )
        analyze.show(session, shown)
        return
    if output is None:
        raise InputError(
            "where should the bundle go? Add -o DIR, for example -o build/canvas, or --dry-run."
        )
    check_plan(plan)
    if accelerated:
        if plan not in ("auto", "direct"):
            raise InputError(
                f"--plan {plan}: a network's words are exact sums, which only the direct plan "
                f"gives. Leave --plan out."
            )
        compile_accel.compile_program(
            session,
            model,
            output=output,
            target=target,
            dtype=dtype,
            weights=weights,
            input_shape=input_shape,
            calibration=calibration,
            records=records,
            verify=not no_verify,
            force=force,
        )
        return
    kinds = _parse_dump(dump)
    shapes = parse_shapes(input_shape)
    from parc_hw.device import load_device

    load_device(target)  # a misspelled target should not wait for TVM and torch to load
    found = records_for(session, records)
    resolved = resolve(model, shapes=shapes)

    from parc_hw import build

    with session.progress() as progress:
        bundle = build.compile(
            resolved,
            target=target,
            input_shape=shapes,
            output=output,
            weights=weights,
            seed=session.seed,
            name=name if name or isinstance(resolved, str | Path) else build.default_name(model),
            plan=plan,
            threads=threads,
            records=found,
            verify=not no_verify,
            force=force,
            dump=kinds,
            progress=progress,
        )
    manifest = bundle.manifest
    session.result(
        {"bundle": str(output), "manifest": manifest},
        _sizes(manifest),
        *_tuned(manifest),
        f"{output}: {manifest['source']['model']} for {bundle.device.name}, "
        f"{manifest['source']['weights']}, {_verified(manifest)}",
    )


def _only_libraries(target: str, given: dict[str, Any]) -> None:
    """Raise when an option is given that a program for an accelerator has no use for."""
    for option, value in given.items():
        if value:
            raise InputError(f"{option} has no meaning for the accelerator {target}; leave it out.")


def _tuned(manifest: dict[str, Any]) -> list[Any]:
    """Which tuning record each kernel uses, or why none does."""
    layers = [layer for shape in manifest["shapes"] for layer in shape["layers"]]
    used = {record["id"]: record for record in manifest["source"].get("records", [])}
    shown: list[Any] = []
    if used:
        rows = table("tuning record", "layers", "faster", "choice", right=("layers", "faster"))
        for name, record in used.items():
            changed = {k: v for k, v in record["choice"].items() if v != record["default"].get(k)}
            rows.add_row(
                name,
                str(sum(layer["record"] == name for layer in layers)),
                f"{record['gain']:.2f}x" if changed else "",
                " ".join(f"{key}={value}" for key, value in sorted(changed.items()))
                or f"the default, best of {record['trials']}",
            )
        shown.append(rows)
    reasons = Counter(layer["untuned"] for layer in layers if layer.get("untuned"))
    shown += [
        f"{count} layer{'s' * (count > 1)} without a tuning record: {reason}"
        for reason, count in reasons.most_common()
    ]
    return shown


def _sizes(manifest: dict[str, Any]) -> Table:
    """How large the parts of a bundle are, as its manifest has it."""
    memory = manifest["memory"]
    rows = table("what", "KiB", "", right=("KiB",))
    for what, size, note in (
        ("code", memory["code_bytes"], f"{len(manifest['kernels'])} kernels"),
        ("weights", manifest["weights"]["bytes"], ""),
        ("arena", memory["arena_bytes"], f"{_ratio(memory)} times what is live at one call"),
        (
            "workspace",
            memory["workspace_bytes"],
            _workspace(manifest["threads"]),
        ),
    ):
        rows.add_row(what, f"{size / 1024:.0f}", note)
    return rows


def _ratio(memory: dict[str, int]) -> str:
    return f"{memory['arena_bytes'] / max(memory['live_peak_bytes'], 1):.2f}"


def _workspace(threads: int) -> str:
    return f"arena and scratch of {threads} thread{'s' * (threads != 1)}"


def _verified(manifest: dict[str, Any]) -> str:
    report = manifest["verification"]
    if not report:
        return "not verified"
    on = manifest["source"].get("verified_on", "stored vectors")
    return f"verified on {on}: worst error {report['worst']:.1e} of the deviation"


def _parse_dump(text: str) -> tuple[str, ...]:
    kinds = tuple(kind for kind in text.split(",") if kind)
    for kind in kinds:
        if kind not in _DUMPS:
            raise InputError(
                f"--dump {kind!r} is not a stage.{nearest(kind, _DUMPS)} "
                f"Accepted, separated by commas: {', '.join(_DUMPS)}."
            )
    return tuple(dict.fromkeys(kinds))
