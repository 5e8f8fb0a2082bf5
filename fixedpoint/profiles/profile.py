"""Which library's transform is this, and what does it take?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Profile"]

Words = NDArray[np.signedinteger]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One library's fixed-point transform, equal to it bit for bit.

    Parameters
    ----------
    name : str
        What `fixedpoint.fft(..., profile=name)` is given.
    bits : int
        Word length of every input and output word, sign included: 16 or 32.
    lengths, real_lengths : str
        The accepted lengths in words, for messages and tables.
    accepts, accepts_real : callable
        Whether a length N is one of them.
    transform : callable
        (words (lines, N, 2), inverse) -> (lines, N, 2), natural order at both ends.
    real_transform : callable
        words (lines, N) -> (lines, N/2 + 1, 2).
    """

    name: str
    bits: int
    lengths: str
    real_lengths: str
    accepts: Callable[[int], bool] = field(repr=False)
    accepts_real: Callable[[int], bool] = field(repr=False)
    transform: Callable[[Words, bool], Words] = field(repr=False)
    real_transform: Callable[[Words], Words] = field(repr=False)
