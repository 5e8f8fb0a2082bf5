"""How do independent lines keep every core busy?

Threads of our own instead of numba's: its default threading layer aborts the process when two
Python threads use it at once, and its parallel mode doubles the time of the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba

__all__ = ["over_lines"]


def over_lines(kernel: Callable[..., Any], lines: int, block: int, *arguments: Any) -> None:
    """Call kernel(begin, end, *arguments) so that the calls cover [0, lines) once.

    Parameters
    ----------
    kernel : callable
        Compiled with nogil=True; writes only what belongs to lines [begin, end).
    lines : int
    block : int
        Every begin is a multiple of it: the lines that a kernel handles side by side.
    """
    blocks = -(-lines // block)
    threads = min(numba.get_num_threads(), blocks)
    if threads <= 1:
        kernel(0, lines, *arguments)
        return
    cuts = [min(lines, block * (blocks * t // threads)) for t in range(threads)] + [lines]
    with ThreadPoolExecutor(threads) as pool:
        calls = [pool.submit(kernel, *piece, *arguments) for piece in pairwise(cuts)]
        for call in calls:
            call.result()
