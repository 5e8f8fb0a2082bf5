"""How are the lines of NCHW planes correlated, and what lies along the vector meanwhile?

- *Columns* of a plane, along the height: they are neighbours in memory. A weight is one number for
  all lanes.
- *Channels*, along the width: a chunk of rows of as many planes as there are lanes is turned by
  strips of points and channels into scratch memory, is NHWC there, weights and all, and is
  turned back. Points of several rows are neighbours, so that no strip ends with a row.
- *Rows* of a plane, along the width, where there are fewer channels than lanes: turned likewise, by
  strips of points and rows.

The last vector reaches back over its neighbour and computes some lines twice, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.planner import Choice
from parc_hw.spec import ParcSpec
from parc_hw.weights import split_tables, start_values
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.split import Columns, Vector, scratch_rows
from schedules.cpu.traffic import Traffic
from schedules.tir import Buffer, Emitter, Value, transpose_strip

__all__ = ["Along", "Lines", "Map", "Part", "Room"]

STRIP = 4  # columns of what is turned at once
WRITTEN = 8  # points written at once: 16 often lie across cache lines and took 1.1 times as long
CHUNK_BYTES = 8 * 2**10  # of turned rows: 16 KiB took 1.1 to 1.2 times as long from 28 points on


class Along(Enum):
    """What the lanes of a vector are."""

    COLUMNS = "columns"
    ROWS = "rows"
    CHANNELS = "channels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One correlation of planes.

    `lines` are the columns or rows of a plane, or its channels, as vectors; `traffic` is for
    columns alone.
    """

    spec: ParcSpec
    choice: Choice
    along: Along
    lines: ChannelBlocks
    traffic: Traffic
    weight: NDArray[Any]
    position_embedding: NDArray[Any]
    bias: NDArray[Any]
    products: str = "auto"  # of `split.PRODUCTS`

    @property
    def channels(self) -> int:
        """How many channels it takes."""
        return self.spec.channels

    @property
    def together(self) -> int:
        """How many of them at once."""
        return self.lines.lanes if self.along is Along.CHANNELS else 1

    @property
    def table_size(self) -> int:
        """Weights of one channel."""
        return self.choice.plan.n1 * (2 * self.choice.plan.n2 - 1)

    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights and start values: for each channel one after the other, or as vectors."""
        plan = self.choice.plan
        start = start_values(self.weight, self.position_embedding, self.bias, plan)
        both = split_tables(self.weight, plan), start
        if self.along is Along.CHANNELS:
            return self.lines.pack(both[0]), self.lines.pack(both[1])
        return both[0].astype(np.float32).reshape(-1), both[1].astype(np.float32).reshape(-1)

    @property
    def chunks(self) -> ChannelBlocks:
        """The rows of a plane that are turned at once, nearly equally many each time."""
        height, width = self.spec.height, self.spec.width
        most = max(1, CHUNK_BYTES // (4 * self.lines.lanes * width))
        count = -(-height // most)
        return ChannelBlocks(height, -(-height // count))

    @property
    def turned(self) -> int:
        """Elements of scratch memory for what is turned at once."""
        rows = {Along.COLUMNS: 0, Along.ROWS: 1, Along.CHANNELS: self.chunks.lanes}[self.along]
        return rows * self.spec.width * self.lines.lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Scratch memory of a task: rows of the split form, points turned, and their results."""

    rows: list[Buffer]
    turned: Buffer
    results: Buffer

    @classmethod
    def of(cls, e: Emitter, parts: list[Part]) -> Room:
        """As much as the largest of `parts` needs."""
        needed = max(scratch_rows(part.choice.plan, e.device, part.products) for part in parts)
        size = max(
            part.choice.plan.length * part.lines.lanes * part.traffic.vectors for part in parts
        )
        rows = [e.scratch(name, size) for name in ("rows", "products")[:needed]]
        size = max(part.turned for part in parts)
        if not size:
            return cls(rows=rows, turned=None, results=None)
        turned = e.scratch("turned", size)
        # the transform reads every point before one is written; the direct form does not
        direct = any(part.choice.plan.n1 == 1 and part.turned for part in parts)
        return cls(
            rows=rows, turned=turned, results=e.scratch("results", size) if direct else turned
        )


@dataclass(frozen=True, slots=True)
class Map:
    """Where a plane begins; `last` is the begin of the last one where the next is to be fetched."""

    buffer: Buffer
    at: Value
    last: int | None = None

    def skip(self, elements: Value) -> Map:
        """The map from a later element on."""
        return Map(self.buffer, self.at + elements, self.last)


@dataclass(frozen=True, slots=True)
class Lines:
    """All lines of some planes of a part."""

    e: Emitter
    part: Part
    table: Buffer
    start: Buffer
    room: Room

    @property
    def _plane(self) -> int:
        return self.part.spec.height * self.part.spec.width

    def correlate(
        self,
        block: Value,
        first: Value,
        count: Value,
        source: Map,
        target: Map,
        chunk: Value | None = None,
    ) -> None:
        """Correlate channels from `first` on, from one map into the other.

        Where channels are the lanes, `block` is the number of their vector, `count` is its
        width, and `chunk` may be the only one of the part's chunks.
        """
        e, part = self.e, self.part
        if part.along is not Along.CHANNELS:
            with self._each(count) as i:
                line = {Along.COLUMNS: self._columns, Along.ROWS: self._rows}[part.along]
                line(first + i, source.skip(i * self._plane), target.skip(i * self._plane))
            return
        if chunk is not None:
            self._chunk(block, chunk, source, target)
        else:
            with e.loop(part.chunks.count, name="chunk") as chunk:
                self._chunk(block, chunk, source, target)

    @contextmanager
    def _each(self, count: Value) -> Iterator[Value]:
        if isinstance(count, int) and count == 1:
            yield 0
        else:
            with self.e.loop(count, name="plane") as i:
                yield i

    def _columns(self, channel: Value, source: Map, target: Map) -> None:
        e, part = self.e, self.part
        lines, width, traffic = part.lines, part.spec.width, part.traffic
        lanes, (weight, start) = lines.lanes, self._numbers(channel)
        streams = traffic.streams and target.last is not None
        given, result = e.bind(source.at, "given"), e.bind(target.at, "result")
        to_read, to_write = self._ahead(source), self._ahead(target)

        with e.loop(lines.count // traffic.vectors, name="group") as group:

            def vector(k: Value) -> Vector:
                """Columns of block k of the group."""
                number = e.bind(group * traffic.vectors + k, "number")
                first = e.bind(lines.start(e, number), "first")
                read, write = e.bind(given + first, "read"), e.bind(result + first, "write")

                def fetch(ahead: Value, i: Value) -> None:
                    e.fetch(source.buffer, ahead + first + i * width)

                def fetch_result(ahead: Value, i: Value) -> None:
                    e.fetch(target.buffer, ahead + first + i * width, write=True)

                return Vector(
                    load=lambda i: e.load(source.buffer, read + i * width, lanes),
                    finish=lambda i, v: e.store(target.buffer, write + i * width, v),
                    weight=weight,
                    start=start,
                    stream=lambda i, v: e.stream(target.buffer, write + i * width, v),
                    fetch=None if to_read is None else partial(fetch, to_read),
                    fetch_result=None if to_write is None else partial(fetch_result, to_write),
                )

            Columns(
                e=e,
                plan=part.choice.plan,
                lanes=lanes,
                vector=vector,
                rows=self.room.rows,
                count=traffic.vectors,
                streams=e.is_aligned(target.buffer, 4 * lanes) if streams else None,
                products=part.products,
            ).compute()

    def _ahead(self, points: Map) -> Value | None:
        """Where the plane after that of `points` begins, if it is to be fetched."""
        if not self.part.traffic.fetches or points.last is None:
            return None
        return self.e.bind(self.e.minimum(points.at + self._plane, points.last), "ahead")

    def _chunk(self, block: Value, chunk: Value, source: Map, target: Map) -> None:
        """Some rows of all channels of a vector."""
        e, part = self.e, self.part
        lanes, width, rows = part.lines.lanes, part.spec.width, part.chunks.lanes
        skipped = e.bind(part.chunks.start(e, chunk) * width, "skipped")
        self._turn_in(source.skip(skipped), self._plane, rows * width)
        size, length = part.table_size, part.choice.plan.length
        weights = e.bind(block * (size * lanes), "weights")
        starts = e.bind(block * (length * lanes), "starts")
        with e.loop(rows, name="row") as row:
            self._turned_line(
                e.bind(row * (width * lanes), "line"),
                lambda i: e.load(self.table, weights + i * lanes, lanes),
                lambda i: e.load(self.start, starts + i * lanes, lanes),
            )
        self._turn_out(target.skip(skipped), self._plane, rows * width)

    def _rows(self, channel: Value, source: Map, target: Map) -> None:
        """As many rows of a plane as a vector has lanes, until all are done."""
        e, lines, width = self.e, self.part.lines, self.part.spec.width
        with e.loop(lines.count, name="block") as block:
            first = e.bind(lines.start(e, block) * width, "first")
            self._turn_in(source.skip(first), width, width)
            self._turned_line(0, *self._numbers(channel))
            self._turn_out(target.skip(first), width, width)

    def _turned_line(
        self, at: Value, weight: Callable[[Value], Value], start: Callable[[Value], Value]
    ) -> None:
        """The line that lies turned from element `at` on, all lanes."""
        e, lanes, room = self.e, self.part.lines.lanes, self.room
        vector = Vector(
            load=lambda i: e.load(room.turned, at + i * lanes, lanes),
            finish=lambda i, v: e.store(room.results, at + i * lanes, v),
            weight=weight,
            start=start,
        )
        Columns(
            e=e,
            plan=self.part.choice.plan,
            lanes=lanes,
            vector=lambda _: vector,
            rows=room.rows,
            products=self.part.products,
        ).compute()

    def _turn_in(self, source: Map, stride: int, count: int) -> None:
        """`count` points of as many lines as there are lanes, which begin `stride` elements apart."""
        e, lanes = self.e, self.part.lines.lanes
        base = e.bind(source.at, "base")
        for wide, tall, point, line in self._strips(count, lanes, lanes):
            at = e.bind(base + line * stride + point, "at")
            rows = [e.load(source.buffer, at + i * stride, wide) for i in range(tall)]
            for i, value in enumerate(transpose_strip(e, rows)):
                e.store(self.room.turned, (point + i) * lanes + line, value)

    def _turn_out(self, target: Map, stride: int, count: int) -> None:
        """The results of what `_turn_in` has turned."""
        e, lanes = self.e, self.part.lines.lanes
        base = e.bind(target.at, "base")
        for wide, tall, line, point in self._strips(lanes, count, min(lanes, WRITTEN)):
            at = e.bind(base + line * stride + point, "at")
            found = e.bind(point * lanes + line, "found")
            rows = [e.load(self.room.results, found + i * lanes, wide) for i in range(tall)]
            for i, value in enumerate(transpose_strip(e, rows)):
                e.store(target.buffer, at + i * stride, value)

    def _strips(self, across: int, down: int, most: int) -> Iterator[tuple[int, int, Value, Value]]:
        """Strips that cover a matrix: columns and rows of one, its first column, its first row.

        What follows is inside the loops over them.
        """
        e = self.e
        rows = ChannelBlocks.cover(down, most)
        columns = ChannelBlocks.cover(across, min(rows.lanes, STRIP))
        if columns.lanes < STRIP:
            rows = ChannelBlocks.cover(down, columns.lanes)
        with (
            e.loop(rows.count, name="down") as j,
            e.loop(columns.count, name="across") as i,
        ):
            column = e.bind(columns.start(e, i), "column")
            yield columns.lanes, rows.lanes, column, e.bind(rows.start(e, j), "row")

    def _numbers(self, channel: Value) -> tuple[Callable[[Value], Value], Callable[[Value], Value]]:
        """Weights and start values of a channel, each in all lanes."""
        e, lanes = self.e, self.part.lines.lanes
        weights = e.bind(channel * self.part.table_size, "weights")
        starts = e.bind(channel * self.part.choice.plan.length, "starts")
        return (
            lambda i: e.load_all(self.table, weights + i, lanes),
            lambda i: e.load_all(self.start, starts + i, lanes),
        )
