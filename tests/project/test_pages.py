"""Do the examples of the pages run, and are the files there that they name?"""

from __future__ import annotations

import doctest
import re

import pytest

# Pages with examples that have no test of their own elsewhere: (page, examples at least).
PAGES = [("architecture.md", 15), ("add_a_device.md", 4), ("operator.md", 25)]


@pytest.mark.tvm
@pytest.mark.torch
@pytest.mark.parametrize(("page", "least"), PAGES)
def test_examples_of_the_page_run(page, least, repository):
    done = doctest.testfile(
        str(repository / "docs" / page),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted >= least
    assert done.failed == 0


@pytest.mark.parametrize("page", ["architecture.md", "add_a_device.md"])
def test_every_file_that_the_page_names_is_there(page, repository):
    text = (repository / "docs" / page).read_text()
    named = set(re.findall(r"`((?:parc_hw|schedules|tests)/[\w/]+(?:\.py|/)?)`", text))
    named |= {f"docs/{link}" for link in re.findall(r"\]\((\w+\.md)", text)}
    assert len(named) >= 2
    assert [name for name in named if not (repository / name).exists()] == []
