"""Which kernel computes the composites that no other rule takes?

Every node becomes its Relax operator again; TVM's own definitions of the operators are merged
into one function, whose stages are inlined or placed under the loop over the output's rows,
with vectors along the last axis. Right for every operator that TVM can define, fast for none.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from schedules._tvm import (
    Call,
    DeclBuffer,
    For,
    ForKind,
    IntImm,
    IRModule,
    PrimFunc,
    Target,
    Var,
    buffer_shape,
    decl_buffer,
    relax,
    rewrite,
    s_tir,
    sequential,
    stmt_seq,
    te,
    tirx,
    tvm,
    walk,
)
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Scheduled
from schedules.tir import pieces

__all__ = ["generic"]

NAME = "generic"

# Stages that a row of the output needs may be computed again for a neighbouring row, such as
# the border of a window, but not more than this many times over.
RECOMPUTE = 1.5

# Accumulators of one reduction that are kept in registers together.
VECTORS = 4

_VECTORS_OF = "parc.vectors_of"  # annotation of a loop that is to become vectors of this many lanes


def generic(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Compute any composite of float32 operators that TVM can define, with one result.

    Parameters
    ----------
    composite : Composite
        Nodes of any kind; `relax.parc`, depthwise or dense, among them.
    context : Context
        Its device gives the width of the vectors.

    Returns
    -------
    Scheduled or NotApplicable
        The reason names the operator or the step that failed, with TVM's message.
    """
    try:
        function, constants = _relax_function(composite)
        stages = _one_function(function)
    except _Refused as refusal:
        return NotApplicable(NAME, str(refusal))
    lanes = context.device.lanes()
    for depth in _depths(composite.shape):
        try:
            arranged = _arrange(stages, depth, lanes)
        except s_tir.ScheduleError:
            arranged = None
        if arranged is not None:
            break
    else:
        depth, arranged = 0, stages
    rows = math.prod(composite.shape[:depth])
    return Scheduled(
        func=_flat(arranged, context.device.llvm_target(), lanes),
        inputs=tuple(range(len(composite.inputs))),
        constants=constants,
        rule=NAME,
        note=f"TVM's definition, {f'parallel over {rows} rows' if rows > 1 else 'one task'}",
        macs=_multiplications(stages),
    )


class _Refused(Exception):
    """The composite has no single function of TIR; the message says why."""


# ---------------------------------------------------------------- operators to one function


def _relax_function(composite: Composite) -> tuple[Any, tuple[np.ndarray, ...]]:
    """The composite as a Relax function of its inputs, then its constants."""
    parameters = [
        relax.Var(f"x{i}", relax.TensorType(shape, "float32"))
        for i, shape in enumerate(composite.inputs)
    ]
    constants: list[np.ndarray] = []
    builder = relax.BlockBuilder()
    results: list[Any] = []

    def constant(value: np.ndarray) -> Any:
        if value.dtype != np.float32:
            raise _Refused(f"a constant is {value.dtype}, not float32")
        if value.ndim == 0:
            return relax.const(float(value), "float32")
        constants.append(np.ascontiguousarray(value))
        parameters.append(
            relax.Var(f"c{len(constants) - 1}", relax.TensorType(value.shape, "float32"))
        )
        return parameters[-1]

    def operand(argument: Any) -> Any:
        match argument:
            case Ref(kind="input", index=i):
                return parameters[i]
            case Ref(kind="node", index=i):
                return results[i]
            case np.ndarray():
                return constant(argument)
            case tuple() | list() if any(
                isinstance(a, Ref | np.ndarray | tuple | list) for a in argument
            ):
                return [operand(a) for a in argument]
        return argument

    refusal: _Refused | None = None
    with builder.function("body"):
        with builder.dataflow():
            try:
                for node in composite.nodes:  # a node's operands are results before it
                    results += [_emit(builder, node, operand)]
            except _Refused as error:  # raised below: TVM warns of a builder left half-way
                refusal = error
            output = builder.emit_output(results[-1] if results else parameters[0])
        # constants became parameters while the body was built
        builder.emit_func_output(output, params=parameters)
    if refusal is not None:
        raise refusal
    return builder.finalize(), tuple(constants)


def _emit(builder: Any, node: Node, operand: Callable[[Any], Any]) -> Any:
    """Append `node` to the function being built; returns its variable."""
    if node.op == "relax.parc":
        variable = _emit_parc(builder, node, operand)
    else:
        function = _operator(node.op)
        accepted = inspect.signature(function).parameters
        if unknown := [k for k in node.attrs if k not in accepted]:
            raise _Refused(
                f"{node.op} has no attribute {unknown[0]!r}; accepted: {', '.join(accepted)}"
            )
        # TVM writes "the operands' type" as an empty or void type, and takes None for it
        attrs = {
            k: None if k.endswith("dtype") and v in ("", "void") else v
            for k, v in node.attrs.items()
        }
        try:
            variable = builder.emit(function(*map(operand, node.args), **attrs))
        except (tvm.error.InternalError, TypeError, ValueError) as error:
            raise _Refused(f"{node.op}: {_last_line(error)}") from None
    kind = variable.ty
    shape = (
        tuple(int(extent) for extent in kind.shape.values)
        if isinstance(kind, relax.TensorType)
        else None
    )
    if shape != tuple(node.shape) or str(kind.dtype) != "float32":
        raise _Refused(f"{node.op} gives {kind}, not one float32 tensor of shape {node.shape}")
    return variable


def _operator(name: str) -> Callable[..., Any]:
    """The function of `tvm.relax.op` that makes a call of operator `name`."""
    function: Any = relax.op
    for part in name.removeprefix("relax.").split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise _Refused(f"no operator {name} in relax.op")
    return function


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]


def _emit_parc(builder: Any, node: Node, operand: Callable[[Any], Any]) -> Any:
    """`relax.parc` in its direct form; the position embedding is folded into start values."""
    x, w, pe, bias = node.args
    if node.attrs.get("layout") != "NHWC":
        raise _Refused(f"relax.parc in layout {node.attrs.get('layout')}; accepted is NHWC")
    if not all(isinstance(constant, np.ndarray) for constant in (w, pe, bias)):
        raise _Refused("relax.parc: weight, position embedding or bias is computed at run time")
    dense, length = w.ndim == 3, w.shape[-1]
    turned = np.stack([np.roll(pe, -i, axis=-1) for i in range(length)])  # [i, c, k]: pe[c, i + k]
    wide = w.astype(np.float64)
    start = np.einsum("ock,ick->io" if dense else "ck,ick->ic", wide, turned.astype(np.float64))
    start = (start + bias.astype(np.float64)).astype(np.float32)
    packed = np.moveaxis(w, -1, 0)  # (k, c) or (k, o, c); the last axis becomes the output's
    packed = packed.swapaxes(1, 2) if dense else packed
    along_h = node.attrs["axis"] == "H"

    def parc(x: Any, packed: Any, start: Any) -> Any:
        taps = te.reduce_axis((0, length), "k")
        inputs = te.reduce_axis((0, x.shape[3]), "c")

        def output(b: Any, h: Any, w: Any, o: Any) -> Any:
            def term(c: Any) -> Any:
                if along_h:
                    return x[b, tirx.floormod(h + taps, length), w, c]
                return x[b, h, tirx.floormod(w + taps, length), c]

            if dense:
                return te.sum(term(inputs) * packed[taps, inputs, o], axis=[taps, inputs])
            return te.sum(term(o) * packed[taps, o], axis=[taps])

        total = te.compute(node.shape, output, name="parc")
        return te.compute(
            node.shape,
            lambda b, h, w, o: total[b, h, w, o] + start[h if along_h else w, o],
            name="parc_start",
        )

    return builder.emit_te(parc, operand(x), operand(packed.astype(np.float32)), operand(start))


def _one_function(module: IRModule) -> PrimFunc:
    """All operators of the Relax function "body" as the stages of one function."""
    with Target("llvm"):
        try:
            module = relax.transform.LegalizeOps()(module)
        except tvm.error.InternalError as error:
            raise _Refused(f"TVM cannot define it: {_last_line(error)}") from None
        body = module["body"]
        for block in body.body.blocks:
            for binding in block.bindings:
                op = getattr(getattr(binding.value, "op", None), "name", "relax.call_tir")
                if op != "relax.call_tir":
                    raise _Refused(f"TVM has no definition of {op}")
        # FuseTIR merges what a "primitive" function calls, whatever it is: no fusion rules apply
        merged = body.without_attr("global_symbol").with_attr("Primitive", 1)
        builder = relax.BlockBuilder(
            IRModule({k: f for k, f in module.functions.items() if k.name_hint != "body"})
        )
        callee = builder.add_func(merged, "stages")
        parameters = [relax.Var(p.name, p.ty) for p in body.params]
        with builder.function("main", parameters):
            with builder.dataflow():
                output = builder.emit_output(relax.Call(callee, parameters))
            builder.emit_func_output(output)
        passes = [relax.transform.FuseTIR(), relax.transform.DeadCodeElimination(["main"])]
        module = sequential(passes)(builder.finalize())
    functions = [f for f in module.functions.values() if isinstance(f, PrimFunc)]
    if len(functions) != 1 or len(functions[0].params) != len(parameters) + 1:
        raise _Refused(f"TVM left {len(functions)} functions of it, which is not one kernel")
    return functions[0].with_attr("global_symbol", "main")


# ---------------------------------------------------------------- one function to loops


def _depths(shape: tuple[int, ...]) -> Iterator[int]:
    """How many of the output's axes form the parallel loop, in order of preference."""
    yield from range(len(shape) - 1, -1, -1)


def _arrange(stages: PrimFunc, depth: int, lanes: int) -> PrimFunc | None:
    """Place every stage inside one loop over the output's first `depth` axes.

    None if some stage would be computed too many times over.
    """
    schedule = s_tir.Schedule(stages, error_render_level="none")
    _inline(schedule)
    root = schedule.get_sblock("root")
    blocks = schedule.get_child_blocks(root)
    (result,) = schedule.get_output_blocks(root)
    if depth:
        loops = schedule.get_loops(result)[:depth]
        rows = schedule.fuse(*loops) if depth > 1 else loops[0]
        schedule.parallel(rows)
        for block in reversed(blocks):
            if schedule.get(block).name_hint == schedule.get(result).name_hint:
                continue
            alone = _iterations(schedule, block)
            schedule.compute_at(block, rows, preserve_unit_loops=True)
            if _iterations(schedule, block) > RECOMPUTE * alone:
                return None
    for block in blocks:
        _mark_vectors(schedule, block, outer=1 if depth else 0, lanes=lanes)
    return schedule.mod["main"]


def _is_reduction(schedule: Any, block: Any) -> bool:
    return any(v.iter_type != tirx.IterVar.DataPar for v in schedule.get(block).iter_vars)


def _moves_only(schedule: Any, block: Any) -> bool:
    """Whether a stage only copies values (padding, slicing, reshaping), which costs nothing twice."""
    busy: list[Any] = []
    for kind in (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div):
        walk(schedule.get(block).body, kind, busy.append)
    calls: list[Any] = []
    walk(schedule.get(block).body, Call, calls.append)
    free = ("tirx.if_then_else", "tirx.likely")
    return not any("float" in str(b.ty.dtype) for b in busy) and all(
        getattr(c.op, "name", "") in free for c in calls
    )


def _inline(schedule: Any) -> None:
    """Inline every element-wise stage that is read by one other stage and is cheap there."""
    root = schedule.get_sblock("root")
    for block in schedule.get_child_blocks(root):
        readers = schedule.get_consumers(block)
        if len(readers) != 1 or _is_reduction(schedule, block):
            continue
        if _is_reduction(schedule, readers[0]) and not _moves_only(schedule, block):
            continue
        try:
            schedule.compute_inline(block)
        except s_tir.ScheduleError:
            continue  # stays a stage of its own, which is right too


def _extent(schedule: Any, loop: Any) -> int:
    return int(schedule.get(loop).extent)


def _iterations(schedule: Any, block: Any) -> int:
    return math.prod(_extent(schedule, loop) for loop in schedule.get_loops(block))


def _mark_vectors(schedule: Any, block: Any, *, outer: int, lanes: int) -> None:
    """Mark the innermost loop over outputs as vectors; a reduction's loops go around it."""
    loops = schedule.get_loops(block)[outer:]
    sums = sum(v.iter_type != tirx.IterVar.DataPar for v in schedule.get(block).iter_vars)
    spatial, summed = loops[: len(loops) - sums], loops[len(loops) - sums :]
    wide = next((loop for loop in reversed(spatial) if _extent(schedule, loop) > 1), None)
    if not sums:
        if wide is not None:
            schedule.annotate(wide, _VECTORS_OF, lanes)
        return
    if wide is not None:
        extent = _extent(schedule, wide)
        chunk = max(c for c in range(1, min(extent, VECTORS * lanes) + 1) if extent % c == 0)
        if min(lanes, extent) <= chunk < extent:
            _, wide = schedule.split(wide, [None, chunk])
        schedule.reorder(*summed, wide)
    first = schedule.decompose_reduction(block, summed[0])
    if wide is not None:
        schedule.annotate(wide, _VECTORS_OF, lanes)
        inner = [x for x in schedule.get_loops(first)[outer:] if _extent(schedule, x) > 1]
        if inner:
            schedule.annotate(inner[-1], _VECTORS_OF, lanes)


# ---------------------------------------------------------------- loops to a flat kernel


def _flat(arranged: PrimFunc, target: dict[str, Any], lanes: int) -> PrimFunc:
    """The kernel over flat buffers, its marked loops turned into vectors and tails."""
    s, t = s_tir.transform, tirx.transform
    module = IRModule({"main": arranged})
    with Target(target):
        module = sequential(
            [
                s.CanonicalizeLoop(),
                s.LowerInitBlock(),
                s.PlanAndUpdateBufferAllocationLocation(),
                s.ConvertBlocksToOpaque(),
                s.CompactBufferAllocation(),
                s.LowerMatchBuffer(),
                s.StmtSimplify(),
                s.LowerOpaqueBlock(),
                t.FlattenBuffer(),
                t.ForceNarrowIndexToInt32(),
            ]
        )(module)
        func = _with_flat_parameters(module["main"])
        func = PrimFunc(func.params, rewrite(func.body, For, _vectorised), attrs=func.attrs)
        module = sequential([t.ConvertSSA(), s.StmtSimplify()])(IRModule({"main": func}))
    func = module["main"]
    return PrimFunc(func.params, func.body).with_attr("tirx.noalias", True)


def _with_flat_parameters(func: PrimFunc) -> PrimFunc:
    """FlattenBuffer declares a flat view of each parameter: make the views the parameters."""
    statements = list(func.body.seq) if isinstance(func.body, tirx.SeqStmt) else [func.body]
    views: dict[Any, Any] = {}
    while isinstance(statements[0], DeclBuffer):
        view = statements.pop(0)
        views[view.data.args[0]] = view.buffer  # data: buffer_data(parameter)
    parameters = [
        views[p] if p in views else decl_buffer((math.prod(buffer_shape(p)),), "float32", p.name)
        for p in func.params
    ]
    return PrimFunc(parameters, stmt_seq(*statements), attrs=func.attrs)


def _vectorised(loop: For) -> Any:
    """A marked loop as full vectors, then narrower ones, then a scalar; cut where conditions change."""
    if _VECTORS_OF not in (loop.annotations or {}):
        return loop
    lanes, extent = int(loop.annotations[_VECTORS_OF]), int(loop.extent)
    cuts = sorted({0, extent, *(c for c in _cuts(loop) if 0 < c < extent)})

    def body(index: Any) -> Any:
        return rewrite(loop.body, Var, lambda v: index if v.same_as(loop.loop_var) else v)

    statements: list[Any] = []
    for begin, end in pairwise(cuts):
        full = (end - begin) // lanes
        if full:
            many, lane = Var("j", "int32"), Var("v", "int32")
            vector = For(
                lane, _int(0), _int(lanes), ForKind.VECTORIZED, body(many * lanes + lane + begin)
            )
            kind = ForKind.UNROLLED if full <= VECTORS else ForKind.SERIAL
            statements.append(For(many, _int(0), _int(full), kind, vector))
        at = begin + full * lanes
        for width in pieces(end - at, lanes):
            lane = Var("v", "int32")
            statements.append(
                For(lane, _int(0), _int(width), ForKind.VECTORIZED, body(lane + at))
                if width > 1
                else body(_int(at))
            )
            at += width
    return stmt_seq(*statements)


def _cuts(loop: For) -> list[int]:
    """Where a condition `index < c` or `c <= index` of the body changes, as of concat and pad."""
    found: list[int] = []

    def compare(test: Any) -> None:
        a, b, shift = test.a, test.b, int(isinstance(test, tirx.LE | tirx.GT))
        if isinstance(test, tirx.GT | tirx.GE):
            a, b = b, a
            shift = 1 - shift
        if isinstance(a, Var) and a.same_as(loop.loop_var) and isinstance(b, IntImm):
            found.append(int(b) + shift)
        elif isinstance(b, Var) and b.same_as(loop.loop_var) and isinstance(a, IntImm):
            found.append(int(a) + 1 - shift)

    for kind in (tirx.LT, tirx.LE, tirx.GT, tirx.GE):
        walk(loop.body, kind, compare)
    return found


def _int(value: int) -> IntImm:
    return IntImm("int32", value)


def _multiplications(stages: PrimFunc) -> int:
    """Multiply-accumulates of all sums of products among the stages."""
    schedule = s_tir.Schedule(stages, error_render_level="none")
    total = 0
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        products: list[Any] = []
        walk(schedule.get(block).body, tirx.Mul, products.append)
        if _is_reduction(schedule, block) and any("float" in str(p.ty.dtype) for p in products):
            total += _iterations(schedule, block)
    return total
