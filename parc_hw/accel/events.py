"""When does every instruction arrive, start and end, given how long each takes?

The event model of docs/accelerator.md, compiled. Time goes from one event to the next: the dispatcher
hands an instruction to its queue, a unit starts one, the bus takes a transfer, a unit ends.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit

__all__ = ["FULL", "NOTHING", "REASONS", "WAITING_BUS", "simulate"]

QUEUES: Final = 6
LOAD: Final = 0
STORE: Final = 5
NOTHING: Final = 6  # reasons of a stall: a token from queue 0 to 5, an empty queue, the bus
WAITING_BUS: Final = 7
FULL: Final = 8  # of the dispatcher: this queue was full
REASONS: Final = 9


@njit(cache=True)
def simulate(  # type: ignore[no-untyped-def]
    queue, cycles, latency, senders, depths, channels, issue, arrival, start, bus, end, stalls
):
    """Fill arrival, start, bus and end of n instructions, and stalls (6, 9); the last cycle.

    Parameters
    ----------
    queue : int8 (n,)
        -1: the dispatcher's own; -2: it waits for everything to be idle, then for `cycles`.
    cycles, latency : int64 (n,)
        Of a transfer: on the bus, and before (LOAD) or behind (STORE) it.
    senders : int64 (n, 6)
        Instructions that must have ended, or -1.
    depths : int64 (6,)
    channels, issue : int
    """
    n = queue.shape[0]
    order = np.full((QUEUES, n), -1, np.int64)
    total = np.zeros(QUEUES, np.int64)
    for i in range(n):
        if queue[i] >= 0:
            order[queue[i], total[queue[i]]] = i
            total[queue[i]] += 1
    dispatched = np.zeros(QUEUES, np.int64)
    started = np.zeros(QUEUES, np.int64)
    granted = np.zeros(QUEUES, np.int64)  # LOAD and STORE: transfers that have had the bus
    free = np.zeros(QUEUES, np.int64)
    ended = np.zeros(QUEUES, np.int64)  # the latest end of what has started
    never = np.int64(1) << 62
    bus_free = np.int64(0)
    now = np.int64(0)
    at = 0
    ready = np.int64(issue)
    done = np.int64(0)
    for i in range(n):
        end[i] = never
    while True:
        progress = True
        while progress:
            progress = False
            # the dispatcher
            while at < n and ready <= now:
                q = queue[at]
                if q == -1:
                    arrival[at] = start[at] = bus[at] = end[at] = ready
                    done = max(done, ready)
                    at += 1
                    ready += issue
                    progress = True
                    continue
                if q == -2:
                    idle = True
                    latest = ready
                    for p in range(QUEUES):
                        if started[p] < dispatched[p] or (
                            (p in (LOAD, STORE)) and granted[p] < started[p]
                        ):
                            idle = False
                        latest = max(latest, ended[p])
                    if not idle or latest > now:
                        break
                    arrival[at] = ready
                    start[at] = bus[at] = now
                    end[at] = now + cycles[at]
                    done = max(done, end[at])
                    ready = end[at] + issue
                    at += 1
                    progress = True
                    continue
                if dispatched[q] - started[q] >= depths[q]:
                    break
                stalls[q, FULL] += now - ready
                arrival[at] = now
                dispatched[q] += 1
                at += 1
                ready = now + issue
                progress = True
            # units
            for q in range(QUEUES):
                while started[q] < dispatched[q]:
                    i = order[q, started[q]]
                    moves = q in (LOAD, STORE)
                    if moves:
                        k = started[q] - channels
                        room = np.int64(0) if k < 0 else end[order[q, k]]
                        if started[q] > 0:
                            room = max(room, start[order[q, started[q] - 1]])
                    else:
                        room = free[q]
                    if room > now:
                        break
                    token, from_queue = np.int64(0), -1
                    for p in range(QUEUES):
                        if senders[i, p] >= 0 and end[senders[i, p]] > token:
                            token, from_queue = end[senders[i, p]], p
                    if token > now:
                        break
                    start[i] = now
                    idle_from = room
                    if arrival[i] > idle_from:
                        stalls[q, NOTHING] += arrival[i] - idle_from
                        idle_from = arrival[i]
                    if token > idle_from and from_queue >= 0:
                        stalls[q, from_queue] += token - idle_from
                    started[q] += 1
                    progress = True
                    if not moves:
                        bus[i] = now
                        end[i] = now + cycles[i]
                        free[q] = end[i]
                        ended[q] = end[i]
                        done = max(done, end[i])
            # the bus: the transfer that has waited longest, LOAD first
            while bus_free <= now:
                best, best_ready = -1, never
                for q in (LOAD, STORE):
                    if granted[q] < started[q]:
                        i = order[q, granted[q]]
                        asked = start[i] + (latency[i] if q == LOAD else 0)
                        if asked < best_ready:
                            best, best_ready = q, asked
                if best < 0 or best_ready > now:
                    break
                i = order[best, granted[best]]
                bus[i] = now
                stalls[best, WAITING_BUS] += now - best_ready
                bus_free = now + cycles[i]
                end[i] = bus_free + (latency[i] if best == STORE else 0)
                ended[best] = max(ended[best], end[i])
                done = max(done, end[i])
                granted[best] += 1
                progress = True
        # the next event
        later = never
        if at < n and ready > now:
            later = ready
        if bus_free > now:
            later = min(later, bus_free)
        for q in range(QUEUES):
            if ended[q] > now:
                later = min(later, ended[q])
            if q in (LOAD, STORE):
                for k in range(max(started[q] - channels, 0), started[q]):
                    i = order[q, k]
                    if now < end[i] < never:
                        later = min(later, end[i])
                if granted[q] < started[q]:
                    i = order[q, granted[q]]
                    asked = start[i] + (latency[i] if q == LOAD else 0)
                    if asked > now:
                        later = min(later, asked)
        if later == never:
            break
        now = later
    if at < n:
        return np.int64(-1)
    for q in range(QUEUES):
        if started[q] < total[q]:
            return np.int64(-1)
    return done
