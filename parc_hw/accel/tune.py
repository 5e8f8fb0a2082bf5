"""Which tiling of a kernel takes the fewest cycles, or the least energy, when it is simulated?

The estimate ranks all tilings that fit; the best of them are simulated, and then their neighbours,
until none is better or the trials are used up. The search sees a `Space` of choices and a function
from a choice to its cost, and nothing of the machine. Records are lines of JSON, keyed by the hash
of the description and by the kernel: one of another machine is never used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

from parc_hw import isa
from parc_hw.accel import simulator
from parc_hw.accel.choose import best_tilings, estimate, fits
from parc_hw.accel.codegen import DoesNotFit, Place, generate, place_buffers
from parc_hw.accel.container import Program
from parc_hw.accel.dependencies import synchronise
from parc_hw.accel.description import Description
from parc_hw.accel.scheduled import Scheduled, kernel_key, make
from parc_hw.errors import InputError, nearest
from parc_hw.records import locked, replace_text
from schedules.accel.kernel import WORD_BYTES, Kernel
from schedules.accel.tiling import Tiling

__all__ = [
    "OBJECTIVES",
    "Measured",
    "Record",
    "RecordBook",
    "add_record",
    "kernel_program",
    "measure",
    "search",
    "tune_kernel",
]

OBJECTIVES: Final = ("cycles", "energy", "product")
TRIALS: Final = 24
_FIRST: Final = 8  # simulated whatever they give; the rest are neighbours of the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a tiling takes, simulated alone.

    Attributes
    ----------
    tiling : Tiling
    cycles : int
    energy_pj : float
    external_bytes : int
    """

    tiling: Tiling
    cycles: int
    energy_pj: float
    external_bytes: int

    def cost(self, objective: str) -> float:
        """The figure that `objective` compares."""
        if objective == "cycles":
            return float(self.cycles)
        if objective == "energy":
            return self.energy_pj
        return self.cycles * self.energy_pj


def kernel_program(
    kernel: Kernel,
    scheduled: Scheduled,
    machine: Description,
    tables: Mapping[str, bytes] | None = None,
) -> Program:
    """A program of one kernel, its tensors one behind the other; zeros, but for the tables."""
    places: dict[str, Place] = {}
    at, rom = 0, bytearray()
    for name in kernel.parameters:
        tensor = kernel.tensors[name]
        size = WORD_BYTES[tensor.dtype]
        for extent in tensor.shape:
            size *= extent
        if tensor.memory == "rom":
            places[name] = Place(isa.Space.ROM, len(rom))
            table = (tables or {}).get(name, bytes(size))
            rom += table + bytes(-len(table) % 8)
        else:
            places[name] = Place(isa.Space.EXTERNAL, at)
            at += -(-size // 64) * 64
    memory = place_buffers(scheduled.lowered, machine)
    found = generate(kernel, scheduled.lowered, places, memory, steps=scheduled.steps)
    return Program(
        instructions=tuple(synchronise(found)),
        description_hash=machine.hash,
        external_bytes=at,
        rom=bytes(rom),
        metadata={"kernel": kernel.name, "places": {n: p.base for n, p in places.items()}},
    )


def measure(
    kernel: Kernel,
    tiling: Tiling,
    machine: Description,
    tables: Mapping[str, bytes] | None = None,
) -> Measured:
    """Simulate a kernel's cycles under a tiling.

    Raises
    ------
    DoesNotFit
        The tiling needs more memory than there is.
    """
    program = kernel_program(kernel, make(kernel, tiling, machine), machine, tables)
    result = simulator.run(program, machine, values=False)
    moved = sum(tag.external_bytes for tag in result.tags.values())
    return Measured(
        tiling=tiling, cycles=result.cycles, energy_pj=result.energy_pj, external_bytes=moved
    )


def search(
    first: Sequence[Tiling],
    neighbours: Callable[[Tiling], Iterator[Tiling]],
    cost: Callable[[Tiling], float | None],
    *,
    trials: int = TRIALS,
    stop: Callable[[], bool] | None = None,
) -> Tiling | None:
    """Try `first`, then go on from the best to its neighbours while one is better.

    Parameters
    ----------
    first : sequence of Tiling
    neighbours : callable
        Choices close to one, the most promising first.
    cost : callable
        Lower is better; None for a choice that cannot be.
    trials : int
        Calls of `cost`, at most.
    stop : callable, optional
        Asked before every call of `cost` but the first that gives one: true ends the search.

    Returns
    -------
    Tiling or None
        None: nothing could be.
    """
    costs: dict[str, float] = {}
    best: Tiling | None = None
    left = trials

    def attempt(tiling: Tiling) -> bool:
        nonlocal best, left
        if str(tiling) in costs or left <= 0:
            return False
        if stop is not None and best is not None and stop():
            left = 0
            return False
        left -= 1
        found = cost(tiling)
        costs[str(tiling)] = float("inf") if found is None else found
        if found is not None and (best is None or found < costs[str(best)]):
            best = tiling
            return True
        return False

    for tiling in first:
        attempt(tiling)
    while best is not None and left > 0:
        if not any(attempt(tiling) for tiling in neighbours(best)):
            break
    return best


def _neighbours(kernel: Kernel, machine: Description) -> Callable[[Tiling], Iterator[Tiling]]:
    """Tilings with one tile a divisor up or down, another depth, or two loops exchanged."""
    loops = {**kernel.stages[0].loops, **kernel.stages[-1].loops}

    def around(tiling: Tiling) -> Iterator[Tiling]:
        found = []
        for name, tile in tiling.tiles.items():
            divisors = [d for d in range(1, loops[name] + 1) if loops[name] % d == 0]
            place = divisors.index(tile)
            for near in (place - 1, place + 1):
                if 0 <= near < len(divisors):
                    tiles = {**tiling.tiles, name: divisors[near]}
                    order = tuple(n for n in tiling.order if tiles[n] < loops[n])
                    missing = [
                        n for n in kernel.tiled if tiles.get(n, loops[n]) < loops[n]
                        and n not in order
                    ]  # fmt: skip
                    found.append(replace(tiling, tiles=tiles, order=(*order, *missing)))
        found += [replace(tiling, depth=depth) for depth in (1, 2, 3, 4) if depth != tiling.depth]
        for n in range(len(tiling.order) - 1):
            swapped = list(tiling.order)
            swapped[n], swapped[n + 1] = swapped[n + 1], swapped[n]
            found.append(replace(tiling, order=tuple(swapped)))
        expected = [(estimate(kernel, each, machine), each) for each in found]
        ranked = sorted(
            ((e.cycles, n, each) for n, (e, each) in enumerate(expected) if fits(e, machine)),
            key=lambda entry: entry[:2],
        )
        yield from (each for *_, each in ranked)

    return around


def check_objective(objective: str) -> None:
    """Raise InputError unless `objective` is one."""
    if objective not in OBJECTIVES:
        raise InputError(
            f"objective {objective!r} is unknown.{nearest(objective, OBJECTIVES)} Accepted: "
            f"{', '.join(OBJECTIVES)}."
        )


def tune_kernel(
    kernel: Kernel,
    machine: Description,
    *,
    objective: str = "cycles",
    trials: int = TRIALS,
    tables: Mapping[str, bytes] | None = None,
    first: Sequence[Tiling] = (),
    watch: Callable[[Measured], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Measured:
    """Find the best tiling of a kernel by simulation.

    Parameters
    ----------
    kernel : Kernel
    machine : Description
    objective : {"cycles", "energy", "product"}
    trials : int
        Simulations, at most.
    tables : mapping of str to bytes, optional
        Contents of read-only tensors: those of transforms say what a stage costs.
    first : sequence of Tiling
        Simulated before all others: what is found is never worse than these.
    watch : callable, optional
        Receives every simulated tiling.
    stop : callable, optional
        True ends the search with what it has.

    Raises
    ------
    InputError
        An unknown objective.
    UnsupportedError
        No tile fits: says which dimension cannot be cut, and what is missing.
    """
    check_objective(objective)
    seen: dict[str, Measured] = {}

    def cost(tiling: Tiling) -> float | None:
        try:
            found = measure(kernel, tiling, machine, tables)
        except DoesNotFit:
            return None
        seen[str(tiling)] = found
        if watch is not None:
            watch(found)
        return found.cost(objective)

    tried = [*first, *_spread(kernel, machine)]
    best = search(tried, _neighbours(kernel, machine), cost, trials=trials, stop=stop)
    if best is None:  # the estimate of sizes was too low for all of them
        best = search(best_tilings(kernel, machine, 64), lambda _: iter(()), cost, trials=64)
    assert best is not None
    return seen[str(best)]


def _spread(kernel: Kernel, machine: Description) -> list[Tiling]:
    """Good tilings by estimate that differ in more than the order: the first of each kind."""
    kept: dict[Any, Tiling] = {}
    for tiling in best_tilings(kernel, machine, 256):
        kept.setdefault(tuple(sorted(tiling.tiles.items())), tiling)
        if len(kept) == _FIRST:
            break
    return list(kept.values())


# ---------------------------------------------------------------- records
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The best tiling found for a kernel on a machine.

    Attributes
    ----------
    machine : str
        Hash of its description, in hexadecimal.
    kernel : str
        Hash of `kernel_key`.
    name : str
        Of the kernel, with its loops: for people.
    objective : str
    tiling : Tiling
    cycles : int
    energy_pj : float
    """

    machine: str
    kernel: str
    name: str
    objective: str
    tiling: Tiling
    cycles: int
    energy_pj: float

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "machine": self.machine,
                "kernel": self.kernel,
                "name": self.name,
                "objective": self.objective,
                "tiles": dict(self.tiling.tiles),
                "order": list(self.tiling.order),
                "depth": self.tiling.depth,
                "cycles": self.cycles,
                "energy_pj": self.energy_pj,
            },
            sort_keys=True,
        )

    @classmethod
    def of_line(cls, line: str) -> Record:
        """Read `to_line`; KeyError, TypeError or ValueError where it is none."""
        data = json.loads(line)
        tiling = Tiling(tiles=data["tiles"], order=tuple(data["order"]), depth=data["depth"])
        names = ("machine", "kernel", "name", "objective", "cycles", "energy_pj")
        return cls(tiling=tiling, **{name: data[name] for name in names})


def record_key(kernel: Kernel) -> str:
    """The kernel's part of a record's key."""
    return hashlib.sha256(kernel_key(kernel).encode()).hexdigest()[:16]


@dataclass
class RecordBook:
    """Records of one machine.

    Attributes
    ----------
    machine : Description
    records : dict of str to Record
        By kernel.
    used : list of str
        Kernels that `choose` had a record for.
    """

    machine: Description
    records: dict[str, Record] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path | None, machine: Description) -> RecordBook:
        """Read records: a file, "none", or those of the package where nothing is given.

        Raises
        ------
        InputError
            A file that cannot be read, or a line that is no record.
        """
        book = cls(machine)
        if path is None:
            shipped = resources.files("parc_hw.accel") / "records" / f"{machine.name}.jsonl"
            if shipped.is_file():
                book._add(shipped.read_text(encoding="utf-8"), str(shipped))
        elif str(path) != "none":
            book.add_file(path)
        return book

    def add_file(self, path: str | Path) -> None:
        """Add a file's records for this machine; they replace those of the same kernels.

        Raises
        ------
        InputError
            A file that cannot be read, or a line that is no record.
        """
        self._add(_read_text(path), str(path))

    def _add(self, text: str, where: str) -> None:
        for record in _parse(text, where):
            if record.machine == self.machine.hash.hex():
                self.records[record.kernel] = record

    def choose(self, kernel: Kernel) -> Tiling | None:
        """The recorded tiling of a kernel; None without a record for this machine."""
        record = self.records.get(record_key(kernel))
        if record is None:
            return None
        self.used.append(record.name)
        return record.tiling

    def tune(
        self,
        kernel: Kernel,
        *,
        objective: str = "cycles",
        trials: int = TRIALS,
        first: Sequence[Tiling] = (),
        watch: Callable[[Measured], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Record:
        """Tune a kernel and keep the result; the parameters are those of `tune_kernel`."""
        best = tune_kernel(
            kernel,
            self.machine,
            objective=objective,
            trials=trials,
            first=first,
            watch=watch,
            stop=stop,
        )
        loops = kernel.stages[0].loops
        record = Record(
            machine=self.machine.hash.hex(),
            kernel=record_key(kernel),
            name=f"{kernel.name} {' '.join(f'{name}={extent}' for name, extent in loops.items())}",
            objective=objective,
            tiling=best.tiling,
            cycles=best.cycles,
            energy_pj=best.energy_pj,
        )
        self.records[record.kernel] = record
        return record

    def to_text(self) -> str:
        """All records, one line each, sorted."""
        lines = sorted(record.to_line() for record in self.records.values())
        return "".join(f"{line}\n" for line in lines)


def add_record(path: Path, record: Record) -> None:
    """Put one record into a file, in the place of the one for its kernel; the others stay.

    The file is written whole or not at all, and another process may do the same meanwhile.

    Raises
    ------
    InputError
        The file cannot be read or written, or has a line that is no record.
    """
    with locked(path):
        found = _parse(_read_text(path), str(path)) if path.exists() else []
        kept = {(each.machine, each.kernel): each for each in found}
        kept[record.machine, record.kernel] = record
        lines = sorted(each.to_line() for each in kept.values())
        replace_text(path, "".join(f"{line}\n" for line in lines))


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the records {path} cannot be read: {error}.") from None


def _parse(text: str, where: str) -> list[Record]:
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            records.append(Record.of_line(line))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{where}, line {number}: no record of an accelerator ({error!r})."
            ) from None
    return records
