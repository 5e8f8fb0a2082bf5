"""How does a plan and a datapath become tables, and frames of words their transform?

`lower` lays a transform out as tables, one row per place of the frame and stage, and proves that no
value leaves 64-bit arithmetic; `run` brings frames through them. A core with a habit of its own is
a `Program` with an edited table (`dataclasses.replace`).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.butterfly import constants_of, inner, outer
from fixedpoint.errors import FixedPointOverflow, FormatError, ScalingError
from fixedpoint.modes import Overflow, rounding_code
from fixedpoint.scaling import BlockRule
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.twiddle import TwiddleFormat, turn
from parc_hw.dataflow import ranges, signed_bits
from parc_hw.errors import InputError
from parc_hw.plan import Decimation, FftPlan, Order

__all__ = ["POINT_NAMES", "Program", "Result", "lower", "run"]

POINT_NAMES = ("input", "each", "product", "constants", "sum", "output", "turned")
_INT64 = np.iinfo(np.int64)
_MULTIPLY = 4
_BLOCK_SHIFTS = 8  # 0 to 7: more than any butterfly grows

Words = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A transform as tables, from `lower`.

    Rows of a stage are places of the frame: behind the butterfly for DIF, before it for DIT.

    Attributes
    ----------
    plan : FftPlan
    datapath : FftDatapath
    inverse : bool
    kind : int8 array, shape (stages, N)
        0: the word is not multiplied; 1, 2, 3: turned by so many times -j; 4: multiplied.
    factor : int64 array, shape (stages, N, 2)
        By what a word of kind 4 is multiplied.
    turns : int64 array, shape (stages, N)
        The exact factor is exp(-2 pi j turns / N), whatever the kind.
    bounds : tuple of int
        No part of a word is larger in magnitude: of the input, and behind each stage.
    widest_bits : int
        The most bits that any value on the way needs.
    lane_bits : int
        Of the arithmetic where nothing is counted: 32 where that is wide enough, else 64.
    """

    plan: FftPlan
    datapath: FftDatapath
    inverse: bool
    kind: NDArray[np.int8]
    factor: Words
    turns: Words
    constants: Words = field(repr=False)
    options: Words = field(repr=False)
    points: Words = field(repr=False)
    plain: Words | None = field(repr=False)
    block_limits: Words = field(repr=False)
    source: Words = field(repr=False)
    target: Words = field(repr=False)
    bounds: tuple[int, ...]
    widest_bits: int
    lane_bits: int

    @property
    def length(self) -> int:
        """N."""
        return self.plan.length


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What `run` gives.

    Attributes
    ----------
    words : int64 array, shape (lines, N, 2)
        In the plan's output order.
    shifts : int64 array, shape (lines, stages)
        Block floating point: by how many bits each stage's input was divided; else zeros.
    ups : int64 array, shape (lines,)
        Block floating point: by how many bits the input was shifted up.
    tallies : int64 array, shape (stages, 7, 4)
        Per stage and point (`POINT_NAMES`): how many words did not fit, the flat index of the first
        of them in place order (-1: none), the lowest and the highest word asked for, rounded but
        not yet fitted (0 is always among them).
    captured : tuple of int64 arrays, shape (lines, N, 2)
        On request the words behind every stage, in place order.
    """

    words: Words
    shifts: Words
    ups: Words
    tallies: Words
    captured: tuple[Words, ...] = ()

    @property
    def exponents(self) -> Words:
        """By which power of two the words stand, beside the datapath's own shifts."""
        exponents: Words = self.shifts.sum(axis=1) - self.ups
        return exponents

    @property
    def overflowed(self) -> Words:
        """Words that did not fit, per stage."""
        overflowed: Words = self.tallies[:, :, 0].sum(axis=1)
        return overflowed


# ---------------------------------------------------------------- tables
@lru_cache(maxsize=128)
def lower(
    plan: FftPlan, datapath: FftDatapath, inverse: bool = False, *, advise: bool = True
) -> Program:
    """Return the tables of a transform.

    Parameters
    ----------
    plan : FftPlan
    datapath : FftDatapath
        With one stage per stage of the plan.
    inverse : bool
        exp(+2 pi j k n / N); nothing else changes, there is no 1/N.
    advise : bool
        Let a `FormatError` say which twiddle words would fit; that takes a search.

    Raises
    ------
    ScalingError
        Another number of stages, or two ways through a stage that scale differently.
    FormatError
        A value on the way may need more than 64 bits; the message says which, and what fits.
    """
    stages, length = len(plan.radices), plan.length
    if len(datapath.stages) != stages:
        raise ScalingError(
            f"the datapath has {len(datapath.stages)} stages, and {plan} has {stages}. Give one "
            f"StageDatapath per stage, in order of execution."
        )
    for s, stage in enumerate(datapath.stages):
        stage.check(plan.decimation, s)
    turns, unmultiplied = _turns(plan)
    kind = np.zeros((stages, length), np.int8)
    factor = np.zeros((stages, length, 2), np.int64)
    constants = np.zeros((stages, 8), np.int64)
    for s, stage in enumerate(datapath.stages):
        factor[s] = stage.twiddle.table(length, sign=1 if inverse else -1)[turns[s]]
        kind[s] = _kinds(turns[s], unmultiplied[s], length, stage.trivial, inverse)
        factor[s][kind[s] != _MULTIPLY] = 0
        values = _constants(stage, plan.radices[s], inverse)
        constants[s, : len(values)] = values
    try:
        points, bounds, widest = _points(plan, datapath, factor, constants)
    except FormatError as error:
        if not advise:
            raise
        raise FormatError(f"{error} {_advice(plan, datapath, inverse)}") from None
    lane_bits = 32 if widest <= 32 and (points[:, :, 3] < 32).all() else 64
    places = np.array(plan.digit_reversal, np.int64)
    natural = np.arange(length, dtype=np.int64)
    inside_in, inside_out = natural, places  # what place p holds: DIF natural in, reversed out
    if plan.decimation is Decimation.DIT:
        inside_in, inside_out = places, natural
    return Program(
        plan=plan,
        datapath=datapath,
        inverse=inverse,
        kind=_fixed(kind),
        factor=_fixed(factor),
        turns=_fixed(turns),
        constants=_fixed(constants),
        options=_fixed(_options(plan, datapath, inverse)),
        points=_fixed(points),
        plain=_plain(datapath, points, lane_bits),
        block_limits=_fixed(_block_limits(plan, datapath, kind)),
        source=_fixed(_index(inside_in, plan.input_order, places)),
        target=_fixed(_index(inside_out, plan.output_order, places)),
        bounds=bounds,
        widest_bits=widest,
        lane_bits=lane_bits,
    )


def _index(inside: Words, order: Order, places: Words) -> Words:
    """Where in the user's order the natural index `inside[p]` of place p is."""
    if order is Order.NATURAL:
        return inside
    position = np.empty_like(places)
    position[places] = np.arange(len(places))
    return position[inside]


def _turns(plan: FftPlan) -> tuple[Words, NDArray[np.bool_]]:
    """Return each row's twiddle exponent modulo N, and which rows never have a multiplier."""
    if plan.decimation is Decimation.DIT:  # the same graph, backwards
        turns, unmultiplied = _turns(plan.transposed)
        return turns[::-1].copy(), unmultiplied[::-1].copy()
    length = plan.length
    rows = np.arange(length)
    turns = np.zeros((len(plan.radices), length), np.int64)
    unmultiplied = np.zeros((len(plan.radices), length), np.bool_)
    size, stage = length, 0  # of the block in front of the group
    for count in plan.groups or (1,) * len(plan.radices):
        group = plan.radices[stage : stage + count]
        beyond = size // math.prod(group)
        legs, inside, digit_sum, weight = size, math.prod(group), np.zeros_like(rows), 1
        for s, radix in enumerate(group, start=stage):
            legs, inside = legs // radix, inside // radix
            digit = rows // legs % radix
            digit_sum = digit_sum + weight * digit
            weight *= radix
            if s < stage + count - 1:  # exp(-2 pi j / (radix * inside)) to the digit * v
                turns[s] = digit * (rows % legs // beyond) * (length // (radix * inside))
                unmultiplied[s] = digit == 0
            else:
                turns[s] = digit_sum * (rows % beyond) * (length // size)
                unmultiplied[s] = digit_sum == 0
        size, stage = beyond, stage + count
    return turns % max(length, 1), unmultiplied


def _kinds(
    turns: Words, unmultiplied: NDArray[np.bool_], length: int, trivial: Trivial, inverse: bool
) -> NDArray[np.int8]:
    kinds = np.full(len(turns), _MULTIPLY, np.int8)
    if trivial is not Trivial.NONE:
        kinds[turns == 0] = 0
    if trivial is Trivial.QUARTERS:
        for quarter in (1, 2, 3):
            kinds[4 * turns == quarter * length] = (4 - quarter) % 4 if inverse else quarter
    kinds[unmultiplied] = 0
    return kinds


def _constant_format(stage: StageDatapath) -> TwiddleFormat:
    return stage.twiddle if stage.constant is None else stage.constant


def _constants(stage: StageDatapath, radix: int, inverse: bool) -> tuple[int, ...]:
    """(one, *C, *S) of a butterfly of odd radix; only 1 of an even one."""
    fmt = _constant_format(stage)
    kept = fmt.fraction if stage.constants is None else stage.constants.guard
    table = fmt.table(radix, sign=1)
    values = [int(table[i, int(part == "sin")]) for i, part in constants_of(radix)]
    if inverse:
        half = len(values) // 2
        values[half:] = [-value for value in values[half:]]
    return (1 << kept if values else 1, *values)


def _options(plan: FftPlan, datapath: FftDatapath, inverse: bool) -> Words:
    dif = plan.decimation is Decimation.DIF
    begins = np.cumsum((0, *(plan.groups or (1,) * len(plan.radices))))
    rows, done = [], 1
    for s, (radix, stage) in enumerate(zip(plan.radices, datapath.stages, strict=True)):
        legs = plan.length // (done * radix) if dif else done
        done *= radix
        group = int(np.searchsorted(begins, s))
        size = int(begins[group + 1] - s) if begins[group] == s else 0
        rows.append(
            (radix, legs, dif, stage.sum_first, stage.turn_first, _kept(stage), size, inverse)
        )
    return np.array(rows, np.int64).reshape(-1, 8)


def _kept(stage: StageDatapath) -> int:
    """Fraction bits of the products of a DIT stage when they meet the butterfly."""
    if stage.product is not None:
        return stage.product.guard
    return stage.twiddle.fraction if stage.each is None else stage.each.guard


# ---------------------------------------------------------------- points and the proof of widths
class _Widths:
    """The largest magnitude on the way, followed through one stage after another."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.widest = bound
        self.stage = 0
        self.radix = 0

    def meet(self, magnitude: int, what: str) -> int:
        """Note a value of at most `magnitude`; raise if int64 may not hold it."""
        bits = signed_bits((-magnitude, magnitude))
        if bits > 64:
            raise FormatError(
                f"stage {self.stage} (radix {self.radix}): {what} needs {bits} bits, and 64-bit "
                f"arithmetic holds 64."
            )
        self.widest = max(self.widest, magnitude)
        return magnitude

    def cut(self, point: Point | None, magnitude: int, extra: int, what: str) -> tuple[int, Any]:
        """Return the bound behind a point, and its row of numbers."""
        if point is None:
            return magnitude, _NO_POINT
        drop = extra + point.shift - point.guard
        left = max(-drop, 0)
        drop = max(drop, 0)
        if drop > 62:
            raise FormatError(
                f"stage {self.stage} (radix {self.radix}): {what} drops {drop} bits at once; at "
                f"most 62 can be."
            )
        if point.from_bits is not None:
            magnitude = min(magnitude, 1 << (point.from_bits - 1))
        # half a unit is added before the bits are dropped
        wide = (magnitude << left) + (1 << drop >> 1)
        self.meet(wide, f"{what} shifted up by {left} bits" if left else what)
        bound = ((magnitude << left) >> drop) + (drop > 0)
        for width in (point.bits, point.then_bits):
            if width is not None:
                bound = min(bound, 1 << (width - 1))
        return bound, _row(point, left, drop)

    def factor(
        self, stage: StageDatapath, factor: Words, magnitude: int, extra: int, rows: list[Any]
    ) -> int:
        """Return the bound behind a twiddle multiplication, and set its two rows of points."""
        # |re c - im s| <= max(|re|, |im|) (|c| + |s|)
        largest = int(np.abs(factor).max(initial=1))
        both = int(np.abs(factor).sum(axis=1).max(initial=1))
        extra += stage.twiddle.fraction
        words = f"{signed_bits((-magnitude, magnitude))}-bit by {stage.twiddle.bits}-bit words"
        one = self.meet(magnitude * largest, f"a product of {words}")
        one, rows[1] = self.cut(stage.each, one, extra, "a product")
        if stage.each is None:
            whole = magnitude * both
        else:
            whole, extra = 2 * one, stage.each.guard
        self.meet(whole, f"the sum of two products of {words}")
        bound, rows[2] = self.cut(stage.product, whole, extra, "a complex product")
        return bound


def _row(point: Point, left: int, drop: int) -> tuple[int, ...]:
    from fixedpoint.rounding import rounding_terms  # numba, only when something is computed

    lo, hi, fit = _INT64.min, _INT64.max, 0
    if point.bits is not None:
        if point.overflow is Overflow.WRAP:
            fit = 64 - point.bits
        else:
            lo, hi = -(1 << (point.bits - 1)), (1 << (point.bits - 1)) - 1
    terms = rounding_terms.py_func(drop, rounding_code(point.rounding))
    source = 0 if point.from_bits is None else 64 - point.from_bits
    then = 0 if point.then_bits is None else 64 - point.then_bits
    return (1, source, left, drop, *terms, int(lo), int(hi), fit, then)


_NO_POINT = (0, 0, 0, 0, 0, 0, 0, int(_INT64.min), int(_INT64.max), 0, 0)


def _points(
    plan: FftPlan, datapath: FftDatapath, factor: Words, constants: Words
) -> tuple[Words, tuple[int, ...], int]:
    """Return every stage's rows of points, the bounds behind the stages and the widest value."""
    widths = _Widths(1 << (datapath.input.bits - 1))
    bounds, tables = [widths.bound], []
    for s, (radix, stage) in enumerate(zip(plan.radices, datapath.stages, strict=True)):
        widths.stage, widths.radix = s, radix
        rows = [_NO_POINT] * len(POINT_NAMES)
        bound, rows[0] = widths.cut(stage.input, widths.bound, 0, "the input")
        extra = 0
        if plan.decimation is Decimation.DIT:
            extra = _kept(stage)
            aligned = widths.meet(bound << extra, f"a word with {extra} fraction bits more")
            bound = max(widths.factor(stage, factor[s], bound, 0, rows), aligned)
        bound, rows[3] = _through_butterfly(widths, stage, radix, bound, extra, constants[s])
        if radix % 2:
            kept = stage.constants
            extra += _constant_format(stage).fraction if kept is None else kept.guard
        straight, rows[4] = widths.cut(stage.sum, bound, extra, "a sum")
        behind = straight
        if plan.decimation is Decimation.DIF:
            if not stage.turn_first:
                turned = Point(
                    bits=stage.sum.bits, overflow=stage.sum.overflow, then_bits=stage.sum.then_bits
                )
                behind, rows[6] = widths.cut(turned, straight, 0, "a turned word")
            before = (straight, 0) if stage.sum_first else (bound, extra)
            multiplied = widths.factor(stage, factor[s], *before, rows)
            behind = max(behind, multiplied)
        behind, rows[5] = widths.cut(stage.output, behind, 0, "the output")
        widths.bound = widths.meet(behind, "the output")
        bounds.append(behind)
        tables.append(rows)
    points = np.array(tables, np.int64).reshape(-1, len(POINT_NAMES), len(_NO_POINT))
    return points, tuple(bounds), signed_bits((-widths.widest, widths.widest))


def _plain(datapath: FftDatapath, points: Words, lane_bits: int) -> Words | None:
    """Return the points for kernels that do not count, or None where these lack one."""
    for stage in datapath.stages:
        if datapath.block or stage.each or stage.input or stage.output:
            return None
        for point in (stage.product, stage.constants, stage.sum):
            if point and (point.from_bits or point.then_bits or point.overflow is Overflow.RAISE):
                return None
    if points[:, :, 2].any():  # a shift up
        return None
    if lane_bits == 64:
        return points
    # In 32 bits: limits within the lane, and a wrap into so many bits shifts by 32 - bits.
    limits = np.iinfo(np.int32)
    narrow = points.copy()
    narrow[:, :, 7] = np.maximum(points[:, :, 7], limits.min)
    narrow[:, :, 8] = np.minimum(points[:, :, 8], limits.max)
    narrow[:, :, 9] = np.maximum(points[:, :, 9] - 32, 0)
    narrow.flags.writeable = False
    return narrow


def _through_butterfly(
    widths: _Widths, stage: StageDatapath, radix: int, bound: int, extra: int, constants: Words
) -> tuple[int, Any]:
    """Return the bound behind a butterfly whose inputs are within `bound`, and constants' row."""
    if radix % 2 == 0:
        return widths.meet(radix * bound, f"the sum of {radix} words"), _NO_POINT
    # a graph has no node for zero: a constant that narrow words make 0 counts as 1
    words = tuple(int(c) or 1 for c in constants[:radix])
    graph = inner(radix, words)
    found = ranges(graph, [(-bound, bound)] * graph.inputs)
    reach = [max(-low, high) for low, high in found]
    what = (
        f"the constant products inside the butterfly, by {_constant_format(stage).bits}-bit words,"
    )
    widths.meet(max(reach), what)
    sums = [reach[output] for output in graph.outputs]
    point = stage.constants
    row = _NO_POINT
    if point is not None:
        # the data at this place carry `extra` fraction bits, which stay
        relative = _constant_format(stage).fraction
        results = [widths.cut(point, part, relative, what) for part in sums[2:]]
        sums[2:] = [result[0] for result in results]
        row = results[0][1]
    combine = outer(radix, words[0])
    inputs = [(-part, part) for part in (bound, bound, *sums)]
    behind = ranges(combine, inputs)
    largest = max(max(-low, high) for low, high in behind)
    return widths.meet(largest, f"the sum of {radix} words"), row


def _advice(plan: FftPlan, datapath: FftDatapath, inverse: bool) -> str:
    """What would fit: the widest twiddle words that do, and where else bits can be saved."""
    elsewhere = f"narrower data ({datapath.input.bits} bits now), or an earlier cut (sum_first)"
    for fewer in range(1, max(stage.twiddle.bits for stage in datapath.stages) - 1):
        stages = [_narrowed(stage, fewer) for stage in datapath.stages]
        try:
            lower(plan, replace(datapath, stages=tuple(stages)), inverse, advise=False)
        except FormatError:
            continue
        now = max(stage.twiddle.bits for stage in datapath.stages)
        return f"Twiddle words of {now - fewer} bits ({now} now) would fit; or take {elsewhere}."
    return f"Take {elsewhere}, or fewer guard bits."


def _narrowed(stage: StageDatapath, fewer: int) -> StageDatapath:
    def cut(fmt: TwiddleFormat) -> TwiddleFormat:
        bits = max(fmt.bits - fewer, 2)
        return replace(fmt, bits=bits, frac_bits=max(fmt.fraction - (fmt.bits - bits), 0))

    constant = None if stage.constant is None else cut(stage.constant)
    return replace(stage, twiddle=cut(stage.twiddle), constant=constant)


# ---------------------------------------------------------------- block floating point
def _block_limits(plan: FftPlan, datapath: FftDatapath, kind: NDArray[np.int8]) -> Words:
    """Return, per stage and shift, the largest part of an input that cannot overflow the stage."""
    rows = []
    bits = datapath.input.bits
    for s, (radix, stage) in enumerate(zip(plan.radices, datapath.stages, strict=True)):
        bits = bits if stage.bits is None else stage.bits
        # A part of a turned number reaches sqrt(2) times the larger part of its source.
        rotates = bool((kind[s] == _MULTIPLY).any()) or radix not in (2, 4)
        if not rotates:
            grows = float(radix)
        elif plan.decimation is Decimation.DIF:
            grows = radix * math.sqrt(2)
        else:
            grows = 1 + (radix - 1) * math.sqrt(2)
        largest = ((1 << (bits - 1)) - 1) * 2.0**stage.shift
        # one LSB for the roundings of the shift and of the stage
        rows.append(
            [max(math.floor((largest / grows - 1) * 2.0**k), 0) for k in range(_BLOCK_SHIFTS)]
        )
    return np.array(rows, np.int64).reshape(-1, _BLOCK_SHIFTS)


def _block(program: Program, words: Words, stage: int, shifts: Words, ups: Words) -> Words:
    """Decide every frame's shift at `stage`, note it, and return the frames, shifted if early."""
    from fixedpoint.rounding import rounding_terms

    block = program.datapath.block
    assert block is not None
    bits = program.datapath.input.bits
    frames = words.reshape(len(words), -1)
    if block.rule is BlockRule.PEAK:
        limits = program.block_limits[stage]
        peak = np.abs(frames).max(axis=1)
        if stage == 0 and block.normalise:
            for _ in range(bits):
                more = (peak > 0) & (peak << 1 <= limits[0])
                peak = peak << more
                ups += more
        shifts[:, stage] = np.minimum(np.searchsorted(limits, peak), len(limits) - 1)
    elif (group := int(program.options[stage, 6])) > 0:
        magnitudes = np.bitwise_or.reduce(frames ^ (frames >> 63), axis=1)
        if stage == 0 and block.normalise:
            top = np.array([int(m).bit_length() - 1 for m in magnitudes], np.int64)
            up = bits - 2 - group - top
            if block.counter_bits is not None:
                unused = 64 - block.counter_bits
                up = up << unused >> unused
            ups[:] = np.maximum(up, 0)
        for r in range(group):
            bit = (magnitudes >> (bits - 1 - group + r)) & 1
            shifts[:, stage + r] = 1 if stage == 0 else bit
    if stage == 0:
        words = words << ups[:, None, None]
    if not block.early:
        return words
    taken = shifts[:, stage]
    code = rounding_code(block.rounding)
    for shift in np.unique(taken[taken > 0]):
        always, odd, negative = rounding_terms.py_func(int(shift), code)
        rows = taken == shift
        value = words[rows]
        value = value + always + ((value >> shift) & odd) + ((value >> 63) & negative)
        words = words.copy()
        words[rows] = value >> shift
    return words


# ---------------------------------------------------------------- real transforms
@dataclass(frozen=True, kw_only=True, eq=False)
class SplitTable:
    """The step between a packed spectrum of N/2 bins and the N/2 + 1 bins of real words.

    Attributes
    ----------
    kind : int8 array, shape (bins,)
        As `Program.kind`, for the factor of B.
    factor : int64 array, shape (bins, 2)
    points : int64 array
        As one stage of `Program.points`.
    align : int
        Fraction bits that the products keep.
    stage : StageDatapath
    """

    kind: NDArray[np.int8]
    factor: Words
    points: Words
    align: int
    stage: StageDatapath

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, plan: FftPlan, datapath: FftDatapath, inverse: bool) -> SplitTable:
        """Return the table of `datapath.split`: -j W^k, or its conjugate for the inverse.

        Raises
        ------
        ScalingError, FormatError, InputError
            As `lower`; or a point that the step does not have.
        """
        stage = datapath.split
        assert stage is not None
        stage.check(Decimation.DIT, len(plan.radices))
        for name in ("input", "constants", "output"):
            if getattr(stage, name) is not None:
                raise InputError(f"split.{name}: the step has no such point; leave it out.")
        half = plan.length
        fmt = stage.twiddle
        turns = 4 * np.arange(half + (not inverse)) + 2 * half  # of 8 h in a whole turn
        sign = 1 if inverse else -1
        factor = np.array(
            [[fmt.quantise(v) for v in turn(sign * int(t), 8 * half)] for t in turns], np.int64
        )
        never = np.zeros(len(turns), np.bool_)
        kind = _kinds(turns, never, 8 * half, stage.trivial, inverse)
        output = datapath.input if inverse else datapath.output
        widths = _Widths(2 * (1 << (output.bits - 1)))
        widths.stage, widths.radix = len(plan.radices), 2
        rows = [_NO_POINT] * len(POINT_NAMES)
        product = widths.factor(stage, factor, widths.bound, 0, rows)
        aligned = widths.meet(widths.bound << _kept(stage), "an aligned word")
        total = widths.meet(aligned + max(product, aligned), "the sum of two words")
        _, rows[4] = widths.cut(stage.sum, total, _kept(stage), "a sum")
        return cls(
            kind=kind,
            factor=factor,
            points=np.array(rows, np.int64),
            align=_kept(stage),
            stage=stage,
        )

    def apply(self, a: Words, b: Words) -> Words:
        """Return (a + factor b) / 2**shift: int64 (..., bins, 2) arrays.

        Raises
        ------
        FixedPointOverflow
            A word does not fit and its point's overflow is RAISE.
        """
        turned = b.copy()
        for quarters in (1, 2, 3):
            rows = self.kind == quarters
            held = turned[..., rows, :]
            for _ in range(quarters):
                held = np.stack([held[..., 1], -held[..., 0]], axis=-1)
            turned[..., rows, :] = held
        turned <<= self.align
        rows = self.kind == _MULTIPLY
        re, im = b[..., rows, 0], b[..., rows, 1]
        c, s = self.factor[rows, 0], self.factor[rows, 1]
        each = [self._cut(product, 1) for product in (re * c, im * s, re * s, im * c)]
        turned[..., rows, 0] = self._cut(each[0] - each[1], 2)
        turned[..., rows, 1] = self._cut(each[2] + each[3], 2)
        return self._cut((a << self.align) + turned, 4)

    def _cut(self, values: Words, point: int) -> Words:
        name = POINT_NAMES[point]
        row = [int(number) for number in self.points[point]]
        if not row[0]:
            return values
        _, source, left, drop, always, odd, negative, lo, hi, fit, then = row
        held = (values << source) >> source
        wide = held << left
        asked = wide >> drop
        rest = wide & ((1 << drop) - 1)
        asked = asked + ((rest + always + (asked & odd) + ((wide >> 63) & negative)) >> drop)
        word = (np.minimum(np.maximum(asked, lo), hi) << fit) >> fit
        cut: Words = (word << then) >> then
        kind = getattr(self.stage, name)
        if kind.overflow is Overflow.RAISE:
            bad = (held != values) | (cut != asked)
            if bad.any():
                index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
                raise FixedPointOverflow(
                    f"split, {name}: the word at index {index} and {int(bad.sum()) - 1} more do "
                    f"not fit {kind.bits} bits. Shift more in `split`, widen its words, or take "
                    f"Overflow.SATURATE or WRAP.",
                    index=index,
                    point=f"split {name}",
                    count=int(bad.sum()),
                )
        return cut


# ---------------------------------------------------------------- running
def run(
    program: Program,
    words: NDArray[Any],
    *,
    capture: bool = False,
    count: bool = True,
    dtype: Any = np.int64,
) -> Result:
    """Transform frames.

    Parameters
    ----------
    program : Program
    words : int array, shape (lines, N, 2)
        Checked: of the datapath's input format, in the plan's input order.
    capture : bool
        Keep the words behind every stage.
    count : bool
        Fill `Result.tallies`. Without it a datapath of common points runs several times as fast;
        a point with `Overflow.RAISE` is looked after all the same.
    dtype : numpy integer type
        Of the result, wide enough for `program.bounds[-1]`; narrow ones save memory traffic.

    Raises
    ------
    FixedPointOverflow
        A word does not fit at a point whose overflow is RAISE: names the earliest stage and there
        the first index.
    """
    from fixedpoint._frames import LANES_32, LANES_64, pairs
    from fixedpoint._threads import over_lines
    from fixedpoint.stage_kernels import run_plain

    lines, length = words.shape[:2]
    stages = program.kind.shape[0]
    shifts = np.zeros((lines, stages), np.int64)
    ups = np.zeros(lines, np.int64)
    result = np.empty((lines, length, 2), dtype)
    tallies = np.zeros((stages, len(POINT_NAMES), 4), np.int64)
    tallies[:, :, 1] = -1
    captured: list[Words] = []
    if not stages:
        result[:, program.target] = words[:, program.source]
    elif program.plain is not None and not count and not capture:
        lanes, lane = (LANES_32, np.int32) if program.lane_bits == 32 else (LANES_64, np.int64)
        frames = words, result
        if 2 * words.itemsize == 2 * result.itemsize == np.dtype(lane).itemsize:
            frames = pairs(words), pairs(result)

        def piece(begin: int, end: int) -> None:
            run_plain(
                begin,
                end,
                *frames,
                np.zeros((length, 2, lanes), lane),
                program.source,
                program.target,
                program.kind,
                program.factor,
                program.constants,
                program.options,
                program.plain,
            )

        over_lines(piece, lines, lanes)
    elif not capture and program.datapath.block is None:
        ends = program.source, program.target
        _run_counted(program, words, result, ends, (0, stages), tallies)
    else:
        natural = _fixed(np.arange(length, dtype=np.int64))
        held = np.ascontiguousarray(words[:, program.source], np.int64)
        for s in range(stages):
            if program.datapath.block is not None:
                held = _block(program, held, s, shifts, ups)
            behind = np.empty((lines, length, 2), np.int64)
            _block_stage(program, held, behind, natural, shifts[:, s], s, tallies)
            if capture:
                captured.append(behind)
            held = behind
        result[:, program.target] = held
    _raise_overflow(program, tallies)
    return Result(words=result, shifts=shifts, ups=ups, tallies=tallies, captured=tuple(captured))


def _block_stage(
    program: Program,
    words: Words,
    out: Words,
    places: Words,
    taken: Words,
    stage: int,
    tallies: Words,
) -> None:
    """Bring frames through one stage, each with the shift that it has taken (late)."""
    block, span = program.datapath.block, (stage, stage + 1)
    if block is None or block.early:
        _run_counted(program, words, out, (places, places), span, tallies)
        return
    for shift in np.unique(taken):
        rows = np.flatnonzero(taken == shift)
        stages = list(program.datapath.stages)
        stages[stage] = stages[stage].shifted(int(shift), program.plan.decimation)
        datapath = replace(program.datapath, stages=tuple(stages))
        points = lower(program.plan, datapath, program.inverse).points
        some = np.empty((len(rows), *words.shape[1:]), np.int64)
        own = np.zeros_like(tallies)
        own[:, :, 1] = -1
        _run_counted(
            replace(program, points=points), words[rows], some, (places, places), span, own
        )
        line, rest = np.divmod(own[:, :, 1], 2 * program.length)
        own[:, :, 1] = np.where(own[:, :, 1] < 0, -1, rows[line] * 2 * program.length + rest)
        _merge(tallies, own)
        out[rows] = some


def _run_counted(
    program: Program,
    words: NDArray[Any],
    out: NDArray[Any],
    ends: tuple[Words, Words],
    span: tuple[int, int],
    tallies: Words,
) -> None:
    """Bring frames through the stages `span`, and add to `tallies`."""
    from fixedpoint._frames import LANES_64
    from fixedpoint._threads import over_lines
    from fixedpoint.stage_kernels import run_counted

    lock = threading.Lock()
    chosen = _chosen(program)

    def piece(begin: int, end: int) -> None:
        own = np.zeros_like(tallies)
        own[:, :, 1] = -1
        extremes = np.zeros((*tallies.shape[:2], 2, LANES_64), np.int64)
        run_counted(
            begin,
            end,
            words,
            out,
            *ends,
            program.kind,
            program.factor,
            program.constants,
            program.options,
            program.points,
            chosen,
            *span,
            own,
            extremes,
        )
        own[:, :, 2], own[:, :, 3] = extremes[:, :, 0].min(axis=-1), extremes[:, :, 1].max(axis=-1)
        with lock:
            _merge(tallies, own)

    over_lines(piece, len(words), LANES_64)


def _chosen(program: Program) -> NDArray[np.bool_]:
    """Which places pass which point of which stage: bool (stages, points, N)."""
    plan, kind = program.plan, program.kind
    chosen = np.ones((len(kind), len(POINT_NAMES), program.length), np.bool_)
    multiplied = kind == _MULTIPLY
    places = np.arange(program.length)
    for s, (radix, stage) in enumerate(zip(plan.radices, program.datapath.stages, strict=True)):
        chosen[s, 1:3] = multiplied[s]
        chosen[s, 3] = places // program.options[s, 1] % radix > 0
        if plan.decimation is Decimation.DIF and not stage.sum_first:
            chosen[s, 4] = ~multiplied[s]
        chosen[s, 6] = (kind[s] > 0) & ~multiplied[s]
    return chosen


def _merge(into: Words, own: Words) -> None:
    """Add a piece's tallies."""
    into[:, :, 0] += own[:, :, 0]
    mine, theirs = into[:, :, 1], own[:, :, 1]
    into[:, :, 1] = np.where(mine < 0, theirs, np.where(theirs < 0, mine, np.minimum(mine, theirs)))
    np.minimum(into[:, :, 2], own[:, :, 2], out=into[:, :, 2])
    np.maximum(into[:, :, 3], own[:, :, 3], out=into[:, :, 3])


def _raise_overflow(program: Program, tallies: Words) -> None:
    for s, stage in enumerate(program.datapath.stages):
        named: list[tuple[str, Point | None]] = [
            (name, getattr(stage, name)) for name in POINT_NAMES[:-1]
        ]
        named.append(("turned", stage.sum))
        for k, (name, point) in enumerate(named):
            count, first = int(tallies[s, k, 0]), int(tallies[s, k, 1])
            if point is None or point.overflow is not Overflow.RAISE or first < 0:
                continue
            line, rest = divmod(first, 2 * program.length)
            place, part = divmod(rest, 2)
            lowest, highest = int(tallies[s, k, 2]), int(tallies[s, k, 3])
            raise FixedPointOverflow(
                f"stage {s} (radix {program.plan.radices[s]}), {name}: the word at frame {line}, "
                f"place {place}, {'imaginary' if part else 'real'} part, and {count - 1} more do "
                f"not fit {point.bits} bits; the words there reach from {lowest} to {highest}. "
                f"Shift this stage more, widen its words, scale the data down, or take "
                f"Overflow.SATURATE or WRAP.",
                index=(line, place, part),
                point=f"stage {s} {name}",
                count=count,
            )


def _fixed(table: Any) -> Any:
    table.flags.writeable = False
    return table
