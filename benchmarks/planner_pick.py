"""How near to the fastest plan is the planner's choice on this machine, for 40 lengths from 7 to 256?

    python benchmarks/planner_pick.py [--part I/K] [--seconds S]

ParC along H in NHWC with 96 channels, one thread, so many columns that the map has about 900 points
and stays in the cache. All plans with n1 <= 32 of a length are measured interleaved; the five best
and the planner's own once more in a new process, which decides. Writes or completes
`benchmarks/results/planner_pick.json`; with `--part 2/8` only every eighth length from the second
on, with the others left as they are in the file.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import parc_hw
from parc_hw import measure
from parc_hw.device import load_device
from parc_hw.plan import MAX_TRANSFORM
from parc_hw.planner import plan_parc
from parc_hw.spec import Axis, ParcSpec

LENGTHS = (
    7, 8, 10, 12, 14, 15, 16, 18, 20, 21, 24, 25, 27, 28, 30, 32, 35, 36, 40, 42, 45, 48, 49, 50,
    54, 56, 60, 63, 64, 72, 80, 84, 96, 100, 112, 128, 168, 196, 224, 256,
)  # fmt: skip
CHANNELS = 96
POINTS = 900
MOST_DIRECT = 64  # longer direct forms took 4 to 20 times as long as the best
AGAIN = 5
GOALS = {"worst": 1.10, "median": 1.03}
RESULT = Path(__file__).resolve().parent / "results" / "planner_pick.json"


def columns(length: int) -> int:
    """How many columns the map of a length has."""
    return max(8, POINTS // length)


def bound(length: int, plans: list[str]) -> list[Callable[[], object]]:
    """A call of the operator with each plan, all on the same arrays.

    They begin at a cache line. At other places, as numpy gives them, the same kernel takes up to
    1.8 times as long, which would be taken for a difference of plans.
    """
    random = np.random.default_rng(length)
    shape = (1, length, columns(length), CHANNELS)
    weight = (random.standard_normal((CHANNELS, length)) / length).astype(np.float32)
    x, y = (at_line(math.prod(shape)).reshape(shape) for _ in range(2))
    x[:] = random.standard_normal(shape)
    operators = [
        parc_hw.compile_parc(weight, "H", shape, plan=plan, layout="NHWC") for plan in plans
    ]
    return [operator.bind(x, y) for operator in operators]


def at_line(size: int) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes."""
    room = np.zeros(size + 16, np.float32)
    first = -room.ctypes.data // 4 % 16
    return room[first : first + size]


def measured(plans: dict[int, list[str]], seconds: float) -> dict[int, dict[str, float]]:
    """Median seconds of one call of each plan of each length; plans of one length take turns."""
    result = {}
    for length, texts in plans.items():
        calls = bound(length, texts)
        times: list[list[float]] = [[] for _ in calls]
        repeats = []
        for call in calls:
            call()
            begin = time.perf_counter()
            call()
            repeats.append(max(1, int(2e-4 / (time.perf_counter() - begin))))
        end = time.perf_counter() + seconds / len(plans)
        while time.perf_counter() < end or not times[-1]:
            for call, count, series in zip(calls, repeats, times, strict=True):
                call()  # its data and code come back to the cache
                begin = time.perf_counter()
                for _ in range(count):
                    call()
                series.append((time.perf_counter() - begin) / count)
        result[length] = dict(zip(texts, map(statistics.median, times), strict=True))
    return result


def candidates(length: int) -> list[str]:
    """All plans of a length that are measured."""
    divisors = [n for n in range(1, min(length, MAX_TRANSFORM) + 1) if length % n == 0]
    return [f"{n}x{length // n}" for n in divisors if n > 1 or length <= MOST_DIRECT]


def picked(length: int) -> str:
    """The planner's plan."""
    size = {"batch": 1, "channels": CHANNELS, "height": length, "width": columns(length)}
    return str(plan_parc(ParcSpec(axis=Axis.H, **size), load_device("host")).plan)


def main() -> int:
    """Measure, print and write; status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="1/1", help="I/K: every K-th length from the I-th on")
    parser.add_argument("--seconds", type=float, default=80.0, help="measuring time of all lengths")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    lengths = LENGTHS[part - 1 :: parts]
    seconds = arguments.seconds * len(lengths) / len(LENGTHS)

    first = measured({n: candidates(n) for n in lengths}, seconds / 2)
    best = {n: sorted(first[n], key=first[n].__getitem__)[:AGAIN] for n in lengths}
    again = {n: best[n] + [p for p in [picked(n)] if p not in best[n]] for n in lengths}
    with multiprocessing.get_context("spawn").Pool(1) as fresh:
        second = fresh.apply(measured, (again, seconds / 2))

    document = json.loads(RESULT.read_text()) if RESULT.exists() else {"lengths": {}}
    for n in lengths:
        fastest = min(second[n], key=second[n].__getitem__)
        document["lengths"][str(n)] = {
            "columns": columns(n),
            "picked": picked(n),
            "fastest": fastest,
            "ratio": second[n][picked(n)] / second[n][fastest],
            "first_s": first[n],
            "again_s": second[n],
        }
    ordered = {
        str(n): document["lengths"][str(n)] for n in LENGTHS if str(n) in document["lengths"]
    }
    ratios = [one["ratio"] for one in ordered.values()]
    found = {"worst": max(ratios), "median": statistics.median(ratios)}
    document = {
        "machine": measure.machine(),
        "device": load_device("host").name,
        "operator": {"axis": "H", "layout": "NHWC", "channels": CHANNELS, "threads": 1},
        **found,
        "lengths": ordered,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=2) + "\n")
    for n in lengths:
        one = ordered[str(n)]
        print(f"{n:4}: {one['picked']:>5}, fastest {one['fastest']:>5}, {one['ratio']:.3f}")
    print(f"{len(ordered)} of {len(LENGTHS)} lengths: worst {max(ratios):.3f}, ", end="")
    print(f"median {found['median']:.3f}; goals {GOALS['worst']} and {GOALS['median']}")
    missed = [name for name, goal in GOALS.items() if found[name] > goal]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
