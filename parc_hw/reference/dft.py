"""What is the discrete Fourier transform, written as its definition?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["dft", "inverse_dft", "theorem_1"]


def _roots(length: int, sign: int) -> NDArray[np.complex128]:
    """The matrix exp(sign * 2 pi i k n / N), with k * n reduced so that the angle stays small."""
    index = np.arange(length)
    turns = np.outer(index, index) % max(length, 1) / max(length, 1)
    return np.exp(sign * 2j * np.pi * turns)


def dft(x: ArrayLike) -> NDArray[np.complex128]:
    """X(k) = sum_n x(n) exp(-2 pi i k n / N), along the last axis, in N**2 products.

    Parameters
    ----------
    x : array, shape (..., N)
        Real or complex.

    Returns
    -------
    complex128 array, shape (..., N)

    Examples
    --------
    The transform of an impulse is flat:

    >>> dft([1, 0, 0]).real
    array([1., 1., 1.])
    """
    values = np.asarray(x, dtype=np.complex128)
    return values @ _roots(values.shape[-1], -1)


def inverse_dft(spectrum: ArrayLike) -> NDArray[np.complex128]:
    """x(n) = 1/N sum_k X(k) exp(2 pi i k n / N), along the last axis.

    >>> inverse_dft(dft([1, 2, 3])).real.round(12)
    array([1., 2., 3.])
    """
    values = np.asarray(spectrum, dtype=np.complex128)
    return values @ _roots(values.shape[-1], 1) / values.shape[-1]


def theorem_1(x: ArrayLike, w: ArrayLike) -> NDArray[np.complex128]:
    """Y(k) = conj(W(k)) X(k): the spectrum of the circular correlation of real `x` with `w`.

    The paper prints W*(n) X(n) on the right-hand side; the index is k.

    Parameters
    ----------
    x, w : array, shape (..., N)
        Real signal and kernel of one length.

    Returns
    -------
    complex128 array, shape (..., N)
        Spectrum of y.
    """
    return np.conj(dft(w)) * dft(x)
