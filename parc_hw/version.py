"""Which version of parc_hw is this?"""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
