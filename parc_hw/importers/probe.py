"""Is a linear map a ParC, and with which kernel?

Theorem 1 can be spelled in many ways: real or complex transforms, any normalisation, products
written out by real and imaginary parts, sums over channels. All of them are linear maps of one
tensor. Such a map is known by its answers to impulses, so an importer that has made sure of the
linearity reads the kernel from those, whatever the spelling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["NoParC", "ParcKernel", "probe"]

# The map is evaluated in float64 on constants that were stored in float32: a spectrum of N
# entries is right to some log2(N) * 2^-24 of its largest one.
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class ParcKernel:
    """A map that is a ParC without position embedding and bias."""

    dim: int  # 2 or 3
    weight: np.ndarray  # float32, (C, N) or (C_out, C, N)


@dataclass(frozen=True, slots=True)
class NoParC:
    """Why a map is none."""

    reason: str


def probe(apply: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> ParcKernel | NoParC:
    """Find the ParC that a linear map computes.

    Parameters
    ----------
    apply : callable of a float64 array of `shape`
        Linear in its argument: the caller's promise. The result is a real array.
    shape : tuple of int
        (B, C, H, W).

    Returns
    -------
    ParcKernel or NoParC

    Notes
    -----
    The kernel read from impulses makes a second linear map. Two linear maps that differ give
    different results for every argument outside a subspace of smaller dimension, so that one
    random argument tells them apart.
    """
    if len(shape) != 4:
        return NoParC(f"its input is {_times(shape)}, not (B, C, H, W)")
    generator = np.random.default_rng(20220727)
    x = generator.standard_normal(shape)
    wanted = np.asarray(apply(x))
    if wanted.ndim != 4 or wanted.shape[0] != shape[0] or wanted.shape[2:] != shape[2:]:
        return NoParC(
            f"it makes {_times(wanted.shape)} of {_times(shape)}; a ParC keeps length and width "
            "(irfft needs n = N)"
        )
    if np.iscomplexobj(wanted) or not np.isfinite(wanted).all():
        return NoParC("its result is not real and finite")
    limit = _TOLERANCE * max(float(np.abs(wanted).max()), float(np.finfo(np.float32).tiny))
    for dense in (False, True):
        if not dense and wanted.shape != shape:
            continue
        for dim in (2, 3):
            weight = _impulses(apply, shape, dim, wanted.shape[1] if dense else None)
            if np.abs(_correlate(x, weight, dim) - wanted).max() <= limit:
                return ParcKernel(dim, np.ascontiguousarray(weight, np.float32))
    return NoParC(
        "it is no circular correlation along one axis, the same for all lines (a filter of both "
        "axes, as GFNet's, or transforms of another length than the line's?)"
    )


def _impulses(
    apply: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], dim: int, outputs: int | None
) -> np.ndarray:
    """Taps that the answers to ones at point 0 of the lines would mean."""
    channels, length = shape[1], shape[dim]
    flipped = -np.arange(length) % length  # y[i] = w[-i mod N]

    def answer(channel: slice) -> np.ndarray:
        impulse = np.zeros(shape)
        impulse[
            (slice(None), channel, 0) if dim == 2 else (slice(None), channel, slice(None), 0)
        ] = 1
        line = np.asarray(apply(impulse))[0]
        return (line[:, :, 0] if dim == 2 else line[:, 0, :])[:, flipped]

    if outputs is None:
        return answer(slice(None))
    return np.stack([answer(slice(c, c + 1)) for c in range(channels)], axis=1)


def _correlate(x: np.ndarray, weight: np.ndarray, dim: int) -> np.ndarray:
    """Equations 3 and 4 by Theorem 1, float64."""
    length = x.shape[dim]
    lines = np.moveaxis(x, dim, -1)
    spectrum = np.fft.rfft(lines)
    kernel = np.conj(np.fft.rfft(weight))
    if weight.ndim == 2:
        product = spectrum * kernel[:, None, :]
    else:
        product = np.einsum("bcln,ocn->boln", spectrum, kernel)
    return np.moveaxis(np.fft.irfft(product, n=length), -1, dim)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
