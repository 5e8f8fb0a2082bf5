"""What holds for every way of computing a ParC: laws of the operator, and noise as theory has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fixedpoint import (
    BlockScaling,
    Cut,
    DirectDatapath,
    FixedPointOverflow,
    FourierDatapath,
    NttDatapath,
    Overflow,
    OverflowCounter,
    QFormat,
    Rounding,
    SplitDatapath,
    exact_operator,
    mac,
    parc,
    predict_noise,
    quantize,
    spectrum_format,
    table_format,
    to_value,
)
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.reference import parc as reference
from parc_hw.spec import Axis, ParcSpec

Q15, Q7 = QFormat.parse("Q1.15"), QFormat.parse("Q1.7")
RNG = np.random.default_rng


def lines_spec(length: int, channels: int = 2, lines: int = 4, **more: Any) -> ParcSpec:
    return ParcSpec(axis=Axis.W, batch=1, channels=channels, height=lines, width=length, **more)


def kernels(shape: tuple[int, ...], seed: int = 1, gain: float = 0.9) -> np.ndarray:
    """Taps whose magnitudes add up to `gain` for every output."""
    w = RNG(seed).normal(size=shape)
    w *= gain / np.abs(w).sum(axis=tuple(range(1, len(shape))), keepdims=True)
    return quantize(w, Q15)


def ways(length: int, n1: int, w: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """Every way with good words for int16 data."""
    plan, split = (
        FftPlan.of(length, output_order="digit_reversed"),
        SplitPlan(n1=n1, n2=length // n1),
    )
    fine = {"spectrum": spectrum_format(w, Q15, 16), "product": "Q2.14"}
    return {
        "direct": ("direct", DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15))),
        "split": (split, SplitDatapath.of(split, data=Q15, table=table_format(w, Q15, split, 16))),
        "fourier": (plan, FourierDatapath.of(plan, data=Q15, **fine)),
        "pairs": (plan, FourierDatapath.of(plan, data=Q15, pairs=True, **fine)),
        "block": (
            plan,
            FourierDatapath.of(
                plan, data=Q15, spectrum=fine["spectrum"], block=BlockScaling(), scaling="none"
            ),
        ),
    }


NAMES = ("direct", "split", "fourier", "pairs", "block")


@pytest.mark.parametrize("length, n1", [(7, 7), (14, 7), (28, 14), (56, 8), (112, 16), (224, 32)])
def test_the_ntt_is_the_direct_sum_of_int8(length: int, n1: int) -> None:
    spec = lines_spec(length, out_channels=3, channels=3)
    for fill in ("random", "all -128"):
        shape, kernel = (1, 3, 4, length), (3, 3, length)
        x = RNG(1).integers(-128, 128, shape) if fill == "random" else np.full(shape, -128)
        w = RNG(2).integers(-128, 128, kernel) if fill == "random" else np.full(kernel, -128)
        wide = {"data": Q7, "kernel": Q7, "output": Cut(QFormat(20, 14))}
        direct = parc(x, w, spec=spec, plan="direct", datapath=DirectDatapath(**wide))
        assert (parc(x, w, spec=spec, plan="ntt", datapath=NttDatapath(**wide)) == direct).all()
        if fill == "all -128":
            assert (direct == 3 * length * 128 * 128).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_way_is_near_the_float_operator(name: str) -> None:
    length = 56
    for dense in (None, 3):
        if name == "block" and dense:
            continue
        w = kernels((2, length) if dense is None else (3, 2, length))
        spec = lines_spec(length, out_channels=dense)
        x = RNG(3).integers(-32767, 32768, (1, 2, 4, length))
        plan, path = ways(length, 8, w)[name]
        y = parc(x, w, spec=spec, plan=plan, datapath=path)
        exact = reference(to_value(x, Q15), to_value(w, Q15), axis=Axis.W)
        # A dozen LSB: an order would be thousands.
        assert np.abs(to_value(y, Q15) - exact).max() < 24 * Q15.lsb


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_columns_are_the_same_operator(name: str) -> None:
    w = kernels((2, 14))
    plan, path = ways(14, 7, w)[name]
    x = RNG(3).integers(-32767, 32768, (2, 2, 14, 6))
    down = ParcSpec(axis=Axis.H, batch=2, channels=2, height=14, width=6)
    across = ParcSpec(axis=Axis.W, batch=2, channels=2, height=6, width=14)
    y = parc(x, w, spec=down, plan=plan, datapath=path)
    turned = parc(x.swapaxes(2, 3), w, spec=across, plan=plan, datapath=path)
    assert (y == turned.swapaxes(2, 3)).all()


@pytest.mark.parametrize("name", ["direct", "split", "fourier", "block"])
def test_lines_and_channels_do_not_see_each_other(name: str) -> None:
    w = kernels((2, 14))
    plan, path = ways(14, 7, w)[name]
    x = RNG(3).integers(-32767, 32768, (1, 2, 5, 14))
    y = parc(x, w, spec=lines_spec(14, lines=5), plan=plan, datapath=path)
    alone = parc(x[:, 1:, 3:4], w[1:], spec=lines_spec(14, 1, 1), plan=plan, datapath=path)
    assert (y[:, 1:, 3:4] == alone).all()


def test_the_direct_way_commutes_with_shifts() -> None:
    w = kernels((2, 14))
    path = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q7))
    x = RNG(3).integers(-32767, 32768, (1, 2, 4, 14))
    y = parc(x, w, spec=lines_spec(14), plan="direct", datapath=path)
    shifted = parc(np.roll(x, 3, axis=-1), w, spec=lines_spec(14), plan="direct", datapath=path)
    assert (shifted == np.roll(y, 3, axis=-1)).all()


def test_an_impulse_of_one_half_at_tap_zero_halves() -> None:
    w = np.zeros((1, 7), np.int64)
    w[0, 0] = 1 << 14
    x = 2 * RNG(3).integers(-16384, 16384, (1, 1, 4, 7))
    path = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15))
    y = parc(x, w, spec=lines_spec(7, 1), plan="direct", datapath=path)
    assert (2 * y == x).all()


# ---------------------------------------------------------------- registers
def test_the_register_of_each_mac_against_python_integers() -> None:
    # 20 bits where 22 are needed: saturation after every addition differs from once at the end.
    length = 9
    x = RNG(1).integers(-32768, 32768, (1, 1, 3, length))
    w = RNG(2).integers(-32768, 32768, (1, length))
    for overflow in (Overflow.SATURATE, Overflow.WRAP):
        path = DirectDatapath(
            data=Q15,
            kernel=Q15,
            product=Cut(QFormat(2, 15), Rounding.FLOOR),
            accumulator=Cut(QFormat(2, 15), overflow=overflow),
            output=Cut(QFormat(2, 15)),
        )
        y, trace = parc(
            x, w, spec=lines_spec(length, 1, 3), plan="direct", datapath=path, trace=True
        )
        overflowed = 0
        for line in range(3):
            for i in range(length):
                total = 0
                for k in range(length):
                    total += int(w[0, k]) * int(x[0, 0, line, (i + k) % length]) >> 15
                    if not -65536 <= total <= 65535:
                        overflowed += 1
                        if overflow is Overflow.WRAP:
                            total = (total + 65536) % 131072 - 65536
                        else:
                            total = min(max(total, -65536), 65535)
                assert y[0, 0, line, i] == total
        assert trace.stage("accumulator").overflowed == overflowed > 0


def test_the_kernel_without_points_equals_the_one_with_points() -> None:
    w = RNG(1).integers(-32768, 32768, (3, 2 * 14))
    x = RNG(2).integers(-32768, 32768, (1, 37, 2 * 14))  # lines beyond whole vectors
    start = RNG(3).integers(-(1 << 40), 1 << 40, 3)
    points = mac.MacPoints(Q15, Q15, None, None, 28)
    plain = mac.correlate_exactly(x, w, start, 14)
    terms = mac.direct_terms(14, 2)
    checked, _ = mac.accumulate_terms(
        x, w[:, None], terms, np.repeat(start[:, None], 14, 1), points
    )
    assert (plain == checked).all()


def test_guard_bits_say_when_a_register_is_enough() -> None:
    for extra in (-1, 0):
        needed = QFormat.for_multiply_accumulate(Q15, Q15, 56)
        register = QFormat(needed.int_bits + extra, needed.frac_bits)
        path = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), accumulator=Cut(register))
        assert path.guard_bits(56) == extra
        x, w = np.full((1, 1, 1, 56), -32768), np.full((1, 56), -32768)
        counter = OverflowCounter()
        parc(x, w, spec=lines_spec(56, 1, 1), plan="direct", datapath=path, counter=counter)
        assert (counter.overflowed["accumulator"] > 0) == (extra < 0)


# ---------------------------------------------------------------- RAISE
def raising(**cuts: str) -> DirectDatapath:
    held = {
        name: Cut(QFormat.parse(fmt), Rounding.FLOOR, Overflow.RAISE) for name, fmt in cuts.items()
    }
    return DirectDatapath(**{"data": Q7, "kernel": Q7, "output": Cut(QFormat(9, 7)), **held})


@pytest.mark.parametrize("axis", list(Axis))
@pytest.mark.parametrize("stage", ["product", "accumulator", "output"])
def test_raise_names_stage_and_first_index(axis: Axis, stage: str) -> None:
    formats = {"product": "Q1.7", "accumulator": "Q2.14", "output": "Q2.7"}
    path = raising(**{stage: formats[stage]})
    shape = (2, 3, 7, 5) if axis is Axis.H else (2, 3, 5, 7)
    spec = ParcSpec(axis=axis, batch=2, channels=3, height=shape[2], width=shape[3])
    x, w = np.zeros(shape, np.int64), np.zeros((3, 7), np.int64)
    w[2] = -128
    line = (1, 2, slice(None), 4) if axis is Axis.H else (1, 2, 4)
    x[line] = -128
    x[1, 2, 0, 0] = -128 if stage == "product" else 0
    quiet = parc(x, w, spec=spec, plan="direct", datapath=path.quiet())
    oracle = exact_operator.parc(x, w, spec=spec, plan=SplitPlan(n1=1, n2=7), datapath=path.quiet())
    assert (quiet == oracle).all()
    with pytest.raises(FixedPointOverflow, match=rf"{stage}: the value at index") as caught:
        parc(x, w, spec=spec, plan="direct", datapath=path)
    assert caught.value.point == stage
    b, c, h, width = caught.value.index
    assert (b, c) == (1, 2)
    if stage != "product":
        assert (h, width)[axis is Axis.H] == 4
        assert (h, width)[axis is Axis.W] == 0


def test_a_transforms_raise_names_direction_and_stage() -> None:
    plan = FftPlan.of(14, output_order="digit_reversed")
    path = FourierDatapath.of(plan, data=Q15, scaling="none", overflow=Overflow.RAISE)
    x = np.full((1, 1, 1, 14), 30000)
    with pytest.raises(FixedPointOverflow, match=r"forward transform, stage 0") as caught:
        parc(x, np.full((1, 14), 100), spec=lines_spec(14, 1, 1), plan=plan, datapath=path)
    assert caught.value.point == "forward stage 0 sum"


# ---------------------------------------------------------------- noise
@pytest.mark.parametrize("length, n1", [(28, 14), (56, 8), (64, 16), (112, 16)])
@pytest.mark.parametrize("name", ["direct", "rounded", "split", "fourier", "pairs", "floor"])
def test_measured_noise_is_within_half_a_decibel_of_theory(name: str, length: int, n1: int) -> None:
    for dense in (None, 3):
        w = kernels((3, length) if dense is None else (dense, 3, length))
        spec = lines_spec(length, 3, 400, out_channels=dense)
        x = quantize(RNG(3).uniform(-0.5, 0.5, (1, 3, 400, length)), Q15)
        if name == "rounded":
            plan: Any = "direct"
            path: Any = DirectDatapath(
                data=Q15,
                kernel=Q15,
                output=Cut(Q15),
                product=Cut(QFormat(2, 16), Rounding.FLOOR),
                accumulator=Cut(QFormat(6, 16)),
            )
        elif name == "floor":
            plan = FftPlan.of(length, output_order="digit_reversed")
            path = FourierDatapath.of(
                plan,
                data=Q15,
                spectrum=spectrum_format(w, Q15, 16),
                product="Q2.14",
                rounding=Rounding.FLOOR,
                pairs=True,
            )
        else:
            plan, path = ways(length, n1, w)[name]
        _, trace = parc(x, w, spec=spec, plan=plan, datapath=path, trace=True)
        error = trace.stage("output").error
        assert error is not None
        assert trace.overflowed == 0
        predicted = predict_noise(
            w,
            spec=spec,
            plan=plan,
            datapath=path,
            input_power=float(np.mean(to_value(x, Q15) ** 2)),
        )
        assert predicted is not None
        measured = (error.rms / path.output.format.lsb) ** 2
        slack = 10 ** (0.1 if name == "floor" else 0.05)  # truncation's mean is signal-dependent
        assert predicted.low.power / slack < measured < predicted.high.power * slack
        if name != "fourier":
            assert predicted.low == predicted.high


def test_there_is_no_prediction_for_block_floating_point() -> None:
    w = kernels((2, 56))
    plan, path = ways(56, 8, w)["block"]
    assert predict_noise(w, spec=lines_spec(56), plan=plan, datapath=path, input_power=0.3) is None


def test_block_floating_point_gains_on_quiet_signals() -> None:
    w = kernels((2, 64))
    x = quantize(RNG(3).uniform(-0.02, 0.02, (1, 2, 200, 64)), Q15)
    sqnr = {}
    for name in ("fourier", "block"):
        plan, path = ways(64, 8, w)[name]
        wide = FourierDatapath.of(
            plan,
            data=Q15,
            output=Cut(QFormat(1, 23)),
            spectrum=path.spectrum,
            product=path.product.result.format,
            scaling="none" if name == "block" else "half",
            block=path.forward.block,
        )
        _, trace = parc(x, w, spec=lines_spec(64, lines=200), plan=plan, datapath=wide, trace=True)
        error = trace.stage("output").error
        assert error is not None
        sqnr[name] = error.sqnr_db
    assert sqnr["block"] > sqnr["fourier"] + 10


def test_exact_stages_are_called_exact() -> None:
    w = kernels((2, 56))
    _, trace = parc(
        RNG(1).integers(-32768, 32768, (1, 2, 4, 56)),
        w,
        spec=lines_spec(56),
        plan="direct",
        datapath=DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15)),
        trace=True,
    )
    row = next(row for row in trace.rows() if row[0] == "accumulator")
    assert row[-1] == "exact"
    assert [stage.name for stage in trace.stages] == ["input", "product", "accumulator", "output"]
