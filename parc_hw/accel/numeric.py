"""How does a flat array of exact results become words, compiled?"""

from __future__ import annotations

from typing import Any

from numba import njit

from fixedpoint.rounding import round_shift, round_with, rounding_terms

__all__ = ["fit", "fit_each"]


@njit(cache=True, nogil=True)
def _kept(value: int, lo: int, hi: int, wrap: bool) -> int:
    # A result that wraps is cut to its type where it is stored.
    return value if wrap else min(max(value, lo), hi)


@njit(cache=True, nogil=True)
def fit(value: Any, shift: int, mode: int, lo: int, hi: int, wrap: bool, out: Any) -> None:
    """out = Q(value, shift): int64 arrays; -62 <= shift <= 62."""
    if shift <= 0:
        for i in range(value.size):
            out[i] = _kept(value[i] << -shift, lo, hi, wrap)
        return
    always, odd, negative = rounding_terms(shift, mode)
    for i in range(value.size):
        out[i] = _kept(round_with(value[i], shift, always, odd, negative), lo, hi, wrap)


@njit(cache=True, nogil=True)
def fit_each(value: Any, shift: Any, mode: int, lo: int, hi: int, wrap: bool, out: Any) -> None:
    """out = Q(value, shift) with a shift for each; any int64."""
    for i in range(value.size):
        if shift[i] > 0:
            result = round_shift(value[i], shift[i], mode)
        elif shift[i] > -64:
            result = value[i] << -shift[i]
        else:
            result = 0
        out[i] = _kept(result, lo, hi, wrap)
