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
    stage3,
    stage4,
    stage5,
    stage7,
)
from fixedpoint._frames import LANES_64, enter, leave
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
    rounded,
    turned,
)
from fixedpoint._vector import differing, load, maximum, minimum, store

__all__ = ["run_counted", "run_plain"]

# What is counted at a point; the extremes are a vector each.
COUNT: Final = 0
FIRST: Final = 1


# ---------------------------------------------------------------- without counting
@njit(cache=True, nogil=True, forceinline=True)
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


@njit(cache=True, nogil=True)
def run_plain(  # type: ignore[no-untyped-def]
    begin, end, words, result, work, source, target, kind, factor, constants, options, points
):
    """Transform frames [begin, end) of `words` (lines, N, 2) in the type of `work` (N, 2, lanes)."""
    lanes = work.shape[2]
    for first in range(begin, end, lanes):
        held = min(lanes, end - first)
        enter(words, work, source, first, held, 0)
        for s in range(kind.shape[0]):
            product = _point(points[s, PRODUCT])
            sums = _point(points[s, CONSTANTS])
            total = _point(points[s, SUM])
            radix = options[s, RADIX]
            if radix == 2:
                stage2(work, kind[s], factor[s], constants[s], options[s], product, sums, total)
            elif radix == 4:
                stage4(work, kind[s], factor[s], constants[s], options[s], product, sums, total)
            elif radix == 3:
                stage3(work, kind[s], factor[s], constants[s], options[s], product, sums, total)
            elif radix == 5:
                stage5(work, kind[s], factor[s], constants[s], options[s], product, sums, total)
            else:
                stage7(work, kind[s], factor[s], constants[s], options[s], product, sums, total)
        leave(work, result, target, first, held, 0)


# ---------------------------------------------------------------- with counting
# Tables are handed on whole, with the stage and the point to look at: a slice of an array costs more
# than what is done with it here.
@njit(cache=True, nogil=True)
def _cut(rows, k, points, tallies, extremes, s, p, at, stride):  # type: ignore[no-untyped-def]
    """Bring vector k of `rows` through point p; `at + lane * stride` is a word's index."""
    if points[s, p, ACTIVE] == 0:
        return
    value = load(rows, k)
    held = (value << points[s, p, FROM]) >> points[s, p, FROM]
    asked = rounded(
        held << points[s, p, LEFT],
        points[s, p, DROP],
        points[s, p, ALWAYS],
        points[s, p, ODD],
        points[s, p, NEGATIVE],
    )
    word = minimum(maximum(asked, points[s, p, LO]), points[s, p, HI])
    word = (word << points[s, p, FIT]) >> points[s, p, FIT]
    kept = (word << points[s, p, THEN]) >> points[s, p, THEN]
    store(rows, k, kept)
    e = 2 * (s * points.shape[1] + p)
    store(extremes, e, minimum(load(extremes, e), asked))
    store(extremes, e + 1, maximum(load(extremes, e + 1), asked))
    bad = differing(held, value) | differing(word, asked) | differing(kept, word)
    if bad:
        lane = 0
        while bad:
            if bad & 1:
                tallies[s, p, COUNT] += 1
                index = at + lane * stride
                if tallies[s, p, FIRST] < 0 or index < tallies[s, p, FIRST]:
                    tallies[s, p, FIRST] = index
            bad >>= 1
            lane += 1


@njit(cache=True, nogil=True)
def _cut_pair(rows, i, points, tallies, extremes, s, p, at, stride):  # type: ignore[no-untyped-def]
    """Both parts of row i of `rows` through point p."""
    for part in range(2):
        _cut(rows, 2 * i + part, points, tallies, extremes, s, p, at + part, stride)


@njit(cache=True, nogil=True)
def _turn(rows, i, quarters, up):  # type: ignore[no-untyped-def]
    """Row i times (-j)**quarters * 2**up."""
    re, im = turned(load(rows, 2 * i), load(rows, 2 * i + 1), quarters)
    store(rows, 2 * i, re << up)
    store(rows, 2 * i + 1, im << up)


@njit(cache=True, nogil=True)
def _times(rows, i, c, d, products, points, tallies, extremes, s, at, stride):  # type: ignore[no-untyped-def]
    """Row i times c + jd; `products` (2, 2, lanes) is scratch."""
    re, im = load(rows, 2 * i), load(rows, 2 * i + 1)
    store(products, 0, re * c)
    store(products, 1, re * d)
    store(products, 2, im * d)
    store(products, 3, im * c)
    for k in range(2):
        _cut_pair(products, k, points, tallies, extremes, s, EACH, at, stride)
    store(rows, 2 * i, load(products, 0) - load(products, 2))
    store(rows, 2 * i + 1, load(products, 1) + load(products, 3))
    _cut_pair(rows, i, points, tallies, extremes, s, PRODUCT, at, stride)


@njit(cache=True, nogil=True)
def _butterfly(x, y, options, constants, points, tallies, extremes, s, at, stride):  # type: ignore[no-untyped-def]
    """Rows of x to their transform in y."""
    radix = options[s, RADIX]
    if radix == 2:
        butterfly2(x, y)
    elif radix == 4:
        butterfly4(x, y)
        if options[s, INVERSE]:
            for k in range(2, 4):
                value = load(y, k)
                store(y, k, load(y, k + 4))
                store(y, k + 4, value)
    else:
        if radix == 3:
            inner3(x, y, constants[s])
        elif radix == 5:
            inner5(x, y, constants[s])
        else:
            inner7(x, y, constants[s])
        for i in range(1, radix):
            place = at + 2 * i * options[s, LEGS]
            _cut_pair(y, i, points, tallies, extremes, s, CONSTANTS, place, stride)
        if radix == 3:
            outer3(x, y, constants[s])
        elif radix == 5:
            outer5(x, y, constants[s])
        else:
            outer7(x, y, constants[s])


@njit(cache=True, nogil=True)
def _stage(  # type: ignore[no-untyped-def]
    work, kind, factor, constants, options, points, tallies, extremes, s, x, y, products, line
):
    """One stage on `work` (N, 2, lanes), the frames `line`, line + 1, ..."""
    length = work.shape[0]
    radix, legs, dif, stride = options[s, RADIX], options[s, LEGS], options[s, DIF], 2 * length
    for top in range(length // radix):
        top = top // legs * radix * legs + top % legs
        at = 2 * (line * length + top)
        for i in range(radix):
            row = top + i * legs
            place = at + 2 * i * legs
            for part in range(2):
                store(x, 2 * i + part, load(work, 2 * row + part))
            _cut_pair(x, i, points, tallies, extremes, s, INPUT, place, stride)
            if not dif:
                if kind[s, row] == MULTIPLY:
                    c, d = factor[s, row, 0], factor[s, row, 1]
                    _times(x, i, c, d, products, points, tallies, extremes, s, place, stride)
                else:
                    _turn(x, i, kind[s, row], options[s, ALIGN])
        _butterfly(x, y, options, constants, points, tallies, extremes, s, at, stride)
        for i in range(radix):
            row = top + i * legs
            place = at + 2 * i * legs
            turns = kind[s, row] if dif else 0
            multiply = turns == MULTIPLY
            if not multiply and options[s, TURN_FIRST]:
                _turn(y, i, turns, 0)
            if not multiply or options[s, SUM_FIRST]:
                _cut_pair(y, i, points, tallies, extremes, s, SUM, place, stride)
            if multiply:
                c, d = factor[s, row, 0], factor[s, row, 1]
                _times(y, i, c, d, products, points, tallies, extremes, s, place, stride)
            elif turns and not options[s, TURN_FIRST]:
                _turn(y, i, turns, 0)
                _cut_pair(y, i, points, tallies, extremes, s, TURNED, place, stride)
            _cut_pair(y, i, points, tallies, extremes, s, OUTPUT, place, stride)
            for part in range(2):
                store(work, 2 * row + part, load(y, 2 * i + part))


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
    first_stage,
    last_stage,
    tallies,
    extremes,
):
    """Bring frames [begin, end) of `words` (lines, N, 2) through stages first to last - 1."""
    work = np.zeros((words.shape[1], 2, LANES_64), np.int64)
    x = np.zeros((7, 2, LANES_64), np.int64)
    y = np.zeros((7, 2, LANES_64), np.int64)
    products = np.zeros((2, 2, LANES_64), np.int64)
    for first in range(begin, end, LANES_64):
        held = min(LANES_64, end - first)
        enter(words, work, source, first, held, 0)
        for s in range(first_stage, last_stage):
            _stage(
                work,
                kind,
                factor,
                constants,
                options,
                points,
                tallies,
                extremes,
                s,
                x,
                y,
                products,
                first,
            )
        leave(work, result, target, first, held, 0)
