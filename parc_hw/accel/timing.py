"""How many cycles does one instruction keep its unit busy, and what does it move and burn?

The formulas are in docs/accelerator.md. They need the description, the instruction, and of a
transfer where its bursts begin; never a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parc_hw.accel.description import Description
from parc_hw.accel.rom import read_graph, read_stage
from parc_hw.isa import Flag, Function, Instruction, Opcode, Operand, Space

__all__ = ["Cost", "bank_words", "cost", "transfer_bursts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one instruction takes.

    Attributes
    ----------
    cycles : int
        From start to end of its unit; of a transfer, on the bus.
    latency : int
        Of a transfer: before the bus (LOAD) or behind it (STORE); else 0, it is in `cycles`.
    work : int
        Multiply-accumulates, butterflies, complex products, elements, or bytes of a transfer.
    scratchpad_bytes, rom_bytes, external_bytes : int
    energy_pj : float
    bound : str
        What decides `cycles`: "compute", "banks", "bus" or "scratchpad".
    """

    cycles: int
    latency: int = 0
    work: int = 0
    scratchpad_bytes: int = 0
    rom_bytes: int = 0
    external_bytes: int = 0
    energy_pj: float = 0.0
    bound: str = "compute"


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# ---------------------------------------------------------------- banks
@lru_cache(maxsize=65536)
def bank_words(
    dimensions: tuple[tuple[int, int], ...], element: int, width: int, banks: int
) -> tuple[int, int]:
    """How many words of all banks, and at most of one bank, an operand's elements lie in.

    Parameters
    ----------
    dimensions : tuple of (extent, stride in bytes)
    element : int
        Its bytes.
    width, banks : int
        Bytes of a bank's word, number of banks; word w is in bank w mod banks.

    Notes
    -----
    As if the operand began at a word of bank 0. Words that several elements share count once.

    Examples
    --------
    64 bytes side by side, and one byte every 64, in 8 banks of 4 bytes:

    >>> bank_words(((64, 1),), 1, 4, 8), bank_words(((64, 64),), 1, 4, 8)
    ((16, 2), (64, 64))
    """
    words = np.zeros(1, np.int64)
    for extent, stride in sorted(dimensions, key=lambda pair: abs(pair[1])):
        if extent == 1 or stride == 0:
            continue
        words = (words[:, None] + np.arange(extent) * stride).reshape(-1)
    words = np.unique(words // width)
    if element > width:
        words = np.unique((words[:, None] + np.arange(_ceil(element, width))).reshape(-1))
    return len(words), int(np.bincount(words % banks).max())


def _bank_load(
    operands: Sequence[tuple[Operand, Sequence[int]]], d: Description
) -> tuple[int, int, int]:
    """Cycles that banks need for operands with their extents; bytes of scratchpad and of ROM."""
    pad, worst, near, rom = d.scratchpad, 0, 0, 0
    for operand, extents in operands:
        if operand.space not in (Space.SCRATCHPAD, Space.ROM):
            continue
        # Dimensions of one element, or that repeat the same ones, read nothing more.
        dims = tuple(
            (n, s) for n, s in zip(extents, operand.strides, strict=True) if n > 1 and s != 0
        )
        words, most = bank_words(dims, operand.type.bytes, pad.width_bytes, pad.banks)
        if operand.space is Space.ROM:
            rom += words * pad.width_bytes
        else:
            worst += most
            near += words * pad.width_bytes
    return _ceil(worst, pad.ports), near, rom


# ---------------------------------------------------------------- transfers
def transfer_bursts(
    operand: Operand, extents: Sequence[int], first: int, burst: int, ring: int, start: int
) -> tuple[int, int, int]:
    """Bursts, contiguous runs and bytes of a transfer whose first element is at `first`.

    A run is as long as elements follow one another; each touches every aligned burst that it has a
    byte in.
    """
    size = operand.type.bytes
    dims = list(zip(extents[:4], operand.strides[:4], strict=True))
    pieces = [(0, dims)]
    if ring:
        before = min(extents[2], ring - start)
        pieces = [(start * dims[2][1], [*dims[:2], (before, dims[2][1]), dims[3]])]
        if before < extents[2]:
            rest = (extents[2] - before, dims[2][1])
            pieces.append((0, [*dims[:2], rest, dims[3]]))
    bursts = runs = 0
    for offset, piece in pieces:
        run = size
        outer: list[tuple[int, int]] = []
        for extent, stride in sorted(piece, key=lambda pair: abs(pair[1])):
            if extent == 1:
                continue
            if stride == run and not outer:
                run *= extent
            else:
                outer.append((extent, stride))
        places = np.zeros(1, np.int64)
        for extent, stride in outer:
            places = (places[:, None] + np.arange(extent) * stride).reshape(-1)
        places = (places + first + offset) % burst
        bursts += int(((places + run - 1) // burst + 1).sum())
        runs += len(places)
    return bursts, runs, size * math.prod(extents[:4])


# ---------------------------------------------------------------- the cost of an instruction
def cost(
    each: Instruction, description: Description, rom: bytes = b"", first: int | None = None
) -> Cost:
    """What one instruction of a checked program takes.

    Parameters
    ----------
    each : Instruction
    description : Description
    rom : bytes
        The program's tables, for BUTTERFLY.
    first : int, optional
        Of LOAD and STORE: the address in external memory of the operand's point 0; by default its
        base.

    Examples
    --------
    A tile of 32 x 32 sums of 96 products on 1024 MACs: 96 cycles and the latency.

    >>> from parc_hw.accel.description import load_description
    >>> from parc_hw.isa import Operand, Space, Type, matrix_mac
    >>> a = Operand(Space.SCRATCHPAD, Type.I8, 0, (96, 0, 0, 0, 0, 0, 1))
    >>> b = Operand(Space.SCRATCHPAD, Type.I8, 4096, (0, 0, 0, 1, 0, 0, 32))
    >>> sums = Operand(Space.ACCUMULATOR, Type.I64, 0, (32, 0, 0, 1))
    >>> each = matrix_mac(a, b, sums, (32, 1, 1, 32, 1, 1, 96))
    >>> cost(each, load_description("edge-npu")).cycles
    102
    """
    if each.opcode in (Opcode.LOAD, Opcode.STORE):
        return _transfer(each, description, first)
    if each.opcode in (Opcode.MATRIX_MAC, Opcode.CIRCULAR_MAC):
        return _mac(each, description)
    if each.opcode is Opcode.BUTTERFLY:
        return _butterfly(each, description, rom)
    if each.opcode is Opcode.SPECTRUM_PRODUCT:
        return _product(each, description)
    if each.opcode in (Opcode.VECTOR, Opcode.REQUANTISE):
        return _vector(each, description)
    return Cost(cycles=1 if each.opcode is Opcode.SYNC else 0)


def _transfer(each: Instruction, d: Description, first: int | None) -> Cost:
    far, near = (each.a, each.out) if each.opcode is Opcode.LOAD else (each.out, each.a)
    first = far.base if first is None else first
    bursts, _, size = transfer_bursts(
        far, each.extents, first, d.external.burst_bytes, each.ring, each.start
    )
    moved = bursts * d.external.burst_bytes
    bus = math.ceil(moved / d.external.bytes_per_cycle)
    inside = _near_cycles(near, each.extents, d.dma.width_bytes)
    energy = moved * d.energy.external_byte + size * d.energy.scratchpad_byte
    return Cost(
        cycles=max(bus, inside),
        latency=d.external.latency,
        work=size,
        scratchpad_bytes=size,
        external_bytes=moved,
        energy_pj=energy,
        bound="bus" if bus >= inside else "scratchpad",
    )


def _near_cycles(near: Operand, extents: Sequence[int], width: int) -> int:
    """Cycles of the scratchpad's side: each contiguous run takes whole cycles of `width` bytes."""
    run, count = near.type.bytes, 1
    dims = zip(extents[:4], near.strides[:4], strict=True)
    for extent, stride in sorted(dims, key=lambda pair: abs(pair[1])):
        if extent == 1:
            continue
        if stride == run and count == 1:
            run *= extent
        else:
            count *= extent
    return count * _ceil(run, width)


def _mac(each: Instruction, d: Description) -> Cost:
    mac, extents = d.mac, each.extents
    outputs, summed = extents[:4], math.prod(extents[4:])
    rows = math.prod(n for n, s in zip(outputs, each.b.strides, strict=False) if not s)
    columns = math.prod(n for n, s in zip(outputs, each.b.strides, strict=False) if s)
    folds = _ceil(rows, mac.rows) * _ceil(columns, mac.columns)
    passes = mac.passes(8 * each.a.type.bytes, 8 * each.b.type.bytes)
    busy = summed * mac.interval * passes
    banks, near, rom = _bank_load(
        [
            (each.a, _fold(each, mac.rows, mac.columns)),
            (each.b, _fold(each, mac.rows, mac.columns)),
        ],
        d,
    )
    _, starts, _ = _bank_load([(each.c, (*outputs, 1, 1, 1))], d)
    step = max(busy, banks)
    work = math.prod(extents)
    energy = d.energy
    return Cost(
        cycles=folds * (step + mac.fold_cycles) + mac.latency,
        work=work,
        scratchpad_bytes=folds * near + starts,
        rom_bytes=folds * rom,
        energy_pj=work * passes * energy.mac
        + (folds * near + starts) * energy.scratchpad_byte
        + folds * rom * energy.rom_byte,
        bound="compute" if busy >= banks else "banks",
    )


def _fold(each: Instruction, rows: int, columns: int) -> tuple[int, ...]:
    """The extents of the first tile of rows x columns: filled from d3 outwards."""
    found = list(each.extents)
    left = {True: columns, False: rows}
    for i in (3, 2, 1, 0):
        column = each.b.strides[i] != 0
        found[i] = min(found[i], left[column])
        left[column] = max(left[column] // found[i], 1)
    if each.opcode is Opcode.CIRCULAR_MAC:  # the places that the tile's windows touch
        found[1] = min(found[1] + found[4] - 1, each.ring)
    return tuple(found)


def _butterfly(each: Instruction, d: Description, rom: bytes) -> Cost:
    unit, (d0, d1, length, parts) = d.butterfly, each.extents[:4]
    if each.function == Function.GRAPH:
        graph = read_graph(rom, each.b.base)
        work, interval = d0 * d1, (unit.interval(0) or 1) * max(len(graph.rows), 1)
        table = 0
    else:
        stage = read_stage(rom, each.b.base)
        work, interval = d0 * d1 * length // stage.radix, unit.interval(stage.radix) or 1
        table = 8 * length
    busy = _ceil(work, unit.units) * interval
    extents = (d0, d1, length, parts, 1, 1, 1)
    banks, near, _ = _bank_load([(each.a, extents), (each.out, extents)], d)
    energy = d.energy
    return Cost(
        cycles=max(busy, banks) + unit.latency,
        work=work,
        scratchpad_bytes=near,
        rom_bytes=table,
        energy_pj=work * energy.butterfly + near * energy.scratchpad_byte + table * energy.rom_byte,
        bound="compute" if busy >= banks else "banks",
    )


def _product(each: Instruction, d: Description) -> Cost:
    unit, extents = d.complex, each.extents
    work = extents[0] * extents[1] * extents[2] * extents[6]
    busy = _ceil(work, unit.units) * unit.interval
    outputs = (*extents[:4], 1, 1, 1)
    banks, near, rom = _bank_load([(each.a, extents), (each.b, extents), (each.out, outputs)], d)
    energy = d.energy
    return Cost(
        cycles=max(busy, banks) + unit.latency,
        work=work,
        scratchpad_bytes=near,
        rom_bytes=rom,
        energy_pj=work * energy.complex_multiply
        + near * energy.scratchpad_byte
        + rom * energy.rom_byte,
        bound="compute" if busy >= banks else "banks",
    )


def _vector(each: Instruction, d: Description) -> Cost:
    unit, extents = d.vector, each.extents
    name = "requantise"
    if each.opcode is Opcode.VECTOR:
        name = Function(each.function).name.lower()
    element = unit.cost(name) or 1
    work = math.prod(extents)
    busy = _ceil(work, unit.lanes) * element
    outputs = (*extents[:4], 1, 1, 1)
    operands = [(each.a, extents), (each.c, outputs), (each.out, outputs)]
    if name not in ("activate", "softmax"):  # their tables are looked up in the lanes
        operands.append((each.b, outputs))
    if Flag.ACCUMULATE in each.flags:
        operands.append((each.out, outputs))
    banks, near, rom = _bank_load(operands, d)
    energy = d.energy
    return Cost(
        cycles=max(busy, banks) + unit.latency,
        work=work,
        scratchpad_bytes=near,
        rom_bytes=rom,
        energy_pj=work * element * energy.vector
        + near * energy.scratchpad_byte
        + rom * energy.rom_byte,
        bound="compute" if busy >= banks else "banks",
    )
