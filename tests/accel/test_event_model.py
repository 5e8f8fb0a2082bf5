"""The compiled event model against one that looks at every cycle, on random streams."""

from __future__ import annotations

import numpy as np
import pytest

from parc_hw.accel.events import simulate
from parc_hw.accel.stream import DISPATCHER, HALT
from parc_hw.isa import Queue

MOVES = (Queue.LOAD, Queue.STORE)


def cycle_by_cycle(queue, cycles, latency, senders, depths, channels, issue):
    """docs/accelerator.md read aloud: start, bus and end of every instruction."""
    n = len(queue)
    arrival, start, bus, end = ([None] * n for _ in range(4))
    fetch_until, at, now, bus_until = issue, 0, 0, 0

    def over(i):
        return end[i] is not None and end[i] <= now

    while any(each is None for each in end) or now < max(end):
        moved = True
        while moved:
            moved = False
            if at < n and now >= fetch_until:
                q = queue[at]
                mine = [i for i in range(at) if queue[i] == q]
                waiting = [i for i in mine if start[i] is None]
                if q == DISPATCHER:
                    arrival[at] = start[at] = bus[at] = end[at] = now
                    fetch_until, at, moved = now + issue, at + 1, True
                elif q == HALT:
                    if all(over(i) for i in range(at)):
                        start[at] = bus[at] = now
                        end[at] = now + cycles[at]
                        fetch_until, at, moved = end[at] + issue, at + 1, True
                elif len(waiting) < depths[q]:
                    arrival[at] = now
                    fetch_until, at, moved = now + issue, at + 1, True
            for q in Queue:
                mine = [i for i in range(at) if queue[i] == q]
                head = next((i for i in mine if start[i] is None), None)
                if head is None:
                    continue
                busy = [i for i in mine if start[i] is not None and not over(i)]
                room = channels if q in MOVES else 1
                tokens = all(s < 0 or over(s) for s in senders[head])
                if len(busy) < room and tokens:
                    start[head] = now
                    moved = True
                    if q not in MOVES:
                        bus[head], end[head] = now, now + cycles[head]
            if now >= bus_until:
                asking = []
                for q in MOVES:
                    mine = [i for i in range(at) if queue[i] == q and start[i] is not None]
                    head = next((i for i in mine if bus[i] is None), None)
                    if head is not None:
                        since = start[head] + (latency[head] if q == Queue.LOAD else 0)
                        if since <= now:
                            asking.append((since, q, head))
                if asking:
                    _, q, i = min(asking)
                    bus[i], bus_until = now, now + cycles[i]
                    end[i] = bus_until + (latency[i] if q == Queue.STORE else 0)
                    moved = True
        now += 1
        assert now < 100_000
    return start, bus, end


def random_stream(rng, n):
    kinds = [*Queue, DISPATCHER, HALT]
    weights = np.array([4, 3, 1, 1, 3, 3, 1, 0.3])
    queue = rng.choice(kinds, n, p=weights / weights.sum()).astype(np.int8)
    cycles = rng.integers(1, 12, n)
    cycles[queue == HALT] = rng.integers(0, 5, (queue == HALT).sum())
    cycles[queue == DISPATCHER] = 0
    latency = np.where(np.isin(queue, MOVES), rng.integers(0, 15), 0)
    senders = np.full((n, 6), -1)
    for i in range(n):
        for p in Queue:
            earlier = np.flatnonzero(queue[:i] == p)
            if queue[i] >= 0 and queue[i] != p and len(earlier) and rng.random() < 0.3:
                senders[i, p] = rng.choice(earlier)
    return queue, cycles, latency, senders


@pytest.mark.parametrize("seed", range(60))
def test_events_are_what_looking_at_every_cycle_gives(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    stream = random_stream(rng, n)
    depths = rng.integers(1, 4, 6)
    channels, issue = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    start, bus, end = cycle_by_cycle(*(each.tolist() for each in stream), depths, channels, issue)
    found = [np.zeros(n, np.int64) for _ in range(4)]
    stalls = np.zeros((6, 9), np.int64)
    queue, *numbers = stream
    last = simulate(
        queue, *(each.astype(np.int64) for each in numbers), depths, channels, issue, *found, stalls
    )
    assert found[1].tolist() == start
    assert found[2].tolist() == bus
    assert found[3].tolist() == end
    assert last == max(end)
