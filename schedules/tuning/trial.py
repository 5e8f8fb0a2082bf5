"""What does a measurement of one choice tell, and who measures?"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from parc_hw.errors import InputError
from schedules.tuning.space import Choice

if TYPE_CHECKING:
    from schedules.tuning.task import Task

__all__ = ["Ratio", "Runner", "Status", "Trial"]


class Status(enum.Enum):
    """How a trial ended. Every class but OK costs its trial and never becomes a record."""

    OK = "ok"
    CRASHED = "crashed"
    HUNG = "hung"
    WRONG = "wrong"
    BUILD_FAILED = "build_failed"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Cost of a choice over the cost of the incumbent measured beside it; below 1 is cheaper.

    `low` to `high` is a 95 % interval; a deterministic cost has all three equal.

    >>> Ratio(0.90, 0.92, 0.95).better, Ratio(0.97, 0.99, 1.01).better
    (True, False)
    """

    low: float
    mid: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.mid <= self.high < float("inf"):
            raise InputError(
                f"a ratio is {self.low} <= {self.mid} <= {self.high}; accepted: positive finite "
                "numbers in this order."
            )

    @classmethod
    def exact(cls, value: float) -> Ratio:
        """The ratio of two deterministic costs."""
        return cls(value, value, value)

    @property
    def better(self) -> bool:
        """Whether the choice is cheaper beyond the interval."""
        return self.high < 1

    @property
    def width(self) -> float:
        """Of the interval, relative to its middle."""
        return (self.high - self.low) / self.mid

    def times(self, other: Ratio) -> Ratio:
        """The ratio to what `other` is a ratio to; intervals multiply."""
        return Ratio(self.low * other.low, self.mid * other.mid, self.high * other.high)

    def to_json(self) -> list[float]:
        """Low, mid and high."""
        return [self.low, self.mid, self.high]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of measuring one choice.

    Parameters
    ----------
    choice, against : Choice
        What was measured, and the incumbent beside it.
    status : Status
    ratio : Ratio or None
        Of the two; None unless `status` is OK.
    cost : float or None
        The choice's own cost in the runner's unit: the median of seconds, instructions, cycles.
    evidence : dict
        Plain data: rounds, instructions, cycles, frequency, temperature, load, seconds spent.
    message : str
        Of a failure, one line: a signal, the time-out, where it is wrong, the compiler's words.
    device : str
        Which board, where there are several.
    """

    choice: Choice
    against: Choice
    status: Status
    ratio: Ratio | None = None
    cost: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict, hash=False)
    message: str = ""
    device: str = ""

    def __post_init__(self) -> None:
        if (self.status is Status.OK) != (self.ratio is not None and self.cost is not None):
            raise InputError(
                f"a trial that ended {self.status.value} has the ratio {self.ratio} and the cost "
                f"{self.cost}; both are given exactly when it ended ok."
            )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal trial."""
        return {
            "choice": self.choice.to_json(),
            "against": self.against.to_json(),
            "status": self.status.value,
            "ratio": None if self.ratio is None else self.ratio.to_json(),
            "cost": self.cost,
            "evidence": self.evidence,
            "message": self.message,
            "device": self.device,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """Rebuild a trial from `to_json`'s dictionary."""
        return cls(
            choice=Choice.from_json(data["choice"]),
            against=Choice.from_json(data["against"]),
            status=Status(data["status"]),
            ratio=None if data["ratio"] is None else Ratio(*data["ratio"]),
            cost=data["cost"],
            evidence=data["evidence"],
            message=data["message"],
            device=data["device"],
        )


class Runner(Protocol):
    """Measures choices; a context manager that ends its workers at the end.

    Attributes
    ----------
    name : str
        What `--runner` calls it.
    unit : str
        Of its costs: "s", "instructions" or "cycles".
    version : str
        Of its way of measuring; a part of a record's key.
    exact : bool
        Whether costs are deterministic: then a ratio has no interval and needs no confirmation.
    width : int
        How many choices it works on at once.
    trust : str
        One line to print beside its results, or "".
    """

    name: str
    unit: str
    version: str
    exact: bool
    width: int
    trust: str

    def measure(
        self,
        task: Task,
        choices: Sequence[Choice],
        *,
        incumbent: Choice,
        deadline: float,
        confirm: bool = False,
    ) -> Iterator[Trial]:
        """Measure choices beside the incumbent and yield each trial as soon as it is known.

        Parameters
        ----------
        task : Task
        choices : sequence of Choice
            Points of the task's space.
        incumbent : Choice
            What they are compared with.
        deadline : float
            Of `time.monotonic()`. Choices not measured by then are left out.
        confirm : bool
            Measure longer, until the interval is tight.

        Raises
        ------
        MeasurementError
            The incumbent cannot be measured, or the device is gone.
        """
        ...

    def close(self) -> None:
        """End workers and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
