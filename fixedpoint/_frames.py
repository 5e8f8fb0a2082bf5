"""How do frames of words get into the lanes of vectors, and out of them?"""

from __future__ import annotations

from typing import Final

from numba import njit

from fixedpoint._vector import BITS

__all__ = ["LANES_32", "LANES_64", "enter", "leave"]

LANES_32: Final = BITS // 32
"""Frames side by side where lanes are int32."""

LANES_64: Final = BITS // 64
"""Frames side by side where lanes are int64."""


@njit(cache=True, nogil=True)
def enter(words, work, source, first, held, real):  # type: ignore[no-untyped-def]
    """Place p of `work` (N, 2, lanes) is index source[p] of frames first to first + held - 1.

    `real` is the part of a place that takes the real word: 0, or 1 to exchange the parts.
    """
    if held < work.shape[2]:
        work[:] = 0  # empty lanes stay 0 through every point, and count nothing
    for lane in range(held):
        for i in range(work.shape[0]):
            work[i, real, lane] = words[first + lane, source[i], 0]
            work[i, 1 - real, lane] = words[first + lane, source[i], 1]


@njit(cache=True, nogil=True)
def leave(work, result, target, first, held, real):  # type: ignore[no-untyped-def]
    """Place p goes to index target[p], its low bits as the result's type has them."""
    for lane in range(held):
        for i in range(work.shape[0]):
            result[first + lane, target[i], 0] = work[i, real, lane]
            result[first + lane, target[i], 1] = work[i, 1 - real, lane]
