"""What may a tuner choose about a kernel, as data that prints itself?

A space is named by its rule and has a few dimensions with finitely many values each; implications
say which values go together. Every point of it computes the same numbers, but for the dimension
`plan`, which chooses the arithmetic of a ParC and changes rounding.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from parc_hw.errors import InputError, check_keys

__all__ = ["Choice", "Dimension", "Implication", "Scalar", "Space"]

Scalar: TypeAlias = int | bool | str


@dataclass(frozen=True, slots=True)
class Choice:
    """A point of a space: a value for each dimension, in alphabetical order of their names.

    >>> choice = Choice.of({"vectors": 2, "plan": "8x7"})
    >>> str(choice), choice["plan"], choice == Choice.from_json(choice.to_json())
    ('plan=8x7 vectors=2', '8x7', True)
    """

    items: tuple[tuple[str, Scalar], ...]

    @classmethod
    def of(cls, values: Mapping[str, Scalar]) -> Choice:
        """The choice with these values."""
        return cls(tuple(sorted(values.items())))

    def __getitem__(self, name: str) -> Any:
        for key, value in self.items:
            if key == name:
                return value
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a dimension, or `default` where it has none."""
        return next((value for key, value in self.items if key == name), default)

    def but(self, **values: Scalar) -> Choice:
        """The same with other values for some dimensions."""
        return Choice.of({**dict(self.items), **values})

    def __str__(self) -> str:
        return " ".join(f"{name}={_shown(value)}" for name, value in self.items) or "nothing"

    def to_json(self) -> dict[str, Scalar]:
        """A plain dictionary that `from_json` turns back into an equal choice."""
        return dict(self.items)

    @classmethod
    def from_json(cls, data: object) -> Choice:
        """Rebuild a choice from `to_json`'s dictionary.

        Raises
        ------
        InputError
            `data` is no dictionary of names and whole numbers, truth values or texts.
        """
        if not isinstance(data, dict) or not all(
            isinstance(name, str) and isinstance(value, int | str) for name, value in data.items()
        ):
            raise InputError(
                f"a choice is {data!r}; accepted: a table of names and whole numbers, true, false "
                "or texts."
            )
        return cls.of(data)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that may be chosen: its name, its values, and what they mean in one line."""

    name: str
    values: tuple[Scalar, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Implication:
    """Where dimension `name` has one of `values`, dimension `then` has one of `accepted`."""

    name: str
    values: tuple[Scalar, ...]
    then: str
    accepted: tuple[Scalar, ...]

    def holds(self, choice: Choice) -> bool:
        """Whether a choice obeys it."""
        return not _among(choice[self.name], self.values) or _among(
            choice[self.then], self.accepted
        )

    def __str__(self) -> str:
        return f"{self.name} {_listed(self.values)} needs {self.then} {_listed(self.accepted)}"


@dataclass(frozen=True)
class Space:
    """All that may be chosen about one kernel.

    Parameters
    ----------
    kernel : str
        Name of the rule that owns it.
    dimensions : tuple of Dimension
    default : Choice
        What the rule does without being told.
    implications : tuple of Implication
        Which values go together.

    Raises
    ------
    InputError
        The default is not a point of the space, a dimension has no value or one twice, or two have
        one name.

    Examples
    --------
    >>> space = Space(
    ...     kernel="example",
    ...     dimensions=(
    ...         Dimension("rows", (1, 2, 4), "rows of a tile"),
    ...         Dimension("vectors", (1, 2), "vectors of a tile"),
    ...     ),
    ...     default=Choice.of({"rows": 1, "vectors": 2}),
    ...     implications=(Implication("rows", (4,), "vectors", (1,)),),
    ... )
    >>> print(space)
    example: 5 points
      rows     1, 2, 4   rows of a tile (1)
      vectors  1, 2      vectors of a tile (2)
      rows 4 needs vectors 1
    >>> [str(c) for c in space.points()][-1]
    'rows=4 vectors=1'
    >>> space.refusal(Choice.of({"rows": 4, "vectors": 2}))
    'rows 4 needs vectors 1, not 2'
    """

    kernel: str
    dimensions: tuple[Dimension, ...]
    default: Choice
    implications: tuple[Implication, ...] = ()

    def __post_init__(self) -> None:
        names = [dimension.name for dimension in self.dimensions]
        if len(set(names)) != len(names):
            raise InputError(f"space {self.kernel}: two dimensions have one name: {names}.")
        for dimension in self.dimensions:
            if not dimension.values or len(set(dimension.values)) != len(dimension.values):
                raise InputError(
                    f"space {self.kernel}: {dimension.name} has the values {dimension.values}; "
                    "accepted: at least one, each once."
                )
        if reason := self.refusal(self.default):
            raise InputError(f"space {self.kernel}: the default is no point of it: {reason}.")

    @cached_property
    def size(self) -> int:
        """How many points it has."""
        if not self.implications:
            return math.prod(len(dimension.values) for dimension in self.dimensions)
        return sum(1 for _ in self.points())

    def points(self) -> Iterator[Choice]:
        """All points, the last dimension fastest."""
        names = [dimension.name for dimension in self.dimensions]
        for values in itertools.product(*(dimension.values for dimension in self.dimensions)):
            choice = Choice.of(dict(zip(names, values, strict=True)))
            if all(rule.holds(choice) for rule in self.implications):
                yield choice

    def contains(self, choice: Choice) -> bool:
        """Whether a choice is one of the points."""
        return not self.refusal(choice)

    def refusal(self, choice: Choice) -> str:
        """Why a choice is no point, or ''."""
        given = dict(choice.items)
        for dimension in self.dimensions:
            if dimension.name not in given:
                return f"{dimension.name} is missing"
            value = given.pop(dimension.name)
            if not _among(value, dimension.values):
                return f"{dimension.name} is {_shown(value)}, not {_listed(dimension.values)}"
        if given:
            return f"{min(given)} is no dimension of {self.kernel}"
        for rule in self.implications:
            if not rule.holds(choice):
                return f"{rule}, not {_shown(choice[rule.then])}"
        return ""

    def neighbours(self, choice: Choice) -> Iterator[Choice]:
        """The points that differ from a choice in one dimension, or in what that one implies too."""
        for dimension in self.dimensions:
            for value in dimension.values:
                if value != choice[dimension.name]:
                    found = self._repaired(choice.but(**{dimension.name: value}))
                    if found is not None and found != choice:
                        yield found

    def sample(self, source: random.Random) -> Choice:
        """A random point."""
        while True:
            values = {d.name: source.choice(d.values) for d in self.dimensions}
            found = self._repaired(Choice.of(values), source)
            if found is not None:
                return found

    def mutated(self, choice: Choice, source: random.Random) -> Choice:
        """A point that differs from `choice` in a dimension or two; itself where there is no other."""
        movable = [d for d in self.dimensions if len(d.values) > 1]
        for _ in range(50 if movable else 0):
            count = min(len(movable), 1 + (source.random() < 0.3))
            values = {d.name: source.choice(d.values) for d in source.sample(movable, count)}
            found = self._repaired(choice.but(**values), source)
            if found is not None and found != choice:
                return found
        return choice

    def crossed(self, a: Choice, b: Choice, source: random.Random) -> Choice:
        """A point with values of either parent; `a` where none was found."""
        values = {d.name: source.choice((a, b))[d.name] for d in self.dimensions}
        return self._repaired(Choice.of(values), source) or a

    def nearest(self, choice: Choice) -> Choice:
        """The default with every value of `choice` that the space has; for another device's choice."""
        known = {
            d.name: choice.get(d.name)
            for d in self.dimensions
            if _among(choice.get(d.name), d.values)
        }
        return self._repaired(self.default.but(**known)) or self.default

    def _repaired(self, choice: Choice, source: random.Random | None = None) -> Choice | None:
        """The choice with implied values put right, or None where that does not settle.

        By random values with a `source`, else by the default's where they are accepted.
        """
        for _ in range(len(self.implications) + 1):
            broken = next((rule for rule in self.implications if not rule.holds(choice)), None)
            if broken is None:
                return choice
            default = self.default[broken.then]
            value = default if _among(default, broken.accepted) else broken.accepted[0]
            if source is not None:
                value = source.choice(broken.accepted)
            choice = choice.but(**{broken.then: value})
        return None

    def __str__(self) -> str:
        lines = [f"{self.kernel}: {self.size} points"]
        shown = [", ".join(map(_shown, d.values)) for d in self.dimensions]
        first = max((len(d.name) for d in self.dimensions), default=0)
        second = min(40, max(map(len, shown), default=0))
        for dimension, values in zip(self.dimensions, shown, strict=True):
            default = _shown(self.default[dimension.name])
            lines.append(
                f"  {dimension.name:{first}}  {values:{second}}  {dimension.meaning} ({default})"
            )
        lines += [f"  {rule}" for rule in self.implications]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal space."""
        return {
            "kernel": self.kernel,
            "dimensions": [
                {"name": d.name, "values": list(d.values), "meaning": d.meaning}
                for d in self.dimensions
            ],
            "default": self.default.to_json(),
            "implications": [
                {
                    "name": rule.name,
                    "values": list(rule.values),
                    "then": rule.then,
                    "accepted": list(rule.accepted),
                }
                for rule in self.implications
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Rebuild a space from `to_json`'s dictionary.

        Raises
        ------
        InputError
            A key is unknown or missing, or a value is not acceptable.
        """
        accepted = ("kernel", "dimensions", "default", "implications")
        check_keys("space", data, accepted=accepted, required=accepted)
        return cls(
            kernel=data["kernel"],
            dimensions=tuple(
                Dimension(d["name"], tuple(d["values"]), d["meaning"]) for d in data["dimensions"]
            ),
            default=Choice.from_json(data["default"]),
            implications=tuple(
                Implication(r["name"], tuple(r["values"]), r["then"], tuple(r["accepted"]))
                for r in data["implications"]
            ),
        )


def _among(value: Any, values: Iterable[Scalar]) -> bool:
    """Whether `value` is one of `values`; True is not 1 here."""
    return any(type(value) is type(other) and value == other for other in values)


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _listed(values: Iterable[Scalar]) -> str:
    return " or ".join(map(_shown, values))
