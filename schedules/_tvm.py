"""Under which stable names does this package know TVM's moving APIs?

Written for apache-tvm 0.27 with apache-tvm-ffi 0.1.14. Every other module of `schedules`
takes its TVM names from here, so that a new TVM is a change in one place.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax, s_tir, te, tirx
from tvm.ir import Call, GlobalVar, IRModule, PointerType, PrimType, StringImm
from tvm.ir.expr import TensorLoad
from tvm.target import Target, codegen
from tvm.tirx import (
    AllocBuffer,
    AttrStmt,
    Bind,
    Broadcast,
    BufferLoad,
    BufferStore,
    DeclBuffer,
    Evaluate,
    Expr,
    FloatImm,
    For,
    ForKind,
    IfThenElse,
    IntImm,
    PrimFunc,
    Ramp,
    Return,
    Select,
    SeqStmt,
    Shuffle,
    Stmt,
    Var,
    decl_buffer,
    stmt_seq,
)
from tvm.tirx.buffer import buffer_data_pointer_type, is_buffer_var

__all__ = [
    "AllocBuffer",
    "AttrStmt",
    "Bind",
    "Broadcast",
    "BufferLoad",
    "BufferStore",
    "Call",
    "DeclBuffer",
    "Evaluate",
    "Expr",
    "FloatImm",
    "For",
    "ForKind",
    "GlobalVar",
    "IRModule",
    "IfThenElse",
    "IntImm",
    "PointerType",
    "PrimFunc",
    "PrimType",
    "Ramp",
    "Return",
    "Select",
    "SeqStmt",
    "Shuffle",
    "Stmt",
    "StringImm",
    "Target",
    "TensorLoad",
    "Var",
    "buffer_data_pointer_type",
    "buffer_dtype",
    "buffer_scope",
    "buffer_shape",
    "decl_buffer",
    "dtype_of",
    "is_buffer_var",
    "lanes_of",
    "llvm_module",
    "llvm_version",
    "module_pass",
    "prim_func_pass",
    "relax",
    "rewrite",
    "s_tir",
    "sequential",
    "stmt_seq",
    "structural_equal",
    "structural_hash",
    "te",
    "tirx",
    "tvm",
    "walk",
]

structural_hash = tvm_ffi.structural_hash
structural_equal = tvm_ffi.structural_equal
module_pass = tvm.transform.module_pass
prim_func_pass = tirx.transform.prim_func_pass
sequential = tvm.transform.Sequential


def dtype_of(expression: Any) -> str:
    """Type of an expression as TVM writes it, e.g. "float32x16"."""
    return str(expression.ty.dtype)


def lanes_of(expression: Any) -> int:
    """How many elements an expression holds: 1 for a scalar."""
    return int(expression.ty.dtype.lanes)


def buffer_shape(buffer: Any) -> tuple[int, ...]:
    """Static shape of a buffer."""
    return tuple(int(extent) for extent in buffer.ty.shape)


def buffer_dtype(buffer: Any) -> tvm.DataType:
    """Element type of a buffer."""
    dtype = buffer.dtype
    return dtype.dtype if hasattr(dtype, "dtype") else tvm.DataType(dtype)


def buffer_scope(buffer: Any) -> str:
    """Storage scope of a buffer: "global" for all of ours."""
    return str(buffer.ty.storage_scope)


def rewrite(root: Any, kind: type, function: Any) -> Any:
    """Replace every node of class `kind` below `root` by `function(node)`, children first."""
    return tvm_ffi.structural_map(root, [(kind, function)], order="post")


def walk(root: Any, kind: type, function: Any) -> None:
    """Call `function(node)` for every node of class `kind` below `root`, parents first."""
    tvm_ffi.structural_walk(root, (kind, function), order="pre")


def llvm_version() -> str:
    """The major version of the LLVM inside TVM."""
    return str(codegen.llvm_version_major())


def llvm_module(module: IRModule, target: Target) -> Any:
    """Generate machine code for lowered functions; the result writes objects and texts."""
    return tvm.get_global_func("target.build.llvm")(module, target)
