"""How are the three stages of a split plan written for one vector of values?

What `parc_hw.weights` states, as statements of TIR: a real DFT of length n1, Toeplitz products of
length n2, the transposed DFT. The graphs of the transforms come from `parc_hw.dataflow`. Where the
points lie, and whether a weight is a vector or one number for all lanes, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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

__all__ = ["Column", "emit_graph", "scratch_rows"]

MAX_TERMS = 256  # multiply-adds of one product that are written out; more are loops


def scratch_rows(plan: SplitPlan, device: Device) -> int:
    """How many buffers of N vectors a `Column` needs: none, the rows, or rows and products."""
    if plan.n1 == 1:
        return 0
    pair = len(complex_rows(plan.n1)) > 0
    return 1 if _written_out(plan.n2, device, pair=pair) else 2


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


def _written_out(n2: int, device: Device, *, pair: bool) -> bool:
    """Whether a Toeplitz product is straight-line code with all its inputs in registers."""
    terms = (4 if pair else 1) * n2 * n2
    return terms <= MAX_TERMS and outputs_at_once(n2, device, pair=pair) == n2


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
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
        with self.e.loop(self.plan.n2, name="m") as m:
            emit_graph(self.e, dag, lambda k: get(k, m), lambda k, v: put(k, m, v))

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
