"""What would a common vendor FFT core compute with this scaling word? NOT VERIFIED.

A stand-in for the closed FFT cores of FPGA vendors: radix 2^2, decimation in frequency, powers of
two only, with a scaling word, convergent rounding or truncation, block floating point or growth.
The order of the scaling word, the widths and the options are those of AMD's product guide PG109
(FFT 9.1); the arithmetic between them is a usual one and was not compared with any core: where the
shift of a pair of stages is applied, the fourth product's rounding and the wrap of overflows are
assumptions, and single words differ from a core's. For bit-exact work take the vendor's C model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fixedpoint.errors import ScalingError
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.profiles.profile import (
    Profile,
    Words,
    engine_profile,
    power_of_two,
)
from fixedpoint.qformat import QFormat
from fixedpoint.scaling import BlockScaling
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import FftPlan

__all__ = ["DetourCost", "detours", "pair_shifts", "scaling_word", "xfft_like"]

_SHORTEST, _LONGEST = 1 << 3, 1 << 16
_SCALINGS = ("scaled", "unscaled", "block_floating")
_ROUNDINGS = (Rounding.HALF_EVEN, Rounding.FLOOR)


# ---------------------------------------------------------------- the scaling word
def pair_shifts(word: int, length: int) -> tuple[int, ...]:
    """Return the shift of each pair of stages that a scaling word asks for, first pair first.

    Parameters
    ----------
    word : int
        Two bits per pair of radix-2 stages; **the two lowest bits are the first pair's**.
    length : int
        N, a power of two from 8. For an odd log2 N the last pair is a single stage.

    Raises
    ------
    ScalingError
        The word has bits beyond the last pair, or shifts a single last stage by 2 or 3.

    References
    ----------
    AMD PG109, FFT 9.1, Pipelined Streaming I/O Architecture.

    Examples
    --------
    The guide's example for N = 1024, and its schedule that never overflows for N = 512:

    >>> pair_shifts(0b10_10_00_01_11, 1024)
    (3, 1, 0, 2, 2)
    >>> pair_shifts(0b01_10_10_10_11, 512)
    (3, 2, 2, 2, 1)
    """
    pairs = _pairs(length)
    if not isinstance(word, int) or isinstance(word, bool) or word < 0:
        raise ScalingError(f"the scaling word is {word!r}: expected a whole number >= 0.")
    if word >> (2 * pairs):
        raise ScalingError(
            f"the scaling word {word:#b} has more than the {2 * pairs} bits of N = {length}: two "
            f"per pair of stages, the first pair's lowest."
        )
    shifts = tuple(word >> (2 * pair) & 3 for pair in range(pairs))
    return _checked(shifts, length)


def scaling_word(shifts: Sequence[int], length: int) -> int:
    """Return the scaling word for the shifts of the pairs, first pair first.

    >>> f"{scaling_word((3, 1, 0, 2, 2), 1024):010b}"
    '1010000111'
    """
    return sum(shift << (2 * pair) for pair, shift in enumerate(_checked(tuple(shifts), length)))


def _pairs(length: int) -> int:
    if not isinstance(length, int) or not power_of_two(length, _SHORTEST, _LONGEST):
        raise UnsupportedError(
            f"length is {length!r}: the core takes powers of two from {_SHORTEST} to {_LONGEST}. "
            f"`detours` says what another length would cost."
        )
    return length.bit_length() // 2


def _checked(shifts: tuple[int, ...], length: int) -> tuple[int, ...]:
    pairs = _pairs(length)
    if len(shifts) != pairs:
        raise ScalingError(
            f"{len(shifts)} shifts for N = {length}, which has {pairs} pairs of stages: give one "
            f"per pair, the first pair first."
        )
    for pair, shift in enumerate(shifts):
        single = pair == pairs - 1 and (length.bit_length() - 1) % 2 == 1
        most = 1 if single else 3
        if isinstance(shift, bool) or not isinstance(shift, int) or not 0 <= shift <= most:
            raise ScalingError(
                f"the shift of pair {pair} is {shift!r}: accepted are 0 to {most}"
                + (", because the last pair of an odd log2 N is a single stage." * single or ".")
            )
    return shifts


def _conservative(length: int) -> tuple[int, ...]:
    """One bit more at the first pair: both parts of an input word may be full scale."""
    pairs = _pairs(length)
    single = (length.bit_length() - 1) % 2
    return (3, *(2,) * (pairs - 1 - single), *(1,) * single)


# ---------------------------------------------------------------- the core
def xfft_like(
    *,
    bits: int = 16,
    phase_bits: int = 16,
    scaling: str = "scaled",
    schedule: int | None = None,
    rounding: Rounding = Rounding.HALF_EVEN,
) -> Profile:
    """Return a transform after the common vendor FFT cores. NOT VERIFIED against any of them.

    Parameters
    ----------
    bits : int
        Word length of the data, 8 to 32 (the cores go to 34).
    phase_bits : int
        Word length of the twiddle factors, 8 to 32.
    scaling : {"scaled", "unscaled", "block_floating"}
        A scaling word; words that grow to bits + log2 N + 1; or shifts decided frame by frame,
        whose sum the transform returns as an exponent.
    schedule : int or None
        The scaling word of "scaled" (`pair_shifts`); None: 3 bits at the first pair of stages and
        2 at the others, with which nothing overflows. A length that the word does not fit is
        refused.
    rounding : Rounding
        HALF_EVEN ("convergent") or FLOOR ("truncation").

    Returns
    -------
    Profile
        Forward and inverse (no 1/N of its own), powers of two from 8 to 65536; `verified` is
        False. The result is DFT / 2**(sum of the shifts).

    Notes
    -----
    Even with convergent rounding the guide says that products are truncated with a constant
    added, which leaves a small bias; here they are rounded convergently. Overflowing words wrap.

    Examples
    --------
    >>> core = xfft_like(schedule=0b10_10_10_10_11)
    >>> core.name, core.verified
    ('xfft_like(bits=16, phase_bits=16, schedule=0b1010101011), not verified', False)
    """
    for what, value in (("bits", bits), ("phase_bits", phase_bits)):
        if not isinstance(value, int) or isinstance(value, bool) or not 8 <= value <= 32:
            raise InputError(f"xfft_like: {what} is {value!r}: accepted are 8 to 32.")
    if scaling not in _SCALINGS:
        raise InputError(f"xfft_like: scaling is {scaling!r}: accepted are {', '.join(_SCALINGS)}.")
    if rounding not in _ROUNDINGS:
        raise InputError(
            f"xfft_like: rounding is {rounding!r}: the cores have Rounding.HALF_EVEN (convergent) "
            f"and Rounding.FLOOR (truncation)."
        )
    if schedule is not None and scaling != "scaled":
        raise InputError(
            f"xfft_like: a schedule belongs to scaling='scaled', and scaling is {scaling!r}."
        )
    twiddle = TwiddleFormat(bits=phase_bits)

    def stage(shift: int, width: int) -> StageDatapath:
        cut = Point(shift=shift, rounding=rounding, bits=width, overflow=Overflow.WRAP)
        return StageDatapath(twiddle=twiddle, sum=cut, product=cut, trivial=Trivial.QUARTERS)

    def build(length: int, inverse: bool) -> tuple[FftPlan, FftDatapath]:
        pairs = _pairs(length)
        count = length.bit_length() - 1
        single = count % 2
        groups = (2,) * (pairs - single) + (1,) * single
        plan = FftPlan(radices=(2,) * count, groups=groups)
        if scaling == "scaled":
            shifts = _conservative(length) if schedule is None else pair_shifts(schedule, length)
        else:
            shifts = (0,) * pairs
        stages: list[StageDatapath] = []
        width = bits
        for shift, size in zip(shifts, groups, strict=True):
            if scaling == "unscaled":  # a bit per stage, one more for the first rotation
                for _ in range(size):
                    width += 1 if stages else 2
                    stages.append(stage(0, width))
            elif scaling == "scaled":
                if size == 2:  # the pair's inner sums are a bit longer; the shift follows
                    stages.append(stage(0, bits + 1))
                stages.append(stage(shift, bits))
            else:
                stages += [stage(0, bits)] * size
        block = None
        if scaling == "block_floating":
            block = BlockScaling(normalise=False, early=True, rounding=rounding)
        return plan, FftDatapath(input=QFormat(1, bits - 1), stages=tuple(stages), block=block)

    def accepts(length: int) -> bool:
        if not power_of_two(length, _SHORTEST, _LONGEST):
            return False
        if schedule is not None:
            pair_shifts(schedule, length)  # says what does not fit
        return True

    parts = [f"bits={bits}", f"phase_bits={phase_bits}"]
    parts += [f"scaling={scaling!r}"] if scaling != "scaled" else []
    parts += [f"schedule={schedule:#b}"] if schedule is not None else []
    parts += [f"rounding={rounding.name}"] if rounding is not Rounding.HALF_EVEN else []
    name = f"xfft_like({', '.join(parts)}), not verified"
    lengths = f"a power of two from {_SHORTEST} to {_LONGEST}"
    description = (
        "NOT VERIFIED: after the common vendor FFT cores (scaling word of PG109), compared with "
        "none of them"
    )
    if scaling != "block_floating":
        return engine_profile(
            name=name,
            bits=bits,
            lengths=lengths,
            accepts=accepts,
            build=build,
            description=description,
            verified=False,
        )

    def transform(words: Words, inverse: bool) -> tuple[Words, NDArray[np.int64]]:
        from fixedpoint.mixed_radix import lower, run  # numba comes with the first transform

        plan, datapath = build(words.shape[1], inverse)
        result = run(lower(plan, datapath, inverse), words)
        return result.words, result.exponents

    return Profile(
        name=name,
        bits=bits,
        lengths=lengths,
        accepts=accepts,
        transform=transform,
        description=description,
        verified=False,
        exponents=True,
        build=build,
    )


# ---------------------------------------------------------------- other lengths on such a core
@dataclass(frozen=True, slots=True, kw_only=True)
class DetourCost:
    """What one way of computing a circular correlation costs, for two real lines at a time.

    A complex transform takes two real lines with the same kernel as real and imaginary part.

    Attributes
    ----------
    method : str
        "doubled", "bluestein", "direct" without any transform, or "native".
    length : int
        N.
    transform_length : int
        M, points of each transform on the core; 0 without.
    transforms : int
        How many of them; the kernel's are computed offline.
    multiplications : int
        Real ones, four per complex product, trivial factors not counted.
    memory_words : int
        Complex words of data, kernel spectrum, twiddle table and chirps.
    """

    method: str
    length: int
    transform_length: int
    transforms: int
    multiplications: int
    memory_words: int


def detours(length: int) -> tuple[DetourCost, ...]:
    """Return what a circular correlation of `length` costs on a core of powers of two only.

    Zero padding is no way: the kernel is circular, and a padded transform computes another
    function. What remains:

    - "doubled": the signal is continued periodically to 2N - 1 words and the kernel alone is
      padded, to M >= 2N - 1; N of the M results are the circular ones;
    - "bluestein": both transforms of length N by chirps, each as a convolution of length
      M >= 2N - 1 with its own two transforms;
    - "direct": N**2 multiplications per line, for comparison.

    Parameters
    ----------
    length : int
        N, 2 or more. Where N is a power of two that the core takes, the first entry is the plain
        transform: "native".

    Returns
    -------
    tuple of DetourCost

    References
    ----------
    Bluestein, "A linear filtering approach to the computation of discrete Fourier transform",
    IEEE Trans. Audio and Electroacoustics 18(4), 1970.

    Examples
    --------
    >>> for cost in detours(28):
    ...     print(cost.method, cost.transform_length, cost.transforms, cost.multiplications)
    doubled 64 2 1040
    bluestein 64 4 2640
    direct 0 0 1568
    >>> [(cost.method, cost.multiplications) for cost in detours(56)]
    [('doubled', 2576), ('bluestein', 6272), ('direct', 6272)]
    """
    if not isinstance(length, int) or isinstance(length, bool) or length < 2:
        raise InputError(f"length is {length!r}: expected a whole number of 2 or more.")
    points = max(1 << (2 * length - 2).bit_length(), _SHORTEST)
    if points > _LONGEST:
        raise UnsupportedError(
            f"length {length} needs transforms of {points} points, and the core has at most "
            f"{_LONGEST}."
        )
    one = _multiplications(points)
    costs = [
        DetourCost(
            method="doubled",
            length=length,
            transform_length=points,
            transforms=2,
            multiplications=2 * one + 4 * points,
            # data, kernel spectrum, half a table
            memory_words=2 * points + points // 2,
        ),
        DetourCost(
            method="bluestein",
            length=length,
            transform_length=points,
            transforms=4,
            # chirp, spectrum of the chirp, chirp; twice, and N products of spectra
            multiplications=4 * one + 8 * points + 4 * 5 * length,
            # data, the chirp's spectrum, half a table, the chirp, the kernel's spectrum
            memory_words=2 * points + points // 2 + 2 * length,
        ),
        DetourCost(
            method="direct",
            length=length,
            transform_length=0,
            transforms=0,
            multiplications=2 * length * length,
            memory_words=2 * length,
        ),
    ]
    if power_of_two(length, _SHORTEST, _LONGEST):
        native = DetourCost(
            method="native",
            length=length,
            transform_length=length,
            transforms=2,
            multiplications=2 * _multiplications(length) + 4 * length,
            memory_words=2 * length + length // 2,
        )
        costs.insert(0, native)
    return tuple(costs)


def _multiplications(points: int) -> int:
    """Real multiplications of one radix-2 transform: 4 per factor that is not 1, -1, j or -j.

    Stage s of log2 M has M/2 factors, of which 2 per block of M/2**s are trivial (1 in blocks
    of 2): M/2 log2 M - (3/2 M - 2) complex ones.
    """
    count = points.bit_length() - 1
    return 4 * (points // 2 * count - 3 * points // 2 + 2)
