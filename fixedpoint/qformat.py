"""Which numbers does a word of so many bits stand for, and which format holds a result exactly?

A format is a set of equally spaced real numbers: `raw * 2**-frac_bits` for every integer `raw` of
`int_bits + frac_bits` bits, two's complement or unsigned. `int_bits` counts the sign bit, as ARM,
APyTypes and `ap_fixed` count it; TI and en_cl_fix do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fixedpoint.errors import FormatError
from parc_hw.dataflow import signed_bits
from parc_hw.errors import InputError

__all__ = ["QFormat", "as_format"]

WORD_BITS = 64  # the widest integers that numpy and machines have
MOST_SHIFT = 256  # of the binary point out of the word: keeps every value far inside float64
_TEXT = re.compile(r"(U?)Q(-?[0-9]+)\.(-?[0-9]+)")


@dataclass(frozen=True, slots=True)
class QFormat:
    """The words of `int_bits + frac_bits` bits that stand for `raw * 2**-frac_bits`.

    Parameters
    ----------
    int_bits : int
        Bits left of the binary point, the sign included. May be negative (the first bits of the
        fraction are absent) or exceed the word (the last integer bits are absent).
    frac_bits : int
        Bits right of the binary point; may be negative. -256 .. 256.
    signed : bool
        Two's complement, or unsigned.

    Raises
    ------
    FormatError
        The word has more than 64 bits.
    InputError
        The word has no bit, or a count is not an integer.

    Examples
    --------
    >>> q15 = QFormat.parse("Q1.15")
    >>> q15.bits, q15.min_raw, q15.max_raw, q15.lsb == 2**-15
    (16, -32768, 32767, True)
    >>> print(QFormat.for_mul(q15, q15), QFormat(0, 8, signed=False))
    Q2.30 UQ0.8
    """

    int_bits: int
    frac_bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        for name in ("int_bits", "frac_bits"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int | np.integer):
                raise InputError(f"{name} is {count!r}: expected an integer.")
            object.__setattr__(self, name, int(count))
        if not isinstance(self.signed, bool | np.bool_):
            raise InputError(f"signed is {self.signed!r}: expected True or False.")
        object.__setattr__(self, "signed", bool(self.signed))
        if self.bits < 1:
            raise InputError(
                f"{self}: the word has {self.bits} bits. Accepted: int_bits + frac_bits is 1 to "
                f"{WORD_BITS}."
            )
        if self.bits > WORD_BITS:
            raise FormatError(
                f"{self}: the word has {self.bits} bits, and a word holds {WORD_BITS}. Take "
                f"{self.bits - WORD_BITS} bits off; {self._shortened()} would fit."
            )
        if abs(self.frac_bits) > MOST_SHIFT:
            raise InputError(
                f"{self}: frac_bits is {self.frac_bits}. Accepted: {-MOST_SHIFT} to {MOST_SHIFT}."
            )

    def __str__(self) -> str:
        return f"{'' if self.signed else 'U'}Q{self.int_bits}.{self.frac_bits}"

    def _shortened(self) -> str:
        """The name of this format with its lowest bits cut off at 64."""
        return f"{'' if self.signed else 'U'}Q{self.int_bits}.{WORD_BITS - self.int_bits}"

    @classmethod
    def parse(cls, text: str) -> QFormat:
        """Return the format that `text` names: "Q1.15", "UQ0.8", "Q-3.18", "Q20.-4".

        >>> QFormat.parse("UQ0.8")
        QFormat(int_bits=0, frac_bits=8, signed=False)
        >>> QFormat.parse("Q15")
        Traceback (most recent call last):
        ...
        parc_hw.errors.InputError: 'Q15' is not a format: the integer bits are missing, and \
tools differ on whether they count the sign. Write Q1.15 for 1 sign and 15 fraction bits (Q<integer \
bits, with sign>.<fraction bits>; UQ0.8 is unsigned).
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is not None:
            return cls(int(match[2]), int(match[3]), signed=not match[1])
        accepted = "(Q<integer bits, with sign>.<fraction bits>; UQ0.8 is unsigned)."
        bare = re.fullmatch(r"([uU]?)[qQ]([0-9]+)", text) if isinstance(text, str) else None
        if bare is not None:
            full = f"UQ0.{bare[2]}" if bare[1] else f"Q1.{bare[2]}"
            meaning = "no integer" if bare[1] else "1 sign"
            raise InputError(
                f"{text!r} is not a format: the integer bits are missing, and tools differ on "
                f"whether they count the sign. Write {full} for {meaning} and {bare[2]} fraction "
                f"bits {accepted}"
            )
        raise InputError(f"{text!r} is not a format. Write it like Q1.15 {accepted}")

    # ------------------------------------------------------------ what it holds
    @property
    def bits(self) -> int:
        """Bits of the word."""
        return self.int_bits + self.frac_bits

    @property
    def lsb(self) -> float:
        """The distance of neighbouring values, exactly."""
        return 2.0**-self.frac_bits

    @property
    def min_raw(self) -> int:
        """The smallest stored integer."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max_raw(self) -> int:
        """The largest stored integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def min_value(self) -> Fraction:
        """The smallest number, exactly."""
        return self.min_raw * Fraction(2) ** -self.frac_bits

    @property
    def max_value(self) -> Fraction:
        """The largest number, exactly.

        >>> print(QFormat.parse("Q1.3").max_value, float(QFormat.parse("Q1.3").max_value))
        7/8 0.875
        """
        return self.max_raw * Fraction(2) ** -self.frac_bits

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of arrays of stored integers: int64, or uint64 for 64 unsigned bits."""
        return np.dtype(np.uint64 if self.max_raw >= 1 << 63 else np.int64)

    # ------------------------------------------------------------ exact results
    # Each `for_` function returns the format that holds every possible result exactly and is the
    # narrowest that does. The argument is the same for all: the operation maps the integers of the
    # operands (in units of the result's LSB) onto integers in [low, high], and low and high are
    # attained, so that
    #   - no other fraction length does: the result 1 LSB (or -1 LSB) is attained, because each
    #     operand holds the raw integer 1 or -1 and, for a sum, one operand may be 0;
    #   - fewer bits do not: `_narrowest` takes the fewest whose range has both low and high.
    # What remains to be shown for each operation is its low and high.

    @staticmethod
    def for_add(a: QFormat, b: QFormat) -> QFormat:
        """Return the narrowest format of every sum of a value of `a` and a value of `b`.

        >>> q15 = QFormat.parse("Q1.15")
        >>> print(QFormat.for_add(q15, q15), QFormat.for_add(q15, QFormat.parse("UQ4.0")))
        Q2.15 Q5.15
        """

        # x + y is monotone in x and in y: low = min a + min b, high = max a + max b. With equal
        # formats of w bits, low = -2**w needs w + 1 bits and high = 2**w - 2 fits them: one bit
        # more. Without overlap (UQ8.0 + UQ0.8) there is no carry and no more bits.
        def sums(a: QFormat, b: QFormat) -> _Range:
            point = max(a.frac_bits, b.frac_bits)
            (a_low, a_high), (b_low, b_high) = a._limits(point), b._limits(point)
            return _Range(a_low + b_low, a_high + b_high, point, a.signed or b.signed)

        return _narrowest(sums, (a, b), f"the sum of {a} and {b}")

    @staticmethod
    def for_sub(a: QFormat, b: QFormat) -> QFormat:
        """Return the narrowest format of every difference `a - b`; always signed.

        >>> print(QFormat.for_sub(QFormat.parse("UQ0.8"), QFormat.parse("UQ0.8")))
        Q1.8
        """

        # x - y rises with x and falls with y: low = min a - max b, high = max a - min b.
        def differences(a: QFormat, b: QFormat) -> _Range:
            point = max(a.frac_bits, b.frac_bits)
            (a_low, a_high), (b_low, b_high) = a._limits(point), b._limits(point)
            return _Range(a_low - b_high, a_high - b_low, point, True)

        return _narrowest(differences, (a, b), f"the difference {a} - {b}")

    @staticmethod
    def for_mul(a: QFormat, b: QFormat) -> QFormat:
        """Return the narrowest format of every product of a value of `a` and a value of `b`.

        >>> print(QFormat.for_mul(QFormat.parse("Q1.15"), QFormat.parse("UQ1.17")))
        Q2.32
        """
        return QFormat.for_multiply_accumulate(a, b, 1)

    @staticmethod
    def for_accumulate(a: QFormat, count: int) -> QFormat:
        """Return the narrowest format of every sum of `count` values of `a`.

        >>> print(QFormat.for_accumulate(QFormat.parse("Q1.15"), 56))
        Q7.15
        """
        # Monotone in every term: count * min, count * max. Signed: -count * 2**(w-1) fits
        # w + ceil(log2(count)) bits and no fewer, and the positive end is nearer to zero.
        count = _count(count)

        def sums(a: QFormat) -> _Range:
            return _Range(count * a.min_raw, count * a.max_raw, a.frac_bits, a.signed)

        return _narrowest(sums, (a,), f"the sum of {count} values of {a}")

    @staticmethod
    def for_multiply_accumulate(a: QFormat, b: QFormat, count: int) -> QFormat:
        """Return the narrowest format of every sum of `count` products of `a` and `b`.

        It may be narrower than `for_accumulate(for_mul(a, b), count)`, which allows every term to
        be the negative end of the product's format: no product is.

        >>> q7 = QFormat.parse("Q1.7")
        >>> print(QFormat.for_multiply_accumulate(q7, q7, 3))
        Q3.14
        >>> print(QFormat.for_accumulate(QFormat.for_mul(q7, q7), 3))
        Q4.14
        """
        # x*y is linear in x for fixed y, and the other way round: on the box of both ranges its
        # extremes are at corners. Signed, v and w bits: the corners are 2**(v+w-2) and
        # -2**(v-1) * (2**(w-1) - 1), and with v and w swapped: the positive one needs v + w bits.
        count = _count(count)

        def sums(a: QFormat, b: QFormat) -> _Range:
            corners = [x * y for x in (a.min_raw, a.max_raw) for y in (b.min_raw, b.max_raw)]
            point, signed = a.frac_bits + b.frac_bits, a.signed or b.signed
            return _Range(count * min(corners), count * max(corners), point, signed)

        terms = "the product" if count == 1 else f"the sum of {count} products"
        return _narrowest(sums, (a, b), f"{terms} of {a} and {b}")

    def _limits(self, point: int) -> tuple[int, int]:
        """The smallest and the largest value in units of 2**-point, point >= frac_bits."""
        more = point - self.frac_bits
        return self.min_raw << more, self.max_raw << more

    # ------------------------------------------------------------ arrays of it
    def words(self, raw: Any, *, name: str = "raw") -> NDArray[Any]:
        """Return `raw` as an array of this format's dtype after checking every word.

        Parameters
        ----------
        raw : array-like of integers, any shape
            Stored integers.
        name : str
            What a message calls the array.

        Returns
        -------
        int64 array (uint64 for 64 unsigned bits) of the same shape; `raw` itself where that
        needs no copy.

        Raises
        ------
        InputError
            Not integers, or one is outside the format: the first is named with its index.

        Examples
        --------
        >>> QFormat.parse("Q1.7").words([100, 200])
        Traceback (most recent call last):
        ...
        parc_hw.errors.InputError: raw: 200 at index (1,) is outside Q1.7, whose stored integers \
are -128 to 127. Bring it into the format with requantize.
        """
        array = np.asarray(raw)
        if array.size == 0 and not isinstance(raw, np.ndarray | np.generic):
            array = array.astype(self.dtype)  # numpy makes [] float64
        if array.dtype.kind not in "iu":
            seen = "integers beyond 64 bits" if array.dtype.kind == "O" else str(array.dtype)
            raise InputError(
                f"{name}: raw (stored) integers of {self} are expected, not {seen}. Use quantize "
                f"to turn real numbers into them."
            )
        held = np.iinfo(array.dtype)
        if array.size and (held.min < self.min_raw or held.max > self.max_raw):
            # numpy compares integers of any kind with Python integers exactly
            low, high = int(array.min()), int(array.max())
            if low < self.min_raw or high > self.max_raw:
                outside = (array < self.min_raw) | (array > self.max_raw)
                index = tuple(int(i) for i in np.unravel_index(int(outside.argmax()), array.shape))
                raise InputError(
                    f"{name}: {int(array[index])} at index {index} is outside {self}, whose stored "
                    f"integers are {self.min_raw} to {self.max_raw}. Bring it into the format with "
                    f"requantize."
                )
        return array.astype(self.dtype, copy=False)


def as_format(fmt: QFormat | str, *, name: str = "format") -> QFormat:
    """Return `fmt`, parsed if it is text.

    >>> as_format("Q1.15").bits
    16
    """
    if isinstance(fmt, QFormat):
        return fmt
    if isinstance(fmt, str):
        return QFormat.parse(fmt)
    raise InputError(f"{name} is {fmt!r}: expected a QFormat or text like 'Q1.15'.")


class _Range(NamedTuple):
    """The results of an operation: low..high in units of 2**-point, low <= 0 <= high."""

    low: int
    high: int
    point: int
    signed: bool

    @property
    def bits(self) -> int:
        return signed_bits((self.low, self.high)) if self.signed else max(self.high.bit_length(), 1)


def _narrowest(results: Callable[..., _Range], operands: tuple[QFormat, ...], what: str) -> QFormat:
    """The narrowest format that holds `results(*operands)`, or a `FormatError` with one that is."""
    held = results(*operands)
    if held.bits <= WORD_BITS:
        return QFormat(held.bits - held.point, held.point, held.signed)
    # Take low bits off whichever operand has more of what makes the result wide, until it fits.
    shorter = list(operands)
    while results(*shorter).bits > WORD_BITS:
        longest = max(shorter, key=lambda operand: (operand.frac_bits, operand.bits))
        if longest.bits == 1:
            break
        cut = QFormat(longest.int_bits, longest.frac_bits - 1, longest.signed)
        shorter[shorter.index(longest)] = cut
    advice = ""
    if results(*shorter).bits <= WORD_BITS:
        advice = f" {' and '.join(map(str, shorter))} would fit."
    raise FormatError(
        f"{what} needs {held.bits} bits ({'' if held.signed else 'U'}Q{held.bits - held.point}."
        f"{held.point}), and 64-bit arithmetic holds {WORD_BITS}.{advice}"
    )


def _count(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise InputError(f"count is {count!r}: expected how many values are summed, at least 1.")
    return int(count)
