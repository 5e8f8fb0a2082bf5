"""What does one ParC lose in fixed point, on each way of computing it, measured and predicted?"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fixedpoint
from fixedpoint.bounds import rounding_noise, weight_noise
from fixedpoint.datapath import Cut, OverflowCounter
from fixedpoint.modes import Overflow, parse_rounding
from fixedpoint.ntt import ntt_plan
from fixedpoint.operator import parc
from fixedpoint.paths import (
    DirectDatapath,
    FourierDatapath,
    NttDatapath,
    ParcDatapath,
    SplitDatapath,
)
from fixedpoint.prediction import predict_noise
from fixedpoint.qformat import QFormat
from fixedpoint.scaling import BlockScaling, ScalingSchedule
from fixedpoint.spectral import spectrum_format
from fixedpoint.split import table_format, toeplitz_terms
from parc_hw.dataflow import Add, Mul, Sub, real_dft, transpose
from parc_hw.plan import FftPlan, Order, SplitPlan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.study.cost import Cost, Tally
from parc_hw.study.histogram import histogram
from parc_hw.study.knobs import Values
from parc_hw.study.lines import (
    biases,
    draw,
    embedding,
    errors,
    finite_db,
    format_for,
    kernels,
)
from parc_hw.study.spec import LineData, StudySpec
from parc_hw.study.transforms import (
    count_transform,
    datapath_file,
    fft_plan,
    stage_rows,
)

__all__ = ["OperatorSubject"]

_EXACT_BITS = 40  # of a kernel before its spectrum is taken: far below the spectrum's own LSB
_SECONDS_PER_WORD = 9e-8  # of error reporting, one thread
_SECONDS_PER_MAC = {"direct": 1.5e-9, "fft": 1e-9, "ntt": 1e-9}
_SECONDS_PER_MAC_OF_SPLIT = 1e-9


class OperatorSubject:
    """ParC, depthwise or dense, of a study's lines against float64.

    The error is that of the whole: lines, kernels, position embedding and bias are rounded to words
    as well.
    """

    def __init__(self, spec: StudySpec) -> None:
        assert isinstance(spec.data, LineData)
        self.spec = spec
        self.data = spec.data

    def parts(self, point: Values) -> int:
        """All lines at once."""
        return 1

    def evaluate(self, point: Values, part: int) -> dict[str, Any]:
        """Send all lines through and compare."""
        datapath = self._path(point)
        counter = OverflowCounter()
        raw = self._run(point, datapath, counter=counter)
        reference = _lines(self.data, point["length"])[1]
        return errors(raw, datapath.output.format, reference) | {
            "overflowed": counter.total,
            "predicted_sqnr_db": self._predicted(point, datapath),
        }

    def merge(self, point: Values, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """There is one part."""
        return dict(parts[0])

    def details(self, point: Values) -> dict[str, Any]:
        """Trace the stages, and show the real numbers at both ends."""
        datapath = self._path(point)
        _, trace = self._run(point, datapath, trace=True)
        x, y = _lines(self.data, point["length"])
        taps = kernels(self.data, point["length"])
        shown = (
            ("input", x, self._data(point)),
            ("kernel", taps, datapath.kernel),
            ("output", y, datapath.output.format),
        )
        return {
            "ranges": [histogram(name, values, str(fmt)) for name, values, fmt in shown],
            "stages": stage_rows(trace),
            "datapath": datapath_file(self._document(point, datapath)),
        }

    def cost(self, point: Values) -> Cost:
        """Resources of one line of one output channel.

        A dense operator has `channels` input lines for it; transforms of them are shared by all
        outputs.
        """
        tally = Tally()
        length, kernel = point["length"], point["kernel_bits"]
        datapath = self._path(point)
        data, output = datapath.summand.bits, datapath.output.format.bits
        channels = self.data.channels or 1
        shared = channels / (self.data.kernels if self.data.channels else 1)
        tally.store(point["data_bits"], words=channels * length)
        tally.store(output, words=length)
        if datapath.position_embedding is not None:
            tally.store(datapath.position_embedding.bits, words=channels * length)
            tally.add(data, times=round(shared * length))
        if datapath.bias is not None:
            tally.store(datapath.bias.bits, words=1)
            tally.add(output, times=length)
        if isinstance(datapath, DirectDatapath):
            taps = channels * length
            register = datapath.accumulator
            exact = QFormat.for_multiply_accumulate(datapath.summand, datapath.kernel, taps)
            width = exact.bits if register is None else register.format.bits
            tally.multiply(data, kernel, times=taps * length)
            tally.add(width, times=taps * length)
            tally.store(kernel, words=taps)
            tally.store(width, words=1)
        elif isinstance(datapath, FourierDatapath):
            plan = self._fft_plan(point)
            # Two lines share a transform, as its real and its imaginary part.
            count_transform(tally, plan, datapath.forward, share=0.5 * shared)
            count_transform(tally, plan.transposed, datapath.inverse, share=0.5, table=False)
            wide = datapath.forward.output.bits
            tally.multiply(wide, kernel, times=2 * channels * length)  # N complex for two lines
            tally.add(wide + kernel, times=channels * length)
            tally.add(wide + kernel, times=(channels - 1) * length)
            tally.store(kernel, words=channels * length)  # the spectrum of a real kernel
        elif isinstance(datapath, SplitDatapath):
            _count_split(tally, self._split_plan(point), datapath, channels, shared)
        else:
            _count_ntt(tally, length, data, kernel, channels=channels, shared=shared)
        return tally.cost(self.spec.cost)

    def seconds(self, point: Values) -> float:
        """By the numbers of words and of products."""
        outputs = self.data.lines * point["length"] * self.data.kernels / self.data.inputs
        macs = outputs * point["length"] * (self.data.channels or 1)
        each = _SECONDS_PER_MAC.get(point["plan"], _SECONDS_PER_MAC_OF_SPLIT)
        return outputs * _SECONDS_PER_WORD + macs * each

    # ------------------------------------------------------------ one point
    def _path(self, point: Values) -> ParcDatapath:
        """The formats of a point.

        The kernel has the fewest integer bits that hold its largest tap and the output those that
        hold the largest sum of the study's lines; a register holds every sum of these kernels, and
        what it lacks then are fraction bits.
        """
        length, rounding = point["length"], parse_rounding(point["rounding"])
        taps = kernels(self.data, length)
        data = self._data(point)
        kernel = format_for(float(np.abs(taps).max()), point["kernel_bits"])
        peak = float(np.abs(_lines(self.data, length)[1]).max())
        output = format_for(peak, point["data_bits"])
        overflow = Overflow(point["overflow"])
        ends: dict[str, Any] = {
            "data": data,
            "kernel": kernel,
            "output": Cut(output, rounding, overflow),
        }
        added = (embedding(self.data, length), biases(self.data))
        for name, knob, values in zip(
            ("position_embedding", "bias"), ("embedding_bits", "bias_bits"), added, strict=True
        ):
            if values is not None:
                largest = float(np.abs(values).max())
                ends[name] = format_for(largest, point.get(knob) or point["data_bits"])
        if point["plan"] == "ntt":
            return NttDatapath(**ends)
        if point["plan"] == "fft":
            return self._fourier(point, ends, peak)
        if point["plan"] != "direct":
            return self._split(point, ends)
        width = point["accumulator_bits"]
        plain_path = DirectDatapath(**ends)
        if width == 0:
            return plain_path
        gain = float(np.abs(taps).reshape(len(taps), -1).sum(axis=1).max())
        reach = float(-data.min_value) + (
            0.0 if added[0] is None else float(np.abs(added[0]).max())
        )
        register = format_for(gain * reach + self.data.bias, width)
        product = QFormat.for_mul(plain_path.summand, kernel)
        if register.frac_bits > product.frac_bits:
            register = QFormat(width - product.frac_bits, product.frac_bits)
        each = QFormat(product.int_bits, register.frac_bits)
        return DirectDatapath(
            **ends,
            product=None if each == product else Cut(each, rounding, overflow),
            accumulator=Cut(register, rounding, overflow),
        )

    def _data(self, point: Values) -> QFormat:
        return QFormat(point["data_int_bits"], point["data_bits"] - point["data_int_bits"])

    def _spec(self, lines: NDArray[Any], length: int) -> ParcSpec:
        channels, height, _ = lines.shape
        return ParcSpec(
            axis=Axis.W,
            batch=1,
            channels=channels,
            height=height,
            width=length,
            out_channels=self.data.kernels if self.data.channels else None,
            position_embedding=self.data.embedding > 0,
            bias=self.data.bias > 0,
        )

    def _plan(self, point: Values) -> FftPlan | str:
        return self._fft_plan(point) if point["plan"] == "fft" else str(point["plan"])

    def _split_plan(self, point: Values) -> SplitPlan:
        return SplitPlan.parse(point["plan"], length=point["length"])

    def _split(self, point: Values, ends: dict[str, Any]) -> SplitDatapath:
        """The transforms keep `guard_bits` inside; the kernel is rounded once, in its table."""
        plan = self._split_plan(point)
        whole, words = self._whole_kernel(point["length"])
        return SplitDatapath.of(
            plan,
            table=table_format(words, whole, plan, point["kernel_bits"]),
            coefficient_bits=point["twiddle_bits"],
            guard=point["guard_bits"],
            rounding=parse_rounding(point["rounding"]),
            overflow=Overflow(point["overflow"]),
            **{**ends, "kernel": whole},
        )

    def _whole_kernel(self, length: int) -> tuple[QFormat, Any]:
        """The kernels in words so fine that what is made of them is rounded once."""
        taps = kernels(self.data, length)
        whole = format_for(float(np.abs(taps).max()), _EXACT_BITS)
        return whole, fixedpoint.quantize(taps, whole)

    def _fft_plan(self, point: Values) -> FftPlan:
        return fft_plan(point, output_order=Order.DIGIT_REVERSED)

    def _fourier(self, point: Values, ends: dict[str, Any], peak: float) -> FourierDatapath:
        """Transforms whose words have `guard_bits` fraction bits more than the data.

        The products have the integer bits that the output needs, because the inverse transform is
        not scaled: 1/N is in the spectrum.
        """
        data, guard = ends["data"], point["guard_bits"]
        inside = QFormat(data.int_bits, data.frac_bits + guard)
        whole, words = self._whole_kernel(point["length"])
        plan = self._fft_plan(point)
        wanted = point["scaling"]
        block = BlockScaling() if wanted == "block" else None
        if isinstance(wanted, list):
            schedule = ScalingSchedule(tuple(wanted))
        else:
            schedule = ScalingSchedule.parse("none" if block else wanted, plan)
        return FourierDatapath.of(
            plan,
            data=inside,
            kernel=whole,
            output=ends["output"],
            scaling=schedule,
            twiddle=point["twiddle_bits"],
            spectrum=spectrum_format(words, whole, point["kernel_bits"]),
            product=None if block else format_for(peak, inside.bits),
            rounding=parse_rounding(point["rounding"]),
            overflow=Overflow(point["overflow"]),
            once=point["product"] == "once",
            block=block,
            pairs=True,
            position_embedding=ends.get("position_embedding"),
            bias=ends.get("bias"),
        )

    def _run(
        self,
        point: Values,
        datapath: ParcDatapath,
        *,
        trace: bool = False,
        counter: OverflowCounter | None = None,
    ) -> Any:
        length = point["length"]
        x = _quantised(self.data, length, self._data(point), point["rounding"])
        if isinstance(datapath, FourierDatapath):
            x = x << point["guard_bits"]
        w = fixedpoint.quantize(kernels(self.data, length), datapath.kernel)
        spec, plan = self._spec(x, length), self._plan(point)
        shared: dict[str, Any] = {"spec": spec, "plan": plan, "datapath": datapath}
        shared |= self._added(length, datapath)
        if trace:
            words, found = parc(x[None], w, **shared, trace=True)
            return words[0], found
        return parc(x[None], w, **shared, counter=counter)[0]

    def _added(self, length: int, datapath: ParcDatapath) -> dict[str, Any]:
        """The words of the position embedding and of the bias."""
        found = {}
        for name, values, fmt in (
            ("position_embedding", embedding(self.data, length), datapath.position_embedding),
            ("bias", biases(self.data), datapath.bias),
        ):
            if values is not None and fmt is not None:
                found[name] = fixedpoint.quantize(values, fmt)
        return found

    def _predicted(self, point: Values, datapath: ParcDatapath) -> float | None:
        """SQNR by theory: the words that are stored, and what the datapath adds."""
        length = point["length"]
        x, reference = _lines(self.data, length)
        taps = kernels(self.data, length).reshape(self.data.kernels, -1)
        power, signal = float(np.mean(x**2)), float(np.mean(reference**2))
        added = self._added(length, datapath)
        found = predict_noise(
            fixedpoint.quantize(kernels(self.data, length), datapath.kernel),
            spec=self._spec(x, length),
            plan=self._plan(point),
            datapath=datapath,
            input_power=power,
            **added,
        )
        if found is None:
            return None
        words = rounding_noise(None, parse_rounding(point["rounding"]))
        gain = float((taps**2).sum(axis=1).mean())
        sums = float(np.mean(taps.sum(axis=1) ** 2))
        noise = found.high.power * datapath.output.format.lsb**2
        noise += (words.variance * gain + words.mean**2 * sums) * self._data(point).lsb ** 2
        summed = power
        if datapath.position_embedding is not None:
            noise += gain * datapath.position_embedding.lsb**2 / 12
            summed += float(np.mean(_embedded(self.data, length) ** 2))
        if datapath.bias is not None:
            noise += datapath.bias.lsb**2 / 12
        terms = taps.shape[1]
        noise += weight_noise(terms, input_power=summed, weight_lsb=datapath.kernel.lsb).power
        return finite_db(10 * math.log10(signal / noise)) if noise else None

    def _document(self, point: Values, datapath: ParcDatapath) -> dict[str, Any]:
        """The datapath file."""
        document = {"schema": 1, "kind": "parc", "length": point["length"], "plan": point["plan"]}
        if isinstance(datapath, FourierDatapath):
            document["plan"] = self._fft_plan(point).to_json()
        return document | {"datapath": plain(datapath)}


def plain(record: Any) -> Any:
    """A datapath's record as plain data: its fields by name, formats and modes as text.

    >>> plain(Cut(QFormat.parse("Q1.7")))
    {'format': 'Q1.7', 'rounding': 'half_even', 'overflow': 'saturate'}
    """
    if callable(convert := getattr(record, "to_json", None)):
        return convert()
    if isinstance(record, QFormat):
        return str(record)
    if isinstance(record, enum.Enum):
        return record.value
    if dataclasses.is_dataclass(record):
        return {f.name: plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    return record


def _count_split(
    tally: Tally, plan: SplitPlan, datapath: SplitDatapath, channels: int, shared: float
) -> None:
    """Real DFTs of n1 points, Toeplitz products of the rows, transposed DFTs."""
    rows, columns, table = datapath.rows.format, datapath.columns.format, datapath.table
    factor = datapath.coefficient.bits
    for graph, words, share in (
        (real_dft(plan.n1), rows, shared),
        (transpose(real_dft(plan.n1)), columns, 1.0),
    ):
        products = sum(isinstance(node, Mul) for node in graph.nodes)
        sums = sum(isinstance(node, Add | Sub) for node in graph.nodes)
        width = words.bits + datapath.guard
        tally.multiply(width, factor, times=round(share * plan.n2 * products))
        tally.add(width, times=round(share * plan.n2 * sums))
        tally.store(factor, words=products)
    terms, weight = toeplitz_terms(plan.n1, plan.n2, channels)
    macs = int(np.count_nonzero(terms.sign))
    tally.multiply(rows.bits, table.bits, times=macs)
    tally.add(QFormat.for_multiply_accumulate(rows, table, terms.sign.shape[1]).bits, times=macs)
    tally.store(table.bits, words=int(weight.max()) + 1)


def _count_ntt(
    tally: Tally,
    length: int,
    data_bits: int,
    kernel_bits: int,
    *,
    channels: int,
    shared: float,
) -> None:
    """Transforms of residues, and a product per frequency and channel.

    A stage of radix r adds r - 1 times per output. Twiddle factors are signed powers of two (no
    multiplication, and one addition more where they are the sum of two) or residues. Every
    product counts once more for its reduction, as an addition of residues.
    """
    plan = ntt_plan(length, data_bits=data_bits, kernel_bits=kernel_bits)
    bits = plan.modulus.bit_length()
    tally.multiply(bits, bits, times=channels * length)
    tally.add(bits, times=(2 * channels - 1) * length)
    tally.store(bits, words=2 * channels * length)  # spectra of the kernel, lines
    for radix in plan.radices:
        times = round((1 + shared) * length * (radix - 1))
        tally.add(bits, times=times)
        if plan.shift_only:
            terms = max(len(terms) for terms in plan.shift_terms)
            tally.add(bits, times=times * (terms - 1))
        else:
            tally.multiply(bits, bits, times=times)
            tally.add(bits, times=times)
    if not plan.shift_only:
        tally.store(bits, words=length)


# What a worker keeps: lines and references are made once per length, words once per format.
@functools.lru_cache(maxsize=4)
def _lines(data: LineData, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lines (channels, lines per channel, N) and float64 results (kernels, lines, N)."""
    lines = draw(data, length).reshape(data.inputs, -1, length)
    spectrum = np.conj(np.fft.rfft(kernels(data, length)))
    transforms = np.fft.rfft(lines + _embedded(data, length)[:, None])
    if data.channels:
        products = np.einsum("clf,kcf->klf", transforms, spectrum)
    else:
        products = transforms * spectrum[:, None]
    result = np.fft.irfft(products, length)
    bias = biases(data)
    return lines, result if bias is None else result + bias[:, None, None]


def _embedded(data: LineData, length: int) -> NDArray[np.float64]:
    """The position embedding (channels, N), or zeros."""
    found = embedding(data, length)
    return np.zeros((data.inputs, length)) if found is None else found


@functools.lru_cache(maxsize=4)
def _quantised(data: LineData, length: int, fmt: QFormat, rounding: str) -> NDArray[Any]:
    return fixedpoint.quantize(_lines(data, length)[0], fmt, rounding=parse_rounding(rounding))
