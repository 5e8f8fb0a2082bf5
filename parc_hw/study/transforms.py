"""What does a Fourier transform lose in fixed point, measured and predicted?"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fixedpoint
from fixedpoint.bounds import fft_noise, rounding_noise, twiddle_error
from fixedpoint.mixed_radix import lower, run
from fixedpoint.modes import Overflow, parse_rounding
from fixedpoint.qformat import QFormat
from fixedpoint.scaling import BlockScaling, ScalingSchedule
from fixedpoint.stage import FftDatapath
from fixedpoint.trace import Trace
from parc_hw.errors import InputError
from parc_hw.plan import FftPlan, Order
from parc_hw.study.cost import Cost, Tally
from parc_hw.study.histogram import histogram
from parc_hw.study.knobs import Values
from parc_hw.study.lines import draw, errors, finite_db
from parc_hw.study.spec import LineData, StudySpec

__all__ = [
    "TransformSubject",
    "count_transform",
    "datapath_file",
    "fft_datapath",
    "fft_plan",
    "stage_rows",
]

_PROFILE_BITS = {"cmsis_q15": 16, "cmsis_q31": 32, "kissfft_16": 16, "kissfft_32": 32}
_MULTIPLY = 4  # the kind of a factor that is no quarter turn, in `mixed_radix.Program`
_SECONDS_PER_WORD = 6e-8  # of error reporting and drawing, one thread
_SECONDS_PER_POINT_STAGE = 4e-9


def fft_plan(point: Values, *, output_order: Order = Order.NATURAL) -> FftPlan:
    """The plan of a point: the radices that it names, or the usual ones of its length."""
    decimation = point.get("decimation", "dif")
    if point["radices"] == "default":
        return FftPlan.of(point["length"], decimation=decimation, output_order=output_order)
    return FftPlan(
        radices=tuple(point["radices"]), decimation=decimation, output_order=output_order
    )


def fft_datapath(point: Values, plan: FftPlan, fmt: QFormat, scaling: Any = None) -> FftDatapath:
    """The datapath of a point for input words of `fmt`; `scaling` replaces the point's own."""
    wanted = point["scaling"] if scaling is None else scaling
    block = BlockScaling() if wanted == "block" else None
    if isinstance(wanted, list):
        schedule = ScalingSchedule(tuple(wanted))
    else:
        schedule = ScalingSchedule.parse("none" if block else wanted, plan)
    return FftDatapath.of(
        plan,
        input=fmt,
        twiddle=point["twiddle_bits"],
        scaling=schedule,
        rounding=parse_rounding(point["rounding"]),
        overflow=Overflow(point["overflow"]),
        product=point["product"],
        block=block,
    )


class TransformSubject:
    """Complex transforms of random lines against those of float64.

    The error is that of the whole: the input is rounded to words as well.
    """

    def __init__(self, spec: StudySpec) -> None:
        assert isinstance(spec.data, LineData)
        self.spec = spec
        self.data = spec.data

    def parts(self, point: Values) -> int:
        """All lines at once."""
        return 1

    def evaluate(self, point: Values, part: int) -> dict[str, Any]:
        """Transform all lines and compare."""
        length = point["length"]
        reference = _lines(self.data, length)[1]
        if "profile" in point:
            fmt = QFormat(1, _PROFILE_BITS[point["profile"]] - 1)
            words = fixedpoint.fft(_quantised(self.data, length, fmt), profile=point["profile"])
            # These libraries scale by 1/N.
            return errors(words.astype(np.int64), fmt, reference / length) | {"overflowed": None}
        plan = self._plan(point)
        fmt = QFormat(1, point["data_bits"] - 1)
        datapath = fft_datapath(point, plan, fmt)
        raw = _quantised(self.data, length, fmt, point["rounding"])
        result = run(lower(plan, datapath), raw)
        if datapath.block is None:
            metrics = errors(result.words, datapath.output, reference)
            metrics["predicted_sqnr_db"] = self._predicted(point, plan, datapath, reference)
        else:
            metrics = errors(*_aligned(result.words, result.exponents, datapath.output), reference)
        return metrics | {"overflowed": int(result.overflowed.sum())}

    def _plan(self, point: Values) -> FftPlan:
        plan = fft_plan(point)
        if plan.length != point["length"]:
            raise InputError(f"radices {point['radices']} make {plan.length}, not the length.")
        return plan

    def _predicted(
        self, point: Values, plan: FftPlan, datapath: FftDatapath, reference: NDArray[Any]
    ) -> float | None:
        """SQNR by theory: roundings, stage by stage, and the twiddle factors' own."""
        rounding = parse_rounding(point["rounding"])
        incoming = rounding_noise(None, rounding)
        noise = fft_noise(plan, datapath, incoming=incoming)
        signal = float(np.mean(np.abs(reference) ** 2)) / 2 / datapath.output.lsb**2
        power = noise.power + signal * twiddle_error(plan, datapath)
        return finite_db(10 * math.log10(signal / power)) if power else None

    def merge(self, point: Values, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """There is one part."""
        return dict(parts[0])

    def details(self, point: Values) -> dict[str, Any]:
        """Trace the stages of a datapath; a profile has none to show."""
        length = point["length"]
        if "profile" in point:
            fmt = QFormat(1, _PROFILE_BITS[point["profile"]] - 1)
            raw = _quantised(self.data, length, fmt)
            words = fixedpoint.fft(raw, profile=point["profile"])
            shown = (("input", raw, fmt), ("output", words, fmt))
            file = {"schema": 1, "kind": "fft", "length": length, "profile": point["profile"]}
            return {
                "ranges": [histogram(n, w, str(f)) for n, w, f in shown],
                "stages": [],
                "datapath": datapath_file(file),
            }
        plan = self._plan(point)
        fmt = QFormat(1, point["data_bits"] - 1)
        datapath = fft_datapath(point, plan, fmt)
        raw = _quantised(self.data, length, fmt, point["rounding"])
        trace = fixedpoint.fft(raw, plan=plan, datapath=datapath, trace="words")[-1]
        ranges = [histogram("input", _lines(self.data, length)[0], str(fmt))]
        for stage, words in zip(trace.stages, trace.words, strict=True):
            ranges.append(histogram(stage.name, words, str(stage.format)))
        file = {"schema": 1, "kind": "fft", "plan": plan.to_json(), "datapath": datapath.to_json()}
        return {
            "ranges": ranges,
            "stages": stage_rows(trace),
            "datapath": datapath_file(file),
        }

    def cost(self, point: Values) -> Cost:
        """Resources of one complex transform."""
        tally = Tally()
        if "profile" in point:
            bits = _PROFILE_BITS[point["profile"]]
            plan = FftPlan.of(point["length"])
            assumed = FftDatapath.of(plan, bits=bits)
        else:
            plan = self._plan(point)
            assumed = fft_datapath(point, plan, QFormat(1, point["data_bits"] - 1))
        count_transform(tally, plan, assumed)
        tally.store(max(fmt.bits for fmt in assumed.formats), words=2 * plan.length)
        return tally.cost(self.spec.cost)

    def seconds(self, point: Values) -> float:
        """By the number of words."""
        words = 2 * self.data.lines * point["length"]
        stages = math.log2(point["length"] + 1)
        return words * (_SECONDS_PER_WORD + _SECONDS_PER_POINT_STAGE * stages)


def count_transform(
    tally: Tally,
    plan: FftPlan,
    datapath: FftDatapath,
    *,
    share: float = 1.0,
    table: bool = True,
) -> None:
    """Count one complex transform: multipliers, adders and its table of twiddle factors.

    Parameters
    ----------
    tally : Tally
    plan, datapath
    share : float
        Of the arithmetic that belongs to one line: 1/2 where two real lines share a transform.
    table : bool
        Count the table: an inverse transform takes the forward one's.

    Notes
    -----
    A butterfly of odd radix r has m = (r - 1) / 2 pairs of legs; their sums meet m**2 cosines and
    their differences m**2 sines, twice for a complex number: 4 m**2 real multiplications and
    4 m (m + 1) + 2 m real additions. Radix 2 has 4 and radix 4 has 16 additions, and neither has
    multiplications. Every twiddle factor that is no quarter turn takes 4 multiplications and 2
    additions.
    """
    # Which factors there are does not depend on how wide they are.
    kinds = lower(plan, FftDatapath.of(plan, bits=8)).kind
    stages = zip(plan.radices, datapath.stages, datapath.formats, kinds, strict=False)
    for radix, stage, fmt, kind in stages:
        count = plan.length // radix
        width, factor = fmt.bits, stage.twiddle.bits
        if radix in (2, 4):
            tally.add(width + radix // 2, times=round(share * count * (4 if radix == 2 else 16)))
        else:
            pairs = (radix - 1) // 2
            tally.multiply(width + 1, factor, times=round(share * count * 4 * pairs**2))
            additions = 4 * pairs * (pairs + 1) + 2 * pairs
            tally.add(width + 3, times=round(share * count * additions))
        factors = int((kind == _MULTIPLY).sum())
        tally.multiply(width + 1, factor, times=round(share * 4 * factors))
        tally.add(width + factor, times=round(share * 2 * factors))
        tally.store(factor, words=2 * factors if table else 0)


def stage_rows(trace: Trace | Any) -> list[dict[str, Any]]:
    """What a plot and a table of stages show."""
    rows = []
    for index, stage in enumerate(trace.stages):
        error = getattr(stage, "error", None)
        rows.append(
            {
                "name": getattr(stage, "name", f"stage {index + 1}"),
                "format": str(stage.format),
                "peak": float(stage.peak),
                "headroom_bits": finite_db(float(stage.headroom_bits)),
                "overflowed": int(stage.overflowed),
                "words": int(stage.words) if isinstance(stage.words, int) else None,
                "sqnr_db": None if error is None else finite_db(error.sqnr_db),
            }
        )
    return rows


def datapath_file(document: dict[str, Any]) -> dict[str, str]:
    """A datapath as the text of a JSON file."""
    return {"suffix": ".json", "text": json.dumps(document, indent=2) + "\n"}


def _aligned(
    words: NDArray[Any], exponents: NDArray[Any], fmt: QFormat
) -> tuple[NDArray[Any], QFormat]:
    """Block floating point as fixed point: all frames at the smallest exponent's binary point."""
    least = int(exponents.min())
    up = (np.asarray(exponents) - least)[:, None, None]
    frac = fmt.frac_bits - least
    bits = min(64, fmt.bits + int(up.max()))
    return words.astype(np.int64) << up, replace(fmt, int_bits=bits - frac, frac_bits=frac)


@functools.lru_cache(maxsize=4)
def _lines(data: LineData, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
    lines = draw(data, length, parts=2)
    return lines, np.fft.fft(lines[..., 0] + 1j * lines[..., 1], axis=-1)


@functools.lru_cache(maxsize=8)
def _quantised(
    data: LineData, length: int, fmt: QFormat, rounding: str = "half_even"
) -> NDArray[Any]:
    return fixedpoint.quantize(_lines(data, length)[0], fmt, rounding=parse_rounding(rounding))
