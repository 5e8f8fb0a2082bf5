"""Which kernel computes a depthwise ParC in NCHW?

A task is the plane of one channel of one image; or, where neighbouring channels are turned along the
vector (`schedules.cpu.planes`), as many planes as a vector has lanes, or a chunk of their rows where
nothing but that is done with them.

A composite is one `relax.parc`; two of them in a row (the plane between stays in scratch memory);
or two on slices of the channels, joined again. Models are compiled in NHWC, so that no
rule of `RULES` needs this: it serves single operators on arrays in torch's layout.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import Device
from parc_hw.planner import resolve_plan
from parc_hw.spec import Axis, ParcSpec
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.parc_space import parc_space, tuned_plan
from schedules.cpu.planes import Along, Lines, Map, Part, Room
from schedules.cpu.traffic import Traffic
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled, choose
from schedules.tir import Buffer, Emitter, Value
from schedules.tuning.space import Choice, Dimension, Space

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
    space = _space(parts, context)
    tuned = choose(composite, context, space)
    if tuned.choice != space.default:
        parts = [_tuned(part, tuned.choice, several=len(parts) > 1) for part in parts]
    batch, channels, height, width = composite.inputs[0]
    plane = height * width
    e = Emitter(context.device)
    x = e.parameter("x", math.prod(composite.inputs[0]))
    constants: list[NDArray[np.float32]] = []
    buffers: list[tuple[Buffer, Buffer]] = []
    for part in parts:
        table, start = part.constants()
        buffers.append((e.parameter("table", table.size), e.parameter("start", start.size)))
        constants += [table, start]
    y = e.parameter("y", math.prod(composite.shape))

    twice = len(parts) == 2 and parts[0].channels == channels  # one after the other
    together = max(part.together for part in parts)
    blocks = ChannelBlocks(channels, together)
    counts = [-(-part.channels // together) for part in parts[: 1 if twice else 2]]
    chunks = parts[0].chunks.count if len(parts) == 1 and together > 1 else 1
    with e.parallel(batch * sum(counts) * chunks) as task:
        room = Room.of(e, parts)
        number = e.bind(task // chunks % sum(counts), "number")
        image = e.bind(task // (chunks * sum(counts)) * (channels * plane), "image")
        last = (batch * channels - 1) * plane
        lines = [
            Lines(e, part, table, start, room)
            for part, (table, start) in zip(parts, buffers, strict=True)
        ]
        if twice:
            first = e.bind(blocks.start(e, number), "first")
            at = e.bind(image + first * plane, "at")
            between = Map(e.scratch("between", together * plane), 0)
            lines[0].correlate(number, first, together, Map(x, at, last), between)
            lines[1].correlate(number, first, together, between, Map(y, at, last))
        elif len(parts) == 1:
            chunk = e.bind(task % chunks, "chunk") if chunks > 1 else None
            first = e.bind(blocks.start(e, number), "first")
            at = e.bind(image + first * plane, "at")
            source, target = Map(x, at, last), Map(y, at, last)
            lines[0].correlate(number, first, together, source, target, chunk)
        else:
            middle = counts[0]
            with e.when(number < middle):
                _share(lines[0], number, together, Map(x, image, last), Map(y, image, last))
            with e.when(number >= middle):
                begin = e.bind(image + parts[0].channels * plane, "begin")
                block = e.bind(number - middle, "block")
                _share(lines[1], block, together, Map(x, begin, last), Map(y, begin, last))

    return Scheduled(
        func=e.finish(),
        inputs=(0,),
        constants=tuple(constants),
        rule=NAME,
        note="; ".join(f"along {part.spec.axis.value}: {part.choice.reason}" for part in parts),
        macs=sum(part.spec.macs for part in parts),
        space=space,
        tuned=tuned,
    )


def _space(parts: list[Part], context: Context) -> Space:
    """What may be chosen about these correlations."""
    several, lanes = len(parts) > 1, context.device.lanes()
    columns = [part for part in parts if part.along is Along.COLUMNS]
    turned = [part for part in parts if part.along is not Along.COLUMNS]
    more: list[Dimension] = []
    chosen: dict[str, str] = {}
    if turned:
        options = [Along.ROWS, Along.CHANNELS]
        if any(part.spec.channels < lanes for part in turned):
            options = [part.along for part in turned[:1]]
        values = tuple(along.value for along in options)
        more.append(Dimension("along", values, "what is turned along the vector"))
        chosen["along"] = turned[0].along.value
    return parc_space(
        NAME,
        context.device,
        plans={_plan_name(part, several=several): part.choice for part in parts},
        fixed=context.plan != "auto",
        neighbours=[_extent(part.spec, part.along) for part in parts],
        moved=[part.spec.width for part in columns],
        default=columns[0].traffic if columns else Traffic(),
        may_stream=all(part.spec.width % lanes == 0 for part in columns),
        more=more,
        more_default=chosen,
    )


def _plan_name(part: Part, *, several: bool) -> str:
    """Of the dimension that chooses a part's plan."""
    return f"plan_{part.spec.axis.value}" if several else "plan"


def _extent(spec: ParcSpec, along: Along) -> int:
    """How many values lie along the vectors."""
    sizes = {Along.COLUMNS: spec.width, Along.ROWS: spec.height, Along.CHANNELS: spec.channels}
    return sizes[along]


def _tuned(part: Part, choice: Choice, *, several: bool) -> Part:
    """The part as a tuner's choice has it."""
    columns = part.along is Along.COLUMNS
    along = part.along if columns else Along(choice["along"])
    traffic = Traffic(
        vectors=choice["vectors"], fetches=choice["fetch"], streams=choice.get("stream", False)
    )
    return dataclasses.replace(
        part,
        choice=tuned_plan(choice, _plan_name(part, several=several), part.choice),
        along=along,
        lines=ChannelBlocks.cover(_extent(part.spec, along), choice["lanes"]),
        traffic=traffic if columns else Traffic(),
        products=choice["products"],
    )


def _share(lines: Lines, block: Value, together: int, source: Map, target: Map) -> None:
    """Block `block` of `together` channels of one part, whose channels begin where the maps do."""
    e, part = lines.e, lines.part
    plane = part.spec.height * part.spec.width
    if part.along is Along.CHANNELS:
        first, count = e.bind(part.lines.start(e, block), "first"), together
    else:
        first = e.bind(block * together, "first")
        count = e.minimum(part.channels - first, together) if together > 1 else 1
    lines.correlate(block, first, count, source.skip(first * plane), target.skip(first * plane))


def _parts(composite: Composite, context: Context) -> list[Part] | str:
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
        along = _along(spec, device, twice=len(ops) == 2)
        lines = ChannelBlocks.cover(_extent(spec, along), device.lanes())
        traffic = Traffic()  # what is turned goes along memory as it is
        if along is Along.COLUMNS:
            traffic = Traffic.of(
                device,
                elements=math.prod(composite.shape),
                vectors=lines.count,
                length=spec.length,
                lanes=lines.lanes,
                whole_lines=width % lines.lanes == 0,
            )
            if traffic.fetches and _stays(spec):
                traffic = Traffic(fetches=True)
        parts.append(
            Part(
                spec=spec,
                choice=resolve_plan(context.plan, spec, device, "NCHW"),
                along=along,
                lines=lines,
                traffic=traffic,
                weight=weight,
                position_embedding=position_embedding,
                bias=bias,
            )
        )
    return parts


def _stays(spec: ParcSpec) -> bool:
    """Whether the lines of a column, of input and output, stay in the L1 cache from stage to stage.

    Then one vector at a time is faster than neighbours together, which only begin to pay where a
    cache line would be fetched for each of them anew. For 96 channels on one core with AVX-512,
    ms together and alone: 56 x 56 .149 and .112, 50 x 84 .178 and .159, 80 x 80 .267 and .227,
    112 x 112 .76 and .55, 100 x 168 .84 and .76; but 64 x 64 .147 and .158, 128 x 128 1.07 and 1.73,
    224 x 224 3.7 and 4.7.
    """
    sets = SETS_BYTES // math.gcd(4 * spec.width, SETS_BYTES)
    ways = 2 * spec.height / min(sets, SETS_BYTES // LINE_BYTES)
    return ways < WAYS


def _along(spec: ParcSpec, device: Device, *, twice: bool) -> Along:
    """What becomes the lanes of a vector."""
    lanes, plane = device.lanes(), 4 * spec.height * spec.width
    if spec.axis is Axis.H:
        return Along.COLUMNS
    if spec.channels < lanes or (twice and lanes * plane > MOST_BETWEEN_BYTES):
        return Along.ROWS
    # planes that begin so far apart have all their lines in the same sets of the L1 cache
    crowded = plane % SETS_BYTES == 0 and spec.height % lanes == 0
    return Along.ROWS if crowded else Along.CHANNELS


LINE_BYTES = 64
SETS_BYTES = 64 * LINE_BYTES  # addresses that far apart share a set of the L1 cache
WAYS = 8  # lines in a set, of the twelve of newer processors
MOST_BETWEEN_BYTES = 256 * 2**10  # planes of a vector's channels: a part of the L2 cache
