"""How fast is the fixed-point simulator here, against the goals it was given?

    python benchmarks/fixed_point.py [--rounds N] [--batch N] [--output FILE.json]
    python benchmarks/fixed_point.py --table     only the tables of docs/fixed_point.md, from the JSON

Throughputs are medians over rounds that interleave all rows, on two threads, with the spread
(largest - smallest) / median; a butterfly is one of radix 2: N/2 log2 N in a transform, whatever
its radices. A transform reads and writes arrays of its own word length. First calls are timed in
processes of their own, with an empty cache of compiled code and with the one that they left.

`fixed_point_mac.py` beside this file adds its own rows: its list `ROWS` has functions
`row(quick) -> {name, unit, value, goal, higher, note}`, measured one after the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(NUMBA_NUM_THREADS="2")

import numpy as np

import fixedpoint as fx
from fixedpoint.mixed_radix import lower, run
from parc_hw.measure import machine

LENGTH = 256
RESULT = Path(__file__).parent / "results" / "fixed_point.json"
PAGE = Path(__file__).parent.parent / "docs" / "fixed_point.md"
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"


@dataclass(frozen=True)
class Row:
    """One figure: `make(batch)` returns the call to be timed and how many units it does."""

    name: str
    unit: str
    goal: float | None
    make: Callable[[int], tuple[Callable[[], Any], float]]


# ---------------------------------------------------------------- rows
def _words(bits: int, batch: int) -> np.ndarray:
    limit = 1 << (bits - 2)  # half of full scale: nothing saturates in any library
    words = np.random.default_rng(1).integers(-limit, limit, (batch, LENGTH, 2))
    return words.astype(f"int{bits}")


def _butterflies(batch: int) -> float:
    return batch * LENGTH / 2 * math.log2(LENGTH)


def _library(name: str) -> Callable[[int], tuple[Callable[[], Any], float]]:
    def make(batch: int) -> tuple[Callable[[], Any], float]:
        words = _words(getattr(fx.profiles, name).bits, batch)
        return lambda: fx.fft(words, profile=name), _butterflies(batch)

    return make


def _engine(
    radices: tuple[int, ...], decimation: str, product: str, *, count: bool = False
) -> Callable[[int], tuple[Callable[[], Any], float]]:
    def make(batch: int) -> tuple[Callable[[], Any], float]:
        plan = fx.FftPlan(radices=radices, decimation=decimation)
        program = lower(plan, fx.FftDatapath.of(plan, bits=16, product=product))
        words = _words(16, batch)
        call = lambda: run(program, words, count=count, dtype=np.int16)  # noqa: E731
        return call, _butterflies(batch)

    return make


def _user(batch: int) -> tuple[Callable[[], Any], float]:
    plan = fx.FftPlan.of(LENGTH)
    datapath = fx.FftDatapath.of(plan, bits=16)
    words = _words(16, batch)
    return lambda: fx.fft(words, plan=plan, datapath=datapath), _butterflies(batch)


UNIT = "M butterflies/s"
ROWS = [
    *(Row(f"profile {n}, N = {LENGTH}", UNIT, 1000, _library(n)) for n in fx.profiles.NAMES),
    Row("engine, product first, int32, dit 4^4", UNIT, 1000, _engine((4,) * 4, "dit", "first")),
    Row("engine, product first, int32, dif 4^4", UNIT, 1000, _engine((4,) * 4, "dif", "first")),
    Row("engine, product first, int32, dit 2^8", UNIT, 1000, _engine((2,) * 8, "dit", "first")),
    Row("engine, one rounding, int64, dit 4^4", UNIT, 300, _engine((4,) * 4, "dit", "once")),
    Row("engine, one rounding, int64, dif 4^4", UNIT, 300, _engine((4,) * 4, "dif", "once")),
    Row("engine, one rounding, int64, dit 2^8", UNIT, 300, _engine((2,) * 8, "dit", "once")),
    Row("fft(raw, plan=, datapath=), int64 result", UNIT, None, _user),
    Row(
        "engine, every point counted, int64",
        UNIT,
        None,
        _engine((4,) * 4, "dit", "once", count=True),
    ),
]


def others(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """The figures of `fixed_point_mac.py`, if it is there."""
    path = folder / "fixed_point_mac.py"
    if not path.exists():
        return []
    spec = importlib.util.spec_from_file_location("fixed_point_mac", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = []
    for row in module.ROWS:
        figure = dict(row(quick))
        value, goal = figure.pop("value"), figure.get("goal")
        higher = figure.pop("higher", True)
        met = None if goal is None else (value >= goal if higher else value <= goal)
        found.append({**figure, "median": round(value, 1), "spread": None, "met": met})
    return found


# ---------------------------------------------------------------- first calls
_FIRST_CALL = """
import json, resource, sys, time
import numpy as np
import fixedpoint as fx
begin, used = time.perf_counter(), time.process_time()
{call}
print(json.dumps([time.perf_counter() - begin, time.process_time() - used]))
"""
_PLAN = "p = fx.FftPlan.of(56); x = np.zeros((8, 56, 2), int); "
_PARC = """
from parc_hw.spec import Axis, ParcSpec
q, rng = fx.QFormat.parse("Q1.15"), np.random.default_rng(1)
spec = ParcSpec(axis=Axis.W, batch=1, channels=1, height=8, width=56)
w, x = rng.integers(-900, 900, (1, 56)), rng.integers(-32768, 32768, (1, 1, 8, 56))
plan = fx.FftPlan.of(56, output_order="digit_reversed")
if {plan!r} == "direct":
    plan, path = "direct", fx.DirectDatapath(data=q, kernel=q, output=fx.Cut(q))
else:
    words = fx.spectrum_format(w, q, 16)
    path = fx.FourierDatapath.of(plan, data=q, spectrum=words, scaling="half", pairs=True)
fx.{call}
"""
_CALL = "parc(x, w, spec=spec, plan=plan, datapath=path)"
FIRST_CALLS = {
    "fft of kissfft_16": "fx.fft(np.zeros((8, 56, 2), int), profile='kissfft_16')",
    "rfft of kissfft_32": "fx.rfft(np.zeros((8, 56), int), profile='kissfft_32')",
    "fft of cmsis_q15": "fx.fft(np.zeros((8, 64, 2), int), profile='cmsis_q15')",
    "rfft of cmsis_q31": "fx.rfft(np.zeros((8, 64), int), profile='cmsis_q31')",
    "fft by a plan": _PLAN + "fx.fft(x, plan=p, datapath=fx.FftDatapath.of(p))",
    "fft by a plan, traced": _PLAN + "fx.fft(x, plan=p, datapath=fx.FftDatapath.of(p), trace=True)",
    "parc, direct": _PARC.format(plan="direct", call=_CALL),
    "parc, fft": _PARC.format(plan="fft", call=_CALL),
    "parc, fft, traced": _PARC.format(plan="fft", call=_CALL[:-1] + ", trace=True)"),
    "certify, fft": _PARC.format(
        plan="fft", call="certify(w, spec=spec, plan=plan, datapath=path)"
    ),
}
GOAL_FIRST_CALL_S = 5.0


def first_calls() -> list[dict[str, Any]]:
    """Seconds of each first call, compiled and from the disk."""
    rows = []
    for name, call in FIRST_CALLS.items():
        with tempfile.TemporaryDirectory() as cache:
            seconds = []
            for _ in range(2):
                done = subprocess.run(
                    [sys.executable, "-c", _FIRST_CALL.format(call=call)],
                    env={**os.environ, "NUMBA_CACHE_DIR": cache},
                    check=True,
                    capture_output=True,
                    text=True,
                )
                seconds.append(json.loads(done.stdout))
        (compiled, compiled_cpu), (cached, _) = seconds
        rows.append(
            {
                "name": name,
                "first_s": round(compiled, 2),
                "first_cpu_s": round(compiled_cpu, 2),
                "from_disk_s": round(cached, 2),
                "goal_s": GOAL_FIRST_CALL_S,
                "met": compiled <= GOAL_FIRST_CALL_S,
            }
        )
    return rows


# ---------------------------------------------------------------- the run
def throughputs(rows: list[Row], *, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Medians of rounds that interleave the rows."""
    calls = [row.make(batch) for row in rows]
    for call, _ in calls:
        call()
    seconds: list[list[float]] = [[] for _ in rows]
    for _ in range(rounds):
        for times, (call, _) in zip(seconds, calls, strict=True):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
    found = []
    for row, times, (_, units) in zip(rows, seconds, calls, strict=True):
        rate = units / statistics.median(times) / 1e6
        found.append(
            {
                "name": row.name,
                "unit": row.unit,
                "median": round(rate, 1),
                "spread": round((max(times) - min(times)) / statistics.median(times), 2),
                "goal": row.goal,
                "met": None if row.goal is None else rate >= row.goal,
            }
        )
    return found


def tables(result: dict[str, Any]) -> str:
    """The tables of docs/fixed_point.md."""
    cpu, threads = result["machine"]["cpu"], result["threads"]
    lines = [
        f"| median of {result['rounds']}, {threads} threads, {cpu} | | goal |",
        "|---|---|---|",
    ]
    for row in result["throughput"]:
        figure = f"{row['median']:.0f}" if row["median"] >= 100 else f"{row['median']:.1f}"
        goal = "-" if row["goal"] is None else f"{row['goal']:g}"
        lines.append(f"| {row['name']} | {figure} {row['unit']} | {goal} |")
    lines += ["", "| first call, nothing compiled yet | seconds | from disk |", "|---|---|---|"]
    for row in result["first_calls"]:
        lines.append(f"| {row['name']} | {row['first_s']:.1f} | {row['from_disk_s']:.1f} |")
    return "\n".join(lines)


def update_page() -> None:
    """Put the tables between the two marks of docs/fixed_point.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables(json.loads(RESULT.read_text()))}\n{END}{after}")


def verdict(met: bool | None) -> str:
    """The word for a goal."""
    return "-" if met is None else "met" if met else "MISSED"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--skip-first-calls", action="store_true", help="keep the recorded ones")
    parser.add_argument("--only-first-calls", action="store_true", help="keep the throughputs")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page")
    arguments = parser.parse_args()
    if arguments.table:
        update_page()
        return
    recorded = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    result: dict[str, Any] = {
        "machine": machine(),
        "threads": int(os.environ["NUMBA_NUM_THREADS"]),
        "length": LENGTH,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
    }
    if arguments.only_first_calls:
        result = recorded
    else:
        result["throughput"] = [
            *throughputs(ROWS, batch=arguments.batch, rounds=arguments.rounds),
            *others(Path(__file__).parent, quick=arguments.rounds < 3),
        ]
    for row in result["throughput"]:
        goal = "" if row["goal"] is None else f"goal {row['goal']:g}"
        spread = "" if row["spread"] is None else f"spread {row['spread']:.0%}"
        print(
            f"{row['name']:44} {row['median']:8.1f} {row['unit']:16} {spread:12} {goal:10} "
            f"{verdict(row['met'])}"
        )
    if arguments.skip_first_calls:
        result["first_calls"] = recorded.get("first_calls", [])
    else:
        result["first_calls"] = first_calls()
    for row in result["first_calls"]:
        print(
            f"first call: {row['name']:24} {row['first_s']:6.2f} s ({row['first_cpu_s']:.2f} s CPU), "
            f"from disk {row['from_disk_s']:.2f} s  goal {row['goal_s']:g} s {verdict(row['met'])}"
        )
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.output == RESULT:
        update_page()


if __name__ == "__main__":
    main()
