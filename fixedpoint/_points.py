"""How does a vector of words pass a point of a datapath, or a twiddle factor, compiled?

The tables of `fixedpoint.mixed_radix` are read by the names of their columns here. A point is given
as a tuple of numbers; that they stay inside the lanes was proved when the tables were made.
"""

from __future__ import annotations

from typing import Final

from fixedpoint._inside import inside
from fixedpoint._vector import maximum, minimum, signs

# Points of a stage, and the columns of their table.
INPUT: Final = 0
EACH: Final = 1
PRODUCT: Final = 2
CONSTANTS: Final = 3
SUM: Final = 4
OUTPUT: Final = 5
TURNED: Final = 6
POINTS: Final = 7

ACTIVE: Final = 0
FROM: Final = 1  # lane bits - from_bits; 0 keeps every bit, as for FIT and THEN
LEFT: Final = 2
DROP: Final = 3
ALWAYS: Final = 4  # three terms of the rounding: `rounding_terms`
ODD: Final = 5
NEGATIVE: Final = 6
LO: Final = 7  # saturation, without effect where words wrap
HI: Final = 8
FIT: Final = 9
THEN: Final = 10
COLUMNS: Final = 11

# Options of a stage.
RADIX: Final = 0
LEGS: Final = 1  # distance of the rows of a butterfly
DIF: Final = 2
SUM_FIRST: Final = 3
TURN_FIRST: Final = 4
ALIGN: Final = 5  # DIT: fraction bits of the products
GROUP: Final = 6  # stages of the group that begins here, or 0
INVERSE: Final = 7
OPTIONS: Final = 8

MULTIPLY: Final = 4  # a row's kind; 1 to 3 are turns by so many times -j


@inside(forceinline=True)
def rounded(value, drop, always, odd, negative):  # type: ignore[no-untyped-def]
    """value / 2**drop by the terms of `rounding_terms`."""
    # No branch on the mode: a few operations on vectors cost less to run, and to compile.
    return (value + always + ((value >> drop) & odd) + (signs(value) & negative)) >> drop


@inside(forceinline=True)
def fitted(value, point):  # type: ignore[no-untyped-def]
    """A rounded value in the point's word."""
    return (minimum(maximum(value, point[LO]), point[HI]) << point[FIT]) >> point[FIT]


@inside(forceinline=True)
def through(value, point):  # type: ignore[no-untyped-def]
    """A value through a point without registers (from_bits, then_bits); one that is absent drops 0."""
    return fitted(rounded(value, point[DROP], point[ALWAYS], point[ODD], point[NEGATIVE]), point)


@inside(forceinline=True)
def turned(re, im, quarters):  # type: ignore[no-untyped-def]
    """Times (-j)**quarters."""
    if quarters == 1:
        return im, -re
    if quarters == 2:
        return -re, -im
    if quarters == 3:
        return -im, re
    return re, im


@inside(forceinline=True)
def before(re, im, kind, c, s, align, product):  # type: ignore[no-untyped-def]
    """The way to a DIT butterfly: a factor c + js, or an exact turn."""
    if kind == MULTIPLY:
        return through(re * c - im * s, product), through(re * s + im * c, product)
    re, im = turned(re, im, kind)
    return re << align, im << align


@inside(forceinline=True)
def behind(re, im, kind, c, s, sum_first, turn_first, product, total):  # type: ignore[no-untyped-def]
    """The way from a DIF butterfly."""
    if kind == MULTIPLY:
        if sum_first:
            re, im = through(re, total), through(im, total)
        return through(re * c - im * s, product), through(re * s + im * c, product)
    if turn_first:
        re, im = turned(re, im, kind)
        return through(re, total), through(im, total)
    re, im = turned(through(re, total), through(im, total), kind)
    return fitted(re, total), fitted(im, total)
