"""What can the words of a linear datapath be, for every input at once?

A vector of words is kept as gains on independent inputs, a constant, and bounds of the rounding
errors met so far,

    word = (sum_v gain[v] input[v] + offset + error) / 2**point,      error in [below, above],

in exact integers. The inputs are any integers of their own intervals, so that the linear part's
extremes are attained: every input at one of its ends, by the sign of its gain (the l1 gain of the
row). Errors are taken as independent of the inputs and of each other; they are a few LSB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.exact import round_to_integer
from fixedpoint.modes import Rounding

__all__ = ["Affine"]

Integers = NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Affine:
    """Words as gains on inputs; all arrays hold Python integers.

    Attributes
    ----------
    gains : array, shape (W, V)
    offset, below, above : arrays, shape (W,)
    low, high : arrays, shape (V,)
        The inputs' intervals.
    point : int
        Fraction bits of gains, offset, below and above, relative to a value of 1.
    """

    gains: Integers
    offset: Integers
    below: Integers
    above: Integers
    low: Integers
    high: Integers
    point: int

    @classmethod
    def inputs(cls, low: Any, high: Any, frac_bits: int) -> Affine:
        """The inputs themselves: integers of [low, high] with `frac_bits` fraction bits.

        >>> box = Affine.inputs([-4, -4], [3, 3], 2)
        >>> box.added(box).extremes()[1].tolist()            # x0 + x0, x1 + x1
        [6, 6]
        """
        low, high = (np.array([int(end) for end in ends], object) for ends in (low, high))
        zero = np.array([0] * len(low), object)
        gains = np.array(np.eye(len(low), dtype=np.int64), object)
        return cls(gains, zero, zero, zero, low, high, frac_bits)

    def __len__(self) -> int:
        return len(self.offset)

    # ------------------------------------------------------------ linear steps
    def added(self, other: Affine, factor: int = 1) -> Affine:
        """Return word + factor * other, word by word; both are of the same inputs.

        >>> box = Affine.inputs([-4, -4], [3, 3], 2)
        >>> box.added(box, -1).extremes()[1].tolist()
        [0, 0]
        """
        point = max(self.point, other.point)
        a, b = self.aligned(point), other.aligned(point)
        b = b if factor == 1 else b.times(factor)
        return replace(
            a,
            gains=a.gains + b.gains,
            offset=a.offset + b.offset,
            below=a.below + b.below,
            above=a.above + b.above,
        )

    def times(self, factors: Any, bits: int = 0) -> Affine:
        """Return the words times integer factors, one for all or one per word, over 2**bits."""
        factors = np.array([int(f) for f in np.broadcast_to(factors, len(self))], object)
        ends = self.below * factors, self.above * factors
        return replace(
            self,
            gains=self.gains * factors[:, None],
            offset=self.offset * factors,
            below=np.minimum(*ends),
            above=np.maximum(*ends),
            point=self.point + bits,
        )

    def at(self, places: Any) -> Affine:
        """Return the words at `places`."""
        return replace(
            self,
            gains=self.gains[places],
            offset=self.offset[places],
            below=self.below[places],
            above=self.above[places],
        )

    @staticmethod
    def joined(parts: list[Affine]) -> Affine:
        """Return all words of `parts`, which have the same inputs, one part after the other."""
        point = max(part.point for part in parts)
        parts = [part.aligned(point) for part in parts]
        return replace(
            parts[0],
            gains=np.concatenate([part.gains for part in parts]),
            offset=np.concatenate([part.offset for part in parts]),
            below=np.concatenate([part.below for part in parts]),
            above=np.concatenate([part.above for part in parts]),
        )

    def with_box(self, low: Any, high: Any) -> Affine:
        """Return the same words of inputs in other intervals."""
        return replace(
            self,
            low=np.array([int(end) for end in low], object),
            high=np.array([int(end) for end in high], object),
        )

    def plus(self, constants: Any, frac_bits: int) -> Affine:
        """Return the words plus integers with `frac_bits` fraction bits."""
        finer = self.aligned(max(self.point, frac_bits))
        up = finer.point - frac_bits
        more = np.array([int(c) << up for c in constants], object)
        return replace(finer, offset=finer.offset + more)

    def aligned(self, point: int) -> Affine:
        """Return the same words with `point` >= self.point fraction bits."""
        factor = 1 << (point - self.point)
        if factor == 1:
            return self
        return replace(
            self,
            gains=self.gains * factor,
            offset=self.offset * factor,
            below=self.below * factor,
            above=self.above * factor,
            point=point,
        )

    # ------------------------------------------------------------ rounding
    def rounded(self, frac_bits: int, rounding: Rounding, times: Any = 1) -> Affine:
        """Return the words after `times` roundings to `frac_bits` fraction bits each."""
        dropped = self.point - frac_bits
        if dropped <= 0:
            return self
        below, above = rounding_error(dropped, rounding)
        return replace(self, below=self.below + times * below, above=self.above + times * above)

    # ------------------------------------------------------------ what they reach
    def extremes(self) -> tuple[Integers, Integers]:
        """Return the linear part's smallest and largest values, in units of 2**-point: attained."""
        ends = self.gains * self.low, self.gains * self.high
        low = np.minimum(*ends).sum(axis=1) + self.offset
        high = np.maximum(*ends).sum(axis=1) + self.offset
        return low, high

    def words(self, frac_bits: int, rounding: Rounding) -> tuple[list[int], list[int]]:
        """Return bounds of every word, rounded to `frac_bits` and not yet fitted into a format."""
        low, high = self.extremes()
        scale = Fraction(2) ** (frac_bits - self.point)

        def whole(ends: Integers) -> list[int]:
            # Rounding is monotone, so that the ends round to bounds.
            return [round_to_integer(int(end) * scale, rounding) for end in ends]

        return whole(low + self.below), whole(high + self.above)

    def ends(self, word: int, *, highest: bool) -> NDArray[np.bool_]:
        """Return which inputs (V,) stand at their upper end where a word's linear part is extreme."""
        row = self.gains[word]
        return np.asarray((row > 0) if highest else (row < 0), np.bool_)


def rounding_error(dropped: int, rounding: Rounding) -> tuple[int, int]:
    """Return bounds of rounded - exact in units of the lowest of `dropped` >= 1 bits.

    >>> [rounding_error(2, mode) for mode in (Rounding.FLOOR, Rounding.HALF_EVEN)]
    [(-3, 0), (-2, 2)]
    """
    unit, half = 1 << dropped, 1 << (dropped - 1)
    if rounding is Rounding.FLOOR:
        return -(unit - 1), 0
    if rounding is Rounding.TOWARD_ZERO:
        return -(unit - 1), unit - 1
    if rounding is Rounding.HALF_UP:
        return -(half - 1), half
    return -half, half
