"""What does a study ask: which data, which points or which search, at which cost?

The TOML file, the JSON in the journal and the records below have one shape; defaults are filled in
when a specification is read, so that its hash says what was computed and not how it was written.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from parc_hw.errors import InputError, nearest
from parc_hw.study.files import inspect_file
from parc_hw.study.knobs import KNOBS, Knob, Values, canonical
from parc_hw.toml_lines import Path as KeyPath
from parc_hw.toml_lines import line_of

__all__ = [
    "METHODS",
    "QUALITIES",
    "SCHEMA",
    "CanvasData",
    "CostWeights",
    "LineData",
    "Search",
    "StudySpec",
    "load_spec",
    "parse_spec",
]

SCHEMA: Final = 1
METHODS: Final = ("greedy", "optuna")
#: What a search may hold, per subject; all of them are the better the larger they are.
QUALITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "parc": ("sqnr_db",),
    "fft": ("sqnr_db",),
    "model": ("accuracy", "agreement", "sqnr_db"),
}
TRIALS: Final = 200
MOST_POINTS: Final = 1_000_000
_MOST_LINES: Final = 10_000_000
_MOST_SCHEDULES: Final = 4096


# ---------------------------------------------------------------- records
@dataclass(frozen=True, slots=True, kw_only=True)
class LineData:
    """Lines that go through a transform or an operator, and the kernels they meet.

    Attributes
    ----------
    source : "uniform", "normal" or "file"
        Distribution of the values: even in [-amplitude, amplitude), normal, or those of `file`.
    amplitude : float
        Largest value, or for "normal" the standard deviation.
    lines : int
        Signals of N points; of complex numbers for a transform.
    kernels : int
        Different kernels, over which the lines are dealt; each has a spectrum of at most 1.
    channels : int
        0: depthwise. Else the operator is dense: the lines are dealt over so many input channels,
        and every kernel sums over all of them.
    embedding, bias : float
        Largest value of a position embedding and of a bias, which are drawn evenly; 0: none.
    seed : int
    file, kernels_file : str
        `.npy` files of real numbers: lines (lines, N), of a transform (lines, N, 2); kernels
        (kernels, N), dense (kernels, channels, N). Empty: drawn.
    file_digest, kernels_digest : str
        SHA-256 of their bytes.
    """

    source: str = "uniform"
    amplitude: float = 0.9
    lines: int = 1000
    kernels: int = 8
    channels: int = 0
    embedding: float = 0.0
    bias: float = 0.0
    seed: int = 0
    file: str = ""
    file_digest: str = ""
    kernels_file: str = ""
    kernels_digest: str = ""

    @property
    def inputs(self) -> int:
        """Channels of the input."""
        return self.channels or self.kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasData:
    """Pictures that a network classifies.

    Attributes
    ----------
    canvases : int
        `canvases("test", 1000, seed)`, then `seed + 1`, ...: glyphs that no training saw.
    seed : int
        The first one.
    calibration : int
        Training canvases from which ranges are taken.
    traced : int
        Canvases whose layers are compared with the real-valued network.
    """

    canvases: int = 1000
    seed: int = 0
    calibration: int = 256
    traced: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The cheapest point that holds a quality.

    Attributes
    ----------
    hold : tuple of (str, float)
        A quality of `QUALITIES` and its least value.
    over : tuple of (str, tuple)
        Knobs and the values they may take, ascending where they are numbers.
    methods : tuple of str
        "greedy" (min+1 with descent) and "optuna".
    trials : int
        Points that optuna may try.
    seed : int
        Of optuna.
    """

    hold: tuple[str, float]
    over: tuple[tuple[str, tuple[Any, ...]], ...]
    methods: tuple[str, ...] = METHODS
    trials: int = TRIALS
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostWeights:
    """What one unit of each resource counts in the cost; see `parc_hw.study.cost`.

    Attributes
    ----------
    multiplier_bit : float
        Per bit of one operand and bit of the other of each multiplication.
    adder_bit : float
        Per bit of each addition.
    memory_bit : float
        Per stored bit.
    """

    multiplier_bit: float = 1.0
    adder_bit: float = 1.0
    memory_bit: float = 6 / 28  # a static memory cell has 6 transistors, a mirror full adder 28


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """One study; made by `load_spec` or `from_json`.

    Attributes
    ----------
    name : str
        Letters, digits, - and _.
    title : str
        One line for the report. It alone does not change the hash.
    subject : "parc", "fft" or "model"
    data : LineData or CanvasData
    common : tuple of (str, value)
        Knobs that are the same at all points.
    grids : tuple of tuple of (str, tuple of values)
        Each gives all combinations of its knobs' values.
    search : Search or None
    cost : CostWeights
    """

    name: str
    title: str = ""
    subject: str
    data: LineData | CanvasData
    common: tuple[tuple[str, Any], ...] = ()
    grids: tuple[tuple[tuple[str, tuple[Any, ...]], ...], ...] = ()
    search: Search | None = None
    cost: CostWeights = CostWeights()

    def points(self) -> list[Values]:
        """All points of the grids, each once, in the order of the file."""
        found: dict[str, Values] = {}
        for grid in self.grids:
            names = [name for name, _ in grid]
            for combination in itertools.product(*(values for _, values in grid)):
                point = self.point(dict(zip(names, combination, strict=True)))
                found.setdefault(json.dumps(point), point)
        return list(found.values())

    def point(self, values: Mapping[str, Any]) -> Values:
        """The point with these values, the common ones and the defaults, without what is idle."""
        return canonical(self.subject, {**dict(self.common), **values})

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary in the shape of the TOML file, all defaults filled in."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "name": self.name,
            "title": self.title,
            "subject": self.subject,
            "data": asdict(self.data),
            "common": _plain(dict(self.common)),
            "grid": [_plain(dict(grid)) for grid in self.grids],
            "cost": asdict(self.cost),
        }
        if self.search is not None:
            quality, least = self.search.hold
            document["search"] = {
                "hold": {quality: least},
                "over": _plain(dict(self.search.over)),
                "methods": list(self.search.methods),
                "trials": self.search.trials,
                "seed": self.search.seed,
            }
        return document

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StudySpec:
        """Rebuild a specification from `to_json`'s dictionary."""
        return _parse(dict(data), _Where("specification", None))

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the results depend on."""
        document = self.to_json()
        del document["title"]
        data = document["data"]
        # Where a file lies does not matter; nor do the fields of what a study has none of.
        data.pop("file", None)
        data.pop("kernels_file", None)
        for key in ("channels", "embedding", "bias", "file_digest", "kernels_digest"):
            if not data.get(key, True):
                del data[key]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _plain(values: Any) -> Any:
    """Tuples as the lists that JSON has."""
    if isinstance(values, Mapping):
        return {name: _plain(value) for name, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, tuple | list) else values


# ---------------------------------------------------------------- reading
def load_spec(path: Path) -> StudySpec:
    """Read a specification from a TOML file.

    Raises
    ------
    InputError
        The file cannot be read or says something that is not accepted; names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the study {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"the study {path} is not UTF-8 text: {error}.") from None
    return parse_spec(text, where=str(path))


def parse_spec(text: str, *, where: str) -> StudySpec:
    """Turn TOML text into a `StudySpec`; `where` names the text in errors.

    Raises
    ------
    InputError
        As `load_spec`.

    Examples
    --------
    >>> spec = parse_spec('''schema = 1
    ... name = "widths"
    ... subject = "parc"
    ... [grid]
    ... data_bits = {from = 8, to = 12, step = 2}
    ... ''', where="widths.toml")
    >>> [point["data_bits"] for point in spec.points()]
    [8, 10, 12]
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML: {error}.") from None
    return _parse(data, _Where(where, text))


@dataclass(frozen=True, slots=True)
class _Where:
    """The place that a message speaks of."""

    file: str
    text: str | None
    path: KeyPath = ()

    def inside(self, *keys: str | int) -> _Where:
        return _Where(self.file, self.text, (*self.path, *keys))

    def fail(self, message: str) -> InputError:
        at = self.file if self.text is None else f"{self.file}:{line_of(self.text, self.path)}"
        return InputError(f"{at}: {message}")

    @property
    def title(self) -> str:
        """How a reader of the file calls the table."""
        keys = [str(key) for key in self.path if isinstance(key, str)]
        return f"[{'.'.join(keys)}]" if keys else "the study"


class _Table:
    """A table whose keys are taken one by one; what is left over is unknown."""

    def __init__(self, data: Any, where: _Where) -> None:
        if not isinstance(data, dict):
            raise where.fail(f"{where.title} is {data!r}: expected a table.")
        self.data: dict[str, Any] = data
        self.where = where

    def accept(self, *names: str) -> None:
        """Refuse every key but these."""
        for key in self.data:
            if key not in names:
                raise self.where.inside(key).fail(
                    f"unknown key {key!r} in {self.where.title}.{nearest(key, names)} "
                    f"Accepted: {', '.join(names)}."
                )

    def fail(self, key: str, accepted: str) -> InputError:
        place = self.where.inside(key)
        if key not in self.data:
            return self.where.fail(f"{self.where.title} lacks {key!r}: {accepted}.")
        return place.fail(f"{key} is {self.data[key]!r}; accepted: {accepted}.")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, "a text")
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.data.get(key, default)
        if value not in choices or not isinstance(value, str):
            near = nearest(value, choices) if isinstance(value, str) else ""
            error = self.fail(key, ", ".join(choices))
            raise InputError(f"{error}{near}")
        return value

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        value = self.data.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"whole numbers {low} to {high}")
        return value

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self.data.get(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.fail(key, f"numbers {low:g} to {high:g}")
        return float(value)


def _parse(data: dict[str, Any], where: _Where) -> StudySpec:
    top = _Table(data, where)
    keys = ("schema", "name", "title", "subject", "data", "common", "grid", "search", "cost")
    top.accept(*keys)
    if data.get("schema") != SCHEMA:
        raise top.fail("schema", f"{SCHEMA}, the version of this format")
    name = top.text("name")
    if not name or not all(c.isalnum() or c in "-_" for c in name) or not name.isascii():
        raise top.fail("name", "letters, digits, - and _")
    subject = top.choice("subject", tuple(KNOBS))
    common = tuple(
        (key, _value(KNOBS[subject], key, value, where.inside("common"), subject))
        for key, value in _Table(data.get("common", {}), where.inside("common")).data.items()
    )
    taken = dict(common)
    grids = data.get("grid", [])
    single = isinstance(grids, dict)
    if not isinstance(grids, dict | list):
        raise top.fail("grid", "a table, or several [[grid]] tables")
    spec = StudySpec(
        name=name,
        title=top.text("title", ""),
        subject=subject,
        data=_data(subject, data.get("data", {}), where.inside("data")),
        common=common,
        grids=tuple(
            _ranges(subject, grid, where.inside("grid", *([] if single else [index])), taken)
            for index, grid in enumerate([grids] if single else grids)
        ),
        search=_search(subject, data["search"], where.inside("search"), taken)
        if "search" in data
        else None,
        cost=_cost(data.get("cost", {}), where.inside("cost")),
    )
    if not spec.grids and spec.search is None:
        raise where.fail("the study has neither a [grid] nor a [search]: nothing to compute.")
    count = sum(math.prod(len(values) for _, values in grid) for grid in spec.grids)
    if count > MOST_POINTS:
        raise where.inside("grid").fail(
            f"the grid has {count} points; accepted: at most {MOST_POINTS}. Use [search]."
        )
    return spec


def _data(subject: str, data: Any, where: _Where) -> LineData | CanvasData:
    table = _Table(data, where)
    seeds = (0, 2**32 - 1)
    if subject == "model":
        table.accept("canvases", "seed", "calibration", "traced")
        known = CanvasData()
        return CanvasData(
            canvases=table.whole("canvases", known.canvases, 1, _MOST_LINES),
            seed=table.whole("seed", known.seed, *seeds),
            calibration=table.whole("calibration", known.calibration, 1, 100_000),
            traced=table.whole("traced", known.traced, 1, 1000),
        )
    written = where.text is not None
    table.accept(
        *(key for key in LineData.__dataclass_fields__ if not (written and key.endswith("_digest")))
    )
    lines = LineData()
    found = LineData(
        source=table.choice("source", ("uniform", "normal", "file"), lines.source),
        amplitude=table.number("amplitude", lines.amplitude, 2.0**-64, 2.0**64),
        lines=table.whole("lines", lines.lines, 2, _MOST_LINES),
        kernels=table.whole("kernels", lines.kernels if subject == "parc" else 1, 1, 4096),
        channels=table.whole("channels", lines.channels, 0, 4096),
        embedding=table.number("embedding", lines.embedding, 0.0, 2.0**64),
        bias=table.number("bias", lines.bias, 0.0, 2.0**64),
        seed=table.whole("seed", lines.seed, *seeds),
        **{key: table.text(key, "") for key in _FILES},
    )
    if written:
        found = _with_files(found, subject, table)
    if subject == "fft":
        idle = {"kernels": found.kernels - 1, "channels": found.channels, "bias": found.bias}
        idle |= {"embedding": found.embedding, "kernels_file": len(found.kernels_file)}
        for key, value in idle.items():
            if value:
                raise where.inside(key).fail(f"a transform has no kernel: leave {key} out.")
    parts, what = found.inputs, "channels" if found.channels else "kernels"
    if found.lines % parts:
        raise where.inside(what if what in table.data else "lines").fail(
            f"{found.lines} lines cannot be dealt over {parts} {what}; accepted: a number of lines "
            f"that {parts} divides."
        )
    return found


_FILES: Final = ("file", "file_digest", "kernels_file", "kernels_digest")


def _with_files(data: LineData, subject: str, table: _Table) -> LineData:
    """The data with its files' digests and extents; a path is relative to the specification."""
    changed: dict[str, Any] = {}
    if (data.source == "file") != bool(data.file):
        raise table.fail("file", 'a .npy file, together with source = "file"')
    for key, digest, taken in (
        ("file", "file_digest", ("lines", "amplitude")),
        ("kernels_file", "kernels_digest", ("kernels", "channels")),
    ):
        if not (name := getattr(data, key)):
            continue
        for other in taken:
            if other in table.data:
                raise table.where.inside(other).fail(f"{key} says that: leave {other} out.")
        path = (Path(table.where.file).parent / name).resolve()
        ends = (2,) if subject == "fft" else ()
        axes = (2, 3) if key == "kernels_file" else (2 + len(ends),)
        try:
            shape, changed[digest] = inspect_file(path, axes)
        except InputError as error:
            raise table.where.inside(key).fail(f"{key}: {error}") from None
        if key == "file" and ends and shape[2:] != ends:
            raise table.where.inside(key).fail(
                f"file has shape {shape}; accepted: (lines, N, 2), real and imaginary part."
            )
        changed[key] = str(path)
        if key == "file":
            changed["lines"] = shape[0]
        else:
            changed |= {"kernels": shape[0], "channels": shape[1] if len(shape) == 3 else 0}
    return replace(data, **changed)


def _cost(data: Any, where: _Where) -> CostWeights:
    table = _Table(data, where)
    weights = asdict(CostWeights())
    table.accept(*weights)
    return CostWeights(
        **{name: table.number(name, default, 0.0, 1e9) for name, default in weights.items()}
    )


def _search(subject: str, data: Any, where: _Where, taken: Mapping[str, Any]) -> Search:
    table = _Table(data, where)
    table.accept("hold", "over", "methods", "trials", "seed")
    hold = _Table(table.data.get("hold", {}), where.inside("hold"))
    qualities = QUALITIES[subject]
    hold.accept(*qualities)
    if len(hold.data) != 1:
        raise hold.where.fail(
            f"[search.hold] names {len(hold.data)} qualities; accepted: one of "
            f"{', '.join(qualities)}, with its least value."
        )
    quality = next(iter(hold.data))
    bounds = (-300.0, 400.0) if quality == "sqnr_db" else (0.0, 1.0)
    least = hold.number(quality, math.nan, *bounds)
    over = _ranges(subject, table.data.get("over", {}), where.inside("over"), taken)
    if not over:
        raise where.fail("[search.over] is empty: name at least one knob and its values.")
    methods = table.data.get("methods", list(METHODS))
    known = isinstance(methods, list) and methods and all(m in METHODS for m in methods)
    if not known or len(set(methods)) < len(methods):
        raise table.fail("methods", f"a list of {', '.join(METHODS)}")
    return Search(
        hold=(quality, least),
        over=over,
        methods=tuple(methods),
        trials=table.whole("trials", TRIALS, 1, 100_000),
        seed=table.whole("seed", 0, 0, 2**32 - 1),
    )


def _ranges(
    subject: str, data: Any, where: _Where, taken: Mapping[str, Any]
) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """The knobs of a grid or of a search's [over], each with its values."""
    table = _Table(data, where)
    found = []
    for key, given in table.data.items():
        place = where.inside(key)
        if key in taken:
            raise place.fail(f"{key} is in [common] already: leave it in one of the two.")
        values: Any = given
        if isinstance(given, dict):
            values = _schedules(given, place) if key == "scaling" else _steps(key, given, place)
        if not isinstance(values, list):
            values = [values]
        if not values:
            raise place.fail(f"{key} has no values.")
        checked = [_value(KNOBS[subject], key, value, where, subject) for value in values]
        if len({json.dumps(value) for value in checked}) < len(checked):
            raise place.fail(f"{key} has a value twice: {given!r}.")
        found.append((key, tuple(checked)))
    return tuple(found)


def _steps(key: str, given: dict[str, Any], where: _Where) -> list[int]:
    """The values of `{from = 8, to = 16, step = 2}`."""
    table = _Table(given, where)
    table.accept("from", "to", "step")
    for name in ("from", "to"):
        if type(given.get(name)) is not int:
            raise table.fail(name, "a whole number")
    step = table.whole("step", 1, 1, 1_000_000)
    values = list(range(given["from"], given["to"] + 1, step))
    if not values:
        raise where.fail(f"{key} goes from {given['from']} to {given['to']}: that is no value.")
    return values


def _schedules(given: dict[str, Any], where: _Where) -> list[list[int]]:
    """All shifts of `scaling = {stages = 3, from = 0, to = 2}`, one list per combination."""
    table = _Table(given, where)
    table.accept("stages", "from", "to")
    for name in ("stages", "from", "to"):
        if type(given.get(name)) is not int:
            raise table.fail(name, "a whole number")
    stages, first, last = given["stages"], given["from"], given["to"]
    count = max(0, last - first + 1) ** max(stages, 0)
    if not 1 <= stages <= 16 or not 1 <= count <= _MOST_SCHEDULES:
        raise where.fail(
            f"scaling has {count} schedules of {stages} stages; accepted: 1 to {_MOST_SCHEDULES}."
        )
    return [list(shifts) for shifts in itertools.product(range(first, last + 1), repeat=stages)]


def _value(knobs: Mapping[str, Knob], key: str, value: Any, where: _Where, subject: str) -> Any:
    """The checked value of a knob."""
    if key not in knobs:
        raise where.inside(key).fail(
            f"unknown key {key!r} in {where.title}.{nearest(key, knobs)} A study of {subject} has "
            f"{', '.join(knobs)}."
        )
    try:
        return knobs[key].check(value)
    except ValueError as error:
        near = nearest(value, knobs[key].choices) if isinstance(value, str) else ""
        raise where.inside(key).fail(f"{error}.{near}") from None
