"""How well do counts and llvm-mca's cycles order kernels, beside their times?

    python benchmarks/tuning_trust.py                      measure all that is missing, then fit
    python benchmarks/tuning_trust.py --only matmul host   the cases whose name has these words
    python benchmarks/tuning_trust.py --count              count only; times can follow later
    python benchmarks/tuning_trust.py --fit                fit and judge again, without measuring

For each kernel family, device and length some choices of its space, drawn at random, are timed in turn
with the default choice, and counted. Devices are this machine with all of its vectors and as far
as it can be a NEON: 4 lanes with 32 and with 16 registers. The memory term's weights are those of a
family: fitted to its other lengths when a length is judged, and to all of them for what is shipped.

Writes benchmarks/results/tuning_trust.json; `tools/tuning_tables.py` makes the table in
docs/tuning.md and parc_hw/runners/trust.json from it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from parc_hw import measure
from parc_hw.device import Device, load_device
from parc_hw.peers import proxy_device
from parc_hw.runners import static
from parc_hw.runners.count import Counted
from parc_hw.runners.counted import CountedRunner
from parc_hw.runners.local import LocalRunner
from schedules.rule import Composite, Node, Ref
from schedules.tuning.space import Choice
from schedules.tuning.task import Task
from schedules.tuning.trial import Status

RESULTS = Path(__file__).parent / "results" / "tuning_trust.json"
DEVICES = ("host", "proxy 32", "proxy 16")
CANDIDATES = 12
LENGTHS = (14, 28, 56)
TERMS = ("waiting", "access", "line", "fetched", "allocated", "expelled")


@dataclass(frozen=True)
class Case:
    """A kernel on a device; `pick` says which choices belong to the family."""

    family: str
    device: str
    length: int

    @property
    def key(self) -> list[Any]:
        """As `key_of` a counted one."""
        return [self.family, self.device, self.length]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.family}, {self.length}, {self.device}"


FAMILIES = ("parc direct", "parc two-level", "matmul", "conv", "depthwise")


def device_of(name: str) -> Device:
    """The machine that runs it, or a proxy."""
    return load_device("host") if name == "host" else proxy_device(name)


def channels_at(length: int) -> int:
    """As networks have them."""
    return {14: 192, 28: 96, 56: 96}[length]


def task_of(case: Case) -> Task:
    """The task of a case."""
    source = np.random.default_rng(0)
    n, c = case.length, channels_at(case.length)
    shape = (1, n, n, c)

    def normal(*size: int) -> np.ndarray:
        return source.standard_normal(size, np.float32)

    def conv(kernel: np.ndarray, groups: int, taps: int) -> Node:
        attrs = {
            "strides": (1, 1),
            "padding": (taps // 2,) * 4,
            "dilation": (1, 1),
            "groups": groups,
            "data_layout": "NHWC",
            "kernel_layout": "OHWI" if groups == 1 else "HWOI",
            "out_layout": "NHWC",
        }
        return Node(op="relax.nn.conv2d", args=(Ref("input", 0), kernel), attrs=attrs, shape=shape)

    kernel = case.family.split()[0]
    if kernel == "parc":
        node = Node(
            op="relax.parc",
            args=(Ref("input", 0), normal(c, n), normal(c, n), normal(c)),
            attrs={"axis": "H", "layout": "NHWC"},
            shape=shape,
        )
        composite = Composite(inputs=(shape,), nodes=(node,))
    elif kernel == "matmul":
        rows = (1, n * n, c)
        product = Node(
            op="relax.matmul", args=(Ref("input", 0), normal(c, 2 * c)), attrs={},
            shape=(1, n * n, 2 * c),
        )  # fmt: skip
        composite = Composite(inputs=(rows,), nodes=(product,))
    elif kernel == "conv":
        channels = 64 if n > 14 else 128
        shape = (1, n, n, channels)
        composite = Composite(
            inputs=(shape,), nodes=(conv(normal(channels, 3, 3, channels), 1, 3),)
        )
    else:
        composite = Composite(inputs=(shape,), nodes=(conv(normal(7, 7, c, 1), c, 7),))
    return Task(kernel=kernel, composite=composite, device=device_of(case.device))


def choices_of(case: Case, task: Task) -> list[Choice]:
    """The family's choices: the default if it is one, and others drawn at random.

    Vectors are as wide as the device's: narrower ones lose by far and would be easy to order.
    """

    def belongs(choice: Choice) -> bool:
        if choice.get("lanes", task.device.lanes()) != task.device.lanes():
            return False
        if case.family == "parc direct":
            return str(choice["plan"]).startswith("1x")
        if case.family == "parc two-level":
            return not str(choice["plan"]).startswith("1x")
        return True

    points = [choice for choice in task.space.points() if belongs(choice)]
    if len(points) > CANDIDATES:
        points = random.Random(0).sample(points, CANDIDATES)
    if belongs(task.default) and task.default not in points:
        points[0] = task.default
    return points


KINDS = ("instructions", "cycles", "throughput", "accesses", "prefetches", "streamed")


def count_case(case: Case, runner: CountedRunner) -> dict[str, Any]:
    """A case's candidates and what they execute."""
    task = task_of(case)
    choices = choices_of(case, task)
    rows = []
    soon = time.monotonic() + 3600
    for trial in runner.measure(task, choices, incumbent=task.default, deadline=soon):
        if trial.status is not Status.OK:
            raise SystemExit(f"{case.name}: {trial.choice} {trial.status}: {trial.message}")
        counts = {kind: trial.evidence[kind] for kind in KINDS}
        rows.append({"choice": trial.choice.to_json(), **counts})
    return {
        "family": case.family,
        "device": case.device,
        "length": case.length,
        "task": task.title,
        "space": task.space.size,
        "task_bytes": task.bytes,
        "result_bytes": 4 * math.prod(task.composite.shape),
        "candidates": rows,
    }


def time_case(found: dict[str, Any], runner: LocalRunner) -> None:
    """Add the times of a case's candidates, relative to the first of them."""
    case = Case(found["family"], found["device"], found["length"])
    task = task_of(case)
    rows = {Choice.from_json(row["choice"]): row for row in found["candidates"]}
    choices = list(rows)
    soon = time.monotonic() + 3600
    for trial in runner.measure(task, choices, incumbent=choices[0], deadline=soon):
        if trial.status is not Status.OK or trial.ratio is None:
            raise SystemExit(f"{case.name}: {trial.choice} {trial.status}: {trial.message}")
        rows[trial.choice] |= {"ratio": trial.ratio.to_json(), "seconds": trial.cost}


# ---------------------------------------------------------------- fitting and judging


def features(case: dict[str, Any]) -> np.ndarray:
    """For each candidate the throughput and the terms of `static`."""
    device = device_of(case["device"])
    rows = []
    for each in case["candidates"]:
        counted = Counted(
            status="ok",
            **{k: each[k] for k in ("cycles", "throughput", "accesses", "prefetches", "streamed")},
        )
        found = static.terms(
            counted,
            task_bytes=case["task_bytes"],
            result_bytes=case["result_bytes"],
            device=device,
        )
        rows.append([each["throughput"], *found])
    return np.array(rows, float)


def times(case: dict[str, Any]) -> np.ndarray:
    """Of each candidate, relative to one of them."""
    return np.array([each["ratio"][1] for each in case["candidates"]])


def fit(cases: list[dict[str, Any]]) -> np.ndarray:
    """Weights of the terms, not negative: time / (scale of the case) = throughput + weights * terms.

    Relative errors count. A case's scale is found from the weights, and those from the scales, in
    turn.
    """
    weights = np.zeros(len(TERMS))
    for _ in range(200):
        rows, right = [], []
        for case in cases:
            x, y = features(case), times(case)
            cost = x[:, 0] + x[:, 1:] @ weights
            scale = np.exp(np.mean(np.log(y) - np.log(cost)))
            # scale * (throughput + terms * w) / y = 1, each candidate of a case as much as the case
            each = scale / y / math.sqrt(len(y))
            rows.append(x[:, 1:] * each[:, None])
            right.append((1 - scale * x[:, 0] / y) / math.sqrt(len(y)))
        a, b = np.concatenate(rows), np.concatenate(right)
        size = np.maximum(np.abs(a).max(axis=0), 1e-12)
        found, _ = nnls(a / size, b)
        weights = 0.5 * weights + 0.5 * found / size
    return weights


def judge(cost: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Rank correlation with time, and how far the first, and the best of the first three, are off."""
    order = np.argsort(cost, kind="stable")
    rho = spearmanr(cost, y).statistic if np.ptp(cost) > 0 else 0.0
    return {
        "spearman": float(rho),
        "top1": float(y[order[0]] / y.min()),
        "top3": float(y[order[:3]].min() / y.min()),
    }


def fitted(document: dict[str, Any]) -> None:
    """Add to every case with times how each figure orders it, and the weights."""
    cases = [case for case in document["cases"] if is_timed(case)]
    if not cases:
        return
    weights = {}
    for family in sorted({case["family"].split()[0] for case in cases}):
        own = [case for case in cases if case["family"].split()[0] == family]
        weights[family] = dict(zip(TERMS, map(float, fit(own)), strict=True))
        for case in own:
            others = [each for each in own if each["length"] != case["length"]]
            x, y = features(case), times(case)
            weighed = x[:, 0] + x[:, 1:] @ fit(others) if others else x[:, 0]
            case["orders"] = {"static": judge(weighed, y)} | {
                name: judge(np.array([float(each[name]) for each in case["candidates"]]), y)
                for name in ("cycles", "instructions")
            }
    document["weights"] = weights
    document["weights_elsewhere"] = dict(zip(TERMS, map(float, fit(cases)), strict=True))


def is_timed(case: dict[str, Any]) -> bool:
    """Whether all candidates have times."""
    return all("ratio" in each for each in case["candidates"])


def key_of(case: dict[str, Any]) -> list[Any]:
    """What names a case."""
    return [case["family"], case["device"], case["length"]]


def wanted(words: list[str]) -> Iterator[Case]:
    """The cases whose names have all the words."""
    for device in DEVICES:
        for family in FAMILIES:
            for length in LENGTHS:
                case = Case(family, device, length)
                if all(word in case.name for word in words):
                    yield case


def main() -> None:
    """Count, time and judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="words that a case's name has")
    parser.add_argument("--again", action="store_true", help="measure cases that are there already")
    parser.add_argument("--count", action="store_true", help="count, but take no times")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="time no further case after so long"
    )
    parser.add_argument("--fit", action="store_true", help="measure nothing")
    options = parser.parse_args()
    document: dict[str, Any] = {
        "schema": 1,
        "about": "the order of kernels by static figures beside their times",
        "machine": {**measure.machine(), "device": load_device("host").name},
        "method": (
            "times relative to the default choice, interleaved, one thread, pinned; "
            f"up to {CANDIDATES} choices drawn at random, vectors as wide as the device's"
        ),
        "cases": [],
    }
    if RESULTS.exists():
        old = json.loads(RESULTS.read_text())
        measure.check_same_origin(old, document)
        document["cases"] = old["cases"]
    cases = [] if options.fit else list(wanted(options.only))
    keys = [case.key for case in cases]
    if options.again:
        document["cases"] = [c for c in document["cases"] if key_of(c) not in keys]
    there = {tuple(key_of(c)): c for c in document["cases"]}
    began = time.monotonic()
    for name in DEVICES:
        here = [case for case in cases if case.device == name]
        missing = [case for case in here if tuple(case.key) not in there]
        if missing:
            with CountedRunner("static", device=device_of(name), timeout_s=60) as counter:
                for case in missing:
                    there[tuple(case.key)] = found = count_case(case, counter)
                    document["cases"].append(found)
                    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
                    print(f"{case.name}: counted, {time.monotonic() - began:.0f} s", flush=True)
        untimed = [case for case in here if not is_timed(there[tuple(case.key)])]
        if options.count or not untimed:
            continue
        with LocalRunner(device=device_of(name)) as runner:
            for case in untimed:
                if time.monotonic() - began > options.seconds:
                    break
                time_case(there[tuple(case.key)], runner)
                RESULTS.write_text(json.dumps(document, indent=1) + "\n")
                print(f"{case.name}: timed, {time.monotonic() - began:.0f} s", flush=True)
    fitted(document)
    order = {name: i for i, name in enumerate(FAMILIES)}
    document["cases"].sort(
        key=lambda c: (order[c["family"]], DEVICES.index(c["device"]), c["length"])
    )
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    for case in filter(is_timed, document["cases"]):
        shown = "  ".join(
            f"{name} {o['spearman']:.2f} {o['top1']:.2f} {o['top3']:.2f}"
            for name, o in case["orders"].items()
        )
        print(f"{case['family']:16}{case['device']:10}{case['length']:4}  {shown}")
    print(document.get("weights"))


if __name__ == "__main__":
    main()
