"""How do the steps of a scheduled kernel become instructions of the machine?

`schedules.accel` says what moves and what is computed, buffer by buffer; here buffers get places in
the memories, loops become the dimensions of instructions, and everything that one instruction
needs besides (ends, roundings, table sizes) comes from the kernel's stage. Nothing is emitted
unless all buffers fit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parc_hw.accel.description import Description
from parc_hw.errors import UnsupportedError
from parc_hw.isa import (
    DIMENSIONS,
    Flag,
    Function,
    Instruction,
    Opcode,
    Operand,
    Space,
    Type,
)
from schedules.accel.kernel import WORD_BYTES, Kernel, Stage

if TYPE_CHECKING:
    from schedules.accel.lowering import Address, Buffer, Call, Copy, Lowered, Step

__all__ = ["DoesNotFit", "Memory", "Place", "Sizes", "generate", "place_buffers", "sizes_of"]

_TYPES = {"int8": Type.I8, "int16": Type.I16, "int32": Type.I32, "int64": Type.I64}
_SCRATCHPAD, _ACCUMULATORS = "global.spm", "global.acc"
_DMA_DIMENSIONS = 4


class DoesNotFit(UnsupportedError):
    """A kernel's buffers are larger than the machine's memories."""

    def __init__(self, message: str, *, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of a kernel begins."""

    space: Space
    base: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a kernel's buffers take: bytes of scratchpad, accumulators."""

    scratchpad: int
    accumulators: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Where each on-chip buffer lies, in bytes of scratchpad or in accumulators."""

    places: Mapping[str, Place]
    sizes: Sizes


def _bytes(buffer: Buffer) -> int:
    return buffer.elements * WORD_BYTES[buffer.dtype]


def _aligned(value: int, to: int) -> int:
    return -(-value // to) * to


def sizes_of(lowered: Lowered, description: Description) -> Sizes:
    """What the buffers of a lowered kernel take together."""
    return place_buffers(lowered, description).sizes


def place_buffers(
    lowered: Lowered,
    description: Description,
    *,
    scratchpad: int = 0,
    accumulators: int = 0,
) -> Memory:
    """Lay the on-chip buffers one behind the other, from the given addresses on."""
    # A bank's word per buffer, so that two of them never share one; never below an int64.
    word = max(description.scratchpad.width_bytes, WORD_BYTES["int64"])
    start = at = _aligned(scratchpad, word)
    first = sums = accumulators
    places = {}
    for buffer in lowered.buffers.values():
        if buffer.scope == _SCRATCHPAD:
            places[buffer.name] = Place(Space.SCRATCHPAD, at)
            at = _aligned(at + _bytes(buffer), word)
        elif buffer.scope == _ACCUMULATORS:
            places[buffer.name] = Place(Space.ACCUMULATOR, sums)
            sums += buffer.elements
    return Memory(places=places, sizes=Sizes(at - start, sums - first))


def check_sizes(kernel: Kernel, sizes: Sizes, description: Description) -> None:
    """Raise unless the machine's memories hold a kernel's buffers.

    Raises
    ------
    DoesNotFit
        Says which memory, and how much of it is missing.
    """
    missing = sizes.scratchpad - description.scratchpad.bytes
    if missing > 0:
        raise DoesNotFit(
            f"{kernel.name}: its tiles take {sizes.scratchpad} bytes of scratchpad, and "
            f"{description.name} has {description.scratchpad.bytes}: {missing} bytes are missing.",
            missing=missing,
        )
    missing = sizes.accumulators - description.accumulator.words
    if missing > 0:
        raise DoesNotFit(
            f"{kernel.name}: its tiles take {sizes.accumulators} accumulators, and "
            f"{description.name} has {description.accumulator.words}: {missing} are missing.",
            missing=missing,
        )


def generate(
    kernel: Kernel,
    lowered: Lowered,
    external: Mapping[str, Place],
    memory: Memory,
    *,
    tag: int = 0,
    steps: Iterable[Step] | None = None,
) -> list[Instruction]:
    """Return the instructions of a kernel, in the order in which they would run one by one.

    Parameters
    ----------
    kernel : Kernel
    lowered : Lowered
        Of `schedules.accel.tiling.schedule`.
    external : mapping of str to Place
        Where each parameter lies, in external or read-only memory; bases in bytes.
    memory : Memory
        Of `place_buffers`.
    tag : int
        The layer's number, for counters.
    steps : iterable of Step, optional
        `lowered.steps()`, if there is a copy of it.
    """
    return _Generator(kernel, lowered, external, memory, tag).run(
        lowered.steps() if steps is None else steps
    )


class _Generator:
    def __init__(
        self,
        kernel: Kernel,
        lowered: Lowered,
        external: Mapping[str, Place],
        memory: Memory,
        tag: int,
    ) -> None:
        self.kernel, self.lowered, self.tag = kernel, lowered, tag
        self.places = {**external, **memory.places}
        self.stages = {stage.name: stage for stage in kernel.stages}
        self.filled: set[tuple[str, int]] = set()  # what a sum will start from

    def run(self, steps: Iterable[Step]) -> list[Instruction]:
        from schedules.accel.lowering import Copy

        found: list[Instruction] = []
        for step in steps:
            if isinstance(step, Copy):
                found += self.copy(step)
            elif step.name == "fill":
                target: Any = step.arguments[0]
                self.filled.add((target.buffer, target.offset))
            else:
                found += self.call(step)
        if self.filled:  # every schedule fills what a sum then starts from
            raise UnsupportedError(f"{self.kernel.name}: a fill without a sum at {self.filled}.")
        return found

    def operand(self, address: Address, strides: Iterable[int]) -> Operand:
        buffer = self.lowered.buffers[address.buffer]
        place = self.places[address.buffer]
        unit = 1 if place.space is Space.ACCUMULATOR else WORD_BYTES[buffer.dtype]
        return Operand(
            place.space,
            _TYPES[buffer.dtype],
            place.base + address.offset * unit,
            tuple(stride * unit for stride in strides),
        )

    # -- transfers -------------------------------------------------------------------------------
    def copy(self, step: Copy) -> list[Instruction]:
        """One transfer, or as many as the dimensions beyond four ask for."""
        inward = self.places[step.source.buffer].space is Space.EXTERNAL
        dims = _merged(step)
        beyond, dims = dims[:-_DMA_DIMENSIONS], dims[-_DMA_DIMENSIONS:]
        offsets = [(0, 0)]
        for extent, to, of in beyond:
            offsets = [(a + n * to, b + n * of) for a, b in offsets for n in range(extent)]
        # Rows go on d0 .. d2 and what is contiguous on d3, which is where a burst is.
        dims = [(1, 0, 0)] * (_DMA_DIMENSIONS - len(dims)) + dims
        extents = tuple(extent for extent, _, _ in dims)
        found = []
        for to, of in offsets:
            target = self.operand(_moved(step.target, to), (stride for _, stride, _ in dims))
            source = self.operand(_moved(step.source, of), (stride for _, _, stride in dims))
            found.append(
                Instruction(
                    opcode=Opcode.LOAD if inward else Opcode.STORE,
                    a=source,
                    out=target,
                    extents=extents,
                    tag=self.tag,
                )
            )
        return found

    # -- computation -----------------------------------------------------------------------------
    def call(self, step: Call) -> list[Instruction]:
        """One instruction, or as many as the loops beyond its dimensions ask for."""
        stage = self.stages[step.name]
        count = 1 + len(stage.reads)
        addresses: Any = step.arguments[:count]
        numbers: Any = step.arguments[count:]
        loops = [name for name in stage.dims if name is not None]
        whole = dict(zip(loops, numbers[: len(loops)], strict=True))
        strides = [
            dict(zip(loops, numbers[len(loops) * (n + 1) : len(loops) * (n + 2)], strict=True))
            for n in range(count)
        ]
        # An address is the lowest of its region, and a negative stride begins at its other end.
        first = [
            sum((1 - whole[name]) * stride for name, stride in own.items() if stride < 0)
            for own in strides
        ]
        dims = stage.dims[:DIMENSIONS]
        extents = tuple(1 if name is None else whole[name] for name in dims)
        found = []
        for point in itertools.product(*(range(whole[name]) for name in stage.repeated)):
            operands = []
            for address, begin, own in zip(addresses, first, strides, strict=True):
                at = zip(stage.repeated, point, strict=True)
                moved = _moved(address, begin + sum(n * own[name] for name, n in at))
                operands.append(self.operand(moved, (own[name] if name else 0 for name in dims)))
            build = _BUILD[stage.name.split("__")[0]]
            found.append(build(self, stage, addresses, operands, extents))
        return found

    def starts(self, address: Address) -> bool:
        """Whether a sum at `address` begins; else it goes on with what is there."""
        begins = (address.buffer, address.offset) in self.filled
        self.filled.discard((address.buffer, address.offset))
        return begins


def _moved(address: Address, by: int) -> Address:
    return type(address)(address.buffer, address.offset + by) if by else address


def _merged(step: Copy) -> list[tuple[int, int, int]]:
    """(extent, target stride, source stride) with neighbours that are one run made one."""
    dims: list[tuple[int, int, int]] = []
    for extent, to, of in zip(step.extents, step.target_strides, step.source_strides, strict=True):
        if extent == 1:
            continue
        if dims and dims[-1][1] == extent * to and dims[-1][2] == extent * of:
            before = dims.pop()
            dims.append((before[0] * extent, to, of))
        else:
            dims.append((extent, to, of))
    if not dims or dims[-1][1:] != (1, 1):
        dims.append((1, 1, 1))
    return dims


Operands = list[Operand]


def _products(
    self: _Generator, stage: Stage, addresses: Any, operands: Operands, extents: tuple[int, ...]
) -> Instruction:
    out, a, b = operands
    flags = Flag.NONE if self.starts(addresses[0]) else Flag.ACCUMULATE
    ring = stage.fields.get("ring", 0)
    if ring:  # the place on the ring counts d1 and d4 together
        a = Operand(a.space, a.type, a.base, (*a.strides[:4], 0, *a.strides[5:]))
    return Instruction(
        opcode=Opcode.CIRCULAR_MAC if ring else Opcode.MATRIX_MAC,
        ring=ring,
        flags=flags,
        extents=extents,
        a=a,
        b=b,
        out=out,
        tag=self.tag,
    )


def _reduced(
    self: _Generator, stage: Stage, addresses: Any, operands: Operands, extents: tuple[int, ...]
) -> Instruction:
    flags = Flag.NONE if self.starts(addresses[0]) else Flag.ACCUMULATE
    function = Function[stage.name.upper()]
    return Instruction(
        opcode=Opcode.VECTOR,
        function=function,
        flags=flags,
        extents=extents,
        a=operands[1],
        out=operands[0],
        tag=self.tag,
        **stage.fields,
    )


def _requantised(
    self: _Generator, stage: Stage, addresses: Any, operands: Operands, extents: tuple[int, ...]
) -> Instruction:
    out, a, *rest = operands
    fields = {"immediate": 1, **stage.fields}
    names = ("c",) if fields.pop("biased", False) else ("b", "c")  # shifts and bias, or bias alone
    more: dict[str, Any] = dict(zip(names, rest, strict=False))
    return Instruction(
        opcode=Opcode.REQUANTISE, extents=extents, a=a, out=out, tag=self.tag, **more, **fields
    )


def _vector(
    self: _Generator, stage: Stage, addresses: Any, operands: Operands, extents: tuple[int, ...]
) -> Instruction:
    out, a, *rest = operands
    function = Function[stage.name.upper()]
    more: dict[str, Any] = {}
    if rest:
        b = rest[0]
        if function in (Function.ACTIVATE, Function.SOFTMAX):
            b = Operand(b.space, Type.I32, b.base)
        if function is Function.LAYER_NORM:  # a record of 16 bytes for each channel
            b = Operand(b.space, Type.I64, b.base, (0, 0, 0, 16))
        more["b"] = b
    return Instruction(
        opcode=Opcode.VECTOR,
        function=function,
        extents=extents,
        a=a,
        out=out,
        tag=self.tag,
        **more,
        **stage.fields,
    )


def _butterfly(
    self: _Generator, stage: Stage, addresses: Any, operands: Operands, extents: tuple[int, ...]
) -> Instruction:
    out, a, table = operands
    graph = stage.name.startswith("graph")
    return Instruction(
        opcode=Opcode.BUTTERFLY,
        function=Function.GRAPH if graph else Function.STAGE,
        extents=extents,
        a=a,
        b=Operand(table.space, Type.I64, table.base),
        out=out,
        tag=self.tag,
    )


def _spectrum(
    self: _Generator, stage: Stage, addresses: Any, operands: Operands, extents: tuple[int, ...]
) -> Instruction:
    out, a, spectrum, table = operands
    if stage.accumulates:  # over channels, all of them in this instruction
        self.starts(addresses[0])
    return Instruction(
        opcode=Opcode.SPECTRUM_PRODUCT,
        extents=extents,
        a=a,
        b=spectrum,
        c=Operand(table.space, Type.I64, table.base),
        out=out,
        tag=self.tag,
    )


_BUILD = {
    "butterfly": _butterfly,
    "graph": _butterfly,
    "spectrum_product": _spectrum,
    "matrix_mac": _products,
    "circular_mac": _products,
    "sum": _reduced,
    "max": _reduced,
    "requantise": _requantised,
    **dict.fromkeys(
        ("add", "subtract", "multiply", "copy", "activate", "layer_norm", "softmax"), _vector
    ),
}
