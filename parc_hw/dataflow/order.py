"""In which order are a graph's nodes computed, so that few values are alive at once?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from parc_hw.dataflow.expr import Dag, Input, Node, operands

__all__ = ["Define", "Step", "Store", "live_values", "order"]


@dataclass(frozen=True, slots=True)
class Define:
    """Compute value `value` as `node` says; an `Input` node is a load."""

    value: int
    node: Node


@dataclass(frozen=True, slots=True)
class Store:
    """Write value `value` to output `output`."""

    output: int
    value: int


Step = Define | Store


@cache
def order(dag: Dag) -> tuple[Step, ...]:
    """Straight-line code for `dag`: each value defined once, each output stored as soon as it is.

    A printer is one loop:

    >>> from parc_hw.dataflow import Add, Define, Input, Mul, Store, Sub, real_dft
    >>> for step in order(real_dft(3)):
    ...     match step:
    ...         case Define(v, Input(k)): print(f"v{v} = x[{k}]")
    ...         case Define(v, Add(a, b)): print(f"v{v} = v{a} + v{b}")
    ...         case Define(v, Sub(a, b)): print(f"v{v} = v{a} - v{b}")
    ...         case Define(v, Mul(c, a)): print(f"v{v} = {c:.7f} * v{a}")
    ...         case Store(k, v): print(f"y[{k}] = v{v}")
    v1 = x[1]
    v2 = x[2]
    v3 = v1 + v2
    v4 = v1 - v2
    v8 = -0.8660254 * v4
    y[2] = v8
    v0 = x[0]
    v5 = v0 + v3
    y[0] = v5
    v6 = 0.5000000 * v3
    v7 = v0 - v6
    y[1] = v7

    Notes
    -----
    The better of two orders: depth-first through the outputs, and greedy. For the fused
    transform of 28 points 59 and 31 values are alive at the worst moment.
    """
    return min((_greedy(dag), _depth_first(dag)), key=live_values)


def _depth_first(dag: Dag) -> tuple[Step, ...]:
    """Output by output, operands before their reader."""
    steps: list[Step] = []
    done: set[int] = set()
    for output, root in enumerate(dag.outputs):
        stack = [(root, False)]
        while stack:
            position, operands_done = stack.pop()
            if position in done:
                continue
            if operands_done:
                done.add(position)
                steps.append(Define(position, dag.nodes[position]))
            else:
                stack.append((position, True))
                stack.extend((a, False) for a in reversed(operands(dag.nodes[position])))
        steps.append(Store(output, root))
    return tuple(steps)


def _greedy(dag: Dag) -> tuple[Step, ...]:
    """Always the node after which the fewest values are alive.

    Among equals the one that reads the newest value, which is depth-first again. An input is
    loaded when it is first read.
    """
    readers = [0] * len(dag.nodes)
    readers_of: list[list[int]] = [[] for _ in dag.nodes]
    missing = [0] * len(dag.nodes)
    for position, node in enumerate(dag.nodes):
        for operand in set(operands(node)):
            readers[operand] += 1
            readers_of[operand].append(position)
            missing[position] += not isinstance(dag.nodes[operand], Input)
    stores: dict[int, list[int]] = {}
    for index, output in enumerate(dag.outputs):
        stores.setdefault(output, []).append(index)
    steps: list[Step] = []
    born: dict[int, int] = {}
    ready: set[int] = set()

    def define(position: int) -> None:
        ready.discard(position)
        born[position] = len(steps)
        steps.append(Define(position, dag.nodes[position]))
        steps.extend(Store(index, position) for index in stores.get(position, ()))
        for operand in set(operands(dag.nodes[position])):
            readers[operand] -= 1
        if not isinstance(dag.nodes[position], Input):
            for reader in readers_of[position]:
                missing[reader] -= 1
                if missing[reader] == 0:
                    ready.add(reader)

    def cost(position: int) -> tuple[int, int, int]:
        below = set(operands(dag.nodes[position]))
        loaded = sum(operand not in born for operand in below)
        dying = sum(readers[operand] == 1 for operand in below)
        newest = max(born.get(operand, -1) for operand in below)
        return (readers[position] > 0) + loaded - dying, -newest, position

    for position, node in enumerate(dag.nodes):
        if not isinstance(node, Input):
            if missing[position] == 0:
                ready.add(position)
        elif position in stores:
            define(position)
    while ready:
        chosen = min(ready, key=cost)
        for operand in operands(dag.nodes[chosen]):
            if operand not in born:
                define(operand)
        define(chosen)
    return tuple(steps)


def live_values(steps: Sequence[Step]) -> tuple[int, int]:
    """The most values alive at once, and the sum of the numbers alive after each step.

    A value is alive from its definition to its last reader; a result may take the register of
    an operand that dies with it.
    """
    last: dict[int, int] = {}
    for time, step in enumerate(steps):
        for value in operands(step.node) if isinstance(step, Define) else (step.value,):
            last[value] = time
    dying = [0] * len(steps)
    for time in last.values():
        dying[time] += 1
    alive = peak = total = 0
    for time, step in enumerate(steps):
        if isinstance(step, Define):
            alive += 1 - dying[time]
            peak = max(peak, alive)
        else:
            alive -= dying[time]
        total += alive
    return peak, total
