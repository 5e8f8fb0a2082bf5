"""What does the Verilog core dblclockfft compute, word for word?

ZipCPU's pipelined FFT (github.com/ZipCPU/dblclockfft, generator commit 3378b77d): radix 2,
decimation in frequency, bit-reversed in hardware, so natural order at both ends. The arithmetic:

* a stage of 8 points or more rounds its sums once and its twiddled differences once, straight to
  the stage's output width, and keeps the low bits: nothing ever saturates. A rotated difference
  of full-scale input does not fit and wraps, even when words grow;
* the factor 1 passes the multiplier like any other (it is exact); the last two stages have none.
  The quarter turn of the 4-point stage comes after the rounding, and its negation wraps;
* words grow by a bit at the first stage and then at every second one; the other stages halve. The
  last stage is told by the same flag, but reads it differently: it drops the top bit of its sum
  and then rounds whatever is still too wide. With a width cap this means that for an even log2 N
  the last stage does not halve: it wraps;
* it rounds half to even there, whatever the other stages do.
"""

from __future__ import annotations

from itertools import pairwise

from fixedpoint.modes import Overflow, Rounding, rounding_code
from fixedpoint.profiles.profile import Profile, engine_profile, power_of_two
from fixedpoint.qformat import QFormat
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.errors import InputError
from parc_hw.plan import FftPlan

__all__ = ["dblclockfft", "widths"]

_ROUNDINGS = (Rounding.HALF_EVEN, Rounding.FLOOR, Rounding.HALF_UP, Rounding.HALF_AWAY)
_LONGEST = 1 << 16


def widths(length: int, *, bits: int, max_bits: int | None = None, guard: int = 0) -> list[int]:
    """Return the word lengths before the first stage, between stages and behind the last.

    Parameters
    ----------
    length : int
        N, a power of two from 8.
    bits, max_bits, guard : int
        As of `dblclockfft`.

    Examples
    --------
    >>> widths(64, bits=16)
    [16, 17, 18, 18, 19, 19, 20]
    >>> widths(64, bits=16, max_bits=18, guard=2)
    [16, 20, 20, 20, 20, 20, 18]
    """

    def capped(width: int) -> int:
        return width if max_bits is None else min(width, max_bits)

    # the guard bits are counted twice in the first stage's growth
    inner = [capped(bits + 1 + guard)]
    for stage in range(1, length.bit_length() - 1):
        inner.append(capped(inner[-1] + stage % 2))
    return [bits, *(width + guard for width in inner[:-1]), inner[-1]]


def dblclockfft(
    *,
    bits: int = 16,
    extra: int = 4,
    max_bits: int | None = None,
    guard: int = 0,
    rounding: Rounding = Rounding.HALF_EVEN,
) -> Profile:
    """Return the profile of a core that the generator of dblclockfft makes.

    Parameters
    ----------
    bits : int
        Word length of the input, sign included (the generator's -n).
    extra : int
        Bits by which twiddle factors are longer than the data of their stage (-c).
    max_bits : int or None
        Words grow no further than this (-m); None: no limit.
    guard : int
        Bits kept inside beyond that (-x).
    rounding : Rounding
        HALF_EVEN as the generator has it; FLOOR, HALF_UP and HALF_AWAY are its other choices,
        in its source only.

    Returns
    -------
    Profile
        Forward and inverse, lengths 8 to 65536. The output is DFT / 2**s with words of
        `widths(...)[-1]` bits; s counts the stages that do not grow.

    Raises
    ------
    InputError
        A parameter that the generator has not.

    Notes
    -----
    Compared with the core's own words, none differing: 16 bits with extra=4, growing, max_bits=16
    and max_bits=18 with guard=2, N = 16, 64, 256, and the four roundings at N = 16 and 64.

    Examples
    --------
    >>> core = dblclockfft(bits=16, extra=4, max_bits=16)
    >>> core.name
    'dblclockfft(bits=16, extra=4, max_bits=16)'
    """
    for what, value, low, high in (
        ("bits", bits, 2, 32),
        ("extra", extra, 0, 16),
        ("guard", guard, 0, 16),
    ):
        _whole(what, value, low, high)
    if max_bits is not None:
        _whole("max_bits", max_bits, bits, 48)
    rounding_code(rounding)
    if rounding not in _ROUNDINGS:
        raise InputError(
            f"dblclockfft: rounding is {rounding.name}: the generator has "
            f"{', '.join(mode.name for mode in _ROUNDINGS)}."
        )

    def build(length: int, inverse: bool) -> tuple[FftPlan, FftDatapath]:
        stages = []
        count = length.bit_length() - 1
        for stage, (held, out) in enumerate(
            pairwise(widths(length, bits=bits, max_bits=max_bits, guard=guard))
        ):
            cut = Point(shift=held + 1 - out, rounding=rounding, bits=out, overflow=Overflow.WRAP)
            factors = held + extra
            twiddle = TwiddleFormat(bits=factors, frac_bits=factors - 2)
            if stage < count - 2:
                one = StageDatapath(twiddle=twiddle, sum=cut, product=cut, trivial=Trivial.NONE)
            elif stage == count - 2:
                one = StageDatapath(
                    twiddle=twiddle,
                    sum=cut,
                    product=cut,
                    trivial=Trivial.QUARTERS,
                    turn_first=False,
                )
            else:
                cut = _last(held, out, grows=stage % 2 == 1)
                one = StageDatapath(twiddle=twiddle, sum=cut, product=cut)
            stages.append(one)
        plan = FftPlan(radices=(2,) * count)
        return plan, FftDatapath(input=QFormat(1, bits - 1), stages=tuple(stages))

    parts = [f"bits={bits}", f"extra={extra}"]
    parts += [f"max_bits={max_bits}"] if max_bits is not None else []
    parts += [f"guard={guard}"] if guard else []
    parts += [f"rounding={rounding.name}"] if rounding is not Rounding.HALF_EVEN else []
    return engine_profile(
        name=f"dblclockfft({', '.join(parts)})",
        bits=bits,
        lengths=f"a power of two from 8 to {_LONGEST}",
        accepts=lambda length: power_of_two(length, 8, _LONGEST),
        build=build,
        description="ZipCPU dblclockfft, pipelined radix-2 FFT in Verilog, commit 3378b77d",
    )


def _last(held: int, out: int, *, grows: bool) -> Point:
    """The last stage's rounding: of a sum of held + 1 bits, the top one dropped if `grows`."""
    if out == held + 1:
        return Point(bits=out)  # the exact sum
    kept = held + 1 - grows
    return Point(
        from_bits=kept,
        shift=max(kept - out, 0),
        rounding=Rounding.HALF_EVEN,
        bits=out,
        overflow=Overflow.WRAP,
    )


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"dblclockfft: {name} is {value!r}: accepted are {low} to {high}.")
