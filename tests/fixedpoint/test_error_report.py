"""Error reports: each figure against a case where it is known, and the ways data can be wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fixedpoint import (
    ErrorReport,
    QFormat,
    Rounding,
    error_spectrum,
    input_correlation,
    quantize,
)
from parc_hw.errors import InputError

Q15 = QFormat.parse("Q1.15")


def uniform(lines: int, length: int, seed: int = 3) -> np.ndarray:
    """White and uniform in [-0.9, 0.9): no word saturates."""
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (lines, length))


def test_every_figure_of_a_hand_made_error() -> None:
    # Errors of 1, 0, -3 and 0 LSB of Q3.1, that is of 1/2.
    report = ErrorReport.of([[5, 2], [-7, 7]], "Q3.1", [[2.0, 1.0], [-2.0, 3.5]])
    assert report.words == 4
    assert report.lines == 2
    assert (report.max_abs, report.max_abs_lsb, report.worst_index) == (1.5, 3.0, (1, 0))
    assert (report.bias, report.bias_lsb) == (-0.25, -0.5)
    assert report.rms_lsb == pytest.approx(math.sqrt(10 / 4))
    assert report.deviation_lsb == pytest.approx(math.sqrt(10 / 4 - 0.25))
    signal, noise = 4 + 1 + 4 + 12.25, 10 / 4
    assert report.sqnr_db == pytest.approx(10 * math.log10(signal / noise))
    assert report.saturated_fraction == 0.25  # 7 is the highest word of 4 bits
    assert report.as_dict()["format"] == "Q3.1"


def test_noise_of_a_good_quantiser_is_a_twelfth_of_a_squared_lsb() -> None:
    lines, length = 400, 256
    x = uniform(lines, length)
    report = ErrorReport.of(quantize(x, Q15), Q15, x)
    words = lines * length
    # The square of a uniform error has mean 1/12 and variance 1/180: five standard errors.
    assert abs(report.rms_lsb**2 - 1 / 12) < 5 / math.sqrt(180 * words)
    assert abs(report.bias_lsb) < 5 / math.sqrt(12 * words)
    assert report.max_abs_lsb <= 0.5
    assert report.enob == pytest.approx(16, abs=0.02)
    low, high = report.sqnr_interval_db
    assert low < 10 * math.log10(0.27 / (Q15.lsb**2 / 12)) < high
    assert report.gain == pytest.approx(1, abs=1e-6)
    assert report.saturated_fraction == 0


def test_truncation_shows_as_bias_and_leaves_the_deviation() -> None:
    x = uniform(100, 256)
    report = ErrorReport.of(quantize(x, Q15, rounding=Rounding.FLOOR), Q15, x)
    words = 100 * 256
    assert abs(report.bias_lsb + 0.5) < 5 / math.sqrt(12 * words)
    assert abs(report.deviation_lsb**2 - 1 / 12) < 5 / math.sqrt(180 * words)
    assert report.rms**2 == pytest.approx(report.bias**2 + report.deviation**2)


def test_a_gain_error_is_told_apart_from_noise() -> None:
    x = uniform(100, 256)
    scaled = quantize(0.99 * x, Q15)
    report = ErrorReport.of(scaled, Q15, x)
    alone = ErrorReport.of(scaled, Q15, 0.99 * x)
    assert report.gain == pytest.approx(0.99, abs=1e-5)
    assert report.sqnr_db == pytest.approx(40, abs=0.01)  # 20 log10(1 / 0.01)
    assert report.gain_corrected_sqnr_db == pytest.approx(alone.sqnr_db, abs=1e-3)


def test_the_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    true = 10 * math.log10(0.27 / (Q15.lsb**2 / 12))
    covered, trials = 0, 400
    for seed in range(trials):
        x = uniform(20, 16, seed)
        low, high = ErrorReport.of(quantize(x, Q15), Q15, x, confidence=0.9).sqnr_interval_db
        covered += low < true < high
    # Binomial with p = 0.9: five standard deviations are 30 of 400.
    assert abs(covered - 0.9 * trials) < 5 * math.sqrt(trials * 0.9 * 0.1)


def test_a_higher_confidence_widens_the_interval_around_the_ratio() -> None:
    x = uniform(30, 16)
    narrow, wide = (ErrorReport.of(quantize(x, Q15), Q15, x, confidence=p) for p in (0.5, 0.99))
    assert wide.sqnr_interval_db[0] < narrow.sqnr_interval_db[0] < narrow.sqnr_db
    assert wide.sqnr_interval_db[1] > narrow.sqnr_interval_db[1] > narrow.sqnr_db


def test_a_single_line_is_sampled_by_its_elements() -> None:
    x = uniform(1, 400)[0]
    low, high = ErrorReport.of(quantize(x, Q15), Q15, x).sqnr_interval_db
    assert 0 < high - low < 2
    assert ErrorReport.of([16384], Q15, [0.4]).sqnr_interval_db is None


def test_no_error_and_no_signal_have_infinite_ratios() -> None:
    same = ErrorReport.of([1, 2], Q15, [1 * Q15.lsb, 2 * Q15.lsb])
    assert (same.sqnr_db, same.gain_corrected_sqnr_db, same.enob) == (math.inf,) * 3
    assert same.sqnr_interval_db is None
    silent = ErrorReport.of([1, 2], Q15, [0.0, 0.0])
    assert (silent.sqnr_db, silent.gain_corrected_sqnr_db) == (-math.inf, -math.inf)
    assert math.isnan(silent.gain)


def test_complex_words_are_pairs_on_the_last_axis() -> None:
    x = uniform(10, 32) + 1j * uniform(10, 32, seed=4)
    raw = quantize(np.stack([x.real, x.imag], axis=-1), Q15)
    report = ErrorReport.of(raw, Q15, x)
    assert (report.words, report.lines, len(report.worst_index)) == (640, 10, 3)
    parts = ErrorReport.of(raw, Q15, np.stack([x.real, x.imag], axis=-1))
    for name in ("rms", "bias", "max_abs", "worst_index", "enob"):
        assert getattr(report, name) == getattr(parts, name)
    assert report.sqnr_db == pytest.approx(parts.sqnr_db)
    frequency, power = error_spectrum(raw, Q15, x)
    assert frequency[0] == -0.5
    assert power.sum() == pytest.approx(2 * report.rms_lsb**2)
    assert input_correlation(raw, Q15, x, x).shape == (32,)


def test_the_printed_report_has_every_figure_with_its_unit() -> None:
    x = uniform(10, 32)
    text = str(ErrorReport.of(quantize(x, Q15), Q15, x))
    for part in ("320 words of Q1.15 on 10 lines", " dB (", "ENOB", " LSB = ", "bias", "% of the"):
        assert part in text
    assert "None" not in str(ErrorReport.of([16384], Q15, [0.4]))


def test_the_spectrum_sums_to_the_mean_square_and_shows_a_tone_where_it_is() -> None:
    i = np.arange(64)
    tone = np.rint(8 * np.cos(2 * np.pi * 5 * i / 64)).astype(int)
    frequency, power = error_spectrum(np.tile(tone, (3, 1)), "Q8.0", np.zeros((3, 64)))
    assert power.sum() == pytest.approx(np.mean(tone.astype(float) ** 2))
    assert frequency[power.argmax()] == 5 / 64
    assert power.max() > 0.95 * power.sum()


def test_the_spectrum_of_rounding_noise_is_flat() -> None:
    lines = 2000
    x = uniform(lines, 16)
    _, power = error_spectrum(quantize(x, Q15), Q15, x)
    # 16 points: bins 0 and 8 hold 1/12/16 each, those between, two-sided, twice that. A mean of
    # 2000 exponential (at the ends: chi-square) powers is within 5 standard errors.
    flat = np.full(9, 2.0)
    flat[[0, 8]] = 1.0
    assert np.all(np.abs(power * 12 * 16 / flat - 1) < 5 * math.sqrt(2 / lines))


def test_the_error_of_rounding_is_uncorrelated_and_that_of_a_gain_is_not() -> None:
    x = uniform(100, 32)
    free = input_correlation(quantize(x, Q15), Q15, x, x)
    assert np.abs(free).max() < 5 / math.sqrt(x.size)
    bound = input_correlation(quantize(0.9 * x, Q15), Q15, x, x)
    assert bound[0] == pytest.approx(-1, abs=1e-6)
    shifted = input_correlation(quantize(0.9 * x, Q15), Q15, x, np.roll(x, 3, axis=-1))
    assert shifted.argmin() == 3
    assert not input_correlation(quantize(x, Q15), Q15, x, np.ones_like(x)).any()


@pytest.mark.parametrize(
    "raw, reference, message",
    [
        ([0.5], [0.5], r"raw \(stored\) integers of Q1.15 are expected, not float64"),
        ([1 << 15], [1.0], r"32768 at index \(0,\) is outside Q1.15"),
        ([1, 2], [0.0], r"raw has shape \(2,\); a real reference of shape \(1,\) asks for \(1,\)"),
        ([1, 2], [1j], r"a complex reference of shape \(1,\) asks for \(1, 2\)"),
        ([[1], [2]], [[0.0], [np.nan]], r"reference: nan at index \(1, 0\) is no finite number"),
        ([], [], r"raw: shape \(0,\) holds no element"),
        ([1], ["1"], r"reference: expected real or complex numbers"),
    ],
)
def test_data_without_a_meaningful_error_is_refused(raw, reference, message: str) -> None:
    for measure in (ErrorReport.of, error_spectrum):
        with pytest.raises(InputError, match=message):
            measure(raw, "Q1.15", reference)
    with pytest.raises(InputError, match=message):
        input_correlation(raw, "Q1.15", reference, reference)


def test_other_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"confidence is 95: expected a probability in \(0, 1\)"):
        ErrorReport.of([1], Q15, [0.0], confidence=95)
    with pytest.raises(InputError, match=r"signal has shape \(2,\), and the reference \(1,\)"):
        input_correlation([1], Q15, [0.0], [0.0, 1.0])
    with pytest.raises(InputError, match="signal holds a NaN or an infinity"):
        input_correlation([1], Q15, [0.0], [np.nan])
