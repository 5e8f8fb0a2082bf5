"""What is the adjoint of a linear graph?"""

from __future__ import annotations

from functools import cache

from parc_hw.dataflow.expr import Add, Dag, Fma, Input, Mul, Shift, Sub, is_linear, operands
from parc_hw.dataflow.simplify import Builder, Term
from parc_hw.errors import InputError

__all__ = ["transpose"]


@cache
def transpose(dag: Dag) -> Dag:
    """The graph of the transposed matrix: `<dag x, y> = <x, transpose(dag) y>` for all x, y.

    Every edge is reversed: a node that was read twice becomes a sum, a sum becomes a node that is
    read twice (Tellegen's principle), so a graph with as many outputs as inputs keeps its number
    of additions and of multiplications.

    Parameters
    ----------
    dag : Dag
        A linear graph in which every input reaches an output.

    Raises
    ------
    InputError
        The graph rounds or saturates, or does not use one of its inputs.
    """
    if not is_linear(dag):
        raise InputError("only a linear graph has a transpose; this one rounds or saturates.")
    builder = Builder(len(dag.outputs))
    total: list[Term | None] = [None] * len(dag.nodes)
    result: list[Term | None] = [None] * dag.inputs
    for index, output in enumerate(dag.outputs):
        total[output] = builder.add(total[output], builder.input(index))

    def give(position: int, term: Term | None) -> None:
        total[position] = builder.add(total[position], term)

    reached = [False] * len(dag.nodes)
    for output in dag.outputs:
        reached[output] = True
    for position in range(len(dag.nodes) - 1, -1, -1):
        if not reached[position]:
            continue
        node, term = dag.nodes[position], total[position]
        for operand in operands(node):
            reached[operand] = True
        match node:
            case Input(index):
                result[index] = term
            case Add(a, b):
                give(a, term)
                give(b, term)
            case Sub(a, b):
                give(a, term)
                give(b, None if term is None else -term)
            case Mul(constant, a):
                give(a, builder.mul(constant, term))
            case Fma(constant, a, b):
                give(a, builder.mul(constant, term))
                give(b, term)
            case Shift(a, bits):
                give(a, builder.shift(term, bits))
    return builder.finish(result)
