"""How is a kernel called from this process, without a C compiler or a file?

TVM's code generator keeps the machine code in memory. Beside each kernel stands a function of one
signature for all of them, written in LLVM's language: it computes one share of a *job*, which is a
row of 64-bit words in memory:

    job[0]                  address of that function
    job[1]                  iterations of the kernel's parallel loop
    job[2]                  shares the loop is cut into
    job[3]                  threads that may take part, at most
    job[4]                  1 if it is large enough to wake threads for it alone
    job[5:5 + buffers]      addresses of the kernel's buffers
    job[5 + buffers:]       address of private scratch memory, for each thread

`schedules.threads` lets several threads take a job's shares.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import Device
from schedules._tvm import (
    AttrStmt,
    BufferLoad,
    BufferStore,
    Evaluate,
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
    stmt_seq,
    tirx,
)
from schedules.aot import SCRATCH_ALIGNMENT, KernelSignature, finalize, lower_kernel

__all__ = [
    "JOB_HEADER",
    "LoadedKernel",
    "add_functions",
    "aligned",
    "c_function",
    "load_kernel",
    "scratch_memory",
]

JOB_HEADER = 5  # words of a job before the addresses of its buffers

_KERNEL, _SHARE = "parc_kernel", "parc_share"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedKernel:
    """A kernel in this process's memory.

    `share(job, number, thread)` is a ctypes function that computes share `number` of `job` as
    thread `thread` of those that take part, both from 0. The first and the last buffer of a job may
    be aligned like their elements only; the others and scratch memory to 64 bytes. ctypes gives
    up Python's lock during the call. The function keeps the code alive.
    """

    signature: KernelSignature
    share: Callable[..., int]

    def job(
        self, buffers: Sequence[int], scratch: Sequence[int], *, shares: int, wakes: bool
    ) -> NDArray[np.uint64]:
        """The words of a job on buffers and scratch memory at these addresses.

        `scratch` has an entry for each thread that may take part, also where the kernel needs
        none.
        """
        address = ctypes.cast(self.share, ctypes.c_void_p).value  # type: ignore[arg-type]
        head = [address, max(1, self.signature.extent), shares, len(scratch), int(wakes)]
        assert len(head) == JOB_HEADER
        assert len(buffers) == self.signature.arguments
        return np.array([*head, *buffers, *scratch], np.uint64)


def aligned(array: NDArray[Any]) -> NDArray[np.float32]:
    """A copy as flat float32 whose first element is aligned as kernels expect of constants."""
    flat = np.ascontiguousarray(array, np.float32).reshape(-1)
    result = scratch_memory(flat.nbytes)
    result[:] = flat
    return result


def scratch_memory(size: int) -> NDArray[np.float32]:
    """`size` bytes of memory, aligned, not initialised."""
    room = np.empty(size + SCRATCH_ALIGNMENT, np.uint8)
    first = -room.ctypes.data % SCRATCH_ALIGNMENT
    return room[first : first + size].view(np.float32)


def load_kernel(
    func: PrimFunc, device: Device, *, unaligned: Sequence[int] = (0, -1)
) -> LoadedKernel:
    """Compile `func`, as `Scheduled.func` describes it, into memory.

    Parameters
    ----------
    func : PrimFunc
        Its first buffer is a user's input, its last one the user's output.
    device : Device
        One whose code runs here.
    unaligned : sequence of int
        Numbers of the parameters that may be aligned like their elements only.
    """
    target = Target(device.llvm_target())
    users = [func.params[number] for number in unaligned]
    module, lowered = lower_kernel(_any_alignment(func, users), _KERNEL, target)
    signature = KernelSignature(
        symbol=_KERNEL,
        arguments=len(func.params),
        extent=lowered.extent,
        scratch_bytes=lowered.scratch_bytes,
    )
    add_functions(module, _share_text(signature), {_SHARE: 3}, target)
    built = llvm_module(finalize(module), target)
    share = c_function(
        built, _SHARE, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64
    )
    return LoadedKernel(signature=signature, share=share)


def _any_alignment(func: PrimFunc, users: Sequence[Any]) -> PrimFunc:
    """Add a last parameter `origin`, always 0, to every index into the buffers `users`.

    TVM takes a buffer's first element to be aligned like the widest vector, and lets an access at
    a multiple of it rely on that; numpy aligns to 16 bytes. Nothing is known about an index that
    contains a parameter.
    """
    origin = Var("origin", "int32")

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


def _share_text(kernel: KernelSignature) -> str:
    """The function that computes one share of a job: it cuts the range and unpacks the addresses."""
    lines, types, values = [], [], []

    def word(name: str, index: int | str, kind: str) -> str:
        lines.append(f"%{name}_at = getelementptr i64, ptr %job, i64 {index}")
        lines.append(f"%{name} = load {kind}, ptr %{name}_at")
        return f"%{name}"

    for i in range(kernel.arguments):
        types.append("ptr")
        values.append(word(f"buffer{i}", JOB_HEADER + i, "ptr"))
    types.append("i32")
    values.append("0")  # origin
    if kernel.extent:
        word("extent", 1, "i64")
        word("shares", 2, "i64")
        lines.append("%after = add i64 %number, 1")
        for name, cut in (("begin", "%number"), ("end", "%after")):
            lines += [
                f"%{name}_product = mul i64 %extent, {cut}",
                f"%{name}_word = udiv i64 %{name}_product, %shares",
                f"%{name} = trunc i64 %{name}_word to i32",
            ]
            types.append("i32")
            values.append(f"%{name}")
    if kernel.scratch_bytes:
        lines.append(f"%which = add i64 %thread, {JOB_HEADER + kernel.arguments}")
        types.append("ptr")
        values.append(word("scratch", "%which", "ptr"))
    given = ", ".join(f"{t} {v}" for t, v in zip(types, values, strict=True))
    body = "\n".join(lines)
    return (
        f"declare i32 @{kernel.symbol}({', '.join(types)})\n"
        f"define i32 @{_SHARE}_text(i64 %job.word, i64 %number, i64 %thread) {{\n"
        f"%job = inttoptr i64 %job.word to ptr\n{body}\n"
        f"%result = call i32 @{kernel.symbol}({given})\nret i32 %result\n}}\n"
    )


def add_functions(module: IRModule, text: str, symbols: Mapping[str, int], target: Target) -> None:
    """Add functions that are written in LLVM's language.

    Parameters
    ----------
    module : IRModule
        Lowered, not yet `finalize`d.
    text : str
        Defines a function `{symbol}_text` for every symbol. TVM puts such functions into those
        that call them and leaves none of them behind.
    symbols : mapping of str to int
        The functions to add, all of result 0, an i32, and of how many parameters, which are i64.
    target : Target
        Of the module.
    """
    for number, (symbol, count) in enumerate(symbols.items()):
        parameters = [Var(f"parameter{i}", "int64") for i in range(count)]
        call = stmt_seq(
            Evaluate(tirx.call_extern("int32", f"{symbol}_text", *parameters)),
            Return(IntImm("int32", 0)),  # LLVM's code generator takes no other value
        )
        body = call if number else AttrStmt(IntImm("int32", 0), _IMPORT, StringImm(text), call)
        attrs = {"global_symbol": symbol}
        func = PrimFunc(parameters, body, ret_type=PrimType("int32")).with_attrs(attrs)
        own = f"define i64 @{symbol}_address() {{ ret i64 ptrtoint (ptr @{symbol} to i64) }}\n"
        tell = Return(tirx.call_extern("int64", f"{symbol}_address"))
        body = AttrStmt(
            IntImm("int32", 0), _IMPORT, StringImm(f"declare i32 @{symbol}(...)\n{own}"), tell
        )
        attrs = {"global_symbol": _address_name(symbol)}
        teller = PrimFunc([], body, ret_type=PrimType("int64")).with_attrs(attrs)
        bind = tirx.transform.BindTarget(target.with_host(target))
        module.update(bind(IRModule({symbol: func})))
        module.update(
            tirx.transform.MakePackedAPI()(bind(IRModule({_address_name(symbol): teller})))
        )


_IMPORT = "pragma_import_llvm"


def c_function(built: Any, symbol: str, *types: Any) -> Callable[..., int]:
    """Function `symbol` of a module with `add_functions`: types of its result and its parameters."""
    function = ctypes.CFUNCTYPE(*types)(built.get_function(_address_name(symbol))())
    # It owns the code, and a call may outlive whoever loaded the kernel.
    function.module = built  # type: ignore[attr-defined]
    return function


def _address_name(symbol: str) -> str:
    return f"{symbol}_tells_its_address"
