"""Which lines and kernels does a study send through, and which measures of error come back?"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.qformat import QFormat
from fixedpoint.report import ErrorReport
from parc_hw.errors import InputError
from parc_hw.study.files import load_file
from parc_hw.study.spec import LineData

__all__ = ["biases", "draw", "embedding", "errors", "finite_db", "format_for", "kernels", "spectra"]

Values = NDArray[np.float64]

# Streams of the generator: more lines do not change the kernels.
_DATA, _KERNELS, _EMBEDDING, _BIAS = range(4)


def draw(data: LineData, length: int, *, parts: int = 1) -> Values:
    """Draw the lines of a study, or read them from its file.

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

    Raises
    ------
    InputError
        A file with lines of another length.
    """
    if data.file:
        values = load_file(data.file, data.file_digest)
        _check_length(data.file, values.shape[1], length)
        return values
    shape = (data.lines, length) if parts == 1 else (data.lines, length, parts)
    rng = np.random.default_rng((data.seed, _DATA))
    if data.source == "normal":
        return rng.standard_normal(shape) * data.amplitude
    return rng.uniform(-data.amplitude, data.amplitude, shape)


@functools.lru_cache(maxsize=8)
def kernels(data: LineData, length: int) -> Values:
    """Draw the kernels of a study: normal taps, the largest magnitude of the spectrum 1.

    So no frequency is amplified, whatever the length. Of a dense kernel the magnitudes of all
    channels are added first. Kernels of a file are taken as they are.

    Returns
    -------
    float64 array, shape (kernels, N), dense (kernels, channels, N)

    Raises
    ------
    InputError
        A file with kernels of another length.
    """
    if data.kernels_file:
        values = load_file(data.kernels_file, data.kernels_digest)
        _check_length(data.kernels_file, values.shape[-1], length)
        return values
    each = (data.kernels, data.channels or 1, length)
    taps = np.random.default_rng((data.seed, _KERNELS)).standard_normal(each)
    taps /= np.abs(spectra(taps)).sum(axis=1).max(axis=1)[:, None, None]
    return taps if data.channels else taps[:, 0]


def embedding(data: LineData, length: int) -> Values | None:
    """Draw the position embedding (channels, N), if there is one."""
    shape = (data.inputs, length)
    return _even((data.seed, _EMBEDDING), data.embedding, shape)


def biases(data: LineData) -> Values | None:
    """Draw the bias of each kernel, if there is one."""
    return _even((data.seed, _BIAS), data.bias, (data.kernels,))


def _even(seed: tuple[int, int], amplitude: float, shape: tuple[int, ...]) -> Values | None:
    if not amplitude:
        return None
    return np.random.default_rng(seed).uniform(-amplitude, amplitude, shape)


def _check_length(file: str, found: int, length: int) -> None:
    if found != length:
        raise InputError(
            f"{file} has {found} points per line, and this point's length is {length}."
        )


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
