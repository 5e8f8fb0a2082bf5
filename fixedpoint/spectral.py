"""What does a ParC by Fourier transforms compute in integers?

    forward transform of s -> times the spectrum conj(W) / N -> inverse transform -> + bias

every word at the points of a `FourierDatapath`. The forward transform leaves its words in the order
in which the inverse takes them, and the spectrum is stored in that order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from fixedpoint import mac
from fixedpoint._inside import inside
from fixedpoint._threads import over_lines
from fixedpoint.arith import finest_format, quantize, to_value
from fixedpoint.datapath import Cut, Datapath
from fixedpoint.errors import FixedPointOverflow, FormatError
from fixedpoint.fft_trace import asked, float_stages
from fixedpoint.mixed_radix import Program, Result, lower
from fixedpoint.mixed_radix import run as transform
from fixedpoint.modes import FLOOR, WRAP, overflow_code, rounding_code
from fixedpoint.qformat import QFormat, as_format
from fixedpoint.rounding import fit, round_shift
from fixedpoint.trace import StageError, StageTrace
from parc_hw.errors import InputError
from parc_hw.plan import FftPlan, Order

if TYPE_CHECKING:
    from fixedpoint.operator import Operands, _Run
    from fixedpoint.paths import FourierDatapath

__all__ = [
    "PRODUCT_STAGES",
    "check",
    "kernel_words",
    "product_sums",
    "register_format",
    "run",
    "spectrum_format",
    "stage_name",
]

Words = NDArray[np.int64]
PRODUCT_STAGES = ("real products", "product sums", "product")
"""Stages of the product with the spectrum: behind each multiplication, each sum, and at its end."""


# ---------------------------------------------------------------- the kernel, offline
def spectrum_values(w: Words, kernel: QFormat, plan: FftPlan) -> NDArray[np.complex128]:
    """Return conj(W) / N of kernels (..., N), in the plan's output order."""
    values = np.asarray(np.conj(np.fft.fft(to_value(w, kernel))) / plan.length, np.complex128)
    if plan.output_order is Order.DIGIT_REVERSED:
        values = values[..., list(plan.digit_reversal)]
    return values


def spectrum_format(raw_w: ArrayLike, kernel: QFormat | str, bits: int) -> QFormat:
    """Return the format of `bits` bits with the most fraction bits that holds a kernel's spectrum.

    Parameters
    ----------
    raw_w : int array, shape (..., N)
        Words of `kernel`.
    kernel : QFormat or str
    bits : int
        1 to 64.

    Examples
    --------
    The spectrum of a unit impulse is 1/4 at each of 4 frequencies, and 0.25 needs Q0.x:

    >>> print(spectrum_format([128, 0, 0, 0], "Q2.7", 16), spectrum_format([1, 0, 0, 0], "Q2.7", 16))
    Q0.16 Q-7.23
    """
    fmt = as_format(kernel, name="kernel")
    words = fmt.words(raw_w, name="raw_w")
    spectrum = np.conj(np.fft.fft(to_value(words, fmt))) / words.shape[-1]
    return finest_format(np.stack([spectrum.real, spectrum.imag]), bits)


def kernel_words(w: Words, plan: FftPlan, datapath: FourierDatapath) -> Words:
    """Return the spectra of kernels (O, C or 1, N) as words (O, C or 1, N, 2).

    Raises
    ------
    InputError
        A word is outside `datapath.spectrum`; says which format holds all.
    """
    values = spectrum_values(w, datapath.kernel, plan)
    parts = np.stack([values.real, values.imag], axis=-1)
    fmt = datapath.spectrum
    words = np.asarray(quantize(parts, QFormat(64 - fmt.frac_bits, fmt.frac_bits)))
    if words.min() < fmt.min_raw or words.max() > fmt.max_raw:
        raise InputError(
            f"spectrum is {fmt}, and the kernel's conj(W)/N reaches {float(np.abs(parts).max()):.6g}; "
            f"{spectrum_format(w, datapath.kernel, fmt.bits)} holds it in as many bits."
        )
    return words


# ---------------------------------------------------------------- the product
@njit(cache=True, nogil=True)
def _product_kernel(begin, end, x, s, out, three, table, tallies):  # type: ignore[no-untyped-def]
    """Items [begin, end) of outputs x lines; tallies (outputs, lines, 3, 4).

    A tally is: overflows, first word (frequency, part) that did not fit or -1, lowest, highest.
    Rows of `table` are shift, rounding, lo, hi, overflow of product, accumulator, result.
    """
    groups, lines, channels, length, _ = x.shape
    part_sums, held = np.empty(2, np.int64), np.empty(4, np.int64)
    for item in range(begin, end):
        o, line = item // lines, item % lines
        source = x[o if groups > 1 else 0, line]
        tally = tallies[o, line]
        for f in range(length):
            part_sums[0] = 0
            part_sums[1] = 0
            for channel in range(channels):
                a, b = source[channel, f, 0], source[channel, f, 1]
                c, d = s[o, channel, f, 0], s[o, channel, f, 1]
                if three:
                    held[0], held[1], held[2] = c * (a + b), b * (c + d), a * (d - c)
                else:
                    held[0], held[1], held[2], held[3] = a * c, b * d, a * d, b * c
                for k in range(3 if three else 4):
                    held[k] = _point(held[k], 2 * f + k // 2, table[0], tally[0])
                re = held[0] - held[1]
                im = held[2] + (held[0] if three else held[3])
                for part in range(2):
                    term = re if part == 0 else im
                    # the register's LSB may be coarser or finer than the products'
                    total = (part_sums[part] << table[3, 0]) + (term << table[3, 1])
                    part_sums[part] = _point(total, 2 * f + part, table[1], tally[1])
            for part in range(2):
                out[o, line, f, part] = _point(part_sums[part], 2 * f + part, table[2], tally[2])


@inside()
def _point(value, word, row, tally):  # type: ignore[no-untyped-def]
    """Bring one word through a point and note it."""
    shift, rounding, lo, hi, overflow = row
    asked = round_shift(value, shift, rounding) if shift >= 0 else value << -shift
    tally[2] = min(tally[2], asked)
    tally[3] = max(tally[3], asked)
    kept, overflowed = fit(asked, lo, hi, overflow)
    if overflowed:
        tally[0] += 1
        if tally[1] < 0 or word < tally[1]:
            tally[1] = word
    return kept


def _limits(cut: Cut | None) -> tuple[int, int, int, int]:
    if cut is None:
        return FLOOR, -(1 << 63), (1 << 63) - 1, WRAP
    fmt = cut.format
    return rounding_code(cut.rounding), fmt.min_raw, fmt.max_raw, overflow_code(cut.overflow)


def register_format(datapath: FourierDatapath, channels: int) -> QFormat:
    """Return the format of the sums of complex products over all channels.

    Raises
    ------
    FormatError
        64 bits do not hold a product or a sum.
    """
    x, s, product = datapath.forward.output, datapath.spectrum, datapath.product
    if product.multiplications == 4:
        QFormat.for_mul(x, s)
    else:
        QFormat.for_mul(QFormat.for_add(x, x), s)
        QFormat.for_mul(x, QFormat.for_sub(s, s))
    if product.product is None:
        term = QFormat.for_multiply_accumulate(x, s, 2)
        whole = QFormat.for_multiply_accumulate(x, s, 2 * channels)
    else:
        term = QFormat.for_accumulate(product.product.format, 2)
        whole = QFormat.for_accumulate(product.product.format, 2 * channels)
    if product.accumulator is None:
        return whole
    QFormat.for_add(product.accumulator.format, term)
    return product.accumulator.format


def _product_table(datapath: FourierDatapath, channels: int) -> Words:
    product: Datapath = datapath.product
    exact = datapath.forward.output.frac_bits + datapath.spectrum.frac_bits
    term = exact if product.product is None else product.product.format.frac_bits
    sums = register_format(datapath, channels).frac_bits
    point = max(term, sums)
    for before, after in ((exact, term), (point, sums), (sums, product.result.format.frac_bits)):
        if abs(before - after) > 62:
            raise FormatError(
                f"the complex product moves {abs(before - after)} fraction bits at once; accepted "
                f"are at most 62."
            )
    rows = [
        (exact - term, *_limits(product.product)),
        (point - sums, *_limits(product.accumulator)),
        (sums - product.result.format.frac_bits, *_limits(product.result)),
        (point - sums, point - term, 0, 0, 0),
    ]
    return np.array(rows, np.int64)


def product_sums(
    x: Words, s: Words, datapath: FourierDatapath
) -> tuple[Words, tuple[mac.PointStats, ...]]:
    """Return the products with the spectrum, summed over channels, and what its points saw.

    Parameters
    ----------
    x : int64 array, shape (G, L, C, N, 2)
        The transforms; G = 1 (shared by all outputs) or O.
    s : int64 array, shape (O, C, N, 2)
    datapath : FourierDatapath

    Returns
    -------
    out : int64 array, shape (O, L, N, 2)
    stats : PointStats of product, accumulator and result; `first` is (o, l, frequency)
    """
    outputs, channels, length = s.shape[:3]
    lines = x.shape[1]
    table = _product_table(datapath, channels)
    out = np.empty((outputs, lines, length, 2), np.int64)
    tallies = np.zeros((outputs, lines, 3, 4), np.int64)
    tallies[..., 1] = -1
    tallies[..., 2], tallies[..., 3] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    three = datapath.product.multiplications == 3
    arguments = (np.ascontiguousarray(x), np.ascontiguousarray(s), out, three, table, tallies)
    over_lines(_product_kernel, outputs * lines, 16, *arguments)
    stats = []
    for point, each in enumerate((datapath.product.multiplications * channels, 2 * channels, 2)):
        tally = tallies[:, :, point]
        first = None
        if count := int(tally[..., 0].sum()):
            o, line = divmod(int((tally[..., 0] > 0).argmax()), lines)
            first = (o, line, int(tally[o, line, 1]) // 2)
        ends = int(tally[..., 2].min()), int(tally[..., 3].max())
        stats.append(mac.PointStats(outputs * lines * length * each, count, *ends, first))
    return out, tuple(stats)


# ---------------------------------------------------------------- the whole way
def check(plan: FftPlan, datapath: FourierDatapath, *, dense: bool) -> None:
    """Raise unless the plan begins in natural order and everything fits 64 bits."""
    if plan.input_order is not Order.NATURAL:
        raise InputError(
            f"the plan {plan} begins in {plan.input_order.value} order; a ParC's lines are in "
            f"natural order. Take FftPlan.of({plan.length}, output_order='digit_reversed')."
        )
    if dense and (datapath.forward.block is not None or datapath.inverse.block is not None):
        raise InputError(
            "block floating point gives every channel's transform an exponent of its own, and a "
            "dense ParC adds channels; take a scaling schedule."
        )
    lower(plan, datapath.forward)
    lower(plan.transposed, datapath.inverse, True)


def stage_name(direction: str, program: Program, stage: int) -> str:
    """Return the name of a transform's stage in traces and certificates."""
    return f"{direction} {stage} (r{program.plan.radices[stage]})"


def run(
    run: _Run, operands: Operands, summed: Words, datapath: FourierDatapath, plan: FftPlan
) -> tuple[Words, int]:
    """Return what `output` receives, (O, L, N), and its fraction bits."""
    forward, inverse = lower(plan, datapath.forward), lower(plan.transposed, datapath.inverse, True)
    spectrum = kernel_words(operands.w, plan, datapath)
    length = plan.length
    packed = _packed(summed, datapath.pairs)  # (C, M, N, 2)
    frames = packed.shape[1]
    one = -1, frames, length, 2

    result = _transformed(run, "forward", forward, packed)
    x, taken = result.words.reshape(one), result.exponents.reshape(-1, frames)
    grouped = x[:, :, None] if operands.depthwise else x.swapaxes(0, 1)[None]
    words, stats = product_sums(grouped, spectrum, datapath)
    behind: NDArray[np.complex128] | None = None
    if run.summands is not None:
        real = _packed(run.summands, datapath.pairs)
        before = _trace(run, "forward", forward, result, real[..., 0] + 1j * real[..., 1])
        values = spectrum_values(operands.w, datapath.kernel, plan)
        if operands.depthwise:
            behind = before.reshape(-1, frames, length) * values * 2.0 ** -taken[..., None]
        else:
            behind = np.einsum("cmf,ocf->omf", before.reshape(-1, frames, length), values)
    _note_product(run, stats, words, datapath, behind)

    result = _transformed(run, "inverse", inverse, words)
    if behind is not None:
        _trace(run, "inverse", inverse, result, behind)
    y, frac_bits = result.words.reshape(one), datapath.inverse.output.frac_bits
    if datapath.forward.block is not None or datapath.inverse.block is not None:
        y, frac_bits = _aligned(y, taken + result.exponents.reshape(-1, frames), datapath)
    lines = _unpacked(y, datapath.pairs, summed.shape[1])
    return _with_bias(lines, frac_bits, operands.bias, datapath)


def _packed(lines: NDArray[Any], pairs: bool) -> NDArray[Any]:
    """Lines (C, L, N) as complex ones (C, M, N, 2): two in one, or with zero imaginary parts."""
    count = lines.shape[1]
    frames = (count + 1) // 2 if pairs else count
    packed = np.zeros((len(lines), frames, lines.shape[2], 2), lines.dtype)
    packed[..., 0] = lines[:, ::2] if pairs else lines
    if pairs:
        packed[:, : count // 2, :, 1] = lines[:, 1::2]
    return packed


def _unpacked(frames: Words, pairs: bool, count: int) -> Words:
    """The lines (O, L, N) in complex ones (O, M, N, 2)."""
    if not pairs:
        return np.ascontiguousarray(frames[..., 0])
    lines = np.empty((len(frames), count, frames.shape[2]), np.int64)
    lines[:, ::2] = frames[..., 0]
    lines[:, 1::2] = frames[:, : count // 2, :, 1]
    return lines


def _transformed(run: _Run, direction: str, program: Program, words: Words) -> Result:
    """All frames (..., N, 2) through a transform; counts its stages' overflows."""
    lines = np.ascontiguousarray(words.reshape(-1, program.length, 2))
    counting = run.counter is not None or run.tracing
    try:
        result = transform(program, lines, capture=run.tracing, count=counting)
    except FixedPointOverflow as error:
        raise FixedPointOverflow(
            f"{direction} transform, {error}",
            index=error.index,
            point=f"{direction} {error.point}",
            count=error.count,
        ) from None
    if run.counter is not None:
        for s, count in enumerate(result.overflowed):
            name = stage_name(direction, program, s)
            run.counter.record(name, overflowed=int(count), words=lines.size)
    return result


def _trace(
    run: _Run,
    direction: str,
    program: Program,
    result: Result,
    values: NDArray[np.complex128],
) -> NDArray[np.complex128]:
    """Note every stage of a transform of `values`; returns the float transform, in its order."""
    lines = values.reshape(-1, program.length)
    parts: Any = np.stack([lines.real, lines.imag], axis=-1)  # real numbers where words are usual
    taken = np.cumsum(result.shifts, axis=1) - result.ups[:, None]
    last = lines
    for s, last in enumerate(float_stages(program, parts)):
        fmt, words = program.datapath.formats[s + 1], result.captured[s]
        lowest, highest = asked(program, result, s)
        run.stages.append(
            StageTrace(
                name=stage_name(direction, program, s),
                format=fmt,
                words=words.size,
                lowest=lowest,
                highest=highest,
                overflowed=int(result.overflowed[s]),
                error=StageError.of(words, fmt, last * 2.0 ** -taken[:, s, None]),
            )
        )
    ordered = np.empty_like(lines)
    ordered[:, program.target] = last
    return ordered


def _note_product(
    run: _Run,
    stats: tuple[mac.PointStats, ...],
    words: Words,
    datapath: FourierDatapath,
    expected: NDArray[np.complex128] | None,
) -> None:
    """Note the points of the complex product that the datapath has."""
    product = datapath.product
    error = None if expected is None else StageError.of(words, product.result.format, expected)
    for name, figures, cut in zip(
        PRODUCT_STAGES,
        stats,
        (product.product, product.accumulator, product.result),
        strict=True,
    ):
        if cut is not None:
            last = cut is product.result and name == PRODUCT_STAGES[2]
            run.point(name, figures, cut.format, cut, error if last else None)


def _aligned(y: Words, exponents: Words, datapath: FourierDatapath) -> tuple[Words, int]:
    """Words of frames with exponents (O, M) of their own, at one binary point."""
    fmt = datapath.inverse.output
    least = int(exponents.min())
    span = int(exponents.max()) - least
    if span + fmt.bits > 63:
        raise FormatError(
            f"the frames' block exponents differ by {span} bits, and words of {fmt.bits} bits "
            f"at one binary point then need {span + fmt.bits} bits, of 63. Take narrower words."
        )
    return y << (exponents - least)[..., None, None], fmt.frac_bits - least


def _with_bias(
    y: Words, frac_bits: int, bias: Words | None, datapath: FourierDatapath
) -> tuple[Words, int]:
    """The sums y + bias, exact."""
    if bias is None or datapath.bias is None:
        return y, frac_bits
    point = max(frac_bits, datapath.bias.frac_bits)
    held = QFormat(datapath.inverse.output.bits - frac_bits, frac_bits)
    QFormat.for_add(held, datapath.bias)  # raises where 64 bits do not hold it
    return (y << (point - frac_bits)) + (bias << (point - datapath.bias.frac_bits))[
        :, None, None
    ], point
