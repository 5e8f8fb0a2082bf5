"""Is a long ParC, of 257 to 1024 points, ever slower than the direct form?

    python benchmarks/parc_long.py [--seconds S]

One thread, 16 channels and 16 lines. A length without a factor from 2 to 32 is the direct form itself
and cannot be slower; of the others one for every second length of transform that the planner chooses, and
a few more, are measured beside the direct form, interleaved, along H in both layouts and along W in
NCHW, which has a kernel of its own. Writes `benchmarks/results/parc_long.json`; status 1 where one is
slower.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from planner_pick import at_line

import parc_hw
from parc_hw import measure
from parc_hw.device import load_device
from parc_hw.plan import SplitPlan
from parc_hw.planner import plan_parc
from parc_hw.spec import Axis, ParcSpec

FORMS = (("H", "NHWC"), ("H", "NCHW"), ("W", "NCHW"))
SHORTEST, LONGEST = 257, 1024
CHANNELS = LINES = 16
ROUNDS = 5  # at least
RESULT = Path(__file__).resolve().parent / "results" / "parc_long.json"


def planned(length: int) -> SplitPlan:
    """The planner's choice."""
    spec = ParcSpec(axis=Axis.H, batch=1, channels=CHANNELS, height=length, width=LINES)
    return plan_parc(spec, load_device("host")).plan


def sample(plans: dict[int, SplitPlan]) -> list[int]:
    """A length for every second transform, from all over the range, and more of the longest blocks.

    Twice a prime is where the least is gained: two points by blocks of hundreds.
    """
    by_transform: dict[int, list[int]] = {}
    for length, plan in plans.items():
        by_transform.setdefault(plan.n1, []).append(length)
    direct = by_transform.pop(1, [])
    chosen = {by_transform[n1][n1 * 7 % len(by_transform[n1])] for n1 in sorted(by_transform)[::2]}
    chosen.update(by_transform[2][:: max(1, len(by_transform[2]) // 3)])
    return sorted({*chosen, direct[0], direct[-1]})


def bound(length: int, axis: str, layout: str, plan: str) -> Callable[[], object]:
    """A call of the operator on arrays that begin at cache lines."""
    random = np.random.default_rng(length)
    lines = (length, LINES) if axis == "H" else (LINES, length)
    shape = (1, CHANNELS, *lines) if layout == "NCHW" else (1, *lines, CHANNELS)
    weight = (random.standard_normal((CHANNELS, length)) / length).astype(np.float32)
    x, y = (at_line(int(np.prod(shape))).reshape(shape) for _ in range(2))
    x[:] = random.standard_normal(shape)
    return parc_hw.compile_parc(weight, axis, shape, layout=layout, plan=plan).bind(x, y)


def times_faster(calls: list[Callable[[], object]], seconds: float) -> tuple[float, float]:
    """Median time of the second over the first, and seconds of the first."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[-1]) < ROUNDS:
        for call, series in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            series.append(time.perf_counter() - begin)
    first, second = map(statistics.median, times)
    return second / first, first


def main() -> int:
    """Measure, print and write; status 1 when one is slower than the direct form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time of all")
    arguments = parser.parse_args()
    plans = {n: planned(n) for n in range(SHORTEST, LONGEST + 1)}
    direct = sum(plan.n1 == 1 for plan in plans.values())
    lengths = sample(plans)
    timed = [n for n in lengths if plans[n].n1 > 1]
    each = arguments.seconds / (len(timed) * len(FORMS))
    rows: list[dict[str, Any]] = []
    for length in timed:
        for axis, layout in FORMS:
            calls = [bound(length, axis, layout, plan) for plan in ("auto", "direct")]
            ratio, taken = times_faster(calls, each)
            form = {"length": length, "plan": str(plans[length]), "axis": axis, "layout": layout}
            rows.append({**form, "seconds": taken, "times_faster": ratio})
            print(f"{length:5} {plans[length]!s:>7} {axis} {layout}: {ratio:.2f}", flush=True)
    worst = min(rows, key=lambda row: row["times_faster"])
    document = {
        "machine": measure.machine(),
        "device": load_device("host").name,
        "operator": {"channels": CHANNELS, "lines": LINES, "threads": 1},
        "direct_lengths": direct,
        "all_lengths": len(plans),
        "least_times_faster": worst["times_faster"],
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=2) + "\n")
    print(
        f"{direct} of {len(plans)} lengths are the direct form; of {len(rows)} others the least is"
    )
    print(f"{worst['times_faster']:.2f} times as fast as it: {worst['length']} as {worst['plan']}")
    return int(worst["times_faster"] < 1)


if __name__ == "__main__":
    sys.exit(main())
