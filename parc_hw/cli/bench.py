"""`parc-hw bench`: how fast is a bundle, a ParC or the zoo beside its peers, in the same run?"""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli import bench_models, bench_table11
from parc_hw.cli.arrays import write_whole
from parc_hw.cli.model import parse_shape
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from parc_hw.artifact import Bundle, Shape

_KINDS = ("models", "table7", "table11")
_TAKEN_BY = {  # what an option is for
    "NAME": ("models", "table7"),
    "--seconds": ("a bundle", "models", "table7"),
    "--input-shape": ("a bundle",),
    "--size": ("table11",),
    "--only": ("table11",),
    "--quick": ("table11",),
    "--torch-compile": ("models",),
    "--instructions": ("table7",),
    "--no-peers": ("a bundle", "models", "table11"),
}
_AGREES = 1e-3  # of the output's standard deviation: the tolerance of verification


def command(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|models|table7|table11",
            help="A bundle compiled for this machine; the zoo's classifiers; the papers' Table 7, "
            "ParC networks beside their baselines; or their Table 11, one ParC at many sizes.",
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="models, table7: these models only; default all of them."
        ),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=64, metavar="N", help="Repeat for several; default 1, of tables 1 and 2."
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=3600.0,
            metavar="S",
            help="Measuring time of each runtime: 5; of models and table7 3. Not of table11.",
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="1x3x224x224", help="BUNDLE: one that it accepts; default the first."),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="56x56", help="table11: may be repeated; default all sizes."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="times|counts",
            help="table11: times here, or instructions on ARM; default both.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="table11: four small sizes, one thread, few rounds, no counts."
        ),
    ] = False,
    torch_compile: Annotated[
        bool,
        typer.Option(
            "--torch-compile",
            help="models: torch.compile as a peer too; takes a minute and more for each model.",
        ),
    ] = False,
    instructions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="table7: count executed instructions too, e.g. on cortex-a76; takes many minutes.",
        ),
    ] = None,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Measure ours alone.")] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=".json or .csv, for table11 .svg or .png too; may be repeated. Rows of models and "
            "tables are added to a .json that is there.",
        ),
    ] = None,
) -> None:
    """Measure a bundle and, interleaved with it, PyTorch and ONNX Runtime on the same model.

    `models` stands for every classification model of the zoo, beside PyTorch, ONNX Runtime and
    OpenVINO; `table7` for the papers' Table 7, each ParC network beside its baseline; `table11` for
    their Table 11, one ParC at their sizes and those of the zoo, beside all that users have today.
    (A bundle of such a name is reached as ./models.)
    """
    session: Session = context.obj
    files = output or []
    suffixes = [".json", ".csv"] + ([".svg", ".png"] if what == "table11" else [])
    for file in files:
        if file.suffix not in suffixes:
            accepted = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
            raise InputError(f"-o {file}: results are written as {accepted}; end the name so.")
    kind = what if what in _KINDS else "a bundle"
    given: dict[str, object] = {
        "NAME": names,
        "--seconds": seconds,
        "--input-shape": input_shape,
        "--size": size,
        "--only": only,
        "--quick": quick or None,
        "--torch-compile": torch_compile or None,
        "--instructions": instructions,
        "--no-peers": no_peers or None,
    }
    for option, value in given.items():
        if value and kind not in _TAKEN_BY[option]:
            raise InputError(
                f"{option} is for {' and '.join(_TAKEN_BY[option])}, not for {what}; leave it out."
            )
    if what == "models":
        bench_models.run_models(
            session,
            names or [],
            threads=threads,
            seconds=seconds,
            peers=not no_peers,
            torch_compile=torch_compile,
            files=files,
        )
    elif what == "table7":
        bench_models.run_table7(
            session,
            names or [],
            threads=threads,
            seconds=seconds,
            devices=instructions or [],
            files=files,
        )
    elif what == "table11":
        bench_table11.run(
            session,
            threads=threads,
            sizes=size,
            only=only,
            quick=quick,
            peers=not no_peers,
            files=files,
        )
    else:
        _bundle(
            session,
            Path(what),
            threads=threads,
            seconds=5.0 if seconds is None else seconds,
            input_shape=input_shape,
            no_peers=no_peers,
            files=files,
        )


def _bundle(
    session: Session,
    bundle: Path,
    *,
    threads: list[int] | None,
    seconds: float,
    input_shape: str | None,
    no_peers: bool,
    files: list[Path],
) -> None:
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
