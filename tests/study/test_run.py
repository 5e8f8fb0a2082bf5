"""Running studies: nothing is computed twice, nothing that was computed is lost."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from parc_hw.errors import InputError
from parc_hw.study.evaluate import Evaluator, OutOfTime, point_id
from parc_hw.study.journal import NAME, Journal
from parc_hw.study.run import estimate_s, run_study
from parc_hw.study.spec import parse_spec
from parc_hw.study.subjects import compute
from parc_hw.study.workers import workers

# Some hundred points of some tens of milliseconds: long enough to be killed in the middle.
LONG = """schema = 1
name = "long"
subject = "parc"
[data]
lines = 4000
[common]
plan = "direct"
[grid]
length = [28]
data_bits = {from = 4, to = 16}
kernel_bits = {from = 4, to = 16}
accumulator_bits = [24, 32]
"""


def nothing(result):
    """No report."""


def test_a_study_that_is_complete_computes_nothing_again(tiny, tmp_path):
    first = run_study(tiny, tmp_path, jobs=1, write=nothing)
    assert first.computed == 6 + 3  # points, and the traces of some
    again = run_study(tiny, tmp_path, jobs=1, write=nothing)
    assert again.computed == 0
    assert again.results == first.results
    assert (again.missing, again.ended) == (0, "")


def test_one_two_and_no_processes_give_the_same_results(tiny, tmp_path):
    alone = run_study(tiny, tmp_path / "1", jobs=1, write=nothing)
    pool = run_study(tiny, tmp_path / "2", jobs=2, write=nothing)
    assert pool.results == alone.results


def test_only_missing_points_are_computed(tiny, tmp_path):
    whole = run_study(tiny, tmp_path, jobs=1, write=nothing)
    path = tmp_path / NAME
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:30])
    again = run_study(tiny, tmp_path, jobs=1, write=nothing)
    assert again.computed == len(lines) - 4
    assert again.results == whole.results


def test_a_point_that_cannot_be_is_a_result_with_its_reason(tmp_path):
    spec = parse_spec(
        'schema = 1\nname = "s"\nsubject = "parc"\n[data]\nlines = 8\n'
        "[grid]\nplan = ['ntt', 'fft']\nlength = 46\ndata_bits = [16]\nkernel_bits = [16]\n",
        where="s",
    )
    results = run_study(spec, tmp_path, jobs=1, write=nothing).results
    assert [bool(each.refused) for each in results] == [True, True]
    assert any("no fixed-point FFT for length 46" in each.refused for each in results)


def test_a_bug_in_a_point_is_no_result(tiny):
    text = json.dumps(tiny.to_json())
    with pytest.raises(KeyError):
        compute(text, {"length": 7}, 0)


def test_the_time_limit_keeps_what_there_is(tmp_path, monkeypatch):
    # Each look at the clock costs half a second: no machine computes all points in time.
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 0.5 * next(looks))
    monkeypatch.setattr("parc_hw.study.evaluate.time", clock)
    spec = parse_spec(LONG, where="s")
    first = run_study(spec, tmp_path, jobs=1, write=nothing, limit_s=3.0)
    assert first.ended == "out of time"
    assert 0 < first.computed < len(spec.points())
    assert first.missing == len(spec.points()) - len(first.results)
    assert len((tmp_path / NAME).read_text().splitlines()) == first.computed + 1


def test_a_passed_deadline_stops_before_the_next_point(tiny, tmp_path):
    header = {"study": tiny.digest, "name": tiny.name, "version": "0"}
    with Journal.open(tmp_path, header) as journal, workers(jobs=1) as crew:
        evaluator = Evaluator(tiny, journal, crew, deadline=time.monotonic() - 1)
        with pytest.raises(OutOfTime):
            evaluator(tiny.points())
        assert journal.records == []


def test_estimates_grow_with_the_work_and_fall_with_the_workers(tiny):
    more = dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, lines=640))
    assert estimate_s(more, workers=1) == pytest.approx(10 * estimate_s(tiny, workers=1), rel=0.2)
    assert estimate_s(tiny, workers=2) == estimate_s(tiny, workers=1) / 2


def _start(spec: Path, out: Path, environment: dict, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "parc_hw", "study", str(spec), "-o", str(out), *options]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    for _ in range(1200):
        if path.exists() and path.read_bytes().count(b"\n") > count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("no results came")


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_study_resumes_after_kill_9(tmp_path, environment, jobs):
    spec, out = tmp_path / "long.toml", tmp_path / "out"
    spec.write_text(LONG)
    process = _start(spec, out, environment, "--jobs", jobs)
    _wait_for_lines(out / NAME, 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    survived = (out / NAME).read_bytes()
    kept = [json.loads(line) for line in survived.splitlines()[1:] if line.endswith(b"}")]
    # A worker of the dead process must not go on, nor hold the journal.
    result = run_study(parse_spec(LONG, where="s"), out, jobs=1, write=nothing)
    assert result.missing == 0
    assert (out / NAME).read_bytes().startswith(survived[: survived.rfind(b"\n") + 1])
    ids = [
        (record["id"], record["part"])
        for record in map(json.loads, (out / NAME).read_text().splitlines()[1:])
    ]
    assert len(set(ids)) == len(ids)
    assert {record["id"] for record in kept} <= {identity for identity, _ in ids}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_leaves_a_report_and_exit_code_130(tmp_path, environment, jobs):
    spec, out = tmp_path / "long.toml", tmp_path / "out"
    spec.write_text(LONG)
    process = _start(spec, out, environment, "--jobs", jobs)
    _wait_for_lines(out / NAME, 5, process)
    children = _children(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert "not complete (interrupted" in (out / "report.html").read_text()
    for _ in range(200):
        if not any(map(_alive, children)):
            break
        time.sleep(0.05)
    assert not any(map(_alive, children))


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_results(tiny, tmp_path):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
    ) as cluster:
        there = run_study(
            tiny, tmp_path / "there", scheduler=cluster.scheduler_address, write=nothing
        )
    here = run_study(tiny, tmp_path / "here", jobs=1, write=nothing)
    assert there.results == here.results


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_told(tiny, tmp_path):
    with pytest.raises(InputError, match=r"no dask scheduler answers there .* `dask scheduler`"):
        run_study(tiny, tmp_path, scheduler="tcp://127.0.0.1:1", write=nothing)


def test_points_have_ids_of_their_values(tiny):
    ids = [point_id(point) for point in tiny.points()]
    assert len(set(ids)) == len(ids)
    assert point_id(dict(reversed(tiny.points()[0].items()))) == ids[0]
