"""What does lowering hand to the bundle: which kernels run in which order on which bytes?

A `Program` is plain data (no TVM objects) of one model on one device, for one or several input
shapes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

__all__ = ["Call", "Kernel", "Layer", "Operand", "Place", "Program", "ShapePlan", "Tensor"]


class Place(enum.Enum):
    """Where an operand lives."""

    INPUT = "input"  # index: which model input
    OUTPUT = "output"  # index: which model output
    ARENA = "arena"  # offset_bytes into the arena
    WEIGHTS = "weights"  # offset_bytes into the weights blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """The address of a kernel argument."""

    place: Place
    index: int = 0
    offset_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One compiled function.

    C signature: `int32_t symbol(void *arg0, ..., [int32_t begin, int32_t end,] [void *scratch])`;
    begin and end are there when `extent` > 0, scratch when `scratch_bytes` > 0. Returns 0.
    """

    symbol: str
    arguments: int  # how many buffer pointers
    extent: int  # iterations of the parallel loop; 0: not divisible
    scratch_bytes: int  # private memory of one task, 64-byte aligned


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Run `kernels[kernel]` on `operands`; the last operand is the one written."""

    kernel: int
    operands: tuple[Operand, ...]
    layer: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What a call computes, for people and for verification."""

    name: str  # where in the source model, e.g. "stages.2.6.pwconv1"
    source: str  # name of the torch.fx node whose value it is ("" when there is none)
    ops: str  # "matmul.add.gelu"
    rule: str  # rule that made the kernel
    note: str  # plan or tile and why
    macs: int
    shape: tuple[int, ...]  # as stored
    order: tuple[int, ...]  # order[k] = logical axis stored at memory position k
    output: Operand
    record: str = ""  # the tuning record used
    untuned: str = ""  # why none was, where one was looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A model input or output at the user's boundary (logical order, float32)."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapePlan:
    """What a program does for one set of input shapes."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    layers: tuple[Layer, ...]
    arena_bytes: int
    live_peak_bytes: int  # largest sum of 64-byte-aligned bytes live at one call

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A model lowered for one or several sets of input shapes.

    Kernels, weights and the arena serve all of them; the first is the one that examples use.
    """

    shapes: tuple[ShapePlan, ...]  # at least one; names and numbers of tensors are the same in all
    kernels: tuple[Kernel, ...]
    weights: bytes = field(repr=False)
    objects: tuple[bytes, ...] = field(repr=False)  # relocatable ELF files holding every kernel

    @property
    def arena_bytes(self) -> int:
        """Bytes of intermediate values: the largest any shape needs."""
        return max(shape.arena_bytes for shape in self.shapes)

    @property
    def live_peak_bytes(self) -> int:
        """Most bytes of intermediate values that are live at one call, for any shape."""
        return max(shape.live_peak_bytes for shape in self.shapes)

    @property
    def scratch_bytes(self) -> int:
        """Scratch of one thread: the largest any kernel asks for."""
        return max((k.scratch_bytes for k in self.kernels), default=0)
