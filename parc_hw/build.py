"""How does a model become a verified bundle? The one place where all parts meet."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parc_hw.device import Device, load_device
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.planner import check_plan
from parc_hw.records import COMMITTED

if TYPE_CHECKING:
    import torch

    from parc_hw.artifact import Bundle, Vectors, VerifyReport
    from parc_hw.importers import Imported
    from parc_hw.lower import Lowering
    from parc_hw.lower.program import ShapePlan
    from parc_hw.models import ModelInfo
    from parc_hw.records import Records, TuningRecord

__all__ = [
    "Analysis",
    "AnalysisRow",
    "Progress",
    "analyze",
    "compile",
    "default_name",
    "export",
    "schedule",
]

Progress = Callable[[str, int, int, str], None]  # stage, done, total, message

SEED = 20220727  # of the deterministic fill; the papers' goldens use it too
_SAMPLES = 2  # real inputs stored in a bundle and verified


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisRow:
    """One kernel call of a compiled model."""

    name: str
    ops: str
    rule: str
    note: str
    macs: int
    bytes: int
    shape: tuple[int, ...]
    refusals: tuple[str, ...]  # "rule: reason" of the rules that did not take it
    tuning: str = ""  # which tuning record it uses, or why none


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What `compile` would do with a model."""

    model: str
    weights: str
    device: Device
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    rows: tuple[AnalysisRow, ...]
    near_misses: tuple[tuple[str, str], ...]  # (where, why) of what looks like a ParC and is none

    @property
    def parc_sites(self) -> tuple[AnalysisRow, ...]:
        """The rows that hold a ParC."""
        return tuple(row for row in self.rows if "parc" in row.ops.split("."))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(row.macs for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A model ready for import, with what is known about it."""

    model: torch.nn.Module | Path  # a file holds its weights
    name: str
    weights: str  # where the weights come from, for reports
    info: ModelInfo | None
    shapes: tuple[tuple[int, ...] | None, ...]  # of the input, one or several; None: the file's own


def default_name(model: Any) -> str:
    """The C identifier a bundle gets when the user names none."""
    if isinstance(model, Path):
        text = model.stem
    else:
        text = model if isinstance(model, str) else type(model).__name__
        text = text.rpartition(":")[2].rpartition(".")[2]
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in text).strip("_").lower()
    return name if name and not name[0].isdigit() else f"model_{name}"


def _shapes(input_shape: Any, info: ModelInfo | None) -> tuple[tuple[int, ...], ...]:
    """The input shapes asked for, or the model's own."""
    if input_shape is None:
        if info is None:
            raise InputError("this model's input shape is not known; give it, e.g. 1x3x224x224.")
        return (tuple(info.input_shape),)
    sequence = (list, tuple)
    several = isinstance(input_shape, sequence) and any(
        isinstance(each, sequence) for each in input_shape
    )
    shapes: list[tuple[int, ...]] = []
    for given in input_shape if several else [input_shape]:
        extents = tuple(given) if isinstance(given, sequence) else ()
        if not extents or any(not isinstance(e, int) or e < 1 for e in extents):
            raise InputError(
                f"input shape {given!r} is not acceptable: it is a sequence of whole numbers such "
                "as (1, 3, 224, 224), and every extent must be at least 1."
            )
        if extents in shapes:
            raise InputError(f"input shape {extents} is given twice; give each only once.")
        shapes.append(extents)
    return tuple(shapes)


def _prepare(
    model: str | Path | torch.nn.Module, *, input_shape: Any, weights: Path | str | None, seed: int
) -> _Source:
    """Create or take the model, give it its weights and check them."""
    from parc_hw import models

    if isinstance(model, Path):
        if weights is not None:
            raise InputError(f"{model} holds its weights; leave out the file of weights.")
        own = input_shape is None
        origin = f"weights of {model.name}"
        return _Source(
            model=model,
            name=model.name,
            weights=origin,
            info=None,
            shapes=(None,) if own else _shapes(input_shape, None),
        )
    if isinstance(model, str):
        info = models.info(model)
        shapes = _shapes(input_shape, info)
        module, origin = models.prepare(model, weights=weights, seed=seed)
        models.check_finite(module)
        return _Source(model=module, name=model, weights=origin, info=info, shapes=shapes)
    shapes = _shapes(input_shape, None)
    origin = "weights of the module as given"
    if weights is not None:
        models.load_official(model, models.read_checkpoint(weights))
        origin = f"weights from {Path(weights).name}"
    module = model.eval()
    models.check_finite(module)
    name = type(model).__name__
    return _Source(model=module, name=name, weights=origin, info=None, shapes=shapes)


def _import(source: _Source, shape: tuple[int, ...] | None) -> Imported:
    """Import the model at one of its input shapes."""
    from parc_hw.artifact.memory import check_memory
    from parc_hw.importers import import_model

    if shape is not None:
        check_memory(
            f"{source.name} at {'x'.join(map(str, shape))}",
            {"input": 4 * math.prod(shape)},
            instead="Take a smaller input.",
        )
    imported = import_model(source.model, None if shape is None else [shape])
    if len(imported.inputs) != 1:
        raise UnsupportedError(
            f"{source.name} has {len(imported.inputs)} inputs; networks with one can be compiled."
        )
    return imported


def _one_shape(source: _Source) -> tuple[int, ...] | None:
    """The input shape of a source that may have one only."""
    if len(source.shapes) != 1:
        raise InputError(f"{len(source.shapes)} input shapes were given; give one at a time.")
    return source.shapes[0]


def _used(lowerings: Sequence[Lowering], records: Records | None) -> list[TuningRecord]:
    """The records that these kernels have their choices from."""
    tuned = [step.scheduled.tuned for lowering in lowerings for step in lowering.steps]
    used = {each.record for each in tuned if each is not None and each.record}
    return [record for record in records or () if record.id in used]


def _lower(
    imported: Sequence[Imported],
    device: Device,
    plan: str,
    records: Records | None,
    threads: int,
    *,
    replay: bool = False,
) -> list[Lowering]:
    """Choose the kernels for every input shape of a model."""
    from parc_hw.lower import schedule_model

    def size(number: int) -> int:
        return sum(math.prod(tensor.shape) for tensor in imported[number].inputs)

    # Shapes share packed weights. The largest has the most work: it chooses how they are packed.
    panel_vectors: dict[bytes, int] = {}
    lowerings = {
        number: schedule_model(
            imported[number].module,
            imported[number].sources,
            inputs=imported[number].inputs,
            outputs=imported[number].outputs,
            device=device,
            plan=plan,
            panel_vectors=panel_vectors,
            records=records,
            threads=threads,
            replay=replay,
        )
        for number in sorted(range(len(imported)), key=size, reverse=True)
    }
    return [lowerings[number] for number in range(len(imported))]


def _fits(source: _Source, lowerings: Sequence[Lowering]) -> None:
    """Refuse a model that this machine cannot run, before kernels are made; scratch is left out."""
    from parc_hw.artifact.memory import check_memory

    for lowering in lowerings:
        boundary = (*lowering.inputs, *lowering.outputs)
        shape = "x".join(map(str, lowering.inputs[0].shape))
        check_memory(
            f"{source.name} at {shape}",
            {
                "weights": lowering.weights_bytes,
                "intermediate values": lowering.arena_bytes,
                "inputs and outputs": 4 * sum(math.prod(tensor.shape) for tensor in boundary),
            },
            instead="Take a smaller input, or compile with --no-verify (verify=False) and run the "
            "bundle on a larger machine.",
        )


def schedule(
    model: str | Path | torch.nn.Module,
    *,
    target: str | Path | Device = "host",
    input_shape: Any = None,
    weights: Path | str | None = None,
    seed: int = SEED,
    plan: str = "auto",
    records: Records | str | Path | None = COMMITTED,
    threads: int = 1,
    replay: bool = False,
) -> Lowering:
    """Choose a kernel for every operator of a model, without compiling anything.

    Parameters are those of `compile`, with one input shape; `target` may be a `Device` too. `replay`
    uses the records of a bundle's manifest as they were used in it.

    Raises
    ------
    InputError, UnsupportedError
        As `compile`.
    """
    return _schedule(
        model, target, input_shape, weights, seed, plan, records, threads, replay=replay
    )[2]


def _schedule(
    model: str | Path | torch.nn.Module,
    target: str | Path | Device,
    input_shape: Any,
    weights: Path | str | None,
    seed: int,
    plan: str,
    records: Records | str | Path | None,
    threads: int,
    *,
    replay: bool = False,
) -> tuple[_Source, Imported, Lowering]:
    """`schedule`, and what it went through."""
    from schedules.tuning.database import records_of

    check_plan(plan)
    device = target if isinstance(target, Device) else load_device(target)
    source = _prepare(model, input_shape=input_shape, weights=weights, seed=seed)
    imported = _import(source, _one_shape(source))
    (lowering,) = _lower([imported], device, plan, records_of(records), threads, replay=replay)
    return source, imported, lowering


def analyze(
    model: str | Path | torch.nn.Module,
    *,
    target: str | Path = "host",
    input_shape: Any = None,
    weights: Path | str | None = None,
    seed: int = SEED,
    plan: str = "auto",
    records: Records | str | Path | None = COMMITTED,
    threads: int = 1,
) -> Analysis:
    """Say which kernel every operator of a model gets, without compiling anything.

    Parameters are those of `compile`, with one input shape.

    Raises
    ------
    InputError, UnsupportedError
        As `compile`.
    """
    source, imported, lowering = _schedule(
        model, target, input_shape, weights, seed, plan, records, threads
    )
    rows = tuple(
        AnalysisRow(
            name=lowering.layer_name(step),
            ops=step.composite.name,
            rule=step.scheduled.rule,
            note=step.scheduled.note,
            macs=step.scheduled.macs,
            bytes=lowering.step_bytes(step),
            shape=step.composite.shape,
            refusals=tuple(f"{r.rule}: {r.reason}" for r in step.refusals),
            tuning=tuned.reason if (tuned := step.scheduled.tuned) else "",
        )
        for step in lowering.steps
    )
    return Analysis(
        model=source.name,
        weights=source.weights,
        device=lowering.device,
        inputs=tuple(tensor.shape for tensor in lowering.inputs),
        outputs=tuple(tensor.shape for tensor in lowering.outputs),
        rows=rows,
        near_misses=imported.near_misses,
    )


def export(
    model: str | Path | torch.nn.Module,
    *,
    output: Path | str,
    input_shape: Any = None,
    weights: Path | str | None = None,
    seed: int = SEED,
) -> tuple[Path, str]:
    """Write a model as an ONNX file, each ParC as Slice, Concat and Conv.

    Parameters
    ----------
    model, input_shape, weights, seed
        As `compile`, with one input shape.
    output : path
        Ends with `.onnx`; an older file is replaced.

    Returns
    -------
    path : Path
    weights : str
        Where the weights come from.

    Raises
    ------
    InputError, UnsupportedError
        As `compile`; a path that is not acceptable, operators without a form in ONNX.
    ToolchainError
        The package `onnx` is missing.
    """
    from parc_hw.importers.export import export_onnx

    source = _prepare(model, input_shape=input_shape, weights=weights, seed=seed)
    return export_onnx(_import(source, _one_shape(source)), output), source.weights


def _samples(source: _Source, shape: tuple[int, ...]) -> tuple[str, list[np.ndarray]]:
    """Real inputs of this shape that fit the model."""
    from parc_hw.models.samples import sample_inputs

    info = source.info
    if info is None:
        return sample_inputs(shape, _SAMPLES)
    if info.family == "canvas":
        return sample_inputs(shape, _SAMPLES, canvas=True)
    return sample_inputs(
        shape,
        _SAMPLES,
        mean=info.mean,
        std=info.std,
        channel_order=info.channel_order,
    )


def _vectors(imported: Imported, plan: ShapePlan, inputs: list[np.ndarray]) -> Vectors:
    """The source model's outputs for `inputs`, and samples of every layer for the first."""
    from parc_hw.artifact import Vectors, layer_samples
    from parc_hw.importers import reference_values

    named = {layer.source for layer in plan.layers if layer.source}
    outputs = []
    layers: dict[int, np.ndarray] = {}
    for index, array in enumerate(inputs):
        results, values = reference_values(imported, [array], named if index == 0 else ())
        outputs.append(tuple(results))
        for number, layer in enumerate(plan.layers):
            if layer.source in values:
                layers[number] = layer_samples(values[layer.source], layer.order)
    return Vectors(inputs=[(array,) for array in inputs], outputs=outputs, layers=layers)


def _weights_hash(module: torch.nn.Module | Path) -> str:
    """SHA-256 over names, shapes and bytes of the state dictionary, or over the file."""
    digest = hashlib.sha256()
    if isinstance(module, Path):
        digest.update(module.read_bytes())
        return digest.hexdigest()
    for key, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{key}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _tool_versions() -> dict[str, str]:
    """Versions that change the code in a bundle."""
    from importlib import metadata

    names = ("apache-tvm", "apache-tvm-ffi", "torch", "numpy")
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        **{name: metadata.version(name) for name in names},
    }


def compile(
    model: str | Path | torch.nn.Module,
    *,
    target: str | Path = "host",
    input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
    output: Path | str,
    weights: Path | str | None = None,
    seed: int = SEED,
    name: str | None = None,
    plan: str = "auto",
    threads: int = 1,
    records: Records | str | Path | None = COMMITTED,
    verify: bool = True,
    force: bool = False,
    dump: Sequence[str] = (),
    progress: Progress | None = None,
) -> Bundle:
    """Compile a model into a bundle: a freestanding C library with header, weights and tests.

    Parameters
    ----------
    model : str, Path or torch.nn.Module
        A name of the zoo (`parc_hw.models.names()`), a `.onnx` or `.pt2` file, or a module.
    target : str or Path
        A device: one of `parc_hw.device.device_names()`, or a TOML file that describes another.
    input_shape : sequence of int, or sequence of such, optional
        Shape (B, C, H, W) of the input; the zoo's models and most files know theirs. The library
        takes each shape of a list and tells them apart by the input's dims; kernels and position
        embeddings are baked for each, equal kernels and weights are stored once.
    output : path
        The bundle's directory. It is written whole or not at all.
    weights : path, optional
        A `.pt`, `.pth` or `.safetensors` file with the model's official keys.
    seed : int
        Fills a zoo model for which no weights are given or shipped.
    name : str, optional
        Prefix of the library's symbols and files, a C identifier.
    plan : str
        Arithmetic of the ParC sites: `auto`, `direct`, `fft` or `N1xN2`.
    threads : int
        Threads the bundle's own programs use, 1 to 64; a caller may choose otherwise.
    records : Records, path or None
        Tuning records, used for the kernels that they apply to: those that come with this package;
        a file's and those; only the ones given; or none at all. The manifest holds the ones used.
    verify : bool
        Run the bundle (under qemu for a foreign target) and compare it with the source.
    force : bool
        Replace an existing bundle.
    dump : sequence of str
        Any of `relax`, `tir`, `ll`, `asm`: written to `dump/` in the bundle.
    progress : callable of (stage, done, total, message), optional
        Called as work goes on.

    Returns
    -------
    Bundle

    Raises
    ------
    InputError
        Unknown name or target, a bad shape or one given twice, weights that do not fit, an output
        in the way.
    UnsupportedError
        Operators without a kernel, all listed; a model that needs more memory than this machine
        has, when it is to be verified here.
    ToolchainError
        No compiler or emulator for the target, with the line that installs one.
    VerificationError
        The compiled numbers differ; names the first layer that diverges.
    """
    from parc_hw import artifact
    from parc_hw.lower import compile_program
    from schedules.tuning.database import records_of

    def report(stage: str, done: int, total: int, message: str = "") -> None:
        if progress is not None:
            progress(stage, done, total, message)

    unknown = sorted(set(dump) - {"relax", "tir", "ll", "asm"})
    if unknown:
        raise InputError(f"cannot dump {unknown[0]!r}; accepted: relax, tir, ll, asm.")
    if not 1 <= threads <= 64:
        raise InputError(f"threads is {threads}; accepted: 1 to 64.")
    check_plan(plan)
    device = load_device(target)
    name = name or default_name(model)
    artifact.check_name(name)
    artifact.check_output(Path(output), force=force)
    toolchain = artifact.find_toolchain(device)
    if verify:
        artifact.find_emulator(device)

    report("model", 0, 1, "creating the model")
    source = _prepare(model, input_shape=input_shape, weights=weights, seed=seed)
    report("model", 1, 1, source.weights)

    imported = []
    for number, shape in enumerate(source.shapes):
        report("import", number, len(source.shapes), "to Relax")
        imported.append(_import(source, shape))
    report("import", len(imported), len(imported))

    report("schedule", 0, 1, "choosing kernels")
    found = records_of(records)
    lowerings = _lower(imported, device, plan, found, threads)
    used = _used(lowerings, found)
    if verify:
        _fits(source, lowerings)
    tuned = f", {len(used)} tuning records" if used else ""
    report("schedule", 1, 1, f"{sum(len(each.steps) for each in lowerings)} kernel calls{tuned}")

    texts: dict[str, str] | None = {} if dump else None
    program = compile_program(
        lowerings,
        prefix="parc",
        progress=lambda done, total, symbol: report("kernels", done, total, symbol),
        dump=texts,
    )
    if texts is not None:
        texts["relax"] = "\n".join(each.module.script(show_meta=False) for each in imported)
        texts = {kind: texts[kind] for kind in dump}

    report("reference", 0, 1, "running the source model")
    samples = [_samples(source, each.inputs[0].shape) for each in imported]
    description = " and ".join(dict.fromkeys(text for text, _ in samples))
    vectors = [
        _vectors(each, shape_plan, inputs)
        for each, shape_plan, (_, inputs) in zip(imported, program.shapes, samples, strict=True)
    ]
    report("reference", 1, 1, description)

    def check(bundle: Bundle) -> VerifyReport:
        return artifact.verify_bundle(bundle, progress=report)

    return artifact.write_bundle(
        Path(output),
        program=program,
        name=name,
        device=device,
        vectors=vectors,
        source={
            "model": source.name,
            "weights": source.weights,
            "weights_sha256": _weights_hash(source.model),
            "input": _expected_input(source),
            "verified_on": description,
            "plan": plan,
            "records": [record.to_json() for record in used],
        },
        tool_versions=_tool_versions(),
        threads=threads,
        force=force,
        toolchain=toolchain,
        texts=texts or {},
        verify=check if verify else None,
        progress=report,
    )


def _expected_input(source: _Source) -> dict[str, Any]:
    """What the network expects at its input, as far as it is known."""
    if source.info is None:
        return {}
    info = source.info
    return {
        "channel_order": info.channel_order,
        "range": list(info.value_range),
        "mean": list(info.mean),
        "std": list(info.std),
    }
