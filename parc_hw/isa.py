"""Which instructions does the accelerator have, and what is in each of their fields?

An instruction is a tile-sized loop nest: seven extents d0 .. d6, and up to four operands whose
address is affine in them and in the counters of the enclosing hardware loops. What every
instruction computes is defined by the arithmetic of `fixedpoint`; docs/accelerator.md says it in
words, `parc_hw.accel.values` in code. Every unit has a queue, and tokens order the queues.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from parc_hw.errors import InputError

__all__ = [
    "DIMENSIONS",
    "FULL",
    "LOOPS",
    "NOWHERE",
    "OPERANDS",
    "QUEUE_OF",
    "Flag",
    "Function",
    "Instruction",
    "Opcode",
    "Operand",
    "Queue",
    "Space",
    "Type",
    "barrier",
    "butterfly",
    "circular_mac",
    "end",
    "host",
    "load",
    "loop",
    "matrix_mac",
    "requantise",
    "spectrum_product",
    "store",
    "sync",
    "vector",
]

DIMENSIONS = 7
"""Extents of an instruction: d0 .. d3 are dimensions of the result, d4 .. d6 are summed over."""
LOOPS = 4
"""Hardware loops that may stand inside one another."""
OPERANDS = ("a", "b", "c", "out")

_LOWEST, _HIGHEST = -(1 << 31), (1 << 31) - 1
FULL = (_LOWEST, _HIGHEST)
"""Ends that cut nothing from a word of 32 bits."""


class Queue(enum.IntEnum):
    """The units, each of which runs the instructions of its own queue in order."""

    LOAD = 0
    MAC = 1
    BUTTERFLY = 2
    PRODUCT = 3
    VECTOR = 4
    STORE = 5


class Space(enum.IntEnum):
    """The memories. Addresses count bytes, in `ACCUMULATOR` accumulators."""

    NONE = 0  # the operand is absent
    EXTERNAL = 1
    SCRATCHPAD = 2
    ACCUMULATOR = 3
    ROM = 4


class Type(enum.IntEnum):
    """Signed little-endian elements of memory; an accumulator is I64."""

    I8 = 0
    I16 = 1
    I32 = 2
    I64 = 3

    @property
    def bytes(self) -> int:
        """Size of an element."""
        return 1 << int(self)


class Opcode(enum.IntEnum):
    """What an instruction does; 0 is none, so that cleared memory is no program."""

    LOAD = 1
    STORE = 2
    MATRIX_MAC = 3
    CIRCULAR_MAC = 4
    BUTTERFLY = 5
    SPECTRUM_PRODUCT = 6
    VECTOR = 7
    REQUANTISE = 8
    LOOP = 9
    END = 10
    SYNC = 11
    BARRIER = 12
    HOST = 13


class Function(enum.IntEnum):
    """What a VECTOR or BUTTERFLY instruction computes; 0 elsewhere."""

    NONE = 0
    # of BUTTERFLY
    STAGE = 1
    GRAPH = 2
    # of VECTOR
    COPY = 16
    FILL = 17
    ADD = 18
    SUBTRACT = 19
    MULTIPLY = 20
    MAX = 21
    SUM = 22
    ACTIVATE = 23
    LAYER_NORM = 24
    SOFTMAX = 25


class Flag(enum.IntFlag):
    """Bits of `Instruction.flags`."""

    NONE = 0
    ACCUMULATE = 1  # the result starts from what `out` holds
    WRAP = 2  # the low bits are kept where a word does not fit, instead of saturating


QUEUE_OF: dict[Opcode, Queue] = {
    Opcode.LOAD: Queue.LOAD,
    Opcode.STORE: Queue.STORE,
    Opcode.MATRIX_MAC: Queue.MAC,
    Opcode.CIRCULAR_MAC: Queue.MAC,
    Opcode.BUTTERFLY: Queue.BUTTERFLY,
    Opcode.SPECTRUM_PRODUCT: Queue.PRODUCT,
    Opcode.VECTOR: Queue.VECTOR,
    Opcode.REQUANTISE: Queue.VECTOR,
}
"""In which queue an instruction waits; SYNC names its own, and the others have none."""


# ---------------------------------------------------------------- checks
def _member(kind: type[enum.IntEnum], value: object, name: str) -> enum.IntEnum:
    try:
        return kind(value)  # type: ignore[arg-type]
    except ValueError:
        accepted = ", ".join(f"{int(member)} {member.name}" for member in kind)
        what = "undefined instruction: " if name == "opcode" else ""
        raise InputError(f"{what}{name} is {value!r}; accepted: {accepted}.") from None


def _word(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        try:
            value = value.__index__()  # type: ignore[attr-defined]
        except AttributeError:
            raise InputError(f"{name} is {value!r}: expected a whole number.") from None
    number = int(value)  # type: ignore[call-overload]
    if not _LOWEST <= number <= _HIGHEST:
        raise InputError(f"{name} is {number}: an instruction's fields are signed, of 32 bits.")
    return number


def _words(values: Iterable[object], name: str, count: int, fill: int) -> tuple[int, ...]:
    numbers = tuple(_word(value, name) for value in values)
    if len(numbers) > count:
        raise InputError(f"{name} has {len(numbers)} numbers: at most {count}.")
    return numbers + (fill,) * (count - len(numbers))


# ---------------------------------------------------------------- what an instruction is
@dataclass(frozen=True, slots=True)
class Operand:
    """Where the elements of one operand are.

    The element of loop point (d0 .. d6), inside hardware loops whose counters are l0 (outermost)
    .. l3, is at

        base + sum_i d_i * strides[i] + sum_j l_j * steps[j]

    Parameters
    ----------
    space : Space
        NONE for an operand that an instruction does without.
    type : Type
    base : int
        Bytes from the beginning of the memory; accumulators in `Space.ACCUMULATOR`.
    strides, steps : tuple of int
        In the unit of `base`; shorter tuples are filled up with 0.

    Examples
    --------
    Eight words of 16 bits, one every 64 bytes:

    >>> Operand(Space.SCRATCHPAD, Type.I16, 0x100, (0, 0, 0, 64)).strides
    (0, 0, 0, 64, 0, 0, 0)
    """

    space: Space = Space.NONE
    type: Type = Type.I8
    base: int = 0
    strides: tuple[int, ...] = (0,) * DIMENSIONS
    steps: tuple[int, ...] = (0,) * LOOPS

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", _member(Space, self.space, "space"))
        object.__setattr__(self, "type", _member(Type, self.type, "type"))
        object.__setattr__(self, "base", _word(self.base, "base"))
        for name, count in (("strides", DIMENSIONS), ("steps", LOOPS)):
            object.__setattr__(self, name, _words(getattr(self, name), name, count, 0))

    @property
    def unit(self) -> int:
        """Address units of one element: its bytes, or 1 accumulator."""
        return 1 if self.space is Space.ACCUMULATOR else self.type.bytes

    def __bool__(self) -> bool:
        return self.space is not Space.NONE


NOWHERE = Operand()
"""An operand that is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction; what its fields mean is the opcode's affair (docs/accelerator.md).

    Parameters
    ----------
    opcode : Opcode
    function : Function or int
        Of VECTOR and BUTTERFLY; of SYNC the `Queue`.
    wait, signal : int
        Bit q: takes a token that queue q sent to this one, before it starts; sends one to queue q
        when it has ended.
    tag : int
        The layer, for counters and traces; at least 0.
    flags : Flag
    extents : tuple of int
        d0 .. d6, each at least 1; filled up with 1. Of LOOP, extents[0] is the count; of HOST,
        the cycles that its function is estimated to take.
    ring, start : int
        Length of the ring and the place where d1 (d2 of LOAD and STORE) begins; 0: no ring.
    lo, hi : int
        Ends of the result's words.
    immediate, immediate2 : int
        Constants of the function.
    shift : int
        Fraction bits that the result drops; negative: gains.
    up_a, up_b : int
        Bits by which operands are shifted up first.
    rounding : int
        Code of `fixedpoint.modes`: 0 FLOOR, 1 TOWARD_ZERO, 2 HALF_UP, 3 HALF_EVEN, 4 HALF_AWAY.
    a, b, c, out : Operand

    Raises
    ------
    InputError
        A number that its field does not hold.
    """

    opcode: Opcode
    function: int = 0
    wait: int = 0
    signal: int = 0
    tag: int = 0
    flags: Flag = Flag.NONE
    extents: tuple[int, ...] = (1,) * DIMENSIONS
    ring: int = 0
    start: int = 0
    lo: int = _LOWEST
    hi: int = _HIGHEST
    immediate: int = 0
    immediate2: int = 0
    shift: int = 0
    up_a: int = 0
    up_b: int = 0
    rounding: int = 2
    a: Operand = NOWHERE
    b: Operand = NOWHERE
    c: Operand = NOWHERE
    out: Operand = NOWHERE

    def __post_init__(self) -> None:
        object.__setattr__(self, "opcode", _member(Opcode, self.opcode, "opcode"))
        kind = Queue if self.opcode is Opcode.SYNC else Function
        object.__setattr__(self, "function", _member(kind, self.function, "function"))
        flags = _word(self.flags, "flags")
        if flags & ~int(Flag.ACCUMULATE | Flag.WRAP):
            raise InputError(f"flags is {flags:#x}: accepted are the bits of Flag, 0 to 3.")
        object.__setattr__(self, "flags", Flag(flags))
        object.__setattr__(self, "extents", _words(self.extents, "extents", DIMENSIONS, 1))
        for name in _NUMBERS:
            object.__setattr__(self, name, _word(getattr(self, name), name))
        for name in OPERANDS:
            if not isinstance(getattr(self, name), Operand):
                raise InputError(f"{name} is {getattr(self, name)!r}: expected an Operand.")

    @property
    def queue(self) -> Queue | None:
        """Whose queue it waits in; None for what the dispatcher does itself."""
        if self.opcode is Opcode.SYNC:
            return Queue(self.function)
        return QUEUE_OF.get(self.opcode)

    @property
    def operands(self) -> tuple[Operand, Operand, Operand, Operand]:
        """a, b, c and out."""
        return self.a, self.b, self.c, self.out


_NUMBERS = (
    "wait",
    "signal",
    "tag",
    "ring",
    "start",
    "lo",
    "hi",
    "immediate",
    "immediate2",
    "shift",
    "up_a",
    "up_b",
    "rounding",
)
assert set(_NUMBERS) < {field.name for field in fields(Instruction)}


# ---------------------------------------------------------------- one constructor per instruction
def load(
    source: Operand, out: Operand, extents: Sequence[int], *, ring: int = 0, start: int = 0,
    tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """External memory to scratchpad; with a ring, the source's d2 is (start + d2) mod ring.

    >>> words = Operand(Space.EXTERNAL, Type.I8, 0, (96, 0, 0, 1))
    >>> here = Operand(Space.SCRATCHPAD, Type.I8, 0, (32, 0, 0, 1))
    >>> load(words, here, (14, 1, 1, 32)).queue.name
    'LOAD'
    """
    return Instruction(
        opcode=Opcode.LOAD, a=source, out=out, extents=tuple(extents), ring=ring, start=start,
        tag=tag, wait=wait, signal=signal,
    )  # fmt: skip


def store(
    source: Operand, out: Operand, extents: Sequence[int], *, ring: int = 0, start: int = 0,
    tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """Scratchpad to external memory; with a ring, out's d2 is (start + d2) mod ring."""
    return Instruction(
        opcode=Opcode.STORE, a=source, out=out, extents=tuple(extents), ring=ring, start=start,
        tag=tag, wait=wait, signal=signal,
    )  # fmt: skip


def matrix_mac(
    a: Operand, b: Operand, out: Operand, extents: Sequence[int], *, c: Operand = NOWHERE,
    accumulate: bool = False, tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """out[d0..d3] = start + sum over d4, d5, d6 of a * b; start is c, or out itself, or 0."""
    return Instruction(
        opcode=Opcode.MATRIX_MAC, a=a, b=b, c=c, out=out, extents=tuple(extents),
        flags=Flag.ACCUMULATE if accumulate else Flag.NONE, tag=tag, wait=wait, signal=signal,
    )  # fmt: skip


def circular_mac(
    a: Operand, b: Operand, out: Operand, extents: Sequence[int], *, ring: int, start: int = 0,
    c: Operand = NOWHERE, accumulate: bool = False, tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """As `matrix_mac`, but a's place along strides[1] is (start + d1 + d4) mod ring."""
    return Instruction(
        opcode=Opcode.CIRCULAR_MAC, a=a, b=b, c=c, out=out, extents=tuple(extents), ring=ring,
        start=start, flags=Flag.ACCUMULATE if accumulate else Flag.NONE, tag=tag, wait=wait,
        signal=signal,
    )  # fmt: skip


def butterfly(
    a: Operand, table: Operand, out: Operand, extents: Sequence[int], *,
    function: Function = Function.STAGE, tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """One stage of a transform, or one integer graph, on lines d0 x d1 of d2 places."""
    return Instruction(
        opcode=Opcode.BUTTERFLY, function=function, a=a, b=table, out=out, extents=tuple(extents),
        tag=tag, wait=wait, signal=signal,
    )  # fmt: skip


def spectrum_product(
    a: Operand, spectrum: Operand, table: Operand, out: Operand, extents: Sequence[int], *,
    tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """out[d0, d1, d2] = points of the sum over d6 of complex a * spectrum; d3 = 2 parts."""
    return Instruction(
        opcode=Opcode.SPECTRUM_PRODUCT, a=a, b=spectrum, c=table, out=out, extents=tuple(extents),
        tag=tag, wait=wait, signal=signal,
    )  # fmt: skip


def vector(
    function: Function, out: Operand, extents: Sequence[int], *, a: Operand = NOWHERE,
    b: Operand = NOWHERE, lo: int = _LOWEST, hi: int = _HIGHEST, immediate: int = 0,
    immediate2: int = 0, shift: int = 0, up_a: int = 0, up_b: int = 0, rounding: int = 2,
    flags: Flag = Flag.NONE, tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """An element-wise function, a reduction, or one of rows."""
    return Instruction(
        opcode=Opcode.VECTOR, function=function, a=a, b=b, out=out, extents=tuple(extents), lo=lo,
        hi=hi, immediate=immediate, immediate2=immediate2, shift=shift, up_a=up_a, up_b=up_b,
        rounding=rounding, flags=flags, tag=tag, wait=wait, signal=signal,
    )  # fmt: skip


def requantise(
    a: Operand, out: Operand, extents: Sequence[int], *, shift: int = 0, shifts: Operand = NOWHERE,
    bias: Operand = NOWHERE, multiplier: int = 1, lo: int = _LOWEST, hi: int = _HIGHEST,
    rounding: int = 2, flags: Flag = Flag.NONE, tag: int = 0, wait: int = 0, signal: int = 0,
) -> Instruction:  # fmt: skip
    """out = Q(a * multiplier + bias, shift + shifts), words in [lo, hi]."""
    return Instruction(
        opcode=Opcode.REQUANTISE, a=a, b=shifts, c=bias, out=out, extents=tuple(extents),
        shift=shift, immediate=multiplier, lo=lo, hi=hi, rounding=rounding, flags=flags, tag=tag,
        wait=wait, signal=signal,
    )  # fmt: skip


def loop(count: int) -> Instruction:
    """Repeat what stands before the matching `end` `count` times."""
    return Instruction(opcode=Opcode.LOOP, extents=(count,))


def end() -> Instruction:
    """End of the innermost loop."""
    return Instruction(opcode=Opcode.END)


def sync(queue: Queue, *, wait: int = 0, signal: int = 0, tag: int = 0) -> Instruction:
    """Do nothing in `queue` but take and send tokens."""
    return Instruction(opcode=Opcode.SYNC, function=int(queue), wait=wait, signal=signal, tag=tag)


def barrier(tag: int = 0) -> Instruction:
    """Hold the dispatcher until every queue is empty and every unit idle."""
    return Instruction(opcode=Opcode.BARRIER, tag=tag)


def host(number: int, cycles: int = 1, *, tag: int = 0) -> Instruction:
    """A barrier, then the host's function `number`, which is estimated to take `cycles`."""
    return Instruction(opcode=Opcode.HOST, immediate=number, extents=(cycles,), tag=tag)
