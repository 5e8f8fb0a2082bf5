"""How long does a study of 1 000 datapaths at N = 56 over 10 000 lines take?

    python benchmarks/studies.py [--points 1000] [--jobs N]

Half of the points multiply and accumulate through registers of different widths, half go through
transforms. One process per core, journal and report included. Writes
`benchmarks/results/studies.json`. The goal is 120 s on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from parc_hw import measure
from parc_hw.cli.session import table
from parc_hw.study import StudySpec, parse_spec, run_study
from parc_hw.study.workers import available_cores

RESULT = Path(__file__).resolve().parent / "results" / "studies.json"
GOAL_S = 120.0
SPEC = """
schema = 1
name = "thousand"
subject = "parc"
[data]
lines = 10000
kernels = 8
[common]
length = 56
[[grid]]
plan = "direct"
data_bits = {from = 8, to = 17}
kernel_bits = {from = 8, to = 17}
accumulator_bits = [0, 20, 24, 28, 32]
[[grid]]
plan = "fft"
data_bits = {from = 8, to = 17}
kernel_bits = {from = 8, to = 17}
twiddle_bits = [10, 12, 14, 16, 18]
"""


def specification(points: int) -> StudySpec:
    """The first so many values of the widest grid: fewer points of the same kinds."""
    spec = parse_spec(SPEC, where="benchmarks/studies.py")
    return StudySpec.from_json(
        {**spec.to_json(), "grid": [_fewer(g, points // 2) for g in spec.to_json()["grid"]]}
    )


def _fewer(grid: dict[str, list[int]], points: int) -> dict[str, list[int]]:
    share = max(1, round(points / 50))
    return {**grid, "kernel_bits": grid["kernel_bits"][:share]}


def main() -> int:
    """Measure, print and write; status 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=available_cores())
    parser.add_argument("--no-write", action="store_true", help="do not write the JSON file")
    arguments = parser.parse_args()
    spec = specification(arguments.points)
    # Compiled kernels are cached on the disk after the first study: not what is measured.
    with tempfile.TemporaryDirectory() as directory:
        run_study(specification(100), Path(directory), jobs=1, limit_s=2.0, write=lambda r: None)
    with tempfile.TemporaryDirectory() as directory:
        began = time.monotonic()
        result = run_study(spec, Path(directory), jobs=arguments.jobs)
        elapsed_s = time.monotonic() - began
    refused = sum(bool(each.refused) for each in result.results)
    document = {
        "machine": measure.machine(),
        "points": len(result.results),
        "refused": refused,
        "lines": 10000,
        "length": 56,
        "processes": arguments.jobs,
        "elapsed_s": round(elapsed_s, 2),
        "goal_s": GOAL_S,
        "runs": 1,
    }
    rows = table("points", "refused", "processes", "s", "goal s")
    rows.add_row(
        *(str(document[k]) for k in ("points", "refused", "processes", "elapsed_s", "goal_s"))
    )
    Console().print(rows)
    if not arguments.no_write:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(document, indent=1) + "\n")
    return int(elapsed_s > GOAL_S)


if __name__ == "__main__":
    sys.exit(main())
