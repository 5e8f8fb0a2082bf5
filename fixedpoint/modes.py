"""What may happen to low bits that are dropped and to values that do not fit?

The kernels take these as plain integers at run time (`rounding_code`, `overflow_code`), so that
one compiled kernel serves every choice.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from parc_hw.dataflow import Rounding
from parc_hw.errors import InputError, nearest

__all__ = [
    "FLOOR",
    "HALF_AWAY",
    "HALF_EVEN",
    "HALF_UP",
    "RAISE",
    "ROUNDING_NAMES",
    "SATURATE",
    "TOWARD_ZERO",
    "WRAP",
    "Overflow",
    "Rounding",
    "overflow_code",
    "parse_rounding",
    "rounding_code",
]


class Overflow(enum.Enum):
    """What happens to a value outside its format."""

    SATURATE = "saturate"  # the nearest value of the format
    WRAP = "wrap"  # the value modulo 2**bits, as dropping high bits gives
    RAISE = "raise"  # `FixedPointOverflow`, naming the first index


FLOOR: Final = 0
TOWARD_ZERO: Final = 1
HALF_UP: Final = 2
HALF_EVEN: Final = 3
HALF_AWAY: Final = 4

SATURATE: Final = 0
WRAP: Final = 1
RAISE: Final = 2

# Tool, and its names in the order of `Rounding`; "-" where it has none. ap_fixed, ac_fixed and
# SystemC put AP_, AC_ or SC_ in front.
ROUNDING_NAMES: Final = {
    "ap_fixed, APyTypes": ("TRN", "TRN_ZERO", "RND", "RND_CONV", "RND_INF"),
    "en_cl_fix": ("Trunc_s", "-", "NonSymPos_s", "ConvEven_s", "SymInf_s"),
    "dblclockfft": ("RND_TRUNCATE", "-", "RND_HALFUP", "RND_CONVERGENT", "RND_FROMZERO"),
    "MATLAB": ("Floor", "Zero", "Nearest", "Convergent", "Round"),
}

_ROUNDING = {
    Rounding.FLOOR: FLOOR,
    Rounding.TOWARD_ZERO: TOWARD_ZERO,
    Rounding.HALF_UP: HALF_UP,
    Rounding.HALF_EVEN: HALF_EVEN,
    Rounding.HALF_AWAY: HALF_AWAY,
}
_OVERFLOW = {Overflow.SATURATE: SATURATE, Overflow.WRAP: WRAP, Overflow.RAISE: RAISE}


def parse_rounding(text: str) -> Rounding:
    """Return the rounding that `text` names, in our words or another tool's (`ROUNDING_NAMES`).

    >>> [parse_rounding(text).name for text in ("half_even", "AP_RND_CONV", "RND", "Nearest")]
    ['HALF_EVEN', 'HALF_EVEN', 'HALF_UP', 'HALF_UP']
    """
    known = {mode.name.lower(): mode for mode in Rounding}
    for names in ROUNDING_NAMES.values():
        known |= {name.lower(): mode for name, mode in zip(names, Rounding, strict=True)}
    del known["-"]
    word = str(text).lower()
    mode = known.get(word) or known.get(re.sub(r"^(ap|ac|sc)_", "", word))
    if mode is None:
        raise InputError(
            f"{text!r} is no rounding.{nearest(word, known)} Accepted: "
            f"{', '.join(mode.value for mode in Rounding)}, and the names in other tools that "
            f"docs/fixed_point.md lists."
        )
    return mode


def rounding_code(rounding: Rounding) -> int:
    """Return the integer by which the kernels know `rounding`.

    >>> rounding_code(Rounding.HALF_EVEN)
    3
    """
    if not isinstance(rounding, Rounding):
        raise InputError(
            f"rounding is {rounding!r}: expected one of "
            f"{', '.join(f'Rounding.{mode.name}' for mode in Rounding)}."
        )
    return _ROUNDING[rounding]


def overflow_code(overflow: Overflow) -> int:
    """Return the integer by which the kernels know `overflow`.

    >>> overflow_code(Overflow.WRAP)
    1
    """
    if not isinstance(overflow, Overflow):
        raise InputError(
            f"overflow is {overflow!r}: expected one of "
            f"{', '.join(f'Overflow.{mode.name}' for mode in Overflow)}."
        )
    return _OVERFLOW[overflow]
