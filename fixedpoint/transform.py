"""How does a user transform stored integers as a named library does?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint._raw import signed_words
from fixedpoint.profiles import Profile, find
from parc_hw.errors import InputError, UnsupportedError

__all__ = ["fft", "rfft"]


def _words(raw: Any, profile: Profile, trailing: int, name: str) -> NDArray[Any]:
    dtype = np.int16 if profile.bits == 16 else np.int32
    array = signed_words(raw, bits=profile.bits, name=f"{name}: raw", dtype=dtype)
    if array.ndim < trailing or (trailing == 2 and array.shape[-1] != 2):
        wanted = "(..., N, 2), real and imaginary words last" if trailing == 2 else "(..., N)"
        raise InputError(f"{name}: raw has shape {array.shape}; {wanted} is expected.")
    return array


def fft(raw: Any, *, profile: str | Profile, inverse: bool = False) -> NDArray[Any]:
    """Return the complex transform of stored integers, bit for bit as the profile's library.

    Parameters
    ----------
    raw : int array, shape (..., N, 2)
        Real and imaginary words in natural order; each a signed integer of the profile's bits.
    profile : str or Profile
        A name of `fixedpoint.profiles.NAMES`, or the profile itself.
    inverse : bool
        Use exp(+2 pi j k n / N). The profiles here scale by about 1/N in both directions.

    Returns
    -------
    int16 or int32 array (the profile's words), shape (..., N, 2), natural order.

    Raises
    ------
    InputError
        Another shape, no integers, words outside the profile's format, an unknown profile.
    UnsupportedError
        The library has no transform of this length; the message says which it has.

    Examples
    --------
    A constant of one half: its whole sum, scaled by 1/N, is in bin 0.

    >>> fft(np.full((16, 2), 1 << 14), profile="cmsis_q15")[:3].tolist()
    [[16384, 16384], [0, 0], [0, 0]]
    """
    chosen = find(profile)
    words = _words(raw, chosen, 2, "fft")
    length = words.shape[-2]
    if not chosen.accepts(length):
        raise UnsupportedError(
            f"fft: {chosen.name} has no transform of length {length}; it takes {chosen.lengths}."
        )
    lines = np.ascontiguousarray(words.reshape(-1, length, 2))
    return chosen.transform(lines, bool(inverse)).reshape(words.shape)


def rfft(raw: Any, *, profile: str | Profile) -> NDArray[Any]:
    """Return bins 0 to N/2 of the transform of real stored integers, as the profile's library.

    Parameters
    ----------
    raw : int array, shape (..., N)
        Signed integers of the profile's bits.
    profile : str or Profile
        A name of `fixedpoint.profiles.NAMES`, or the profile itself.

    Returns
    -------
    int16 or int32 array (the profile's words), shape (..., N/2 + 1, 2).

    Raises
    ------
    InputError
        Another shape, no integers, words outside the profile's format, an unknown profile.
    UnsupportedError
        The library has no real transform of this length; the message says which it has.

    Examples
    --------
    >>> rfft(np.full(32, 1 << 14), profile="cmsis_q15")[:2].tolist()
    [[16384, 0], [0, 0]]
    """
    chosen = find(profile)
    words = _words(raw, chosen, 1, "rfft")
    length = words.shape[-1]
    if not chosen.accepts_real(length):
        raise UnsupportedError(
            f"rfft: {chosen.name} has no real transform of length {length}; it takes "
            f"{chosen.real_lengths}."
        )
    lines = np.ascontiguousarray(words.reshape(-1, length))
    result = chosen.real_transform(lines)
    return result.reshape(*words.shape[:-1], length // 2 + 1, 2)
