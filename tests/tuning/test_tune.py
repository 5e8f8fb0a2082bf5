"""The loop finds better choices, records only what holds, and loses nothing when it is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pretended import Pretended, cost_of, sites, tuned

from parc_hw.errors import InputError, MeasurementError
from parc_hw.records import read_records
from parc_hw.tune import tune
from schedules.tuning.space import Choice
from schedules.tuning.trial import Status

pytestmark = pytest.mark.tvm

PROGRAM = Path(__file__).with_name("pretended.py")
ROOT = Path(__file__).resolve().parents[2]


def test_the_kernel_that_takes_most_is_tuned_first_and_both_get_better(tmp_path):
    result = tuned(tmp_path / "r", Pretended(noise=0.01), trials=40)
    assert [kernel.site.task.kernel for kernel in result.kernels] == ["parc", "matmul"]
    assert result.ended == ""
    for kernel in result.kernels:
        assert kernel.state == "done"
        assert kernel.trials <= 40
        assert kernel.record.tuned
        assert kernel.record.ratio[2] < 1
        choice = Choice.from_json(dict(kernel.record.choice))
        gained = cost_of(kernel.site.task, choice) / cost_of(
            kernel.site.task, kernel.site.task.default
        )
        assert kernel.record.ratio[1] == pytest.approx(gained, rel=0.02)
    assert result.after < result.before
    assert len(read_records(tmp_path / "r")) == 2


def test_the_database_is_the_same_whatever_the_order_of_sessions(tmp_path):
    for name in ("a", "b"):
        tuned(tmp_path / name, Pretended(), trials=20)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_a_kernel_whose_default_is_best_gets_a_record_that_says_so(tmp_path):
    def cost(task, choice):
        return 1e-3 * (1 if choice == task.default else 1.5)

    result = tuned(tmp_path / "r", Pretended(cost=cost), trials=20)
    for kernel in result.kernels:
        assert not kernel.record.tuned
        assert kernel.record.ratio == (1, 1, 1)
        assert kernel.record.trials == kernel.trials > 5
    assert result.after == result.before


def test_what_was_luck_does_not_become_a_record(tmp_path):
    """Everything costs the same; single measurements say up to 5 % less."""
    runner = Pretended(cost=lambda task, choice: 1e-3, noise=0.05)
    result = tuned(tmp_path / "r", runner, trials=40)
    assert not any(kernel.record.tuned for kernel in result.kernels)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.OK])
def test_a_failure_costs_one_trial_is_counted_and_never_recorded(tmp_path, status):
    """The cheapest half of the space fails."""

    def fails(choice):
        return status if choice.get("unroll", 1) > 4 or choice.get("lanes") == 4 else None

    result = tuned(tmp_path / "r", Pretended(fails=fails), trials=30)
    for kernel in result.kernels:
        assert kernel.failures[status.value] > 0
        assert set(kernel.failures) == {status.value}
        assert kernel.trials <= 30
    journal = [json.loads(line) for line in result.journal.read_text().splitlines()]
    trials = [line["trial"] for line in journal if "trial" in line]
    failed = [trial for trial in trials if trial["status"] == status.value]
    assert len(failed) == sum(k.failures.total() for k in result.kernels)
    for record in read_records(tmp_path / "r"):
        assert fails(Choice.from_json(dict(record.choice))) is None


def test_a_default_that_fails_is_said_and_the_others_are_tuned(tmp_path):
    class Fails(Pretended):
        def measure(self, task, choices, **options):
            if task.kernel == "parc":
                raise MeasurementError("the board is on fire")
            return super().measure(task, choices, **options)

    result = tuned(tmp_path / "r", Fails(), trials=10)
    states = {kernel.site.task.kernel: kernel.state for kernel in result.kernels}
    assert states == {"parc": "cannot be measured: the board is on fire", "matmul": "done"}


def test_a_deterministic_cost_needs_no_confirmation(tmp_path):
    runner = Pretended(exact=True)
    result = tuned(tmp_path / "r", runner, trials=30)
    assert not runner.confirmed
    assert all(kernel.record.tuned for kernel in result.kernels)


def test_the_time_is_kept_and_what_is_left_is_said(tmp_path):
    began = time.monotonic()
    result = tuned(tmp_path / "r", Pretended(pause_s=0.3), time_s=1.0)
    assert time.monotonic() - began < 20
    assert result.ended == "out of time"
    assert result.trials <= 6


def test_resume_asks_for_nothing_twice(tmp_path):
    first = Pretended(pause_s=0.02)
    tuned(tmp_path / "r", first, time_s=4.0)
    second = Pretended()
    result = tuned(tmp_path / "r", second, trials=60, resume=True)
    assert result.ended == ""
    by_task = [(kernel.site.task.kernel, kernel.trials) for kernel in result.kernels]
    assert sum(count for _, count in by_task) == len(first.measured) + len(second.measured)
    third = Pretended()
    again = tuned(tmp_path / "r", third, trials=60, resume=True)
    assert not third.measured
    assert [k.record for k in again.kernels] == [k.record for k in result.kernels]


def test_a_session_without_resume_begins_anew(tmp_path):
    tuned(tmp_path / "r", Pretended(), trials=10)
    runner = Pretended()
    result = tuned(tmp_path / "r", runner, trials=10)
    assert len(runner.measured) == result.trials == 20


def test_a_similar_kernels_record_is_where_the_search_begins(tmp_path):
    result = tuned(tmp_path / "other", Pretended(), trials=40)
    best = {k.site.task.kernel: k.best for k in result.kernels}
    runner = Pretended()
    tuned(tmp_path / "r", runner, trials=4, warm=read_records(tmp_path / "other"))
    assert best["parc"] in runner.measured
    assert best["matmul"] in runner.measured


def test_a_shortlist_is_asked_first_and_only_its_best_are_measured(tmp_path):
    cheap, dear = Pretended(exact=True), Pretended()
    tuned(tmp_path / "r", dear, trials=12, shortlist=cheap)
    assert len(cheap.measured) >= 2 * (len(dear.measured) - 2)
    measured = [choice for choice in dear.measured if choice in cheap.measured]
    assert len(measured) >= 20


def test_nothing_to_tune_is_said(tmp_path):
    with pytest.raises(InputError, match="nothing to tune"):
        tune([], Pretended(), database=tmp_path / "r", title="none")


def test_a_read_only_database_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "r").write_text("")
    (tmp_path / "r").chmod(0o444)
    runner = Pretended()
    with pytest.raises(InputError, match="the file is read-only"):
        tuned(tmp_path / "r", runner, trials=4)
    assert not runner.measured


# ---------------------------------------------------------------- processes that are killed


def program(database: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(database), *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def journal_of(database: Path) -> list[dict]:
    (path,) = sorted(database.with_name(f"{database.name}.sessions").glob("*.jsonl"))
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def killed_and_resumed(database: Path, times: int, seed: int) -> None:
    """Kill the program at random moments; each time nothing is lost and it goes on."""
    source = random.Random(seed)
    before = 0
    for _ in range(times):
        running = program(database, "--resume", "--pause", "0.02")
        assert running.stdout.readline() == "begun\n"
        time.sleep(source.uniform(0.0, 1.5))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        read_records(database, missing_ok=True)
        if database.with_name(f"{database.name}.sessions").exists():
            after = len([line for line in journal_of(database) if "trial" in line])
            assert after >= before
            before = after
    running = program(database, "--resume")
    out, _ = running.communicate(timeout=120)
    assert "finished" in out
    trials = [
        (line["task"], str(line["trial"]["choice"]))
        for line in journal_of(database)
        if "trial" in line
    ]
    assert len(trials) == len(set(trials)), "a trial was done twice"
    assert len(read_records(database)) == 2


def test_a_killed_session_loses_nothing_and_goes_on(tmp_path):
    killed_and_resumed(tmp_path / "r", 3, seed=1)


@pytest.mark.slow
def test_fifty_kills_at_random_moments_lose_nothing(tmp_path):
    killed_and_resumed(tmp_path / "r", 50, seed=2)


def test_ctrl_c_ends_with_what_there_is(tmp_path):
    class Interrupts(Pretended):
        def measure(self, task, choices, **options):
            for trial in super().measure(task, choices, **options):
                yield trial
                if len(self.measured) > 30:
                    raise KeyboardInterrupt

    result = tuned(tmp_path / "r", Interrupts(), trials=25)
    assert result.ended == "interrupted"
    assert len(read_records(tmp_path / "r")) == 1
    trials = [line for line in journal_of(tmp_path / "r") if "trial" in line]
    assert len(trials) == result.trials


def test_two_tuners_share_a_database(tmp_path):
    running = [program(tmp_path / "r", "--pause", "0.01") for _ in range(2)]
    for each in running:
        out, _ = each.communicate(timeout=120)
        assert out.split() == ["begun", "finished", out.split()[-1]]
    assert len(read_records(tmp_path / "r")) == 2
    assert len(list((tmp_path / "r.sessions").glob("*.jsonl"))) == 2


def test_a_torn_last_line_of_the_journal_is_left_out(tmp_path):
    tuned(tmp_path / "r", Pretended(), trials=6)
    (path,) = (tmp_path / "r.sessions").glob("*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:30])
    runner = Pretended()
    result = tuned(tmp_path / "r", runner, trials=6, resume=True)
    assert result.trials == 12 - 3
    assert all(kernel.finished for kernel in result.kernels)


def test_the_sites_of_the_pretended_model_have_a_choice():
    assert [len(site.names) for site in sites()] == [1, 2]
    assert all(site.task.space.size > 48 for site in sites())
