"""How is a graph built small: equal nodes shared, zeros and signs gone, products fused?

`Builder` shares equal nodes and keeps signs on references (`Term`), never in nodes. `Builder.
finish` then chooses which nodes hold their negative so that no negation is left to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parc_hw.dataflow.expr import (
    Add,
    Dag,
    Fma,
    Input,
    Mul,
    Node,
    Round,
    Rounding,
    Saturate,
    Shift,
    Sub,
    operands,
    with_operands,
)
from parc_hw.errors import InputError

__all__ = ["Builder", "Term", "absolute", "fuse"]

_FLIPS = 4000  # far more than any codelet of 32 points needs to lose its negations


@dataclass(frozen=True, slots=True)
class Term:
    """A node or its negative, before signs are settled."""

    node: int
    sign: int = 1

    def __neg__(self) -> Term:
        return Term(self.node, -self.sign)


class Builder:
    """Collects the nodes of one graph; `None` stands for a term that is exactly zero.

    Rewrites applied: 0 + a -> a, a - a -> 0, a + a -> 2 a, c (-a) -> -(c a), 1 a -> a,
    0 a -> 0; operands of a sum are sorted, so that a + b and b + a are one node.
    """

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self._nodes: list[Node] = []
        self._known: dict[Node, int] = {}

    def _term(self, node: Node) -> Term:
        position = self._known.get(node)
        if position is None:
            position = self._known[node] = len(self._nodes)
            self._nodes.append(node)
        return Term(position)

    def input(self, index: int) -> Term:
        """Input `index`."""
        return self._term(Input(index))

    def add(self, a: Term | None, b: Term | None) -> Term | None:
        """`a + b`."""
        if a is None:
            return b
        if b is None:
            return a
        if a.node == b.node:
            return self.mul(2, a) if a.sign == b.sign else None
        first, second = sorted((a, b), key=lambda term: term.node)
        if first.sign == second.sign:
            sum_ = self._term(Add(first.node, second.node))
            return sum_ if first.sign > 0 else -sum_
        difference = self._term(Sub(first.node, second.node))
        return difference if first.sign > 0 else -difference

    def sub(self, a: Term | None, b: Term | None) -> Term | None:
        """`a - b`."""
        return self.add(a, None if b is None else -b)

    def mul(self, constant: float, a: Term | None) -> Term | None:
        """`constant * a`."""
        if a is None or constant == 0:
            return None
        if constant < 0:
            constant, a = -constant, -a
        if constant == 1:
            return a
        product = self._term(Mul(constant, a.node))
        return product if a.sign > 0 else -product

    def shift(self, a: Term | None, bits: int) -> Term | None:
        """`a * 2**bits`, exact."""
        if a is None or bits == 0:
            return a
        return Term(self._term(Shift(a.node, bits)).node, a.sign)

    def round(self, a: Term | None, bits: int, rounding: Rounding) -> Term | None:
        """`a / 2**bits`, rounded to an integer."""
        if a is None or bits == 0:
            return a
        return self._term(Round(self._positive(a), bits, rounding))

    def saturate(self, a: Term | None, bits: int) -> Term | None:
        """`a` within a signed integer of `bits` bits."""
        return None if a is None else self._term(Saturate(self._positive(a), bits))

    def _positive(self, a: Term) -> int:
        """The node of `a` for a reader that is not odd, so cannot take the negative instead."""
        return a.node if a.sign > 0 else self._term(Mul(-1, a.node)).node

    def finish(self, outputs: Sequence[Term | None]) -> Dag:
        """The graph of what `outputs` need, each output with its own sign.

        Raises
        ------
        InputError
            An output is identically zero: no node computes it.
        """
        terms = []
        for index, term in enumerate(outputs):
            if term is None:
                raise InputError(
                    f"output {index} is identically zero; a graph has no node for zero. "
                    "Leave that output out."
                )
            terms.append(term)
        return _settle_signs(self.inputs, self._nodes, terms)


def _needed(nodes: Sequence[Node], outputs: Sequence[int]) -> list[int]:
    """Positions that some output depends on, ascending."""
    needed = set(outputs)
    for position in range(len(nodes) - 1, -1, -1):
        if position in needed:
            needed.update(operands(nodes[position]))
    return sorted(needed)


class _Signs:
    """Which nodes are stored negated, so that nothing needs to be negated afterwards.

    With p = +-1 per node, a + b becomes p(a + b) = (p pa) a' + (p pb) b', which is an Add or a
    Sub unless both signs are negative. That, and an output with the wrong sign, is a conflict;
    conflicts are removed by flipping, of the nodes concerned, the one that leaves fewest. A
    lesser conflict is c a - b, which no fused multiply-add computes: it is avoided when free.
    """

    CONFLICT = 1000  # above any number of lesser ones

    def __init__(self, nodes: Sequence[Node], outputs: Sequence[Term]) -> None:
        self.nodes = nodes
        self.alive = _needed(nodes, [term.node for term in outputs])
        self.users: dict[int, list[int]] = {position: [] for position in self.alive}
        # inputs are given, and Round and Saturate are not odd: their signs cannot move
        self.fixed: set[int] = set()
        for position in self.alive:
            node = nodes[position]
            for operand in operands(node):
                self.users[operand].append(position)
            if isinstance(node, Input | Round | Saturate):
                self.fixed.update((position, *operands(node)))
        self.wanted: dict[int, set[int]] = {}
        for term in outputs:
            self.wanted.setdefault(term.node, set()).add(term.sign)
        self.fusible = {
            position
            for position in self.alive
            if isinstance(nodes[position], Mul)
            and position not in self.wanted
            and all(isinstance(nodes[user], Add | Sub) for user in self.users[position])
        }
        self.polarity = dict.fromkeys(self.alive, 1)
        self._settle()

    def of_operands(self, position: int) -> tuple[int, int]:
        """Signs of the stored operands of the sum at `position`."""
        node = self.nodes[position]
        assert isinstance(node, Add | Sub)
        own = self.polarity[position]
        second = 1 if isinstance(node, Add) else -1
        return own * self.polarity[node.a], own * second * self.polarity[node.b]

    def _cost(self, position: int) -> int:
        node = self.nodes[position]
        wrong = sum(s != self.polarity[position] for s in self.wanted.get(position, ()))
        cost = self.CONFLICT * wrong
        if isinstance(node, Add | Sub):
            first, second = self.of_operands(position)
            if first < 0 and second < 0:
                cost += self.CONFLICT
            elif (node.a in self.fusible) != (node.b in self.fusible):
                cost += (second if node.a in self.fusible else first) < 0
        return cost

    def _gain(self, position: int) -> int:
        """How much cost a flip of `position` removes."""
        touched = {position, *self.users[position]}
        before = sum(map(self._cost, touched))
        self.polarity[position] *= -1
        after = sum(map(self._cost, touched))
        self.polarity[position] *= -1
        return before - after

    def _settle(self) -> None:
        conflicts = dict.fromkeys(p for p in self.alive if self._cost(p) >= self.CONFLICT)

        def flip(position: int) -> None:
            self.polarity[position] *= -1
            for changed in (position, *self.users[position]):
                if self._cost(changed) >= self.CONFLICT:
                    conflicts[changed] = None
                else:
                    conflicts.pop(changed, None)

        last_flip = dict.fromkeys(self.alive, -1)
        for turn in range(_FLIPS):
            if not conflicts:
                break
            worst = min(conflicts, key=last_flip.__getitem__)
            movable = [p for p in (worst, *operands(self.nodes[worst])) if p not in self.fixed]
            if not movable:
                break
            # what was flipped longest ago breaks ties, so that the walk cannot circle in place
            chosen = max(movable, key=lambda p: (self._gain(p), -last_flip[p]))
            last_flip[chosen] = turn
            flip(chosen)
        improving = True
        while improving:
            improving = False
            for position in self.alive:
                if position not in self.fixed and self._gain(position) > 0:
                    flip(position)
                    improving = True


def _settle_signs(inputs: int, nodes: Sequence[Node], outputs: Sequence[Term]) -> Dag:
    """The graph of `outputs` with signs in Sub and in constants; -1 times what could not settle."""
    signs = _Signs(nodes, outputs)
    polarity = signs.polarity
    result: list[Node] = []
    known: dict[Node, int] = {}
    place: dict[int, int] = {}

    def put(node: Node) -> int:
        if node not in known:
            known[node] = len(result)
            result.append(node)
        return known[node]

    for position in signs.alive:
        node = nodes[position]
        match node:
            case Add(a, b) | Sub(a, b):
                first, second = signs.of_operands(position)
                if first > 0:
                    new: Node = (Add if second > 0 else Sub)(place[a], place[b])
                elif second > 0:
                    new = Sub(place[b], place[a])
                else:
                    new = Mul(-1, put(Add(place[a], place[b])))
            case Mul(constant, a):
                new = Mul(constant * polarity[position] * polarity[a], place[a])
            case _:
                new = with_operands(node, place.__getitem__)
                if isinstance(node, Shift) and polarity[position] != polarity[node.a]:
                    new = Mul(-1, put(new))
        place[position] = put(new)
    placed = [
        place[t.node] if t.sign == polarity[t.node] else put(Mul(-1, place[t.node]))
        for t in outputs
    ]
    return Dag(inputs, tuple(result), tuple(placed))


def fuse(dag: Dag) -> Dag:
    """Products that only feed sums become part of them: `b + c a` in one rounding (`Fma`).

    A product is fused only into all of its readers at once, so that it vanishes. Fusing
    changes last bits; a kernel and what it is compared with must fuse alike.
    """
    users: dict[int, list[int]] = {}
    for position, node in enumerate(dag.nodes):
        for operand in operands(node):
            users.setdefault(operand, []).append(position)
    nodes: list[Node] = list(dag.nodes)
    for position, node in enumerate(dag.nodes):
        if not isinstance(node, Mul) or position in dag.outputs:
            continue
        replaced: dict[int, Node] = {}
        for user in users.get(position, ()):
            match nodes[user]:
                case Add(a, b) if a != b:
                    replaced[user] = Fma(node.constant, node.a, b if a == position else a)
                case Sub(a, b) if b == position and a != b:
                    replaced[user] = Fma(-node.constant, node.a, a)
                case _:
                    break
        else:
            for user, new in replaced.items():
                nodes[user] = new
    return _compact(dag.inputs, nodes, dag.outputs)


def absolute(dag: Dag) -> Dag:
    """The graph with |constants| and every difference a sum.

    On |x| it bounds every intermediate magnitude: a linear graph evaluated with unit roundoff
    u errs, output by output, by at most (1 + u)**depth - 1 times this graph's output on |x|,
    `depth` from `count`.
    """
    nodes: list[Node] = []
    for node in dag.nodes:
        match node:
            case Sub(a, b):
                nodes.append(Add(a, b))
            case Mul(constant, a):
                nodes.append(Mul(abs(constant), a))
            case Fma(constant, a, b):
                nodes.append(Fma(abs(constant), a, b))
            case _:
                nodes.append(node)
    return _compact(dag.inputs, nodes, dag.outputs)


def _compact(inputs: int, nodes: Sequence[Node], outputs: Sequence[int]) -> Dag:
    """The graph without the nodes nobody needs, equal nodes shared."""
    result: list[Node] = []
    known: dict[Node, int] = {}
    place: dict[int, int] = {}
    for position in _needed(nodes, outputs):
        new = with_operands(nodes[position], place.__getitem__)
        if new not in known:
            known[new] = len(result)
            result.append(new)
        place[position] = known[new]
    return Dag(inputs, tuple(result), tuple(place[o] for o in outputs))
