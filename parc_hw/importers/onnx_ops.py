"""How does each ONNX operator become Relax calls?

A converter takes the node and its operands: arrays where they are known, Relax variables
elsewhere, None where they are left out. It emits calls and returns the result, or raises
UnsupportedError with the reason. Shapes are static throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax

from parc_hw.errors import UnsupportedError
from parc_hw.importers.onnx_file import OnnxNode
from parc_hw.importers.recognise import circular_pad
from parc_hw.lower import _tvm

__all__ = ["Conversion", "conversions"]

Conversion = Callable[[OnnxNode, list[Any]], Any]

_UNARY = {
    "Abs": relax.op.abs,
    "Ceil": relax.op.ceil,
    "Erf": relax.op.erf,
    "Exp": relax.op.exp,
    "Floor": relax.op.floor,
    "Log": relax.op.log,
    "Neg": relax.op.negative,
    "Relu": relax.op.nn.relu,
    "Sigmoid": relax.op.sigmoid,
    "Sqrt": relax.op.sqrt,
    "Tanh": relax.op.tanh,
}
_BINARY = {
    "Add": relax.op.add,
    "Div": relax.op.divide,
    "Max": relax.op.maximum,
    "Min": relax.op.minimum,
    "Mul": relax.op.multiply,
    "Pow": relax.op.power,
    "Sub": relax.op.subtract,
}
_REDUCTIONS = {
    "ReduceMax": relax.op.max,
    "ReduceMean": relax.op.mean,
    "ReduceMin": relax.op.min,
    "ReduceSum": relax.op.sum,
}


def conversions(builder: relax.BlockBuilder, opset: int) -> dict[str, Conversion]:
    """Return the converters by operator, which emit into the builder's open dataflow block."""
    return _Converter(builder, opset).table


class _Converter:
    """Converters by operator, over one open dataflow block."""

    def __init__(self, builder: relax.BlockBuilder, opset: int) -> None:
        self.builder = builder
        self.opset = opset
        self.gates: dict[relax.Var, Any] = {}  # Sigmoid's result -> its operand
        self.table: dict[str, Conversion] = {
            **{name: self.unary(op) for name, op in _UNARY.items()},
            **{name: self.variadic(op) for name, op in _BINARY.items()},
            **{name: self.reduction(op) for name, op in _REDUCTIONS.items()},
            "AveragePool": self.pool,
            "BatchNormalization": self.batch_normalization,
            "Cast": self.cast,
            "Clip": self.clip,
            "Concat": self.concat,
            "Conv": self.conv,
            "DepthToSpace": self.depth_to_space,
            "Dropout": self.same,
            "Einsum": self.einsum,
            "Expand": self.expand,
            "Flatten": self.flatten,
            "Gather": self.gather,
            "Gelu": self.gelu,
            "Gemm": self.gemm,
            "GlobalAveragePool": self.global_pool(relax.op.mean),
            "GlobalMaxPool": self.global_pool(relax.op.max),
            "GroupNormalization": self.group_normalization,
            "HardSigmoid": self.hard_sigmoid,
            "HardSwish": self.hard_swish,
            "Identity": self.same,
            "InstanceNormalization": self.group_normalization,
            "LayerNormalization": self.layer_normalization,
            "LeakyRelu": self.leaky_relu,
            "LogSoftmax": self.softmax(relax.op.nn.log_softmax),
            "MatMul": self.matmul,
            "MaxPool": self.pool,
            "Mul": self.multiply,
            "PRelu": self.prelu,
            "Pad": self.pad,
            "Reciprocal": self.reciprocal,
            "Reshape": self.reshape,
            "Resize": self.resize,
            "Sigmoid": self.sigmoid,
            "Slice": self.slice,
            "Softmax": self.softmax(relax.op.nn.softmax),
            "SpaceToDepth": self.space_to_depth,
            "Split": self.split,
            "Squeeze": self.squeeze,
            "Tile": self.tile,
            "Transpose": self.transpose,
            "Unsqueeze": self.unsqueeze,
        }

    # -- help for converters --------------------------------------------------------------

    def emit(self, call: Any) -> Any:
        return self.builder.emit(call)

    def expression(self, operand: Any) -> Any:
        """A Relax operand: constants must be float32."""
        if not isinstance(operand, np.ndarray):
            return operand
        if operand.dtype != np.float32:
            raise UnsupportedError(f"a constant operand is {operand.dtype}, not float32")
        return relax.const(operand)

    @staticmethod
    def shape(value: Any) -> tuple[int, ...]:
        return value.shape if isinstance(value, np.ndarray) else _tvm.static_shape(value)

    @staticmethod
    def integers(operand: Any, what: str) -> tuple[int, ...]:
        """Whole numbers that must be known before any input arrives."""
        if not isinstance(operand, np.ndarray) or operand.dtype.kind not in "iu":
            raise UnsupportedError(f"its {what} depend on the input")
        return tuple(int(number) for number in operand.ravel())

    def axis(self, value: int, rank: int) -> int:
        if not -rank <= value < rank:
            raise UnsupportedError(f"axis {value} of {rank}")
        return value % rank

    # -- element by element ---------------------------------------------------------------

    def unary(self, op: Callable[[Any], Any]) -> Conversion:
        return lambda node, operands: self.emit(op(operands[0]))

    def variadic(self, op: Callable[[Any, Any], Any]) -> Conversion:
        def convert(node: OnnxNode, operands: list[Any]) -> Any:
            result = self.expression(operands[0])
            for operand in operands[1:]:
                result = self.emit(op(result, self.expression(operand)))
            return result

        return convert

    def same(self, node: OnnxNode, operands: list[Any]) -> Any:
        if node.op == "Dropout" and len(operands) > 2 and np.any(operands[2]):
            raise UnsupportedError("it is in training mode")
        return operands[0]

    def cast(self, node: OnnxNode, operands: list[Any]) -> Any:
        if node.attrs.get("to") != 1:  # TensorProto.FLOAT
            raise UnsupportedError("its result is not float32")
        return operands[0]

    def sigmoid(self, node: OnnxNode, operands: list[Any]) -> Any:
        result = self.emit(relax.op.sigmoid(operands[0]))
        self.gates[result] = operands[0]
        return result

    def multiply(self, node: OnnxNode, operands: list[Any]) -> Any:
        """`x * sigmoid(x)` is one operator, SiLU, as torch has it."""
        for gate, other in (tuple(operands), tuple(operands)[::-1]):
            gated = self.gates.get(gate) if isinstance(gate, relax.Var) else None
            if gated is not None and isinstance(other, relax.Var) and gated.same_as(other):
                return self.emit(relax.op.nn.silu(other))
        return self.variadic(relax.op.multiply)(node, operands)

    def clip(self, node: OnnxNode, operands: list[Any]) -> Any:
        bounds = [-math.inf, math.inf]
        for index, bound in enumerate(operands[1:3]):
            if bound is None:
                continue
            if not isinstance(bound, np.ndarray) or bound.size != 1:
                raise UnsupportedError("its bounds depend on the input")
            bounds[index] = float(bound.reshape(()))
        result = operands[0]
        if bounds[0] == 0 and bounds[1] == math.inf:
            return self.emit(relax.op.nn.relu(result))
        if -math.inf < bounds[0] and bounds[1] < math.inf:
            return self.emit(relax.op.clip(result, bounds[0], bounds[1]))
        if bounds[0] > -math.inf:
            result = self.emit(relax.op.maximum(result, relax.const(bounds[0], "float32")))
        if bounds[1] < math.inf:
            result = self.emit(relax.op.minimum(result, relax.const(bounds[1], "float32")))
        return result

    def gelu(self, node: OnnxNode, operands: list[Any]) -> Any:
        tanh = node.attrs.get("approximate", "none") == "tanh"
        return self.emit((relax.op.nn.gelu_tanh if tanh else relax.op.nn.gelu)(operands[0]))

    def hard_sigmoid(self, node: OnnxNode, operands: list[Any]) -> Any:
        alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
        scaled = self.emit(relax.op.multiply(operands[0], relax.const(alpha, "float32")))
        shifted = self.emit(relax.op.add(scaled, relax.const(beta, "float32")))
        return self.emit(relax.op.clip(shifted, 0, 1))

    def hard_swish(self, node: OnnxNode, operands: list[Any]) -> Any:
        scaled = self.emit(relax.op.multiply(operands[0], relax.const(1 / 6, "float32")))
        shifted = self.emit(relax.op.add(scaled, relax.const(0.5, "float32")))
        gate = self.emit(relax.op.clip(shifted, 0, 1))
        return self.emit(relax.op.multiply(operands[0], gate))

    def leaky_relu(self, node: OnnxNode, operands: list[Any]) -> Any:
        return self.emit(relax.op.nn.leakyrelu(operands[0], node.attrs.get("alpha", 0.01)))

    def prelu(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, zero = operands[0], relax.const(0.0, "float32")
        low = self.emit(relax.op.minimum(x, zero))
        slope = self.emit(relax.op.multiply(low, self.expression(operands[1])))
        return self.emit(relax.op.add(self.emit(relax.op.nn.relu(x)), slope))

    def reciprocal(self, node: OnnxNode, operands: list[Any]) -> Any:
        return self.emit(relax.op.divide(relax.const(1.0, "float32"), operands[0]))

    # -- products -------------------------------------------------------------------------

    def matmul(self, node: OnnxNode, operands: list[Any]) -> Any:
        return self.emit(relax.op.matmul(*(self.expression(operand) for operand in operands)))

    def gemm(self, node: OnnxNode, operands: list[Any]) -> Any:
        """alpha * A B + beta * C; the factors go into constants where there are such."""

        def transposed(operand: Any, flag: str) -> Any:
            if not node.attrs.get(flag, 0):
                return operand
            if isinstance(operand, np.ndarray):
                return np.ascontiguousarray(operand.T)
            return self.emit(relax.op.permute_dims(operand))

        def scaled(operand: Any, factor: float) -> Any:
            if factor == 1:
                return self.expression(operand)
            if isinstance(operand, np.ndarray):
                return self.expression((operand * np.float32(factor)).astype(operand.dtype))
            return self.emit(relax.op.multiply(operand, relax.const(factor, "float32")))

        first, second = transposed(operands[0], "transA"), transposed(operands[1], "transB")
        second = scaled(second, node.attrs.get("alpha", 1.0))
        result = self.emit(relax.op.matmul(self.expression(first), second))
        if len(operands) < 3 or operands[2] is None:
            return result
        return self.emit(relax.op.add(result, scaled(operands[2], node.attrs.get("beta", 1.0))))

    def einsum(self, node: OnnxNode, operands: list[Any]) -> Any:
        fields = [self.expression(operand) for operand in operands]
        return self.emit(relax.op.einsum(tuple(fields), node.attrs["equation"].replace(" ", "")))

    def conv(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, weight = operands[:2]
        taps = self.shape(weight)[2:]
        if len(self.shape(x)) != 4 or len(taps) != 2:
            raise UnsupportedError(f"its input is {self.shape(x)}, not (B, C, H, W)")
        strides, dilations = self.pair(node, "strides"), self.pair(node, "dilations")
        groups = int(node.attrs.get("group", 1))
        out_channels, in_channels = self.shape(weight)[:2]
        if groups < 1 or self.shape(x)[1] != groups * in_channels or out_channels % groups:
            raise UnsupportedError(
                f"a kernel of shape {self.shape(weight)} in {groups} groups does not fit an input "
                f"of shape {self.shape(x)}"
            )
        padding = self.padding(node, self.shape(x)[2:], taps, strides, dilations)
        result = self.emit(
            relax.op.nn.conv2d(
                self.expression(x),
                self.expression(weight),
                strides=strides,
                padding=padding,
                dilation=dilations,
                groups=groups,
            )
        )
        if len(operands) < 3 or operands[2] is None:
            return result
        return self.emit(relax.op.add(result, self.per_channel(operands[2], 4)))

    def per_channel(self, vector: Any, rank: int) -> Any:
        """A vector (C,) as (1, C, 1, ...)."""
        shape = (1, -1) + (1,) * (rank - 2)
        if isinstance(vector, np.ndarray):
            return self.expression(vector.reshape(shape))
        return self.emit(relax.op.reshape(vector, shape))

    def pair(self, node: OnnxNode, name: str) -> tuple[int, int]:
        values = node.attrs.get(name, (1, 1))
        if len(values) != 2 or not all(isinstance(v, int) and 0 < v < 2**16 for v in values):
            raise UnsupportedError(f"its {name} are {values}")
        return (values[0], values[1])

    def padding(
        self, node: OnnxNode, size: Sequence[int], taps: Sequence[int], strides: Any, dilations: Any
    ) -> tuple[int, int, int, int]:
        """(top, left, bottom, right)."""
        kind = node.attrs.get("auto_pad", "NOTSET")
        if kind == "VALID":
            return (0, 0, 0, 0)
        if kind in ("SAME_UPPER", "SAME_LOWER"):
            ends = []
            for extent, tap, stride, dilation in zip(size, taps, strides, dilations, strict=True):
                total = (-(-extent // stride) - 1) * stride + (tap - 1) * dilation + 1 - extent
                total = max(total, 0)
                half = total // 2 if kind == "SAME_UPPER" else total - total // 2
                ends.append((half, total - half))
            return (ends[0][0], ends[1][0], ends[0][1], ends[1][1])
        values = tuple(node.attrs.get("pads", (0, 0, 0, 0)))
        if len(values) != 4 or not all(isinstance(v, int) and 0 <= v < 2**16 for v in values):
            raise UnsupportedError(f"its pads are {values}")
        return values

    # -- normalisation and reduction ------------------------------------------------------

    def batch_normalization(self, node: OnnxNode, operands: list[Any]) -> Any:
        """Multiply by w / sqrt(var + eps), add b - mean * that; computed in float64."""
        if node.attrs.get("training_mode", 0):
            raise UnsupportedError("it is in training mode")
        x, *statistics = operands
        if not all(isinstance(s, np.ndarray) for s in statistics):
            raise UnsupportedError("its statistics depend on the input")
        weight, bias, mean, variance = (s.astype(np.float64) for s in statistics)
        scale = weight / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        rank = len(self.shape(x))
        shift = bias - mean * scale
        scale, shift = (a.astype(np.float32) for a in (scale, shift))
        scaled = self.emit(relax.op.multiply(x, self.per_channel(scale, rank)))
        return self.emit(relax.op.add(scaled, self.per_channel(shift, rank)))

    def layer_normalization(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, scale, *rest = operands
        shape = self.shape(x)
        first = self.axis(node.attrs.get("axis", -1), len(shape))
        normalised = shape[first:]
        bias = rest[0] if rest and rest[0] is not None else np.zeros(normalised, np.float32)
        operands = [
            self.expression(np.ascontiguousarray(np.broadcast_to(a, normalised)))
            if isinstance(a, np.ndarray)
            else a
            for a in (scale, bias)
        ]
        axes = list(range(first - len(shape), 0))
        epsilon = node.attrs.get("epsilon", 1e-5)
        return self.emit(relax.op.nn.layer_norm(x, *operands, axes=axes, epsilon=epsilon))

    def group_normalization(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, scale, bias = operands
        channels, rank = self.shape(x)[1], len(self.shape(x))
        groups = channels if node.op == "InstanceNormalization" else node.attrs["num_groups"]
        if node.op == "GroupNormalization" and self.opset < 21:
            if not all(isinstance(a, np.ndarray) for a in (scale, bias)):
                raise UnsupportedError("its scale depends on the input")
            scale, bias = (np.repeat(a, channels // groups) for a in (scale, bias))
        return self.emit(
            relax.op.nn.group_norm(
                x,
                self.expression(scale),
                self.expression(bias),
                num_groups=groups,
                channel_axis=1,
                axes=list(range(2, rank)),
                epsilon=node.attrs.get("epsilon", 1e-5),
            )
        )

    def softmax(self, op: Callable[..., Any]) -> Conversion:
        def convert(node: OnnxNode, operands: list[Any]) -> Any:
            axis = self.axis(node.attrs.get("axis", -1), len(self.shape(operands[0])))
            return self.emit(op(operands[0], axis))

        return convert

    def reduction(self, op: Callable[..., Any]) -> Conversion:
        def convert(node: OnnxNode, operands: list[Any]) -> Any:
            x = operands[0]
            axes = node.attrs.get("axes")
            if len(operands) > 1 and operands[1] is not None:
                axes = self.integers(operands[1], "axes")
            if not axes:
                if node.attrs.get("noop_with_empty_axes", 0):
                    return x
                axes = range(len(self.shape(x)))
            axes = [self.axis(axis, len(self.shape(x))) for axis in axes]
            return self.emit(op(x, axes, keepdims=bool(node.attrs.get("keepdims", 1))))

        return convert

    def global_pool(self, op: Callable[..., Any]) -> Conversion:
        def convert(node: OnnxNode, operands: list[Any]) -> Any:
            axes = list(range(2, len(self.shape(operands[0]))))
            return self.emit(op(operands[0], axes, keepdims=True))

        return convert

    def pool(self, node: OnnxNode, operands: list[Any]) -> Any:
        x = operands[0]
        size = node.attrs.get("kernel_shape", ())
        if len(self.shape(x)) != 4 or len(size) != 2 or not all(0 < k < 2**16 for k in size):
            raise UnsupportedError(f"a window {size} on an input {self.shape(x)}")
        strides, dilations = self.pair(node, "strides"), self.pair(node, "dilations")
        padding = self.padding(node, self.shape(x)[2:], size, strides, dilations)
        common = dict(
            pool_size=tuple(size),
            strides=strides,
            padding=padding,
            dilation=dilations,
            ceil_mode=bool(node.attrs.get("ceil_mode", 0)),
        )
        if node.op == "MaxPool":
            return self.emit(relax.op.nn.max_pool2d(x, **common))
        counted = bool(node.attrs.get("count_include_pad", 0))
        return self.emit(relax.op.nn.avg_pool2d(x, **common, count_include_pad=counted))

    # -- shapes ---------------------------------------------------------------------------

    def reshape(self, node: OnnxNode, operands: list[Any]) -> Any:
        shape = list(self.integers(operands[1], "extents"))
        old = self.shape(operands[0])
        if not node.attrs.get("allowzero", 0):
            shape = [old[i] if e == 0 and i < len(old) else e for i, e in enumerate(shape)]
        return self.reshaped(operands[0], shape)

    def reshaped(self, x: Any, shape: Sequence[int]) -> Any:
        known = math.prod(extent for extent in shape if extent != -1)
        whole = math.prod(self.shape(x))
        if list(shape).count(-1) > 1 or any(e < -1 for e in shape) or known < 1 or whole % known:
            raise UnsupportedError(f"{self.shape(x)} cannot become {tuple(shape)}")
        shape = tuple(whole // known if extent == -1 else extent for extent in shape)
        if math.prod(shape) != whole:
            raise UnsupportedError(f"{self.shape(x)} cannot become {shape}")
        return x if shape == self.shape(x) else self.emit(relax.op.reshape(x, shape))

    def flatten(self, node: OnnxNode, operands: list[Any]) -> Any:
        shape = self.shape(operands[0])
        axis = node.attrs.get("axis", 1)
        axis = axis + len(shape) if axis < 0 else axis
        return self.reshaped(operands[0], (math.prod(shape[:axis]), math.prod(shape[axis:])))

    def transpose(self, node: OnnxNode, operands: list[Any]) -> Any:
        rank = len(self.shape(operands[0]))
        order = tuple(node.attrs.get("perm", range(rank)[::-1]))
        if sorted(order) != list(range(rank)):
            raise UnsupportedError(f"the order {order} of {rank} axes")
        return self.emit(relax.op.permute_dims(operands[0], list(order)))

    def axes_operand(self, node: OnnxNode, operands: list[Any]) -> tuple[int, ...] | None:
        if len(operands) > 1 and operands[1] is not None:
            return self.integers(operands[1], "axes")
        return None

    def squeeze(self, node: OnnxNode, operands: list[Any]) -> Any:
        shape = self.shape(operands[0])
        axes = self.axes_operand(node, operands)
        if axes is None:
            axes = tuple(i for i, extent in enumerate(shape) if extent == 1)
        gone = {self.axis(axis, len(shape)) for axis in axes}
        if any(shape[axis] != 1 for axis in gone):
            raise UnsupportedError(f"axes {axes} of {shape} are not all of extent 1")
        return self.reshaped(operands[0], [e for i, e in enumerate(shape) if i not in gone])

    def unsqueeze(self, node: OnnxNode, operands: list[Any]) -> Any:
        axes = self.axes_operand(node, operands) or ()
        rank = len(self.shape(operands[0])) + len(axes)
        new = {self.axis(axis, rank) for axis in axes}
        old = iter(self.shape(operands[0]))
        return self.reshaped(operands[0], [1 if i in new else next(old) for i in range(rank)])

    def expand(self, node: OnnxNode, operands: list[Any]) -> Any:
        shape = np.broadcast_shapes(self.shape(operands[0]), self.integers(operands[1], "extents"))
        if shape == self.shape(operands[0]):
            return operands[0]
        return self.emit(relax.op.broadcast_to(operands[0], shape))

    def tile(self, node: OnnxNode, operands: list[Any]) -> Any:
        repeats = self.integers(operands[1], "repeats")
        if len(repeats) != len(self.shape(operands[0])) or min(repeats, default=1) < 1:
            raise UnsupportedError(f"repeats {repeats}")
        return self.emit(relax.op.tile(operands[0], list(repeats)))

    def concat(self, node: OnnxNode, operands: list[Any]) -> Any:
        axis = self.axis(node.attrs["axis"], len(self.shape(operands[0])))
        if len(operands) == 1:
            return operands[0]
        return self.emit(relax.op.concat([self.expression(o) for o in operands], axis))

    def split(self, node: OnnxNode, operands: list[Any]) -> Any:
        x = operands[0]
        axis = self.axis(node.attrs.get("axis", 0), len(self.shape(x)))
        extent = self.shape(x)[axis]
        if len(operands) > 1 and operands[1] is not None:
            sizes = list(self.integers(operands[1], "sizes"))
        else:
            count = int(node.attrs.get("num_outputs", len(node.outputs)))
            if not 0 < count <= extent:
                raise UnsupportedError(f"{count} pieces of {extent}")
            size = -(-extent // count)
            sizes = [min(size, extent - size * i) for i in range(count)]
        if sum(sizes) != extent or min(sizes, default=0) < 1:
            raise UnsupportedError(f"pieces {sizes} of {extent}")
        if len(sizes) == 1:
            return (x,)
        places = [int(place) for place in np.cumsum(sizes)[:-1]]
        pieces = self.emit(relax.op.split(x, places, axis))
        return tuple(self.emit(relax.TupleGetItem(pieces, i)) for i in range(len(sizes)))

    def slice(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, *bounds = operands
        shape = self.shape(x)
        starts, ends = (self.integers(b, "bounds") for b in bounds[:2])
        axes: Sequence[int] = range(len(starts))
        if len(bounds) > 2 and bounds[2] is not None:
            axes = self.integers(bounds[2], "axes")
        steps: Sequence[int] = (1,) * len(starts)
        if len(bounds) > 3 and bounds[3] is not None:
            steps = self.integers(bounds[3], "steps")
        cuts = []
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            axis = self.axis(axis, len(shape))
            if step < 1:
                raise UnsupportedError(f"its step is {step}")
            begin, stop, _ = slice(start, end, step).indices(shape[axis])
            if (begin, stop, step) != (0, shape[axis], 1):
                cuts.append((axis, begin, max(begin, stop), step))
        if not cuts:
            return x
        columns = [list(column) for column in zip(*cuts, strict=True)]
        return self.emit(relax.op.strided_slice(x, *columns))

    def gather(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, indices = operands
        axis = self.axis(node.attrs.get("axis", 0), len(self.shape(x)))
        extent = self.shape(x)[axis]
        if not isinstance(indices, np.ndarray):
            raise UnsupportedError("its indices depend on the input")
        places = np.where(indices < 0, indices + extent, indices)
        if places.size == 0 or places.min() < 0 or places.max() >= extent:
            raise UnsupportedError(f"its indices leave the axis of {extent}")
        if places.size == 1:
            place = int(places.reshape(()))
            cut = self.emit(relax.op.strided_slice(x, [axis], [place], [place + 1], [1]))
            shape = self.shape(x)
            return self.reshaped(cut, [*shape[:axis], *indices.shape, *shape[axis + 1 :]])
        return self.emit(
            relax.op.take(self.expression(x), relax.const(places.astype("int64")), axis)
        )

    def depth_to_space(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, block = operands[0], int(node.attrs["blocksize"])
        batch, channels, height, width = self.shape(x)
        if block < 1 or channels % block**2:
            raise UnsupportedError(f"blocks of {block} in {channels} channels")
        rest = channels // block**2
        if node.attrs.get("mode", "DCR") == "DCR":
            shape, order = (batch, block, block, rest, height, width), [0, 3, 4, 1, 5, 2]
        else:
            shape, order = (batch, rest, block, block, height, width), [0, 1, 4, 2, 5, 3]
        moved = self.emit(relax.op.permute_dims(self.reshaped(x, shape), order))
        return self.reshaped(moved, (batch, rest, height * block, width * block))

    def space_to_depth(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, block = operands[0], int(node.attrs["blocksize"])
        batch, channels, height, width = self.shape(x)
        if block < 1 or height % block or width % block:
            raise UnsupportedError(f"blocks of {block} in {height}x{width}")
        shape = (batch, channels, height // block, block, width // block, block)
        moved = self.emit(relax.op.permute_dims(self.reshaped(x, shape), [0, 3, 5, 1, 2, 4]))
        return self.reshaped(moved, (batch, channels * block**2, shape[2], shape[4]))

    # -- space ----------------------------------------------------------------------------

    def pad(self, node: OnnxNode, operands: list[Any]) -> Any:
        x, mode = operands[0], node.attrs.get("mode", "constant")
        rank = len(self.shape(x))
        pads = self.integers(operands[1], "pads")
        axes: Sequence[int] = range(rank)
        if len(operands) > 3 and operands[3] is not None:
            axes = self.integers(operands[3], "axes")
        if len(pads) != 2 * len(axes) or any(abs(pad) > 2**16 for pad in pads):
            raise UnsupportedError(f"its pads are {pads}")
        ends = [(0, 0)] * rank
        for index, axis in enumerate(axes):
            ends[self.axis(axis, rank)] = (pads[index], pads[index + len(axes)])
        if mode == "wrap":
            for dim, (before, after) in enumerate(ends):
                if not (0 <= before <= self.shape(x)[dim] and 0 <= after <= self.shape(x)[dim]):
                    raise UnsupportedError(f"it wraps {before, after} points around a shorter line")
                x = circular_pad(self.builder, x, dim, before, after)
            return x
        if any(pad < 0 for pad in pads):
            raise UnsupportedError(f"its pads are {pads}")
        value = 0.0
        if len(operands) > 2 and operands[2] is not None:
            if not isinstance(operands[2], np.ndarray) or operands[2].size != 1:
                raise UnsupportedError("its value depends on the input")
            value = float(operands[2].reshape(()))
        modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
        if mode not in modes:
            raise UnsupportedError(f"its mode is {mode}")
        if mode == "reflect" and any(
            max(pair) >= extent for pair, extent in zip(ends, self.shape(x), strict=True)
        ):
            raise UnsupportedError("it reflects more points than there are")
        flat = [pad for pair in ends for pad in pair]
        if not any(flat):
            return x
        return self.emit(relax.op.nn.pad(x, flat, modes[mode], value))

    def resize(self, node: OnnxNode, operands: list[Any]) -> Any:
        """Of height and width, where the scales are the ratios of the sizes."""
        x = operands[0]
        shape = self.shape(x)
        operands = [*operands, None, None, None]
        scales, sizes = operands[2], operands[3]
        axes = [self.axis(a, len(shape)) for a in node.attrs.get("axes", range(len(shape)))]
        after = list(shape)
        if isinstance(sizes, np.ndarray) and sizes.size:
            for axis, extent in zip(axes, self.integers(sizes, "sizes"), strict=True):
                after[axis] = extent
        elif isinstance(scales, np.ndarray) and scales.size:
            for axis, scale in zip(axes, scales.ravel().tolist(), strict=True):
                after[axis] = math.floor(shape[axis] * scale)
                if after[axis] != shape[axis] * scale:
                    raise UnsupportedError(
                        f"its scale {scale} does not lead from {shape[axis]} to a whole size; "
                        "export with sizes"
                    )
        else:
            raise UnsupportedError("its sizes depend on the input")
        if len(shape) != 4 or after[:2] != list(shape[:2]) or min(after) < 1 or max(after) > 2**16:
            raise UnsupportedError(f"from {shape} to {tuple(after)}: only height and width change")
        attrs = node.attrs
        for name, plain in (("antialias", 0), ("exclude_outside", 0)):
            if attrs.get(name, plain) != plain:
                raise UnsupportedError(f"its {name} is {attrs[name]}")
        if attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise UnsupportedError("it keeps the aspect ratio")
        mode = attrs.get("mode", "nearest")
        coordinates = attrs.get("coordinate_transformation_mode", "half_pixel")
        if coordinates == "pytorch_half_pixel" and min(after[2:]) > 1:
            coordinates = "half_pixel"  # they differ for a result of one point alone
        methods = {"nearest": "nearest_neighbor", "linear": "linear", "cubic": "cubic"}
        if mode not in methods or coordinates not in ("half_pixel", "align_corners", "asymmetric"):
            raise UnsupportedError(f"its mode is {mode} with coordinates {coordinates}")
        if coordinates == "align_corners" and 1 in after[2:]:
            raise UnsupportedError("it aligns the corners of a result of one point")
        rounding = attrs.get("nearest_mode", "round_prefer_floor") if mode == "nearest" else ""
        if rounding not in ("", "floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
            raise UnsupportedError(f"its nearest_mode is {rounding}")
        return self.emit(
            relax.op.image.resize2d(
                x,
                tuple(after[2:]),
                layout="NCHW",
                method=methods[mode],
                coordinate_transformation_mode=coordinates,
                rounding_method=rounding,
                cubic_alpha=float(attrs.get("cubic_coeff_a", -0.75)),
            )
        )
