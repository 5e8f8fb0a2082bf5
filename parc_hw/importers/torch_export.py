"""How does a torch module become one Relax function, with a way back from each value?

`torch.export` traces the module; its graph is made functional, and only operators without a
conversion are decomposed, so that `nn.Linear` arrives as an n-d matmul without reshapes. What depends on parameters alone is
folded (`fold`), each node is converted, and ParC ends as `relax.parc`, whether it came as
`parc_hw.nn.ParC` or as concatenation and convolution (`recognise`). BatchNorm arrives as a
multiply and an add by constants of shape (1, C, 1, 1); dropout and identities leave no trace.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
import tvm
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from parc_hw.errors import InputError, ParcError, UnsupportedError
from parc_hw.importers.fold import fold_parameters, stored_values
from parc_hw.importers.imported import Imported, Source, checked_shape, first_line
from parc_hw.importers.probe import NoParC, ParcKernel
from parc_hw.importers.recognise import algorithm_1, circular_pad, recognise_parc
from parc_hw.importers.spectral import SpectralSite, find_sites, is_transform
from parc_hw.lower import _tvm
from parc_hw.lower.op import parc_call
from parc_hw.lower.program import Tensor
from parc_hw.nn.evaluating import evaluating

__all__ = ["import_program", "import_torch", "run_program"]


def import_torch(model: nn.Module, input_shapes: Sequence[tuple[int, ...]]) -> Imported:
    """Import a torch module for fixed input shapes.

    Parameters
    ----------
    model : torch.nn.Module
        Float32, on the CPU. It is traced in eval mode and left as it was.
    input_shapes : sequence of tuple of int
        One shape for each argument of its forward method.

    Returns
    -------
    Imported

    Raises
    ------
    InputError
        An extent below 1, weights that are not float32 on the CPU, or shapes that the model
        itself refuses.
    UnsupportedError
        torch.export cannot trace the model, or operators cannot be converted: all of them are
        named, with the modules they stand in.
    """
    shapes = [checked_shape(shape) for shape in input_shapes]
    if not shapes:
        raise InputError("no input shape was given; one for each input of the model is needed.")
    _check_weights(model)
    return import_program(_export(model, shapes))


def import_program(exported: ExportedProgram) -> Imported:
    """Import a functional exported program with static shapes.

    Raises
    ------
    UnsupportedError
        Operators cannot be converted: all of them are named, with the modules they stand in.
    """
    translation = _Translation(exported)
    found = recognise_parc(translation.function())
    sources = translation.sources(found.function)
    return Imported(
        module=tvm.IRModule({"main": found.function}),
        sources=sources,
        inputs=translation.inputs,
        outputs=translation.outputs,
        near_misses=tuple(
            (sources[var].module_path, reason)
            for var, reason in found.near_misses.items()
            if var in sources
        ),
        exported=translation.exported,
    )


@torch.no_grad()
def run_program(
    exported: ExportedProgram, inputs: Sequence[np.ndarray], nodes: frozenset[str]
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Outputs of an exported program, and the tensors of some of its nodes."""
    stored = stored_values(exported)
    arrays = iter(torch.from_numpy(array) for array in inputs)
    arguments = [
        next(arrays) if spec.kind is InputKind.USER_INPUT else stored.get(spec.arg.name)
        for spec in exported.graph_signature.input_specs
    ]
    recorder = _Recorder(exported.graph_module, nodes)
    results = recorder.run(*arguments)
    return [_array(result) for result in results], recorder.values


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the tensors of some nodes."""

    def __init__(self, module: fx.GraphModule, nodes: frozenset[str]) -> None:
        super().__init__(module)
        self.nodes = nodes
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node.name in self.nodes and isinstance(value, torch.Tensor):
            self.values[node.name] = _array(value)
        return value


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A contiguous copy, floats as float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return np.array(tensor.detach().to(dtype).numpy(), order="C")


# -- tracing ------------------------------------------------------------------------------


def _check_weights(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise InputError(f"{name} lies on {tensor.device}; move the model to the CPU.")
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise InputError(f"{name} is {tensor.dtype}; only float32 is accepted: model.float().")


@contextlib.contextmanager
def _without_torchs_own_warnings() -> Iterator[None]:
    """torch 2.13 warns of its own use of its own tree types."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        yield


def _export(model: nn.Module, shapes: list[tuple[int, ...]]) -> ExportedProgram:
    """Trace the model; functional, but with its operators whole."""
    examples = tuple(torch.zeros(shape) for shape in shapes)
    with torch.no_grad(), evaluating(model), _without_torchs_own_warnings():
        try:
            return torch.export.export(model, examples).run_decompositions({})
        except Exception as error:
            _raise_ours(error)
            try:
                model(*examples)
            except Exception as refusal:
                _raise_ours(refusal)
                raise InputError(
                    f"the model cannot take inputs of shape "
                    f"{', '.join(map(str, shapes))}: {first_line(refusal)}"
                ) from refusal
            raise UnsupportedError(
                f"torch.export cannot trace the model: {first_line(error)} Its control flow must "
                "not depend on the values of tensors."
            ) from error


def _raise_ours(error: BaseException) -> None:
    """Raise the error of ours behind `error`, if there is one: a model's own refusal."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ParcError):
            raise cause
        cause = cause.__cause__ or cause.__context__


# -- conversion ---------------------------------------------------------------------------


# TVM's conversions of these compute something else than torch, or nothing that can be built.
_MISTAKEN = {
    "_upsample_bilinear2d_aa.default",  # without the antialiasing
    "as_strided.default",  # any strides as a reshape
    "cond",
    "masked_select.default",  # the result's shape depends on values
    "pixel_shuffle.default",
    "scaled_dot_product_attention.default",
    "std.correction",  # without the correction
    "to_sparse.default",  # as if it were dense
}
_ROUNDS = 8  # of decomposition; an operator is some three steps above those that are converted


class _Translation:
    """One exported graph on its way to Relax."""

    def __init__(self, exported: ExportedProgram) -> None:
        self.importer = ExportedProgramImporter()
        self.importer.block_builder = self.builder = relax.BlockBuilder()
        self.env: dict[fx.Node, Any] = self.importer.env
        self.converters: dict[str, Callable[[fx.Node], Any]] = {
            **{k: v for k, v in self.importer.convert_map.items() if k not in _MISTAKEN},
            "_native_batch_norm_legit_no_training.default": self.batch_norm,
            "adaptive_avg_pool2d.default": self.adaptive_avg_pool2d,
            "avg_pool2d.default": self.pool2d,
            "conv2d.default": self.conv2d,
            "conv2d.padding": self.conv2d,
            "layer_norm.default": self.layer_norm,
            "linear.default": self.linear,
            "max_pool2d.default": self.pool2d,
            "pad.default": self.pad,
            "parc.default": self.parc,
            # It is another softmax only for rows that a mask hides whole.
            "_safe_softmax.default": self.importer.convert_map["softmax.int"],
            "slice.Tensor": self.slice,
            "split.Tensor": self.split,
            "split_with_sizes.default": self.split,
            "upsample_bicubic2d.vec": self.upsample,
            "upsample_bilinear2d.vec": self.upsample,
            "upsample_nearest2d.vec": self.upsample,
        }
        for name, op in (
            ("add", relax.op.add),
            ("sub", relax.op.subtract),
            ("mul", relax.op.multiply),
            ("div", relax.op.divide),
            ("rsub", lambda first, second: relax.op.subtract(second, first)),
        ):
            for overload in ("Tensor", "Scalar"):
                self.converters[f"{name}.{overload}"] = self.binary(op)
        self.problems: dict[tuple[str, str], list[str]] = {}
        self.exported = self.decomposed(exported)
        self.known = fold_parameters(self.exported)
        self.sites, self.spectral = find_sites(self.exported, self.known)
        self.results = self.user_outputs()
        self.live = self.needed()
        self.inputs = tuple(self.boundary(node) for node in self.user_inputs())
        self.outputs = self.named_outputs()

    def decomposed(self, exported: ExportedProgram) -> ExportedProgram:
        """Operators without a converter in terms of simpler ones, as far as torch knows how."""
        for _ in range(_ROUNDS):
            transformed: set[fx.Node] = set()  # stays whole: `spectral` reads it as it was written
            strange: set[torch._ops.OpOverload] = set()
            for node in exported.graph.nodes:
                if not isinstance(node.target, torch._ops.OpOverload):
                    continue
                value = node.meta.get("val")
                if is_transform(node) or (isinstance(value, torch.Tensor) and value.is_complex()):
                    transformed.add(node)
                elif any(operand in transformed for operand in node.all_input_nodes):
                    if _overload(node) == "view_as_real.default":
                        transformed.add(node)
                elif _overload(node) not in self.converters:
                    strange.add(node.target)
            known = torch.export.default_decompositions() if strange else {}
            table = {op: known[op] for op in strange if op in known}
            if not table:
                break
            with _without_torchs_own_warnings():
                exported = exported.run_decompositions(table)
        return exported

    # -- the graph's boundary -------------------------------------------------------------

    def user_inputs(self) -> list[fx.Node]:
        names = [
            spec.arg.name
            for spec in self.exported.graph_signature.input_specs
            if spec.kind is InputKind.USER_INPUT
        ]
        nodes = {n.name: n for n in self.exported.graph.nodes if n.op == "placeholder"}
        return [nodes[name] for name in names]

    def user_outputs(self) -> list[fx.Node]:
        """Nodes of the model's outputs, in its order."""
        (values,) = self.exported.graph.output_node().args
        specs = self.exported.graph_signature.output_specs
        results: list[fx.Node] = []
        for value, spec in zip(values, specs, strict=True):
            if spec.kind is not OutputKind.USER_OUTPUT:
                self.problem("buffer update", f"the forward pass changes {spec.target}", "")
            elif not isinstance(value, fx.Node) or value in self.known:
                self.problem("output", f"output {len(results)} does not depend on the input", "")
            else:
                results.append(value)
        return results

    def named_outputs(self) -> tuple[Tensor, ...]:
        """`output`, or `output0` and so on; a model that returns a dictionary names its own."""
        count = len(self.results)
        names = ["output"] if count == 1 else [f"output{i}" for i in range(count)]
        spec = self.exported.call_spec.out_spec
        if spec is not None and spec.type is dict and len(spec.context) == count:
            keys = [str(key) for key in spec.context]
            names = keys if all(key.isidentifier() for key in keys) else names
        return tuple(
            Tensor(name=name, shape=tuple(node.meta["val"].shape))
            for name, node in zip(names, self.results, strict=True)
        )

    def boundary(self, node: fx.Node) -> Tensor:
        return Tensor(name=node.name, shape=tuple(node.meta["val"].shape))

    def needed(self) -> set[fx.Node]:
        """Nodes that an output depends on and that are not known constants."""
        live: set[fx.Node] = set()
        stack = list(self.results)
        while stack:
            node = stack.pop()
            if node not in live and node not in self.known:
                live.add(node)
                site = self.sites.get(node)
                if site is not None and isinstance(site.answer, ParcKernel):
                    stack.extend([site.source] if site.source is not None else [])
                else:
                    stack.extend(node.all_input_nodes)
        return live

    # -- the whole ------------------------------------------------------------------------

    def function(self) -> relax.Function:
        """Convert every node that an output needs; raise UnsupportedError naming all problems."""
        self.check_operators()
        parameters = []
        for node, tensor in zip(self.user_inputs(), self.inputs, strict=True):
            self.env[node] = relax.Var(tensor.name, relax.TensorType(tensor.shape, "float32"))
            parameters.append(self.env[node])
        for node, value in self.known.items():
            if any(user in self.live for user in node.users):
                self.env[node] = _constant(value)
        with self.builder.function("main", parameters):
            with self.builder.dataflow():
                for node in self.exported.graph.nodes:
                    if node in self.live and node.op == "call_function":
                        self.convert(node)
                results = [self.builder.emit_output(self.env[node]) for node in self.results]
            self.builder.emit_func_output(results[0] if len(results) == 1 else results)
        self.raise_problems()
        return self.builder.get()["main"]

    def convert(self, node: fx.Node) -> None:
        try:
            site = self.sites.get(node)
            converter = self.converters[_overload(node)] if site is None else self.site
            self.env[node] = converter(node)
        except Exception as error:  # TVM's converters raise what they meet
            reason = f"TVM says {type(error).__name__}: {first_line(error)}"
            reason = str(error) if isinstance(error, UnsupportedError) else reason
            self.problem(_operator_name(node), reason, _module_path(node))
            # A stand-in of the right shape, so that problems further on are found as well.
            self.env[node] = _stand_in(node)

    def sources(self, function: relax.Function) -> dict[relax.Var, Source]:
        """Map each variable of the final function; steps within a node belong to that node."""
        nodes: dict[relax.Var, fx.Node] = {}
        for node in self.exported.graph.nodes:
            value = self.env.get(node)
            if isinstance(value, relax.Var):
                nodes.setdefault(value, node)
        result: dict[relax.Var, Source] = {}
        path = ""
        for var, value in reversed(list(_tvm.bindings(function))):
            node = nodes.get(var) or nodes.get(value if isinstance(value, relax.Var) else var)
            path = _module_path(node) if node is not None else path
            result[var] = Source(node.name if node is not None else "", path)
        return dict(reversed(result.items()))

    # -- what cannot be converted ---------------------------------------------------------

    def problem(self, operator_name: str, reason: str, path: str) -> None:
        self.problems.setdefault((operator_name, reason), []).append(path or "the top module")

    def check_operators(self) -> None:
        for node in self.exported.graph.nodes:
            if node.op != "call_function" or node not in self.live:
                continue
            name = _overload(node)
            if node in self.sites or node in self.spectral:
                self.check_site(node)
                continue
            value = node.meta.get("val")
            tensors = [v for v in (value if isinstance(value, tuple | list) else [value])]
            kinds = {v.dtype for v in tensors if isinstance(v, torch.Tensor)}
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                reason = "it draws random numbers"
            elif name not in self.converters:
                reason = "there is no conversion for it"
            elif kinds - {torch.float32} and "batch_norm" not in name:
                kind = min(map(str, kinds - {torch.float32}))
                reason = f"its result is {kind.removeprefix('torch.')}, not float32"
            else:
                continue
            self.problem(_operator_name(node), reason, _module_path(node))
        for index, node in enumerate(self.results):
            if node.op == "placeholder":
                self.problem("output", f"output {index} is an input as it came", "")
        self.raise_problems()

    def check_site(self, node: fx.Node) -> None:
        """Fourier transforms have no kernel of their own: what is no ParC is a problem."""
        if node not in self.sites:  # live only when what it leads to is no ParC
            if is_transform(node):
                reason = "a Fourier transform is only taken as part of a ParC"
                self.problem(_operator_name(node), reason, _module_path(node))
            return
        answer = self.sites[node].answer
        if isinstance(answer, NoParC):
            reason = f"its way through the frequency domain is no ParC: {answer.reason}"
            self.problem(_operator_name(node), reason, _module_path(node))

    def raise_problems(self) -> None:
        if not self.problems:
            return
        lines = []
        for (name, reason), paths in self.problems.items():
            places = list(dict.fromkeys(paths))
            times = f" ({len(paths)} times)" if len(paths) > 1 else ""
            lines.append(f"{name}{times} in {', '.join(places)}: {reason}")
        raise UnsupportedError("the model cannot be imported:\n  " + "\n  ".join(lines))

    # -- converters that differ from TVM's ------------------------------------------------

    def operands(self, node: fx.Node) -> dict[str, Any]:
        """Arguments by the operator's own names, defaults filled in, nodes replaced by values."""
        named: dict[str, Any] = {}
        schema = cast(torch._ops.OpOverload, node.target)._schema
        for index, argument in enumerate(schema.arguments):
            if index < len(node.args):
                named[argument.name] = node.args[index]
            else:
                named[argument.name] = node.kwargs.get(argument.name, argument.default_value)
        return {
            name: fx.map_arg(value, lambda operand: self.env[operand])
            for name, value in named.items()
        }

    def emit(self, call: Any) -> relax.Var:
        return self.builder.emit(call)

    def binary(self, op: Callable[[Any, Any], Any]) -> Callable[[fx.Node], relax.Var]:
        """With torch's `alpha`, and numbers and 0-d constants that do not change the type."""

        def expression(value: Any) -> Any:
            if isinstance(value, int | float):
                return relax.const(float(value), "float32")
            if _tvm.operand_kind(value) == "constant":
                return relax.const(_tvm.constant(value).astype(np.float32))
            return value

        def convert(node: fx.Node) -> relax.Var:
            named = self.operands(node)
            operands = {name: expression(named[name]) for name in ("self", "other")}
            if named.get("alpha", 1) != 1:
                scaled = "self" if _overload(node).startswith("rsub") else "other"
                factor = expression(named["alpha"])
                operands[scaled] = self.emit(relax.op.multiply(operands[scaled], factor))
            return self.emit(op(operands["self"], operands["other"]))

        return convert

    def linear(self, node: fx.Node) -> relax.Var:
        """An n-d matmul by a constant (K, N) and an add."""
        named = self.operands(node)
        weight = named["weight"]
        if _tvm.operand_kind(weight) == "constant":
            transposed = relax.const(np.ascontiguousarray(_tvm.constant(weight).T))
        else:
            transposed = self.emit(relax.op.permute_dims(weight))
        product = self.emit(relax.op.matmul(named["input"], transposed))
        bias = named["bias"]
        return product if bias is None else self.emit(relax.op.add(product, bias))

    def conv2d(self, node: fx.Node) -> relax.Var:
        """A convolution, and an add of a constant (1, C_out, 1, 1)."""
        named = self.operands(node)
        x, weight, bias = named["input"], named["weight"], named["bias"]
        if len(_tvm.static_shape(x)) != 4:
            raise UnsupportedError(f"its input is {_tvm.static_shape(x)}, not (B, C, H, W)")
        taps = _tvm.static_shape(weight)[2:]
        dilation = _pair(named["dilation"])
        result = self.emit(
            relax.op.nn.conv2d(
                x,
                weight,
                strides=_pair(named["stride"]),
                padding=_padding(named["padding"], taps, dilation),
                dilation=dilation,
                groups=named["groups"],
            )
        )
        if bias is None:
            return result
        return self.emit(relax.op.add(result, self.per_channel(bias)))

    def pad(self, node: fx.Node) -> relax.Var:
        """Circular padding as slices and a concatenation; the others are TVM's."""
        named = self.operands(node)
        if named["mode"] != "circular":
            return cast(relax.Var, self.importer.convert_map["pad.default"](node))
        x, pairs = named["self"], list(named["pad"])
        rank = len(_tvm.static_shape(x))
        for index in range(0, len(pairs), 2):  # the last axis comes first
            x = circular_pad(self.builder, x, rank - 1 - index // 2, pairs[index], pairs[index + 1])
        return x

    def site(self, node: fx.Node) -> relax.Var:
        """A ParC in the frequency domain as Algorithm 1's spatial form, which `recognise` reads."""
        site: SpectralSite = self.sites[node]
        assert isinstance(site.answer, ParcKernel)
        assert site.source is not None
        return algorithm_1(self.builder, self.env[site.source], site.answer)

    def per_channel(self, vector: Any) -> Any:
        """A vector (C,) as (1, C, 1, 1)."""
        if _tvm.operand_kind(vector) == "constant":
            return relax.const(_tvm.constant(vector).reshape(1, -1, 1, 1))
        return self.emit(relax.op.reshape(vector, (1, -1, 1, 1)))

    def batch_norm(self, node: fx.Node) -> tuple[relax.Var, None, None]:
        """Multiply by w / sqrt(var + eps), add b - mean * that; computed in float64."""
        named = self.operands(node)
        channels = int(named["running_mean"].ty.shape.values[0])
        weight, bias, mean, variance = (
            np.full(channels, default) if value is None else _tvm.constant(value).astype(np.float64)
            for value, default in (
                (named["weight"], 1.0),
                (named["bias"], 0.0),
                (named["running_mean"], 0.0),
                (named["running_var"], 1.0),
            )
        )
        scale = weight / np.sqrt(variance + named["eps"])
        shift = bias - mean * scale
        x = named["input"]
        unit = (1, channels) + (1,) * (len(_tvm.static_shape(x)) - 2)
        scale, shift = (a.astype(np.float32).reshape(unit) for a in (scale, shift))
        scaled = self.emit(relax.op.multiply(x, relax.const(scale)))
        return self.emit(relax.op.add(scaled, relax.const(shift))), None, None

    def layer_norm(self, node: fx.Node) -> relax.Var:
        """A LayerNorm over the last axes; absent scale and offset are ones and zeros."""
        named = self.operands(node)
        shape = tuple(named["normalized_shape"])
        weight, bias = named["weight"], named["bias"]
        weight = relax.const(np.ones(shape, np.float32)) if weight is None else weight
        bias = relax.const(np.zeros(shape, np.float32)) if bias is None else bias
        axes = list(range(-len(shape), 0))
        return self.emit(
            relax.op.nn.layer_norm(named["input"], weight, bias, axes, epsilon=named["eps"])
        )

    def pool2d(self, node: fx.Node) -> relax.Var:
        """With torch's default stride, the window."""
        named = self.operands(node)
        x, size = named["self"], _pair(named["kernel_size"])
        if len(_tvm.static_shape(x)) != 4:
            raise UnsupportedError(f"its input is {_tvm.static_shape(x)}, not (B, C, H, W)")
        common = dict(
            pool_size=size,
            strides=_pair(named["stride"]) if named["stride"] else size,
            padding=_pair(named["padding"]) * 2,
            ceil_mode=named["ceil_mode"],
        )
        if "dilation" in named:
            return self.emit(relax.op.nn.max_pool2d(x, dilation=_pair(named["dilation"]), **common))
        if named["divisor_override"] is not None:
            raise UnsupportedError("it divides by a number of its own")
        counted = named["count_include_pad"]
        return self.emit(relax.op.nn.avg_pool2d(x, count_include_pad=counted, **common))

    def adaptive_avg_pool2d(self, node: fx.Node) -> relax.Var:
        """To one pixel, the usual case, it is a mean."""
        named = self.operands(node)
        x, size = named["self"], tuple(named["output_size"])
        if size == (1, 1):
            return self.emit(relax.op.mean(x, [-2, -1], keepdims=True))
        return self.emit(relax.op.nn.adaptive_avg_pool2d(x, size))

    def slice(self, node: fx.Node) -> relax.Var:
        """With bounds brought into the axis; a slice of everything is its operand."""
        named = self.operands(node)
        x, step = named["self"], named["step"]
        shape = _tvm.static_shape(x)
        dim = named["dim"] % len(shape)
        bounds = slice(named["start"], named["end"], step).indices(shape[dim])
        if bounds == (0, shape[dim], 1):
            return x
        begin, end = bounds[0], max(bounds[:2])
        return self.emit(relax.op.strided_slice(x, [dim], [begin], [end], [step]))

    def split(self, node: fx.Node) -> Any:
        """At torch's places; one piece of everything is its operand."""
        named = self.operands(node)
        x = named["self"]
        dim = named["dim"] % len(_tvm.static_shape(x))
        extent = _tvm.static_shape(x)[dim]
        if "split_sizes" in named:
            places = list(np.cumsum(named["split_sizes"])[:-1])
        else:
            places = list(range(named["split_size"], extent, named["split_size"]))
        if not places:
            return (x,)
        return self.emit(relax.op.split(x, [int(place) for place in places], dim))

    def upsample(self, node: fx.Node) -> relax.Var:
        """A resize by the ratio of the sizes, which torch uses unless it was given another."""
        named = self.operands(node)
        before = _tvm.static_shape(named["input"])[2:]
        after = tuple(node.meta["val"].shape[2:])
        factors = named["scale_factors"]
        if factors is not None and any(
            extent * factor != result
            for extent, factor, result in zip(before, factors, after, strict=True)
        ):
            raise UnsupportedError(
                f"its scale factors {tuple(factors)} do not lead from {before} to {after} exactly; "
                "give the size, or recompute_scale_factor=True"
            )
        kind = _overload(node).partition(".")[0]
        method = {"upsample_bicubic2d": "cubic", "upsample_bilinear2d": "linear"}
        nearest = kind not in method
        coordinates = "align_corners" if named.get("align_corners") else "half_pixel"
        return self.emit(
            relax.op.image.resize2d(
                named["input"],
                after,
                layout="NCHW",
                method=method.get(kind, "nearest_neighbor"),
                coordinate_transformation_mode="asymmetric" if nearest else coordinates,
                rounding_method="floor" if nearest else "",
                cubic_alpha=-0.75,  # torch's
            )
        )

    def parc(self, node: fx.Node) -> relax.Var:
        """One `relax.parc` for a call of `parc_hw::parc`."""
        named = self.operands(node)
        constants = [named[name] for name in ("weight", "pe", "bias")]
        if any(_tvm.operand_kind(constant) != "constant" for constant in constants):
            raise UnsupportedError("its kernel, position embedding or bias depends on the input")
        return self.emit(parc_call(named["x"], *constants, axis=named["axis"], layout="NCHW"))


def _constant(value: Any) -> Any:
    """A folded value as an operand: floats become float32, numbers stay numbers."""
    if isinstance(value, torch.Tensor):
        # A spectrum has been read by `spectral`; what else needs it is refused.
        return value if value.is_complex() else relax.const(_array(value))
    if isinstance(value, tuple | list):
        return tuple(_constant(item) for item in value)
    return value


def _stand_in(node: fx.Node) -> Any:
    def variable(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return relax.Var(node.name, relax.TensorType(tuple(value.shape), "float32"))

    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return tuple(variable(item) for item in value)
    return variable(value)


def _overload(node: fx.Node) -> str:
    """What the table of converters calls a node's operator, e.g. "conv2d.default".

    TVM's table knows no libraries: an operator of a foreign one keeps its full name, which the
    table does not have.
    """
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace not in ("aten", "parc_hw"):
        return str(target)
    return str(getattr(target, "__name__", target))


def _operator_name(node: fx.Node) -> str:
    """The operator's name for people, with its library, e.g. "aten.conv2d.default"."""
    target = node.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else _overload(node)


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return (values[0], values[-1])


def _padding(
    padding: Any, taps: tuple[int, ...], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) from torch's numbers or words."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":  # an odd one goes to the bottom and the right
        total = [spread * (extent - 1) for spread, extent in zip(dilation, taps, strict=True)]
        before = [count // 2 for count in total]
        return (before[0], before[1], total[0] - before[0], total[1] - before[1])
    top, left = _pair(padding)
    return (top, left, top, left)
