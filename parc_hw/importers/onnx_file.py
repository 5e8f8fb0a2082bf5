"""What does an ONNX file say, and which values does ONNX's own evaluator give it?

The file is read without its external data being trusted, brought to fixed input shapes and put
in order. Constants are folded by ONNX's reference evaluator, which is also the oracle for whole
models: nothing here computes an operator in a way of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parc_hw.errors import InputError, ToolchainError, UnsupportedError
from parc_hw.importers.imported import checked_shape, first_line
from parc_hw.lower.program import Tensor

__all__ = ["OPSETS", "OnnxModel", "OnnxNode", "evaluate_node", "read_onnx"]

OPSETS = (13, 23)  # the oldest and newest whose definitions the conversions follow

_MOST_ELEMENTS = 2**28  # of one folded constant


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxNode:
    """One operator: its attributes as plain Python, its operands by name ("" where left out)."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any]
    proto: Any = field(repr=False)

    @property
    def path(self) -> str:
        """Where it stands: `/stages/0/dwconv/Conv` is `stages.0.dwconv`."""
        parts = [part for part in self.name.replace("::", "/").split("/") if part]
        return ".".join(parts[:-1]) if len(parts) > 1 else (parts or self.outputs[:1] or ("",))[0]

    @property
    def label(self) -> str:
        """For messages: the operator and the node's name."""
        domain = f"{self.domain}." if self.domain else ""
        return f"{domain}{self.op}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel:
    """A file's graph for fixed input shapes, nodes in an order in which they can run."""

    proto: Any = field(repr=False)
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray] = field(repr=False)
    nodes: tuple[OnnxNode, ...] = field(repr=False)

    def evaluate(
        self, inputs: Sequence[np.ndarray], names: frozenset[str]
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Outputs of the graph, and float values by name; by ONNX's reference evaluator."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        produced = {name for node in self.nodes for name in node.outputs}
        wanted = sorted((names & produced) - set(self.outputs))
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for name in wanted:
            proto.graph.output.add().name = name
        feeds = dict(zip((tensor.name for tensor in self.inputs), inputs, strict=True))
        results = ReferenceEvaluator(proto, new_ops=_better_operators()).run(None, feeds)
        named = dict(zip([*self.outputs, *wanted], results, strict=True))
        outputs = [np.ascontiguousarray(named[name], np.float32) for name in self.outputs]
        values = {
            name: np.ascontiguousarray(value, np.float32)
            for name, value in named.items()
            if name in names and isinstance(value, np.ndarray)
        }
        return outputs, values


def read_onnx(path: str | Path, input_shapes: Sequence[tuple[int, ...]] | None = None) -> OnnxModel:
    """Read an ONNX file for fixed input shapes.

    Parameters
    ----------
    path : path
    input_shapes : sequence of tuple of int, optional
        One for each input; needed when the file leaves extents open.

    Raises
    ------
    InputError
        The file is missing, truncated, corrupt or inconsistent (initialisers are missing, nodes
        go round in a circle), leaves extents open, or its inputs are not float32.
    UnsupportedError
        An opset that is older or newer than those of `OPSETS`.
    ToolchainError
        The package `onnx` is missing.
    """
    path = Path(path)
    proto = _load(path)
    opset = _opset(path, proto)
    graph = proto.graph
    initial = {tensor.name for tensor in graph.initializer}
    constants = {tensor.name: _array(path, tensor) for tensor in graph.initializer}
    if len(graph.sparse_initializer):
        raise UnsupportedError(f"{path}: sparse initialisers are not supported; store them dense.")
    inputs = _inputs(path, [v for v in graph.input if v.name not in initial], input_shapes)
    nodes = [_node(path, node) for node in graph.node]
    outputs = tuple(value.name for value in graph.output)
    if not outputs or not inputs:
        raise InputError(f"{path}: the graph has no {'inputs' if outputs else 'outputs'}.")
    given = {tensor.name for tensor in inputs} | set(constants)
    _fix_inputs(graph, inputs)
    ordered = _ordered(path, nodes, given, outputs)
    protos = [node.proto for node in ordered]
    del graph.node[:]
    graph.node.extend(protos)
    return OnnxModel(
        proto=proto,
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        constants=constants,
        nodes=tuple(ordered),
    )


def evaluate_node(node: OnnxNode, opset: int, operands: Mapping[str, Any]) -> list[Any]:
    """Results of one node for arrays, by ONNX's reference evaluator.

    Raises
    ------
    InputError
        The result would be larger than anything sensible, or the evaluator refuses.
    """
    from onnx.reference import ReferenceEvaluator

    if _result_elements(node, operands) > _MOST_ELEMENTS:
        raise InputError(f"{node.label} makes a constant of more than {_MOST_ELEMENTS} elements")
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(node.proto, opsets={"": opset})
            return list(evaluator.run(None, dict(operands)))
    except MemoryError:
        raise
    except Exception as error:  # the evaluator raises what numpy raises
        raise InputError(f"{node.label} cannot be evaluated: {first_line(error)}") from error


def _result_elements(node: OnnxNode, operands: Mapping[str, Any]) -> float:
    """An estimate of the result's size, for the operators that can blow up."""
    arrays = [np.asarray(operands[name]) for name in node.inputs if name in operands]
    if not arrays:
        return 0
    largest = float(max(array.size for array in arrays))
    last = arrays[-1]
    numbers = last.astype(np.float64, copy=False).ravel() if last.dtype.kind in "iuf" else None
    if numbers is None or numbers.size > 64 or not np.isfinite(numbers).all():
        return largest
    if node.op in ("ConstantOfShape", "Expand"):
        return float(np.prod(np.abs(numbers)))
    if node.op in ("Tile", "Upsample"):
        return largest * float(np.prod(np.abs(numbers)))
    if node.op == "Resize":
        spread = float(np.prod(np.abs(numbers)))
        return spread if len(arrays) > 3 or last.dtype.kind != "f" else largest * spread
    if node.op == "Range" and len(arrays) == 3 and all(array.size == 1 for array in arrays):
        start, limit, delta = (float(array.reshape(())) for array in arrays)
        return abs((limit - start) / delta) if delta else math.inf
    if node.op in ("Pad", "OneHot", "EyeLike", "CenterCropPad", "DFT", "Trilu", "BlackmanWindow"):
        return largest * max(1.0, float(np.abs(numbers).max(initial=0.0)) ** 2)
    if node.op in ("MatMul", "Gemm", "Einsum", "Add", "Mul", "Sub", "Div", "Where", "Outer"):
        return float(math.prod(array.size for array in arrays[:2])) ** 0.75
    return largest


def _load(path: Path) -> Any:
    try:
        import onnx
        from onnx.external_data_helper import load_external_data_for_model, uses_external_data
    except ImportError as error:
        raise ToolchainError(
            'reading .onnx files needs the package onnx: pip install "parc_hw[onnx]".'
        ) from error
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if not data:
        raise InputError(f"{path} is empty.")
    if data.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer; run `git lfs pull` where it comes from.")
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, which has no public home
        raise InputError(
            f"{path} is truncated, corrupt or not an ONNX file: {len(data)} bytes that begin with "
            f"{data[:16]!r}. Fetch or export it again."
        ) from error
    graph = proto.graph
    if not graph.node:
        raise InputError(f"{path} holds no graph; is it an ONNX file?")
    texts = [
        text for n in graph.node for text in (n.name, n.op_type, n.domain, *n.input, *n.output)
    ]
    texts += [a.name for n in graph.node for a in n.attribute]
    texts += [v.name for values in (graph.input, graph.output, graph.initializer) for v in values]
    broken = next((text for text in texts if not isinstance(text, str)), None)
    if broken is not None:  # protobuf gives bytes for what is no UTF-8
        raise InputError(f"{path} is corrupt: the name {broken[:40]!r} is no text.")
    if any(uses_external_data(tensor) for tensor in proto.graph.initializer):
        try:
            load_external_data_for_model(proto, str(path.parent))
        except Exception as error:  # onnx checks that the data lies beside the file
            raise InputError(
                f"{path}: the data stored beside the file cannot be read: {first_line(error)}"
            ) from error
    if proto.functions:
        try:
            from onnx.inliner import inline_local_functions

            proto = inline_local_functions(proto)
        except Exception as error:
            raise InputError(
                f"{path}: its functions cannot be inlined: {first_line(error)}"
            ) from error
    return proto


def _opset(path: Path, proto: Any) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise InputError(f"{path} names no version of ONNX's operators: it is corrupt.")
    opset = int(versions[0])
    oldest, newest = OPSETS
    if not oldest <= opset <= newest:
        raise UnsupportedError(
            f"{path} uses opset {opset}; supported are {oldest} to {newest}. Export it again with "
            "opset_version=17 or 20, or convert it with onnx.version_converter."
        )
    return opset


def _array(path: Path, tensor: Any) -> np.ndarray:
    from onnx import TensorProto, numpy_helper

    elements = math.prod(max(int(extent), -1) for extent in tensor.dims)
    if any(extent < 0 for extent in tensor.dims) or elements > _MOST_ELEMENTS:
        raise InputError(f"{path}: initialiser {tensor.name!r} has dims {list(tensor.dims)[:8]}.")
    if tensor.data_type == TensorProto.STRING:
        raise UnsupportedError(f"{path}: initialiser {tensor.name!r} holds texts.")
    try:
        array = np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # too few bytes, unknown types
        raise InputError(
            f"{path}: initialiser {tensor.name!r} is damaged or missing: {first_line(error)}"
        ) from error
    if array.dtype.kind == "f" and not np.isfinite(array).all() and array.size > 1:
        raise InputError(f"{path}: the weights hold NaN or infinity in {tensor.name!r}.")
    return array


def _inputs(
    path: Path, values: Sequence[Any], shapes: Sequence[tuple[int, ...]] | None
) -> tuple[Tensor, ...]:
    """The graph's inputs with fixed shapes."""
    from onnx import TensorProto

    given = [None] * len(values) if shapes is None else [checked_shape(s) for s in shapes]
    if len(given) != len(values):
        names = ", ".join(value.name for value in values)
        raise InputError(
            f"{path} has {len(values)} inputs ({names}) and {len(given)} input shapes were given."
        )
    result = []
    for value, shape in zip(values, given, strict=True):
        kind = value.type.tensor_type
        if kind.elem_type != TensorProto.FLOAT:
            known = dict((v, k) for k, v in TensorProto.DataType.items())
            raise UnsupportedError(
                f"{path}: input {value.name!r} is {known.get(kind.elem_type, 'no tensor').lower()}, "
                "not float (float32)."
            )
        dims = [
            int(dim.dim_value) if dim.WhichOneof("value") == "dim_value" else dim.dim_param or "?"
            for dim in kind.shape.dim
        ]
        listed = "x".join(map(str, dims))
        is_open = not kind.HasField("shape") or any(isinstance(d, str) or d < 1 for d in dims)
        if shape is None and is_open:
            example = "x".join(str(d) if isinstance(d, int) and d > 0 else "1" for d in dims)
            raise InputError(
                f"{path} leaves the size of input {value.name!r} open ({listed or 'no shape'}); "
                f"give it, for example --input-shape {example if dims else '1x3x224x224'}."
            )
        if shape is None:
            shape = checked_shape([int(d) for d in dims])
        elif dims and (
            len(dims) != len(shape)
            or any(
                isinstance(d, int) and d > 0 and d != e for d, e in zip(dims, shape, strict=True)
            )
        ):
            raise InputError(
                f"{path}: input {value.name!r} has shape {listed}, not {'x'.join(map(str, shape))}."
            )
        if math.prod(shape) > _MOST_ELEMENTS:
            raise InputError(f"{path}: input {value.name!r} of {shape} is too large.")
        result.append(Tensor(name=value.name, shape=shape))
    if len({tensor.name for tensor in result}) != len(result):
        raise InputError(f"{path}: two inputs have the same name.")
    return tuple(result)


def _fix_inputs(graph: Any, inputs: Sequence[Tensor]) -> None:
    """Write the fixed shapes into the graph; what the file says of other values is forgotten."""
    shapes = {tensor.name: tensor.shape for tensor in inputs}
    for value in graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type
            kind.ClearField("shape")
            for extent in shapes[value.name]:
                kind.shape.dim.add().dim_value = extent
    del graph.value_info[:]
    for value in graph.output:
        value.ClearField("type")


def _node(path: Path, proto: Any) -> OnnxNode:
    from onnx import AttributeProto, helper

    attrs: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            attrs[attribute.name] = attribute
            continue
        try:
            value = helper.get_attribute_value(attribute)
        except Exception as error:
            raise InputError(
                f"{path}: attribute {attribute.name!r} of {proto.op_type} {proto.name!r} is "
                f"damaged: {first_line(error)}"
            ) from error
        attrs[attribute.name] = _plain(value)
    return OnnxNode(
        op=proto.op_type,
        domain="" if proto.domain == "ai.onnx" else proto.domain,
        name=proto.name,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attrs=attrs,
        proto=_copy(proto),
    )


def _copy(proto: Any) -> Any:
    """A node that outlives the graph it was in."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float | str):
        return value
    if hasattr(value, "__iter__") and not hasattr(value, "DESCRIPTOR"):
        return tuple(_plain(item) for item in value)
    return value


def _ordered(
    path: Path, nodes: list[OnnxNode], given: set[str], outputs: tuple[str, ...]
) -> list[OnnxNode]:
    """Nodes that the outputs need, each after what it reads."""
    producer: dict[str, OnnxNode] = {}
    for node in nodes:
        for name in node.outputs:
            if name and (name in producer or name in given):
                raise InputError(f"{path}: two nodes make {name!r}: the file is corrupt.")
            producer[name] = node
    missing = [name for name in outputs if name not in producer and name not in given]
    order: list[OnnxNode] = []
    state: dict[int, int] = {}  # by id: 1 under way, 2 done
    stack: list[tuple[OnnxNode, bool]] = [
        (producer[name], False) for name in reversed(outputs) if name in producer
    ]
    while stack:
        node, finished = stack.pop()
        if finished:
            state[id(node)] = 2
            order.append(node)
            continue
        if state.get(id(node)) == 2:
            continue
        if state.get(id(node)) == 1:
            raise InputError(f"{path}: the nodes go round in a circle at {node.name or node.op!r}.")
        state[id(node)] = 1
        stack.append((node, True))
        for name in reversed(node.inputs):
            if not name or name in given:
                continue
            if name not in producer:
                missing.append(name)
            elif state.get(id(producer[name])) != 2:
                if state.get(id(producer[name])) == 1:
                    raise InputError(f"{path}: the nodes go round in a circle at {name!r}.")
                stack.append((producer[name], False))
    if missing:
        read = [name for node in nodes for name in node.inputs] + list(outputs)
        listed = ", ".join(repr(name) for name in sorted(set(missing), key=read.index))
        raise InputError(
            f"{path} lacks initialisers or nodes for {listed}: it is incomplete. Export it again "
            "with its weights."
        )
    # ONNX asks for an order in which nodes can run: it is kept when it is one.
    needed = {id(node) for node in order}
    own = [node for node in nodes if id(node) in needed]
    known = set(given)
    for node in own:
        if not known.issuperset(name for name in node.inputs if name):
            return order
        known.update(node.outputs)
    return own


def _better_operators() -> list[Any]:
    """Two of the evaluator's operators, anew.

    Its Conv visits every position and group in Python. Its MaxPool makes results of a wrong
    shape when the padding differs from side to side (onnx 1.23).
    """
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_conv import Conv as SlowConv
    from onnx.reference.ops.op_max_pool import MaxPool as SomeMaxPool

    def plain(x: np.ndarray, auto_pad: Any) -> bool:
        return auto_pad in (None, "NOTSET", b"NOTSET") and x.ndim == 4

    class Conv(OpRun):
        op_domain = ""

        def _run(self, x: Any, w: Any, b: Any = None, **attrs: Any) -> Any:
            if not plain(x, attrs.get("auto_pad")):
                return SlowConv._run(self, x, w, b, **attrs)
            top, left, bottom, right = attrs.get("pads") or (0, 0, 0, 0)
            x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
            steps = [attrs.get(name) or (1, 1) for name in ("strides", "dilations")]
            return (_convolve(x, w, b, attrs.get("group") or 1, *steps),)

    class MaxPool(OpRun):
        op_domain = ""

        def _run(self, x: Any, **attrs: Any) -> Any:
            if not plain(x, attrs.get("auto_pad")) or len(self.onnx_node.output) > 1:
                return SomeMaxPool._run(self, x, **attrs)
            return (_largest(x, attrs),)

    return [Conv, MaxPool]


def _largest(x: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    """A 2-d MaxPool; with ceil_mode a last window begins within the input or its front padding."""
    taps = attrs["kernel_shape"]
    strides, dilations = (attrs.get(name) or (1, 1) for name in ("strides", "dilations"))
    pads = attrs.get("pads") or (0, 0, 0, 0)
    size, widths = [], [(0, 0), (0, 0)]
    for i, (extent, k, stride, dilation) in enumerate(
        zip(x.shape[2:], taps, strides, dilations, strict=True)
    ):
        span, before, after = (k - 1) * dilation + 1, pads[i], pads[i + 2]
        room = extent + before + after - span
        count = (-(-room // stride) if attrs.get("ceil_mode") else room // stride) + 1
        count -= (count - 1) * stride >= extent + before
        size.append(count)
        widths.append((before, max(after, (count - 1) * stride + span - extent - before)))
    padded = np.pad(x, widths, constant_values=-np.inf)
    result = np.full((*x.shape[:2], *size), -np.inf, x.dtype)
    for row in range(taps[0]):
        for column in range(taps[1]):
            top, left = row * dilations[0], column * dilations[1]
            window = padded[
                ...,
                top : top + (size[0] - 1) * strides[0] + 1 : strides[0],
                left : left + (size[1] - 1) * strides[1] + 1 : strides[1],
            ]
            np.maximum(result, window, out=result)
    return result


def _convolve(
    x: np.ndarray, w: np.ndarray, b: Any, groups: int, strides: Any, dilations: Any
) -> np.ndarray:
    """A 2-d convolution without padding, tap by tap: sum_k w[k] * x[i * stride + k * dilation]."""
    batch, channels = x.shape[:2]
    outputs, _, rows, columns = w.shape
    spans = [(k - 1) * d + 1 for k, d in zip((rows, columns), dilations, strict=True)]
    size = [(n - s) // t + 1 for n, s, t in zip(x.shape[2:], spans, strides, strict=True)]
    total = np.zeros((batch, groups, outputs // groups, *size), np.float32)
    lines = x.reshape(batch, groups, channels // groups, *x.shape[2:])
    kernel = w.reshape(groups, outputs // groups, channels // groups, rows, columns)
    for row in range(rows):
        for column in range(columns):
            begin = (row * dilations[0], column * dilations[1])
            seen = lines[
                ...,
                begin[0] : begin[0] + (size[0] - 1) * strides[0] + 1 : strides[0],
                begin[1] : begin[1] + (size[1] - 1) * strides[1] + 1 : strides[1],
            ]
            taps = kernel[..., row, column]
            if channels == groups:
                total += taps[:, :, 0, None, None] * seen
            else:
                flat = seen.reshape(batch, groups, channels // groups, -1)
                total += np.matmul(taps, flat).reshape(total.shape)
    result = total.reshape(batch, outputs, *size)
    return result if b is None else result + b[:, None, None]
