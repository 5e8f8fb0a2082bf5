"""How are the three stages of a split plan written for one vector of values?

What `parc_hw.weights` states, as statements of TIR: a real DFT of length n1, Toeplitz products of
length n2, the transposed DFT. The graphs of the transforms come from `parc_hw.dataflow`. Where the
points lie, and whether a weight is a vector or one number for all lanes, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

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
from parc_hw.planner import outputs_at_once
from parc_hw.weights import complex_rows
from schedules.tir import Emitter, has_fma

__all__ = ["PRODUCTS", "Columns", "Vector", "emit_graph", "products_forms", "scratch_rows"]

MAX_TERMS = 256  # multiply-adds of one product that are written out; more are loops
MOST_TERMS = 1024  # of those a tuner may ask for: beyond, LLVM takes many seconds

# How the Toeplitz products are written: as `outputs_at_once` says; straight-line code; or loops over
# the inputs with so many outputs at once. All take the terms of a sum in the same order.
PRODUCTS = ("auto", "written", "1", "2", "3", "4", "6", "8", "10", "12")


def products_forms(plan: SplitPlan, device: Device) -> tuple[str, ...]:
    """Those of `PRODUCTS` that differ for a plan and keep all sums of a loop in registers."""
    pair = len(complex_rows(plan.n1)) > 0
    terms = (4 if pair else 1) * plan.n2 * plan.n2
    if plan.n2 == 1:
        return ("auto",)
    loops = [
        form
        for form in PRODUCTS[2:]
        if int(form) <= plan.n2 and (2 if pair else 1) * int(form) < device.vector_registers
    ]
    written = () if _written_out(plan.n2, device, pair=pair) or terms > MOST_TERMS else ("written",)
    return ("auto", *written, *loops)


def scratch_rows(plan: SplitPlan, device: Device, products: str = "auto") -> int:
    """How many buffers of N vectors `Columns` of one vector need: none, the rows, or rows and products."""
    if plan.n1 == 1:
        return 0
    pair = len(complex_rows(plan.n1)) > 0
    return 1 if _written_out(plan.n2, device, pair=pair, products=products) else 2


def emit_graph(
    e: Emitter, dag: Dag, get: Callable[[int], Any], put: Callable[[int, Any], None]
) -> None:
    """Print a graph once: input k is get(k), output k goes to put(k, value)."""
    values: dict[int, Any] = {}
    for step in order(fuse(dag) if has_fma(e.device) else dag):
        match step:
            case Define(v, Input(k)):
                values[v] = e.bind(get(k))
            case Define(v, Add(a, b)):
                values[v] = e.bind(values[a] + values[b])
            case Define(v, Sub(a, b)):
                values[v] = e.bind(values[a] - values[b])
            case Define(v, Mul(c, a)):
                values[v] = e.bind(values[a] * e.like(c, values[a]))
            case Define(v, Fma(c, a, b)):
                values[v] = e.bind(e.fma(c, values[a], values[b]))
            case Store(k, v):
                put(k, values[v])


def _written_out(n2: int, device: Device, *, pair: bool, products: str = "auto") -> bool:
    """Whether a Toeplitz product is straight-line code, by itself with all its inputs in registers."""
    if products != "auto":
        return products == "written"
    terms = (4 if pair else 1) * n2 * n2
    return terms <= MAX_TERMS and outputs_at_once(n2, device, pair=pair) == n2


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One vector of columns, point by point; indices count vectors.

    load(i) is point i of the columns, finish(i, v) takes point i of the result, weight(i) and
    start(i) are entries of the tables. Where they are given, stream(i, v) takes it instead
    when `Columns.streams` holds, and fetch(i) and fetch_result(i) ask for points that are read and
    written later.
    """

    load: Callable[[Any], Any]
    finish: Callable[[Any, Any], None]
    weight: Callable[[Any], Any]
    start: Callable[[Any], Any]
    stream: Callable[[Any, Any], None] | None = None
    fetch: Callable[[Any], None] | None = None
    fetch_result: Callable[[Any], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The three stages for `count` vectors of columns, all of them through a stage before the next.

    vector(k) gives vector k and is called wherever one is begun, so that what it binds is
    inside the loop over k. `rows` are buffers of `count` times as many vectors as points: one for
    what the transform gives, a second one where the products cannot replace their inputs.
    `streams` is a condition, or None where no vector has `stream`.
    """

    e: Emitter
    plan: SplitPlan
    lanes: int
    vector: Callable[[Any], Vector]
    rows: list[Any]
    count: int = 1
    streams: Any = None
    products: str = "auto"  # of `PRODUCTS`

    def compute(self) -> None:
        """Emit all stages."""
        if self.plan.n1 == 1:
            with self._each() as (_, vector):
                self._products(vector, (0,), [vector.load], [vector.finish])
        elif self.count == 1:
            only = (0, self.vector(0))
            self._stages(lambda: nullcontext(only))
        else:
            self._stages(self._each)

    @contextmanager
    def _each(self) -> Iterator[tuple[Any, Vector]]:
        """The statements inside are for every vector."""
        if self.count == 1:
            yield 0, self.vector(0)
        else:
            with self.e.loop(self.count, name="vector") as k:
                yield k, self.vector(k)

    def _stages(self, each: Callable[[], AbstractContextManager[tuple[Any, Vector]]]) -> None:
        e, n1, n2 = self.e, self.plan.n1, self.plan.n2
        source, target = self.rows[0], self.rows[-1]
        forward = real_dft(n1)
        with e.loop(n2, name="m") as m, each() as (k, vector):
            if vector.fetch:
                for j in range(n1):
                    vector.fetch(m + j * n2)
            put = self._put_row(source, k)
            emit_graph(
                e,
                forward,
                lambda j: vector.load(m + j * n2),
                lambda r, v: put(r, m, v),
            )
        for row in (0, n1 - 1) if n1 % 2 == 0 else (0,):
            with each() as (k, vector):
                self._products(vector, (row,), *self._of_rows((row,), k))
        if pairs := complex_rows(n1):
            with e.loop(len(pairs), name="pair") as pair, each() as (k, vector):
                row = e.bind(pair * 2 + 1, "row")
                both = (row, row + 1)
                self._products(vector, both, *self._of_rows(both, k))
        backward = transpose(forward)

        def back(*, stream: bool) -> None:
            with e.loop(n2, name="m") as m, each() as (k, vector):
                if vector.fetch_result and not stream:
                    for j in range(n1):
                        vector.fetch_result(m + j * n2)
                get = self._get_row(target, k)
                finish = vector.stream if stream else vector.finish
                assert finish is not None
                emit_graph(e, backward, lambda r: get(r, m), lambda j, v: finish(m + j * n2, v))

        if self.streams is None:
            back(stream=False)
        else:
            e.branch(self.streams, partial(back, stream=True), partial(back, stream=False))

    def _get_row(self, buffer: Any, k: Any) -> Callable[[Any, Any], Any]:
        n2, lanes, first = self.plan.n2, self.lanes, k * self.plan.length
        return lambda r, m: self.e.load(buffer, (m + r * n2 + first) * lanes, lanes)

    def _put_row(self, buffer: Any, k: Any) -> Callable[[Any, Any, Any], None]:
        n2, lanes, first = self.plan.n2, self.lanes, k * self.plan.length
        return lambda r, m, v: self.e.store(buffer, (m + r * n2 + first) * lanes, v)

    def _of_rows(self, rows: tuple[Any, ...], k: Any) -> tuple[list[Any], list[Any]]:
        """How the products of `rows` of vector k read their inputs and write their results."""
        get, put = self._get_row(self.rows[0], k), self._put_row(self.rows[-1], k)
        reads = [lambda q, r=r: get(r, q) for r in rows]
        writes = [lambda m, v, r=r: put(r, m, v) for r in rows]
        return reads, writes

    def _products(
        self,
        vector: Vector,
        rows: tuple[Any, ...],
        reads: list[Callable[[Any], Any]],
        writes: list[Callable[[Any, Any], None]],
    ) -> None:
        """The Toeplitz products of one real row or of a complex pair of rows."""
        pair = len(rows) == 2
        if _written_out(self.plan.n2, self.e.device, pair=pair, products=self.products):
            self._written_products(vector, rows, reads, writes)
        else:
            self._looped_products(vector, rows, reads, writes)

    def _written_products(
        self, vector: Vector, rows: tuple[Any, ...], reads: list[Any], writes: list[Any]
    ) -> None:
        """All inputs in registers; every weight is loaded once and used for its whole diagonal."""
        e, n2 = self.e, self.plan.n2
        inputs = [[e.bind(read(q)) for q in range(n2)] for read in reads]
        sums = [[e.bind(vector.start(row * n2 + m)) for m in range(n2)] for row in rows]
        # d = m - q downwards: every sum takes its inputs in order, as a loop over q does
        for d in range(n2 - 1, -n2, -1):
            weights = [e.bind(self._weight(vector, row, d + n2 - 1)) for row in rows]
            for terms in self._terms(weights):  # one sum's two terms apart: the second must wait
                for m in range(max(0, d), n2 + min(0, d)):
                    for total, (weight, which) in zip(sums, terms, strict=True):
                        total[m] = e.bind(e.fma(weight, inputs[which][m - d], total[m]))
        for total, write in zip(sums, writes, strict=True):
            for m in range(n2):
                write(m, total[m])

    def _looped_products(
        self, vector: Vector, rows: tuple[Any, ...], reads: list[Any], writes: list[Any]
    ) -> None:
        """A loop over the inputs for every group of sums."""
        e, n2 = self.e, self.plan.n2
        most = outputs_at_once(n2, e.device, pair=len(rows) == 2)
        if self.products != "auto":
            most = int(self.products)
        group = -(-n2 // -(-n2 // most))  # as few groups, all nearly of the same size

        def some(low: Any, count: int) -> None:
            sums = [
                [e.accumulator(self.lanes, vector.start(row * n2 + low + m)) for m in range(count)]
                for row in rows
            ]
            with e.loop(n2, name="q") as q:
                inputs = [e.bind(read(q)) for read in reads]
                for m in range(count):
                    weights = [
                        e.bind(self._weight(vector, row, low - q + m + n2 - 1)) for row in rows
                    ]
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

    def _weight(self, vector: Vector, row: Any, d: Any) -> Any:
        return vector.weight(row * (2 * self.plan.n2 - 1) + d)

    def _terms(self, weights: list[Any]) -> list[list[tuple[Any, int]]]:
        """What is added to the sums, in order: per sum a weight and which input it multiplies.

        One sum of real rows; for a pair the complex product (tr + i ti)(u + i v).
        """
        if len(weights) == 1:
            return [[(weights[0], 0)]]
        re, im = weights
        minus = im * self.e.like(-1.0, im)  # becomes part of a multiply-subtract
        return [[(re, 0), (re, 1)], [(minus, 1), (im, 0)]]
