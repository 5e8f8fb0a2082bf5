"""Claims about transforms by a plan and a datapath: every word is the oracle's."""

import math
import re
from dataclasses import replace
from itertools import product

import numba
import numpy as np
import pytest
from random_transforms import Chooser

from fixedpoint import QFormat, exact_fft
from fixedpoint.bounds import fft_noise
from fixedpoint.errors import FixedPointOverflow, FormatError, ScalingError
from fixedpoint.mixed_radix import POINT_NAMES, lower, run
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.scaling import BlockRule, BlockScaling, ScalingSchedule
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.transform import fft
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.errors import InputError
from parc_hw.plan import FftPlan

SMALL = [n for n in range(1, 65) if math.gcd(n, 210**6) == n]
SEVENS = [7 * 2**k for k in range(7)]  # 7 .. 448
DECIMATIONS = ["dif", "dit"]


def frames(plan, bits, seed=0, lines=3):
    """Full scale, the two extremes at random, and an eighth of full scale."""
    rng = np.random.default_rng(seed)
    limit = 1 << (bits - 1)
    full = rng.integers(-limit, limit, (lines, plan.length, 2))
    full[1::3] = np.where(full[1::3] < 0, -limit, limit - 1)
    full[2::3] >>= 3
    return full


def assert_exact(plan, datapath, inverse=False, lines=3, seed=0):
    """Words, exponents and overflow counts of both kernels are the oracle's."""
    words = frames(plan, datapath.input.bits, seed, lines)
    program = lower(plan, datapath, inverse)
    counted = run(program, words)
    expected = [exact_fft.fft(frame.tolist(), plan, datapath, inverse) for frame in words]
    told = f"{plan} {datapath}"
    wanted = np.array([e.words for e in expected]).reshape(words.shape)
    np.testing.assert_array_equal(counted.words, wanted, told)
    np.testing.assert_array_equal(run(program, words, count=False).words, wanted, told)
    assert counted.exponents.tolist() == [e.exponent for e in expected], told
    assert counted.overflowed.tolist() == np.sum([e.overflows for e in expected], axis=0).tolist()
    return program


# ---------------------------------------------------------------- against the oracle
@pytest.mark.parametrize("seed", range(60))
def test_any_plan_and_datapath_give_the_oracle_s_words_and_counts(seed):
    chooser = Chooser(np.random.default_rng(seed))
    compared = 0
    while compared < 3:
        plan = chooser.plan()
        datapath = chooser.datapath(plan)
        try:
            lower(plan, datapath)
        except FormatError:
            continue  # words that 64 bits may not hold: `test_what_64_bits_cannot_hold...`
        assert_exact(plan, datapath, inverse=chooser.sometimes(0.5), seed=seed)
        compared += 1


@pytest.mark.parametrize("seed", range(60, 80))
def test_words_in_registers_are_the_oracle_s_too(seed):
    chooser = Chooser(np.random.default_rng(seed))
    in_registers = 0
    for _ in range(6):
        plan = chooser.plan()
        datapath = chooser.datapath(plan, plain=True)
        program = assert_exact(plan, datapath, inverse=chooser.sometimes(0.5), seed=seed)
        # only a guard of more bits than the factors have is left to the other kernel
        in_registers += program.plain is not None
    assert in_registers >= 4


@pytest.mark.parametrize("decimation", DECIMATIONS)
@pytest.mark.parametrize("method", ["once", "first"])
def test_every_length_to_64_is_exact(decimation, method):
    for length in SMALL:
        plan = FftPlan.of(length, decimation=decimation)
        assert_exact(plan, FftDatapath.of(plan, bits=12, product=method), lines=2)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("decimation", DECIMATIONS)
def test_every_pair_of_3_bit_words_is_exact_in_a_butterfly_of_two(rounding, decimation):
    plan = FftPlan(radices=(2,), decimation=decimation)
    datapath = FftDatapath.of(plan, bits=3, rounding=rounding, trivial=Trivial.NONE)
    words = np.array(list(product(range(-4, 4), repeat=4))).reshape(-1, 2, 2)
    got = run(lower(plan, datapath), words).words
    step = 7  # of 4096 frames: every word of every frame comes by, 586 frames in all
    for frame, result in zip(words[::step], got[::step], strict=True):
        assert exact_fft.fft(frame.tolist(), plan, datapath).words == [tuple(w) for w in result]


@pytest.mark.parametrize("groups", [(2, 2, 2), (3, 3), (1, 2, 3), (6,)])
@pytest.mark.parametrize("decimation", DECIMATIONS)
def test_groups_move_factors_and_keep_the_transform(groups, decimation):
    plan = FftPlan(radices=(2,) * 6, decimation=decimation, groups=groups)
    assert_exact(plan, FftDatapath.of(plan, bits=14))
    datapath = FftDatapath.of(plan, bits=16, twiddle=18, scaling="growing")
    words = frames(plan, 16)
    reference = np.fft.fft(words[..., 0] + 1j * words[..., 1])
    got = fft(words, plan=plan, datapath=datapath)
    assert np.abs(got[..., 0] + 1j * got[..., 1] - reference).max() < 40


def test_radix_2_squared_has_quarter_turns_inside_its_groups():
    plan = FftPlan(radices=(2,) * 4, groups=(2, 2))
    kind = lower(plan, FftDatapath.of(plan)).kind
    assert set(kind[0].tolist()) == {0, 1}
    assert np.flatnonzero(kind[0]).tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize(
    ("rule", "early"),
    [(BlockRule.PEAK, False), (BlockRule.PEAK, True), (BlockRule.OR_BITS, True)],
)
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("decimation", ["dif", "dit"])
def test_block_floating_point_is_exact(rule, early, normalise, decimation):
    plan = FftPlan(radices=(2,) * 5, groups=(2, 3), decimation=decimation)
    block = BlockScaling(rule=rule, early=early, normalise=normalise, rounding=Rounding.FLOOR)
    assert_exact(plan, FftDatapath.of(plan, bits=14, block=block), lines=6)


@pytest.mark.parametrize("length", [56, 64, 224, 256])
@pytest.mark.parametrize("cut", ["once", "first"])
def test_block_floating_point_holds_at_every_level_what_halving_holds_at_full_scale(length, cut):
    # Full scale: a bit of room more than halving takes, because no input may overflow; 1.5 dB.
    plan = FftPlan.of(length)
    half = FftDatapath.of(plan, bits=16, product=cut)
    block = FftDatapath.of(plan, bits=16, product=cut, block=BlockScaling())
    rng = np.random.default_rng(length)
    full = sqnr_db(rng, plan, half, 0.9)
    for amplitude in (0.9, 0.3, 0.05, 0.005):
        assert sqnr_db(rng, plan, block, amplitude) > full - 1.5
    assert sqnr_db(rng, plan, half, 0.05) < full - 20


def test_an_early_shift_costs_what_its_own_rounding_adds():
    plan = FftPlan(radices=(4, 4, 4))
    late, early = (
        FftDatapath.of(plan, bits=16, block=BlockScaling(early=early)) for early in (False, True)
    )
    rng = np.random.default_rng(5)
    measured = sqnr_db(rng, plan, late, 0.9) - sqnr_db(rng, plan, early, 0.9)
    predicted = [fft_noise(plan, path, block_shifts=(3, 1, 1)).power for path in (late, early)]
    assert measured == pytest.approx(10 * math.log10(predicted[1] / predicted[0]), abs=0.7)
    assert measured > 5


def sqnr_db(rng, plan, datapath, amplitude):
    """Signal to noise of uniform frames, whatever exponents they have."""
    x = np.rint(rng.uniform(-amplitude, amplitude, (200, plan.length, 2)) * 2**15).astype(int)
    result = run(lower(plan, datapath, False), x)
    shift = sum(stage.shift for stage in datapath.stages)
    exact = np.fft.fft(x @ [1, 1j])
    error = (result.words @ [1, 1j]) * 2.0 ** (result.exponents + shift)[:, None] - exact
    return 10 * math.log10(np.mean(abs(exact) ** 2) / np.mean(abs(error) ** 2))


# ---------------------------------------------------------------- laws
@pytest.mark.parametrize("length", [*SEVENS, 60, 64, 256])
@pytest.mark.parametrize("decimation", DECIMATIONS)
def test_an_impulse_becomes_a_constant_exactly(length, decimation):
    plan = FftPlan.of(length, decimation=decimation)
    datapath = FftDatapath.of(plan, bits=16, scaling="none")
    words = np.zeros((length, 2), int)
    words[0] = 12345, -6789
    got = fft(words, plan=plan, datapath=datapath)
    assert (got == words[0]).all()


@pytest.mark.parametrize("radices", [(2,), (4,), (2, 2)])
def test_transforms_of_four_points_and_fewer_are_linear_and_exact(radices):
    plan = FftPlan(radices=radices)
    datapath = FftDatapath.of(plan, bits=12, scaling="growing")
    a, b = frames(plan, 11, 1), frames(plan, 11, 2)

    def transform(words):
        return fft(words, plan=plan, datapath=datapath)

    np.testing.assert_array_equal(transform(a + b), transform(a) + transform(b))
    exact = np.fft.fft(a[..., 0] + 1j * a[..., 1])
    np.testing.assert_array_equal(transform(a)[..., 0], exact.real.round())


@pytest.mark.parametrize("length", [8, 28, 56])
def test_multiplying_by_j_commutes_with_the_transform_where_rounding_is_odd(length):
    # HALF_EVEN and HALF_AWAY are odd, and no word is the one without a negative
    plan = FftPlan.of(length)
    words = frames(plan, 15)
    turned = np.stack([-words[..., 1], words[..., 0]], axis=-1)
    for rounding in (Rounding.HALF_EVEN, Rounding.HALF_AWAY):
        datapath = FftDatapath.of(plan, bits=16, rounding=rounding)
        first, second = (fft(w, plan=plan, datapath=datapath) for w in (words, turned))
        np.testing.assert_array_equal(second[..., 0], -first[..., 1])
        np.testing.assert_array_equal(second[..., 1], first[..., 0])


@pytest.mark.parametrize("length", [*SEVENS, 12, 30, 64, 210, 420])
@pytest.mark.parametrize("method", ["once", "first"])
def test_forward_dif_then_inverse_dit_needs_no_reordering(length, method):
    forward = FftPlan.of(length, output_order="digit_reversed")
    there = FftDatapath.of(forward, bits=14, twiddle=17, scaling="growing", product=method)
    back = FftDatapath.of(
        forward.transposed,
        input=there.output,
        twiddle=17,
        scaling="growing" if there.output.bits < 24 else "half",
        product=method,
    )
    words = frames(forward, 14)
    spectrum = fft(words, plan=forward, datapath=there)
    returned = fft(spectrum, plan=forward.transposed, datapath=back, inverse=True)
    scale = length / 2.0 ** sum(stage.shift for stage in back.stages)
    # Each stage adds errors below a few LSB to words that grew by N; twiddle words err by 2**-17.
    limit = 8 * len(forward.radices) * (scale + 1) + length * 2.0**-17 * scale * 2**14
    assert np.abs(returned - scale * words).max() <= limit


@pytest.mark.parametrize("length", [7, 12, 56])
def test_orders_at_the_ends_are_permutations(length):
    natural = FftPlan.of(length)
    places = list(natural.digit_reversal)
    datapath = FftDatapath.of(natural, bits=16)
    words = frames(natural, 16)
    expected = fft(words, plan=natural, datapath=datapath)
    for into, out in product(["natural", "digit_reversed"], repeat=2):
        plan = replace(natural, input_order=into, output_order=out)
        given = words if into == "natural" else words[:, places]
        got = fft(given, plan=plan, datapath=datapath)
        wanted = expected if out == "natural" else expected[:, places]
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("decimation", DECIMATIONS)
@pytest.mark.parametrize("length", [8, 56, 64, 224])
def test_growing_words_never_overflow(decimation, length):
    plan = FftPlan.of(length, decimation=decimation)
    datapath = FftDatapath.of(plan, bits=12, scaling="growing", overflow=Overflow.RAISE)
    extremes = np.random.default_rng(3).choice([-2048, 2047], (50, length, 2))
    k = np.exp(2j * np.pi * np.outer(np.arange(length), np.arange(length)) / length)
    worst = np.stack([np.where(k.real > 0, 2047, -2048), np.where(k.imag > 0, 2047, -2048)], -1)
    fft(np.concatenate([extremes, worst]), plan=plan, datapath=datapath)


@pytest.mark.parametrize("lines", [1, 7, 8, 9, 16, 17, 40])
@pytest.mark.parametrize("count", [False, True])
def test_each_frame_is_transformed_alone(lines, count, monkeypatch):
    plan = FftPlan.of(28)
    for method in ("once", "first"):
        program = lower(plan, FftDatapath.of(plan, bits=12, product=method))
        words = frames(plan, 12, lines=lines)
        monkeypatch.setattr(numba, "get_num_threads", lambda: 1)
        together = run(program, words, count=count)
        monkeypatch.setattr(numba, "get_num_threads", lambda: 3)
        shared = run(program, words, count=count)
        alone = [run(program, words[i : i + 1], count=count).words[0] for i in range(lines)]
        np.testing.assert_array_equal(together.words, alone)
        np.testing.assert_array_equal(shared.words, alone)
        np.testing.assert_array_equal(shared.tallies, together.tallies)


def test_narrow_arrays_hold_the_same_words():
    plan = FftPlan.of(64)
    program = lower(plan, FftDatapath.of(plan, bits=16))
    words = frames(plan, 16)
    narrow = run(program, words.astype(np.int16), count=False, dtype=np.int16)
    assert narrow.words.dtype == np.int16
    np.testing.assert_array_equal(narrow.words, run(program, words).words)


def test_16_bit_words_whose_products_are_rounded_first_need_32_bits():
    for decimation, radices in product(DECIMATIONS, [(2,) * 8, (4,) * 4]):
        plan = FftPlan(radices=radices, decimation=decimation)
        assert lower(plan, FftDatapath.of(plan, bits=16, product="first")).lane_bits == 32
        assert lower(plan, FftDatapath.of(plan, bits=16, product="once")).lane_bits == 64


# ---------------------------------------------------------------- counting
def test_the_first_overflow_is_the_earliest_word_of_the_earliest_stage():
    plan = FftPlan(radices=(2, 2), decimation="dif")
    datapath = FftDatapath.of(plan, bits=8, scaling="none", overflow=Overflow.RAISE)
    words = np.zeros((20, 4, 2), int)
    words[11, 1, 1] = words[11, 3, 1] = 127  # 254 at place 1, and -128 - 127 nowhere
    words[17, 0, 0] = words[17, 2, 0] = 127
    with pytest.raises(FixedPointOverflow, match=r"stage 0 \(radix 2\), sum: .*frame 11, place 1, "
                       r"imaginary part, and 1 more do not fit 8 bits; .* 0 to 254") as caught:  # fmt: skip
        fft(words, plan=plan, datapath=datapath)
    assert caught.value.index == (11, 1, 1)
    assert caught.value.point == "stage 0 sum"
    assert caught.value.count == 2


def test_overflows_are_counted_and_the_words_asked_for_are_kept():
    plan = FftPlan(radices=(2,))
    datapath = FftDatapath.of(plan, bits=8, scaling="none")
    result = run(lower(plan, datapath), np.array([[[127, -128], [127, -128]], [[1, 2], [3, 4]]]))
    total = result.tallies[0, POINT_NAMES.index("sum")]
    assert total.tolist() == [2, 0, -256, 254]
    assert result.words[0, 0].tolist() == [127, -128]


# ---------------------------------------------------------------- bad input
def test_a_datapath_has_as_many_stages_as_the_plan():
    plan = FftPlan.of(56)
    with pytest.raises(ScalingError, match=r"the datapath has 2 stages, and dif 4x2x7.*has 3"):
        lower(plan, FftDatapath.of(FftPlan.of(8)))


def test_a_scaling_schedule_has_as_many_shifts_as_the_plan_stages():
    with pytest.raises(
        ScalingError, match=r"\(1, 1\) has 2 shifts.*has 3 stages\. Give 3.*\(2, 1, 3\)"
    ):
        FftDatapath.of(FftPlan.of(56), scaling=ScalingSchedule((1, 1)))
    with pytest.raises(ScalingError, match=r"has 1 shifts"):
        FftDatapath.of(FftPlan.of(56), scaling="3")


def test_what_64_bits_cannot_hold_is_refused_with_what_would_fit():
    plan = FftPlan.of(56)
    message = (
        r"stage 0 \(radix 4\): a product of 35-bit by 32-bit words needs 65 bits, and 64-bit "
        r"arithmetic holds 64\. Twiddle words of (\d+) bits \(32 now\) would fit; or take narrower"
    )
    with pytest.raises(FormatError, match=message) as refused:
        lower(plan, FftDatapath.of(plan, bits=32))
    fitting = int(re.search(message, str(refused.value))[1])
    lower(plan, FftDatapath.of(plan, bits=32, twiddle=fitting))
    with pytest.raises(FormatError):
        lower(plan, FftDatapath.of(plan, bits=32, twiddle=fitting + 1))
    with pytest.raises(FormatError, match="data words have 2 to 32 bits"):
        FftDatapath.of(plan, bits=33)
    with pytest.raises(FormatError, match=r"input is Q1\.40: 41 bits.*Take 9 bits off"):
        FftDatapath.of(plan, input="Q1.40")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"product": None}, "stage 0: product is None, but behind a DIF butterfly nothing follows"),
        ({"product": Point(bits=8)}, r"divided by 2\*\*0, the others by 2\*\*1; make them equal"),
        ({"product": Point(shift=1, guard=1)}, r"product\.guard is 1, but behind a DIF stage"),
        ({"sum_first": True}, r"make each\.shift \+ product\.shift 0"),
    ],
)
def test_a_dif_stage_scales_alike_on_both_ways(stage, message):
    plan = FftPlan(radices=(2,))
    fields = {"sum": Point(shift=1, bits=8), "product": Point(shift=1, bits=8)} | stage
    with pytest.raises((ScalingError, InputError), match=message):
        lower(plan, FftDatapath(stages=(StageDatapath(**fields),)))


def test_a_dit_stage_does_not_scale_its_products():
    stage = StageDatapath(sum=Point(bits=8), product=Point(shift=1, bits=8))
    with pytest.raises(ScalingError, match=r"products that are scaled by 2\*\*-1"):
        lower(FftPlan(radices=(2,), decimation="dit"), FftDatapath(stages=(stage,)))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Point(shift=63), ScalingError, "shift is 63: accepted are whole numbers from -62"),
        (lambda: Point(bits=0), InputError, "bits is 0: accepted are 1 to 64 bits, or None"),
        (lambda: Point(then_bits=65), InputError, "then_bits is 65"),
        (lambda: Point(guard=-1), InputError, "guard is -1"),
        (lambda: Point(rounding="floor"), InputError, "rounding is 'floor'"),
        (lambda: Point(overflow=1), InputError, "overflow is 1"),
        (lambda: StageDatapath(sum=None), InputError, "sum is None: expected a Point"),
        (lambda: StageDatapath(sum=Point(guard=1)), InputError, r"sum\.guard is 1"),
        (
            lambda: StageDatapath(sum=Point(), constants=Point(shift=1)),
            ScalingError,
            r"constants\.shift is 1",
        ),
        (lambda: FftDatapath(stages=(Point(),)), InputError, "expected StageDatapath objects"),
        (lambda: FftDatapath(stages=(), block=True), InputError, "expected BlockScaling or None"),
        (lambda: BlockScaling(rule="or_bits"), InputError, "set early=True, or take the rule peak"),
        (lambda: BlockScaling(early=1), InputError, "early is 1: expected True or False"),
        (lambda: FftDatapath(stages=(), input="UQ0.8"), InputError, "words of a transform are signed"),
        (
            lambda: FftDatapath.of(FftPlan.of(8), product="last"),
            InputError,
            "product is 'last'; accepted: once, first",
        ),
        (lambda: TwiddleFormat(bits=33), InputError, "twiddle bits is 33: accepted are 2 to 32"),
        (lambda: TwiddleFormat(bits=8, frac_bits=8), InputError, "accepted are 0 to bits - 1 = 7"),
        (lambda: TwiddleFormat(first_frac_bits=8), InputError, "first_frac_bits is 8"),
        (lambda: TwiddleFormat(add=math.nan), InputError, "add is nan: expected a finite number"),
        (lambda: ScalingSchedule((1, -1)), ScalingError, r"shifts is \(1, -1\)"),
        (lambda: ScalingSchedule(3), ScalingError, "shifts is 3: expected one whole number"),
        (lambda: ScalingSchedule((1,), (0, 0)), ScalingError, "are 1 stages and growth"),
        (
            lambda: ScalingSchedule.parse("halve", FftPlan.of(8)),
            ScalingError,
            "'halve' is not understood; accepted are half, none, growing and one shift per stage",
        ),
        (lambda: BlockScaling(rule="max"), InputError, "rule is 'max'; accepted: peak, or_bits"),
        (lambda: BlockScaling(counter_bits=0), InputError, "counter_bits is 0"),
    ],
)  # fmt: skip
def test_what_no_datapath_can_be_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


# ---------------------------------------------------------------- twiddle tables and JSON
@pytest.mark.parametrize("length", [1, 2, 7, 12, 56, 64, 448])
@pytest.mark.parametrize("sign", [-1, 1])
def test_twiddle_words_are_the_nearest_ones(length, sign):
    fmt = TwiddleFormat(bits=18, frac_bits=16)
    exact = np.exp(sign * 2j * np.pi * np.arange(length) / length)
    table = fmt.table(length, sign=sign)
    error = table - 2**16 * np.stack([exact.real, exact.imag], axis=-1)
    assert np.abs(error).max() <= 0.5 + 1e-9
    assert not table.flags.writeable


def test_twiddle_quantisers_of_known_tables():
    value = math.cos(math.pi / 8)
    assert TwiddleFormat(bits=16, rounding=Rounding.FLOOR).quantise(value) == 30273
    assert TwiddleFormat(bits=16).quantise(value) == 30274
    # kissfft: 2**15 - 1; one is the largest word either way, but not by clipping
    kiss = TwiddleFormat(bits=16, rounding=Rounding.HALF_UP, below_one=True)
    assert kiss.quantise(value) == math.floor(0.5 + 32767 * value)
    # rounded to 18 fraction bits first, then to 10: a value just below a tie is pushed over it
    twice = TwiddleFormat(bits=12, frac_bits=10, first_frac_bits=18)
    just_below = (100.5 - 2.0**-10) / 1024
    assert (TwiddleFormat(bits=12, frac_bits=10).quantise(just_below), twice.quantise(just_below)) == (100, 101)  # fmt: skip
    assert TwiddleFormat(bits=16, frac_bits=14).quantise(1.0) == 1 << 14


def test_zeros_halves_and_ones_of_a_floored_table_are_exact():
    table = TwiddleFormat(bits=16, frac_bits=14, rounding=Rounding.FLOOR).table(12)
    assert {0, 8192, 16384, -8192, -16384} <= set(table.reshape(-1).tolist())
    assert set(np.abs(table).reshape(-1).tolist()) == {0, 8192, 16384, 14188, 14189}


@pytest.mark.parametrize("seed", range(20))
def test_a_datapath_survives_json(seed):
    chooser = Chooser(np.random.default_rng(seed))
    datapath = chooser.datapath(chooser.plan())
    assert FftDatapath.from_json(datapath.to_json()) == datapath


def test_formats_follow_the_shifts_and_widths():
    plan = FftPlan.of(56)
    scaled = FftDatapath.of(plan, bits=16)
    assert [str(f) for f in scaled.formats] == ["Q1.15", "Q3.13", "Q4.12", "Q7.9"]
    growing = FftDatapath.of(plan, bits=12, scaling="growing")
    assert [str(f) for f in growing.formats] == ["Q1.11", "Q4.11", "Q5.11", "Q8.11"]
    assert growing.output == QFormat(8, 11)
