"""How are products multiplied and accumulated through a register of given width, many lines at once?

Two kernels compute out[o, l, i] = start[o] + sum_t sign[i, t] P(coefs[o, row[i], t] x[g, l, place[i, t]]),
g = o for one group of inputs per output or 0 for a shared one:

- `accumulate_terms` brings every product and every running sum through its point, for any pattern
  of terms, and measures both; lines lie side by side in the vector registers;
- `correlate_exactly` is the circular correlation whose 64-bit sums need no point.

Formats and modes are run-time numbers. Oracle: `fixedpoint.exact_operator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fixedpoint._threads import over_lines
from fixedpoint.datapath import Cut
from fixedpoint.errors import FormatError
from fixedpoint.modes import FLOOR, WRAP, overflow_code, rounding_code
from fixedpoint.qformat import QFormat
from fixedpoint.rounding import round_with, rounding_terms
from parc_hw.errors import InputError

__all__ = [
    "MacPoints",
    "PointStats",
    "Terms",
    "accumulate_terms",
    "correlate_exactly",
    "direct_terms",
]

Words = NDArray[np.int64]
_INT64 = QFormat(64, 0)
_MOST_SHIFT = 62  # what `round_with` takes
LANES = 16  # lines side by side: two or four vector registers of int64


@dataclass(frozen=True, slots=True)
class Terms:
    """Which coefficient meets which input in which order, for every output of a line.

    Attributes
    ----------
    row : int64 array, shape (I,)
        The row of coefficients that output i uses.
    place, sign : int64 arrays, shape (I, T)
        Position of the input of term t; +1 or -1: its product is added or subtracted; 0: no term.
    """

    row: Words
    place: Words
    sign: Words


@lru_cache(maxsize=64)
def direct_terms(length: int, channels: int) -> Terms:
    """Return the terms of y[i] = sum_c sum_k w[c, k] x[c, (i + k) mod N].

    >>> direct_terms(3, 1).place.tolist()
    [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    i, k = np.arange(length)[:, None], np.arange(length)
    place = (np.arange(channels)[:, None] * length + ((i + k) % length)[:, None, :]).reshape(
        length, channels * length
    )
    return Terms(np.zeros(length, np.int64), place, np.ones_like(place))


@dataclass(frozen=True, slots=True)
class MacPoints:
    """The two points of a multiply-accumulate as plain numbers, with the proof that int64 holds it.

    Parameters
    ----------
    x, coefficient : QFormat
        The operands.
    product, accumulator : Cut or None
        As in `DirectDatapath`.
    terms : int
        How many products a sum has.
    start : QFormat or None
        Format of the words that the register starts from, before they are brought into it.

    Raises
    ------
    FormatError
        A product, or a sum before it is cut, needs more than 64 bits: names both operands.
    """

    x: QFormat
    coefficient: QFormat
    product: Cut | None
    accumulator: Cut | None
    terms: int
    start: QFormat | None = None

    def __post_init__(self) -> None:
        exact = QFormat.for_mul(self.x, self.coefficient)
        term, sums = self.term, self.sums  # raises where 64 bits do not hold the sums
        gained = term.frac_bits - exact.frac_bits
        if gained > 0 and exact.bits + gained > _INT64.bits:
            raise FormatError(
                f"the product of {self.x} and {self.coefficient} has {exact.bits} bits, and "
                f"{gained} low bits more in {term}: 64-bit arithmetic holds 64 in all. A product "
                f"format with at most {term.frac_bits - (exact.bits + gained - _INT64.bits)} "
                f"fraction bits would fit."
            )
        if self.accumulator is not None:
            register = QFormat.for_add(sums, term)
            if register.dtype != np.int64:
                raise FormatError(
                    f"the sum of {sums} and {term} has 64 unsigned bits; 63 would fit."
                )
        for before, after in ((exact, term), (term, sums)):
            if before.frac_bits - after.frac_bits > _MOST_SHIFT:
                raise InputError(
                    f"from {before} to {after} {before.frac_bits - after.frac_bits} fraction bits "
                    f"are dropped, which is all of every word; accepted are at most {_MOST_SHIFT}."
                )

    @property
    def term(self) -> QFormat:
        """The format of a product on its way to the register."""
        if self.product is not None:
            return self.product.format
        return QFormat.for_mul(self.x, self.coefficient)

    @property
    def sums(self) -> QFormat:
        """The register's format; without `accumulator` the narrowest that holds every sum."""
        if self.accumulator is not None:
            return self.accumulator.format
        if self.product is not None:
            sums = QFormat.for_accumulate(self.product.format, self.terms)
        else:
            sums = QFormat.for_multiply_accumulate(self.x, self.coefficient, self.terms)
        return sums if self.start is None else QFormat.for_add(sums, self.start)

    def table(self) -> Words:
        """Return one row per point: up-shift, down-shift, rounding, lowest, highest, overflow."""
        exact = QFormat.for_mul(self.x, self.coefficient)
        term, sums = self.term, self.sums
        down = exact.frac_bits - term.frac_bits
        rows = [(max(-down, 0), max(down, 0), *_limits(self.product))]
        # Terms and register meet at the finer of their binary points.
        point = max(term.frac_bits, sums.frac_bits)
        rows.append((point - term.frac_bits, point - sums.frac_bits, *_limits(self.accumulator)))
        return np.array(rows, np.int64)


@dataclass(frozen=True, slots=True)
class PointStats:
    """What passed one point: words, how many did not fit, the extreme ones, the first that did not.

    `first` is the position (o, l, i) of the first output whose words did not fit, or None.
    """

    words: int
    overflowed: int
    lowest: int
    highest: int
    first: tuple[int, int, int] | None


def _limits(cut: Cut | None) -> tuple[int, int, int, int]:
    """Rounding, lowest, highest, overflow; where there is no point, what lets everything pass."""
    if cut is None:
        return FLOOR, _INT64.min_raw, _INT64.max_raw, WRAP
    fmt = cut.format
    return rounding_code(cut.rounding), fmt.min_raw, fmt.max_raw, overflow_code(cut.overflow)


@njit(cache=True, nogil=True)
def _terms_kernel(begin, end, x, coefs, row, place, sign, start, out, table, stats):  # type: ignore[no-untyped-def]
    """Items [begin, end) of outputs x tiles of lines; stats (outputs, lines, 2, 3).

    stats[o, l, point] = overflows, lowest, highest.
    """
    groups, lines, width = x.shape
    length, count = place.shape
    tiles = (lines + LANES - 1) // LANES
    lanes_x = np.empty((width, LANES), np.int64)
    total = np.empty(LANES, np.int64)
    seen = np.empty((2, 3, LANES), np.int64)
    up0, down0, mode0, lo0, hi0, over0 = table[0]
    up1, down1, mode1, lo1, hi1, over1 = table[1]
    always0, odd0, negative0 = rounding_terms(down0, mode0)
    always1, odd1, negative1 = rounding_terms(down1, mode1)
    wrap0, wrap1 = over0 == WRAP, over1 == WRAP
    loaded = -1
    for item in range(begin, end):
        o, tile = item // tiles, item % tiles
        first, lanes = tile * LANES, min(LANES, lines - tile * LANES)
        group = o if groups > 1 else 0
        if loaded != group * tiles + tile:
            loaded = group * tiles + tile
            lanes_x[:, :] = 0
            for lane in range(lanes):
                for v in range(width):
                    lanes_x[v, lane] = x[group, first + lane, v]
        seen[:, 0, :] = 0
        seen[:, 1, :] = 1 << 62
        seen[:, 2, :] = -(1 << 62)
        for i in range(length):
            for lane in range(LANES):
                total[lane] = start[o, i]
            for t in range(count):
                coefficient = coefs[o, row[i], t]
                plus = sign[i, t]
                source = lanes_x[place[i, t]]
                for lane in range(LANES):
                    word = round_with(
                        (coefficient * source[lane]) << up0, down0, always0, odd0, negative0
                    )
                    seen[0, 0, lane] += (word < lo0) | (word > hi0)
                    seen[0, 1, lane] = min(seen[0, 1, lane], word)
                    seen[0, 2, lane] = max(seen[0, 2, lane], word)
                    if wrap0:
                        word = ((word - lo0) & (hi0 - lo0)) + lo0
                    else:
                        word = min(max(word, lo0), hi0)
                    word = round_with(
                        (total[lane] << down1) + plus * (word << up1),
                        down1,
                        always1,
                        odd1,
                        negative1,
                    )
                    seen[1, 0, lane] += (word < lo1) | (word > hi1)
                    seen[1, 1, lane] = min(seen[1, 1, lane], word)
                    seen[1, 2, lane] = max(seen[1, 2, lane], word)
                    if wrap1:
                        word = ((word - lo1) & (hi1 - lo1)) + lo1
                    else:
                        word = min(max(word, lo1), hi1)
                    total[lane] = word
            for lane in range(lanes):
                out[o, first + lane, i] = total[lane]
        for lane in range(lanes):
            for point in range(2):
                for figure in range(3):
                    stats[o, first + lane, point, figure] = seen[point, figure, lane]


def accumulate_terms(
    x: Words, coefs: Words, terms: Terms, start: Words, points: MacPoints
) -> tuple[Words, tuple[PointStats, PointStats]]:
    """Sum the products of every output through the points, and measure both points.

    Parameters
    ----------
    x : int64 array, shape (G, L, V)
        Words of the lines; G = 1 (shared) or the number of outputs.
    coefs : int64 array, shape (O, R, T)
        Rows of coefficients of each output.
    terms : Terms
        For I outputs of a line, T terms each.
    start : int64 array, shape (O, I)
        What the register starts from, in its own format.
    points : MacPoints
        The formats.

    Returns
    -------
    out : int64 array, shape (O, L, I)
        The sums in `points.sums`.
    stats : PointStats of the products and of the sums
    """
    (_, lines, _), outputs, length = x.shape, coefs.shape[0], terms.place.shape[0]
    out = np.empty((outputs, lines, length), np.int64)
    stats = np.empty((outputs, lines, 2, 3), np.int64)
    table = points.table()
    arguments = (coefs, terms.row, terms.place, terms.sign, start, out, table, stats)
    over_lines(_terms_kernel, outputs * -(-lines // LANES), 1, np.ascontiguousarray(x), *arguments)
    words = outputs * lines * int(np.count_nonzero(terms.sign))
    found = []
    for point in range(2):
        figures = stats[:, :, point]
        overflowed = int(figures[..., 0].sum())
        first = None
        if overflowed:
            o, line = divmod(int((figures[..., 0] > 0).argmax()), lines)
            first = (o, line, _first_output(x, o, line, arguments, point))
        lowest, highest = int(figures[..., 1].min()), int(figures[..., 2].max())
        found.append(PointStats(words, overflowed, lowest, highest, first))
    return out, (found[0], found[1])


def _first_output(x: Words, o: int, line: int, arguments: tuple[Any, ...], point: int) -> int:
    """The first output of a line one of whose words did not fit at `point`."""
    coefs, row, place, sign, start, _, table, _ = arguments
    group = x[o if len(x) > 1 else 0, line][None, None]
    for i in range(len(row)):
        out = np.empty((1, 1, 1), np.int64)
        stats = np.empty((1, 1, 2, 3), np.int64)
        one = slice(i, i + 1)
        _terms_kernel(
            0, 1, group, coefs[o : o + 1], row[one], place[one], sign[one], start[o : o + 1, one],
            out, table, stats,
        )  # fmt: skip
        if stats[0, 0, point, 0]:
            return i
    raise AssertionError("a counted overflow is at some output")


@njit(cache=True, nogil=True)
def _exact_kernel(begin, end, x, w, start, out):  # type: ignore[no-untyped-def]
    """Items [begin, end) of outputs x lines of a circular correlation, in int64."""
    groups, lines, width = x.shape
    length = out.shape[2]
    twice = np.empty(2 * length, np.int64)
    for item in range(begin, end):
        o, line = item // lines, item % lines
        total = out[o, line]
        for i in range(length):
            total[i] = start[o]
        source = x[o if groups > 1 else 0, line]
        for c in range(width // length):
            # The period written twice: no remainder in the inner loop.
            for i in range(length):
                twice[i] = source[c * length + i]
                twice[length + i] = source[c * length + i]
            for k in range(length):
                tap = w[o, c * length + k]
                for i in range(length):
                    total[i] += tap * twice[i + k]


def correlate_exactly(x: Words, w: Words, start: Words, length: int) -> Words:
    """Return y[o, l, i] = start[o] + sum_c sum_k w[o, c, k] x[g, l, c, (i + k) mod N] in int64.

    Parameters
    ----------
    x : int64 array, shape (G, L, c N)
        G = 1 (shared by all outputs) or O.
    w : int64 array, shape (O, c N)
        Channel by channel. The caller has proved that no sum leaves int64.
    start : int64 array, shape (O,)
    length : int
        N.

    Returns
    -------
    int64 array, shape (O, L, N)
    """
    outputs, lines = w.shape[0], x.shape[1]
    out = np.empty((outputs, lines, length), np.int64)
    arguments = (np.ascontiguousarray(x), np.ascontiguousarray(w), start, out)
    over_lines(_exact_kernel, outputs * lines, 16, *arguments)
    return out
