"""The page on kernels: its examples run."""

from __future__ import annotations

import doctest

import pytest


@pytest.mark.tvm
def test_examples_of_the_page_run(repository):
    done = doctest.testfile(
        str(repository / "docs" / "kernels.md"),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted > 25
    assert done.failed == 0


def test_every_file_that_the_page_names_is_there(repository):
    import re

    page = (repository / "docs" / "kernels.md").read_text()
    named = set(
        re.findall(r"`((?:parc_hw|schedules|tests|benchmarks|tools)/[\w/]+(?:\.py|/))`", page)
    )
    assert len(named) >= 9
    assert [name for name in named if not (repository / name).exists()] == []
