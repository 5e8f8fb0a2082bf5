"""Which operators become one kernel?

An anchor takes the element-wise operators that follow it as its epilogue, as long as nothing else
reads a value between; a rule may take any prefix of that chain for which the same holds. So a chain
has one result, and no cycle runs through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parc_hw.errors import UnsupportedError
from parc_hw.lower.graph import INPUT, VIEW, Graph, Use
from parc_hw.lower.layout import ELEMENTWISE
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Rule, Scheduled

__all__ = ["Step", "compose", "half_sites", "schedule_graph"]

_HALF = 5  # slice, parc, slice, parc, concat


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One kernel call of the model: what it computes, from which vertices, into which one."""

    composite: Composite
    chain: tuple[int, ...]  # the vertices computed; the last one is the result
    inputs: tuple[int, ...]  # the vertices read, in the order of the composite's inputs
    scheduled: Scheduled
    refusals: tuple[NotApplicable, ...]  # of the rules asked before the one that took it

    @property
    def output(self) -> int:
        """The vertex written."""
        return self.chain[-1]


def compose(graph: Graph, chain: Sequence[int]) -> tuple[Composite, tuple[int, ...]]:
    """The composite of the vertices `chain`, and the vertices it reads from outside."""
    place = {vertex: index for index, vertex in enumerate(chain)}
    inputs: list[int] = []

    def operand(arg: Any) -> Any:
        if isinstance(arg, tuple):
            return tuple(operand(item) for item in arg)
        if not isinstance(arg, Use):
            return arg
        if arg.vertex in place:
            return Ref("node", place[arg.vertex])
        if arg.vertex not in inputs:
            inputs.append(arg.vertex)
        return Ref("input", inputs.index(arg.vertex))

    nodes = []
    for number in chain:
        vertex = graph.vertices[number]
        args = tuple(operand(arg) for arg in vertex.args)
        nodes.append(Node(op=vertex.op, args=args, attrs=vertex.attrs, shape=vertex.shape))
    shapes = tuple(graph.vertices[number].shape for number in inputs)
    return Composite(inputs=shapes, nodes=tuple(nodes)), tuple(inputs)


def half_sites(graph: Graph) -> dict[int, tuple[int, ...]]:
    """Concatenations of ParC over the two halves of one tensor's channels (ParC-ConvNets).

    Returns
    -------
    dict of int to tuple of int
        Concat vertex -> (slice, parc, slice, parc, concat), a chain for one kernel.
    """
    users = graph.users()
    sites: dict[int, tuple[int, ...]] = {}
    for number, vertex in enumerate(graph.vertices):
        if vertex.op != "relax.concat" or len(vertex.shape) != 4 or vertex.attrs["axis"] != 3:
            continue
        parts = vertex.uses()
        if len(parts) != 2 or not all(isinstance(item, Use) for item in vertex.args[0]):
            continue
        chain: list[int] = []
        edges = [0]
        origins = set()
        for part in parts:
            parc = graph.vertices[part]
            if parc.op != "relax.parc" or parc.attrs["layout"] != "NHWC" or users[part] != [number]:
                break
            source = parc.uses()[0]
            cut = graph.vertices[source]
            if (
                cut.op != "relax.strided_slice"
                or users[source] != [part]
                or cut.attrs["axes"] != (3,)
                or cut.attrs["strides"] != (1,)
                or cut.attrs["begin"] != (edges[-1],)
                or parc.args[1].ndim != 2
            ):
                break
            edges.append(cut.attrs["end"][0])
            origins.add(cut.uses()[0])
            chain += [source, part]
        else:
            (origin,) = origins if len(origins) == 1 else (None,)
            if origin is not None and edges[-1] == graph.vertices[origin].shape[3]:
                sites[number] = (*chain, number)
    return sites


def _chains(graph: Graph) -> list[list[int]]:
    """Chains that cover every live operator once, in the order of their last vertices."""
    users, live, sites = graph.users(), graph.live(), half_sites(graph)
    taken = {number for site, chain in sites.items() if site in live for number in chain}
    starts: dict[int, list[int]] = {}
    for number, vertex in enumerate(graph.vertices):
        if number in live and vertex.op not in (INPUT, VIEW):
            if number in sites:
                starts[number] = list(sites[number])
            elif number not in taken:
                starts[number] = [number]
    chains: list[list[int]] = []
    done: set[int] = set()
    for start, chain in starts.items():
        if start in done:
            continue
        shape = graph.vertices[chain[-1]].shape
        first = len(chain)
        while True:
            # The earliest reader of anything in the chain: later ones may depend on it.
            readers = {u for number in chain for u in users.get(number, [])} - set(chain)
            number = min(readers, default=-1)
            if number not in starts or number in done:
                break
            vertex = graph.vertices[number]
            if vertex.op not in ELEMENTWISE or vertex.shape != shape:
                break
            chain.append(number)
        while len(chain) > first and not _closed(chain, users):
            chain.pop()
        done.update(chain)
        chains.append(chain)
    return sorted(chains, key=lambda chain: chain[-1])


def _closed(chain: Sequence[int], users: Mapping[int, Sequence[int]]) -> bool:
    """Whether nothing outside `chain` reads any value of it but the last one."""
    inside = set(chain)
    return all(inside.issuperset(users.get(number, ())) for number in chain[:-1])


def _offer(
    graph: Graph,
    users: Mapping[int, Sequence[int]],
    rule: Rule,
    chain: Sequence[int],
    shortest: int,
    context: Context,
) -> tuple[Scheduled, Composite, tuple[int, ...], int] | NotApplicable:
    """Ask one rule for the whole chain, then for ever shorter prefixes; its answer to the shortest."""
    answer: Scheduled | NotApplicable = NotApplicable("none", "empty chain")
    for count in range(len(chain), shortest - 1, -1):
        if not _closed(chain[:count], users):
            continue
        composite, inputs = compose(graph, chain[:count])
        answer = rule(composite, context)
        if isinstance(answer, Scheduled):
            return answer, composite, inputs, count
    assert isinstance(answer, NotApplicable)
    return answer


def schedule_graph(graph: Graph, rules: Sequence[Rule], context: Context) -> list[Step]:
    """Ask the rules for a kernel for every chain.

    Each rule is offered the whole chain, then ever shorter prefixes; what a rule leaves starts
    a chain of its own. The last rule is asked only when no other takes any prefix.

    Raises
    ------
    UnsupportedError
        No rule takes some operator; all of them are listed with where they come from.
    """
    steps: list[Step] = []
    missing: list[str] = []
    pending = _chains(graph)[::-1]
    users = graph.users()
    while pending:
        chain = pending.pop()
        # A half site is taken with its concatenation or not at all.
        half = graph.vertices[chain[0]].op == "relax.strided_slice" and len(chain) >= _HALF
        refusals: list[NotApplicable] = []
        for rule in rules:
            answer = _offer(graph, users, rule, chain, _HALF if half else 1, context)
            if isinstance(answer, NotApplicable):
                refusals.append(answer)
                continue
            scheduled, composite, inputs, count = answer
            steps.append(
                Step(
                    composite=composite,
                    chain=tuple(chain[:count]),
                    inputs=inputs,
                    scheduled=scheduled,
                    refusals=tuple(refusals),
                )
            )
            if count < len(chain):
                pending.append(chain[count:])
            break
        else:
            if half:
                pending += [[number] for number in reversed(chain)]
                continue
            vertex = graph.vertices[chain[0]]
            reasons = "; ".join(f"{r.rule}: {r.reason}" for r in refusals)
            missing.append(f"{vertex.op} at {vertex.module or 'the top level'} ({reasons})")
            pending += [[number] for number in reversed(chain[1:])]
    if missing:
        listed = "\n  ".join(dict.fromkeys(missing))
        raise UnsupportedError(
            f"{len(missing)} operator(s) have no kernel:\n  {listed}\n"
            "Replace them in the model, or compile the part before them."
        )
    return sorted(steps, key=lambda step: step.output)
