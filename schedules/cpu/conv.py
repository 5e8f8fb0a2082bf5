"""How is a dense convolution computed: any kernel, stride, padding and dilation, without im2col?"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import Device
from schedules.cpu.epilogue import Epilogue, Operands, parse
from schedules.cpu.matmul import (
    PartOf,
    one_panel,
    over_panels,
    prefers_panels,
    schedule_matmul,
    stays_in_cache,
    take_turns,
    tile_note,
)
from schedules.cpu.tile import (
    Ahead,
    KLoop,
    Panel,
    Part,
    TileShape,
    choose_tile,
    emit_tile,
    pack,
    pad_channels,
    panels,
    tile_dimensions,
    unrolled_steps,
    weights_key,
)
from schedules.cpu.windows import pair, sides
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Scheduled, choose
from schedules.tir import Buffer, Emitter, Value, pieces
from schedules.tuning.space import Choice, Dimension, Implication, Space

__all__ = ["conv"]

NAME = "conv"
_TASKS = 8  # enough for four cores, few enough that a task's copied rows are used by many outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Geometry:
    """Sizes of one convolution. `nchw`: the layout of the input; the output is NHWC."""

    batch: int
    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    top: int
    left: int
    padded: bool
    nchw: bool

    @property
    def planes(self) -> int:
        """How many matrices of pixels the input is: its channels in NCHW, one in NHWC."""
        return self.in_c if self.nchw else 1

    @property
    def pixel(self) -> int:
        """Elements from one pixel to the next in a row."""
        return 1 if self.nchw else self.in_c

    @property
    def depth(self) -> int:
        """Steps of the reduction."""
        return self.kernel[0] * self.kernel[1] * self.in_c

    def rows_for(self, rows: int) -> int:
        """Input rows that `rows` output rows read."""
        return (rows - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1

    @property
    def columns(self) -> int:
        """Input columns, with padding, that a row of outputs reads."""
        return (self.out_w - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1

    def k_loops(self, row: int, plane: int) -> list[KLoop]:
        """The reduction, for input rows of `row` and planes of `plane` elements."""
        dy = KLoop(self.kernel[0], self.dilation[0] * row)
        if self.nchw:
            return [KLoop(self.in_c, plane), dy, KLoop(self.kernel[1], self.dilation[1])]
        if self.dilation[1] == 1:  # dx and channels are one run
            return [dy, KLoop(self.kernel[1] * self.in_c, 1)]
        return [dy, KLoop(self.kernel[1], self.dilation[1] * self.in_c), KLoop(self.in_c, 1)]


def conv(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """relax.nn.conv2d with one group and constant weights, and its epilogue.

    Data NHWC with weights OHWI, or data NCHW with weights OIHW; the result is NHWC.
    """
    node = composite.nodes[0]
    if node.op != "relax.nn.conv2d":
        return NotApplicable(NAME, f"the anchor is {node.op}, not relax.nn.conv2d")
    x, weights = node.args[:2]
    if not isinstance(x, Ref) or not isinstance(weights, np.ndarray):
        return NotApplicable(NAME, "the weights are not a constant")
    if node.attrs["groups"] != 1:
        return NotApplicable(NAME, f"{node.attrs['groups']} groups; only 1 is dense")
    data = str(node.attrs["data_layout"])
    layouts = (data, str(node.attrs["kernel_layout"]), str(node.attrs.get("out_layout") or data))
    if layouts not in (("NHWC", "OHWI", "NHWC"), ("NCHW", "OIHW", "NHWC")):
        return NotApplicable(
            NAME, f"layouts {layouts}; accepted: NHWC, OHWI, NHWC and NCHW, OIHW, NHWC"
        )
    epilogue = parse(composite)
    if isinstance(epilogue, str):
        return NotApplicable(NAME, epilogue)
    nchw = data == "NCHW"
    # To (kh, kw, C_in, C_out), the last contiguous in the packed panels.
    weights = weights.transpose((2, 3, 1, 0) if nchw else (1, 2, 3, 0))
    g = _geometry(composite, node, weights.shape, nchw=nchw)
    pointwise = g.kernel == (1, 1) and g.stride == (1, 1) and not g.padded
    if pointwise and not nchw:
        matrix = weights.reshape(g.in_c, g.out_c)
        return schedule_matmul(composite, context, x.index, matrix, epilogue, rule=NAME)
    return _schedule(composite, context, x.index, weights, epilogue, g)


def _geometry(
    composite: Composite, node: Node, weights: tuple[int, ...], *, nchw: bool
) -> _Geometry:
    shape = composite.inputs[node.args[0].index]
    batch, in_h, in_w, in_c = (shape[i] for i in ((0, 2, 3, 1) if nchw else (0, 1, 2, 3)))
    top, left, bottom, right = sides(node.attrs["padding"])
    return _Geometry(
        batch=batch,
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        out_h=node.shape[1],
        out_w=node.shape[2],
        out_c=node.shape[3],
        kernel=(weights[0], weights[1]),
        stride=pair(node.attrs["strides"]),
        dilation=pair(node.attrs["dilation"]),
        top=top,
        left=left,
        padded=any((top, left, bottom, right)),
        nchw=nchw,
    )


def _schedule(
    composite: Composite,
    context: Context,
    x_index: int,
    weights: NDArray[np.float32],
    epilogue: Epilogue,
    g: _Geometry,
) -> Scheduled:
    device = context.device
    key = weights_key(weights)
    vectors = context.panel_vectors.get(key)
    tile = choose_tile(g.out_w, g.out_c, device, vectors)
    cut = panels(g.out_c, tile, device)
    by_panel, block = _tasks(g, len(cut), device)
    tile, group = _whole_rows(g, tile, block, device, vectors)
    space = _space(g, tile, group, block, device, vectors, by_panel=by_panel)
    tuned = choose(composite, context, space)
    taken = tuned.choice
    tile, group, block = TileShape(taken["rows"], taken["vectors"]), taken["group"], taken["grain"]
    by_panel = taken["tasks"] == "panels"
    cut = panels(g.out_c, tile, device)
    context.panel_vectors[key] = tile.vectors

    scaled = weights.astype(np.float64) * epilogue.scale
    if g.nchw:
        scaled = scaled.transpose(2, 0, 1, 3)  # the reduction's order: channels outermost
    matrix = scaled.reshape(g.depth, g.out_c)

    e = Emitter(device)
    x = e.parameter("x", prod(composite.inputs[x_index]))
    inputs = epilogue.declare_inputs(e, composite)
    w = e.parameter("w", sum(g.depth * p.padded for p in cut))
    bias = e.parameter("bias", cut[-1].first + cut[-1].padded)
    operands = Operands(inputs, epilogue.declare_constants(e))
    y = e.parameter("y", prod(composite.shape))

    whole, rest = divmod(g.out_w, tile.rows)
    tiles_of_row = 1 if group > 1 else whole + bool(rest)
    tiles_of_task = block // group * tiles_of_row
    blocks = g.out_h // block
    tasks = g.batch * blocks * (len(cut) if by_panel else 1)
    with e.parallel(tasks) as task:
        place, panel_number = task, None
        if by_panel:
            place, panel_number = task // len(cut), task % len(cut)
        image, first_row = place // blocks, (place % blocks) * block
        if g.padded:
            rows = g.rows_for(block)
            source = _padded_copy(e, g, x, image, first_row, rows)
            row, plane, base = g.columns * g.pixel, rows * g.columns * g.pixel, 0
        else:
            source = x
            row, plane = g.in_w * g.pixel, g.in_h * g.in_w * g.pixel
            base = image * (g.planes * plane) + first_row * (g.stride[0] * row)

        k_loops = g.k_loops(row, plane)

        def emit(
            panel: Panel,
            first: Value,
            oy: Value,
            ox: Value,
            pixels: list[tuple[int, int]],
            ahead: Ahead | None,
            part: Part | None,
        ) -> None:
            emit_tile(
                e,
                panel=panel,
                first=first,
                a=source,
                a_at=base + (oy * (g.stride[0] * row) + ox * (g.stride[1] * g.pixel)),
                a_rows=[i * g.stride[0] * row + j * g.stride[1] * g.pixel for i, j in pixels],
                k_loops=k_loops,
                weights=w,
                w_at=first * g.depth,
                bias=bias,
                y=y,
                y_at=(image * g.out_h + first_row + oy) * (g.out_w * g.out_c)
                + (ox * g.out_c + first),
                y_row=g.out_c,
                finish=lambda value, at, channel: epilogue.apply(
                    e, value, at=at, channel=channel, operands=operands
                ),
                rolled=epilogue.heavy,
                ahead=ahead,
                unroll=taken["unroll"],
                part=part,
            )

        def all_rows(panel: Panel, first: Value) -> None:
            def pass_over(ahead: bool, part: PartOf) -> None:
                def tile_of(number: Value, oy: Value, ox: Value, pixels: Any) -> None:
                    fetched = Ahead(number, tiles_of_task) if ahead else None
                    emit(panel, first, oy, ox, pixels, fetched, part(number))

                with e.loop(block // group, name="oy") as turn:
                    oy = turn * group
                    if group > 1:
                        pixels = [(i, j) for i in range(group) for j in range(g.out_w)]
                        tile_of(turn, oy, 0, pixels)
                        return
                    number = turn * tiles_of_row
                    with e.loop(whole, name="ox") as i:
                        pixels = [(0, j) for j in range(tile.rows)]
                        tile_of(number + i, oy, i * tile.rows, pixels)
                    if rest:
                        pixels = [(0, j) for j in range(rest)]
                        tile_of(number + whole, oy, whole * tile.rows, pixels)

            take_turns(e, k_loops, panel, tile, tiles_of_task, taken["fetch"], pass_over)

        if panel_number is None:
            over_panels(e, cut, all_rows)
        else:
            one_panel(e, cut, panel_number, all_rows)

    each = f"{block} rows" + (f" of {cut[0].channels} channels" if by_panel else "")
    copied = ", from a padded copy" if g.padded else ""
    return Scheduled(
        func=e.finish(),
        inputs=(x_index, *epilogue.inputs),
        constants=(pack(matrix, cut), pad_channels(epilogue.shift, cut), *epilogue.constants),
        rule=NAME,
        note=f"{tile_note(tile, device)}, {tasks} tasks of {each}{copied}",
        macs=g.batch * g.out_h * g.out_w * g.out_c * g.depth,
        space=space,
        tuned=tuned,
    )


def _space(
    g: _Geometry,
    tile: TileShape,
    group: int,
    block: int,
    device: Device,
    vectors: int | None,
    *,
    by_panel: bool,
) -> Space:
    """What may be chosen about a convolution; `tile`, `group`, `block` and `by_panel` are the rule's own.

    `vectors` is given when the weights are packed already.
    """
    blocks = tuple(d for d in range(1, g.out_h + 1) if g.out_h % d == 0)
    groups = (1, *(n for n in range(2, g.out_h + 1) if g.out_h % n == 0 and n * g.out_w <= 16))
    one = range(1, min(g.out_w, 16) + 1)
    sizes = sorted({*one, *(n * g.out_w for n in groups)} - {n for n in (g.out_w,) if n > 16})
    shape, fits = tile_dimensions(sizes, g.out_c, device, tile, vectors)
    rows = shape[0].values
    groups = tuple(n for n in groups if n == 1 or n * g.out_w in rows)
    return Space(
        kernel=NAME,
        dimensions=(
            *shape,
            Dimension("group", groups, "whole rows of a tile; 1: a part of a row"),
            Dimension("tasks", ("rows", "panels"), "a task takes all channels, or a panel of them"),
            Dimension("grain", blocks, "rows of a task"),
            Dimension("fetch", (False, True), "fetch weights ahead of their use"),
        ),
        default=Choice.of(
            {
                "rows": tile.rows,
                "vectors": tile.vectors,
                "unroll": unrolled_steps(device),
                "group": group,
                "tasks": "panels" if by_panel else "rows",
                "grain": block,
                "fetch": not stays_in_cache(4 * g.depth * g.out_c, device),
            }
        ),
        implications=(
            *fits,
            *(Implication("group", (n,), "rows", (n * g.out_w,)) for n in groups if n > 1),
            Implication("group", (1,), "rows", tuple(m for m in rows if m in one)),
            *(
                Implication("group", (n,), "grain", tuple(b for b in blocks if b % n == 0))
                for n in groups
                if n > 1
            ),
            Implication("tasks", ("panels",), "grain", (g.out_h,)),
        ),
    )


def _tasks(g: _Geometry, panel_count: int, device: Device) -> tuple[bool, int]:
    """Whether tasks are single panels, and how many output rows a task computes.

    A task of some rows reads all weights, a task of one panel the whole image; what does not stay
    in the second-level cache comes from further away each time. The less of it the better.
    """
    wanted = min(_TASKS, g.batch * g.out_h)
    divisors = [d for d in range(1, g.out_h + 1) if g.out_h % d == 0]
    block = max(d for d in divisors if g.batch * (g.out_h // d) >= wanted)
    # A stride beyond the kernel leaves rows and columns out.
    rows = min(g.rows_for(g.out_h), g.kernel[0] * g.out_h)
    image = 4 * g.in_c * rows * min(g.columns, g.kernel[1] * g.out_w)
    tasks = g.batch * (g.out_h // block)
    if prefers_panels(panel_count, g.batch * image, 4 * g.depth * g.out_c, tasks, device):
        return True, g.out_h
    return False, block


def _whole_rows(
    g: _Geometry, tile: TileShape, block: int, device: Device, vectors: int | None
) -> tuple[TileShape, int]:
    """Let one tile take several short rows: the tile and how many rows it takes (1: one, or less)."""
    best, group = tile, 1
    for rows in range(2, block + 1):
        if block % rows == 0 and rows * g.out_w <= 16:
            wide = choose_tile(rows * g.out_w, g.out_c, device, vectors)
            if wide.rows == rows * g.out_w:
                best, group = wide, rows
    return best, group


def _padded_copy(
    e: Emitter, g: _Geometry, x: Buffer, image: Value, first_row: Value, rows: int
) -> Buffer:
    """Copy the input rows of a task into scratch, with their zeros around."""
    row = g.columns * g.pixel
    before = g.left * g.pixel
    inside = min(g.in_w, g.columns - g.left) * g.pixel
    lanes = e.device.lanes()
    copy = e.scratch("padded", g.planes * rows * row)

    def zeros(at: Value, count: int) -> None:
        _each_vector(e, count, lanes, lambda i, width: e.store(copy, at + i, e.splat(0.0, width)))

    with e.loop(g.planes, name="plane") as plane, e.loop(rows, name="row") as r:
        to = (plane * rows + r) * row
        y = e.bind(first_row * g.stride[0] + r - g.top, "y_in")
        with e.when((y >= 0) & (y < g.in_h)):
            start = ((image * g.planes + plane) * g.in_h + y) * (g.in_w * g.pixel)
            zeros(to, before)
            _each_vector(
                e,
                inside,
                lanes,
                lambda i, width: e.store(copy, to + (before + i), e.load(x, start + i, width)),
            )
            zeros(to + (before + inside), row - before - inside)
        with e.when((y < 0) | (y >= g.in_h)):
            zeros(to, row)
    return copy


def _each_vector(e: Emitter, count: int, lanes: int, body: Any) -> None:
    """body(index, width) for vectors that cover `count` elements."""
    whole = count // lanes
    if whole:
        with e.loop(whole, name="v") as i:
            body(i * lanes, lanes)
    at = whole * lanes
    for width in pieces(count - at, lanes):
        body(at, width)
        at += width
