"""The journal: what is in it survives, and it is never mixed up with another study's."""

from __future__ import annotations

import json
import multiprocessing
import re

import pytest

from parc_hw.errors import InputError
from parc_hw.study.journal import NAME, Journal

HEADER = {"study": "abc" * 8, "name": "first", "version": "1"}


def record(number: int) -> dict:
    return {"id": f"p{number}", "part": 0, "point": {}, "result": {"x": number}}


def test_what_was_appended_is_there_again(tmp_path):
    with Journal.open(tmp_path / "out", HEADER) as journal:
        journal.append([record(1), record(2)])
        journal.append([])
        journal.append([record(3)])
    with Journal.open(tmp_path / "out", HEADER) as journal:
        assert journal.records == [record(1), record(2), record(3)]
        assert not journal.dropped


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_an_unfinished_last_line_is_dropped_and_written_again(tmp_path, cut):
    with Journal.open(tmp_path, HEADER) as journal:
        journal.append([record(1), record(2)])
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal.open(tmp_path, HEADER) as journal:
        assert journal.dropped
        assert journal.records == [record(1)]
        journal.append([record(2)])
    assert path.read_bytes() == whole


def test_a_kill_before_the_first_line_was_whole_begins_anew(tmp_path):
    (tmp_path / NAME).write_text('{"study": "ab')
    with Journal.open(tmp_path, HEADER) as journal:
        assert journal.records == []
    assert json.loads((tmp_path / NAME).read_text())["name"] == "first"


def test_a_directory_with_a_different_study_is_refused_and_untouched(tmp_path):
    Journal.open(tmp_path, HEADER).close()
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(InputError, match=r"holds a different study: 'first' .* not 'second'"):
        Journal.open(tmp_path, {**HEADER, "study": "other", "name": "second"})
    with pytest.raises(InputError, match="has the same name, so its specification was changed"):
        Journal.open(tmp_path, {**HEADER, "study": "other"})
    assert (tmp_path / NAME).read_bytes() == before


def test_a_study_of_another_version_is_refused(tmp_path):
    Journal.open(tmp_path, HEADER).close()
    with pytest.raises(InputError, match=r"begun by parc_hw 1 .* this is 2 .* may differ"):
        Journal.open(tmp_path, {**HEADER, "version": "2"})


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no study"):
        Journal.open(tmp_path, HEADER)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    with Journal.open(tmp_path, HEADER) as journal:
        journal.append([record(1), record(2)])
    path = tmp_path / NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{}", lines[2], ""]))
    with pytest.raises(InputError, match=re.escape(f"{path}:2: this is no line of a study's")):
        Journal.open(tmp_path, HEADER)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write a study to .*Not a directory|File exists"):
        Journal.open(tmp_path / "file", HEADER)


def _hold(directory, ready, leave):
    with Journal.open(directory, HEADER):
        ready.set()
        leave.wait(30)


def test_two_processes_do_not_write_one_journal(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, leave))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(InputError, match="another process is working on this study"):
            Journal.open(tmp_path, HEADER)
    finally:
        leave.set()
        other.join(30)
    Journal.open(tmp_path, HEADER).close()


def test_lines_are_json_documents(tmp_path):
    with Journal.open(tmp_path, HEADER) as journal:
        journal.append([record(1)])
    first, second = map(json.loads, (tmp_path / NAME).read_text().splitlines())
    assert (first["study"], second) == (HEADER["study"], record(1))
