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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.dataflow import (
    Add,
    Dag,
    Define,
    Fma,
    Input,
    Mul,
    Store,
    Sub,
    fuse,
    order,
    real_dft,
    transpose,
)
from parc_hw.device import Device
from parc_hw.plan import SplitPlan
from parc_hw.planner import Choice, outputs_at_once, resolve_plan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import complex_rows, fold_scale, split_tables, start_values
from schedules.cpu import epilogue
from schedules.cpu.channels import ChannelBlocks
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Scheduled
from schedules.tir import Emitter, has_fma

__all__ = ["parc"]

NAME = "parc"

MAX_TERMS = 256  # multiply-adds of one product that are written out; more are loops


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

            _Column(
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
        needed = max(part.scratch(context.device) for part in parts)
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

    def scratch(self, device: Device) -> int:
        """Buffers of a column that are needed: none, the rows, or the rows and the products."""
        if self.plan.n1 == 1:
            return 0
        pair = len(complex_rows(self.plan.n1)) > 0
        return 1 if _written_out(self.plan.n2, device, pair=pair) else 2


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


# ---------------------------------------------------------------- how a column is computed


def _written_out(n2: int, device: Device, *, pair: bool) -> bool:
    """Whether a Toeplitz product is straight-line code with all its inputs in registers."""
    terms = (4 if pair else 1) * n2 * n2
    return terms <= MAX_TERMS and outputs_at_once(n2, device, pair=pair) == n2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """The three stages for `lanes` channels of one column; indices count vectors.

    load(i) is point i of the column, finish(i, v) takes point i of the result, weight(i) and
    start(i) are entries of the tables; `rows` are buffers of as many vectors as points: one for
    what the transform gives, a second one where the products cannot replace their inputs.
    """

    e: Emitter
    plan: SplitPlan
    lanes: int
    load: Callable[[Any], Any]
    finish: Callable[[Any, Any], None]
    weight: Callable[[Any], Any]
    start: Callable[[Any], Any]
    rows: list[Any]

    def compute(self) -> None:
        """Emit all stages."""
        n1, n2 = self.plan.n1, self.plan.n2
        if n1 == 1:
            self._products((0,), [self.load], [self.finish])
            return
        forward = real_dft(n1)
        self._transform(forward, lambda j, m: self.load(m + j * n2), self._put_row(self.rows[0]))
        pairs = complex_rows(n1)
        target = self.rows[-1]
        for row in (0, n1 - 1) if n1 % 2 == 0 else (0,):
            self._products((row,), *self._of_rows((row,), target))
        if pairs:
            with self.e.loop(len(pairs), name="pair") as k:
                row = self.e.bind(k * 2 + 1, "row")
                both = (row, row + 1)
                self._products(both, *self._of_rows(both, target))
        self._transform(
            transpose(forward), self._get_row(target), lambda j, m, v: self.finish(m + j * n2, v)
        )

    def _get_row(self, buffer: Any) -> Callable[[Any, Any], Any]:
        n2, lanes = self.plan.n2, self.lanes
        return lambda r, m: self.e.load(buffer, (m + r * n2) * lanes, lanes)

    def _put_row(self, buffer: Any) -> Callable[[Any, Any, Any], None]:
        n2, lanes = self.plan.n2, self.lanes
        return lambda r, m, v: self.e.store(buffer, (m + r * n2) * lanes, v)

    def _of_rows(self, rows: tuple[Any, ...], target: Any) -> tuple[list[Any], list[Any]]:
        """How the products of `rows` read their inputs and write their results."""
        get, put = self._get_row(self.rows[0]), self._put_row(target)
        reads = [lambda q, r=r: get(r, q) for r in rows]
        writes = [lambda m, v, r=r: put(r, m, v) for r in rows]
        return reads, writes

    def _transform(
        self, dag: Dag, get: Callable[[int, Any], Any], put: Callable[[int, Any, Any], None]
    ) -> None:
        """Print a graph for every m < n2: input k is get(k, m), output k goes to put(k, m, value)."""
        e = self.e
        steps = order(fuse(dag) if has_fma(e.device) else dag)
        with e.loop(self.plan.n2, name="m") as m:
            values: dict[int, Any] = {}
            for step in steps:
                match step:
                    case Define(v, Input(k)):
                        values[v] = e.bind(get(k, m))
                    case Define(v, Add(a, b)):
                        values[v] = e.bind(values[a] + values[b])
                    case Define(v, Sub(a, b)):
                        values[v] = e.bind(values[a] - values[b])
                    case Define(v, Mul(c, a)):
                        values[v] = e.bind(values[a] * e.like(c, values[a]))
                    case Define(v, Fma(c, a, b)):
                        values[v] = e.bind(e.fma(c, values[a], values[b]))
                    case Store(k, v):
                        put(k, m, values[v])

    def _products(
        self,
        rows: tuple[Any, ...],
        reads: list[Callable[[Any], Any]],
        writes: list[Callable[[Any, Any], None]],
    ) -> None:
        """The Toeplitz products of one real row or of a complex pair of rows."""
        if _written_out(self.plan.n2, self.e.device, pair=len(rows) == 2):
            self._written_products(rows, reads, writes)
        else:
            self._looped_products(rows, reads, writes)

    def _written_products(self, rows: tuple[Any, ...], reads: list[Any], writes: list[Any]) -> None:
        """All inputs in registers; every weight is loaded once and used for its whole diagonal."""
        e, n2 = self.e, self.plan.n2
        inputs = [[e.bind(read(q)) for q in range(n2)] for read in reads]
        sums = [[e.bind(self.start(row * n2 + m)) for m in range(n2)] for row in rows]
        # d = m - q downwards: every sum takes its inputs in order, as a loop over q does
        for d in range(n2 - 1, -n2, -1):
            weights = [e.bind(self._weight(row, d + n2 - 1)) for row in rows]
            for terms in self._terms(weights):  # one sum's two terms apart: the second must wait
                for m in range(max(0, d), n2 + min(0, d)):
                    for total, (weight, which) in zip(sums, terms, strict=True):
                        total[m] = e.bind(e.fma(weight, inputs[which][m - d], total[m]))
        for total, write in zip(sums, writes, strict=True):
            for m in range(n2):
                write(m, total[m])

    def _looped_products(self, rows: tuple[Any, ...], reads: list[Any], writes: list[Any]) -> None:
        """A loop over the inputs for every group of sums."""
        e, n2 = self.e, self.plan.n2
        most = outputs_at_once(n2, e.device, pair=len(rows) == 2)
        group = -(-n2 // -(-n2 // most))  # as few groups, all nearly of the same size

        def some(low: Any, count: int) -> None:
            sums = [
                [e.accumulator(self.lanes, self.start(row * n2 + low + m)) for m in range(count)]
                for row in rows
            ]
            with e.loop(n2, name="q") as q:
                inputs = [e.bind(read(q)) for read in reads]
                for m in range(count):
                    weights = [e.bind(self._weight(row, low - q + m + n2 - 1)) for row in rows]
                    for terms in self._terms(weights):
                        for total, (weight, which) in zip(sums, terms, strict=True):
                            total[m].add_product(weight, inputs[which])
            for total, write in zip(sums, writes, strict=True):
                for m in range(count):
                    write(low + m, total[m].get())

        whole = n2 // group
        with e.loop(whole, name="group") as number:
            some(e.bind(number * group, "low"), group)
        if n2 % group:
            some(whole * group, n2 % group)

    def _weight(self, row: Any, d: Any) -> Any:
        return self.weight(row * (2 * self.plan.n2 - 1) + d)

    def _terms(self, weights: list[Any]) -> list[list[tuple[Any, int]]]:
        """What is added to the sums, in order: per sum a weight and which input it multiplies.

        One sum of real rows; for a pair the complex product (tr + i ti)(u + i v).
        """
        if len(weights) == 1:
            return [[(weights[0], 0)]]
        re, im = weights
        minus = im * self.e.like(-1.0, im)  # becomes part of a multiply-subtract
        return [[(re, 0), (re, 1)], [(minus, 1), (im, 0)]]
