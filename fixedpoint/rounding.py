"""How does a kernel drop low bits and fit a word into its format, one int64 at a time?

Scalar functions for use inside other compiled kernels. Modes are run-time integers; where the
choice is the same for a whole loop, `rounding_terms` turns it into three numbers outside the
loop and `round_with` applies them without a branch. Everything here is written once more, in
Python integers and another way, in `fixedpoint.exact`.
"""

from __future__ import annotations

from numba import njit

from fixedpoint.modes import (
    FLOOR,
    HALF_AWAY,
    HALF_EVEN,
    HALF_UP,
    RAISE,
    SATURATE,
    TOWARD_ZERO,
    WRAP,
    Overflow,
    Rounding,
    overflow_code,
    rounding_code,
)

__all__ = [
    "FLOOR",
    "HALF_AWAY",
    "HALF_EVEN",
    "HALF_UP",
    "RAISE",
    "SATURATE",
    "TOWARD_ZERO",
    "WRAP",
    "Overflow",
    "Rounding",
    "fit",
    "overflow_code",
    "round_shift",
    "round_with",
    "rounding_code",
    "rounding_terms",
    "shift_fit",
]


@njit(cache=True, nogil=True, no_cfunc_wrapper=True)
def rounding_terms(shift: int, mode: int) -> tuple[int, int, int]:
    """Return what `round_with` adds below the cut: always, if odd, and if negative.

    With q = value >> shift and the dropped bits r = value - (q << shift), 0 <= r < 2**shift,
    each mode is one carry into q:

        FLOOR         never
        TOWARD_ZERO   r + [value < 0] * (2**shift - 1)  >=  2**shift
        HALF_UP       r + half                          >=  2**shift      half = 2**(shift - 1)
        HALF_EVEN     r + half - 1 + [q odd]            >=  2**shift
        HALF_AWAY     r + half - [value < 0]            >=  2**shift

    `shift` is 0..62. Returns three int64.
    """
    if shift == 0 or mode == FLOOR:
        return 0, 0, 0
    half = 1 << (shift - 1)
    if mode == TOWARD_ZERO:
        return 0, 0, 2 * half - 1
    if mode == HALF_EVEN:
        return half - 1, 1, 0
    if mode == HALF_AWAY:
        return half, 0, -1
    return half, 0, 0


@njit(cache=True, nogil=True, no_cfunc_wrapper=True)
def round_with(value: int, shift: int, always: int, odd: int, negative: int) -> int:
    """Return `value / 2**shift` rounded by the terms of `rounding_terms`; any int64 `value`.

    Only the dropped bits meet the terms, and they are below 2**62, so that nothing overflows
    however large `value` is.
    """
    quotient = value >> shift
    rest = value & ((1 << shift) - 1)
    return quotient + ((rest + always + (quotient & odd) + ((value >> 63) & negative)) >> shift)


@njit(cache=True, nogil=True, no_cfunc_wrapper=True)
def round_shift(value: int, shift: int, mode: int) -> int:
    """Return `value / 2**shift` rounded to an integer: any int64 `value`, any `shift` >= 0."""
    if shift <= 62:
        always, odd, negative = rounding_terms(shift, mode)
        return round_with(value, shift, always, odd, negative)
    # At most one unit in magnitude: -1 (only -2**63 >> 63), or a fraction in (-1, 1).
    if shift == 63 and value == -(1 << 63):
        return -1
    if mode == FLOOR:
        return value >> 63
    if mode == TOWARD_ZERO or shift > 64:
        return 0
    if shift == 64:  # in [-1/2, 1/2): only -2**63 is a tie, which the other modes round to 0
        return -1 if mode == HALF_AWAY and value == -(1 << 63) else 0
    # shift == 63: in (-1, 1), ties at +-2**62, and 0 is the even neighbour of both
    half = 1 << 62
    if value == half:
        return 0 if mode == HALF_EVEN else 1
    if value == -half:
        return -1 if mode == HALF_AWAY else 0
    return 1 if value > half else (-1 if value < -half else 0)


@njit(cache=True, nogil=True, no_cfunc_wrapper=True)
def fit(value: int, lo: int, hi: int, mode: int) -> tuple[int, bool]:
    """Return `value` in [lo, hi] and whether it was outside.

    `lo` and `hi` are the ends of a format, hi - lo + 1 = 2**bits. WRAP keeps the low bits;
    SATURATE takes the nearer end. A kernel cannot raise: RAISE saturates here, and whoever called
    the kernel raises from the flags.
    """
    overflowed = value < lo or value > hi
    if mode == WRAP:
        return ((value - lo) & (hi - lo)) + lo, overflowed  # modulo 2**64, then modulo 2**bits
    return min(max(value, lo), hi), overflowed


@njit(cache=True, nogil=True, no_cfunc_wrapper=True)
def shift_fit(
    value: int, shift: int, rounding: int, lo: int, hi: int, overflow: int
) -> tuple[int, bool]:
    """Return `value / 2**shift` rounded and fitted, and whether it did not fit; any shift."""
    if shift >= 0:
        return fit(round_shift(value, shift, rounding), lo, hi, overflow)
    up = -shift
    if up > 63:  # every nonzero value is beyond 64 bits, and its low 64 bits are 0
        if value == 0 or overflow == WRAP:
            return 0, value != 0
        return (lo if value < 0 else hi), True
    # value * 2**up is in [lo, hi] if and only if value is in [ceil(lo / 2**up), hi >> up].
    if value < (lo + ((1 << up) - 1)) >> up:
        return (fit(value << up, lo, hi, overflow)[0] if overflow == WRAP else lo), True
    if value > hi >> up:
        return (fit(value << up, lo, hi, overflow)[0] if overflow == WRAP else hi), True
    return value << up, False
