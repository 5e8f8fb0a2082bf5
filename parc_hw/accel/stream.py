"""Which instructions does the dispatcher meet in which order, and which token goes to whom?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parc_hw.accel.checks import loop_counts
from parc_hw.errors import InputError
from parc_hw.isa import LOOPS, Instruction, Opcode, Queue

__all__ = ["DISPATCHER", "HALT", "Stream", "expand", "match_tokens"]

DISPATCHER: Final = -1
"""In place of a queue: LOOP and END, which the dispatcher does itself."""
HALT: Final = -2
"""In place of a queue: BARRIER and HOST, for which it waits until all is idle."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Stream:
    """A program with its loops unrolled: one place for each time an instruction is met.

    Attributes
    ----------
    index : int array, shape (n,)
        Which instruction of the program.
    counters : int array, shape (n, 4)
        Of the loops around it, outermost first.
    queue : int8 array, shape (n,)
        `Queue`, `DISPATCHER` or `HALT`.
    """

    index: Ints
    counters: Ints
    queue: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.index)


def expand(instructions: Sequence[Instruction], most: int) -> Stream:
    """Unroll the loops of a program.

    Raises
    ------
    InputError
        More than `most` places; or loops that are not right.
    """
    counts = loop_counts(instructions)
    total = 0
    for each, around in zip(instructions, counts, strict=True):
        times = 1
        for count in around:
            times *= count
        # A loop's END is met as often as the loop turns.
        more = each.extents[0] if each.opcode is Opcode.LOOP else 0
        total += times * (1 - (each.opcode is Opcode.END) + more)
    if total > most:
        raise InputError(
            f"the program meets {total} instructions, its loops unrolled; at most {most} are "
            f"simulated."
        )
    blocks: list[list[tuple[Ints, Ints]]] = [[]]
    opened: list[int] = []
    for number, each in enumerate(instructions):
        one = np.array([number], np.int64), np.zeros((1, LOOPS), np.int64)
        if each.opcode is Opcode.LOOP:
            blocks[-1].append(one)
            blocks.append([])
            opened.append(each.extents[0])
        elif each.opcode is Opcode.END:
            body = blocks.pop()
            body.append(one)
            count, depth = opened.pop(), len(opened)
            index = np.concatenate([part[0] for part in body])
            counters = np.concatenate([part[1] for part in body])
            turns = np.tile(counters, (count, 1))
            turns[:, depth] = np.repeat(np.arange(count), len(index))
            blocks[-1].append((np.tile(index, count), turns))
        else:
            blocks[-1].append(one)
    parts = blocks[0]
    index = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int64)
    counters = (
        np.concatenate([part[1] for part in parts]) if parts else np.zeros((0, LOOPS), np.int64)
    )
    kinds = np.array([_queue(each) for each in instructions], np.int8)
    return Stream(index, counters, kinds[index] if parts else np.zeros(0, np.int8))


def _queue(each: Instruction) -> int:
    if each.opcode in (Opcode.LOOP, Opcode.END):
        return DISPATCHER
    if each.opcode in (Opcode.BARRIER, Opcode.HOST):
        return HALT
    queue = each.queue
    assert queue is not None
    return int(queue)


def match_tokens(instructions: Sequence[Instruction], stream: Stream) -> Ints:
    """Return who sends each token that is waited for: shape (n, 6), -1 where none is.

    The k-th token from queue p to queue q is taken by the k-th instruction of q that waits for p.

    Raises
    ------
    InputError
        An instruction waits for a token that nothing before it sends: the machine would hang.
    """
    senders = np.full((len(stream), len(Queue)), -1, np.int64)
    wait = np.array([each.wait for each in instructions], np.int64)[stream.index]
    signal = np.array([each.signal for each in instructions], np.int64)[stream.index]
    for p in Queue:
        sent = stream.queue == p
        for q in Queue:
            taken = np.flatnonzero((stream.queue == q) & (wait >> p & 1 == 1))
            if not len(taken):
                continue
            sending = np.flatnonzero(sent & (signal >> q & 1 == 1))
            count = min(len(taken), len(sending))
            late = np.flatnonzero(sending[:count] > taken[:count])
            if count < len(taken) or len(late):
                place = taken[late[0] if len(late) else count]
                number = int(stream.index[place])
                raise InputError(
                    f"instruction {number} ({instructions[number].opcode.name}) waits for a token "
                    f"from {p.name} that no instruction before it sends: {q.name} would hang."
                )
            senders[taken, p] = sending[:count]
    return senders
