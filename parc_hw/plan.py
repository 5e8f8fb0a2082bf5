"""How are the numbers computed: which arithmetic plan for a correlation of length N?

A plan fixes everything that changes a float's last bit except the format; a schedule
(package `schedules`) may never change a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from parc_hw.errors import InputError, check_keys

__all__ = ["MAX_TRANSFORM", "SplitPlan"]

# A longer straight-line codelet compiles for too long and spills: 56 points took 11 s on x86-64,
# 15 s on AArch64 and 17 s on ARMv7, against 0.2 to 2.2 s for kernels with up to 32 points.
MAX_TRANSFORM = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """N = n1 * n2: real DFT of length n1, Toeplitz products of length n2, transposed DFT.

    `n1 = 1` is the direct form (the paper's ParC); `n2 = 1` is the full Fourier form
    (Fast-ParC). Between them the residues modulo z**n2 - w**k need no twiddle factors.

    Parameters
    ----------
    n1 : int
        Length of the real DFT codelet, 1 to `MAX_TRANSFORM`.
    n2 : int
        Length of the Toeplitz blocks, at least 1.

    Raises
    ------
    InputError
        A factor outside its range.

    Examples
    --------
    >>> plan = SplitPlan(n1=8, n2=7)
    >>> plan.length, str(plan)
    (56, '8x7')
    >>> SplitPlan.from_json(plan.to_json()) == plan
    True
    """

    n1: int
    n2: int

    def __post_init__(self) -> None:
        for name in ("n1", "n2"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, not {value!r}.")
        if self.n1 > MAX_TRANSFORM:
            raise InputError(
                f"n1 = {self.n1} is longer than the longest codelet, {MAX_TRANSFORM}. "
                "Choose a divisor of the length that is at most that."
            )

    @property
    def length(self) -> int:
        """N = n1 * n2."""
        return self.n1 * self.n2

    @classmethod
    def parse(cls, text: str, *, length: int) -> SplitPlan:
        """Read `N1xN2`, `direct` or `fft` for a correlation of `length` points.

        `fft` is the plan with the largest n1 that a codelet holds: the full Fourier form up
        to `MAX_TRANSFORM` points, 28x2 for 56, and the direct form for a longer prime.

        Raises
        ------
        InputError
            The text is none of these, or the factors do not multiply to `length`.

        >>> SplitPlan.parse("14x4", length=56)
        SplitPlan(n1=14, n2=4)
        >>> [str(SplitPlan.parse("fft", length=n)) for n in (14, 56, 59)]
        ['14x1', '28x2', '1x59']
        """
        if text == "direct":
            return cls(n1=1, n2=length)
        if text == "fft":
            n1 = max(d for d in range(1, MAX_TRANSFORM + 1) if length % d == 0)
            return cls(n1=n1, n2=length // n1)
        first, cross, second = text.partition("x")
        if not (cross and first.isdecimal() and second.isdecimal()):
            raise InputError(
                f"plan {text!r} is not understood; accepted are auto, direct, fft and N1xN2 "
                f"with N1 * N2 = {length}, for example 1x{length}."
            )
        plan = cls(n1=int(first), n2=int(second))
        if plan.length != length:
            raise InputError(
                f"plan {text} covers length {plan.length}, but the axis has {length} points; "
                f"N1 * N2 must be {length}."
            )
        return plan

    def __str__(self) -> str:
        return f"{self.n1}x{self.n2}"

    def to_json(self) -> dict[str, int]:
        """A plain dictionary that `from_json` turns back into an equal plan."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SplitPlan:
        """Rebuild a plan from `to_json`'s dictionary.

        Raises
        ------
        InputError
            A key is unknown or missing, or a factor is outside its range.
        """
        check_keys("split plan", data, accepted=("n1", "n2"), required=("n1", "n2"))
        return cls(**data)
