"""How are (pixels x channels) of a matrix product computed in registers?

The micro-kernel of matmul and of every dense convolution: for each step of the reduction, one
element of the input per pixel is broadcast and multiplied with the packed weights of a panel of
channels. Only the addresses differ between the operators, and they are loops over strides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import Device, Isa
from schedules.tir import Accumulator, Buffer, Emitter, Value, has_fma, pieces
from schedules.tuning.space import Dimension, Implication

__all__ = [
    "Ahead",
    "KLoop",
    "Panel",
    "Part",
    "Run",
    "TileShape",
    "choose_tile",
    "emit_tile",
    "is_cut",
    "over_runs",
    "pack",
    "pad_channels",
    "panels",
    "registers",
    "tile_dimensions",
    "unrolled_steps",
    "weights_key",
]


@dataclass(frozen=True, slots=True)
class TileShape:
    """`rows` pixels by `vectors` registers of channels."""

    rows: int
    vectors: int


@dataclass(frozen=True, slots=True)
class KLoop:
    """One loop of the reduction: so many steps, each so many input elements further."""

    extent: int
    stride: int


@dataclass(frozen=True, slots=True)
class Ahead:
    """Weights to fetch into the second-level cache while a tile runs: those that follow its own.

    One of `tiles` tiles that share weights fetches its part of the next ones, a little in every
    turn of the reduction: the products hide the memory's latency.
    """

    tile: Value  # which of the tiles this is
    tiles: int


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring steps of a reduction, summed up on their own.

    `loops` are those of the run, `at` what they add to the input's index, `k` its first step.
    """

    loops: tuple[KLoop, ...]
    at: Value
    k: Value


@dataclass(frozen=True, slots=True)
class Part:
    """What of a tile to compute, when the runs of many tiles take turns.

    All tiles begin; then, run by run, each adds the run; then all end. Sums wait in `totals`, from
    element `at` of it.
    """

    totals: Buffer
    at: Value
    stage: Literal["begin", "add", "end"]
    run: Run | None = None  # what to add


@dataclass(frozen=True, slots=True)
class Panel:
    """Channels that one tile computes.

    `widths` are its vectors; the last may be wider than the channels that are left, in which
    case the weights are padded with zeros and only `channels` results are stored.
    """

    first: int
    channels: int
    widths: tuple[int, ...]

    @property
    def padded(self) -> int:
        """Channels with the padding: elements of one step's packed weights."""
        return sum(self.widths)


def register_budget(device: Device) -> int:
    """Registers a tile may hold at once: accumulators, weights of a step and one input.

    AVX-512: 30 of 32 (8x3; the assembly of 9x3 shows a spill in its loop). AVX2: 15 of 16 (6x2).
    NEON of A64: 31 of 32 (7x3), as every row's input is a vector of four steps that `fmla` takes by
    lane.
    ARMv7: 11 of 16 (4x2): it has no `vfma` by lane, so that broadcast inputs take registers.
    SSE2: 13 of 16, as a product needs a register of its own before it is added.
    """
    if device.isa is Isa.ARMV7A:
        return device.vector_registers - 5
    if device.isa is Isa.AARCH64:
        return device.vector_registers - 1
    if not has_fma(device):
        return device.vector_registers - 3
    return device.vector_registers - (2 if device.vector_bits == 512 else 1)


def registers(tile: TileShape, device: Device) -> int:
    """Registers a tile takes: accumulators, weights of a step and inputs."""
    inputs = tile.rows if inputs_at_once(device) > 1 else 1
    return tile.rows * tile.vectors + tile.vectors + inputs


def inputs_at_once(device: Device) -> int:
    """Neighbouring inputs of a row that are loaded by one instruction, and used by lane.

    Only A64 multiplies by a lane; elsewhere a broadcast costs no more than another load.
    """
    return device.lanes() if device.isa is Isa.AARCH64 else 1


def unrolled_steps(device: Device) -> int:
    """Steps of the reduction written out in one turn of the loop.

    Four, so that A64 loads four inputs at once; ARMv7 has too few registers to gain from it.
    """
    return 1 if device.isa is Isa.ARMV7A else 4


LINE_BYTES = 64  # assumed where the device's is unknown
RUN = 256  # steps of the reduction that are summed up before the sum joins those of other runs
_LATENCY = 8  # accumulators that keep two FMA units of latency four busy
# Cost of a load against a multiply-add of the same step. Inputs lie in the first-level cache;
# weights stream from the second. Fitted by eye to eight tiles on AVX-512: ranks, not times.
_INPUT_LOAD, _WEIGHT_LOAD = 0.3, 0.5


def choose_tile(rows: int, channels: int, device: Device, vectors: int | None = None) -> TileShape:
    """The tile that covers `rows` x `channels` at the least estimated cost.

    Cost of a tile's step: its multiply-adds, at least as many as hide their latency, and its loads;
    remainders of rows and channels count with the tiles that compute them. `vectors` is given when
    the weights are packed already.
    """
    budget = register_budget(device)
    most = min(8, -(-channels // device.lanes()))
    candidates = [
        TileShape(m, v)
        for m in range(1, min(rows, 16) + 1)
        for v in ([vectors] if vectors else range(1, most + 1))
        if registers(TileShape(m, v), device) <= budget
    ]

    def step(m: int, v: int) -> float:
        return max(m * v, _LATENCY) + _INPUT_LOAD * m + _WEIGHT_LOAD * v

    def cost(tile: TileShape) -> float:
        whole, rest = divmod(rows, tile.rows)
        return sum(
            whole * step(tile.rows, len(p.widths)) + (step(rest, len(p.widths)) if rest else 0.0)
            for p in panels(channels, tile, device)
        )

    return min(candidates, key=lambda t: (cost(t), -t.vectors))


def tile_dimensions(
    rows: Sequence[int],
    channels: int,
    device: Device,
    default: TileShape,
    vectors: int | None = None,
) -> tuple[tuple[Dimension, ...], tuple[Implication, ...]]:
    """What a tuner may choose of a tile: `rows`, `vectors` and `unroll`, and which go together.

    Parameters
    ----------
    rows : sequence of int
        How many pixels a tile may have.
    channels : int
        Of the result.
    device : Device
        A tile may take all its registers, not `register_budget` of them alone.
    default : TileShape
        The rule's own.
    vectors : int or None
        Given when the weights are packed already.
    """
    most = min(8, -(-channels // device.lanes()))
    widths = (vectors,) if vectors else tuple(range(1, max(most, default.vectors) + 1))
    fits = {
        m: tuple(
            v
            for v in widths
            if registers(TileShape(m, v), device) <= device.vector_registers
            or TileShape(m, v) == default
        )
        for m in rows
    }
    fits = {m: v for m, v in fits.items() if v}
    unroll = tuple(sorted({1, 2, 4, 8, unrolled_steps(device)}))
    return (
        Dimension("rows", tuple(fits), "pixels of a tile"),
        Dimension("vectors", widths, "vectors of channels of a tile"),
        Dimension("unroll", unroll, "steps of the reduction written out"),
    ), tuple(
        Implication("rows", (m,), "vectors", v) for m, v in fits.items() if len(v) < len(widths)
    )


def weights_key(weights: NDArray[Any]) -> bytes:
    """What names these weights in `Context.panel_vectors`."""
    digest = hashlib.sha256(repr(weights.shape).encode())
    digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.digest()


def panels(
    channels: int, tile: TileShape, device: Device, *, padded: bool = True
) -> tuple[Panel, ...]:
    """Cut `channels` into panels of the tile's width and one narrower for the rest.

    `padded`: the weights are packed, so that the last vector may reach beyond the last channel.
    """
    lanes = device.lanes()
    width = tile.vectors * lanes
    result = [
        Panel(first, width, (lanes,) * tile.vectors)
        for first in range(0, channels - width + 1, width)
    ]
    if rest := channels % width:
        widths = pieces(rest, lanes)
        if padded and rest % lanes:
            widths = [lanes] * (rest // lanes) + [1 << (rest % lanes - 1).bit_length()]
        result.append(Panel(channels - rest, rest, tuple(widths)))
    return tuple(result)


def pack(weights: NDArray[Any], cut: Sequence[Panel]) -> NDArray[np.float32]:
    """Weights (K, N) in the order the tiles read them: panel by panel, in each step by step."""
    parts = []
    for panel in cut:
        part = np.zeros((weights.shape[0], panel.padded), np.float32)
        part[:, : panel.channels] = weights[:, panel.first : panel.first + panel.channels]
        parts.append(part.reshape(-1))
    return np.concatenate(parts)


def pad_channels(values: NDArray[Any], cut: Sequence[Panel]) -> NDArray[np.float32]:
    """Per-channel values followed by zeros for the padding of the last panel."""
    result = np.zeros(cut[-1].first + cut[-1].padded, np.float32)
    result[: values.size] = values
    return result


def emit_tile(
    e: Emitter,
    *,
    panel: Panel,
    first: Value,
    a: Buffer,
    a_at: Value,
    a_rows: Sequence[int],
    k_loops: Sequence[KLoop],
    weights: Buffer,
    w_at: Value,
    bias: Buffer | None,
    y: Buffer,
    y_at: Value,
    y_row: int,
    finish: Callable[[Value, Value, Value], Value],
    rolled: bool,
    bias_at: Value = 0,
    bias_row: int = 0,
    w_step: int | None = None,
    ahead: Ahead | None = None,
    unroll: int | None = None,
    part: Part | None = None,
) -> None:
    """Compute one tile: y[pixel, channel] = finish(bias[channel] + sum_k a[pixel, k] w[k, channel]).

    The sum runs over k in order, by fma. A short one starts from the bias; one of `2 * RUN` steps
    or more is cut as `over_runs` says, each run starts from 0, and its sum is added to those before
    it and the bias: the error of a sum grows with its length. Every tile shape gives the same bits.

    Parameters
    ----------
    panel : Panel
        Its vectors; `first`, its first channel, may depend on loops.
    a, a_at, a_rows
        Input element of pixel i at step 0: a[a_at + a_rows[i]].
    k_loops : sequence of KLoop
        Nested loops of the reduction, outermost first; the weights are packed in their order.
    weights, w_at
        Packed weights of the panel begin at w_at.
    bias : buffer or None
        Padded like the last panel; None: zero.
    y, y_at, y_row
        Result of pixel i and channel `first` goes to y[y_at + i * y_row].
    finish : callable
        finish(value, at, channel) gives what to store; value has as many lanes as channels.
    rolled : bool
        Whether `finish` is long, so that it is written once per vector of a row and looped over
        the rows, by way of memory; else it is applied to each accumulator.
    bias_at, bias_row
        Where the bias of the first pixel lies in its buffer, and how much further that of the
        next one; 0: the pixels share it.
    w_step : int or None
        Elements from the weights of one step to those of the next; None: packed, as the panel is wide.
    ahead : Ahead or None
        What to fetch meanwhile.
    unroll : int or None
        Steps of the reduction that are written out; None: `unrolled_steps`.
    part : Part or None
        What of it to compute; None: all. Only for a reduction that is cut.
    """
    starts = [sum(panel.widths[:j]) for j in range(len(panel.widths))]
    columns = list(zip(starts, panel.widths, strict=True))
    rows = range(len(a_rows))
    row_of_weights = panel.padded if w_step is None else w_step
    unroll = unroll or unrolled_steps(e.device)

    def biases(row: int) -> list[Value]:
        if bias is None:
            return [e.splat(0.0, width) for width in panel.widths]
        at = bias_at + (row * bias_row + first)
        return [e.bind(e.load(bias, at + start, width), "bias") for start, width in columns]

    def rows_of_bias() -> list[list[Value]]:
        given = [biases(row) for row in (rows if bias_row else range(1))]
        return [given[row if bias_row else 0] for row in rows]

    def products(run: Run, initial: list[list[Value]]) -> list[list[Accumulator]]:
        sums = [
            [e.accumulator(width, value) for width, value in zip(panel.widths, values, strict=True)]
            for values in initial
        ]

        def step(at: Value, k: Value, count: int) -> None:
            several = [e.bind(e.load(a, at + row, count), "a") for row in a_rows if count > 1]
            for u in range(count):
                w_row = w_at + ((run.k + (k + u)) * row_of_weights)
                w = [e.bind(e.load(weights, w_row + start, width), "w") for start, width in columns]
                for i, row_of_sums in enumerate(sums):
                    for weight, total in zip(w, row_of_sums, strict=True):
                        if several:
                            one = e.splat(e.part(several[i], u, 1), total.lanes)
                        else:
                            one = e.load_all(a, at + a_rows[i], total.lanes)
                        total.add_product(one, weight)

        # What follows is the next run where the tiles take turns, else the next panel.
        reduction = k_loops if part is None else run.loops
        depth, done = prod(loop.extent for loop in reduction), run.k if part is None else 0
        next_at = w_at + ((run.k - done + depth) * row_of_weights)

        def turn(k: Value) -> None:
            if ahead is None:
                return
            line = (e.device.line_bytes or LINE_BYTES) // 4
            lines = -(-unroll * panel.padded // (ahead.tiles * line))
            turns = ahead.tile * -(-depth // unroll) + (done + k) // unroll
            at = next_at + turns * (lines * line)
            for number in range(lines):
                e.fetch(weights, at + number * line)

        _reduce(e, run.loops, a_at + run.at, unroll, inputs_at_once(e.device), step, turn)
        return sums

    def put(row: Value, start: int, width: int, value: Value) -> None:
        valid = min(width, panel.channels - start)
        offset = 0
        for lanes in pieces(valid, width):
            at = y_at + (row * y_row + (start + offset))
            result = finish(e.part(value, offset, lanes), at, first + (start + offset))
            e.store(y, at, result)
            offset += lanes

    def each(body: Callable[[int, int, int], None]) -> None:
        for i in rows:
            for start, width in columns:
                body(i, start, width)

    def sum_of(sums: list[list[Accumulator]], i: int, start: int) -> Value:
        return sums[i][starts.index(start)].get()

    def put_all(sums: Buffer, begin: Value) -> None:
        def one(i: Value, start: int, width: int) -> None:
            put(i, start, width, e.bind(e.load(sums, begin + (i * panel.padded + start), width)))

        if not rolled or len(rows) == 1:
            each(one)
            return
        with e.loop(len(rows), name="row") as i:
            for start, width in columns:
                one(i, start, width)

    if part is None and not is_cut(k_loops):
        sums = products(Run(tuple(k_loops), 0, 0), rows_of_bias())
        if rolled and len(rows) > 1:
            memory = e.scratch("sums", len(rows) * panel.padded)
            each(
                lambda i, start, _: e.store(
                    memory, i * panel.padded + start, sum_of(sums, i, start)
                )
            )
            put_all(memory, 0)
        else:
            each(lambda i, start, width: put(i, start, width, e.bind(sum_of(sums, i, start))))
        return

    if part is None:
        totals, totals_at = e.scratch("totals", len(rows) * panel.padded), 0
    else:
        totals, totals_at = part.totals, part.at

    def place(i: int, start: int) -> Value:
        return totals_at + (i * panel.padded + start)

    def add(run: Run) -> None:
        zeros = [[e.splat(0.0, width) for width in panel.widths] for _ in rows]
        sums = products(run, zeros)

        def one(i: int, start: int, width: int) -> None:
            before = e.load(totals, place(i, start), width)
            e.store(totals, place(i, start), before + sum_of(sums, i, start))

        each(one)

    if part is None or part.stage == "begin":
        initial = rows_of_bias()
        each(lambda i, start, _: e.store(totals, place(i, start), initial[i][starts.index(start)]))
    if part is None:
        over_runs(e, k_loops, add)
    elif part.stage == "add":
        assert part.run is not None
        add(part.run)
    if part is None or part.stage == "end":
        put_all(totals, totals_at)


def is_cut(loops: Sequence[KLoop]) -> bool:
    """Whether a reduction is summed in several runs."""
    return prod(loop.extent for loop in loops) >= 2 * RUN


def over_runs(e: Emitter, loops: Sequence[KLoop], body: Callable[[Run], None]) -> None:
    """body(run) for the runs of a reduction in order: of `RUN` steps or up to half as many less.

    They are parts of the innermost loop that is long enough, equal but for its last.
    """
    inner = len(loops) - 1
    while inner and prod(loop.extent for loop in loops[inner:]) <= RUN:
        inner -= 1
    cut, below = loops[inner], tuple(loops[inner + 1 :])
    steps = prod(loop.extent for loop in below)
    count = -(-cut.extent // max(1, RUN // steps))
    length = -(-cut.extent // count)
    if steps == 1:
        length = -(-length // 4) * 4
    whole, rest = divmod(cut.extent, length)

    def nest(outer: Sequence[KLoop], at: Value, k: Value) -> None:
        if outer:
            with e.loop(outer[0].extent, name="run") as i:
                each = prod(loop.extent for loop in outer[1:]) * cut.extent * steps
                nest(outer[1:], at + i * outer[0].stride, k + i * each)
            return
        with e.loop(whole, name="run") as i:
            many = (KLoop(length, cut.stride), *below)
            body(Run(many, at + i * (length * cut.stride), k + i * (length * steps)))
        if rest:
            done = whole * length
            last = (KLoop(rest, cut.stride), *below)
            body(Run(last, at + done * cut.stride, k + done * steps))

    nest(loops[:inner], 0, 0)


def _reduce(
    e: Emitter,
    loops: Sequence[KLoop],
    base: Value,
    unroll: int,
    together: int,
    step: Callable[[Value, Value, int], None],
    turn: Callable[[Value], None],
) -> None:
    """Run step(input index, k, 1) for all k in order, short inner loops and `unroll` steps written out.

    Where they read neighbouring inputs, `together` steps are one call with that count.
    turn(k) precedes the steps from k that are written out.
    """

    def nest(loops: Sequence[KLoop], at: Value, k: Value) -> None:
        steps = prod(loop.extent for loop in loops)
        if not steps:
            return
        if steps <= 4 * unroll:
            turn(k)
            last = loops[-1].extent
            groups = [1] * last
            if loops[-1].stride == 1:
                groups = [together] * (last // together) + [1] * (last % together)
            u = 0
            for indices in product(*(range(loop.extent) for loop in loops[:-1])):
                offset = sum(i * o.stride for i, o in zip(indices, loops[:-1], strict=True))
                for begin, count in zip(accumulate(groups, initial=0), groups, strict=False):
                    step(at + (offset + begin * loops[-1].stride), k + u, count)
                    u += count
            return
        outer, inner = loops[0], loops[1:]
        if inner:
            with e.loop(outer.extent, name="k") as index:
                nest(inner, at + index * outer.stride, k + index * (steps // outer.extent))
            return
        turns, rest = divmod(outer.extent, unroll)
        with e.loop(turns, name="k") as index:
            nest(
                [KLoop(unroll, outer.stride)],
                at + index * (unroll * outer.stride),
                k + index * unroll,
            )
        done = turns * unroll
        nest([KLoop(rest, outer.stride)], at + done * outer.stride, k + done)

    nest(loops, base, 0)
