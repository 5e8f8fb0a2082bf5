"""Where does a compiled model spend its time, or its instructions, layer by layer?"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parc_hw.errors import InputError, UnsupportedError
from parc_hw.records import Records, TuningRecord

if TYPE_CHECKING:
    from parc_hw.artifact import Bundle
    from parc_hw.build import Progress

__all__ = ["LayerProfile", "Profile", "count_bundle", "fma_peak", "time_bundle"]

_MEASURED = 3  # runs of the peak's program, after one that warms up


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProfile:
    """One kernel call. Either `time_s` (median) or `instructions` is None."""

    name: str
    ops: str
    rule: str
    macs: int
    result_bytes: int
    time_s: float | None
    instructions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """All kernel calls of one run, in order.

    Attributes
    ----------
    total_s : float or None
        Median of whole runs, without looking at the layers; None for counts.
    peak_flops : float or None
        Of this machine, one thread, measured on registers; None for counts.
    """

    target: str
    threads: int
    runs: int
    layers: tuple[LayerProfile, ...]
    total_s: float | None
    peak_flops: float | None

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return sum(layer.macs for layer in self.layers)

    @property
    def instructions(self) -> int | None:
        """Instructions of one run; None for times."""
        counts = [layer.instructions for layer in self.layers]
        return None if None in counts else sum(count or 0 for count in counts)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the sums."""
        return asdict(self) | {"macs": self.macs, "instructions": self.instructions}


def time_bundle(bundle: Bundle, *, seconds: float, threads: int = 1) -> Profile:
    """Time every layer of a bundle of this machine.

    Parameters
    ----------
    bundle : Bundle
        Its first input shape is run, on normal noise.
    seconds : float
        How long to measure, at least three runs; half of it without looking at the layers.
    threads : int

    Raises
    ------
    UnsupportedError
        The bundle is for another machine: its times under qemu would mean nothing.
    """
    if not bundle.device.runs_here:
        raise UnsupportedError(
            f"the bundle is for {bundle.device.name}, which this machine only emulates; what can be "
            "had is its executed instructions (`count_bundle`, `parc-hw profile`)."
        )
    shape = bundle.shapes[0]
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(port.shape, np.float32) for port in shape.inputs]
    bound = bundle.bind(*inputs, threads=threads)
    bound()
    whole: list[float] = []
    end = time.perf_counter() + seconds / 2
    while len(whole) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        bound()
        whole.append(time.perf_counter() - began)
    layers = bundle.manifest["shapes"][0]["layers"]
    ends: list[tuple[int, float]] = []
    spent: dict[int, list[float]] = {number: [] for number in range(len(layers))}
    bound.after_layer(lambda number: ends.append((number, time.perf_counter())))
    end = time.perf_counter() + seconds / 2
    runs = 0
    while runs < 3 or time.perf_counter() < end:
        ends.clear()
        before = time.perf_counter()
        bound()
        for number, after in ends:
            spent[number].append(after - before)
            before = after
        runs += 1
    bound.on_layer(None)
    return Profile(
        target=bundle.device.name,
        threads=threads,
        runs=runs,
        layers=tuple(
            _layer(layer, time_s=float(np.median(spent[number])) if spent[number] else 0.0)
            for number, layer in enumerate(layers)
        ),
        total_s=float(np.median(whole)),
        peak_flops=fma_peak(),
    )


def count_bundle(bundle: Bundle, *, model: Any = None, progress: Progress | None = None) -> Profile:
    """Count the instructions that every layer of a bundle executes, with one thread.

    The kernels are scheduled again from the source and run one by one, under qemu for a foreign
    target, each distinct kernel once; `parc_hw.count_instructions` says what is counted.

    Parameters
    ----------
    bundle : Bundle
        Its first input shape.
    model : str, Path or torch.nn.Module, optional
        The source model, where the manifest's name of it is not enough (files).

    Raises
    ------
    InputError
        The source is not found, or now gives other kernels than the bundle has.
    ToolchainError
        Compiler or emulator are missing.
    """
    from parc_hw import build
    from parc_hw.count_instructions import count_instructions

    source = model if model is not None else str(bundle.manifest["source"]["model"])
    shape = bundle.manifest["shapes"][0]
    lowering = build.schedule(
        source,
        target=bundle.device,
        input_shape=tuple(shape["inputs"][0]["shape"]),
        plan=str(bundle.manifest["source"].get("plan", "auto")),
        records=Records.of(
            TuningRecord.from_json({k: v for k, v in each.items() if k not in ("id", "gain")})
            for each in bundle.manifest["source"].get("records", [])
        ),
        replay=True,
    )
    layers = shape["layers"]
    seen = [(step.composite.name, step.scheduled.note) for step in lowering.steps]
    if seen != [(layer["ops"], layer["note"]) for layer in layers]:
        raise InputError(
            f"{source} now gets other kernels than the bundle has (another version of parc_hw, "
            "another plan or other weights); compile the bundle again, then profile it."
        )
    counts: dict[str, int] = {}
    for number, (step, layer) in enumerate(zip(lowering.steps, layers, strict=True)):
        if layer["kernel"] not in counts:
            execution = count_instructions(step.scheduled, bundle.device)
            counts[layer["kernel"]] = execution.instructions
        if progress:
            progress("count", number + 1, len(layers), layer["name"])
    return Profile(
        target=bundle.device.name,
        threads=1,
        runs=1,
        layers=tuple(_layer(layer, instructions=counts[layer["kernel"]]) for layer in layers),
        total_s=None,
        peak_flops=None,
    )


def fma_peak() -> float:
    """Floating-point operations per second of one thread here, on full vectors in registers."""
    from parc_hw import peers
    from parc_hw.device import load_device

    lanes = load_device("host").lanes()
    entry = peers.Entry(size=peers.Size(1, 1, 1), operator="peak", program=f"{lanes} fma")
    peers.prepare(entry)
    peers.time_entry(entry, 1, 1)
    fastest = min(peers.time_entry(entry, _MEASURED, 1))
    return 2.0 * peers.PEAK_SUMS * peers.PEAK_TURNS * 2 * lanes / fastest


def _layer(
    layer: dict[str, Any], *, time_s: float | None = None, instructions: int | None = None
) -> LayerProfile:
    return LayerProfile(
        name=layer["name"],
        ops=layer["ops"],
        rule=layer["rule"],
        macs=layer["macs"],
        result_bytes=layer["bytes"],
        time_s=time_s,
        instructions=instructions,
    )
