"""What follows an anchor inside its composite, and how is it computed in the anchor's registers?

Leading multiplications and additions by constants go into the anchor's weights and bias; the rest
becomes vector statements on each register of results before it is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.cpu import activation
from schedules.rule import Composite, Node, Ref
from schedules.tir import Buffer, Emitter, Value

__all__ = ["Epilogue", "Operands", "parse"]

_BINARY: dict[str, Callable[[Emitter, Value, Value], Value]] = {
    "relax.add": lambda e, a, b: a + b,
    "relax.subtract": lambda e, a, b: a - b,
    "relax.multiply": lambda e, a, b: a * b,
    "relax.divide": lambda e, a, b: a / b,
    "relax.maximum": lambda e, a, b: e.maximum(a, b),
    "relax.minimum": lambda e, a, b: e.minimum(a, b),
}
_UNARY: dict[str, Callable[[Emitter, Value], Value]] = {
    "relax.nn.gelu": activation.gelu,
    "relax.nn.gelu_tanh": activation.gelu_tanh,
    "relax.nn.relu": activation.relu,
    "relax.nn.silu": activation.silu,
    "relax.sigmoid": activation.sigmoid,
}
_CLIP = "relax.clip"


@dataclass(frozen=True, slots=True)
class Operands:
    """The buffers of one kernel that hold an epilogue's operands."""

    inputs: dict[int, Buffer]  # by index of the composite's input
    constants: dict[int, Buffer]  # by position in Epilogue.constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """y = steps(anchor * scale + shift).

    A rule puts `scale` and `shift` into its weights and bias, declares the buffers of `inputs`
    after its own input and those of `constants` after its own constants, and passes every
    vector of results through `apply`.

    Attributes
    ----------
    scale, shift : float64 array, shape (C,)
        One value per channel, the last axis of the result.
    inputs : tuple of int
        Composite inputs that the steps read, each once.
    constants : tuple of float32 array, shape (C,)
        Per-channel constants that the steps read.
    steps : tuple of Step
        In order; the last gives the result. Empty: the anchor is the result.
    names : str
        The operators that are left, for notes: "gelu.add".
    """

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    inputs: tuple[int, ...]
    constants: tuple[NDArray[np.float32], ...]
    steps: tuple[Step, ...]

    @property
    def names(self) -> str:
        """The operators of the steps, e.g. "gelu.add"; "" without steps."""
        return ".".join(step.op.rsplit(".", 1)[-1] for step in self.steps)

    @property
    def heavy(self) -> bool:
        """Whether the steps are dozens of instructions, as polynomials are."""
        return any(step.op in _UNARY and step.op != "relax.nn.relu" for step in self.steps)

    def declare_inputs(self, e: Emitter, composite: Composite) -> dict[int, Buffer]:
        """Declare the buffers of the inputs, in the order of `inputs`."""
        return {i: e.parameter(f"input{i}", int(np.prod(composite.inputs[i]))) for i in self.inputs}

    def declare_constants(self, e: Emitter) -> dict[int, Buffer]:
        """Declare the buffers of the constants, in the order of `constants`."""
        return {k: e.parameter(f"constant{k}", c.size) for k, c in enumerate(self.constants)}

    def apply(
        self, e: Emitter, value: Value, *, at: Value, channel: Value, operands: Operands
    ) -> Value:
        """Compute the steps on one vector of results.

        Parameters
        ----------
        value : expression
            Results of the anchor, scale and shift included, for consecutive channels.
        at : expression or int
            Index of the first in the (flat) output.
        channel : expression or int
            Its channel.
        operands : Operands
            The buffers declared before.

        Returns
        -------
        expression
            What to store at `at`.
        """
        if not self.steps:
            return value
        lanes = e.lanes(value)
        values = [e.bind(value)]

        def operand(source: Source) -> Value:
            match source:
                case Source(kind="value"):
                    return values[source.index]
                case Source(kind="input"):
                    return e.load(operands.inputs[source.index], at, lanes)
                case Source(kind="channel input"):
                    return e.load(operands.inputs[source.index], channel, lanes)
                case Source(kind="constant"):
                    return e.load(operands.constants[source.index], channel, lanes)
                case _:
                    return e.splat(source.number, lanes)

        for step in self.steps:
            arguments = [operand(source) for source in step.sources]
            if step.op == _CLIP:
                values.append(activation.clip(e, arguments[0], *step.limits))
            elif step.op in _UNARY:
                values.append(_UNARY[step.op](e, arguments[0]))
            else:
                values.append(e.bind(_BINARY[step.op](e, *arguments)))
        return values[-1]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a step's operand comes from.

    kind: "value" (0 is the anchor, i the result of step i - 1), "input" (of the result's shape),
    "channel input" (one value per channel), "constant" (one per channel), "number".
    """

    kind: str
    index: int = 0
    number: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """One element-wise operator on vectors."""

    op: str
    sources: tuple[Source, ...]
    limits: tuple[float, float] = (0.0, 0.0)  # of relax.clip


def parse(composite: Composite, anchor: int = 0) -> Epilogue | str:
    """Read the nodes after node `anchor`, or say why they cannot be an epilogue.

    Parameters
    ----------
    composite : Composite
        Channels are the last axis of its result.
    anchor : int
        The last node that is not part of the epilogue.

    Returns
    -------
    Epilogue or str
        The reason is a phrase for `NotApplicable`.
    """
    shape = composite.nodes[anchor].shape
    channels = shape[-1]
    scale, shift = np.ones(channels), np.zeros(channels)
    nodes = composite.nodes
    folded = anchor  # the last node that is in scale and shift
    while folded + 1 < len(nodes) and _reads(nodes[folded + 2 :], folded) == 0:
        affine = _affine(nodes[folded + 1], folded, channels)
        if affine is None or nodes[folded + 1].shape != shape:
            break
        scale, shift = scale * affine[0], shift * affine[0] + affine[1]
        folded += 1

    steps: list[Step] = []
    inputs: list[int] = []
    constants: list[NDArray[np.float32]] = []

    def source(argument: Any) -> Source | str:
        if isinstance(argument, Ref) and argument.kind == "node":
            if argument.index < folded:
                return "a step reads a value from before the epilogue"
            return Source("value", argument.index - folded)
        if isinstance(argument, Ref):
            given = composite.inputs[argument.index]
            same = given == shape
            if not same and not _per_channel(given, channels):
                return f"an operand of shape {given} is neither {shape} nor one value per channel"
            if argument.index not in inputs:
                inputs.append(argument.index)
            return Source("input" if same else "channel input", argument.index)
        array = np.asarray(argument, dtype=np.float64)
        if array.size == 1:
            return Source("number", number=float(array.reshape(())))
        if not _per_channel(array.shape, channels):
            return f"a constant of shape {array.shape} is neither a number nor one per channel"
        constants.append(array.reshape(channels).astype(np.float32))
        return Source("constant", len(constants) - 1)

    for node in nodes[folded + 1 :]:
        if node.shape != shape:
            return f"{node.op} changes the shape from {shape} to {node.shape}"
        if node.op == _CLIP:
            tensors, limits = node.args[:1], _limits(node)
        elif node.op in _UNARY:
            tensors, limits = node.args[:1], (0.0, 0.0)
        elif node.op in _BINARY:
            tensors, limits = node.args[:2], (0.0, 0.0)
        else:
            return f"{node.op} is not an element-wise operator the epilogue knows"
        sources = [source(argument) for argument in tensors]
        for found in sources:
            if isinstance(found, str):
                return found
        steps.append(Step(node.op, tuple(s for s in sources if isinstance(s, Source)), limits))
    return Epilogue(
        scale=scale,
        shift=shift,
        inputs=tuple(inputs),
        constants=tuple(constants),
        steps=tuple(steps),
    )


def _affine(
    node: Node, previous: int, channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(scale, shift) if `node` is value * scale + shift with constants per channel."""
    if node.op not in ("relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
        return None
    a, b = node.args[:2]
    value = Ref("node", previous)
    reversed_operands = isinstance(b, Ref) and b == value
    operand, constant = (b, a) if reversed_operands else (a, b)
    if not isinstance(operand, Ref) or operand != value or isinstance(constant, Ref):
        return None
    array = np.asarray(constant, dtype=np.float64)
    if array.size != 1 and not _per_channel(array.shape, channels):
        return None
    c = np.broadcast_to(array.reshape(-1), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op, reversed_operands:
        case "relax.add", _:
            return one, c
        case "relax.subtract", False:
            return one, -c
        case "relax.subtract", True:
            return -one, c
        case "relax.multiply", _:
            return c, zero
        case "relax.divide", False if np.all(c != 0):
            return one / c, zero
    return None


def _reads(nodes: tuple[Node, ...], index: int) -> int:
    """How many operands of `nodes` are the result of node `index`."""
    value = Ref("node", index)
    return sum(isinstance(a, Ref) and a == value for node in nodes for a in node.args)


def _per_channel(shape: tuple[int, ...], channels: int) -> bool:
    """Whether an array of this shape holds one value per channel, the last axis."""
    return bool(shape) and shape[-1] == channels and int(np.prod(shape)) == channels


def _limits(node: Node) -> tuple[float, float]:
    if len(node.args) >= 3:
        return float(node.args[1]), float(node.args[2])
    return float(node.attrs["min"]), float(node.attrs["max"])
