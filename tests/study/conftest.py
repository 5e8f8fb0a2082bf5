"""What do tests of studies share?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from parc_hw.study.spec import StudySpec, parse_spec

SPECS = Path(__file__).resolve().parent / "specs"


@pytest.fixture
def tiny() -> StudySpec:
    return parse_spec((SPECS / "tiny.toml").read_text(), where="tiny.toml")


@pytest.fixture
def environment(repository: Path) -> dict[str, str]:
    """For processes that run `python -m parc_hw` elsewhere."""
    return {**os.environ, "PYTHONPATH": str(repository), "NO_COLOR": "1", "COLUMNS": "120"}
