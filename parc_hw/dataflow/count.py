"""What does a graph cost: how many operations, how many roundings in a row, how many registers?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from parc_hw.dataflow.dft import real_dft
from parc_hw.dataflow.expr import Add, Dag, Fma, Input, Mul, Sub, operands
from parc_hw.dataflow.order import live_values, order
from parc_hw.dataflow.simplify import fuse
from parc_hw.dataflow.transpose import transpose
from parc_hw.plan import SplitPlan

__all__ = ["Counts", "count", "plan_depth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Cost of a graph.

    Parameters
    ----------
    additions, multiplications, fused : int
        Add and Sub, Mul, and Fma nodes.
    depth : int
        The most roundings on a path from an input to an output: 1 for a sum, 2 for a product
        (its constant is rounded too), for `c a + b` 2 on the way from a and 1 from b; integer
        nodes 0. The factor of the error bound (see `absolute`).
    live : int
        The most values alive at once in `order`'s sequence.
    """

    additions: int
    multiplications: int
    fused: int
    depth: int
    live: int

    @property
    def operations(self) -> int:
        """Arithmetic instructions: additions, multiplications and fused ones."""
        return self.additions + self.multiplications + self.fused


@cache
def count(dag: Dag) -> Counts:
    """Count the nodes of `dag` and the depth and registers of its order.

    >>> from parc_hw.dataflow import real_dft
    >>> count(real_dft(8))
    Counts(additions=20, multiplications=2, fused=0, depth=5, live=8)
    """
    depths: list[int] = []
    for node in dag.nodes:
        match node:
            case Add() | Sub():
                depths.append(1 + max(depths[a] for a in operands(node)))
            case Mul(_, a):
                depths.append(2 + depths[a])
            case Fma(_, a, b):
                depths.append(max(2 + depths[a], 1 + depths[b]))
            case Input():
                depths.append(0)
            case _:
                depths.append(max(depths[a] for a in operands(node)))
    return Counts(
        additions=sum(isinstance(n, Add | Sub) for n in dag.nodes),
        multiplications=sum(isinstance(n, Mul) for n in dag.nodes),
        fused=sum(isinstance(n, Fma) for n in dag.nodes),
        depth=max((depths[o] for o in dag.outputs), default=0),
        live=live_values(order(dag))[0],
    )


def plan_depth(plan: SplitPlan, channels: int = 1) -> int:
    """The most roundings between an input and an output of a plan's three stages.

    Both transforms (fused), and in the products up to 2 * n2 * channels fused multiply-adds in a row
    (n2 * channels when every row is real) with one rounded weight; `channels` are those that a dense
    ParC sums over. A kernel's error is held to
    `|y - float64| <= (depth + 1) * 2**-24 * sum |w| * max |x|`.

    >>> plan_depth(SplitPlan(n1=1, n2=28)), plan_depth(SplitPlan(n1=14, n2=2))
    (29, 18)
    """
    forward = real_dft(plan.n1)
    both = count(fuse(forward)).depth + count(fuse(transpose(forward))).depth
    return both + plan.n2 * channels * (1 if plan.n1 <= 2 else 2) + 1
