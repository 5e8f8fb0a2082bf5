"""How does an instruction become 80 words of 32 bits, and come back?

    word   0 opcode    1 function   2 wait    3 signal   4 tag   5 flags
           6..12 extents   13 ring   14 start   15 lo   16 hi   17 immediate   18 immediate2
           19 shift   20 up_a   21 up_b   22 rounding   23 zero
          24..36 a    37..49 b    50..62 c    63..75 out    76..79 zero

An operand is space + 256 * type, base, seven strides, four steps. All words are signed and little
endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parc_hw.errors import InputError
from parc_hw.isa import DIMENSIONS, LOOPS, OPERANDS, Instruction, Operand, Space, Type

__all__ = ["WORDS", "decode", "encode"]

WORDS: Final = 80
"""Of an instruction."""

_FIRST = ("opcode", "function", "wait", "signal", "tag", "flags")
_LATER = (
    "ring", "start", "lo", "hi", "immediate", "immediate2", "shift", "up_a", "up_b", "rounding",
)  # fmt: skip
_EXTENTS = len(_FIRST)
_REST = _EXTENTS + DIMENSIONS
_OPERAND = 2 + DIMENSIONS + LOOPS
_OPERANDS = 24
_UNUSED = (23, 76, 77, 78, 79)

Words = NDArray[np.int32]


def encode(instructions: Sequence[Instruction]) -> Words:
    """Return the words of instructions, shape (count, 80)."""
    rows = np.zeros((len(instructions), WORDS), np.int32)
    for row, instruction in zip(rows, instructions, strict=True):
        row[:_EXTENTS] = [getattr(instruction, name) for name in _FIRST]
        row[_EXTENTS:_REST] = instruction.extents
        row[_REST : _REST + len(_LATER)] = [getattr(instruction, name) for name in _LATER]
        for k, operand in enumerate(instruction.operands):
            at = _OPERANDS + k * _OPERAND
            row[at : at + _OPERAND] = (
                operand.space + 256 * operand.type,
                operand.base,
                *operand.strides,
                *operand.steps,
            )
    return rows


def decode(words: Words) -> list[Instruction]:
    """Return the instructions of words, shape (count, 80).

    Raises
    ------
    InputError
        A word that no instruction has: says which instruction and field.
    """
    found = []
    seen: dict[bytes, Instruction] = {}
    for number, row in enumerate(words):
        key = row.tobytes()
        if key not in seen:
            try:
                seen[key] = _decoded(row.tolist())
            except InputError as error:
                raise InputError(f"instruction {number}: {error}") from None
        found.append(seen[key])
    return found


def _decoded(row: list[int]) -> Instruction:
    for place in _UNUSED:
        if row[place]:
            raise InputError(f"word {place} is {row[place]}; accepted: 0.")
    values: dict[str, Any] = dict(zip(_FIRST, row, strict=False))
    values["extents"] = tuple(row[_EXTENTS:_REST])
    values.update(zip(_LATER, row[_REST:], strict=False))
    for k, name in enumerate(OPERANDS):
        head, base, *rest = row[_OPERANDS + k * _OPERAND : _OPERANDS + (k + 1) * _OPERAND]
        try:
            values[name] = Operand(
                Space(head & 255),
                Type(head >> 8),
                base,
                tuple(rest[:DIMENSIONS]),
                tuple(rest[DIMENSIONS:]),
            )
        except ValueError as error:
            raise InputError(
                f"{name}: {error}; accepted: those of isa.Space and isa.Type."
            ) from None
    return Instruction(**values)
