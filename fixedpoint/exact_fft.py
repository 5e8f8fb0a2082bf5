"""What is a transform's exact answer, rounded where its datapath says, in Python's fractions?

The oracle of `fixedpoint.mixed_radix`: one word at a time, no shift, no word length, no numpy, and
the twiddle factors derived another way. Let a DIF plan have the radices r_0, r_1, ..., and write
the time index n with the digits n_s of weight N/(r_0..r_s) and the frequency k with the digits
k_t of weight r_0..r_(t-1). Then

    n k / N  =  sum_s n_s k_s / r_s  +  sum_(t < s) k_t n_s / (r_t .. r_s)      modulo 1:

stage s is a butterfly over n_s, and the pairs t < s are factors behind stage t; within a group only
the pairs of the group, the rest behind its last stage. Time and frequency exchanged and everything
run backwards, it is the DIT plan with the radices in reverse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product as pairs_of
from typing import NamedTuple

from fixedpoint.exact import round_to_integer
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.scaling import BlockRule
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.plan import Decimation, FftPlan, Order

__all__ = ["Exact", "factor_word", "fft"]

Pair = tuple[Fraction, Fraction]
Digits = tuple[int, ...]


class Exact(NamedTuple):
    """One frame's transform.

    Attributes
    ----------
    words : list of (int, int)
        In the plan's output order.
    exponent : int
        Block floating point: the transform is words * 2**exponent; else 0.
    overflows : list of int
        Per stage, how often a word did not fit at any of its points.
    """

    words: list[tuple[int, int]]
    exponent: int
    overflows: list[int]


def fft(
    raw: Sequence[Sequence[int]], plan: FftPlan, datapath: FftDatapath, inverse: bool = False
) -> Exact:
    """Transform one frame.

    Parameters
    ----------
    raw : sequence of (re, im), length N
        Stored integers in the plan's input order.

    Examples
    --------
    >>> plan = FftPlan(radices=(2, 2))
    >>> datapath = FftDatapath.of(plan, bits=8)
    >>> fft([(64, 0), (0, 0), (0, 0), (0, 0)], plan, datapath).words
    [(16, 0), (16, 0), (16, 0), (16, 0)]
    """
    return _Frame(plan, datapath, inverse).transform(raw)


def factor_word(fmt: TwiddleFormat, turns: Fraction, sign: int) -> Pair:
    """Return the stored factor exp(sign 2 pi j turns), as the numbers that its words stand for."""
    cosine, sine = _cosine(turns), sign * _cosine(turns - Fraction(1, 4))
    unit = Fraction(2) ** -fmt.fraction
    return fmt.quantise(cosine) * unit, fmt.quantise(sine) * unit


def _cosine(turns: Fraction) -> float:
    """cos(2 pi turns), from an angle of at most an eighth of a turn."""
    turns = abs(turns - round(turns))  # 0 .. 1/2
    if turns > Fraction(1, 4):
        return -_cosine(Fraction(1, 2) - turns)
    if turns == Fraction(1, 6):
        return 0.5
    if turns > Fraction(1, 8):
        return math.sin(2 * math.pi * float(Fraction(1, 4) - turns))
    return math.cos(2 * math.pi * float(turns))


class _Frame:
    def __init__(self, plan: FftPlan, datapath: FftDatapath, inverse: bool) -> None:
        self.plan, self.datapath, self.inverse = plan, datapath, inverse
        self.sign = 1 if inverse else -1
        self.dif = plan.decimation is Decimation.DIF
        # radices and groups as the DIF plan has them; DIT runs through them backwards
        self.radices = plan.radices if self.dif else plan.radices[::-1]
        groups = plan.groups or (1,) * len(plan.radices)
        self.group_of: list[range] = []
        begin = 0
        for size in groups if self.dif else groups[::-1]:
            self.group_of += [range(begin, begin + size)] * size
            begin += size
        self.overflows = [0] * len(plan.radices)
        self.exponent = 0
        self.pending: list[int] = []

    # ------------------------------------------------------------ indices
    def places(self, order: Order, *, heavy_first: bool) -> dict[Digits, int]:
        """Where in `order` the word with some digits is.

        The first digit has the largest weight (DIF's time, DIT's frequency), or the weight 1.
        """
        length = math.prod(self.radices)
        found = {}
        for digits in pairs_of(*(range(radix) for radix in self.radices)):
            natural, below = 0, 1
            for digit, radix in zip(digits, self.radices, strict=True):
                natural += digit * (length // (below * radix) if heavy_first else below)
                below *= radix
            found[digits] = natural if order is Order.NATURAL else _reversal(natural, self.radices)
        return found

    # ------------------------------------------------------------ stages
    def transform(self, raw: Sequence[Sequence[int]]) -> Exact:
        begin = self.places(self.plan.input_order, heavy_first=self.dif)
        end = self.places(self.plan.output_order, heavy_first=not self.dif)
        state = {
            digits: (Fraction(int(raw[place][0])), Fraction(int(raw[place][1])))
            for digits, place in begin.items()
        }
        bits = self.datapath.input.bits
        for stage, points in enumerate(self.datapath.stages):
            if self.datapath.block is not None:
                state, late = self.block(state, stage, points, bits)
                points = points.shifted(late, self.plan.decimation)
            state = self.stage(state, stage, points)
            bits = bits if points.bits is None else points.bits
        words = [(0, 0)] * len(state)
        for digits, (re, im) in state.items():
            assert re.denominator == im.denominator == 1
            words[end[digits]] = (int(re), int(im))
        return Exact(words, self.exponent, self.overflows)

    def turns(self, t: int, digits: Digits) -> tuple[Fraction, bool]:
        """The factor's exponent at DIF stage t, and whether its leg is the first."""
        group = self.group_of[t]
        last = t == group[-1]
        first_leg = all(digits[g] == 0 for g in group) if last else digits[t] == 0
        total = Fraction(0)
        for a in group if last else (t,):
            for s in range(a + 1, len(self.radices)):
                if (s in group) == last:  # behind the last stage: what leaves the group
                    continue
                total += Fraction(digits[a] * digits[s], math.prod(self.radices[a : s + 1]))
        return total % 1, first_leg

    def stage(
        self, state: dict[Digits, Pair], stage: int, points: StageDatapath
    ) -> dict[Digits, Pair]:
        t = stage if self.dif else len(self.radices) - 1 - stage
        radix = self.radices[t]
        behind: dict[Digits, Pair] = {}
        for digits in state:
            if digits[t]:
                continue
            legs = [(*digits[:t], leg, *digits[t + 1 :]) for leg in range(radix)]
            x = [self.pair(state[leg], points.input, 0, stage) for leg in legs]
            extra = 0
            if not self.dif:
                extra = points.twiddle.fraction
                if points.product is not None:
                    extra = points.product.guard
                elif points.each is not None:
                    extra = points.each.guard
                x = [
                    self.factor(word, *self.turns(t, leg), points, 0, stage)
                    for word, leg in zip(x, legs, strict=True)
                ]
            y, extra = self.butterfly(x, radix, points, extra, stage)
            for word, leg in zip(y, legs, strict=True):
                if self.dif:
                    word = self.behind(word, *self.turns(t, leg), points, extra, stage)
                else:
                    word = self.pair(word, points.sum, extra, stage)
                behind[leg] = self.pair(word, points.output, 0, stage)
        return behind

    def behind(
        self,
        word: Pair,
        turns: Fraction,
        first_leg: bool,
        points: StageDatapath,
        extra: int,
        stage: int,
    ) -> Pair:
        """The way from a DIF butterfly to the end of its stage."""
        quarters = self.quarters(turns, first_leg, points.trivial)
        if quarters is None:
            if points.sum_first:
                word, extra = self.pair(word, points.sum, extra, stage), 0
            return self.factor(word, turns, first_leg, points, extra, stage)
        if points.turn_first:
            return self.pair(_turned(word, quarters), points.sum, extra, stage)
        word = _turned(self.pair(word, points.sum, extra, stage), quarters)
        if quarters == 0:
            return word
        again = Point(
            bits=points.sum.bits, overflow=points.sum.overflow, then_bits=points.sum.then_bits
        )
        return self.pair(word, again, 0, stage)

    def quarters(self, turns: Fraction, first_leg: bool, trivial: Trivial) -> int | None:
        """By how many times -j or 1 the word is turned exactly; None: it is multiplied."""
        if first_leg or (turns == 0 and trivial is not Trivial.NONE):
            return 0
        if trivial is Trivial.QUARTERS and (4 * turns).denominator == 1:
            return int(4 * turns * -self.sign) % 4
        return None

    def factor(
        self,
        word: Pair,
        turns: Fraction,
        first_leg: bool,
        points: StageDatapath,
        extra: int,
        stage: int,
    ) -> Pair:
        quarters = self.quarters(turns, first_leg, points.trivial)
        if quarters is not None:
            return _turned(word, quarters)
        c, s = factor_word(points.twiddle, turns, self.sign)
        re, im = word
        extra += points.twiddle.fraction
        products = [re * c, im * s, re * s, im * c]
        if points.each is not None:
            products = [self.cut(value, points.each, extra, stage) for value in products]
            extra = points.each.guard
        sums = (products[0] - products[1], products[2] + products[3])
        return self.pair(sums, points.product, extra, stage)

    def butterfly(
        self, x: list[Pair], radix: int, points: StageDatapath, extra: int, stage: int
    ) -> tuple[list[Pair], int]:
        """The transform of one butterfly, and the fraction bits of its results."""
        if radix % 2 == 0:  # exact: every factor is a quarter turn
            quarter = 4 // radix
            turn = -self.sign  # times -j forward, +j inverse
            return [
                _sum(_turned(x[i], turn * quarter * i * k % 4) for i in range(radix))
                for k in range(radix)
            ], extra
        fmt = points.twiddle if points.constant is None else points.constant
        half = (radix - 1) // 2
        cosines, sines = [], []
        for i in range(1, half + 1):
            c, s = factor_word(fmt, Fraction(i, radix), 1)
            cosines.append(c)
            sines.append(s if self.sign < 0 else -s)
        t = [_sum((x[i], x[radix - i])) for i in range(1, half + 1)]
        d = [_sum((x[i], _turned(x[radix - i], 2))) for i in range(1, half + 1)]
        y = [_sum((x[0], *t))] * radix
        for k in range(1, half + 1):
            even, odd = (Fraction(0), Fraction(0)), (Fraction(0), Fraction(0))
            for i in range(1, half + 1):
                m = i * k % radix
                c = cosines[min(m, radix - m) - 1]
                s = sines[m - 1] if m <= half else -sines[radix - m - 1]
                even = _sum((even, _scaled(t[i - 1], c)))
                odd = _sum((odd, _scaled(d[i - 1], s)))
            if points.constants is not None:
                wide = extra + fmt.fraction
                even = self.constants(even, points.constants, extra, wide, stage)
                odd = self.constants(odd, points.constants, extra, wide, stage)
            y[k] = _sum((x[0], even, _turned(odd, 1)))
            y[radix - k] = _sum((x[0], even, _turned(odd, 3)))
        return y, extra + (fmt.fraction if points.constants is None else points.constants.guard)

    # ------------------------------------------------------------ points
    def constants(self, word: Pair, point: Point, extra: int, wide: int, stage: int) -> Pair:
        """A point that keeps the `extra` fraction bits that the words have there anyway."""
        unit = Fraction(2) ** extra
        cut = [self.cut(part * unit, point, wide - extra, stage) / unit for part in word]
        return cut[0], cut[1]

    def pair(self, word: Pair, point: Point | None, extra: int, stage: int) -> Pair:
        if point is None:
            return word
        return self.cut(word[0], point, extra, stage), self.cut(word[1], point, extra, stage)

    def cut(self, value: Fraction, point: Point, extra: int, stage: int) -> Fraction:
        """A value with `extra` fraction bits through a point."""
        register = value * 2**extra
        assert register.denominator == 1
        held = int(register)
        if point.from_bits is not None:
            held = _wrapped(held, point.from_bits)
        asked = round_to_integer(
            Fraction(held, 2**extra) / Fraction(2) ** point.shift * 2**point.guard, point.rounding
        )
        word = asked
        if point.bits is not None:
            low, high = -(2 ** (point.bits - 1)), 2 ** (point.bits - 1) - 1
            if point.overflow is Overflow.WRAP:
                word = _wrapped(asked, point.bits)
            else:
                word = low if asked < low else high if asked > high else asked
        kept = word if point.then_bits is None else _wrapped(word, point.then_bits)
        self.overflows[stage] += held != register or word != asked or kept != word
        return Fraction(kept, 2**point.guard)

    # ------------------------------------------------------------ block floating point
    def block(
        self, state: dict[Digits, Pair], stage: int, points: StageDatapath, bits: int
    ) -> tuple[dict[Digits, Pair], int]:
        """The frame divided by the power of two that the rule asks for, or what is to be divided."""
        block = self.datapath.block
        assert block is not None
        words = [int(part) for pair in state.values() for part in pair]
        up = 0
        if block.rule is BlockRule.PEAK:
            peak = max(abs(word) for word in words)
            if stage == 0 and block.normalise and peak:
                while up < self.datapath.input.bits and self.suits(
                    peak * 2 ** (up + 1), 0, stage, points, bits
                ):
                    up += 1
            shift = 0
            while shift < 7 and not self.suits(peak * 2**up, shift, stage, points, bits):
                shift += 1
        else:
            t = stage if self.dif else len(self.radices) - 1 - stage
            group = self.group_of[t]
            at = t - group[0] if self.dif else group[-1] - t
            if at == 0:
                magnitudes = 0
                for word in words:
                    magnitudes |= word if word >= 0 else -word - 1
                size, width = len(group), self.datapath.input.bits
                if stage == 0 and block.normalise:
                    up = width - 2 - size - (magnitudes.bit_length() - 1)
                    if block.counter_bits is not None:
                        up = _wrapped(up, block.counter_bits)
                    up = max(up, 0)
                self.pending = [
                    1 if stage == 0 else magnitudes // 2 ** (width - 1 - size + r) % 2
                    for r in range(size)
                ]
            shift = self.pending[at]
        self.exponent += shift - up

        early, late = (shift, 0) if block.early else (0, shift)

        def shifted(part: Fraction) -> Fraction:
            rounding: Rounding = block.rounding
            return Fraction(round_to_integer(part * 2**up / 2**early, rounding))

        return {digits: (shifted(re), shifted(im)) for digits, (re, im) in state.items()}, late

    def suits(self, peak: int, shift: int, stage: int, points: StageDatapath, bits: int) -> bool:
        """Whether (peak / 2**shift + 1) * growth is within the words behind the stage."""
        if peak == 0:
            return True
        t = stage if self.dif else len(self.radices) - 1 - stage
        radix = self.radices[t]
        bits = bits if points.bits is None else points.bits
        room = Fraction(2 ** (bits - 1) - 1) * Fraction(2) ** points.shift
        part = Fraction(peak, 2**shift) + 1
        rotates = radix % 2 == 1 or any(
            self.quarters(*self.turns(t, digits), points.trivial) is None
            for digits in pairs_of(*(range(r) for r in self.radices))
        )
        if not rotates:
            return radix * part <= room
        if self.dif:  # radix sqrt(2) part <= room
            return 2 * radix**2 * part**2 <= room**2
        # (1 + (radix - 1) sqrt(2)) part <= room
        return part <= room and 2 * (radix - 1) ** 2 * part**2 <= (room - part) ** 2


def _reversal(index: int, radices: Sequence[int]) -> int:
    """The place of natural index `index` in digit-reversed order: its lowest digit is highest."""
    place, beyond = 0, math.prod(radices)
    for radix in radices:
        beyond //= radix
        index, digit = divmod(index, radix)
        place += digit * beyond
    return place


def _wrapped(value: int, bits: int) -> int:
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def _turned(word: Pair, quarters: int) -> Pair:
    """Times (-j)**quarters."""
    for _ in range(quarters % 4):
        word = (word[1], -word[0])
    return word


def _scaled(word: Pair, factor: Fraction) -> Pair:
    return word[0] * factor, word[1] * factor


def _sum(words: object) -> Pair:
    parts = list(words)  # type: ignore[call-overload]
    return sum((w[0] for w in parts), Fraction(0)), sum((w[1] for w in parts), Fraction(0))
