"""Candidates by executed instructions and by a pipeline's model: exact, checked, and said how far to trust."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import bad_builds
import numpy as np
import pytest
from tuning_tasks import other_choices, parc_task

from parc_hw import count_instructions as counting
from parc_hw.count_instructions import count_instructions, estimate_cycles
from parc_hw.device import load_device
from parc_hw.errors import MeasurementError, ToolchainError
from parc_hw.runners import counted, make_runner, static
from parc_hw.runners.count import Counted, _compare, _ranges, features_of
from schedules.tuning.trial import Status

pytestmark = pytest.mark.tvm

DEVICES = [
    "host",
    pytest.param("cortex-a53", marks=pytest.mark.cross("aarch64-linux-gnu")),
    pytest.param("rk3288", marks=pytest.mark.cross("arm-linux-gnueabihf")),
]


def soon(seconds: float = 200.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("name", DEVICES)
def test_both_agree_with_counting_a_kernel_alone(name):
    task = parc_task(name, length=7, channels=16)
    choices = [*other_choices(task, 3), task.default]
    with make_runner("static", device=task.device) as runner:
        cycles = list(runner.measure(task, choices, incumbent=task.default, deadline=soon()))
    with make_runner("qemu", device=task.device) as runner:
        trials = list(runner.measure(task, choices, incumbent=task.default, deadline=soon()))
    assert [t.choice for t in trials] == choices
    for trial, other in zip(trials, cycles, strict=True):
        assert trial.status is other.status is Status.OK, (trial.message, other.message)
        execution = count_instructions(task.schedule(trial.choice), task.device)
        assert trial.cost == execution.instructions == other.evidence["instructions"]
        assert trial.evidence["tasks_run"] == trial.evidence["tasks"]
        estimate = estimate_cycles(execution).cycles
        # the same model with fewer repetitions of long blocks
        assert other.evidence["cycles"] == pytest.approx(estimate, rel=0.1)
        assert other.evidence["throughput"] <= 1.01 * other.evidence["cycles"]
        assert other.cost >= other.evidence["throughput"] > 0
        json.dumps(other.to_json())
    assert trials[-1].ratio.low == trials[-1].ratio.high == 1.0


def test_costs_are_the_same_on_every_run():
    task = parc_task(length=14)
    choices = other_choices(task, 4)
    costs = []
    for _ in range(2):
        with make_runner("static", device=task.device) as runner:
            assert runner.exact
            trials = runner.measure(task, choices, incumbent=task.default, deadline=soon())
            costs.append([trial.cost for trial in trials])
    assert costs[0] == costs[1]


@pytest.mark.parametrize("name", DEVICES[1:])
def test_a_part_of_the_tasks_stands_for_all(name, monkeypatch):
    """Columns of a ParC do the same: counts of some are those of all, but for a call's own hundred."""
    task = parc_task(name, length=32, channels=192)
    choices = other_choices(task, 2)
    found = []
    for most in (10**9, task.macs // 3):
        monkeypatch.setitem(counted._MOST_MACS, "static", most)
        with make_runner("static", device=task.device) as runner:
            found.append(
                list(runner.measure(task, choices, incumbent=task.default, deadline=soon()))
            )
    whole, part = found
    for a, b in zip(whole, part, strict=True):
        assert b.evidence["tasks_run"] < b.evidence["tasks"] == a.evidence["tasks_run"]
        assert b.evidence["instructions"] == pytest.approx(a.evidence["instructions"], rel=0.01)


def test_every_failure_costs_its_own_trial(monkeypatch):
    task = parc_task()
    error, crash, good = other_choices(task, 3)
    kinds = {error: "compiler error", crash: "compiler crash"}
    monkeypatch.setattr(counted, "COUNT", "bad_builds:count")
    monkeypatch.setenv("PYTHONPATH", str(Path(bad_builds.__file__).parent))
    monkeypatch.setenv(
        bad_builds.VARIABLE, json.dumps({str(choice): kind for choice, kind in kinds.items()})
    )
    with make_runner("qemu", device=task.device) as runner:
        trials = list(
            runner.measure(task, [error, crash, good], incumbent=task.default, deadline=soon())
        )
    assert [t.status for t in trials] == [Status.BUILD_FAILED, Status.BUILD_FAILED, Status.OK]
    assert "LLVM does not like it" in trials[0].message
    assert "SIGSEGV" in trials[1].message


def test_an_incumbent_that_fails_is_named(monkeypatch):
    task = parc_task()
    monkeypatch.setattr(counted, "COUNT", "bad_builds:count")
    monkeypatch.setenv("PYTHONPATH", str(Path(bad_builds.__file__).parent))
    monkeypatch.setenv(bad_builds.VARIABLE, json.dumps({str(task.default): "compiler error"}))
    with (
        make_runner("qemu", device=task.device) as runner,
        pytest.raises(MeasurementError, match=r"the incumbent .* failed: .*LLVM"),
    ):
        list(runner.measure(task, [], incumbent=task.default, deadline=soon()))


# ---------------------------------------------------------------- parts of it


def test_a_wrong_result_is_found_where_both_were_computed(tmp_path):
    nothing = np.full(4, 0xFFFFFFFF, np.uint32).view(np.float32)
    right = np.array([1, 2, 3, 4], np.float32)
    path = tmp_path / "expected"
    assert _compare(path, right, 0.0) == ""
    assert _compare(path, right, 0.0) == ""
    assert "result number 2 is 3.5, not 3" in _compare(
        path, np.array([1, 2, 3.5, 4], np.float32), 0.25
    )
    assert _compare(path, np.array([1, 2, 3.5, 4], np.float32), 0.5) == ""
    assert "is nan" in _compare(path, np.array([1, np.nan, 3, 4], np.float32), 1.0)
    part = right.copy()
    part[2:] = nothing[2:]
    assert _compare(path, part, 0.0) == ""
    assert _compare(path, nothing, 0.0) == "no result was computed by both"
    assert _compare(path, right[:3], 0.0) == "3 results, not 4"


@pytest.mark.parametrize("extent, share", [(10, 0.3), (100, 0.1), (7, 0.9), (3, 0.01)])
def test_tasks_are_picked_evenly_with_both_ends(extent, share):
    ranges = _ranges(extent, 1000, int(1000 * share))
    assert ranges[0] == (0, 1)
    assert ranges[-1] == (extent - 1, extent)
    assert len(ranges) < extent
    assert len(set(ranges)) == len(ranges)
    assert _ranges(extent, 1000, 1000) == [(0, extent)]
    assert _ranges(0, 1000, 1) == [(0, 0)], "a kernel that is not divided runs whole"


def test_accesses_prefetches_and_streams_are_told_apart():
    texts = {
        "host": (
            "vfmadd231ps (%rax,%rcx,4), %zmm0, %zmm1", "leaq 4(%rax), %rax", "vmovaps %zmm0, %zmm1",
            "vmovups %zmm1, (%rdi)", "prefetcht0 64(%rsi)", "vmovntps %zmm1, (%rdi)",
        ),
        "cortex-a53": (
            "ldr q0, [x0]", "fmla v0.4s, v1.4s, v2.s[0]", "add x0, x0, #16", "str q0, [x1]",
            "prfm pldl1keep, [x2]", "stnp q0, q1, [x3]",
        ),
        "rk3288": (
            "vld1.32 {d16, d17}, [r0]", "vfma.f32 q8, q9, q10", "add r0, r0, #16",
            "vst1.32 {d16, d17}, [r1]", "pld [r2]", "bx lr",
        ),
    }  # fmt: skip
    for name, block in texts.items():
        found = features_of([(block, 10.0)], load_device(name))
        assert found["instructions"] == 60
        assert found["accesses"] == 20, name
        assert found["prefetches"] == 10, name
        assert found["streamed"] == (0 if name == "rk3288" else 10), name


def test_the_memory_term_counts_what_is_beyond_the_second_cache():
    device = load_device("cortex-a76")
    counted_ = Counted(status="ok", cycles=100.0, throughput=60.0, accesses=7.0, prefetches=30.0)
    near = static.terms(counted_, task_bytes=1000, result_bytes=500, device=device)
    assert near == [40.0, 7.0, 0.0, 0.0, 0.0, 0.0]
    size = 64 * (device.l2_bytes or 2**20)
    lines = size / 64
    assert static.terms(counted_, task_bytes=size, result_bytes=size // 2, device=device) == [
        40.0, 7.0, lines - 30, 30.0, lines / 2, 0.0,
    ]  # fmt: skip
    weights = static.Weights(waiting=0.5, access=2, line=3, fetched=4, allocated=5, expelled=6)
    cost = static.cost(counted_, task_bytes=1000, result_bytes=500, device=device, weights=weights)
    assert cost == 60 + 0.5 * 40 + 2 * 7
    in_order = load_device("cortex-a53")
    assert (
        static.cost(counted_, task_bytes=1000, result_bytes=500, device=in_order, weights=weights)
        == 60 + 40 + 2 * 7
    )


def test_static_says_how_far_to_trust_it():
    line = static.trust_line(load_device("rk3288"))
    assert re.search(r"static is no time: .*Spearman.*not checked on rk3288", line)
    assert "not checked on" not in static.trust_line(load_device(static._trust()["device"]))
    assert "order not checked against time for softmax" in static.trust_of("softmax")
    for family in static._trust()["families"]:
        assert re.search(r"Spearman -?[01]\.\d\d .* off the best", static.trust_of(family))


# ---------------------------------------------------------------- bad input


def test_missing_llvm_mca_is_named_with_the_line_that_installs_it(monkeypatch):
    real = counting.shutil.which
    monkeypatch.setattr(
        counting.shutil, "which", lambda name: None if "mca" in name else real(name)
    )
    with pytest.raises(ToolchainError, match=r"(?s)llvm-mca.*apt-get install -y llvm-19"):
        make_runner("static", device=load_device("host"))


@pytest.mark.parametrize("name", ["qemu", "static"])
def test_a_missing_emulator_is_named(monkeypatch, name):
    from parc_hw.artifact import toolchain

    real = toolchain.shutil.which
    monkeypatch.setattr(
        toolchain.shutil, "which", lambda tool: None if "qemu" in tool else real(tool)
    )
    with pytest.raises(ToolchainError, match=r"(?s)no emulator.*qemu-user-static"):
        make_runner(name, device=load_device("cortex-a53"))


@pytest.mark.cross("arm-linux-gnueabihf")
def test_a_processor_without_a_model_is_refused_before_anything_is_built():
    with pytest.raises(ToolchainError, match=r"does not read the kernel for cortex-a7"):
        make_runner("static", device=load_device("cortex-a7"))
