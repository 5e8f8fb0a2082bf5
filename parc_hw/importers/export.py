"""How does an imported model leave again, as an ONNX file that others run?

Each Relax operator is written as the ONNX operator that the importer reads back to it, so that a
file that returns gets the same plan. A ParC is Slice, Concat and Conv with its kernel as it is
after resizing, and an Add of its position embedding: what every runtime has.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parc_hw.errors import InputError, ToolchainError, UnsupportedError
from parc_hw.importers.imported import Imported
from parc_hw.lower import _tvm
from parc_hw.version import VERSION

__all__ = ["OPSET", "export_onnx"]

OPSET = 21  # the first with a GroupNormalization that has one scale for each channel
_IR_VERSION = 10  # of ONNX 1.16, which defines opset 21


def export_onnx(imported: Imported, path: str | Path) -> Path:
    """Write an imported model as an ONNX file.

    Parameters
    ----------
    imported : Imported
    path : path
        Ends with `.onnx`; the file is written whole or not at all, and replaces an older one.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    InputError
        A path of another kind, or one that cannot be written.
    UnsupportedError
        Operators that have no form in ONNX here; all are listed.
    ToolchainError
        The package `onnx` is missing.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise InputError(f"the file {path} must end with .onnx.")
    try:
        import onnx
    except ImportError as error:
        raise ToolchainError(
            'writing .onnx files needs the package onnx: pip install "parc_hw[onnx]".'
        ) from error
    proto = _Writer(imported).model()
    onnx.checker.check_model(proto)
    data = proto.SerializeToString()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    return path


_PLAIN = {
    "abs": "Abs",
    "add": "Add",
    "ceil": "Ceil",
    "divide": "Div",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "log": "Log",
    "matmul": "MatMul",
    "maximum": "Max",
    "minimum": "Min",
    "multiply": "Mul",
    "negative": "Neg",
    "nn.relu": "Relu",
    "power": "Pow",
    "sigmoid": "Sigmoid",
    "sqrt": "Sqrt",
    "subtract": "Sub",
    "tanh": "Tanh",
}
_REDUCTIONS = {"max": "ReduceMax", "mean": "ReduceMean", "min": "ReduceMin", "sum": "ReduceSum"}


class _Writer:
    """A Relax function on its way to ONNX."""

    def __init__(self, imported: Imported) -> None:
        self.imported = imported
        self.function = imported.module["main"]
        self.nodes: list[Any] = []
        self.initial: list[Any] = []
        self.stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.names: dict[Any, str] = {}
        self.tuples: dict[Any, list[str]] = {}
        self.used: set[str] = set()
        self.path = ""
        self.special: dict[str, Callable[[Any, list[str], dict[str, Any], str], Any]] = {
            "broadcast_to": self.broadcast_to,
            "clip": self.clip,
            "concat": self.concat,
            "einsum": self.einsum,
            "expand_dims": self.reshape,
            "flatten": self.reshape,
            "image.resize2d": self.resize,
            "nn.adaptive_avg_pool2d": self.adaptive_pool,
            "nn.avg_pool2d": self.pool,
            "nn.conv2d": self.conv,
            "nn.gelu": self.gelu,
            "nn.gelu_tanh": self.gelu,
            "nn.group_norm": self.group_norm,
            "nn.layer_norm": self.layer_norm,
            "nn.leakyrelu": self.leaky_relu,
            "nn.log_softmax": self.softmax,
            "nn.max_pool2d": self.pool,
            "nn.pad": self.pad,
            "nn.relu6": self.relu6,
            "nn.silu": self.silu,
            "nn.softmax": self.softmax,
            "parc": self.parc,
            "permute_dims": self.permute_dims,
            "reshape": self.reshape,
            "rsqrt": self.rsqrt,
            "split": self.split,
            "square": self.square,
            "squeeze": self.reshape,
            "strided_slice": self.slice,
            "take": self.take,
            "tile": self.tile,
        }

    # -- the whole ------------------------------------------------------------------------

    def model(self) -> Any:
        from onnx import helper

        for var, tensor in zip(self.function.params, self.imported.inputs, strict=True):
            self.names[var] = self.unique(tensor.name)
        outputs = [self.unique(tensor.name) for tensor in self.imported.outputs]
        missing: list[str] = []
        for var, value in _tvm.bindings(self.function):
            source = self.imported.sources.get(var)
            self.path = (source.module_path if source else "") or self.path
            if _tvm.is_call(value):
                name = str(value.op.name).removeprefix("relax.")
                if not self.call(name, var, value):
                    missing.append(f"{name} at {self.path or 'the top level'}")
                    self.names[var] = name  # a stand-in, so that problems further on are found
            elif _tvm.operand_kind(value) == "tuple":
                self.tuples[var] = [self.operand(item) for item in value.fields]
            elif _tvm.operand_kind(value) == "item":
                self.names[var] = self.operand(value)
            else:
                self.names[var] = self.operand(value)
        if missing:
            listed = "\n  ".join(dict.fromkeys(missing))
            raise UnsupportedError(f"these operators have no form in ONNX here:\n  {listed}")
        body = self.function.body.body
        results = self.tuples.get(body)
        if results is None:
            fields = body.fields if _tvm.operand_kind(body) == "tuple" else [body]
            results = [self.operand(item) for item in fields]
        for result, output in zip(results, outputs, strict=True):
            self.nodes.append(helper.make_node("Identity", [result], [output]))
        read = {name for node in self.nodes for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            "parc_hw",
            [self.value(n, t.shape) for n, t in self.boundary(self.function.params)],
            [
                self.value(name, tensor.shape)
                for name, tensor in zip(outputs, self.imported.outputs, strict=True)
            ],
            [tensor for tensor in self.initial if tensor.name in read],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="parc_hw",
            producer_version=VERSION,
        )
        model.ir_version = _IR_VERSION
        return model

    def boundary(self, params: Sequence[Any]) -> list[tuple[str, Any]]:
        return [(self.names[v], t) for v, t in zip(params, self.imported.inputs, strict=True)]

    @staticmethod
    def value(name: str, shape: Sequence[int]) -> Any:
        from onnx import TensorProto, helper

        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    def call(self, name: str, var: Any, value: Any) -> bool:
        """Write one call; whether there is a form for it."""
        attrs = _tvm.plain_attrs(value.attrs)
        if name in _PLAIN:
            self.names[var] = self.node(_PLAIN[name], [self.operand(a) for a in value.args])
        elif name in _REDUCTIONS:
            rank = len(_tvm.static_shape(value.args[0]))
            axes = range(rank) if attrs["axis"] is None else [a % rank for a in attrs["axis"]]
            operands = [self.operand(value.args[0]), self.integers(axes)]
            keep = int(attrs["keepdims"])
            self.names[var] = self.node(_REDUCTIONS[name], operands, keepdims=keep)
        elif name in self.special:
            operands = [
                self.operand(a)
                for a in value.args
                if _tvm.operand_kind(a) in ("var", "constant", "item")
            ]
            result = self.special[name](value, operands, attrs, name)
            if result is None:
                return False
            if isinstance(result, list):
                self.tuples[var] = result
            else:
                self.names[var] = result
        else:
            return False
        return True

    # -- names and constants --------------------------------------------------------------

    def unique(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.used:
            name, number = f"{wanted}_{number}", number + 1
        self.used.add(name)
        return name

    def node(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        """Add a node with one result, named by where it stands; returns the result's name."""
        from onnx import helper

        place = "/".join(["", *self.path.split(".")] if self.path else [""])
        name = self.unique(f"{place}/{op}")
        output = self.unique(f"{name}_output")
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attrs))
        return output

    def constant(self, array: np.ndarray) -> str:
        """The name of an initialiser; equal ones are stored once."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self.stored:
            kind = "weight" if array.dtype.kind == "f" else "numbers"
            self.stored[key] = self.unique(f"{self.path or 'main'}.{kind}")
            self.initial.append(numpy_helper.from_array(array, self.stored[key]))
        return self.stored[key]

    def integers(self, values: Sequence[int] | Any) -> str:
        return self.constant(np.array(list(values), np.int64))

    def operand(self, value: Any) -> str:
        kind = _tvm.operand_kind(value)
        if kind == "constant":
            return self.constant(_tvm.constant(value))
        if kind == "item":
            return self.tuples[value.tuple_value][value.index]
        return self.names[value]

    # -- operators ------------------------------------------------------------------------

    def parc(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str | None:
        x, weight, pe, bias = call.args
        if attrs["layout"] != "NCHW":
            return None
        dim = 2 if attrs["axis"] == "H" else 3
        other = 3 if dim == 2 else 2
        taps, embedding, offset = (_tvm.constant(a) for a in (weight, pe, bias))
        z = operands[0]
        if np.any(embedding):
            z = self.node("Add", [z, self.constant(np.expand_dims(embedding[None], other))])
        length = _tvm.static_shape(x)[dim]
        numbers = [self.integers([n]) for n in (0, length - 1, dim)]
        again = self.node("Slice", [z, *numbers])
        line = self.node("Concat", [z, again], axis=dim)
        groups = taps.shape[0] if taps.ndim == 2 else 1
        kernel = np.expand_dims(taps[:, None] if taps.ndim == 2 else taps, other)
        conv = [line, self.constant(kernel)]
        if np.any(offset):
            conv.append(self.constant(offset))
        return self.node("Conv", conv, group=groups, kernel_shape=list(kernel.shape[2:]))

    def conv(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str | None:
        if attrs["data_layout"] != "NCHW" or attrs["kernel_layout"] != "OIHW":
            return None
        return self.node(
            "Conv",
            operands,
            strides=list(attrs["strides"]),
            pads=list(attrs["padding"]),
            dilations=list(attrs["dilation"]),
            group=attrs["groups"],
            kernel_shape=list(_tvm.static_shape(call.args[1])[2:]),
        )

    def layer_norm(
        self, call: Any, operands: list[str], attrs: dict[str, Any], name: str
    ) -> str | None:
        rank = len(_tvm.static_shape(call.args[0]))
        axes = sorted(axis % rank for axis in attrs["axes"])
        if axes != list(range(axes[0], rank)):
            return None
        axis, epsilon = axes[0] - rank, attrs["epsilon"]
        return self.node("LayerNormalization", operands, axis=axis, epsilon=epsilon)

    def group_norm(
        self, call: Any, operands: list[str], attrs: dict[str, Any], name: str
    ) -> str | None:
        rank = len(_tvm.static_shape(call.args[0]))
        if attrs["channel_axis"] % rank != 1 or len(attrs["axes"]) != rank - 2:
            return None
        groups, epsilon = attrs["num_groups"], attrs["epsilon"]
        return self.node("GroupNormalization", operands, num_groups=groups, epsilon=epsilon)

    def gelu(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.node("Gelu", operands, approximate="tanh" if "tanh" in name else "none")

    def silu(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.node("Mul", [operands[0], self.node("Sigmoid", operands)])

    def leaky_relu(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.node("LeakyRelu", operands, alpha=float(attrs["alpha"]))

    def bounds(self, x: str, low: float, high: float) -> str:
        bounds = [self.constant(np.array(b, np.float32)) for b in (low, high)]
        return self.node("Clip", [x, *bounds])

    def relu6(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.bounds(operands[0], 0.0, 6.0)

    def clip(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        low, high = (float(_tvm.plain(bound)) for bound in call.args[1:3])
        return self.bounds(operands[0], low, high)

    def square(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.node("Mul", [operands[0], operands[0]])

    def rsqrt(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.node("Reciprocal", [self.node("Sqrt", operands)])

    def softmax(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        op = "LogSoftmax" if "log" in name else "Softmax"
        return self.node(op, operands, axis=attrs["axis"])

    def pool(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str | None:
        if attrs["layout"] != "NCHW":
            return None
        more = {} if "max" in name else {"count_include_pad": int(attrs["count_include_pad"])}
        return self.node(
            "MaxPool" if "max" in name else "AveragePool",
            operands,
            kernel_shape=list(attrs["pool_size"]),
            strides=list(attrs["strides"]),
            pads=list(attrs["padding"]),
            dilations=list(attrs["dilation"]),
            ceil_mode=int(attrs["ceil_mode"]),
            **more,
        )

    def adaptive_pool(
        self, call: Any, operands: list[str], attrs: dict[str, Any], name: str
    ) -> str | None:
        size, result = (_tvm.static_shape(v)[2:] for v in (call.args[0], call))
        if any(extent % wanted for extent, wanted in zip(size, result, strict=True)):
            return None  # windows of several sizes
        window = [extent // wanted for extent, wanted in zip(size, result, strict=True)]
        return self.node("AveragePool", operands, kernel_shape=window, strides=window)

    def reshape(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.node("Reshape", [operands[0], self.integers(_tvm.static_shape(call))])

    def broadcast_to(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        return self.node("Expand", [operands[0], self.integers(_tvm.static_shape(call))])

    def permute_dims(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        rank = len(_tvm.static_shape(call))
        axes = attrs["axes"] or range(rank)[::-1]
        return self.node("Transpose", operands, perm=[axis % rank for axis in axes])

    def concat(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        fields = call.args[0]
        if _tvm.operand_kind(fields) == "tuple":
            pieces = [self.operand(item) for item in fields.fields]
        else:
            pieces = self.tuples[fields]
        return self.node("Concat", pieces, axis=attrs["axis"])

    def split(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> list[str]:
        from onnx import helper

        shape = _tvm.static_shape(call.args[0])
        axis, places = attrs["axis"] % len(shape), attrs["indices_or_sections"]
        if isinstance(places, int):
            places = [shape[axis] // places * i for i in range(1, places)]
        edges = [0, *places, shape[axis]]
        sizes = self.integers(np.diff(edges).tolist())
        outputs = [self.unique(f"{self.path or 'main'}/Split_output") for _ in edges[1:]]
        node = helper.make_node("Split", [operands[0], sizes], outputs, axis=axis)
        node.name = self.unique("/".join(["", *self.path.split("."), "Split"]))
        self.nodes.append(node)
        return outputs

    def slice(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str | None:
        axes, begin, end, *strides = (_tvm.plain(argument) for argument in call.args[1:])
        steps = strides[0] if strides else (1,) * len(axes)
        if any(step < 1 for step in steps):
            return None
        bounds = [self.integers(values) for values in (begin, end, axes, steps)]
        return self.node("Slice", [operands[0], *bounds])

    def take(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        axis = attrs["axis"]
        return self.node("Gather", operands, axis=0 if axis is None else axis)

    def tile(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str | None:
        if len(attrs["repeats"]) != len(_tvm.static_shape(call.args[0])):
            return None
        return self.node("Tile", [operands[0], self.integers(attrs["repeats"])])

    def einsum(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str:
        fields = [self.operand(item) for item in call.args[0].fields]
        return self.node("Einsum", fields, equation=attrs["subscripts"])

    def pad(self, call: Any, operands: list[str], attrs: dict[str, Any], name: str) -> str | None:
        modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
        if attrs["pad_mode"] not in modes:
            return None
        widths = attrs["pad_width"]
        pads = self.integers([*widths[::2], *widths[1::2]])
        value = self.constant(np.array(attrs.get("pad_value", 0.0), np.float32))
        inputs = [operands[0], pads] + ([value] if attrs["pad_mode"] == "constant" else [])
        return self.node("Pad", inputs, mode=modes[attrs["pad_mode"]])

    def resize(
        self, call: Any, operands: list[str], attrs: dict[str, Any], name: str
    ) -> str | None:
        modes = {"nearest_neighbor": "nearest", "linear": "linear", "cubic": "cubic"}
        if attrs["layout"] != "NCHW" or attrs["method"] not in modes:
            return None
        more: dict[str, Any] = {}
        if attrs["method"] == "nearest_neighbor":
            more["nearest_mode"] = attrs["rounding_method"] or "round_prefer_floor"
        if attrs["method"] == "cubic":
            more["cubic_coeff_a"] = float(attrs["cubic_alpha"])
        return self.node(
            "Resize",
            [operands[0], "", "", self.integers(_tvm.static_shape(call))],
            mode=modes[attrs["method"]],
            coordinate_transformation_mode=attrs["coordinate_transformation_mode"],
            **more,
        )
