"""`parc-hw run`: what does a bundle compute for this input?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from parc_hw.cli.arrays import load_inputs, write_outputs
from parc_hw.cli.session import Session


def command(
    context: typer.Context,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A directory that `parc-hw compile` made.")
    ],
    inputs: Annotated[
        list[Path],
        typer.Option("--input", "-i", metavar="X.npy", help="Repeat for several inputs."),
    ],
    outputs: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="Y.npy", help="Repeat for several outputs."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=64, metavar="N", help="Default: what it was compiled with."),
    ] = None,
) -> None:
    """Run a bundle on .npy inputs: here, or under qemu when it is for a foreign target."""
    session: Session = context.obj
    from parc_hw.artifact import Bundle

    opened = Bundle.open(bundle)
    arrays = load_inputs(inputs, [[port.shape for port in s.inputs] for s in opened.shapes])
    targets = outputs or []
    count = len(opened.outputs)
    if targets and len(targets) != count:
        from parc_hw.errors import InputError

        raise InputError(
            f"{bundle} has {count} output{'s' * (count != 1)}, but -o was given "
            f"{len(targets)} times; give it once for each."
        )
    result = opened.run(*arrays, threads=threads)
    results = result if isinstance(result, tuple) else (result,)
    write_outputs(targets, results)
    rows: list[dict[str, Any]] = []
    for index, array in enumerate(results):
        rows.append(
            {
                "name": opened.outputs[index].name,
                "file": str(targets[index]) if targets else None,
                "shape": list(array.shape),
                "min": float(array.min()),
                "max": float(array.max()),
                "argmax": [int(line.argmax()) for line in array.reshape(len(array), -1)],
            }
        )
    lines = [
        f"{row['name']}: shape {'x'.join(map(str, row['shape']))}, "
        f"from {row['min']:.5g} to {row['max']:.5g}, "
        f"largest at {', '.join(map(str, row['argmax']))}"
        + (f" -> {row['file']}" if row["file"] else "")
        for row in rows
    ]
    session.result({"bundle": str(bundle), "outputs": rows}, *lines)
