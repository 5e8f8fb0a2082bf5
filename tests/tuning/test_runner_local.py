"""Candidates timed on this machine: failures cost one trial each, and ratios are honest."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import bad_builds
import pytest
from tuning_tasks import other_choices, parc_task

from parc_hw.device import load_device
from parc_hw.errors import InputError, MeasurementError, ToolchainError
from parc_hw.runners import make_runner, timed
from schedules.tuning.trial import Status

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def task():
    return parc_task()


@pytest.fixture(scope="module")
def runner():
    """For the tests that break nothing: to start one takes seconds."""
    with make_runner("local", device=load_device("host")) as runner:
        yield runner


@pytest.fixture
def bad(monkeypatch):
    """Give it {choice: kind}; from then on such builds do what `bad_builds` says."""

    def set_(kinds):
        monkeypatch.setattr(timed, "BUILD", "bad_builds:build")
        monkeypatch.setenv("PYTHONPATH", str(Path(bad_builds.__file__).parent))
        monkeypatch.setenv(
            bad_builds.VARIABLE, json.dumps({str(choice): kind for choice, kind in kinds.items()})
        )

    return set_


def soon(seconds: float = 120.0) -> float:
    return time.monotonic() + seconds


EXPECTED = {
    "crash": (Status.CRASHED, r"stopped by SIG(ILL|TRAP)"),
    "hang": (Status.HUNG, r"no end within 1 s"),
    "wrong": (Status.WRONG, r"result number 3 is .* not .* accepted is a difference"),
    "nan": (Status.WRONG, r"result number 3 is nan"),
    "outside": (Status.WRONG, r"writes outside"),
    "error": (Status.CRASHED, r"returned an error"),
    "compiler crash": (Status.BUILD_FAILED, r"compiler crashed: stopped by SIGSEGV"),
    "compiler error": (Status.BUILD_FAILED, r"LLVM does not like it"),
}


def test_every_failure_costs_its_own_trial_and_is_told_apart(task, bad):
    choices = other_choices(task, len(EXPECTED) + 1)
    good = choices.pop(4)
    kinds = dict(zip(choices, EXPECTED, strict=True))
    bad(kinds)
    order = [*choices[:4], good, *choices[4:], task.default]
    with make_runner("local", device=load_device("host"), timeout_s=1.0) as runner:
        trials = list(runner.measure(task, order, incumbent=task.default, deadline=soon()))
    assert [t.choice for t in trials] == order, "one trial each, none ends the session"
    for trial in trials:
        kind = kinds.get(trial.choice)
        if kind is None:
            assert trial.status is Status.OK, trial.message
            continue
        status, message = EXPECTED[kind]
        assert trial.status is status, (kind, trial)
        assert re.search(message, trial.message), (kind, trial.message)
        assert trial.ratio is None
        assert trial.cost is None


def test_a_compiler_that_hangs_is_replaced(task, bad, monkeypatch):
    first, second = other_choices(task, 2)
    bad({first: "compiler hang"})
    from parc_hw.runners import worker

    monkeypatch.setattr(worker, "_START_S", 0.0)
    with make_runner("local", device=load_device("host"), jobs=1) as runner:
        assert runner._pool.timeout_s >= 30
        list(runner.measure(task, [], incumbent=task.default, deadline=soon()))
        runner._pool.timeout_s = 1.0
        hung = list(runner.measure(task, [first], incumbent=task.default, deadline=soon()))
        runner._pool.timeout_s = 200.0
        more = list(runner.measure(task, [second], incumbent=task.default, deadline=soon()))
    assert hung[0].status is Status.BUILD_FAILED
    assert "compiler hung: no answer within 1 s" in hung[0].message
    assert more[0].status is Status.OK


@pytest.mark.parametrize("kind", ["crash", "error", "hang"])
def test_an_incumbent_that_fails_ends_the_measurement(task, bad, kind):
    (other,) = other_choices(task, 1)
    bad({task.default: kind})
    with (
        make_runner("local", device=load_device("host"), timeout_s=1.0) as runner,
        pytest.raises(MeasurementError, match=r"the incumbent .* failed on this machine"),
    ):
        list(runner.measure(task, [other], incumbent=task.default, deadline=soon()))


def test_a_kernel_is_as_fast_as_itself(task, runner):
    """The interval of a choice beside itself holds 1; how data lie is in it too."""
    choices = [task.default] * 10
    trials = list(runner.measure(task, choices, incumbent=task.default, deadline=soon()))
    assert len(trials) == 10
    outside = [t.ratio for t in trials if not t.ratio.low <= 1 <= t.ratio.high]
    assert len(outside) <= 2, outside
    assert not [t.ratio for t in trials if t.ratio.high < 0.9]


def test_evidence_says_how_it_was_measured(task, runner):
    (choice,) = other_choices(task, 1)
    (trial,) = runner.measure(task, [choice], incumbent=task.default, deadline=soon())
    (sure,) = runner.measure(task, [choice], incumbent=task.default, deadline=soon(), confirm=True)
    for each in (trial, sure):
        assert each.evidence["rounds"] >= 8
        assert {"frequency_hz", "celsius", "incumbent_s", "threads", "build_s"} <= set(
            each.evidence
        )
        json.dumps(each.to_json())
        assert each.cost > 0
    assert trial.against == task.default


def test_nothing_is_measured_after_the_deadline(task, runner):
    list(runner.measure(task, [], incumbent=task.default, deadline=soon()))
    choices = other_choices(task, 5)
    late = time.monotonic()
    assert list(runner.measure(task, choices, incumbent=task.default, deadline=late)) == []


def test_incumbents_stay_built_while_others_go(task, runner):
    """More candidates than are kept: the first incumbent is still linked at the end."""
    choices = other_choices(task, 18)
    trials = list(runner.measure(task, choices, incumbent=task.default, deadline=soon()))
    assert len(runner._parts) <= timed._KEPT + runner.width < len(choices)
    assert not [t.message for t in trials if t.status is not Status.OK]


def test_two_threads_give_the_same_numbers_and_leave_no_files(task):
    (choice,) = other_choices(task, 1)
    with make_runner("local", device=load_device("host"), threads=2) as runner:
        root = runner._root
        (trial,) = runner.measure(task, [choice], incumbent=task.default, deadline=soon())
    assert trial.status is Status.OK
    assert trial.evidence["threads"] == 2
    assert not root.exists()


# ---------------------------------------------------------------- bad input


def test_an_unknown_runner_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"'locl'\. Did you mean local\? Accepted: local, rpc"):
        make_runner("locl", device=load_device("host"))


def test_foreign_code_is_not_measured_here():
    with pytest.raises(InputError, match=r"cortex-a53 does not run on this machine.*ssh or rpc"):
        make_runner("local", device=load_device("cortex-a53"))


@pytest.mark.parametrize("threads", [0, -1, True, 65, 1.5])
def test_threads_are_a_positive_number(threads):
    with pytest.raises(InputError, match="threads is"):
        make_runner("local", device=load_device("host"), threads=threads)


def test_more_threads_than_processors_are_refused():
    with pytest.raises(InputError, match=r"64 threads are asked for; this process may use"):
        make_runner("local", device=load_device("host"), threads=64)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_time_out_is_positive(timeout_s):
    with pytest.raises(InputError, match="time-out"):
        make_runner("local", device=load_device("host"), timeout_s=timeout_s)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tracker": "a:1"}, r"--tracker is for --runner rpc; the runner is local"),
        ({"key": "a"}, r"--key is for --runner rpc"),
        ({"host": "a"}, r"--host is for --runner ssh"),
        ({"jobs": 0}, r"jobs is 0"),
    ],
)
def test_options_of_other_runners_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make_runner("local", device=load_device("host"), **options)


def test_a_missing_compiler_is_named_with_the_line_that_installs_it(monkeypatch, tmp_path):
    from parc_hw.artifact import toolchain

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)  # no zig
    with pytest.raises(ToolchainError, match=r"no C compiler(?s:.*)apt-get install"):
        make_runner("local", device=load_device("host"))
