"""How is a kernel written down: loops, vectors and accumulators, as statements of TIR?

A rule fills an `Emitter` from the top of the kernel to its end and calls `finish`:

    e = Emitter(device)
    x, y = e.parameter("x", rows * 16), e.parameter("y", rows * 16)
    with e.parallel(rows) as row:
        e.store(y, row * 16, e.load(x, row * 16, 16) * 2.0)
    func = e.finish()

Indices count elements. Vectors are the TIR types float32xN; Python floats mix with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from parc_hw.device import Device, Isa
from schedules._tvm import (
    AllocBuffer,
    AttrStmt,
    Bind,
    Broadcast,
    BufferLoad,
    BufferStore,
    Evaluate,
    FloatImm,
    For,
    ForKind,
    IfThenElse,
    IntImm,
    PrimFunc,
    Ramp,
    Shuffle,
    Stmt,
    StringImm,
    Var,
    buffer_shape,
    decl_buffer,
    dtype_of,
    lanes_of,
    stmt_seq,
    tirx,
)

__all__ = [
    "Accumulator",
    "Emitter",
    "has_fma",
    "parameter_sizes",
    "pieces",
    "transpose_square",
    "transpose_strip",
    "with_lanes",
]

Value: TypeAlias = Any  # a TIR expression, or a Python number that TIR takes for one
Buffer: TypeAlias = Any  # a TIR buffer: flat, float32


def has_fma(device: Device) -> bool:
    """Whether one vector instruction computes a * b + c with one rounding.

    Always on A64; on ARMv7-A with VFPv4; on x86-64 from level v3 on. Elsewhere LLVM would call
    libm's fmaf for every element.
    """
    if device.isa is Isa.X86_64:
        return "fma" in device.cpu_flags
    return device.isa is Isa.AARCH64 or "+vfp4" in device.features


def pieces(count: int, lanes: int) -> list[int]:
    """Widths of vectors that cover `count` elements: as many full ones as fit, then powers of two.

    >>> pieces(23, 8)
    [8, 8, 4, 2, 1]
    """
    widths = [lanes] * (count // lanes)
    rest, width = count % lanes, lanes // 2
    while rest:
        if width <= rest:
            widths.append(width)
            rest -= width
        width //= 2
    return widths


def with_lanes(dtype: str, lanes: int) -> str:
    """Name of the vector type: `with_lanes("float32", 4)` is "float32x4"."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


class Accumulator:
    """A vector that lives through a loop.

    TIR's bound variables cannot change, so each accumulator is a buffer of its own, always
    read and written whole: LLVM then keeps it in a register.
    """

    __slots__ = ("_buffer", "_emitter", "lanes")

    def __init__(self, emitter: Emitter, lanes: int, name: str) -> None:
        self._emitter = emitter
        self.lanes = lanes
        self._buffer = emitter.scratch(name, lanes)

    def get(self) -> Value:
        """Its present value, as an expression read where it is used."""
        return self._emitter.load(self._buffer, 0, self.lanes)

    def set(self, value: Value) -> None:
        """Give it a new value."""
        self._emitter.store(self._buffer, 0, value)

    def add_product(self, a: Value, b: Value) -> None:
        """Add a * b, rounded once where the device has an instruction for that."""
        self.set(self._emitter.fma(a, b, self.get()))


class Emitter:
    """Collects the statements of one kernel in order and hands out its names.

    Names are numbered within the kernel, so that building it twice gives equal functions.

    Parameters
    ----------
    device : Device
        Decides whether `fma` is one instruction or a product and a sum.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._names: Counter[str] = Counter()
        self._parameters: list[Buffer] = []
        self._blocks: list[list[Stmt]] = [[]]
        self._imports: list[str] = []  # LLVM functions that the parallel loop calls

    # ------------------------------------------------------------------ names and storage

    def _fresh(self, name: str) -> str:
        number = self._names[name]
        self._names[name] += 1
        return f"{name}_{number}" if number else name

    def parameter(self, name: str, size: int) -> Buffer:
        """Declare the next parameter: a flat float32 buffer of `size` elements."""
        buffer = decl_buffer((size,), "float32", self._fresh(name))
        self._parameters.append(buffer)
        return buffer

    def scratch(self, name: str, size: int) -> Buffer:
        """Allocate a flat float32 buffer here, private to an iteration of the parallel loop.

        One of 1 KiB or more is moved to the kernel's scratch memory; a smaller one is on the
        stack, or in registers when every access to it is at a constant index.
        """
        buffer = decl_buffer((size,), "float32", self._fresh(name))
        self.append(AllocBuffer(buffer))
        return buffer

    def accumulator(
        self, lanes: int, initial: Value | None = None, *, name: str = "acc"
    ) -> Accumulator:
        """A vector of `lanes` elements that loops may change; starts at `initial` if given."""
        accumulator = Accumulator(self, lanes, name)
        if initial is not None:
            accumulator.set(initial)
        return accumulator

    # ------------------------------------------------------------------ statements

    def append(self, statement: Stmt) -> None:
        """Add one statement at the present place."""
        self._blocks[-1].append(statement)

    @contextmanager
    def _block(self) -> Iterator[list[Stmt]]:
        block: list[Stmt] = []
        self._blocks.append(block)
        try:
            yield block
        finally:
            self._blocks.pop()

    @contextmanager
    def loop(
        self, extent: Value, *, begin: Value = 0, kind: Any = ForKind.SERIAL, name: str = "i"
    ) -> Iterator[Var]:
        """The statements inside run for `extent` values of the yielded index, from `begin`."""
        index = Var(self._fresh(name), "int32")
        with self._block() as block:
            yield index
        if block:
            body = stmt_seq(*block)
            if kind == ForKind.PARALLEL:
                for text in self._imports:
                    body = AttrStmt(_int(0), "pragma_import_llvm", StringImm(text), body)
            self.append(For(index, _int(begin), _int(extent), kind, body))

    def parallel(self, extent: int, *, name: str = "task") -> Any:
        """The kernel's one outermost loop, whose range the caller of the kernel may split."""
        return self.loop(extent, kind=ForKind.PARALLEL, name=name)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """The statements inside run only if `condition` holds."""
        with self._block() as block:
            yield
        if block:
            self.append(IfThenElse(condition, stmt_seq(*block), None))

    def branch(
        self, condition: Value, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        """The statements of one of two functions, as `condition` holds or not."""
        cases = []
        for case in (then, otherwise):
            with self._block() as block:
                case()
            cases.append(stmt_seq(*block))
        self.append(IfThenElse(condition, *cases))

    def bind(self, value: Value, name: str = "v") -> Value:
        """Compute `value` once, here; the result stands for it from now on.

        A float value is kept like an accumulator and not as a bound variable: TVM's simplifier
        replaces variables by their values wherever they occur, so that its time doubles with
        every step of a chain that uses a value twice. A Python number stands for itself.
        """
        if isinstance(value, (int, float)):
            return value
        dtype = dtype_of(value)
        if dtype.startswith("float"):
            return self.accumulator(lanes_of(value), value, name=name).get()
        variable = Var(self._fresh(name), dtype)
        self.append(Bind(variable, value))
        return variable

    def store(self, buffer: Buffer, at: Value, value: Value) -> None:
        """Write all lanes of `value` to consecutive elements from `at`."""
        lanes = lanes_of(value)
        self.append(BufferStore(buffer, value, [_at(at, lanes)]))

    def fetch(self, buffer: Buffer, at: Value, *, write: bool = False) -> None:
        """Ask for the cache line of element `at`, to be read or written soon, into the L2 cache."""
        arguments = [_address(buffer, at), int(write), 2, 1]  # 2: not nearest; 1: data
        self.append(Evaluate(tirx.call_intrin("void", "tirx.prefetch", *arguments)))

    def stream(self, buffer: Buffer, at: Value, value: Value) -> None:
        """`store` past the caches; only where `is_aligned` and `at` say that vectors are aligned."""
        lanes = lanes_of(value)
        name = f"parc_stream_{lanes}"
        self._import(_STREAM.format(name=name, lanes=lanes, bytes=4 * lanes))
        call = tirx.call_extern("int32", name, _address(buffer, at), value)
        self.append(Evaluate(call))

    def _import(self, text: str) -> None:
        if text not in self._imports:
            self._imports.append(text)

    # ------------------------------------------------------------------ expressions

    def is_aligned(self, buffer: Buffer, count: int) -> Value:
        """Whether the first element of `buffer` is at a multiple of `count` bytes, a condition."""
        name = f"parc_is_aligned_{count}"
        self._import(_IS_ALIGNED.format(name=name, mask=count - 1))
        return tirx.call_extern("int32", name, _address(buffer, 0)) != 0

    def load(self, buffer: Buffer, at: Value, lanes: int) -> Value:
        """`lanes` consecutive elements from `at`."""
        return BufferLoad(buffer, [_at(at, lanes)])

    def load_all(self, buffer: Buffer, at: Value, lanes: int) -> Value:
        """The one element at `at`, in every lane."""
        return self.splat(BufferLoad(buffer, [_int(at)]), lanes)

    def load_each(self, buffer: Buffer, at: Value, lanes: int, times: int) -> Value:
        """`lanes // times` consecutive elements from `at`, each in `times` lanes side by side."""
        if times == 1:
            return self.load(buffer, at, lanes)
        if times == lanes:
            return self.load_all(buffer, at, lanes)
        # TVM wants no more results than elements, so the vector is given several times.
        vector = self.bind(self.load(buffer, at, lanes // times))
        return Shuffle([vector] * times, [lane // times for lane in range(lanes)])

    def every(self, vectors: Sequence[Value], first: int) -> Value:
        """Elements first, first + m, first + 2 m, ... of m vectors side by side, m = len(vectors)."""
        lanes, count = lanes_of(vectors[0]), len(vectors)
        if lanes == 1 or count == 1:
            return vectors[first]
        return Shuffle(list(vectors), [i * count + first for i in range(lanes)])

    def splat(self, value: Value, lanes: int) -> Value:
        """`value`, a scalar expression or a number, in every lane."""
        scalar = FloatImm("float32", float(value)) if isinstance(value, (int, float)) else value
        return scalar if lanes == 1 else Broadcast(scalar, lanes)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the device has an instruction for that.

        Numbers among the operands are taken for vectors of the others' width.
        """
        lanes = next(lanes_of(v) for v in (a, b, c) if not isinstance(v, (int, float)))
        a, b, c = (self.splat(v, lanes) if isinstance(v, (int, float)) else v for v in (a, b, c))
        return tirx.op.fma(a, b, c) if has_fma(self.device) else a * b + c

    def lanes(self, value: Value) -> int:
        """How many elements `value` holds: 1 for a scalar."""
        return lanes_of(value)

    def like(self, number: float, value: Value) -> Value:
        """`number` in as many lanes as `value` has."""
        return self.splat(number, lanes_of(value))

    def part(self, value: Value, first: int, lanes: int) -> Value:
        """Lanes `first` to `first + lanes` of `value`."""
        if first == 0 and lanes == lanes_of(value):
            return value
        return Shuffle([value], list(range(first, first + lanes)))

    def fold_lanes(self, value: Value, combine: Callable[[Value, Value], Value]) -> Value:
        """All lanes combined, by halves: always the same order. Bound, scalar."""
        lanes = lanes_of(value)
        value = self.bind(value)
        while lanes > 1:
            lanes //= 2
            value = self.bind(combine(self.part(value, 0, lanes), self.part(value, lanes, lanes)))
        return value

    def polynomial(self, coefficients: Sequence[float], x: Value) -> Value:
        """sum c[i] x**i by Horner's rule, each step bound."""
        value = self.like(coefficients[-1], x)
        for c in reversed(coefficients[:-1]):
            value = self.bind(self.fma(value, x, c))
        return value

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller, lane by lane."""
        return tirx.min(a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger, lane by lane."""
        return tirx.max(a, b)

    # ------------------------------------------------------------------ end

    def finish(self) -> PrimFunc:
        """The kernel; its parameters do not overlap in memory."""
        (block,) = self._blocks
        return PrimFunc(self._parameters, stmt_seq(*block)).with_attr("tirx.noalias", True)


def transpose_strip(e: Emitter, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square, or of 4, 8, 16, ... rows of four elements. Bound.

    Of four columns, the rows i, i + 4, i + 8, ... come side by side: what is left moves nothing
    between the fours of a vector, in two steps. Where rows are in memory, x86-64 loads them into
    parts of a vector where it adds, too, and half as many instructions need the one unit of shuffles
    as in `transpose_square`.
    """
    if lanes_of(rows[0]) != 4:
        return transpose_square(e, rows)
    height = len(rows)

    def shuffled(a: Value, b: Value, order: Sequence[int]) -> Value:
        """In every four: `order`, of which 4 to 7 are those of `b`."""
        chosen = [k + j + (height - 4 if j > 3 else 0) for k in range(0, height, 4) for j in order]
        return e.bind(Shuffle([a, b], chosen))

    fours = [
        e.bind(Shuffle([rows[i + k] for k in range(0, height, 4)], list(range(height))))
        for i in range(4)
    ]
    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    pairs = [shuffled(fours[i], fours[i + 1], order) for i in (0, 2) for order in (low, high)]
    low, high = (0, 1, 4, 5), (2, 3, 6, 7)
    return [shuffled(pairs[i], pairs[i + 2], order) for i in (0, 1) for order in (low, high)]


def transpose_square(e: Emitter, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square: as many vectors as each has lanes, a power of two. Bound.

    Exchanges halves of pairs of rows, then quarters, down to single elements.
    """
    values = [e.bind(row) for row in rows]
    side = len(values)
    half = side // 2
    while half:
        lanes = range(side)
        low = [j if not j & half else side + j - half for j in lanes]
        high = [j + half if not j & half else side + j for j in lanes]
        for i in range(side):
            if not i & half:
                a, b = values[i], values[i + half]
                values[i], values[i + half] = (
                    e.bind(Shuffle([a, b], low)),
                    e.bind(Shuffle([a, b], high)),
                )
        half //= 2
    return values


def _int(value: Value) -> Value:
    return IntImm("int32", int(value)) if isinstance(value, (int, np.integer)) else value


def _at(index: Value, lanes: int) -> Value:
    index = _int(index)
    return index if lanes == 1 else Ramp(index, IntImm("int32", 1), lanes)


def _address(buffer: Buffer, at: Value) -> Value:
    return tirx.address_of(BufferLoad(buffer, [_int(at)]))


# TIR has no non-temporal store and no arithmetic with addresses.
_STREAM = """define linkonce_odr i32 @{name}(ptr %p, <{lanes} x float> %v) alwaysinline {{
  store <{lanes} x float> %v, ptr %p, align {bytes}, !nontemporal !0
  ret i32 0
}}
!0 = !{{i32 1}}
"""
_IS_ALIGNED = """define linkonce_odr i32 @{name}(ptr %p) alwaysinline {{
  %address = ptrtoint ptr %p to i64
  %rest = and i64 %address, {mask}
  %aligned = icmp eq i64 %rest, 0
  %result = zext i1 %aligned to i32
  ret i32 %result
}}
"""


def parameter_sizes(func: PrimFunc) -> tuple[int, ...]:
    """Elements of each buffer parameter of `func`, in order."""
    return tuple(int(np.prod(buffer_shape(buffer))) for buffer in func.params)
