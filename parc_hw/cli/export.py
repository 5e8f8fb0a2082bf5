"""`parc-hw export`: a model as an ONNX file that any runtime takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parc_hw.cli.model import MODEL_HELP, parse_shapes, resolve
from parc_hw.cli.session import Session
from parc_hw.errors import InputError


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.onnx", help="Replaced when it exists."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .pt or .safetensors checkpoint.")
    ] = None,
    input_shape: Annotated[
        list[str] | None, typer.Option(metavar="1x3x224x224", help="Default: the model's own.")
    ] = None,
) -> None:
    """Write a model as an ONNX file, each ParC as Slice, Concat and Conv."""
    session: Session = context.obj
    if output is None:
        raise InputError("where should the file go? Add -o FILE.onnx, for example -o m.onnx.")
    shapes = parse_shapes(input_shape)
    resolved = resolve(model, shapes=shapes)

    from parc_hw import build

    path, origin = build.export(
        resolved,
        output=output,
        input_shape=shapes[0] if shapes and len(shapes) == 1 else shapes,
        weights=weights,
        seed=session.seed,
    )
    session.result(
        {"file": str(path), "weights": origin, "bytes": path.stat().st_size},
        f"{path}: {model} ({origin}), {path.stat().st_size / 2**20:.1f} MiB",
    )
