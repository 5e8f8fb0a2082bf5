"""What do the FFT classes of hlslibs/ac_dsp compute, word for word?

C++ for high-level synthesis (github.com/hlslibs/ac_dsp 90c13c66 with ac_types 72238ac0), data in
`ac_fixed<bits, 1>`, twiddle factors in `ac_fixed<twiddle_bits, 2>`; forward only, DFT/N. What its
types make of it:

* sums are halved by `>> 1`, which has dropped the bit before the documented rounding could see it:
  sums are floored, products rounded half up, products with the factor 1 too;
* a product is held in bits + twiddle_bits - 1 bits and wraps there; rounding it drops the
  factor's fraction and the halving at once;
* the radix-2 class then saturates. The radix-2^2 class saturates in one bit more and assigns the
  result to a word that wraps: what rounds up to +1 becomes -1;
* the radix-2 classes take twiddle factors from a table of 18 fraction bits and round them again;
* block floating point counts its halvings in a register of ceil(log2(log2 N)) bits, which wraps
  where log2 N is a power of two (N = 4, 16, 256), and its shift to the left is a signed number of
  ceil(log2 bits) bits, so that very small input is not shifted.

With no integer bit (`ac_fixed<bits, 0>`) the factor 1 becomes -1 there; that is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.modes import Overflow, Rounding
from fixedpoint.profiles.profile import (
    Profile,
    Words,
    engine_profile,
    no_inverse,
    power_of_two,
)
from fixedpoint.qformat import QFormat
from fixedpoint.scaling import BlockRule, BlockScaling
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.errors import InputError
from parc_hw.plan import Decimation, FftPlan

__all__ = ["ac_bfp", "ac_dif_r2", "ac_dif_r2p2", "ac_dit_r2"]

_LONGEST = 1 << 16
_TABLE_FRAC_BITS = 18  # of the radix-2 classes' twiddle table
_SOURCE = "of hlslibs/ac_dsp (C++ for HLS), commit 90c13c66, forward, DFT/N"


def ac_dif_r2(*, bits: int = 16, twiddle_bits: int = 18) -> Profile:
    """Return the profile of `ac_fft_dif_r2_inpl`: radix 2, decimation in frequency.

    Parameters
    ----------
    bits, twiddle_bits : int
        Word lengths of data (4 to 32) and twiddle factors (4 to 20: the class's table has 18
        fraction bits).

    Returns
    -------
    Profile
        Forward only, every power of two from 4. The single-delay-feedback class gives the same
        words.

    Notes
    -----
    Compared with the class's own words, none differing: 16 and 18 bits, N = 16, 64, 256.

    Examples
    --------
    >>> ac_dif_r2().lengths
    'a power of two from 4 to 65536'
    """
    _check("ac_dif_r2", bits, twiddle_bits, 20)
    stage = StageDatapath(
        twiddle=_twice_rounded(twiddle_bits),
        sum=Point(shift=1, rounding=Rounding.FLOOR, bits=bits),
        product=Point(
            from_bits=bits + twiddle_bits - 1,
            shift=1,
            rounding=Rounding.HALF_UP,
            bits=bits,
            overflow=Overflow.SATURATE,
        ),
        trivial=Trivial.NONE,
    )

    def build(length: int, inverse: bool) -> tuple[FftPlan, FftDatapath]:
        count = _stages(length)
        return FftPlan(radices=(2,) * count), _datapath(bits, (stage,) * count)

    return _core("ac_dif_r2", "ac_fft_dif_r2_inpl", bits, twiddle_bits, build)


def ac_dit_r2(*, bits: int = 16, twiddle_bits: int = 18) -> Profile:
    """Return the profile of `ac_fft_dit_r2_inpl`: radix 2, decimation in time, all truncated.

    Parameters
    ----------
    bits, twiddle_bits : int
        As of `ac_dif_r2`.

    Returns
    -------
    Profile
        Forward only, every power of two from 4. The class itself takes its input bit-reversed;
        the profile takes natural order.

    Notes
    -----
    Its mean error is about -1/2 LSB, and it is 3.5 to 4 dB worse than `ac_dif_r2`. Compared with
    the class's own words, none differing: 16 and 18 bits, N = 16, 64, 256.

    Examples
    --------
    >>> ac_dit_r2(bits=12).bits
    12
    """
    _check("ac_dit_r2", bits, twiddle_bits, 20)
    stage = StageDatapath(
        twiddle=_twice_rounded(twiddle_bits),
        product=Point(from_bits=bits + twiddle_bits - 1, rounding=Rounding.FLOOR, bits=bits + 1),
        sum=Point(from_bits=bits + 1, shift=1, rounding=Rounding.FLOOR, bits=bits),
        trivial=Trivial.NONE,
    )

    def build(length: int, inverse: bool) -> tuple[FftPlan, FftDatapath]:
        count = _stages(length)
        plan = FftPlan(radices=(2,) * count, decimation=Decimation.DIT)
        return plan, _datapath(bits, (stage,) * count)

    return _core("ac_dit_r2", "ac_fft_dit_r2_inpl", bits, twiddle_bits, build)


def ac_dif_r2p2(*, bits: int = 16, twiddle_bits: int = 18) -> Profile:
    """Return the profile of `ac_fft_dif_r2p2_sdf`: radix 2^2, decimation in frequency.

    Parameters
    ----------
    bits, twiddle_bits : int
        Word lengths of data (4 to 32) and twiddle factors (4 to 32).

    Returns
    -------
    Profile
        Forward only, every power of four. `ac_fft_dif_r2pX_inpl` with radix 4 gives the same
        words.

    Notes
    -----
    Compared with the words of both classes, none differing: 16 and 18 bits, N = 16, 64, 256.

    Examples
    --------
    >>> ac_dif_r2p2().lengths
    'a power of four from 4 to 65536'
    """
    _check("ac_dif_r2p2", bits, twiddle_bits, 32)
    twiddle = TwiddleFormat(bits=twiddle_bits, frac_bits=twiddle_bits - 2)
    halved = Point(shift=1, rounding=Rounding.FLOOR, bits=bits)
    pair = (
        # -j times a difference: the negation is before the shift
        StageDatapath(twiddle=twiddle, sum=halved, product=halved, trivial=Trivial.QUARTERS),
        StageDatapath(
            twiddle=twiddle,
            sum=halved,
            product=Point(
                from_bits=bits + twiddle_bits - 1,
                shift=1,
                rounding=Rounding.HALF_UP,
                bits=bits + 1,
                overflow=Overflow.SATURATE,
                then_bits=bits,
            ),
            trivial=Trivial.NONE,
        ),
    )

    def build(length: int, inverse: bool) -> tuple[FftPlan, FftDatapath]:
        count = _stages(length) // 2
        plan = FftPlan(radices=(2, 2) * count, groups=(2,) * count)
        return plan, _datapath(bits, pair * count)

    return _core("ac_dif_r2p2", "ac_fft_dif_r2p2_sdf", bits, twiddle_bits, build, fours=True)


def ac_bfp(*, bits: int = 16, twiddle_bits: int = 18, radix: int = 4) -> Profile:
    """Return the profile of `ac_fft_dif_r2pX_bfp_inpl`: block floating point.

    Parameters
    ----------
    bits, twiddle_bits : int
        Word lengths of data (4 to 32) and twiddle factors (4 to 32).
    radix : {2, 4}
        The class's RADIX, computed as one or two stages of radix 2.

    Returns
    -------
    Profile
        Forward only, powers of `radix`. Its transform returns words and exponents: the DFT is
        words * 2**exponent, except where the class's exponent register wraps (N = 4, 16, 256),
        which is reproduced.

    Notes
    -----
    Compared with the class's own words and exponents, none differing: 16 and 18 bits, N = 64,
    radix 2 and 4.

    Examples
    --------
    >>> ac_bfp(radix=2).exponents
    True
    """
    _check("ac_bfp", bits, twiddle_bits, 32)
    if radix not in (2, 4):
        raise InputError(f"ac_bfp: radix is {radix!r}: accepted are 2 and 4.")
    name = f"ac_bfp(bits={bits}, twiddle_bits={twiddle_bits}, radix={radix})"
    twiddle = TwiddleFormat(bits=twiddle_bits, frac_bits=twiddle_bits - 2)
    held = Point(bits=bits + 1, overflow=Overflow.SATURATE)
    stored = Point(bits=bits, overflow=Overflow.SATURATE)
    inner = StageDatapath(
        twiddle=twiddle,
        sum=held,
        product=held,
        trivial=Trivial.QUARTERS,
        turn_first=False,
    )
    outer = StageDatapath(
        twiddle=twiddle,
        sum=held,
        sum_first=True,
        product=Point(
            from_bits=bits + twiddle_bits - 1,
            rounding=Rounding.HALF_UP,
            bits=bits,
            overflow=Overflow.SATURATE,
        ),
        output=stored,
        trivial=Trivial.NONE,
    )
    size = radix.bit_length() - 1  # stages of radix 2 per group

    def build(length: int, inverse: bool) -> tuple[FftPlan, FftDatapath]:
        groups = _stages(length) // size
        plan = FftPlan(radices=(2,) * size * groups, groups=(size,) * groups)
        stages = ((inner,) * (size - 1) + (outer,)) * groups
        block = BlockScaling(
            rule=BlockRule.OR_BITS,
            normalise=True,
            early=True,
            rounding=Rounding.FLOOR,
            counter_bits=(bits - 1).bit_length(),  # ceil(log2 bits)
        )
        return plan, FftDatapath(input=QFormat(1, bits - 1), stages=stages, block=block)

    def transform(words: Words, inverse: bool) -> tuple[Words, NDArray[np.int64]]:
        from fixedpoint.mixed_radix import lower, run  # numba comes with the first transform

        if inverse:
            raise no_inverse(name)
        length = words.shape[1]
        result = run(lower(*build(length, inverse), inverse), words)
        register = (_stages(length) - 1).bit_length()  # ceil(log2(log2 N)) bits
        halvings = result.shifts.sum(axis=1) & ((1 << register) - 1)
        return result.words, halvings - result.ups

    return Profile(
        name=name,
        bits=bits,
        transform=transform,
        description=f"ac_fft_dif_r2pX_bfp_inpl {_SOURCE.removesuffix('/N')}",
        exponents=True,
        build=build,
        **_lengths(radix == 4),
    )


def _core(
    name: str,
    source: str,
    bits: int,
    twiddle_bits: int,
    build: Callable[[int, bool], tuple[FftPlan, FftDatapath]],
    *,
    fours: bool = False,
) -> Profile:
    """A forward class that the general machinery computes."""
    return engine_profile(
        name=f"{name}(bits={bits}, twiddle_bits={twiddle_bits})",
        bits=bits,
        description=f"{source} {_SOURCE}",
        inverse=False,
        build=build,
        **_lengths(fours),
    )


def _lengths(fours: bool) -> dict[str, Any]:
    """A profile's `lengths` and `accepts`."""
    return {
        "lengths": f"a power of {'four' if fours else 'two'} from 4 to {_LONGEST}",
        "accepts": _power_of_four if fours else _power_of_two,
    }


def _twice_rounded(bits: int) -> TwiddleFormat:
    return TwiddleFormat(bits=bits, frac_bits=bits - 2, first_frac_bits=_TABLE_FRAC_BITS)


def _datapath(bits: int, stages: tuple[StageDatapath, ...]) -> FftDatapath:
    return FftDatapath(input=QFormat(1, bits - 1), stages=stages)


def _stages(length: int) -> int:
    return length.bit_length() - 1


def _power_of_two(length: int) -> bool:
    return power_of_two(length, 4, _LONGEST)


def _power_of_four(length: int) -> bool:
    return power_of_two(length, 4, _LONGEST) and _stages(length) % 2 == 0


def _check(name: str, bits: int, twiddle_bits: int, most_twiddle_bits: int) -> None:
    for what, value, most in (
        ("bits", bits, 32),
        ("twiddle_bits", twiddle_bits, most_twiddle_bits),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 4 <= value <= most:
            raise InputError(f"{name}: {what} is {value!r}: accepted are 4 to {most}.")
