"""What does a model of the pipeline not see of memory, and how far can its order be trusted?

llvm-mca repeats each block alone. Its cycles let the repetitions wait for each other; its throughput lets
them wait for nothing, as if the processor found enough other work beyond the loop. It takes every
access to hit the first cache. The cost is the throughput and, each with a weight in cycles,

    waiting    cycles beyond the throughput; weight 1 on a core that executes in order
    access     instruction with an operand in memory
    line       cache line that is beyond the second cache and not fetched before it is needed
    fetched    cache line that is
    allocated  cache line of a result that is read before it is written, beyond the second cache
    expelled   cache line of a result that is stored past the caches though it would have stayed in them

The weights are fitted to times on one machine and kept in `trust.json`, with how well the order
agreed with time on kernels that the fit had not seen (`benchmarks/tuning_trust.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from parc_hw.device import Device
from parc_hw.runners.count import Counted

__all__ = ["Weights", "cost", "terms", "trust_line", "trust_of", "version", "weights_for"]

_L2_BYTES = 2**20  # where the device's is unknown: of x86-64 servers at least that
_LINE_BYTES = 64
_IN_ORDER = ("cortex-a7", "cortex-a53", "cortex-a55")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Cycles of each term of the module's text."""

    waiting: float
    access: float
    line: float
    fetched: float
    allocated: float
    expelled: float


def terms(counted: Counted, *, task_bytes: int, result_bytes: int, device: Device) -> list[float]:
    """How often each of the terms occurs: waiting, access, line, fetched, allocated, expelled."""
    line = device.line_bytes or _LINE_BYTES
    far = task_bytes > (device.l2_bytes or _L2_BYTES)
    lines = task_bytes / line if far else 0.0
    fetched = min(lines, counted.prefetches)
    streamed = counted.streamed * device.vector_bits / 8 / line
    allocated = max(0.0, result_bytes / line - streamed) if far else 0.0
    waiting = max(0.0, counted.cycles - counted.throughput)
    return [
        waiting,
        counted.accesses,
        lines - fetched,
        fetched,
        allocated,
        0.0 if far else streamed,
    ]


def cost(
    counted: Counted, *, task_bytes: int, result_bytes: int, device: Device, weights: Weights
) -> float:
    """Throughput of the model and the weighed terms, in cycles."""
    found = terms(counted, task_bytes=task_bytes, result_bytes=result_bytes, device=device)
    waiting = 1.0 if device.core in _IN_ORDER or device.name in _IN_ORDER else weights.waiting
    given = (
        waiting,
        weights.access,
        weights.line,
        weights.fetched,
        weights.allocated,
        weights.expelled,
    )
    return counted.throughput + sum(w * t for w, t in zip(given, found, strict=True))


@cache
def _trust() -> dict[str, Any]:
    path = resources.files("parc_hw.runners") / "trust.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def weights_for(family: str) -> Weights:
    """The weights fitted to a family of kernels, or to all of them; for all devices the same ones."""
    data = _trust()
    return Weights(**data["weights"].get(family, data["weights_elsewhere"]))


def version() -> str:
    """What names the fit."""
    return f"memory-{_trust()['version']}"


def trust_of(family: str) -> str:
    """How well the order agreed with time for a family of kernels, one line."""
    data = _trust()
    found = data["families"].get(family)
    if found is None:
        return f"order not checked against time for {family}"
    return (
        f"Spearman {found['spearman']:.2f} with time, best of the first three "
        f"{100 * (found['top3'] - 1):.0f} % off the best, on {data['machine']} ({family})"
    )


def trust_line(device: Device) -> str:
    """The figures of all families, to be printed beside every result."""
    data = _trust()
    shown = ", ".join(f"{name} {f['spearman']:.2f}" for name, f in data["families"].items())
    elsewhere = "" if device.name == data["device"] else f"; not checked on {device.name}"
    return f"static is no time: its order agrees with times on {data['machine']} by Spearman {shown}{elsewhere}."
