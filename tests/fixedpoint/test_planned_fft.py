"""Claims about `fft`, `rfft` and `irfft` with a plan and a datapath, and about their traces."""

import subprocess
import sys

import numpy as np
import pytest

import fixedpoint
from fixedpoint.butterfly import source
from fixedpoint.errors import FixedPointOverflow
from fixedpoint.fft_trace import FftTrace
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.scaling import BlockScaling
from fixedpoint.stage import FftDatapath, Point, StageDatapath
from fixedpoint.transform import fft, irfft, rfft
from parc_hw.errors import InputError
from parc_hw.plan import FftPlan

PLAN = FftPlan.of(56)
DATAPATH = FftDatapath.of(PLAN, bits=16)


def noise(shape, bits, seed=0):
    limit = 1 << (bits - 1)
    return np.random.default_rng(seed).integers(-limit, limit, shape)


def as_complex(words):
    return words[..., 0] + 1j * words[..., 1]


# ---------------------------------------------------------------- what is returned
def test_leading_axes_are_kept():
    x = noise((3, 2, 56, 2), 16)
    y, trace = fft(x, plan=PLAN, datapath=DATAPATH, trace="words")
    assert y.shape == x.shape
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y[2, 1], fft(x[2, 1], plan=PLAN, datapath=DATAPATH))
    assert all(words.shape == x.shape for words in trace.words)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_any_integer_type_gives_the_same_words(dtype):
    x = noise((4, 56, 2), 16)
    expected = fft(x, plan=PLAN, datapath=DATAPATH)
    np.testing.assert_array_equal(fft(x.astype(dtype), plan=PLAN, datapath=DATAPATH), expected)
    np.testing.assert_array_equal(fft(x[:, ::-1][:, ::-1], plan=PLAN, datapath=DATAPATH), expected)


def test_a_single_point_is_itself():
    plan = FftPlan.of(1)
    assert fft([[5, -3]], plan=plan, datapath=FftDatapath.of(plan)).tolist() == [[5, -3]]


# ---------------------------------------------------------------- traces
@pytest.mark.parametrize("decimation", ["dif", "dit"])
def test_a_trace_changes_no_word_and_has_every_stage(decimation):
    plan = FftPlan.of(56, decimation=decimation)
    datapath = FftDatapath.of(plan, bits=16)
    x = noise((5, 56, 2), 15)
    words, trace = fft(x, plan=plan, datapath=datapath, trace=True)
    np.testing.assert_array_equal(words, fft(x, plan=plan, datapath=datapath))
    assert isinstance(trace, FftTrace)
    assert [s.name for s in trace.stages] == [
        f"stage {s} (radix {radix})" for s, radix in enumerate(plan.radices)
    ]
    assert [s.format for s in trace.stages] == list(datapath.formats[1:])
    assert trace.overflowed == 0
    assert trace.words is None
    # one rounding per word and stage, and noise that later stages divide: well below one LSB
    assert all(0.2 < s.error.rms / s.format.lsb < 0.8 for s in trace.stages)
    assert "stage 1" in str(trace)


def test_the_last_stage_s_words_are_the_result_in_place_order():
    x = noise((5, 56, 2), 16)
    words, trace = fft(x, plan=PLAN, datapath=DATAPATH, trace="words")
    np.testing.assert_array_equal(trace.words[-1], words[:, list(PLAN.digit_reversal)])
    assert trace.stages[-1].highest == max(words.max(), 0)
    assert trace.stages[-1].lowest == min(words.min(), 0)


def test_a_traced_error_is_that_of_the_result():
    x = noise((5, 56, 2), 16)
    words, trace = fft(x, plan=PLAN, datapath=DATAPATH, trace=True)
    error = as_complex(words) * 2.0**6 - np.fft.fft(as_complex(x))
    rms = np.sqrt(np.mean(np.abs(error) ** 2) / 2) * 2.0**-15
    assert trace.stages[-1].error.rms == pytest.approx(rms, rel=1e-9)


def test_overflow_shows_as_missing_headroom():
    plan = FftPlan(radices=(2, 2))
    x = np.full((4, 2), 100)
    datapath = FftDatapath.of(plan, bits=8, scaling="none")
    words, trace = fft(x, plan=plan, datapath=datapath, trace=True)
    assert words[0].tolist() == [127, 127]
    first, second = trace.stages
    assert (first.highest, first.overflowed) == (200, 4)
    assert first.headroom_bits == pytest.approx(np.log2(127 / 200))
    assert (second.highest, second.overflowed) == (254, 2)


def test_block_floating_point_is_traced_by_frame():
    plan = FftPlan.of(64)
    datapath = FftDatapath.of(plan, bits=16, block=BlockScaling())
    x = noise((6, 64, 2), 16)
    x[3:] >>= 9
    words, exponent, trace = fft(x, plan=plan, datapath=datapath, trace=True)
    assert exponent.shape == (6,)
    assert trace.shifts.shape == (6, 3)
    assert exponent[3:].max() < exponent[:3].min()
    error = as_complex(words) * 2.0 ** exponent[:, None] - np.fft.fft(as_complex(x))
    # 16-bit words whatever the level: a 100 times smaller input is as exact
    relative = np.sqrt(
        (np.abs(error) ** 2).mean(1) / (np.abs(np.fft.fft(as_complex(x))) ** 2).mean(1)
    )
    assert relative.max() < 2.0**-11
    assert trace.stages[-1].error.sqnr_db > 66


def test_a_frame_of_zeros_has_no_exponent_of_its_own():
    plan = FftPlan.of(8)
    datapath = FftDatapath.of(plan, bits=16, block=BlockScaling())
    words, exponent = fft(np.zeros((2, 8, 2), int), plan=plan, datapath=datapath)
    assert not words.any()
    assert exponent.tolist() == [0, 0]


# ---------------------------------------------------------------- real
@pytest.mark.parametrize("length", [4, 14, 28, 56, 64, 448])
@pytest.mark.parametrize("method", ["once", "first"])
@pytest.mark.parametrize("decimation", ["dif", "dit"])
def test_packed_real_words_have_the_spectrum_of_the_full_transform(length, method, decimation):
    plan = FftPlan.of(length // 2, decimation=decimation)
    datapath = FftDatapath.of(
        plan, bits=16, twiddle=18, scaling="growing", split_shift=1, product=method
    )
    x = noise((5, length), 14)
    got = rfft(x, plan=plan, datapath=datapath)
    assert got.shape == (5, length // 2 + 1, 2)
    error = as_complex(got) - np.fft.rfft(x)
    # a few LSB per stage, which later stages add up like the signal's words
    assert np.sqrt(np.mean(np.abs(error) ** 2)) < 2 * np.sqrt(length)
    assert datapath.real_output.frac_bits == 15


@pytest.mark.parametrize("length", [7, 9, 28])
def test_a_plan_of_all_points_takes_real_words_of_any_length(length):
    plan = FftPlan.of(length)
    datapath = FftDatapath.of(plan, bits=16)
    x = noise((5, length), 16)
    pairs = np.stack([x, 0 * x], axis=-1)
    expected = fft(pairs, plan=plan, datapath=datapath)[:, : length // 2 + 1]
    np.testing.assert_array_equal(rfft(x, plan=plan, datapath=datapath), expected)


@pytest.mark.parametrize("length", [8, 28, 56])
@pytest.mark.parametrize("packed", [False, True])
def test_irfft_undoes_rfft_up_to_n(length, packed):
    plan = FftPlan.of(length // 2 if packed else length)
    there = FftDatapath.of(plan, bits=12, twiddle=18, scaling="growing", split_shift=1)
    wide = there.real_output if packed else there.output
    back = FftDatapath.of(plan, input=wide, twiddle=18, scaling="growing", split_shift=0)
    x = noise((5, length), 12)
    spectrum = rfft(x, plan=plan, datapath=there)
    returned = irfft(spectrum, length=length, plan=plan, datapath=back)
    assert np.abs(returned - length * x).max() < 8 * length


def test_odd_lengths_are_inverted_as_well():
    plan = FftPlan.of(7)
    there = FftDatapath.of(plan, bits=12, twiddle=18, scaling="growing")
    back = FftDatapath.of(plan, input=there.output, twiddle=18, scaling="growing")
    x = noise((5, 7), 12)
    spectrum = rfft(x, plan=plan, datapath=there)
    returned = irfft(spectrum, length=7, plan=plan, datapath=back)
    assert np.abs(returned - 7 * x).max() < 30


def test_the_split_step_raises_too():
    plan = FftPlan.of(4)
    datapath = FftDatapath.of(plan, bits=8, scaling="none", split_shift=0, overflow=Overflow.RAISE)
    x = np.zeros(8, int)
    x[0] = 100  # every bin 100; unshifted, the step doubles it
    with pytest.raises(
        FixedPointOverflow, match=r"split, sum: the word at index \(0, 0\) and 4 more"
    ):
        rfft(x, plan=plan, datapath=datapath)


# ---------------------------------------------------------------- the printed code
def test_the_committed_stages_are_those_that_the_graphs_print():
    path = fixedpoint.__path__[0] + "/_butterflies.py"
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        assert file.read() == source()


def test_describing_a_transform_imports_no_numba():
    code = (
        "import sys, fixedpoint as fx; plan = fx.FftPlan.of(56); fx.FftDatapath.of(plan).to_json(); "
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "fft: give a profile, or a plan and a datapath"),
        ({"plan": PLAN}, "datapath is None: expected an FftDatapath, for example"),
        ({"datapath": DATAPATH}, "plan is None: expected an FftPlan, for example FftPlan.of"),
        ({"plan": 56, "datapath": DATAPATH}, "plan is 56: expected an FftPlan"),
        ({"plan": PLAN, "datapath": "half"}, "datapath is 'half': expected an FftDatapath"),
        ({"profile": "kissfft_16", "plan": PLAN}, "give a profile, or a plan and a datapath, not both"),
        ({"profile": "kissfft_16", "trace": True}, "kissfft_16 is compiled whole, without stages"),
        ({"plan": PLAN, "datapath": DATAPATH, "trace": "all"}, "trace is 'all'; accepted: False, True"),
    ],
)  # fmt: skip
def test_a_transform_is_asked_for_in_one_way(arguments, message):
    with pytest.raises(InputError, match=message):
        fft(np.zeros((56, 2), int), **arguments)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((56, 2)), r"fft: raw: raw \(stored\) integers are expected, not float64"),
        (np.full((56, 2), np.nan), "integers are expected, not float64"),
        (np.zeros((0, 56, 2), int), r"shape \(0, 56, 2\) holds no element"),
        (np.zeros((56,), int), r"shape \(56,\); \(\.\.\., N, 2\)"),
        (np.zeros((56, 3), int), r"shape \(56, 3\)"),
        (np.zeros((28, 2), int), r"raw has 28 points.*transforms 56; take FftPlan\.of\(28\)"),
        (np.full((2, 56, 2), 40000), r"40000 at index \(0, 0, 0\) is not a signed 16-bit integer"),
    ],
)
def test_raw_words_are_checked(raw, message):
    with pytest.raises(InputError, match=message):
        fft(raw, plan=PLAN, datapath=DATAPATH)


@pytest.mark.parametrize(
    ("length", "plan", "message"),
    [
        (56, FftPlan.of(28), r"56 real words through a plan of 28 need `datapath\.split`"),
        (56, FftPlan.of(7), r"takes a plan of 56 points, or of 28 with `datapath\.split`"),
        (7, FftPlan.of(14), r"takes a plan of 7 points\."),
        (56, FftPlan.of(56, output_order="digit_reversed"), "takes a plan with natural order at both"),
    ],
)  # fmt: skip
def test_a_real_transform_s_plan_fits_its_words(length, plan, message):
    datapath = FftDatapath.of(plan)
    with pytest.raises(InputError, match=message):
        rfft(np.zeros(length, int), plan=plan, datapath=datapath)
    with pytest.raises(InputError, match=message):
        irfft(np.zeros((length // 2 + 1, 2), int), length=length, plan=plan, datapath=datapath)


def test_bins_belong_to_a_length():
    with pytest.raises(InputError, match=r"28 bins, and length is 56; N points have N // 2 \+ 1"):
        irfft(np.zeros((28, 2), int), length=56, plan=PLAN, datapath=DATAPATH)


def test_the_split_step_has_only_the_points_of_a_sum():
    step = StageDatapath(sum=Point(shift=1, rounding=Rounding.FLOOR), input=Point())
    datapath = FftDatapath(stages=FftDatapath.of(FftPlan.of(4)).stages, split=step)
    with pytest.raises(InputError, match=r"split\.input: the step has no such point"):
        rfft(np.zeros(8, int), plan=FftPlan.of(4), datapath=datapath)
    with pytest.raises(InputError, match="has no `split`"):
        _ = DATAPATH.real_output
