"""Which convolutions of a Relax function are a ParC in disguise?

The papers' code writes a ParC as `conv2d(cat([z, z[:N-1]], axis), w) + b` with `z = x + pe`
(Algorithm 1's spatial form). Every bound is checked; what misses by anything stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from parc_hw.lower import _tvm
from parc_hw.lower.op import parc_call

__all__ = ["recognise_parc"]


def recognise_parc(function: relax.Function) -> relax.Function:
    """Replace each ParC that is written as `concat` and `nn.conv2d` by one `relax.parc`.

    Parameters
    ----------
    function : relax.Function
        One sequence of dataflow bindings, static shapes, NCHW, weights as constants.

    Returns
    -------
    relax.Function
        The same variables stand for the same values; bindings that no output needs are gone.

    Notes
    -----
    A constant added to the convolution's result becomes the bias when nothing else reads that
    result, and a constant added to its input becomes the position embedding when it is the same
    along the other spatial axis and nothing else reads the sum.
    """
    return _Recogniser(function).rewrite()


@dataclass(frozen=True, slots=True)
class _Match:
    """Operands of a recognised ParC."""

    x: relax.Var
    weight: np.ndarray  # (C, N) or (C_out, C, N)
    pe: np.ndarray  # (C, N)
    dim: int  # 2 or 3


class _Recogniser:
    def __init__(self, function: relax.Function) -> None:
        self.function = function
        self.values: dict[relax.Var, Any] = dict(_tvm.bindings(function))
        self.readers: dict[relax.Var, list[relax.Var]] = {}
        self.reads: Counter[relax.Var] = Counter()
        for var, value in self.values.items():
            for read in _variables(value):
                self.reads[read] += 1
                self.readers.setdefault(read, []).append(var)
        for read in _variables(function.body.body):
            self.reads[read] += 1

    def rewrite(self) -> relax.Function:
        for var, value in list(self.values.items()):
            match = self.match(var, value)
            if match is not None:
                result, bias = self.bias(var, match.weight.shape[0])
                operands = (relax.const(a) for a in (match.weight, match.pe, bias))
                axis = "NCHW"[match.dim]
                self.values[result] = parc_call(match.x, *operands, axis=axis, layout="NCHW")
        return self.rebuilt()

    def rebuilt(self) -> relax.Function:
        """The function with the present values of its variables, dead ones left out."""
        live: set[relax.Var] = set()
        stack = list(_variables(self.function.body.body))
        while stack:
            var = stack.pop()
            if var not in live:
                live.add(var)
                stack.extend(_variables(self.values[var]) if var in self.values else ())
        builder = relax.BlockBuilder()
        with builder.function("main", list(self.function.params)):
            with builder.dataflow():
                for var, value in self.values.items():
                    if var in live:
                        builder.emit_normalized(relax.VarBinding(var, builder.normalize(value)))
            builder.emit_func_output(self.function.body.body)
        return builder.get()["main"]

    # -- the pattern ----------------------------------------------------------------------

    def match(self, var: relax.Var, value: Any) -> _Match | None:
        """The ParC that a convolution computes, or None."""
        if not _is(value, "relax.nn.conv2d") or _tvm.operand_kind(value.args[1]) != "constant":
            return None
        attrs = _tvm.plain_attrs(value.attrs)
        plain = (
            attrs["strides"] == (1, 1)
            and attrs["padding"] == (0, 0, 0, 0)
            and attrs["dilation"] == (1, 1)
            and attrs["data_layout"] == "NCHW"
            and attrs["kernel_layout"] == "OIHW"
            and attrs["out_layout"] in ("", "NCHW")
        )
        doubled = self.doubled(value.args[0]) if plain else None
        if doubled is None:
            return None
        z, dim = doubled
        channels, length = _tvm.static_shape(z)[1], _tvm.static_shape(z)[dim]
        weight = _tvm.constant(value.args[1])
        out_channels, in_channels, *taps = weight.shape
        if taps[dim - 2] != length or taps[3 - dim] != 1 or weight.dtype != np.float32:
            return None
        groups = attrs["groups"]
        if groups == channels == out_channels and in_channels == 1:
            weight = weight.reshape(channels, length)
        elif groups == 1 and in_channels == channels:
            weight = weight.reshape(out_channels, channels, length)
        else:
            return None
        x, pe = self.embedding(z, dim)
        return _Match(x=x, weight=weight, pe=pe, dim=dim)

    def doubled(self, data: Any) -> tuple[relax.Var, int] | None:
        """`z` and `dim` when `data` is `concat([z, z[:N-1]], dim)`."""
        joined: Any = self.values.get(data)
        if not _is(joined, "relax.concat"):
            return None
        pieces = joined.args[0]
        pieces = self.values.get(pieces, pieces)  # a tuple may have a name
        if _tvm.operand_kind(pieces) != "tuple" or len(pieces.fields) != 2:
            return None
        z, head = pieces.fields
        cut: Any = self.values.get(head)
        if _tvm.operand_kind(z) != "var" or len(_tvm.static_shape(z)) != 4:
            return None
        if not _is(cut, "relax.strided_slice") or not cut.args[0].same_as(z):
            return None
        dim = _tvm.plain(joined.attrs["axis"]) % 4
        if dim not in (2, 3):
            return None
        axes, begin, end, *strides = (_tvm.plain(argument) for argument in cut.args[1:])
        length = _tvm.static_shape(z)[dim]
        exact = (
            tuple(axis % 4 for axis in axes) == (dim,)
            and begin in ((0,), (-length,))
            and end in ((length - 1,), (-1,))
            and strides in ([], [(1,)])
        )
        return (z, dim) if exact else None

    def embedding(self, z: relax.Var, dim: int) -> tuple[relax.Var, np.ndarray]:
        """`x` and pe when `z` is `x + pe` for the kernel alone; else `z` and zeros."""
        shape = _tvm.static_shape(z)
        channels, length = shape[1], shape[dim]
        added = self.constant_addend(z)
        if added is not None and self.reads[z] == 2:  # the concat and the slice
            x, constant = added
            wanted = [1, channels, 1, 1]
            wanted[dim] = length
            # An embedding that was resized to the whole map is the same in every line.
            spread = _broadcast(_collapsed(constant, keep=(1, dim)), tuple(wanted))
            if spread is not None:
                return x, spread.reshape(channels, length)
        return z, np.zeros((channels, length), np.float32)

    def bias(self, var: relax.Var, out_channels: int) -> tuple[relax.Var, np.ndarray]:
        """The variable that holds `var + bias` and the bias; else `var` and zeros."""
        if self.reads[var] == 1 and len(self.readers.get(var, ())) == 1:
            (result,) = self.readers[var]
            added = self.constant_addend(result)
            if added is not None and added[0].same_as(var):
                spread = _broadcast(added[1], (1, out_channels, 1, 1))
                if spread is not None:
                    return result, spread.reshape(out_channels)
        return var, np.zeros(out_channels, np.float32)

    def constant_addend(self, var: relax.Var) -> tuple[Any, np.ndarray] | None:
        """(other operand, constant) when `var` is their sum and has the other operand's shape."""
        value: Any = self.values.get(var)
        if not _is(value, "relax.add"):
            return None
        for other, constant in (tuple(value.args), tuple(value.args)[::-1]):
            if (
                _tvm.operand_kind(constant) == "constant"
                and _tvm.operand_kind(other) == "var"
                and _tvm.static_shape(other) == _tvm.static_shape(var)
            ):
                return other, _tvm.constant(constant)
        return None


def _is(value: Any, name: str) -> bool:
    """Whether `value`, which may be None, is a call of the operator `name`."""
    return value is not None and _tvm.is_call(value) and value.op.name == name


def _variables(value: Any) -> Iterator[relax.Var]:
    """Variables that an expression in normal form reads, once per read."""
    kind = _tvm.operand_kind(value)
    if kind == "var":
        yield value
    elif kind == "item":
        yield from _variables(value.tuple_value)
    elif kind == "tuple":
        for item in value.fields:
            yield from _variables(item)
    elif isinstance(value, relax.Call):
        for argument in value.args:
            yield from _variables(argument)


def _collapsed(constant: np.ndarray, *, keep: tuple[int, ...]) -> np.ndarray:
    """`constant` as 4-d, with extent 1 along axes other than `keep` where it does not vary."""
    constant = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
    for axis in set(range(4)) - set(keep):
        first = constant.take([0], axis=axis)
        if np.array_equal(np.broadcast_to(first, constant.shape), constant):
            constant = first
    return constant


def _broadcast(constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """`constant` broadcast to `shape`, or None when that is not its shape under broadcasting."""
    try:
        return np.ascontiguousarray(np.broadcast_to(constant, shape), np.float32)
    except ValueError:
        return None
