"""Which kernel is each operator of the integer rule?

Every function returns a `Kernel`: its products and their ending, or one vector instruction. Maps
are views: a map of (H, W, C) may lie inside a larger array (a border of zeros, the channels of a
concatenation), which `View` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schedules.accel.kernel import Access, Kernel, Stage, Tensor, at

__all__ = [
    "View",
    "circular",
    "convolution",
    "elementwise",
    "fourier",
    "matrix",
    "mean",
    "multiplied",
    "permutation",
    "rows",
    "two_level",
    "windows",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A map inside an array.

    Attributes
    ----------
    shape : tuple of int
        Of the array: rows, columns, channels.
    origin : tuple of int
        Where the map begins in it.
    dtype : str
    """

    shape: tuple[int, int, int]
    origin: tuple[int, int, int] = (0, 0, 0)
    dtype: str = "int16"

    @property
    def tensor(self) -> Tensor:
        """The array."""
        return Tensor(shape=self.shape, dtype=self.dtype)


def _ending(
    out: Access, sums: Access, bias: Access, shift: Access, loops: Mapping[str, int],
    dims: tuple[str | None, ...], fields: Mapping[str, Any],
) -> Stage:  # fmt: skip
    return Stage(
        name="requantise", loops=loops, dims=dims, out=out, reads=(sums, shift, bias), fields=fields
    )


def convolution(
    x: View,
    y: View,
    *,
    height: int,
    width: int,
    channels: int,
    outputs: int,
    taps: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    depthwise: bool = False,
    weights: str = "int16",
    bias: str = "int64",
    ending: Mapping[str, Any],
) -> Kernel:
    """A convolution of `height` x `width` results; a border of zeros is part of the view.

    Depthwise weights are (kh, kw, C), others (kh, kw, C, O).
    """
    oy, ox, oc = x.origin
    row = at(h=strides[0], u=dilation[0], offset=oy)
    column = at(w=strides[1], v=dilation[1], offset=ox)
    loops = {"h": height, "w": width, "o": outputs, "u": taps[0], "v": taps[1]}
    if depthwise:
        dims: tuple[str | None, ...] = ("h", "w", None, "o", "u", "v", None)
        reads = (
            Access("X", (row, column, at("o", offset=oc))),
            Access("W", (at("u"), at("v"), at("o"))),
        )
        weight_shape: tuple[int, ...] = (*taps, outputs)
        split: tuple[str, ...] = ()
    else:
        loops["c"] = channels
        dims = ("h", "w", None, "o", "u", "v", "c")
        reads = (
            Access("X", (row, column, at("c", offset=oc))),
            Access("W", (at("u"), at("v"), at("c"), at("o"))),
        )
        weight_shape = (*taps, channels, outputs)
        split = ("c",)
    sums = Access("A", (at("h"), at("w"), at("o")))
    ty, tx, tc = y.origin
    out = Access("Y", (at("h", offset=ty), at("w", offset=tx), at("o", offset=tc)))
    return Kernel(
        name="depthwise" if depthwise else "convolution",
        tensors={
            "X": x.tensor,
            "W": Tensor(shape=weight_shape, dtype=weights),
            "S": Tensor(shape=(outputs,), dtype="int8"),
            "B": Tensor(shape=(outputs,), dtype=bias),
            "A": Tensor(shape=(height, width, outputs), dtype="int64", memory="accumulators"),
            "Y": y.tensor,
        },
        stages=(
            Stage(
                name="matrix_mac",
                loops=loops,
                dims=dims,
                out=sums,
                reads=reads,
                accumulates="sum",
            ),
            _ending(
                out, sums, Access("B", (at("o"),)), Access("S", (at("o"),)),
                {"h": height, "w": width, "o": outputs}, ("h", "w", None, "o", None, None, None),
                ending,
            ),
        ),
        tiled=("h", "w", "o"),
        split=split,
    )  # fmt: skip


def multiplied(
    x: View,
    y: View,
    *,
    height: int,
    width: int,
    channels: int,
    multiplier: int,
    taps: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    weights: str,
    bias: str,
    ending: Mapping[str, Any],
) -> Kernel:
    """A depthwise convolution with `multiplier` outputs for a channel; weights (kh, kw, C, m)."""
    (oy, ox, oc), (ty, tx, tc) = x.origin, y.origin
    loops = {"h": height, "w": width, "o": channels, "m": multiplier}
    dims: tuple[str | None, ...] = ("h", "w", "o", "m", None, None, None)
    sums = Access("A", (at("h"), at("w"), at("o"), at("m")))
    out = Access("Y", (at("h", offset=ty), at("w", offset=tx), at(o=multiplier, m=1, offset=tc)))
    constant = (at("o"), at("m"))
    row = at(h=strides[0], u=dilation[0], offset=oy)
    column = at(w=strides[1], v=dilation[1], offset=ox)
    return Kernel(
        name="multiplied",
        tensors={
            "X": x.tensor,
            "W": Tensor(shape=(*taps, channels, multiplier), dtype=weights),
            "S": Tensor(shape=(channels, multiplier), dtype="int8"),
            "B": Tensor(shape=(channels, multiplier), dtype=bias),
            "A": Tensor(
                shape=(height, width, channels, multiplier), dtype="int64", memory="accumulators"
            ),
            "Y": y.tensor,
        },
        stages=(
            Stage(
                name="matrix_mac",
                loops={**loops, "u": taps[0], "v": taps[1]},
                dims=("h", "w", "o", "m", "u", "v", None),
                out=sums,
                reads=(
                    Access("X", (row, column, at("o", offset=oc))),
                    Access("W", (at("u"), at("v"), at("o"), at("m"))),
                ),
                accumulates="sum",
            ),
            _ending(out, sums, Access("B", constant), Access("S", constant), loops, dims, ending),
        ),
        tiled=("h", "w", "o"),
    )


def circular(
    x: View,
    y: View,
    *,
    axis: int,
    length: int,
    others: int,
    channels: int,
    outputs: int | None = None,
    weights: str = "int16",
    bias: str = "int64",
    ending: Mapping[str, Any],
) -> Kernel:
    """A ParC along `axis` (0 rows, 1 columns) of `length`; `others` lines lie beside each other.

    Depthwise weights are (N, C); dense ones (N, C, O) where `outputs` is given. The start of the
    accumulators (N, O) depends on the place.
    """
    dense = outputs is not None
    count = channels if outputs is None else outputs
    turned = at("i", "k", offset=0, ring=length)
    lane = at("c" if dense else "o", offset=x.origin[2])
    across = at("l", offset=x.origin[1 - axis])
    if x.origin[axis]:
        raise ValueError("a ring begins where its axis begins")
    place = (turned, across, lane) if axis == 0 else (across, turned, lane)
    loops = {"i": length, "l": others, "o": count, "k": length}
    weight_index = (at("k"), at("o"))
    weight_shape: tuple[int, ...] = (length, count)
    dims: tuple[str | None, ...] = (None, "i", "l", "o", "k", None, None)
    if dense:
        loops["c"] = channels
        weight_index = (at("k"), at("c"), at("o"))  # type: ignore[assignment]
        weight_shape = (length, channels, count)
        dims = (None, "i", "l", "o", "k", None, "c")
    sums = Access("A", (at("i"), at("l"), at("o")))
    along, beside = (
        at("i", offset=y.origin[axis]),
        at("l", offset=y.origin[1 - axis]),
    )
    out_lane = at("o", offset=y.origin[2])
    out = (along, beside, out_lane) if axis == 0 else (beside, along, out_lane)
    return Kernel(
        name="parc_dense" if dense else "parc",
        tensors={
            "X": x.tensor,
            "W": Tensor(shape=weight_shape, dtype=weights),
            "S": Tensor(shape=(count,), dtype="int8"),
            "B": Tensor(shape=(length, count), dtype=bias),
            "A": Tensor(shape=(length, others, count), dtype="int64", memory="accumulators"),
            "Y": y.tensor,
        },
        stages=(
            Stage(
                name="circular_mac",
                loops=loops,
                dims=dims,
                out=sums,
                reads=(Access("X", place), Access("W", weight_index)),
                fields={"ring": length},
                accumulates="sum",
            ),
            _ending(
                Access("Y", out), sums, Access("B", (at("i"), at("o"))), Access("S", (at("o"),)),
                {"i": length, "l": others, "o": count}, (None, "i", "l", "o", None, None, None),
                ending,
            ),
        ),
        tiled=("l", "o"),
        split=("c",) if dense else (),
    )  # fmt: skip


def elementwise(
    name: str,
    operands: Mapping[str, View],
    y: View,
    *,
    extents: tuple[int, int, int],
    broadcast: Mapping[str, tuple[bool, bool, bool]] | None = None,
    table: int = 0,
    fields: Mapping[str, Any],
) -> Kernel:
    """A function of words at the same place: `name` is one of `isa.Function`, in small letters.

    Parameters
    ----------
    name : str
    operands : mapping of str to View
        "P" and, of functions of two words, "Q".
    y : View
    extents : tuple of int
        Rows, columns, channels of the result.
    broadcast : mapping of str to three bools, optional
        Along which axes an operand has one element only.
    table : int
        Words of the function's table in read-only memory.
    fields : mapping
    """
    loops = dict(zip("hwo", extents, strict=True))

    def place(view: View, held: tuple[bool, bool, bool]) -> tuple[Any, ...]:
        return tuple(
            at(offset=origin) if one else at(loop, offset=origin)
            for loop, origin, one in zip("hwo", view.origin, held, strict=True)
        )

    given = broadcast or {}
    tensors = {key: view.tensor for key, view in operands.items()}
    reads = [
        Access(key, place(view, given.get(key, (False, False, False))))
        for key, view in operands.items()
    ]
    if table:
        tensors["L"] = Tensor(shape=(table,), dtype="int32", memory="rom")
        reads.append(Access("L", (at(whole=table),)))
    return Kernel(
        name=name,
        tensors={**tensors, "Y": y.tensor},
        stages=(
            Stage(
                name=name,
                loops=loops,
                dims=("h", "w", None, "o", None, None, None),
                out=Access("Y", place(y, (False, False, False))),
                reads=tuple(reads),
                fields=fields,
            ),
        ),
        tiled=("h", "w", "o"),
    )


def rows(
    name: str,
    x: View,
    y: View,
    *,
    extents: tuple[int, int, int],
    constants: tuple[tuple[int, ...], str, str],
    fields: Mapping[str, Any],
) -> Kernel:
    """A function of whole rows of channels: layer_norm or softmax.

    `constants` are the shape, the type and the memory of what it reads besides: records of four
    words of 32 bits for each channel, or a table.
    """
    height, width, channels = extents
    loops = {"h": height, "w": width, "o": channels}
    shape, dtype, memory = constants
    return Kernel(
        name=name,
        tensors={
            "P": x.tensor,
            "L": Tensor(shape=shape, dtype=dtype, memory=memory),
            "Y": y.tensor,
        },
        stages=(
            Stage(
                name=name,
                loops=loops,
                dims=("h", "w", None, "o", None, None, None),
                out=Access(
                    "Y",
                    tuple(
                        at(loop, offset=origin)
                        for loop, origin in zip("hwo", y.origin, strict=True)
                    ),
                ),
                reads=(
                    Access(
                        "P",
                        (
                            at("h", offset=x.origin[0]),
                            at("w", offset=x.origin[1]),
                            at("o", offset=x.origin[2]),
                        ),
                    ),
                    Access("L", tuple(at(whole=extent) for extent in shape)),
                ),
                fields=fields,
            ),
        ),
        tiled=("h", "w"),
    )


def windows(
    x: View,
    y: View,
    *,
    height: int,
    width: int,
    channels: int,
    taps: tuple[int, int],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    fields: Mapping[str, Any],
) -> Kernel:
    """The largest word under every place of a window."""
    oy, ox, oc = x.origin
    ty, tx, tc = y.origin
    loops = {"h": height, "w": width, "o": channels}
    row = at(h=strides[0], u=dilation[0], offset=oy)
    column = at(w=strides[1], v=dilation[1], offset=ox)
    return Kernel(
        name="max",
        tensors={"P": x.tensor, "Y": y.tensor},
        stages=(
            Stage(
                name="max",
                loops={**loops, "u": taps[0], "v": taps[1]},
                dims=("h", "w", None, "o", "u", "v", None),
                out=Access("Y", (at("h", offset=ty), at("w", offset=tx), at("o", offset=tc))),
                reads=(Access("P", (row, column, at("o", offset=oc))),),
                fields=fields,
                accumulates="max",
            ),
        ),
        tiled=("h", "w", "o"),
    )


def mean(
    x: View, y: View, *, height: int, width: int, channels: int, ending: Mapping[str, Any]
) -> Kernel:
    """The mean over all positions of a map, to (1, 1, C)."""
    lane = at("o", offset=x.origin[2])
    sums = Access("A", (at("o"),))
    return Kernel(
        name="mean",
        tensors={
            "P": x.tensor,
            "A": Tensor(shape=(channels,), dtype="int64", memory="accumulators"),
            "Y": y.tensor,
        },
        stages=(
            Stage(
                name="sum",
                loops={"o": channels, "u": height, "v": width},
                dims=(None, None, None, "o", "u", "v", None),
                out=sums,
                reads=(
                    Access("P", (at("u", offset=x.origin[0]), at("v", offset=x.origin[1]), lane)),
                ),
                accumulates="sum",
            ),
            Stage(
                name="requantise",
                loops={"o": channels},
                dims=(None, None, None, "o", None, None, None),
                out=Access(
                    "Y",
                    (at(offset=y.origin[0]), at(offset=y.origin[1]), at("o", offset=y.origin[2])),
                ),
                reads=(sums,),
                fields=ending,
            ),
        ),
        tiled=("o",),
    )


def matrix(
    a: View, b: View, y: View, *, batch: int, lines: int, count: int, outputs: int,
    ending: Mapping[str, Any],
) -> Kernel:  # fmt: skip
    """Products of two computed matrices (batch, lines, count) and (batch, count, outputs)."""
    sums = Access("A", (at("b"), at("i"), at("o")))
    (ab, ai, ak), (bb, bk, bo), (yb, yi, yo) = a.origin, b.origin, y.origin
    return Kernel(
        name="matmul",
        tensors={
            "X": a.tensor,
            "W": b.tensor,
            "A": Tensor(shape=(batch, lines, outputs), dtype="int64", memory="accumulators"),
            "Y": y.tensor,
        },
        stages=(
            Stage(
                name="matrix_mac",
                loops={"b": batch, "i": lines, "o": outputs, "k": count},
                dims=("b", "i", None, "o", None, None, "k"),
                out=sums,
                reads=(
                    Access("X", (at("b", offset=ab), at("i", offset=ai), at("k", offset=ak))),
                    Access("W", (at("b", offset=bb), at("k", offset=bk), at("o", offset=bo))),
                ),
                accumulates="sum",
            ),
            Stage(
                name="requantise",
                loops={"b": batch, "i": lines, "o": outputs},
                dims=("b", "i", None, "o", None, None, None),
                out=Access("Y", (at("b", offset=yb), at("i", offset=yi), at("o", offset=yo))),
                reads=(sums,),
                fields=ending,
            ),
        ),
        tiled=("b", "i", "o"),
        split=("k",),
    )


def permutation(
    shape: tuple[int, ...], axes: tuple[int, ...], dtype: str, *, fields: Mapping[str, Any]
) -> Kernel:
    """A dense array with its axes in another order.

    Of more than four axes the instruction is repeated over the shortest.
    """
    names = [f"d{n}" for n in range(len(shape))]
    turned = [names[axis] for axis in axes]
    dims = [name for name in turned if shape[names.index(name)] > 1] or turned[:1]
    loops = {name: shape[names.index(name)] for name in dims}
    repeated = sorted(dims[:-1], key=loops.__getitem__)[: max(len(dims) - 4, 0)]
    dims = [name for name in dims if name not in repeated]
    slots = (*[None] * (4 - len(dims)), *dims, None, None, None, *repeated)

    def place(order: list[str]) -> tuple[Any, ...]:
        return tuple(at(name) if name in loops else at() for name in order)

    return Kernel(
        name="permute",
        tensors={
            "P": Tensor(shape=shape, dtype=dtype),
            "Y": Tensor(shape=tuple(shape[axis] for axis in axes), dtype=dtype),
        },
        stages=(
            Stage(
                name="copy",
                loops=loops,
                dims=slots,
                out=Access("Y", place(turned)),
                reads=(Access("P", place(names)),),
                fields=fields,
            ),
        ),
        tiled=tuple(dims),
    )


def fourier(
    x: View,
    y: View,
    *,
    axis: int,
    length: int,
    frames: int,
    channels: int,
    outputs: int | None = None,
    stages: tuple[tuple[int, ...], tuple[int, ...]],
    product_words: int,
    spectrum: str,
    spectrum_memory: str,
    word: str = "int32",
    biased: bool = False,
    ending: Mapping[str, Any],
) -> Kernel:
    """A ParC by transforms: neighbouring lines are the real and imaginary parts of `frames` frames.

    Forward stages, the product with the spectrum, inverse stages, and the ending; every transform
    reads what the one before it left, in place order, so that nothing is reordered.

    Parameters
    ----------
    x, y : View
        With 2 * `frames` lines beside each other along the other axis.
    axis, length, frames, channels : int
    outputs : int, optional
        Of a dense ParC, whose spectrum is (O, C, N, 2); else the spectrum is (C, N, 2).
    stages : two tuples of int
        int64 words of the table of each forward and inverse stage.
    product_words : int
        Of the product's table.
    spectrum, spectrum_memory : str
    word : str
        Type of the words on the way.
    biased : bool
        Whether a bias (O,) is added in front of the ending.
    ending : mapping
    """
    dense = outputs is not None
    count = channels if outputs is None else outputs
    tensors: dict[str, Tensor] = {"X": x.tensor}
    made: list[Stage] = []

    def words_at(view: View, lane: str, *, whole: int = 0) -> tuple[Any, ...]:
        along = at("n", offset=view.origin[axis], whole=whole)
        beside = at(f=2, p=1, offset=view.origin[1 - axis])
        channel = at(lane, offset=view.origin[2])
        return (along, beside, channel) if axis == 0 else (beside, along, channel)

    def held(name: str, lane: str, *, whole: int = 0) -> Access:
        return Access(name, (at(lane), at("f"), at("n", whole=whole), at("p")))

    def transform(name: str, source: Access, lane: str, lanes: int, size: int) -> None:
        target, table = f"V{name}", f"T{name}"
        tensors[table] = Tensor(shape=(size,), dtype="int64", memory="rom")
        tensors[target] = Tensor(shape=(lanes, frames, length, 2), dtype=word, memory="scratchpad")
        made.append(
            Stage(
                name=f"butterfly__{name}",
                loops={lane: lanes, "f": frames, "n": length, "p": 2},
                dims=(lane, "f", "n", "p", None, None, None),
                out=held(target, lane),
                reads=(source, Access(table, (at(whole=size),))),
            )
        )

    first = "c" if dense else "o"
    source = Access("X", words_at(x, first, whole=length))
    for number, size in enumerate(stages[0]):
        transform(f"F{number}", source, first, channels, size)
        source = held(f"VF{number}", first, whole=length)
    source = held(source.tensor, first)

    shape = (count, channels, length, 2) if dense else (count, length, 2)
    tensors["S"] = Tensor(shape=shape, dtype=spectrum, memory=spectrum_memory)
    tensors["P"] = Tensor(shape=(product_words,), dtype="int64", memory="rom")
    tensors["G"] = Tensor(shape=(count, frames, length, 2), dtype=word, memory="scratchpad")
    lanes = (at("o"), at("c")) if dense else (at("o"),)
    product_loops = {"o": count, "f": frames, "n": length, "p": 2}
    made.append(
        Stage(
            name="spectrum_product",
            loops={**product_loops, "c": channels} if dense else product_loops,
            dims=("o", "f", "n", "p", None, None, "c" if dense else None),
            out=held("G", "o"),
            reads=(
                Access(source.tensor, (*source.index[:3], at("p", whole=2))),
                Access("S", (*lanes, at("n"), at("p", whole=2))),
                Access("P", (at(whole=product_words),)),
            ),
            accumulates="call" if dense else "",
        )
    )
    source = held("G", "o", whole=length)
    for number, size in enumerate(stages[1]):
        transform(f"I{number}", source, "o", count, size)
        source = held(f"VI{number}", "o", whole=length)
    reads = [held(source.tensor, "o")]
    if biased:
        tensors["B"] = Tensor(shape=(count,), dtype="int64")
        reads.append(Access("B", (at("o"),)))
    made.append(
        Stage(
            name="requantise",
            loops={"o": count, "f": frames, "n": length, "p": 2},
            dims=("o", "f", "n", "p", None, None, None),
            out=Access("Y", words_at(y, "o")),
            reads=tuple(reads),
            fields={**ending, "biased": biased},
        )
    )
    tensors["Y"] = y.tensor
    return Kernel(
        name="fourier", tensors=tensors, stages=tuple(made), tiled=("f",) if dense else ("o", "f")
    )


def two_level(
    x: View,
    y: View,
    *,
    axis: int,
    n1: int,
    n2: int,
    others: int,
    channels: int,
    outputs: int | None = None,
    graphs: tuple[int, int],
    words: tuple[str, str, str, str],
    weights: str,
    biased: bool = False,
    endings: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]],
) -> Kernel:
    """A ParC of length n1 n2: real transforms of length n1, Toeplitz products of length n2, and back.

    Position p of the sums is row p + 1 (modulo n1) of the transform: its own row and that of its
    other part then lie among the three rows from p on around a ring, and the products are one
    instruction. The graph that goes back takes its inputs in that order.

    Parameters
    ----------
    x, y : View
        Place j n2 + m of the axis is place j of residue m.
    axis, n1, n2, others, channels : int
        n1 at least 2.
    outputs : int, optional
        Of a dense ParC, whose weights are (n1, 3, 2 n2 - 1, C, O); else (n1, 3, 2 n2 - 1, C).
    graphs : tuple of int
        int64 words of the tables of both graphs.
    words : tuple of str
        Types: behind the first graph, of the rows, of the columns, behind the last graph.
    weights : str
    biased : bool
        Whether a bias (n1, O), by position, is added in front of the columns.
    endings : three mappings
        Of the rows, of the columns, and of the result.
    """
    dense = outputs is not None
    count = channels if outputs is None else outputs
    lane = "c" if dense else "o"
    before, behind = {lane: channels}, {"o": count}
    inner = {"m": n2, "j": n1, "l": others}
    result: tuple[str | None, ...] = ("m", "j", "l", "o", None, None, None)

    def words_at(view: View, name: str, *, whole: int = 0) -> tuple[Any, ...]:
        factors = {"j": n2, "m": 1} if n2 > 1 else {"j": 1}
        along = at(**factors, offset=view.origin[axis], whole=whole)
        beside, channel = at("l", offset=view.origin[1 - axis]), at(name, offset=view.origin[2])
        return (along, beside, channel) if axis == 0 else (beside, along, channel)

    def held(name: str, place: str, *, whole: int = 0) -> Access:
        return Access(name, (at("m"), at("j", whole=whole), at("l"), at(place)))

    def made(dtype: str, lanes: int, memory: str = "scratchpad") -> Tensor:
        return Tensor(shape=(n2, n1, others, lanes), dtype=dtype, memory=memory)

    def graph(name: str, source: Access, place: str, lanes: Mapping[str, int], size: int) -> Stage:
        return Stage(
            name=f"graph__{name}",
            loops={**inner, **lanes},
            dims=("l", place, "j", None, None, None, None, "m"),
            out=held(f"V{name}", place),
            reads=(source, Access(f"T{name}", (at(whole=size),))),
        )

    deep: dict[str, int] = {"c": channels} if dense else {}
    shift = at(m=1, q=-1, whole=2 * n2 - 1) if n2 > 1 else at()
    lanes = (at("c"), at("o")) if dense else (at("o"),)
    columns = [Access("A", (at("m"), at("p"), at("l"), at("o")))]
    tensors = {
        "X": x.tensor,
        "TF": Tensor(shape=(graphs[0],), dtype="int64", memory="rom"),
        "VF": made(words[0], channels),
        "R": made(words[1], channels),
        "W": Tensor(
            shape=(n1, 3, 2 * n2 - 1, *((channels,) if dense else ()), count), dtype=weights
        ),
        "A": made("int64", count, "accumulators"),
        "C": made(words[2], count),
        "TI": Tensor(shape=(graphs[1],), dtype="int64", memory="rom"),
        "VI": made(words[3], count),
    }
    if biased:
        tensors["B"] = Tensor(shape=(n1, count), dtype="int64")
        columns.append(Access("B", (at("p"), at("o"))))
    tensors["Y"] = y.tensor
    return Kernel(
        name="two_level",
        tensors=tensors,
        stages=(
            graph("F", Access("X", words_at(x, lane, whole=n1 * n2)), lane, before, graphs[0]),
            Stage(
                name="requantise__rows",
                loops={**inner, **before},
                dims=("m", "j", "l", lane, None, None, None),
                out=held("R", lane),
                reads=(held("VF", lane),),
                fields=endings[0],
            ),
            Stage(
                name="circular_mac",
                loops={"m": n2, "p": n1, "l": others, **behind, "s": 3, "q": n2, **deep},
                dims=("m", "p", "l", "o", "s", "q", "c" if dense else None),
                out=columns[0],
                reads=(
                    Access("R", (at("q"), at("p", "s", ring=n1), at("l"), at(lane))),
                    Access("W", (at("p"), at("s"), shift, *lanes)),
                ),
                fields={"ring": n1},
                accumulates="sum",
            ),
            Stage(
                name="requantise__columns",
                loops={"m": n2, "p": n1, "l": others, **behind},
                dims=("m", "p", "l", "o", None, None, None),
                out=Access("C", (at("m"), at("p"), at("l"), at("o"))),
                reads=tuple(columns),
                fields={**endings[1], "biased": biased},
            ),
            graph("I", held("C", "o", whole=n1), "o", behind, graphs[1]),
            Stage(
                name="requantise",
                loops={**inner, **behind},
                dims=result,
                out=Access("Y", words_at(y, "o")),
                reads=(held("VI", "o"),),
                fields=endings[2],
            ),
        ),
        tiled=("l",) if dense else ("l", "o"),
    )
