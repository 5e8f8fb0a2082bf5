"""How long does a program take, layer by layer, and what holds each layer up?

Layers overlap, so a layer's cycles are those from the end of the layer before to its own: they add
up to the whole. Its busiest unit says what bounds it; the lower bound beside it comes from the
description alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.accel.bounds import lower_bound
from parc_hw.accel.description import Description
from parc_hw.errors import InputError

if TYPE_CHECKING:
    from parc_hw.accel.bundle import AcceleratorBundle
    from parc_hw.accel.simulator import Result

__all__ = ["Estimate", "LayerEstimate", "estimate_program", "plot_roofline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEstimate:
    """What one layer takes.

    Attributes
    ----------
    name, kind : str
    source : {"simulated", "estimated"}
        Estimated is what runs on the host.
    cycles : int
        From the end of the layers before to its own end; 0 where it hides behind them.
    bound_cycles : int
        No schedule takes less on this machine, alone.
    bound_by : str
        Its busiest unit, or "host".
    utilisation : float
        Share of the cycles between its first and its last in which that unit was busy.
    macs : int
    bytes : int
        Moved on the bus.
    energy_uj : float
        Without idling.
    reason : str
        Why it runs on the host.
    tiling : str
    """

    name: str
    kind: str
    source: str
    cycles: int
    bound_cycles: int
    bound_by: str
    utilisation: float
    macs: int
    bytes: int
    energy_uj: float
    reason: str = ""
    tiling: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a program takes.

    Attributes
    ----------
    machine : str
    layers : tuple of LayerEstimate
    cycles : int
    host_cycles : int
        Those of them that the host is estimated to take.
    milliseconds : float
        At the described clock.
    energy_uj : float
    macs, bytes : int
    """

    machine: str
    layers: tuple[LayerEstimate, ...]
    cycles: int
    host_cycles: int
    milliseconds: float
    energy_uj: float
    macs: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain data; says of each figure where it comes from."""
        return {
            **asdict(self),
            "source": "simulated" if not self.host_cycles else "simulated, host steps estimated",
        }


def estimate_program(bundle: AcceleratorBundle) -> Estimate:
    """Simulate a bundle's program for its cycles alone."""
    result = bundle.simulate(values=False)
    return layers_of(bundle.manifest["layers"], result, bundle.machine)


def layers_of(
    layers: Sequence[Mapping[str, Any]], result: Result, machine: Description
) -> Estimate:
    """Put a simulation's counters beside the layers that they belong to."""
    found = []
    before = 0
    for layer in layers:
        tag = result.tags.get(layer["number"])
        if tag is None:
            continue
        cycles = max(tag.last - before, 0)
        before = max(before, tag.last)
        busy = dict(tag.busy)
        busy["bus"] = busy.pop("LOAD", 0) + busy.pop("STORE", 0)
        name, most = max(busy.items(), key=lambda item: item[1])
        bound = lower_bound(
            machine,
            macs=layer["macs"],
            bits=tuple(layer["bits"]),
            elements=dict(layer["elements"]),
            external_bytes=layer["external_bytes"],
        )
        on_host = layer["where"] == "host"
        found.append(
            LayerEstimate(
                name=layer["name"],
                kind=layer["kind"],
                source="estimated" if on_host else "simulated",
                cycles=cycles,
                bound_cycles=layer["host_cycles"] if on_host else bound.cycles,
                bound_by="host" if on_host else name.lower(),
                utilisation=min(most / max(tag.last - tag.first, 1), 1.0),
                macs=layer["macs"],
                bytes=tag.external_bytes,
                energy_uj=tag.energy_pj * 1e-6,
                reason=layer["reason"],
                tiling=layer["tiling"],
            )
        )
    return Estimate(
        machine=machine.name,
        layers=tuple(found),
        cycles=result.cycles,
        host_cycles=result.host_cycles,
        milliseconds=result.seconds * 1e3,
        energy_uj=result.energy_pj * 1e-6,
        macs=sum(layer.macs for layer in found),
        bytes=sum(layer.bytes for layer in found),
    )


def plot_roofline(
    path: str | Path, estimate: Estimate, machine: Description, *, passes: int = 1
) -> None:
    """Draw the layers with products under the machine's roof; `path` ends in .png, .svg or .pdf.

    Parameters
    ----------
    path : str or Path
    estimate : Estimate
    machine : Description
    passes : int
        Turns that the array takes for one product of the program's words.

    Raises
    ------
    InputError
        Another suffix, or matplotlib is not installed (the extra `report` has it).
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {path}: accepted are files that end in .png, .svg or .pdf.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "the plot needs matplotlib: pip install 'parc-hw[report]', or leave --plot out."
        ) from None
    peak = machine.mac.count / machine.mac.interval / passes
    bandwidth = machine.external.bytes_per_cycle
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    points = [each for each in estimate.layers if each.macs and each.bytes and each.cycles]
    ends = [peak / bandwidth / 64, peak / bandwidth * 16]
    ends = [min([*ends, *(each.macs / each.bytes for each in points)]) / 2, ends[1]]
    axes.plot(
        [ends[0], peak / bandwidth, ends[1]], [ends[0] * bandwidth, peak, peak], color="black"
    )
    for kind in sorted({each.kind for each in points}):
        own = [each for each in points if each.kind == kind]
        axes.scatter(
            [each.macs / each.bytes for each in own],
            [each.macs / each.cycles for each in own],
            label=kind,
            s=18,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="multiply-accumulates per byte moved",
        ylabel="multiply-accumulates per cycle",
        title=f"{estimate.machine}: {estimate.milliseconds:.3g} ms (simulated)",
    )
    if points:
        axes.legend()
    figure.savefig(path, dpi=120)
