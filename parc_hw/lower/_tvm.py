"""Where does lowering read TVM's objects? The only module of this package that names moving APIs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tvm import ir, relax, tirx

__all__ = [
    "bindings",
    "constant",
    "is_call",
    "operand_kind",
    "plain",
    "plain_attrs",
    "static_shape",
]


def bindings(function: relax.Function) -> Iterator[tuple[relax.Var, Any]]:
    """The (variable, value) pairs of a function whose body is a sequence of blocks."""
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def is_call(value: Any) -> bool:
    """Whether `value` is a call of an operator."""
    return isinstance(value, relax.Call) and isinstance(value.op, ir.Op)


def operand_kind(value: Any) -> str:
    """One of var, constant, tuple, item, shape, prim."""
    if isinstance(value, relax.Var):
        return "var"
    if type(value).__name__ == "GenericConst":  # relax.Constant's name since TVM 0.27
        return "constant"
    if isinstance(value, relax.TupleGetItem):
        return "item"
    if isinstance(value, relax.Tuple):
        return "tuple"
    if isinstance(value, relax.ShapeExpr):
        return "shape"
    return "prim"


def constant(value: Any) -> np.ndarray:
    """The array of a constant expression."""
    data = value.data if hasattr(value, "data") else value.value
    return np.asarray(data.numpy())


def static_shape(value: Any) -> tuple[int, ...]:
    """The static shape of an expression with a tensor type."""
    return tuple(int(extent) for extent in value.ty.shape.values)


def plain(value: Any) -> Any:
    """A reflected attribute as int, float, str, bool, None or a tuple of those."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tirx.IntImm):
        return int(value.value)
    if isinstance(value, tirx.FloatImm):
        return float(value.value)
    if hasattr(value, "values") and isinstance(value, relax.ShapeExpr):
        return tuple(int(extent) for extent in value.values)
    if isinstance(value, relax.Tuple):
        return tuple(plain(item) for item in value.fields)
    if hasattr(value, "value") and type(value).__name__ in ("PrimValue", "StringImm"):
        return plain(value.value)
    if hasattr(value, "__iter__"):
        return tuple(plain(item) for item in value)
    return str(value)


def plain_attrs(attrs: Any) -> dict[str, Any]:
    """An operator's attributes as a plain dictionary.

    DictAttrs has `keys`; an operator's own attributes are reflected fields.
    """
    if attrs is None:
        return {}
    if hasattr(attrs, "keys"):
        names = list(attrs.keys())
    else:
        names = [field.name for field in type(attrs).__tvm_ffi_type_info__.fields]
    return {str(name): plain(attrs[name]) for name in names}
