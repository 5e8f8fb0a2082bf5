"""Claims about the kissfft profiles: every word equals the library's."""

import json
from pathlib import Path

import numpy as np
import pytest
from profile_signals import digest, signals

from fixedpoint.profiles import kissfft_16, kissfft_32
from fixedpoint.profiles.kissfft import LONGEST, factors
from fixedpoint.transform import fft, rfft
from parc_hw.errors import UnsupportedError

VECTORS = Path(__file__).parents[1] / "vectors" / "fixedpoint"
DIGESTS = json.loads((VECTORS / "digests.json").read_text())
PROFILES = [pytest.param(p, id=p.name) for p in (kissfft_16, kissfft_32)]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("length", [4, 7, 14, 15, 16, 28, 56, 60, 64, 112])
def test_complex_goldens_are_reproduced_word_for_word(profile, length):
    with np.load(VECTORS / f"{profile.name}.npz") as golden:
        x = golden[f"fft{length}_in"].reshape(-1, length, 2)
        forward, inverse = golden[f"fft{length}_fwd"], golden[f"fft{length}_inv"]
    got = fft(x, profile=profile)
    np.testing.assert_array_equal(got, forward.reshape(x.shape))
    got = fft(x, profile=profile, inverse=True)
    np.testing.assert_array_equal(got, inverse.reshape(x.shape))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("length", [4, 14, 16, 28, 56, 60, 64, 112])
def test_real_goldens_are_reproduced_word_for_word(profile, length):
    with np.load(VECTORS / f"{profile.name}.npz") as golden:
        x, expected = golden[f"fftr{length}_in"], golden[f"fftr{length}_out"]
    got = rfft(x, profile=profile)
    np.testing.assert_array_equal(got.reshape(len(x), -1), expected)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_every_length_from_1_to_512_has_the_library_s_digest(profile, direction):
    expected = DIGESTS[profile.name][direction]
    assert [int(n) for n in expected] == list(range(1, LONGEST + 1))
    wrong = []
    for length in range(1, LONGEST + 1):
        x = signals(2 * length, profile.bits).reshape(4, length, 2)
        got = fft(x, profile=profile, inverse=direction == "inverse")
        if digest(got) != expected[str(length)]:
            wrong.append(length)
    assert wrong == []


@pytest.mark.parametrize("profile", PROFILES)
def test_every_even_real_length_to_1024_has_the_library_s_digest(profile):
    expected = DIGESTS[profile.name]["real"]
    assert [int(n) for n in expected] == list(range(2, 2 * LONGEST + 1, 2))
    wrong = []
    for length in range(2, 2 * LONGEST + 1, 2):
        got = rfft(signals(length, profile.bits), profile=profile)
        if digest(got) != expected[str(length)]:
            wrong.append(length)
    assert wrong == []


@pytest.mark.parametrize("length", range(1, 700))
def test_factors_multiply_to_the_length_and_are_4_or_prime(length):
    found = factors(length)
    assert np.prod(found) == length
    assert all(f in (1, 4) or all(f % d for d in range(2, f)) for f in found)
    assert sum(f == 2 for f in found) <= 1  # pairs of twos are taken as a four


def test_a_length_of_one_still_loses_the_gain_of_its_stage():
    # the stage multiplies by floor(32767 / 1) / 2^15, not by one
    x = np.array([[[-32768, 16384]]])
    assert fft(x, profile="kissfft_16").tolist() == [[[-32767, 16384]]]


@pytest.mark.parametrize("length", [513, 1024])
def test_longer_transforms_are_refused(length):
    with pytest.raises(UnsupportedError, match="it takes every length from 1 to 512"):
        fft(np.zeros((length, 2), int), profile="kissfft_16")


@pytest.mark.parametrize("length", [7, 1026, 1])
def test_odd_real_transforms_are_refused(length):
    with pytest.raises(UnsupportedError, match="every even length from 2 to 1024"):
        rfft(np.zeros(length, int), profile="kissfft_32")
