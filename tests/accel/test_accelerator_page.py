"""The page on the accelerator: its example runs, its tables are what the code has."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys

from parc_hw.isa import Function, Opcode


def test_the_example_of_the_page_runs(repository):
    done = doctest.testfile(
        str(repository / "docs" / "accelerator.md"),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted > 10
    assert done.failed == 0


def test_the_tables_of_the_page_are_generated(repository):
    command = [sys.executable, "tools/accelerator_tables.py", "--check"]
    done = subprocess.run(command, cwd=repository, env={"PYTHONPATH": "."}, check=False)
    assert done.returncode == 0, "run `python tools/accelerator_tables.py`"


def test_every_instruction_has_its_row(repository):
    text = (repository / "docs" / "accelerator.md").read_text()
    rows = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    for opcode in Opcode:
        assert opcode.name in rows
    for function in Function:
        assert function is Function.NONE or function.name in rows


def test_every_file_that_the_page_names_is_there(repository):
    text = (repository / "docs" / "accelerator.md").read_text()
    named = set(re.findall(r"`((?:parc_hw|tests)/[\w/]+(?:\.py|/))`", text))
    assert len(named) > 6
    assert [name for name in named if not (repository / name).exists()] == []
