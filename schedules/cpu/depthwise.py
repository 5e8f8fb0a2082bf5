"""Which kernel computes a depthwise convolution in NHWC?

Channels lie along the vector. A tile of output columns of one row stays in registers while the
kernel's rows pass: each input vector is loaded once and multiplied into every column that it
belongs to. Nothing is padded: rows outside the image shorten the loop over kernel rows, and
tiles at the left and right edge are written out without the columns outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from schedules.cpu import epilogue
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.matmul import stays_in_cache
from schedules.cpu.windows import pair, sides
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled, choose
from schedules.tir import Emitter
from schedules.tuning.space import Choice, Dimension, Implication, Space

__all__ = ["depthwise"]

NAME = "depthwise"

_WEIGHT_BYTES = 16 * 1024  # half of the smallest first-level cache described
MAX_COLUMNS = (
    8  # wider tiles gain nothing: 8 sums already hide the latency of fma (facts: 7 and 14 tie)
)


def depthwise(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Convolve every channel with its own kernel; any kernel size, stride, dilation, padding.

    Parameters
    ----------
    composite : Composite
        `relax.nn.conv2d` of an NHWC tensor of C channels by a constant HWOI kernel (kh, kw, m C, 1)
        with groups = C, then its epilogue; m, the results per channel, divides the vector.
    context : Context
        The device gives vector width and registers.
    """
    node = composite.nodes[0]
    if reason := _refusal(composite):
        return NotApplicable(NAME, reason)
    tail = epilogue.parse(composite)
    if isinstance(tail, str):
        return NotApplicable(NAME, tail)

    x_ref, kernel = node.args[:2]
    batch, height, width, in_channels = composite.inputs[x_ref.index]
    kernel_height, kernel_width = kernel.shape[:2]
    _, out_height, out_width, channels = node.shape
    multiplier = channels // in_channels
    top, left, _, _ = sides(node.attrs.get("padding", 0))
    stride_y, stride_x = pair(node.attrs.get("strides", 1))
    dilation_y, dilation_x = pair(node.attrs.get("dilation", 1))

    device = context.device
    blocks = ChannelBlocks.cover(channels, device.lanes())
    if blocks.lanes % multiplier:
        return NotApplicable(
            NAME, f"{multiplier} results per channel do not divide vectors of {blocks.lanes}"
        )
    columns = _Columns(
        width=width,
        out_width=out_width,
        taps=kernel_width,
        stride=stride_x,
        dilation=dilation_x,
        left=left,
        most=_most_columns(device.vector_registers, kernel_width),
    )
    taps = kernel_height * kernel_width
    # Consecutive rows of one channel block: their inputs overlap and the weights stay in cache.
    # An image that does not stay in the second-level cache is read more nearly in the order of
    # memory: for a few columns as many channels as have weights that fit the first-level cache.
    together = 1
    if not stays_in_cache(4 * height * width * in_channels, device):
        together = max(1, min(_WEIGHT_BYTES // (4 * taps * blocks.lanes), blocks.count))
    together = -(-blocks.count // -(-blocks.count // together))
    space = _space(columns, blocks, together, multiplier, device.vector_registers)
    tuned = choose(composite, context, space)
    columns = replace(columns, most=tuned.choice["columns"])
    blocks = ChannelBlocks(channels, tuned.choice["lanes"])
    together = tuned.choice["grain"]
    groups = -(-blocks.count // together)
    folded = kernel.reshape(taps, channels).astype(np.float64) * tail.scale

    e = Emitter(device)
    x = e.parameter("x", batch * height * width * in_channels)
    inputs = tail.declare_inputs(e, composite)
    w = e.parameter("w", blocks.count * taps * blocks.lanes)
    bias = e.parameter("bias", channels)
    operands = epilogue.Operands(inputs, tail.declare_constants(e))
    y = e.parameter("y", math.prod(node.shape))

    with e.parallel(batch * groups * out_height) as task:
        row = e.bind(task % out_height, "row")
        first_block = e.bind(task // out_height % groups * together, "first_block")
        image = e.bind(task // (out_height * groups), "image")
        # kernel rows that meet the image: 0 <= row * stride - top + dy * dilation < height
        upper = e.bind(row * stride_y - top, "upper")
        first = e.bind(e.maximum(-(upper // dilation_y), 0), "first")
        beyond = e.minimum((height - 1 - upper) // dilation_y + 1, kernel_height)
        rows = e.bind(e.maximum(beyond - first, 0), "rows")

        def compute(start: Any, tile: _Tile, block: Any) -> None:
            channel = e.bind(blocks.start(e, block), "channel")
            sums = [
                e.accumulator(blocks.lanes, e.load(bias, channel, blocks.lanes))
                for _ in range(tile.columns)
            ]
            with e.loop(rows, name="dy") as i:
                dy = e.bind(first + i, "kernel_row")
                line = e.bind(
                    ((image * height + upper + dy * dilation_y) * width + start * stride_x)
                    * in_channels
                    + channel // multiplier,
                    "line",
                )
                at = e.bind((block * taps + dy * kernel_width) * blocks.lanes, "weights")
                weights: dict[int, Any] = {}
                for column, uses in tile.loads:
                    value = e.bind(
                        e.load_each(x, line + column * in_channels, blocks.lanes, multiplier)
                    )
                    for output, dx in uses:
                        if dx not in weights:
                            weights[dx] = e.bind(e.load(w, at + dx * blocks.lanes, blocks.lanes))
                        sums[output].add_product(value, weights[dx])
            for output, total in enumerate(sums):
                place = e.bind(
                    ((image * out_height + row) * out_width + start + output) * channels + channel,
                    "place",
                )
                result = tail.apply(e, total.get(), at=place, channel=channel, operands=operands)
                e.store(y, place, result)

        def all_blocks(start: Any, tile: _Tile) -> None:
            if together == 1:
                compute(start, tile, first_block)
                return
            count = e.minimum(blocks.count - first_block, together)
            with e.loop(together if blocks.count % together == 0 else count, name="block") as i:
                compute(start, tile, e.bind(first_block + i, "block"))

        for start, count, shape in columns.tiles():
            if count == 1:
                all_blocks(start, shape)
            else:
                with e.loop(count, name="tile") as number:
                    all_blocks(e.bind(number * shape.columns + start, "start"), shape)

    return Scheduled(
        func=e.finish(),
        inputs=(x_ref.index, *tail.inputs),
        constants=(
            blocks.pack(folded.T),
            tail.shift.astype(np.float32),
            *tail.constants,
        ),
        rule=NAME,
        note=f"{columns.tile} columns x {blocks.lanes} channels"
        + (f", {together} blocks of channels together" if together > 1 else ""),
        macs=batch * out_height * out_width * channels * taps,
        space=space,
        tuned=tuned,
    )


def _space(
    columns: _Columns, blocks: ChannelBlocks, together: int, multiplier: int, registers: int
) -> Space:
    """What may be chosen; `columns`, `blocks` and `together` are the rule's own."""
    most = max(columns.tile, min(16, registers - min(columns.taps, MAX_COLUMNS) - 2))
    tiles = {replace(columns, most=n).tile for n in range(1, min(columns.out_width, most) + 1)}
    full = blocks.lanes
    widths = [n for n in (full, full // 2, full // 4) if n >= min(4, full) and n % multiplier == 0]
    grains = {
        width: sorted({-(-count // n) for n in range(1, count + 1)})
        for width in widths
        for count in [-(-blocks.channels // width)]
    }
    values = tuple(sorted({n for each in grains.values() for n in each}))
    return Space(
        kernel=NAME,
        dimensions=(
            Dimension("columns", tuple(sorted(tiles)), "output columns of a tile"),
            Dimension("lanes", tuple(widths), "elements of a vector"),
            Dimension("grain", values, "blocks of channels of a task"),
        ),
        default=Choice.of({"columns": columns.tile, "lanes": full, "grain": together}),
        implications=tuple(
            Implication("lanes", (width,), "grain", tuple(each))
            for width, each in grains.items()
            if len(each) < len(values)
        ),
    )


def _refusal(composite: Composite) -> str:
    """Why the first node is not a depthwise convolution in NHWC, or ''."""
    node = composite.nodes[0]
    if node.op != "relax.nn.conv2d":
        return f"the anchor is {node.op}, not relax.nn.conv2d"
    x, kernel = node.args[:2]
    if not (isinstance(x, Ref) and x.kind == "input"):
        return "the convolution's input is not an input of the composite"
    if not isinstance(kernel, np.ndarray):
        return "the kernel is computed at run time"
    layouts = tuple(node.attrs.get(k) for k in ("data_layout", "kernel_layout"))
    if layouts != ("NHWC", "HWOI"):
        return f"layouts are {layouts}; accepted are NHWC and HWOI"
    if node.attrs.get("out_layout") not in (None, "", "NHWC"):
        return f"out_layout is {node.attrs['out_layout']}; accepted is NHWC"
    channels = composite.inputs[x.index][-1]
    groups = node.attrs.get("groups", 1)
    if groups != channels or kernel.shape[2] % channels or kernel.shape[3] != 1:
        return (
            f"{groups} groups and a kernel of shape {kernel.shape} for {channels} channels: "
            "depthwise is as many groups as channels"
        )
    return ""


def _most_columns(registers: int, taps: int) -> int:
    """Widest tile: its sums, a row of weights and one input must fit the registers."""
    return max(2, min(MAX_COLUMNS, registers - min(taps, MAX_COLUMNS) - 2))


@dataclass(frozen=True, slots=True)
class _Tile:
    """Output columns computed together, and the input columns they read.

    loads: (input column relative to the tile's first output column times the stride, the
    (output column, kernel column) pairs it is multiplied into), from left to right.
    """

    columns: int
    loads: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """How a row of output columns is cut into tiles."""

    width: int
    out_width: int
    taps: int
    stride: int
    dilation: int
    left: int
    most: int

    @property
    def tile(self) -> int:
        """Columns of a tile: as few tiles as possible, all nearly of the same size."""
        return -(-self.out_width // -(-self.out_width // self.most))

    def shape(self, start: int, columns: int) -> _Tile:
        """The tile of outputs `start` on, without input columns outside the image."""
        loads: dict[int, list[tuple[int, int]]] = {}
        for output in range(columns):
            for dx in range(self.taps):
                column = output * self.stride + dx * self.dilation - self.left
                if 0 <= start * self.stride + column < self.width:
                    loads.setdefault(column, []).append((output, dx))
        return _Tile(columns, tuple((c, tuple(loads[c])) for c in sorted(loads)))

    def tiles(self) -> list[tuple[int, int, _Tile]]:
        """(first output column, how many equal tiles follow each other, their shape)."""
        runs: list[tuple[int, int, _Tile]] = []
        for start in range(0, self.out_width, self.tile):
            shape = self.shape(start, min(self.tile, self.out_width - start))
            if runs and runs[-1][2] == shape:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1, shape)
            else:
                runs.append((start, 1, shape))
        return runs
