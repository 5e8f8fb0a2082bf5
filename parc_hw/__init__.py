"""What does a user of the package import? Compilers and models of position-aware convolution.

Nothing heavy is imported until it is used: `import parc_hw` needs neither TVM nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parc_hw.version import VERSION as __version__

if TYPE_CHECKING:
    from parc_hw import models, nn
    from parc_hw.artifact import Bundle
    from parc_hw.build import compile
    from parc_hw.operator import ParcOperator, compile_parc

__all__ = [
    "Bundle",
    "ParcOperator",
    "__version__",
    "compile",
    "compile_parc",
    "models",
    "nn",
]

_LAZY = {
    "Bundle": "parc_hw.artifact",
    "ParcOperator": "parc_hw.operator",
    "compile": "parc_hw.build",
    "compile_parc": "parc_hw.operator",
}
_PACKAGES = ("models", "nn")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _PACKAGES:
        return import_module(f"parc_hw.{name}")
    raise AttributeError(f"module 'parc_hw' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
