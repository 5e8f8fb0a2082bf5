"""How far are the words that a datapath gave from the numbers they should have been?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.arith import to_value
from fixedpoint.qformat import QFormat, as_format
from parc_hw.errors import InputError

if TYPE_CHECKING:
    from fixedpoint.prediction import Prediction

__all__ = ["ErrorReport", "error_spectrum", "input_correlation"]

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """The error of stored integers against real numbers; `ErrorReport.of` measures it.

    An error is value - reference. `lsb` figures are in units of the format's LSB, the others in
    the reference's units; a complex number counts as two.

    Attributes
    ----------
    format : str
        The format of the measured words.
    words, lines : int
        How many real numbers, on how many lines (signals).
    max_abs, max_abs_lsb : float
        Largest error.
    worst_index : tuple of int
        Where it is in the raw array.
    rms, rms_lsb : float
        Root of the mean squared error, bias included.
    bias, bias_lsb : float
        Mean error.
    deviation, deviation_lsb : float
        Root of the mean squared error around its mean: rms**2 = bias**2 + deviation**2.
    sqnr_db : float
        Mean square of the reference over that of the error; inf without any error.
    sqnr_interval_db : tuple of 2 floats, or None
        Confidence interval of `sqnr_db`; None for fewer than two samples, or an infinite ratio.
    confidence : float
        Its probability.
    gain : float
        The factor of the reference that fits the values best (least squares).
    gain_corrected_sqnr_db : float
        The ratio for value / gain: what is left when a scale error is no error.
    enob : float
        Bits of an ideal quantiser of the format's full range with the same rms error.
    saturated_fraction : float
        Share of the words at the lowest or the highest stored integer.
    """

    format: str
    words: int
    lines: int
    max_abs: float
    max_abs_lsb: float
    worst_index: tuple[int, ...]
    rms: float
    rms_lsb: float
    bias: float
    bias_lsb: float
    deviation: float
    deviation_lsb: float
    sqnr_db: float
    sqnr_interval_db: tuple[float, float] | None
    confidence: float
    gain: float
    gain_corrected_sqnr_db: float
    enob: float
    saturated_fraction: float

    @classmethod
    def of(
        cls,
        raw: ArrayLike,
        fmt: QFormat | str,
        reference: ArrayLike,
        *,
        confidence: float = 0.95,
    ) -> Self:
        """Measure `raw`, words of `fmt`, against `reference`.

        Parameters
        ----------
        raw : array of integers, shape (..., N), or (..., N, 2) for a complex reference
            Stored integers. The leading axes are lines: signals taken independently.
        fmt : QFormat or str
            Their format.
        reference : float or complex array, shape (..., N)
            What they should stand for, finite.
        confidence : float
            Probability of the interval of `sqnr_db`, in (0, 1).

        Raises
        ------
        InputError
            Empty data, differing shapes, NaN or infinity, floats instead of raw integers.

        Notes
        -----
        The interval takes the lines as independent samples of (signal power, noise power) and
        the ratio's logarithm as normal (delta method, Student's t); on a single line, its
        elements. It says how far the measured data determine the ratio, and nothing about other
        kinds of data.

        References
        ----------
        IEEE Std 1241, effective number of bits; Cochran, Sampling Techniques, ratio estimators.

        Examples
        --------
        >>> x = np.linspace(-0.9, 0.9, 1001)
        >>> from fixedpoint import quantize
        >>> found = ErrorReport.of(quantize(x, "Q1.15"), "Q1.15", x)
        >>> found.max_abs_lsb <= 0.5, round(found.enob)
        (True, 16)
        """
        fmt = as_format(fmt)
        if not 0 < confidence < 1:
            raise InputError(f"confidence is {confidence!r}: expected a probability in (0, 1).")
        words, value, exact = _comparable(raw, fmt, reference)
        error = value - exact
        # Lines of samples: a complex sample has both parts' power.
        powers = [np.abs(np.atleast_1d(part)) ** 2 for part in (exact, error)]
        signal, noise = (power.reshape(-1, power.shape[-1]) for power in powers)
        lines = signal.shape[0]

        flat = _parts(error)
        worst = int(np.abs(flat).argmax())
        rms, bias = math.sqrt(float(np.mean(flat**2))), float(flat.mean())
        deviation = float(flat.std())
        lsb = fmt.lsb

        gain, corrected = _gain(_parts(exact), _parts(value))
        sqnr = _decibel(float(signal.sum()), float(noise.sum()))
        samples = (signal[0], noise[0]) if lines == 1 else (signal.mean(axis=1), noise.mean(axis=1))
        ends = (words == fmt.min_raw) | (words == fmt.max_raw)
        full_range_lsb = 2.0**fmt.bits
        return cls(
            format=str(fmt),
            words=words.size,
            lines=lines,
            max_abs=float(abs(flat[worst])),
            max_abs_lsb=float(abs(flat[worst])) / lsb,
            worst_index=tuple(int(i) for i in np.unravel_index(worst, words.shape)),
            rms=rms,
            rms_lsb=rms / lsb,
            bias=bias,
            bias_lsb=bias / lsb,
            deviation=deviation,
            deviation_lsb=deviation / lsb,
            sqnr_db=sqnr,
            sqnr_interval_db=_interval(sqnr, *samples, confidence),
            confidence=confidence,
            gain=gain,
            gain_corrected_sqnr_db=corrected,
            enob=math.log2(full_range_lsb / (rms / lsb * math.sqrt(12))) if rms else math.inf,
            saturated_fraction=float(ends.mean()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)

    def rows(self, predicted: Prediction | None = None) -> list[tuple[str, str, str]]:
        """Return name, measured and predicted figure as texts, one row for each kind of error.

        Parameters
        ----------
        predicted : Prediction, optional
            `fixedpoint.predict_noise` for the same datapath; empty texts without it.
        """
        interval = ""
        if self.sqnr_interval_db is not None:
            low, high = self.sqnr_interval_db
            interval = f" ({low:.2f} to {high:.2f} at {100 * self.confidence:g} %)"
        theory: dict[str, str] = {}
        if predicted is not None:
            ends = predicted.low, predicted.high
            theory["RMS"] = _between([f"{noise.rms:.4g}" for noise in ends], "LSB")
            theory["bias"] = _between([f"{noise.mean:.4g}" for noise in ends], "LSB")
            if self.rms_lsb > 0.0 and math.isfinite(self.sqnr_db):
                shifts = [20 * math.log10(self.rms_lsb / n.rms) for n in reversed(ends) if n.rms]
                texts = [f"{self.sqnr_db + shift:.2f}" for shift in shifts]
                theory["SQNR"] = _between(texts, "dB") if texts else ""
        measured = (
            ("SQNR", f"{self.sqnr_db:.2f} dB{interval}"),
            ("gain-corrected", f"{self.gain_corrected_sqnr_db:.2f} dB, gain {self.gain:.7g}"),
            ("ENOB", f"{self.enob:.2f} bits"),
            ("max", f"{self.max_abs_lsb:.4g} LSB = {self.max_abs:.4g} at {self.worst_index}"),
            ("RMS", f"{self.rms_lsb:.4g} LSB = {self.rms:.4g}"),
            ("bias", f"{self.bias_lsb:.4g} LSB = {self.bias:.4g}"),
            ("saturated", f"{100 * self.saturated_fraction:.4g} % of the words"),
        )
        return [(name, text, theory.get(name, "")) for name, text in measured]

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.words} words of {self.format} on {self.lines} lines",
                *(f"  {name:<15} {text}" for name, text, _ in self.rows()),
            )
        )


def _between(texts: list[str], unit: str) -> str:
    """One figure, or two with "to" between."""
    return f"{' to '.join(dict.fromkeys(texts))} {unit}"


def error_spectrum(
    raw: ArrayLike, fmt: QFormat | str, reference: ArrayLike
) -> tuple[Values, Values]:
    """Return the power of the error at each frequency, averaged over the lines.

    Parameters
    ----------
    raw, fmt, reference
        As for `ErrorReport.of`.

    Returns
    -------
    frequency : float array
        In cycles per sample: 0 .. 1/2 for real lines, -1/2 .. 1/2 ascending for complex ones.
    power_lsb2 : float array of the same shape
        In squared LSB; sums to the mean squared error of a sample. White noise is flat; a bias
        stands at frequency 0, a limit cycle or spurious tone as a line.

    Raises
    ------
    InputError
        As `ErrorReport.of`.

    Examples
    --------
    >>> frequency, power = error_spectrum([3, 3, 3, 3], "Q4.0", [2.0, 2.0, 2.0, 2.0])
    >>> print(frequency, power)
    [0.   0.25 0.5 ] [1. 0. 0.]
    """
    from scipy import signal

    fmt = as_format(fmt)
    _, value, exact = _comparable(raw, fmt, reference)
    error = np.atleast_1d(value - exact) / fmt.lsb
    # The power in each bin, nothing subtracted: a bias is what one looks for.
    frequency, power = signal.periodogram(
        error.reshape(-1, error.shape[-1]), detrend=False, scaling="spectrum", axis=-1
    )
    order = np.argsort(frequency, kind="stable")
    return frequency[order], power.mean(axis=0)[order]


def input_correlation(
    raw: ArrayLike, fmt: QFormat | str, reference: ArrayLike, signal: ArrayLike
) -> Values:
    """Return the correlation coefficients of the error with `signal` at every circular lag.

    Noise theory takes the error as independent of the input. Here a coefficient far beyond
    1 / sqrt(words) says that it is not.

    Parameters
    ----------
    raw, fmt, reference
        As for `ErrorReport.of`.
    signal : array, shape of `reference`
        The input, or whatever the error may depend on.

    Returns
    -------
    float array, shape (N,)
        Element k: the error at i against the signal at (i + k) mod N, over all lines, means
        removed; the real part for complex data. Zero where either is constant.

    Raises
    ------
    InputError
        As `ErrorReport.of`, and a signal of another shape.

    Examples
    --------
    An error of one LSB where the signal is high:

    >>> signal = np.array([0.0, 0.0, 4.0, 0.0])
    >>> input_correlation([0, 0, 5, 0], "Q4.0", signal, signal).round(3)
    array([ 1.   , -0.333, -0.333, -0.333])
    """
    from scipy import fft

    _, value, exact = _comparable(raw, as_format(fmt), reference)
    error = np.atleast_1d(value - exact)
    other = np.atleast_1d(np.asarray(signal))
    if other.shape != error.shape:
        raise InputError(f"signal has shape {other.shape}, and the reference {error.shape}.")
    if not np.isfinite(other).all():
        raise InputError("signal holds a NaN or an infinity.")
    error, other = error - error.mean(), other - other.mean()
    scale = math.sqrt(float(np.sum(np.abs(error) ** 2)) * float(np.sum(np.abs(other) ** 2)))
    length = error.shape[-1]
    if scale == 0.0:
        return np.zeros(length)
    lags = fft.ifft(np.conj(fft.fft(error, axis=-1)) * fft.fft(other, axis=-1), axis=-1)
    return np.asarray(lags.reshape(-1, length).sum(axis=0).real / scale)


def _comparable(
    raw: ArrayLike, fmt: QFormat, reference: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The checked words, their values and the reference; both complex if the reference is."""
    words, exact = fmt.words(raw), np.asarray(reference)
    if exact.dtype.kind not in "iufc":
        raise InputError(f"reference: expected real or complex numbers, not {exact.dtype}.")
    is_complex = exact.dtype.kind == "c"
    wanted = (*exact.shape, 2) if is_complex else exact.shape
    if words.shape != wanted:
        kind = "complex" if is_complex else "real"
        raise InputError(
            f"raw has shape {words.shape}; a {kind} reference of shape {exact.shape} asks for "
            f"{wanted}."
        )
    if words.size == 0:
        raise InputError(f"raw: shape {words.shape} holds no element; there is no error to report.")
    exact = exact.astype(np.complex128 if is_complex else np.float64)
    if not np.isfinite(exact).all():
        index = np.unravel_index(int((~np.isfinite(exact)).argmax()), exact.shape)
        raise InputError(
            f"reference: {exact[index]} at index {tuple(int(i) for i in index)} is no finite "
            f"number."
        )
    value: NDArray[Any] = to_value(words, fmt)
    if is_complex:
        value = np.ascontiguousarray(value).view(np.complex128)[..., 0]
    return words, value, exact


def _parts(numbers: NDArray[Any]) -> Values:
    """All real numbers in `numbers`, (real, imaginary) in turn, as one line."""
    return np.ascontiguousarray(numbers).reshape(-1).view(np.float64)


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _gain(exact: Values, value: Values) -> tuple[float, float]:
    """The gain g that makes sum((value - g*exact)**2) least, and the SQNR of value / g in dB."""
    power = float(exact @ exact)
    gain = float(value @ exact) / power if power else math.nan
    if not power or gain == 0.0:
        return gain, -math.inf
    rest = value / gain - exact
    return gain, _decibel(power, float(rest @ rest))


def _interval(
    sqnr_db: float, signal: Values, noise: Values, confidence: float
) -> tuple[float, float] | None:
    """Confidence interval of 10 log10(mean(signal) / mean(noise)), from paired samples."""
    count = signal.size
    if count < 2 or not math.isfinite(sqnr_db):
        return None
    from scipy import special

    # log(S/N) has the derivative (dS/S - dN/N): the variance of the mean of these.
    relative = signal / signal.mean() - noise / noise.mean()
    sigma = float(relative.std(ddof=1)) / math.sqrt(count)
    reach = float(special.stdtrit(count - 1, 0.5 + confidence / 2)) * sigma * 10 / math.log(10)
    return sqnr_db - reach, sqnr_db + reach
