"""How sure is a share of right answers?"""

from __future__ import annotations

import math

from parc_hw.errors import InputError

__all__ = ["wilson"]

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion.

    Raises
    ------
    InputError
        `total` below 1 or `correct` not within 0 to `total`.

    References
    ----------
    E. B. Wilson, J. Am. Stat. Assoc. 22 (1927), 209-212.

    Examples
    --------
    >>> low, high = wilson(95, 100)
    >>> round(low, 4), round(high, 4)
    (0.8882, 0.9785)
    """
    if total < 1 or not 0 <= correct <= total:
        raise InputError(f"no proportion: {correct} of {total}.")
    p, z2 = correct / total, _Z95**2
    centre = p + z2 / (2 * total)
    half = _Z95 * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    scale = 1 + z2 / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
