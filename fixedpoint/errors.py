"""What can go wrong in fixed-point arithmetic, beyond an unacceptable argument?"""

from __future__ import annotations

from parc_hw.errors import InputError, UnsupportedError

__all__ = ["FixedPointOverflow", "FormatError", "ScalingError"]


class FormatError(UnsupportedError):
    """A format, or an exact result of two formats, that 64-bit words cannot hold (exit code 3)."""


class ScalingError(InputError):
    """A shift or a scaling schedule that cannot be meant (exit code 2)."""


class FixedPointOverflow(InputError, OverflowError):
    """A value does not fit its format and the overflow mode is RAISE (exit code 2).

    Attributes
    ----------
    index : tuple of int
        Index of the first such element.
    point : str
        Where in the datapath: "quantize", "product", "sum", ...
    count : int
        How many elements did not fit there.
    """

    def __init__(self, message: str, *, index: tuple[int, ...], point: str, count: int) -> None:
        super().__init__(message)
        self.index = index
        self.point = point
        self.count = count
