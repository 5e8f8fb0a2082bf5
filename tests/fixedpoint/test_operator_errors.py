"""What the operator refuses, and whether the message says what was wrong and what would do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fixedpoint import (
    BlockScaling,
    Cut,
    Datapath,
    DirectDatapath,
    FftDatapath,
    FormatError,
    FourierDatapath,
    NttDatapath,
    ParcDatapath,
    QFormat,
    ScalingError,
    SplitDatapath,
    certify,
    ntt_plan,
    parc,
    parse_plan,
    spectrum_format,
    vectors,
)
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import Axis, ParcSpec

Q15, Q7 = QFormat.parse("Q1.15"), QFormat.parse("Q1.7")
SPEC = ParcSpec(axis=Axis.W, batch=1, channels=2, height=3, width=14)
X, W = np.ones((1, 2, 3, 14), np.int64), np.ones((2, 14), np.int64)
PATH = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15))
FFT = FftPlan.of(14, output_order="digit_reversed")


def run(x: Any = X, w: Any = W, **changed: Any) -> Any:
    arguments = {"spec": SPEC, "plan": "direct", "datapath": PATH}
    return parc(x, w, **{**arguments, **changed})


def test_floats_are_no_raw_integers() -> None:
    with pytest.raises(InputError, match=r"raw_x: raw .stored. integers of Q1.15 .* not float64"):
        run(X * 0.5)
    with pytest.raises(InputError, match=r"raw_w: raw .stored. integers .* Use quantize"):
        run(w=W * np.nan)


def test_words_outside_their_format_are_named_with_their_index() -> None:
    x = X.copy()
    x[0, 1, 2, 3] = 40000
    with pytest.raises(InputError, match=r"raw_x: 40000 at index \(0, 1, 2, 3\) is outside Q1.15"):
        run(x)


def test_shapes_must_be_the_specs() -> None:
    with pytest.raises(InputError, match=r"raw_x has shape .* the spec asks for \(1, 2, 3, 14\)"):
        run(X[:, :1])
    with pytest.raises(InputError, match=r"raw_w has shape \(2, 13\); the spec asks for \(2, 14\)"):
        run(w=W[:, :13])
    with pytest.raises(InputError, match=r"holds no word"):
        run(X[:0])


@pytest.mark.parametrize("name", ["position_embedding", "bias"])
def test_spec_datapath_and_words_must_agree_about_embedding_and_bias(name: str) -> None:
    words = {"position_embedding": W, "bias": W[:, 0]}[name]
    with pytest.raises(InputError, match=rf"{name}: the spec has none, .* words were given"):
        run(**{name: words})
    has = ParcSpec(**{**SPEC.to_json(), "axis": Axis.W, name: True})
    with pytest.raises(InputError, match=rf"{name}: the spec has one, the datapath no format"):
        run(spec=has, **{name: words})


def test_a_bias_must_fit_its_accumulator() -> None:
    spec = ParcSpec(**{**SPEC.to_json(), "axis": Axis.W, "bias": True})
    path = DirectDatapath(
        data=Q15, kernel=Q15, output=Cut(Q15), bias="Q4.12", accumulator=Cut(QFormat(1, 30))
    )
    with pytest.raises(InputError, match=r"bias: 2 of 2 words of Q4.12 do not fit the accumulator"):
        run(spec=spec, datapath=path, bias=[20000, -20000])


# ---------------------------------------------------------------- plans
def test_lengths_that_no_plan_covers() -> None:
    spec = ParcSpec(axis=Axis.W, batch=1, channels=1, height=1, width=46)
    with pytest.raises(UnsupportedError, match=r"no fixed-point FFT for length 46 = 2.23"):
        parc(
            np.ones((1, 1, 1, 46), int), np.ones((1, 46), int), spec=spec, plan="fft", datapath=PATH
        )
    path = NttDatapath(data=Q15, kernel=Q15, output=Cut(Q15))
    x, w = np.ones((1, 1, 1, 46), int), np.ones((1, 46), int)
    with pytest.raises(UnsupportedError, match=r"data_bits . kernel_bits <= "):
        parc(x, w, spec=spec, plan="ntt", datapath=path)
    with pytest.raises(InputError, match=r"n1 = 46 is longer than the longest codelet"):
        parse_plan("46x1", length=46)


def test_plans_that_do_not_fit() -> None:
    with pytest.raises(
        InputError, match=r"plan 'sftf' is not understood; accepted are direct, fft"
    ):
        run(plan="sftf")
    with pytest.raises(InputError, match=r"covers length 28, but the spec's axis W has 14"):
        run(plan=SplitPlan(n1=1, n2=28))
    with pytest.raises(InputError, match=r"DirectDatapath; the plan dif 2x7.* takes a FourierD"):
        run(plan=FFT)
    with pytest.raises(InputError, match=r"takes a SplitDatapath"):
        run(plan="7x2")
    with pytest.raises(InputError, match=r"plan is 3: expected"):
        run(plan=3)
    natural = FftPlan.of(14, input_order="digit_reversed", output_order="natural")
    with pytest.raises(InputError, match=r"begins in digit_reversed order; a ParC's lines"):
        run(plan=natural, datapath=FourierDatapath.of(natural, data=Q15))
    narrow = ntt_plan(14, data_bits=8, kernel_bits=8)
    path = NttDatapath(data="Q1.8", kernel=Q7, output=Cut(Q7))
    with pytest.raises(InputError, match=r"proved for 8-bit by 8-bit words; the datapath has 9"):
        run(plan=narrow, datapath=path)


def test_a_schedule_of_the_wrong_length() -> None:
    with pytest.raises(ScalingError, match=r"schedule \(1, 1\) has 2 shifts, .* has 3 stages"):
        FourierDatapath.of(FftPlan.of(56, output_order="digit_reversed"), data=Q15, scaling="1,1")


# ---------------------------------------------------------------- formats
def test_a_product_that_64_bits_do_not_hold_is_named() -> None:
    path = DirectDatapath(data="Q1.39", kernel="Q1.39", output=Cut(Q15))
    with pytest.raises(
        FormatError,
        match=r"the product of Q1.39 and Q1.39 needs 80 bits .Q2.78., .* Q1.31 and Q1.31 would fit",
    ):
        run(datapath=path)
    fine = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), product=Cut(QFormat(-10, 63)))
    with pytest.raises(
        FormatError, match=r"the product of Q1.15 and Q1.15 has 32 bits, and 33 low"
    ):
        run(datapath=fine)


def test_a_spectrum_product_that_64_bits_do_not_hold_is_named() -> None:
    path = FourierDatapath.of(FFT, data="Q1.25", spectrum="Q-1.48", product="Q2.20", twiddle=16)
    with pytest.raises(FormatError, match=r"the product of Q.* and Q-1.48 needs"):
        run(plan=FFT, datapath=path)


def test_codelets_that_64_bits_do_not_hold_are_named() -> None:
    plan = SplitPlan(n1=7, n2=2)
    path = SplitDatapath.of(
        plan, data="Q1.31", kernel=Q7, table="Q4.6", coefficient_bits=32, guard=8,
        rows="Q4.12", columns="Q4.12", output=Cut(Q15),
    )  # fmt: skip
    with pytest.raises(FormatError, match=r"rows: a product of Q1.31 words with 8 guard bits"):
        run(plan=plan, datapath=path)


def test_constants_outside_their_format_say_what_holds_them() -> None:
    w = np.full((2, 14), 32767)
    plan = SplitPlan(n1=7, n2=2)
    path = SplitDatapath.of(plan, data=Q15, table="Q-3.18")
    with pytest.raises(
        InputError, match=r"table is Q-3.18, and the kernel's Toeplitz .* Q1.18 holds"
    ):
        run(w=w, plan=plan, datapath=path)
    path = FourierDatapath.of(FFT, data=Q15, spectrum="Q-3.18")
    fits = spectrum_format(w, Q15, 15)
    with pytest.raises(
        InputError, match=rf"spectrum is Q-3.18, .* {fits} holds it in as many bits"
    ):
        run(w=w, plan=FFT, datapath=path)
    plan = SplitPlan(n1=14, n2=1)
    usual = SplitDatapath.of(plan, data=Q15, table="Q1.15")
    narrow = replace(usual, coefficient=QFormat(0, 15))
    with pytest.raises(InputError, match=r"coefficient is Q0.15, .* multiplies by .* Q2.15 holds"):
        run(plan=plan, datapath=narrow)


def test_datapaths_refuse_what_is_no_datapath() -> None:
    with pytest.raises(InputError, match=r"output is 'Q1.15': expected a Cut"):
        DirectDatapath(data=Q15, kernel=Q15, output="Q1.15")
    with pytest.raises(InputError, match=r"data is UQ0.8: the words of a ParC are signed"):
        DirectDatapath(data="UQ0.8", kernel=Q15, output=Cut(Q15))
    with pytest.raises(InputError, match=r"accumulator is UQ8.8: the words of a ParC are signed"):
        DirectDatapath(
            data=Q15, kernel=Q15, output=Cut(Q15), accumulator=Cut(QFormat(8, 8, signed=False))
        )
    with pytest.raises(InputError, match=r"there is no position embedding to add"):
        DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), total=Cut(Q15))
    with pytest.raises(InputError, match=r"guard is -1"):
        SplitDatapath.of(SplitPlan(n1=7, n2=2), data=Q15, table=Q15, guard=-1)
    with pytest.raises(InputError, match=r"inverse.input is Q1.15, but what product.result hands"):
        FourierDatapath(
            data=Q15, kernel=Q15, output=Cut(Q15), spectrum=Q15,
            forward=FftDatapath.of(FFT), product=Datapath(Cut(Q7)),
            inverse=FftDatapath.of(FFT.transposed),
        )  # fmt: skip
    with pytest.raises(InputError, match=r"datapath is None: expected a DirectDatapath"):
        run(datapath=None)


def test_a_dense_operator_has_no_block_floating_point() -> None:
    spec = ParcSpec(axis=Axis.W, batch=1, channels=2, height=3, width=14, out_channels=2)
    path = FourierDatapath.of(FFT, data=Q15, block=BlockScaling(), scaling="none")
    with pytest.raises(InputError, match=r"dense ParC adds channels; take a scaling schedule"):
        run(w=np.ones((2, 2, 14), int), spec=spec, plan=FFT, datapath=path)


def test_json_of_a_datapath_is_checked() -> None:
    data = PATH.to_json()
    with pytest.raises(InputError, match=r"kind is 'dirct'; accepted: direct, fourier, ntt, split"):
        ParcDatapath.from_json({**data, "kind": "dirct"})
    with pytest.raises(InputError, match=r"unknown key 'acumulator'. Did you mean accumulator"):
        ParcDatapath.from_json({**data, "acumulator": None})
    with pytest.raises(InputError, match=r"datapath: missing output"):
        ParcDatapath.from_json({"kind": "direct", "data": "Q1.15", "kernel": "Q1.15"})


# ---------------------------------------------------------------- certificates and vectors
def test_certificates_refuse_frames_that_scale_themselves_and_impossible_ranges() -> None:
    path = FourierDatapath.of(FFT, data=Q15, block=BlockScaling(), scaling="none")
    with pytest.raises(UnsupportedError, match=r"with block floating point .* no gains to bound"):
        certify(W, spec=SPEC, plan=FFT, datapath=path)
    with pytest.raises(InputError, match=r"input_range is \(5, 4\): expected low <= high"):
        certify(W, spec=SPEC, plan="direct", datapath=PATH, input_range=(5, 4))


def test_a_line_of_a_vector_file_that_is_no_word_is_named() -> None:
    with pytest.raises(InputError, match=r"line 2: 'fff' is no word of Q1.7; expected 2 hexa"):
        vectors.read_hex("ff\nfff\n", "Q1.7")
    with pytest.raises(InputError, match=r"line 1: 'x1' is no word"):
        vectors.read_hex("x1\n", "Q1.7")


@pytest.mark.parametrize("fmt", ["Q1.7", "Q1.8", "UQ0.8", "Q1.63", "UQ0.64"])
def test_vector_files_read_back_as_what_was_written(fmt: str) -> None:
    words = np.array([QFormat.parse(fmt).min_raw, 1, 0, QFormat.parse(fmt).max_raw], object)
    raw = words.astype(QFormat.parse(fmt).dtype)
    text = vectors.mem_text(raw, fmt, name="x", order="line")
    assert (vectors.read_hex(text, fmt) == raw).all()
    assert text.splitlines()[0].startswith("// x: 4 words")
