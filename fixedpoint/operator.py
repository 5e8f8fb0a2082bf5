"""What does ParC become in fixed point, word by word, on each way of computing it?

    y[o, i] = b[o] + sum_c sum_k w[o, c, k] (x[c, (i + k) mod N] + pe[c, (i + k) mod N])

`parc` takes stored integers and returns stored integers. The plan says how the sums are formed,
the datapath which words there are and where they are rounded (`fixedpoint.paths`):

- direct (`SplitPlan(n1=1, ...)`): multiply and accumulate;
- two-level split (`SplitPlan`): `fixedpoint.split`;
- Fourier (`FftPlan`): `fixedpoint.spectral`;
- number-theoretic (`NttPlan`): exact sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint import kernels, mac
from fixedpoint.arith import _settle, convert, to_value
from fixedpoint.datapath import Cut, OverflowCounter
from fixedpoint.modes import Overflow, overflow_code, rounding_code
from fixedpoint.ntt import NttPlan, circular_correlate, ntt_plan
from fixedpoint.paths import (
    DirectDatapath,
    FourierDatapath,
    NttDatapath,
    ParcDatapath,
    SplitDatapath,
)
from fixedpoint.qformat import QFormat
from fixedpoint.trace import StageError, StageTrace, Trace
from parc_hw.errors import InputError
from parc_hw.plan import FftPlan, Order, SplitPlan
from parc_hw.spec import Axis, ParcSpec

__all__ = ["ParcPlan", "parc", "parse_plan"]

Words = NDArray[np.int64]
Values = NDArray[np.float64]
ParcPlan = SplitPlan | FftPlan | NttPlan
"""What `parc` accepts as a plan."""


def parse_plan(text: str, *, length: int, datapath: ParcDatapath | None = None) -> ParcPlan:
    """Return the plan that `text` names for a correlation of `length` points.

    Parameters
    ----------
    text : str
        "direct", "fft" (complex transforms of the whole length), "ntt" or N1xN2.
    length : int
        N.
    datapath : ParcDatapath, optional
        Says the word lengths that an NTT must hold; without it, 8 by 8 bits.

    Raises
    ------
    InputError
        Another text, or factors that do not multiply to `length`.
    UnsupportedError
        No such plan covers the length.

    Examples
    --------
    >>> parse_plan("8x7", length=56)
    SplitPlan(n1=8, n2=7)
    >>> parse_plan("ntt", length=56).modulus
    15790321
    """
    if text == "ntt":
        if datapath is None:
            return ntt_plan(length)
        bits = {"data_bits": datapath.summand.bits, "kernel_bits": datapath.kernel.bits}
        return ntt_plan(length, **bits)
    if text == "fft":
        return FftPlan.of(length, output_order=Order.DIGIT_REVERSED)
    if text == "direct" or "x" in text:
        return SplitPlan.parse(text, length=length)
    raise InputError(
        f"plan {text!r} is not understood; accepted are direct, fft, ntt and N1xN2 with N1 * N2 = "
        f"{length}."
    )


@overload
def parc(
    raw_x: ArrayLike,
    raw_w: ArrayLike,
    *,
    spec: ParcSpec,
    plan: ParcPlan | str,
    datapath: ParcDatapath,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    trace: Literal[False] = False,
    counter: OverflowCounter | None = None,
) -> Words: ...


@overload
def parc(
    raw_x: ArrayLike,
    raw_w: ArrayLike,
    *,
    spec: ParcSpec,
    plan: ParcPlan | str,
    datapath: ParcDatapath,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    trace: Literal[True],
    counter: OverflowCounter | None = None,
) -> tuple[Words, Trace]: ...


def parc(
    raw_x: ArrayLike,
    raw_w: ArrayLike,
    *,
    spec: ParcSpec,
    plan: ParcPlan | str,
    datapath: ParcDatapath,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    trace: bool = False,
    counter: OverflowCounter | None = None,
) -> Words | tuple[Words, Trace]:
    """Return ParC of stored integers, bit for bit as the datapath computes it.

    Parameters
    ----------
    raw_x : int array, shape (B, C, H, W)
        Words of `datapath.data`.
    raw_w : int array, shape (C, N) depthwise or (C_out, C, N) dense
        Words of `datapath.kernel`.
    spec : ParcSpec
        Axis and extents.
    plan : SplitPlan, FftPlan, NttPlan or str
        How the sums are formed; text as for `parse_plan`.
    datapath : ParcDatapath
        The class that belongs to the plan: `DirectDatapath`, `SplitDatapath`, `FourierDatapath`
        or `NttDatapath`.
    position_embedding : int array, shape (C, N), or None
        Words of `datapath.position_embedding`, added to the input before the correlation.
    bias : int array, shape (C,) or (C_out,), or None
        Words of `datapath.bias`.
    trace : bool
        Measure every stage: peak, overflows, headroom, error against float arithmetic on the
        values that the stored integers stand for.
    counter : OverflowCounter, optional
        Counts the words that did not fit under the stage's name, also without a trace.

    Returns
    -------
    int64 array, shape (B, C_out or C, H, W)
        Words of `datapath.output.format`.
    Trace
        Only with `trace`.

    Raises
    ------
    InputError
        Floats or words outside their format, shapes that do not fit the spec, empty data, a
        datapath of another plan.
    FormatError
        A product or a sum that 64 bits do not hold: says what would fit.
    UnsupportedError
        A length that the plan does not cover.
    FixedPointOverflow
        A word does not fit at a point whose mode is RAISE: names the stage and the first index.

    References
    ----------
    Fast-ParC, equations 2 to 4 (`docs/operator.md`).

    Examples
    --------
    A kernel that is one half at tap 1 halves the next element:

    >>> spec = ParcSpec(axis=Axis.W, batch=1, channels=1, height=1, width=4)
    >>> path = DirectDatapath(data="Q1.7", kernel="Q1.7", output=Cut(QFormat.parse("Q1.7")))
    >>> parc([[[[10, 20, 30, 40]]]], [[0, 64, 0, 0]], spec=spec, plan="direct", datapath=path)
    array([[[[10, 15, 20,  5]]]])
    """
    operands = Operands.of(raw_x, raw_w, position_embedding, bias, spec, datapath)
    chosen = check_plan(plan, spec, datapath)
    run = _Run(spec, trace, counter)
    run.measure("input", datapath.data, operands.x)
    summed = _add_embedding(run, operands, datapath)
    if isinstance(datapath, DirectDatapath):
        sums, frac_bits = _direct(run, operands, summed, datapath)
    elif isinstance(datapath, NttDatapath):
        assert isinstance(chosen, NttPlan)
        sums, frac_bits = _exact_sums(run, operands, summed, datapath, chosen)
    elif isinstance(datapath, FourierDatapath):
        assert isinstance(chosen, FftPlan)
        from fixedpoint import spectral

        sums, frac_bits = spectral.run(run, operands, summed, datapath, chosen)
    else:
        assert isinstance(datapath, SplitDatapath)
        assert isinstance(chosen, SplitPlan)
        from fixedpoint import split

        sums, frac_bits = split.run(run, operands, summed, datapath, chosen)
    y = run.cut("output", sums, frac_bits, datapath.output, run.expected)
    words = from_lines(y, spec)
    return (words, Trace(tuple(run.stages))) if trace else words


# ---------------------------------------------------------------- operands
@dataclass(frozen=True, slots=True)
class Operands:
    """The checked words: x (C, L, N), w (O, C or 1, N), pe (C, N) and bias (O,) or None."""

    x: Words
    w: Words
    position_embedding: Words | None
    bias: Words | None

    @classmethod
    def of(
        cls,
        raw_x: ArrayLike,
        raw_w: ArrayLike,
        position_embedding: ArrayLike | None,
        bias: ArrayLike | None,
        spec: ParcSpec,
        datapath: ParcDatapath,
    ) -> Operands:
        """Check every array against the spec and its format."""
        if not isinstance(spec, ParcSpec):
            raise InputError(f"spec is {spec!r}: expected a ParcSpec.")
        if not isinstance(datapath, ParcDatapath):
            raise InputError(
                f"datapath is {datapath!r}: expected a DirectDatapath, SplitDatapath, "
                f"FourierDatapath or NttDatapath."
            )
        x = _operand(
            "raw_x", raw_x, datapath.data, (spec.batch, spec.channels, spec.height, spec.width)
        )
        outputs = spec.channels if spec.out_channels is None else spec.out_channels
        kernel = (spec.channels, spec.length)
        w = _operand(
            "raw_w", raw_w, datapath.kernel, kernel if spec.depthwise else (outputs, *kernel)
        )
        found = []
        for name, given, fmt, wanted, shape in (
            (
                "position_embedding",
                position_embedding,
                datapath.position_embedding,
                spec.position_embedding,
                kernel,
            ),
            ("bias", bias, datapath.bias, spec.bias, (outputs,)),
        ):
            if not (given is not None) == (fmt is not None) == wanted:
                raise InputError(
                    f"{name}: the spec has {'one' if wanted else 'none'}, the datapath "
                    f"{f'the format {fmt} for it' if fmt else 'no format for it'}, and words were "
                    f"{'not ' if given is None else ''}given; all three must agree."
                )
            found.append(None if fmt is None else _operand(name, given, fmt, shape))
        rows = w.reshape(outputs, -1, spec.length)
        return cls(to_lines(x, spec), rows, found[0], found[1])

    @property
    def depthwise(self) -> bool:
        """Whether each output has its own channel of input."""
        return self.w.shape[1] == 1 and len(self.w) == len(self.x)


def _operand(name: str, given: Any, fmt: QFormat, shape: tuple[int, ...]) -> Words:
    words = fmt.words(given, name=name)
    if words.size == 0:
        raise InputError(f"{name}: shape {words.shape} holds no word.")
    if words.shape != shape:
        raise InputError(f"{name} has shape {words.shape}; the spec asks for {shape}.")
    return words


def to_lines(x: NDArray[Any], spec: ParcSpec) -> NDArray[Any]:
    """Return (B, C, H, W) as lines along the axis: (C, L, N)."""
    moved = np.moveaxis(x, spec.axis.dim, 3).swapaxes(0, 1)
    return np.ascontiguousarray(moved).reshape(x.shape[1], -1, spec.length)


def from_lines(lines: NDArray[Any], spec: ParcSpec) -> NDArray[Any]:
    """Return lines (O, L, N) as (B, O, H, W)."""
    other = spec.lines // spec.batch
    apart = lines.reshape(len(lines), spec.batch, other, spec.length).swapaxes(0, 1)
    return np.ascontiguousarray(np.moveaxis(apart, 3, spec.axis.dim))


def check_plan(plan: ParcPlan | str, spec: ParcSpec, datapath: ParcDatapath) -> ParcPlan:
    """Return the plan, parsed if it is text, after checking that it fits spec and datapath."""
    if isinstance(plan, str):
        plan = parse_plan(plan, length=spec.length, datapath=datapath)
    wanted: type[ParcDatapath]
    if isinstance(plan, NttPlan):
        wanted = NttDatapath
    elif isinstance(plan, FftPlan):
        wanted = FourierDatapath
    elif isinstance(plan, SplitPlan):
        wanted = DirectDatapath if plan.n1 == 1 else SplitDatapath
    else:
        raise InputError(f"plan is {plan!r}: expected a SplitPlan, FftPlan, NttPlan or text.")
    if plan.length != spec.length:
        raise InputError(
            f"the plan covers length {plan.length}, but the spec's axis {spec.axis.value} has "
            f"{spec.length} points."
        )
    if not isinstance(datapath, wanted):
        raise InputError(
            f"datapath is a {type(datapath).__name__}; the plan {_plan_name(plan)} takes a "
            f"{wanted.__name__}."
        )
    if isinstance(plan, FftPlan) and isinstance(datapath, FourierDatapath):
        from fixedpoint import spectral

        spectral.check(plan, datapath, dense=not spec.depthwise)
    if isinstance(plan, NttPlan):
        seen = datapath.summand.bits, datapath.kernel.bits
        if seen[0] > plan.data_bits or seen[1] > plan.kernel_bits:
            raise InputError(
                f"the NTT plan is proved for {plan.data_bits}-bit by {plan.kernel_bits}-bit words; "
                f"the datapath has {seen[0]} (with position embedding) by {seen[1]}. Ask ntt_plan "
                f"for these."
            )
    return plan


def _plan_name(plan: ParcPlan) -> str:
    if isinstance(plan, NttPlan):
        return "ntt"
    if isinstance(plan, FftPlan):
        return str(plan)
    return "direct" if plan.n1 == 1 else str(plan)


# ---------------------------------------------------------------- stages
@dataclass(slots=True)
class _Run:
    """One call: what its stages were, and what they should have been."""

    spec: ParcSpec
    tracing: bool
    counter: OverflowCounter | None
    stages: list[StageTrace] = field(default_factory=list)
    # When tracing, in float arithmetic on the stored values:
    summands: Values | None = None  # x + pe, (C, L, N)
    expected: Values | None = None  # of the output, (O, L, N)

    def index(self, first: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """The position (b, c, h, w) of word i on line l of channel o."""
        o, line, i = first
        batch, other = divmod(line, self.spec.lines // self.spec.batch)
        return (batch, o, i, other) if self.spec.axis is Axis.H else (batch, o, other, i)

    def measure(
        self, name: str, fmt: QFormat, words: Words, reference: NDArray[Any] | None = None
    ) -> None:
        """Note words that no point changed, or whose point is noted elsewhere."""
        if self.tracing:
            error = None if reference is None else StageError.of(words, fmt, reference)
            self.stages.append(
                StageTrace(
                    name=name,
                    format=fmt,
                    words=words.size,
                    lowest=int(words.min()),
                    highest=int(words.max()),
                    overflowed=0,
                    error=error,
                )
            )

    def point(
        self,
        name: str,
        stats: mac.PointStats,
        fmt: QFormat,
        cut: Cut | None,
        error: StageError | None = None,
    ) -> None:
        """Note a point that a kernel measured; raise if it is to."""
        if self.counter is not None:
            self.counter.record(name, overflowed=stats.overflowed, words=stats.words)
        if cut is not None and stats.first is not None and cut.overflow is Overflow.RAISE:
            _settle(stats.overflowed, self.index(stats.first), stats.words, cut, None, name)
        if self.tracing:
            self.stages.append(
                StageTrace(
                    name=name,
                    format=fmt,
                    words=stats.words,
                    lowest=stats.lowest,
                    highest=stats.highest,
                    overflowed=stats.overflowed,
                    error=error,
                )
            )

    def cut(
        self,
        name: str,
        raw: Words,
        frac_bits: int,
        cut: Cut,
        reference: NDArray[Any] | None = None,
    ) -> Words:
        """Bring raw (C, L, I), with `frac_bits` fraction bits, through a point."""
        fmt, shift = cut.format, frac_bits - cut.format.frac_bits
        flat, out = raw.reshape(-1), np.empty(raw.size, np.int64)
        modes = rounding_code(cut.rounding), overflow_code(cut.overflow)
        count, first = kernels.cut(flat, out, shift, fmt.min_raw, fmt.max_raw, *modes)
        where = None
        if first >= 0:
            o, line, i = (int(p) for p in np.unravel_index(first, raw.shape))
            where = (o, line, i)
        words = out.reshape(raw.shape)
        ends = (0, 0)
        error = None
        if self.tracing:
            # Rounding is monotone: the extreme words come from the extreme sums.
            ends = _rounded(int(flat.min()), shift, cut), _rounded(int(flat.max()), shift, cut)
            error = None if reference is None else StageError.of(words, fmt, reference)
        self.point(name, mac.PointStats(raw.size, int(count), *ends, where), fmt, cut, error)
        return words


def _rounded(raw: int, shift: int, cut: Cut) -> int:
    from fractions import Fraction

    from fixedpoint.exact import round_to_integer

    return round_to_integer(Fraction(raw) / Fraction(2) ** shift, cut.rounding)


def _add_embedding(run: _Run, operands: Operands, datapath: ParcDatapath) -> Words:
    """The summands x + pe (C, L, N), and the float sums that the output should be."""
    x, pe = operands.x, operands.position_embedding
    if run.tracing:
        s = to_value(x, datapath.data)
        if pe is not None and datapath.position_embedding is not None:
            s = s + to_value(pe, datapath.position_embedding)[:, None, :]
        run.summands = s
        run.expected = correlate_values(s, to_value(operands.w, datapath.kernel))
        if operands.bias is not None and datapath.bias is not None:
            run.expected += to_value(operands.bias, datapath.bias)[:, None, None]
    if pe is None or datapath.position_embedding is None:
        return x
    exact = QFormat.for_add(datapath.data, datapath.position_embedding)
    summed = (x << (exact.frac_bits - datapath.data.frac_bits)) + (
        pe << (exact.frac_bits - datapath.position_embedding.frac_bits)
    )[:, None, :]
    if datapath.total is None:
        run.measure("sum", exact, summed, run.summands)
        return summed
    return run.cut("sum", summed, exact.frac_bits, datapath.total, run.summands)


def correlate_values(s: Values, w: Values) -> Values:
    """Float ParC of lines s (C, L, N) with kernels w (O, C or 1, N): (O, L, N)."""
    spectrum = np.conj(np.fft.rfft(w))
    lines = np.fft.rfft(s)
    if w.shape[1] == 1 and len(w) == len(s):
        product = lines * spectrum
    else:
        product = np.einsum("clf,ocf->olf", lines, spectrum)
    return np.fft.irfft(product, s.shape[-1])


# ---------------------------------------------------------------- direct and exact
def inputs_of(operands: Operands, words: Words) -> Words:
    """Lines (C, L, V) as the MAC kernels read them: (C, L, V), or (1, L, C V) for a dense ParC."""
    if operands.depthwise:
        return words
    return np.ascontiguousarray(words.swapaxes(0, 1)).reshape(1, words.shape[1], -1)


def start_words(
    bias: Words | None, datapath: ParcDatapath, accumulator: Cut | None, points: mac.MacPoints
) -> Words | None:
    """The bias (O,) in the register's format.

    Raises
    ------
    InputError
        A bias that the register does not hold.
    """
    if bias is None or datapath.bias is None:
        return None
    if accumulator is None:
        return bias << (points.sums.frac_bits - datapath.bias.frac_bits)
    counter = OverflowCounter()
    words = convert(bias, datapath.bias, accumulator, counter=counter)
    if counter.total:
        raise InputError(
            f"bias: {counter.total} of {bias.size} words of {datapath.bias} do not fit the "
            f"accumulator {accumulator.format}, which starts from them."
        )
    return np.asarray(words)


def direct_points(datapath: DirectDatapath, terms: int) -> mac.MacPoints:
    """The points of a direct sum of `terms` products."""
    return mac.MacPoints(
        datapath.summand,
        datapath.kernel,
        datapath.product,
        datapath.accumulator,
        terms,
        datapath.bias,
    )


def _direct(
    run: _Run, operands: Operands, summed: Words, datapath: DirectDatapath
) -> tuple[Words, int]:
    """Multiply and accumulate; returns sums (O, L, N) and their fraction bits."""
    outputs, channels, length = operands.w.shape
    points = direct_points(datapath, channels * length)
    start = start_words(operands.bias, datapath, datapath.accumulator, points)
    start = np.zeros(outputs, np.int64) if start is None else start
    x, w = inputs_of(operands, summed), operands.w.reshape(outputs, -1)
    if not run.tracing and (up := _needs_no_point(x, w, start, points)) is not None:
        # Words that certainly fit and are not rounded need no point.
        if run.counter is not None:
            words = outputs * x.shape[1] * length * w.shape[1]
            for name in ("product", "accumulator"):
                run.counter.record(name, overflowed=0, words=words)
        sums = mac.correlate_exactly(x, w << up, start, length)
        return sums, points.sums.frac_bits
    starts = np.repeat(start[:, None], length, axis=1)
    terms = mac.direct_terms(length, channels)
    sums, (product, accumulator) = mac.accumulate_terms(x, w[:, None], terms, starts, points)
    run.point("product", product, points.term, datapath.product)
    error = None
    if run.expected is not None:
        error = StageError.of(sums, points.sums, run.expected)
    run.point("accumulator", accumulator, points.sums, datapath.accumulator, error)
    return sums, points.sums.frac_bits


def _needs_no_point(x: Words, w: Words, start: Words, points: mac.MacPoints) -> int | None:
    """By how many bits the products move up, if neither point rounds or overflows; else None."""
    exact = QFormat.for_mul(points.x, points.coefficient)
    if points.term.frac_bits < exact.frac_bits or points.sums.frac_bits < points.term.frac_bits:
        return None
    if points.coefficient.bits + w.shape[1].bit_length() > 63:
        return None  # the kernel's gain itself might not fit
    up = points.sums.frac_bits - exact.frac_bits
    peak = max(-int(x.min()), int(x.max()))
    largest = max(-int(w.min()), int(w.max())) * peak
    gain = int(np.abs(w).sum(axis=1).max())
    reach = (gain * peak << up) + max(-int(start.min()), int(start.max()))
    finer = points.term.frac_bits - exact.frac_bits
    if points.product is not None and largest << finer > points.term.max_raw:
        return None
    return up if reach <= points.sums.max_raw else None


def _exact_sums(
    run: _Run, operands: Operands, summed: Words, datapath: NttDatapath, plan: NttPlan
) -> tuple[Words, int]:
    """Sums by number-theoretic transforms, without any error."""
    _, channels, length = operands.w.shape
    points = mac.MacPoints(
        datapath.summand, datapath.kernel, None, None, channels * length, datapath.bias
    )
    exact = QFormat.for_mul(datapath.summand, datapath.kernel)
    if operands.depthwise:
        sums = circular_correlate(summed, operands.w, plan)
    else:
        sums = np.stack(
            [circular_correlate(summed, kernel[:, None], plan).sum(axis=0) for kernel in operands.w]
        )
    sums = sums << (points.sums.frac_bits - exact.frac_bits)
    start = start_words(operands.bias, datapath, None, points)
    if start is not None:
        sums = sums + start[:, None, None]
    run.measure("correlation", points.sums, sums, run.expected)
    return sums, points.sums.frac_bits
