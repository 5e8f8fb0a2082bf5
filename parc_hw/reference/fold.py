"""What do position embedding and BatchNorm become when a network is frozen?

At inference kernel, position embedding and the norm's statistics are constants. Correlation is
linear, so that all of them together are one kernel and one constant per channel and position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.errors import InputError
from parc_hw.reference.equations import parc

__all__ = ["BatchNorm", "fold_batch_norm", "fold_position_embedding"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchNorm:
    """Inference-time BatchNorm: y = gamma (x - mean) / sqrt(variance + epsilon) + beta.

    Parameters
    ----------
    gamma, beta, mean, variance : array, shape (C,)
        Trained scale and shift, running mean and running variance (not the deviation).
    epsilon : float
        What torch calls eps.
    """

    gamma: ArrayLike
    beta: ArrayLike
    mean: ArrayLike
    variance: ArrayLike
    epsilon: float = 1e-5

    @property
    def scale(self) -> Array:
        """What each channel is multiplied by, shape (C,)."""
        variance = np.asarray(self.variance, dtype=np.float64)
        return np.asarray(self.gamma, dtype=np.float64) / np.sqrt(variance + self.epsilon)

    @property
    def shift(self) -> Array:
        """What is then added to each channel, shape (C,)."""
        mean = np.asarray(self.mean, dtype=np.float64)
        return np.asarray(self.beta, dtype=np.float64) - mean * self.scale

    def __call__(self, x: ArrayLike) -> Array:
        """Normalise `x`, shape (B, C, H, W)."""
        image = np.asarray(x, dtype=np.float64)
        return image * self.scale[:, None, None] + self.shift[:, None, None]


def fold_position_embedding(
    w: ArrayLike, position_embedding: ArrayLike, bias: ArrayLike | None = None
) -> Array:
    """corr(pe, w) + b: the constant map that stands for position embedding and bias.

    corr(x + pe, w) + b = corr(x, w) + (corr(pe, w) + b), the same for all lines of a channel.

    Parameters
    ----------
    w : array, shape (C, N) or (C_out, C, N)
        Depthwise or dense kernels at the length of the axis.
    position_embedding : array, shape (C, N)
    bias : array, shape (C,) or (C_out,), or None

    Returns
    -------
    float64 array, shape (C, N) or (C_out, N)

    Raises
    ------
    InputError
        A shape that does not fit.

    Examples
    --------
    >>> fold_position_embedding([[2.0, 0.0]], [[1.0, 5.0]], bias=[0.5])
    array([[ 2.5, 10.5]])
    """
    pe = np.asarray(position_embedding, dtype=np.float64)
    if pe.ndim != 2:
        raise InputError(f"position_embedding has the shape {pe.shape}; accepted: (C, N).")
    # pe as a map of one line per channel, along H
    return parc(pe[None, :, :, None], w, axis="H", bias=bias)[0, :, :, 0]


def fold_batch_norm(
    w: ArrayLike,
    norm: BatchNorm,
    *,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Fold x + pe, then BatchNorm, then kernel, into a kernel and a constant map.

    This is ParC-Net's order in the first block of a stage. With s, t the norm's scale and
    shift: corr(s (x + pe) + t, w) + b = corr(x, s w) + (corr(s pe + t, w) + b).

    Parameters
    ----------
    w : array, shape (C, N) or (C_out, C, N)
    norm : BatchNorm
        Over the C input channels.
    position_embedding : array, shape (C, N), or None
        What is added *before* the norm.
    bias : array, shape (C,) or (C_out,), or None

    Returns
    -------
    kernel : float64 array, shape of `w`
    constant : float64 array, shape (C, N) or (C_out, N)

    Raises
    ------
    InputError
        A shape that does not fit.
    """
    kernels = np.asarray(w, dtype=np.float64)
    channels, length = len(norm.scale), kernels.shape[-1]
    if kernels.ndim not in (2, 3) or kernels.shape[-2] != channels:
        raise InputError(
            f"w has the shape {kernels.shape}; accepted: ({channels}, N) or "
            f"(C_out, {channels}, N) for a norm over {channels} channels."
        )
    pe = np.zeros((channels, length))
    if position_embedding is not None:
        pe = np.asarray(position_embedding, dtype=np.float64)
    normed = norm.scale[:, None] * pe + norm.shift[:, None]
    # The channel the norm scaled is the last axis but one of both kernel shapes.
    return kernels * norm.scale[:, None], fold_position_embedding(kernels, normed, bias)
