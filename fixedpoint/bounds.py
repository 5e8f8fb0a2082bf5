"""How much noise should a fixed-point computation have, before anything is computed?

Powers are those of one real word (a complex number has two), in squared LSB of the words at the
point that is spoken of. The model behind every formula: each rounding adds an error that is
independent of the signal and of the other roundings, with the mean and variance of equally likely
dropped bits; after it the transform is linear, and a DFT of r points multiplies the power of
independent errors by r. Where that is known to fail, the docstring says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fixedpoint.errors import ScalingError
from fixedpoint.modes import Rounding, rounding_code
from fixedpoint.stage import FftDatapath, Point, StageDatapath
from parc_hw.errors import InputError
from parc_hw.plan import Decimation, FftPlan

if TYPE_CHECKING:
    from fixedpoint.mixed_radix import Program

__all__ = [
    "NOTHING",
    "Noise",
    "TransformNoise",
    "block_floating_shifts",
    "correlation_noise",
    "fft_noise",
    "growing_fft_noise",
    "irfft_noise",
    "mac_noise",
    "rfft_noise",
    "rounding_noise",
    "scaled_fft_noise",
    "textbook_fft_noise",
    "twiddle_error",
    "twiddle_noise",
    "twiddle_noise_bound",
    "weight_noise",
    "welch_bound",
]


# ---------------------------------------------------------------- one rounding
@dataclass(frozen=True, slots=True)
class Noise:
    """The error of one real word: its variance around its mean, in LSB**2 and LSB.

    >>> rounding = Noise(1 / 12)
    >>> truncation = Noise(1 / 12, mean=-0.5)
    >>> round((rounding + truncation).power, 4)
    0.4167
    """

    variance: float
    mean: float = 0.0

    def __post_init__(self) -> None:
        if not self.variance >= 0.0 or not math.isfinite(self.variance + self.mean):
            raise InputError(
                f"Noise: variance is {self.variance!r} and mean {self.mean!r}: expected finite "
                f"numbers, the variance at least 0."
            )

    @property
    def power(self) -> float:
        """Mean square: variance + mean**2."""
        return self.variance + self.mean**2

    @property
    def rms(self) -> float:
        """Square root of the power."""
        return math.sqrt(self.power)

    def __add__(self, other: Noise) -> Noise:
        """Return the noise of a sum of independent errors."""
        return Noise(self.variance + other.variance, self.mean + other.mean)

    def scaled(self, gain: float) -> Noise:
        """Return the noise of the error times `gain`; 2**-8 for words with 8 guard bits.

        >>> Noise(1.0, mean=-1.0).scaled(0.5)
        Noise(variance=0.25, mean=-0.5)
        """
        return Noise(self.variance * gain**2, self.mean * gain)

    def sqnr_db(self, signal_power: float) -> float:
        """Return the signal-to-noise ratio; `signal_power` per real word, in LSB**2.

        >>> round(Noise(1 / 12).sqnr_db(2**30 / 2), 2)     # a full-scale sine in 16 bits
        98.09
        """
        return _ratio_db(signal_power, self.power)


NOTHING: Final = Noise(0.0)


def _ratio_db(signal: float, noise: float) -> float:
    if not signal >= 0.0:
        raise InputError(f"signal_power is {signal!r}: expected a number >= 0.")
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def rounding_noise(bits: int | None, rounding: Rounding) -> Noise:
    """Return the noise of dropping low bits, in LSB of what is left.

    Parameters
    ----------
    bits : int or None
        How many bits are dropped, 0 or more; None for a real number, that is infinitely many.
    rounding : Rounding

    Returns
    -------
    Noise
        With q = 2**-bits, for equally likely dropped bits and, for the two modes that look at the
        sign, equally likely signs:

        ============  ====================  ==========
        mode          variance              mean
        ============  ====================  ==========
        FLOOR         (1 - q**2) / 12       -(1 - q)/2
        HALF_UP       (1 - q**2) / 12       q / 2
        HALF_EVEN     (1 + 2 q**2) / 12     0
        HALF_AWAY     (1 + 2 q**2) / 12     0
        TOWARD_ZERO   (1 - q)(2 - q) / 6    0
        ============  ====================  ==========

    Notes
    -----
    The errors of HALF_UP are those of FLOOR moved by one half: at one dropped bit every second
    word is a tie and goes up, a bias of a quarter LSB. HALF_EVEN sends every second tie down,
    which costs variance and no bias. TOWARD_ZERO and HALF_AWAY have no mean over all words but
    shrink or stretch the signal: their error correlates with it.

    References
    ----------
    Constantinides, Cheung, Luk, "Truncation noise in fixed-point SFGs", Electronics Letters
    35(23), 1999, for truncation; the others by the same sum over the 2**bits dropped values.

    Examples
    --------
    >>> rounding_noise(1, Rounding.HALF_UP), rounding_noise(1, Rounding.HALF_EVEN)
    (Noise(variance=0.0625, mean=0.25), Noise(variance=0.125, mean=0.0))
    """
    rounding_code(rounding)
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int | np.integer)):
        raise ScalingError(f"bits is {bits!r}: expected an integer, or None for a real number.")
    if bits is not None and bits < 0:
        raise ScalingError(f"bits is {bits}: expected the number of dropped bits, 0 or more.")
    if bits == 0:
        return NOTHING
    q = 0.0 if bits is None else 2.0 ** -int(bits)
    if rounding is Rounding.FLOOR:
        return Noise((1 - q * q) / 12, -(1 - q) / 2)
    if rounding is Rounding.HALF_UP:
        return Noise((1 - q * q) / 12, q / 2)
    if rounding is Rounding.TOWARD_ZERO:
        return Noise((1 - q) * (2 - q) / 6)
    return Noise((1 + 2 * q * q) / 12)


# ---------------------------------------------------------------- a transform, stage by stage
@dataclass(frozen=True, slots=True, kw_only=True)
class TransformNoise:
    """The predicted error of a transform's output.

    Attributes
    ----------
    variance : float
        Of one real word, mean over all bins, in LSB**2.
    along : float
        Rms of one real word's error that is proportional to the signal, in LSB; negative where
        the signal shrinks. TOWARD_ZERO and HALF_AWAY alone have it: every stage's adds to the
        last one's. It is a gain, and the level of a noise-like signal does not matter.
    mean : tuple of N complex
        Mean error of each bin, natural order, in LSB. Truncation is a constant before a stage and
        no longer one behind it: most of it gathers in few bins.
    stages : tuple of float
        Each stage's share of `variance`; what is missing came with the input.
    gain : float
        The output is `gain` times the DFT: 2**-(sum of the shifts).
    """

    variance: float
    along: float
    mean: tuple[complex, ...]
    stages: tuple[float, ...]
    gain: float

    @property
    def length(self) -> int:
        """Points of the transform."""
        return len(self.mean)

    @property
    def mean_power(self) -> float:
        """Mean square of the mean errors, per real word."""
        return float(np.mean(np.abs(np.asarray(self.mean)) ** 2)) / 2

    @property
    def power(self) -> float:
        """Mean square of the error of one real word, over all bins."""
        return self.variance + self.along**2 + self.mean_power

    @property
    def rms(self) -> float:
        """Square root of the power."""
        return math.sqrt(self.power)

    def sqnr_db(self, signal_power: float) -> float:
        """Return the signal-to-noise ratio; `signal_power` per real word of the output."""
        return _ratio_db(signal_power, self.power)


def fft_noise(
    plan: FftPlan,
    datapath: FftDatapath,
    *,
    inverse: bool = False,
    incoming: Noise = NOTHING,
    block_shifts: Sequence[int] | None = None,
) -> TransformNoise:
    """Return the noise of the transform that `plan` and `datapath` describe, stage by stage.

    Parameters
    ----------
    plan : FftPlan
    datapath : FftDatapath
        Any schedule, roundings and points. Overflow is no part of the noise: where words saturate
        or wrap the error is larger.
    inverse : bool
        The inverse transform, without 1/N of its own.
    incoming : Noise
        Error of the words that are transformed.
    block_shifts : sequence of int, optional
        With block floating point the bits that each stage divides by
        (`block_floating_shifts` predicts them, `mixed_radix.Result.shifts` has them). The noise
        is then in LSB of the mantissas.

    Raises
    ------
    ScalingError
        Another number of stages or shifts, or `block_shifts` without block floating point.

    Notes
    -----
    The mean over all bins is exact under the model (independent roundings with equally likely
    dropped bits), because what follows a rounding is a unitary transform times a factor. A single
    bin's variance may differ from it. Mean errors are followed bin by bin. Beyond the model, the
    lowest bit is followed: words that HALF_EVEN has rounded are even more often than odd, so that
    the next halving meets fewer ties (10 % less noise at N = 16).

    Quantised twiddle factors are no rounding: `twiddle_error` has their share.

    References
    ----------
    Oppenheim, Weinstein, "Effects of finite register length in digital filtering and the fast
    Fourier transform", Proc. IEEE 60(8), 1972, for radix 2 and rounded real products; here each
    point of each stage is given its own rounding.

    Examples
    --------
    Halving in each of 8 stages: about 1/6 LSB**2 per real word, half of it from the last.

    >>> plan = FftPlan(radices=(2,) * 8, decimation="dit")
    >>> found = fft_noise(plan, FftDatapath.of(plan, bits=16, scaling="half"))
    >>> round(found.variance, 3), [round(share, 3) for share in found.stages[-3:]]
    (0.168, [0.021, 0.042, 0.084])
    """
    from fixedpoint.mixed_radix import lower  # numba comes with it

    block = datapath.block
    stages = len(plan.radices)
    if (block is None) != (block_shifts is None):
        raise ScalingError(
            "fft_noise: block_shifts belong to a datapath with block floating point: give the "
            "shifts that were taken, one per stage, or leave them out for fixed scaling."
        )
    if block_shifts is not None and len(block_shifts) != stages:
        raise ScalingError(
            f"fft_noise: {len(block_shifts)} block_shifts, and {plan} has {stages} stages: give "
            f"one per stage."
        )
    program = lower(plan, datapath, inverse)
    words = _Words(plan.length, incoming)
    added, gains, done = [], [], 1
    for s, (radix, stage) in enumerate(zip(plan.radices, datapath.stages, strict=True)):
        dif = plan.decimation is Decimation.DIF
        legs = plan.length // (done * radix) if dif else done
        done *= radix
        words.power[:] = 0.0
        words.along[:] = 0.0
        shift = stage.shift
        if block is not None and block_shifts is not None:
            taken = int(block_shifts[s])
            shift += taken
            if block.early:
                words.cut(Point(shift=taken, rounding=block.rounding))
            else:
                stage = stage.shifted(taken, plan.decimation)
        factors = _Factors(
            multiplied=program.kind[s] == _MULTIPLY,
            words=program.factor[s],
            exact=np.exp((2j if inverse else -2j) * np.pi * program.turns[s] / plan.length),
            frac_bits=stage.twiddle.fraction,
        )
        words.cut(stage.input)
        if dif:
            words.butterfly(radix, legs, stage, inverse, program.constants[s], 0)
            straight = ~factors.multiplied
            if stage.turn_first:
                words.mean[straight] *= factors.exact[straight]
            words.cut(stage.sum, slice(None) if stage.sum_first else straight)
            if not stage.turn_first:
                words.mean[straight] *= factors.exact[straight]
            words.multiply(factors, stage)
        else:
            straight = ~factors.multiplied
            words.mean[straight] *= factors.exact[straight]
            words.multiply(factors, stage)
            kept = stage.product or stage.each
            guard = stage.twiddle.fraction if kept is None else kept.guard
            words.butterfly(radix, legs, stage, inverse, program.constants[s], guard)
            if kept is None and stage.sum.rounding in _NEAREST:
                # some sums have factors that are all 1, -1, j or -j in the end, though neither
                # the twiddle factors nor the butterfly's are: they are whole but for an error
                # far below the LSB, which rounding to the nearest removes
                whole = _whole(program.turns[s], radix, legs)
                words.low[whole] = np.minimum(words.low[whole], 0)
            words.cut(stage.sum)
        words.cut(stage.output)
        added.append((float(words.power.mean()), float(words.along.mean())))
        gains.append(radix * 4.0**-shift)

    rest, along = 1.0, 0.0
    shares = []
    for (own, coherent), gain in zip(reversed(added), reversed(gains), strict=True):
        shares.append((own - coherent**2) * rest)
        along += coherent * math.sqrt(rest)
        rest *= gain
    shares.reverse()
    mean = words.mean
    if plan.decimation is Decimation.DIF:
        mean = np.empty_like(mean)
        mean[np.array(plan.digit_reversal, np.intp)] = words.mean
    return TransformNoise(
        variance=sum(shares) + incoming.variance * rest,
        along=along,
        mean=tuple(complex(value) for value in mean),
        stages=tuple(shares),
        gain=math.sqrt(rest / plan.length),
    )


_MULTIPLY: Final = 4  # a program's kind
_NEAREST: Final = (Rounding.HALF_UP, Rounding.HALF_EVEN, Rounding.HALF_AWAY)


def _whole(turns: NDArray[np.int64], radix: int, legs: int) -> NDArray[np.bool_]:
    """At which places behind a DIT butterfly all inputs have come by quarter turns."""
    length = len(turns)
    points = np.arange(radix)
    butterfly = np.outer(points, points)[None, :, :, None] * (length // radix)
    total = turns.reshape(-1, 1, radix, legs) + butterfly
    return np.asarray((4 * total % length == 0).all(axis=2).reshape(-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """The twiddle factors of a stage, one row per place."""

    multiplied: NDArray[np.bool_]
    words: NDArray[np.int64]
    exact: NDArray[np.complex128]
    frac_bits: int

    def fraction(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fraction bits that a product with these words has: none for an exact 1 or -1."""
        lowest = np.where(words == 0, np.int64(1) << 62, words & -words)
        zeros = np.rint(np.log2(lowest.astype(np.float64))).astype(np.int64)
        return np.maximum(self.frac_bits - zeros, 0)


class _Words:
    """What is known of the errors of the words on their way, one element per place.

    mean : mean error of the (complex) word, in LSB.
    power : of one real word's error without its mean, what this stage added, in LSB**2.
    along : of which so much is proportional to the (normally distributed) word, in LSB.
    low : fraction bits below the LSB that carry anything; negative: low bits that are zero.
    odd : probability that the lowest of the bits that carry anything is set.
    """

    def __init__(self, length: int, incoming: Noise) -> None:
        self.mean = np.full(length, incoming.mean * (1 + 1j))
        self.power = np.zeros(length)
        self.along = np.zeros(length)
        self.low = np.zeros(length, np.int64)
        self.odd = np.full(length, 0.5)

    def cut(self, point: Point | None, where: Any = slice(None)) -> None:
        """Bring the words at `where` (all) through a point."""
        if point is None:
            return
        self._scale(point.shift, where)
        self.low[where] += point.shift
        lost = _dropped(self.low[where] - point.guard, point.rounding, self.odd[where])
        unit = 2.0**-point.guard
        self.power[where] += lost.variance * unit**2
        self.along[where] += lost.along * unit
        self.mean[where] += lost.mean * unit * (1 + 1j)
        self.odd[where] = lost.odd
        self.low[where] = np.minimum(self.low[where], point.guard)

    def _scale(self, shift: int, where: Any) -> None:
        self.mean[where] *= 2.0**-shift
        self.along[where] *= 2.0**-shift
        self.power[where] *= 4.0**-shift

    def multiply(self, factors: _Factors, stage: StageDatapath) -> None:
        """Multiply the words that have a factor, through `each` and `product`."""
        where = factors.multiplied
        if not where.any():
            return
        self.mean[where] *= factors.exact[where]
        own = factors.words[where]
        both = factors.fraction(own[:, 0] | own[:, 1])
        if stage.each is not None:
            self._multiply_apart(factors, stage.each)
            both = np.minimum(both, stage.each.guard)
        else:
            self.odd[where] = np.where(both > 0, 0.5, self.odd[where])
        self.low[where] += both
        self.cut(stage.product, where)

    def _multiply_apart(self, factors: _Factors, each: Point) -> None:
        """Cut the four real products: re = P(ac) - P(bd), im = P(ad) + P(bc)."""
        where = factors.multiplied
        self._scale(each.shift, where)
        self.low[where] += each.shift
        own, unit = factors.words[where], 2.0**-each.guard
        lost = []
        for part in range(2):
            fraction = factors.fraction(own[:, part])
            odd = np.where(fraction > 0, 0.5, self.odd[where])
            bits = np.where(own[:, part] == 0, 0, self.low[where] + fraction - each.guard)
            lost.append(_dropped(bits, each.rounding, odd))
        c, d = lost
        self.power[where] += (c.variance + d.variance) * unit**2
        weight = np.abs(own) * 2.0**-factors.frac_bits
        self.along[where] += (c.along * weight[:, 0] + d.along * weight[:, 1]) * unit
        self.mean[where] += ((c.mean - d.mean) + 1j * (c.mean + d.mean)) * unit
        self.odd[where] = _odd_sum(np.stack([c.odd, d.odd]))

    def butterfly(
        self,
        radix: int,
        legs: int,
        stage: StageDatapath,
        inverse: bool,
        constants: NDArray[np.int64],
        kept: int,
    ) -> None:
        """Add the legs of every butterfly, and what its own constants lose.

        `kept` are the fraction bits that the data have at this place, zeros or not.
        """
        shape = (-1, radix, legs)
        points = np.arange(radix)
        sign = 2j if inverse else -2j
        transform = np.exp(sign * np.pi * np.outer(points, points) / radix)
        self.mean = np.einsum("ki,bij->bkj", transform, self.mean.reshape(shape)).reshape(-1)

        def every_leg(values: NDArray[Any]) -> NDArray[Any]:
            return np.repeat(values[:, None], radix, axis=1)

        power = every_leg(self.power.reshape(shape).sum(axis=1))
        along = every_leg(self.along.reshape(shape).sum(axis=1) / math.sqrt(radix))
        low, odd = self.low.reshape(shape), self.odd.reshape(shape)
        lowest = low.max(axis=1, keepdims=True)
        odd = np.where(low == lowest, odd, 0.0)  # the longest words decide
        low = every_leg(lowest[:, 0])
        odd = every_leg(_odd_sum(np.moveaxis(odd, 1, 0)))
        if radix % 2:
            self._constants(stage, constants, kept, radix, low, odd, power, along)
        self.power, self.along = power.reshape(-1), along.reshape(-1)
        self.low, self.odd = low.reshape(-1), odd.reshape(-1)

    def _constants(
        self,
        stage: StageDatapath,
        constants: NDArray[np.int64],
        kept: int,
        radix: int,
        low: NDArray[np.int64],
        odd: NDArray[np.float64],
        power: NDArray[np.float64],
        along: NDArray[np.float64],
    ) -> None:
        """Cut the sums y of products with cosines (legs to radix / 2) and with sines (the others).

        X_k = x_0 + y_k - j y_(p-k) and X_(p-k) = x_0 + y_k + j y_(p-k) have both errors.
        """
        fmt = stage.twiddle if stage.constant is None else stage.constant
        half = radix // 2
        cosines, sines = constants[1 : 1 + half], constants[1 + half : radix]
        bits = []
        for values in (cosines, sines):  # radix 3 has a cosine of -1/2: one bit of fraction
            zeros = int(np.bitwise_or.reduce(values))
            bits.append(fmt.fraction - (zeros & -zeros).bit_length() + 1)
        point = stage.constants
        if point is None:
            low[:, 1:] += max(bits)
            odd[:, 1:] = 0.5
            return
        guard = kept + point.guard
        unit = 2.0**-guard
        mean = self.mean.reshape(low.shape)
        turns = np.where(np.arange(1, radix) <= half, -1j, 1j)[None, :, None]
        straight = np.ones_like(turns)
        sizes = math.sqrt((radix - 2) / 2 / radix), math.sqrt(1 / 2)  # rms of y over that of X
        for count, turn, size in zip(bits, (straight, turns), sizes, strict=True):
            lost = _dropped(low[:, 1:] + count - guard, point.rounding, odd[:, 1:])
            power[:, 1:] += lost.variance * unit**2
            along[:, 1:] += lost.along * size * unit
            mean[:, 1:] += lost.mean * turn * (1 + 1j) * unit
        low[:, 1:] = np.minimum(low[:, 1:] + max(bits), guard)
        odd[:, 1:] = 0.5


def _odd_sum(odd: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a sum of words (axis 0) is odd."""
    return (1 - np.prod(1 - 2 * odd, axis=0)) / 2


@dataclass(frozen=True, slots=True)
class _Lost:
    """What dropping bits does, one element per word; as `_Words`, `odd` of the result."""

    variance: NDArray[np.float64]
    mean: NDArray[np.float64]
    along: NDArray[np.float64]
    odd: NDArray[np.float64]


_FOLLOWED_BITS: Final = 6  # one tie in 64 words: the lowest bit's history no longer matters
# E|x| / rms(x) of a normally distributed word: error times sign becomes error along the word
_SIGN: Final = math.sqrt(2 / math.pi)


def _dropped(bits: NDArray[np.int64], rounding: Rounding, odd: NDArray[np.float64]) -> _Lost:
    """What dropping `bits` bits does, if the lowest of them is set with probability `odd`.

    The others are equally likely. As `rounding_noise` for odd = 1/2.
    """
    variance, mean, along = np.zeros(odd.shape), np.zeros(odd.shape), np.zeros(odd.shape)
    behind = odd.copy()
    for count in np.unique(bits[bits > 0]):
        at = bits == count
        size = 1 << min(int(count), _FOLLOWED_BITS)
        rest = np.arange(size) / size
        up, down = np.where(rest >= 0.5, 1 - rest, -rest), np.where(rest > 0.5, 1, 0) - rest
        # of words above zero and below it; HALF_EVEN, of words above an odd quotient and an even
        first, second = {
            Rounding.FLOOR: (-rest, -rest),
            Rounding.TOWARD_ZERO: (-rest, np.where(rest > 0, 1, 0) - rest),
            Rounding.HALF_UP: (up, up),
            Rounding.HALF_EVEN: (up, down),
            Rounding.HALF_AWAY: (up, down),
        }[rounding]
        is_odd = np.arange(size) % 2 == 1
        chance = np.where(is_odd, odd[at][:, None], 1 - odd[at][:, None]) * 2 / size
        behind[at] = 0.5
        if rounding is Rounding.HALF_EVEN:  # a tie gives an even word
            behind[at] = (1 - chance[:, size // 2]) / 2
        else:
            along[at] = chance @ (first - second) / 2 * _SIGN
        mean[at] = chance @ (first + second) / 2
        variance[at] = chance @ (first**2 + second**2) / 2 - mean[at] ** 2
        if count > _FOLLOWED_BITS:
            noise = rounding_noise(int(count), rounding)
            variance[at], mean[at], behind[at] = noise.variance, noise.mean, 0.5
            q = 2.0 ** -int(count)
            sign = {Rounding.TOWARD_ZERO: -(1 - q) / 2, Rounding.HALF_AWAY: q / 2}
            along[at] = sign.get(rounding, 0.0) * _SIGN
    return _Lost(variance, mean, along, behind)


# ---------------------------------------------------------------- real signals
def rfft_noise(
    length: int, plan: FftPlan, datapath: FftDatapath, *, incoming: Noise = NOTHING
) -> TransformNoise:
    """Return the noise of bins 0 to N/2 of real words, as `fixedpoint.rfft` computes them.

    Parameters
    ----------
    length : int
        N. With a plan of N points the words are transformed without an imaginary part; with one of
        N/2 points they are packed, and `datapath.split` takes the spectra apart.
    plan, datapath, incoming
        As of `fft_noise`; fixed scaling.

    Returns
    -------
    TransformNoise
        `mean` has the N/2 + 1 bins of a packed transform; the last of `stages` is the split's.

    Raises
    ------
    ScalingError
        The plan has neither N nor N/2 points, or there is no `split` to take those apart.

    Examples
    --------
    >>> plan = FftPlan.of(28)
    >>> datapath = FftDatapath.of(plan, bits=16, twiddle=20, split_shift=2)
    >>> round(rfft_noise(56, plan, datapath).variance, 3), round(fft_noise(plan, datapath).variance, 3)
    (0.107, 0.094)
    """
    found = fft_noise(plan, datapath, incoming=incoming)
    if not _packed(length, plan, datapath, "rfft_noise"):
        return found
    return _split_noise(found, plan, datapath, inverse=False)


def irfft_noise(
    length: int, plan: FftPlan, datapath: FftDatapath, *, incoming: Noise = NOTHING
) -> TransformNoise:
    """Return the noise of N real words from N/2 + 1 bins, as `fixedpoint.irfft` computes them.

    Parameters
    ----------
    length, plan, datapath
        As of `rfft_noise`; a packed transform begins with `datapath.split`.
    incoming : Noise
        Error of the bins.

    Returns
    -------
    TransformNoise
        `variance` is that of a real output, `gain` relative to the sum over N bins without 1/N: a
        packed transform sums N/2 of them. Packed, `mean` has an element per pair of outputs, whose
        parts are the pair's.

    Examples
    --------
    >>> plan = FftPlan.of(28)
    >>> datapath = FftDatapath.of(plan, bits=16, twiddle=20, scaling="growing", split_shift=1)
    >>> irfft_noise(56, plan, datapath).gain
    0.5
    """
    if not _packed(length, plan, datapath, "irfft_noise"):
        found = fft_noise(plan, datapath, inverse=True)
        # the bins beyond N/2 repeat the errors of the others
        double = Noise(2 * incoming.variance, incoming.mean)
        return fft_noise(plan, datapath, inverse=True, incoming=double) if incoming.power else found
    bins = TransformNoise(
        variance=incoming.variance,
        along=0.0,
        mean=(incoming.mean * (1 + 1j),) * (plan.length + 1),
        stages=(),
        gain=1.0,
    )
    split = _split_noise(bins, plan, datapath, inverse=True)
    found = fft_noise(plan, datapath, inverse=True, incoming=Noise(split.variance))
    rest = plan.length * found.gain**2
    means = np.fft.ifft(np.array(split.mean)) * plan.length * found.gain
    return TransformNoise(
        variance=found.variance,
        along=found.along + split.along * math.sqrt(rest),
        mean=tuple(complex(m) for m in np.array(found.mean) + means),
        stages=(split.stages[0] * rest, *found.stages),
        gain=found.gain * split.gain / 2,
    )


def _packed(length: int, plan: FftPlan, datapath: FftDatapath, name: str) -> bool:
    if plan.length == length:
        return False
    if 2 * plan.length != length or datapath.split is None:
        raise ScalingError(
            f"{name}: {length} real words and a plan of {plan.length} points"
            f"{'' if datapath.split else ' without datapath.split'}: give a plan of {length} "
            f"points, or of half as many and a datapath with `split`."
        )
    return True


def _split_noise(
    spectrum: TransformNoise, plan: FftPlan, datapath: FftDatapath, *, inverse: bool
) -> TransformNoise:
    """The error behind (A + factor B) / 2**shift, A and B sum and difference of bins k and h - k."""
    from fixedpoint.mixed_radix import SplitTable  # numba comes with it

    table, half = SplitTable.of(plan, datapath, inverse), plan.length
    stage = table.stage
    count = len(table.kind)
    k = np.arange(count)
    means = np.array(spectrum.mean)
    near, far = means[k % len(means)], means[(half - k) % len(means)].conj()

    words = _Words(2 * count, NOTHING)  # the sums A, then the differences B
    words.mean[:] = np.concatenate([near + far, near - far])
    real = np.zeros(2 * count, np.bool_)
    if not inverse:
        # a bin with itself: twice its part, and in bins 0 and N/2 nothing imaginary
        words.low[np.isin(np.concatenate([k, k]) * 2, (0, half, 2 * half))] = -1
        real = np.isin(np.concatenate([k, k]), (0, half))
    multiplied = np.concatenate([np.zeros(count, np.bool_), table.kind == _MULTIPLY])
    factors = _Factors(
        multiplied=multiplied,
        words=np.concatenate([np.zeros_like(table.factor), table.factor]),
        exact=np.concatenate(
            [
                np.ones(count),
                (1j if inverse else -1j) * np.exp((1j if inverse else -1j) * np.pi * k / half),
            ]
        ),
        frac_bits=stage.twiddle.fraction,
    )
    straight = ~multiplied
    words.mean[straight] *= factors.exact[straight]
    words.multiply(factors, stage)
    words.butterfly(2, count, stage, inverse, np.zeros(1, np.int64), 0)
    words.cut(stage.sum)
    own = np.where(real, words.power / 2, words.power)[:count]
    mean = np.where(real, words.mean.real, words.mean)[:count]
    along = float(words.along[:count].mean())
    # A and B have twice the power of a bin each, and the result that of both
    through = 2.0 ** (1 - stage.shift)
    share = float(own.mean()) - along**2
    return TransformNoise(
        variance=spectrum.variance * through**2 + share,
        along=spectrum.along * through + along,
        mean=tuple(complex(value) for value in mean),
        stages=(*(part * through**2 for part in spectrum.stages), share),
        gain=spectrum.gain * through,
    )


# ---------------------------------------------------------------- closed forms for radix 2
def _stages(length: int) -> int:
    if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 2:
        raise InputError(f"length is {length!r}: expected a power of two of 2 or more.")
    if int(length) & (int(length) - 1):
        raise InputError(
            f"length is {length}: this formula is for powers of two. For other radices give "
            f"fft_noise a list of stages."
        )
    return int(length).bit_length() - 1


def scaled_fft_noise(length: int, *, refined: bool = True) -> Noise:
    """Return the noise of a radix-2 FFT that halves in each stage, one rounding per word.

    Parameters
    ----------
    length : int
        N, a power of two.
    refined : bool
        Count the words with a trivial twiddle factor, which drop one bit (1/8 LSB**2) and not
        many (1/12). Without it: (1 - 1/N) / 6.

    Returns
    -------
    Noise
        Of one real word, in LSB**2 of the output, for HALF_EVEN. With stages s = 0, 1, ...,
        of which the share f = 1, 1, 1/2, 1/4, ... has a trivial factor:
        sum of (f/8 + (1 - f)/12) 2**-(log2 N - 1 - s).

    Examples
    --------
    >>> round(2 * scaled_fft_noise(64).power, 3), round(2 * scaled_fft_noise(1024).power, 3)
    (0.357, 0.336)
    """
    count = _stages(length)
    if not refined:
        return Noise((1 - 1 / int(length)) / 6)
    trivial = [1.0, *(2.0 ** (1 - s) for s in range(1, count))]
    return Noise(
        sum((f / 8 + (1 - f) / 12) * 2.0 ** -(count - 1 - s) for s, f in enumerate(trivial))
    )


def growing_fft_noise(length: int) -> Noise:
    """Return the noise of a radix-2 FFT without scaling whose words grow; products are rounded.

    Parameters
    ----------
    length : int
        N, a power of two.

    Returns
    -------
    Noise
        Of one real word, in LSB**2 of the input (and output):
        sum over s >= 2 of (1 - 2**(1 - s)) / 12 * 2**(log2 N - 1 - s); below (N - 1) / 12.

    Examples
    --------
    >>> [round(2 * growing_fft_noise(length).power, 4) for length in (16, 64, 256, 1024)]
    [0.2917, 1.6146, 6.9453, 28.278]
    """
    count = _stages(length)
    return Noise(sum((1 - 2.0 ** (1 - s)) / 12 * 2.0 ** (count - 1 - s) for s in range(2, count)))


def textbook_fft_noise(length: int, *, scaled: bool = True) -> Noise:
    """Return the textbook's noise of a radix-2 FFT whose four real products are each rounded.

    Every factor counts as non-trivial, and every butterfly rounds what it halves: about 6 dB more
    than a datapath with exact products and one rounding (`scaled_fft_noise`).

    Parameters
    ----------
    length : int
        N, a power of two.
    scaled : bool
        Halve in each stage; else the input is divided by N and no stage scales.

    Returns
    -------
    Noise
        Of one real word, in LSB**2: 2/3 (1 - 1/N) scaled, (N - 1) / 6 unscaled.

    References
    ----------
    Oppenheim, Weinstein, Proc. IEEE 60(8):957-976, 1972; Oppenheim, Schafer, Discrete-Time Signal
    Processing, chapter 9.

    Examples
    --------
    >>> round(textbook_fft_noise(1024).sqnr_db(2**30 / 6 / 1024), 1)   # uniform, 16 bits
    54.2
    """
    _stages(length)
    return Noise(2 / 3 * (1 - 1 / int(length)) if scaled else (int(length) - 1) / 6)


def welch_bound(length: int, frac_bits: int, rms: float) -> float:
    """Return an upper bound of rms(error) / rms(output) of a radix-2 FFT.

    Parameters
    ----------
    length : int
        N, a power of two.
    frac_bits : int
        Fraction bits of the words, whose range is [-1, 1).
    rms : float
        Root mean square of the input's complex magnitude, in the same unit.

    Returns
    -------
    float
        2**((log2 N + 3) / 2) * 2**-frac_bits * 0.3 / rms: words are rescaled in every stage.
        About 6 dB above what a datapath with one rounding per word has.

    References
    ----------
    Welch, "A fixed-point fast Fourier transform error analysis", IEEE Trans. Audio and
    Electroacoustics 17(2):151-157, 1969.

    Examples
    --------
    >>> round(-20 * math.log10(welch_bound(256, 15, 0.577)), 1)
    62.9
    """
    count = _stages(length)
    if not rms > 0.0:
        raise InputError(f"rms is {rms!r}: expected a number above 0.")
    return 2.0 ** ((count + 3) / 2 - frac_bits) * 0.3 / rms


# ---------------------------------------------------------------- block floating point
def block_floating_shifts(length: int, *, bits: int, rms: float) -> tuple[int, ...]:
    """Return the halvings that radix-2 block floating point takes on noise-like input.

    Parameters
    ----------
    length : int
        N, a power of two.
    bits : int
        Word length, sign included.
    rms : float
        Root mean square of one real word, in LSB.

    Returns
    -------
    tuple of int
        One 0 or 1 per stage: a stage halves where its largest word is expected not to fit behind
        it. The words of a stage are taken as normal; the rms grows by sqrt(2) per stage and is
        halved where the stage halves.

    Notes
    -----
    A core that decides before a stage, from the peak of its input, must keep room for the worst
    signal of that peak and halves earlier.

    Examples
    --------
    >>> block_floating_shifts(256, bits=16, rms=2**15 / 3**0.5)
    (1, 1, 1, 0, 1, 0, 1, 0)
    """
    count = _stages(length)
    if not rms > 0.0:
        raise InputError(f"rms is {rms!r}: expected a number above 0.")
    limit = 2.0 ** (bits - 1) - 1
    # the median of the largest of 2N normally distributed words, over their rms
    crest = NormalDist().inv_cdf((1 + 0.5 ** (1 / (2 * int(length)))) / 2)
    shifts = []
    for _ in range(count):
        rms *= math.sqrt(2)
        shifts.append(int(rms * crest > limit))
        rms *= 2.0 ** -shifts[-1]
    return tuple(shifts)


# ---------------------------------------------------------------- coefficients
def twiddle_noise(length: int, frac_bits: int) -> float:
    """Return noise over signal of a radix-2 FFT from rounding its twiddle factors alone.

    Parameters
    ----------
    length : int
        N, a power of two.
    frac_bits : int
        Fraction bits of the twiddle factors.

    Returns
    -------
    float
        q**2 / 12 times the sum over s >= 2 of (1 - 2**(1 - s)), q = 2**-frac_bits.

    Notes
    -----
    The factors are fixed numbers, and few: to N = 64 the true ratio is anything from a fraction
    to 1.5 times this, from 256 on 0.5 to 1.1 times. `twiddle_error` has it exactly.

    Examples
    --------
    >>> round(-10 * math.log10(twiddle_noise(1024, 15)), 1)
    92.6
    """
    count = _stages(length)
    return 4.0**-frac_bits / 12 * sum(1 - 2.0 ** (1 - s) for s in range(2, count))


def twiddle_noise_bound(length: int, frac_bits: int) -> float:
    """Return Weinstein's noise over signal from quantised factors: log2(N) / 6 * 2**-(2 bits).

    Every factor of every stage counts with independent errors: about three times too much.

    References
    ----------
    Oppenheim, Weinstein, Proc. IEEE 60(8):957-976, 1972.

    Examples
    --------
    >>> twiddle_noise_bound(1024, 15) > 2 * twiddle_noise(1024, 15)
    True
    """
    return _stages(length) / 6 * 4.0**-frac_bits


def twiddle_error(plan: FftPlan, datapath: FftDatapath, *, inverse: bool = False) -> float:
    """Return noise over signal of a transform from the words of its own factors alone, exactly.

    Parameters
    ----------
    plan : FftPlan
    datapath : FftDatapath
        Its tables are taken: twiddle factors and the constants of radices 3, 5 and 7.
    inverse : bool

    Returns
    -------
    float
        |Q - F|**2 / |F|**2 in the Frobenius norm, Q being the transform with quantised factors
        and no rounding of data, F the DFT: the ratio of the powers for white input.

    Notes
    -----
    The same few words are in several stages, so that their errors do not add as independent ones
    do: with 10 bits at N = 56 the sum of independent errors is 40 % too small. Takes of the
    order of N**2 operations.

    Examples
    --------
    >>> plan = FftPlan(radices=(2,) * 8)
    >>> found = twiddle_error(plan, FftDatapath.of(plan, bits=16, twiddle=16))
    >>> round(-10 * math.log10(found), 1), round(-10 * math.log10(twiddle_noise(256, 15)), 1)
    (94.7, 94.1)
    """
    from fixedpoint.mixed_radix import lower  # numba comes with it

    program = lower(plan, datapath, inverse)
    length = plan.length
    places = np.array(plan.digit_reversal, np.intp)
    signals, bins = np.arange(length), places
    if plan.decimation is Decimation.DIT:
        signals, bins = places, np.arange(length)
    total = 0.0
    block = max(_BLOCK_WORDS // length, 1)
    for begin in range(0, length, block):
        impulses = signals[begin : begin + block]
        columns = np.arange(len(impulses))
        words = np.zeros((length, len(impulses)), np.complex128)
        words[begin + columns, columns] = 1.0
        turns = np.outer(bins, impulses) % length
        exact = np.exp((2j if inverse else -2j) * np.pi * np.arange(length) / length)[turns]
        total += float(np.sum(np.abs(_transformed(program, words) - exact) ** 2))
    return total / length**2


_BLOCK_WORDS: Final = 1 << 15  # complex ones at a time: with their copies within a cache


def _transformed(program: Program, words: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Frames, as columns (N, frames), through the stages in place order, without any rounding."""
    plan, done = program.plan, 1
    dif = plan.decimation is Decimation.DIF
    pair = np.array([1, 1j])
    for s, (radix, stage) in enumerate(zip(plan.radices, program.datapath.stages, strict=True)):
        legs = plan.length // (done * radix) if dif else done
        done *= radix
        turns = np.array([1, -1j, -1, 1j, 0])[program.kind[s]]
        factors = turns + program.factor[s] @ pair * 2.0**-stage.twiddle.fraction
        points = np.outer(np.arange(radix), np.arange(radix)) % radix
        butterfly = np.exp((2j if program.inverse else -2j) * np.pi * points / radix)
        if radix % 2:
            fmt = stage.twiddle if stage.constant is None else stage.constant
            table = fmt.table(radix, sign=1 if program.inverse else -1) @ pair
            butterfly[1:, 1:] = table[points[1:, 1:]] * 2.0**-fmt.fraction
        if not dif:
            words = words * factors[:, None]
        legged = words.reshape(-1, radix, legs, words.shape[1])
        summed = np.zeros_like(legged)
        for k, i in np.ndindex(radix, radix):
            summed[:, k] += butterfly[k, i] * legged[:, i]
        words = summed.reshape(words.shape)
        if dif:
            words *= factors[:, None]
    return words


# ---------------------------------------------------------------- sums of products
def mac_noise(
    taps: int, bits: int | None, rounding: Rounding = Rounding.HALF_EVEN, *, each: bool = False
) -> Noise:
    """Return the noise of a sum of products, in LSB of the result.

    Parameters
    ----------
    taps : int
        Products per sum, N.
    bits : int or None
        Bits dropped; None for many.
    rounding : Rounding
    each : bool
        Every product is rounded before it is added, and so every error counts N times; else the
        accumulator is wide and rounds once at the end.

    Examples
    --------
    >>> round(mac_noise(56, 15).variance, 4), round(mac_noise(56, 15, each=True).variance, 4)
    (0.0833, 4.6667)
    """
    if isinstance(taps, bool) or not isinstance(taps, int | np.integer) or taps < 1:
        raise InputError(f"taps is {taps!r}: expected an integer of 1 or more.")
    one = rounding_noise(bits, rounding)
    count = int(taps) if each else 1
    return Noise(count * one.variance, count * one.mean)


def weight_noise(taps: int, *, input_power: float, weight_lsb: float) -> Noise:
    """Return the noise of a sum of products whose weights were rounded: N * power * lsb**2 / 12.

    Parameters
    ----------
    taps : int
        Weights per sum, N.
    input_power : float
        Mean square of an input word, independent of the weights' errors.
    weight_lsb : float
        LSB of the weights. The noise is in the unit of input times weight.

    Examples
    --------
    >>> weight_noise(12, input_power=0.25, weight_lsb=2.0**-7).variance == 0.25 * 2**-14
    True
    """
    if not input_power >= 0.0:
        raise InputError(f"input_power is {input_power!r}: expected a number >= 0.")
    return Noise(mac_noise(taps, None, each=True).variance * input_power * weight_lsb**2)


def correlation_noise(
    forward: TransformNoise | Noise,
    inverse: TransformNoise,
    *,
    spectrum_power: float,
    product: Noise,
    product_gain: float = 1.0,
    spectrum_noise: float = 0.0,
    signal_power: float = 0.0,
    hermitian: bool = False,
) -> Noise:
    """Return the noise of a circular correlation by transforms: forward, times spectrum, inverse.

    Parameters
    ----------
    forward : TransformNoise or Noise
        Of the words of the input's spectrum.
    inverse : TransformNoise
        Of the inverse transform alone.
    spectrum_power : float
        Mean of |H|**2 over the bins: the kernel's spectrum as a number, without its LSB.
    product : Noise
        Of rounding the products of the two spectra, in LSB of the product words
        (`rounding_noise`; twice its variance if the four real products are rounded apart).
    product_gain : float
        LSB of the input's spectrum over LSB of the product words.
    spectrum_noise : float
        Error power of one real word of H: lsb**2 / 12 if it was rounded, as a number.
    signal_power : float
        Power of one real word of the input's spectrum, in LSB**2; it meets `spectrum_noise`.
    hermitian : bool
        Real data: only the bins to N/2 are computed, so that both halves of the spectrum carry
        the same error, and a real output the double power of it.

    Returns
    -------
    Noise
        Of one real output word, in LSB**2; mean errors count as power, spread over the outputs.

    Notes
    -----
    Errors of the spectrum reach the output as: variance * N * inverse.gain**2.

    Examples
    --------
    N = 64 in 16 bits, halving forward, not inverse, a kernel with |H| = 1: the forward noise
    times 64, then 64 times the product's.

    >>> plan = FftPlan(radices=(2,) * 6)
    >>> forward = fft_noise(plan, FftDatapath.of(plan, scaling="half"))
    >>> inverse = fft_noise(plan.transposed, FftDatapath.of(plan.transposed, scaling="none"))
    >>> product = rounding_noise(15, Rounding.HALF_EVEN)
    >>> noise = correlation_noise(forward, inverse, spectrum_power=1.0, product=product)
    >>> round(noise.variance, 1), round(64 * (forward.variance + 1 / 12) + inverse.variance, 1)
    (19.1, 19.1)
    """
    if not min(spectrum_power, spectrum_noise, signal_power) >= 0.0:
        raise InputError(
            "correlation_noise: spectrum_power, spectrum_noise and signal_power are powers: "
            f"expected numbers >= 0, not {spectrum_power!r}, {spectrum_noise!r}, {signal_power!r}."
        )
    # (X + e)(H + d) = XH + eH + Xd + ..: each complex product mixes both parts of its factors
    words = (forward.power * spectrum_power + 2 * signal_power * spectrum_noise) * product_gain**2
    words += product.power
    twice = 2 if hermitian else 1
    return Noise(words * twice * inverse.length * inverse.gain**2 + inverse.power)
