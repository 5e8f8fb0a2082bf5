"""Which earlier instruction of another queue conflicts with this one, compiled?

Rows of accesses are those of `parc_hw.accel.dependencies`: space, writes, low, run, and three times
(extent, stride), nested: each stride is at least what lies inside it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

__all__ = ["find"]

QUEUES: Final = 6
SPACE: Final = 0
WRITES: Final = 1
LOW: Final = 2
RUN: Final = 3
COUNTED: Final = 4  # three times extent and stride


@njit(cache=True)
def _begin(row: Any, low: int, k: int) -> int:
    """Where run k of an access begins; runs rise with k."""
    e1, s1, e2, s2 = row[6], row[7], row[8], row[9]
    return low + k // (e1 * e2) * row[5] + k // e2 % e1 * s1 + k % e2 * s2


@njit(cache=True)
def _meet(one: Any, low_one: int, two: Any, low_two: int) -> bool:
    """Whether two accesses share an address."""
    count_one = one[4] * one[6] * one[8]
    count_two = two[4] * two[6] * two[8]
    high_one = _begin(one, low_one, count_one - 1) + one[RUN]
    high_two = _begin(two, low_two, count_two - 1) + two[RUN]
    if high_one <= low_two or high_two <= low_one:
        return False
    i, j = 0, 0
    begin_one, begin_two = low_one, low_two
    while True:
        if begin_one + one[RUN] <= begin_two:
            i += 1
            if i == count_one:
                return False
            begin_one = _begin(one, low_one, i)
        elif begin_two + two[RUN] <= begin_one:
            j += 1
            if j == count_two:
                return False
            begin_two = _begin(two, low_two, j)
        else:
            return True


@njit(cache=True)
def _conflict(index: Any, counters: Any, rows: Any, steps: Any, i: int, j: int) -> bool:
    """Whether places i and j of the stream touch the same memory, one of them writing."""
    a, b = index[i], index[j]
    for s in range(4):
        one = rows[a, s]
        if one[SPACE] == 0:
            continue
        for t in range(4):
            two = rows[b, t]
            if two[SPACE] != one[SPACE] or not (one[WRITES] or two[WRITES]):
                continue
            low_one, low_two = one[LOW], two[LOW]
            for k in range(counters.shape[1]):
                low_one += steps[a, s, k] * counters[i, k]
                low_two += steps[b, t, k] * counters[j, k]
            if _meet(one, low_one, two, low_two):
                return True
    return False


@njit(cache=True)
def find(  # type: ignore[no-untyped-def]
    index, counters, queue, senders, rows, steps, place
):
    """Return the first two places that conflict and are not in order, or (-1, -1).

    With `place` the order is made instead: `senders` gets what each has to wait for.
    """
    n = queue.shape[0]
    # How many of each queue have ended before an instruction starts: its own tokens, and all that
    # whoever sent them, or stands before it in its own queue, had waited for.
    before = np.zeros((n, QUEUES), np.int64)
    position = np.zeros(n, np.int64)  # in its queue
    members = np.zeros((QUEUES, n), np.int64)
    count = np.zeros(QUEUES, np.int64)
    last = np.full(QUEUES, -1, np.int64)  # of each queue
    floor = np.zeros(QUEUES, np.int64)  # a barrier has put these in order
    for i in range(n):
        q = queue[i]
        if q == -2:
            for p in range(QUEUES):
                floor[p] = count[p]
            continue
        if q < 0:
            continue
        for p in range(QUEUES):
            before[i, p] = floor[p]
        if last[q] >= 0:
            for p in range(QUEUES):
                before[i, p] = max(before[i, p], before[last[q], p])
        for p in range(QUEUES):
            sender = senders[i, p]
            if sender >= 0:
                for r in range(QUEUES):
                    before[i, r] = max(before[i, r], before[sender, r])
                before[i, p] = max(before[i, p], position[sender] + 1)
        for p in range(QUEUES):
            if p == q:
                continue
            # From the latest backwards: what is earlier than a conflict is implied by it.
            k = count[p] - 1
            while k >= before[i, p]:
                j = members[p, k]
                if _conflict(index, counters, rows, steps, i, j):
                    if not place:
                        return j, i
                    senders[i, p] = j
                    for r in range(QUEUES):
                        before[i, r] = max(before[i, r], before[j, r])
                    before[i, p] = max(before[i, p], k + 1)
                    break
                k -= 1
        if place:
            _drop_implied(i, before, position, senders)
        position[i] = count[q]
        members[q, count[q]] = i
        count[q] += 1
        last[q] = i
    return -1, -1


@njit(cache=True)
def _drop_implied(i: int, before: Any, position: Any, senders: Any) -> None:
    """Forget tokens that another one's sender had waited for itself."""
    for p in range(QUEUES):
        one = senders[i, p]
        if one < 0:
            continue
        for r in range(QUEUES):
            other = senders[i, r]
            if r != p and other >= 0 and before[other, p] > position[one]:
                senders[i, p] = -1
                break
