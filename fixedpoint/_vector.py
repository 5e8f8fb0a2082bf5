"""How does a compiled kernel hold many frames side by side in one value?

numba widens every integer to 64 bits and leaves it to LLVM to find vectors in loops. A `Vector`
here is one LLVM vector of int32 or int64: `load` takes it from an array, operators act on every
lane and wrap, and what compiles is exactly what is written. Only for use inside compiled functions.

Operands of + - * & are vectors of one type, or a vector and an integer, which is cut to the lane's
width; the right operand of << and >> is an integer, below the lane's width. >> floors.
"""

from __future__ import annotations

import operator
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

__all__ = [
    "BITS",
    "Vector",
    "differing",
    "high_half",
    "joined",
    "load",
    "low_half",
    "maximum",
    "minimum",
    "signs",
    "store",
]

BITS: Final = 512
"""Bits of a vector: 16 lanes of int32 or 8 of int64."""


class Vector(types.Type):
    """The numba type of `lanes` integers of `bits` bits."""

    def __init__(self, bits: int, lanes: int) -> None:
        self.bits = bits
        self.lanes = lanes
        super().__init__(name=f"Vector({bits}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(ir.IntType(kind.bits), kind.lanes))


def _spread(context: Any, builder: Any, value: Any, given: Any, kind: Vector) -> Any:
    """`value` as a vector: itself, or an integer in every lane."""
    if isinstance(given, Vector):
        return value
    lane = ir.IntType(kind.bits)
    width = value.type.width
    if width > kind.bits:
        value = builder.trunc(value, lane)
    elif width < kind.bits:
        value = builder.sext(value, lane)
    empty = ir.Constant(ir.VectorType(lane, kind.lanes), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.lanes), [0] * kind.lanes)
    return builder.shuffle_vector(first, empty, zeros)


def _result(a: Any, b: Any) -> Vector | None:
    """The type of an operation on a and b, if it is one on vectors."""
    if isinstance(a, Vector):
        return a if b == a or isinstance(b, types.Integer) else None
    return b if isinstance(b, Vector) and isinstance(a, types.Integer) else None


def _binary(symbol: Any, emit: str) -> None:
    @infer_global(symbol)
    class _Typed(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) != 2:
                return None
            kind = _result(*args)
            return None if kind is None else signature(kind, *args)

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.return_type
        a, b = (
            _spread(context, builder, value, given, kind)
            for value, given in zip(args, sig.args, strict=True)
        )
        return getattr(builder, emit)(a, b)

    for given in ((Vector, Vector), (Vector, types.Integer), (types.Integer, Vector)):
        lower_builtin(symbol, *given)(lowered)


for _symbol, _emit in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.mul, "mul"),
    (operator.and_, "and_"),
    (operator.lshift, "shl"),
    (operator.rshift, "ashr"),
):
    _binary(_symbol, _emit)


@infer_global(operator.neg)
class _Negated(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(args[0], *args) if isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _negated(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.neg(args[0])


def _chosen(predicate: str) -> Any:
    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.return_type
        a, b = (
            _spread(context, builder, value, given, kind)
            for value, given in zip(args, sig.args, strict=True)
        )
        return builder.select(builder.icmp_signed(predicate, a, b), a, b)

    return lowered


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """The smaller of each lane."""
    return signature(_result(a, b), a, b), _chosen("<")


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger of each lane."""
    return signature(_result(a, b), a, b), _chosen(">")


@intrinsic
def low_half(typing: Any, a: Any) -> Any:
    """The low half of every lane's bits, as a signed number.

    A compiler that sees it before a product takes the narrow multiplier, at a third of the cost.
    """

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        half = ir.Constant(args[0].type, [sig.return_type.bits // 2] * sig.return_type.lanes)
        return builder.ashr(builder.shl(args[0], half), half)

    return signature(a, a), lowered


@intrinsic
def high_half(typing: Any, a: Any) -> Any:
    """The high half of every lane's bits, as a signed number."""

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        half = ir.Constant(args[0].type, [sig.return_type.bits // 2] * sig.return_type.lanes)
        return builder.ashr(args[0], half)

    return signature(a, a), lowered


@intrinsic
def joined(typing: Any, low: Any, high: Any) -> Any:
    """The low halves of two vectors' lanes, one above the other."""

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.return_type
        half = ir.Constant(args[0].type, [kind.bits // 2] * kind.lanes)
        mask = ir.Constant(args[0].type, [(1 << kind.bits // 2) - 1] * kind.lanes)
        return builder.or_(builder.shl(args[1], half), builder.and_(args[0], mask))

    return signature(low, low, high), lowered


@intrinsic
def signs(typing: Any, a: Any) -> Any:
    """-1 in negative lanes, 0 in the others."""

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = sig.return_type
        top = ir.Constant(args[0].type, [kind.bits - 1] * kind.lanes)
        return builder.ashr(args[0], top)

    return signature(a, a), lowered


@intrinsic
def differing(typing: Any, a: Any, b: Any) -> Any:
    """An integer whose bit k says whether lane k of the vectors differs."""

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        unequal = builder.icmp_signed("!=", *args)
        mask = builder.bitcast(unequal, ir.IntType(sig.args[0].lanes))
        return builder.zext(mask, ir.IntType(64))

    return signature(types.int64, a, b), lowered


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, row: Any, kind: Any) -> Any:
    """The address of row `row` of a C-contiguous array, as a pointer to a vector."""
    held = context.make_array(array_type)(context, builder, array)
    lanes = ir.Constant(row.type, kind.lanes)
    first = builder.gep(held.data, [builder.mul(row, lanes)])
    vector = ir.VectorType(ir.IntType(kind.bits), kind.lanes)
    return builder.bitcast(first, vector.as_pointer())


def _vector_of(array: Any) -> Vector:
    bits = array.dtype.bitwidth
    return Vector(bits, BITS // bits)


@intrinsic
def load(typing: Any, array: Any, row: Any) -> Any:
    """Lanes row * lanes ... of a C-contiguous array of int32 or int64, flattened."""
    kind = _vector_of(array)

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], kind)
        value = builder.load(pointer)
        value.align = kind.bits // 8
        return value

    return signature(kind, array, types.int64), lowered


@intrinsic
def store(typing: Any, array: Any, row: Any, value: Any) -> Any:
    """Write lanes row * lanes ... of a C-contiguous array, flattened."""
    kind = _vector_of(array)

    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1], kind)
        builder.store(args[2], pointer, align=kind.bits // 8)
        return context.get_dummy_value()

    return signature(types.void, array, types.int64, kind), lowered
