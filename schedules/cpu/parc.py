"""Which kernel computes a depthwise ParC in NHWC?

The split plan N = n1 * n2 in three stages (`parc_hw.weights` states them), for one column of the
image and one block of channels at a time, channels along the vector: a real DFT of length n1
down the column, Toeplitz products of length n2, and the transposed DFT. The graphs of the
transforms come from `parc_hw.dataflow`. Position embedding and bias are what the products start
from. With n1 = 1 only the products are left, from the input straight into the output.

One kernel also computes the composite in which one half of the channels is correlated along
the height and the other along the width: tasks are the columns of one, then of the other, read
and written in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.plan import SplitPlan
from parc_hw.planner import Choice, resolve_plan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import fold_scale, split_tables, start_values
from schedules.cpu import epilogue
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.parc_space import parc_space, tuned_plan
from schedules.cpu.split import Columns, Vector, scratch_rows
from schedules.cpu.traffic import Traffic
from schedules.rule import (
    Composite,
    Context,
    Node,
    NotApplicable,
    Ref,
    Scheduled,
    Tuned,
    choose,
)
from schedules.tir import Emitter
from schedules.tuning.space import Space

__all__ = ["parc", "parc_twice"]

NAME = "parc"
MOST_BETWEEN_BYTES = 128 * 2**10


def parc(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Correlate every channel with its own kernel, along one axis or half along each.

    Parameters
    ----------
    composite : Composite
        `relax.parc` in NHWC with constant kernel (C, N), position embedding and bias; or two of
        them on slices of the channels of one input, joined by `relax.concat` again; then the
        epilogue.
    context : Context
        Its plan is resolved for each of them; the device gives vector width and registers.
    """
    parts = _parts(composite, context)
    if isinstance(parts, str):
        return NotApplicable(NAME, parts)
    anchor = max(part.last for part in parts)
    tail = epilogue.parse(composite, anchor)
    if isinstance(tail, str):
        return NotApplicable(NAME, tail)
    space = _space(NAME, parts, composite, context)
    tuned = choose(composite, context, space)
    if tuned.choice != space.default:
        parts = [part.tuned(tuned, several=len(parts) > 1) for part in parts]

    e = Emitter(context.device)
    (source,) = {part.input for part in parts}
    shape, result = composite.inputs[source], composite.shape
    x = e.parameter("x", math.prod(shape))
    inputs = tail.declare_inputs(e, composite)
    constants: list[NDArray[np.float32]] = []
    buffers = []
    for part in parts:
        part_constants = part.constants(tail)
        buffers.append(
            [
                e.parameter(n, c.size)
                for n, c in zip(("table", "start"), part_constants, strict=True)
            ]
        )
        constants.extend(part_constants)
    operands = epilogue.Operands(inputs, tail.declare_constants(e))
    y = e.parameter("y", math.prod(result))

    def column(part: _Part, number: Any, line: _Line, blocks: _Blocks) -> None:
        """These channels of `part` in its column `number`."""
        pixel, following = part.first_pixel(e, number), None
        if part.traffic.fetches or part.traffic.near:
            after = e.bind(e.minimum(number + 1, part.columns - 1), "after")
            following = part.first_pixel(e, after)

        def ends(buffer: Any, channels: int, first: int) -> _Map:
            return _Map(
                buffer=buffer,
                at=e.bind(pixel * channels + first, "line"),
                following=None
                if following is None
                else e.bind(following * channels + first, "following"),
                step=part.across * channels,
            )

        source, target = ends(x, shape[-1], part.begin), ends(y, result[-1], part.target)

        def last(value: Any, at: Any, channel: Any) -> Any:
            return tail.apply(e, value, at=at, channel=channel + part.target, operands=operands)

        line.compute(source, target, blocks=blocks, last=last)

    def compute(part: _Part, task: Any, line: _Line) -> None:
        """One of the tasks of `part`."""
        together = part.traffic.vectors
        if not part.traffic.by_blocks:
            column(part, task, line, _Blocks(0, part.blocks.count))
            return
        block = e.bind(task // part.columns * together, "block")
        number = e.bind(task % part.columns, "column")
        column(part, number, line, _Blocks(block, together))

    with e.parallel(sum(part.tasks for part in parts)) as task:
        rows = _scratch(e, parts)
        before = 0
        for part, (table, start) in zip(parts, buffers, strict=True):
            line = _Line(e, part, table, start, rows)
            if len(parts) == 1:
                compute(part, task, line)
                break
            inside = task < part.tasks if before == 0 else task >= before
            with e.when(inside):
                compute(part, e.bind(task - before, "own"), line)
            before += part.tasks

    return Scheduled(
        func=e.finish(),
        inputs=(source, *tail.inputs),
        constants=(*constants, *tail.constants),
        rule=NAME,
        note="; ".join(part.note for part in parts),
        macs=sum(part.spec.macs for part in parts),
        space=space,
        tuned=tuned,
    )


def parc_twice(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Correlate every channel along one axis and the result along the other, or the same.

    A task takes a block of channels of one image through both, so that the map between stays in
    scratch memory. Lowering forms no such composite; it serves single operators.

    Parameters
    ----------
    composite : Composite
        Two `relax.parc` in NHWC with constant kernels (C, N), one of the result of the other.
    context : Context
        Its plan is resolved for each of them.
    """
    name = "parc_twice"
    ops = [node.op for node in composite.nodes]
    if ops != ["relax.parc", "relax.parc"] or composite.nodes[1].args[0] != Ref("node", 0):
        return NotApplicable(name, f"{composite.name} is not a parc of the result of a parc")
    parts = []
    for index in range(2):
        found = _part(composite, context, index, begin=0, target=0, last=index)
        if isinstance(found, str):
            return NotApplicable(name, found)
        parts.append(found)
    batch, height, width, channels = composite.shape
    blocks = parts[0].blocks
    together = _blocks_together(blocks, height * width)
    grains = [n for n in range(1, min(blocks.count, 8) + 1) if blocks.count % n == 0]
    space = _space(name, parts, composite, context, grains=grains, grain=together)
    tuned = choose(composite, context, space)
    if tuned.choice != space.default:
        parts = [part.tuned(tuned, several=True) for part in parts]
        blocks, together = parts[0].blocks, tuned.choice["grain"]
    pixel = together * blocks.lanes  # elements of the map between, per pixel
    parts = [part.in_groups_of(together) for part in parts]

    e = Emitter(context.device)
    x = e.parameter("x", math.prod(composite.shape))
    identity = epilogue.parse(Composite(inputs=composite.inputs, nodes=composite.nodes[1:]))
    assert isinstance(identity, epilogue.Epilogue)
    constants = [part.constants(identity) for part in parts]
    buffers = [
        (e.parameter("table", table.size), e.parameter("start", start.size))
        for table, start in constants
    ]
    y = e.parameter("y", math.prod(composite.shape))

    with e.parallel(batch * (blocks.count // together)) as task:
        rows = _scratch(e, parts)
        between = e.scratch("between", height * width * pixel)
        block = e.bind(task % (blocks.count // together) * together, "block")
        image = e.bind(task // (blocks.count // together) * (height * width * channels), "image")
        for number, part in enumerate(parts):
            line = _Line(e, part, *buffers[number], rows)
            along_h = part.spec.axis is Axis.H
            step, other = (width, 1) if along_h else (1, width)  # pixels to next point and line
            lines = width if along_h else height
            with e.loop(lines, name="line") as i:
                after = e.bind(e.minimum(i + 1, lines - 1), "after")
                outer = _Map(
                    buffer=x if number == 0 else y,
                    at=e.bind(image + i * (other * channels), "line"),
                    following=(
                        e.bind(image + after * (other * channels), "following")
                        if part.traffic.fetches or part.traffic.near
                        else None
                    ),
                    step=step * channels,
                )
                inner = _Map(
                    buffer=between,
                    at=e.bind(i * (other * pixel), "line"),
                    step=step * pixel,
                    packed=True,
                )
                ends = (outer, inner) if number == 0 else (inner, outer)
                line.compute(*ends, blocks=_Blocks(block, together))
    return Scheduled(
        func=e.finish(),
        inputs=(0,),
        constants=tuple(c for pair in constants for c in pair),
        rule=name,
        note="; ".join(part.note for part in parts),
        macs=sum(part.spec.macs for part in parts),
        space=space,
        tuned=tuned,
    )


def _space(
    name: str,
    parts: list[_Part],
    composite: Composite,
    context: Context,
    *,
    grains: Sequence[int] = (),
    grain: int = 1,
) -> Space:
    """What may be chosen about these correlations; all of them move their maps alike."""
    several = len(parts) > 1
    lanes = context.device.lanes()
    sides = [n for part in parts for n in (part.spec.channels, part.target, composite.shape[-1])]
    first = parts[0].traffic
    vectors = min(part.traffic.vectors for part in parts)
    return parc_space(
        name,
        context.device,
        plans={part.plan_name(several=several): part.choice for part in parts},
        fixed=context.plan != "auto",
        neighbours=[part.spec.channels for part in parts],
        default=replace(first, vectors=vectors),
        spaced=True,
        may_stream=all(side % lanes == 0 for side in sides),
        grains=grains,
        grain=grain,
    )


def _blocks_together(blocks: ChannelBlocks, pixels: int) -> int:
    """How many blocks of channels a task of `parc_twice` takes, a divisor of all.

    Two, which are neighbouring cache lines on AVX-512, where the map between stays small enough to
    come back from the nearer caches; more gained nothing at 14 and 28 and lost at 56 points.
    """
    small = 2 * blocks.lanes * pixels * 4 <= MOST_BETWEEN_BYTES
    return 2 if small and blocks.count % 2 == 0 else 1


# ---------------------------------------------------------------- how a line is computed


def _scratch(e: Emitter, parts: list[_Part]) -> list[Any]:
    """Buffers for the rows of the split form, large enough for every part."""
    needed = max(scratch_rows(part.plan, e.device, part.products) for part in parts)
    size = max(part.plan.length * part.blocks.lanes * part.traffic.vectors for part in parts)
    return [e.scratch(name, size) for name in ("rows", "products")[:needed]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Map:
    """Where the points of a line lie: channel 0 of the first one, and of the line after it.

    The line after it is given where points are fetched ahead.
    `packed`: not all channels of a pixel lie there, but the blocks of a task, side by side.
    """

    buffer: Any
    at: Any
    step: int  # elements from point to point
    following: Any = None
    packed: bool = False


@dataclass(frozen=True, slots=True)
class _Blocks:
    """`count` blocks of channels from number `first` on."""

    first: Any
    count: int


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of points, all its channels or some blocks of them, correlated from map to map."""

    e: Emitter
    part: _Part
    table: Any
    start: Any
    rows: list[Any]

    def compute(
        self,
        source: _Map,
        target: _Map,
        *,
        blocks: _Blocks,
        last: Callable[[Any, Any, Any], Any] | None = None,
    ) -> None:
        """Correlate these blocks.

        last(value, at, channel) is stored at element `at` of the target.
        """
        e, part = self.e, self.part
        traffic, cover = part.traffic, part.blocks
        lanes, length = cover.lanes, part.plan.length
        together = traffic.vectors
        streams = traffic.streams and not target.packed

        def put(store: Any, at: Any, channel: Any, value: Any) -> None:
            at = e.bind(at, "place")
            store(target.buffer, at, value if last is None else last(value, at, channel))

        with e.loop(blocks.count // together, name="group") as group:

            def vector(k: Any) -> Vector:
                """Block k of the group."""
                number = e.bind(group * together + k, "number")
                index = e.bind(blocks.first + number, "block")
                channel = e.bind(cover.start(e, index), "channel")

                def offset(points: _Map) -> Any:
                    return number * lanes if points.packed else channel

                read = e.bind(source.at + offset(source), "read")
                write = e.bind(target.at + offset(target), "write")
                weights = e.bind(index * (part.table_size * lanes), "weights")
                starts = e.bind(index * (length * lanes), "starts")

                def fetches(points: _Map, *, write: bool) -> Callable[[Any], None] | None:
                    """Ask for point i of the line after this one, or of the vector after this one."""
                    if points.following is None:
                        return None
                    asked = []
                    if traffic.fetches:
                        asked.append(e.bind(points.following + channel, "ahead"))
                    if traffic.near:
                        after = number + together
                        turned = e.bind(after // blocks.count, "turned")  # 1: on the line after
                        next_one = e.bind(blocks.first + after % blocks.count, "next")
                        line = points.at + turned * (points.following - points.at)
                        asked.append(e.bind(line + cover.start(e, next_one), "ahead"))

                    def fetch(i: Any) -> None:
                        for at in asked:
                            e.fetch(points.buffer, at + i * points.step, write=write)

                    return fetch

                return Vector(
                    load=lambda i: e.load(source.buffer, read + i * source.step, lanes),
                    finish=lambda i, v: put(e.store, write + i * target.step, channel, v),
                    weight=lambda i: e.load(self.table, weights + i * lanes, lanes),
                    start=lambda i: e.load(self.start, starts + i * lanes, lanes),
                    stream=lambda i, v: put(e.stream, write + i * target.step, channel, v),
                    fetch=fetches(source, write=False),
                    fetch_result=fetches(target, write=True),
                )

            Columns(
                e=e,
                plan=part.plan,
                lanes=lanes,
                vector=vector,
                rows=self.rows,
                count=together,
                streams=e.is_aligned(target.buffer, 4 * lanes) if streams else None,
                products=part.products,
            ).compute()


# ---------------------------------------------------------------- what is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One correlation: channels `begin` on of composite input `input`, to `target` on of the result."""

    spec: ParcSpec
    choice: Choice
    blocks: ChannelBlocks
    input: int
    begin: int
    target: int
    last: int  # the node that makes its result part of the composite's
    traffic: Traffic
    weight: NDArray[Any]
    position_embedding: NDArray[Any]
    bias: NDArray[Any]
    products: str = "auto"  # of `split.PRODUCTS`

    def plan_name(self, *, several: bool) -> str:
        """Of the dimension that chooses its plan."""
        return f"plan_{self.spec.axis.value}" if several else "plan"

    def tuned(self, tuned: Tuned, *, several: bool) -> _Part:
        """The same as a tuner's choice has it."""
        choice = tuned.choice
        return replace(
            self,
            choice=tuned_plan(choice, self.plan_name(several=several), self.choice),
            blocks=ChannelBlocks.cover(self.spec.channels, choice["lanes"]),
            traffic=replace(
                self.traffic,
                vectors=choice["vectors"],
                near=choice["near"],
                fetches=choice["fetch"],
                streams=choice.get("stream", False),
            ),
            products=choice["products"],
        )

    @property
    def plan(self) -> SplitPlan:
        """How the numbers are computed."""
        return self.choice.plan

    @property
    def columns(self) -> int:
        """Lines of the correlated axis in all images."""
        return self.spec.lines

    @property
    def tasks(self) -> int:
        """Columns with all their channels, or with one group of blocks each."""
        groups = self.blocks.count // self.traffic.vectors if self.traffic.by_blocks else 1
        return self.columns * groups

    @property
    def across(self) -> int:
        """Pixels from one point of a column to the next."""
        return self.spec.width if self.spec.axis is Axis.H else 1

    def first_pixel(self, e: Emitter, number: Any) -> Any:
        """The pixel of the first point of column `number`, counted through all images."""
        if self.spec.axis is Axis.W:
            return e.bind(number * self.plan.length, "pixel")
        image = e.bind(number // self.across, "image")
        return e.bind(image * (self.plan.length * self.across) + number % self.across, "pixel")

    def in_groups_of(self, blocks: int) -> _Part:
        """The same for tasks of so many blocks of channels."""
        vectors = math.gcd(self.traffic.vectors, blocks)
        return replace(self, traffic=replace(self.traffic, vectors=vectors))

    @property
    def table_size(self) -> int:
        """Vectors of weights of one block of channels."""
        return self.plan.n1 * (2 * self.plan.n2 - 1)

    @property
    def note(self) -> str:
        """One line for people."""
        return f"along {self.spec.axis.value}: {self.choice.reason}"

    def constants(self, tail: epilogue.Epilogue) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Packed weights and start values, the epilogue's scale and shift included."""
        here = slice(self.target, self.target + self.spec.channels)
        weight, bias = fold_scale(self.weight, self.bias, tail.scale[here], tail.shift[here])
        start = start_values(weight, self.position_embedding, bias, self.plan)
        return self.blocks.pack(split_tables(weight, self.plan)), self.blocks.pack(start)


def _parts(composite: Composite, context: Context) -> list[_Part] | str:
    """The correlations of the composite, or why it is not one of those this rule knows."""
    nodes = composite.nodes
    if nodes[0].op == "relax.parc":
        found = _part(composite, context, 0, begin=0, target=0, last=0)
        return found if isinstance(found, str) else [found]
    join = next((i for i, n in enumerate(nodes) if n.op == "relax.concat"), None)
    if join is None:
        return f"the anchor is {nodes[0].op}, not relax.parc or a join of two"
    if nodes[join].attrs.get("axis") not in (3, -1):
        return f"the parts are joined along axis {nodes[join].attrs.get('axis')}, not channels"
    parts: list[_Part] = []
    target = 0
    for branch in nodes[join].args[0]:
        if not (
            isinstance(branch, Ref)
            and branch.kind == "node"
            and nodes[branch.index].op == "relax.parc"
        ):
            return "a joined part is not relax.parc"
        x = nodes[branch.index].args[0]
        if not (
            isinstance(x, Ref) and x.kind == "node" and nodes[x.index].op == "relax.strided_slice"
        ):
            return "a joined relax.parc does not read a slice"
        begin = _channel_slice(nodes[x.index])
        if isinstance(begin, str):
            return begin
        found = _part(composite, context, branch.index, begin=begin, target=target, last=join)
        if isinstance(found, str):
            return found
        parts.append(found)
        target += found.spec.channels
    if len(parts) != 2:
        return f"{len(parts)} parts are joined; accepted are two"
    if parts[0].input != parts[1].input:
        return "the joined parts read different inputs"
    if join != 4 or {n.op for n in nodes[:join]} != {"relax.parc", "relax.strided_slice"}:
        return f"{composite.name} has more nodes before the join than slices and correlations"
    return parts


def _part(
    composite: Composite, context: Context, index: int, *, begin: int, target: int, last: int
) -> _Part | str:
    """Node `index`, a `relax.parc`, as a part."""
    node = composite.nodes[index]
    x, weight, position_embedding, bias = node.args
    if not all(isinstance(a, np.ndarray) for a in (weight, position_embedding, bias)):
        return "kernel, position embedding or bias is computed at run time"
    if weight.ndim == 3:
        return f"dense kernel of shape {weight.shape}"
    if node.attrs.get("layout") != "NHWC":
        return f"layout is {node.attrs.get('layout')}; accepted is NHWC"
    if x.kind == "node":
        x = composite.nodes[x.index].args[0]
    if not (isinstance(x, Ref) and x.kind == "input"):
        return "the correlated tensor is not an input of the composite"
    batch, height, width, channels = node.shape
    spec = ParcSpec(
        axis=Axis(node.attrs["axis"]),
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        position_embedding=bool(np.any(position_embedding)),
        bias=bool(np.any(bias)),
    )
    choice = resolve_plan(context.plan, spec, context.device)
    blocks = ChannelBlocks.cover(channels, context.device.lanes())
    sides = (channels, target, composite.shape[-1])
    traffic = Traffic.of_pixels(
        context.device,
        elements=math.prod(composite.shape),
        vectors=blocks.count,
        channels=composite.shape[-1],
        lanes=blocks.lanes,
        whole_lines=all(side % blocks.lanes == 0 for side in sides),
        plan=choice.plan,
        step=width if spec.axis is Axis.H else 1,
    )
    return _Part(
        spec=spec,
        choice=choice,
        blocks=blocks,
        traffic=traffic,
        input=x.index,
        begin=begin,
        target=target,
        last=last,
        weight=weight,
        position_embedding=position_embedding,
        bias=bias,
    )


def _channel_slice(node: Node) -> int | str:
    """First channel of a `relax.strided_slice` of neighbouring channels of an input."""
    given = {k: tuple(node.attrs.get(k) or ()) for k in ("axes", "begin", "strides")}
    if given["axes"] not in ((3,), (-1,)) or given["strides"] not in ((), (1,)):
        return f"a slice with axes {given['axes']} and strides {given['strides']}, not of channels"
    return int(given["begin"][0])
