"""`parc-hw train`: how were the shipped small networks made?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parc_hw.cli.session import Session
from parc_hw.errors import InputError


def command(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A trainable name, such as parc_canvas.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .safetensors file.")
    ],
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Default: as the shipped weights.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Train a shipped small network again, from shipped data."""
    session: Session = context.obj
    if output.suffix != ".safetensors":
        raise InputError(f"-o {output}: weights are written as .safetensors; end the name so.")
    if output.exists() and not force:
        raise InputError(f"{output} exists; --force replaces it.")
    if not output.parent.is_dir():
        raise InputError(f"{output.parent} is not a directory; make it first.")
    from parc_hw import models

    with session.progress() as progress:
        result = models.train(
            name, output=output, seed=session.seed, epochs=epochs, progress=progress
        )
    session.result(
        {"model": name, "file": str(output), "seed": session.seed, "result": result},
        f"{name}: {result if result is not None else 'trained'}",
        f"written to {output} ({output.stat().st_size / 1024:.0f} KiB); "
        f"use it: parc-hw compile {name} --weights {output} -o DIR",
    )
