"""How does a kernel or position embedding stored at one length serve an input of another?

f(w, N) of the papers. The official code calls torch's `interpolate` on a (C, 1, K, 1) tensor
with `align_corners=True`; along the other axis nothing changes, so that it acts on lines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.errors import InputError, nearest

__all__ = ["RESIZES", "resize"]

RESIZES = ("none", "bilinear", "bicubic", "crop")
_CUBIC_A = -0.75  # the free parameter of Keys' kernel as torch sets it (many texts have -0.5)


def resize(w: ArrayLike, length: int, mode: str = "bilinear") -> NDArray[np.float64]:
    """f(w, N): resize the last axis of `w` to `length` points.

    Parameters
    ----------
    w : array, shape (..., K)
        Stored kernels or position embeddings.
    length : int
        N, at least 1.
    mode : str
        - ``"none"``: K must be N.
        - ``"bilinear"``: linear interpolation with the end points on the end points, as
          ParC-Net does. A single stored value serves all N; N = 1 takes the first value.
        - ``"bicubic"``: cubic convolution with a = -0.75 at the same points, the ends repeated.
        - ``"crop"``: the first N values; N must not exceed K.

    Returns
    -------
    float64 array, shape (..., N)

    Raises
    ------
    InputError
        An unknown mode, a length below 1, an empty `w`, or a length the mode cannot serve.

    References
    ----------
    Keys, Cubic Convolution Interpolation for Digital Image Processing (1981), equation 4.

    Examples
    --------
    >>> resize([0.0, 3.0, 0.0], 5)
    array([0. , 1.5, 3. , 1.5, 0. ])
    >>> resize([1.0, 2.0, 3.0], 2, "crop")
    array([1., 2.])
    """
    values = np.asarray(w, dtype=np.float64)
    if mode not in RESIZES:
        raise InputError(
            f"no resize is called {mode!r}.{nearest(mode, RESIZES)} Accepted: {', '.join(RESIZES)}."
        )
    if values.ndim < 1 or values.shape[-1] < 1:
        raise InputError(f"nothing to resize: the stored shape is {values.shape}.")
    if length < 1:
        raise InputError(f"cannot resize to {length} points; accepted: at least 1.")
    stored = values.shape[-1]
    if mode == "none":
        if stored != length:
            raise InputError(
                f"stored length {stored} does not fit an axis of {length} points, and resize is "
                f'"none". Use bilinear, bicubic or crop.'
            )
        return values.copy()
    if mode == "crop":
        if length > stored:
            raise InputError(
                f"cannot crop {stored} stored points to {length}. Use bilinear or bicubic."
            )
        return values[..., :length].copy()
    resized = np.empty((*values.shape[:-1], length))
    for i in range(length):
        # Where output i lies among the stored points; torch takes a scale of 0 when N = 1.
        position = i * (stored - 1) / (length - 1) if length > 1 else 0.0
        left = int(np.floor(position))
        t = position - left
        if mode == "bilinear":
            weights = {0: 1 - t, 1: t}
        else:
            weights = {offset: _cubic(t - offset) for offset in (-1, 0, 1, 2)}
        # Keys' points beyond the ends repeat the end points.
        resized[..., i] = sum(
            weight * values[..., min(max(left + offset, 0), stored - 1)]
            for offset, weight in weights.items()
        )
    return resized


def _cubic(distance: float) -> float:
    """Keys' kernel: the weight of a point at this distance, in stored points."""
    a, s = _CUBIC_A, abs(distance)
    if s <= 1:
        return (a + 2) * s**3 - (a + 3) * s**2 + 1
    if s < 2:
        return a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a
    return 0.0
