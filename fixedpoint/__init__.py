"""How wrong is it in fixed point: formats, rounding, overflow and their errors?

Nothing is imported until it is used, numba least of all: every name below comes from its module
on first use.

>>> import fixedpoint as fx
>>> fx.quantize([0.5, -1.0], "Q1.15")
array([ 16384, -32768])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fixedpoint import bounds, exact, ntt, profiles, vectors
    from fixedpoint.arith import (
        accumulate,
        add,
        complex_multiply,
        convert,
        finest_format,
        mul,
        quantize,
        requantize,
        sub,
        to_value,
    )
    from fixedpoint.certificate import Certificate, Verdict, certify
    from fixedpoint.datapath import Cut, Datapath, OverflowCounter
    from fixedpoint.errors import FixedPointOverflow, FormatError, ScalingError
    from fixedpoint.fft_trace import FftTrace
    from fixedpoint.modes import Overflow, Rounding, parse_rounding
    from fixedpoint.ntt import NttPlan, circular_correlate, kernel_spectrum, ntt_plan
    from fixedpoint.operator import parc, parse_plan
    from fixedpoint.paths import (
        DirectDatapath,
        FourierDatapath,
        NttDatapath,
        ParcDatapath,
        SplitDatapath,
    )
    from fixedpoint.prediction import Prediction, predict_noise
    from fixedpoint.qformat import QFormat
    from fixedpoint.report import ErrorReport, error_spectrum, input_correlation
    from fixedpoint.scaling import BlockRule, BlockScaling, ScalingSchedule
    from fixedpoint.spectral import spectrum_format
    from fixedpoint.split import table_format
    from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
    from fixedpoint.trace import StageError, StageTrace, Trace
    from fixedpoint.transform import fft, irfft, rfft
    from fixedpoint.twiddle import TwiddleFormat
    from parc_hw.plan import FftPlan

__all__ = [
    "BlockRule",
    "BlockScaling",
    "Certificate",
    "Cut",
    "Datapath",
    "DirectDatapath",
    "ErrorReport",
    "FftDatapath",
    "FftPlan",
    "FftTrace",
    "FixedPointOverflow",
    "FormatError",
    "FourierDatapath",
    "NttDatapath",
    "NttPlan",
    "Overflow",
    "OverflowCounter",
    "ParcDatapath",
    "Point",
    "Prediction",
    "QFormat",
    "Rounding",
    "ScalingError",
    "ScalingSchedule",
    "SplitDatapath",
    "StageDatapath",
    "StageError",
    "StageTrace",
    "Trace",
    "Trivial",
    "TwiddleFormat",
    "Verdict",
    "accumulate",
    "add",
    "bounds",
    "certify",
    "circular_correlate",
    "complex_multiply",
    "convert",
    "error_spectrum",
    "exact",
    "fft",
    "finest_format",
    "input_correlation",
    "irfft",
    "kernel_spectrum",
    "mul",
    "ntt",
    "ntt_plan",
    "parc",
    "parse_plan",
    "parse_rounding",
    "predict_noise",
    "profiles",
    "quantize",
    "requantize",
    "rfft",
    "spectrum_format",
    "sub",
    "table_format",
    "to_value",
    "vectors",
]

_NAMES = {
    "fixedpoint.arith": (
        "accumulate add complex_multiply convert finest_format mul quantize requantize sub to_value"
    ),
    "fixedpoint.certificate": "Certificate Verdict certify",
    "fixedpoint.datapath": "Cut Datapath OverflowCounter",
    "fixedpoint.fft_trace": "FftTrace",
    "fixedpoint.errors": "FixedPointOverflow FormatError ScalingError",
    "fixedpoint.modes": "Overflow Rounding parse_rounding",
    "fixedpoint.ntt": "NttPlan circular_correlate kernel_spectrum ntt_plan",
    "fixedpoint.operator": "parc parse_plan",
    "fixedpoint.paths": ("DirectDatapath FourierDatapath NttDatapath ParcDatapath SplitDatapath"),
    "fixedpoint.prediction": "Prediction predict_noise",
    "fixedpoint.qformat": "QFormat",
    "fixedpoint.report": "ErrorReport error_spectrum input_correlation",
    "fixedpoint.scaling": "BlockRule BlockScaling ScalingSchedule",
    "fixedpoint.spectral": "spectrum_format",
    "fixedpoint.split": "table_format",
    "fixedpoint.stage": "FftDatapath Point StageDatapath Trivial",
    "fixedpoint.trace": "StageError StageTrace Trace",
    "fixedpoint.transform": "fft irfft rfft",
    "fixedpoint.twiddle": "TwiddleFormat",
    "parc_hw.plan": "FftPlan",
}
_LAZY = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("bounds", "exact", "ntt", "profiles", "vectors")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"fixedpoint.{name}")
    raise AttributeError(f"module 'fixedpoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
