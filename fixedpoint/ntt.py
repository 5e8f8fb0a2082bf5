"""How is a circular correlation of integers computed without any error?

The number-theoretic transform (NTT) is the DFT over the integers modulo a prime p,

    X[f] = sum_n x[n] g^(f n) mod p,      g of multiplicative order N,

so that, with the kernel's spectrum read backwards, the correlation theorem holds exactly:

    y[i] = sum_k w[k] x[(k + i) mod N]    <=>    Y[f] = X[f] W[-f]   (mod p).

Nothing is ever rounded. The result is recovered from its residue if it lies in
[-(p - 1)/2, (p - 1)/2], which a plan proves from the word lengths when it is made:
|y| <= N 2^(data_bits - 1) 2^(kernel_bits - 1).

Two moduli serve the lengths 7 * 2^k of ParC:

* 15790321 = 2^24 - 2^20 + 2^16 - 2^12 + 2^8 - 2^4 + 1 divides 2^28 + 1. So 2 has order 56 and
  2^21 - 2^7, a square root of 2, has order 112: every twiddle factor of N = 7, 14, 28, 56 is a
  signed power of two and every one of N = 112 (or 16) the sum of at most two. The transform needs
  shifts and additions only; the N products with the kernel's spectrum are its multiplications.
* 7340033 = 7 * 2^20 + 1 has roots of every order 7 * 2^k, and 224 * 128 * 128 * 2 + 1 is
  just this number: int8 by int8 fits up to N = 224, even where every word is -128.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from fixedpoint._raw import signed_words
from fixedpoint._threads import over_lines
from parc_hw.errors import InputError, UnsupportedError

__all__ = [
    "SEVENTHS_MODULUS",
    "SHIFT_LENGTHS",
    "SHIFT_MODULUS",
    "NttPlan",
    "circular_correlate",
    "find_modulus",
    "find_root",
    "is_prime",
    "kernel_spectrum",
    "ntt",
    "ntt_plan",
]

SHIFT_MODULUS = (1 << 24) - (1 << 20) + (1 << 16) - (1 << 12) + (1 << 8) - (1 << 4) + 1
"""15790321, prime: 2^28 = -1 and (2^21 - 2^7)^2 = 2 modulo it."""

SEVENTHS_MODULUS = 7 * (1 << 20) + 1
"""7340033, prime: has roots of unity of every order 7 * 2^k and 2^k with k <= 20."""

SHIFT_LENGTHS = (1, 2, 4, 7, 8, 14, 16, 28, 56, 112)
"""The divisors of 112: their twiddle factors modulo `SHIFT_MODULUS` are at most two shifts."""

_SQRT_2 = (1 << 21) - (1 << 7)  # of order 112 mod SHIFT_MODULUS
_HALF_TURN = 28  # 2^28 = -1 mod SHIFT_MODULUS
# A residue times a residue must stay below 2^63 in the simulator's int64.
_MODULUS_LIMIT = 1 << 31


# ---------------------------------------------------------------- primes and roots
def is_prime(number: int) -> bool:
    """Whether `number` is a prime (Miller-Rabin, certain below 3.3e24).

    >>> [n for n in range(30) if is_prime(n)]
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    """
    # These twelve bases decide every number below 318 665 857 834 031 151 167 461 (Sorenson and
    # Webster, Mathematics of Computation 86, 2017); ours are below 2^31.
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2:
        return False
    for base in bases:
        if number % base == 0:
            return number == base
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in bases:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def _prime_factors(number: int) -> tuple[int, ...]:
    """Return the prime factors of `number`, ascending, each as often as it divides."""
    factors = []
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return (*factors, number) if number > 1 else tuple(factors)


def find_modulus(length: int, at_least: int = 3) -> int:
    """Return the smallest prime p = 1 mod `length` with p >= `at_least`.

    Such a prime has roots of unity of order `length`, because the non-zero residues form a
    cyclic group of order p - 1; one exists for every length (Dirichlet).

    Raises
    ------
    UnsupportedError
        The prime does not fit the simulator's arithmetic: p must be below 2^31 so that the
        product of two residues stays below 2^63.

    Examples
    --------
    >>> find_modulus(12), find_modulus(30, at_least=1000)
    (13, 1021)
    """
    candidate = max(1, -(-(at_least - 1) // length)) * length + 1
    while candidate < _MODULUS_LIMIT:
        if is_prime(candidate):
            return candidate
        candidate += length
    raise UnsupportedError(
        f"no prime p = 1 mod {length} with {at_least} <= p < 2^31: the product of two residues "
        f"would overflow 64 bits. Use shorter words, or the direct plan, which is exact as well."
    )


def find_root(length: int, modulus: int) -> int:
    """Return a residue of multiplicative order exactly `length` modulo the prime `modulus`.

    Raises
    ------
    InputError
        `length` does not divide `modulus` - 1: there is no such residue.

    Examples
    --------
    >>> find_root(4, 13)
    8
    """
    if (modulus - 1) % length:
        raise InputError(
            f"modulus {modulus} has no root of unity of order {length}: {length} does not divide "
            f"{modulus - 1}. Accepted: a prime p = 1 mod {length}, such as {find_modulus(length)}."
        )
    for base in range(1, modulus):
        root = pow(base, (modulus - 1) // length, modulus)
        if _has_order(root, length, modulus):
            return root
    raise AssertionError(f"{modulus} is not a prime")  # a cyclic group has an element of any order


def _has_order(root: int, length: int, modulus: int) -> bool:
    return pow(root, length, modulus) == 1 and all(
        pow(root, length // factor, modulus) != 1 for factor in set(_prime_factors(length))
    )


# ---------------------------------------------------------------- plan
@dataclass(frozen=True, kw_only=True)
class NttPlan:
    """One number-theoretic transform, with the proof that it is free of error.

    Parameters
    ----------
    length : int
        N, the period of the correlation.
    modulus : int
        A prime p = 1 mod N below 2^31.
    root : int
        A residue of order N modulo p: the twiddle factors are its powers.
    data_bits, kernel_bits : int
        Word lengths of x and w, sign included. Each word may take any of its 2^bits values.
    shift_only : bool
        Multiply by twiddle factors with shifts and additions, as `SHIFT_MODULUS` allows.

    Raises
    ------
    InputError
        A modulus that is no prime, a root of another order, a length without shift twiddles.
    UnsupportedError
        A result may leave the range that the modulus can tell apart.
    """

    length: int
    modulus: int
    root: int
    data_bits: int = 8
    kernel_bits: int = 8
    shift_only: bool = False

    def __post_init__(self) -> None:
        """Prove the plan: a prime, a root of order N, and results that fit."""
        for field in ("length", "data_bits", "kernel_bits"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(
                    f"NttPlan: {field} must be an integer of at least 1, not {value!r}."
                )
        if not is_prime(self.modulus) or self.modulus >= _MODULUS_LIMIT:
            raise InputError(
                f"NttPlan: modulus must be a prime below 2^31, not {self.modulus}; for length "
                f"{self.length}, {find_modulus(self.length, 2 * self.largest_result + 1)} serves."
            )
        if not _has_order(self.root, self.length, self.modulus):
            raise InputError(
                f"NttPlan: root {self.root} does not have order {self.length} modulo "
                f"{self.modulus}; find_root({self.length}, {self.modulus}) gives one that has."
            )
        if 2 * self.largest_result + 1 > self.modulus:
            raise UnsupportedError(
                f"NttPlan: {self.length} products of {self.data_bits}-bit by "
                f"{self.kernel_bits}-bit words reach {self.largest_result}, but modulus "
                f"{self.modulus} tells results apart up to {(self.modulus - 1) // 2} only. "
                f"Accepted here: data_bits + kernel_bits <= {self._most_bits()}; or leave modulus "
                f"to ntt_plan, which finds a larger prime."
            )
        if self.shift_only:
            shift_terms = self.shift_terms  # raises where the twiddles are no shifts
            assert len(shift_terms) == self.length

    @property
    def largest_result(self) -> int:
        """The largest |y[i]|: every word of both operands at its negative limit."""
        return self.length << (self.data_bits - 1 + self.kernel_bits - 1)

    def _most_bits(self) -> int:
        # N 2^(b - 2) <= (p - 1)/2, solved for b = data_bits + kernel_bits
        return ((self.modulus - 1) // (2 * self.length)).bit_length() - 1 + 2

    @cached_property
    def radices(self) -> tuple[int, ...]:
        """The stages' radices: the prime factors of N, first stage first."""
        return _prime_factors(self.length)

    @cached_property
    def shift_terms(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each power of the root, its terms (sign, shift): root^e = sum sign 2^shift mod p.

        Raises
        ------
        InputError
            The plan's twiddle factors are not sums of at most two shifts below 28.
        """
        if self.modulus != SHIFT_MODULUS:
            raise InputError(
                f"NttPlan: twiddle factors modulo {self.modulus} are no shifts; accepted: "
                f"modulus {SHIFT_MODULUS} and length {', '.join(map(str, SHIFT_LENGTHS))}."
            )
        # Every residue that is +-2^a, or +-(2^21 - 2^7) 2^a with the exponents folded by 2^28 = -1.
        known: dict[int, tuple[tuple[int, int], ...]] = {}
        for exponent in range(2 * _HALF_TURN):
            single = (_fold(1, exponent),)
            double = (_fold(1, exponent + 21), _fold(-1, exponent + 7))
            for terms in (double, single):
                known[sum(sign << shift for sign, shift in terms) % SHIFT_MODULUS] = terms
        powers = [pow(self.root, e, self.modulus) for e in range(self.length)]
        if not all(power in known for power in powers):
            raise InputError(
                f"NttPlan: the powers of root {self.root} are no sums of two shifts; accepted "
                f"lengths: {', '.join(map(str, SHIFT_LENGTHS))}, with the root of ntt_plan."
            )
        return tuple(known[power] for power in powers)


def _fold(sign: int, exponent: int) -> tuple[int, int]:
    """Rewrite sign 2^exponent -> (+-1, shift < 28) by 2^28 = -1."""
    return (sign if exponent // _HALF_TURN % 2 == 0 else -sign), exponent % _HALF_TURN


def ntt_plan(
    length: int, *, data_bits: int = 8, kernel_bits: int = 8, modulus: int | None = None
) -> NttPlan:
    """Return the cheapest error-free transform for these word lengths.

    Parameters
    ----------
    length : int
        N, at least 1.
    data_bits, kernel_bits : int
        Word lengths of x and w, sign included.
    modulus : int or None
        The prime to use. None takes the first that fits of: `SHIFT_MODULUS` (shifts instead of
        multiplications), `SEVENTHS_MODULUS` (every 7 * 2^k), the smallest prime that does.

    Raises
    ------
    UnsupportedError
        No prime below 2^31 holds the results: says which word lengths would fit.
    InputError
        `modulus` is no prime, or has no root of unity of this order.

    Examples
    --------
    >>> ntt_plan(56).shift_only, ntt_plan(56).shift_terms[3]
    (True, ((1, 3),))
    >>> ntt_plan(224).modulus, ntt_plan(60).modulus
    (7340033, 1966381)
    """
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError(f"ntt_plan: length must be an integer of at least 1, not {length!r}.")
    needed = 2 * (length << max(data_bits - 1 + kernel_bits - 1, 0)) + 1
    if needed > _MODULUS_LIMIT:
        most = ((_MODULUS_LIMIT - 1) // (2 * length)).bit_length() - 1 + 2
        raise UnsupportedError(
            f"ntt_plan: {length} products of {data_bits}-bit by {kernel_bits}-bit words need a "
            f"modulus of at least {needed}, and the product of two residues modulo such a prime "
            f"overflows 64 bits. Accepted for length {length}: data_bits + kernel_bits <= {most}. "
            f"The direct plan is exact as well and has no such limit."
        )
    if modulus is None:
        if length in SHIFT_LENGTHS and needed <= SHIFT_MODULUS:
            modulus = SHIFT_MODULUS
        elif (
            length % 7 == 0 and (SEVENTHS_MODULUS - 1) % length == 0 and needed <= SEVENTHS_MODULUS
        ):
            modulus = SEVENTHS_MODULUS
        else:
            modulus = find_modulus(length, needed)
    shift_only = modulus == SHIFT_MODULUS and length in SHIFT_LENGTHS
    if shift_only:
        root = pow(_SQRT_2, 112 // length, SHIFT_MODULUS)  # 2^(56 / N) where N divides 56
    elif not is_prime(modulus):
        raise InputError(
            f"ntt_plan: modulus must be a prime, not {modulus}; for length {length}, "
            f"{find_modulus(length, needed)} serves."
        )
    else:
        root = find_root(length, modulus)
    return NttPlan(
        length=length,
        modulus=modulus,
        root=root,
        data_bits=data_bits,
        kernel_bits=kernel_bits,
        shift_only=shift_only,
    )


# ---------------------------------------------------------------- kernels
@numba.njit(cache=True, nogil=True)
def _transform(begin, end, values, scratch, radices, powers, signs, shifts, modulus):  # type: ignore[no-untyped-def]
    """Transform rows [begin, end) of `values` (lines, N) in place, by Stockham's self-sorting stages.

    With S the product of the radices done, r the next one and m = N / (S r), a stage reads
    [s, j, k] (r, m, S) and writes [j, q, k] (m, r, S):

        out[j, q, k] = sum_s in[s, j, k] g^(m s (k + q S)).

    `signs`, `shifts` (N, 2) hold each power as two terms sign 2^shift; empty: multiply instead.
    """
    length = values.shape[1]
    by_shifts = signs.shape[0] > 0
    for line in range(begin, end):
        source, target = values[line], scratch[line]
        span = 1
        for radix in radices:
            groups = length // (span * radix)
            for j in range(groups):
                for q in range(radix):
                    for k in range(span):
                        total = np.int64(0)
                        step = groups * (k + q * span) % length
                        power = 0
                        for s in range(radix):
                            value = source[(s * groups + j) * span + k]
                            if by_shifts:
                                # |sum| < radix * 2 * 2^(24 + 27): reduced once, at the end
                                total += signs[power, 0] * (value << shifts[power, 0])
                                total += signs[power, 1] * (value << shifts[power, 1])
                            else:
                                total += value * powers[power] % modulus
                            power += step
                            if power >= length:
                                power -= length
                        target[(j * radix + q) * span + k] = total % modulus
            span *= radix
            source, target = target, source
        if len(radices) % 2:
            target[:] = source  # the last stage wrote scratch: bring it home


@lru_cache(maxsize=64)
def _tables(plan: NttPlan, inverse: bool) -> tuple[NDArray[np.int64], ...]:
    """Return radices (stages,), powers (N,), signs and shifts (N, 2) of one direction."""
    order = [(-e if inverse else e) % plan.length for e in range(plan.length)]
    powers = np.array([pow(plan.root, e, plan.modulus) for e in order], dtype=np.int64)
    signs = np.zeros((plan.length if plan.shift_only else 0, 2), dtype=np.int64)
    shifts = np.zeros_like(signs)
    if plan.shift_only:
        for row, e in enumerate(order):
            for column, (sign, shift) in enumerate(plan.shift_terms[e]):
                signs[row, column], shifts[row, column] = sign, shift
    return np.array(plan.radices, dtype=np.int64), powers, signs, shifts


def _run(residues: NDArray[np.int64], plan: NttPlan, inverse: bool) -> NDArray[np.int64]:
    """Transform residues (..., N) without the inverse's factor 1/N."""
    values = np.array(residues, dtype=np.int64, order="C").reshape(-1, plan.length)
    scratch = np.empty_like(values)
    tables = _tables(plan, inverse)
    over_lines(_transform, len(values), 16, values, scratch, *tables, plan.modulus)
    return values.reshape(residues.shape)


def _check_length(array: NDArray[Any], plan: NttPlan, name: str) -> None:
    if array.ndim == 0 or array.shape[-1] != plan.length:
        raise InputError(
            f"{name}: the last axis of shape {array.shape} must have the plan's length "
            f"{plan.length}."
        )


# ---------------------------------------------------------------- operations
def ntt(
    residues: NDArray[np.integer[Any]], plan: NttPlan, *, inverse: bool = False
) -> NDArray[np.int64]:
    """Transform along the last axis: X[f] = sum_n x[n] g^(f n) mod p, natural order both ends.

    Parameters
    ----------
    residues : int array, shape (..., N)
        Any integers of at most 63 bits; taken modulo p first.
    plan : NttPlan
    inverse : bool
        Use g^-1 and divide by N (that is, multiply by N^-1 mod p).

    Returns
    -------
    int64 array, shape (..., N), within [0, p).

    Raises
    ------
    InputError
        Not integers, empty, or of another length than the plan's.

    Examples
    --------
    >>> plan = ntt_plan(7)
    >>> ntt(np.array([1, 0, 0, 0, 0, 0, 0]), plan)
    array([1, 1, 1, 1, 1, 1, 1])
    """
    array = signed_words(residues, bits=64, name="ntt: residues")
    _check_length(array, plan, "ntt: residues")
    result = _run(array % plan.modulus, plan, inverse)
    return result * pow(plan.length, -1, plan.modulus) % plan.modulus if inverse else result


def kernel_spectrum(raw: NDArray[np.integer[Any]], plan: NttPlan) -> NDArray[np.int64]:
    """Return W[-f] / N mod p of the kernel `raw` (..., N): what is stored offline.

    The reversal makes it a correlation, and the inverse transform's 1/N is paid here once, so
    that the run-time transforms of a shift-only plan contain no multiplication at all.

    Raises
    ------
    InputError
        Not integers of `plan.kernel_bits` bits, or of another length than the plan's.
    """
    words = signed_words(raw, bits=plan.kernel_bits, name="kernel_spectrum: raw")
    _check_length(words, plan, "kernel_spectrum: raw")
    # sum_k w[k] g^(-f k): the transform with the inverse root is the spectrum read backwards
    backwards = _run(words % plan.modulus, plan, True)
    return backwards * pow(plan.length, -1, plan.modulus) % plan.modulus


def circular_correlate(
    raw_x: NDArray[np.integer[Any]], raw_w: NDArray[np.integer[Any]], plan: NttPlan | None = None
) -> NDArray[np.int64]:
    """Return y[i] = sum_k w[k] x[(k + i) mod N], exactly, by number-theoretic transforms.

    Parameters
    ----------
    raw_x, raw_w : int arrays, shapes (..., N), broadcast against each other
        Stored integers of the plan's word lengths.
    plan : NttPlan or None
        None takes `ntt_plan(N)`: int8 by int8.

    Returns
    -------
    int64 array, shape (..., N). Equal to the direct sum, bit for bit.

    Raises
    ------
    InputError
        Not integers, words outside their word length, lengths that differ.
    UnsupportedError
        No plan holds results of this length.

    Examples
    --------
    A kernel that is one at tap 1 reads one place ahead:

    >>> circular_correlate(np.arange(7), np.array([0, 1, 0, 0, 0, 0, 0]))
    array([1, 2, 3, 4, 5, 6, 0])
    """
    if plan is None:
        shape = np.shape(raw_x)
        if not shape or shape[-1] == 0:
            raise InputError(f"circular_correlate: raw_x has shape {shape}; (..., N) is expected.")
        plan = ntt_plan(int(shape[-1]))
    words = signed_words(raw_x, bits=plan.data_bits, name="circular_correlate: raw_x")
    _check_length(words, plan, "circular_correlate: raw_x")
    spectrum = kernel_spectrum(raw_w, plan)
    try:
        product = _run(words % plan.modulus, plan, False) * spectrum % plan.modulus
    except ValueError:
        raise InputError(
            f"circular_correlate: raw_x of shape {words.shape} and raw_w of shape "
            f"{spectrum.shape} do not broadcast; accepted: equal axes, or 1, but for the last."
        ) from None
    result = _run(product, plan, True)
    # residues above (p - 1)/2 stand for negative results
    return np.where(result > (plan.modulus - 1) // 2, result - plan.modulus, result)
