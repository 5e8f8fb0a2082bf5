"""A runner that measures nothing: costs are computed from choices, failures are pretended.

    python tests/tuning/pretended.py DATABASE [--resume] [--pause SECONDS]

tunes two tasks with it, as a process that a test may kill.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from parc_hw.device import load_device
from parc_hw.tune import Site, TuneResult, tune
from schedules.rule import Composite, Node, Ref
from schedules.tuning.space import Choice
from schedules.tuning.task import Task
from schedules.tuning.trial import Ratio, Status, Trial


def matmul_task(rows: int = 24, k: int = 8, n: int = 32, *, device: str = "x86-64-v3") -> Task:
    """A product with a constant matrix."""
    weight = np.ones((k, n), np.float32)
    node = Node(op="relax.matmul", args=(Ref("input", 0), weight), attrs={}, shape=(rows, n))
    composite = Composite(inputs=((rows, k),), nodes=(node,))
    return Task(kernel="matmul", composite=composite, device=load_device(device))


def parc_task(side: int = 14, channels: int = 16, *, device: str = "x86-64-v3") -> Task:
    """A ParC along the height."""
    arrays = [
        np.ones(shape, np.float32) for shape in ((channels, side), (channels, side), (channels,))
    ]
    shape = (1, side, side, channels)
    attrs = {"axis": "H", "layout": "NHWC"}
    node = Node(op="relax.parc", args=(Ref("input", 0), *arrays), attrs=attrs, shape=shape)
    return Task(
        kernel="parc",
        composite=Composite(inputs=(shape,), nodes=(node,)),
        device=load_device(device),
    )


def cost_of(task: Task, choice: Choice) -> float:
    """Smooth in the places of the values, different for every task; the default costs 1e-3."""
    total = 0.0
    for dimension in task.space.dimensions:
        best = random.Random(f"{task.kernel} {dimension.name}").randrange(len(dimension.values))
        here = dimension.values.index(choice[dimension.name])
        start = dimension.values.index(task.default[dimension.name])
        total += (abs(here - best) - abs(start - best)) / (4.0 * len(dimension.values))
    return 1e-3 * 2.0**total


class Pretended:
    """A runner whose costs come from `cost`; `fails(choice)` gives a status or None."""

    name, unit, version, width, trust = "local", "s", "1", 1, ""

    def __init__(
        self,
        *,
        cost: Callable[[Task, Choice], float] = cost_of,
        fails: Callable[[Choice], Status | None] = lambda choice: None,
        noise: float = 0.0,
        pause_s: float = 0.0,
        exact: bool = False,
    ) -> None:
        self.cost, self.fails, self.noise, self.pause_s, self.exact = (
            cost, fails, noise, pause_s, exact,
        )  # fmt: skip
        self.measured: list[Choice] = []
        self.confirmed: list[Choice] = []
        self._random = random.Random(7)

    def measure(
        self,
        task: Task,
        choices: Sequence[Choice],
        *,
        incumbent: Choice,
        deadline: float,
        confirm: bool = False,
    ) -> Iterator[Trial]:
        for choice in choices:
            if time.monotonic() > deadline:
                return
            time.sleep(self.pause_s)
            (self.confirmed if confirm else self.measured).append(choice)
            status = self.fails(choice)
            if status is not None and choice != task.default:
                yield Trial(choice=choice, against=incumbent, status=status, message="pretended")
                continue
            ratio = self.cost(task, choice) / self.cost(task, incumbent)
            ratio *= 1 + self.noise * self._random.uniform(-1, 1) * (not confirm)
            spread = self.noise * (0.1 if confirm else 1.0)
            yield Trial(
                choice=choice,
                against=incumbent,
                status=Status.OK,
                ratio=Ratio(ratio * (1 - spread), ratio, ratio * (1 + spread)),
                cost=self.cost(task, choice),
            )

    def close(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> Pretended:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def sites() -> list[Site]:
    """Two kernels, one of them called twice."""
    return [
        Site(task=matmul_task(), names=("head",)),
        Site(task=parc_task(), names=("first", "second")),
    ]


def tuned(database: Path, runner: Pretended, **options: object) -> TuneResult:
    """`tune` on `sites`."""
    return tune(sites(), runner, database=database, title="pretended", **options)  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("database", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    # a test that kills this process wants to know when the work begins
    print("begun", flush=True)
    done = tuned(given.database, Pretended(pause_s=given.pause), trials=40, resume=given.resume)
    print(done.ended or "finished", done.trials, flush=True)
    sys.exit(0)
