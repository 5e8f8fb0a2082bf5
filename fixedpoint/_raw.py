"""Is this array what it says it is: stored integers of one word length?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.errors import InputError

__all__ = ["signed_limits", "signed_words"]


def signed_limits(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest two's-complement integer of `bits` bits.

    >>> signed_limits(8)
    (-128, 127)
    """
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def signed_words(raw: Any, *, bits: int, name: str, dtype: Any = np.int64) -> NDArray[Any]:
    """Return `raw` as `dtype` after checking that it holds signed integers of `bits` bits.

    Parameters
    ----------
    raw : array of an integer dtype, any shape but empty
    bits : int
        Word length, sign included, 1 to 64.
    name : str
        What the message calls the array.
    dtype : numpy integer type of at least `bits` bits

    Returns
    -------
    `dtype` array of the same shape; `raw` itself where that needs no copy.

    Raises
    ------
    InputError
        Another dtype than an integer, no element, or a word outside the format: the first one
        is named with its index.
    """
    array = np.asarray(raw)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"{name}: raw (stored) integers are expected, not {array.dtype}. Quantise real values "
            f"to {bits}-bit integers first, for example np.round(x * 2**{bits - 1}).astype(int)."
        )
    if array.size == 0:
        raise InputError(f"{name}: shape {array.shape} holds no element; give at least one signal.")
    lowest, highest = signed_limits(bits)
    # A word of a narrower dtype always fits: no pass over the data.
    held = np.iinfo(array.dtype)
    if held.min < lowest or held.max > highest:
        outside = (array < lowest) | (array > highest)
        if outside.any():
            index = tuple(int(i) for i in np.unravel_index(int(outside.argmax()), array.shape))
            raise InputError(
                f"{name}: {int(array[index])} at index {index} is not a signed {bits}-bit integer; "
                f"accepted: {lowest} to {highest}."
            )
    return array.astype(dtype, copy=False)
