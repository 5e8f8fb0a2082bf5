"""`tune` writes records that a second `compile` uses and names; `records` looks at them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pretended import Pretended

from parc_hw import build
from parc_hw.cli.main import main
from parc_hw.errors import MeasurementError
from parc_hw.records import Records, read_records, write_records
from parc_hw.tune import model_sites, tune
from schedules.tuning.database import decider

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

MODEL = "parc_canvas"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path) -> Callable[..., Outcome]:
    """Run `parc-hw ARGUMENTS` in this process, with a runner that pretends and a home of its own."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        "parc_hw.runners.make_runner", lambda name, **options: Pretended(exact=True)
    )

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def lowering():
    return build.schedule(MODEL, target="host", records=None)


@pytest.fixture(scope="module")
def database(lowering, tmp_path_factory) -> Path:
    """Records for all kernels of the model, from pretended costs."""
    path = tmp_path_factory.mktemp("tuned") / "records.jsonl"
    sites = model_sites(lowering)
    result = tune(sites, Pretended(exact=True), database=path, title=MODEL, trials=8)
    assert result.ended == ""
    return path


def test_the_sites_are_all_kernels_with_a_choice_each_once(lowering):
    sites = model_sites(lowering)
    assert len({site.task.key for site in sites}) == len(sites)
    calls = [name for site in sites for name in site.names]
    able = [step for step in lowering.steps if step.scheduled.space is not None]
    assert sorted(calls) == sorted(lowering.layer_name(step) for step in able)
    assert {"parc", "conv", "matmul"} <= {site.task.kernel for site in sites}


def test_every_kernel_takes_its_record(database):
    found = read_records(database)
    again = build.schedule(MODEL, target="host", records=found)
    used = [step.scheduled for step in again.steps if step.scheduled.space is not None]
    by_id = {record.id: record for record in found}
    for scheduled in used:
        record = by_id[scheduled.tuned.record]
        assert scheduled.tuned.choice.to_json() == dict(record.choice)
        assert record.id in scheduled.tuned.reason
    assert any(record.tuned for record in found)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "znver4"}, "1 record is for other devices: znver4, not"),
        ({"processor": "another"}, "1 record is for other processors: another, not"),
        ({"threads": 2}, "1 record is for other numbers of threads: 2, not 1"),
        ({"tvm": "0.20"}, "1 record is for other versions of TVM: 0.20, not"),
        ({"default": {}}, "1 record is for other choices of the kernel's own"),
        ({"choice": {"rows": 1000}}, "is no choice of this kernel here: "),
    ],
)
def test_records_of_something_else_are_not_used_and_why_is_said(
    database, lowering, changes, reason
):
    foreign = Records.of(dataclasses.replace(r, **changes) for r in read_records(database))
    decide = decider(foreign, lowering.device, plan="auto", threads=1)
    for step in lowering.steps:
        space = step.scheduled.space
        if space is not None:
            tuned = decide(step.composite, space)
            assert not tuned.record
            assert reason in tuned.reason
            assert tuned.choice == space.default


def test_compile_uses_records_verifies_and_says_which(cli, database, tmp_path):
    done = cli("compile", MODEL, "-o", tmp_path / "tuned", "--records", database, "--force")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "tuned" / "manifest.json").read_text())
    known = {record.id for record in read_records(database)}
    used = {record["id"] for record in manifest["source"]["records"]}
    assert used == known
    layers = manifest["shapes"][0]["layers"]
    assert {layer["record"] for layer in layers} - {""} == known
    assert manifest["verification"]["worst"] < 1e-3
    for name in used:
        assert name in done.out

    plain = cli("compile", MODEL, "-o", tmp_path / "plain", "--records", "none", "--no-verify")
    assert plain.code == 0
    assert "tuning record" not in plain.out
    assert json.loads((tmp_path / "plain" / "manifest.json").read_text())["source"]["records"] == []


def test_tune_then_compile_as_typed(cli, tmp_path):
    done = cli("tune", MODEL, "--trials", "3", "--kernel", "parc")
    assert done.code == 0, done.err
    own = tmp_path / "home" / "parc_hw" / "records.jsonl"
    assert len(read_records(own)) == 3
    assert "kernel 1/3  parc 1x" in done.err  # plain lines: this is no terminal
    assert "trial 3 of 3" in done.err
    assert "3 records in" in done.out
    again = cli("compile", MODEL, "--dry-run", "-v")
    assert all(record.id in again.out for record in read_records(own))
    resumed = cli("tune", MODEL, "--trials", "3", "--kernel", "parc", "--resume", "--json")
    document = json.loads(resumed.out)
    assert document["trials"] == 0
    assert len(document["kernels"]) == 3
    assert document["before"] >= document["after"] > 0
    lines = Path(document["journal"]).read_text().splitlines()
    assert sum("trial" in json.loads(line) for line in lines) == 9


def test_a_budget_that_ends_early_is_exit_code_7(cli, monkeypatch):
    monkeypatch.setattr(
        "parc_hw.runners.make_runner", lambda name, **options: Pretended(pause_s=0.5)
    )
    done = cli("tune", MODEL, "--time", "1s")
    assert done.code == 7
    assert "out of time: the same command with --resume goes on" in done.out


def test_a_device_that_is_gone_is_exit_code_6(cli, monkeypatch):
    class Gone(Pretended):
        def measure(self, task, choices, **options):
            raise MeasurementError("the board does not answer")

    monkeypatch.setattr("parc_hw.runners.make_runner", lambda name, **options: Gone())
    done = cli("tune", MODEL, "--trials", "2")
    assert done.code == 6
    assert "no kernel could be tuned; the first cannot be measured: the board does" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--time", "soon"], "--time 'soon' is no time"),
        (["--kernel", "gemm"], "no kernel of this model that can be tuned is called 'gemm'"),
        (["--records", "/proc/records"], "cannot be written"),
    ],
)
def test_bad_options_of_tune(cli, arguments, words):
    done = cli("tune", MODEL, *arguments)
    assert done.code == 2
    assert words in done.err


def test_records_are_listed_shown_exported_and_compared(cli, database, tmp_path):
    found = read_records(database)
    listed = cli("records", "ls", database)
    assert all(record.id in listed.out for record in found)
    first = found.records[0]
    shown = cli("records", "show", first.id, database)
    assert first.shape in shown.out
    assert "ratio to default" in shown.out

    done = cli("records", "export", database, "--kernel", "parc", "-o", tmp_path / "parc")
    assert done.code == 0
    exported = read_records(tmp_path / "parc")
    assert {record.kernel for record in exported} == {"parc"}
    told = cli("records", "diff", database, tmp_path / "parc")
    assert f"only in {database}:" in told.out
    assert f"{len(exported)} records are the same" in told.out


def test_a_merge_keeps_the_better_and_says_so(cli, database, tmp_path):
    found = read_records(database)
    worse = [
        dataclasses.replace(record, ratio=(1, 1, 1), choice=record.default)
        for record in found
        if record.tuned
    ]
    write_records(tmp_path / "worse", Records.of(worse))
    done = cli("records", "merge", tmp_path / "worse", database, "-o", tmp_path / "merged")
    assert done.code == 0
    assert done.out.count("kept") == len(worse) > 0
    assert read_records(tmp_path / "merged").records == found.records
    compared = cli("records", "diff", database, tmp_path / "worse")
    assert len(re.findall(r"1\.000x +first *\n", compared.out)) == len(worse)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls", "none.jsonl"], "there is no file of records none.jsonl"),
        (["show", "parc-0"], "no record is called 'parc-0'"),
        (["ls", "--device", "rk3288"], "no record has the device 'rk3288'"),
    ],
)
def test_bad_options_of_records(cli, arguments, words):
    done = cli("records", *arguments)
    assert done.code == 2
    assert words in done.err


def test_a_damaged_file_is_refused_by_compile_too(cli, tmp_path):
    (tmp_path / "bad").write_text('{"schema":99}\n')
    done = cli("compile", MODEL, "--dry-run", "--records", tmp_path / "bad")
    assert done.code == 2
    assert "its schema is 99, and this version of parc_hw reads schema 1" in done.err
    done = cli("compile", MODEL, "--dry-run", "--records", tmp_path / "missing")
    assert done.code == 2
    assert "there is no file of records" in done.err
