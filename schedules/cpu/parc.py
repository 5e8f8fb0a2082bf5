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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.plan import SplitPlan
from parc_hw.planner import Choice, resolve_plan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import fold_scale, split_tables, start_values
from schedules.cpu import epilogue
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.split import Column, scratch_rows
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Scheduled
from schedules.tir import Emitter

__all__ = ["parc", "parc_twice"]

NAME = "parc"


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

    def column(part: _Part, number: Any, table: Any, start: Any, rows: list[Any]) -> None:
        """All channels of `part` in its column `number`."""
        lanes, length = part.blocks.lanes, part.plan.length
        across = part.spec.width if part.spec.axis is Axis.H else 1
        if part.spec.axis is Axis.H:
            image = e.bind(number // across, "image")
            pixel = e.bind(image * (length * across) + number % across, "pixel")
        else:
            pixel = e.bind(number * length, "pixel")
        with e.loop(part.blocks.count, name="block") as block:
            first = e.bind(part.blocks.start(e, block), "first")
            read = e.bind(pixel * shape[-1] + part.begin + first, "read")
            write = e.bind(pixel * result[-1] + part.target + first, "write")
            channel = e.bind(part.target + first, "channel")
            weights = e.bind(block * (part.table_size * lanes), "weights")
            starts = e.bind(block * (length * lanes), "starts")

            def finish(i: Any, value: Any) -> None:
                place = e.bind(write + i * (across * result[-1]), "place")
                done = tail.apply(e, value, at=place, channel=channel, operands=operands)
                e.store(y, place, done)

            Column(
                e=e,
                plan=part.plan,
                lanes=lanes,
                load=lambda i: e.load(x, read + i * (across * shape[-1]), lanes),
                finish=finish,
                weight=lambda i: e.load(table, weights + i * lanes, lanes),
                start=lambda i: e.load(start, starts + i * lanes, lanes),
                rows=rows,
            ).compute()

    with e.parallel(sum(part.columns for part in parts)) as task:
        needed = max(scratch_rows(part.plan, context.device) for part in parts)
        size = max(part.plan.length * part.blocks.lanes for part in parts)
        rows = [e.scratch(name, size) for name in ("rows", "products")[:needed]]
        before = 0
        for part, (table, start) in zip(parts, buffers, strict=True):
            if len(parts) == 1:
                column(part, task, table, start, rows)
                break
            inside = task < part.columns if before == 0 else task >= before
            with e.when(inside):
                column(part, task - before, table, start, rows)
            before += part.columns

    return Scheduled(
        func=e.finish(),
        inputs=(source, *tail.inputs),
        constants=(*constants, *tail.constants),
        rule=NAME,
        note="; ".join(part.note for part in parts),
        macs=sum(part.spec.macs for part in parts),
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
    lanes = blocks.lanes

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

    def correlate(number: int, source: _Map, target: _Map, block: Any, rows: list[Any]) -> None:
        """All lines of a block of channels, from one map into the other."""
        part, (table, start) = parts[number], buffers[number]
        along_h = part.spec.axis is Axis.H
        step, other = (width, 1) if along_h else (1, width)  # pixels to the next point and line
        weights = e.bind(block * (part.table_size * lanes), "weights")
        starts = e.bind(block * (part.plan.length * lanes), "starts")
        with e.loop(width if along_h else height, name="line") as line:
            read = e.bind(source.at + line * (other * source.pixel), "read")
            write = e.bind(target.at + line * (other * target.pixel), "write")
            Column(
                e=e,
                plan=part.plan,
                lanes=lanes,
                load=lambda i: e.load(source.buffer, read + i * (step * source.pixel), lanes),
                finish=lambda i, v: e.store(target.buffer, write + i * (step * target.pixel), v),
                weight=lambda i: e.load(table, weights + i * lanes, lanes),
                start=lambda i: e.load(start, starts + i * lanes, lanes),
                rows=rows,
            ).compute()

    with e.parallel(batch * blocks.count) as task:
        needed = max(scratch_rows(part.plan, context.device) for part in parts)
        size = max(part.plan.length for part in parts) * lanes
        rows = [e.scratch(n, size) for n in ("rows", "products")[:needed]]
        between = _Map(e.scratch("between", height * width * lanes), 0, lanes)
        block = e.bind(task % blocks.count, "block")
        image = e.bind(task // blocks.count * (height * width * channels), "image")
        at = e.bind(image + blocks.start(e, block), "at")
        correlate(0, _Map(x, at, channels), between, block, rows)
        correlate(1, between, _Map(y, at, channels), block, rows)
    return Scheduled(
        func=e.finish(),
        inputs=(0,),
        constants=tuple(c for pair in constants for c in pair),
        rule=name,
        note="; ".join(part.note for part in parts),
        macs=sum(part.spec.macs for part in parts),
    )


@dataclass(frozen=True, slots=True)
class _Map:
    """A block of channels of an image: its first element, and elements from pixel to pixel."""

    buffer: Any
    at: Any
    pixel: int


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
    weight: NDArray[Any]
    position_embedding: NDArray[Any]
    bias: NDArray[Any]

    @property
    def plan(self) -> SplitPlan:
        """How the numbers are computed."""
        return self.choice.plan

    @property
    def columns(self) -> int:
        """Tasks: lines of the correlated axis in all images."""
        return self.spec.lines

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
    return _Part(
        spec=spec,
        choice=resolve_plan(context.plan, spec, context.device),
        blocks=ChannelBlocks.cover(channels, context.device.lanes()),
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
