"""What is the accelerator: its description, its programs, and what they compute in which time?

Importing this package is light: numpy and numba are loaded by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parc_hw.accel.container import Program
    from parc_hw.accel.description import Description, description_names, load_description
    from parc_hw.accel.simulator import Result, run

__all__ = [
    "Description",
    "Program",
    "Result",
    "description_names",
    "load_description",
    "run",
]

_NAMES = {
    "container": "Program",
    "description": "Description description_names load_description",
    "simulator": "Result run",
}
_LAZY = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"parc_hw.accel.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
