"""What does a whole model compute in int8, int16 or any words, and how far is that from float?

The rule is docs/integer_rule.md. Importing this package is light: numpy, numba and the importers
are loaded by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parc_hw.integer.calibrate import Calibration, choose_formats, observe
    from parc_hw.integer.compare import McNemar, Share, accuracy, agreement, mcnemar
    from parc_hw.integer.datapath import (
        LayerFormats,
        ModelDatapath,
        load_datapath,
        save_datapath,
    )
    from parc_hw.integer.model import IntegerModel, LayerTrace, Logits, quantize_model
    from parc_hw.integer.network import Layer, Network
    from parc_hw.integer.reading import read_network

__all__ = [
    "Calibration",
    "IntegerModel",
    "Layer",
    "LayerFormats",
    "LayerTrace",
    "Logits",
    "McNemar",
    "ModelDatapath",
    "Network",
    "Share",
    "accuracy",
    "agreement",
    "choose_formats",
    "load_datapath",
    "mcnemar",
    "observe",
    "quantize_model",
    "read_network",
    "save_datapath",
]

_NAMES = {
    "calibrate": "Calibration choose_formats observe",
    "compare": "McNemar Share accuracy agreement mcnemar",
    "datapath": "LayerFormats ModelDatapath load_datapath save_datapath",
    "model": "IntegerModel LayerTrace Logits quantize_model",
    "network": "Layer Network",
    "reading": "read_network",
}
_LAZY = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"parc_hw.integer.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
