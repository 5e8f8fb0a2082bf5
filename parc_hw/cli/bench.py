"""`parc-hw bench`: how fast is a bundle beside its peers, measured in the same run?"""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli.arrays import write_whole
from parc_hw.cli.model import parse_shape
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from parc_hw.artifact import Bundle, Shape

_AGREES = 1e-3  # of the output's standard deviation: the tolerance of verification


def command(
    context: typer.Context,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A bundle compiled for this machine.")
    ],
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, max=64, metavar="N", help="Repeat for several; default 1."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, max=3600.0, metavar="S", help="Measuring time of each runtime."),
    ] = 5.0,
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="1x3x224x224", help="One that it accepts; default the first."),
    ] = None,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Measure the bundle alone.")] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", metavar="FILE", help=".json or .csv; may be repeated."),
    ] = None,
) -> None:
    """Measure a bundle and, interleaved with it, PyTorch and ONNX Runtime on the same model."""
    session: Session = context.obj
    files = output or []
    for file in files:
        if file.suffix not in (".json", ".csv"):
            raise InputError(f"-o {file}: results are written as .json or .csv; end the name so.")
    from parc_hw import measure
    from parc_hw.artifact import Bundle

    opened = Bundle.open(bundle)
    if not opened.device.runs_here:
        raise UnsupportedError(
            f"{bundle} is for {opened.device.name}, which this machine only emulates; times under "
            "qemu mean nothing. Compile the model with --target host to measure it here."
        )
    shape = _chosen(opened, input_shape)
    shapes = tuple(port.shape for port in shape.inputs)
    source = opened.manifest.get("source", {})
    model = source.get("model", "")
    counts = list(dict.fromkeys(threads or [1]))
    seed, own_weights = _weights(session, str(source.get("weights", "")))
    with tempfile.TemporaryDirectory(prefix="parc_hw-bench-") as directory:
        runtimes = {"parc_hw": str(bundle)}
        if not no_peers:
            runtimes |= _peers(session, model, shapes, seed, Path(directory))
            if own_weights and len(runtimes) > 1:
                session.warn(
                    f"the bundle has {source['weights']}, its peers have not: the times can be "
                    "compared, the numbers cannot."
                )
        jobs = [
            measure.Job(runtime=runtime, threads=count, source=where, shapes=shapes, seed=seed)
            for count in counts
            for runtime, where in runtimes.items()
        ]
        with session.progress() as progress:
            series = measure.measure(jobs, seconds=seconds, progress=progress)
    about = {
        "bundle": bundle.name,
        "model": model,
        "target": opened.device.name,
        "input": shape.text,
    }
    document = measure.to_json(series, **about)
    for file in files:
        text = document if file.suffix == ".json" else measure.to_csv(series)
        write_whole(file, text.encode())
    show(session, document)


def _chosen(bundle: Bundle, text: str | None) -> Shape:
    """The set of input shapes to measure: the one whose first input has the shape in `text`."""
    if text is None:
        return bundle.shapes[0]
    wanted = parse_shape(text)
    for shape in bundle.shapes:
        if shape.inputs[0].shape == wanted:
            return shape
    accepted = "; or ".join(shape.text for shape in bundle.shapes)
    raise InputError(f"--input-shape {text}: {bundle.path} takes {accepted}.")


def _weights(session: Session, text: str) -> tuple[int, bool]:
    """The seed the bundle's model was filled from, and whether its weights came from a file."""
    before, marker, seed = text.partition("filled from seed ")
    if marker and seed.isdecimal():
        return int(seed), False
    return session.seed, before.startswith("weights from")


def _peers(
    session: Session,
    model: str,
    shapes: tuple[tuple[int, ...], ...],
    seed: int,
    directory: Path,
) -> dict[str, str]:
    """The runtimes to compare with, as far as they are installed and know the model."""
    from parc_hw import measure, models

    if model not in models.names():
        session.warn(f"{model or 'this model'} is not in the zoo: it is measured without peers.")
        return {}
    if find_spec("torch") is None:
        session.warn('PyTorch is not installed: pip install "parc_hw[torch]" adds it as a peer.')
        return {}
    peers = {"torch": model}
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        session.warn('ONNX Runtime is not installed: pip install "parc_hw[bench]" adds it.')
        return peers
    file = directory / f"{model}.onnx"
    session.note(f"exporting {model} for ONNX Runtime")
    measure.export_onnx(model, file, shape=shapes[0], seed=seed)
    return {**peers, "onnxruntime": str(file)}


def show(session: Session, document: str) -> None:
    """Print what `parc_hw.measure.to_json` wrote."""
    data: dict[str, Any] = json.loads(document)
    numbers = ("threads", "median ms", "10 % to 90 %", "runs", "times ours")
    rows = table("runtime", *numbers, "same numbers", right=numbers)
    for row in data["series"]:
        first = next(r for r in data["series"] if r["threads"] == row["threads"])
        agrees = row["max_difference_std"] <= _AGREES
        rows.add_row(
            row["runtime"],
            str(row["threads"]),
            f"{1e3 * row['median_s']:.3f}",
            f"{1e3 * row['p10_s']:.3f} to {1e3 * row['p90_s']:.3f}",
            str(row["runs"]),
            f"{row['median_s'] / first['median_s']:.2f}",
            "yes" if agrees else f"no: {row['max_difference_std']:.2g} std",
        )
    rounds = data["series"][0]["rounds"]
    session.result(
        data,
        rows,
        f"{data['model']} at {data['input']} on {data['machine']['cpu']}, {rounds} interleaved rounds",
    )
