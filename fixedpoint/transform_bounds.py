"""Which words can every stage of a transform hold, as gains on the transform's inputs?

Walks through a `mixed_radix.Program` as its kernel does, with `Affine` words in place of integers:
values in units of the stage's own LSB, a complex word being two rows. Each point is handed to
`judge`, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fixedpoint.affine import Affine
from fixedpoint.butterfly import inner, outer
from fixedpoint.mixed_radix import Program
from fixedpoint.modes import Rounding
from fixedpoint.stage import Point, StageDatapath
from parc_hw.dataflow import Add, Dag, Input, Mul, Round, Sub
from parc_hw.plan import Decimation

__all__ = ["Checked", "Pair", "through_graph", "transform"]

_MULTIPLY = 4


@dataclass(frozen=True, slots=True)
class Pair:
    """Real and imaginary parts of as many complex words."""

    re: Affine
    im: Affine

    def __len__(self) -> int:
        return len(self.re)

    def each(self, change: Callable[[Affine], Affine]) -> Pair:
        """Return both parts changed alike."""
        return Pair(change(self.re), change(self.im))

    def at(self, places: Any) -> Pair:
        """Return the words at `places`."""
        return self.each(lambda part: part.at(places))

    @property
    def parts(self) -> Affine:
        """All real parts, then all imaginary ones."""
        return Affine.joined([self.re, self.im])

    @classmethod
    def ordered(cls, pieces: list[tuple[Any, Pair]]) -> Pair:
        """Return the words of all pieces at the places that come with them."""
        pieces = [(places, pair) for places, pair in pieces if len(places)]
        order = np.argsort(np.concatenate([places for places, _ in pieces]), kind="stable")
        return cls(
            Affine.joined([pair.re for _, pair in pieces]).at(order),
            Affine.joined([pair.im for _, pair in pieces]).at(order),
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """Words on their way into a format: rounded to `frac_bits`, they have to fit `bits` bits.

    `shift` counts the scaling since the transform's input, this point's included.
    """

    stage: int
    point: str
    words: Affine
    frac_bits: int
    bits: int
    rounding: Rounding
    shift: int


def through_graph(
    graph: Dag, legs: list[Affine], grain: int = 0, bits: int = 0, rounding: Rounding | None = None
) -> list[Affine]:
    """Return the outputs of an integer graph.

    Parameters
    ----------
    graph : Dag
    legs : list of Affine
        The inputs, each for as many instances of the graph.
    grain : int
        A Round node rounds to so many fraction bits.
    bits : int
        Fraction bits of the constants.
    rounding : Rounding, optional
        Of every Round node.
    """
    done: list[Affine] = []
    for node in graph.nodes:
        match node:
            case Input(k):
                value = legs[k]
            case Add(a, b):
                value = done[a].added(done[b])
            case Sub(a, b):
                value = done[a].added(done[b], -1)
            case Mul(constant, a):
                value = done[a].times(int(constant), bits)
            case Round(a):
                assert rounding is not None
                value = done[a].rounded(grain, rounding)
            case _:
                raise AssertionError(f"{node} is not in an integer graph of a transform")
        done.append(value)
    return [done[output] for output in graph.outputs]


def transform(program: Program, words: Pair, judge: Callable[[Checked], None]) -> Pair:
    """Return a transform's result in its output order; every checked point goes to `judge`.

    Parameters
    ----------
    program : Program
        Without block floating point.
    words : Pair of N words
        In the plan's input order, in LSB of the input.
    judge : callable
    """
    held = words.at(program.source)
    walk = _Walk(program, judge)
    for stage in range(len(program.plan.radices)):
        held = walk.through(stage, held)
    return held.at(np.argsort(program.target))


class _Walk:
    """One way through the stages."""

    def __init__(self, program: Program, judge: Callable[[Checked], None]) -> None:
        self.program, self.judge = program, judge
        self.stage = 0
        self.shift = 0

    def cut(self, name: str, point: Point | None, words: Affine, extra: int = 0) -> Affine:
        """Bring words through a point; `extra` fraction bits lie in the register before it."""
        if point is None:
            return words
        if point.from_bits is not None:
            before = Checked(
                self.stage, f"{name} register", words, extra, point.from_bits, Rounding.FLOOR,
                self.shift,
            )  # fmt: skip
            self.judge(before)
        scaled = words.times(1, point.shift) if point.shift >= 0 else words.times(1 << -point.shift)
        widths = [width for width in (point.bits, point.then_bits) if width is not None]
        if widths:
            self.judge(
                Checked(
                    self.stage,
                    name,
                    scaled,
                    point.guard,
                    min(widths),
                    point.rounding,
                    self.shift + point.shift,
                )
            )
        return scaled.rounded(point.guard, point.rounding)

    def through(self, stage: int, held: Pair) -> Pair:
        """One stage, words in place order."""
        program, points = self.program, self.program.datapath.stages[stage]
        self.stage = stage
        kind, factor = program.kind[stage], program.factor[stage]
        dif = program.plan.decimation is Decimation.DIF
        held = held.each(lambda part: self.cut("input", points.input, part))
        self.shift += 0 if points.input is None else points.input.shift
        many = np.flatnonzero(kind == _MULTIPLY)
        rest = np.flatnonzero(kind != _MULTIPLY)
        if not dif:
            times = self.multiplied(points, held.at(many), factor[many]) if len(many) else held
            held = Pair.ordered([(many, times), (rest, _turned(held.at(rest), kind[rest]))])
            held = self.butterfly(stage, held)
            held = held.each(lambda part: self.cut("sum", points.sum, part))
        else:
            held = self.butterfly(stage, held)
            pieces = []
            if len(many):
                part = held.at(many)
                if points.sum_first:
                    part = part.each(lambda words: self.cut("sum", points.sum, words))
                pieces.append((many, self.multiplied(points, part, factor[many])))
            if len(rest):
                part, quarters = held.at(rest), kind[rest]
                if points.turn_first:
                    part = _turned(part, quarters)
                part = part.each(lambda words: self.cut("sum", points.sum, words))
                if not points.turn_first:
                    straight, turns = np.flatnonzero(quarters == 0), np.flatnonzero(quarters)
                    fitted = Point(bits=points.sum.bits, then_bits=points.sum.then_bits)
                    if len(turns):
                        turned = _turned(part.at(turns), quarters[turns])
                        turned = turned.each(lambda words: self.cut("turned", fitted, words))
                        part = Pair.ordered([(straight, part.at(straight)), (turns, turned)])
                pieces.append((rest, part))
            held = Pair.ordered(pieces)
        self.shift += points.sum.shift
        held = held.each(lambda part: self.cut("output", points.output, part))
        self.shift += 0 if points.output is None else points.output.shift
        return held

    def multiplied(self, points: StageDatapath, words: Pair, factor: Any) -> Pair:
        """Complex products with the factors (W, 2)."""
        bits = points.twiddle.fraction

        def each(part: Affine, values: Any) -> Affine:
            return self.cut("each", points.each, part.times(values, bits), bits)

        c, s = factor[:, 0], factor[:, 1]
        re = each(words.re, c).added(each(words.im, s), -1)
        im = each(words.re, s).added(each(words.im, c))
        extra = bits if points.each is None else points.each.guard
        return Pair(re, im).each(lambda part: self.cut("product", points.product, part, extra))

    def butterfly(self, stage: int, held: Pair) -> Pair:
        """All butterflies of a stage, as the graphs that the kernels were printed from."""
        program, points = self.program, self.program.datapath.stages[stage]
        radix, legs = program.plan.radices[stage], int(program.options[stage, 1])
        places = np.arange(program.length).reshape(-1, radix, legs)
        rows = [places[:, i].reshape(-1) for i in range(radix)]
        x = [part for row in rows for part in (held.re.at(row), held.im.at(row))]
        if radix % 2 == 0:
            y = through_graph(inner(radix), x)
            if radix == 4 and program.inverse:
                y[2:4], y[6:8] = y[6:8], y[2:4]
        else:
            constants = tuple(int(c) for c in program.constants[stage, :radix])
            fmt = points.twiddle if points.constant is None else points.constant
            sums = through_graph(inner(radix, constants), x)
            sums[2:] = [
                self.cut("constants", points.constants, part.times(1, fmt.fraction), fmt.fraction)
                for part in sums[2:]
            ]
            y = through_graph(outer(radix, 1), [x[0], x[1], *sums])
        return Pair.ordered([(rows[i], Pair(y[2 * i], y[2 * i + 1])) for i in range(radix)])


def _turned(words: Pair, quarters: Any) -> Pair:
    """Multiply by (-j)**quarters, exactly."""
    pieces = []
    for quarter in range(4):
        places = np.flatnonzero(quarters == quarter)
        if not len(places):
            continue
        part = words.at(places)
        re, im = part.re, part.im
        if quarter == 1:
            re, im = im, re.times(-1)
        elif quarter == 2:
            re, im = re.times(-1), im.times(-1)
        elif quarter == 3:
            re, im = im.times(-1), re
        pieces.append((places, Pair(re, im)))
    return Pair.ordered(pieces)
