"""Where in the arena does each intermediate value live?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["ALIGNMENT_BYTES", "Lifetime", "MemoryPlan", "aligned", "plan_memory"]

ALIGNMENT_BYTES = 64  # a cache line and the widest vector


def aligned(size_bytes: int) -> int:
    """`size_bytes` rounded up to the alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime:
    """A buffer's size and the first and last call that touch it."""

    size_bytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at some call."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Offsets of buffers in one arena."""

    offsets_bytes: dict[int, int]
    arena_bytes: int
    live_peak_bytes: int  # no plan can be smaller


def _place(lifetimes: Mapping[int, Lifetime], order: list[int]) -> dict[int, int]:
    """Put each buffer, in `order`, at the lowest offset free over its whole lifetime."""
    offsets: dict[int, int] = {}
    for key in order:
        own = lifetimes[key]
        at = 0
        neighbours = sorted((offsets[o], o) for o in offsets if own.meets(lifetimes[o]))
        for offset, other in neighbours:
            if at + own.size_bytes <= offset:
                break
            at = max(at, offset + aligned(lifetimes[other].size_bytes))
        offsets[key] = at
    return offsets


def plan_memory(lifetimes: Mapping[int, Lifetime]) -> MemoryPlan:
    """Pack buffers by liveness; buffers that never meet may share bytes.

    Interval packing is NP-hard; of three greedy orders (by size, by size times duration, by
    birth) the smallest arena is taken.

    Parameters
    ----------
    lifetimes : mapping of int to Lifetime
        By buffer.

    Returns
    -------
    MemoryPlan
        Offsets are multiples of 64 bytes.
    """
    calls = {lifetime.first for lifetime in lifetimes.values()}
    peak = max(
        (
            sum(aligned(b.size_bytes) for b in lifetimes.values() if b.first <= call <= b.last)
            for call in calls
        ),
        default=0,
    )

    def extent(offsets: dict[int, int]) -> int:
        return max((at + aligned(lifetimes[k].size_bytes) for k, at in offsets.items()), default=0)

    keys: list[Callable[[int], tuple[int, ...]]] = [
        lambda k: (-lifetimes[k].size_bytes, lifetimes[k].first, k),
        lambda k: (-lifetimes[k].size_bytes * (lifetimes[k].last - lifetimes[k].first + 1), k),
        lambda k: (lifetimes[k].first, -lifetimes[k].size_bytes, k),
    ]
    plans = [_place(lifetimes, sorted(lifetimes, key=key)) for key in keys]
    best = min(plans, key=extent)
    return MemoryPlan(offsets_bytes=best, arena_bytes=extent(best), live_peak_bytes=peak)
