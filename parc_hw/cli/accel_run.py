"""`parc-hw accel run`: what does a program compute for an input?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parc_hw.cli import sim_data
from parc_hw.cli.session import Session
from parc_hw.errors import InputError

if TYPE_CHECKING:
    from parc_hw.accel.bundle import AcceleratorBundle


def command(
    context: typer.Context,
    bundle: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What `parc-hw compile --target edge-npu` made."),
    ],
    input: Annotated[
        Path, typer.Option("--input", "-i", metavar="x.npy", help="n x C x H x W floats.")
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", metavar="FILE", help=".npy, .hex, .mem: words. Repeat."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Every unit's work, cycle by cycle, for a viewer."),
    ] = None,
) -> None:
    """Run a program on the simulated machine: the words of `sim model`, word for word."""
    session: Session = context.obj
    files = output or []
    sim_data.check_outputs(files)
    if trace is not None and trace.suffix != ".json":
        raise InputError(f"--trace {trace}: a trace is written as .json; end the name so.")
    from parc_hw.accel.bundle import AcceleratorBundle
    from parc_hw.cli.sim_model import _floats

    opened = AcceleratorBundle.open(bundle)
    x = _floats(input, "--input", opened.input_shape)
    logits = opened.run(x)
    parts = [("output", logits.raw, logits.format, "image, value")]
    written = sim_data.write_words(session, files, parts) if files else []
    if trace is not None:
        _write_trace(session, trace, opened)
        written.append(str(trace))
    flat = logits.values.reshape(len(x), -1)
    largest = [int(row.argmax()) for row in flat]
    document = {
        "bundle": str(bundle),
        "machine": opened.machine.name,
        "images": len(x),
        "format": str(logits.format),
        "shape": list(logits.raw.shape),
        "argmax": largest,
        "files": written,
    }
    session.result(
        document,
        f"{opened.manifest['source']['model']} on {opened.machine.name}, {len(x)} images: shape "
        f"{'x'.join(map(str, logits.raw.shape))}, words of {logits.format}, from "
        f"{flat.min():.5g} to {flat.max():.5g}, largest at {', '.join(map(str, largest))}",
    )


def _write_trace(session: Session, path: Path, bundle: AcceleratorBundle) -> None:
    """Time the program, whose cycles no input changes, and write what every unit did."""
    from parc_hw.accel.trace import trace_events
    from parc_hw.cli.arrays import write_whole

    names = {layer["number"]: layer["name"] for layer in bundle.manifest["layers"]}
    result = bundle.simulate(values=False)
    events = trace_events(bundle.program, result, names)
    write_whole(path, json.dumps(events).encode())
    session.note(f"{path}: {result.cycles} cycles, a cycle shown as a microsecond")
