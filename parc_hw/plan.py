"""How are the numbers computed: which arithmetic plan for a correlation of length N?

A plan fixes everything that changes a float's last bit except the format; a schedule
(package `schedules`) may never change a number.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from parc_hw.errors import InputError, UnsupportedError, check_keys

__all__ = ["FFT_RADICES", "MAX_TRANSFORM", "Decimation", "FftPlan", "Order", "SplitPlan"]

FFT_RADICES = (2, 3, 4, 5, 7)

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


class Decimation(enum.Enum):
    """At which end of a butterfly are the twiddle factors?"""

    DIT = "dit"  # in time: before it, and its legs move apart from stage to stage
    DIF = "dif"  # in frequency: behind it, and its legs move together


class Order(enum.Enum):
    """In which order does a transform take or give its words?"""

    NATURAL = "natural"
    DIGIT_REVERSED = "digit_reversed"  # `FftPlan.digit_reversal`; bit-reversed for radix 2 alone


@dataclass(frozen=True, slots=True, kw_only=True)
class FftPlan:
    """A mixed-radix FFT: its stages, where their twiddle factors are, and the order at each end.

    Parameters
    ----------
    radices : tuple of int
        Of the stages, in order of execution; each 2, 3, 4, 5 or 7. Their product is the length;
        without a stage it is 1.
    decimation : Decimation or str
        DIF: the first stage has its legs N/r apart; in place it takes natural order and gives
        digit-reversed order. DIT: the first stage has its legs side by side; in place it takes
        digit-reversed and gives natural order. Another order at either end is a permutation.
    input_order, output_order : Order or str
    groups : tuple of int
        How many consecutive stages share one general twiddle multiplication; () is 1 for each.
        Stages of radices with product R in a group are followed (DIF) or preceded (DIT) by powers
        of exp(-2 pi j / R) only, all but the group's outermost: radix 2^2 is a group of two
        twos, with nothing but quarter turns inside.

    Raises
    ------
    InputError
        A radix, a group, a decimation or an order that is not accepted.

    Examples
    --------
    A forward and an inverse transform with nothing reordered between them:

    >>> forward = FftPlan(radices=(4, 2, 7), output_order="digit_reversed")
    >>> forward.length, str(forward), str(forward.transposed)
    (56, 'dif 4x2x7, natural to digit_reversed', 'dit 7x2x4, digit_reversed to natural')
    >>> forward.digit_reversal[:8], forward.digit_reversal == forward.transposed.digit_reversal
    ((0, 8, 16, 24, 32, 40, 48, 4), True)
    >>> FftPlan.from_json(forward.to_json()) == forward
    True
    """

    radices: tuple[int, ...]
    decimation: Decimation = Decimation.DIF
    input_order: Order = Order.NATURAL
    output_order: Order = Order.NATURAL
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("radices", 2), ("groups", 1)):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise InputError(f"{name} is {values!r}: expected a sequence of whole numbers.")
            for value in values:
                if not isinstance(value, int) or isinstance(value, bool) or value < least:
                    raise InputError(
                        f"{name}: {value!r} in {tuple(values)} is no whole number of at least "
                        f"{least}."
                    )
            object.__setattr__(self, name, tuple(values))
        for radix in self.radices:
            if radix not in FFT_RADICES:
                raise InputError(
                    f"radices: there is no butterfly of radix {radix}; accepted: "
                    f"{', '.join(map(str, FFT_RADICES))}. Split it into factors of these."
                )
        if self.groups and sum(self.groups) != len(self.radices):
            raise InputError(
                f"groups {self.groups} cover {sum(self.groups)} stages, and radices "
                f"{self.radices} are {len(self.radices)}; their sum must be that, or leave them "
                f"out: ()."
            )
        if self.groups == (1,) * len(self.radices):
            object.__setattr__(self, "groups", ())  # one way to say it, so that equal is equal
        object.__setattr__(self, "decimation", _member(Decimation, self.decimation, "decimation"))
        for name in ("input_order", "output_order"):
            object.__setattr__(self, name, _member(Order, getattr(self, name), name))

    @classmethod
    def of(
        cls,
        length: int,
        *,
        decimation: Decimation | str = Decimation.DIF,
        input_order: Order | str = Order.NATURAL,
        output_order: Order | str = Order.NATURAL,
    ) -> FftPlan:
        """Return the plan of `length` points with as many stages of radix 4 as there can be.

        Then one of radix 2 if the length needs it, then 3, 5, 7; the other way round for DIT, so
        that both decimations of a length have the same digit-reversed order.

        Raises
        ------
        UnsupportedError
            The length has a prime factor above 7.
        InputError
            It is no whole number of at least 1.

        Examples
        --------
        >>> [FftPlan.of(n).radices for n in (1, 8, 56, 448)]
        [(), (4, 2), (4, 2, 7), (4, 4, 4, 7)]
        >>> FftPlan.of(46)
        Traceback (most recent call last):
        ...
        parc_hw.errors.UnsupportedError: no fixed-point FFT for length 46 = 2*23: the radices are \
2, 3, 4, 5, 7. Use the direct plan or the number-theoretic transform (zero padding would change \
the result: ParC is circular).
        """
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise InputError(f"length is {length!r}: expected a whole number of at least 1.")
        radices, rest = [], length
        for radix in (4, 2, 3, 5, 7):
            while rest % radix == 0:
                radices.append(radix)
                rest //= radix
        if rest > 1:
            raise UnsupportedError(
                f"no fixed-point FFT for length {length} = {_factored(length)}: the radices are "
                f"{', '.join(map(str, FFT_RADICES))}. Use the direct plan or the number-theoretic "
                f"transform (zero padding would change the result: ParC is circular)."
            )
        kind = _member(Decimation, decimation, "decimation")
        return cls(
            radices=tuple(radices if kind is Decimation.DIF else reversed(radices)),
            decimation=kind,
            input_order=_member(Order, input_order, "input_order"),
            output_order=_member(Order, output_order, "output_order"),
        )

    @property
    def length(self) -> int:
        """N, the product of the radices."""
        return math.prod(self.radices)

    @property
    def transposed(self) -> FftPlan:
        """The same graph run backwards: DIF becomes DIT, and the orders change ends.

        With the same digit-reversed order on both sides of it.
        """
        backwards = Decimation.DIT if self.decimation is Decimation.DIF else Decimation.DIF
        return FftPlan(
            radices=self.radices[::-1],
            decimation=backwards,
            input_order=self.output_order,
            output_order=self.input_order,
            groups=self.groups[::-1],
        )

    @property
    def digit_reversal(self) -> tuple[int, ...]:
        """Natural index of each place: digit_reversed[p] is natural[digit_reversal[p]].

        The digit of the stage with the widest legs is the natural index's lowest and the place's
        highest one.

        >>> FftPlan(radices=(2, 2, 2)).digit_reversal
        (0, 4, 2, 6, 1, 5, 3, 7)
        """
        widest_first = self.radices if self.decimation is Decimation.DIF else self.radices[::-1]
        places, stride = [0], 1
        for radix in widest_first:
            places = [place + stride * digit for place in places for digit in range(radix)]
            stride *= radix
        return tuple(places)

    def __str__(self) -> str:
        text = "x".join(map(str, self.radices)) or "1"
        if self.groups:
            ends = iter(self.radices)
            text = "x".join(
                f"({'x'.join(str(next(ends)) for _ in range(size))})" for size in self.groups
            )
        orders = f"{self.input_order.value} to {self.output_order.value}"
        return f"{self.decimation.value} {text}, {orders}"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal plan."""
        return {
            "radices": list(self.radices),
            "decimation": self.decimation.value,
            "input_order": self.input_order.value,
            "output_order": self.output_order.value,
            "groups": list(self.groups),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FftPlan:
        """Rebuild a plan from `to_json`'s dictionary.

        Raises
        ------
        InputError
            A key is unknown or missing, or a value is not accepted.
        """
        names = ("radices", "decimation", "input_order", "output_order", "groups")
        check_keys("FFT plan", data, accepted=names, required=("radices",))
        return cls(**data)


_Member = TypeVar("_Member", bound=enum.Enum)


def _member(kind: type[_Member], value: _Member | str, name: str) -> _Member:
    """`value` as a member of the enum, from its text if need be."""
    if isinstance(value, kind):
        return value
    accepted = [member.value for member in kind]
    if value not in accepted:
        raise InputError(f"{name} is {value!r}; accepted: {', '.join(accepted)}.")
    return kind(value)


def _factored(number: int) -> str:
    """`number` as a product of primes: 46 is 2*23."""
    primes, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            primes.append(divisor)
            number //= divisor
        divisor += 1
    return "*".join(map(str, [*primes, number] if number > 1 else primes))
