"""How is a kernel called from this process, without a C compiler or a file?

TVM's code generator keeps the machine code in memory; a small function beside the kernel tells
its address, and the kernel is then called through ctypes with plain pointers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parc_hw.device import Device
from schedules._tvm import (
    AttrStmt,
    BufferLoad,
    BufferStore,
    IntImm,
    IRModule,
    PrimFunc,
    PrimType,
    Ramp,
    Return,
    StringImm,
    Target,
    TensorLoad,
    Var,
    llvm_module,
    rewrite,
    tirx,
)
from schedules.aot import KernelSignature, finalize, lower_kernel

__all__ = ["LoadedKernel", "load_kernel"]

_SYMBOL = "parc_kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedKernel:
    """A kernel in this process's memory.

    `function(buffers..., 0, begin, end[, scratch])` is a ctypes function that returns 0: as many
    `c_void_p` as the signature counts arguments, a 0 of type `c_int32`, the range of the parallel
    loop where it has an extent, and scratch memory where it needs some, 64-byte aligned. The first
    and the last buffer may be aligned like their elements only; the others to 64 bytes. ctypes
    gives up Python's lock during the call. The function keeps the code alive.
    """

    signature: KernelSignature
    function: Callable[..., int]


def load_kernel(func: PrimFunc, device: Device) -> LoadedKernel:
    """Compile `func`, as `Scheduled.func` describes it, into memory.

    Parameters
    ----------
    func : PrimFunc
        Its first buffer is a user's input, its last one the user's output.
    device : Device
        One whose code runs here.
    """
    target = Target(device.llvm_target())
    module, lowered = lower_kernel(_any_alignment(func), _SYMBOL, target)
    module.update(_address_of(_SYMBOL, target))
    built = llvm_module(finalize(module), target)
    signature = KernelSignature(
        symbol=_SYMBOL,
        arguments=len(func.params),
        extent=lowered.extent,
        scratch_bytes=lowered.scratch_bytes,
    )
    types: list[Any] = [ctypes.c_void_p] * signature.arguments + [ctypes.c_int32]
    if signature.extent:
        types += [ctypes.c_int32, ctypes.c_int32]
    if signature.scratch_bytes:
        types.append(ctypes.c_void_p)
    prototype = ctypes.CFUNCTYPE(ctypes.c_int32, *types)
    function = prototype(built.get_function(_ADDRESS)())
    # It owns the code, and a call may outlive whoever loaded the kernel.
    function.module = built  # type: ignore[attr-defined]
    return LoadedKernel(signature=signature, function=function)


def _any_alignment(func: PrimFunc) -> PrimFunc:
    """Add a last parameter `origin`, always 0, to every index into the first and the last buffer.

    TVM takes a buffer's first element to be aligned like the widest vector, and lets an access at
    a multiple of it rely on that; numpy aligns to 16 bytes. Nothing is known about an index that
    contains a parameter.
    """
    origin = Var("origin", "int32")
    users = (func.params[0], func.params[-1])

    def moved(index: Any) -> Any:
        if isinstance(index, Ramp):
            return Ramp(index.base + origin, index.stride, index.lanes)
        return index + origin

    def is_users(buffer: Any) -> bool:
        return any(buffer.same_as(user) for user in users)

    def load(node: Any) -> Any:
        if not is_users(node.source):
            return node
        return BufferLoad(node.source, [moved(i) for i in node.indices])

    def store(node: Any) -> Any:
        if not is_users(node.buffer):
            return node
        return BufferStore(node.buffer, node.value, [moved(i) for i in node.indices])

    body = rewrite(rewrite(func.body, TensorLoad, load), BufferStore, store)
    return PrimFunc([*func.params, origin], body, ret_type=func.ret_type, attrs=func.attrs)


_ADDRESS = "parc_address"


def _address_of(symbol: str, target: Target) -> IRModule:
    """A function for TVM's calling convention that returns the address of C function `symbol`."""
    text = (
        f"declare i32 @{symbol}(...)\n"
        f"define i64 @{symbol}_address() {{ ret i64 ptrtoint (ptr @{symbol} to i64) }}\n"
    )
    call = Return(tirx.call_extern("int64", f"{symbol}_address"))
    body = AttrStmt(IntImm("int32", 0), "pragma_import_llvm", StringImm(text), call)
    func = PrimFunc([], body, ret_type=PrimType("int64")).with_attr("global_symbol", _ADDRESS)
    bound = tirx.transform.BindTarget(target.with_host(target))(IRModule({_ADDRESS: func}))
    return tirx.transform.MakePackedAPI()(bound)
