"""Records keep better evidence, are never applied elsewhere, and survive what happens to files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc_hw.errors import InputError
from parc_hw.records import (
    SCHEMA,
    Query,
    Records,
    TuningRecord,
    add_record,
    difference,
    read_records,
    write_records,
)

KEY = {
    "kernel": "parc",
    "shape": "1x14x14x96->parc(...)->1x14x14x96",
    "plan": "auto",
    "device": "rk3288",
    "cpu": "cortex-a17",
    "features": ("+neon",),
    "vectors": "16x128",
    "processor": "",
    "threads": 1,
    "parc_hw": "0.1.0",
    "tvm": "0.27.0",
    "llvm": "19",
    "default": {"plan": "14x1", "lanes": 4},
}


def record(**changes) -> TuningRecord:
    values = {
        **KEY,
        "runner": "local 1",
        "unit": "s",
        "choice": {"plan": "7x2", "lanes": 4},
        "ratio": (0.8, 0.85, 0.9),
        "cost": 1e-3,
        "trials": 20,
        "evidence": {"rounds": 30},
    }
    return TuningRecord(**{**values, **changes})


def query(**changes) -> Query:
    return Query(**{**KEY, **changes})


ratios = st.lists(st.floats(0.1, 3.0), min_size=3, max_size=3).map(lambda r: tuple(sorted(r)))
some_records = st.builds(
    record,
    kernel=st.sampled_from(["parc", "matmul"]),
    threads=st.integers(1, 2),
    choice=st.sampled_from([{"plan": "7x2"}, {"plan": "2x7"}]),
    ratio=ratios,
    trials=st.integers(1, 100),
)


@given(st.lists(some_records, max_size=8), st.randoms())
def test_merging_does_not_depend_on_the_order(found, source):
    shuffled = list(found)
    source.shuffle(shuffled)
    assert Records.of(found).records == Records.of(shuffled).records
    half = len(shuffled) // 2
    parts = Records.of(shuffled[:half]) + Records.of(shuffled[half:])
    assert parts.records == Records.of(found).records


@given(some_records)
def test_a_record_survives_its_line(one):
    line = one.line()
    assert "\n" not in line
    assert line.startswith(f'{{"schema":{SCHEMA},')
    assert TuningRecord.from_json(json.loads(line)) == one


def test_of_two_with_one_key_the_surer_gain_is_kept_and_told():
    wide = record(ratio=(0.5, 0.8, 1.1), choice={"plan": "2x7"})
    tight = record(ratio=(0.84, 0.85, 0.86))
    found = Records.of([wide, tight])
    assert found.records == (tight,)
    assert "kept lanes=4 plan=7x2" in found.conflicts[0]
    assert "dropped plan=2x7" in found.conflicts[0]


def test_the_right_record_is_found_and_said():
    found = Records.of([record()]).find(query())
    assert found.record == record()
    assert found.reason == f"{record().id}: 1.18 times as fast (local 1)"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kernel": "conv"}, "no record of this kernel and shape"),
        ({"shape": "other"}, "no record of this kernel and shape"),
        ({"plan": "direct"}, "1 record is for other plans: auto, not direct"),
        ({"device": "rk3399"}, "1 record is for other devices: rk3288, not rk3399"),
        ({"cpu": "cortex-a7"}, "for other processors' code: cortex-a17, not cortex-a7"),
        ({"features": ()}, r"for other features: \+neon, not none"),
        ({"vectors": "32x128"}, "for other vector registers: 16x128, not 32x128"),
        ({"processor": "x"}, "for other processors: none, not x"),
        ({"threads": 4}, "for other numbers of threads: 1, not 4"),
        ({"parc_hw": "0.2.0"}, "for other versions of parc_hw: 0.1.0, not 0.2.0"),
        ({"tvm": "0.28"}, "for other versions of TVM: 0.27.0, not 0.28"),
        ({"llvm": "20"}, "for other versions of LLVM: 19, not 20"),
        ({"default": {"plan": "7x2"}}, "for other choices of the kernel's own"),
    ],
)
def test_a_record_of_something_else_is_never_used_and_it_says_why(changes, reason):
    found = Records.of([record()]).find(query(**changes))
    assert found.record is None
    assert re.search(reason, found.reason), found.reason


def test_a_measured_time_decides_over_a_count():
    counted = record(unit="instructions", runner="qemu 1", ratio=(0.5, 0.5, 0.5), cost=100)
    timed = record(choice=KEY["default"], ratio=(1.0, 1.0, 1.0))
    assert Records.of([counted]).find(query()).record == counted
    found = Records.of([counted, timed]).find(query())
    assert found.record == timed
    assert "nothing faster in 20 trials" in found.reason


def test_records_of_near_devices_come_first():
    far = record(device="znver4", cpu="znver4", vectors="32x512")
    near = record(device="cortex-a17")
    own_shape = [r.device for r in Records.of([far, near]).alike(query())]
    assert own_shape == ["cortex-a17", "znver4"]
    assert Records.of([record(choice=KEY["default"])]).alike(query()) == []


# ---------------------------------------------------------------- files


def test_a_file_is_sorted_and_the_same_bytes_whatever_came_first(tmp_path):
    a, b = record(), record(kernel="conv")
    for order, name in (((a, b), "one"), ((b, a), "two")):
        for each in order:
            add_record(tmp_path / name, each)
    one = (tmp_path / "one").read_text()
    assert one == (tmp_path / "two").read_text()
    assert one.splitlines() == sorted(one.splitlines())
    assert read_records(tmp_path / "one").records == Records.of([a, b]).records


def test_an_unfinished_last_line_is_told_and_left_out(tmp_path):
    path = tmp_path / "records"
    path.write_text(record().line() + "\n" + record(kernel="conv").line()[:50])
    found = read_records(path)
    assert found.records == (record(),)
    assert "2: the last line is not finished and was left out" in found.problems[0]
    add_record(path, record(kernel="matmul"))  # and mended by the next one
    assert len(read_records(path)) == 2
    assert not read_records(path).problems


def test_a_last_line_without_its_end_is_read(tmp_path):
    path = tmp_path / "records"
    path.write_text(record().line())
    assert read_records(path).records == (record(),)


def test_duplicates_and_conflicts_are_read_and_the_better_kept(tmp_path):
    path = tmp_path / "records"
    worse = record(ratio=(0.9, 0.95, 0.99), choice={"plan": "2x7", "lanes": 4})
    path.write_text("\n".join(each.line() for each in (worse, record(), record())) + "\n")
    found = read_records(path)
    assert found.records == (record(),)
    assert len(found.conflicts) == 1


def changed(**changes) -> str:
    data = json.loads(record().line())
    data.update(changes)
    return json.dumps({k: v for k, v in data.items() if v is not ...})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "no tuning record, which is a JSON object"),
        ("[1]", "a record is a list; accepted: a JSON object"),
        (changed(schema=2), "its schema is 2, and this version of parc_hw reads schema 1"),
        (changed(schema=...), "its schema is None"),
        (changed(speed=3), "unknown key 'speed'"),
        (changed(threads=...), "missing threads"),
        (changed(threads=0), "threads is 0; accepted: a whole number of at least 1"),
        (changed(ratio=[1, 0.5, 2]), "three positive numbers, the smallest first"),
        (changed(cost=-1), "cost is -1; accepted: a positive number"),
        (changed(unit="hours"), "unit is 'hours'; accepted: s, cycles, instructions"),
        (changed(choice={"plan": 1.5}), "a table of names and whole numbers"),
        (changed(features="+neon"), "accepted: a list of texts"),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_its_number(tmp_path, line, words):
    path = tmp_path / "records"
    path.write_text(f"{record().line()}\n{line}\n")
    with pytest.raises(InputError, match="records:2: .*" + words.replace("(", r"\(")):
        read_records(path)


def test_a_missing_file_says_what_makes_one(tmp_path):
    with pytest.raises(InputError, match=r"no file of records .*`parc-hw tune MODEL --records"):
        read_records(tmp_path / "none")
    assert len(read_records(tmp_path / "none", missing_ok=True)) == 0


def test_a_read_only_database_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "records"
    write_records(path, Records.of([record()]))
    path.chmod(0o444)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"cannot be written: the file is read-only. Name a file"):
        add_record(path, record(kernel="conv"))
    assert path.read_bytes() == before


def test_a_directory_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written: (not a directory|file exists)"):
        add_record(tmp_path / "file" / "records", record())


def _add(path, number):
    for k in range(20):
        add_record(path, record(shape=f"{number} {k}"))


def test_two_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "records"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(path, number)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(read_records(path)) == 40


def test_a_difference_names_what_each_has_and_what_changed():
    a = Records.of([record(), record(kernel="conv"), record(kernel="matmul")])
    better = record(kernel="matmul", ratio=(0.4, 0.5, 0.6))
    b = Records.of([record(), better, record(kernel="depthwise")])
    found = difference(a, b)
    assert [r.kernel for r in found.only_first] == ["conv"]
    assert [r.kernel for r in found.only_second] == ["depthwise"]
    assert found.changed == ((record(kernel="matmul"), better),)
    assert found.same == 1


def test_the_key_holds_everything_but_the_evidence():
    names = {f.name for f in dataclasses.fields(TuningRecord)}
    evidence = {"choice", "ratio", "cost", "trials", "evidence"}
    for name in names - evidence:
        assert f'"{name}":' in record().key
    assert not any(f'"{name}":' in record().key for name in evidence)


def test_the_lock_is_gone_with_its_process(tmp_path):
    path = tmp_path / "records"
    if not (child := os.fork()):
        add_record(path, record())
        os._exit(0)
    os.waitpid(child, 0)
    add_record(path, record(kernel="conv"))
    assert len(read_records(path)) == 2
