"""What does a program compute, in how many cycles, and what was each unit doing?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parc_hw.accel.container import Program
from parc_hw.accel.dependencies import check_order
from parc_hw.accel.description import Description
from parc_hw.accel.stream import HALT, Stream, expand, match_tokens
from parc_hw.accel.timing import Cost, cost
from parc_hw.errors import InputError
from parc_hw.isa import Instruction, Opcode, Queue, Space

__all__ = ["MOST_INSTRUCTIONS", "MOST_OPERATIONS", "Result", "Tag", "Timeline", "Unit", "run"]

MOST_INSTRUCTIONS: Final = 1 << 24
"""Instructions, loops unrolled, that are simulated unless the caller says otherwise."""
MOST_OPERATIONS: Final = 1 << 42
"""Products, elements and bytes together that are simulated unless the caller says otherwise."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What a unit did.

    Attributes
    ----------
    name : str
    instructions : int
    busy : int
        Cycles; of LOAD and STORE, with the bus.
    work : int
        Multiply-accumulates, butterflies, complex products, elements, bytes.
    stalled : dict of str to int
        Cycles without work, by what the next instruction waited for: "MAC" a token from there,
        "dispatch" an empty queue, "bus"; and "full" is how long the dispatcher waited for room.
    scratchpad_bytes, rom_bytes, external_bytes : int
    energy_pj : float
    """

    name: str
    instructions: int
    busy: int
    work: int
    stalled: dict[str, int]
    scratchpad_bytes: int
    rom_bytes: int
    external_bytes: int
    energy_pj: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """What the instructions of one tag did.

    Attributes
    ----------
    tag : int
    first, last : int
        Cycle in which the first of them starts, and behind the last one's end.
    busy : dict of str to int
        Cycles by unit; "HOST" is estimated by who made the program.
    work : dict of str to int
        By unit.
    external_bytes : int
    energy_pj : float
    """

    tag: int
    first: int
    last: int
    busy: dict[str, int]
    work: dict[str, int]
    external_bytes: int
    energy_pj: float


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When what happened: one row for every time an instruction is met.

    Attributes
    ----------
    stream : Stream
    arrival, start, bus, end : int64 arrays, shape (n,)
        Cycle in which it came to its queue, its unit started it, its transfer got the bus (else
        the start), and behind its last cycle.
    cycles : int64 array, shape (n,)
        Of its unit; of a transfer, of the bus.
    """

    stream: Stream
    arrival: Ints
    start: Ints
    bus: Ints
    end: Ints
    cycles: Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What `run` gives.

    Attributes
    ----------
    external : uint8 array
        The external memory afterwards; the very array that was given.
    cycles : int
    seconds : float
        At the described clock.
    units : dict of str to Unit
    tags : dict of int to Tag
    host_cycles : int
        Of `cycles`, those of host functions, as estimated by who made the program.
    energy_pj : float
        Of all work, and of idling for `seconds`.
    wrapped : int
        Sums that an accumulator did not hold.
    timeline : Timeline or None
    """

    external: NDArray[np.uint8]
    cycles: int = 0
    seconds: float = 0.0
    units: dict[str, Unit] = field(default_factory=dict)
    tags: dict[int, Tag] = field(default_factory=dict)
    host_cycles: int = 0
    energy_pj: float = 0.0
    wrapped: int = 0
    timeline: Timeline | None = None

    def utilisation(self, unit: str) -> float:
        """Share of all cycles in which a unit was busy."""
        return self.units[unit].busy / self.cycles if self.cycles else 0.0


def run(
    program: Program,
    description: Description,
    external: NDArray[np.uint8] | None = None,
    *,
    host: Mapping[int, Callable[[NDArray[np.uint8]], None]] | None = None,
    values: bool = True,
    timing: bool = True,
    most_instructions: int = MOST_INSTRUCTIONS,
    most_operations: int = MOST_OPERATIONS,
) -> Result:
    """Execute a program: its values in program order, and its cycles from the event model.

    That the queues give these values is checked, not assumed: two instructions of different queues
    that touch the same memory, one of them writing, must be ordered by tokens.

    Parameters
    ----------
    program : Program
    description : Description
        The machine that the program was made for.
    external : uint8 array, shape (program.external_bytes,), optional
        External memory, modified in place; by default `program.new_external()`.
    host : mapping of int to callable, optional
        The host's functions, which get the external memory.
    values, timing : bool
        Either pass may be left out.
    most_instructions, most_operations : int
        Longer programs are refused.

    Raises
    ------
    InputError
        A program that `Program.check` refuses, that would hang, in which two instructions race, or
        that is too long; a host function that is missing; another external memory.
    UnsupportedError
        As `Program.check`.
    """
    program.check(description)
    memory = program.new_external() if external is None else external
    if memory.dtype != np.uint8 or memory.shape != (program.external_bytes,):
        raise InputError(
            f"external is {memory.dtype} of shape {memory.shape}; the program needs uint8 of shape "
            f"({program.external_bytes},)."
        )
    if not memory.flags.c_contiguous or not memory.flags.writeable:
        raise InputError("external must be contiguous and writeable: results are stored in it.")
    functions = dict(host or {})
    for number, each in enumerate(program.instructions):
        if values and each.opcode is Opcode.HOST and each.immediate not in functions:
            raise InputError(
                f"instruction {number} (HOST) calls function {each.immediate}, which was not given; "
                f"given: {', '.join(map(str, sorted(functions))) or 'none'}."
            )
    stream = expand(program.instructions, most_instructions)
    _check_work(program, stream, most_operations)
    senders = match_tokens(program.instructions, stream)
    check_order(program.instructions, stream, senders)
    wrapped = _values(program, description, stream, memory, functions) if values else 0
    if not timing:
        return Result(external=memory, wrapped=wrapped)
    return _timed(program, description, stream, senders, memory, wrapped)


def _check_work(program: Program, stream: Stream, most: int) -> None:
    times = np.bincount(stream.index, minlength=len(program.instructions))
    total = 0
    for each, count in zip(program.instructions, times.tolist(), strict=True):
        if each.operands != (each.a,) * 4 or each.a:
            work = count
            for extent in each.extents:
                work *= extent
            total += work
    if total > most:
        raise InputError(f"the program does {total} operations; at most {most} are simulated.")


# ---------------------------------------------------------------- values
def _values(
    program: Program,
    description: Description,
    stream: Stream,
    memory: NDArray[np.uint8],
    functions: Mapping[int, Callable[[NDArray[np.uint8]], None]],
) -> int:
    from parc_hw.accel.values import Memories, execute

    memories = Memories(
        external=memory,
        scratchpad=np.zeros(description.scratchpad.bytes, np.uint8),
        accumulator=np.zeros(description.accumulator.words, np.int64),
        rom=program.rom,
        accumulator_bits=description.mac.accumulator_bits,
    )
    counters = stream.counters.tolist()
    queues = stream.queue.tolist()
    for place, index in enumerate(stream.index.tolist()):
        each = program.instructions[index]
        if each.opcode is Opcode.HOST:
            functions[each.immediate](memory)
        elif queues[place] >= 0 and each.opcode is not Opcode.SYNC:
            execute(each, memories, counters[place])
    return memories.wrapped


# ---------------------------------------------------------------- cycles
def _costs(
    program: Program, description: Description, stream: Stream
) -> tuple[list[Cost], NDArray[np.int64]]:
    """The different costs, and which one each place of the stream has."""
    burst = description.external.burst_bytes
    costs: list[Cost] = []
    known: dict[Any, int] = {}
    which = np.zeros(len(stream), np.int64)
    fixed = np.full(len(program.instructions), -1, np.int64)
    moving = []
    for number, each in enumerate(program.instructions):
        far = _far(each)
        if far is not None and any(step % burst for step in far.steps):
            moving.append(number)
            continue
        key = id(each)
        if key not in known:
            known[key] = len(costs)
            costs.append(cost(each, description, program.rom))
        fixed[number] = known[key]
    which[:] = fixed[stream.index]
    for number in moving:  # where bursts begin depends on the loops
        each = program.instructions[number]
        far = _far(each)
        assert far is not None
        places = np.flatnonzero(stream.index == number)
        first = far.base + stream.counters[places] @ np.array(far.steps, np.int64)
        for begin in np.unique(first % burst):
            placed = id(each), int(begin)
            if placed not in known:
                known[placed] = len(costs)
                costs.append(cost(each, description, program.rom, int(begin)))
            which[places[first % burst == begin]] = known[placed]
    return costs, which


def _far(each: Instruction) -> Any:
    for operand in each.operands:
        if operand.space is Space.EXTERNAL:
            return operand
    return None


def _timed(
    program: Program,
    description: Description,
    stream: Stream,
    senders: Ints,
    memory: NDArray[np.uint8],
    wrapped: int,
) -> Result:
    from parc_hw.accel.events import FULL, NOTHING, REASONS, WAITING_BUS, simulate

    costs, which = _costs(program, description, stream)
    cycles = np.array([each.cycles for each in costs], np.int64)[which]
    latency = np.array([each.latency for each in costs], np.int64)[which]
    halts = stream.queue == HALT
    estimated = np.array(
        [each.extents[0] if each.opcode is Opcode.HOST else 0 for each in program.instructions]
    )
    cycles[halts] = estimated[stream.index[halts]]
    n = len(stream)
    arrival, start, bus, end = (np.zeros(n, np.int64) for _ in range(4))
    stalls = np.zeros((len(Queue), REASONS), np.int64)
    last = int(
        simulate(
            stream.queue,
            cycles,
            latency,
            senders,
            np.array(description.queues.depths, np.int64),
            description.dma.channels,
            description.control.issue_cycles,
            arrival,
            start,
            bus,
            end,
            stalls,
        )
    )
    if last < 0:
        raise InputError("the program hangs: instructions wait for each other.")
    sums = {
        name: np.array([getattr(each, name) for each in costs])
        for name in ("work", "scratchpad_bytes", "rom_bytes", "external_bytes", "energy_pj")
    }
    units = {}
    for queue in Queue:
        mine = stream.queue == queue
        reasons = {
            **{other.name: int(stalls[queue, other]) for other in Queue if stalls[queue, other]},
            "dispatch": int(stalls[queue, NOTHING]),
            "bus": int(stalls[queue, WAITING_BUS]),
            "full": int(stalls[queue, FULL]),
        }
        units[queue.name] = Unit(
            name=queue.name,
            instructions=int(mine.sum()),
            busy=int(cycles[mine].sum()),
            stalled={key: value for key, value in reasons.items() if value},
            work=int(sums["work"][which[mine]].sum()),
            scratchpad_bytes=int(sums["scratchpad_bytes"][which[mine]].sum()),
            rom_bytes=int(sums["rom_bytes"][which[mine]].sum()),
            external_bytes=int(sums["external_bytes"][which[mine]].sum()),
            energy_pj=float(sums["energy_pj"][which[mine]].sum()),
        )
    seconds = last / description.clock.hz
    idle = description.energy.idle_mw * 1e-3 * seconds * 1e12
    return Result(
        external=memory,
        cycles=last,
        seconds=seconds,
        units=units,
        tags=_tags(program, stream, which, sums, start, end, cycles),
        host_cycles=int(cycles[halts].sum()),
        energy_pj=sum(unit.energy_pj for unit in units.values()) + idle,
        wrapped=wrapped,
        timeline=Timeline(stream, arrival, start, bus, end, cycles),
    )


def _tags(
    program: Program,
    stream: Stream,
    which: Ints,
    sums: dict[str, NDArray[Any]],
    start: Ints,
    end: Ints,
    cycles: Ints,
) -> dict[int, Tag]:
    tag = np.array([each.tag for each in program.instructions], np.int64)[stream.index]
    counted = stream.queue != -1  # the dispatcher's own instructions belong to no layer
    found = {}
    for number in np.unique(tag[counted]).tolist():
        mine = np.flatnonzero(counted & (tag == number))
        queue, spent = stream.queue[mine], cycles[mine]
        busy, work = {}, {}
        for each in Queue:
            here = queue == each
            if here.any():
                busy[each.name] = int(spent[here].sum())
                work[each.name] = int(sums["work"][which[mine[here]]].sum())
        host = int(spent[queue == HALT].sum())
        if host:
            busy["HOST"] = host
        units = mine[queue >= 0]
        found[number] = Tag(
            tag=number,
            first=int(start[mine].min()),
            last=int(end[mine].max()),
            busy=busy,
            work=work,
            external_bytes=int(sums["external_bytes"][which[units]].sum()),
            energy_pj=float(sums["energy_pj"][which[units]].sum()),
        )
    return found
