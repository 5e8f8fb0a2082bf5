"""Which formats does a transform, an operator or a model need: grids, searches, reports.

Nothing is imported until it is used.

>>> from parc_hw.study import load_spec, run_study
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parc_hw.study.run import StudyResult, run_study
    from parc_hw.study.spec import StudySpec, load_spec, parse_spec

__all__ = ["StudyResult", "StudySpec", "load_spec", "parse_spec", "run_study"]

_LAZY = {
    "StudyResult": "run",
    "StudySpec": "spec",
    "load_spec": "spec",
    "parse_spec": "spec",
    "run_study": "run",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"parc_hw.study.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'parc_hw.study' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
