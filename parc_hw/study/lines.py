"""Which lines and kernels does a study send through, and which measures of error come back?"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.qformat import QFormat
from fixedpoint.report import ErrorReport
from parc_hw.study.spec import LineData

__all__ = ["draw", "errors", "finite_db", "format_for", "kernels", "spectra"]

Values = NDArray[np.float64]

_DATA, _KERNELS = 0, 1  # streams of the generator: more lines do not change the kernels


def draw(data: LineData, length: int, *, parts: int = 1) -> Values:
    """Draw the lines of a study.

    Parameters
    ----------
    data : LineData
    length : int
        N.
    parts : int
        2 for complex lines.

    Returns
    -------
    float64 array, shape (lines, N) or (lines, N, parts)
        Equal seeds give equal numbers.
    """
    shape = (data.lines, length) if parts == 1 else (data.lines, length, parts)
    rng = np.random.default_rng((data.seed, _DATA))
    if data.source == "normal":
        return rng.standard_normal(shape) * data.amplitude
    return rng.uniform(-data.amplitude, data.amplitude, shape)


@functools.lru_cache(maxsize=8)
def kernels(data: LineData, length: int) -> Values:
    """Draw the kernels of a study: normal taps, the largest magnitude of the spectrum 1.

    So no frequency is amplified, whatever the length.

    Returns
    -------
    float64 array, shape (kernels, N)
    """
    taps = np.random.default_rng((data.seed, _KERNELS)).standard_normal((data.kernels, length))
    return np.asarray(taps / np.abs(spectra(taps)).max(axis=1, keepdims=True))


def spectra(taps: Values) -> NDArray[np.complex128]:
    """The kernels' spectra at the frequencies 0 to N/2."""
    return np.asarray(np.fft.rfft(taps, axis=-1))


def format_for(peak: float, bits: int) -> QFormat:
    """Return the signed format of `bits` with the fewest integer bits that holds +-peak.

    >>> print(format_for(0.3, 8), format_for(1.0, 8), format_for(0.0, 8))
    Q0.8 Q2.6 Q1.7
    """
    # The largest word is (1 - 2**(1 - bits)) * 2**(int_bits - 1).
    int_bits = 1 if peak == 0.0 else math.frexp(peak)[1] + 1
    if peak > math.ldexp(1 - 2.0 ** (1 - bits), int_bits - 1):
        int_bits += 1
    return QFormat(int_bits, bits - int_bits)


def errors(raw: NDArray[Any], fmt: QFormat, reference: NDArray[Any]) -> dict[str, Any]:
    """Measure stored integers against real numbers, as the metrics that a study keeps.

    Returns
    -------
    dict
        "sqnr_db" with a 95 % interval, the gain-corrected one, bias, RMS and largest error in
        LSB, the effective bits, the saturated fraction; None for what is infinite.
    """
    found = ErrorReport.of(raw, fmt, reference)
    low, high = found.sqnr_interval_db or (found.sqnr_db, found.sqnr_db)
    return {
        "sqnr_db": finite_db(found.sqnr_db),
        "sqnr_low_db": finite_db(low),
        "sqnr_high_db": finite_db(high),
        "gain_corrected_sqnr_db": finite_db(found.gain_corrected_sqnr_db),
        "enob": finite_db(found.enob),
        "bias_lsb": found.bias_lsb,
        "rms_lsb": found.rms_lsb,
        "max_abs_lsb": found.max_abs_lsb,
        "saturated_fraction": found.saturated_fraction,
        "format": found.format,
    }


def finite_db(value: float) -> float | None:
    """JSON has no infinity: None, for a ratio without noise or without signal."""
    return value if math.isfinite(value) else None
