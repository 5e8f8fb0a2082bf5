"""Claims about `fixedpoint.fft` and `rfft` that hold for every profile."""

import subprocess
import sys

import numba
import numpy as np
import pytest

import fixedpoint
from fixedpoint import profiles
from fixedpoint._threads import over_lines
from fixedpoint.profiles import NAMES
from fixedpoint.transform import fft, rfft
from parc_hw.errors import InputError

every_profile = pytest.mark.parametrize("name", NAMES)


def noise(shape, bits, seed=0):
    limit = 1 << (bits - 1)
    return np.random.default_rng(seed).integers(-limit, limit, shape)


@every_profile
@pytest.mark.parametrize("lines", [1, 2, 15, 16, 17, 33])
def test_each_line_is_transformed_alone(name, lines):
    bits = profiles.find(name).bits
    x = noise((lines, 64, 2), bits)
    together = fft(x, profile=name)
    alone = np.stack([fft(line, profile=name) for line in x])
    np.testing.assert_array_equal(together, alone)


@every_profile
def test_leading_axes_are_kept(name):
    bits = profiles.find(name).bits
    x = noise((3, 2, 5, 32, 2), bits)
    y = fft(x, profile=name)
    assert y.shape == x.shape
    np.testing.assert_array_equal(y[2, 1, 4], fft(x[2, 1, 4], profile=name))
    z = rfft(x[..., 0], profile=name)
    assert z.shape == (3, 2, 5, 17, 2)
    np.testing.assert_array_equal(z[1, 0, 3], rfft(x[1, 0, 3, :, 0], profile=name))


@every_profile
def test_words_are_the_library_s_and_the_input_is_left_alone(name):
    chosen = profiles.find(name)
    x = noise((4, 16, 2), chosen.bits).astype(f"int{chosen.bits}")
    before = x.copy()
    y = fft(x, profile=name)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y, fft(x.astype(np.int64), profile=name))
    np.testing.assert_array_equal(y, fft(x[:, ::-1][:, ::-1], profile=name))


# Error of one word, as a complex magnitude in LSB of the output, for the coarsest profile (q31):
# the first stage cuts four inputs and doubles two cut products (8 per part), a middle stage
# averages four such words and cuts three times more (11), the last stage adds four words.
TWO_STAGES = 4 * 8 * 2**0.5
THREE_STAGES = 4 * 11 * 2**0.5


@every_profile
def test_the_transform_is_the_dft_over_n(name):
    bits = profiles.find(name).bits
    x = noise((20, 64, 2), bits - 2)
    y = fft(x, profile=name)
    exact = np.fft.fft(x[..., 0] + 1j * x[..., 1]) / 64
    # kissfft's 1/4 is floor(M / 4) / 2^B with M = 2^B - 1: a gain error below 2^(3 - B) per stage
    gain = 3 * 2.0 ** (3 - (bits - 1)) * np.abs(exact).max()
    assert np.abs(y[..., 0] + 1j * y[..., 1] - exact).max() <= THREE_STAGES + gain


@every_profile
def test_forward_then_inverse_returns_a_word_divided_by_n(name):
    # both directions scale by 1/N, and the inverse of the unscaled transform divides by N once
    bits = profiles.find(name).bits
    x = np.zeros((16, 2), int)
    x[3, 0] = 1 << (bits - 2)
    y = fft(fft(x, profile=name), profile=name, inverse=True)
    gain = 4 * 2.0 ** (3 - (bits - 1)) * (1 << (bits - 6))
    error = np.hypot(y[:, 0] - x[:, 0] / 16, y[:, 1])
    assert error.max() <= 2 * TWO_STAGES + gain  # the inverse averages the forward errors


def test_profiles_are_found_by_name_and_as_attributes():
    assert profiles.find("kissfft_16") is profiles.kissfft_16
    assert profiles.find(profiles.cmsis_q31) is profiles.cmsis_q31
    assert profiles.kissfft_16.bits == 16
    assert set(NAMES) <= set(dir(profiles))
    with pytest.raises(AttributeError, match="no attribute 'fftw'"):
        _ = profiles.fftw


def test_the_package_offers_the_transforms_themselves():
    assert fixedpoint.fft is fft
    assert fixedpoint.rfft is rfft
    assert fixedpoint.profiles is profiles


def test_many_lines_are_shared_by_threads_without_a_change(monkeypatch):
    x = noise((100, 56, 2), 16)
    alone = fft(x, profile="kissfft_16")
    monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(fft(x, profile="kissfft_16"), alone)


@pytest.mark.parametrize("lines", [1, 16, 17, 64, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_pieces_cover_every_line_once_and_begin_on_blocks(monkeypatch, lines, threads):
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    pieces = []
    over_lines(lambda begin, end: pieces.append((begin, end)), lines, 16)
    assert sorted(i for begin, end in pieces for i in range(begin, end)) == list(range(lines))
    assert all(begin % 16 == 0 for begin, _ in pieces)
    assert len(pieces) <= threads


def test_importing_the_package_imports_no_numba():
    code = (
        "import sys, fixedpoint, fixedpoint.profiles, fixedpoint.transform; "
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- bad input
def test_an_unknown_profile_is_answered_with_the_nearest():
    with pytest.raises(
        InputError, match=r"no profile 'cmsis_15'\. Did you mean cmsis_q15.*Accepted: "
    ):
        fft(np.zeros((16, 2), int), profile="cmsis_15")
    with pytest.raises(InputError, match="no profile 3"):
        rfft(np.zeros(16, int), profile=3)


@every_profile
@pytest.mark.parametrize("dtype", [float, np.float32, complex, bool])
def test_only_raw_integers_are_taken(name, dtype):
    with pytest.raises(InputError, match=r"fft: raw: raw .stored. integers are expected"):
        fft(np.zeros((16, 2), dtype), profile=name)


@every_profile
def test_words_outside_the_format_are_refused_with_the_first_index(name):
    bits = profiles.find(name).bits
    x = np.zeros((2, 16, 2), np.int64)
    x[1, 4, 1] = x[1, 5, 0] = 1 << (bits - 1)
    message = rf"{1 << (bits - 1)} at index \(1, 4, 1\) is not a signed {bits}-bit integer"
    with pytest.raises(InputError, match=message):
        fft(x, profile=name)


@pytest.mark.parametrize("shape", [(16,), (16, 3), (2,), ()])
def test_complex_words_come_in_pairs(shape):
    with pytest.raises(InputError, match=r"\(\.\.\., N, 2\), real and imaginary"):
        fft(np.zeros(shape, int), profile="kissfft_16")


def test_a_real_signal_has_an_axis():
    with pytest.raises(InputError, match=r"\(\.\.\., N\) is expected"):
        rfft(np.array(3), profile="kissfft_16")


@pytest.mark.parametrize("shape", [(0, 2), (0, 16, 2)])
def test_empty_data_are_refused(shape):
    with pytest.raises(InputError, match="holds no element"):
        fft(np.zeros(shape, int), profile="kissfft_16")
