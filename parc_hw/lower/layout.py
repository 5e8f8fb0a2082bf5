"""In which memory order does each value of the imported model live?

One forward walk turns a Relax function into a `Graph` that is NHWC inside. A permutation emits
nothing: it changes the order that a value is known to have. Only an operator that insists on
an order (a reshape that mixes axes, a model output, an operator unknown here) gets a transpose.
Unknown operators run in logical order: always right, only slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parc_hw.lower import _tvm
from parc_hw.lower.graph import INPUT, VIEW, Graph, Use, Vertex
from schedules.cpu.windows import sides

__all__ = ["ELEMENTWISE", "NHWC", "to_nhwc"]

NHWC = (0, 2, 3, 1)  # logical axes are N C H W

ELEMENTWISE = frozenset(
    {
        "relax.abs",
        "relax.add",
        "relax.ceil",
        "relax.clip",
        "relax.divide",
        "relax.erf",
        "relax.exp",
        "relax.floor",
        "relax.log",
        "relax.maximum",
        "relax.minimum",
        "relax.multiply",
        "relax.negative",
        "relax.power",
        "relax.rsqrt",
        "relax.sigmoid",
        "relax.sqrt",
        "relax.square",
        "relax.subtract",
        "relax.tanh",
        "relax.nn.gelu",
        "relax.nn.gelu_tanh",
        "relax.nn.leakyrelu",
        "relax.nn.relu",
        "relax.nn.relu6",
        "relax.nn.silu",
    }
)
_REDUCTIONS = frozenset("relax." + name for name in ("max", "mean", "min", "sum"))
_RESHAPES = frozenset("relax." + n for n in ("reshape", "expand_dims", "squeeze", "flatten"))
_FOLDED = {
    "relax.add": np.add,
    "relax.subtract": np.subtract,
    "relax.multiply": np.multiply,
    "relax.divide": np.divide,
    "relax.sqrt": np.sqrt,
    "relax.negative": np.negative,
}


def _identity(rank: int) -> tuple[int, ...]:
    return tuple(range(rank))


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor during the walk; a constant is an array in logical order."""

    item: Use | np.ndarray
    order: tuple[int, ...]
    logical: tuple[int, ...]

    @property
    def is_constant(self) -> bool:
        return isinstance(self.item, np.ndarray)

    @property
    def memory(self) -> tuple[int, ...]:
        """The shape in memory."""
        return tuple(self.logical[axis] for axis in self.order)

    @property
    def is_logical(self) -> bool:
        return self.order == _identity(len(self.order))


def _constant(array: np.ndarray) -> _Value:
    return _Value(array, _identity(array.ndim), array.shape)


class _Walk:
    """The walk's state: the graph so far and what each Relax variable has become."""

    def __init__(self, sources: Mapping[Any, Any]) -> None:
        self.graph = Graph()
        self.sources = sources
        self.values: dict[Any, Any] = {}
        self.moved: dict[tuple[int, tuple[int, ...]], _Value] = {}
        self.source = ""
        self.module = ""

    # -- making vertices ------------------------------------------------------------------

    def emit(
        self,
        op: str,
        args: tuple[Any, ...],
        attrs: dict[str, Any],
        logical: tuple[int, ...],
        order: tuple[int, ...],
        *,
        named: bool = True,
    ) -> _Value:
        """Add a vertex; `named` when its value is the current source node's."""
        vertex = Vertex(
            op=op,
            args=args,
            attrs=attrs,
            shape=tuple(logical[axis] for axis in order),
            order=order,
            source=self.source if named else "",
            module=self.module,
        )
        return _Value(Use(self.graph.add(vertex)), order, logical)

    def to(self, value: _Value, order: tuple[int, ...]) -> Use | np.ndarray:
        """The operand for `value` in memory order `order`."""
        if isinstance(value.item, np.ndarray):
            return np.ascontiguousarray(value.item.transpose(order))
        if value.order == order:
            return value.item
        axes = tuple(value.order.index(axis) for axis in order)
        key = (value.item.vertex, axes)
        if key not in self.moved:
            extended = [axis for axis in axes if value.memory[axis] != 1]
            view = extended == sorted(extended)  # only axes of extent 1 move: the same bytes
            self.moved[key] = self.emit(
                VIEW if view else "relax.permute_dims",
                (value.item,),
                {} if view else {"axes": axes},
                value.logical,
                order,
                named=False,
            )
        item = self.moved[key].item
        assert isinstance(item, Use)
        return item

    def logical(self, value: _Value) -> Use | np.ndarray:
        return self.to(value, _identity(len(value.order)))

    def reshaped(self, value: _Value, logical: tuple[int, ...], *, named: bool) -> _Value:
        """`value` with the same elements in logical order and another logical shape."""
        if isinstance(value.item, np.ndarray):
            return _constant(value.item.reshape(logical))
        same = [e for e in value.logical if e != 1] == [e for e in value.memory if e != 1]
        extended = [axis for axis in value.order if value.logical[axis] != 1]
        item = value.item if same and extended == sorted(extended) else self.logical(value)
        return self.emit(VIEW, (item,), {}, logical, _identity(len(logical)), named=named)

    def expanded(self, value: _Value, rank: int) -> _Value:
        """`value` with unit axes in front, as broadcasting does, up to `rank` axes."""
        extra = rank - len(value.order)
        if extra == 0:
            return value
        logical = (1,) * extra + value.logical
        if isinstance(value.item, np.ndarray):
            return _constant(value.item.reshape(logical))
        order = _identity(extra) + tuple(axis + extra for axis in value.order)
        return self.emit(VIEW, (value.item,), {}, logical, order, named=False)

    # -- reading Relax --------------------------------------------------------------------

    def read(self, expression: Any) -> Any:
        """A Relax operand as a `_Value`, a list of those, or a plain value."""
        kind = _tvm.operand_kind(expression)
        if kind == "var":
            return self.values[expression]
        if kind == "constant":
            return _constant(_tvm.constant(expression))
        if kind == "tuple":
            fields = [self.read(field) for field in expression.fields]
            return fields if any(isinstance(f, _Value) for f in fields) else tuple(fields)
        if kind == "item":
            return self.read(expression.tuple_value)[expression.index]
        return _tvm.plain(expression)

    def call(self, call: Any) -> Any:
        """What the operator's result becomes."""
        name = str(call.op.name)
        args = [self.read(argument) for argument in call.args]
        attrs = _tvm.plain_attrs(call.attrs)
        special: dict[str, Callable[..., Any]] = {
            "relax.nn.conv2d": self.conv2d,
            "relax.parc": self.parc,
            "relax.matmul": self.matmul,
            "relax.permute_dims": self.permute_dims,
            "relax.split": self.split,
            "relax.concat": self.concat,
            "relax.strided_slice": self.strided_slice,
            "relax.nn.layer_norm": self.layer_norm,
            "relax.nn.max_pool2d": self.pool2d,
            "relax.nn.avg_pool2d": self.pool2d,
            "relax.nn.adaptive_avg_pool2d": self.adaptive_avg_pool2d,
        }
        if name == "relax.nn.batch_norm":
            return self.batch_norm(args, attrs)
        result: Any = _tvm.static_shape(call) if hasattr(call.ty, "shape") else None
        if name in ELEMENTWISE:
            return self.elementwise(name, args, attrs, result)
        if name in _REDUCTIONS:
            return self.reduction(name, args, attrs, result)
        if name in _RESHAPES:
            return self.reshaped(args[0], result, named=True)
        if name in special:
            return special[name](name, args, attrs, result)
        return self.default(name, args, attrs, result)

    # -- operators ------------------------------------------------------------------------

    def default(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        """An operator that is not known here: everything in logical order."""

        def operand(arg: Any) -> Any:
            if isinstance(arg, _Value):
                return self.logical(arg)
            return tuple(operand(item) for item in arg) if isinstance(arg, list) else arg

        operands = tuple(operand(arg) for arg in args)
        return self.emit(name, operands, attrs, result, _identity(len(result)))

    def elementwise(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        """Takes the order of its largest operand; plain arguments (clip's bounds) pass."""
        tensors = [arg for arg in args if isinstance(arg, _Value)]
        if all(value.is_constant for value in tensors) and name in _FOLDED:
            arrays = [value.item for value in tensors]
            return _constant(np.asarray(_FOLDED[name](*arrays), np.float32))
        rank = len(result)
        lead = max(
            (value for value in tensors if len(value.order) == rank),
            key=lambda v: (not v.is_constant, math.prod(v.logical), v.order == NHWC),
        )
        operands = tuple(
            self.to(self.expanded(arg, rank), lead.order) if isinstance(arg, _Value) else arg
            for arg in args
        )
        return self.emit(name, operands, attrs, result, lead.order)

    def conv2d(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        image, weight = args
        if not weight.is_constant:
            return self.default(name, args, attrs, result)
        attrs = {
            **attrs,
            "padding": sides(attrs["padding"]),
            "data_layout": "NHWC",
            "out_layout": "NHWC",
        }
        from_user = (
            isinstance(image.item, Use)
            and self.graph.vertices[image.item.vertex].op == INPUT
            and image.is_logical
        )
        if from_user and attrs["groups"] == 1:  # the stem reads the user's NCHW as it is
            attrs.update(data_layout="NCHW", kernel_layout="OIHW")
            operands = (image.item, weight.item)
        elif attrs["groups"] > 1 and weight.logical[1] == 1:
            attrs["kernel_layout"] = "HWOI"
            operands = (self.to(image, NHWC), self.to(weight, (2, 3, 0, 1)))
        else:
            attrs["kernel_layout"] = "OHWI"
            operands = (self.to(image, NHWC), self.to(weight, (0, 2, 3, 1)))
        return self.emit(name, operands, attrs, result, NHWC)

    def parc(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        image, *constants = args
        if not all(value.is_constant for value in constants):
            return self.default(name, args, attrs, result)
        operands = (self.to(image, NHWC), *(value.item for value in constants))
        return self.emit(name, operands, {**attrs, "layout": "NHWC"}, result, NHWC)

    def matmul(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        left, right = args
        rank = len(left.order)
        if not (right.is_constant and len(right.order) == 2 and rank >= 2):
            return self.default(name, args, attrs, result)
        order = left.order if left.order[-1] == rank - 1 else _identity(rank)
        return self.emit(name, (self.to(left, order), right.item), attrs, result, order)

    def permute_dims(
        self, name: str, args: list[Any], attrs: dict[str, Any], result: Any
    ) -> _Value:
        value = args[0]
        rank = len(value.order)
        axes = attrs["axes"]
        axes = _identity(rank)[::-1] if axes is None else tuple(axis % rank for axis in axes)
        if isinstance(value.item, np.ndarray):
            return _constant(np.ascontiguousarray(value.item.transpose(axes)))
        # New logical axis j was axes[j]; the bytes stay where they are.
        return _Value(value.item, tuple(axes.index(axis) for axis in value.order), result)

    def split(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> list[_Value]:
        value = args[0]
        axis = attrs["axis"] % len(value.order)
        extent = value.logical[axis]
        sections = attrs["indices_or_sections"]
        if isinstance(sections, int):
            width = -(-extent // sections)
            ends = [min(width * (k + 1), extent) for k in range(sections)]
        else:
            ends = [*sections, extent]
        begins = [0, *ends[:-1]]
        return [self.sliced(value, [(axis, b, e, 1)]) for b, e in zip(begins, ends, strict=True)]

    def sliced(self, value: _Value, cuts: list[tuple[int, int, int, int]]) -> _Value:
        """Rows of (logical axis, begin, end, stride), bounds within the extent."""
        if isinstance(value.item, np.ndarray):
            index = [slice(None)] * len(value.order)
            for axis, begin, end, stride in cuts:
                index[axis] = slice(begin, end, stride)
            return _constant(np.ascontiguousarray(value.item[tuple(index)]))
        logical = list(value.logical)
        for axis, begin, end, stride in cuts:
            logical[axis] = -(-(end - begin) // stride)
        attrs = {
            "axes": tuple(value.order.index(cut[0]) for cut in cuts),
            "begin": tuple(cut[1] for cut in cuts),
            "end": tuple(cut[2] for cut in cuts),
            "strides": tuple(cut[3] for cut in cuts),
        }
        return self.emit("relax.strided_slice", (value.item,), attrs, tuple(logical), value.order)

    def strided_slice(
        self, name: str, args: list[Any], attrs: dict[str, Any], result: Any
    ) -> _Value:
        value, axes, begins, ends, *rest = args
        strides = rest[0] if rest and rest[0] is not None else (1,) * len(axes)
        if any(stride < 1 for stride in strides):
            return self.default(name, args, attrs, result)
        cuts = []
        for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
            axis %= len(value.order)
            extent = value.logical[axis]
            low, high, _ = slice(begin, end).indices(extent)
            cuts.append((axis, low, high, stride))
        return self.sliced(value, cuts)

    def concat(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        values = args[0]
        lead = max(values, key=lambda v: (not v.is_constant, math.prod(v.logical)))
        axis = lead.order.index(attrs["axis"] % len(lead.order))
        operands = tuple(self.to(value, lead.order) for value in values)
        return self.emit(name, (operands,), {"axis": axis}, result, lead.order)

    def reduction(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        value = args[0]
        rank = len(value.order)
        axes = attrs["axis"]
        axes = _identity(rank) if axes is None else tuple(axis % rank for axis in axes)
        keep = bool(attrs["keepdims"])
        left = [axis for axis in range(rank) if axis not in axes]
        order = value.order if keep else tuple(left.index(a) for a in value.order if a in left)
        attrs = {"axis": tuple(sorted(value.order.index(a) for a in axes)), "keepdims": keep}
        return self.emit(name, (self.to(value, value.order),), attrs, result, order)

    def layer_norm(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        value, gamma, beta = args
        rank = len(value.order)
        axes = tuple(sorted(axis % rank for axis in attrs["axes"]))
        if not (gamma.is_constant and beta.is_constant):
            return self.default(name, args, attrs, result)
        order = value.order
        if order[-len(axes) :] != axes:
            order = tuple(axis for axis in order if axis not in axes) + axes
        attrs = {**attrs, "axes": tuple(range(rank - len(axes), rank))}
        operands = (self.to(value, order), gamma.item, beta.item)
        return self.emit(name, operands, attrs, result, order)

    def batch_norm(self, args: list[Any], attrs: dict[str, Any]) -> list[_Value]:
        """At inference: one multiplication and one addition by constants per channel."""
        value, *statistics = args
        gamma, beta, mean, variance = (np.asarray(v.item, np.float64) for v in statistics)
        scale = (gamma if attrs["scale"] else 1.0) / np.sqrt(variance + attrs["epsilon"])
        shift = (beta if attrs["center"] else 0.0) - mean * scale
        along = [1] * len(value.order)
        along[attrs["axis"]] = -1
        for op, array in (("relax.multiply", scale), ("relax.add", shift)):
            constant = _constant(array.reshape(along).astype(np.float32))
            operands = (self.to(value, value.order), self.to(constant, value.order))
            value = self.emit(op, operands, {}, value.logical, value.order, named=op == "relax.add")
        return [value]

    def pool2d(self, name: str, args: list[Any], attrs: dict[str, Any], result: Any) -> _Value:
        attrs = {**attrs, "layout": "NHWC", "out_layout": "NHWC"}
        return self.emit(name, (self.to(args[0], NHWC),), attrs, result, NHWC)

    def adaptive_avg_pool2d(
        self, name: str, args: list[Any], attrs: dict[str, Any], result: Any
    ) -> _Value:
        if tuple(result[2:]) != (1, 1):
            return self.default(name, args, attrs, result)
        return self.reduction("relax.mean", args, {"axis": (2, 3), "keepdims": True}, result)

    # -- the function ---------------------------------------------------------------------

    def function(self, function: Any) -> Graph:
        for index, parameter in enumerate(function.params):
            logical = _tvm.static_shape(parameter)
            self.source = str(parameter.name)
            value = self.emit(INPUT, (), {"index": index}, logical, _identity(len(logical)))
            assert isinstance(value.item, Use)
            self.graph.inputs.append(value.item.vertex)
            self.values[parameter] = value
        for variable, expression in _tvm.bindings(function):
            origin = self.sources.get(variable)
            self.source = origin.node if origin is not None else ""
            self.module = origin.module_path if origin is not None else self.module
            if _tvm.is_call(expression):
                self.values[variable] = self.call(expression)
            else:
                self.values[variable] = self.read(expression)
        result = self.read(function.body.body)
        self.source = self.module = ""
        for value in result if isinstance(result, list) else [result]:
            self.graph.outputs.append(self.output(value))
        return self.graph

    def output(self, value: _Value) -> int:
        """The vertex of a model output: in logical order and with bytes of its own."""
        item = self.logical(value)
        owned = isinstance(item, Use) and self.graph.root(item.vertex) not in (
            *self.graph.inputs,
            *(self.graph.root(number) for number in self.graph.outputs),
        )
        if not owned:
            one = np.ones((1,) * len(value.logical), np.float32)
            order = _identity(len(value.logical))
            item = self.emit("relax.multiply", (item, one), {}, value.logical, order).item
        assert isinstance(item, Use)
        return item.vertex


def to_nhwc(function: Any, sources: Mapping[Any, Any]) -> Graph:
    """Turn a Relax function with static float32 shapes into a graph that is NHWC inside.

    Parameters
    ----------
    function : relax.Function
        NCHW, ParC as `relax.parc`, weights as constants.
    sources : mapping of relax.Var to a source
        For each binding: an object with `node` (name in the source graph) and `module_path`.

    Returns
    -------
    Graph
        BatchNorm decomposed, splits as slices, permutations absorbed.
    """
    return _Walk(sources).function(function)
