"""How do frames pass the stages of a transform, every point of a stage a run-time number, compiled?

Private to `fixedpoint.mixed_radix`, which lays out the tables and proves that no value leaves its
lanes. Two ways with equal bits: `run_plain` keeps the words of a butterfly in registers, in
int32 where that is wide enough; `run_counted` has every point there is, and counts what does not
fit. Oracle: `fixedpoint.exact_fft`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

from fixedpoint._butterflies import (
    butterfly2,
    butterfly4,
    inner3,
    inner5,
    inner7,
    outer3,
    outer5,
    outer7,
    stage2,
    stage4,
)
from fixedpoint._frames import LANES_64, enter, leave
from fixedpoint._inside import inside
from fixedpoint._points import (
    ACTIVE,
    ALIGN,
    ALWAYS,
    CONSTANTS,
    DIF,
    DROP,
    EACH,
    FIT,
    FROM,
    HI,
    INPUT,
    INVERSE,
    LEFT,
    LEGS,
    LO,
    MULTIPLY,
    NEGATIVE,
    ODD,
    OUTPUT,
    PRODUCT,
    RADIX,
    SUM,
    SUM_FIRST,
    THEN,
    TURN_FIRST,
    TURNED,
    before,
    behind,
    rounded,
    through,
    turned,
)
from fixedpoint._vector import differing, load, maximum, minimum, store

__all__ = ["run_counted", "run_plain"]

# What is counted at a point; the extremes are a vector each.
COUNT: Final = 0
FIRST: Final = 1
LARGEST_RADIX: Final = 7


# ---------------------------------------------------------------- the butterflies on rows
@inside()
def _inner(x, y, radix, constants, inverse):  # type: ignore[no-untyped-def]
    """Rows of x to their transform in y; of an odd radix only to the sums inside."""
    if radix == 2:
        butterfly2(x, y)
    elif radix == 4:
        butterfly4(x, y)
        if inverse:
            for k in range(2, 4):
                value = load(y, k)
                store(y, k, load(y, k + 4))
                store(y, k + 4, value)
    elif radix == 3:
        inner3(x, y, constants)
    elif radix == 5:
        inner5(x, y, constants)
    else:
        inner7(x, y, constants)


@inside()
def _outer(x, y, radix, constants):  # type: ignore[no-untyped-def]
    """The sums of an odd radix in y, with row 0 of x, to the transform in y."""
    if radix == 3:
        outer3(x, y, constants)
    elif radix == 5:
        outer5(x, y, constants)
    else:
        outer7(x, y, constants)


# ---------------------------------------------------------------- without counting
@inside()
def _point(row):  # type: ignore[no-untyped-def]
    return (
        row[ACTIVE],
        row[FROM],
        row[LEFT],
        row[DROP],
        row[ALWAYS],
        row[ODD],
        row[NEGATIVE],
        row[LO],
        row[HI],
        row[FIT],
        row[THEN],
    )


@inside()
def _stage_odd(work, kind, factor, constants, option, product, sums, total, x, y):  # type: ignore[no-untyped-def]
    """A stage of radix 3, 5 or 7 on `work` (N, 2, lanes); x, y (7, 2, lanes) are scratch."""
    # Multiplications outweigh the way through the scratch, and one way for all radices compiles in
    # a fraction of the time.
    radix, legs, dif, align = option[RADIX], option[LEGS], option[DIF], option[ALIGN]
    sum_first, turn_first = option[SUM_FIRST], option[TURN_FIRST]
    for top in range(work.shape[0] // radix):
        top = top // legs * radix * legs + top % legs
        for i in range(radix):
            row = top + i * legs
            re, im = load(work, 2 * row), load(work, 2 * row + 1)
            if not dif:
                re, im = before(re, im, kind[row], factor[row, 0], factor[row, 1], align, product)
            store(x, 2 * i, re)
            store(x, 2 * i + 1, im)
        _inner(x, y, radix, constants, False)
        for k in range(2, 2 * radix):
            store(y, k, through(load(y, k), sums))
        _outer(x, y, radix, constants)
        for i in range(radix):
            row = top + i * legs
            re, im = load(y, 2 * i), load(y, 2 * i + 1)
            if dif:
                c, s = factor[row, 0], factor[row, 1]
                re, im = behind(re, im, kind[row], c, s, sum_first, turn_first, product, total)
            else:
                re, im = through(re, total), through(im, total)
            store(work, 2 * row, re)
            store(work, 2 * row + 1, im)


@njit(cache=True, nogil=True)
def run_plain(  # type: ignore[no-untyped-def]
    begin, end, words, result, work, source, target, kind, factor, constants, options, points
):
    """Transform frames [begin, end) of `words` in the type of `work` (N, 2, lanes)."""
    lanes = work.shape[2]
    x = np.zeros((LARGEST_RADIX, 2, lanes), work.dtype)
    y = np.zeros((LARGEST_RADIX, 2, lanes), work.dtype)
    for first in range(begin, end, lanes):
        held = min(lanes, end - first)
        enter(words, work, source, first, held, 0)
        for s in range(kind.shape[0]):
            product = _point(points[s, PRODUCT])
            sums = _point(points[s, CONSTANTS])
            total = _point(points[s, SUM])
            option, constant = options[s], constants[s]
            if option[RADIX] == 2:
                stage2(work, kind[s], factor[s], option, product, total)
            elif option[RADIX] == 4:
                stage4(work, kind[s], factor[s], option, product, total)
            else:
                _stage_odd(work, kind[s], factor[s], constant, option, product, sums, total, x, y)
        leave(work, result, target, first, held, 0)


# ---------------------------------------------------------------- with counting
# One point after another over the whole frame: a point's numbers are then read once per stage, and
# one function serves all points. A point that a word does not pass is left out by `chosen`.
@inside()
def _cut(words, chosen, point, tally, extremes, at, stride):  # type: ignore[no-untyped-def]
    """Bring the chosen rows of `words` through a point.

    `words` has 2 or 4 vectors per row; `at + 2 * row + part + lane * stride` is a word's index.
    """
    if point[ACTIVE] == 0:
        return
    source, left, drop = point[FROM], point[LEFT], point[DROP]
    always, odd, negative = point[ALWAYS], point[ODD], point[NEGATIVE]
    lo, hi, fit, then = point[LO], point[HI], point[FIT], point[THEN]
    lowest, highest = load(extremes, 0), load(extremes, 1)
    per = 2 * words.shape[0] // chosen.shape[0]
    for row in range(chosen.shape[0]):
        if not chosen[row]:
            continue
        for k in range(per):
            value = load(words, per * row + k)
            held = (value << source) >> source
            asked = rounded(held << left, drop, always, odd, negative)
            word = minimum(maximum(asked, lo), hi)
            word = (word << fit) >> fit
            kept = (word << then) >> then
            store(words, per * row + k, kept)
            lowest, highest = minimum(lowest, asked), maximum(highest, asked)
            bad = differing(held, value) | differing(word, asked) | differing(kept, word)
            index = at + 2 * row + k % 2
            while bad:
                if bad & 1:
                    tally[COUNT] += 1
                    if tally[FIRST] < 0 or index < tally[FIRST]:
                        tally[FIRST] = index
                bad >>= 1
                index += stride
    store(extremes, 0, lowest)
    store(extremes, 1, highest)


@inside()
def _times(work, products, kind, factor, chosen, points, tallies, extremes, at, stride):  # type: ignore[no-untyped-def]
    """The rows of kind MULTIPLY times their factors, through the points of products."""
    apart = points[EACH, ACTIVE]
    for row in range(work.shape[0]):
        if kind[row] == MULTIPLY:
            c, s = factor[row, 0], factor[row, 1]
            re, im = load(work, 2 * row), load(work, 2 * row + 1)
            if apart:
                store(products, 4 * row, re * c)
                store(products, 4 * row + 1, re * s)
                store(products, 4 * row + 2, im * s)
                store(products, 4 * row + 3, im * c)
            else:
                store(work, 2 * row, re * c - im * s)
                store(work, 2 * row + 1, re * s + im * c)
    if apart:
        _cut(products, chosen[EACH], points[EACH], tallies[EACH], extremes[EACH], at, stride)
        for row in range(work.shape[0]):
            if kind[row] == MULTIPLY:
                first, second = load(products, 4 * row), load(products, 4 * row + 1)
                store(work, 2 * row, first - load(products, 4 * row + 2))
                store(work, 2 * row + 1, second + load(products, 4 * row + 3))
    _cut(work, chosen[PRODUCT], points[PRODUCT], tallies[PRODUCT], extremes[PRODUCT], at, stride)


@inside()
def _turn(work, kind, up):  # type: ignore[no-untyped-def]
    """The rows of every other kind turned, times 2**up."""
    for row in range(work.shape[0]):
        if kind[row] != MULTIPLY:
            re, im = turned(load(work, 2 * row), load(work, 2 * row + 1), kind[row])
            store(work, 2 * row, re << up)
            store(work, 2 * row + 1, im << up)


@inside()
def _butterflies(work, firsts, option, constants, half, x, y):  # type: ignore[no-untyped-def]
    """All butterflies of a stage; of an odd radix the first half, or what is left.

    `firsts` keeps row 0 of every butterfly from the first half to the second.
    """
    radix, legs, inverse = option[RADIX], option[LEGS], option[INVERSE]
    for butterfly in range(work.shape[0] // radix):
        top = butterfly // legs * radix * legs + butterfly % legs
        held = y if half else x
        for i in range(radix):
            for part in range(2):
                store(held, 2 * i + part, load(work, 2 * (top + i * legs) + part))
        if half:
            for part in range(2):
                store(x, part, load(firsts, 2 * butterfly + part))
            _outer(x, y, radix, constants)
        else:
            for part in range(2):
                store(firsts, 2 * butterfly + part, load(x, part))
            _inner(x, y, radix, constants, inverse)
        for i in range(radix):
            for part in range(2):
                store(work, 2 * (top + i * legs) + part, load(y, 2 * i + part))


@inside()
def _stage(  # type: ignore[no-untyped-def]
    work, products, kind, factor, constants, option, points, chosen, tallies, extremes, line, x, y
):
    """One stage on `work` (N, 2, lanes), the frames `line`, line + 1, ..."""
    dif, turn_first, stride = option[DIF], option[TURN_FIRST], 2 * work.shape[0]
    up = 0 if dif else option[ALIGN]
    at = line * stride
    _cut(work, chosen[INPUT], points[INPUT], tallies[INPUT], extremes[INPUT], at, stride)
    if not dif:
        _times(work, products, kind, factor, chosen, points, tallies, extremes, at, stride)
        _turn(work, kind, up)
    for half in range(1 + option[RADIX] % 2):
        if half:
            k = CONSTANTS
            _cut(work, chosen[k], points[k], tallies[k], extremes[k], at, stride)
        _butterflies(work, products, option, constants, half, x, y)
    if dif and turn_first:
        _turn(work, kind, up)
    _cut(work, chosen[SUM], points[SUM], tallies[SUM], extremes[SUM], at, stride)
    if dif:
        _times(work, products, kind, factor, chosen, points, tallies, extremes, at, stride)
        if not turn_first:
            _turn(work, kind, up)
            _cut(
                work, chosen[TURNED], points[TURNED], tallies[TURNED], extremes[TURNED], at, stride
            )
    _cut(work, chosen[OUTPUT], points[OUTPUT], tallies[OUTPUT], extremes[OUTPUT], at, stride)


@njit(cache=True, nogil=True)
def run_counted(  # type: ignore[no-untyped-def]
    begin,
    end,
    words,
    result,
    source,
    target,
    kind,
    factor,
    constants,
    options,
    points,
    chosen,
    first_stage,
    last_stage,
    tallies,
    extremes,
):
    """Bring frames [begin, end) of `words` (lines, N, 2) through stages first to last - 1.

    `chosen` (stages, points, N) says which rows pass which point.
    """
    work = np.zeros((words.shape[1], 2, LANES_64), np.int64)
    products = np.zeros((2 * words.shape[1], 2, LANES_64), np.int64)
    x = np.zeros((LARGEST_RADIX, 2, LANES_64), np.int64)
    y = np.zeros((LARGEST_RADIX, 2, LANES_64), np.int64)
    for first in range(begin, end, LANES_64):
        held = min(LANES_64, end - first)
        enter(words, work, source, first, held, 0)
        for s in range(first_stage, last_stage):
            _stage(
                work,
                products,
                kind[s],
                factor[s],
                constants[s],
                options[s],
                points[s],
                chosen[s],
                tallies[s],
                extremes[s],
                first,
                x,
                y,
            )
        leave(work, result, target, first, held, 0)
