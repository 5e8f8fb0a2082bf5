"""What does Algorithm 1 of the Fast-ParC paper do, line by line, in its two forms?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.reference import _arrays
from parc_hw.spec import Axis

__all__ = ["algorithm_1_fourier", "algorithm_1_spatial"]

Array = NDArray[np.float64]


def algorithm_1_spatial(
    x: ArrayLike,
    w: ArrayLike,
    *,
    axis: Axis | str,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
) -> Array:
    """Concatenate the map with itself but for the last row, then convolve without padding.

    ``y = conv2d(cat([x, x[:, :, :-1, :]], -2), w, bias, padding=0, groups=C)``; on axis W the
    same with columns. The EdgeFormer paper prints ``cat(x, x)``, which would give one output
    too many. The printed algorithm leaves out the position embedding; it is added first.

    Parameters
    ----------
    x : array, shape (B, C, H, W)
    w : array, shape (C, N)
        Kernels of the length of the axis; resize them first (`resize`).
    axis : Axis or "H" or "W"
    position_embedding : array, shape (C, N), or None
    bias : array, shape (C,), or None

    Returns
    -------
    float64 array, shape (B, C, H, W)

    Raises
    ------
    InputError
        A shape that does not fit, or an unknown axis.

    References
    ----------
    Fast-ParC, Algorithm 1, spatial form.
    """
    x_p, length, axis = _arrays.prepare(x, position_embedding, axis, "none")
    channels = x_p.shape[1]
    kernels = np.asarray(w, dtype=np.float64)
    _arrays.check(kernels.shape == (channels, length), "w", kernels, f"({channels}, {length})")
    if axis is Axis.H:
        x_cat = np.concatenate([x_p, x_p[:, :, :-1, :]], axis=-2)
        weight = kernels.reshape(channels, 1, length, 1)
    else:
        x_cat = np.concatenate([x_p, x_p[:, :, :, :-1]], axis=-1)
        weight = kernels.reshape(channels, 1, 1, length)
    return _conv2d(x_cat, weight) + _arrays.bias_of(bias, channels)[:, None, None]


def algorithm_1_fourier(
    x: ArrayLike,
    w: ArrayLike,
    *,
    axis: Axis | str,
    position_embedding: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    real: bool = False,
) -> Array:
    """Multiply spectra: ``ifft(fft(x) * conj(fft(w))).real + bias``.

    Parameters
    ----------
    x, w, axis, position_embedding, bias
        As for `algorithm_1_spatial`.
    real : bool
        False: the complex transform, as printed. True: the transform of real data,
        ``irfft(rfft(x) * conj(rfft(w)), n=N)``; without n an odd N would lose a point.

    Returns
    -------
    float64 array, shape (B, C, H, W)

    Raises
    ------
    InputError
        A shape that does not fit, or an unknown axis.

    References
    ----------
    Fast-ParC, Theorem 1 and Algorithm 1, Fourier form.
    """
    x_p, length, axis = _arrays.prepare(x, position_embedding, axis, "none")
    channels = x_p.shape[1]
    kernels = np.asarray(w, dtype=np.float64)
    _arrays.check(kernels.shape == (channels, length), "w", kernels, f"({channels}, {length})")
    kernels = kernels[:, :, None] if axis is Axis.H else kernels[:, None, :]
    if real:
        spectrum = np.fft.rfft(x_p, axis=axis.dim) * np.conj(
            np.fft.rfft(kernels, axis=axis.dim - 1)
        )
        y = np.fft.irfft(spectrum, n=length, axis=axis.dim)
    else:
        spectrum = np.fft.fft(x_p, axis=axis.dim) * np.conj(np.fft.fft(kernels, axis=axis.dim - 1))
        y = np.fft.ifft(spectrum, axis=axis.dim).real
    return y + _arrays.bias_of(bias, channels)[:, None, None]


def _conv2d(x: Array, weight: Array) -> Array:
    """What torch calls conv2d with padding 0, stride 1 and groups = C: no flipped tap."""
    batch, channels, height, width = x.shape
    _, _, taps_h, taps_w = weight.shape
    y = np.zeros((batch, channels, height - taps_h + 1, width - taps_w + 1))
    for c in range(channels):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                window = x[:, c, i : i + taps_h, j : j + taps_w]
                y[:, c, i, j] = np.sum(window * weight[c, 0], axis=(1, 2))
    return y
