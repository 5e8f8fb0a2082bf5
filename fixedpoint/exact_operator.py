"""What is ParC on each datapath, in Python's integers and fractions and nothing else?

The oracle of `fixedpoint.operator`: one output at a time, from the definition of each way; shared
with the kernels are the graphs of the transforms, the float tables that are quantised offline and
the formats' limits. For small shapes: it takes microseconds per product.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import product as every
from typing import Any

import numpy as np

from fixedpoint import exact_fft
from fixedpoint.datapath import Cut, Datapath
from fixedpoint.exact import cut, quantize, to_value
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.paths import (
    DirectDatapath,
    FourierDatapath,
    NttDatapath,
    ParcDatapath,
    SplitDatapath,
)
from fixedpoint.qformat import QFormat
from parc_hw.dataflow import Add, Dag, Input, Mul, Sub, real_dft, transpose
from parc_hw.plan import FftPlan, Order, SplitPlan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import complex_rows, split_tables

__all__ = ["parc"]

Line = list[Fraction]


def parc(
    raw_x: Any,
    raw_w: Any,
    *,
    spec: ParcSpec,
    plan: SplitPlan | FftPlan | None,
    datapath: ParcDatapath,
    position_embedding: Any = None,
    bias: Any = None,
) -> np.ndarray:
    """Return ParC of stored integers, as `fixedpoint.parc`; `plan` is None for an NTT.

    Returns
    -------
    object array of Python integers, shape (B, C_out or C, H, W)

    Examples
    --------
    >>> spec = ParcSpec(axis=Axis.W, batch=1, channels=1, height=1, width=4)
    >>> path = DirectDatapath(data="Q1.7", kernel="Q1.7", output=Cut(QFormat.parse("Q1.7")))
    >>> parc([[[[10, 20, 30, 40]]]], [[0, 64, 0, 0]], spec=spec,
    ...      plan=SplitPlan(n1=1, n2=4), datapath=path).tolist()
    [[[[10, 15, 20, 5]]]]
    """
    x = np.asarray(raw_x, object)
    w = np.asarray(raw_w, object)
    outputs = spec.out_channels or spec.channels
    result = np.empty((spec.batch, outputs, spec.height, spec.width), object)
    across = spec.width if spec.axis is Axis.H else spec.height
    if isinstance(datapath, FourierDatapath):
        assert isinstance(plan, FftPlan)
        by_fourier = _fourier(x, w, spec, plan, datapath, position_embedding, bias)
    for b, o, other in every(range(spec.batch), range(outputs), range(across)):
        channels = [o] if spec.depthwise else list(range(spec.channels))
        kernels = [w[o]] if spec.depthwise else list(w[o])
        lines = [_line(x, b, c, other, spec, datapath, position_embedding) for c in channels]
        start = _constant(bias, o, datapath)
        if isinstance(datapath, FourierDatapath):
            y = by_fourier[o][b * across + other]
        elif isinstance(datapath, SplitDatapath):
            assert isinstance(plan, SplitPlan)
            y = _split(lines, kernels, start, plan, datapath)
        elif isinstance(datapath, DirectDatapath):
            y = [_direct(lines, kernels, start, i, datapath) for i in range(spec.length)]
        else:
            assert isinstance(datapath, NttDatapath)
            y = [_sum(lines, kernels, start, i, datapath) for i in range(spec.length)]
        for i, value in enumerate(y):
            where = (b, o, i, other) if spec.axis is Axis.H else (b, o, other, i)
            result[where] = cut(value, datapath.output)
    return result


def _line(
    x: Any, b: int, c: int, other: int, spec: ParcSpec, datapath: ParcDatapath, embedding: Any
) -> Line:
    words = x[b, c, :, other] if spec.axis is Axis.H else x[b, c, other]
    added = None if embedding is None else np.asarray(embedding)[c]
    return _summands(words, added, datapath)


def _summands(words: Any, added: Any, datapath: ParcDatapath) -> Line:
    line = [to_value(int(word), datapath.data) for word in words]
    if added is None or datapath.position_embedding is None:
        return line
    embedding = [to_value(int(word), datapath.position_embedding) for word in added]
    return [_through(s + e, datapath.total) for s, e in zip(line, embedding, strict=True)]


def _constant(bias: Any, o: int, datapath: ParcDatapath) -> Fraction:
    if bias is None or datapath.bias is None:
        return Fraction(0)
    return to_value(int(bias[o]), datapath.bias)


def _through(value: Fraction, point: Cut | None) -> Fraction:
    return value if point is None else to_value(cut(value, point), point.format)


def _direct(
    lines: Sequence[Line], kernels: Any, start: Fraction, i: int, datapath: DirectDatapath
) -> Fraction:
    total = _through(start, datapath.accumulator)
    for line, kernel in zip(lines, kernels, strict=True):
        for k, word in enumerate(kernel):
            product = to_value(int(word), datapath.kernel) * line[(i + k) % len(line)]
            total = _through(total + _through(product, datapath.product), datapath.accumulator)
    return total


def _sum(
    lines: Sequence[Line], kernels: Any, start: Fraction, i: int, datapath: ParcDatapath
) -> Fraction:
    return start + sum(
        to_value(int(word), datapath.kernel) * line[(i + k) % len(line)]
        for line, kernel in zip(lines, kernels, strict=True)
        for k, word in enumerate(kernel)
    )


# ---------------------------------------------------------------- Fourier transforms
def _fourier(
    x: Any,
    w: Any,
    spec: ParcSpec,
    plan: FftPlan,
    datapath: FourierDatapath,
    embedding: Any,
    bias: Any,
) -> list[list[Line]]:
    """Return what `output` receives: [output channel][line][i]."""
    across = spec.lines // spec.batch
    where = [(b, other) for b in range(spec.batch) for other in range(across)]
    step = 2 if datapath.pairs else 1
    frames = [where[k : k + step] for k in range(0, len(where), step)]
    silence = [Fraction(0)] * spec.length
    moved, taken = [], []  # [channel][frame]
    for c in range(spec.channels):
        of_channel, exponents = [], []
        for frame in frames:
            lines = [_line(x, b, c, other, spec, datapath, embedding) for b, other in frame]
            parts = [*lines, silence][:2]
            raw = [
                (_raw(re, datapath.summand), _raw(im, datapath.summand))
                for re, im in zip(*parts, strict=True)
            ]
            done = exact_fft.fft(raw, plan, datapath.forward)
            of_channel.append(_values(done.words, datapath.forward.output))
            exponents.append(done.exponent)
        moved.append(of_channel)
        taken.append(exponents)

    result = []
    product = datapath.product
    kernels = [[row] for row in w] if spec.depthwise else [list(rows) for rows in w]
    for o, rows in enumerate(kernels):
        channels = [o] if spec.depthwise else list(range(spec.channels))
        spectra = [_spectrum(row, plan, datapath) for row in rows]
        lines_of = []
        for k, frame in enumerate(frames):
            words = []
            for f in range(spec.length):
                re = im = Fraction(0)
                for c, spectrum in zip(channels, spectra, strict=True):
                    more = _complex(moved[c][k][f], spectrum[f], product)
                    re = _through(re + more[0], product.accumulator)
                    im = _through(im + more[1], product.accumulator)
                words.append((cut(re, product.result), cut(im, product.result)))
            done = exact_fft.fft(words, plan.transposed, datapath.inverse, True)
            scale = Fraction(2) ** (done.exponent + taken[channels[0]][k])
            back = _values(done.words, datapath.inverse.output)
            start = _constant(bias, o, datapath)
            lines_of += [
                [start + scale * word[part] for word in back] for part in range(len(frame))
            ]
        result.append(lines_of)
    return result


def _raw(value: Fraction, fmt: QFormat) -> int:
    return cut(value, Cut(fmt, Rounding.FLOOR, Overflow.RAISE))


def _values(words: Any, fmt: QFormat) -> list[tuple[Fraction, Fraction]]:
    return [(to_value(int(re), fmt), to_value(int(im), fmt)) for re, im in words]


def _spectrum(
    row: Any, plan: FftPlan, datapath: FourierDatapath
) -> list[tuple[Fraction, Fraction]]:
    """The stored spectrum in the plan's output order."""
    values = np.array([float(to_value(int(word), datapath.kernel)) for word in row])
    spectrum = np.conj(np.fft.fft(values)) / len(values)
    if plan.output_order is Order.DIGIT_REVERSED:
        spectrum = spectrum[list(plan.digit_reversal)]
    words = [
        (quantize(float(z.real), datapath.spectrum), quantize(float(z.imag), datapath.spectrum))
        for z in spectrum
    ]
    return _values(words, datapath.spectrum)


def _complex(
    x: tuple[Fraction, Fraction], s: tuple[Fraction, Fraction], product: Datapath
) -> tuple[Fraction, Fraction]:
    (a, b), (c, d) = x, s

    def p(left: Fraction, right: Fraction) -> Fraction:
        return _through(left * right, product.product)

    if product.multiplications == 3:
        shared = p(c, a + b)
        return shared - p(b, c + d), shared + p(a, d - c)
    return p(a, c) - p(b, d), p(a, d) + p(b, c)


# ---------------------------------------------------------------- the two-level split
def _graph(graph: Dag, x: Sequence[Fraction], grain: int, datapath: SplitDatapath) -> Line:
    """Evaluate a graph; every product with a constant is rounded to 2**-grain."""
    wide = QFormat(64 - datapath.coefficient.frac_bits, datapath.coefficient.frac_bits)
    endless = QFormat(64 - grain, grain)
    done: list[Fraction] = []
    for node in graph.nodes:
        match node:
            case Input(k):
                value = x[k]
            case Add(a, b):
                value = done[a] + done[b]
            case Sub(a, b):
                value = done[a] - done[b]
            case Mul(constant, a):
                exact = done[a] * to_value(quantize(constant, wide), wide)
                value = _through(exact, Cut(endless, datapath.rounding, Overflow.RAISE))
            case _:
                raise AssertionError(node)
        done.append(value)
    return [done[output] for output in graph.outputs]


def _split(
    lines: Sequence[Line], kernels: Any, start: Fraction, plan: SplitPlan, datapath: SplitDatapath
) -> Line:
    n1, n2 = plan.n1, plan.n2
    table_cut = Cut(datapath.table, Rounding.HALF_EVEN, Overflow.RAISE)

    # 1. u[c][r][m]
    grain = datapath.summand.frac_bits + datapath.guard
    u = []
    for line in lines:
        columns = [
            _graph(real_dft(n1), [line[j * n2 + m] for j in range(n1)], grain, datapath)
            for m in range(n2)
        ]
        u.append([[_through(columns[m][r], datapath.rows) for m in range(n2)] for r in range(n1)])
    # 2. v[r][m]
    tables = []
    for kernel in kernels:
        values = np.array([float(to_value(int(word), datapath.kernel)) for word in kernel])
        real = split_tables(values, plan).reshape(n1, 2 * n2 - 1)
        tables.append([[_through(Fraction(float(t)), table_cut) for t in row] for row in real])
    pairs = list(complex_rows(n1))
    v = []
    for r in range(n1):
        first = r in pairs
        second = r - 1 in pairs
        row = []
        for m in range(n2):
            total = _through(start if r == 0 else Fraction(0), datapath.accumulator)
            for table, rows in zip(tables, u, strict=True):
                for q in range(n2):
                    d = m - q + n2 - 1
                    if first:
                        terms = [
                            (1, table[r][d], rows[r][q]),
                            (-1, table[r + 1][d], rows[r + 1][q]),
                        ]
                    elif second:
                        terms = [(1, table[r - 1][d], rows[r][q]), (1, table[r][d], rows[r - 1][q])]
                    else:
                        terms = [(1, table[r][d], rows[r][q])]
                    for sign, weight, value in terms:
                        product = _through(weight * value, datapath.product)
                        total = _through(total + sign * product, datapath.accumulator)
            row.append(_through(total, datapath.columns))
        v.append(row)
    # 3. y[j n2 + m]
    grain = datapath.columns.format.frac_bits + datapath.guard
    y = [Fraction(0)] * (n1 * n2)
    for m in range(n2):
        for j, value in enumerate(
            _graph(transpose(real_dft(n1)), [v[r][m] for r in range(n1)], grain, datapath)
        ):
            y[j * n2 + m] = value
    return y
