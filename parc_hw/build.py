"""How does a model become a verified bundle? The one place where all parts meet."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parc_hw.device import Device, load_device
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.planner import check_plan

if TYPE_CHECKING:
    import torch

    from parc_hw.artifact import Bundle, VerifyReport
    from parc_hw.importers import Imported
    from parc_hw.lower import Lowering
    from parc_hw.lower.program import Program
    from parc_hw.models import ModelInfo

__all__ = ["Analysis", "AnalysisRow", "Progress", "analyze", "compile", "default_name"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What `compile` would do with a model."""

    model: str
    weights: str
    device: Device
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    rows: tuple[AnalysisRow, ...]

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

    module: torch.nn.Module
    name: str
    weights: str  # where the weights come from, for reports
    info: ModelInfo | None
    shape: tuple[int, ...]


def default_name(model: Any) -> str:
    """The C identifier a bundle gets when the user names none."""
    text = model if isinstance(model, str) else type(model).__name__
    text = text.rpartition(":")[2].rpartition(".")[2]
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in text).strip("_").lower()
    return name if name and not name[0].isdigit() else f"model_{name}"


def _single_shape(input_shape: Any, info: ModelInfo | None) -> tuple[int, ...]:
    """The one input shape asked for, or the model's own."""
    if input_shape is None:
        if info is None:
            raise InputError("this model's input shape is not known; give it, e.g. 1x3x224x224.")
        return tuple(info.input_shape)
    shapes = list(input_shape)
    if shapes and isinstance(shapes[0], int):
        shapes = [tuple(shapes)]
    if len(shapes) != 1:
        raise UnsupportedError(
            f"{len(shapes)} input shapes were given; this version bakes one per bundle. "
            "Compile one bundle for each."
        )
    shape = tuple(shapes[0])
    if not shape or any(not isinstance(e, int) or e < 1 for e in shape):
        raise InputError(f"input shape {shape} is not acceptable: every extent must be at least 1.")
    return shape


def _prepare(
    model: str | torch.nn.Module, *, input_shape: Any, weights: Path | str | None, seed: int
) -> _Source:
    """Create or take the model and give it its weights."""
    from parc_hw import models

    if isinstance(model, str):
        info = models.info(model)
        shape = _single_shape(input_shape, info)
        module, origin = models.prepare(model, weights=weights, seed=seed)
        return _Source(module=module, name=model, weights=origin, info=info, shape=shape)
    shape = _single_shape(input_shape, None)
    origin = "weights of the module as given"
    if weights is not None:
        models.load_official(model, models.read_checkpoint(weights))
        origin = f"weights from {Path(weights).name}"
    module = model.eval()
    return _Source(module=module, name=type(model).__name__, weights=origin, info=None, shape=shape)


def _import(source: _Source) -> Imported:
    """Check the weights and import the model at its input shape."""
    from parc_hw.importers import import_torch
    from parc_hw.models import check_finite

    check_finite(source.module)
    return import_torch(source.module, [source.shape])


def _lower(imported: Imported, device: Device, plan: str) -> Lowering:
    from parc_hw.lower import schedule_model

    return schedule_model(
        imported.module,
        imported.sources,
        inputs=imported.inputs,
        outputs=imported.outputs,
        device=device,
        plan=plan,
    )


def analyze(
    model: str | torch.nn.Module,
    *,
    target: str = "host",
    input_shape: Any = None,
    weights: Path | str | None = None,
    seed: int = SEED,
    plan: str = "auto",
) -> Analysis:
    """Say which kernel every operator of a model gets, without compiling anything.

    Parameters are those of `compile`.

    Raises
    ------
    InputError, UnsupportedError
        As `compile`.
    """
    check_plan(plan)
    device = load_device(target)
    source = _prepare(model, input_shape=input_shape, weights=weights, seed=seed)
    lowering = _lower(_import(source), device, plan)
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
        )
        for step in lowering.steps
    )
    return Analysis(
        model=source.name,
        weights=source.weights,
        device=device,
        inputs=tuple(tensor.shape for tensor in lowering.inputs),
        outputs=tuple(tensor.shape for tensor in lowering.outputs),
        rows=rows,
    )


def _samples(source: _Source) -> tuple[str, list[np.ndarray]]:
    """Real inputs that fit the model."""
    from parc_hw.models.samples import sample_inputs

    info = source.info
    if info is None:
        return sample_inputs(source.shape, _SAMPLES)
    if info.family == "canvas":
        return sample_inputs(source.shape, _SAMPLES, canvas=True)
    return sample_inputs(
        source.shape,
        _SAMPLES,
        mean=info.mean,
        std=info.std,
        channel_order=info.channel_order,
    )


def _vectors(imported: Imported, program: Program, inputs: list[np.ndarray]) -> Any:
    """The source model's outputs for `inputs`, and samples of every layer for the first."""
    from parc_hw.artifact import Vectors, layer_samples
    from parc_hw.importers import reference_values

    named = {layer.source for layer in program.layers if layer.source}
    outputs = []
    layers: dict[int, np.ndarray] = {}
    for index, array in enumerate(inputs):
        results, values = reference_values(imported, [array], named if index == 0 else ())
        outputs.append(tuple(results))
        for number, layer in enumerate(program.layers):
            if layer.source in values:
                layers[number] = layer_samples(values[layer.source], layer.order)
    return Vectors(inputs=[(array,) for array in inputs], outputs=outputs, layers=layers)


def _weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of the state dictionary."""
    digest = hashlib.sha256()
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
    model: str | torch.nn.Module,
    *,
    target: str = "host",
    input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
    output: Path | str,
    weights: Path | str | None = None,
    seed: int = SEED,
    name: str | None = None,
    plan: str = "auto",
    threads: int = 1,
    verify: bool = True,
    force: bool = False,
    dump: Sequence[str] = (),
    progress: Progress | None = None,
) -> Bundle:
    """Compile a model into a bundle: a freestanding C library with header, weights and tests.

    Parameters
    ----------
    model : str or torch.nn.Module
        A name of the zoo (`parc_hw.models.names()`), or a module.
    target : str
        A device (`parc_hw.device.device_names()`).
    input_shape : sequence of int, optional
        Shape (B, C, H, W) of the input; the zoo's models know theirs.
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
        Unknown name or target, bad shape, weights that do not fit, an output in the way.
    UnsupportedError
        Operators without a kernel, all listed.
    ToolchainError
        No compiler or emulator for the target, with the line that installs one.
    VerificationError
        The compiled numbers differ; names the first layer that diverges.
    """
    from parc_hw import artifact
    from parc_hw.lower import compile_program

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

    report("import", 0, 1, "torch.export to Relax")
    imported = _import(source)
    report("import", 1, 1)

    report("schedule", 0, 1, "choosing kernels")
    lowering = _lower(imported, device, plan)
    report("schedule", 1, 1, f"{len(lowering.steps)} kernel calls")

    texts: dict[str, str] | None = {} if dump else None
    program = compile_program(
        lowering,
        prefix="parc",
        progress=lambda done, total, symbol: report("kernels", done, total, symbol),
        dump=texts,
    )
    if texts is not None:
        texts["relax"] = imported.module.script(show_meta=False)
        texts = {kind: texts[kind] for kind in dump}

    report("reference", 0, 1, "running the source model")
    description, inputs = _samples(source)
    vectors = _vectors(imported, program, inputs)
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
            "weights_sha256": _weights_hash(source.module),
            "input": _expected_input(source),
            "verified_on": description,
            "plan": plan,
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
        return {"shape": list(source.shape)}
    info = source.info
    return {
        "shape": list(source.shape),
        "channel_order": info.channel_order,
        "range": list(info.value_range),
        "mean": list(info.mean),
        "std": list(info.std),
    }
