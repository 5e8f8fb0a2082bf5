"""What does a torch user import to put a ParC into a network?"""

from __future__ import annotations

from parc_hw.nn import op as _op  # registers parc_hw::parc
from parc_hw.nn.convert import ParCHalves, convert
from parc_hw.nn.functional import circular_correlate, resize_taps
from parc_hw.nn.parc import ParC

__all__ = ["ParC", "ParCHalves", "circular_correlate", "convert", "resize_taps"]

del _op
