"""Can a program run on a machine without leaving the memories that it was given?

Everything that could go wrong while a program runs is refused before it runs: every address of
every iteration of every loop is checked here, so that the simulator need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from parc_hw.accel.description import Description
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.isa import (
    DIMENSIONS,
    LOOPS,
    OPERANDS,
    Flag,
    Function,
    Instruction,
    Opcode,
    Operand,
    Queue,
    Space,
    Type,
)

__all__ = ["check_program", "loop_counts", "reach"]

_MOVES: Final = (Opcode.LOAD, Opcode.STORE)
_MACS: Final = (Opcode.MATRIX_MAC, Opcode.CIRCULAR_MAC)
_DISPATCHED: Final = (Opcode.LOOP, Opcode.END, Opcode.BARRIER, Opcode.HOST)
_NEAR: Final = (Space.SCRATCHPAD, Space.ACCUMULATOR)
_STORED: Final = (Space.SCRATCHPAD, Space.ROM)
_SHORT: Final = (Type.I8, Type.I16, Type.I32)
_ALL: Final = tuple(Type)
_ROUNDINGS: Final = 4  # the highest code of fixedpoint.modes
_SHIFT: Final = 62


# ---------------------------------------------------------------- loops
def loop_counts(instructions: Sequence[Instruction]) -> list[tuple[int, ...]]:
    """The counts of the loops around each instruction, outermost first.

    Raises
    ------
    InputError
        Loops that do not close, are empty, or stand more than four deep.
    """
    stack: list[int] = []
    opened: list[int] = []
    found: list[tuple[int, ...]] = []
    for number, each in enumerate(instructions):
        if each.opcode is Opcode.END:
            if not stack:
                raise InputError(f"instruction {number}: END without a LOOP before it.")
            if opened[-1] == number - 1:
                raise InputError(f"instruction {number}: the loop that ends here is empty.")
            stack.pop()
            opened.pop()
        found.append(tuple(stack))
        if each.opcode is Opcode.LOOP:
            if len(stack) == LOOPS:
                raise InputError(
                    f"instruction {number}: a loop inside {LOOPS} others; at most {LOOPS} stand "
                    f"in one another."
                )
            stack.append(each.extents[0])
            opened.append(number)
    if stack:
        raise InputError(f"instruction {opened[-1]}: this LOOP has no END.")
    return found


# ---------------------------------------------------------------- where an operand reaches
def reach(
    operand: Operand,
    extents: Sequence[int],
    counts: Sequence[int],
    *,
    unit: int | None = None,
) -> tuple[int, int]:
    """The lowest address of an operand, and the one behind its highest.

    Parameters
    ----------
    operand : Operand
    extents : sequence of int
        How many places it takes along each dimension.
    counts : sequence of int
        Of the loops around it.
    unit : int, optional
        Address units of one element; the operand's own by default.
    """
    low = high = operand.base
    steps = zip((*extents, *counts), (*operand.strides, *operand.steps), strict=False)
    for extent, stride in steps:
        far = (extent - 1) * stride
        low, high = low + min(far, 0), high + max(far, 0)
    return low, high + (operand.unit if unit is None else unit)


def _overlaps(operand: Operand, extents: Sequence[int]) -> bool:
    """Whether two points of an operand may have the same address (never False if they do)."""
    pairs = sorted(
        (abs(stride), extent)
        for stride, extent in zip(operand.strides, extents, strict=True)
        if extent > 1
    )
    covered = operand.unit
    for stride, extent in pairs:
        if stride < covered:
            return True
        covered += stride * (extent - 1)
    return False


# ---------------------------------------------------------------- one instruction
class _Checked:
    """One instruction inside its loops, with what it may touch."""

    def __init__(
        self,
        each: Instruction,
        counts: tuple[int, ...],
        description: Description,
        sizes: dict[Space, int],
        rom: bytes,
    ) -> None:
        self.each, self.counts, self.machine, self.rom = each, counts, description, rom
        self.sizes = sizes

    def run(self) -> None:
        each = self.each
        self.numbers()
        if each.opcode in _DISPATCHED or each.opcode is Opcode.SYNC:
            self.operands()
            if each.opcode is not Opcode.SYNC and (each.wait or each.signal):
                raise InputError("it belongs to no queue, and neither takes nor sends tokens.")
        elif each.opcode in _MOVES:
            self.move()
        elif each.opcode in _MACS:
            self.mac()
        elif each.opcode is Opcode.BUTTERFLY:
            self.butterfly()
        elif each.opcode is Opcode.SPECTRUM_PRODUCT:
            self.product()
        elif each.opcode is Opcode.REQUANTISE:
            self.requantise()
        else:
            self.vector()

    # -- what every instruction has ------------------------------------------------------------
    def numbers(self) -> None:
        each = self.each
        if any(extent < 1 for extent in each.extents):
            raise InputError(f"extents are {each.extents}; accepted: 1 and more.")
        queue = each.queue
        others = (1 << len(Queue)) - 1 - (0 if queue is None else 1 << queue)
        for name in ("wait", "signal"):
            value = getattr(each, name)
            if value & ~others:
                raise InputError(
                    f"{name} is {value:#x}; accepted: one bit for each other queue, {others:#x}."
                )
        if each.tag < 0:
            raise InputError(f"tag is {each.tag}; accepted: 0 and more.")
        if not 0 <= each.rounding <= _ROUNDINGS:
            raise InputError(f"rounding is {each.rounding}; accepted: 0 to {_ROUNDINGS}.")
        if each.lo > each.hi:
            raise InputError(f"lo is {each.lo} and hi {each.hi}; lo is at most hi.")
        if abs(each.shift) > _SHIFT:
            raise InputError(f"shift is {each.shift}; accepted: -{_SHIFT} to {_SHIFT}.")
        for name in ("up_a", "up_b"):
            if not 0 <= getattr(each, name) <= _SHIFT:
                raise InputError(f"{name} is {getattr(each, name)}; accepted: 0 to {_SHIFT}.")
        rings = (*_MOVES, Opcode.CIRCULAR_MAC)
        if each.opcode not in rings and (each.ring or each.start):
            raise InputError(f"ring is {each.ring} and start {each.start}; it has neither.")
        if each.ring < 0 or not 0 <= each.start <= max(each.ring - 1, 0):
            raise InputError(
                f"ring is {each.ring} and start {each.start}; accepted: a ring of 0 or more "
                f"places, and a start on it."
            )
        needs_function = each.opcode in (Opcode.VECTOR, Opcode.BUTTERFLY)
        if not needs_function and each.opcode is not Opcode.SYNC and each.function:
            raise InputError(f"function is {Function(each.function).name}; it has none.")

    def operands(self, **accepted: tuple[tuple[Space, ...], tuple[Type, ...], bool]) -> None:
        """Check which operands there are, and of what; the flag says whether one is needed."""
        for name in OPERANDS:
            operand: Operand = getattr(self.each, name)
            if name not in accepted:
                if operand:
                    raise InputError(f"it has no operand {name}, and {operand} was given.")
                continue
            spaces, types, needed = accepted[name]
            if not operand:
                if needed:
                    raise InputError(f"operand {name} is missing.")
                continue
            if operand.space not in spaces:
                names = ", ".join(space.name for space in spaces)
                raise InputError(f"{name} is in {operand.space.name}; accepted: {names}.")
            if operand.space is Space.ACCUMULATOR:
                types = (Type.I64,)
            if operand.type not in types:
                names = ", ".join(each.name for each in types)
                raise InputError(f"{name} has type {operand.type.name}; accepted: {names}.")
            addresses = (operand.base, *operand.strides, *operand.steps)
            if operand.space is not Space.ACCUMULATOR and any(
                address % operand.type.bytes for address in addresses
            ):
                raise InputError(
                    f"{name} has {operand.type.name} elements, and its base, strides and steps "
                    f"are not all multiples of {operand.type.bytes} bytes."
                )
            unused = operand.steps[len(self.counts) :]
            if any(unused):
                raise InputError(
                    f"{name} has steps {operand.steps} inside {len(self.counts)} loops; the others "
                    f"are 0."
                )

    def inside(
        self, name: str, extents: Sequence[int], unit: int | None = None, used: int = DIMENSIONS
    ) -> None:
        """Check that operand `name` stays in its memory; it has strides in `used` dimensions."""
        operand: Operand = getattr(self.each, name)
        if not operand:
            return
        if any(operand.strides[used:]):
            raise InputError(
                f"{name} has strides {operand.strides}; it has none beyond dimension {used - 1}."
            )
        low, high = reach(operand, extents, self.counts, unit=unit)
        size = self.sizes[operand.space]
        if low < 0 or high > size:
            raise InputError(
                f"{name} reaches from {low} to {high - 1} in {operand.space.name}, which has the "
                f"addresses 0 to {size - 1}."
            )

    def only(self, dimensions: Sequence[int]) -> None:
        """Check that no other dimension is used."""
        for i, extent in enumerate(self.each.extents):
            if extent > 1 and i not in dimensions:
                raise InputError(f"extent {i} is {extent}; accepted: 1.")

    def apart(self) -> None:
        """Check that no two points of the result share an address."""
        extents = [*self.each.extents[:4], *[1] * (DIMENSIONS - 4)]
        if self.each.opcode is Opcode.STORE and self.each.ring:
            extents[2] = self.each.ring
        if _overlaps(self.each.out, extents):
            raise InputError(
                f"points of out overlap: strides {self.each.out.strides} for extents {extents}."
            )

    # -- each opcode ---------------------------------------------------------------------------
    def move(self) -> None:
        each = self.each
        far, near = ("a", "out") if each.opcode is Opcode.LOAD else ("out", "a")
        self.only(range(4))
        accepted = {
            far: ((Space.EXTERNAL,), _ALL, True),
            near: ((Space.SCRATCHPAD,), _ALL, True),
        }
        self.operands(**accepted)
        if each.a.type != each.out.type:
            raise InputError(f"a is {each.a.type.name} and out {each.out.type.name}: they differ.")
        self.inside(near, each.extents, used=4)
        around = list(each.extents)
        if each.ring:
            if each.extents[2] > each.ring:
                raise InputError(f"extent 2 is {each.extents[2]}; the ring has {each.ring} places.")
            around[2] = each.ring
        self.inside(far, around, used=4)
        self.apart()

    def mac(self) -> None:
        each = self.each
        self.operands(
            a=(_STORED, _SHORT, True),
            b=(_STORED, _SHORT, True),
            c=(_STORED, _ALL, False),
            out=((Space.ACCUMULATOR,), _ALL, True),
        )
        accumulates = Flag.ACCUMULATE in each.flags
        if accumulates and each.c:
            raise InputError("it starts from out (ACCUMULATE) and from c; only one can be.")
        if Flag.WRAP in each.flags:
            raise InputError("flags has WRAP; accumulators always keep their low bits.")
        extents = list(each.extents)
        if each.opcode is Opcode.CIRCULAR_MAC:
            if not each.ring:
                raise InputError("ring is 0; accepted: the length of the ring, 1 and more.")
            if each.a.strides[4]:
                raise InputError(
                    f"a.strides[4] is {each.a.strides[4]}; accepted: 0, as the ring's places lie "
                    f"along strides[1]."
                )
            extents[1] = each.ring
        self.inside("a", extents)
        self.inside("b", each.extents)
        outputs = (*each.extents[:4], 1, 1, 1)
        self.inside("c", outputs, used=4)
        self.inside("out", outputs, used=4)
        self.apart()

    def butterfly(self) -> None:
        from parc_hw.accel.rom import read_graph, read_stage

        each, unit = self.each, self.machine.butterfly
        if not unit.units:
            raise UnsupportedError(f"{self.machine.name} has no butterfly unit (butterfly.units).")
        stage = each.function == Function.STAGE
        if not stage and each.function != Function.GRAPH:
            raise InputError(f"function is {each.function}; accepted: STAGE, GRAPH.")
        words = (Type.I16, Type.I32)
        self.operands(
            a=((Space.SCRATCHPAD,), words if stage else _ALL, True),
            b=((Space.ROM,), (Type.I64,), True),
            out=((Space.SCRATCHPAD,), words if stage else _ALL, True),
        )
        if any(each.b.strides) or any(each.b.steps):
            raise InputError("b is a table: it has neither strides nor steps.")
        if stage:
            self.only(range(4))
            table = read_stage(self.rom, each.b.base)
            if each.extents[2:4] != (table.length, 2):
                raise InputError(
                    f"extents 2 and 3 are {each.extents[2:4]}, and the stage at {each.b.base} in "
                    f"ROM has {table.length} places of 2 parts."
                )
            if unit.interval(table.radix) is None:
                raise UnsupportedError(
                    f"{self.machine.name} has no butterfly of radix {table.radix} "
                    f"([butterfly.intervals])."
                )
            self.inside("a", each.extents, used=4)
            self.inside("out", each.extents, used=4)
        else:
            self.only((0, 1, 2, 3))
            graph = read_graph(self.rom, each.b.base)
            if unit.interval(0) is None:
                raise UnsupportedError(
                    f"{self.machine.name} has no integer graphs ([butterfly.intervals] graph)."
                )
            if each.extents[2:4] != (graph.inputs, 1) or len(graph.outputs) != graph.inputs:
                raise InputError(
                    f"extents 2 and 3 are {each.extents[2:4]}, and the graph at {each.b.base} in "
                    f"ROM has {graph.inputs} inputs and {len(graph.outputs)} outputs."
                )
            self.inside("a", each.extents, used=4)
            self.inside("out", each.extents, used=4)
        self.apart()

    def product(self) -> None:
        from parc_hw.accel.rom import read_product

        each = self.each
        if not self.machine.complex.units:
            raise UnsupportedError(
                f"{self.machine.name} has no complex multiplier (complex.units)."
            )
        self.only((0, 1, 2, 3, 6))
        words = (Type.I16, Type.I32, Type.I64)
        self.operands(
            a=((Space.SCRATCHPAD,), words, True),
            b=(_STORED, words, True),
            c=((Space.ROM,), (Type.I64,), True),
            out=((Space.SCRATCHPAD,), words, True),
        )
        if any(each.c.strides) or any(each.c.steps):
            raise InputError("c is a table: it has neither strides nor steps.")
        if each.extents[3] != 2:
            raise InputError(f"extent 3 is {each.extents[3]}; accepted: 2, the parts of a word.")
        if each.b.strides[1]:
            raise InputError(f"b.strides[1] is {each.b.strides[1]}: all lines share a spectrum.")
        read_product(self.rom, each.c.base)
        self.inside("a", each.extents)
        self.inside("b", each.extents)
        self.inside("out", (*each.extents[:4], 1, 1, 1), used=4)
        self.apart()

    def requantise(self) -> None:
        each = self.each
        self.supports("requantise")
        self.only(range(4))
        self.operands(
            a=(_NEAR, _ALL, True),
            b=(_STORED, (Type.I8,), False),
            c=(_STORED, (Type.I32, Type.I64), False),
            out=(_NEAR, _ALL, True),
        )
        for name in OPERANDS:
            self.inside(name, each.extents, used=4)
        self.apart()

    def vector(self) -> None:
        each = self.each
        function = Function(each.function)
        if function < Function.COPY:
            names = ", ".join(f.name for f in Function if f >= Function.COPY)
            raise InputError(f"function is {function.name}; accepted: {names}.")
        self.supports(function.name.lower())
        two = function in (Function.ADD, Function.SUBTRACT, Function.MULTIPLY)
        reduces = function in (Function.MAX, Function.SUM)
        if Flag.ACCUMULATE in each.flags and not reduces:
            raise InputError("flags has ACCUMULATE; only MAX and SUM start from out.")
        everywhere = (*_NEAR, Space.ROM)
        accepted: dict[str, tuple[tuple[Space, ...], tuple[Type, ...], bool]] = {
            "out": (_NEAR, _ALL, True)
        }
        rows = function in (Function.ACTIVATE, Function.LAYER_NORM, Function.SOFTMAX)
        if rows:
            types = (Type.I8, Type.I16) if function is Function.LAYER_NORM else _SHORT
            accepted["a"] = ((Space.SCRATCHPAD,), types, True)
            accepted["out"] = ((Space.SCRATCHPAD,), _SHORT, True)
        elif function is not Function.FILL:
            accepted["a"] = (_NEAR, _ALL, True)
        if two or function is Function.MAX:
            accepted["b"] = (everywhere, _ALL, two)
        if function in (Function.ACTIVATE, Function.SOFTMAX):
            accepted["b"] = (_STORED, (Type.I32,), True)
        if function is Function.LAYER_NORM:
            accepted["b"] = (_STORED, (Type.I64,), True)
        self.operands(**accepted)
        outputs = (*each.extents[:4], 1, 1, 1)
        if not reduces:
            self.only(range(4))
        if function is not Function.FILL:
            self.inside("a", each.extents, used=7 if reduces else 4)
        self.inside("out", outputs, used=4)
        self.apart()
        if two or (function is Function.MAX and each.b):
            self.inside("b", outputs, used=4)
        elif function in (Function.ACTIVATE, Function.SOFTMAX):
            if each.immediate < 2:
                raise InputError(f"immediate is {each.immediate}: a table has 2 words and more.")
            if any(each.b.strides):
                raise InputError("b is a table: it has no strides.")
            # |a| * 2**up_a and T * 2**up_b stay below 2**62, so that no index leaves the table.
            if each.up_a > 28 or each.up_b > 30:
                raise InputError(
                    f"up_a and up_b are {each.up_a} and {each.up_b}; accepted: 0 to 28 and 30."
                )
            if function is Function.ACTIVATE and each.immediate2 not in (0, 1):
                raise InputError(f"immediate2 is {each.immediate2}; accepted: 0, 1 (grows).")
            self.inside("b", (1,) * DIMENSIONS, unit=4 * each.immediate)
        elif function is Function.LAYER_NORM:
            if each.immediate < 0 or each.immediate2 < 0 or not each.immediate | each.immediate2:
                raise InputError(
                    f"immediate and immediate2 are {each.immediate} and {each.immediate2}: the "
                    f"low and high 31 bits of epsilon, which is at least 1."
                )
            # count**2 * x**2 and epsilon stay below 2**62 together.
            if each.extents[3] > 32768 or each.immediate2 >= 1 << 29:
                raise InputError(
                    f"extent 3 is {each.extents[3]} and immediate2 {each.immediate2}; accepted: "
                    f"at most 32768 channels, and epsilon below 2**60."
                )
            if any(each.b.strides[:3]):
                raise InputError(f"b has strides {each.b.strides}: records lie along d3 alone.")
            self.inside("b", outputs, unit=16, used=4)

    def supports(self, function: str) -> None:
        if self.machine.vector.cost(function) is None:
            raise UnsupportedError(
                f"the vector unit of {self.machine.name} has no {function} ([vector.cycles])."
            )


def check_program(
    instructions: Sequence[Instruction], description: Description, external_bytes: int, rom: bytes
) -> None:
    """Raise unless every instruction can run and stays inside its memories.

    Raises
    ------
    InputError
        Names the instruction, what is wrong, and what is accepted.
    UnsupportedError
        The machine lacks a unit, a radix or a function; names the instruction.
    """
    sizes = {
        Space.EXTERNAL: external_bytes,
        Space.SCRATCHPAD: description.scratchpad.bytes,
        Space.ACCUMULATOR: description.accumulator.words,
        Space.ROM: len(rom),
    }
    good: set[tuple[int, tuple[int, ...]]] = set()
    for number, (each, counts) in enumerate(
        zip(instructions, loop_counts(instructions), strict=True)
    ):
        if (id(each), counts) in good:  # the decoder makes one object of equal instructions
            continue
        try:
            _Checked(each, counts, description, sizes, rom).run()
        except (InputError, UnsupportedError) as error:
            kind = type(error)
            raise kind(f"instruction {number} ({each.opcode.name}): {error}") from None
        good.add((id(each), counts))
