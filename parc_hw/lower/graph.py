"""What is a model between import and kernels: which operators, on which values, in which memory order?

A `Graph` is plain data. Every value has a logical shape (as the source model means it) and an
order of its axes in memory; `Vertex.shape` is the shape in memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["INPUT", "VIEW", "Graph", "Use", "Vertex"]

INPUT = "input"  # op of a vertex that stands for a model input
VIEW = "view"  # op of a vertex that renames its argument's bytes


@dataclass(frozen=True, slots=True)
class Use:
    """An operand that another vertex computes."""

    vertex: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertex:
    """One operator with its result.

    `args` holds `Use`, `np.ndarray` (constants, already in memory order), tuples of those,
    and plain values.
    """

    op: str
    args: tuple[Any, ...]
    attrs: dict[str, Any]
    shape: tuple[int, ...]  # in memory
    order: tuple[int, ...]  # order[k] = logical axis stored at memory position k
    source: str = ""  # the source graph's node with this value, "" when there is none
    module: str = ""  # dotted path of the source module

    def uses(self) -> list[int]:
        """Vertices read, in argument order, repeated when read twice."""
        operands = (item for a in self.args for item in (a if isinstance(a, tuple) else (a,)))
        return [item.vertex for item in operands if isinstance(item, Use)]


@dataclass(slots=True)
class Graph:
    """Vertices in execution order; inputs come first."""

    vertices: list[Vertex] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add(self, vertex: Vertex) -> int:
        """Append `vertex`; returns its number."""
        self.vertices.append(vertex)
        return len(self.vertices) - 1

    def root(self, number: int) -> int:
        """The vertex whose bytes `number` names: itself, or what its chain of views starts at."""
        while self.vertices[number].op == VIEW:
            number = self.vertices[number].uses()[0]
        return number

    def users(self) -> dict[int, list[int]]:
        """For each vertex the live vertices that read it, once per read; outputs count as -1."""
        users: dict[int, list[int]] = {}
        for number in sorted(self.live()):
            for used in self.vertices[number].uses():
                users.setdefault(used, []).append(number)
        for number in self.outputs:
            users.setdefault(number, []).append(-1)
        return users

    def live(self) -> set[int]:
        """Vertices that an output depends on."""
        seen: set[int] = set()
        stack = list(self.outputs)
        while stack:
            number = stack.pop()
            if number not in seen:
                seen.add(number)
                stack.extend(self.vertices[number].uses())
        return seen
