"""Can any input make a ParC with this kernel overflow, and if so, which one?

`certify` follows every word from the input on. The linear part of a word is a sum of independent
inputs with known gains: its extremes are attained, every input being at one of its ends (the l1
gain). Rounding is monotone, so that the words of a direct sum are known exactly, from term to term;
behind the roundings of a transform they are known up to the bounds of the errors propagated.
So each stage either cannot overflow, or an input is built that should make it overflow, and the
simulator confirms that it does. Between the two, where the limit lies within a few LSB of the
extreme, inputs near it are tried, and if none overflows the answer is: not decided.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint import mac
from fixedpoint.affine import Affine
from fixedpoint.arith import requantize
from fixedpoint.datapath import Cut, OverflowCounter
from fixedpoint.exact import round_to_integer
from fixedpoint.exact import to_value as to_exact
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.operator import (
    Operands,
    ParcPlan,
    check_plan,
    direct_points,
    from_lines,
    parc,
    start_words,
)
from fixedpoint.paths import (
    DirectDatapath,
    FourierDatapath,
    NttDatapath,
    ParcDatapath,
    SplitDatapath,
)
from fixedpoint.qformat import QFormat
from fixedpoint.transform_bounds import Checked, Pair, through_graph, transform
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import Axis, ParcSpec

__all__ = ["Certificate", "StageCertificate", "Verdict", "certify"]

Words = NDArray[np.int64]
_INT64 = QFormat(64, 0)
_TRIED = 64  # words of a stage whose worst inputs are tried
_NEAR = 256  # inputs near the worst one that are tried before "not decided"


class Verdict(enum.Enum):
    """What is known about the overflow of a stage, or of all."""

    IMPOSSIBLE = "impossible"  # for every input
    OVERFLOWS = "overflows"  # for the witness, in the simulator
    CONDITIONAL = "conditional"  # impossible for inputs that overflow nowhere before
    UNDECIDED = "not decided"  # the bounds allow it, and no input was found


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCertificate:
    """What the words of one stage can be.

    Attributes
    ----------
    name, format
        As in the trace.
    lowest, highest : int
        No input takes a word of the stage, rounded but not yet fitted, beyond these.
    exact : bool
        Both are attained; else they include bounds of the rounding errors before.
    verdict : Verdict
    """

    name: str
    format: QFormat
    lowest: int
    highest: int
    exact: bool
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "name": self.name,
            "format": str(self.format),
            "lowest": self.lowest,
            "highest": self.highest,
            "exact": self.exact,
            "verdict": self.verdict.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The stages' worst cases over all inputs, for one kernel.

    Attributes
    ----------
    stages : tuple of StageCertificate
    witness : int64 array, shape (B, C, H, W), or None
        Raw input that overflows at `witness_stage`, the first stage that can, as the simulator
        has confirmed.
    witness_stage : str or None
    """

    stages: tuple[StageCertificate, ...]
    witness: Words | None = None
    witness_stage: str | None = None

    COLUMNS = ("stage", "format", "lowest", "highest", "of range", "overflow")

    @property
    def verdict(self) -> Verdict:
        """IMPOSSIBLE at every stage, OVERFLOWS with a witness, or UNDECIDED."""
        if self.witness is not None:
            return Verdict.OVERFLOWS
        if all(stage.verdict is Verdict.IMPOSSIBLE for stage in self.stages):
            return Verdict.IMPOSSIBLE
        return Verdict.UNDECIDED

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict is Verdict.IMPOSSIBLE:
            return "Overflow is impossible at every stage, whatever the input."
        if self.verdict is Verdict.OVERFLOWS:
            return f"An input overflows at {self.witness_stage}; the simulator confirms it."
        open_ = next(stage for stage in self.stages if stage.verdict is not Verdict.IMPOSSIBLE)
        return (
            f"Not decided at {open_.name}: bounds of the rounding errors reach beyond {open_.format}, "
            f"and no input was found that does."
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return one tuple of texts per stage, under `Certificate.COLUMNS`."""
        return [
            (
                stage.name,
                str(stage.format),
                f"{stage.lowest * stage.format.lsb:.5g}",
                f"{stage.highest * stage.format.lsb:.5g}",
                f"{100 * _share(stage):.4g} %",
                stage.verdict.value,
            )
            for stage in self.stages
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "verdict": self.verdict.value,
            "witness_stage": self.witness_stage,
            "stages": [stage.to_json() for stage in self.stages],
        }


def _share(stage: StageCertificate) -> float:
    """How much of the format's range the extremes use; above 1: they do not fit."""
    shares = [
        reached / end
        for reached, end in (
            (stage.lowest, stage.format.min_raw),
            (stage.highest, stage.format.max_raw),
        )
        if end
    ]
    return max(shares)


def certify(
    raw_w: ArrayLike,
    *,
    spec: ParcSpec,
    plan: ParcPlan | str,
    datapath: ParcDatapath,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    input_range: tuple[int, int] | None = None,
    seed: int = 1,
) -> Certificate:
    """Return what every stage of a ParC can reach for this kernel, over all inputs.

    Parameters
    ----------
    raw_w, spec, plan, datapath, position_embedding, bias
        As for `fixedpoint.parc`.
    input_range : (int, int), optional
        The smallest and the largest raw input, if not every word of `datapath.data` can come.
    seed : int
        Of the inputs near the worst case that are tried where bounds do not decide.

    Returns
    -------
    Certificate

    Raises
    ------
    InputError, FormatError, UnsupportedError
        As `fixedpoint.parc`.

    Notes
    -----
    The direct and the exact (NTT) way are always decided. A transform's words carry rounding
    errors; a stage is left undecided where its extreme is closer to the format's end than their
    bound.

    References
    ----------
    L. B. Jackson, On the interaction of roundoff noise and dynamic range in digital filters, Bell
    System Technical Journal 49 (1970): the l1 norm as the bound that sign patterns attain.

    Examples
    --------
    Taps that add up to 3/4 in magnitude cannot leave Q1.7; taps that add up to 5/4 can:

    >>> spec = ParcSpec(axis=Axis.W, batch=1, channels=1, height=1, width=4)
    >>> path = DirectDatapath(data="Q1.7", kernel="Q1.7", output=Cut(QFormat.parse("Q1.7")))
    >>> certify([[64, 0, -32, 0]], spec=spec, plan="direct", datapath=path).verdict.value
    'impossible'
    >>> found = certify([[64, 0, -96, 0]], spec=spec, plan="direct", datapath=path)
    >>> found.verdict.value, found.witness.tolist()
    ('overflows', [[[[-128, 0, 127, 0]]]])
    """
    silent = np.zeros((spec.batch, spec.channels, spec.height, spec.width), np.int64)
    operands = Operands.of(silent, raw_w, position_embedding, bias, spec, datapath)
    chosen = check_plan(plan, spec, datapath)
    reach = _input_range(input_range, datapath.data)
    prover = Prover(spec, chosen, datapath, operands, reach, np.random.default_rng(seed))
    box = prover.summands()
    if isinstance(datapath, DirectDatapath | NttDatapath):
        _direct(prover, box)
    elif isinstance(datapath, FourierDatapath):
        assert isinstance(chosen, FftPlan)
        _fourier(prover, box, chosen, datapath)
    else:
        assert isinstance(datapath, SplitDatapath)
        assert isinstance(chosen, SplitPlan)
        _split(prover, box, chosen, datapath)
    return prover.certificate()


def _input_range(given: tuple[int, int] | None, data: QFormat) -> tuple[int, int]:
    if given is None:
        return data.min_raw, data.max_raw
    low, high = (int(end) for end in given)
    if not data.min_raw <= low <= high <= data.max_raw:
        raise InputError(
            f"input_range is ({low}, {high}): expected low <= high within {data}, "
            f"{data.min_raw} to {data.max_raw}."
        )
    return low, high


@dataclass(frozen=True, slots=True)
class Box:
    """The summands' intervals: integers low, high (C, N) in words of `datapath.summand`."""

    low: Words
    high: Words


@dataclass(slots=True)
class Prover:
    """The proof as it grows, stage by stage in the order of the data."""

    spec: ParcSpec
    plan: ParcPlan
    datapath: ParcDatapath
    operands: Operands
    reach: tuple[int, int]  # of a raw input
    rng: np.random.Generator
    together: int = 1  # lines that share a transform
    stages: dict[str, StageCertificate] = field(default_factory=dict)
    conditional: bool = False  # an earlier stage may overflow: linear bounds hold no longer
    witness: Words | None = None  # (C, together, N)
    witness_stage: str | None = None

    # ------------------------------------------------------------ summands and inputs
    def summands(self) -> Box:
        """Return the intervals of x + pe behind `total`, and judge that stage."""
        fmt, pe = self.datapath.data, self.operands.position_embedding
        shape = (self.spec.channels, self.spec.length)
        low, high = np.full(shape, self.reach[0]), np.full(shape, self.reach[1])
        if pe is None or self.datapath.position_embedding is None:
            return Box(low, high)
        exact = QFormat.for_add(fmt, self.datapath.position_embedding)
        up = exact.frac_bits - fmt.frac_bits
        more = pe << (exact.frac_bits - self.datapath.position_embedding.frac_bits)
        low, high = (low << up) + more, (high << up) + more
        cut = self.datapath.total
        to = exact if cut is None else cut.format
        if cut is not None:
            shift = exact.frac_bits - to.frac_bits
            low, high = (_rounded(ends, shift, cut.rounding) for ends in (low, high))

        def inputs() -> Words:
            return np.stack([np.full(shape, end) for end in self.reach], axis=1)

        if not self.note("sum", to, int(low.min()), int(high.max()), True, inputs):
            return Box(low, high)
        outside = (low < to.min_raw) | (high > to.max_raw)
        assert cut is not None
        if cut.overflow is Overflow.WRAP:
            return Box(np.where(outside, to.min_raw, low), np.where(outside, to.max_raw, high))
        # Saturation is monotone: extremes stay extremes.
        return Box(np.clip(low, to.min_raw, to.max_raw), np.clip(high, to.min_raw, to.max_raw))

    def lines(self, channel: int | None, words: Any) -> Words:
        """Return inputs (C, K together, N) of K vectors of words (K, V).

        The variables of a vector are the places of `together` lines of one channel, or of every
        channel, one after the other, where `channel` is None.
        """
        words = np.asarray(words)
        c, length = self.spec.channels, self.spec.length
        shape = (len(words), c if channel is None else 1, self.together, length)
        apart = words.astype(np.int64).reshape(shape).swapaxes(0, 1)
        apart = apart.reshape(shape[1], -1, length)
        if channel is None:
            return apart
        lines = np.zeros((c, apart.shape[1], length), np.int64)
        lines[channel] = apart[0]
        return lines

    # ------------------------------------------------------------ verdicts
    def note(
        self,
        name: str,
        fmt: QFormat,
        lowest: int,
        highest: int,
        exact: bool,
        *inputs: Callable[[], Words],
        counted: str | None = None,
    ) -> bool:
        """Judge words of a stage that lie in [lowest, highest]; return whether they may overflow.

        `inputs` give lines (C, L, N) to be tried, the most promising first. Several calls for one
        stage, such as one per channel, are merged. `counted` is the simulator's name of the stage,
        if it is another.
        """
        fits = fmt.min_raw <= lowest and highest <= fmt.max_raw
        verdict = Verdict.CONDITIONAL if self.conditional else Verdict.IMPOSSIBLE
        before = self.stages.get(name)
        if not fits:
            verdict = Verdict.UNDECIDED
            known = before is not None and before.verdict is Verdict.OVERFLOWS
            if not known:
                for lines in inputs:
                    found = self.confirmed(counted or name, lines())
                    if found is not None:
                        known = True
                        if self.witness is None:
                            self.witness, self.witness_stage = found, counted or name
                        break
            if known:
                verdict = Verdict.OVERFLOWS
        if before is not None:
            order = (Verdict.OVERFLOWS, Verdict.UNDECIDED, Verdict.CONDITIONAL, Verdict.IMPOSSIBLE)
            verdict = min(before.verdict, verdict, key=order.index)
            lowest, highest = min(lowest, before.lowest), max(highest, before.highest)
            exact = exact and before.exact
        self.stages[name] = StageCertificate(
            name=name, format=fmt, lowest=lowest, highest=highest, exact=exact, verdict=verdict
        )
        return not fits

    def affine(
        self,
        name: str,
        words: Affine,
        cut: Cut,
        channel: int | None,
        counted: str | None = None,
        shown: QFormat | None = None,
        within: tuple[int, int] | None = None,
    ) -> bool:
        """Judge words of a transform on their way through `cut`; as `note`.

        `shown` is the format of the stage where `words` count in units of its LSB; `within` bounds
        the words, whatever happened before, because they come from a format.
        """
        fmt = cut.format
        low, high = words.words(fmt.frac_bits, cut.rounding)
        if within is not None:
            low = [max(word, within[0]) for word in low]
            high = [min(word, within[1]) for word in high]
        # Every word that may leave the format, the worst first.
        beyond = [(h - fmt.max_raw, w, True) for w, h in enumerate(high) if h > fmt.max_raw]
        beyond += [(fmt.min_raw - v, w, False) for w, v in enumerate(low) if v < fmt.min_raw]
        beyond.sort(reverse=True)

        def worst() -> Words:
            return self.lines(
                channel,
                [self._ends(words.ends(w, highest=up)) for _, w, up in beyond[:_TRIED]],
            )

        def near() -> Words:
            wanted = [beyond[k % len(beyond)] for k in range(_NEAR)]
            return self.lines(channel, [self._near(words, w, up) for _, w, up in wanted])

        exact = not (np.any(words.below) or np.any(words.above))
        shown = fmt if shown is None else shown
        return self.note(name, shown, min(low), max(high), exact, worst, near, counted=counted)

    def _ends(self, up: NDArray[np.bool_]) -> Words:
        return np.where(up, self.reach[1], self.reach[0])

    def _near(self, words: Affine, word: int, up: bool) -> Words:
        """An input next to a word's worst: places of small gain turned, others moved by an LSB."""
        ends = words.ends(word, highest=up)
        gains = np.abs(words.gains[word])
        turned = np.asarray(gains <= max(gains) // 16, np.bool_) & (
            self.rng.random(len(ends)) < 0.5
        )
        ends = ends ^ turned
        room = min(1, self.reach[1] - self.reach[0])
        moved = room * (self.rng.random(len(ends)) < 0.25)
        return self._ends(ends) + np.where(ends, -moved, moved)

    def confirmed(self, name: str, lines: Words) -> Words | None:
        """Return the first lines (C, together, N) that overflow at stage `name` in the simulator."""
        if not self.overflows(name, lines):
            return None
        count = lines.shape[1] // self.together
        if count == 1:
            return lines
        half = count // 2 * self.together
        first = self.confirmed(name, lines[:, :half])
        return self.confirmed(name, lines[:, half:]) if first is None else first

    def overflows(self, name: str, lines: Words) -> bool:
        """Whether the inputs `lines` (C, L, N) overflow at stage `name`."""
        height, w = lines.shape[1], self.operands.w
        spec = replace(self.spec, axis=Axis.W, batch=1, height=height, width=self.spec.length)
        counter = OverflowCounter()
        parc(
            lines[None],
            w[:, 0] if spec.depthwise else w,
            spec=spec,
            plan=self.plan,
            datapath=self.datapath.quiet(),
            position_embedding=self.operands.position_embedding,
            bias=self.operands.bias,
            counter=counter,
        )
        return counter.overflowed.get(name, 0) > 0

    def certificate(self) -> Certificate:
        """Return what was proved, with the witness in the shape of the operator's input."""
        witness = None
        if self.witness is not None:
            lines = np.zeros((self.spec.channels, self.spec.lines, self.spec.length), np.int64)
            lines[:, : self.together] = self.witness[:, : self.spec.lines]
            witness = from_lines(lines, self.spec)
        return Certificate(
            stages=tuple(self.stages.values()), witness=witness, witness_stage=self.witness_stage
        )


def _rounded(raw: Words, shift: int, rounding: Rounding) -> Words:
    """Rounded and not fitted, as int64."""
    if shift <= 0:
        return raw << -shift
    return np.asarray(requantize(raw, shift=shift, rounding=rounding, to=_INT64))


# ---------------------------------------------------------------- sums of products
def _direct(prover: Prover, box: Box) -> None:
    """Follow the extremes of every running sum from term to term; they are attained.

    Product, rounding, saturation and sum are monotone in each summand, and the summands of one
    output are different inputs: all at the ends that raise it, a sum is as high as it can be.
    """
    datapath, operands, spec = prover.datapath, prover.operands, prover.spec
    if isinstance(datapath, DirectDatapath):
        points = direct_points(datapath, operands.w.shape[1] * spec.length)
        cuts = datapath.product, datapath.accumulator
    else:
        points = mac.MacPoints(
            datapath.summand,
            datapath.kernel,
            None,
            None,
            operands.w.shape[1] * spec.length,
            datapath.bias,
        )
        cuts = None, None
    start = start_words(operands.bias, datapath, cuts[1], points)
    outputs, channels, length = operands.w.shape
    if start is None:
        start = np.zeros(outputs, np.int64)
    # Without position embedding every output of a channel has the same extremes: one place stands
    # for all.
    places = length if operands.position_embedding is not None else 1
    w = operands.w.reshape(outputs, -1)
    place = mac.direct_terms(length, channels).place[:places]
    low, high = (
        (ends if operands.depthwise else ends.reshape(1, -1)) for ends in (box.low, box.high)
    )
    (up0, down0, *_), (up1, down1, *_) = points.table()
    rounding = [Rounding.FLOOR if cut is None else cut.rounding for cut in cuts]
    sums = {end: np.repeat(start[:, None], places, axis=1) for end in ("low", "high")}
    reach = [[0, 0], [int(start.min()), int(start.max())]]
    worst: list[list[tuple[int, int]]] = [[(0, 0), (0, 0)], [(0, 0), (0, 0)]]

    def meet(point: int, lows: Words, highs: Words) -> None:
        for side, (values, pick) in enumerate(((lows, np.argmin), (highs, np.argmax))):
            at = int(pick(values))
            value = int(values.flat[at])
            if (value < reach[point][0]) if side == 0 else (value > reach[point][1]):
                reach[point][side] = value
                worst[point][side] = divmod(at, places)

    def fitted(values: Words, cut: Cut | None) -> Words:
        if cut is None or cut.overflow is Overflow.WRAP:
            return values
        return np.clip(values, cut.format.min_raw, cut.format.max_raw)

    for t in range(w.shape[1]):
        tap = w[:, t : t + 1]
        ends = tap * low[:, place[:, t]], tap * high[:, place[:, t]]
        products = {"low": np.minimum(*ends), "high": np.maximum(*ends)}
        for end in products:
            products[end] = _rounded(products[end] << up0, down0, rounding[0])
        meet(0, products["low"], products["high"])
        for end in sums:
            term = fitted(products[end], cuts[0])
            exact = (sums[end] << down1) + (term << up1)
            sums[end] = _rounded(exact, down1, rounding[1])
        meet(1, sums["low"], sums["high"])
        for end in sums:
            sums[end] = fitted(sums[end], cuts[1])

    def inputs(which: list[tuple[int, int]]) -> Callable[[], Words]:
        def lines() -> Words:
            made = []
            for side, (o, i) in enumerate(which):
                ends = np.zeros(w.shape[1], np.int64)
                for up, word in ((True, prover.reach[1]), (False, prover.reach[0])):
                    positive = (w[o] > 0) if side else (w[o] < 0)
                    chosen = (w[o] != 0) & (positive == up)
                    ends[place[i][chosen]] = word
                made.append(prover.lines(o if operands.depthwise else None, ends[None]))
            return np.concatenate(made, axis=1)

        return lines

    names = (
        ("product", "accumulator")
        if isinstance(datapath, DirectDatapath)
        else (None, "correlation")
    )
    for point, (name, cut, fmt) in enumerate(
        zip(names, cuts, (points.term, points.sums), strict=True)
    ):
        if name is None:
            continue
        lowest, highest = reach[point]
        beyond = prover.note(name, fmt, lowest, highest, True, inputs(worst[point]))
        if beyond and cut is not None and cut.overflow is Overflow.WRAP:
            # What wrapped words add up to is not monotone.
            prover.conditional = True
    shift = points.sums.frac_bits - datapath.output.format.frac_bits
    last = [_rounded(sums[end], shift, datapath.output.rounding) for end in ("low", "high")]
    ends_at = [divmod(int(last[0].argmin()), places), divmod(int(last[1].argmax()), places)]
    prover.note(
        "output",
        datapath.output.format,
        int(last[0].min()),
        int(last[1].max()),
        True,
        inputs(ends_at),
    )


# ---------------------------------------------------------------- the two-level split
def _split(prover: Prover, box: Box, plan: SplitPlan, datapath: SplitDatapath) -> None:
    from fixedpoint import split

    n1, n2, length = plan.n1, plan.n2, plan.length
    operands, guard, rounding = prover.operands, datapath.guard, datapath.rounding
    channels, residues = prover.spec.channels, np.arange(n2)
    forward, backward = (
        split.integer_graph(n1, datapath.coefficient, rounding, transposed=turned)
        for turned in (False, True)
    )
    fine = datapath.coefficient.frac_bits
    upstream = prover.conditional

    # 1. The rows' gains are alike in every channel; the summands' intervals are its own.
    zero = np.zeros(length, np.int64)
    once = Affine.inputs(zero, zero, datapath.summand.frac_bits)
    legs = [once.at(j * n2 + residues) for j in range(n1)]
    grain = datapath.summand.frac_bits + guard
    rows = Affine.joined(through_graph(forward, legs, grain, fine, rounding))
    u, broken = [], []
    for c in range(channels):
        mine = rows.with_box(box.low[c], box.high[c])
        broken.append(prover.affine("rows", mine, datapath.rows, c))
        u.append(mine.rounded(datapath.rows.format.frac_bits, datapath.rows.rounding))

    # 2. Toeplitz products and 3. the transposed graph, for every output.
    table = split.kernel_table(operands.w, plan, datapath).reshape(len(operands.w), -1)
    terms, weight = split.toeplitz_terms(n1, n2, 1 if operands.depthwise else channels)
    points = split.toeplitz_points(datapath, terms.place.shape[1])
    start = start_words(operands.bias, datapath, datapath.accumulator, points)
    grain = datapath.columns.format.frac_bits + guard
    for o in range(len(operands.w)):
        source = o if operands.depthwise else None
        prover.conditional = upstream or (broken[o] if operands.depthwise else any(broken))
        words = u[o] if operands.depthwise else widened(u)
        first = [0 if start is None or row >= n2 else int(start[o]) for row in range(length)]
        sums = _sums(prover, words, terms, table[o, weight], first, points, datapath, source)
        prover.conditional |= prover.affine("columns", sums, datapath.columns, source)
        columns = sums.rounded(datapath.columns.format.frac_bits, datapath.columns.rounding)
        legs = [columns.at(r * n2 + residues) for r in range(n1)]
        y = Affine.joined(through_graph(backward, legs, grain, fine, rounding))
        prover.affine("output", y, datapath.output, source)


def widened(channels: list[Affine]) -> Affine:
    """Return the words of all channels, each of its own inputs, as words of all inputs together."""
    size = channels[0].gains.shape[1]
    parts = []
    for c, words in enumerate(channels):
        gains = np.array(np.zeros((len(words), len(channels) * size), np.int64), object)
        gains[:, c * size : (c + 1) * size] = words.gains
        low = np.concatenate([other.low for other in channels])
        high = np.concatenate([other.high for other in channels])
        parts.append(replace(words, gains=gains, low=low, high=high))
    return Affine.joined(parts)


def _sums(
    prover: Prover,
    u: Affine,
    terms: mac.Terms,
    table: Words,
    first: list[int],
    points: mac.MacPoints,
    datapath: SplitDatapath,
    source: int | None,
) -> Affine:
    """Judge the Toeplitz products and their running sums; return the sums.

    `table` (I, T) has the weight of each term, `first` the words that the sums start from.
    """
    product, accumulator, sums = datapath.product, datapath.accumulator, points.sums
    parts = []
    for t in range(table.shape[1]):
        part = u.at(terms.place[:, t]).times(table[:, t], datapath.table.frac_bits)
        if product is not None:
            prover.conditional |= prover.affine("product", part, product, source)
            part = part.rounded(product.format.frac_bits, product.rounding)
        parts.append(part.times(terms.sign[:, t]))
    if product is None:
        ends = [part.words(points.term.frac_bits, Rounding.FLOOR) for part in parts]
        low, high = min(min(low) for low, _ in ends), max(max(high) for _, high in ends)
        prover.note("product", points.term, min(low, -high), max(high, -low), False)

    cut = Cut(sums, Rounding.FLOOR) if accumulator is None else accumulator
    total = parts[0].plus(first, sums.frac_bits)
    # What every running sum stays below, of either sign: the sum of the terms' bounds. Mostly that
    # is enough, and no running sum need be looked at.
    point = total.point
    reach: Any = np.abs(np.array(first, object)) << (point - sums.frac_bits)
    for part in parts:
        fine = part.aligned(point)
        bottom, top = fine.extremes()
        reach = reach + np.maximum(np.abs(bottom + fine.below), np.abs(top + fine.above))
    dropped = max(point - sums.frac_bits, 0)
    most = (max(int(r) for r in reach) >> dropped) + len(parts) + 1  # a rounding per term
    each = accumulator is not None and most > sums.max_raw
    for t, part in enumerate(parts):
        total = total if t == 0 else total.added(part)
        if each:
            prover.conditional |= prover.affine("accumulator", total, cut, source)
        total = total.rounded(sums.frac_bits, cut.rounding)
    if not each:
        most = min(most, sums.max_raw)
        prover.note("accumulator", sums, -most, most, False)
    return total


# ---------------------------------------------------------------- Fourier transforms
def _fourier(prover: Prover, box: Box, plan: FftPlan, datapath: FourierDatapath) -> None:
    from fixedpoint import spectral
    from fixedpoint.mixed_radix import lower

    if datapath.forward.block is not None or datapath.inverse.block is not None:
        raise UnsupportedError(
            "with block floating point the words of a frame decide its shifts: there are no gains "
            "to bound. Certify a scaling schedule instead."
        )
    operands, length = prover.operands, plan.length
    channels = prover.spec.channels
    prover.together = 2 if datapath.pairs else 1
    upstream = prover.conditional
    forward, inverse = lower(plan, datapath.forward), lower(plan.transposed, datapath.inverse, True)

    # The forward gains are alike in every channel.
    zero = np.zeros(prover.together * length, np.int64)
    inputs = Affine.inputs(zero, zero, 0)
    places = np.arange(length)
    im = inputs.at(places + length) if datapath.pairs else inputs.at(places).times(0)
    seen: list[Checked] = []
    x = transform(forward, Pair(inputs.at(places), im), seen.append)
    # Without position embedding the intervals are alike as well.
    alike = operands.position_embedding is None
    spectra: list[Pair] = []
    broken: list[bool] = []
    for c in range(channels):
        low, high = (np.tile(ends[c], prover.together) for ends in (box.low, box.high))
        prover.conditional = upstream
        if c == 0 or not alike:
            for checked in seen:
                words = replace(checked, words=checked.words.with_box(low, high))
                prover.conditional |= _judged(prover, words, "forward", forward, c)
        else:
            prover.conditional = broken[0]
        broken.append(prover.conditional)
        frac = datapath.forward.output.frac_bits
        spectra.append(x.each(lambda part: _moved(part.with_box(low, high), frac)))  # noqa: B023  # used at once

    kernel = spectral.kernel_words(operands.w, plan, datapath)
    start = datapath.inverse.input.frac_bits
    for o in range(len(operands.w)):
        source = o if operands.depthwise else None
        prover.conditional = upstream or (broken[o] if operands.depthwise else any(broken))
        if operands.depthwise:
            parts = [spectra[o]]
        else:
            wide = Pair(widened([s.re for s in spectra]), widened([s.im for s in spectra]))
            parts = [wide.at(c * length + places) for c in range(channels)]
        behind = _spectral_product(prover, parts, kernel[o], datapath, source)
        held = behind.each(lambda part: _moved(part, -start))

        def judge(checked: Checked, source: int | None = source) -> None:
            prover.conditional |= _judged(prover, checked, "inverse", inverse, source)

        y = transform(inverse, held, judge)
        lines = y.parts if datapath.pairs else y.re
        last = datapath.inverse.output
        lines = _moved(lines, last.frac_bits)
        constant = Fraction(0)
        if operands.bias is not None and datapath.bias is not None:
            lines = lines.plus([int(operands.bias[o])] * len(lines), datapath.bias.frac_bits)
            constant = to_exact(int(operands.bias[o]), datapath.bias)
        scale = Fraction(2) ** datapath.output.format.frac_bits
        ends = [
            round_to_integer((end + constant) * scale, datapath.output.rounding)
            for end in (last.min_value, last.max_value)
        ]
        prover.affine("output", lines, datapath.output, source, within=(ends[0], ends[1]))


def _moved(words: Affine, frac_bits: int) -> Affine:
    """Words in LSB as values of a format with `frac_bits` fraction bits."""
    return replace(words, point=words.point + frac_bits)


def _judged(
    prover: Prover, checked: Checked, direction: str, program: Any, source: int | None
) -> bool:
    """Judge one point of a transform's stage; returns whether words there may overflow."""
    from fixedpoint.spectral import stage_name

    counted = stage_name(direction, program, checked.stage)
    merged = checked.point in ("sum", "product", "turned", "output") and checked.frac_bits == 0
    name = counted if merged else f"{counted} {checked.point}"
    bits, guard = checked.bits, checked.frac_bits
    frac = program.datapath.input.frac_bits - checked.shift + guard
    cut = Cut(QFormat(bits - guard, guard), checked.rounding)
    shown = QFormat(bits - frac, frac)
    return prover.affine(name, checked.words, cut, source, counted, shown)


def _spectral_product(
    prover: Prover,
    parts: list[Pair],
    kernel: Words,
    datapath: FourierDatapath,
    source: int | None,
) -> Pair:
    """Judge the products of the channels' spectra with the kernel (C, N, 2), and their sum."""
    from fixedpoint.spectral import PRODUCT_STAGES

    product, bits = datapath.product, datapath.spectrum.frac_bits

    def through(name: str, words: Affine, cut: Cut | None) -> Affine:
        if cut is None:
            return words
        prover.conditional |= prover.affine(name, words, cut, source)
        return words.rounded(cut.format.frac_bits, cut.rounding)

    def times(words: Affine, factors: Words) -> Affine:
        return through(PRODUCT_STAGES[0], words.times(factors, bits), product.product)

    re = im = None
    for pair, words in zip(parts, kernel, strict=True):
        a, b, c, d = pair.re, pair.im, words[:, 0], words[:, 1]
        if product.multiplications == 3:
            k1, k3 = times(a.added(b), c), times(b, c + d)
            more_re, more_im = k1.added(k3, -1), k1.added(times(a, d - c))
        else:
            more_re = times(a, c).added(times(b, d), -1)
            more_im = times(a, d).added(times(b, c))
        re = more_re if re is None else re.added(more_re)
        im = more_im if im is None else im.added(more_im)
        re = through(PRODUCT_STAGES[1], re, product.accumulator)
        im = through(PRODUCT_STAGES[1], im, product.accumulator)
    assert re is not None
    assert im is not None
    return Pair(re, im).each(lambda part: through(PRODUCT_STAGES[2], part, product.result))
