"""How long does one kernel take to compile, on every kind of target?

    python benchmarks/parc_compile.py [--output FILE.json]

Seconds of processor time of one process: planning, scheduling, TVM's passes and LLVM, to the bytes
of an object file, when TVM is loaded already. The goal is 3 seconds for any kernel.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from parc_hw.device import load_device
from parc_hw.operator import schedule_parc
from schedules.aot import compile_kernels

RESULTS = Path(__file__).parent / "results" / "parc_compile.json"
TARGETS = ("host", "cortex-a53", "rk3288")
LENGTHS = (7, 14, 28, 31, 56, 64, 97, 112, 128, 168, 224, 256)
DENSE = ((128, 14), (256, 7), (64, 28), (64, 56), (16, 112))  # channels, length
GOAL_S = 3.0


def seconds(target: str, axis: str, layout: str, channels: int, n: int, *, dense: bool) -> float:
    """Processor time of one kernel for a square map."""
    weight = np.zeros((channels, channels, n) if dense else (channels, n), np.float32)
    given = weight
    if axis == "half":
        given = (weight[: channels // 2], weight[channels // 2 :])
    elif axis == "HW":
        given = (weight, weight)
    shape = (1, channels, n, n) if layout == "NCHW" else (1, n, n, channels)
    device = load_device(target)
    started = time.process_time()
    _, scheduled = schedule_parc(given, axis, shape, device=device, layout=layout)
    compile_kernels([scheduled.func], device, prefix="k")
    return time.process_time() - started


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    seconds("host", "H", "NHWC", 8, 8, dense=False)  # TVM's own start
    records = []
    for target in TARGETS:
        cases = [(axis, "NHWC", 96, n, False) for n in LENGTHS for axis in ("H", "HW")]
        cases += [("W", "NCHW", 96, n, False) for n in LENGTHS]
        cases += [("half", layout, 96, n, False) for n in (28, 56) for layout in ("NHWC", "NCHW")]
        cases += [("H", layout, c, n, True) for c, n in DENSE for layout in ("NHWC", "NCHW")]
        for axis, layout, channels, n, dense in cases:
            taken = seconds(target, axis, layout, channels, n, dense=dense)
            records.append(
                {
                    "target": target,
                    "kernel": f"{'dense ' if dense else ''}{axis} {layout} N={n} C={channels}",
                    "seconds": round(taken, 3),
                }
            )
        own = [r for r in records if r["target"] == target]
        worst = max(own, key=lambda r: r["seconds"])
        print(f"{target}: {len(own)} kernels, worst {worst['seconds']:.2f} s: {worst['kernel']}")
    result = {
        "device": load_device("host").name,
        "unit": "seconds of processor time, one kernel",
        "goal_s": GOAL_S,
        "met": all(r["seconds"] < GOAL_S for r in records),
        "kernels": records,
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
