"""By how much may a computed correlation differ from the exact one?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.errors import InputError

__all__ = ["UNIT_ROUNDOFF", "depth_bound", "direct_depth", "parc_bound"]

UNIT_ROUNDOFF = 2.0**-24
"""Largest relative error of one float32 operation rounded to nearest."""


def depth_bound(
    x: ArrayLike,
    w: ArrayLike,
    *,
    depth: int,
    constant: ArrayLike = 0.0,
    unit_roundoff: float = UNIT_ROUNDOFF,
) -> float:
    """(depth + 1) u (sum|w| max|x| + max|c|): how far any output may be from the exact sum.

    For the direct form this is proven: an output is a sum of terms w_k x and the start value c,
    and no term passes more than `depth` roundings. One rounding changes a term by a factor
    1 + d with |d| <= u, `depth` of them by at most depth u / (1 - depth u), which is below
    (depth + 1) u while depth * (depth + 1) u <= 1 (depth up to 4095 in float32). The split form
    is held to the same figure with its own depth; `docs/operator.md` says what is proven there.

    Parameters
    ----------
    x : array
        Signal, with the position embedding where that is added to it and not folded.
    w : array, shape (..., N), (C, N) or (C_out, C, N)
        Kernels. The sum runs over everything that one output sums: the taps of a depthwise
        kernel, taps and input channels of a dense one (three dimensions). The largest counts.
    depth : int
        Most roundings between an operand and the result, at least 1 (`direct_depth`).
    constant : array
        The start values of the accumulators: bias and folded position embedding.
    unit_roundoff : float
        u; 2**-53 for float64.

    Returns
    -------
    float
        In the unit of the output.

    Raises
    ------
    InputError
        `depth` is below 1, or so large that the bound is not one.

    Examples
    --------
    >>> depth_bound([1.0, -2.0], [[3.0, -4.0]], depth=1) / UNIT_ROUNDOFF
    28.0
    """
    if depth < 1 or depth * (depth + 1) * unit_roundoff > 1:
        raise InputError(
            f"no bound for a depth of {depth} roundings of {unit_roundoff:.1e}; accepted: "
            f"1 to about {int(unit_roundoff**-0.5) - 1}."
        )
    kernels = np.abs(np.asarray(w, dtype=np.float64))
    total = kernels.sum(axis=(-2, -1) if kernels.ndim == 3 else -1).max()
    largest = np.abs(np.asarray(x, dtype=np.float64)).max(initial=0.0)
    start = np.abs(np.asarray(constant, dtype=np.float64)).max(initial=0.0)
    return float((depth + 1) * unit_roundoff * (total * largest + start))


def parc_bound(
    x: ArrayLike,
    w: ArrayLike,
    *,
    axis: str,
    depth: int,
    position_embedding: ArrayLike = 0.0,
    bias: ArrayLike = 0.0,
    unit_roundoff: float = UNIT_ROUNDOFF,
) -> NDArray[np.float64]:
    """`depth_bound` of each line of a map by itself: what `parc` gives may be this far off.

    A kernel computes no line from another one, so that a line of small numbers is held to a small
    error beside a line of large ones. The position embedding counts as part of the input.

    Parameters
    ----------
    x : array, shape (B, C, H, W)
        Input.
    w : array, shape (C, N) or (C_out, C, N)
        Kernels, depthwise or dense.
    axis : {"H", "W"}
        The axis they run along.
    depth, unit_roundoff
        As for `depth_bound`.
    position_embedding : array, shape (C, N)
        Or 0.
    bias : array, shape (C,) or (C_out,)
        Or 0.

    Returns
    -------
    array, float64, shape (B, C or C_out, H, W) with 1 in place of the axis
        In the unit of the output.

    Raises
    ------
    InputError
        As `depth_bound`.

    Examples
    --------
    >>> x = np.array([1.0, 2, 8, 4]).reshape(1, 1, 2, 2)
    >>> parc_bound(x, [[1.0, -1]], axis="W", depth=1).ravel() / UNIT_ROUNDOFF
    array([ 8., 32.])
    """
    factor = depth_bound(1.0, [1.0], depth=depth, unit_roundoff=unit_roundoff)
    weight = np.abs(np.asarray(w, dtype=np.float64))
    largest = np.abs(np.asarray(x, dtype=np.float64)).max(2 if axis == "H" else 3, keepdims=True)
    embedding = np.abs(np.asarray(position_embedding, dtype=np.float64))
    if embedding.ndim:
        largest = largest + embedding.max(1).reshape(-1, 1, 1)
    if weight.ndim == 3:
        total, largest = weight.sum((1, 2)), largest.max(1, keepdims=True)
    else:
        total = weight.sum(1)
    constant = np.abs(np.asarray(bias, dtype=np.float64)).reshape(-1, 1, 1)
    return np.asarray(factor * (total.reshape(-1, 1, 1) * largest + constant))


def direct_depth(length: int, channels: int = 1, *, fused: bool = True) -> int:
    """Most roundings a term of the direct form passes: one per step of the sum.

    Parameters
    ----------
    length : int
        N, the taps.
    channels : int
        Input channels a dense ParC sums over; 1 for a depthwise one.
    fused : bool
        Whether a step is one fused multiply-add. Otherwise its product is rounded as well.

    >>> direct_depth(14), direct_depth(14, fused=False)
    (14, 15)
    """
    return length * channels + (0 if fused else 1)
