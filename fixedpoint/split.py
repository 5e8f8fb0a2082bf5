"""What does the two-level split N = n1 n2 of a correlation compute in integers?

The three stages of `parc_hw.weights` with a word length at every point:

1. For each m < n2 the n1 summands s[j n2 + m] pass the graph `real_dft(n1)`. They enter with
   `guard` low bits more; each product with a constant is rounded back to that LSB, additions are
   exact. Its outputs pass `rows`.
2. Toeplitz products of the rows with the `table`, from the bias on: upwards in q, the real part's
   product before the imaginary part's, channel by channel; through `product` and `accumulator`,
   then `columns`.
3. For each m the columns pass the transposed graph, with guard bits and roundings as in 1. Its
   outputs pass `output`.

The constants of the graphs and the table are quantised to nearest even before anything runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from fixedpoint import mac
from fixedpoint._threads import over_lines
from fixedpoint.arith import finest_format, quantize, to_value
from fixedpoint.errors import FormatError
from fixedpoint.modes import Rounding, rounding_code
from fixedpoint.qformat import QFormat, as_format
from fixedpoint.rounding import round_with, rounding_terms
from fixedpoint.trace import StageError
from parc_hw.dataflow import (
    Add,
    Dag,
    Input,
    Mul,
    Round,
    Sub,
    evaluate,
    ranges,
    real_dft,
    transpose,
)
from parc_hw.errors import InputError
from parc_hw.plan import SplitPlan
from parc_hw.weights import complex_rows, split_tables

if TYPE_CHECKING:
    from fixedpoint.operator import Operands, _Run
    from fixedpoint.paths import SplitDatapath

__all__ = [
    "integer_graph",
    "kernel_table",
    "run",
    "table_format",
    "toeplitz_points",
    "toeplitz_terms",
]

Words = NDArray[np.int64]
_ADD, _SUB, _MUL = 0, 1, 2
_INT64 = (-(1 << 63), (1 << 63) - 1)


# ---------------------------------------------------------------- constants
@lru_cache(maxsize=64)
def integer_graph(n: int, coefficient: QFormat, rounding: Rounding, *, transposed: bool) -> Dag:
    """Return the graph of the real DFT of length n on integers.

    `Mul(c, a)` becomes `Round(Mul(C, a), f)` with C = c 2**f to nearest even, f the fraction bits
    of `coefficient`.

    Raises
    ------
    InputError
        A constant is outside `coefficient`.

    Examples
    --------
    >>> graph = integer_graph(3, QFormat.parse("Q2.6"), Rounding.HALF_EVEN, transposed=False)
    >>> [node.constant for node in graph.nodes if isinstance(node, Mul)]
    [32, -55]
    """
    graph = transpose(real_dft(n)) if transposed else real_dft(n)
    nodes: list[Any] = []
    moved: list[int] = []
    for node in graph.nodes:
        match node:
            case Mul(constant, a):
                word = int(
                    quantize(
                        [constant], QFormat(64 - coefficient.frac_bits, coefficient.frac_bits)
                    )[0]
                )
                if not coefficient.min_raw <= word <= coefficient.max_raw:
                    needed = QFormat(2, coefficient.frac_bits)
                    raise InputError(
                        f"coefficient is {coefficient}, and the transform of length {n} multiplies "
                        f"by {constant:g}. {needed} holds every constant."
                    )
                nodes.append(Mul(word, moved[a]))
                nodes.append(Round(len(nodes) - 1, coefficient.frac_bits, rounding))
            case Add(a, b):
                nodes.append(Add(moved[a], moved[b]))
            case Sub(a, b):
                nodes.append(Sub(moved[a], moved[b]))
            case Input():
                nodes.append(node)
            case _:
                raise AssertionError(f"{node} is not in a graph of a transform")
        moved.append(len(nodes) - 1)
    return Dag(graph.inputs, tuple(nodes), tuple(moved[output] for output in graph.outputs))


def check_widths(graph: Dag, word: QFormat, guard: int, stage: str) -> None:
    """Raise `FormatError` if a product or sum in the graph of words `word` may leave 64 bits."""
    limits = (word.min_raw << guard, word.max_raw << guard)
    found = ranges(graph, [limits] * graph.inputs)
    widest = max(max(-low - 1, high) for low, high in found).bit_length() + 1
    if widest > 64:
        raise FormatError(
            f"{stage}: a product of {word} words with {guard} guard bits and a constant needs "
            f"{widest} bits, and 64-bit arithmetic holds 64. {widest - 64} bits less in the "
            f"coefficient, the guard bits or the words would fit."
        )


def kernel_table(w: Words, plan: SplitPlan, datapath: SplitDatapath) -> Words:
    """Return the Toeplitz weights of the kernels (O, C or 1, N) as words (O, C or 1, T).

    Raises
    ------
    InputError
        A weight is outside `datapath.table`; says which format holds all.
    """
    values = split_tables(to_value(w, datapath.kernel), plan)
    fmt = datapath.table
    wide = QFormat(64 - fmt.frac_bits, fmt.frac_bits)
    words = np.asarray(quantize(values, wide))
    if words.size and (words.min() < fmt.min_raw or words.max() > fmt.max_raw):
        worst = float(values.flat[int(np.abs(values).argmax())])
        bits = max(-int(words.min()) - 1, int(words.max())).bit_length() + 1
        raise InputError(
            f"table is {fmt}, and the kernel's Toeplitz weights reach {worst:.6g}; "
            f"{QFormat(bits - fmt.frac_bits, fmt.frac_bits)} holds them."
        )
    return words


def table_format(raw_w: ArrayLike, kernel: QFormat | str, plan: SplitPlan, bits: int) -> QFormat:
    """Return the format of `bits` bits with the most fraction bits that holds a kernel's table.

    Parameters
    ----------
    raw_w : int array, shape (..., N)
        Words of `kernel`.
    kernel : QFormat or str
    plan : SplitPlan
    bits : int
        1 to 64.

    Examples
    --------
    >>> print(table_format([64, 32, 16, 8], "Q1.7", SplitPlan(n1=2, n2=2), 8))
    Q0.8
    """
    fmt = as_format(kernel, name="kernel")
    values = split_tables(to_value(fmt.words(raw_w, name="raw_w"), fmt), plan)
    return finest_format(values, bits)


@lru_cache(maxsize=64)
def toeplitz_terms(n1: int, n2: int, channels: int) -> tuple[mac.Terms, Words]:
    """Return the terms of v[r n2 + m], and for each the position of its weight in the table.

    Returns
    -------
    terms : mac.Terms
        I = n1 n2 outputs, T = channels * 2 n2 terms (n2 where no row is complex).
    weight : int64 array, shape (I, T)
        Positions in the tables of all channels, one after the other.
    """
    count = 2 * n2 - 1
    pairs = complex_rows(n1)
    each = 2 * n2 if len(pairs) else n2
    size = (n1 * n2, each)
    place, sign, weight = (
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
    )

    def put(output: int, term: int, source: int, table_row: int, d: int, plus: int) -> None:
        place[output, term], sign[output, term] = source, plus
        weight[output, term] = table_row * count + d

    for m in range(n2):
        for q in range(n2):
            d = m - q + n2 - 1
            for row in pairs:
                re, im = row * n2 + m, (row + 1) * n2 + m
                put(re, 2 * q, row * n2 + q, row, d, 1)
                put(re, 2 * q + 1, (row + 1) * n2 + q, row + 1, d, -1)
                put(im, 2 * q, (row + 1) * n2 + q, row, d, 1)
                put(im, 2 * q + 1, row * n2 + q, row + 1, d, 1)
            for row in {0, n1 - 1} - {first + 1 for first in pairs}:
                put(row * n2 + m, q, row * n2 + q, row, d, 1)
    channel = np.arange(channels)[:, None]

    def repeated(once: Words, step: int) -> Words:
        return (once[:, None, :] + channel * step).reshape(n1 * n2, -1)

    rows = np.arange(n1 * n2, dtype=np.int64)
    terms = mac.Terms(rows, repeated(place, n1 * n2), repeated(sign, 0))
    return terms, repeated(weight, n1 * count)


def toeplitz_points(datapath: SplitDatapath, terms: int) -> mac.MacPoints:
    """The points of the Toeplitz products."""
    return mac.MacPoints(
        datapath.rows.format,
        datapath.table,
        datapath.product,
        datapath.accumulator,
        terms,
        datapath.bias,
    )


# ---------------------------------------------------------------- graphs on many lines
@njit(cache=True, nogil=True)
def _graph_kernel(begin, end, x, out, program, outputs, guard, shift, mode):  # type: ignore[no-untyped-def]
    """Lines [begin, end) of x (lines, inputs) through the nodes of `program`.

    A row of `program` is an operation, two positions and a constant; positions count the inputs
    first, then the rows.
    """
    inputs = x.shape[1]
    lanes = 16
    values = np.empty((inputs + program.shape[0], lanes), np.int64)
    always, odd, negative = rounding_terms(shift, mode)
    for first in range(begin, end, lanes):
        used = min(lanes, end - first)
        for k in range(inputs):
            for lane in range(used):
                values[k, lane] = x[first + lane, k] << guard
            for lane in range(used, lanes):
                values[k, lane] = 0
        for row in range(program.shape[0]):
            operation, a, b, constant = program[row]
            left, right, result = values[a], values[b], values[inputs + row]
            if operation == _ADD:
                for lane in range(lanes):
                    result[lane] = left[lane] + right[lane]
            elif operation == _SUB:
                for lane in range(lanes):
                    result[lane] = left[lane] - right[lane]
            else:
                for lane in range(lanes):
                    result[lane] = round_with(constant * left[lane], shift, always, odd, negative)
        for k in range(outputs.size):
            for lane in range(used):
                out[first + lane, k] = values[outputs[k], lane]


@dataclass(frozen=True, slots=True)
class _Program:
    """A graph as the kernel reads it."""

    rows: Words
    outputs: Words


@lru_cache(maxsize=64)
def _program(graph: Dag) -> _Program:
    position: dict[int, int] = {}
    rows: list[tuple[int, int, int, int]] = []
    for index, node in enumerate(graph.nodes):
        match node:
            case Input(k):
                position[index] = k
                continue
            case Add(a, b):
                rows.append((_ADD, position[a], position[b], 0))
            case Sub(a, b):
                rows.append((_SUB, position[a], position[b], 0))
            case Mul():
                continue  # with its Round, below
            case Round(a, _, _):
                product = graph.nodes[a]
                assert isinstance(product, Mul)
                at = position[product.a]
                rows.append((_MUL, at, at, int(product.constant)))
        position[index] = graph.inputs + len(rows) - 1
    table = np.array(rows, np.int64).reshape(-1, 4)
    return _Program(table, np.array([position[output] for output in graph.outputs], np.int64))


def run_graph(graph: Dag, x: Words, guard: int, datapath: SplitDatapath) -> Words:
    """Pass words (lines, inputs) through an integer graph: (lines, outputs), `guard` bits finer."""
    program = _program(graph)
    out = np.empty((len(x), len(graph.outputs)), np.int64)
    shift = datapath.coefficient.frac_bits
    arguments = (program.rows, program.outputs, guard, shift, rounding_code(datapath.rounding))
    over_lines(_graph_kernel, len(x), 16, np.ascontiguousarray(x), out, *arguments)
    return out


# ---------------------------------------------------------------- the three stages
def run(
    run: _Run, operands: Operands, summed: Words, datapath: SplitDatapath, plan: SplitPlan
) -> tuple[Words, int]:
    """Return what `output` receives, (O, L, N), and its fraction bits."""
    from fixedpoint.operator import inputs_of, start_words

    n1, n2, guard = plan.n1, plan.n2, datapath.guard
    forward = integer_graph(n1, datapath.coefficient, datapath.rounding, transposed=False)
    backward = integer_graph(n1, datapath.coefficient, datapath.rounding, transposed=True)
    check_widths(forward, datapath.summand, guard, "rows")
    check_widths(backward, datapath.columns.format, guard, "output")
    outputs, channels, length = operands.w.shape
    table = kernel_table(operands.w, plan, datapath).reshape(outputs, -1)
    terms, weight = toeplitz_terms(n1, n2, channels)
    points = toeplitz_points(datapath, terms.place.shape[1])
    start = np.zeros((outputs, length), np.int64)
    bias = start_words(operands.bias, datapath, datapath.accumulator, points)
    if bias is not None:
        start[:, :n2] = bias[:, None]  # a constant is all in row 0, with gain 1
    references = None
    if run.summands is not None:
        references = _References(run.summands, operands, datapath, plan)

    rows = _each_residue(forward, summed, guard, datapath, plan, forth=True)
    rows = run.cut(
        "rows",
        rows,
        datapath.summand.frac_bits + guard,
        datapath.rows,
        None if references is None else references.rows,
    )
    sums, (product, accumulator) = mac.accumulate_terms(
        inputs_of(operands, rows), table[:, weight], terms, start, points
    )
    run.point("product", product, points.term, datapath.product)
    expected = None if references is None else references.columns
    error = None if expected is None else StageError.of(sums, points.sums, expected)
    run.point("accumulator", accumulator, points.sums, datapath.accumulator, error)
    columns = run.cut("columns", sums, points.sums.frac_bits, datapath.columns, expected)
    y = _each_residue(backward, columns, guard, datapath, plan, forth=False)
    return y, datapath.columns.format.frac_bits + guard


def _each_residue(
    graph: Dag, words: Words, guard: int, datapath: SplitDatapath, plan: SplitPlan, *, forth: bool
) -> Words:
    """Every column m of the lines (C, L, n1 n2), seen as (n1, n2), through the graph."""
    apart = words.reshape(-1, plan.n1, plan.n2).swapaxes(1, 2)
    done = run_graph(graph, apart.reshape(-1, plan.n1), guard, datapath)
    together = done.reshape(apart.shape).swapaxes(1, 2)
    return np.ascontiguousarray(together).reshape(words.shape)


class _References:
    """The rows and columns in float arithmetic, from the same stored integers."""

    def __init__(
        self,
        s: NDArray[np.float64],
        operands: Operands,
        datapath: SplitDatapath,
        plan: SplitPlan,
    ) -> None:
        n1, n2 = plan.n1, plan.n2
        apart = np.moveaxis(s.reshape(*s.shape[:-1], n1, n2), -2, 0)
        self.rows = np.moveaxis(evaluate(real_dft(n1), apart), 0, -2).reshape(s.shape)
        w = to_value(operands.w, datapath.kernel)
        outputs, channels, _ = w.shape
        table = split_tables(w, plan).reshape(outputs, -1)
        terms, weight = toeplitz_terms(n1, n2, channels)
        columns = []
        rows = self.rows.swapaxes(0, 1).reshape(s.shape[1], -1)
        for o in range(outputs):
            coefs = table[o, weight] * terms.sign  # (I, T)
            lines = self.rows[o] if operands.depthwise else rows
            columns.append(np.einsum("lit,it->li", lines[:, terms.place], coefs))
        self.columns = np.stack(columns)
        if operands.bias is not None and datapath.bias is not None:
            self.columns[:, :, :n2] += to_value(operands.bias, datapath.bias)[:, None, None]
