"""What do equations 2, 3 and 4 of the Fast-ParC paper compute?

Loops over i and k as the sums are printed. All are circular correlations: output i is aligned
with tap 0, no tap is flipped and nothing is centred.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.errors import InputError
from parc_hw.reference import _arrays
from parc_hw.reference.resize import resize as f
from parc_hw.spec import Axis

__all__ = ["equation_2", "equation_3", "equation_4", "parc"]

Array = NDArray[np.float64]


def equation_2(
    x: ArrayLike,
    w: ArrayLike,
    *,
    position_embedding: ArrayLike | None = None,
    bias: float = 0.0,
    resize: str = "none",
) -> Array:
    """ParC of one line: y_i = b + sum_k w^N_k x^p_{(k+i) mod N}.

    w^N = f(w, N) and x^p = x + f(pe, N).

    Parameters
    ----------
    x : array, shape (N,)
    w : array, shape (K,)
        The stored kernel; K = N unless `resize` says how it becomes N.
    position_embedding : array, shape (K',), or None
        pe, the stored position embedding, resized like the kernel.
    bias : float
        b. The papers' equations leave it out; their code has it.
    resize : str
        How f works, see `parc_hw.reference.resize`.

    Returns
    -------
    float64 array, shape (N,)

    Raises
    ------
    InputError
        A shape that does not fit.

    References
    ----------
    Fast-ParC, equation 2.

    Examples
    --------
    Tap 1 fetches the next point of the circle:

    >>> equation_2([1, 2, 3], [0, 1, 0])
    array([2., 3., 1.])
    """
    line = np.asarray(x, dtype=np.float64)
    _arrays.check(line.ndim == 1 and line.size > 0, "x", line, "(N,)")
    taps, pe = f(w, line.size, resize), np.zeros(line.size)
    _arrays.check(taps.ndim == 1, "w", taps, "(K,)")
    if position_embedding is not None:
        pe = f(position_embedding, line.size, resize)
        _arrays.check(pe.ndim == 1, "position_embedding", pe, "(K,)")
    x_p = line + pe
    y = np.zeros(line.size)
    for i in range(line.size):
        for k in range(line.size):
            y[i] += taps[k] * x_p[(k + i) % line.size]
        y[i] += bias
    return y


def equation_3(
    x: ArrayLike,
    w: ArrayLike,
    *,
    axis: Axis | str,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    resize: str = "none",
) -> Array:
    """Depthwise ParC of a map, axis H: Y[i,j,c] = b_c + sum_k W[k,c] X^p[(k+i) mod H, j, c].

    On axis W the roles of i and j change places.

    Parameters
    ----------
    x : array, shape (B, C, H, W)
        The paper writes X[i, j, c]; arrays here are NCHW.
    w : array, shape (C, K)
        One stored kernel per channel.
    axis : Axis or "H" or "W"
    position_embedding : array, shape (C, K'), or None
        Added to x before the correlation, the same for all lines of a channel.
    bias : array, shape (C,), or None
    resize : str
        How kernel and position embedding become N = H (or W) points long.

    Returns
    -------
    float64 array, shape (B, C, H, W)

    Raises
    ------
    InputError
        A shape that does not fit, or an unknown axis.

    References
    ----------
    Fast-ParC, equation 3.
    """
    x_p, length, axis = _arrays.prepare(x, position_embedding, axis, resize)
    channels = x_p.shape[1]
    kernels = f(w, length, resize)
    _arrays.check(kernels.shape == (channels, length), "w", kernels, f"({channels}, {length})")
    b = _arrays.bias_of(bias, channels)
    y = np.zeros_like(x_p)
    for c in range(channels):
        for i in range(length):
            for k in range(length):
                if axis is Axis.H:
                    y[:, c, i, :] += kernels[c, k] * x_p[:, c, (k + i) % length, :]
                else:
                    y[:, c, :, i] += kernels[c, k] * x_p[:, c, :, (k + i) % length]
        y[:, c] += b[c]
    return y


def equation_4(
    x: ArrayLike,
    w: ArrayLike,
    *,
    axis: Axis | str,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    resize: str = "none",
) -> Array:
    """Dense ParC, axis H: Y[i,j,co] = b_co + sum_ci sum_k W[k,ci,co] X^p[(k+i) mod H, j, ci].

    The paper drops the index co of W.

    Parameters
    ----------
    x : array, shape (B, C, H, W)
    w : array, shape (C_out, C, K)
    axis : Axis or "H" or "W"
    position_embedding : array, shape (C, K'), or None
    bias : array, shape (C_out,), or None
    resize : str
        How kernel and position embedding become N points long.

    Returns
    -------
    float64 array, shape (B, C_out, H, W)

    Raises
    ------
    InputError
        A shape that does not fit, or an unknown axis.

    References
    ----------
    Fast-ParC, equation 4.
    """
    x_p, length, axis = _arrays.prepare(x, position_embedding, axis, resize)
    batch, channels, height, width = x_p.shape
    kernels = f(w, length, resize)
    _arrays.check(
        kernels.ndim == 3 and kernels.shape[1:] == (channels, length),
        "w",
        kernels,
        f"(C_out, {channels}, {length})",
    )
    b = _arrays.bias_of(bias, len(kernels))
    y = np.zeros((batch, len(kernels), height, width))
    for co in range(len(kernels)):
        for ci in range(channels):
            for i in range(length):
                for k in range(length):
                    if axis is Axis.H:
                        y[:, co, i, :] += kernels[co, ci, k] * x_p[:, ci, (k + i) % length, :]
                    else:
                        y[:, co, :, i] += kernels[co, ci, k] * x_p[:, ci, :, (k + i) % length]
        y[:, co] += b[co]
    return y


def parc(
    x: ArrayLike,
    w: ArrayLike,
    *,
    axis: Axis | str,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    resize: str = "none",
) -> Array:
    """ParC of an NCHW map: equation 3 for kernels (C, K), equation 4 for (C_out, C, K).

    Raises
    ------
    InputError
        A shape that does not fit, or an unknown axis.

    >>> x = np.arange(6.0).reshape(1, 1, 2, 3)
    >>> parc(x, [[0, 1]], axis="H")[0, 0]
    array([[3., 4., 5.],
           [0., 1., 2.]])
    """
    dimensions = np.ndim(w)
    if dimensions not in (2, 3):
        raise InputError(
            f"w has {dimensions} dimensions; accepted: (C, K) depthwise, (C_out, C, K) dense."
        )
    equation = equation_3 if dimensions == 2 else equation_4
    return equation(
        x, w, axis=axis, position_embedding=position_embedding, bias=bias, resize=resize
    )
