"""What do the attributes of a window (strides, dilation, padding) mean, written in TVM's short forms?"""

from __future__ import annotations

from typing import Any

__all__ = ["pair", "sides"]


def pair(value: Any) -> tuple[int, int]:
    """(vertical, horizontal); one number stands for both.

    >>> pair(2), pair((1, 3))
    ((2, 2), (1, 3))
    """
    if isinstance(value, int):
        return value, value
    numbers = tuple(int(v) for v in value)
    return numbers[0], numbers[-1]


def sides(value: Any) -> tuple[int, int, int, int]:
    """Padding as (top, left, bottom, right), of one number, (vertical, horizontal) or all four.

    >>> sides((1, 2))
    (1, 2, 1, 2)
    """
    if not isinstance(value, int) and len(value) == 4:
        top, left, bottom, right = (int(v) for v in value)
        return top, left, bottom, right
    vertical, horizontal = pair(value)
    return vertical, horizontal, vertical, horizontal
