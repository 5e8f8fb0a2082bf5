"""What is one butterfly or codelet, as data: which nodes does its graph have, and what do they mean?

A `Dag` is straight-line code without names, loops or machine: inputs, additions,
subtractions, multiplications by constants and, for integers, shift, round and saturate.
Everything that computes it (numpy here, kernels, simulators, hardware) prints the same graph.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parc_hw.errors import InputError

__all__ = [
    "Add",
    "Dag",
    "Fma",
    "Input",
    "Mul",
    "Node",
    "Round",
    "Rounding",
    "Saturate",
    "Shift",
    "Sub",
    "evaluate",
    "is_linear",
    "operands",
    "with_operands",
]


class Rounding(enum.Enum):
    """What happens to dropped low bits: the direction of a discarded fraction."""

    FLOOR = "floor"
    TOWARD_ZERO = "toward_zero"
    HALF_UP = "half_up"
    HALF_EVEN = "half_even"
    HALF_AWAY = "half_away"


@dataclass(frozen=True, slots=True)
class Input:
    """Element `index` of the input vector."""

    index: int


@dataclass(frozen=True, slots=True)
class Add:
    """`a + b`; operands are positions in `Dag.nodes`."""

    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Sub:
    """`a - b`."""

    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Mul:
    """`constant * a`; an integer graph has an integer constant."""

    constant: float
    a: int


@dataclass(frozen=True, slots=True)
class Fma:
    """`constant * a + b`, rounded once."""

    constant: float
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Shift:
    """`a * 2**bits` of an integer, exact; `bits` >= 0 (dropping bits is `Round`)."""

    a: int
    bits: int


@dataclass(frozen=True, slots=True)
class Round:
    """`a / 2**bits` of an integer, rounded to an integer; `bits` >= 0."""

    a: int
    bits: int
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class Saturate:
    """The nearest value to `a` that a signed integer of `bits` bits holds."""

    a: int
    bits: int


Node = Input | Add | Sub | Mul | Fma | Shift | Round | Saturate


def operands(node: Node) -> tuple[int, ...]:
    """The positions of the nodes that `node` reads, in order."""
    match node:
        case Input():
            return ()
        case Add(a, b) | Sub(a, b) | Fma(_, a, b):
            return (a, b)
        case Mul(_, a) | Shift(a, _) | Round(a, _, _) | Saturate(a, _):
            return (a,)


def with_operands(node: Node, position: Callable[[int], int]) -> Node:
    """`node` reading `position(i)` wherever it read `i`."""
    match node:
        case Input():
            return node
        case Add(a, b):
            return Add(position(a), position(b))
        case Sub(a, b):
            return Sub(position(a), position(b))
        case Mul(constant, a):
            return Mul(constant, position(a))
        case Fma(constant, a, b):
            return Fma(constant, position(a), position(b))
        case Shift(a, bits):
            return Shift(position(a), bits)
        case Round(a, bits, rounding):
            return Round(position(a), bits, rounding)
        case Saturate(a, bits):
            return Saturate(position(a), bits)


@dataclass(frozen=True, slots=True)
class Dag:
    """A graph of nodes in an order in which every node comes after its operands.

    Parameters
    ----------
    inputs : int
        Length of the input vector.
    nodes : tuple of Node
        Each node once; operands are positions in this tuple.
    outputs : tuple of int
        Position of the node that is output 0, 1, ...

    Raises
    ------
    InputError
        A node reads itself or a later one, an input or an output is out of range.
    """

    inputs: int
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        for position, node in enumerate(self.nodes):
            if any(not 0 <= a < position for a in operands(node)):
                raise InputError(
                    f"node {position}, {node}, reads a node that does not come before it; "
                    "list every node after its operands."
                )
            if isinstance(node, Input) and not 0 <= node.index < self.inputs:
                raise InputError(
                    f"node {position} is input {node.index}, but the graph has {self.inputs} "
                    f"inputs; accepted are 0 to {self.inputs - 1}."
                )
            if isinstance(node, Shift | Round | Saturate):
                least = 1 if isinstance(node, Saturate) else 0
                if node.bits < least:
                    raise InputError(
                        f"node {position}, {node}: bits must be at least {least}. "
                        "To drop bits use Round, to add them Shift."
                    )
        for index, output in enumerate(self.outputs):
            if not 0 <= output < len(self.nodes):
                raise InputError(
                    f"output {index} is node {output}, but the graph has {len(self.nodes)} nodes."
                )


def is_linear(dag: Dag) -> bool:
    """Whether every node is linear in exact arithmetic (nothing rounds or saturates)."""
    return not any(isinstance(node, Round | Saturate) for node in dag.nodes)


def dropped(a: Any, bits: int, rounding: Rounding) -> Any:
    """Integer(s) `a` without their low `bits` bits; `>>` floors."""
    if bits == 0:
        return a
    half, rest = 1 << (bits - 1), (1 << bits) - 1
    match rounding:
        case Rounding.FLOOR:
            return a >> bits
        case Rounding.TOWARD_ZERO:
            return (a + (a < 0) * rest) >> bits
        case Rounding.HALF_UP:
            return (a + half) >> bits
        case Rounding.HALF_EVEN:
            return (a + (half - 1) + ((a >> bits) & 1)) >> bits
        case Rounding.HALF_AWAY:
            return (a + half - (a < 0) * 1) >> bits


def evaluate(dag: Dag, x: Any) -> np.ndarray:
    """Run the graph on numpy arrays, node by node, in the dtype of `x`.

    Parameters
    ----------
    dag : Dag
        The graph.
    x : array, shape (dag.inputs, ...)
        Element k of the first axis is input k; the other axes are carried along. Floating,
        integer, or `object` holding Python integers (no overflow).

    Returns
    -------
    array, shape (len(dag.outputs), ...)
        In the dtype of `x`: constants are rounded to it first. A float32 `Fma` is computed
        in float64 and rounded to float32, which may differ from a true one by a second
        rounding of at most 2**-29 of an ulp's half.

    Raises
    ------
    InputError
        The first axis of `x` is not `dag.inputs` long, or integer nodes meet floats.
    """
    values = np.asarray(x)
    if values.ndim == 0 or values.shape[0] != dag.inputs:
        raise InputError(
            f"the graph has {dag.inputs} inputs, but x has shape {values.shape}; "
            f"its first axis must be {dag.inputs} long."
        )
    dtype = values.dtype
    floating = dtype.kind in "fc"
    if floating and any(isinstance(n, Shift | Round | Saturate) for n in dag.nodes):
        raise InputError(
            f"shift, round and saturate act on integers, but x is {dtype}; "
            "pass stored integers (int64, or object for Python integers)."
        )

    def cast(constant: float) -> Any:
        if floating:
            return dtype.type(constant)
        if int(constant) != constant:
            raise InputError(
                f"an integer graph cannot multiply by {constant!r}; quantize its constants first."
            )
        return int(constant)

    done: list[Any] = []
    for node in dag.nodes:
        match node:
            case Input(index):
                value = values[index]
            case Add(a, b):
                value = done[a] + done[b]
            case Sub(a, b):
                value = done[a] - done[b]
            case Mul(constant, a):
                value = cast(constant) * done[a]
            case Fma(constant, a, b) if dtype == np.float32:
                wide = np.float64(cast(constant)) * np.float64(done[a]) + np.float64(done[b])
                value = wide.astype(np.float32)
            case Fma(constant, a, b):
                value = cast(constant) * done[a] + done[b]
            case Shift(a, bits):
                value = done[a] * (1 << bits)
            case Round(a, bits, rounding):
                value = dropped(done[a], bits, rounding)
            case Saturate(a, bits):
                limit = 1 << (bits - 1)
                value = np.minimum(np.maximum(done[a], -limit), limit - 1)
        done.append(value)
    result = np.empty((len(dag.outputs), *values.shape[1:]), dtype)
    for index, output in enumerate(dag.outputs):
        result[index] = done[output]
    return result
