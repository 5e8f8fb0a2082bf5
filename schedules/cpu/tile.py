"""How are (pixels x channels) of a matrix product computed in registers?

The micro-kernel of matmul and of every dense convolution: for each step of the reduction, one
element of the input per pixel is broadcast and multiplied with the packed weights of a panel of
channels. Only the addresses differ between the operators, and they are loops over strides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import Device, Isa
from schedules.tir import Buffer, Emitter, Value, has_fma, pieces

__all__ = [
    "Ahead",
    "KLoop",
    "Panel",
    "TileShape",
    "choose_tile",
    "emit_tile",
    "pack",
    "pad_channels",
    "panels",
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
    """Weights to fetch into the second-level cache while a tile runs, for the panel after this one.

    One of `tiles` tiles that share a panel fetches its part of the next panel, a little in every
    turn of the reduction: the products hide the memory's latency.
    """

    at: Value  # where the next panel begins
    tile: Value  # which of the tiles this is
    tiles: int


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
    NEON of A64: 28 of 32 (8x3), which leaves registers for inputs that `fmla` takes by lane.
    ARMv7: 11 of 16 (4x2): it has no `vfma` by lane, so that broadcast inputs take registers.
    SSE2: 13 of 16, as a product needs a register of its own before it is added.
    """
    if device.isa is Isa.ARMV7A:
        return device.vector_registers - 5
    if device.isa is Isa.AARCH64:
        return device.vector_registers - 4
    if not has_fma(device):
        return device.vector_registers - 3
    return device.vector_registers - (2 if device.vector_bits == 512 else 1)


def unrolled_steps(device: Device) -> int:
    """Steps of the reduction written out in one turn of the loop.

    Four, so that A64 loads four inputs at once; ARMv7 has too few registers to gain from it.
    """
    return 1 if device.isa is Isa.ARMV7A else 4


LINE_BYTES = 64  # assumed where the device's is unknown
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
        if m * v + v + 1 <= budget
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
) -> None:
    """Compute one tile: y[pixel, channel] = finish(bias[channel] + sum_k a[pixel, k] w[k, channel]).

    The sum runs over k in order, by fma, starting from the bias: every tile shape gives the same
    bits.

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
    """
    starts = [sum(panel.widths[:j]) for j in range(len(panel.widths))]
    columns = list(zip(starts, panel.widths, strict=True))

    row_of_weights = panel.padded if w_step is None else w_step

    def biases(row: int) -> list[Value]:
        if bias is None:
            return [e.splat(0.0, width) for width in panel.widths]
        at = bias_at + (row * bias_row + first)
        return [e.bind(e.load(bias, at + start, width), "bias") for start, width in columns]

    initial = [biases(row) for row in range(len(a_rows) if bias_row else 1)]
    accumulators = [
        [
            e.accumulator(w, b)
            for b, w in zip(initial[row if bias_row else 0], panel.widths, strict=True)
        ]
        for row in range(len(a_rows))
    ]

    def step(at: Value, k: Value) -> None:
        w = [
            e.bind(e.load(weights, w_at + (k * row_of_weights + start), width), "w")
            for start, width in columns
        ]
        for row, sums in zip(a_rows, accumulators, strict=True):
            for weight, accumulator in zip(w, sums, strict=True):
                accumulator.add_product(e.load_all(a, at + row, accumulator.lanes), weight)

    unroll = unrolled_steps(e.device)
    depth = prod(loop.extent for loop in k_loops)

    def turn(k: Value) -> None:
        if ahead is None:
            return
        line = (e.device.line_bytes or LINE_BYTES) // 4
        lines = -(-unroll * panel.padded // (ahead.tiles * line))
        at = ahead.at + (ahead.tile * -(-depth // unroll) + k // unroll) * (lines * line)
        for number in range(lines):
            e.fetch(weights, at + number * line)

    _reduce(e, k_loops, a_at, unroll, step, turn)

    def put(row: Value, start: int, width: int, value: Value) -> None:
        valid = min(width, panel.channels - start)
        offset = 0
        for part in pieces(valid, width):
            at = y_at + (row * y_row + (start + offset))
            result = finish(e.part(value, offset, part), at, first + (start + offset))
            e.store(y, at, result)
            offset += part

    if rolled and len(a_rows) > 1:
        sums = e.scratch("sums", len(a_rows) * panel.padded)
        for i, row_of_sums in enumerate(accumulators):
            for start, accumulator in zip(starts, row_of_sums, strict=True):
                e.store(sums, i * panel.padded + start, accumulator.get())
        with e.loop(len(a_rows), name="row") as i:
            for start, width in columns:
                put(i, start, width, e.bind(e.load(sums, i * panel.padded + start, width)))
        return
    for i, row_of_sums in enumerate(accumulators):
        for (start, width), accumulator in zip(columns, row_of_sums, strict=True):
            put(i, start, width, e.bind(accumulator.get()))


def _reduce(
    e: Emitter,
    loops: Sequence[KLoop],
    base: Value,
    unroll: int,
    step: Callable[[Value, Value], None],
    turn: Callable[[Value], None],
) -> None:
    """Run step(input index, k) for all k in order, short inner loops and `unroll` steps written out.

    turn(k) precedes the steps from k that are written out.
    """

    def nest(loops: Sequence[KLoop], at: Value, k: Value) -> None:
        steps = prod(loop.extent for loop in loops)
        if not steps:
            return
        if steps <= 4 * unroll:
            turn(k)
            for u, indices in enumerate(product(*(range(loop.extent) for loop in loops))):
                offset = sum(i * loop.stride for i, loop in zip(indices, loops, strict=True))
                step(at + offset, k + u)
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
