"""Which layers of the integer rule is a lowered graph made of?

The graph is lowering's own (NHWC, ParC whole), so that what is simulated is what is compiled.
Constants per channel fold into the layer before them; what the rule has no operator for is
named, all of it at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fixedpoint.integer.operators import Window
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.integer.network import Layer, Network
from parc_hw.lower.graph import INPUT, VIEW, Graph, Use, Vertex

if TYPE_CHECKING:
    from parc_hw.importers import Imported

__all__ = ["read_graph", "read_network"]

Reals = NDArray[np.float64]

_NHWC: Final = (0, 2, 3, 1)
# Operators that a constant per channel turns into a scale and a shift of the layer before.
_LINEAR: Final = frozenset({"relax.add", "relax.divide", "relax.multiply", "relax.subtract"})
_CLIPS: Final = frozenset({"relax.clip", "relax.nn.relu", "relax.nn.relu6"})
_CURVES: Final = {
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
    "relax.sigmoid": "sigmoid",
}
_SUMS: Final = {"relax.add": "add", "relax.multiply": "multiply", "relax.subtract": "subtract"}
# Kinds whose module is theirs alone, as a rule: the module's name is enough.
_OWNERS: Final = frozenset(
    {"affine", "convolution", "depthwise", "layer_norm", "linear", "parc", "parc_dense"}
)


def read_network(
    model: str | Imported | Network,
    *,
    input_shape: Sequence[int] | None = None,
    weights: str | Path | None = None,
    seed: int | None = None,
) -> Network:
    """Read a model as the integer rule sees it.

    Parameters
    ----------
    model : str, Imported or Network
        A name of the zoo, what an importer of `parc_hw.importers` gave for one image (batch 1),
        or a network, which is returned.
    input_shape : sequence of int, optional
        (1, C, H, W) for a zoo model; its own by default.
    weights, seed
        As `parc_hw.models.prepare`; for a zoo model only.

    Returns
    -------
    Network

    Raises
    ------
    InputError
        An unknown name, arguments that do not belong together, a batch other than 1.
    UnsupportedError
        Operators that the rule does not have: all of them, with their places.
    """
    given = [
        name
        for name, value in (("input_shape", input_shape), ("weights", weights), ("seed", seed))
        if value is not None
    ]
    if not isinstance(model, str) and given:
        raise InputError(
            f"{', '.join(given)} belongs to a name of the zoo; this model has its own already."
        )
    if isinstance(model, Network):
        return model
    if isinstance(model, str):
        from parc_hw import models
        from parc_hw.importers import import_torch

        info = models.info(model)
        module, origin = models.prepare(
            model, weights, models.DEFAULT_SEED if seed is None else seed
        )
        shape = tuple(info.input_shape if input_shape is None else input_shape)
        # A checkpoint is taken as trained; what it was trained for, its owner knows.
        return _read_imported(
            import_torch(module, [shape]), model, origin, not origin.startswith("untrained")
        )
    return _read_imported(model, "model", "weights of the imported model", True)


def _read_imported(imported: Imported, name: str, origin: str, trained: bool) -> Network:
    from parc_hw.lower.fold import fold_into_parc
    from parc_hw.lower.layout import to_nhwc

    graph = to_nhwc(imported.module["main"], imported.sources)
    fold_into_parc(graph)
    return read_graph(graph, name=name, origin=origin, trained=trained)


def read_graph(graph: Graph, *, name: str, origin: str, trained: bool) -> Network:
    """Read lowering's graph, ParC folded; see `read_network`."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnsupportedError(
            f"{name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; the integer "
            f"simulator runs models with one of each."
        )
    shape = graph.vertices[graph.inputs[0]].shape
    if shape[0] != 1:
        raise InputError(
            f"{name} was imported for a batch of {shape[0]}. Import it for one image: the "
            f"simulator runs any number of them."
        )
    reader = _Reader(graph)
    reader.read()
    return Network(
        name=name,
        layers=tuple(reader.layers),
        output=reader.numbers[graph.outputs[0]],
        input_shape=tuple(shape[1:]),
        input_axes=_NHWC if reader.input_is_nhwc else tuple(range(len(shape))),
        origin=origin,
        trained=trained,
    )


class _Unsupported(Exception):
    """Why a vertex has no layer."""


class _Reader:
    """The walk's state."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.users = graph.users()
        self.layers: list[Layer] = []
        self.numbers: dict[int, int] = {}  # vertex -> layer that has its value
        self.names: dict[str, int] = {}
        self.taken: set[int] = set()  # vertices that an earlier layer has absorbed
        self.problems: dict[tuple[str, str], list[str]] = defaultdict(list)
        # The graph reads the user's NCHW as it is: a stem in place, anything else through a
        # permutation. Words come in NHWC where that serves every reader.
        self.input_is_nhwc = all(
            user >= 0 and self._reads_nhwc(graph.vertices[user])
            for user in self.users.get(graph.inputs[0], [])
        )

    @staticmethod
    def _reads_nhwc(v: Vertex) -> bool:
        return v.attrs.get("data_layout") == "NCHW" or (
            v.op == "relax.permute_dims" and tuple(v.attrs["axes"]) == _NHWC
        )

    def read(self) -> None:
        live = self.graph.live()
        hard = self._hard_patterns(live)
        for number in sorted(live):
            if number in self.taken:
                continue
            vertex = self.graph.vertices[number]
            try:
                if number in hard:
                    curve, origin = hard[number]
                    self.emit(number, curve, (self.numbers[origin],))
                else:
                    self.vertex(number, vertex)
            except _Unsupported as problem:
                op = vertex.op.removeprefix("relax.")
                self.problems[op, str(problem)].append(vertex.module or "the top level")
                self.numbers[number] = 0  # so that what reads it is examined as well
        if self.problems:
            lines = []
            for (op, reason), places in self.problems.items():
                times = f" ({len(places)} times)" if len(places) > 1 else ""
                lines.append(f"{op}{times} in {', '.join(dict.fromkeys(places))}: {reason}")
            raise UnsupportedError(
                "the integer rule (docs/integer_rule.md) lacks operators of this model:\n  "
                + "\n  ".join(lines)
            )

    # -- what a vertex becomes ---------------------------------------------------------------

    def vertex(self, number: int, v: Vertex) -> None:
        """Emit the layer that computes `v` and whatever of its successors it absorbs."""
        if v.op == INPUT:
            shape = tuple(v.shape[axis] for axis in _NHWC) if self.input_is_nhwc else v.shape
            self.emit(number, "input", (), name="input", shape=shape)
        elif v.op == "relax.nn.conv2d":
            self.convolution(number, v)
        elif v.op == "relax.matmul":
            self.matmul(number, v)
        elif v.op == "relax.parc":
            self.parc(number, v)
        elif v.op == "relax.nn.layer_norm":
            self.layer_norm(number, v)
        elif v.op in _LINEAR and _constant_operand(v) is not None:
            self.affine(number, v)
        elif v.op in _SUMS:
            self.finish(number, _SUMS[v.op], self.operands(v))
        elif v.op in _CURVES:
            self.emit(number, _CURVES[v.op], self.operands(v))
        elif v.op in _CLIPS:
            lowest, highest = _clip_ends(v)
            self.emit(number, "clip", self.operands(v)[:1], lowest=lowest, highest=highest)
        elif v.op == "relax.mean":
            self.mean(number, v)
        elif v.op == "relax.nn.max_pool2d":
            window = _window(v, v.attrs["pool_size"])
            if v.attrs.get("ceil_mode"):
                raise _Unsupported("ceil_mode is set")
            self.emit(number, "max_pool", self.operands(v), attrs={"window": window})
        elif v.op == "relax.nn.softmax":
            if v.attrs["axis"] not in (-1, len(v.shape) - 1):
                raise _Unsupported("it runs over another axis than the last in memory")
            self.emit(number, "softmax", self.operands(v))
        elif v.op == "relax.concat":
            if not all(isinstance(item, Use) for item in v.args[0]):
                raise _Unsupported("one of its operands is a constant")
            self.finish(number, "concat", self.operands(v), attrs={"axis": v.attrs["axis"]})
        elif v.op == "relax.strided_slice":
            index = [slice(None)] * len(v.shape)
            cuts = (v.attrs[key] for key in ("axes", "begin", "end", "strides"))
            for axis, begin, end, stride in zip(*cuts, strict=True):
                index[axis] = slice(begin, end, stride)
            if index[0] != slice(None):
                raise _Unsupported("it cuts the batch")
            self.emit(number, "slice", self.operands(v), attrs={"index": tuple(index)})
        elif v.op == "relax.permute_dims":
            if self.input_is_nhwc and v.uses()[0] == self.graph.inputs[0]:
                self.numbers[number] = self.numbers[v.uses()[0]]
            else:
                self.emit(number, "permute", self.operands(v), attrs={"axes": v.attrs["axes"]})
        elif v.op == VIEW:
            before = self.graph.vertices[v.uses()[0]].shape
            if before == v.shape:
                self.numbers[number] = self.numbers[v.uses()[0]]
            else:
                self.emit(number, "reshape", self.operands(v))
        else:
            raise _Unsupported("there is no operator for it")

    def convolution(self, number: int, v: Vertex) -> None:
        taps, groups = v.args[1], v.attrs["groups"]
        if not isinstance(taps, np.ndarray):
            raise _Unsupported("its weights depend on the input")
        if v.attrs["data_layout"] == "NCHW" and not self.input_is_nhwc:
            raise _Unsupported("it reads the input, and so does something else in another order")
        taps = taps.astype(np.float64)
        layout = v.attrs["kernel_layout"]
        if layout == "HWOI" and taps.shape[3] == 1:
            weight, kind = taps[..., 0], "depthwise"
        else:
            taps = taps.transpose((2, 3, 1, 0) if layout == "OIHW" else (1, 2, 3, 0))
            weight, kind = _ungrouped(taps, groups), "convolution"
        window = _window(v, weight.shape[:2])
        macs = math.prod(v.shape[1:3]) * (
            weight.size // groups if kind != "depthwise" else weight.size
        )
        attrs: dict[str, Any] = {"window": window}
        if kind == "convolution" and not window.is_point:  # words copied from under the window
            attrs["gathered"] = math.prod(v.shape[1:3]) * math.prod(weight.shape[:3])
        self.weighted(number, kind, v, weight, np.zeros(v.shape[-1]), attrs=attrs, macs=macs)

    def matmul(self, number: int, v: Vertex) -> None:
        left, right = v.args
        if isinstance(left, Use) and isinstance(right, Use):
            count = self.graph.vertices[left.vertex].shape[-1]
            macs = math.prod(v.shape) * count
            self.emit(number, "matmul", self.operands(v), attrs={"count": count}, macs=macs)
            return
        if not isinstance(left, Use) or not isinstance(right, np.ndarray) or right.ndim != 2:
            raise _Unsupported("only a constant matrix on the right, or two computed operands")
        weight = right.astype(np.float64)
        macs = math.prod(v.shape[1:]) * weight.shape[0]
        self.weighted(number, "linear", v, weight, np.zeros(weight.shape[1]), macs=macs)

    def parc(self, number: int, v: Vertex) -> None:
        weight, embedding, bias = (np.asarray(a, np.float64) for a in v.args[1:4])
        axis = "NHWC".index(v.attrs["axis"])
        length = weight.shape[-1]
        start = np.zeros((weight.shape[0], length))
        turned = embedding
        for k in range(length):  # ascending k, as the rule says
            taps = weight[..., k]
            if weight.ndim == 2:
                start += taps[:, None] * turned
            else:
                for c in range(weight.shape[1]):
                    start += taps[:, c, None] * turned[c]
            turned = np.roll(turned, -1, axis=1)
        start += bias[:, None]
        kind = "parc" if weight.ndim == 2 else "parc_dense"
        macs = math.prod(v.shape[1:3]) * weight.size
        attrs = {"axis": axis}
        self.weighted(number, kind, v, weight, start, attrs=attrs, macs=macs)

    def layer_norm(self, number: int, v: Vertex) -> None:
        gamma, beta = v.args[1:]
        if tuple(v.attrs["axes"]) != (len(v.shape) - 1,):
            raise _Unsupported("it norms over more than the last axis in memory")
        self.emit(
            number,
            "layer_norm",
            self.operands(v)[:1],
            weight=np.asarray(gamma, np.float64).reshape(-1),
            bias=np.asarray(beta, np.float64).reshape(-1),
            attrs={"epsilon": float(v.attrs["epsilon"])},
        )

    def affine(self, number: int, v: Vertex) -> None:
        channels = v.shape[-1]
        step = _scale_and_shift(v, channels)
        if step is None or _shape(self.graph, v.uses()[0]) != v.shape:
            raise _Unsupported("its constant varies over positions")
        self.weighted(number, "affine", v, *step)

    def mean(self, number: int, v: Vertex) -> None:
        axes, keep = tuple(v.attrs["axis"]), bool(v.attrs["keepdims"])
        before = _shape(self.graph, v.uses()[0])
        if len(before) != 4 or axes != (1, 2):
            raise _Unsupported("only a mean over all positions of a map")
        attrs = {"keep": keep, "count": before[1] * before[2]}
        self.emit(number, "mean", self.operands(v), attrs=attrs)

    # -- absorbing ---------------------------------------------------------------------------

    def weighted(
        self,
        number: int,
        kind: str,
        v: Vertex,
        weight: Reals,
        bias: Reals,
        *,
        attrs: dict[str, Any] | None = None,
        macs: int = 0,
    ) -> None:
        """A layer with weights, and the constants per channel that follow it."""
        outputs = {"parc": 0, "parc_dense": 0, "affine": 0}.get(kind, weight.ndim - 1)
        last = number
        while (following := self.only_user(last)) is not None:
            after = self.graph.vertices[following]
            step = _scale_and_shift(after, v.shape[-1])
            if step is None or after.shape != v.shape:
                break
            scale, shift = step
            along = [1] * weight.ndim
            along[outputs] = -1
            weight = weight * scale.reshape(along)
            per_bias = (-1, 1) if bias.ndim == 2 else (-1,)
            bias = bias * scale.reshape(per_bias) + shift.reshape(per_bias)
            self.taken.add(following)
            last = following
        operands = (self.numbers[v.uses()[0]],)
        self.finish(last, kind, operands, first=v, weight=weight, bias=bias, attrs=attrs, macs=macs)

    def finish(self, number: int, kind: str, operands: tuple[int, ...], **rest: Any) -> None:
        """Emit a layer after absorbing the ReLU or clip that alone follows it."""
        following = self.only_user(number)
        if following is not None:
            after = self.graph.vertices[following]
            if after.op in _CLIPS and after.shape == self.graph.vertices[number].shape:
                lowest, highest = _clip_ends(after)
                rest.setdefault("first", self.graph.vertices[number])
                self.taken.add(following)
                self.emit(following, kind, operands, lowest=lowest, highest=highest, **rest)
                return
        self.emit(number, kind, operands, **rest)

    def only_user(self, number: int) -> int | None:
        """The vertex that alone reads `number` and is free to be absorbed, else None."""
        users = self.users.get(number, [])
        alone = len(users) == 1 and users[0] >= 0 and users[0] not in self.taken
        return users[0] if alone else None

    # -- emitting ----------------------------------------------------------------------------

    def operands(self, v: Vertex) -> tuple[int, ...]:
        return tuple(self.numbers[used] for used in v.uses())

    def emit(
        self,
        number: int,
        kind: str,
        operands: tuple[int, ...],
        *,
        first: Vertex | None = None,
        name: str = "",
        shape: tuple[int, ...] | None = None,
        attrs: dict[str, Any] | None = None,
        **rest: Any,
    ) -> None:
        """Add the layer with the value of vertex `number`; `first` is the vertex it is named after."""
        v = self.graph.vertices[number]
        layer = Layer(
            name=name or self.name((first or v).module, kind),
            kind=kind,
            inputs=operands,
            shape=v.shape if shape is None else shape,
            source=v.source,
            attrs=attrs or {},
            **rest,
        )
        self.numbers[number] = len(self.layers)
        self.layers.append(layer)

    def name(self, module: str, kind: str) -> str:
        """A name that no layer has: the module of a layer with weights, with the kind for others."""
        base = module if kind in _OWNERS and module else f"{module}.{kind}".lstrip(".")
        if base in self.names and base == module:
            base = f"{module}.{kind}"
        count = self.names.get(base, 0)
        self.names[base] = count + 1
        return f"{base}_{count}" if count else base

    # -- patterns ----------------------------------------------------------------------------

    def _hard_patterns(self, live: set[int]) -> dict[int, tuple[str, int]]:
        """Vertices that are hardsigmoid or hardswish of another, spelled out; marks what they use.

        hardsigmoid(x) = clip(x + 3, 0, 6) / 6 and hardswish(x) = x * hardsigmoid(x).
        """
        found: dict[int, tuple[str, int]] = {}
        for number in sorted(live):
            divide = self.graph.vertices[number]
            scale = _scale_and_shift(divide, divide.shape[-1] if divide.shape else 1)
            if divide.op not in ("relax.divide", "relax.multiply") or scale is None:
                continue
            if not np.allclose(scale[0], 1 / 6, rtol=1e-6, atol=0):
                continue
            clip = divide.uses()[0]
            if self.graph.vertices[clip].op not in _CLIPS or self.only_user(clip) != number:
                continue
            if _clip_ends(self.graph.vertices[clip]) != (0.0, 6.0):
                continue
            add = self.graph.vertices[clip].uses()[0]
            shift = _scale_and_shift(self.graph.vertices[add], self.graph.vertices[add].shape[-1])
            if shift is None or self.only_user(add) != clip:
                continue
            if not (np.all(shift[0] == 1) and np.all(shift[1] == 3)):
                continue
            origin = self.graph.vertices[add].uses()[0]
            self.taken |= {add, clip}
            product = self.only_user(number)
            if product is not None:
                v = self.graph.vertices[product]
                if v.op == "relax.multiply" and sorted(v.uses()) == sorted((origin, number)):
                    self.taken.add(number)
                    found[product] = ("hardswish", origin)
                    continue
            found[number] = ("hardsigmoid", origin)
        return found


def _shape(graph: Graph, number: int) -> tuple[int, ...]:
    return graph.vertices[number].shape


def _constant_operand(v: Vertex) -> tuple[np.ndarray, bool] | None:
    """The constant of a binary vertex and whether it comes first; None without exactly one."""
    if len(v.args) != 2:
        return None
    first, second = v.args
    if isinstance(first, Use) and isinstance(second, np.ndarray):
        return second, False
    if isinstance(first, np.ndarray) and isinstance(second, Use):
        return first, True
    return None


def _scale_and_shift(v: Vertex, channels: int) -> tuple[Reals, Reals] | None:
    """The (scale, shift) per channel that a vertex with a constant is, None when it is none."""
    if v.op not in _LINEAR:
        return None
    found = _constant_operand(v)
    if found is None:
        return None
    constant, comes_first = found
    if constant.size not in (1, channels) or (constant.size > 1 and constant.shape[-1] != channels):
        return None
    values = np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,)).copy()
    ones, zeros = np.ones(channels), np.zeros(channels)
    if v.op == "relax.add":
        return ones, values
    if v.op == "relax.multiply":
        return values, zeros
    if v.op == "relax.subtract":
        return (-ones, values) if comes_first else (ones, -values)
    return None if comes_first else (1.0 / values, zeros)


def _clip_ends(v: Vertex) -> tuple[float, float | None]:
    if v.op == "relax.nn.relu":
        return 0.0, None
    if v.op == "relax.nn.relu6":
        return 0.0, 6.0
    lowest, highest = (float(np.asarray(end)) for end in v.args[1:3])
    return lowest, (None if math.isinf(highest) else highest)


def _window(v: Vertex, taps: Sequence[int]) -> Window:
    top, left, bottom, right = (int(side) for side in v.attrs["padding"])
    return Window(
        taps=(int(taps[0]), int(taps[1])),
        strides=(int(v.attrs["strides"][0]), int(v.attrs["strides"][-1])),
        dilation=(int(v.attrs["dilation"][0]), int(v.attrs["dilation"][-1])),
        padding=(top, left, bottom, right),
    )


def _ungrouped(taps: Reals, groups: int) -> Reals:
    """Weights (kh, kw, C_in / groups, O) as those of one group, zeros elsewhere."""
    if groups == 1:
        return taps
    rows, columns, width, outputs = taps.shape
    whole = np.zeros((rows, columns, width * groups, outputs))
    each = outputs // groups
    for group in range(groups):
        out = slice(group * each, (group + 1) * each)
        whole[:, :, group * width : (group + 1) * width, out] = taps[..., out]
    return whole
