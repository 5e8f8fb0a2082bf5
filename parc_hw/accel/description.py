"""Which machine is described: how many of everything, how wide, how fast, at what energy?

A TOML file with a schema version, one table per part. `FIELDS` says of every key its unit, its
meaning and what is accepted; docs/accelerator.md prints it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from parc_hw.errors import InputError, nearest
from parc_hw.isa import Function, Queue
from parc_hw.plan import FFT_RADICES
from parc_hw.toml_lines import line_of

__all__ = [
    "FIELDS",
    "SCHEMA",
    "VECTOR_FUNCTIONS",
    "Description",
    "Field",
    "description_names",
    "from_json",
    "load_description",
    "parse_description",
]

SCHEMA: Final = 1
VECTOR_FUNCTIONS: Final = (
    *(each.name.lower() for each in Function if each >= Function.COPY),
    "requantise",
)
"""What a vector unit may be able to do; the keys of [vector.cycles]."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Field:
    """What a key of a description means.

    Attributes
    ----------
    unit : str
    meaning : str
    least, most : int or float
        Ends of what is accepted.
    whole : bool
        Whether only whole numbers are.
    power : bool
        Whether only powers of two are.
    """

    unit: str
    meaning: str
    least: float = 0
    most: float = 1 << 40
    whole: bool = True
    power: bool = False

    @property
    def accepted(self) -> str:
        """The accepted values in words."""
        kind = "powers of two" if self.power else "whole numbers" if self.whole else "numbers"
        return f"{kind} from {self.least:g} to {self.most:g}"

    def takes(self, value: object) -> bool:
        """Whether `value` is acceptable."""
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        if not self.least <= value <= self.most:
            return False
        return not self.power or int(value) & (int(value) - 1) == 0


_CYCLES: Final = 1 << 20  # the longest latency or interval
FIELDS: Final[dict[str, dict[str, Field]]] = {
    "clock": {"hz": Field("Hz", "clock of all units", 1, 1 << 40)},
    "control": {
        "issue_cycles": Field("cycles", "the dispatcher needs for one instruction", 1, _CYCLES)
    },
    "queues": {
        queue.name.lower(): Field(
            "instructions", f"that wait in the queue of {queue.name}", 1, 1 << 16
        )
        for queue in Queue
    },
    "mac": {
        "rows": Field("MACs", "of the array that share a weight (P of an instruction)", 1, 4096),
        "columns": Field("MACs", "of the array side by side (Q of an instruction)", 1, 4096),
        "operand_bits": Field("bits", "of either factor; wider words take several passes", 2, 32),
        "accumulator_bits": Field("bits", "of an accumulator, sign included", 4, 64),
        "interval": Field("cycles", "from one product of a MAC to its next", 1, _CYCLES),
        "latency": Field("cycles", "from the last operands to the last sum", 0, _CYCLES),
        "fold_cycles": Field(
            "cycles",
            "to fill and drain the array for each tile of rows x columns: 0 where operands are "
            "broadcast, 2 rows + columns - 2 in a systolic array",
            0,
            _CYCLES,
        ),
    },
    "accumulator": {"words": Field("accumulators", "in the accumulator memory", 1, 1 << 24)},
    "butterfly": {
        "units": Field("butterflies", "computed side by side; 0: none", 0, 4096),
        "bits": Field("bits", "of the widest real or imaginary part", 8, 32),
        "latency": Field("cycles", "from the last input to the last output", 0, _CYCLES),
    },
    "complex": {
        "units": Field("products", "of the complex multiplier side by side; 0: none", 0, 4096),
        "interval": Field("cycles", "from one product to the next", 1, _CYCLES),
        "latency": Field("cycles", "from the last operands to the last product", 0, _CYCLES),
    },
    "vector": {
        "lanes": Field("elements", "side by side", 1, 65536),
        "latency": Field("cycles", "from the last operands to the last result", 0, _CYCLES),
    },
    "scratchpad": {
        "bytes": Field("bytes", "in all", 64, 1 << 30),
        "banks": Field("banks", "of the scratchpad, words interleaved", 1, 4096, power=True),
        "ports": Field("words", "that a bank reads or writes in a cycle, for each unit", 1, 4),
        "width_bytes": Field("bytes", "of a bank's word", 1, 256, power=True),
    },
    "rom": {
        "bytes": Field(
            "bytes", "of tables: twiddles, spectra, activations, stage control", 0, 1 << 30
        )
    },
    "external": {
        "bytes_per_cycle": Field(
            "bytes/cycle", "that the bus moves, loads and stores together", 0.001, 65536, False
        ),
        "latency": Field("cycles", "from a request to its first byte", 0, _CYCLES),
        "burst_bytes": Field("bytes", "of a burst, aligned", 1, 65536, power=True),
    },
    "dma": {
        "channels": Field("transfers", "of one direction in flight", 1, 64),
        "width_bytes": Field("bytes/cycle", "that a transfer moves in the scratchpad", 1, 65536),
    },
    "energy": {
        "mac": Field("pJ", "of a product and sum of operand_bits", 0, 1e9, False),
        "butterfly": Field("pJ", "of a butterfly", 0, 1e9, False),
        "complex_multiply": Field("pJ", "of a complex product", 0, 1e9, False),
        "vector": Field("pJ", "of an element and cycle of the vector unit", 0, 1e9, False),
        "scratchpad_byte": Field("pJ/byte", "read or written", 0, 1e9, False),
        "rom_byte": Field("pJ/byte", "read", 0, 1e9, False),
        "external_byte": Field("pJ/byte", "moved on the bus", 0, 1e9, False),
        "idle_mw": Field("mW", "leakage and clock tree, always", 0, 1e9, False),
    },
}
"""Every table and key of a description but `name`, `title`, [butterfly.intervals], [vector.cycles]."""

_INTERVAL = Field("cycles", "from one butterfly of the radix to the next", 1, _CYCLES)
_FUNCTION = Field("cycles", "that an element takes in its lane", 1, _CYCLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """[clock]."""

    hz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """[control]."""

    issue_cycles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """[queues]: their depths."""

    load: int
    mac: int
    butterfly: int
    product: int
    vector: int
    store: int

    @property
    def depths(self) -> tuple[int, ...]:
        """In the order of `isa.Queue`."""
        return tuple(getattr(self, queue.name.lower()) for queue in Queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mac:
    """[mac]."""

    rows: int
    columns: int
    operand_bits: int
    accumulator_bits: int
    interval: int
    latency: int
    fold_cycles: int

    @property
    def count(self) -> int:
        """Multiply-accumulate units."""
        return self.rows * self.columns

    def passes(self, bits_a: int, bits_b: int) -> int:
        """How many products of operand_bits make one of these words."""
        return -(-bits_a // self.operand_bits) * -(-bits_b // self.operand_bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulator:
    """[accumulator]."""

    words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Butterfly:
    """[butterfly]; `intervals` has the cycles of each radix there is, 0: real graphs, per node."""

    units: int
    bits: int
    latency: int
    intervals: tuple[tuple[int, int], ...]

    def interval(self, radix: int) -> int | None:
        """Cycles from one butterfly of the radix to the next; None: the unit has no such radix."""
        return dict(self.intervals).get(radix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complex:
    """[complex]."""

    units: int
    interval: int
    latency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """[vector]; `cycles` has those of each function there is."""

    lanes: int
    latency: int
    cycles: tuple[tuple[str, int], ...]

    def cost(self, function: str) -> int | None:
        """Cycles of an element; None: the unit has no such function."""
        return dict(self.cycles).get(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratchpad:
    """[scratchpad]."""

    bytes: int
    banks: int
    ports: int
    width_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rom:
    """[rom]."""

    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class External:
    """[external]."""

    bytes_per_cycle: float
    latency: int
    burst_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dma:
    """[dma]."""

    channels: int
    width_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """[energy]."""

    mac: float
    butterfly: float
    complex_multiply: float
    vector: float
    scratchpad_byte: float
    rom_byte: float
    external_byte: float
    idle_mw: float


_PARTS: Final[dict[str, Any]] = {
    "clock": Clock,
    "control": Control,
    "queues": Queues,
    "mac": Mac,
    "accumulator": Accumulator,
    "butterfly": Butterfly,
    "complex": Complex,
    "vector": Vector,
    "scratchpad": Scratchpad,
    "rom": Rom,
    "external": External,
    "dma": Dma,
    "energy": Energy,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A machine; `FIELDS` says what each number means.

    >>> machine = load_description("edge-npu")
    >>> machine.mac.count, machine.mac.passes(16, 16)
    (1024, 4)
    """

    name: str
    title: str
    clock: Clock
    control: Control
    queues: Queues
    mac: Mac
    accumulator: Accumulator
    butterfly: Butterfly
    complex: Complex
    vector: Vector
    scratchpad: Scratchpad
    rom: Rom
    external: External
    dma: Dma
    energy: Energy

    @property
    def hash(self) -> bytes:
        """32 bytes that any other number in the description changes; name and title do not."""
        data = {key: value for key, value in asdict(self).items() if key not in ("name", "title")}
        text = json.dumps([SCHEMA, data], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()

    def to_json(self) -> dict[str, Any]:
        """The numbers as plain data."""
        return asdict(self)


# ---------------------------------------------------------------- reading
def description_names() -> list[str]:
    """Names of the descriptions in the package, sorted.

    >>> description_names()
    ['edge-npu', 'fft-heavy', 'fpga-small', 'tiny']
    """
    files = resources.files("parc_hw.accel") / "descriptions"
    return sorted(f.name.removesuffix(".toml") for f in files.iterdir() if f.name.endswith(".toml"))


def load_description(target: str | Path) -> Description:
    """Read a description: one of `description_names()`, or the path of a `.toml` file.

    Raises
    ------
    InputError
        No such description, or a file that is not right: every error with its line.
    """
    text = os.fspath(target)
    if not text.endswith(".toml"):
        return _described(text)
    path = Path(text)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the description {path} cannot be read: {error.strerror}. Accepted: the path of a "
            f"TOML file, or one of {', '.join(description_names())}."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid TOML, which is UTF-8: {error}.") from None
    return parse_description(content, where=str(path))


@cache
def _described(name: str) -> Description:
    names = description_names()
    if name not in names:
        raise InputError(
            f"no accelerator is called {name!r}.{nearest(name, names)} Accepted: "
            f"{', '.join(names)}, or the path of a .toml file that describes one."
        )
    path = resources.files("parc_hw.accel") / "descriptions" / f"{name}.toml"
    return parse_description(path.read_text(encoding="utf-8"), where=f"descriptions/{name}.toml")


def parse_description(text: str, *, where: str) -> Description:
    """Turn TOML text into a `Description`; `where` names the text in errors.

    Raises
    ------
    InputError
        Lists every error: file, line, what was seen, what is accepted.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML: {error}.") from None
    reader = _Reader(text, where)
    reader.top(data)
    parts = {name: reader.part(name, data) for name in FIELDS if isinstance(data.get(name), dict)}
    reader.stop()
    parts["butterfly"]["intervals"] = reader.intervals(data["butterfly"])
    parts["vector"]["cycles"] = reader.functions(data["vector"])
    reader.stop()
    made = Description(
        name=data["name"],
        title=data["title"],
        **{name: _PARTS[name](**values) for name, values in parts.items()},
    )
    for path, message in _contradictions(made):
        reader.wrong(path, message)
    reader.stop()
    return made


def from_json(data: Mapping[str, Any]) -> Description:
    """The description that `Description.to_json` wrote, lists for tuples.

    >>> machine = load_description("tiny")
    >>> from_json(json.loads(json.dumps(machine.to_json()))) == machine
    True
    """
    parts: dict[str, Any] = {}
    for name, kind in _PARTS.items():
        numbers = {
            key: tuple(map(tuple, value)) if isinstance(value, list | tuple) else value
            for key, value in data[name].items()
        }
        parts[name] = kind(**numbers)
    return Description(name=data["name"], title=data["title"], **parts)


class _Reader:
    """Collects what is wrong with a file, and where."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where
        self._found: list[tuple[int, str]] = []

    def wrong(self, path: tuple[str, ...], message: str) -> None:
        self._found.append((line_of(self._text, path), message))

    def stop(self) -> None:
        """Raise if anything was wrong."""
        if self._found:
            lines = sorted(set(self._found))
            raise InputError("\n".join(f"{self._where}:{line}: {what}" for line, what in lines))

    def keys(self, path: tuple[str, ...], given: Mapping[str, Any], accepted: list[str]) -> None:
        table = f"[{'.'.join(path)}] " if path else ""
        for key in given:
            if key not in accepted:
                self.wrong(
                    (*path, key),
                    f"{table}has no key {key!r}.{nearest(key, accepted)} "
                    f"Accepted: {', '.join(accepted)}.",
                )

    def top(self, data: Mapping[str, Any]) -> None:
        if data.get("schema") != SCHEMA:
            self.wrong(
                ("schema",),
                f"schema is {data.get('schema')!r}; this version reads schema = {SCHEMA}.",
            )
        self.keys((), data, ["schema", "name", "title", *FIELDS])
        name, title = data.get("name"), data.get("title")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self.wrong(
                ("name",),
                f"name is {name!r}; accepted: letters, digits and any of . _ -, such as my-npu.",
            )
        if not isinstance(title, str) or not title:
            self.wrong(("title",), f"title is {title!r}; accepted: a line of text.")
        for table in FIELDS:
            if not isinstance(data.get(table), dict):
                self.wrong((table,), f"the table [{table}] is missing.")

    def part(self, name: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """The plain numbers of one table."""
        table, accepted = data[name], FIELDS[name]
        tables = {"butterfly": "intervals", "vector": "cycles"}
        inner = [tables[name]] if name in tables else []
        self.keys((name,), table, [*accepted, *inner])
        for key, field in accepted.items():
            self.number((name, key), table.get(key), field)
        for key in inner:
            if not isinstance(table.get(key), dict):
                self.wrong((name,), f"the table [{name}.{key}] is missing.")
        return {key: table.get(key) for key in accepted}

    def number(self, path: tuple[str, ...], value: object, field: Field) -> None:
        if field.takes(value):
            return
        seen = "is missing" if value is None else f"is {value!r}"
        self.wrong(
            path,
            f"{'.'.join(path)} {seen}; accepted: {field.accepted} ({field.unit}: {field.meaning}).",
        )

    def intervals(self, table: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
        """[butterfly.intervals]: a radix, or `graph`, and its cycles."""
        accepted = [*map(str, FFT_RADICES), "graph"]
        given = table["intervals"]
        self.keys(("butterfly", "intervals"), given, accepted)
        for key, value in given.items():
            self.number(("butterfly", "intervals", key), value, _INTERVAL)
        radices = {("0" if key == "graph" else key): value for key, value in given.items()}
        if any(not key.isdecimal() for key in radices):
            return ()
        return tuple(sorted((int(key), value) for key, value in radices.items()))

    def functions(self, table: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
        """[vector.cycles]: a function and its cycles."""
        given = table["cycles"]
        self.keys(("vector", "cycles"), given, list(VECTOR_FUNCTIONS))
        for key, value in given.items():
            self.number(("vector", "cycles", key), value, _FUNCTION)
        return tuple(sorted(given.items()))


def _contradictions(d: Description) -> list[tuple[tuple[str, ...], str]]:
    """Numbers that are each acceptable and not together."""
    found: list[tuple[tuple[str, ...], str]] = []
    mac, pad = d.mac, d.scratchpad
    product = 2 * mac.operand_bits
    if mac.accumulator_bits < product:
        found.append(
            (
                ("mac", "accumulator_bits"),
                f"mac.accumulator_bits is {mac.accumulator_bits}, and a product of two words of "
                f"{mac.operand_bits} bits has {product}; accepted: {product} to 64.",
            )
        )
    if d.accumulator.words < mac.count:
        found.append(
            (
                ("accumulator", "words"),
                f"accumulator.words is {d.accumulator.words}, and one tile of the array has "
                f"{mac.rows} x {mac.columns} sums; accepted: at least {mac.count}.",
            )
        )
    word = -(-mac.operand_bits // 8)
    tile = (mac.rows + mac.columns) * pad.width_bytes + mac.count * word
    if pad.bytes < tile:
        found.append(
            (
                ("scratchpad", "bytes"),
                f"scratchpad.bytes is {pad.bytes}, and one tile needs {tile}: a bank's word for "
                f"each of {mac.rows} rows and {mac.columns} columns, and {mac.count} results; "
                f"accepted: at least {tile}.",
            )
        )
    row = pad.banks * pad.width_bytes
    if pad.bytes % row:
        found.append(
            (
                ("scratchpad", "bytes"),
                f"scratchpad.bytes is {pad.bytes}, which {pad.banks} banks of {pad.width_bytes}-"
                f"byte words do not share evenly; accepted: multiples of {row}.",
            )
        )
    if d.dma.width_bytes > row:
        found.append(
            (
                ("dma", "width_bytes"),
                f"dma.width_bytes is {d.dma.width_bytes}, and all banks together take {row} bytes "
                f"in a cycle; accepted: 1 to {row}.",
            )
        )
    if d.butterfly.units and not d.butterfly.intervals:
        found.append(
            (
                ("butterfly", "intervals"),
                f"butterfly.units is {d.butterfly.units}, and [butterfly.intervals] names no "
                f"radix; accepted: one of {', '.join(map(str, FFT_RADICES))}, or units = 0.",
            )
        )
    if d.butterfly.units and not d.rom.bytes:
        found.append(
            (
                ("rom", "bytes"),
                "rom.bytes is 0, and butterflies need twiddle factors; accepted: at least 1, or "
                "butterfly.units = 0.",
            )
        )
    if d.butterfly.units and not d.complex.units:
        found.append(
            (
                ("complex", "units"),
                f"complex.units is 0, and butterfly.units is {d.butterfly.units}: a transform of "
                f"which no spectrum can be multiplied is of no use; accepted: at least 1.",
            )
        )
    missing = {"copy", "add", "requantise"} - {name for name, _ in d.vector.cycles}
    if missing:
        found.append(
            (
                ("vector", "cycles"),
                f"[vector.cycles] lacks {', '.join(sorted(missing))}, without which no result "
                f"leaves the accumulators.",
            )
        )
    return found
