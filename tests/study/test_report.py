"""The report: complete, self-contained, the same every time, and honest about what is missing."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from parc_hw.errors import InputError
from parc_hw.study.evaluate import Evaluated, point_id
from parc_hw.study.plots import front, quality_name
from parc_hw.study.report import summary, write_report
from parc_hw.study.run import StudyResult, run_study
from parc_hw.study.spec import parse_spec

SEARCH = """schema = 1
name = "search"
title = "A search <of> a second & a half"
subject = "parc"
[data]
lines = 64
kernels = 4
[common]
length = 7
[search]
methods = ["greedy", "optuna"]
trials = 8
hold.sqnr_db = 40
[search.over]
data_bits = {from = 6, to = 10}
kernel_bits = {from = 6, to = 10}
accumulator_bits = {from = 10, to = 24}
"""


class Page(HTMLParser):
    """What a browser would fetch, and whether the page is well-formed."""

    void = {"meta", "link", "br", "img", "hr", "input"}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            # "data:" is in the page itself
            if name in ("src", "href", "action", "data") and not value.startswith("data:"):
                (self.inside if value.startswith("#") else self.outside).append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> StudyResult:
    return run_study(parse_spec(SEARCH, where="s"), tmp_path_factory.mktemp("searched"), jobs=1)


def test_the_page_needs_nothing_from_outside(searched):
    text = (searched.directory / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.outside == []
    assert "http" not in text
    assert "url(" not in re.sub(r"url\(#[^)]+\)", "", text)
    assert "@import" not in text
    assert {value[1:] for value in page.inside} <= set(page.ids)
    assert all("#" + name in text for name in ("sqnr_bits", "pareto", "ranges", "stages"))


def test_ids_are_unique_so_that_plots_do_not_take_each_others_parts(searched):
    page = Page((searched.directory / "report.html").read_text())
    assert len(page.ids) == len(set(page.ids))


def test_text_of_the_user_is_escaped(searched):
    text = (searched.directory / "report.html").read_text()
    assert "A search &lt;of&gt; a second &amp; a half" in text


def test_equal_studies_write_equal_files(searched, tmp_path):
    again = run_study(searched.spec, tmp_path, jobs=1)
    names = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    assert Path("plots/pareto.svg") in names
    for name in names:
        if name.suffix != ".jsonl":
            assert (again.directory / name).read_bytes() == (searched.directory / name).read_bytes()


def test_tables_agree_with_the_results(searched):
    with (searched.directory / "results.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    document = json.loads((searched.directory / "results.json").read_text())
    assert set(rows) == {r.id for r in searched.results} == {p["id"] for p in document["points"]}
    for result in searched.results:
        row = rows[result.id]
        assert float(row["sqnr_db"]) == result.metrics["sqnr_db"]
        assert float(row["cost_total"]) == result.cost["total"]
        assert int(row["data_bits"]) == result.point["data_bits"]
    assert document["winner"] == searched.winner.id
    assert document["complete"] is True


def test_the_winners_datapath_is_a_file_of_its_own(searched):
    document = json.loads((searched.directory / "datapath.json").read_text())
    width = searched.winner.point["data_bits"]
    assert (document["kind"], document["datapath"]["data"]) == ("parc", f"Q1.{width - 1}")


def test_the_winner_is_the_cheapest_that_holds(searched):
    held = [r for r in searched.results if r.metrics["sqnr_db"] >= 40]
    assert searched.winner.cost["total"] == min(r.cost["total"] for r in held)
    assert any("cheapest point that holds SQNR of 40 dB" in line for line in summary(searched))


def test_a_report_of_a_part_says_so(searched, tmp_path):
    part = dataclasses.replace(
        searched, results=searched.results[:3], ended="interrupted", missing=4, directory=tmp_path
    )
    write_report(part)
    text = (tmp_path / "report.html").read_text()
    assert "not complete (interrupted; 4 points of the grid are missing)" in text
    assert json.loads((tmp_path / "results.json").read_text())["complete"] is False


def test_a_study_without_a_result_has_a_report(searched, tmp_path):
    write_report(
        dataclasses.replace(searched, results=[], winner=None, found=[], directory=tmp_path)
    )
    assert "0 points" in (tmp_path / "report.html").read_text()
    assert not list((tmp_path / "plots").glob("*")) if (tmp_path / "plots").exists() else True


def test_no_point_beats_another_of_the_front():
    results = [
        Evaluated(id=str(i), point={}, metrics={"sqnr_db": q}, cost={"total": c})
        for i, (c, q) in enumerate([(1, 10), (2, 9), (2, 20), (3, 20), (4, 30), (1, 5)])
    ]
    assert [(r.cost["total"], r.metrics["sqnr_db"]) for r in front(results, "sqnr_db")] == [
        (1, 10),
        (2, 20),
        (4, 30),
    ]


def test_a_directory_that_is_gone_is_told(searched, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*results\.csv"):
        write_report(dataclasses.replace(searched, directory=tmp_path / "file"))


# ---------------------------------------------------------------- networks
def network_result(*, trained: bool) -> StudyResult:
    spec = parse_spec(
        'schema = 1\nname = "n"\nsubject = "model"\n[grid]\nactivation_bits = [4, 8]\n', where="s"
    )
    results = []
    for index, (arithmetic, bits, right) in enumerate(
        [("float", 0, 95), ("integer", 4, 50), ("integer", 8, 94)]
    ):
        point = {"model": "parc_canvas", "arithmetic": arithmetic}
        if bits:
            point |= {"weight_bits": bits, "activation_bits": bits, "calibration": "minmax"}
        metrics = {"canvases": 100, "agreement": right / 95, "real": [1] * 100}
        metrics |= {"agreement_low": right / 100, "agreement_high": 1.0}
        metrics |= {"answers": [1] * right + [0] * (100 - right), "labels": [1] * 100}
        if trained:
            metrics |= {"accuracy": right / 100}
            metrics |= {"accuracy_low": right / 100 - 0.05, "accuracy_high": right / 100 + 0.03}
        cost = {"total": 10.0 * (index or 9), "multiplier_bits": 1, "memory_bits": 1}
        results.append(Evaluated(id=point_id(point), point=point, metrics=metrics, cost=cost))
    return StudyResult(
        spec=spec,
        results=results,
        found=[],
        winner=None,
        missing=0,
        ended="",
        elapsed_s=0.0,
        computed=0,
        directory=Path(),
    )


def test_untrained_weights_have_an_agreement_and_never_an_accuracy(tmp_path):
    result = dataclasses.replace(network_result(trained=False), directory=tmp_path)
    assert quality_name(result.spec, result.results) == "agreement"
    write_report(result)
    text = (tmp_path / "report.html").read_text()
    assert "agreement with itself in real numbers, which is no accuracy" in text
    without = text.replace("which is no accuracy", "")
    assert "accuracy" not in without
    assert "accuracy" not in (tmp_path / "results.csv").read_text()


def test_trained_weights_have_an_accuracy_and_paired_tests(tmp_path):
    result = dataclasses.replace(network_result(trained=True), directory=tmp_path)
    assert quality_name(result.spec, result.results) == "accuracy"
    write_report(result)
    text = (tmp_path / "report.html").read_text()
    assert "95.00 % in real numbers; the cheapest format inside its 95 % interval" in text
    with (tmp_path / "pairs.csv").open() as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 3
    assert (
        "answers" not in json.loads((tmp_path / "results.json").read_text())["points"][0]["metrics"]
    )
