"""Which convolutions of a Relax function are a ParC in disguise, and which only look like one?

The papers' code writes a ParC as `conv2d(cat([z, z[:N-1]], axis), w) + b` with `z = x + pe`
(Algorithm 1's spatial form). Circular padding arrives here as such a concatenation too, with
points of the line's end in front, which turn the kernel: `w'[(k - before) mod N] = w[k]`. Every
bound is checked; what misses by anything stays as it is, and it is said why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from parc_hw.importers.probe import ParcKernel
from parc_hw.lower import _tvm
from parc_hw.lower.op import parc_call

__all__ = ["Recognised", "algorithm_1", "circular_pad", "recognise_parc"]


@dataclass(frozen=True, slots=True)
class Recognised:
    """A function after recognition.

    `near_misses` holds the variables of convolutions that look like a ParC, with the reason why
    they are none.
    """

    function: relax.Function
    near_misses: dict[relax.Var, str]


def recognise_parc(function: relax.Function) -> Recognised:
    """Replace each ParC that is written as `concat` and `nn.conv2d` by one `relax.parc`.

    Parameters
    ----------
    function : relax.Function
        One sequence of dataflow bindings, static shapes, NCHW, weights as constants.

    Returns
    -------
    Recognised
        The same variables stand for the same values; bindings that no output needs are gone.

    Notes
    -----
    A constant added to the convolution's result becomes the bias when nothing else reads that
    result, and a constant added to its input becomes the position embedding when it is the same
    along the other spatial axis and nothing else reads the sum.
    """
    return _Recogniser(function).rewrite()


def circular_pad(builder: relax.BlockBuilder, x: Any, dim: int, before: int, after: int) -> Any:
    """Continue `x` circularly along `dim`, as slices and a concatenation.

    Parameters
    ----------
    builder : relax.BlockBuilder
        With an open dataflow block.
    x : relax.Var
    dim : int
    before, after : int
        Points in front and behind, 0 to the extent of `dim` (ValueError); `x` itself for 0, 0.
    """
    length = _tvm.static_shape(x)[dim]
    if not (0 <= before <= length and 0 <= after <= length):
        raise ValueError(
            f"circular padding of ({before}, {after}) points; 0 to the line's {length} are accepted"
        )

    def cut(begin: int, end: int) -> Any:
        return builder.emit(relax.op.strided_slice(x, [dim], [begin], [end], [1]))

    pieces = [cut(length - before, length)] if before else []
    pieces.append(x)
    pieces += [cut(0, after)] if after else []
    return builder.emit(relax.op.concat(pieces, dim)) if len(pieces) > 1 else x


def algorithm_1(builder: relax.BlockBuilder, x: Any, kernel: ParcKernel) -> Any:
    """Write a ParC as Algorithm 1's spatial form; `recognise_parc` reads it with its addends."""
    weight = kernel.weight if kernel.weight.ndim == 3 else kernel.weight[:, None]
    groups = 1 if kernel.weight.ndim == 3 else kernel.weight.shape[0]
    weight = np.expand_dims(weight, 3 if kernel.dim == 2 else 2)
    line = circular_pad(builder, x, kernel.dim, 0, _tvm.static_shape(x)[kernel.dim] - 1)
    return builder.emit(relax.op.nn.conv2d(line, relax.const(weight), groups=groups))


@dataclass(frozen=True, slots=True)
class _Match:
    """Operands of a recognised ParC."""

    x: relax.Var
    weight: np.ndarray  # (C, N) or (C_out, C, N)
    pe: np.ndarray  # (C, N)
    dim: int  # 2 or 3


@dataclass(frozen=True, slots=True)
class _Line:
    """A tensor made of points of one other tensor along a spatial axis."""

    z: relax.Var
    dim: int
    points: np.ndarray  # positions in z
    reads: int  # how often z is read for it


class _NearMiss(Exception):  # it is no error
    """Why a convolution that looks like a ParC is none."""


class _Recogniser:
    def __init__(self, function: relax.Function) -> None:
        self.function = function
        self.values: dict[relax.Var, Any] = dict(_tvm.bindings(function))
        live = self.live()  # what nothing needs does not read
        self.values = {var: value for var, value in self.values.items() if var in live}
        self.readers: dict[relax.Var, list[relax.Var]] = {}
        self.reads: Counter[relax.Var] = Counter()
        for var, value in self.values.items():
            for read in _variables(value):
                self.reads[read] += 1
                self.readers.setdefault(read, []).append(var)
        for read in _variables(function.body.body):
            self.reads[read] += 1

    def rewrite(self) -> Recognised:
        near_misses: dict[relax.Var, str] = {}
        for var, value in list(self.values.items()):
            if _is(value, "relax.parc"):
                self.absorb(var, value)
            if not _is(value, "relax.nn.conv2d"):
                continue
            try:
                match = self.match(value)
            except _NearMiss as miss:
                near_misses[var] = str(miss)
                continue
            if match is not None:
                result, bias = self.bias(var, match.weight.shape[0])
                operands = (relax.const(a) for a in (match.weight, match.pe, bias))
                axis = "NCHW"[match.dim]
                self.values[result] = parc_call(match.x, *operands, axis=axis, layout="NCHW")
        return Recognised(self.rebuilt(), near_misses)

    def absorb(self, var: relax.Var, value: Any) -> None:
        """Let a ParC that came as one operator take the constants before and behind it too."""
        dim = "NCHW".index(str(value.attrs["axis"]))
        weight, pe, bias = (_tvm.constant(argument) for argument in value.args[1:])
        points = np.arange(_tvm.static_shape(value.args[0])[dim])
        line = _Line(z=value.args[0], dim=dim, points=points, reads=1)
        x, more = self.embedding(line)
        result, offset = self.bias(var, weight.shape[0])
        operands = (relax.const(a) for a in (weight, pe + more, bias + offset))
        axis = str(value.attrs["axis"])
        self.values[result] = parc_call(x, *operands, axis=axis, layout="NCHW")

    def rebuilt(self) -> relax.Function:
        """The function with the present values of its variables, dead ones left out."""
        live = self.live()
        builder = relax.BlockBuilder()
        with builder.function("main", list(self.function.params)):
            with builder.dataflow():
                for var, value in self.values.items():
                    if var in live:
                        builder.emit_normalized(relax.VarBinding(var, builder.normalize(value)))
            builder.emit_func_output(self.function.body.body)
        return builder.get()["main"]

    def live(self) -> set[relax.Var]:
        """Variables that an output needs."""
        live: set[relax.Var] = set()
        stack = list(_variables(self.function.body.body))
        while stack:
            var = stack.pop()
            if var not in live:
                live.add(var)
                stack.extend(_variables(self.values[var]) if var in self.values else ())
        return live

    # -- the pattern ----------------------------------------------------------------------

    def match(self, value: Any) -> _Match | None:
        """The ParC that a convolution computes; None when it does not look like one.

        Raises
        ------
        _NearMiss
            It looks like one and is none.
        """
        attrs = _tvm.plain_attrs(value.attrs)
        if attrs["data_layout"] != "NCHW" or attrs["kernel_layout"] != "OIHW":
            return None
        line = self.line(value.args[0])
        if line is None:
            self.check_padding(value, attrs)
            return None
        taps = _tvm.static_shape(value.args[1])[2:]
        dim, points, length = line.dim, line.points, _tvm.static_shape(line.z)[line.dim]
        channels = _tvm.static_shape(line.z)[1]
        along, across = taps[dim - 2], taps[3 - dim]
        axis, wanted = "HW"[dim - 2], 2 * length - 1
        if across != 1:
            spoiled = f"its kernel is {taps[0]}x{taps[1]}, not 1 wide across {axis}"
        elif along != length:
            spoiled = f"its kernel has {along} taps for lines of {length} points"
        elif len(points) != wanted:
            spoiled = (
                f"the line and its continuation have {len(points)} points; {wanted} = 2 * "
                f"{length} - 1 are needed"
            )
        elif not np.array_equal(points, (points[0] + np.arange(wanted)) % length):
            spoiled = "the points that continue the line are not its own, in their order"
        elif attrs["strides"] != (1, 1):
            spoiled = f"its stride is {attrs['strides']}"
        elif attrs["padding"] != (0, 0, 0, 0):
            spoiled = f"it pads by {attrs['padding']} on top of that, with zeros"
        elif attrs["dilation"] != (1, 1):
            spoiled = f"its dilation is {attrs['dilation']}"
        elif _tvm.operand_kind(value.args[1]) != "constant":
            spoiled = "its kernel depends on the input"
        else:
            weight = self.kernel(value, attrs["groups"], channels, length)
            # Point i meets tap k at (points[0] + i + k) mod N.
            weight = np.ascontiguousarray(np.roll(weight, int(points[0]), axis=-1))
            x, pe = self.embedding(line)
            return _Match(x=x, weight=weight, pe=pe, dim=dim)
        raise _NearMiss(spoiled)

    def kernel(self, value: Any, groups: int, channels: int, length: int) -> np.ndarray:
        """The taps, (C, N) or (C_out, C, N)."""
        weight = _tvm.constant(value.args[1])
        out_channels, in_channels = weight.shape[:2]
        if groups == channels == out_channels and in_channels == 1:
            return weight.reshape(channels, length)
        if groups == 1 and in_channels == channels:
            return weight.reshape(out_channels, channels, length)
        raise _NearMiss(
            f"it has {groups} groups and {out_channels} outputs for {channels} channels: neither "
            "depthwise nor dense"
        )

    def check_padding(self, value: Any, attrs: dict[str, Any]) -> None:
        """Raise _NearMiss for a kernel as long as the line that is continued in another way."""
        source, before, after, filling = value.args[0], (0, 0), (0, 0), "zeros"
        padded: Any = self.values.get(source)
        if _is(padded, "relax.nn.pad"):
            widths = _tvm.plain_attrs(padded.attrs)
            flat = widths["pad_width"]
            if len(flat) == 8:
                before, after = (flat[4], flat[6]), (flat[5], flat[7])
                filling = {"constant": "zeros"}.get(widths["pad_mode"], widths["pad_mode"])
                source = padded.args[0]
        shape, taps = _tvm.static_shape(source), _tvm.static_shape(value.args[1])[2:]
        padding = attrs["padding"]
        for dim in (2, 3):
            index = dim - 2
            more = before[index] + after[index] + padding[index] + padding[index + 2]
            if 1 < taps[index] == shape[dim] == more + 1 and taps[1 - index] == 1:
                raise _NearMiss(f"its lines are continued by {filling}, not circularly")

    def line(self, data: Any) -> _Line | None:
        """What `data` is when it consists of one tensor's points along a spatial axis."""
        joined: Any = self.values.get(data)
        if not _is(joined, "relax.concat"):
            return None
        dim = _tvm.plain(joined.attrs["axis"]) % 4
        if len(_tvm.static_shape(data)) != 4 or dim not in (2, 3):
            return None
        pieces = self.pieces(data, dim)
        origins = [cut[0] for piece in pieces if (cut := self.cut(piece, dim)) is not None]
        z = next(
            (o for o in [*origins, *pieces] if sum(o.same_as(p) for p in [*origins, *pieces]) > 1),
            None,
        )
        if z is None:
            return None  # different tensors: an ordinary concatenation
        points = []
        for piece in pieces:
            cut = self.cut(piece, dim)
            if piece.same_as(z):
                points.append(np.arange(_tvm.static_shape(z)[dim]))
            elif cut is not None and cut[0].same_as(z):
                points.append(np.arange(*cut[1]))
            else:
                raise _NearMiss("another tensor's points stand among those of the line")
        return _Line(z=z, dim=dim, points=np.concatenate(points), reads=len(pieces))

    def pieces(self, data: Any, dim: int) -> list[Any]:
        """The variables that a tree of concatenations along `dim` joins."""
        joined: Any = self.values.get(data)
        if not _is(joined, "relax.concat") or _tvm.plain(joined.attrs["axis"]) % 4 != dim:
            return [data]
        fields = joined.args[0]
        fields = self.values.get(fields, fields)  # a tuple may have a name
        if _tvm.operand_kind(fields) != "tuple" or any(
            _tvm.operand_kind(item) != "var" for item in fields.fields
        ):
            return [data]
        return [piece for item in fields.fields for piece in self.pieces(item, dim)]

    def cut(self, piece: Any, dim: int) -> tuple[relax.Var, tuple[int, int, int]] | None:
        """(origin, (begin, end, step)) when `piece` is a slice along `dim` alone."""
        value: Any = self.values.get(piece)
        if not _is(value, "relax.strided_slice") or _tvm.operand_kind(value.args[0]) != "var":
            return None
        axes, begin, end, *strides = (_tvm.plain(argument) for argument in value.args[1:])
        if tuple(axis % 4 for axis in axes) != (dim,):
            return None
        step = strides[0][0] if strides else 1
        extent = _tvm.static_shape(value.args[0])[dim]
        return value.args[0], slice(begin[0], end[0], step).indices(extent)

    def embedding(self, line: _Line) -> tuple[relax.Var, np.ndarray]:
        """`x` and pe when `z` is `x + pe` for the kernel alone; else `z` and zeros."""
        z, dim = line.z, line.dim
        shape = _tvm.static_shape(z)
        channels, length = shape[1], shape[dim]
        added = self.constant_addend(z)
        if added is not None and self.reads[z] == line.reads:  # once in each piece
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
