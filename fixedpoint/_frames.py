"""How do frames of words get into the lanes of vectors, and out of them?"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fixedpoint._inside import inside
from fixedpoint._vector import BITS, high_half, joined, load, low_half, store

__all__ = ["LANES_32", "LANES_64", "enter", "leave", "pairs"]

LANES_32: Final = BITS // 32
"""Frames side by side where lanes are int32."""

LANES_64: Final = BITS // 64
"""Frames side by side where lanes are int64."""


def pairs(words: NDArray[Any]) -> NDArray[Any]:
    """View frames (lines, N, 2) of int16 or int32 as (lines, N), real part in the low half.

    Lanes of twice a word's bits take real and imaginary part in one go.
    """
    double = np.dtype(f"<i{2 * words.dtype.itemsize}")
    return np.ascontiguousarray(words).view(double)[..., 0]


@inside()
def enter(words, work, source, first, held, real):  # type: ignore[no-untyped-def]
    """Place p of `work` (N, 2, lanes) is index source[p] of frames first to first + held - 1.

    Frames are (lines, N, 2) or `pairs`. `real` is the part of a place that takes the real word: 0,
    or 1 to exchange the parts.
    """
    if held < work.shape[2]:
        work[:] = 0  # empty lanes stay 0 through every point, and count nothing
    if words.ndim == 2:
        for lane in range(held):
            for i in range(work.shape[0]):
                work[i, 0, lane] = words[first + lane, source[i]]
        for i in range(work.shape[0]):
            both = load(work, 2 * i)
            store(work, 2 * i + real, low_half(both))
            store(work, 2 * i + 1 - real, high_half(both))
    else:
        for lane in range(held):
            for i in range(work.shape[0]):
                work[i, real, lane] = words[first + lane, source[i], 0]
                work[i, 1 - real, lane] = words[first + lane, source[i], 1]


@inside()
def leave(work, result, target, first, held, real):  # type: ignore[no-untyped-def]
    """Place p goes to index target[p], its low bits as the result's type has them."""
    if result.ndim == 2:
        for i in range(work.shape[0]):
            store(work, 2 * i, joined(load(work, 2 * i + real), load(work, 2 * i + 1 - real)))
        for lane in range(held):
            for i in range(work.shape[0]):
                result[first + lane, target[i]] = work[i, 0, lane]
    else:
        for lane in range(held):
            for i in range(work.shape[0]):
                result[first + lane, target[i], 0] = work[i, real, lane]
                result[first + lane, target[i], 1] = work[i, 1 - real, lane]
