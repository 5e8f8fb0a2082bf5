"""Which integers stand for the twiddle factors of a transform?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.modes import Rounding, parse_rounding, rounding_code
from parc_hw.errors import InputError, check_keys

__all__ = ["TwiddleFormat", "turn"]

_MOST_BITS = 32  # wider factors leave no room for a data word in a 64-bit product
_FLOAT_BITS = 52  # cos in float64 is right to within 2**-53


@dataclass(frozen=True, slots=True, kw_only=True)
class TwiddleFormat:
    """The words of a twiddle table, and how cos and sin become such words.

    A number x is stored as R(x * scale + add), clipped into the word, with scale = 2**frac_bits,
    or one less.

    Parameters
    ----------
    bits : int
        Word length, sign included; 2 to 32.
    frac_bits : int, optional
        Fraction bits. bits - 1 (the default): +1.0 is not a word and becomes the largest one.
        bits - 2: +1.0 and -1.0 are exact.
    rounding : Rounding
        R. Tables are usually rounded half away from zero, as C's `round` does; CMSIS-DSP's are
        floors.
    add : float
        Added before R, in LSB: 0.05 with FLOOR is what is left of a table printed with one decimal.
    below_one : bool
        The scale is 2**frac_bits - 1, so that +1.0 is the largest word (kissfft).
    first_frac_bits : int, optional
        The values come from a table with so many fraction bits, rounded by R as well: they are
        rounded twice (18 in ac_dsp's radix-2 classes).

    Raises
    ------
    InputError
        A count out of range, or no `Rounding`.

    Examples
    --------
    >>> TwiddleFormat(bits=16).table(4).tolist()
    [[32767, 0], [0, -32768], [-32768, 0], [0, 32767]]
    >>> TwiddleFormat(bits=16, frac_bits=14).table(8, sign=1)[1].tolist()
    [11585, 11585]
    """

    bits: int = 16
    frac_bits: int | None = None
    rounding: Rounding = Rounding.HALF_AWAY
    add: float = 0.0
    below_one: bool = False
    first_frac_bits: int | None = None

    def __post_init__(self) -> None:
        if not _whole(self.bits) or not 2 <= self.bits <= _MOST_BITS:
            raise InputError(
                f"twiddle bits is {self.bits!r}: accepted are 2 to {_MOST_BITS}; a wider factor "
                f"leaves no room for data in a 64-bit product."
            )
        if self.frac_bits is None:
            object.__setattr__(self, "frac_bits", self.bits - 1)
        if not _whole(self.frac_bits) or not 0 <= self.fraction < self.bits:
            raise InputError(
                f"twiddle frac_bits is {self.frac_bits!r}: accepted are 0 to bits - 1 = "
                f"{self.bits - 1}."
            )
        first = self.first_frac_bits
        if first is not None and not (_whole(first) and self.fraction <= first <= _FLOAT_BITS):
            raise InputError(
                f"first_frac_bits is {first!r}: accepted are None and frac_bits = "
                f"{self.frac_bits} to {_FLOAT_BITS}."
            )
        if not isinstance(self.add, int | float) or not math.isfinite(self.add):
            raise InputError(f"add is {self.add!r}: expected a finite number of LSB.")
        rounding_code(self.rounding)

    @property
    def fraction(self) -> int:
        """`frac_bits` as a number, whichever way it was given."""
        assert self.frac_bits is not None
        return self.frac_bits

    @property
    def max_raw(self) -> int:
        """The largest word."""
        return (1 << (self.bits - 1)) - 1

    def quantise(self, value: float) -> int:
        """Return the word for `value`.

        >>> TwiddleFormat(bits=8).quantise(0.7071067811865476)
        91
        """
        if self.first_frac_bits is not None:
            ones = 1 << self.first_frac_bits
            value = _rounded(Fraction(value) * ones, self.rounding) / ones
        scale = (1 << self.fraction) - self.below_one
        # The product and the sum in float64, as the tables of every library here are made.
        raw = _rounded(Fraction(value * scale + self.add), self.rounding)
        return min(max(raw, -self.max_raw - 1), self.max_raw)

    def table(self, length: int, *, sign: int = -1) -> NDArray[np.int64]:
        """Return exp(sign 2 pi j k / length) for k < length as words.

        Returns
        -------
        int64 array, shape (length, 2)
            Read-only: real and imaginary parts.
        """
        return _table(self, length, sign)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal format."""
        return {**asdict(self), "rounding": self.rounding.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TwiddleFormat:
        """Rebuild a format from `to_json`'s dictionary.

        >>> TwiddleFormat.from_json(TwiddleFormat(bits=18).to_json()) == TwiddleFormat(bits=18)
        True
        """
        check_keys("twiddle format", data, accepted=cls.__dataclass_fields__)
        fields = dict(data)
        if isinstance(fields.get("rounding"), str):
            fields["rounding"] = parse_rounding(fields["rounding"])
        return cls(**fields)


def turn(numerator: int, denominator: int) -> tuple[float, float]:
    """Return cos and sin of `numerator / denominator` of a turn, from the first eighth.

    Zeros, halves, ones and equal magnitudes come out exact, whatever the angle.

    >>> turn(3, 4), turn(5, 10)
    ((0.0, -1.0), (-1.0, 0.0))
    """
    eighth, rest = divmod(8 * (numerator % denominator), denominator)
    # odd eighths are measured from their far end, so that the angle is at most pi/4
    part = denominator - rest if eighth % 2 else rest
    angle = 2 * math.pi * part / (8 * denominator)
    # a twelfth of a turn has the one rational sine between 0 and 1, and math.sin misses it
    c, s = math.cos(angle), 0.5 if 12 * part == 8 * denominator else math.sin(angle)
    near, far = (s, c) if eighth % 4 in (1, 2) else (c, s)
    return (
        -near if eighth in (2, 3, 4, 5) and near else near,
        -far if eighth >= 4 and far else far,
    )


@lru_cache(maxsize=256)
def _table(fmt: TwiddleFormat, length: int, sign: int) -> NDArray[np.int64]:
    values = [turn(sign * k, length) for k in range(length)]
    words = np.array([[fmt.quantise(c), fmt.quantise(s)] for c, s in values], np.int64)
    words.flags.writeable = False
    return words


def _rounded(value: Fraction, rounding: Rounding) -> int:
    """The integer that `value` becomes."""
    below = math.floor(value)
    rest = value - below
    match rounding:
        case Rounding.FLOOR:
            return below
        case Rounding.TOWARD_ZERO:
            return below + (value < 0 and rest > 0)
    if 2 * rest != 1:
        return below + (2 * rest > 1)
    match rounding:
        case Rounding.HALF_UP:
            return below + 1
        case Rounding.HALF_EVEN:
            return below + below % 2
        case _:
            return below + (value > 0)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
