"""How long is `--time 30m`?"""

from __future__ import annotations

import re

from parc_hw.errors import InputError

__all__ = ["PARTIAL", "seconds"]

PARTIAL = 7  # exit code: the budget ended with a partial result

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """The seconds that `90s`, `30m` or `1.5h` stand for.

    >>> seconds("1.5h")
    5400.0
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|m|min|h)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"--time {text!r} is no time; accepted: 90s, 30m, 1.5h.")
    return float(match[1]) * _UNITS[match[2]]
