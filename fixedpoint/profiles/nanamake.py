"""What does the Verilog core r22sdf compute, word for word?

nanamake's radix-2^2 single-path delay feedback FFT (github.com/nanamake/r22sdf, commit f7dca6e5),
16 bits, forward, DFT/N. The arithmetic of a pair of stages:

* the first butterfly's results are halved and floored, the second one's halved and rounded half
  up; a turn by -j comes behind the first, and its negation wraps;
* then the twiddle factor: each of the four real products loses its 15 fraction bits (floor) and
  wraps to 16 bits apart, and so do their sum and difference;
* factors are Q1.15, where +1 is not a word: it has the address 0, at which the multiplier is
  bypassed. The last pair has no multiplier; an odd log2 N ends with one stage of radix 2, floored.
"""

from __future__ import annotations

from fixedpoint.modes import Rounding
from fixedpoint.profiles.profile import Profile, engine_profile
from fixedpoint.qformat import QFormat
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.plan import FftPlan

__all__ = ["r22sdf"]

_BITS = 16


def r22sdf() -> Profile:
    """Return the profile of the core r22sdf, 64 or 128 points of 16 bits.

    Returns
    -------
    Profile
        Forward only. The core gives its output bit-reversed; the profile gives natural order.

    Notes
    -----
    Compared with the core's own words, none differing: N = 64.

    Examples
    --------
    >>> r22sdf().lengths
    '64 or 128 points'
    """
    twiddle = TwiddleFormat(bits=_BITS)
    floored = Point(shift=1, rounding=Rounding.FLOOR, bits=_BITS)
    wrapped = Point(rounding=Rounding.FLOOR, bits=_BITS)
    first = StageDatapath(
        twiddle=twiddle,
        sum=floored,
        product=floored,
        trivial=Trivial.QUARTERS,
        turn_first=False,
    )
    second = StageDatapath(
        twiddle=twiddle,
        sum=Point(shift=1, rounding=Rounding.HALF_UP, bits=_BITS),
        sum_first=True,
        each=wrapped,
        product=wrapped,
        trivial=Trivial.UNITY,
    )

    def build(length: int, inverse: bool) -> tuple[FftPlan, FftDatapath]:
        pairs, single = divmod(length.bit_length() - 1, 2)
        plan = FftPlan(radices=(2,) * (2 * pairs + single), groups=(2,) * pairs + (1,) * single)
        stages = (first, second) * pairs + (first,) * single
        return plan, FftDatapath(input=QFormat(1, _BITS - 1), stages=stages)

    return engine_profile(
        name="r22sdf",
        bits=_BITS,
        lengths="64 or 128 points",
        accepts=lambda length: length in (64, 128),
        build=build,
        description="nanamake r22sdf, radix-2^2 FFT in Verilog, commit f7dca6e5, forward, DFT/N",
        inverse=False,
    )
