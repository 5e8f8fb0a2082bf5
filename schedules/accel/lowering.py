"""How does a scheduled function become a stream of copies and instructions?

TVM lowers the schedule (buffers compacted, double buffers made by its software pipeline, indices
flat). What is left are loops, copies between memories as nests of stores, and the calls that the
tensor intrinsics put in place of loop nests. `unfold` translates that into a Python function and
runs it, so that every address is a number; what comes out are `Copy` and `Call` in program order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from parc_hw.errors import UnsupportedError
from schedules._tvm import (
    AllocBuffer,
    AttrStmt,
    BufferStore,
    DeclBuffer,
    Evaluate,
    For,
    IfThenElse,
    IntImm,
    IRModule,
    SeqStmt,
    StringImm,
    TensorLoad,
    Var,
    buffer_dtype,
    buffer_scope,
    buffer_shape,
    s_tir,
    tirx,
)
from schedules._tvm import (
    Call as TirCall,
)

__all__ = ["ACCUMULATORS", "SCRATCHPAD", "Address", "Buffer", "Call", "Copy", "Lowered", "lower"]

SCRATCHPAD = "global.spm"
ACCUMULATORS = "global.acc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """One buffer of a lowered function.

    Attributes
    ----------
    name : str
    scope : str
        `SCRATCHPAD`, `ACCUMULATORS`, or "global" for the external memory.
    elements : int
        All versions of it.
    versions : int
        2 for a double buffer.
    dtype : str
    """

    name: str
    scope: str
    elements: int
    versions: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Address:
    """Element `offset` of a buffer."""

    buffer: str
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Elements moved between memories: `extents` times, with strides in elements on either side.

    The outermost extent comes first; the innermost strides are the elements' own.
    """

    target: Address
    source: Address
    extents: tuple[int, ...]
    target_strides: tuple[int, ...]
    source_strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An instruction that a tensor intrinsic stands for, or a fill (`name` "fill")."""

    name: str
    arguments: tuple[Address | int | str, ...]


Step: TypeAlias = Copy | Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """A function ready for code generation.

    Attributes
    ----------
    buffers : mapping
        By name; parameters first, in order.
    text : str
        The Python function that makes the steps, for reading.
    """

    buffers: dict[str, Buffer]
    parameters: tuple[str, ...]
    text: str
    _run: Callable[[Any], None]

    def steps(self) -> list[Step]:
        """The copies and calls in program order."""
        found: list[Step] = []
        self._run(_Collector(found.append))
        return found


_BEFORE = (
    s_tir.transform.CanonicalizeLoop,
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.CompactBufferAllocation,
    s_tir.transform.LowerMatchBuffer,
    s_tir.transform.StmtSimplify,
)
_AFTER = (
    s_tir.transform.InjectSoftwarePipeline,
    s_tir.transform.LowerOpaqueBlock,
    tirx.transform.FlattenBuffer,
    tirx.transform.StmtSimplify,
    tirx.transform.RemoveNoOp,
)


def lower(module: IRModule, name: str) -> Lowered:
    """Lower the function `name` and translate it.

    Raises
    ------
    UnsupportedError
        The schedule left something that is neither a copy nor an instruction: says what.
    """
    for make in _BEFORE:
        module = make()(module)
    sizes = _sizes(module[name])
    for make in _AFTER:
        module = make()(module)
    function = module[name]
    writer = _Writer(sizes)
    writer.parameters(function)
    writer.statement(function.body, 1)
    text = "\n".join(["def program(machine):", *writer.lines, "    return None"])
    scope: dict[str, Any] = {"Address": Address}
    exec(compile(text, f"<{name}>", "exec"), scope)  # our own text, from our own schedule
    return Lowered(
        buffers=writer.buffers,
        parameters=tuple(str(p.name) for p in function.params),
        text=text,
        _run=scope["program"],
    )


def _sizes(function: Any) -> dict[str, int]:
    """Elements of every buffer that a block allocates, before there are versions of it."""
    from schedules._tvm import walk

    found: dict[str, int] = {}

    def note(block: Any) -> None:
        for buffer in block.alloc_buffers:
            size = 1
            for extent in buffer_shape(buffer):
                size *= extent
            found[str(buffer.name)] = size

    walk(function.body, s_tir.SBlock, note)
    return found


class _Collector:
    """What the translated function calls."""

    def __init__(self, add: Callable[[Step], None]) -> None:
        self._add = add

    def copy(
        self, target: Address, source: Address, extents: Any, target_strides: Any, strides: Any
    ) -> None:
        self._add(
            Copy(
                target=target,
                source=source,
                extents=extents,
                target_strides=target_strides,
                source_strides=strides,
            )
        )

    def call(self, name: str, *arguments: Any) -> None:
        self._add(Call(name=name, arguments=arguments))


_INFIX = {
    "Add": "+", "Sub": "-", "Mul": "*", "FloorDiv": "//", "FloorMod": "%",
    "Div": "//", "Mod": "%", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==",
    "NE": "!=", "And": "and", "Or": "or",
}  # fmt: skip


class _Writer:
    """Translates statements into lines of Python."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.lines: list[str] = []
        self.buffers: dict[str, Buffer] = {}
        self._sizes = sizes
        self._names: dict[Any, str] = {}
        self._loops = 0

    def parameters(self, function: Any) -> None:
        for parameter in function.params:
            self._note(parameter)

    def _note(self, buffer: Any) -> None:
        name = str(buffer.name)
        elements = 1
        for extent in buffer_shape(buffer):
            elements *= extent
        if name in self.buffers:  # a pipeline copies what a loop allocates into all its parts
            elements = max(elements, self.buffers[name].elements)
        self.buffers[name] = Buffer(
            name=name,
            scope=buffer_scope(buffer),
            elements=elements,
            versions=max(1, elements // self._sizes.get(name, elements)),
            dtype=str(buffer_dtype(buffer)),
        )
        self._names[name] = name

    def _line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def statement(self, s: Any, depth: int) -> None:
        if isinstance(s, SeqStmt):
            for part in s.seq:
                self.statement(part, depth)
        elif isinstance(s, AllocBuffer):
            self._note(s.buffer)
            body = getattr(s, "body", None)
            if body is not None:
                self.statement(body, depth)
        elif isinstance(s, DeclBuffer):
            self._alias(s)
            body = getattr(s, "body", None)
            if body is not None:
                self.statement(body, depth)
        elif isinstance(s, AttrStmt):
            self.statement(s.body, depth)
        elif type(s).__name__ == "Bind":
            if "Buffer" in type(s.var.ty).__name__:
                self._names[str(s.var.name)] = self._origin(s.value)
            else:
                self._line(depth, f"{_name(s.var)} = {self.expression(s.value)}")
        elif isinstance(s, For):
            nest = _copy_nest(s)
            if nest is not None:
                self._copy(*nest, depth)
                return
            begin = self.expression(s.min)
            self._line(
                depth,
                f"for {_name(s.loop_var)} in range({begin}, {begin} + {self.expression(s.extent)}):",
            )
            self.statement(s.body, depth + 1)
        elif isinstance(s, IfThenElse):
            self._line(depth, f"if {self.expression(s.condition)}:")
            self.statement(s.then_case, depth + 1)
            if s.else_case is not None:
                self._line(depth, "else:")
                self.statement(s.else_case, depth + 1)
        elif isinstance(s, BufferStore):
            self._copy([], s, depth)
        elif isinstance(s, Evaluate) and isinstance(s.value, TirCall):
            self._call(s.value, depth)
        elif isinstance(s, Evaluate):
            return
        else:
            raise UnsupportedError(f"a schedule left a statement {type(s).__name__}: {s}")

    def _alias(self, s: Any) -> None:
        self._names[str(s.buffer.name)] = self._origin(s.data)

    def _origin(self, data: Any) -> str:
        """The buffer behind a view of it."""
        for attribute in ("name",):
            name = getattr(data, attribute, None)
            if name is not None and str(name) in self._names:
                return self._names[str(name)]
        if isinstance(data, TirCall):
            return self._origin(data.args[0])
        for attribute in ("source", "buffer", "value"):
            inner = getattr(data, attribute, None)
            if inner is not None:
                return self._origin(inner)
        raise UnsupportedError(f"a schedule reads through {data}, whose buffer is unknown.")

    def _buffer(self, buffer: Any) -> str:
        name = str(buffer.name)
        if name not in self._names:
            raise UnsupportedError(f"a schedule uses the buffer {name} before it is made.")
        return self._names[name]

    def _copy(self, loops: list[Any], store: Any, depth: int) -> None:
        value = store.value
        variables = [_name(loop.loop_var) for loop in loops]
        extents = tuple(int(loop.extent) for loop in loops)
        target = self._place(store.buffer, store.indices[0], variables, extents)
        if isinstance(value, (IntImm,)) or type(value).__name__ == "IntImm":
            self._line(
                depth,
                f"machine.call('fill', {target[0]}, {int(value)}, {extents!r}, {target[1]!r})",
            )
            return
        if not _is_load(value):
            raise UnsupportedError(
                f"a schedule left arithmetic that is no instruction: {store.buffer.name} = {value}"
            )
        buffer, index = _load_parts(value)
        source = self._place(buffer, index, variables, extents)
        self._line(
            depth,
            f"machine.copy({target[0]}, {source[0]}, {extents!r}, {target[1]!r}, {source[1]!r})",
        )

    def _place(
        self, buffer: Any, index: Any, variables: list[str], extents: tuple[int, ...]
    ) -> tuple[str, tuple[int, ...]]:
        """The address at the loops' beginning, as text, and the strides along the loops."""
        text = self.expression(index)
        strides = []
        function = _function(text, variables)
        zeros = dict.fromkeys(variables, 0)
        begin = function(zeros)
        for variable, extent in zip(variables, extents, strict=True):
            step = function({**zeros, variable: 1}) - begin
            if function({**zeros, variable: extent - 1}) - begin != step * (extent - 1):
                raise UnsupportedError(f"the address {text} is not affine in {variable}.")
            strides.append(step)
        at = text
        if variables:
            at = f"(lambda {', '.join(f'{v}=0' for v in variables)}: {text})()"
        return f"Address({self._buffer(buffer)!r}, {at})", tuple(strides)

    def _call(self, call: Any, depth: int) -> None:
        if call.op.name != "tirx.call_extern":
            raise UnsupportedError(f"a schedule calls {call.op.name}, which is no instruction.")
        name, *arguments = call.args
        shown = [repr(str(name.value))]
        for argument in arguments:
            if isinstance(argument, TirCall) and argument.op.name == "tirx.tvm_access_ptr":
                _, data, offset, _, _ = argument.args
                buffer = self._origin(data)
                shown.append(f"Address({buffer!r}, {self.expression(offset)})")
            elif isinstance(argument, StringImm):
                shown.append(repr(str(argument.value)))
            else:
                shown.append(self.expression(argument))
        self._line(depth, f"machine.call({', '.join(shown)})")

    def expression(self, e: Any) -> str:
        """An integer expression as Python."""
        if isinstance(e, int):
            return str(e)
        if isinstance(e, IntImm):
            return str(int(e.value))
        if isinstance(e, Var):
            return _name(e)
        kind = type(e).__name__
        if kind in _INFIX:
            return f"({self.expression(e.a)} {_INFIX[kind]} {self.expression(e.b)})"
        if kind in ("Min", "Max"):
            return f"{kind.lower()}({self.expression(e.a)}, {self.expression(e.b)})"
        if kind == "Cast":
            return self.expression(e.value)
        if kind == "Not":
            return f"(not {self.expression(e.a)})"
        if kind == "Call" and e.op.name in ("tirx.shift_left", "tirx.shift_right"):
            sign = "<<" if e.op.name.endswith("left") else ">>"
            return f"({self.expression(e.args[0])} {sign} {self.expression(e.args[1])})"
        if kind == "Call" and e.op.name == "tirx.bitwise_and":
            return f"({self.expression(e.args[0])} & {self.expression(e.args[1])})"
        raise UnsupportedError(f"an address uses {kind}: {e}")


def _name(variable: Any) -> str:
    return "v_" + "".join(c if c.isalnum() else "_" for c in str(variable.name))


def _function(text: str, variables: list[str]) -> Callable[[dict[str, int]], int]:
    """`text` as a function of `variables`; every other name in it counts as 0."""
    code = compile(text, "<address>", "eval")
    others = {name: 0 for name in code.co_names if name not in variables}

    def value(given: dict[str, int]) -> int:
        return int(eval(code, {**others, **given}))  # our own text

    return value


def _is_load(value: Any) -> bool:
    return isinstance(value, TensorLoad)


def _load_parts(value: Any) -> tuple[Any, Any]:
    buffer = value.buffer if hasattr(value, "buffer") else value.source
    return buffer, value.indices[0]


def _copy_nest(loop: Any) -> tuple[list[Any], Any] | None:
    """The loops and the store, where a nest holds nothing but one store."""
    loops = []
    s = loop
    while isinstance(s, For):
        loops.append(s)
        s = s.body
    return (loops, s) if isinstance(s, BufferStore) else None


def flat(steps: list[Step]) -> Iterator[str]:
    """The steps as lines, for reading."""
    for step in steps:
        yield str(step)
