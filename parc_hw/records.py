"""Which choices were measured to be the best for a kernel on a device, and how are they kept?

A database is a text file with one record a line, sorted: it can be read, merged and compared by
people and by version control. A record is keyed by everything that its measurement depends on,
so that it is never used where it does not hold. Of two with one key the better by evidence is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from parc_hw.errors import InputError, check_keys

__all__ = [
    "COMMITTED",
    "SCHEMA",
    "Difference",
    "Found",
    "Query",
    "Records",
    "TuningRecord",
    "add_record",
    "check_writable",
    "difference",
    "read_records",
    "write_records",
]

COMMITTED = "committed"  # names the records that come with this package
SCHEMA = 1
Values: TypeAlias = Mapping[str, int | bool | str]

# What a choice was judged by, the most telling first.
_UNITS = ("s", "cycles", "instructions")

# The parts of a key, in the order in which a mismatch is told, with the words for it.
_KEY = {
    "kernel": "kernels",
    "shape": "shapes",
    "plan": "plans",
    "device": "devices",
    "cpu": "processors' code",
    "features": "features",
    "vectors": "vector registers",
    "processor": "processors",
    "threads": "numbers of threads",
    "parc_hw": "versions of parc_hw",
    "tvm": "versions of TVM",
    "llvm": "versions of LLVM",
    "default": "choices of the kernel's own",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Everything that a record must agree on to be used.

    Parameters
    ----------
    kernel : str
        The rule.
    shape : str
        Operators, shapes and attributes (`schedules.tuning.task.signature`).
    plan : str
        What the user asked for the arithmetic of a ParC: auto, direct, fft or N1xN2.
    device, cpu : str
        Name of the described device, and LLVM's name of its processor.
    features : tuple of str
        LLVM features.
    vectors : str
        Number and bits of the vector registers, e.g. "32x512".
    processor : str
        Which processor this machine has, e.g. "GenuineIntel 6/143"; "" for a device that is not
        this machine.
    threads : int
        How many share a kernel.
    parc_hw, tvm, llvm : str
        Versions.
    default : mapping
        What the kernel chooses by itself: the evidence is a comparison with it.
    """

    kernel: str
    shape: str
    plan: str
    device: str
    cpu: str
    features: tuple[str, ...]
    vectors: str
    processor: str
    threads: int
    parc_hw: str
    tvm: str
    llvm: str
    default: Values = field(hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningRecord(Query):
    """One choice for one kernel on one device, and what it was measured to gain.

    Parameters
    ----------
    runner : str
        Who measured, and the version of the way: "local 1".
    unit : str
        "s", "cycles" or "instructions".
    choice : mapping
        A value for each dimension of the kernel's space; the default itself where nothing better was
        found.
    ratio : tuple of float
        Cost of the choice over that of the default: low, middle and high of the interval.
    cost : float
        Of the choice, in `unit`.
    trials : int
        How many choices were measured.
    evidence : dict
        Rounds, frequency, temperature and the like; plain data.

    Raises
    ------
    InputError
        A value that is not acceptable.

    Examples
    --------
    >>> record = TuningRecord.from_json(json.loads(
    ...     '{"schema":1,"kernel":"parc","shape":"s","plan":"auto","device":"rk3288",'
    ...     '"cpu":"cortex-a17","features":["+neon"],"vectors":"16x128","processor":"",'
    ...     '"threads":1,"parc_hw":"0.1.0","tvm":"0.27","llvm":"19","runner":"local 1","unit":"s",'
    ...     '"choice":{"plan":"7x2"},"default":{"plan":"14x1"},"ratio":[0.8,0.9,0.95],'
    ...     '"cost":0.001,"trials":4,"evidence":{}}'))
    >>> record.gain, TuningRecord.from_json(json.loads(record.line())) == record
    (1.11..., True)
    """

    runner: str
    unit: str
    choice: Values = field(hash=False)
    ratio: tuple[float, float, float]
    cost: float
    trials: int
    evidence: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        def refuse(name: str, accepted: str) -> None:
            raise InputError(f"{name} is {getattr(self, name)!r}; accepted: {accepted}.")

        texts = ("kernel", "shape", "plan", "device", "cpu", "vectors", "parc_hw", "tvm", "llvm")
        for name in (*texts, "runner"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                refuse(name, "a text that is not empty")
        if not isinstance(self.processor, str):
            refuse("processor", "a text")
        if not isinstance(self.features, tuple) or not all(
            isinstance(item, str) for item in self.features
        ):
            refuse("features", "a list of texts")
        for name in ("threads", "trials"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                refuse(name, "a whole number of at least 1")
        if self.unit not in _UNITS:
            refuse("unit", ", ".join(_UNITS))
        for name in ("choice", "default"):
            values = getattr(self, name)
            if not isinstance(values, Mapping) or not all(
                isinstance(key, str) and isinstance(value, int | str)
                for key, value in values.items()
            ):
                refuse(name, "a table of names and whole numbers, true, false or texts")
        numbers = self.ratio
        if (
            not isinstance(numbers, tuple)
            or len(numbers) != 3
            or not all(_is_positive(number) for number in numbers)
            or sorted(numbers) != list(numbers)
        ):
            refuse("ratio", "three positive numbers, the smallest first")
        if not _is_positive(self.cost):
            refuse("cost", "a positive number")
        if not isinstance(self.evidence, Mapping):
            refuse("evidence", "a table")

    @property
    def gain(self) -> float:
        """How many times faster than the default."""
        return 1 / self.ratio[1]

    @property
    def tuned(self) -> bool:
        """Whether it chooses anything but the default."""
        return dict(self.choice) != dict(self.default)

    @property
    def key(self) -> str:
        """What it must agree on, and by whom it was measured: equal keys are about the same thing."""
        data = {name: _plain(getattr(self, name)) for name in (*_KEY, "runner", "unit")}
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """A short name, e.g. `parc-3f2a9c`; of the key, so that better evidence keeps it."""
        return f"{self.kernel}-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sorts the better evidence first: the unit, then what is sure to be gained, then trials."""
        return (
            _UNITS.index(self.unit),
            self.ratio[2],
            self.ratio[1],
            -self.trials,
            self.line(),
        )

    def line(self) -> str:
        """The record as one line of text, without its end."""
        data = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f'{{"schema":{SCHEMA},{text[1:]}'

    def to_json(self) -> dict[str, Any]:
        """The data of `line`, and the record's id and gain."""
        return {**json.loads(self.line()), "id": self.id, "gain": self.gain}

    @classmethod
    def from_json(cls, data: object) -> TuningRecord:
        """Rebuild a record from the data of its line.

        Raises
        ------
        InputError
            Another schema, a key that is unknown or missing, a value that is not acceptable.
        """
        if not isinstance(data, dict):
            raise InputError(f"a record is a {type(data).__name__}; accepted: a JSON object.")
        if data.get("schema") != SCHEMA:
            raise InputError(
                f"its schema is {data.get('schema')!r}, and this version of parc_hw reads schema "
                f"{SCHEMA}. Take the version that wrote it, or tune again into another file."
            )
        names = [f.name for f in fields(cls)]
        check_keys("tuning record", data, accepted=("schema", *names), required=names)
        values = {name: data[name] for name in names}
        for name in ("features", "ratio"):
            if isinstance(values[name], list):
                values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The record for a kernel, or why there is none."""

    record: TuningRecord | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records of one or several files, one for each key, in the order of their lines.

    Parameters
    ----------
    records : tuple of TuningRecord
    problems : tuple of str
        What was wrong with the files and did not stop the reading: an unfinished last line.
    conflicts : tuple of str
        Where two choices had one key, and which of them was kept.
    """

    records: tuple[TuningRecord, ...] = ()
    problems: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Iterable[TuningRecord], problems: Iterable[str] = ()) -> Records:
        """The better by evidence of each key, sorted."""
        best: dict[str, TuningRecord] = {}
        conflicts = []
        for record in records:
            other = best.get(record.key)
            if other is None:
                best[record.key] = record
                continue
            kept, dropped = sorted((record, other), key=lambda r: r.rank)
            best[record.key] = kept
            if dict(kept.choice) != dict(dropped.choice):
                conflicts.append(
                    f"{kept.id}: kept {_shown(kept.choice)} ({kept.gain:.3f} times, at least "
                    f"{1 / kept.ratio[2]:.3f}), dropped {_shown(dropped.choice)} "
                    f"({dropped.gain:.3f} times, at least {1 / dropped.ratio[2]:.3f})"
                )
        return cls(
            records=tuple(sorted(best.values(), key=lambda record: record.line())),
            problems=tuple(problems),
            conflicts=tuple(conflicts),
        )

    def __add__(self, other: Records) -> Records:
        """Both together; of each key the better by evidence."""
        joined = Records.of((*self.records, *other.records))
        return dataclasses.replace(
            joined,
            problems=(*self.problems, *other.problems),
            conflicts=(*self.conflicts, *other.conflicts, *joined.conflicts),
        )

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[TuningRecord]:
        return iter(self.records)

    def find(self, query: Query) -> Found:
        """The record to use for a kernel: of those that agree in everything, the best evidence.

        Of a measured time and a count the time decides, whatever it says.
        """
        about = [r for r in self.records if r.kernel == query.kernel and r.shape == query.shape]
        if not about:
            return Found(record=None, reason="no record of this kernel and shape")
        left = about
        for name, words in list(_KEY.items())[2:]:
            wanted = _plain(getattr(query, name))
            kept = [r for r in left if _plain(getattr(r, name)) == wanted]
            if not kept:
                seen = sorted({_shown(getattr(r, name)) for r in left})
                number = f"{len(left)} record{'s are' if len(left) > 1 else ' is'}"
                return Found(
                    record=None,
                    reason=f"{number} for other {words}: {_few(seen)}, not "
                    f"{_shown(getattr(query, name)) or 'none'}",
                )
            left = kept
        best = min(left, key=lambda r: r.rank)
        if not best.tuned:
            reason = f"{best.id}: nothing faster in {best.trials} trials ({best.runner})"
        else:
            reason = f"{best.id}: {best.gain:.2f} times as fast ({best.runner})"
            if best.unit != "s":
                reason = f"{best.id}: {best.gain:.2f} times fewer {best.unit} ({best.runner})"
        return Found(record=best, reason=reason)

    def alike(self, query: Query) -> list[TuningRecord]:
        """Records of this kernel for other devices or shapes, nearest first: where to begin a search."""

        def distance(record: TuningRecord) -> tuple[Any, ...]:
            return (
                record.shape != query.shape,
                record.cpu != query.cpu,
                record.vectors != query.vectors,
                record.plan != query.plan,
                record.threads != query.threads,
                record.processor != query.processor,
                record.rank,
            )

        found = [r for r in self.records if r.kernel == query.kernel and r.tuned]
        return sorted(found, key=distance)


def _is_positive(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in sorted(value.items())}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_shown(item)}" for key, item in sorted(value.items()))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _few(texts: list[str], most: int = 3) -> str:
    """The first few of them."""
    named = [text or "none" for text in texts[:most]]
    return ", ".join(named) + (f" and {len(texts) - most} more" if len(texts) > most else "")


# ---------------------------------------------------------------- files


def read_records(path: Path, *, missing_ok: bool = False) -> Records:
    """Read a file of records.

    Parameters
    ----------
    path : Path
    missing_ok : bool
        Whether a file that is not there is one without records.

    Returns
    -------
    Records
        An unfinished last line, as a crash of another program leaves it, is told in its
        `problems` and left out; of two lines with one key the better by evidence is kept.

    Raises
    ------
    InputError
        The file cannot be read, or a line is no record of this schema.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if missing_ok:
            return Records()
        raise InputError(
            f"there is no file of records {path}; `parc-hw tune MODEL --records {path}` makes one."
        ) from None
    except OSError as error:
        raise InputError(f"the records {path} cannot be read: {error.strerror}.") from None
    records, problems = [], []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, UnicodeDecodeError):
            if number == len(lines):
                problems.append(f"{path}:{number}: the last line is not finished and was left out")
                continue
            raise InputError(
                f"{path}:{number}: this is no tuning record, which is a JSON object. Mend or delete "
                "the line."
            ) from None
        try:
            records.append(TuningRecord.from_json(document))
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from None
    return Records.of(records, problems)


def write_records(path: Path, records: Records) -> None:
    """Write a file of records, whole or not at all.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    with locked(path):
        _replace(path, records)


def add_record(path: Path, record: TuningRecord) -> Records:
    """Add one record to a file; another process may do the same at the same time.

    Returns
    -------
    Records
        What the file holds now. The record is among them unless better evidence was there.

    Raises
    ------
    InputError
        The file cannot be read or written.
    """
    with locked(path):
        found = read_records(path, missing_ok=True) + Records.of([record])
        _replace(path, found)
    return found


def check_writable(path: Path) -> None:
    """Refuse early a file that `add_record` could not write.

    Raises
    ------
    InputError
        The file or its directory is read-only or missing.
    """
    with locked(path):
        if _read_only(path):
            raise InputError(_unwritable(path, "the file is read-only"))


def _read_only(path: Path) -> bool:
    """Whether a file is there that nobody is to write: replacing it would not ask."""
    return path.exists() and not path.stat().st_mode & 0o222


def _unwritable(path: Path, why: str | None) -> str:
    return (
        f"the records {path} cannot be written: {(why or 'unknown error').lower()}. Name a file that "
        "can be with --records FILE."
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing the file; the lock ends with the process in any case."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(_unwritable(path, error.strerror)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _replace(path: Path, records: Records) -> None:
    replace_text(path, "".join(f"{record.line()}\n" for record in records))


def replace_text(path: Path, text: str) -> None:
    """Write a file beside and put it in the place of the old one, on the disk.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        if _read_only(path):
            raise PermissionError(errno.EACCES, "the file is read-only")
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise InputError(_unwritable(path, error.strerror)) from None


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two sets of records differ: by key.

    Attributes
    ----------
    only_first, only_second : tuple of TuningRecord
    changed : tuple of (TuningRecord, TuningRecord)
        Of one key with other choices, or other evidence for one choice.
    same : int
    """

    only_first: tuple[TuningRecord, ...]
    only_second: tuple[TuningRecord, ...]
    changed: tuple[tuple[TuningRecord, TuningRecord], ...]
    same: int


def difference(first: Records, second: Records) -> Difference:
    """Compare two sets of records."""
    left = {record.key: record for record in first}
    right = {record.key: record for record in second}
    both = [(left[key], right[key]) for key in left if key in right]
    return Difference(
        only_first=tuple(r for key, r in left.items() if key not in right),
        only_second=tuple(r for key, r in right.items() if key not in left),
        changed=tuple((a, b) for a, b in both if a != b),
        same=sum(a == b for a, b in both),
    )
