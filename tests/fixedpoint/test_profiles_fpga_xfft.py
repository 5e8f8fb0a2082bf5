"""Claims about `xfft_like`, which equals no core word for word, and about what detours cost."""

import numpy as np
import pytest

from fixedpoint import Rounding, fft
from fixedpoint.errors import ScalingError
from fixedpoint.mixed_radix import lower, run
from fixedpoint.profiles import xfft_like
from fixedpoint.profiles.xfft import detours, pair_shifts, scaling_word
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import FftPlan

LENGTHS = [8, 16, 32, 64, 128, 256, 512, 1024]


def dft(x, inverse=False):
    z = x @ np.array([1, 1j])
    return np.fft.ifft(z) * z.shape[-1] if inverse else np.fft.fft(z)


# ---------------------------------------------------------------- labels
def test_nobody_can_take_it_for_a_verified_core():
    for core in (xfft_like(), xfft_like(scaling="unscaled"), xfft_like(scaling="block_floating")):
        assert core.verified is False
        assert core.name.endswith("not verified")
        assert core.description.startswith("NOT VERIFIED")
    assert "NOT VERIFIED" in xfft_like.__doc__
    from fixedpoint.profiles import xfft

    assert "NOT VERIFIED" in xfft.__doc__.splitlines()[0]


# ---------------------------------------------------------------- the scaling word
def test_the_lowest_two_bits_are_the_first_pair_s():
    assert pair_shifts(0b10_10_00_01_11, 1024) == (3, 1, 0, 2, 2)
    assert pair_shifts(0b01_10_10_10_11, 512) == (3, 2, 2, 2, 1)
    plan, datapath = xfft_like(schedule=0b00_00_11).build(64, False)
    shifts = [stage.shift for stage in datapath.stages]
    assert shifts == [0, 3, 0, 0, 0, 0]
    assert plan.groups == (2, 2, 2)


@pytest.mark.parametrize("length", LENGTHS)
def test_word_and_shifts_are_two_ways_to_say_the_same(length):
    random = np.random.default_rng(length)
    pairs = length.bit_length() // 2
    single = (length.bit_length() - 1) % 2
    for _ in range(20):
        shifts = tuple(int(s) for s in random.integers(0, 4, pairs))
        shifts = (*shifts[:-1], shifts[-1] % 2) if single else shifts
        word = scaling_word(shifts, length)
        assert pair_shifts(word, length) == shifts
        assert word.bit_length() <= 2 * pairs


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("inverse", [False, True])
def test_the_result_is_the_dft_over_the_total_shift(length, inverse):
    core = xfft_like(bits=20, phase_bits=24)
    _, datapath = core.build(length, inverse)
    total = sum(stage.shift for stage in datapath.stages)
    assert total == length.bit_length()  # one bit more than 1/N: both parts may be full scale
    x = np.random.default_rng(1).integers(-(1 << 19), 1 << 19, (6, length, 2))
    got = fft(x, profile=core, inverse=inverse) @ np.array([1, 1j])
    # one rounding of half an LSB per part and stage, averaged by what follows: below 2.1 LSB
    assert np.abs(got - dft(x, inverse) / 2**total).max() < 2.1


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("scaling", ["scaled", "unscaled"])
def test_nothing_overflows_with_the_default_schedule_or_in_growing_words(length, scaling):
    plan, datapath = xfft_like(scaling=scaling).build(length, False)
    program = lower(plan, datapath, False)
    random = np.random.default_rng(2)
    k, n = np.meshgrid(np.arange(8) * (length // 8), np.arange(length), indexing="ij")
    tones = np.exp(2j * np.pi * (k * n / length + 1 / 8))
    squares = np.where(np.stack([tones.real, tones.imag], axis=-1) > 0, 32767, -32768)
    extremes = random.choice([-32768, 32767], (200, length, 2))
    for x in (squares, extremes, np.full((1, length, 2), -32768)):
        assert run(program, x.astype(np.int64)).overflowed.sum() == 0


def test_unscaled_words_have_the_guide_s_width():
    for length in LENGTHS:
        _, datapath = xfft_like(bits=16, scaling="unscaled").build(length, False)
        assert datapath.output.bits == 16 + (length.bit_length() - 1) + 1


def test_too_little_scaling_wraps():
    x = np.zeros((64, 2), int)
    x[:, 0] = 32767
    assert fft(x, profile=xfft_like(schedule=0b01_10_10))[0, 0] == -2  # 2 * 32767 wrapped
    assert fft(x, profile=xfft_like(schedule=0b10_10_10))[0, 0] == 32767


def test_truncation_has_a_bias_and_convergent_rounding_has_none():
    x = np.random.default_rng(3).integers(-16000, 16000, (400, 64, 2))
    biases = {}
    for rounding in (Rounding.HALF_EVEN, Rounding.FLOOR):
        core = xfft_like(phase_bits=24, rounding=rounding)
        error = fft(x, profile=core) @ np.array([1, 1j]) - dft(x) / 128
        biases[rounding] = error.mean()
    assert abs(biases[Rounding.HALF_EVEN]) < 0.02
    assert biases[Rounding.FLOOR].real < -0.3
    assert biases[Rounding.FLOOR].imag < -0.3


@pytest.mark.parametrize("inverse", [False, True])
def test_block_floating_point_keeps_what_a_schedule_loses_of_quiet_frames(inverse):
    def sqnr_db(core, level):
        x = np.random.default_rng(4).integers(-level, level, (50, 256, 2))
        exact = dft(x, inverse)
        if core.exponents:
            words, exponents = fft(x, profile=core, inverse=inverse)
            assert exponents.shape == (50,)
            got = words @ np.array([1, 1j]) * 2.0 ** exponents[:, None]
        else:
            got = fft(x, profile=core, inverse=inverse) @ np.array([1, 1j]) * 2.0**9
        return 10 * np.log10((np.abs(exact) ** 2).sum() / (np.abs(got - exact) ** 2).sum())

    block, fixed = xfft_like(scaling="block_floating"), xfft_like()
    # 40 dB less signal: all of it lost by fixed shifts, most of it not by those that are needed
    assert sqnr_db(fixed, 30000) - sqnr_db(fixed, 300) == pytest.approx(40, abs=1)
    assert sqnr_db(block, 30000) - sqnr_db(block, 300) < 12
    assert sqnr_db(block, 30000) > sqnr_db(fixed, 30000) + 5


# ---------------------------------------------------------------- other lengths
def test_both_detours_compute_the_circular_correlation_and_padding_does_not():
    random = np.random.default_rng(5)
    for length in (7, 28, 56):
        x, w = random.normal(size=length), random.normal(size=length)
        wanted = [sum(w[k] * x[(i + k) % length] for k in range(length)) for i in range(length)]
        doubled = next(cost for cost in detours(length) if cost.method == "doubled")
        points = doubled.transform_length
        # two transforms of `points`, the kernel's is computed offline
        periodic = np.zeros(points)
        periodic[: 2 * length - 1] = np.resize(x, 2 * length - 1)
        spectrum = np.conj(np.fft.fft(w, points))
        got = np.fft.ifft(np.fft.fft(periodic) * spectrum).real[:length]
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
        padded = np.fft.ifft(np.fft.fft(x, points) * spectrum).real[:length]
        assert np.abs(padded - wanted).max() > 0.1
        # Bluestein: each transform of N points by two of `points`
        bluestein = next(cost for cost in detours(length) if cost.method == "bluestein")
        spectrum = np.conj(np.fft.fft(w))
        first = chirped(x, bluestein.transform_length)
        second = np.conj(chirped(np.conj(first * spectrum), bluestein.transform_length)) / length
        np.testing.assert_allclose(second.real, wanted, rtol=1e-9, atol=1e-9)


def chirped(x, points):
    n = np.arange(len(x))
    chirp = np.exp(-1j * np.pi * n * n / len(x))
    response = np.zeros(points, complex)
    response[n] = np.conj(chirp)
    response[-n[1:]] = np.conj(chirp)[1:]
    convolved = np.fft.ifft(np.fft.fft(x * chirp, points) * np.fft.fft(response))
    return convolved[: len(x)] * chirp


def test_the_cost_of_28_and_56_points():
    found = {
        (n, c.method): (c.transform_length, c.transforms, c.multiplications, c.memory_words)
        for n in (28, 56)
        for c in detours(n)
    }
    assert found == {
        (28, "doubled"): (64, 2, 1040, 160),
        (28, "bluestein"): (64, 4, 2640, 216),
        (28, "direct"): (0, 0, 1568, 56),
        (56, "doubled"): (128, 2, 2576, 320),
        (56, "bluestein"): (128, 4, 6272, 432),
        (56, "direct"): (0, 0, 6272, 112),
    }


@pytest.mark.parametrize("length", [8, 16, 64, 256])
def test_multiplications_are_those_that_a_plan_has(length):
    native = detours(length)[0]
    assert native.method == "native"
    plan = FftPlan(radices=(2,) * (length.bit_length() - 1))
    _, datapath = xfft_like(schedule=0).build(length, False)
    kind = lower(plan, datapath, False).kind
    assert native.multiplications == 2 * 4 * int((kind == 4).sum()) + 4 * length


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: xfft_like(bits=34), InputError, "bits is 34: accepted are 8 to 32"),
        (lambda: xfft_like(phase_bits=7), InputError, "phase_bits is 7"),
        (lambda: xfft_like(scaling="block"), InputError, "scaling is 'block': accepted are scaled"),
        (
            lambda: xfft_like(rounding=Rounding.HALF_UP),
            InputError,
            "the cores have Rounding.HALF_E",
        ),
        (
            lambda: xfft_like(scaling="unscaled", schedule=0),
            InputError,
            "a schedule belongs to scaling='scaled'",
        ),
        (lambda: pair_shifts(0b10_00_00_00, 64), ScalingError, "more than the 6 bits of N = 64"),
        (
            lambda: pair_shifts(0b10_00_00, 32),
            ScalingError,
            "shift of pair 2 is 2: accepted are 0 to 1",
        ),
        (lambda: pair_shifts(-1, 64), ScalingError, "the scaling word is -1"),
        (lambda: scaling_word((1, 1), 64), ScalingError, "2 shifts for N = 64, which has 3 pairs"),
        (lambda: scaling_word((1, 4, 1), 64), ScalingError, "shift of pair 1 is 4"),
        (lambda: pair_shifts(0, 56), UnsupportedError, "powers of two from 8 to 65536. `detours`"),
        (lambda: detours(1), InputError, "length is 1"),
        (lambda: detours(40000), UnsupportedError, "needs transforms of 131072 points"),
        (
            lambda: fft(np.zeros((56, 2), int), profile="xfft_like"),
            UnsupportedError,
            "of length 56; it takes a power of two from 8",
        ),
        (
            lambda: fft(np.zeros((64, 2), int), profile=xfft_like(schedule=0b11_11_11_11)),
            ScalingError,
            "more than the 6 bits",
        ),
    ],
)
def test_what_such_a_core_has_not_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
