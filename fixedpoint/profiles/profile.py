"""Which library's or core's transform is this, and what does it take?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from parc_hw.errors import UnsupportedError
from parc_hw.plan import FftPlan

if TYPE_CHECKING:
    from fixedpoint.stage import FftDatapath

__all__ = ["Profile", "Words", "engine_profile", "power_of_two"]

Words = NDArray[np.signedinteger]


def _no_real_transform(words: Words) -> NoReturn:
    raise UnsupportedError(
        "this profile has no real transform: give fft the signal with imaginary parts of 0."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The fixed-point transform of one library or core.

    Parameters
    ----------
    name : str
        What messages and reports call it, parameters included.
    bits : int
        Word length of every input word, sign included.
    lengths, real_lengths : str
        The accepted lengths in words, for messages and tables.
    accepts, accepts_real : callable
        Whether a length N is one of them.
    transform : callable
        (words (lines, N, 2), inverse) -> (lines, N, 2), natural order at both ends; for block
        floating point that and the exponents, int64 (lines,).
    real_transform : callable
        words (lines, N) -> (lines, N/2 + 1, 2).
    description : str
        What it stands for, in a line, and how far its equality was checked.
    verified : bool
        Its words were compared with those of the library or core itself and are the same, for the
        parameters and lengths that its docstring lists; others follow from the same source. A
        profile that is not says so in every report.
    exponents : bool
        Block floating point: the transform also returns one exponent per line, and the result is
        words * 2**exponent.
    build : callable, optional
        (N, inverse) -> the plan and datapath whose transform this is, where the general machinery
        computes it: for traces, predicted noise and variations.
    """

    name: str
    bits: int
    lengths: str
    accepts: Callable[[int], bool] = field(repr=False)
    transform: Callable[[Words, bool], Any] = field(repr=False)
    real_lengths: str = "no real signal"
    accepts_real: Callable[[int], bool] = field(repr=False, default=lambda length: False)
    real_transform: Callable[[Words], Words] = field(repr=False, default=_no_real_transform)
    description: str = ""
    verified: bool = True
    exponents: bool = False
    build: Callable[[int, bool], tuple[FftPlan, FftDatapath]] | None = field(
        repr=False, default=None
    )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype in which the transform takes its words."""
        if self.build is not None:
            return np.dtype(np.int64)
        return np.dtype(np.int16 if self.bits == 16 else np.int32)


def power_of_two(length: int, lowest: int, highest: int) -> bool:
    """Whether `length` is a power of two from `lowest` to `highest`.

    >>> [n for n in range(70) if power_of_two(n, 8, 64)]
    [8, 16, 32, 64]
    """
    return lowest <= length <= highest and length & (length - 1) == 0


def engine_profile(
    *,
    name: str,
    bits: int,
    lengths: str,
    accepts: Callable[[int], bool],
    build: Callable[[int, bool], tuple[FftPlan, FftDatapath]],
    description: str,
    inverse: bool = True,
    verified: bool = True,
) -> Profile:
    """Return the profile whose transform is the general machinery with these parameters.

    Parameters
    ----------
    name, bits, lengths, accepts, build, description, verified
        As of `Profile`.
    inverse : bool
        Whether the core has an inverse transform.
    """

    def transform(words: Words, backwards: bool) -> Words:
        from fixedpoint.mixed_radix import lower, run  # numba comes with the first transform

        if backwards and not inverse:
            raise no_inverse(name)
        plan, datapath = build(words.shape[1], backwards)
        return run(lower(plan, datapath, backwards), words).words

    return Profile(
        name=name,
        bits=bits,
        lengths=lengths,
        accepts=accepts,
        transform=transform,
        description=description,
        verified=verified,
        build=build,
    )


def no_inverse(name: str) -> UnsupportedError:
    """The error of asking a forward-only core for its inverse."""
    return UnsupportedError(
        f"fft: {name} has no inverse transform. Exchange real and imaginary words at both ends of "
        f"the forward transform, as a user of the core would."
    )
