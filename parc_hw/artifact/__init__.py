"""How is a compiled program packed, opened, run and verified as a bundle?"""

from __future__ import annotations

from parc_hw.artifact.bundle import Bundle, Port, Shape
from parc_hw.artifact.csource import check_name
from parc_hw.artifact.host import Bound
from parc_hw.artifact.toolchain import Emulator, Toolchain, find_emulator, find_toolchain
from parc_hw.artifact.vectors import TOLERANCE, Vectors, layer_samples
from parc_hw.artifact.verify import VerifyReport, VerifyRow, verify_bundle
from parc_hw.artifact.writer import check_output, write_bundle

__all__ = [
    "TOLERANCE",
    "Bound",
    "Bundle",
    "Emulator",
    "Port",
    "Shape",
    "Toolchain",
    "Vectors",
    "VerifyReport",
    "VerifyRow",
    "check_name",
    "check_output",
    "find_emulator",
    "find_toolchain",
    "layer_samples",
    "verify_bundle",
    "write_bundle",
]
