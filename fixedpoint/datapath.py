"""At which points of a computation is a word made narrower, how, and how often did it not fit?"""

from __future__ import annotations

from dataclasses import dataclass, field

from fixedpoint.modes import Overflow, Rounding, overflow_code, rounding_code
from fixedpoint.qformat import QFormat, as_format
from parc_hw.errors import InputError

__all__ = ["Cut", "Datapath", "OverflowCounter"]


@dataclass(frozen=True, slots=True)
class Cut:
    """One point where an exact result is brought into a format.

    Parameters
    ----------
    format : QFormat
        The format behind the point.
    rounding : Rounding
        What happens to the low bits that `format` lacks.
    overflow : Overflow
        What happens, after rounding, to a value that `format` does not reach.
    """

    format: QFormat
    rounding: Rounding = Rounding.HALF_EVEN
    overflow: Overflow = Overflow.SATURATE

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", as_format(self.format))
        rounding_code(self.rounding)
        overflow_code(self.overflow)

    def __str__(self) -> str:
        return f"{self.format} {self.rounding.name} {self.overflow.name}"


@dataclass(frozen=True, slots=True)
class Datapath:
    """What is rounded at which point of a sum of products, such as a complex multiplication.

    Every product passes `product`; every sum, as it grows, passes `accumulator`; the last sum
    passes `result`. A point that is None keeps every bit.

    Parameters
    ----------
    result : Cut
        After the last addition.
    product : Cut or None
        After each multiplication.
    accumulator : Cut or None
        After each addition: the register that holds the sum.
    multiplications : int
        Of a complex multiplication: 4, or 3 with operands one bit wider and 3 more additions.

    Examples
    --------
    A DSP slice with a 48-bit register, one rounding at its end; and 16-bit multipliers that hand
    on their upper half:

    >>> one = Datapath(Cut(QFormat.parse("Q1.15")), accumulator=Cut(QFormat.parse("Q18.30")))
    >>> half = Datapath(Cut(QFormat.parse("Q1.15")), product=Cut(QFormat.parse("Q2.14")))
    """

    result: Cut
    product: Cut | None = None
    accumulator: Cut | None = None
    multiplications: int = 4

    def __post_init__(self) -> None:
        for name in ("result", "product", "accumulator"):
            cut = getattr(self, name)
            if not isinstance(cut, Cut) and not (cut is None and name != "result"):
                kinds = "a Cut" if name == "result" else "a Cut or None"
                raise InputError(f"{name} is {cut!r}: expected {kinds}.")
        if self.multiplications not in (3, 4):
            raise InputError(
                f"multiplications is {self.multiplications!r}: a complex product takes 4, or 3."
            )


@dataclass(slots=True)
class OverflowCounter:
    """How many words passed each point, and how many of them did not fit.

    >>> counter = OverflowCounter()
    >>> counter.record("sum", overflowed=2, words=8)
    >>> counter.record("sum", overflowed=1, words=8)
    >>> counter.overflowed, counter.words, counter.total
    ({'sum': 3}, {'sum': 16}, 3)
    """

    overflowed: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)

    def record(self, point: str, *, overflowed: int, words: int) -> None:
        """Add `words` words at `point`, `overflowed` of which did not fit."""
        self.overflowed[point] = self.overflowed.get(point, 0) + overflowed
        self.words[point] = self.words.get(point, 0) + words

    @property
    def total(self) -> int:
        """Words that did not fit, over all points."""
        return sum(self.overflowed.values())
