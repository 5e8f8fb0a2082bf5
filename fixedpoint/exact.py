"""What is the exact answer, in Python's integers and fractions and nothing else?

The oracle of `fixedpoint`: one number at a time, no word length, no shift, no numpy. Rounding is
written from its definition (which of the two neighbouring integers?), wrapping as a remainder.
Nothing here is shared with the kernels but the formats' limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from fixedpoint.datapath import Cut, Datapath
from fixedpoint.errors import FixedPointOverflow
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.qformat import QFormat

__all__ = [
    "accumulate",
    "complex_multiply",
    "cut",
    "quantize",
    "requantize",
    "round_to_integer",
    "to_value",
    "wrap",
]

Pair = tuple[int, int]


def round_to_integer(value: Fraction, rounding: Rounding) -> int:
    """Return the integer that `value` becomes.

    >>> [round_to_integer(Fraction(-3, 2), mode) for mode in Rounding]
    [-2, -1, -1, -2, -2]
    """
    below, above = math.floor(value), math.ceil(value)
    if below == above:
        return below
    toward_zero, away = (below, above) if value > 0 else (above, below)
    if rounding is Rounding.FLOOR:
        return below
    if rounding is Rounding.TOWARD_ZERO:
        return toward_zero
    if value - below != above - value:
        return below if value - below < above - value else above
    if rounding is Rounding.HALF_UP:
        return above
    if rounding is Rounding.HALF_AWAY:
        return away
    return below if below % 2 == 0 else above


def wrap(raw: int, fmt: QFormat) -> int:
    """Return the stored integer of `fmt` that differs from `raw` by a multiple of 2**bits.

    >>> wrap(128, QFormat.parse("Q1.7"))
    -128
    """
    return (raw - fmt.min_raw) % (fmt.max_raw - fmt.min_raw + 1) + fmt.min_raw


def to_value(raw: int, fmt: QFormat) -> Fraction:
    """Return the number that `raw` stands for.

    >>> print(to_value(-3, QFormat.parse("Q1.2")))
    -3/4
    """
    return Fraction(raw) / Fraction(2) ** fmt.frac_bits


def cut(value: Fraction, to: Cut) -> int:
    """Return the stored integer of `value` behind `to`.

    >>> cut(Fraction(3, 4), Cut(QFormat.parse("Q2.1")))
    2
    """
    raw = round_to_integer(value * Fraction(2) ** to.format.frac_bits, to.rounding)
    if to.format.min_raw <= raw <= to.format.max_raw:
        return raw
    if to.overflow is Overflow.RAISE:
        raise FixedPointOverflow(
            f"{raw} is outside {to.format}, whose stored integers are {to.format.min_raw} to "
            f"{to.format.max_raw}.",
            index=(),
            point="cut",
            count=1,
        )
    if to.overflow is Overflow.WRAP:
        return wrap(raw, to.format)
    return to.format.min_raw if raw < 0 else to.format.max_raw


def quantize(
    value: float | Fraction,
    fmt: QFormat,
    rounding: Rounding = Rounding.HALF_EVEN,
    overflow: Overflow = Overflow.SATURATE,
) -> int:
    """Return the stored integer of a real number (a float is the fraction it stands for).

    >>> quantize(0.7, QFormat.parse("Q1.3")), quantize(1.5, QFormat.parse("Q1.3"))
    (6, 7)
    """
    return cut(Fraction(value), Cut(fmt, rounding, overflow))


def requantize(
    raw: int,
    *,
    shift: int,
    rounding: Rounding,
    to: QFormat,
    overflow: Overflow = Overflow.SATURATE,
) -> int:
    """Return `raw / 2**shift`, rounded and fitted into `to`.

    >>> requantize(3 << 14, shift=15, rounding=Rounding.HALF_EVEN, to=QFormat.parse("Q1.15"))
    2
    """
    value = Fraction(raw) / Fraction(2) ** (shift + to.frac_bits)
    return cut(value, Cut(to, rounding, overflow))


def accumulate(raw: Sequence[int], fmt: QFormat, to: Cut, *, each: Cut | None = None) -> int:
    """Return the sum of `raw`, through the register `each` after every term if there is one.

    >>> to = Cut(QFormat.parse("Q1.7"))
    >>> accumulate([100, 100, -100], QFormat.parse("Q1.7"), to, each=to)
    27
    """
    total = Fraction(0)
    for term in raw:
        total += to_value(term, fmt)
        if each is not None:
            total = to_value(cut(total, each), each.format)
    return cut(total, to)


def complex_multiply(
    x: Pair, x_format: QFormat, w: Pair, w_format: QFormat, datapath: Datapath
) -> Pair:
    """Return the complex product, rounded where `datapath` says.

    >>> q15 = QFormat.parse("Q1.15")
    >>> complex_multiply((16384, 0), q15, (0, -32768), q15, Datapath(Cut(q15)))
    (0, -16384)
    """

    def pass_through(value: Fraction, point: Cut | None) -> Fraction:
        return value if point is None else to_value(cut(value, point), point.format)

    def product(p: Fraction, q: Fraction) -> Fraction:
        return pass_through(p * q, datapath.product)

    def result(total: Fraction) -> int:
        return cut(pass_through(total, datapath.accumulator), datapath.result)

    a, b = (to_value(part, x_format) for part in x)
    c, d = (to_value(part, w_format) for part in w)
    if datapath.multiplications == 3:
        shared = product(c, a + b)
        return result(shared - product(b, c + d)), result(shared + product(a, d - c))
    return result(product(a, c) - product(b, d)), result(product(a, d) + product(b, c))
