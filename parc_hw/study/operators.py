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
from fixedpoint.paths import DirectDatapath, FourierDatapath, NttDatapath, ParcDatapath
from fixedpoint.prediction import predict_noise
from fixedpoint.qformat import QFormat
from fixedpoint.scaling import BlockScaling, ScalingSchedule
from fixedpoint.spectral import spectrum_format
from parc_hw.plan import FftPlan, Order
from parc_hw.spec import Axis, ParcSpec
from parc_hw.study.cost import Cost, Tally
from parc_hw.study.histogram import histogram
from parc_hw.study.knobs import Values
from parc_hw.study.lines import draw, errors, finite_db, format_for, kernels
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


class OperatorSubject:
    """Depthwise ParC of random lines against float64.

    The error is that of the whole: lines and kernels are rounded to words as well.
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
        """Resources of one line of one channel."""
        tally = Tally()
        length, data, kernel = point["length"], point["data_bits"], point["kernel_bits"]
        datapath = self._path(point)
        output = datapath.output.format.bits
        tally.store(data, words=length)
        tally.store(output, words=length)
        if point["plan"] == "direct":
            assert isinstance(datapath, DirectDatapath)
            register = datapath.accumulator
            exact = QFormat.for_multiply_accumulate(datapath.summand, datapath.kernel, length)
            width = exact.bits if register is None else register.format.bits
            tally.multiply(data, kernel, times=length**2)
            tally.add(width, times=length**2)
            tally.store(kernel, words=length)
            tally.store(width, words=1)
        elif isinstance(datapath, FourierDatapath):
            plan = self._fft_plan(point)
            # Two lines share a transform, as its real and its imaginary part.
            count_transform(tally, plan, datapath.forward, share=0.5)
            count_transform(tally, plan.transposed, datapath.inverse, share=0.5, table=False)
            wide = datapath.forward.output.bits
            tally.multiply(wide, kernel, times=2 * length)  # N complex products for two lines
            tally.add(wide + kernel, times=length)
            tally.store(kernel, words=length)  # the spectrum of a real kernel
        else:
            _count_ntt(tally, length, data, kernel)
        return tally.cost(self.spec.cost)

    def seconds(self, point: Values) -> float:
        """By the numbers of words and of products."""
        words = self.data.lines * point["length"]
        macs = words * point["length"] * _SECONDS_PER_MAC[point["plan"]]
        return words * _SECONDS_PER_WORD + macs

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
        if point["plan"] == "ntt":
            return NttDatapath(**ends)
        if point["plan"] == "fft":
            return self._fourier(point, ends, peak)
        width = point["accumulator_bits"]
        if width == 0:
            return DirectDatapath(**ends)
        gain = float(np.abs(taps).sum(axis=1).max()) * float(-data.min_value)
        register = format_for(gain, width)
        product = QFormat.for_mul(data, kernel)
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
        return ParcSpec(axis=Axis.W, batch=1, channels=channels, height=height, width=length)

    def _plan(self, point: Values) -> FftPlan | str:
        return self._fft_plan(point) if point["plan"] == "fft" else str(point["plan"])

    def _fft_plan(self, point: Values) -> FftPlan:
        return fft_plan(point, output_order=Order.DIGIT_REVERSED)

    def _fourier(self, point: Values, ends: dict[str, Any], peak: float) -> FourierDatapath:
        """Transforms whose words have `guard_bits` fraction bits more than the data.

        The products have the integer bits that the output needs, because the inverse transform is
        not scaled: 1/N is in the spectrum.
        """
        data, guard = ends["data"], point["guard_bits"]
        inside = QFormat(data.int_bits, data.frac_bits + guard)
        whole = format_for(float(np.abs(kernels(self.data, point["length"])).max()), _EXACT_BITS)
        words = fixedpoint.quantize(kernels(self.data, point["length"]), whole)
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
        if trace:
            words, found = parc(x[None], w, **shared, trace=True)
            return words[0], found
        return parc(x[None], w, **shared, counter=counter)[0]

    def _predicted(self, point: Values, datapath: ParcDatapath) -> float | None:
        """SQNR by theory: the words of lines and kernels, and what the datapath adds."""
        length = point["length"]
        x, reference = _lines(self.data, length)
        taps = kernels(self.data, length)
        power, signal = float(np.mean(x**2)), float(np.mean(reference**2))
        found = predict_noise(
            fixedpoint.quantize(taps, datapath.kernel),
            spec=self._spec(x, length),
            plan=self._plan(point),
            datapath=datapath,
            input_power=power,
        )
        if found is None:
            return None
        words = rounding_noise(None, parse_rounding(point["rounding"]))
        gain = float((taps**2).sum(axis=1).mean())
        sums = float(np.mean(taps.sum(axis=1) ** 2))
        noise = found.high.power * datapath.output.format.lsb**2
        noise += (words.variance * gain + words.mean**2 * sums) * self._data(point).lsb ** 2
        noise += weight_noise(length, input_power=power, weight_lsb=datapath.kernel.lsb).power
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


def _count_ntt(tally: Tally, length: int, data_bits: int, kernel_bits: int) -> None:
    """Two transforms of residues, and a product per frequency.

    A stage of radix r adds r - 1 times per output. Twiddle factors are signed powers of two (no
    multiplication, and one addition more where they are the sum of two) or residues. Every
    product counts once more for its reduction, as an addition of residues.
    """
    plan = ntt_plan(length, data_bits=data_bits, kernel_bits=kernel_bits)
    bits = plan.modulus.bit_length()
    tally.multiply(bits, bits, times=length)
    tally.add(bits, times=length)
    tally.store(bits, words=2 * length)  # spectrum of the kernel, line
    for radix in plan.radices:
        tally.add(bits, times=2 * length * (radix - 1))
        if plan.shift_only:
            terms = max(len(terms) for terms in plan.shift_terms)
            tally.add(bits, times=2 * length * (radix - 1) * (terms - 1))
        else:
            tally.multiply(bits, bits, times=2 * length * (radix - 1))
            tally.add(bits, times=2 * length * (radix - 1))
    if not plan.shift_only:
        tally.store(bits, words=length)


# What a worker keeps: lines and references are made once per length, words once per format.
@functools.lru_cache(maxsize=4)
def _lines(data: LineData, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lines and float64 results, (kernels, lines per kernel, N)."""
    lines = draw(data, length).reshape(data.kernels, -1, length)
    spectrum = np.conj(np.fft.rfft(kernels(data, length)))[:, None]
    return lines, np.fft.irfft(np.fft.rfft(lines) * spectrum, length)


@functools.lru_cache(maxsize=4)
def _quantised(data: LineData, length: int, fmt: QFormat, rounding: str) -> NDArray[Any]:
    return fixedpoint.quantize(_lines(data, length)[0], fmt, rounding=parse_rounding(rounding))
