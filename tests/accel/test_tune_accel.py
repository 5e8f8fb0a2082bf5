"""Does `parc-hw tune` on an accelerator keep tiles that are no slower, for that machine only?"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from accelerated import OPERATORS, random

from parc_hw.accel import tune
from parc_hw.accel.description import load_description
from parc_hw.cli import compile_accel, sim_model
from parc_hw.cli.main import main
from parc_hw.errors import InputError
from schedules.accel.tiling import Tiling

NPU = load_description("edge-npu")
TUNE = ["tune", "small", "--target", "edge-npu", "--dtype", "int8"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A network of two ParCs and a convolution in the place of MODEL; options for its images."""
    network = OPERATORS["halves"]()
    monkeypatch.setattr(sim_model, "_network", lambda *_: (network, None))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = tmp_path / "calibration.npy"
    np.save(path, random(2).standard_normal((2, *network.input_shape)).astype(np.float32))
    return ["--calibration", str(path)]


def result(capsys, arguments, code=0):
    capsys.readouterr()
    assert main(["--json", "-q", *arguments]) == code
    return json.loads(capsys.readouterr().out)


@pytest.mark.tvm
def test_tuned_kernels_are_no_slower_and_compile_uses_them(small, tmp_path, capsys):
    found = result(capsys, [*TUNE, *small, "--trials", "4"])
    assert found["database"] == str(compile_accel.own_records())
    assert not found["ended"]
    assert found["kernels"]
    for each in found["kernels"]:
        assert 1 <= each["trials"] <= 4
        assert each["record"]["cycles"] <= each["cycles_before"]
        assert each["record"]["machine"] == NPU.hash.hex()
    assert found["cycles"]["after"] <= found["cycles"]["before"]

    compiled = ["compile", "small", "--target", "edge-npu", "--dtype", "int8", *small]
    names = sorted(each["record"]["name"] for each in found["kernels"])
    used = result(capsys, [*compiled, "-o", str(tmp_path / "tuned")])
    assert sorted(used["manifest"]["source"]["records"]) == names
    none = result(capsys, [*compiled, "-o", str(tmp_path / "none"), "--records", "none"])
    assert none["manifest"]["source"]["records"] == []

    assert main([*compiled, "-o", str(tmp_path / "said")]) == 0
    assert f"{len(names)} kernels tiled by tuning records" in capsys.readouterr().out
    assert main([*compiled, "-o", str(tmp_path / "not"), "--records", "none"]) == 0
    assert "no tuning record used, as --records none asks" in capsys.readouterr().out
    tiny = ["compile", "small", "--target", "tiny", "--dtype", "int8", *small]
    assert main([*tiny, "-o", str(tmp_path / "tiny")]) == 0
    assert "there is none for this description of tiny" in capsys.readouterr().out


@pytest.mark.tvm
def test_the_same_command_again_begins_with_what_was_found(small, tmp_path, capsys):
    path = tmp_path / "own.jsonl"
    arguments = [*TUNE, *small, "--records", str(path)]
    first = result(capsys, [*arguments, "--trials", "6"])
    again = result(capsys, [*arguments, "--trials", "2"])
    for before, after in zip(first["kernels"], again["kernels"], strict=True):
        assert after["record"]["cycles"] <= before["record"]["cycles"]


@pytest.mark.tvm
def test_the_end_of_time_keeps_what_was_found(small, tmp_path, capsys, monkeypatch):
    from parc_hw.cli import tune_accel

    clock = iter(range(10**6))
    monkeypatch.setattr(tune_accel, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    path = tmp_path / "own.jsonl"
    arguments = [*TUNE, *small, "--records", str(path), "--time", "4s"]
    found = result(capsys, arguments, code=7)
    kept = [each["record"] for each in found["kernels"] if each["record"]]
    assert found["ended"] == "the time ended"
    assert 1 <= len(kept) < len(found["kernels"])
    assert [json.loads(line) for line in path.read_text().splitlines()] == sorted(
        kept, key=lambda record: json.dumps(record, sort_keys=True)
    )


@pytest.mark.tvm
def test_an_interrupt_keeps_finished_kernels(small, tmp_path, capsys, monkeypatch):
    whole = tune.RecordBook.tune

    def interrupted(book, *arguments, **options):
        if book.records:
            raise KeyboardInterrupt
        return whole(book, *arguments, **options)

    monkeypatch.setattr(tune.RecordBook, "tune", interrupted)
    path = tmp_path / "own.jsonl"
    found = result(capsys, [*TUNE, *small, "--records", str(path), "--trials", "1"], code=130)
    assert found["ended"] == "interrupted"
    assert len(path.read_text().splitlines()) == 1


def record(machine, kernel="0" * 16, cycles=5):
    return tune.Record(
        machine=machine, kernel=kernel, name="a kernel", objective="cycles",
        tiling=Tiling(tiles={"i": 2}, order=("i",), depth=1), cycles=cycles, energy_pj=1.0,
    )  # fmt: skip


def test_records_of_other_machines_stay_in_the_file_and_are_not_used(tmp_path):
    path = tmp_path / "records.jsonl"
    other = record("ab" * 32)
    for each in (other, record(NPU.hash.hex()), record(NPU.hash.hex(), cycles=4)):
        tune.add_record(path, each)
    lines = path.read_text().splitlines()
    assert {tune.Record.of_line(line).cycles for line in lines} == {5, 4}
    assert other.to_line() in lines
    book = tune.RecordBook.load(path, NPU)
    assert [each.cycles for each in book.records.values()] == [4]


def test_a_file_of_something_else_is_left_as_it_is(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"kernel": "matmul"}\n')
    with pytest.raises(InputError, match="line 1: no record of an accelerator"):
        tune.add_record(path, record(NPU.hash.hex()))
    assert path.read_text() == '{"kernel": "matmul"}\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edge-npu"], "--dtype is missing. Accepted for edge-npu: int8, int16"),
        (["edge-npu", "--dtype", "f32"], "is not of an accelerator"),
        (["edge-npu", "--dtype", "int8", "--objective", "cycle"], "objective 'cycle' is unknown"),
        (["edge-npu", "--dtype", "int8", "--runner", "rpc"], "--runner has no meaning for"),
        (["edge-npu", "--dtype", "int8", "--plan", "fft"], "--plan has no meaning for"),
        (["edge-npu", "--dtype", "int8", "--threads", "1"], "--threads has no meaning for"),
        (["edge-npu", "--dtype", "int8", "--resume"], "--resume has no meaning for"),
        (["edge-npu", "--dtype", "int8", "--time", "soon"], "--time 'soon' is no time"),
        (["host", "--dtype", "int8"], "--dtype is for accelerators"),
        (["host", "--objective", "energy"], "--objective is for accelerators"),
    ],
)
def test_options_without_a_meaning_are_refused(arguments, message, tmp_path, capsys):
    path = tmp_path / "records.jsonl"
    call = ["tune", "parc_canvas", "--records", str(path), "--target", *arguments]
    assert main(call) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not path.exists()


def test_a_model_of_ones_own_needs_images(small, capsys):
    assert main(TUNE) == 2
    assert "--calibration is missing" in capsys.readouterr().err
