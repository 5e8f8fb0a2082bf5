"""How do kernels in TIR become machine code with a plain C interface?

A kernel `k` becomes

    int32_t k(buffers..., [int32_t begin, int32_t end,] [void *scratch]);

which needs no TVM at run time: the parallel loop turns into the range [begin, end), allocations
of 1 KiB or more move to the scratch pointer, and 0 is returned. Undefined symbols of the
objects are libm's and libc's at most.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parc_hw.device import Device
from schedules._tvm import (
    AllocBuffer,
    Call,
    DeclBuffer,
    For,
    ForKind,
    IntImm,
    IRModule,
    PointerType,
    PrimFunc,
    PrimType,
    Return,
    SeqStmt,
    Target,
    Var,
    buffer_data_pointer_type,
    buffer_dtype,
    buffer_scope,
    buffer_shape,
    is_buffer_var,
    llvm_module,
    prim_func_pass,
    rewrite,
    s_tir,
    sequential,
    stmt_seq,
    structural_equal,
    structural_hash,
    tirx,
    walk,
)

__all__ = ["CompiledKernels", "KernelSignature", "compile_kernels", "finalize", "lower_kernel"]

Progress = Callable[[int, int, str], None]

SCRATCH_ALIGNMENT = 64  # bytes: the widest vector, and a cache line on every device described
STACK_LIMIT = 1024  # bytes: TVM's LowerTVMBuiltin calls its runtime's allocator from here on


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSignature:
    """How a compiled kernel is called; the fields of `parc_hw.lower.program.Kernel`."""

    symbol: str
    arguments: int  # buffer pointers
    extent: int  # iterations of the parallel loop; 0: no begin and end
    scratch_bytes: int  # private memory of one task; 0: no scratch pointer


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledKernels:
    """Relocatable, position-independent ELF objects, and the kernel of each function given.

    Equal functions share a kernel; `objects` holds each kernel once, in order of appearance.
    """

    objects: tuple[bytes, ...] = field(repr=False)
    kernels: tuple[KernelSignature, ...]


def compile_kernels(
    funcs: Sequence[PrimFunc],
    device: Device,
    *,
    prefix: str,
    progress: Progress | None = None,
    dump: dict[str, str] | None = None,
) -> CompiledKernels:
    """Compile every function for `device`; structurally equal ones once.

    Parameters
    ----------
    funcs : sequence of PrimFunc
        As `Scheduled.func` describes them.
    device : Device
        Gives LLVM's target.
    prefix : str
        Symbols are `{prefix}_k0`, `{prefix}_k1`, ... in order of first appearance.
    progress : callable or None
        Called as progress(done, total, symbol) after each kernel.
    dump : dict or None
        If given, receives the texts "tir", "ll" and "asm" of all kernels, one after the other.

    Returns
    -------
    CompiledKernels
        `kernels[i]` calls `funcs[i]`. The same functions give the same bytes.

    Raises
    ------
    ValueError
        A function breaks the rules of `Scheduled.func`: more than one parallel loop, one that
        does not start at 0, or work outside it.
    """
    unique: list[PrimFunc] = []
    buckets: dict[int, list[int]] = {}
    which: list[int] = []
    for func in funcs:
        bucket = buckets.setdefault(structural_hash(func), [])
        number = next((n for n in bucket if structural_equal(unique[n], func)), None)
        if number is None:
            number = len(unique)
            unique.append(func)
            bucket.append(number)
        which.append(number)

    target = Target(device.llvm_target())
    objects, signatures = [], []
    for number, func in enumerate(unique):
        symbol = f"{prefix}_k{number}"
        code, signature = _compile(func, symbol, target, dump)
        objects.append(code)
        signatures.append(signature)
        if progress is not None:
            progress(number + 1, len(unique), symbol)
    return CompiledKernels(
        objects=tuple(objects), kernels=tuple(signatures[number] for number in which)
    )


def _compile(
    func: PrimFunc, symbol: str, target: Target, dump: dict[str, str] | None
) -> tuple[bytes, KernelSignature]:
    """One kernel's object file and signature."""
    module, signature = lower_kernel(func, symbol, target)
    built = llvm_module(finalize(module), target)
    if dump is not None:
        texts = {
            "tir": f"# {symbol}\n{func.script()}",
            "ll": built.inspect_source("ll"),
            "asm": built.inspect_source("asm"),
        }
        for kind, text in texts.items():
            dump[kind] = f"{dump.get(kind, '')}{text}\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        built.write_to_file(str(path), "o")
        return path.read_bytes(), signature


def lower_kernel(func: PrimFunc, symbol: str, target: Target) -> tuple[IRModule, KernelSignature]:
    """The module of one kernel with its plain C interface, not yet `finalize`d, and that interface."""
    bound = target.with_host(target)
    module = tirx.transform.BindTarget(bound)(
        IRModule({symbol: func.with_attr("global_symbol", symbol)})
    )
    module = _lowering(blocks=_has_blocks(func))(module)
    (lowered,) = module.functions.values()
    return module, KernelSignature(
        symbol=symbol,
        arguments=len(func.params),
        extent=int(lowered.attrs.get(_EXTENT, 0)),
        scratch_bytes=int(lowered.attrs.get(_SCRATCH, 0)),
    )


_EXTENT = "parc.extent"
_SCRATCH = "parc.scratch_bytes"


def _has_blocks(func: PrimFunc) -> bool:
    """Whether TVM made the function from a tensor expression."""
    found: list[Any] = []
    walk(func.body, s_tir.SBlock, found.append)
    return bool(found)


def _lowering(*, blocks: bool) -> Any:
    """TVM's own order of passes for CPUs, with `range_outer` and `unpack` in place of its runtime.

    An `Emitter`'s function has no `blocks` and nothing to compact, which TVM would take seconds to find.
    """
    t, x = s_tir.transform, tirx.transform
    compact = [t.CompactBufferAllocation()] if blocks else []
    return sequential(
        [
            t.CanonicalizeLoop(),
            t.LowerInitBlock(),
            t.PlanAndUpdateBufferAllocationLocation(),
            t.ConvertBlocksToOpaque(),
            *compact,
            t.LowerMatchBuffer(),
            t.StmtSimplify(),
            t.AnnotateIrregularLoop(),
            t.InjectSoftwarePipeline(),
            t.LowerOpaqueBlock(),
            _RangeOuter,  # blocks are gone, so that allocations are already compact
            x.FlattenBuffer(),
            x.NarrowDataType(32),
            t.LoopPartition(),
            x.VectorizeLoop(True),
            t.InjectVirtualThread(),
            t.InjectDoubleBuffer(),
            x.StorageRewrite(),
            t.HoistIfThenElse(),
            x.UnrollLoop(),
            t.RenormalizeSplitPattern(),
            x.StmtSimplify(),
            x.RemoveNoOp(),
            t.RewriteUnsafeSelect(),
            x.CommonSubexprElim(),
            _Unpack,
        ]
    )


def finalize(module: IRModule) -> IRModule:
    """Replace what LLVM's code generator does not know; the last step before it."""
    passes = sequential([tirx.transform.LowerTVMBuiltin(), tirx.transform.LowerIntrin()])
    return passes(module)


def range_outer(func: PrimFunc) -> PrimFunc:
    """Turn the parallel loop `for i in [0, extent)` into `for i in [begin, end)`.

    `begin` and `end` become the last parameters and `extent` an attribute. A function without
    a parallel loop is returned as it is.
    """
    loops: list[For] = []
    walk(func.body, For, lambda loop: loops.append(loop) if loop.kind == ForKind.PARALLEL else None)
    if not loops:
        return func
    if len(loops) > 1:
        raise ValueError(f"{len(loops)} parallel loops in one kernel; one at most is possible.")
    (parallel,) = loops
    if not (isinstance(parallel.min, IntImm) and int(parallel.min) == 0):
        raise ValueError(f"the parallel loop begins at {parallel.min}; it must begin at 0.")
    if not isinstance(parallel.extent, IntImm):
        raise ValueError(f"the parallel loop's extent {parallel.extent} is not a constant.")
    if outside := _work_outside(func.body):
        raise ValueError(
            f"{outside} stands outside the parallel loop: it would be repeated by every task."
        )
    begin, end = Var("begin", "int32"), Var("end", "int32")

    def ranged(loop: For) -> For:
        if loop.kind != ForKind.PARALLEL:
            return loop
        return For(
            loop.loop_var, begin, end - begin, ForKind.SERIAL, loop.body, None, loop.annotations
        )

    body = rewrite(func.body, For, ranged)
    func = PrimFunc([*func.params, begin, end], body, ret_type=func.ret_type, attrs=func.attrs)
    return func.with_attr(_EXTENT, int(parallel.extent))


def _work_outside(statement: Any) -> str:
    """Kind of the first statement that is neither in the parallel loop nor an allocation, or ''."""
    if isinstance(statement, SeqStmt):
        return next(filter(None, map(_work_outside, statement.seq)), "")
    if isinstance(statement, (AllocBuffer, DeclBuffer)):
        return ""
    if isinstance(statement, For) and statement.kind == ForKind.PARALLEL:
        return ""
    return type(statement).__name__


def unpack(func: PrimFunc) -> PrimFunc:
    """Replace buffer parameters by pointers and big allocations by parts of a scratch parameter.

    Returns 0 at the end: LLVM's verifier wants every function of TVM's to return int32.
    """
    parameters, declarations = [], []
    for parameter in func.params:
        if is_buffer_var(parameter):
            pointer = Var(f"{parameter.name}_ptr", buffer_data_pointer_type(parameter))
            parameters.append(pointer)
            declarations.append(DeclBuffer(parameter, data=pointer))
        else:
            parameters.append(parameter)

    scratch = Var("scratch", PointerType(PrimType("uint8"), "global"))
    used = 0

    def lift(allocation: AllocBuffer) -> Any:
        nonlocal used
        buffer = allocation.buffer
        dtype = buffer_dtype(buffer)
        size = dtype.bits * dtype.lanes // 8
        for extent in buffer_shape(buffer):
            size *= extent
        if size < STACK_LIMIT and buffer_scope(buffer) == "global":
            return AllocBuffer(buffer, {"disable_lower_builtin": IntImm("int32", 1)})
        pointer = Call(
            "tirx.handle_add_byte_offset",
            [scratch, IntImm("int32", used)],
            ret_ty=buffer_data_pointer_type(buffer),
        )
        used += -(-size // SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT
        return DeclBuffer(buffer, data=pointer)

    body = rewrite(func.body, AllocBuffer, lift)
    if used:
        parameters.append(scratch)
    body = stmt_seq(*declarations, body, Return(IntImm("int32", 0)))
    result = PrimFunc(parameters, body, ret_type=PrimType("int32"), attrs=func.attrs)
    return result.with_attr(_SCRATCH, used)


_RangeOuter = prim_func_pass(
    lambda func, mod, ctx: range_outer(func), opt_level=0, name="parc.RangeOuter"
)
_Unpack = prim_func_pass(lambda func, mod, ctx: unpack(func), opt_level=0, name="parc.Unpack")
