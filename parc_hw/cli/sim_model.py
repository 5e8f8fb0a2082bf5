"""`parc-hw sim model`: what does a whole network give in integers, layer by layer?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli import sim_data
from parc_hw.cli.model import MODEL_HELP, parse_shapes, resolve
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from parc_hw.integer import IntegerModel, LayerTrace, Network

_WIDE = 110  # columns that the whole table takes


def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    dtype: Annotated[
        str | None, typer.Option(metavar="int8|int16", help="Words of every layer; default int8.")
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(min=2, max=24, metavar="BITS", help="Words of any other length."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="HOW", help="Ranges by minmax, percentile or mse, from calibration."),
    ] = "minmax",
    datapath: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="A datapath file, in place of dtype and method."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .pt or .safetensors checkpoint.")
    ] = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="1x3x224x224", help="Where the model leaves it open."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="x.npy", help="n x C x H x W floats; the zoo has its own."),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="x.npy", help="n x C x H x W floats to run on."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Without --input: images of the zoo's own.")
    ] = 16,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=".npy, .hex, .mem: the output's words. Repeat.",
        ),
    ] = None,
) -> None:
    """Run a network in integers beside its float original: words, ranges and losses of each layer."""
    session: Session = context.obj
    files = output or []
    sim_data.check_outputs(files)
    from parc_hw.integer import agreement, quantize_model

    network, zoo_name = _network(session, model, weights, input_shape)
    shape = tuple(network.input_shape)
    held = None if calibration is None else _floats(calibration, "--calibration", shape)
    if datapath is not None:
        for option, value in (("--dtype", dtype), ("--bits", bits), ("--calibration", held)):
            if value is not None:
                raise InputError(f"{option} has no meaning with --datapath; leave one of them out.")
        quantised = quantize_model(network, datapath=datapath)
    else:
        if held is None:
            if zoo_name is None:
                raise InputError(
                    f"--calibration is missing: give images of shape n x "
                    f"{' x '.join(map(str, shape))} in a .npy file; only zoo models have their own."
                )
            from parc_hw.integer.model import calibration_images

            held = calibration_images(zoo_name)
        quantised = quantize_model(network, dtype, bits=bits, calibration=held, method=method)
    x, source = _input(session, input, shape, images, zoo_name)
    rows = quantised.trace(x)
    logits = quantised.run(x)
    real = network.evaluate(x)
    share = agreement(logits.values, real) if real.ndim == 2 else None
    document = _document(quantised, source, rows, share)
    parts = [("output", logits.raw, logits.format, "image, value")]
    document["files"] = sim_data.write_words(session, files, parts) if files else []
    shown: list[Any] = [
        f"{network.name} ({network.origin}), {len(x)} images: {source}",
        _table(session, rows),
        f"output: {logits.format}, SQNR {rows[-1].sqnr_db:.2f} dB",
    ]
    if share is not None:
        shown.append(
            f"the largest output is the float model's for {share.count} of {share.of} images"
        )
    session.result(sim_data.plain(document), *shown)


def _network(
    session: Session, model: str, weights: Path | None, input_shape: list[str] | None
) -> tuple[Network, str | None]:
    """The network, and its name in the zoo if it has one."""
    shapes = parse_shapes(input_shape)
    if shapes is not None and len(shapes) > 1:
        raise InputError("--input-shape: integer models have one input shape; give one.")
    resolved = resolve(model, shapes=shapes)
    from parc_hw.integer import read_network

    shape = shapes[0] if shapes else None
    if isinstance(resolved, str):
        network = read_network(resolved, input_shape=shape, weights=weights, seed=session.seed)
        return network, resolved
    if weights is not None:
        raise InputError("--weights: this model has its weights already; leave it out.")
    from parc_hw.importers import import_model

    return read_network(import_model(resolved, shapes)), None


def _floats(path: Path, option: str, shape: tuple[int, ...]) -> np.ndarray:
    """Images (n, C, H, W)."""
    import numpy as np

    from parc_hw.cli.arrays import load_input

    # The header alone says how many images there are; `load_input` then checks everything.
    try:
        count = int(np.load(path, mmap_mode="r", allow_pickle=False).shape[0])
    except OSError as error:
        raise InputError(f"cannot read {option} {path}: {error.strerror or error}.") from None
    except (ValueError, EOFError, IndexError):
        count = 1
    return load_input(path, [(max(count, 1), *shape[-3:])])


def _input(
    session: Session, path: Path | None, shape: tuple[int, ...], count: int, zoo_name: str | None
) -> tuple[np.ndarray, str]:
    """The images to run on, and what they are."""
    import numpy as np

    if path is not None:
        return _floats(path, "--input", shape), str(path)
    from parc_hw.models.samples import sample_inputs

    options: dict[str, Any] = {}
    if zoo_name is not None:
        from parc_hw import models

        info = models.info(zoo_name)
        options = {
            "canvas": info.trained,
            "mean": info.mean,
            "std": info.std,
            "channel_order": info.channel_order,
        }
    description, batches = sample_inputs(
        (1, *shape[-3:]), count, seed=session.seed % 2**31, **options
    )
    if description.startswith("photographs"):
        batches = batches[:4]  # there are four; they would only repeat
    return np.concatenate(batches), description


def _table(session: Session, rows: list[LayerTrace]) -> Any:
    wide = session.out.width >= _WIDE
    columns = ["layer", "kind", "format", "weights", "sum", "headroom", "ends", "local", "SQNR"]
    narrow = [c for c in columns if c not in ("kind", "sum", "ends")]
    used = columns if wide else narrow
    shown = table(*used, right=used[2:], fold="layer")
    for row in rows:
        cells = {
            "layer": row.name,
            "kind": row.kind,
            "format": row.format,
            "weights": "" if row.weight_bits is None else f"{row.weight_bits} bit",
            "sum": f"{row.accumulator_bits} bit" if row.accumulator_bits else "",
            "headroom": f"{row.headroom_bits:.2f} bit",
            "ends": f"{100 * row.saturated_fraction:.2g} %",
            "local": f"{row.sqnr_local_db:.2f} dB",
            "SQNR": f"{row.sqnr_db:.2f} dB",
        }
        shown.add_row(*(cells[name] for name in used))
    return shown


def _document(
    model: IntegerModel, source: str, rows: list[LayerTrace], share: Any
) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "model": model.network.name,
        "weights": model.network.origin,
        "input": source,
        "layers": [row.as_dict() for row in rows],
        "output_format": str(model.output_format),
        "agreement": None if share is None else {"count": share.count, "of": share.of},
    }
