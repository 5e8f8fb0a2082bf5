"""Claims about the CMSIS-DSP profiles against the library itself, called on random words."""

import numpy as np
import pytest

from fixedpoint import fft, profiles, rfft
from fixedpoint.profiles.cmsis import LENGTHS, REAL_LENGTHS

LINES = 24  # of each length, with other powers of the data
PROFILES = ["cmsis_q15", "cmsis_q31"]


def noise(lines, words, bits, seed):
    """Return random words; line i is full scale shifted right by i mod 8 bits."""
    random = np.random.default_rng(seed)
    limit = 1 << (bits - 1)
    full = random.integers(-limit, limit, (lines, words))
    return (full >> (np.arange(lines) % 8)[:, None]).astype(f"int{bits}")


class Library:
    """The functions of `cmsisdsp` for one word length; they overwrite their input."""

    def __init__(self, module, name):
        self.module = module
        self.kind = name.removeprefix("cmsis_")

    def _ready(self, family, length, *arguments):
        instance = getattr(self.module, f"arm_{family}_instance_{self.kind}")()
        initialise = getattr(self.module, f"arm_{family}_init_{self.kind}")
        assert initialise(instance, length, *arguments) == 0, f"the library refuses {length}"
        return instance, getattr(self.module, f"arm_{family}_{self.kind}")

    def fft(self, x, inverse):
        instance, transform = self._ready("cfft", x.shape[1])
        lines = [transform(instance, line.reshape(-1).copy(), int(inverse), 1) for line in x]
        return np.stack(lines).reshape(x.shape)

    def rfft(self, x):
        instance, transform = self._ready("rfft", x.shape[1], 0, 1)
        # behind bin N/2 it writes the conjugate half
        lines = [transform(instance, line.copy())[: x.shape[1] + 2] for line in x]
        return np.stack(lines).reshape(len(x), -1, 2)


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("name", PROFILES)
def test_complex_transforms_of_random_words_equal_the_library_at_every_length(
    optional_module, name, inverse
):
    library = Library(optional_module("cmsisdsp"), name)
    bits = profiles.find(name).bits
    for length in LENGTHS:
        x = noise(LINES, 2 * length, bits, seed=length).reshape(LINES, length, 2)
        got = fft(x, profile=name, inverse=inverse)
        np.testing.assert_array_equal(got, library.fft(x, inverse), err_msg=f"length {length}")


@pytest.mark.parametrize("name", PROFILES)
def test_real_transforms_of_random_words_equal_the_library_at_every_length(optional_module, name):
    library = Library(optional_module("cmsisdsp"), name)
    bits = profiles.find(name).bits
    for length in REAL_LENGTHS:
        x = noise(LINES, length, bits, seed=length)
        got = rfft(x, profile=name)
        np.testing.assert_array_equal(got, library.rfft(x), err_msg=f"length {length}")
