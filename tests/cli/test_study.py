"""`parc-hw study`: what is typed, what is printed, which exit code comes back."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from parc_hw.study.journal import NAME

SPEC = """schema = 1
name = "cli"
title = "Widths of seven points"
subject = "parc"
[data]
lines = 64
kernels = 4
[common]
length = 7
"""
GRID = SPEC + "[grid]\ndata_bits = [8, 12]\nrounding = ['half_even', 'floor']\n"


def searching(hold: float) -> str:
    return (
        SPEC
        + f"[search]\nmethods = ['greedy']\nhold.sqnr_db = {hold}\n"
        + "[search.over]\ndata_bits = {from = 6, to = 10}\n"
    )


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "spec.toml"
        path.write_text(text)
        return path

    return write


def test_a_tiny_grid_end_to_end(cli, written, tmp_path):
    outcome = cli("study", written(GRID), "-o", tmp_path / "out", "--jobs", 1)
    assert outcome.code == 0, outcome.err
    assert "Widths of seven points: 4 points, about" in outcome.err
    assert "4 points, each on 64 uniform lines" in outcome.out
    assert "report.html" in outcome.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {NAME, "report.html", "results.csv", "results.json", "plots"} <= names


def test_json_is_the_result_alone(cli, written, tmp_path):
    outcome = cli("study", written(searching(35)), "-o", tmp_path / "out", "--jobs", 1, "--json")
    assert outcome.code == 0, outcome.err
    document = outcome.json
    assert document["complete"] is True
    assert document["winner"]["sqnr_db"] >= 35
    assert document["winner"]["multiplications"]


def test_the_second_run_computes_nothing(cli, written, tmp_path):
    arguments = ("study", written(GRID), "-o", tmp_path / "out", "--jobs", 1, "--json")
    first, second = cli(*arguments), cli(*arguments)
    assert first.json["computed"] > 0
    assert second.json["computed"] == 0
    assert second.json["front"] == first.json["front"]


def test_a_dry_run_shows_the_points_and_writes_nothing(cli, written, tmp_path):
    outcome = cli("study", written(GRID), "--dry-run")
    assert outcome.code == 0
    assert "half_even" in outcome.out
    assert "about 1 s on" in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["spec.toml"]
    document = cli("study", written(searching(35)), "--dry-run", "--json").json
    assert document["points"] == []
    assert document["spec"]["search"]["over"] == {"data_bits": [6, 7, 8, 9, 10]}


def test_a_target_out_of_reach_is_exit_code_4(cli, written, tmp_path):
    outcome = cli("study", written(searching(120)), "-o", tmp_path / "out", "--jobs", 1)
    assert outcome.code == 4
    assert "No point holds SQNR of 120 dB. The best has" in outcome.out


def test_the_end_of_the_time_is_exit_code_7_with_a_report(cli, written, tmp_path, monkeypatch):
    # Each look at the clock costs a tenth of a second: no machine computes all points in time.
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 0.1 * next(looks))
    monkeypatch.setattr("parc_hw.study.evaluate.time", clock)
    text = GRID.replace("64", "40000").replace("[8, 12]", "{from = 4, to = 24}")
    arguments = ("study", written(text), "-o", tmp_path / "out", "--jobs", 1, "--time", "1s")
    outcome = cli(*arguments, "--json")
    assert outcome.code == 7
    assert outcome.json["ended"] == "out of time"
    assert outcome.json["complete"] is False
    assert "not complete (out of time" in (tmp_path / "out" / "report.html").read_text()


def test_another_study_in_the_directory_is_refused(cli, written, tmp_path):
    assert cli("study", written(GRID), "-o", tmp_path / "out", "--jobs", 1).code == 0
    report = (tmp_path / "out" / "report.html").read_bytes()
    outcome = cli("study", written(searching(35)), "-o", tmp_path / "out", "--jobs", 1)
    assert outcome.code == 2
    assert "holds a different study: 'cli'" in outcome.err
    assert (tmp_path / "out" / "report.html").read_bytes() == report


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("{spec}",), "-o DIR is missing"),
        (("{spec}", "-o", "{out}", "--time", "soon"), "--time 'soon' is no time; accepted: 90s"),
        (("{spec}", "-o", "{out}", "--time", "0s"), "--time '0s' is no time"),
        (("nowhere.toml", "-o", "{out}"), "cannot read the study nowhere.toml"),
    ],
)
def test_bad_arguments_are_told(cli, written, tmp_path, arguments, message):
    spec, out = written(GRID), tmp_path / "out"
    outcome = cli("study", *(str(a).format(spec=spec, out=out) for a in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert not out.exists()


def test_a_misspelled_key_is_told_with_its_line(cli, written, tmp_path):
    path = written(GRID.replace("rounding", "ronding"))
    outcome = cli("study", path, "-o", tmp_path / "out")
    assert outcome.code == 2
    line = GRID[: GRID.index("rounding")].count("\n") + 1
    assert (
        f"spec.toml:{line}: unknown key 'ronding' in [grid]. Did you mean rounding" in outcome.err
    )
    assert "Traceback" not in outcome.err


def test_results_fit_eighty_columns(cli, written, tmp_path, monkeypatch):
    spec = written(GRID)
    cli("study", spec, "-o", tmp_path / "out", "--jobs", 1)
    monkeypatch.setenv("COLUMNS", "80")
    outcome = cli("study", spec, "-o", tmp_path / "out", "--jobs", 1)
    table = [line for line in outcome.out.splitlines() if "half_even" in line or "floor" in line]
    assert len(table) == 4
    assert max(map(len, table)) <= 80
    assert json.loads((tmp_path / "out" / "results.json").read_text())["complete"]
