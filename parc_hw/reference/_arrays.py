"""Which shapes do the equations accept, and what do their optional operands become?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.errors import InputError
from parc_hw.reference.resize import resize as f
from parc_hw.spec import Axis

Array = NDArray[np.float64]


def prepare(
    x: ArrayLike, position_embedding: ArrayLike | None, axis: Axis | str, resize: str
) -> tuple[Array, int, Axis]:
    """X^p = X + f(pe, N), N, and the axis as an `Axis`."""
    axis = Axis(axis)
    image = np.asarray(x, dtype=np.float64)
    check(image.ndim == 4 and image.size > 0, "x", image, "(B, C, H, W)")
    channels, length = image.shape[1], image.shape[axis.dim]
    if position_embedding is None:
        return image, length, axis
    pe = f(position_embedding, length, resize)
    check(pe.shape == (channels, length), "position_embedding", pe, f"({channels}, {length})")
    return image + (pe[:, :, None] if axis is Axis.H else pe[:, None, :]), length, axis


def bias_of(bias: ArrayLike | None, channels: int) -> Array:
    """The bias of each output channel, zeros where there is none."""
    b = np.zeros(channels) if bias is None else np.asarray(bias, dtype=np.float64)
    check(b.shape == (channels,), "bias", b, f"({channels},)")
    return b


def check(good: bool, name: str, seen: Array, accepted: str) -> None:
    """Raise `InputError` about the shape of `seen` unless `good`."""
    if not good:
        raise InputError(f"{name} has the shape {seen.shape}; accepted: {accepted}.")
