"""Certificates: what is called impossible never happens, and every witness overflows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from operator_cases import ROUTES, Case, draw

from fixedpoint import (
    Certificate,
    Cut,
    DirectDatapath,
    FourierDatapath,
    Overflow,
    OverflowCounter,
    QFormat,
    Rounding,
    SplitDatapath,
    Verdict,
    certify,
    parc,
    quantize,
    spectrum_format,
    table_format,
)
from fixedpoint.affine import Affine, rounding_error
from fixedpoint.exact import round_to_integer
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import Axis, ParcSpec

Q15 = QFormat.parse("Q1.15")


def certified(case: Case) -> Certificate:
    return certify(case.w, spec=case.spec, plan=case.plan, datapath=case.datapath, **case.extra)


def cases(route: str, count: int) -> Iterator[Case]:
    """Draw cases without block floating point: half narrow, half with room for large sums."""
    seed = found = 0
    while found < count:
        case, seed = draw(route, seed, room=8 * (seed % 2)), seed + 1
        path = case.datapath
        if not (isinstance(path, FourierDatapath) and path.forward.block is not None):
            found += 1
            yield case


def along_rows(case: Case, lines: np.ndarray) -> tuple[np.ndarray, ParcSpec]:
    """Lines (C, L, N) as an input along W, and its spec."""
    spec = dataclasses.replace(
        case.spec, axis=Axis.W, batch=1, height=lines.shape[1], width=case.spec.length
    )
    return lines[None], spec


def overflows(case: Case, lines: np.ndarray) -> dict[str, int]:
    x, spec = along_rows(case, lines)
    counter = OverflowCounter()
    parc(
        x, case.w, spec=spec, plan=case.plan, datapath=case.datapath, **case.extra, counter=counter
    )
    return counter.overflowed


def attacks(case: Case, count: int, seed: int) -> Iterator[np.ndarray]:
    """Inputs (C, L, N): sign ascent on the outputs and on all frequencies, then random ones."""
    fmt, length, rng = case.datapath.data, case.spec.length, np.random.default_rng(seed)
    low, high = fmt.min_raw, fmt.max_raw
    channels = case.spec.channels
    # The gradient of every output: how the whole way answers one raised input.
    silent = np.zeros((channels, 1, length), np.int64)
    rows = []
    for c in range(channels):
        for k in range(length):
            for word in (low, high):
                probe = silent.copy()
                probe[c, 0, k] = word
                rows.append(probe)
    probes = np.concatenate(rows, axis=1)
    x, spec = along_rows(case, probes)
    arguments = {"plan": case.plan, "datapath": case.datapath.quiet(), **case.extra}
    y = parc(x, case.w, spec=spec, **arguments)[0].reshape(-1, probes.shape[1], length)
    slopes = (y[:, 1::2] - y[:, ::2]).reshape(-1, channels, length, length)  # (O, C, k, i)
    up = np.moveaxis(slopes, 3, 1).reshape(-1, channels, length) > 0
    yield (
        np.concatenate([np.where(up, high, low), np.where(up, low, high)], axis=0)
        .swapaxes(0, 1)
        .astype(np.int64)
    )
    # The signs of cosines and sines: what the stages of a forward transform add up.
    angle = 2 * np.pi * np.arange(length) / length * np.arange(length)[:, None]
    waves = np.concatenate([np.cos(angle + turn) for turn in np.arange(8) * np.pi / 4]) > 0
    everywhere = np.broadcast_to(np.where(waves, high, low), (channels, *waves.shape))
    yield everywhere.astype(np.int64)
    yield np.stack([np.full((channels, length), end) for end in (low, high)], axis=1)
    done = 0
    while done < count:
        step = min(20_000, count - done)
        done += step
        ends = rng.integers(0, 2, (channels, step // 2, length)) * (high - low) + low
        any_ = rng.integers(low, high + 1, (channels, step - step // 2, length))
        yield np.concatenate([ends, any_], axis=1)


def judge(case: Case, count: int, seed: int) -> Certificate:
    """Attack what is called impossible, run what is called a witness."""
    found = certified(case)
    safe = [stage.name for stage in found.stages if stage.verdict is Verdict.IMPOSSIBLE]
    for lines in attacks(case, count, seed):
        seen = overflows(case, lines)
        assert not [name for name in safe if seen.get(name, 0)]
    if found.witness is not None:
        counter = OverflowCounter()
        y = parc(
            found.witness,
            case.w,
            spec=case.spec,
            plan=case.plan,
            datapath=case.datapath,
            **case.extra,
            counter=counter,
        )
        assert y.shape[0] == case.spec.batch
        assert counter.overflowed[found.witness_stage] > 0
    return found


@pytest.mark.parametrize("route", ROUTES)
def test_impossible_survives_attacks_and_witnesses_overflow(route: str) -> None:
    verdicts = [judge(case, 2_000, seed).verdict for seed, case in enumerate(cases(route, 20))]
    assert {Verdict.OVERFLOWS, Verdict.IMPOSSIBLE} <= set(verdicts)
    if route in ("direct", "ntt"):
        assert Verdict.UNDECIDED not in verdicts


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
def test_200_kernels_and_datapaths_under_a_million_inputs_each(route: str) -> None:
    verdicts = [judge(case, 1_000_000, seed).verdict for seed, case in enumerate(cases(route, 50))]
    assert verdicts.count(Verdict.UNDECIDED) <= (0 if route in ("direct", "ntt") else 2)


# ---------------------------------------------------------------- sizes that decide
def usual(route: str, w: np.ndarray, **changed: Any) -> tuple[Any, Any]:
    length = w.shape[-1]
    if route == "direct":
        return "direct", DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), **changed)
    if route == "split":
        plan = SplitPlan(n1=8, n2=length // 8)
        return plan, SplitDatapath.of(
            plan, data=Q15, table=table_format(w, Q15, plan, 16), **changed
        )
    fft = FftPlan.of(length, output_order="digit_reversed")
    fine = {"spectrum": spectrum_format(w, Q15, 16), "product": "Q2.14"}
    return fft, FourierDatapath.of(fft, data=Q15, **{**fine, **changed})


@pytest.mark.parametrize("gain", [0.9, 1.1])
@pytest.mark.parametrize("route", ["direct", "split", "fourier"])
def test_the_l1_gain_of_the_kernel_decides(route: str, gain: float) -> None:
    w = np.random.default_rng(4).normal(size=(2, 56))
    w = quantize(w * gain / np.abs(w).sum(axis=1, keepdims=True), Q15)
    spec = ParcSpec(axis=Axis.H, batch=1, channels=2, height=56, width=3)
    plan, path = usual(route, w)
    reach = (-32700, 32700)  # roundings in front of a stage add an LSB or two
    found = certify(w, spec=spec, plan=plan, datapath=path, input_range=reach)
    output = found.stages[-1]
    if gain < 1:
        assert found.verdict is Verdict.IMPOSSIBLE
        assert found.witness is None
        assert "impossible at every stage" in found.sentence
        assert output.highest == pytest.approx(0.9 * 32700, abs=300)  # 1 % for error bounds
    else:
        assert found.verdict is Verdict.OVERFLOWS
        assert found.witness_stage == "output"
        assert np.abs(found.witness).max() == 32700
        assert "An input overflows at output" in found.sentence


def test_the_direct_extremes_are_attained() -> None:
    compared = 0
    for seed in range(40):
        case = draw("direct", seed, room=8)
        if case.spec.out_channels is not None or case.spec.position_embedding:
            continue  # dense, or another place may be the worst one
        found = certified(case)
        if found.verdict is not Verdict.IMPOSSIBLE:
            continue
        # All inputs at the end that raises output 0, and all at the one that lowers it.
        data, up = case.datapath.data, case.w > 0
        ends = [
            np.where(up, data.max_raw, data.min_raw),
            np.where(up, data.min_raw, data.max_raw),
        ]
        x, spec = along_rows(case, np.stack(ends, axis=1))
        arguments = {"plan": case.plan, "datapath": case.datapath, **case.extra}
        _, trace = parc(x, case.w, spec=spec, **arguments, trace=True)
        output, stage = found.stages[-1], trace.stage("output")
        assert output.exact
        assert (output.lowest, output.highest) == (stage.lowest, stage.highest)
        compared += 1
    assert compared > 2


def test_half_scaling_overflows_for_the_lone_lowest_word_first() -> None:
    """4 words of -1 give -4, and their negative +4 does not fit Q3.13: one LSB too much."""
    w = np.zeros((1, 56), np.int64)
    w[0, 0] = 1000
    spec = ParcSpec(axis=Axis.W, batch=1, channels=1, height=1, width=56)
    plan, path = usual("fourier", w)
    full = certify(w, spec=spec, plan=plan, datapath=path)
    assert (full.witness_stage, full.stages[0].highest) == ("forward 0 (r4)", 32768)
    without = certify(w, spec=spec, plan=plan, datapath=path, input_range=(-32700, 32700))
    assert without.verdict is Verdict.IMPOSSIBLE


def test_running_sums_are_certified_and_not_only_the_last() -> None:
    """Three taps of +1 and three of -1: with inputs of one sign, running sums stay within +-3."""
    w = np.zeros((1, 2, 4), np.int64)
    w[0, 0, :3], w[0, 1, :3] = 32767, -32767
    spec = ParcSpec(axis=Axis.W, batch=1, channels=2, height=1, width=4, out_channels=1)
    for register, verdict in (("Q3.30", Verdict.IMPOSSIBLE), ("Q2.30", Verdict.OVERFLOWS)):
        path = DirectDatapath(
            data=Q15,
            kernel=Q15,
            output=Cut(QFormat.parse("Q4.15")),
            accumulator=Cut(QFormat.parse(register), overflow=Overflow.WRAP),
        )
        found = certify(w, spec=spec, plan="direct", datapath=path, input_range=(0, 32767))
        assert found.verdict is verdict
        assert found.stages[1].highest == pytest.approx(3 * 2**30, rel=1e-3)


def test_stage_bounds_hold_for_every_trace() -> None:
    for route in ROUTES:
        for case in cases(route, 12):
            found = {stage.name: stage for stage in certified(case).stages}
            arguments = {"plan": case.plan, "datapath": case.datapath, **case.extra}
            _, trace = parc(case.x, case.w, spec=case.spec, **arguments, trace=True)
            for stage in trace.stages:
                bound = found.get(stage.name)
                if bound is None or bound.verdict is not Verdict.IMPOSSIBLE:
                    continue
                assert bound.format == stage.format
                assert bound.lowest <= stage.lowest
                assert stage.highest <= bound.highest


# ---------------------------------------------------------------- parts
@pytest.mark.parametrize("mode", list(Rounding))
@pytest.mark.parametrize("dropped", [1, 2, 3, 5])
def test_rounding_errors_stay_within_their_bounds(mode: Rounding, dropped: int) -> None:
    from fractions import Fraction

    low, high = rounding_error(dropped, mode)
    unit = 1 << dropped
    errors = [
        round_to_integer(Fraction(raw, unit), mode) * unit - raw
        for raw in range(-4 * unit, 4 * unit)
    ]
    assert low <= min(errors)
    assert max(errors) <= high


def test_affine_words_know_what_cancels() -> None:
    box = Affine.inputs([-4, -4], [3, 3], 2)
    low, high = box.added(box.times(-1)).extremes()
    assert low.tolist() == high.tolist() == [0, 0]
    halved = box.times(1, 1).rounded(2, Rounding.HALF_EVEN)
    assert halved.words(2, Rounding.HALF_EVEN) == ([-2, -2], [2, 2])
