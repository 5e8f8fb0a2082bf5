"""What is tuned: one kernel for one composite on one device, and how are its results judged?

A task stands for every composite with the same operators, shapes and attributes: its constants are
random numbers of a fixed seed, the same in every process, so that it travels as JSON and a
worker makes the same kernel from it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.dataflow import plan_depth
from parc_hw.device import Device
from parc_hw.errors import InputError, MeasurementError, UnsupportedError, check_keys
from parc_hw.plan import SplitPlan
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Rule, Scheduled, Tuned
from schedules.tuning.space import Choice, Space

__all__ = ["Task", "signature"]

Array = NDArray[np.float32]

_UNIT = 2.0**-24  # the largest relative error of one rounding of float32
_SEED = 20220727


@dataclass(frozen=True)
class Task:
    """One kernel to tune.

    Parameters
    ----------
    kernel : str
        The rule that makes it, as `Scheduled.rule` names it.
    composite : Composite
        What it computes; its constants are replaced by random ones of the same shapes.
    device : Device
        What it is compiled for.
    plan : str
        What the user asked for the arithmetic of ParC sites: `auto` leaves it to the tuner.
    threads : int
        How many share its parallel loop when it is measured.

    Raises
    ------
    InputError
        No rule has that name.
    """

    kernel: str
    composite: Composite
    device: Device
    plan: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.kernel not in _rules():
            raise InputError(
                f"no rule is called {self.kernel!r}; accepted: {', '.join(sorted(_rules()))}."
            )
        object.__setattr__(self, "composite", _anonymous(self.composite))

    # ------------------------------------------------------------------ identity

    @cached_property
    def shape(self) -> str:
        """Operators, shapes and attributes, one line: all of the composite but large constants."""
        return signature(self.composite)

    @cached_property
    def key(self) -> str:
        """Stable text that names the task: kernel, composite, plan, device, threads."""
        device = hashlib.sha256(
            json.dumps(self.device.to_json(), sort_keys=True).encode()
        ).hexdigest()[:8]
        return (
            f"{self.kernel} {self.shape} plan={self.plan} "
            f"{self.device.name}-{device} threads={self.threads}"
        )

    @property
    def title(self) -> str:
        """A short name for people, e.g. `parc 1x56x56x96 along H`."""
        return title(self.kernel, self.composite)

    @property
    def family(self) -> str:
        """What kernels it is alike, for figures that hold for a family: the rule's name."""
        return self.kernel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    # ------------------------------------------------------------------ kernels

    def schedule(self, choice: Choice | None = None) -> Scheduled:
        """The kernel of one choice, or of the rule's own.

        Raises
        ------
        InputError
            The choice is no point of the space.
        UnsupportedError
            The rule does not take this composite.
        """
        decide = None if choice is None else lambda composite, space: Tuned(choice=choice)
        context = Context(device=self.device, plan=self.plan, decide=decide)
        answer = _rules()[self.kernel](self.composite, context)
        if isinstance(answer, NotApplicable):
            raise UnsupportedError(f"{self.kernel} does not take {self.shape}: {answer.reason}.")
        return answer

    @cached_property
    def _default(self) -> Scheduled:
        return self.schedule()

    @property
    def space(self) -> Space:
        """What may be chosen; a space of one point where the rule has none."""
        return self._default.space or Space(self.kernel, (), Choice(()))

    @property
    def default(self) -> Choice:
        """What the rule does by itself."""
        return self.space.default

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return self._default.macs

    @property
    def bytes(self) -> int:
        """Bytes a call reads and writes once: inputs, constants and result."""
        tensors = sum(math.prod(s) for s in (*self.composite.inputs, self.composite.shape))
        return 4 * tensors + sum(constant.nbytes for constant in self._default.constants)

    # ------------------------------------------------------------------ numbers

    def inputs(self, seed: int = 0) -> list[Array]:
        """Random inputs of the composite, in memory order."""
        source = np.random.default_rng([seed, _SEED])
        return [source.standard_normal(shape, np.float32) for shape in self.composite.inputs]

    def tolerance(self, choice: Choice, seed: int = 0) -> float:
        """How far a result may be from the default choice's: 0.0 means bit for bit.

        Only another plan rounds differently. Both results are then within their bounds of the real
        numbers, |y - y*| <= (depth + 1) 2**-24 sum|w| max|x| of each ParC, and what follows
        carries that on.

        Raises
        ------
        MeasurementError
            An operator follows whose error is not known.
        """
        plans = [name for name, _ in self.default.items if name.split("_")[0] == "plan"]
        if all(choice[name] == self.default[name] for name in plans):
            return 0.0
        return _difference(self.composite, self.inputs(seed), [choice, self.default])

    def check(self, choice: Choice, output: Array, expected: Array, seed: int = 0) -> str:
        """Why a result is wrong, or "".

        Parameters
        ----------
        choice : Choice
            What computed `output`.
        output, expected : float32 array
            Of `choice` and of the default choice, for `inputs(seed)`.
        """
        output, expected = output.reshape(-1), expected.reshape(-1)
        if output.shape != expected.shape:
            return f"{output.size} results, not {expected.size}"
        tolerance = self.tolerance(choice, seed)
        if tolerance == 0.0:
            differs = output.view(np.uint32) != expected.view(np.uint32)
        else:
            with np.errstate(invalid="ignore"):
                differs = ~(np.abs(output.astype(np.float64) - expected) <= tolerance)
        if not differs.any():
            return ""
        first = int(np.argmax(differs))
        asked = "the same bits" if tolerance == 0.0 else f"a difference of at most {tolerance:.1e}"
        return (
            f"{np.count_nonzero(differs)} of {output.size} results are wrong, first number {first}: "
            f"{output[first]:.9g}, not {expected[first]:.9g}; accepted is {asked}"
        )

    # ------------------------------------------------------------------ JSON

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal task."""
        return {
            "kernel": self.kernel,
            "inputs": [list(shape) for shape in self.composite.inputs],
            "nodes": [
                {
                    "op": node.op,
                    "args": [_arg_to_json(arg) for arg in node.args],
                    "attrs": {name: _plain(value) for name, value in node.attrs.items()},
                    "shape": list(node.shape),
                }
                for node in self.composite.nodes
            ],
            "device": self.device.to_json(),
            "plan": self.plan,
            "threads": self.threads,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Task:
        """Rebuild a task from `to_json`'s dictionary.

        Raises
        ------
        InputError
            A key is unknown or missing.
        """
        accepted = ("kernel", "inputs", "nodes", "device", "plan", "threads")
        check_keys("tuning task", data, accepted=accepted, required=accepted)
        composite = Composite(
            inputs=tuple(tuple(shape) for shape in data["inputs"]),
            nodes=tuple(
                Node(
                    op=node["op"],
                    args=tuple(_arg_from_json(arg) for arg in node["args"]),
                    attrs={name: _frozen(value) for name, value in node["attrs"].items()},
                    shape=tuple(node["shape"]),
                )
                for node in data["nodes"]
            ),
        )
        return cls(
            kernel=data["kernel"],
            composite=composite,
            device=Device.from_json(data["device"]),
            plan=data["plan"],
            threads=data["threads"],
        )


@cache
def _rules() -> dict[str, Rule]:
    """Every rule by the name that its kernels have."""
    from schedules.cpu import RULES
    from schedules.cpu.parc import parc_twice
    from schedules.cpu.parc_nchw import parc_nchw

    return {getattr(rule, "__name__", ""): rule for rule in (*RULES, parc_twice, parc_nchw)}


# ---------------------------------------------------------------- names


def signature(composite: Composite) -> str:
    """Operators, shapes and attributes of a composite in one line; large constants by shape alone.

    Two composites with the same one get the same kernel, but for the values of their constants.
    """
    inputs = ",".join("x".join(map(str, shape)) for shape in composite.inputs)
    nodes = []
    for node in composite.nodes:
        args = ",".join(_named(arg) for arg in node.args)
        attrs = ",".join(f"{k}={_compact(v)}" for k, v in sorted(node.attrs.items()))
        op = node.op.removeprefix("relax.")
        nodes.append(f"{op}({args}{';' if attrs else ''}{attrs})")
    return f"{inputs}->{'.'.join(nodes)}->{'x'.join(map(str, composite.shape))}"


def title(kernel: str, composite: Composite) -> str:
    """A short name for people; several composites may have the same."""
    anchor = next((n for n in composite.nodes if n.op == "relax.parc"), composite.nodes[0])
    what = "x".join(map(str, composite.shape))
    arrays = [arg for arg in anchor.args if isinstance(arg, np.ndarray)]
    if anchor.op == "relax.parc":
        axes = [str(n.attrs["axis"]) for n in composite.nodes if n.op == "relax.parc"]
        what += f" along {'+'.join(axes)}"
    elif arrays:
        what += f" by {'x'.join(map(str, arrays[0].shape))}"
    tail = composite.name.split(".")
    rest = [name for name in tail if name not in ("parc", "strided_slice", "concat")]
    if anchor.op != "relax.parc":
        rest = tail[1:]
    return f"{kernel} {what}{' +' if rest else ''}{'.'.join(rest)}"


def _named(arg: Any) -> str:
    if isinstance(arg, Ref):
        return f"{arg.kind[0]}{arg.index}"
    if isinstance(arg, np.ndarray):
        if arg.size == 1:
            return f"{arg.reshape(-1)[0].item():.9g}"
        kind = "" if arg.dtype == np.float32 else str(arg.dtype)
        return f"{kind}c{'x'.join(map(str, arg.shape))}"
    if isinstance(arg, tuple):
        return f"[{' '.join(_named(item) for item in arg)}]"
    return _compact(arg)


def _compact(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "x".join(_compact(item) for item in value)
    return str(value)


# ---------------------------------------------------------------- constants


def _anonymous(composite: Composite) -> Composite:
    """The composite with random constants; single numbers, which rules may read, stay as they are."""
    count = 0

    def random(arg: Any) -> Any:
        nonlocal count
        if isinstance(arg, tuple):
            return tuple(random(item) for item in arg)
        if not isinstance(arg, np.ndarray):
            return arg
        count += 1
        if arg.size <= 1 or arg.dtype != np.float32:
            return arg
        source = np.random.default_rng([count, _SEED])
        if arg.ndim == 1:  # scales and the like: of one sign
            return np.asarray(source.uniform(0.5, 1.5, arg.shape), np.float32)
        return source.standard_normal(arg.shape, dtype=np.float32)

    nodes = tuple(
        Node(
            op=node.op,
            args=tuple(random(arg) for arg in node.args),
            attrs={name: _frozen(_plain(value)) for name, value in node.attrs.items()},
            shape=tuple(node.shape),
        )
        for node in composite.nodes
    )
    return Composite(inputs=composite.inputs, nodes=nodes)


def _plain(value: Any) -> Any:
    """An attribute as JSON has it."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    return float(value) if isinstance(value, float) else int(value)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _arg_to_json(arg: Any) -> Any:
    if isinstance(arg, Ref):
        return {"ref": [arg.kind, arg.index]}
    if isinstance(arg, tuple):
        return {"tuple": [_arg_to_json(item) for item in arg]}
    if isinstance(arg, np.ndarray):
        described: dict[str, Any] = {"dtype": str(arg.dtype), "shape": list(arg.shape)}
        if arg.size <= 1 or arg.dtype != np.float32:
            described["values"] = arg.reshape(-1).tolist()
        return {"array": described}
    return {"value": _plain(arg)}


def _arg_from_json(data: Mapping[str, Any]) -> Any:
    if "ref" in data:
        return Ref(*data["ref"])
    if "tuple" in data:
        return tuple(_arg_from_json(item) for item in data["tuple"])
    if "array" in data:
        described = data["array"]
        shape, dtype = tuple(described["shape"]), described["dtype"]
        if "values" in described:
            return np.array(described["values"], dtype).reshape(shape)
        return np.ones(shape, dtype)  # `_anonymous` gives it its numbers
    return _frozen(data["value"])


# ---------------------------------------------------------------- how far plans differ

_SAME = ("relax.nn.relu", "relax.clip", "relax.strided_slice", "relax.concat")
_SMOOTH = ("relax.nn.gelu", "relax.nn.gelu_tanh", "relax.nn.silu", "relax.sigmoid")
_STEEPEST = 1.13  # of gelu; the others are flatter
_OWN = 16  # roundings of an activation function, generously


def _difference(composite: Composite, inputs: list[Array], choices: list[Choice]) -> float:
    """How far two results of one composite with different plans may be apart.

    Carries the largest magnitude and the largest difference through the nodes.
    """
    found: list[tuple[float, float]] = []

    def of(arg: Any) -> tuple[float, float]:
        if isinstance(arg, tuple):
            each = [of(item) for item in arg]
            return max(m for m, _ in each), max(d for _, d in each)
        if isinstance(arg, Ref):
            if arg.kind == "node":
                return found[arg.index]
            return float(np.max(np.abs(inputs[arg.index]))), 0.0
        return float(np.max(np.abs(arg))), 0.0

    for node in composite.nodes:
        if node.op == "relax.parc":
            found.append(_parc_difference(composite, node, of(node.args[0]), choices))
            continue
        first = of(node.args[0])
        if node.op in _SAME:
            found.append(first)
        elif node.op in _SMOOTH:
            found.append((first[0], _STEEPEST * first[1] + 2 * _OWN * _UNIT * first[0]))
        elif node.op in ("relax.add", "relax.subtract", "relax.maximum", "relax.minimum"):
            second = of(node.args[1])
            magnitude = first[0] + second[0]
            found.append((magnitude, first[1] + second[1] + 2 * _UNIT * magnitude))
        elif node.op == "relax.multiply":
            second = of(node.args[1])
            magnitude = first[0] * second[0]
            carried = first[1] * second[0] + second[1] * first[0]
            found.append((magnitude, carried + 2 * _UNIT * magnitude))
        else:
            raise MeasurementError(
                f"how far two plans of {composite.name} may differ is not known after {node.op}; "
                "tune it with a fixed --plan."
            )
    return found[-1][1]


def _parc_difference(
    composite: Composite, node: Node, given: tuple[float, float], choices: list[Choice]
) -> tuple[float, float]:
    """Magnitude and difference of a ParC's result, by the bound of `docs/operator.md`."""
    weight, position_embedding, bias = node.args[1:]
    gain = float(np.max(np.abs(weight).reshape(len(weight), -1).sum(axis=1, dtype=np.float64)))
    magnitude = gain * (given[0] + float(np.max(np.abs(position_embedding), initial=0.0)))
    magnitude += float(np.max(np.abs(bias), initial=0.0))
    channels = weight.shape[1] if weight.ndim == 3 else 1
    several = sum(n.op == "relax.parc" for n in composite.nodes) > 1
    name = f"plan_{node.attrs['axis']}" if several else "plan"
    roundings = 0
    for choice in choices:
        plan = SplitPlan.parse(choice.get(name) or choice["plan"], length=weight.shape[-1])
        roundings += plan_depth(plan, channels) + 1
    return magnitude, gain * given[1] + roundings * _UNIT * magnitude
