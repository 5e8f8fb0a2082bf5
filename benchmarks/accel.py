"""How fast are ParC and whole networks on the described accelerators, beside the lower bound?

    python benchmarks/accel.py [bounds] [crossover] [two_level] [buffers] [networks] [--plot FILE.png]

Cycles come from the simulator, so this needs no quiet machine and gives the same numbers anywhere.
Writes or completes `benchmarks/results/accel.json`; parts that are not named stay as they are.

bounds      ParC direct and by transforms, int16, tuned, against max(compute, memory)
crossover   both plans on all four machines, N = 7 .. 224
two_level   the plan between them, where a length has one, on the same maps
buffers     a memory-bound layer with and without double buffers
networks    parcnet_s, mobilevit_s and the ParC-ConvNeXt of the papers, int8 on edge-npu
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fixedpoint.datapath import Cut
from fixedpoint.paths import DirectDatapath, FourierDatapath, ParcDatapath, SplitDatapath
from fixedpoint.qformat import QFormat
from fixedpoint.split import table_format
from parc_hw.accel import bounds, simulator
from parc_hw.accel.description import Description, description_names, load_description
from parc_hw.accel.operator import parc_kernel
from parc_hw.accel.scheduled import Schedules
from parc_hw.accel.tune import measure, tune_kernel
from parc_hw.errors import ParcError
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import Axis, ParcSpec
from schedules.accel.kernel import WORD_BYTES, Kernel
from schedules.accel.operators import View, elementwise
from schedules.accel.tiling import Tiling

RESULT = Path(__file__).resolve().parent / "results" / "accel.json"
BOUND_LENGTHS = (14, 28, 56)
BOUND_CHANNELS = (96, 192)
BOUND_MACHINES = ("edge-npu", "fpga-small")
LENGTHS = (7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 42, 48, 56, 64, 84, 96, 112, 128, 168, 196, 224)
CROSSOVER_CHANNELS = 96
TWO_LEVEL = ("7x2", "7x4", "8x7", "14x4", "14x8")
TRIALS = 24
NETWORKS = ("parcnet_s", "mobilevit_s", "parc_convnext_xt", "convnext_xt")


def operator(
    length: int, channels: int, plan: str, machine: Description, *, lines: int | None = None
) -> tuple[Kernel, Any]:
    """The kernel of an int16 ParC along H on a square map, and the plan's transform, if any."""
    spec = ParcSpec(
        axis=Axis.H, batch=1, channels=channels, height=length, width=lines or length, bias=True
    )
    word = QFormat.parse("Q1.15")
    transform = FftPlan.of(length, output_order="digit_reversed") if plan == "fft" else None
    weights = np.random.default_rng(length).integers(-64, 65, (channels, length))
    datapath: ParcDatapath
    given: SplitPlan | str = plan
    if transform is not None:
        datapath = FourierDatapath.of(transform, data=word, bias=word, pairs=True)
    elif plan == "direct":
        datapath = DirectDatapath(data=word, kernel=word, output=Cut(word), bias=word)
    else:
        n1, n2 = map(int, plan.split("x"))
        given = SplitPlan(n1=n1, n2=n2)
        table = table_format(weights, word, given, 16)
        datapath = SplitDatapath.of(given, data=word, table=table, bias=word)
    bias = np.zeros(channels, np.int64)
    work = parc_kernel(spec, weights, plan=given, datapath=datapath, machine=machine, bias=bias)
    return work.kernel, (work, transform)


def bound_of(
    kernel: Kernel, machine: Description, transform: FftPlan | None, length: int, channels: int,
    lines: int,
) -> bounds.Bound:  # fmt: skip
    """max(compute, memory) of a ParC from the description alone."""
    moved = sum(
        math.prod(kernel.tensors[name].shape) * WORD_BYTES[kernel.tensors[name].dtype]
        for name in kernel.parameters
        if kernel.tensors[name].memory == "external"
    )
    points = length * lines * channels
    if transform is None:
        return bounds.lower_bound(
            machine, macs=points * length, bits=(16, 16), elements={"requantise": points},
            external_bytes=moved,
        )  # fmt: skip
    frames = channels * ((lines + 1) // 2)
    once = bounds.butterfly_counts(transform, frames)
    return bounds.lower_bound(
        machine,
        butterflies={radix: 2 * count for radix, count in once.items()},
        products=frames * length,
        elements={"requantise": points},
        external_bytes=moved,
    )


def tuned(kernel: Kernel, machine: Description, work: Any, trials: int = TRIALS) -> dict[str, Any]:
    """The best tiling by simulated cycles."""
    found = tune_kernel(kernel, machine, trials=trials, tables=work.tables)
    return {
        "cycles": found.cycles,
        "energy_uj": round(found.energy_pj * 1e-6, 3),
        "tiling": str(found.tiling),
    }


def measure_bounds() -> list[dict[str, Any]]:
    """Rows of the part `bounds`."""
    rows = []
    for name in BOUND_MACHINES:
        machine = load_description(name)
        for length in BOUND_LENGTHS:
            for channels in BOUND_CHANNELS:
                for plan in ("direct", "fft"):
                    kernel, (work, transform) = operator(length, channels, plan, machine)
                    bound = bound_of(kernel, machine, transform, length, channels, length)
                    row = {
                        "machine": name, "length": length, "channels": channels, "plan": plan,
                        **tuned(kernel, machine, work), "bound": bound.cycles,
                        "limit": bound.limit,
                    }  # fmt: skip
                    row["ratio"] = round(row["cycles"] / bound.cycles, 3)
                    print(json.dumps(row), flush=True)
                    rows.append(row)
    return rows


def measure_crossover() -> list[dict[str, Any]]:
    """Rows of the part `crossover`: maps of about 900 points, best of the first estimates."""
    rows = []
    for name in description_names():
        machine = load_description(name)
        for length in LENGTHS:
            lines = 2 * max(2, round(450 / length))
            row: dict[str, Any] = {"machine": name, "length": length, "lines": lines}
            for plan in ("direct", "fft"):
                try:
                    kernel, (work, _) = operator(
                        length, CROSSOVER_CHANNELS, plan, machine, lines=lines
                    )
                    row[plan] = tuned(kernel, machine, work, trials=2)["cycles"]
                except ParcError as error:
                    row[plan] = None
                    row[f"{plan}_refused"] = str(error)
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def measure_two_level() -> list[dict[str, Any]]:
    """Rows of the part `two_level`: on the maps of `crossover`, with the same number of trials."""
    rows = []
    for name in description_names():
        machine = load_description(name)
        for plan in TWO_LEVEL:
            length = math.prod(map(int, plan.split("x")))
            lines = 2 * max(2, round(450 / length))
            row: dict[str, Any] = {"machine": name, "length": length, "lines": lines, "plan": plan}
            for each in ("direct", "fft", plan):
                kernel, (work, _) = operator(length, CROSSOVER_CHANNELS, each, machine, lines=lines)
                key = "cycles" if each == plan else each
                row[key] = tuned(kernel, machine, work, trials=2)["cycles"]
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def crossovers(rows: list[dict[str, Any]]) -> dict[str, int | None]:
    """From which length on transforms are always faster, per machine; None: never up to 224."""
    found: dict[str, int | None] = {}
    for name in description_names():
        own = [row for row in rows if row["machine"] == name and row["direct"] and row["fft"]]
        slower = [row["length"] for row in own if row["fft"] >= row["direct"]]
        longer = [row["length"] for row in own if row["length"] > max(slower, default=0)]
        found[name] = min(longer, default=None)
    return found


def measure_buffers() -> list[dict[str, Any]]:
    """Rows of the part `buffers`: the same tiles, with one buffer of each and with two."""
    rows = []
    for name in BOUND_MACHINES:
        machine = load_description(name)
        for what, kernel, tiles in (
            (
                "parc 56 x 56 x 96 int16, direct",
                operator(56, 96, "direct", machine)[0],
                {"l": 2, "o": 32},
            ),
            (
                "gelu 56 x 56 x 96 int16",
                elementwise(
                    "activate",
                    {"P": View(shape=(1, 3136, 96))},
                    View(shape=(1, 3136, 96)),
                    extents=(1, 3136, 96),
                    table=1025,
                    fields={"immediate": 1025, "up_b": 5, "shift": 13},
                ),
                {"w": 64},
            ),
        ):
            order = tuple(reversed(tiles)) if "l" in tiles else tuple(tiles)
            cycles = {
                depth: measure(
                    kernel, Tiling(tiles=tiles, order=order, depth=depth), machine
                ).cycles
                for depth in (1, 2, 3, 4)
            }
            rows.append(
                {
                    "machine": name, "layer": what, "cycles": cycles,
                    "gain": round(cycles[1] / min(cycles.values()), 3),
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def measure_networks() -> list[dict[str, Any]]:
    """Rows of the part `networks`: untrained weights, photographs for the ranges."""
    from parc_hw.accel.estimate import layers_of
    from parc_hw.accel.network import compile_network
    from parc_hw.integer import quantize_model

    machine = load_description("edge-npu")
    schedules = Schedules(machine)
    rows = []
    for name in NETWORKS:
        model = quantize_model(name, "int8")
        compiled = compile_network(model, machine, schedules=schedules)
        result = simulator.run(compiled.program, machine, values=False)
        layers = [
            {field: getattr(layer, field) for field in layer.__slots__} for layer in compiled.layers
        ]
        estimate = layers_of(layers, result, machine)
        kinds: dict[str, dict[str, int]] = {}
        for each in estimate.layers:
            kind = kinds.setdefault(
                each.kind, {"layers": 0, "cycles": 0, "bound": 0, "macs": 0, "bytes": 0}
            )
            kind["layers"] += 1
            kind["cycles"] += each.cycles
            kind["bound"] += each.bound_cycles
            kind["macs"] += each.macs
            kind["bytes"] += each.bytes
        row = {
            "model": name, "machine": "edge-npu", "dtype": "int8",
            "cycles": estimate.cycles, "milliseconds": round(estimate.milliseconds, 3),
            "host_cycles": estimate.host_cycles, "energy_uj": round(estimate.energy_uj, 1),
            "macs": estimate.macs, "bytes": estimate.bytes,
            "instructions": len(compiled.program.instructions),
            "host": [
                {"layer": each.name, "kind": each.kind, "reason": each.reason}
                for each in estimate.layers if each.source == "estimated"
            ],
            "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1]["cycles"])),
        }  # fmt: skip
        print(json.dumps({key: row[key] for key in row if key != "kinds"}), flush=True)
        rows.append(row)
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Direct over transforms, one line per machine: above 1 transforms are faster."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name in description_names():
        own = [row for row in rows if row["machine"] == name and row["direct"] and row["fft"]]
        axes.plot(
            [row["length"] for row in own],
            [row["direct"] / row["fft"] for row in own],
            marker="o",
            markersize=3,
            label=name,
        )
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="N",
        ylabel="cycles direct / cycles by transforms",
        title="ParC int16, 96 channels, maps of about 900 points (simulated)",
    )
    axes.set_xticks([7, 14, 28, 56, 112, 224], labels=["7", "14", "28", "56", "112", "224"])
    axes.legend()
    figure.savefig(path, dpi=120)


PARTS = {
    "bounds": measure_bounds,
    "crossover": measure_crossover,
    "two_level": measure_two_level,
    "buffers": measure_buffers,
    "networks": measure_networks,
}


def main() -> None:
    """Measure the parts that are named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        rows = PARTS[part]()
        data = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        data[part] = rows
        if part == "crossover":
            data["crossovers"] = crossovers(rows)
        data["machines"] = {name: load_description(name).hash.hex() for name in description_names()}
        RESULT.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    if arguments.plot:
        plot(json.loads(RESULT.read_text())["crossover"], arguments.plot)


if __name__ == "__main__":
    main()
