"""Which tiles of a kernel fit a machine, and which of them look best before anything is simulated?

The estimate counts what the schedule will do: transfers with their bursts, products in tiles of
the array, elements of the vector unit. It ranks; `parc_hw.accel.tune` simulates the best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from parc_hw.accel.description import Description
from parc_hw.errors import UnsupportedError
from schedules.accel.kernel import WORD_BYTES, Access, Kernel, Stage
from schedules.accel.tiling import Tiling, tile_shape

__all__ = ["Estimate", "best_tilings", "estimate", "fits", "fitting"]

_DEPTHS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a tiling is expected to take.

    Attributes
    ----------
    cycles : float
    scratchpad : int
        Bytes, double buffers counted.
    accumulators : int
    external_bytes : int
        Moved, partial bursts counted whole.
    """

    cycles: float
    scratchpad: int
    accumulators: int
    external_bytes: int


def _extents(kernel: Kernel, stage: Stage, tiles: Mapping[str, int]) -> dict[str, int]:
    return {name: tiles.get(name, extent) for name, extent in stage.loops.items()}


def _bytes(kernel: Kernel, access: Access, extents: Mapping[str, int]) -> int:
    return math.prod(tile_shape(access, extents)) * WORD_BYTES[kernel.tensors[access.tensor].dtype]


def _run_bytes(kernel: Kernel, access: Access, extents: Mapping[str, int]) -> int:
    """Bytes of a contiguous run in external memory."""
    shape = tile_shape(access, extents)
    whole = kernel.tensors[access.tensor].shape
    run = WORD_BYTES[kernel.tensors[access.tensor].dtype]
    for part, extent in zip(reversed(shape), reversed(whole), strict=True):
        run *= part
        if part != extent:
            break
    return run


def _moved(kernel: Kernel, access: Access, extents: Mapping[str, int], burst: int) -> float:
    """Bytes on the bus for one transfer: a run touches one burst more than it fills, half the time."""
    size, run = _bytes(kernel, access, extents), _run_bytes(kernel, access, extents)
    return size / run * (math.ceil(run / burst) * burst + (burst / 2 if run % burst else 0))


def estimate(kernel: Kernel, tiling: Tiling, machine: Description) -> Estimate:
    """Predict what a tiling takes."""
    last = kernel.stages[-1]
    tiles = tiling.tiles
    trips = {n: last.loops[n] // tiles[n] for n in tiling.order if last.loops[n] > tiles[n]}
    order = [name for name in tiling.order if name in trips]
    total = math.prod(trips.values())
    pieces = 1
    for name in kernel.split:
        pieces *= kernel.stages[0].loops[name] // tiles.get(name, kernel.stages[0].loops[name])
    scratchpad = accumulators = 0
    moved = latency = 0.0
    first_load = 0.0
    seen = set()
    bus = machine.external.bytes_per_cycle
    for stage in kernel.stages:
        extents = _extents(kernel, stage, tiles)
        for access in stage.reads:
            tensor = kernel.tensors[access.tensor]
            if tensor.memory != "external" or access.tensor in seen:
                continue
            seen.add(access.tensor)
            loops = {loop for index in access.index for loop, _ in index.factors}
            split = pieces > 1 and stage is kernel.stages[0] and bool(loops & set(kernel.split))
            inner = [n for n, name in enumerate(order) if name in loops]
            times = math.prod(trips[name] for name in order[: inner[-1] + 1]) if inner else 1
            if split:
                times = total * pieces
            double = tiling.depth > 1 and times > 1
            scratchpad += _bytes(kernel, access, extents) * (2 if double else 1)
            one = _moved(kernel, access, extents, machine.external.burst_bytes)
            moved += one * times
            latency += machine.external.latency * times / machine.dma.channels
            first_load += one / bus
    macs = vectors = 0.0
    for number, stage in enumerate(kernel.stages):
        extents = _extents(kernel, stage, tiles)
        times = total * (pieces if number == 0 else 1)
        if kernel.tensors[stage.out.tensor].memory == "accumulators":
            double = tiling.depth == 4 and total > 1
            accumulators += math.prod(tile_shape(stage.out, extents)) * (2 if double else 1)
        elif kernel.tensors[stage.out.tensor].memory == "scratchpad":
            scratchpad += _bytes(kernel, stage.out, extents)
        cycles = _busy(kernel, stage, extents, machine)
        if stage.name.endswith("_mac"):
            macs += cycles * times
        else:
            vectors += cycles * times
    out = last.out
    extents = _extents(kernel, last, tiles)
    double = tiling.depth >= 3 and total > 1
    scratchpad += _bytes(kernel, out, extents) * (2 if double else 1)
    stored = _moved(kernel, out, extents, machine.external.burst_bytes)
    moved += stored * total
    latency += machine.external.latency * total / machine.dma.channels
    memory = moved / bus
    fill = first_load + machine.external.latency * 2 + (macs + vectors) / total + stored / bus
    if tiling.depth == 1 or total * pieces == 1:
        cycles = memory + macs + vectors + fill
    elif tiling.depth == 2:
        cycles = max(memory, macs + vectors + stored * total / bus) + fill
    elif tiling.depth == 3:
        cycles = max(memory, macs + vectors) + fill
    else:
        cycles = max(memory, macs, vectors) + fill
    # Each transfer and instruction costs a little that nothing hides: fewer are better at a tie.
    transfers = latency / machine.external.latency * machine.dma.channels if latency else 0.0
    issued = (transfers + total * (len(kernel.stages) + pieces - 1)) * machine.control.issue_cycles
    cycles = max(cycles, latency, issued) + 0.2 * (latency + issued)
    return Estimate(
        cycles=cycles,
        scratchpad=scratchpad,
        accumulators=accumulators,
        external_bytes=int(moved),
    )


def _busy(kernel: Kernel, stage: Stage, extents: Mapping[str, int], machine: Description) -> float:
    """Cycles of one instruction."""
    outputs = math.prod(extents[n] for n in (*stage.dims[:4], *stage.repeated) if n)
    if not stage.name.endswith("_mac"):
        sums = math.prod(extents[name] for name in stage.reductions)
        cost = machine.vector.cost(stage.name) or 1
        return math.ceil(outputs * sums / machine.vector.lanes) * cost + machine.vector.latency
    mac = machine.mac
    weights = {loop for index in stage.reads[1].index for loop, _ in index.factors}
    columns = math.prod(extents[n] for n in stage.dims[:4] if n and n in weights)
    depth = math.prod(extents[name] for name in stage.reductions)
    bits = [8 * WORD_BYTES[kernel.tensors[read.tensor].dtype] for read in stage.reads]
    folds = math.ceil(outputs // columns / mac.rows) * math.ceil(columns / mac.columns)
    return folds * (depth * mac.interval * mac.passes(*bits) + mac.fold_cycles) + mac.latency


def _divisors(n: int) -> list[int]:
    """Divisors, thinned out where there are many: each at least 1.4 times the one before."""
    every = [d for d in range(1, n + 1) if n % d == 0]
    kept = [n]
    for divisor in reversed(every):
        if kept[-1] >= 1.4 * divisor:
            kept.append(divisor)
    if kept[-1] != 1:
        kept.append(1)
    return kept[::-1]


def fitting(kernel: Kernel, machine: Description) -> Iterator[tuple[Tiling, Estimate]]:
    """Every tiling that fits the machine's memories; reductions stay whole where they can."""
    loops = kernel.stages[-1].loops
    choices = [_divisors(loops[name]) for name in kernel.tiled]
    pieces: list[dict[str, int]] = [{}]
    for name in kernel.split:
        pieces += [{name: d} for d in reversed(_divisors(kernel.stages[0].loops[name]))][1:]
    for piece in pieces:
        found = False
        for tiles in itertools.product(*choices):
            cut = dict(zip(kernel.tiled, tiles, strict=True))
            several = [name for name in kernel.tiled if cut[name] < loops[name]]
            smallest = Tiling(tiles={**cut, **piece}, order=tuple(several), depth=1)
            if not fits(estimate(kernel, smallest, machine), machine):
                continue
            for order in itertools.permutations(several):
                for depth in _DEPTHS if several or piece else (1,):
                    tiling = Tiling(tiles={**cut, **piece}, order=order, depth=depth)
                    expected = estimate(kernel, tiling, machine)
                    if fits(expected, machine):
                        found = True
                        yield tiling, expected
        if found:
            return


def fits(expected: Estimate, machine: Description) -> bool:
    """Whether a machine's memories hold what a tiling is expected to take."""
    # Every buffer begins at a word of a bank: a little is lost to that.
    slack = 16 * max(machine.scratchpad.width_bytes, 8)
    return (
        expected.scratchpad + slack <= machine.scratchpad.bytes
        and expected.accumulators <= machine.accumulator.words
    )


def best_tilings(kernel: Kernel, machine: Description, count: int = 1) -> list[Tiling]:
    """The `count` tilings with the lowest estimates, the best first.

    Raises
    ------
    UnsupportedError
        Not even the smallest tile fits: says which dimension cannot be cut, and how many bytes or
        accumulators are missing.
    """
    ranked = sorted(
        ((expected.cycles, expected.scratchpad, n, tiling)
         for n, (tiling, expected) in enumerate(fitting(kernel, machine))),
        key=lambda entry: entry[:3],
    )  # fmt: skip
    if not ranked:
        raise UnsupportedError(_why(kernel, machine))
    return [tiling for *_, tiling in ranked[:count]]


def _why(kernel: Kernel, machine: Description) -> str:
    smallest = {name: 1 for name in (*kernel.tiled, *kernel.split)}
    needed = estimate(kernel, Tiling(tiles=smallest, order=kernel.tiled, depth=1), machine)
    first = kernel.stages[0]
    whole = {name: extent for name, extent in first.loops.items() if name not in smallest}
    name, extent = max(whole.items(), key=lambda item: item[1], default=("-", 0))
    slack = 16 * max(machine.scratchpad.width_bytes, 8)
    missing = needed.scratchpad + slack - machine.scratchpad.bytes
    what = f"{missing} bytes of scratchpad are missing"
    if missing <= 0:
        missing = needed.accumulators - machine.accumulator.words
        what = f"{missing} accumulators are missing"
    return (
        f"{kernel.name}: no tile fits {machine.name}: with every dimension that can be cut at 1, "
        f"{name} = {extent} cannot be, and the tile takes {needed.scratchpad} of "
        f"{machine.scratchpad.bytes} bytes of scratchpad and {needed.accumulators} of "
        f"{machine.accumulator.words} accumulators: {what}. Use a shorter {name}, or a description "
        f"with more memory."
    )
