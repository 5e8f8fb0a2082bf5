"""How much noise should a ParC on this datapath have, by theory?

The error of an output word, for white input and independent roundings that drop equally likely
bits, with the formulas of `fixedpoint.bounds`. Quantised constants (twiddle factors, spectra,
tables) are no rounding: their error is a slightly wrong linear map, whose power follows the input's.
Where words overflow the error is larger; where a datapath decides its shifts frame by frame there is
no prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.arith import to_value
from fixedpoint.bounds import (
    Noise,
    correlation_noise,
    fft_noise,
    mac_noise,
    rounding_noise,
    twiddle_error,
)
from fixedpoint.datapath import Cut
from fixedpoint.modes import Rounding
from fixedpoint.operator import Operands, ParcPlan, check_plan
from fixedpoint.paths import (
    DirectDatapath,
    FourierDatapath,
    NttDatapath,
    ParcDatapath,
    SplitDatapath,
)
from fixedpoint.qformat import QFormat
from parc_hw.dataflow import Add, Dag, Input, Mul, Sub, real_dft, transpose
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import ParcSpec

__all__ = ["Prediction", "predict_noise"]

_NOTHING = Noise(0.0)
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The noise of an output word in squared LSB: at least `low`, at most `high`.

    Both are the same but for real lines that have a complex transform to themselves: the errors at
    k and N - k are conjugate in part, as the words are, and what is conjugate ends all in the real
    part of the output. How large that part is depends on the radices.
    """

    low: Noise
    high: Noise


def predict_noise(
    raw_w: ArrayLike,
    *,
    spec: ParcSpec,
    plan: ParcPlan | str,
    datapath: ParcDatapath,
    input_power: float,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
) -> Prediction | None:
    """Return the predicted error of an output word against exact arithmetic on the stored integers.

    Parameters
    ----------
    raw_w, spec, plan, datapath, position_embedding, bias
        As for `fixedpoint.parc`.
    input_power : float
        Mean square of the input's values.

    Returns
    -------
    Prediction
        Per output word in squared LSB of `datapath.output`, averaged over the channels.
    None
        With block floating point.

    Examples
    --------
    One rounding of a wide register:

    >>> from fixedpoint import Cut, DirectDatapath, QFormat
    >>> from parc_hw.spec import Axis
    >>> spec = ParcSpec(axis=Axis.W, batch=1, channels=1, height=1, width=4)
    >>> path = DirectDatapath(data="Q1.15", kernel="Q1.15", output=Cut(QFormat.parse("Q1.15")))
    >>> found = predict_noise([[1, 2, 3, 4]], spec=spec, plan="direct", datapath=path,
    ...                       input_power=1 / 3)
    >>> round(found.high.variance, 4)
    0.0833
    """
    silent = np.zeros((spec.batch, spec.channels, spec.height, spec.width), np.int64)
    operands = Operands.of(silent, raw_w, position_embedding, bias, spec, datapath)
    chosen = check_plan(plan, spec, datapath)
    w = to_value(operands.w, datapath.kernel)
    power = input_power
    if operands.position_embedding is not None and datapath.position_embedding is not None:
        embedding = to_value(operands.position_embedding, datapath.position_embedding)
        power += float(np.mean(embedding**2))
    before = _embedding(datapath, w)
    if isinstance(datapath, DirectDatapath):
        return _sharp(before + _direct(datapath, w))
    if isinstance(datapath, NttDatapath):
        exact = datapath.summand.frac_bits + datapath.kernel.frac_bits
        return _sharp(before + _cut(datapath.output, exact, datapath.output))
    if isinstance(datapath, FourierDatapath):
        assert isinstance(chosen, FftPlan)
        if datapath.forward.block is not None or datapath.inverse.block is not None:
            return None
        noise, last = _fourier(datapath, operands, w, chosen, power)
        low = before + noise + last
        twice = Noise(2 * noise.variance, noise.mean * 2**0.5)
        return Prediction(low, low if datapath.pairs else before + twice + last)
    assert isinstance(datapath, SplitDatapath)
    assert isinstance(chosen, SplitPlan)
    return _sharp(before + _split(datapath, operands, w, chosen, power))


def _sharp(noise: Noise) -> Prediction:
    return Prediction(noise, noise)


def _cut(point: Cut | None, frac_bits: int, output: Cut, times: int = 1) -> Noise:
    """The noise of `times` roundings at a point, in LSB of the output."""
    if point is None:
        return _NOTHING
    one = rounding_noise(max(frac_bits - point.format.frac_bits, 0), point.rounding)
    gain = 2.0 ** (output.format.frac_bits - point.format.frac_bits)
    return Noise(times * one.variance, times * one.mean).scaled(gain)


def _embedding(datapath: ParcDatapath, w: Values) -> Noise:
    """The rounding of x + pe, through the kernel."""
    if datapath.total is None or datapath.position_embedding is None:
        return _NOTHING
    exact = QFormat.for_add(datapath.data, datapath.position_embedding).frac_bits
    one = _cut(datapath.total, exact, datapath.output)
    gain = float(np.mean((w**2).sum(axis=(1, 2))))
    mean = float(np.sqrt(np.mean(w.sum(axis=(1, 2)) ** 2)))
    return Noise(one.variance * gain, one.mean * mean)


def _direct(datapath: DirectDatapath, w: Values) -> Noise:
    terms = w.shape[1] * w.shape[2]
    output, fine = datapath.output, datapath.summand.frac_bits + datapath.kernel.frac_bits
    noise = _NOTHING
    for point in (datapath.product, datapath.accumulator):
        if point is not None:
            dropped = max(fine - point.format.frac_bits, 0)
            gain = 2.0 ** (output.format.frac_bits - point.format.frac_bits)
            noise += mac_noise(terms, dropped, point.rounding, each=True).scaled(gain)
            fine = point.format.frac_bits
    return noise + _cut(output, fine, output)


# ---------------------------------------------------------------- Fourier
def _fourier(
    datapath: FourierDatapath, operands: Operands, w: Values, plan: FftPlan, power: float
) -> tuple[Noise, Noise]:
    """The noise of both transforms and the product, and that of the last rounding."""
    from fixedpoint.spectral import kernel_words, spectrum_values

    output, product = datapath.output, datapath.product
    x_format, s_format = datapath.forward.output, datapath.spectrum
    back = product.result.format
    exact = x_format.frac_bits + s_format.frac_bits
    spectrum = spectrum_values(operands.w, datapath.kernel, plan)
    stored = to_value(kernel_words(operands.w, plan, datapath), s_format)
    wrong = stored[..., 0] + 1j * stored[..., 1] - spectrum
    # All lines are real; two may share a transform. A dense operator adds its channels' errors.
    channels = w.shape[1]
    signal = power * plan.length / (1 if datapath.pairs else 2) / x_format.lsb**2

    rounded = _NOTHING
    fine = exact
    for point, times in ((product.product, 2 * channels), (product.accumulator, channels)):
        if point is not None:
            one = rounding_noise(max(fine - point.format.frac_bits, 0), point.rounding)
            gain = 2.0 ** (back.frac_bits - point.format.frac_bits)
            # Differences of two products: the means cancel in one part and add in the other.
            rounded += Noise(times * one.variance, 0.0).scaled(gain)
            fine = point.format.frac_bits
    rounded += rounding_noise(max(fine - back.frac_bits, 0), product.result.rounding)

    noise = correlation_noise(
        fft_noise(plan, datapath.forward),
        fft_noise(plan.transposed, datapath.inverse, inverse=True),
        spectrum_power=float(np.mean((np.abs(spectrum) ** 2).sum(axis=1))),
        product=rounded,
        product_gain=x_format.lsb / back.lsb,
        spectrum_noise=float(np.mean((np.abs(wrong) ** 2).sum(axis=1))) / 2,
        signal_power=signal,
    )
    noise = noise.scaled(2.0 ** (output.format.frac_bits - datapath.inverse.output.frac_bits))
    wanted = power * float(np.mean((w**2).sum(axis=(1, 2)))) / output.format.lsb**2
    factors = twiddle_error(plan, datapath.forward) + twiddle_error(
        plan.transposed, datapath.inverse, inverse=True
    )
    last = datapath.inverse.output.frac_bits
    if datapath.bias is not None:
        last = max(last, datapath.bias.frac_bits)
    return noise + Noise(wanted * factors), _cut(output, last, output)


# ---------------------------------------------------------------- split
def _split(
    datapath: SplitDatapath, operands: Operands, w: Values, plan: SplitPlan, power: float
) -> Noise:
    from fixedpoint.split import kernel_table, toeplitz_terms

    n1, n2, length, output = plan.n1, plan.n2, plan.length, datapath.output
    channels = w.shape[1]
    wide = QFormat(64 - datapath.coefficient.frac_bits, datapath.coefficient.frac_bits)

    def constant(value: float) -> float:
        return float(np.round(np.ldexp(value, wide.frac_bits))) * wide.lsb

    forward, from_forward = _maps(real_dft(n1), constant)
    backward, from_backward = _maps(transpose(real_dft(n1)), constant)
    spread = np.eye(n2)
    first, last = np.kron(forward, spread), np.kron(backward, spread)
    grain = datapath.summand.frac_bits + datapath.guard
    late = datapath.columns.format.frac_bits + datapath.guard

    terms, weight = toeplitz_terms(n1, n2, channels)
    table = to_value(kernel_table(operands.w, plan, datapath), datapath.table)
    table = table.reshape(len(w), -1)
    products = int(np.count_nonzero(terms.sign)) / length  # per column word, on average
    fine = datapath.rows.format.frac_bits + datapath.table.frac_bits

    total = _NOTHING
    for o in range(len(w)):
        # Columns = sum over channels of toeplitz[c] rows[c], as a matrix.
        toeplitz = np.zeros((length, channels * length))
        at = np.broadcast_to(np.arange(length)[:, None], terms.place.shape)
        np.add.at(toeplitz, (at, terms.place), table[o, weight] * terms.sign)
        parts = toeplitz.reshape(length, channels, length)
        noise = _NOTHING
        for c in range(channels):
            behind = last @ parts[:, c]  # from rows to outputs
            noise += _through(
                behind @ np.kron(from_forward, spread), grain, datapath.rounding, output
            )
            noise += _matrix(behind, datapath.rows, grain, output)
            ideal = w[o, c][(np.arange(length) - np.arange(length)[:, None]) % length]
            wrong = behind @ first - ideal
            noise += Noise(power * float((wrong**2).sum()) / length / output.format.lsb**2)
        before = fine
        for point in (datapath.product, datapath.accumulator):
            if point is not None:
                one = _matrix(last, point, before, output)
                noise += Noise(products * one.variance)
                before = point.format.frac_bits
        noise += _matrix(last, datapath.columns, before, output)
        noise += _through(np.kron(from_backward, spread), late, datapath.rounding, output)
        total += Noise(noise.variance / len(w), noise.mean / len(w))
    return total + _cut(output, late, output)


def _maps(graph: Dag, constant: Any) -> tuple[Values, Values]:
    """The graph with its stored constants as a matrix, and what each product's rounding adds."""
    nodes: list[Values] = []
    products = [i for i, node in enumerate(graph.nodes) if isinstance(node, Mul)]
    size = graph.inputs + len(products)
    for index, node in enumerate(graph.nodes):
        row = np.zeros(size)
        match node:
            case Input(k):
                row[k] = 1.0
            case Add(a, b):
                row = nodes[a] + nodes[b]
            case Sub(a, b):
                row = nodes[a] - nodes[b]
            case Mul(value, a):
                row = constant(value) * nodes[a]
                row[graph.inputs + products.index(index)] = 1.0
            case _:
                raise AssertionError(node)
        nodes.append(row)
    rows = np.array([nodes[output] for output in graph.outputs])
    return rows[:, : graph.inputs], rows[:, graph.inputs :]


def _through(gains: Values, frac_bits: int, rounding: Rounding, output: Cut) -> Noise:
    """Roundings to `frac_bits` of many bits, spread over the outputs by a matrix of gains."""
    one = rounding_noise(None, rounding).scaled(2.0 ** (output.format.frac_bits - frac_bits))
    rows = max(len(gains), 1)
    variance = one.variance * float((gains**2).sum()) / rows
    # A mean error is one vector: its power over the outputs, its sign lost.
    mean = one.mean * float(np.sqrt(np.mean(gains.sum(axis=1) ** 2)))
    return Noise(variance, mean)


def _matrix(gains: Values, point: Cut, frac_bits: int, output: Cut) -> Noise:
    """One rounding of every word at `point`, spread over the outputs by a matrix of gains."""
    one = _cut(point, frac_bits, output)
    variance = one.variance * float((gains**2).sum()) / len(gains)
    mean = one.mean * float(np.sqrt(np.mean(gains.sum(axis=1) ** 2)))
    return Noise(variance, mean)
