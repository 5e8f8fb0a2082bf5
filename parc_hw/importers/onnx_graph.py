"""How does an ONNX file become one Relax function, with a way back from each value?

Nodes whose operands are known are folded by ONNX's reference evaluator, shape arithmetic
included; the rest is converted (`onnx_ops`). What lies between a DFT and real values again is a
linear map that `probe` reads a ParC from; `recognise` finds the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from parc_hw.errors import InputError, ParcError, UnsupportedError
from parc_hw.importers.imported import Imported, Source, first_line
from parc_hw.importers.onnx_file import OnnxModel, OnnxNode, evaluate_node, read_onnx
from parc_hw.importers.onnx_ops import conversions
from parc_hw.importers.probe import NoParC, probe
from parc_hw.importers.recognise import algorithm_1, recognise_parc
from parc_hw.lower import _tvm
from parc_hw.lower.program import Tensor

__all__ = ["import_onnx"]


def import_onnx(
    path: str | Path, input_shapes: Sequence[tuple[int, ...]] | None = None
) -> Imported:
    """Import an ONNX file for fixed input shapes.

    Parameters
    ----------
    path : path
    input_shapes : sequence of tuple of int, optional
        One for each input; needed when the file leaves extents open.

    Raises
    ------
    InputError
        As `read_onnx`; operands that do not fit their operators.
    UnsupportedError
        As `read_onnx`; operators that cannot be converted: all of them are named, with the
        nodes they stand in.
    ToolchainError
        The package `onnx` is missing.
    """
    path = Path(path)
    try:
        return _imported(path, input_shapes)
    except (ParcError, MemoryError):
        raise
    except Exception as error:  # what protobuf, numpy and TVM make of a damaged graph
        raise InputError(
            f"{path}: its graph is not a sound one: {type(error).__name__}: {first_line(error)} "
            "Check it with onnx.checker, and export it again."
        ) from error


def _imported(path: Path, input_shapes: Sequence[tuple[int, ...]] | None) -> Imported:
    model = read_onnx(path, input_shapes)
    translation = _Translation(path, model)
    found = recognise_parc(translation.function())
    sources = translation.sources(found.function)
    return Imported(
        module=tvm.IRModule({"main": found.function}),
        sources=sources,
        inputs=model.inputs,
        outputs=translation.outputs(found.function),
        near_misses=tuple(
            (sources[var].module_path, reason)
            for var, reason in found.near_misses.items()
            if var in sources
        ),
        exported=model,
    )


# Linear in one tensor when the other operands are constants.
_LINEAR = frozenset(
    [
        "Add",
        "Cast",
        "Concat",
        "DFT",
        "Div",
        "Einsum",
        "Expand",
        "Gather",
        "Identity",
        "MatMul",
        "Mul",
        "Neg",
        "Pad",
        "ReduceSum",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
    ]
)


@dataclass(frozen=True, slots=True)
class _Spectral:
    """A value between a DFT and real values again: a linear map of one tensor."""

    source: str
    steps: tuple[OnnxNode, ...]
    rank: int


class _Translation:
    """One graph on its way to Relax."""

    def __init__(self, path: Path, model: OnnxModel) -> None:
        self.path = path
        self.model = model
        self.builder = relax.BlockBuilder()
        self.conversions = conversions(self.builder, model.opset)
        self.values: dict[str, Any] = dict(model.constants)
        self.producers = {name: node for node in model.nodes for name in node.outputs if name}
        self.problems: dict[tuple[str, str], list[str]] = {}
        self.lost: set[str] = set()  # values that hang on a problem
        self.names: dict[relax.Var, str] = {}
        self.paths: dict[relax.Var, str] = {}

    # -- the whole ------------------------------------------------------------------------

    def function(self) -> relax.Function:
        """Convert every node; raise UnsupportedError naming all problems."""
        parameters = []
        for index, tensor in enumerate(self.model.inputs):
            name = tensor.name if tensor.name.isidentifier() else f"input{index}"
            var = relax.Var(name, relax.TensorType(tensor.shape, "float32"))
            parameters.append(var)
            self.values[tensor.name] = var
            self.paths[var] = ""
        with self.builder.function("main", parameters):
            with self.builder.dataflow():
                for node in self.model.nodes:
                    self.convert(node)
                results = [
                    self.builder.emit_output(
                        value if isinstance(value, relax.Var) else parameters[0]
                    )
                    for value in (self.output(name, i) for i, name in enumerate(self.model.outputs))
                ]
            self.builder.emit_func_output(results[0] if len(results) == 1 else results)
        self.raise_problems()
        return self.builder.get()["main"]

    def output(self, name: str, index: int) -> Any:
        value = self.values.get(name)
        if isinstance(value, np.ndarray):
            self.problem("output", f"output {index} does not depend on the input", name)
        elif isinstance(value, relax.Var) and any(name == t.name for t in self.model.inputs):
            self.problem("output", f"output {index} is an input as it came", name)
        elif isinstance(value, _Spectral):
            self.problem("output", f"output {index} is complex", name)
        return value

    def convert(self, node: OnnxNode) -> None:
        if any(name in self.lost for name in node.inputs):
            if not self.knows(node):
                self.problem(node.label, "there is no conversion for it", node.path)
            self.lost.update(node.outputs)
            return
        operands = [self.values[name] if name else None for name in node.inputs]
        try:
            if node.op in ("Shape", "Size") and isinstance(operands[0], relax.Var):
                results = [self.extent(node, operands[0])]
            elif not any(isinstance(o, relax.Var | _Spectral) for o in operands):
                results = self.folded(node)
            elif node.op == "DFT" or any(isinstance(o, _Spectral) for o in operands):
                results = [self.spectral(node)]
            else:
                results = self.converted(node, operands)
        except (UnsupportedError, InputError) as error:
            self.problem(node.label, str(error), node.path)
        except MemoryError:
            raise
        except Exception as error:  # TVM's operators raise what they meet
            self.problem(
                node.label, f"TVM says {type(error).__name__}: {first_line(error)}", node.path
            )
        else:
            for name, result in zip(node.outputs, results, strict=False):
                self.values[name] = result
                if isinstance(result, relax.Var):
                    self.names.setdefault(result, name)
                    self.paths.setdefault(result, node.path)
            self.lost.update(name for name in node.outputs[len(results) :] if name)
            return
        self.lost.update(node.outputs)

    def knows(self, node: OnnxNode) -> bool:
        special = node.op in ("DFT", "Shape", "Size")
        return node.domain == "" and (special or node.op in self.conversions)

    def folded(self, node: OnnxNode) -> list[Any]:
        if node.op.startswith(("Random", "Multinomial", "Bernoulli")):
            raise UnsupportedError("it draws random numbers")
        if node.domain or node.op in ("If", "Loop", "Scan"):
            raise UnsupportedError("there is no conversion for it")
        operands = {name: self.values[name] for name in node.inputs if name}
        return [np.asarray(r) for r in evaluate_node(node, self.model.opset, operands)]

    @staticmethod
    def extent(node: OnnxNode, value: relax.Var) -> np.ndarray:
        shape = _tvm.static_shape(value)
        if node.op == "Size":
            return np.asarray(int(np.prod(shape)), np.int64)
        end = node.attrs.get("end", len(shape))
        return np.asarray(shape[node.attrs.get("start", 0) : end], np.int64)

    def converted(self, node: OnnxNode, operands: list[Any]) -> list[Any]:
        if not self.knows(node):
            raise UnsupportedError("there is no conversion for it")
        result = self.conversions[node.op](node, operands)
        results = list(result) if isinstance(result, tuple) else [result]
        for value in results:
            if isinstance(value, relax.Var) and value.ty.dtype != "float32":
                raise UnsupportedError(f"its result is {value.ty.dtype}, not float32")
        return results

    # -- the frequency domain -------------------------------------------------------------

    def spectral(self, node: OnnxNode) -> Any:
        """Follow a linear map through the frequency domain; at its end, the ParC it is."""
        if node.op not in _LINEAR or len([o for o in node.outputs if o]) != 1:
            raise UnsupportedError("it is not linear; a Fourier transform is only taken in a ParC")
        moving = [name for name in node.inputs if name and not self.is_constant(name)]
        sums = node.op in ("Add", "Sub", "Concat")
        if len(moving) > 1 and not sums:
            raise UnsupportedError("two values of its frequency domain are multiplied")
        if sums and len(moving) != len(node.inputs):
            raise UnsupportedError("a constant is added in its frequency domain")
        if node.op == "Div" and node.inputs[0] not in moving:
            raise UnsupportedError("it divides by a value of its frequency domain")
        sources: set[str] = set()
        steps: dict[int, OnnxNode] = {}
        for name in moving:
            value = self.values[name]
            if not isinstance(value, _Spectral):
                value = self.unravelled(name)
            sources.add(value.source)
            steps.update({id(step): step for step in value.steps})
        if len(sources) != 1:
            raise UnsupportedError(f"{len(sources)} tensors meet in its frequency domain")
        (source,) = sources
        steps[id(node)] = node
        order = tuple(n for n in self.model.nodes if id(n) in steps)
        shape = _tvm.static_shape(self.values[source])
        result = self.apply(order, source, node.outputs[0], np.zeros(shape))
        if result.ndim > 4:
            return _Spectral(source, order, result.ndim)
        answer = probe(lambda x: self.apply(order, source, node.outputs[0], x), shape)
        if isinstance(answer, NoParC):
            raise UnsupportedError(
                f"the way through the frequency domain is no ParC: {answer.reason}"
            )
        return algorithm_1(self.builder, self.values[source], answer)

    def is_constant(self, name: str) -> bool:
        return isinstance(self.values.get(name), np.ndarray)

    def unravelled(self, name: str) -> _Spectral:
        """The 4-d tensor behind a DFT's real operand, and the reshapes between."""
        steps: list[OnnxNode] = []
        current = name
        while len(_tvm.static_shape(self.values[current])) > 4:
            node = self.producers.get(current)
            moving = [n for n in node.inputs if n and not self.is_constant(n)] if node else []
            if node is None or node.op not in _LINEAR or len(moving) != 1:
                raise UnsupportedError(
                    "its operand is no 4-d tensor; a transform is only taken in a ParC"
                )
            if node.op in ("Add", "Sub", "Pad") or (node.op == "Concat" and not self.zeros(node)):
                raise UnsupportedError("something is added before its transform")
            steps.append(node)
            current = moving[0]
        return _Spectral(current, tuple(steps[::-1]), len(_tvm.static_shape(self.values[name])))

    def zeros(self, node: OnnxNode) -> bool:
        """Whether all constants that a node reads are zeros: imaginary parts of real values."""
        return not any(np.any(self.values[n]) for n in node.inputs if n and self.is_constant(n))

    def apply(self, steps: Sequence[OnnxNode], source: str, name: str, x: np.ndarray) -> np.ndarray:
        """Run `steps` on a float64 array, constants as float64 too."""
        values: dict[str, Any] = {source: np.asarray(x, np.float64)}
        for step in steps:
            operands = {}
            for operand in step.inputs:
                if not operand:
                    continue
                value = values[operand] if operand in values else self.values[operand]
                single = isinstance(value, np.ndarray) and value.dtype == np.float32
                operands[operand] = value.astype(np.float64) if single else value
            if step.op == "Cast":
                values[step.outputs[0]] = operands[step.inputs[0]]
                continue
            results = evaluate_node(step, self.model.opset, operands)
            values.update(zip(step.outputs, results, strict=False))
        return np.asarray(values[name])

    # -- the way back ---------------------------------------------------------------------

    def sources(self, function: relax.Function) -> dict[relax.Var, Source]:
        """Map each variable of the final function; steps within a node belong to that node."""
        result: dict[relax.Var, Source] = {}
        path = ""
        for var, value in reversed(list(_tvm.bindings(function))):
            named = var if var in self.names else value if isinstance(value, relax.Var) else None
            if named is not None and named in self.names:
                path = self.paths[named]
                result[var] = Source(self.names[named], path)
            else:
                result[var] = Source("", path)
        return dict(reversed(result.items()))

    def outputs(self, function: relax.Function) -> tuple[Tensor, ...]:
        """Names that C and Python can take; the file's own where they are such."""
        body = function.body.body
        kind = _tvm.operand_kind(body)
        results = list(body.fields) if kind == "tuple" else None
        if results is None and len(self.model.outputs) > 1:
            values = dict(_tvm.bindings(function))
            results = list(values[body].fields)
        shapes = [_tvm.static_shape(r) for r in (results if results is not None else [body])]
        names = [
            name if name.isidentifier() and name.isascii() else f"output{i}"
            for i, name in enumerate(self.model.outputs)
        ]
        return tuple(Tensor(name=n, shape=s) for n, s in zip(names, shapes, strict=True))

    # -- what cannot be converted ---------------------------------------------------------

    def problem(self, name: str, reason: str, place: str) -> None:
        self.problems.setdefault((name, reason), []).append(place or "the graph")

    def raise_problems(self) -> None:
        if not self.problems:
            return
        lines = []
        for (name, reason), places in self.problems.items():
            listed = list(dict.fromkeys(places))
            times = f" ({len(places)} times)" if len(places) > 1 else ""
            shown = ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" * (len(listed) > 8))
            lines.append(f"{name}{times} at {shown}: {reason}")
        raise UnsupportedError(f"{self.path} cannot be imported:\n  " + "\n  ".join(lines))
