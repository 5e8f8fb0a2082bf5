"""Claims about the profiles of FPGA and HLS cores: every word equals the core's."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fixedpoint import Rounding, fft, profiles, rfft
from fixedpoint.mixed_radix import lower, run
from fixedpoint.profiles import CORES
from fixedpoint.profiles.zipcpu import widths
from parc_hw.errors import InputError, UnsupportedError

VECTORS = Path(__file__).parents[1] / "vectors" / "fixedpoint"

dblclockfft, ac_dif_r2, ac_dit_r2 = profiles.dblclockfft, profiles.ac_dif_r2, profiles.ac_dit_r2
ac_dif_r2p2, ac_bfp, r22sdf = profiles.ac_dif_r2p2, profiles.ac_bfp, profiles.r22sdf

# The name of a core in the files, without length and direction, and the profile that equals it.
CASES = {
    "zipcpu_dblclockfft": {
        "grow": dblclockfft(bits=16, extra=4),
        "m16": dblclockfft(bits=16, extra=4, max_bits=16),
        "m16_trunc": dblclockfft(max_bits=16, rounding=Rounding.FLOOR),
        "m16_halfup": dblclockfft(max_bits=16, rounding=Rounding.HALF_UP),
        "m16_fromzero": dblclockfft(max_bits=16, rounding=Rounding.HALF_AWAY),
        "x2": dblclockfft(max_bits=18, guard=2),
    },
    "hlslibs_ac_dsp": {
        "dif_r2": ac_dif_r2(bits=16, twiddle_bits=18),
        "dit_r2": ac_dit_r2(bits=16, twiddle_bits=18),
        "dif_r2p2": ac_dif_r2p2(bits=16, twiddle_bits=18),
        "dif_r2pX4": ac_dif_r2p2(bits=16, twiddle_bits=18),
        "bfp_r2pX2": ac_bfp(bits=16, twiddle_bits=18, radix=2),
        "bfp_r2pX4": ac_bfp(bits=16, twiddle_bits=18, radix=4),
    },
    "nanamake_r22sdf": {"r22sdf": r22sdf()},
}


def cores_words():
    """Every stored output: file, key, core, length, inverse."""
    for file in CASES:
        with np.load(VECTORS / f"{file}.npz") as golden:
            keys = list(golden)
        for key in keys:
            if key == "signal_names" or key.startswith("in16_") or key.endswith("_expo"):
                continue
            match = re.fullmatch(r"(\w+?)_(\d+)(?:_(fwd|inv)|_P16I1T18|)", key)
            yield pytest.param(file, key, match[1], int(match[2]), match[3] == "inv", id=key)


WORDS = list(cores_words())


def signals(file, length):
    with np.load(VECTORS / f"{file}.npz") as golden:
        return golden[f"in16_{length}"].reshape(-1, length, 2)


@pytest.mark.parametrize(("file", "key", "core", "length", "inverse"), WORDS)
def test_every_word_of_the_core_is_reproduced(file, key, core, length, inverse):
    profile = CASES[file][core]
    x = signals(file, length)
    with np.load(VECTORS / f"{file}.npz") as golden:
        expected = golden[key].reshape(x.shape)
        exponents = golden[f"{key}_expo"] if profile.exponents else None
    got = fft(x, profile=profile, inverse=inverse)
    if profile.exponents:
        got, shifts = got
        np.testing.assert_array_equal(shifts, exponents)
    np.testing.assert_array_equal(got, expected)


def test_every_stored_core_has_a_profile_and_every_profile_words():
    assert len(WORDS) == 34
    stored = {(param.values[0], param.values[2]) for param in WORDS}
    assert stored == {(file, core) for file, cores in CASES.items() for core in cores}
    named = {profile.name.split("(")[0] for cores in CASES.values() for profile in cores.values()}
    assert named == set(CORES) - {"xfft_like"}


# ---------------------------------------------------------------- quirks, one by one
@pytest.mark.parametrize("length", [8, 16, 32, 64, 128, 256, 512])
def test_a_capped_core_does_not_halve_in_the_last_stage_of_an_even_power(length):
    # the scale of the output: the impulse of 2^14 comes out as 2^(14 - s) in every bin
    stages = length.bit_length() - 1
    x = np.zeros((length, 2), int)
    x[0, 0] = 1 << 14
    got = fft(x, profile=dblclockfft(max_bits=16))
    halvings = stages - 1 if stages % 2 == 0 else stages
    np.testing.assert_array_equal(got, np.tile([1 << (14 - halvings), 0], (length, 1)))


def test_a_capped_core_wraps_a_full_scale_constant_where_the_last_stage_does_not_halve():
    x = np.zeros((64, 2), int)
    x[:, 0] = 32767
    assert fft(x, profile=dblclockfft(max_bits=16))[0, 0] < 0
    x = np.zeros((32, 2), int)
    x[:, 0] = 32767
    assert fft(x, profile=dblclockfft(max_bits=16))[0, 0] == 32767


@pytest.mark.parametrize(
    ("length", "parameters", "expected"),
    [
        (16, {}, 19),
        (32, {}, 19),
        (64, {}, 20),
        (256, {}, 21),
        (64, {"max_bits": 16}, 16),
        (64, {"max_bits": 18, "guard": 2}, 18),
        (32, {"bits": 12, "extra": 2}, 15),
        (128, {"bits": 12, "extra": 2}, 16),
        (32, {"bits": 12, "max_bits": 14, "guard": 1}, 14),
    ],
)
def test_the_output_has_the_width_that_the_generator_prints(length, parameters, expected):
    profile = dblclockfft(**parameters)
    arguments = {"bits": 16, **{k: v for k, v in parameters.items() if k != "extra"}}
    assert widths(length, **arguments)[-1] == expected
    assert profile.build(length, False)[1].output.bits == expected


def test_a_full_scale_nyquist_tone_flips_its_sign_where_the_class_saturates_and_then_wraps():
    x = np.zeros((16, 2), int)
    x[:, 0] = np.where(np.arange(16) % 2, -32768, 32767)
    x[:, 1] = x[:, 0]
    assert fft(x, profile=ac_dif_r2())[8].tolist() == [32767, 32767]
    assert fft(x, profile=ac_dif_r2p2())[8].tolist() == [-32768, -32768]


@pytest.mark.parametrize(("length", "lost"), [(4, 2), (16, 4), (256, 8), (64, 0)])
def test_the_exponent_register_wraps_where_log2_n_is_a_power_of_two(length, lost):
    # full scale: every stage of radix 2 halves and nothing is shifted up
    x = np.zeros((length, 2), int)
    x[:, 0] = 32767
    words, exponent = fft(x, profile=ac_bfp(radix=2))
    true = length.bit_length() - 1
    assert exponent == true - lost
    assert abs(words[0, 0] * 2.0**true / (32767 * length) - 1) < 2.0**-14


def test_very_small_frames_are_not_shifted_up():
    # 4 bits hold a shift of 7 and not one of 8
    x = np.zeros((64, 2), int)
    x[0, 0] = 64
    assert fft(x, profile=ac_bfp(radix=2))[0][5, 0] == 64 << 7 >> 1
    x[0, 0] = 32
    assert fft(x, profile=ac_bfp(radix=2))[0][5, 0] == 32 >> 1


def test_frames_of_block_floating_point_have_exponents_of_their_own():
    random = np.random.default_rng(3)
    full = random.integers(-32768, 32768, (64, 2))
    quiet = random.integers(-300, 301, (64, 2))
    words, exponents = fft(np.stack([[full, quiet]] * 3), profile="ac_bfp")
    assert words.shape == (3, 2, 64, 2)
    assert exponents.shape == (3, 2)
    assert (exponents[:, 0] > exponents[:, 1]).all()
    for x, mantissa, exponent in ((full, words[0, 0], exponents[0, 0]), (quiet, words[0, 1], -1)):
        exact = np.fft.fft(x[:, 0] + 1j * x[:, 1])
        exponent = exponents[0, 1] if exponent == -1 else exponent
        got = (mantissa[:, 0] + 1j * mantissa[:, 1]) * 2.0**exponent
        assert np.linalg.norm(got - exact) < 2e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("length", [8, 32, 64, 256])
def test_forward_and_inverse_of_dblclockfft_undo_each_other_but_for_the_scale(length):
    x = np.random.default_rng(length).integers(-(2**12), 2**12, (5, length, 2))
    core = dblclockfft(bits=18, extra=4)
    spectrum = fft(x, profile=core)
    back = dblclockfft(bits=widths(length, bits=18)[-1])
    y = fft(spectrum, profile=back, inverse=True)
    scale = length / 4.0 ** sum(out == held for held, out in pairwise(widths(length, bits=18)))
    # one rounding per word and stage, half an LSB of each part, grows by sqrt(2) per stage
    assert np.abs(y / scale - x).max() < 2 * length**0.5 / scale


# ---------------------------------------------------------------- are the goldens sharp enough?
def differing(file, core, program_of):
    """Words of the 64-point signals that a changed program gives otherwise than the core."""
    profile = CASES[file][core]
    x = signals(file, 64)
    key = next(p.values[1] for p in WORDS if p.values[2:] == (core, 64, False))
    with np.load(VECTORS / f"{file}.npz") as golden:
        expected = golden[key].reshape(x.shape)
    program = program_of(*profile.build(64, False))
    return int((run(program, x.astype(np.int64)).words != expected).sum())


def rounded_otherwise(stage, point, rounding):
    def program(plan, datapath):
        stages = list(datapath.stages)
        changed = replace(getattr(stages[stage], point), rounding=rounding)
        stages[stage] = replace(stages[stage], **{point: changed})
        return lower(plan, replace(datapath, stages=tuple(stages)), False)

    return program


# Core, stage and point, and the rounding that is nearest to its own.
ROUNDINGS = [
    ("zipcpu_dblclockfft", "m16", 0, "sum", Rounding.HALF_UP),
    ("zipcpu_dblclockfft", "m16", 0, "sum", Rounding.HALF_AWAY),
    ("zipcpu_dblclockfft", "m16", 4, "sum", Rounding.HALF_UP),
    ("zipcpu_dblclockfft", "m16_halfup", 0, "sum", Rounding.HALF_AWAY),
    ("zipcpu_dblclockfft", "m16_fromzero", 0, "sum", Rounding.HALF_UP),
    ("zipcpu_dblclockfft", "m16_trunc", 0, "sum", Rounding.TOWARD_ZERO),
    ("zipcpu_dblclockfft", "m16", 0, "product", Rounding.FLOOR),
    ("zipcpu_dblclockfft", "grow", 0, "product", Rounding.FLOOR),
    ("zipcpu_dblclockfft", "x2", 5, "sum", Rounding.HALF_UP),
    ("hlslibs_ac_dsp", "dif_r2", 0, "sum", Rounding.TOWARD_ZERO),
    ("hlslibs_ac_dsp", "dif_r2", 0, "product", Rounding.FLOOR),
    ("hlslibs_ac_dsp", "dif_r2", 5, "product", Rounding.HALF_EVEN),
    ("hlslibs_ac_dsp", "dit_r2", 5, "sum", Rounding.TOWARD_ZERO),
    ("hlslibs_ac_dsp", "dit_r2", 5, "product", Rounding.TOWARD_ZERO),
    ("hlslibs_ac_dsp", "dif_r2p2", 0, "sum", Rounding.TOWARD_ZERO),
    ("hlslibs_ac_dsp", "dif_r2p2", 1, "product", Rounding.FLOOR),
    ("hlslibs_ac_dsp", "dif_r2p2", 5, "product", Rounding.HALF_EVEN),
    ("hlslibs_ac_dsp", "bfp_r2pX4", 1, "product", Rounding.FLOOR),
    ("nanamake_r22sdf", "r22sdf", 0, "sum", Rounding.HALF_UP),
    ("nanamake_r22sdf", "r22sdf", 1, "sum", Rounding.HALF_EVEN),
    ("nanamake_r22sdf", "r22sdf", 1, "each", Rounding.TOWARD_ZERO),
]


@pytest.mark.parametrize(("file", "core", "stage", "point", "rounding"), ROUNDINGS)
def test_the_goldens_notice_another_rounding_at_one_point_of_one_stage(
    file, core, stage, point, rounding
):
    assert differing(file, core, lower) == 0
    assert differing(file, core, rounded_otherwise(stage, point, rounding)) > 0


def with_a_bit_flipped(which, bit):
    def program(plan, datapath):
        lowered = lower(plan, datapath, False)
        factor = lowered.factor.copy()
        factor[which(lowered), 0] ^= 1 << bit
        return replace(lowered, factor=factor)

    return program


def multiplied(program):
    """Places whose factor has a fraction in both parts."""
    return (program.kind == 4) & (program.factor != 0).all(axis=-1)


FACTORS = [
    ("zipcpu_dblclockfft", "m16", 18),
    ("zipcpu_dblclockfft", "grow", 18),
    ("hlslibs_ac_dsp", "dif_r2", 16),
    ("hlslibs_ac_dsp", "dit_r2", 16),
    ("hlslibs_ac_dsp", "dif_r2p2", 16),
    ("hlslibs_ac_dsp", "bfp_r2pX2", 16),
    ("nanamake_r22sdf", "r22sdf", 15),
]


@pytest.mark.parametrize(("file", "core", "frac_bits"), FACTORS)
def test_the_goldens_notice_the_lowest_bit_of_the_twiddle_factors_of_one_stage(
    file, core, frac_bits
):
    stages = multiplied(lower(*CASES[file][core].build(64, False), False)).any(axis=1)
    for stage in np.flatnonzero(stages):

        def of_the_stage(program, stage=stage):
            chosen = multiplied(program)
            chosen[np.arange(len(chosen)) != stage] = False
            return chosen

        assert differing(file, core, with_a_bit_flipped(of_the_stage, 0)) > 0, stage


@pytest.mark.parametrize(("file", "core", "frac_bits"), FACTORS)
def test_the_goldens_notice_a_bit_of_any_single_twiddle_factor(file, core, frac_bits):
    # 2^-12 of the factor; the lowest bits, which lie below the data's, only some of them
    profile = CASES[file][core]
    program = lower(*profile.build(64, False), False)
    entries = np.unique(program.turns[multiplied(program)])
    assert len(entries) >= 29
    for entry in entries:

        def of_the_entry(program, entry=entry):
            return multiplied(program) & (program.turns == entry)

        flipped = with_a_bit_flipped(of_the_entry, frac_bits - 12)
        assert differing(file, core, flipped) > 0, entry


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dblclockfft(bits=1), "bits is 1: accepted are 2 to 32"),
        (lambda: dblclockfft(extra=-1), "extra is -1: accepted are 0 to 16"),
        (lambda: dblclockfft(bits=16, max_bits=15), "max_bits is 15: accepted are 16 to 48"),
        (lambda: dblclockfft(guard=2.5), "guard is 2.5"),
        (lambda: dblclockfft(rounding=Rounding.TOWARD_ZERO), "rounding is TOWARD_ZERO: the gen"),
        (lambda: dblclockfft(rounding="half_even"), "expected one of"),
        (lambda: ac_dif_r2(twiddle_bits=21), "twiddle_bits is 21: accepted are 4 to 20"),
        (lambda: ac_dit_r2(bits=40), "ac_dit_r2: bits is 40: accepted are 4 to 32"),
        (lambda: ac_bfp(radix=8), "ac_bfp: radix is 8: accepted are 2 and 4"),
        (lambda: fft(np.zeros((16, 2), int), profile=dblclockfft), r"Call it: dblclockfft\(\)"),
        (lambda: fft(np.zeros((16, 2), int), profile="r22sfd"), "Did you mean r22sdf"),
        (lambda: fft(np.full((16, 2), 4096), profile=ac_dif_r2(bits=12)), "signed 12-bit integer"),
    ],
)
def test_parameters_that_no_core_has_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("core", [ac_dif_r2(), ac_dit_r2(), ac_dif_r2p2(), ac_bfp(), r22sdf()])
def test_a_forward_core_refuses_the_inverse_and_real_signals(core):
    with pytest.raises(UnsupportedError, match="has no inverse transform"):
        fft(np.zeros((64, 2), int), profile=core, inverse=True)
    with pytest.raises(UnsupportedError, match="no real transform of length 64; it takes no real"):
        rfft(np.zeros(64, int), profile=core)


@pytest.mark.parametrize(
    ("core", "length", "lengths"),
    [
        (dblclockfft(), 4, "a power of two from 8 to 65536"),
        (dblclockfft(), 56, "a power of two from 8 to 65536"),
        (ac_dif_r2(), 2, "a power of two from 4 to 65536"),
        (ac_dif_r2p2(), 32, "a power of four from 4 to 65536"),
        (ac_bfp(radix=4), 32, "a power of four from 4 to 65536"),
        (r22sdf(), 256, "64 or 128 points"),
    ],
)
def test_lengths_that_a_core_has_not_are_refused(core, length, lengths):
    with pytest.raises(UnsupportedError, match=f"of length {length}; it takes {lengths}"):
        fft(np.zeros((length, 2), int), profile=core)
