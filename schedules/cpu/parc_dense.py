"""Which kernel computes a dense ParC (equation 4)?

Every output channel sums correlations of all input channels:

    y[o, i] = b[o] + sum_c sum_k w[o, c, k] (x[c, (i + k) mod N] + pe[c, (i + k) mod N])

The split plan N = n1 * n2 of `parc_hw.weights`, with matrix products over the channels in place of
products of numbers. A task computes a few lines of the correlated axis:

1. the real DFT of length n1 of each input channel of the lines;
2. for each row of the transform the product of (lines x n2 C) with the row's weights
   (n2 C x C_out), by the tiles of `matmul`. The weights of output position m are those of
   position 0 shifted by m blocks of C rows, so that they are stored once, blocks d downwards. A
   complex pair of rows is two products with shared weights [tr; ti]: [re, -im] gives the real and
   [im, re] the imaginary row. Rows of the transform are stored as (im, re, -im), so that both are
   stretches of one line;
3. the transposed DFT of each output channel, and the epilogue.

With n1 = 1 there is only step 2, as one product over K = N * C: the lines are copied twice in a row
into scratch memory, and output i reads from point i on. Position embedding and bias are what the
products start from. At N = 14 the split needs 0.13 of the multiplications of the direct form.

All this has the channels of a pixel side by side, as NHWC has them. In NCHW a task first turns its
lines into scratch memory, [line][point][channel], by transposed squares, and its results back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.dataflow import real_dft, transpose
from parc_hw.plan import SplitPlan
from parc_hw.planner import LAYOUTS, Choice, resolve_plan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import complex_rows, fold_scale, split_tables, start_values
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.epilogue import Epilogue, Operands, parse
from schedules.cpu.matmul import over_panels, tile_note
from schedules.cpu.parc_space import tuned_plan
from schedules.cpu.split import emit_graph
from schedules.cpu.tile import (
    KLoop,
    Panel,
    TileShape,
    choose_tile,
    emit_tile,
    pack,
    panels,
    tile_dimensions,
    unrolled_steps,
    weights_key,
)
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled, choose
from schedules.tir import Buffer, Emitter, Value, transpose_square
from schedules.tuning.space import Choice as Point
from schedules.tuning.space import Dimension, Space

__all__ = ["parc_dense"]

NAME = "parc_dense"

MOST_LINES = 8  # of one task: rows of a tile; more would leave fewer tasks
MOST_SQUARE = 8  # rows and columns of a transposed square: as many vectors live at once


def parc_dense(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Sum the correlations of all input channels, for every output channel.

    Parameters
    ----------
    composite : Composite
        `relax.parc` with constant kernel (C_out, C, N), position embedding (C, N) and bias
        (C_out,); in NHWC then the epilogue, which NCHW does not have.
    context : Context
        Its plan is resolved for the operator; the device gives vector width and registers.
    """
    problem = _problem(composite, context)
    if isinstance(problem, str):
        return NotApplicable(NAME, problem)
    tail = parse(problem.composite)
    if isinstance(tail, str):
        return NotApplicable(NAME, tail)
    spec, plan = problem.spec, problem.choice.plan
    device = context.device
    outputs = spec.out_channels or 0

    # a task's lines: any neighbours in NHWC, of one image in NCHW
    neighbours = spec.lines if problem.layout == "NHWC" else spec.lines // spec.batch
    lines = _lines(neighbours, MOST_LINES)
    rows = spec.length if plan.n1 == 1 else lines
    key = weights_key(problem.weight)
    vectors = context.panel_vectors.get(key)
    tile = choose_tile(rows, outputs, device, vectors)
    space = _space(problem, context, tile, neighbours, lines, vectors)
    tuned = choose(composite, context, space)
    taken = tuned.choice
    if taken != space.default:
        problem = dataclasses.replace(problem, choice=tuned_plan(taken, "plan", problem.choice))
        plan, lines = problem.choice.plan, taken["lines"]
        tile = TileShape(taken["rows"], taken["vectors"])
    groups = -(-neighbours // lines)
    weight, bias = fold_scale(problem.weight, problem.bias, tail.scale, tail.shift)
    start = start_values(weight, problem.position_embedding, bias, plan)
    context.panel_vectors[key] = tile.vectors
    cut = panels(outputs, tile, device)
    packed = _pack_weights(weight, plan, cut)
    starts = np.zeros((plan.length, cut[-1].first + cut[-1].padded), np.float32)
    starts[:, :outputs] = start.T

    e = Emitter(device)
    x = e.parameter("x", math.prod(composite.inputs[problem.input]))
    inputs = tail.declare_inputs(e, composite)
    w, z = e.parameter("w", packed.size), e.parameter("start", starts.size)
    kernel = _Kernel(
        e=e,
        spec=spec,
        plan=plan,
        tile=tile,
        cut=cut,
        tail=tail,
        operands=Operands(inputs, tail.declare_constants(e)),
        x=x,
        w=w,
        start=z,
        y=e.parameter("y", math.prod(composite.shape)),
        turned=problem.layout == "NCHW",
        unroll=taken["unroll"],
    )
    with e.parallel(spec.lines // neighbours * groups) as task:
        kernel.buffers(lines)
        image, group = task // groups, task % groups  # one image of all lines in NHWC
        first = e.bind(image * neighbours + group * lines, "first")
        if neighbours % lines == 0:
            kernel.some(first, lines)
        else:
            with e.when(group < groups - 1):
                kernel.some(first, lines)
            with e.when(group >= groups - 1):
                kernel.some(first, neighbours % lines)
    return Scheduled(
        func=e.finish(),
        inputs=(problem.input, *tail.inputs),
        constants=(packed, starts.reshape(-1), *tail.constants),
        rule=NAME,
        note=(
            f"along {spec.axis.value}: {problem.choice.reason}; "
            f"{tile_note(tile, device)}, {lines} lines a task"
        ),
        macs=spec.macs,
        space=space,
        tuned=tuned,
    )


def _lines(neighbours: int, most: int) -> int:
    """Lines of a task: at most `most`, and nearly as many in every task."""
    return -(-neighbours // -(-neighbours // most))


def _space(
    problem: _Problem,
    context: Context,
    tile: TileShape,
    neighbours: int,
    lines: int,
    vectors: int | None,
) -> Space:
    """What may be chosen; `tile` and `lines` are the rule's own.

    `vectors` is given when the weights are packed already.
    """
    device, spec, choice = context.device, problem.spec, problem.choice
    plans = [plan for plan, _ in choice.ranked] if context.plan == "auto" else [choice.plan]
    most = min(16, max(neighbours, spec.length))
    shape, fits = tile_dimensions(range(1, most + 1), spec.out_channels or 0, device, tile, vectors)
    groups = tuple(sorted({_lines(neighbours, n) for n in range(1, min(neighbours, 16) + 1)}))
    return Space(
        kernel=NAME,
        dimensions=(
            Dimension(
                "plan",
                tuple(str(plan) for plan in sorted(plans, key=lambda plan: plan.n1)),
                "transform x product",
            ),
            *shape,
            Dimension("lines", groups, "lines of a task"),
        ),
        default=Point.of(
            {
                "plan": str(choice.plan),
                "rows": tile.rows,
                "vectors": tile.vectors,
                "unroll": unrolled_steps(device),
                "lines": lines,
            }
        ),
        implications=fits,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    spec: ParcSpec
    choice: Choice
    layout: str
    composite: Composite  # with the channels last: as the epilogue takes it
    input: int
    weight: NDArray[Any]
    position_embedding: NDArray[Any]
    bias: NDArray[Any]


def _problem(composite: Composite, context: Context) -> _Problem | str:
    """The composite's anchor, or why it is not one of this rule's."""
    node = composite.nodes[0]
    if node.op != "relax.parc":
        return f"the anchor is {node.op}, not relax.parc"
    x, weight, position_embedding, bias = node.args
    if not isinstance(x, Ref):
        return "the correlated tensor is a constant"
    if not all(isinstance(a, np.ndarray) for a in (weight, position_embedding, bias)):
        return "kernel, position embedding or bias is computed at run time"
    if weight.ndim != 3:
        return f"depthwise kernel of shape {weight.shape}"
    layout = node.attrs.get("layout")
    if layout not in LAYOUTS:
        return f"layout is {layout}; accepted: {', '.join(LAYOUTS)}"
    batch, height, width, channels = (composite.inputs[x.index][layout.index(d)] for d in "NHWC")
    if layout == "NCHW":
        if len(composite.nodes) > 1:
            return f"{composite.name} in NCHW has an epilogue"
        last = dataclasses.replace(node, shape=(batch, height, width, weight.shape[0]))
        composite = dataclasses.replace(composite, nodes=(last,))
    spec = ParcSpec(
        axis=Axis(node.attrs["axis"]),
        batch=batch,
        channels=channels,
        out_channels=weight.shape[0],
        height=height,
        width=width,
        position_embedding=bool(np.any(position_embedding)),
        bias=bool(np.any(bias)),
    )
    return _Problem(
        spec=spec,
        choice=resolve_plan(context.plan, spec, context.device),
        layout=layout,
        composite=composite,
        input=x.index,
        weight=weight,
        position_embedding=position_embedding,
        bias=bias,
    )


def _pack_weights(
    weight: NDArray[np.float64], plan: SplitPlan, cut: tuple[Panel, ...]
) -> NDArray[np.float32]:
    """The matrices of all rows of the transform, in the order of `_Kernel._products`."""
    n1, n2 = plan.n1, plan.n2
    if n1 == 1:
        return pack(_matrix([weight]), cut)
    tables = split_tables(weight, plan).reshape(*weight.shape[:2], n1, 2 * n2 - 1)[..., ::-1]
    single = [tables[:, :, row] for row in _real_rows(n1)]
    pairs = [[tables[:, :, row], tables[:, :, row + 1]] for row in complex_rows(n1)]
    matrices = [_matrix([one]) for one in single] + [_matrix(pair) for pair in pairs]
    return np.concatenate([pack(matrix, cut) for matrix in matrices])


def _matrix(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Parts (C_out, C, D) as one matrix of rows [d][part][c] and columns [o]."""
    stacked = np.stack(parts)  # (part, o, c, d)
    return stacked.transpose(3, 0, 2, 1).reshape(-1, stacked.shape[1])


def _real_rows(n1: int) -> tuple[int, ...]:
    """Rows of the transform without a partner."""
    return (0, n1 - 1) if n1 % 2 == 0 else (0,)


@dataclass(slots=True, kw_only=True)
class _Kernel:
    """The statements of one task. Scratch rows of a line:

    u: for the real rows [row][line][q][c], then for the pairs [pair][line][q](im, re, -im)[c];
    v: [row][m][line][o]. With n1 = 1 only u: [q < 2N - 1][c] of one line at a time.

    `source` and `target` have the channels last: x and y themselves, or where these are `turned` the
    lines of a task.
    """

    e: Emitter
    spec: ParcSpec
    plan: SplitPlan
    tile: TileShape
    cut: tuple[Panel, ...]
    tail: Epilogue
    operands: Operands
    x: Buffer
    w: Buffer
    start: Buffer
    y: Buffer
    turned: bool
    unroll: int
    source: Buffer = None
    target: Buffer = None
    u: Buffer = None
    v: Buffer = None

    @property
    def outputs(self) -> int:
        """C_out."""
        return self.cut[-1].first + self.cut[-1].channels

    @property
    def padded(self) -> int:
        """C_out with the padding of the last panel."""
        return self.cut[-1].first + self.cut[-1].padded

    @property
    def across(self) -> int:
        """Pixels from a point of a line to the next, where the channels are last."""
        return self.spec.width if self.spec.axis is Axis.H and not self.turned else 1

    def buffers(self, lines: int) -> None:
        """Allocate scratch memory for a task of `lines` lines."""
        channels, n1, n2 = self.spec.channels, self.plan.n1, self.plan.n2
        self.source, self.target = self.x, self.y
        if self.turned:
            points = lines * self.plan.length
            self.source = self.e.scratch("source", points * channels)
            self.target = self.e.scratch("target", points * self.outputs)
        if n1 == 1:
            self.u = self.e.scratch("twice", (2 * n2 - 1) * channels)
            return
        stretches = len(_real_rows(n1)) + 3 * len(complex_rows(n1))
        self.u = self.e.scratch("rows", lines * n2 * channels * stretches)
        self.v = self.e.scratch("products", lines * n1 * n2 * self.outputs)

    def some(self, first: Value, lines: int) -> None:
        """Compute `lines` lines from number `first` on."""
        begin = 0 if self.turned else first
        if self.turned:
            self._turn_in(first, lines)
        if self.plan.n1 == 1:
            with self.e.loop(lines, name="line") as line:
                self._direct(self._pixel(begin + line))
        else:
            self._split(begin, lines)
        if self.turned:
            self._turn_out(first, lines)

    def _split(self, first: Value, lines: int) -> None:
        """The lines by transforms of n1 points."""
        forward = real_dft(self.plan.n1)
        blocks = ChannelBlocks.cover(self.spec.channels, self.e.device.lanes())
        with self.e.loop(lines, name="line") as line:
            pixel = self._pixel(first + line)
            with self.e.loop(blocks.count, name="block") as block:
                channel = self.e.bind(blocks.start(self.e, block), "channel")
                with self.e.loop(self.plan.n2, name="m") as m:
                    self._forward(forward, pixel, line, lines, m, channel, blocks.lanes)
        self._products(lines)
        backward = transpose(forward)
        blocks = ChannelBlocks.cover(self.outputs, self.e.device.lanes())
        with self.e.loop(lines, name="line") as line:
            pixel = self._pixel(first + line)
            with self.e.loop(blocks.count, name="block") as block:
                channel = self.e.bind(blocks.start(self.e, block), "channel")
                with self.e.loop(self.plan.n2, name="m") as m:
                    self._backward(backward, pixel, line, lines, m, channel, blocks.lanes)

    def _pixel(self, line: Value) -> Value:
        """Number of the first pixel of a line."""
        e, length, across = self.e, self.spec.length, self.across
        if self.spec.axis is Axis.W or self.turned:
            return e.bind(line * length, "pixel")
        number = e.bind(line, "number")
        image = e.bind(number // across, "image")
        return e.bind(image * (length * across) + number % across, "pixel")

    # ------------------------------------------------------------------ NCHW

    def _turn_in(self, first: Value, lines: int) -> None:
        """source[line][point][channel] from the planes of x."""
        e = self.e

        def square(side: int, places: list[Value], points: list[Value]) -> None:
            rows = [e.load(self.x, place, side) for place in places]
            for point, column in zip(points, transpose_square(e, rows), strict=True):
                e.store(self.source, point, column)

        self._squares(first, lines, self.spec.channels, square)

    def _turn_out(self, first: Value, lines: int) -> None:
        """The planes of y from target[line][point][channel]."""
        e = self.e

        def square(side: int, places: list[Value], points: list[Value]) -> None:
            columns = [e.load(self.target, point, side) for point in points]
            for place, row in zip(places, transpose_square(e, columns), strict=True):
                e.store(self.y, place, row)

        self._squares(first, lines, self.outputs, square)

    def _squares(
        self,
        first: Value,
        lines: int,
        channels: int,
        square: Callable[[int, list[Value], list[Value]], None],
    ) -> None:
        """square(side, places, points) for squares of channels and neighbouring pixels of a row.

        They cover the planes' part of `lines` lines from number `first`; places[i] is where the
        pixels of channel i lie in the planes, points[j] where the channels of pixel j do in scratch.
        Neighbours are points of one line along W, and lines at one point along H.
        """
        e, spec, length = self.e, self.spec, self.spec.length
        plane = spec.height * spec.width
        along_h = spec.axis is Axis.H
        neighbours, others = (lines, length) if along_h else (length, lines)
        side = min(MOST_SQUARE, e.device.lanes())
        side = min(ChannelBlocks.cover(n, side).lanes for n in (neighbours, channels))
        pixels, blocks = ChannelBlocks.cover(neighbours, side), ChannelBlocks.cover(channels, side)
        per_image = spec.lines // spec.batch
        image = e.bind(first // per_image * (channels * plane), "image")
        line = e.bind(first % per_image, "line")
        corner = e.bind(image + (line if along_h else line * length), "corner")
        with e.loop(blocks.count, name="block") as block:
            channel = e.bind(blocks.start(e, block), "channel")
            with e.loop(others, name="other") as other, e.loop(pixels.count, name="square") as s:
                pixel = e.bind(pixels.start(e, s), "pixel")
                place = e.bind(corner + channel * plane + other * spec.width + pixel, "place")
                point = (pixel * length + other) if along_h else (other * length + pixel)
                at = e.bind(point * channels + channel, "at")
                step = (length if along_h else 1) * channels
                places = [place + i * plane for i in range(side)]
                square(side, places, [at + j * step for j in range(side)])

    # ------------------------------------------------------------------ the direct form

    def _direct(self, pixel: Value) -> None:
        """One line: copied twice, then a product of all its outputs with the kernels."""
        e, length, channels = self.e, self.spec.length, self.spec.channels
        blocks = ChannelBlocks.cover(channels, e.device.lanes())
        with e.loop(length, name="q") as q, e.loop(blocks.count, name="block") as block:
            channel = e.bind(blocks.start(e, block), "channel")
            at = (pixel + q * self.across) * channels + channel
            value = e.bind(e.load(self.source, at, blocks.lanes))
            e.store(self.u, q * channels + channel, value)
            with e.when(q < length - 1):
                e.store(self.u, (q + length) * channels + channel, value)

        def tiles(panel: Panel, first: Value) -> None:
            def emit(row: Value, count: int) -> None:
                place = (pixel + row * self.across) * self.outputs + first
                self._tile(
                    panel,
                    first,
                    a_at=row * channels,
                    a_rows=[i * channels for i in range(count)],
                    k_loops=[KLoop(length * channels, 1)],
                    w_at=first * (length * channels),
                    start_at=row * self.padded,
                    start_row=self.padded,
                    y=self.target,
                    y_at=place,
                    y_row=self.across * self.outputs,
                    finish=self._finish,
                    rolled=self.tail.heavy,
                )

            self._over_rows(length, emit)

        over_panels(e, self.cut, tiles)

    def _finish(self, value: Value, at: Value, channel: Value) -> Value:
        return self.tail.apply(self.e, value, at=at, channel=channel, operands=self.operands)

    # ------------------------------------------------------------------ the split form

    def _forward(
        self, dag: Any, pixel: Value, line: Value, lines: int, m: Value, channel: Value, lanes: int
    ) -> None:
        """Transform one point of each residue of one line's channels."""
        e, channels, n2 = self.e, self.spec.channels, self.plan.n2
        place = e.bind(line * n2 + m, "place")
        real = _real_rows(self.plan.n1)
        stretch = lines * n2 * channels

        def get(j: int) -> Value:
            point = m + j * n2
            return e.load(self.source, (pixel + point * self.across) * channels + channel, lanes)

        def put(row: int, value: Value) -> None:
            if row in real:
                at = real.index(row) * stretch + place * channels
                e.store(self.u, at + channel, value)
                return
            pair, imaginary = divmod(row - 1, 2)
            at = (len(real) + 3 * pair) * stretch + place * (3 * channels) + channel
            if imaginary:
                e.store(self.u, at, value)
                e.store(self.u, at + 2 * channels, value * e.like(-1.0, value))
            else:
                e.store(self.u, at + channels, value)

        emit_graph(e, dag, get, put)

    def _products(self, lines: int) -> None:
        """v[row][m] of all lines and output channels, from u."""
        e, n1, n2, channels = self.e, self.plan.n1, self.plan.n2, self.spec.channels
        real, pairs = _real_rows(n1), complex_rows(n1)
        stretch = lines * n2 * channels
        matrix = (2 * n2 - 1) * channels  # rows of the packed matrix of a real row

        def row_of_products(
            row: Value, a_at: Value, per_point: int, stride: int, w_at: Value
        ) -> None:
            """Product for transform row `row`: K runs over n2 points of `per_point` numbers each."""
            loops = [KLoop(n2 * per_point, 1)]
            if stride != per_point:
                loops = (
                    [KLoop(n2, stride), KLoop(per_point, 1)] if n2 > 1 else [KLoop(per_point, 1)]
                )
            with e.loop(n2, name="m") as m:
                number = e.bind(row * n2 + m, "number")

                def tiles(panel: Panel, first: Value) -> None:
                    shifted = ((n2 - 1) - m) * (per_point * panel.padded)

                    def emit(line: Value, count: int) -> None:
                        self._tile(
                            panel,
                            first,
                            a_at=a_at + line * (n2 * stride),
                            a_rows=[i * n2 * stride for i in range(count)],
                            k_loops=loops,
                            w_at=w_at + first * ((2 * n2 - 1) * per_point) + shifted,
                            start_at=number * self.padded,
                            start_row=0,
                            y=self.v,
                            y_at=(number * lines + line) * self.outputs + first,
                            y_row=self.outputs,
                            finish=lambda value, at, channel: value,
                            rolled=False,
                        )

                    self._over_rows(lines, emit)

                over_panels(e, self.cut, tiles)

        for number, row in enumerate(real):
            w_at = number * matrix * self.padded
            row_of_products(row, number * stretch, channels, channels, w_at)
        if not pairs:
            return
        with e.loop(len(pairs), name="pair") as pair:
            a_at = e.bind((pair * 3 + len(real)) * stretch, "a")
            w_at = e.bind((pair * 2 + len(real)) * (matrix * self.padded), "w")
            with e.loop(2, name="imaginary") as imaginary:
                row = e.bind(pair * 2 + imaginary + 1, "row")
                begin = e.bind(a_at + (1 - imaginary) * channels, "a")
                row_of_products(row, begin, 2 * channels, 3 * channels, w_at)

    def _backward(
        self, dag: Any, pixel: Value, line: Value, lines: int, m: Value, channel: Value, lanes: int
    ) -> None:
        """Transform the products of one line back and store its results."""
        e, n2 = self.e, self.plan.n2

        def get(row: int) -> Value:
            at = ((row * n2 + m) * lines + line) * self.outputs + channel
            return e.load(self.v, at, lanes)

        def put(j: int, value: Value) -> None:
            at = e.bind((pixel + (m + j * n2) * self.across) * self.outputs + channel, "place")
            e.store(self.target, at, self._finish(value, at, channel))

        emit_graph(e, dag, get, put)

    # ------------------------------------------------------------------ tiles

    def _over_rows(self, rows: int, emit: Callable[[Value, int], None]) -> None:
        """emit(first row, how many) for all rows by tiles."""
        whole, rest = divmod(rows, self.tile.rows)
        with self.e.loop(whole, name="tile") as i:
            emit(i * self.tile.rows, self.tile.rows)
        if rest:
            emit(whole * self.tile.rows, rest)

    def _tile(
        self, panel: Panel, first: Value, *, start_at: Value, start_row: int, **more: Any
    ) -> None:
        emit_tile(
            self.e,
            panel=panel,
            first=first,
            a=self.u,
            weights=self.w,
            bias=self.start,
            bias_at=start_at,
            bias_row=start_row,
            unroll=self.unroll,
            **more,
        )
