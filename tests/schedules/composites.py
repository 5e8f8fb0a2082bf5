"""Composites for the tests of rules, their values in float64, and how far float32 may be from them.

Every bound is propagated through the nodes: a rounding is at most 2**-24 of the value, an
activation adds the error that `schedules.cpu.activation` documents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import erf, expit

from schedules.rule import Composite, Node, Ref

U = 2.0**-24  # unit roundoff of float32


class Builder:
    """Adds nodes one after the other; `value` refers to the last."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs: list[np.ndarray] = []
        self.nodes: list[Node] = []

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def input(self, *shape: int) -> Ref:
        self.inputs.append(self.normal(*shape))
        return Ref("input", len(self.inputs) - 1)

    @property
    def value(self) -> Ref:
        return Ref("node", len(self.nodes) - 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.nodes[-1].shape

    def node(self, op: str, *args: object, shape: tuple[int, ...] | None = None, **attrs) -> Ref:
        self.nodes.append(Node(op=op, args=args, attrs=attrs, shape=shape or self.shape))
        return self.value

    def add_steps(self, steps: Sequence[str]) -> None:
        """Append the named steps; see the branches."""
        for step in steps:
            channels = self.shape[-1]
            match step:
                case "bias":
                    self.node("relax.add", self.value, self.normal(1, channels))
                case "scale":
                    self.node("relax.multiply", self.normal(channels), self.value)
                case "shrink":
                    self.node("relax.divide", self.value, np.array(3.0, np.float32))
                case "reverse":
                    self.node("relax.subtract", self.normal(channels), self.value)
                case "residual":
                    self.node("relax.add", self.input(*self.shape), self.value)
                case "gate":
                    self.node("relax.multiply", self.value, self.input(*self.shape))
                case "channel gate":
                    self.node("relax.multiply", self.value, self.input(1, channels))
                case "clip":
                    self.node("relax.clip", self.value, -0.5, 1.5)
                case "hardswish":  # x * clip(x + 3, 0, 6) / 6
                    x = self.value
                    shifted = self.node("relax.add", x, np.array(3.0, np.float32))
                    clipped = self.node("relax.clip", shifted, 0.0, 6.0)
                    product = self.node("relax.multiply", x, clipped)
                    self.node("relax.divide", product, np.array(6.0, np.float32))
                case _:
                    self.node(f"relax.{step}", self.value)

    def composite(self) -> Composite:
        return Composite(
            inputs=tuple(array.shape for array in self.inputs), nodes=tuple(self.nodes)
        )


def linear(rows: tuple[int, ...], k: int, n: int, steps: Sequence[str] = ()) -> Builder:
    """A linear layer over inputs (*rows, k)."""
    b = Builder()
    x = b.input(*rows, k)
    b.node("relax.matmul", x, b.normal(k, n), shape=(*rows, n))
    b.add_steps(steps)
    return b


def expected(builder: Builder, anchor: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, ...]:
    """(value, bound) of the result, given the anchor's in float64."""
    values, bounds = [anchor], [bound]

    def operand(argument: object) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(argument, Ref) and argument.kind == "node":
            return values[argument.index], bounds[argument.index]
        if isinstance(argument, Ref):
            argument = builder.inputs[argument.index]
        array = np.asarray(argument, np.float64)
        return array, np.zeros_like(array)

    for node in builder.nodes[1:]:
        (a, da), *more = [operand(x) for x in node.args if not isinstance(x, float)]
        b, db = more[0] if more else (a, da)
        match node.op.removeprefix("relax."):
            case "add":
                value, error = a + b, da + db
            case "subtract":
                value, error = a - b, da + db
            case "multiply":
                value, error = a * b, da * (abs(b) + db) + db * abs(a)
            case "divide":  # by constants; folded as a product with a rounded reciprocal
                value, error = a / b, da / abs(b) + U * abs(a / b)
            case "nn.relu":
                value, error = np.maximum(a, 0), da
            case "clip":
                value, error = np.clip(a, *node.args[1:]), da
            case "nn.gelu":
                value = a * 0.5 * (1 + erf(a / np.sqrt(2)))
                error = 1.13 * da + 3e-6 + 1e-7 * abs(a)
            case "nn.gelu_tanh":
                value = 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
                error = 1.13 * da + 1e-6 * abs(a)
            case "nn.silu":
                value, error = a * expit(a), 1.1 * da + 4e-7 * abs(a)
            case "sigmoid":
                value, error = expit(a), 0.25 * da + 2e-7
        values.append(value)
        bounds.append(error + U * abs(value))
    return values[-1], bounds[-1]


def linear_expected(builder: Builder) -> tuple[np.ndarray, np.ndarray]:
    """(value, bound) of a linear layer: K roundings of partial sums, one each of weight and bias."""
    x = builder.inputs[0].astype(np.float64)
    w = builder.nodes[0].args[1].astype(np.float64)
    return expected(builder, x @ w, (w.shape[0] + 2) * U * (np.abs(x) @ np.abs(w)))


def check(result: np.ndarray, value: np.ndarray, bound: np.ndarray) -> None:
    """Every element of `result` within the bound of `value`."""
    assert result.shape == value.shape
    assert np.isfinite(result).all()
    worst = np.max(np.abs(result - value) / bound)
    assert worst <= 1, f"error is {worst:.2f} times the bound"
