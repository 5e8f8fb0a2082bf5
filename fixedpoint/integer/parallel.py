"""How do independent batches keep every core busy, each with kernels on one thread?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba

__all__ = ["over_batches"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def over_batches(function: Callable[[Item], Result], batches: Sequence[Item]) -> list[Result]:
    """Return [function(batch) for batch in batches], computed on as many threads as numba has.

    Handing each kernel call of a small layer to threads costs more than the call; a batch that
    runs through the whole model on one thread costs nothing extra.
    """
    threads = min(numba.get_num_threads(), len(batches))
    if threads <= 1:
        return [function(batch) for batch in batches]
    with ThreadPoolExecutor(threads, initializer=numba.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, batches))
