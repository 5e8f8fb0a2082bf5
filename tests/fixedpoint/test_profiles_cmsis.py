"""Claims about the CMSIS-DSP profiles: every word equals the library's."""

import json
from pathlib import Path

import numpy as np
import pytest
from profile_signals import digest, signals

from fixedpoint.profiles import cmsis_q15, cmsis_q31
from fixedpoint.profiles.cmsis import LENGTHS, REAL_LENGTHS
from fixedpoint.transform import fft, rfft
from parc_hw.errors import UnsupportedError

VECTORS = Path(__file__).parents[1] / "vectors" / "fixedpoint"
DIGESTS = json.loads((VECTORS / "digests.json").read_text())
PROFILES = [pytest.param(p, id=p.name) for p in (cmsis_q15, cmsis_q31)]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("length", [16, 32, 64, 256])
def test_complex_goldens_are_reproduced_word_for_word(profile, length):
    with np.load(VECTORS / f"{profile.name}.npz") as golden:
        x = golden[f"cfft{length}_in"].reshape(-1, length, 2)
        forward, inverse = golden[f"cfft{length}_fwd"], golden[f"cfft{length}_inv"]
    got = fft(x, profile=profile)
    np.testing.assert_array_equal(got, forward.reshape(x.shape))
    got = fft(x, profile=profile, inverse=True)
    np.testing.assert_array_equal(got, inverse.reshape(x.shape))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("length", [32, 64, 128, 512])
def test_real_goldens_are_reproduced_word_for_word(profile, length):
    with np.load(VECTORS / f"{profile.name}.npz") as golden:
        x, expected = golden[f"rfft{length}_in"], golden[f"rfft{length}_out"]
    got = rfft(x, profile=profile)
    # the library also writes the conjugate half
    np.testing.assert_array_equal(got.reshape(len(x), -1), expected[:, : length + 2])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_length_has_the_library_s_digest(profile):
    expected = DIGESTS[profile.name]
    assert [int(n) for n in expected["forward"]] == list(LENGTHS)
    assert [int(n) for n in expected["real"]] == list(REAL_LENGTHS)
    for length in LENGTHS:
        x = signals(2 * length, profile.bits).reshape(4, length, 2)
        key = str(length)
        assert digest(fft(x, profile=profile)) == expected["forward"][key], length
        got = fft(x, profile=profile, inverse=True)
        assert digest(got) == expected["inverse"][key], length
    for length in REAL_LENGTHS:
        got = rfft(signals(length, profile.bits), profile=profile)
        assert digest(got) == expected["real"][str(length)], length


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("length", [8, 8192, 56, 1])
def test_other_lengths_are_refused_with_those_that_are_taken(profile, length):
    x = np.zeros((length, 2), int)
    message = f"{profile.name} has no transform of length {length}; it takes a power of two from 16"
    with pytest.raises(UnsupportedError, match=message):
        fft(x, profile=profile)


@pytest.mark.parametrize("length", [16, 16384, 48])
def test_other_real_lengths_are_refused_with_those_that_are_taken(length):
    with pytest.raises(UnsupportedError, match="it takes a power of two from 32 to 8192"):
        rfft(np.zeros(length, int), profile="cmsis_q15")
