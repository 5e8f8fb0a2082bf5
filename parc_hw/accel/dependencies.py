"""Which instructions touch the same memory, and do tokens put them in order?

Two instructions of different queues conflict when one writes what the other reads or writes. A
program is right if of any two that conflict the later one in the program cannot start before the
earlier one has ended: then the queues give what running it instruction by instruction gives.
`check_order` proves that, `synchronise` makes it so with as few tokens as the order needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parc_hw.accel.rom import NORM_BYTES
from parc_hw.accel.stream import Stream, expand
from parc_hw.errors import InputError
from parc_hw.isa import (
    DIMENSIONS,
    LOOPS,
    Function,
    Instruction,
    Opcode,
    Operand,
    Queue,
    Space,
    end,
    loop,
)

__all__ = ["check_order", "roll", "synchronise"]

Ints = NDArray[np.int64]
_SLOTS: Final = 4
_MOST: Final = 1 << 24
_DEEP: Final = 3  # counted dimensions around a run; more are taken as the whole range


@dataclass(frozen=True, eq=False)
class _Accesses:
    """What each instruction touches: `slots` rows of numbers for each, for the compiled search.

    A row: space (0: nothing), whether it writes, lowest address, run, three times (extent, stride)
    outermost first. The addresses are low + sum of counters * strides + 0 .. run - 1.
    """

    rows: Ints  # (instructions, 4, 10)
    steps: Ints  # (instructions, 4, LOOPS)


def _accesses(instructions: Sequence[Instruction]) -> _Accesses:
    rows = np.zeros((len(instructions), _SLOTS, 4 + 2 * _DEEP), np.int64)
    steps = np.zeros((len(instructions), _SLOTS, LOOPS), np.int64)
    known: dict[tuple[Operand, tuple[int, ...], int], list[int]] = {}
    for number, each in enumerate(instructions):
        for slot, operand in enumerate(each.operands):
            if operand.space in (Space.NONE, Space.ROM):
                continue
            extents, unit = _touched(each, slot, operand)
            key = operand, extents, unit
            if key not in known:
                known[key] = _row(operand, extents, unit)
            row = known[key]
            rows[number, slot] = [int(operand.space), int(slot == _SLOTS - 1), *row]
            steps[number, slot] = operand.steps
    return _Accesses(rows, steps)


def _touched(each: Instruction, slot: int, operand: Operand) -> tuple[tuple[int, ...], int]:
    """How many places an operand takes along each dimension, and the size of an element."""
    extents = list(each.extents)
    if slot >= 2 or (each.opcode in (Opcode.VECTOR, Opcode.REQUANTISE) and slot == 1):
        extents[4:] = [1, 1, 1]
    if each.ring:
        if each.opcode is Opcode.CIRCULAR_MAC and slot == 0:
            extents[1] = each.ring
        elif operand.space is Space.EXTERNAL:
            extents[2] = each.ring
    unit = operand.unit
    if slot == 1 and each.opcode is Opcode.VECTOR:
        if each.function in (Function.ACTIVATE, Function.SOFTMAX):
            return (1,) * DIMENSIONS, 4 * each.immediate
        if each.function == Function.LAYER_NORM:
            unit = NORM_BYTES
    return tuple(extents), unit


def _row(operand: Operand, extents: tuple[int, ...], unit: int) -> list[int]:
    low = operand.base
    by_stride: dict[int, int] = {}
    for extent, stride in zip(extents, operand.strides, strict=True):
        if extent == 1 or stride == 0:
            continue
        if stride < 0:
            low += (extent - 1) * stride
        # Two dimensions of one stride, as windows have: places 0 .. e1 + e2 - 2.
        by_stride[abs(stride)] = by_stride.get(abs(stride), 1) + extent - 1
    run = unit
    outer: list[tuple[int, int]] = []
    for stride, extent in sorted(by_stride.items()):
        if stride <= run and not outer:
            run = stride * (extent - 1) + run
        elif outer and stride < outer[-1][1] * (outer[-1][0] - 1) + run:
            # not nested: the whole range counts
            run += sum((n - 1) * s for n, s in outer) + stride * (extent - 1)
            outer = []
        else:
            outer.append((extent, stride))
    while len(outer) > _DEEP:
        extent, stride = outer.pop(0)
        run += (extent - 1) * stride
    outer = [*reversed(outer), *[(1, 0)] * (_DEEP - len(outer))]
    return [low, run, *(number for pair in outer for number in pair)]


def check_order(instructions: Sequence[Instruction], stream: Stream, senders: Ints) -> None:
    """Raise unless tokens order every two instructions that conflict.

    Parameters
    ----------
    instructions : sequence of Instruction
    stream : Stream
        Of them.
    senders : int array, shape (n, 6)
        From `match_tokens`.

    Raises
    ------
    InputError
        Two instructions race: names them, the memory and an address that both may touch.
    """
    from parc_hw.accel.conflicts import find

    accesses = _accesses(instructions)
    first, second = find(
        stream.index, stream.counters, stream.queue, senders, accesses.rows, accesses.steps, False
    )[:2]
    if first >= 0:
        one, two = int(stream.index[first]), int(stream.index[second])
        raise InputError(
            f"instruction {two} ({instructions[two].opcode.name}) may start before instruction "
            f"{one} ({instructions[one].opcode.name}) has ended, and both touch the same memory: "
            f"{_shared(instructions[one], instructions[two])}. No token orders them; "
            f"`parc_hw.accel.dependencies.synchronise` places what is needed."
        )


def _shared(one: Instruction, two: Instruction) -> str:
    spaces = {o.space for o in one.operands if o} & {o.space for o in two.operands if o}
    names = sorted(space.name for space in spaces if space is not Space.ROM)
    return ", ".join(names)


def synchronise(instructions: Sequence[Instruction]) -> list[Instruction]:
    """Return the instructions with the tokens that keep their order wherever they conflict.

    Parameters
    ----------
    instructions : sequence of Instruction
        Without LOOP and END; what they have in `wait` and `signal` is dropped.

    Notes
    -----
    In program order, an instruction waits in each other queue for the last instruction there that
    it conflicts with, unless what it waits for already implies that. The k-th token from a queue
    to another is taken by the k-th instruction that waits, because both rise in program order.

    Raises
    ------
    InputError
        There are loops: their bodies would need different tokens from turn to turn.
    """
    from parc_hw.accel.conflicts import find

    for number, each in enumerate(instructions):
        if each.opcode in (Opcode.LOOP, Opcode.END):
            raise InputError(
                f"instruction {number} is a {each.opcode.name}; tokens are placed in programs "
                f"without loops. Unroll them first; `roll` finds loops afterwards."
            )
    stream = expand(instructions, _MOST)
    accesses = _accesses(instructions)
    senders = np.full((len(instructions), len(Queue)), -1, np.int64)
    find(stream.index, stream.counters, stream.queue, senders, accesses.rows, accesses.steps, True)
    wait = ((senders >= 0) << np.arange(len(Queue))).sum(axis=1)
    signal = np.zeros(len(instructions), np.int64)
    for place, p in zip(*np.nonzero(senders >= 0), strict=True):
        signal[senders[place, p]] |= 1 << int(stream.queue[place])
    return [
        each
        if (each.wait, each.signal) == (int(w), int(s))
        else replace(each, wait=int(w), signal=int(s))
        for each, w, s in zip(instructions, wait, signal, strict=True)
    ]


# ---------------------------------------------------------------- loops
def roll(instructions: Sequence[Instruction], longest: int = 64) -> list[Instruction]:
    """Return the same stream with repeats as loops, where addresses move by equal steps.

    Parameters
    ----------
    instructions : sequence of Instruction
        Without loops.
    longest : int
        Instructions of a loop's body, at most.
    """
    from parc_hw.accel.encoding import encode

    if not instructions:
        return []
    words = encode(instructions).astype(np.int64)
    bases = np.array([25, 38, 51, 64])  # of a, b, c and out, in `encoding`'s order
    shape = np.delete(words, bases, axis=1)
    _, kind = np.unique(shape, axis=0, return_inverse=True)
    kind, base = kind.reshape(-1), words[:, bases]
    count = len(instructions)
    out: list[Instruction] = []
    at = 0
    while at < count:
        best = (0, 0)  # instructions saved, body
        for body in range(1, min(longest, (count - at) // 2) + 1):
            turns = _turns(kind, base, at, body)
            saved = body * turns - body - 2
            if turns > 1 and saved > best[0]:
                best = saved, body
        if not best[0]:
            out.append(instructions[at])
            at += 1
            continue
        body = best[1]
        turns = _turns(kind, base, at, body)
        out.append(loop(turns))
        for k in range(at, at + body):
            step = base[k + body] - base[k]
            out.append(_stepping(instructions[k], step.tolist()))
        out.append(end())
        at += body * turns
    return out


def _turns(kind: Ints, base: Ints, at: int, body: int) -> int:
    """How often the body that begins at `at` is repeated with constant steps."""
    turns = 1
    here = kind[at : at + body]
    step = None
    while at + (turns + 1) * body <= len(kind):
        begin = at + turns * body
        if not np.array_equal(kind[begin : begin + body], here):
            break
        moved = base[begin : begin + body] - base[begin - body : begin]
        if step is None:
            step = moved
        elif not np.array_equal(moved, step):
            break
        turns += 1
    return turns


def _stepping(each: Instruction, step: list[int]) -> Instruction:
    def moved(operand: Operand, by: int) -> Operand:
        return replace(operand, steps=(by,)) if operand and by else operand

    names = ("a", "b", "c", "out")
    changed = {name: moved(getattr(each, name), by) for name, by in zip(names, step, strict=True)}
    return replace(each, **changed)  # type: ignore[arg-type]
