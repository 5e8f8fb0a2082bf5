"""Compute instructions on arrays put into the scratchpad, and what they leave there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parc_hw.accel.container import Program
from parc_hw.accel.dependencies import synchronise
from parc_hw.accel.description import Description, load_description
from parc_hw.accel.simulator import Result, run
from parc_hw.isa import Function, Instruction, Operand, Space, Type, load, store, vector

TYPES = {np.dtype(np.int8): Type.I8, np.dtype(np.int16): Type.I16, np.dtype(np.int32): Type.I32,
         np.dtype(np.int64): Type.I64}  # fmt: skip


def near(array_or_type: Any, base: int, strides: Sequence[int] = ()) -> Operand:
    """An operand in the scratchpad; strides in bytes."""
    if isinstance(array_or_type, Type):
        return Operand(Space.SCRATCHPAD, array_or_type, base, tuple(strides))
    return Operand(Space.SCRATCHPAD, TYPES[array_or_type.dtype], base, tuple(strides))


def sums(base: int, strides: Sequence[int]) -> Operand:
    """An operand in the accumulators."""
    return Operand(Space.ACCUMULATOR, Type.I64, base, tuple(strides))


def far(type_: Type, base: int, strides: Sequence[int] = ()) -> Operand:
    """An operand in external memory."""
    return Operand(Space.EXTERNAL, type_, base, tuple(strides))


def row_strides(shape: Sequence[int], size: int) -> tuple[int, ...]:
    """Strides of an array in C order."""
    strides = [size]
    for extent in reversed(shape[1:]):
        strides.insert(0, strides[0] * extent)
    return tuple(strides)


def make(
    description: Description | str,
    instructions: Sequence[Instruction],
    *,
    external_bytes: int = 0,
    rom: bytes = b"",
    constants: Sequence[tuple[int, bytes]] = (),
    tokens: bool = True,
) -> tuple[Program, Description]:
    """A program with tokens placed."""
    machine = load_description(description) if isinstance(description, str) else description
    code = synchronise(instructions) if tokens else list(instructions)
    program = Program(
        instructions=tuple(code),
        description_hash=machine.hash,
        external_bytes=external_bytes,
        rom=rom,
        constants=tuple(constants),
    )
    return Program.from_bytes(program.to_bytes(), machine), machine


def compute(
    instructions: Sequence[Instruction],
    inputs: Mapping[int, np.ndarray[Any, Any]],
    out: tuple[int, Any, tuple[int, ...]],
    *,
    rom: bytes = b"",
    description: Description | str = "edge-npu",
) -> tuple[np.ndarray[Any, Any], Result]:
    """Load `inputs` (scratchpad address: array), run, store and return `out` (address, dtype, shape)."""
    code: list[Instruction] = []
    constants: list[tuple[int, bytes]] = []
    at = 0
    for base, array in inputs.items():
        data = np.ascontiguousarray(array).tobytes()
        constants.append((at, data))
        code.append(
            load(
                far(Type.I8, at, (0, 0, 0, 1)),
                near(Type.I8, base, (0, 0, 0, 1)),
                (1, 1, 1, len(data)),
            )
        )
        at += -(-len(data) // 8) * 8
    base, dtype, shape = out
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    code += instructions
    code.append(
        store(near(Type.I8, base, (0, 0, 0, 1)), far(Type.I8, at, (0, 0, 0, 1)), (1, 1, 1, size))
    )
    program, machine = make(
        description, code, external_bytes=at + size, rom=rom, constants=constants
    )
    result = run(program, machine)
    return result.external[at:].view(dtype).reshape(shape), result


def drain(base: int, to: int, count: int) -> Instruction:
    """Accumulators to int64 words of the scratchpad."""
    return vector(
        Function.COPY,
        near(Type.I64, to, (0, 0, 0, 8)),
        (1, 1, 1, count),
        a=sums(base, (0, 0, 0, 1)),
    )
