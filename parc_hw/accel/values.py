"""What does each instruction compute, on words in memory?

The definition of the instruction set. Arithmetic is that of `fixedpoint`; int64 results wrap where
a program makes them too large, and never reach memory that was not given (`parc_hw.accel.checks`).
All operands of an instruction are read before its first result is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product as every
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fixedpoint.integer import kernels
from fixedpoint.rounding import rounding_terms
from parc_hw.accel.numeric import fit, fit_each
from parc_hw.accel.rom import read_graph, read_product, read_stage
from parc_hw.errors import InputError
from parc_hw.isa import Flag, Function, Instruction, Opcode, Operand, Space, Type

__all__ = ["Memories", "execute", "products"]

_DTYPES: Final[dict[Type, np.dtype[Any]]] = {
    Type.I8: np.dtype(np.int8),
    Type.I16: np.dtype(np.int16),
    Type.I32: np.dtype(np.int32),
    Type.I64: np.dtype(np.int64),
}

Ints = NDArray[Any]


@dataclass
class Memories:
    """What a program reads and writes.

    Attributes
    ----------
    external : uint8 array
    scratchpad : uint8 array
    accumulator : int64 array
    rom : bytes
    accumulator_bits : int
        Accumulators keep so many low bits.
    wrapped : int
        Sums that lost bits so.
    """

    external: NDArray[np.uint8]
    scratchpad: NDArray[np.uint8]
    accumulator: NDArray[np.int64]
    rom: bytes
    accumulator_bits: int
    wrapped: int = 0
    _tables: dict[tuple[str, int], Any] = field(default_factory=dict)

    def view(
        self, operand: Operand, extents: tuple[int, ...], counters: tuple[int, ...]
    ) -> NDArray[Any]:
        """The elements of an operand in place, of shape `extents`; later strides are left out."""
        base = operand.base
        for step, counter in zip(operand.steps, counters, strict=False):
            base += step * counter
        strides = operand.strides[: len(extents)]
        if operand.space is Space.ACCUMULATOR:
            whole = self.accumulator
            base, strides = 8 * base, tuple(8 * stride for stride in strides)
            return np.ndarray(extents, np.int64, whole.data, base, strides)
        memory: Any
        if operand.space is Space.SCRATCHPAD:
            memory = self.scratchpad
        elif operand.space is Space.EXTERNAL:
            memory = self.external
        else:
            memory = self.rom
        return np.ndarray(extents, _DTYPES[operand.type], memory, base, strides)

    def table(self, read: Callable[[bytes, int], Any], operand: Operand) -> Any:
        """A table of ROM, parsed once."""
        key = read.__name__, operand.base
        if key not in self._tables:
            self._tables[key] = read(self.rom, operand.base)
        return self._tables[key]


def execute(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    """Run one instruction of a checked program.

    Parameters
    ----------
    each : Instruction
        With operands; the dispatcher's and SYNC compute nothing.
    memories : Memories
    counters : tuple of int
        Of the loops around it, outermost first.
    """
    _RUN[each.opcode](each, memories, counters)


# ---------------------------------------------------------------- moving
def _move(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents[:4]
    if not each.ring:
        memories.view(each.out, extents, counters)[...] = memories.view(each.a, extents, counters)
        return
    places = (each.start + np.arange(extents[2])) % each.ring
    around = (*extents[:2], each.ring, extents[3])
    if each.opcode is Opcode.LOAD:
        ring = memories.view(each.a, around, counters)
        memories.view(each.out, extents, counters)[...] = ring[:, :, places]
    else:
        ring = memories.view(each.out, around, counters)
        ring[:, :, places] = memories.view(each.a, extents, counters)


# ---------------------------------------------------------------- multiply and accumulate
def products(a: Ints, b: Ints) -> NDArray[np.int64]:
    """Return the sums of a * b over the last three of seven axes, modulo 2**64.

    Exact products of floating point serve where no sum can leave the integers that the type holds.
    """
    shape = a.shape
    summed = int(np.prod(shape[4:]))
    in_a = [i for i in range(4) if a.strides[i] and shape[i] > 1]
    in_b = [i for i in range(4) if b.strides[i] and shape[i] > 1]
    both = [i for i in in_a if i in in_b]
    rows = [i for i in range(4) if i not in in_b]
    columns = [i for i in in_b if i not in in_a]
    if both and not columns:
        return _side_by_side(a, b)
    # Batches of (rows, sum) by (sum, columns).
    order_a, order_b = [*both, *rows, 4, 5, 6], [*both, 4, 5, 6, *columns]
    batch = [shape[i] for i in both]
    count = int(np.prod([shape[i] for i in rows]))
    width = int(np.prod([shape[i] for i in columns]))
    index_a = tuple(slice(0, 1) if i in columns else slice(None) for i in range(7))
    index_b = tuple(slice(0, 1) if i in rows else slice(None) for i in range(7))
    left = a[index_a].transpose(*order_a, *columns).reshape(*batch, count, summed)
    right = b[index_b].transpose(*order_b, *rows).reshape(*batch, summed, width)
    bits = 8 * (a.dtype.itemsize + b.dtype.itemsize) - 2
    reach = summed << bits
    kind: Any = np.int64
    if reach <= 1 << 24:
        kind = np.float32
    elif reach <= 1 << 53:
        kind = np.float64
    sums = np.matmul(left.astype(kind), right.astype(kind)).astype(np.int64)
    axes = [*both, *rows, *columns]
    found = sums.reshape([shape[i] for i in axes])
    return np.ascontiguousarray(found.transpose(np.argsort(axes)))


def _side_by_side(a: Ints, b: Ints) -> NDArray[np.int64]:
    """Every output has a weight of its own: one product of arrays for each term."""
    shape = a.shape
    total = np.zeros(shape[:4], np.int64)
    term = np.empty(shape[:4], np.int64)
    for k in every(*(range(extent) for extent in shape[4:])):
        place: Any = (..., *k)
        np.multiply(a[place], b[place], out=term, dtype=np.int64)
        total += term
    return total


def _mac(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents
    if each.opcode is Opcode.CIRCULAR_MAC:
        strides = each.a.strides
        around = [1 if stride == 0 else n for n, stride in zip(extents, strides, strict=True)]
        around[1], around[4] = each.ring, 1
        # Places start .. start + d1 + d4 - 2 in a line, then windows of it that overlap.
        places = (each.start + np.arange(extents[1] + extents[4] - 1)) % each.ring
        line = np.ascontiguousarray(memories.view(each.a, tuple(around), counters)[:, places])
        windows = [
            step if stride else 0 for step, stride in zip(line.strides, strides, strict=True)
        ]
        windows[1] = windows[4] = line.strides[1]
        a: Ints = np.lib.stride_tricks.as_strided(line, extents, windows, writeable=False)
    else:
        a = memories.view(each.a, extents, counters)
    b = memories.view(each.b, extents, counters)
    sums = products(a, b)
    out = memories.view(each.out, extents[:4], counters)
    if Flag.ACCUMULATE in each.flags:
        sums += out
    elif each.c:
        sums += memories.view(each.c, extents[:4], counters)
    unused = 64 - memories.accumulator_bits
    if unused:
        kept = (sums << unused) >> unused
        memories.wrapped += int(np.count_nonzero(kept != sums))
        sums = kept
    out[...] = sums


# ---------------------------------------------------------------- transforms
def _butterfly(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents[:4]
    held = memories.view(each.a, extents, counters).astype(np.int64)
    lines = extents[0] * extents[1]
    if each.function == Function.GRAPH:
        from fixedpoint.split import _graph_kernel

        graph = memories.table(read_graph, each.b)
        result = np.empty((lines, len(graph.outputs)), np.int64)
        _graph_kernel(
            0, lines, held.reshape(lines, -1), result, graph.rows, graph.outputs, graph.guard,
            graph.shift, graph.rounding,
        )  # fmt: skip
    else:
        result = _stage(held.reshape(lines, extents[2], 2), memories.table(read_stage, each.b))
    memories.view(each.out, extents, counters)[...] = result.reshape(extents)


def _stage(words: NDArray[np.int64], table: Any) -> NDArray[np.int64]:
    from fixedpoint._frames import LANES_64
    from fixedpoint.stage_kernels import run_counted, run_plain

    lines, length = words.shape[:2]
    result = np.empty_like(words)
    natural = np.arange(length, dtype=np.int64)
    tables = table.kind, table.factor, table.constants, table.options, table.points
    if table.is_plain:
        work = np.zeros((length, 2, LANES_64), np.int64)
        run_plain(0, lines, words, result, work, natural, natural, *tables)
        return result
    tallies = np.zeros((1, table.points.shape[1], 4), np.int64)
    extremes = np.zeros((1, table.points.shape[1], 2, LANES_64), np.int64)
    run_counted(
        0, lines, words, result, natural, natural, *tables, table.chosen, 0, 1, tallies, extremes
    )
    return result


def _spectrum_product(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    from fixedpoint.spectral import _product_kernel

    table = memories.table(read_product, each.c)
    extents = each.extents
    outputs, lines, length = extents[:3]
    a = memories.view(each.a, extents, counters)[:, :, :, :, 0, 0]
    x = a.transpose(0, 1, 4, 2, 3)  # outputs, lines, channels, frequencies, parts
    if not each.a.strides[0]:
        x = x[:1]
    b = memories.view(each.b, extents, counters)[:, 0, :, :, 0, 0]
    s = b.transpose(0, 3, 1, 2)
    result = np.empty((outputs, lines, length, 2), np.int64)
    tallies = np.zeros((outputs, lines, 3, 4), np.int64)
    _product_kernel(
        0, outputs * lines, np.ascontiguousarray(x, np.int64), np.ascontiguousarray(s, np.int64),
        result, table.three, table.points, tallies,
    )  # fmt: skip
    memories.view(each.out, extents[:4], counters)[...] = result


# ---------------------------------------------------------------- element by element
def _ends(each: Instruction) -> tuple[int, int]:
    """lo and hi, and those of the result's type."""
    if each.out.type is Type.I64:  # the fields have 32 bits: their ends cut nothing from 64
        lo = -(1 << 63) if each.lo == -(1 << 31) else each.lo
        hi = (1 << 63) - 1 if each.hi == (1 << 31) - 1 else each.hi
        return lo, hi
    least = -(1 << (8 * each.out.type.bytes - 1))
    return max(each.lo, least), min(each.hi, -least - 1)


def _finish(
    value: NDArray[np.int64], shift: int | Ints, each: Instruction, memories: Memories,
    counters: tuple[int, ...],
) -> None:  # fmt: skip
    """Q of the integer rule, and the result to its place."""
    out = memories.view(each.out, each.extents[:4], counters)
    flat = np.ascontiguousarray(value).reshape(-1)
    result = np.empty(flat.size, np.int64)
    lo, hi = _ends(each)
    wrap = Flag.WRAP in each.flags
    if isinstance(shift, int):
        fit(flat, shift, each.rounding, lo, hi, wrap, result)
    else:
        shifts = np.ascontiguousarray(np.broadcast_to(shift, value.shape)).reshape(-1)
        fit_each(flat, shifts.astype(np.int64), each.rounding, lo, hi, wrap, result)
    out[...] = result.reshape(out.shape)


def _requantise(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents[:4]
    value = memories.view(each.a, extents, counters).astype(np.int64)
    if each.immediate != 1:
        value *= each.immediate
    if each.c:
        value += memories.view(each.c, extents, counters)
    shift: int | Ints = each.shift
    if each.b:
        shift = memories.view(each.b, extents, counters).astype(np.int64) + each.shift
    _finish(value, shift, each, memories, counters)


def _vector(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    _FUNCTIONS[Function(each.function)](each, memories, counters)


def _copy(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    value = memories.view(each.a, each.extents[:4], counters).astype(np.int64)
    _finish(value << each.up_a, each.shift, each, memories, counters)


def _fill(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    lo, hi = _ends(each)
    word = min(max(each.immediate, lo), hi) if lo <= hi else lo
    memories.view(each.out, each.extents[:4], counters)[...] = word


def _add(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents[:4]
    value = memories.view(each.a, extents, counters).astype(np.int64) << each.up_a
    other = memories.view(each.b, extents, counters).astype(np.int64) << each.up_b
    value = value + other if each.function == Function.ADD else value - other
    _finish(value, each.shift, each, memories, counters)


def _multiply(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents[:4]
    value = memories.view(each.a, extents, counters).astype(np.int64)
    value *= memories.view(each.b, extents, counters)
    _finish(value, each.shift, each, memories, counters)


def _max(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents
    value = memories.view(each.a, extents, counters).max(axis=(4, 5, 6)).astype(np.int64)
    if each.b:
        value = np.maximum(value, memories.view(each.b, extents[:4], counters))
    if Flag.ACCUMULATE in each.flags:
        value = np.maximum(value, memories.view(each.out, extents[:4], counters))
    _finish(value, each.shift, each, memories, counters)


def _sum(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    extents = each.extents
    value = memories.view(each.a, extents, counters).sum(axis=(4, 5, 6), dtype=np.int64)
    if Flag.ACCUMULATE in each.flags:
        value = value + memories.view(each.out, extents[:4], counters)
    _finish(value, each.shift, each, memories, counters)


def _terms(shifts: Ints, mode: int) -> NDArray[np.int64]:
    """As `fixedpoint.integer.operators.Ending.terms`, from bits to drop."""
    shifts = np.clip(np.atleast_1d(shifts), -62, 62)
    up, down = np.maximum(-shifts, 0), np.maximum(shifts, 0)
    rows = np.array([rounding_terms.py_func(int(s), mode) for s in down], np.int64)
    more = np.full_like(up, bool(up.any() or rows[:, 1:].any()))
    return np.ascontiguousarray(np.vstack([up, down, rows.T, more]).astype(np.int64))


def _words(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> NDArray[np.int64]:
    """The table of `immediate` words that b is."""
    table = Operand(each.b.space, Type.I32, each.b.base, (4,), each.b.steps)
    return memories.view(table, (each.immediate,), counters).astype(np.int64)


def _row_words(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> Ints:
    extents = each.extents[:4]
    return memories.view(each.a, extents, counters).reshape(-1, extents[3]).astype(np.int32)


def _put(each: Instruction, memories: Memories, counters: tuple[int, ...], out: Ints) -> None:
    extents = each.extents[:4]
    memories.view(each.out, extents, counters)[...] = out.reshape(extents)


def _activate(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    x = _row_words(each, memories, counters).reshape(-1)
    out = np.empty(x.size, np.int32)
    kernels.activate(
        0, x.size, x, _words(each, memories, counters), bool(each.immediate2), each.up_a,
        each.up_b, _terms(np.array(each.shift), each.rounding), *_ends(each), out,
    )  # fmt: skip
    _put(each, memories, counters, out)


def _layer_norm(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    x = _row_words(each, memories, counters)
    channels = each.extents[3]
    stride = each.b.strides[3]
    parts = []
    for type_, offset in ((Type.I64, 0), (Type.I32, 8), (Type.I32, 12)):
        place = Operand(each.b.space, type_, each.b.base + offset, (stride,), each.b.steps)
        parts.append(memories.view(place, (channels,), counters).astype(np.int64))
    bias, weight, shift = parts
    out = np.empty(x.shape, np.int32)
    epsilon = each.immediate + (each.immediate2 << 31)
    kernels.layer_norm(
        0, len(x), x, epsilon, each.rounding, weight, bias, _terms(shift, each.rounding),
        *_ends(each), out,
    )  # fmt: skip
    _put(each, memories, counters, out)


def _softmax(each: Instruction, memories: Memories, counters: tuple[int, ...]) -> None:
    x = _row_words(each, memories, counters)
    out = np.empty(x.shape, np.int32)
    try:
        kernels.softmax(
            0, len(x), x, _words(each, memories, counters), each.up_a, each.up_b, each.rounding,
            _terms(np.array(each.shift), each.rounding), *_ends(each), out,
        )  # fmt: skip
    except ZeroDivisionError:
        raise InputError(
            "SOFTMAX: the powers of a row add up to 0: the table at b is not that of exp(-a)."
        ) from None
    _put(each, memories, counters, out)


_FUNCTIONS: Final[dict[Function, Callable[[Instruction, Memories, tuple[int, ...]], None]]] = {
    Function.COPY: _copy,
    Function.FILL: _fill,
    Function.ADD: _add,
    Function.SUBTRACT: _add,
    Function.MULTIPLY: _multiply,
    Function.MAX: _max,
    Function.SUM: _sum,
    Function.ACTIVATE: _activate,
    Function.LAYER_NORM: _layer_norm,
    Function.SOFTMAX: _softmax,
}
_RUN: Final[dict[Opcode, Callable[[Instruction, Memories, tuple[int, ...]], None]]] = {
    Opcode.LOAD: _move,
    Opcode.STORE: _move,
    Opcode.MATRIX_MAC: _mac,
    Opcode.CIRCULAR_MAC: _mac,
    Opcode.BUTTERFLY: _butterfly,
    Opcode.SPECTRUM_PRODUCT: _spectrum_product,
    Opcode.VECTOR: _vector,
    Opcode.REQUANTISE: _requantise,
}
