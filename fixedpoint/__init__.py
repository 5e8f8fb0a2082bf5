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
    from fixedpoint import exact, ntt, profiles
    from fixedpoint.arith import (
        accumulate,
        add,
        complex_multiply,
        convert,
        mul,
        quantize,
        requantize,
        sub,
        to_value,
    )
    from fixedpoint.datapath import Cut, Datapath, OverflowCounter
    from fixedpoint.errors import FixedPointOverflow, FormatError, ScalingError
    from fixedpoint.modes import Overflow, Rounding, parse_rounding
    from fixedpoint.ntt import NttPlan, circular_correlate, kernel_spectrum, ntt_plan
    from fixedpoint.qformat import QFormat
    from fixedpoint.report import ErrorReport, error_spectrum, input_correlation
    from fixedpoint.transform import fft, rfft

__all__ = [
    "Cut",
    "Datapath",
    "ErrorReport",
    "FixedPointOverflow",
    "FormatError",
    "NttPlan",
    "Overflow",
    "OverflowCounter",
    "QFormat",
    "Rounding",
    "ScalingError",
    "accumulate",
    "add",
    "circular_correlate",
    "complex_multiply",
    "convert",
    "error_spectrum",
    "exact",
    "fft",
    "input_correlation",
    "kernel_spectrum",
    "mul",
    "ntt",
    "ntt_plan",
    "parse_rounding",
    "profiles",
    "quantize",
    "requantize",
    "rfft",
    "sub",
    "to_value",
]

_NAMES = {
    "fixedpoint.arith": (
        "accumulate add complex_multiply convert mul quantize requantize sub to_value"
    ),
    "fixedpoint.datapath": "Cut Datapath OverflowCounter",
    "fixedpoint.errors": "FixedPointOverflow FormatError ScalingError",
    "fixedpoint.modes": "Overflow Rounding parse_rounding",
    "fixedpoint.ntt": "NttPlan circular_correlate kernel_spectrum ntt_plan",
    "fixedpoint.qformat": "QFormat",
    "fixedpoint.report": "ErrorReport error_spectrum input_correlation",
    "fixedpoint.transform": "fft rfft",
}
_LAZY = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("exact", "ntt", "profiles")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"fixedpoint.{name}")
    raise AttributeError(f"module 'fixedpoint' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
