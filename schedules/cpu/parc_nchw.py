"""Which kernel computes a depthwise ParC in NCHW?

One task is the plane of one channel of one image, so that weights are numbers for all lanes.
Along the height, neighbouring columns are the lanes of a vector. Along the width, so many rows
are transposed into scratch memory, correlated there as columns, and transposed back. The last
vector of columns or rows reaches back over its neighbour and computes some twice, to the same bits.

A composite is one `relax.parc`; two of them in a row (the plane between stays in scratch memory);
or two on slices of the channels, joined again. Models are compiled in NHWC, so that no
rule of `RULES` needs this: it serves single operators on arrays in torch's layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.planner import Choice, resolve_plan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import split_tables, start_values
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.split import Columns, Vector, scratch_rows
from schedules.cpu.traffic import Traffic
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled
from schedules.tir import Buffer, Emitter, Value, transpose_square

__all__ = ["parc_nchw"]

NAME = "parc_nchw"


def parc_nchw(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Correlate every plane along one axis, along both, or half of the planes along each.

    Parameters
    ----------
    composite : Composite
        As the module says, in NCHW with constant kernels (C, N), position embeddings and biases;
        no epilogue.
    context : Context
        Its plan is resolved for each correlation; the device gives vector width and registers.
    """
    parts = _parts(composite, context)
    if isinstance(parts, str):
        return NotApplicable(NAME, parts)
    batch, channels, height, width = composite.inputs[0]
    plane = height * width
    e = Emitter(context.device)
    x = e.parameter("x", math.prod(composite.inputs[0]))
    constants: list[NDArray[np.float32]] = []
    buffers: list[tuple[Buffer, Buffer]] = []
    for part in parts:
        table, start = (c.astype(np.float32).reshape(-1) for c in part.constants())
        buffers.append((e.parameter("table", table.size), e.parameter("start", start.size)))
        constants += [table, start]
    y = e.parameter("y", math.prod(composite.shape))

    with e.parallel(batch * channels) as task:
        room = _Room.of(e, parts)
        at = e.bind(task * plane, "at")
        after = e.bind(e.minimum(task + 1, batch * channels - 1) * plane, "after")
        given, result = _Map(x, at, after), _Map(y, at, after)
        channel = e.bind(task % channels, "channel")
        first, *others = (
            _Plane(e, part, table, start, room)
            for part, (table, start) in zip(parts, buffers, strict=True)
        )
        if not others:
            first.correlate(channel, given, result)
        elif parts[0].channels == channels:  # one after the other
            between = _Map(e.scratch("between", plane), 0)
            first.correlate(channel, given, between)
            others[0].correlate(channel, between, result)
        else:
            middle = parts[0].channels
            with e.when(channel < middle):
                first.correlate(channel, given, result)
            with e.when(channel >= middle):
                others[0].correlate(channel - middle, given, result)

    return Scheduled(
        func=e.finish(),
        inputs=(0,),
        constants=tuple(constants),
        rule=NAME,
        note="; ".join(f"along {part.spec.axis.value}: {part.choice.reason}" for part in parts),
        macs=sum(part.spec.macs for part in parts),
    )


# ---------------------------------------------------------------- what is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One correlation of the planes of `channels` channels."""

    spec: ParcSpec
    choice: Choice
    lines: ChannelBlocks  # the columns or rows of a plane, as vectors
    traffic: Traffic
    weight: NDArray[Any]
    position_embedding: NDArray[Any]
    bias: NDArray[Any]

    @property
    def channels(self) -> int:
        """How many channels it takes."""
        return self.spec.channels

    @property
    def table_size(self) -> int:
        """Weights of one channel."""
        return self.choice.plan.n1 * (2 * self.choice.plan.n2 - 1)

    def constants(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (C, T) and start values (C, N)."""
        plan = self.choice.plan
        start = start_values(self.weight, self.position_embedding, self.bias, plan)
        return split_tables(self.weight, plan), start


def _parts(composite: Composite, context: Context) -> list[_Part] | str:
    """The correlations in the order of the module's text, or why there are others."""
    nodes = composite.nodes
    ops = [node.op.removeprefix("relax.") for node in nodes]
    half = ["strided_slice", "parc", "strided_slice", "parc", "concat"]
    if ops not in (["parc"], ["parc", "parc"], half):
        return f"{composite.name} is not one parc, two in a row, or parc on two slices"
    if len(composite.inputs) != 1 or len(composite.inputs[0]) != 4:
        return f"the inputs are {composite.inputs}; accepted is one in NCHW"
    numbers = [i for i, op in enumerate(ops) if op == "parc"]
    channels = composite.inputs[0][1]
    read: list[Any] = [Ref("input", 0), Ref("node", 0)]
    if ops == half:
        read = [Ref("node", 0), Ref("node", 2)]
        middle = nodes[0].shape[1]
        for node, (begin, end) in zip(
            (nodes[0], nodes[2]), ((0, middle), (middle, channels)), strict=True
        ):
            given = [tuple(node.attrs[k]) for k in ("axes", "begin", "end", "strides")]
            if given != [(1,), (begin,), (end,), (1,)] or node.args[0] != Ref("input", 0):
                return f"a slice is {node.attrs}, not one of two neighbouring parts of the channels"
        if nodes[4].attrs.get("axis") != 1 or nodes[4].args[0] != (Ref("node", 1), Ref("node", 3)):
            return "the parts are not joined along the channels in their order"
    parts = []
    for number, source in zip(numbers, read, strict=False):
        node = nodes[number]
        weight, position_embedding, bias = node.args[1:]
        if not all(isinstance(a, np.ndarray) for a in node.args[1:]):
            return "kernel, position embedding or bias is computed at run time"
        if weight.ndim == 3:
            return f"dense kernel of shape {weight.shape}"
        if node.attrs.get("layout") != "NCHW":
            return f"layout is {node.attrs.get('layout')}; accepted is NCHW"
        if node.args[0] != source:
            return "a correlation does not read the value before it"
        batch, count, height, width = node.shape
        axis = Axis(node.attrs["axis"])
        spec = ParcSpec(
            axis=axis,
            batch=batch,
            channels=count,
            height=height,
            width=width,
            position_embedding=bool(np.any(position_embedding)),
            bias=bool(np.any(bias)),
        )
        device = context.device
        lines = ChannelBlocks.cover(width if axis is Axis.H else height, device.lanes())
        traffic = Traffic()  # turning squares of points and rows goes along memory as it is
        if axis is Axis.H:
            traffic = Traffic.of(
                device,
                elements=math.prod(composite.shape),
                vectors=lines.count,
                length=spec.length,
                lanes=lines.lanes,
                whole_lines=width % lines.lanes == 0,
            )
        parts.append(
            _Part(
                spec=spec,
                choice=resolve_plan(context.plan, spec, device, "NCHW"),
                lines=lines,
                traffic=traffic,
                weight=weight,
                position_embedding=position_embedding,
                bias=bias,
            )
        )
    return parts


# ---------------------------------------------------------------- how a plane is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """Scratch memory of a task: rows of the split form, rows of a plane turned, and their results."""

    rows: list[Buffer]
    turned: Buffer
    results: Buffer

    @classmethod
    def of(cls, e: Emitter, parts: list[_Part]) -> _Room:
        """As much as the largest of `parts` needs."""
        sizes = [part.choice.plan.length * part.lines.lanes for part in parts]
        needed = max(scratch_rows(part.choice.plan, e.device) for part in parts)
        size = max(n * part.traffic.vectors for n, part in zip(sizes, parts, strict=True))
        rows = [e.scratch(name, size) for name in ("rows", "products")[:needed]]
        along = [(p, s) for p, s in zip(parts, sizes, strict=True) if p.spec.axis is Axis.W]
        if not along:
            return cls(rows=rows, turned=None, results=None)
        size = max(s for _, s in along)
        turned = e.scratch("turned", size)
        # the transform reads every point before one is written; the direct form does not
        direct = any(p.choice.plan.n1 == 1 for p, _ in along)
        return cls(
            rows=rows, turned=turned, results=e.scratch("results", size) if direct else turned
        )


@dataclass(frozen=True, slots=True)
class _Map:
    """Where a plane begins, and the one after it where that is to be fetched."""

    buffer: Buffer
    at: Value
    after: Value = None


@dataclass(frozen=True, slots=True)
class _Plane:
    """All lines of one plane."""

    e: Emitter
    part: _Part
    table: Buffer
    start: Buffer
    room: _Room

    def correlate(self, channel: Value, source: _Map, target: _Map) -> None:
        """Correlate the plane of `channel` from one map into the other."""
        if self.part.spec.axis is Axis.H:
            self._columns(channel, source, target)
        else:
            self._rows(channel, source, target)

    def _columns(self, channel: Value, source: _Map, target: _Map) -> None:
        e, lines, width, traffic = self.e, self.part.lines, self.part.spec.width, self.part.traffic
        lanes, (weight, start) = lines.lanes, self._tables(channel)
        streams = traffic.streams and target.after is not None

        with e.loop(lines.count // traffic.vectors, name="group") as group:

            def vector(k: Value) -> Vector:
                """Columns of block k of the group."""
                number = e.bind(group * traffic.vectors + k, "number")
                first = e.bind(lines.start(e, number), "first")
                read, write = e.bind(source.at + first, "read"), e.bind(target.at + first, "write")

                def fetch(points: _Map, i: Value, *, write: bool = False) -> None:
                    e.fetch(points.buffer, points.after + first + i * width, write=write)

                return Vector(
                    load=lambda i: e.load(source.buffer, read + i * width, lanes),
                    finish=lambda i, v: e.store(target.buffer, write + i * width, v),
                    weight=weight,
                    start=start,
                    stream=lambda i, v: e.stream(target.buffer, write + i * width, v),
                    fetch=partial(fetch, source) if self._fetches(source) else None,
                    fetch_result=(
                        partial(fetch, target, write=True) if self._fetches(target) else None
                    ),
                )

            Columns(
                e=e,
                plan=self.part.choice.plan,
                lanes=lanes,
                vector=vector,
                rows=self.room.rows,
                count=traffic.vectors,
                streams=e.is_aligned(target.buffer, 4 * lanes) if streams else None,
            ).compute()

    def _fetches(self, points: _Map) -> bool:
        return self.part.traffic.fetches and points.after is not None

    def _rows(self, channel: Value, source: _Map, target: _Map) -> None:
        e, lines, width = self.e, self.part.lines, self.part.spec.width
        lanes, length = lines.lanes, self.part.choice.plan.length
        turned, results = self.room.turned, self.room.results
        # squares of points and rows; `points` covers the points of a row by squares
        points = ChannelBlocks.cover(length, min(lanes, MOST_SQUARE))
        with e.loop(lines.count, name="block") as block:
            first = e.bind(lines.start(e, block) * width, "first")

            def squares(turn: Any) -> None:
                with e.loop(points.count, name="square") as number:
                    point = e.bind(points.start(e, number), "point")
                    with e.loop(lanes // points.lanes, name="group") as group:
                        turn(point, e.bind(group * points.lanes, "row"))

            def turn_in(point: Value, row: Value) -> None:
                at = e.bind(source.at + first + row * width + point, "at")
                side = points.lanes
                values = [e.load(source.buffer, at + i * width, side) for i in range(side)]
                for i, value in enumerate(transpose_square(e, values)):
                    e.store(turned, (point + i) * lanes + row, value)

            def turn_out(point: Value, row: Value) -> None:
                at = e.bind(target.at + first + row * width + point, "at")
                side = points.lanes
                values = [e.load(results, (point + i) * lanes + row, side) for i in range(side)]
                for i, value in enumerate(transpose_square(e, values)):
                    e.store(target.buffer, at + i * width, value)

            squares(turn_in)
            weight, start = self._tables(channel)
            vector = Vector(
                load=lambda i: e.load(turned, i * lanes, lanes),
                finish=lambda i, v: e.store(results, i * lanes, v),
                weight=weight,
                start=start,
            )
            plan, rows = self.part.choice.plan, self.room.rows
            Columns(e=e, plan=plan, lanes=lanes, vector=lambda _: vector, rows=rows).compute()
            squares(turn_out)

    def _tables(self, channel: Value) -> tuple[Callable[[Value], Value], Callable[[Value], Value]]:
        """Weights and start values of a channel, each in all lanes."""
        e, lanes = self.e, self.part.lines.lanes
        weights = e.bind(channel * self.part.table_size, "weights")
        starts = e.bind(channel * self.part.choice.plan.length, "starts")
        return (
            lambda i: e.load_all(self.table, weights + i, lanes),
            lambda i: e.load_all(self.start, starts + i, lanes),
        )


MOST_SQUARE = 8  # rows and points of a transposed square: as many vectors live at once
