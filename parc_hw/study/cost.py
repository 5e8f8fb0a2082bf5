"""What does a datapath cost: multipliers by width, adders, memory, and all of it in one number?

The model is that of a fully unrolled datapath, for one line of one channel at a time:

    cost = multiplier_bit * sum over multiplications of (bits of one operand) * (bits of the other)
         + adder_bit      * sum over additions of the result's bits
         + memory_bit     * stored bits: the line's words, twiddle factors, kernel, registers

An array multiplier of a by b bits has about a*b full adders and an adder of w bits has w of them,
so with weights of 1 the unit is a full adder; a static memory cell has 6 transistors where a mirror
full adder has 28 (Weste and Harris, CMOS VLSI Design), which gives the default weight of memory.
Control, routing and rounding logic are left out. A serial datapath reuses its multipliers: compare
such ones by `multiplications` and `memory_bits`, which are reported beside the cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parc_hw.study.spec import CostWeights

__all__ = ["Cost", "Tally"]


@dataclass(slots=True)
class Tally:
    """Counts resources while somebody walks through a datapath.

    >>> tally = Tally()
    >>> tally.multiply(16, 12, times=4)
    >>> tally.add(28, times=3)
    >>> tally.store(16, words=56)
    >>> tally.cost(CostWeights(memory_bit=0.5)).total
    1300.0
    """

    products: Counter[tuple[int, int]] = field(default_factory=Counter)
    adder_bits: int = 0
    additions: int = 0
    memory_bits: int = 0

    def multiply(self, a_bits: int, b_bits: int, *, times: int) -> None:
        """Count multiplications of words of these widths."""
        if times:
            self.products[max(a_bits, b_bits), min(a_bits, b_bits)] += times

    def add(self, bits: int, *, times: int) -> None:
        """Count additions with results of `bits`."""
        self.additions += times
        self.adder_bits += bits * times

    def store(self, bits: int, *, words: int) -> None:
        """Count words that are kept."""
        self.memory_bits += bits * words

    def cost(self, weights: CostWeights) -> Cost:
        """Return the sums, weighted."""
        multiplier_bits = sum(a * b * times for (a, b), times in self.products.items())
        return Cost(
            total=weights.multiplier_bit * multiplier_bits
            + weights.adder_bit * self.adder_bits
            + weights.memory_bit * self.memory_bits,
            multiplications={f"{a}x{b}": n for (a, b), n in sorted(self.products.items())},
            multiplier_bits=multiplier_bits,
            additions=self.additions,
            adder_bits=self.adder_bits,
            memory_bits=self.memory_bits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The resources of one datapath.

    Attributes
    ----------
    total : float
        Weighted; in full adders with the default weights.
    multiplications : dict of str to int
        Real multiplications of one line, by the operands' widths: "16x12".
    multiplier_bits : int
        Sum of the products of the operands' widths.
    additions, adder_bits : int
        Additions of one line, and the sum of their widths.
    memory_bits : int
        Bits kept: the line, twiddle factors, kernel and registers.
    """

    total: float
    multiplications: Mapping[str, int]
    multiplier_bits: int
    additions: int
    adder_bits: int
    memory_bits: int

    def to_json(self) -> dict[str, Any]:
        """The fields as plain data."""
        return {name: getattr(self, name) for name in self.__slots__} | {
            "multiplications": dict(self.multiplications)
        }
