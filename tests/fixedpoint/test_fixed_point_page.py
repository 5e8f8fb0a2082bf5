"""The page on fixed point: its examples run, and its tables are what the code does."""

from __future__ import annotations

import doctest
from pathlib import Path

from fixedpoint import Rounding
from fixedpoint.modes import Overflow


def test_examples_of_the_page_run(repository: Path) -> None:
    done = doctest.testfile(
        str(repository / "docs" / "fixed_point.md"),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted > 25
    assert done.failed == 0


def test_the_page_has_a_row_for_each_mode(repository: Path) -> None:
    page = (repository / "docs" / "fixed_point.md").read_text()
    for mode in (*Rounding, *Overflow):
        assert f"| `{mode.name}` |" in page
