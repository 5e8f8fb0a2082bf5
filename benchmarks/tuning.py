"""What does tuning gain over the planner's own choices?

    python benchmarks/tuning.py table11 --minutes 10
    python benchmarks/tuning.py model --minutes 10 [--name parc_convnext_xt]
    python benchmarks/tuning.py throughput

`--records FILE` keeps the records, and begins with those that are there.

`table11` tunes the depthwise ParC kernels of Table 11 and of the zoo's sizes, along either axis, with the
local runner. Afterwards, in a new process and with new memory, every winner is measured beside the
default again, until the interval is narrow. `model` does the same with a network: two bundles, with
and without the records, are timed in turn. `throughput` counts trials per second.

Writes benchmarks/results/tuning.json, each part when it has been run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import parc_hw
from parc_hw import build, measure
from parc_hw.device import load_device
from parc_hw.records import read_records
from parc_hw.runners import make_runner
from parc_hw.table11 import PAPER, ZOO
from parc_hw.tune import Progress, Site, TuneResult, model_sites, tune
from schedules.rule import Composite, Node, Ref
from schedules.tuning.space import Choice
from schedules.tuning.task import Task
from schedules.tuning.trial import Status

RESULTS = Path(__file__).parent / "results" / "tuning.json"
AGREE = 1e-3  # standard deviations of the outputs; records may change plans, and with them rounding


def parc_tasks() -> list[Task]:
    """One ParC of each size along each axis, in the layout of models."""
    source = np.random.default_rng(0)
    tasks = []
    for size in (*PAPER, *ZOO):
        for axis in ("H", "W"):
            shape = (1, size.height, size.width, size.channels)
            taps = (size.channels, size.height if axis == "H" else size.width)
            node = Node(
                op="relax.parc",
                args=(
                    Ref("input", 0),
                    source.standard_normal(taps, np.float32),
                    source.standard_normal(taps, np.float32),
                    source.standard_normal(size.channels, np.float32),
                ),
                attrs={"axis": axis, "layout": "NHWC"},
                shape=shape,
            )
            composite = Composite(inputs=(shape,), nodes=(node,))
            tasks.append(Task(kernel="parc", composite=composite, device=load_device("host")))
    return tasks


def session(result: TuneResult) -> dict[str, Any]:
    """What a tuning session did."""
    return {
        "elapsed_s": round(result.elapsed_s, 1),
        "trials": result.trials,
        "trials_a_second": result.trials / result.elapsed_s,
        "failures": sum(sum(kernel.failures.values()) for kernel in result.kernels),
        "ended": result.ended,
        "records": sum(kernel.record is not None for kernel in result.kernels),
    }


def chosen(kernel: Progress) -> Choice:
    """What a kernel's record says, or the default."""
    if kernel.record is None:
        return kernel.site.task.default
    return Choice.from_json(kernel.record.to_json()["choice"])


def table11(minutes: float, records: Path | None) -> dict[str, Any]:
    """Tune the sizes, then measure all winners again."""
    tasks = parc_tasks()
    sites = [Site(task=task, names=(task.title,)) for task in tasks]
    with tempfile.TemporaryDirectory() as name:
        database = records or Path(name) / "records.jsonl"
        with make_runner("local", device=load_device("host")) as runner:
            result = tune(sites, runner, database=database, title="table11", time_s=60 * minutes)
        best = {kernel.site.task: chosen(kernel) for kernel in result.kernels}
        winners = [
            [index, best[task].to_json()]
            for index, task in enumerate(tasks)
            if best[task] != task.default
        ]
        plan = Path(name) / "winners.json"
        plan.write_text(json.dumps(winners))
        # a process of its own: nothing of the search is left in memory
        subprocess.run([sys.executable, __file__, "again", str(plan)], check=True)
        again = {index: ratio for index, ratio in json.loads(plan.read_text())}
    spaces = {kernel.site.task: kernel for kernel in result.kernels}
    rows = []
    for index, task in enumerate(tasks):
        low, middle, high = again.get(index, (1.0, 1.0, 1.0))
        kernel = spaces[task]
        rows.append(
            {
                "kernel": task.title,
                "points": kernel.points,
                "trials": kernel.trials,
                "default": str(task.default),
                "choice": str(best[task]),
                "speedup": [1 / high, 1 / middle, 1 / low],
            }
        )
    speedups = [row["speedup"][1] for row in rows]
    return {
        "minutes": minutes,
        "session": session(result),
        "rows": rows,
        "geometric_mean": math.exp(statistics.fmean(map(math.log, speedups))),
        "slowest": min(speedups),
    }


def again(path: Path) -> None:
    """Measure winners beside the defaults and write their ratios in place of the choices."""
    tasks = parc_tasks()
    found = []
    with make_runner("local", device=load_device("host")) as runner:
        for index, choice in json.loads(path.read_text()):
            task = tasks[index]
            (trial,) = runner.measure(
                task,
                [Choice.from_json(choice)],
                incumbent=task.default,
                deadline=time.monotonic() + 600,
                confirm=True,
            )
            if trial.status is not Status.OK or trial.ratio is None:
                raise SystemExit(f"{task.title}: {trial.choice} {trial.status}: {trial.message}")
            found.append([index, trial.ratio.to_json()])
    path.write_text(json.dumps(found))


def model(
    name: str, minutes: float, shape: tuple[int, ...], records: Path | None
) -> dict[str, Any]:
    """Tune a network; time two bundles of it, without and with the records, in turn."""
    lowering = build.schedule(name, records=None)
    sites = model_sites(lowering)
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        database = records or where / "records.jsonl"
        with make_runner("local", device=load_device("host")) as runner:
            result = tune(sites, runner, database=database, title=name, time_s=60 * minutes)
        jobs = []
        for kind, given in (("default", None), ("tuned", read_records(database))):
            parc_hw.compile(name, input_shape=shape, output=where / kind, records=given)
            jobs.append(
                measure.Job(
                    runtime="parc_hw", threads=1, source=str(where / kind), shapes=(shape,), seed=0
                )
            )
        series = measure.measure(jobs, seconds=20, tolerance=AGREE)
    default, tuned = (each.median_s for each in series)
    return {
        "name": name,
        "minutes": minutes,
        "session": session(result),
        "kernels": len(sites),
        "estimated_speedup": result.before / result.after,
        "default_s": default,
        "tuned_s": tuned,
        "speedup": default / tuned,
        "largest_difference_std": series[1].max_difference,
    }


def throughput() -> dict[str, Any]:
    """Trials per second of local and static, all processes started, on the kernel of 56 points."""
    task = next(t for t in parc_tasks() if t.composite.shape[1] == 56)
    points = list(task.space.points())[:: max(1, task.space.size // 24)][:24]
    found = {}
    for name in ("local", "static"):
        with make_runner(name, device=task.device) as runner:
            soon = time.monotonic() + 300
            list(runner.measure(task, points[:3], incumbent=task.default, deadline=soon))
            began = time.monotonic()
            count = sum(
                1 for _ in runner.measure(task, points[3:], incumbent=task.default, deadline=soon)
            )
            found[name] = count / (time.monotonic() - began)
    return found


def main() -> None:
    """Run a part and put its result into the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["table11", "model", "throughput", "again"])
    parser.add_argument("winners", nargs="?", type=Path, help="of `again`, which `table11` calls")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--name", default="parc_convnext_xt")
    options = parser.parse_args()
    if options.part == "again":
        return again(options.winners)
    document: dict[str, Any] = {
        "schema": 1,
        "about": "tuned kernels beside the planner's defaults, one thread",
        "machine": {**measure.machine(), "device": load_device("host").name},
    }
    if RESULTS.exists():
        old = json.loads(RESULTS.read_text())
        measure.check_same_origin(old, document)
        document = old
    if options.part == "table11":
        document["table11"] = table11(options.minutes, options.records)
    elif options.part == "model":
        document["model"] = model(options.name, options.minutes, (1, 3, 224, 224), options.records)
    else:
        document["throughput"] = throughput()
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document[options.part], indent=1))
    return None


if __name__ == "__main__":
    main()
