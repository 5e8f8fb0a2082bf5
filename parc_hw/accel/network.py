"""How does a quantised network become one program, with every word's place in external memory?

Words lie channels last, with the border of zeros that the convolutions reading them need; slices
of channels and concatenations are places inside an array, and cost nothing. A layer that the
machine has no instruction for becomes a host step of the program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.modes import rounding_code
from parc_hw import isa
from parc_hw.accel.codegen import Place, generate, place_buffers
from parc_hw.accel.container import MOST_EXTERNAL, Program
from parc_hw.accel.description import Description
from parc_hw.accel.layers import (
    Map,
    OnHost,
    Work,
    border_of,
    copy_work,
    cut_work,
    dtype_of,
    lower_layer,
    permute_work,
)
from parc_hw.accel.scheduled import Schedules
from parc_hw.errors import UnsupportedError
from schedules.accel.kernel import WORD_BYTES
from schedules.accel.operators import View

if TYPE_CHECKING:
    from parc_hw.integer.execute import Prepared
    from parc_hw.integer.model import IntegerModel

__all__ = [
    "HOST_WORDS_PER_CYCLE",
    "Compiled",
    "CompiledLayer",
    "compile_network",
    "host_functions",
    "words_of",
]

_ALIGNMENT = 64  # of arrays in external memory: a burst
HOST_WORDS_PER_CYCLE = 1.0
"""What the host is taken to compute, in multiply-accumulates or words per cycle of the machine."""

_BUFFERS = {"int8": np.int8, "int16": np.int16}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledLayer:
    """What became of one layer.

    Attributes
    ----------
    number : int
        Of the network's layers; the tag of its instructions.
    name, kind : str
    where : {"machine", "host", "nothing"}
        "nothing": its words are already where they belong.
    reason : str
        Why it runs on the host.
    tiling : str
    macs, words : int
        Multiply-accumulates, and words of the result.
    external_bytes : int
        Of operands, constants and results, each once: what must move in any case.
    host_cycles : int
        Estimated, of a host step.
    instructions : int
    bits : tuple of int
        Of the factors of its products.
    elements : mapping of str to int
        What the vector unit computes, by function.
    """

    number: int
    name: str
    kind: str
    where: str
    reason: str = ""
    tiling: str = ""
    macs: int = 0
    words: int = 0
    external_bytes: int = 0
    host_cycles: int = 0
    instructions: int = 0
    bits: tuple[int, int] = (8, 8)
    elements: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A network as a program.

    Attributes
    ----------
    program : Program
    layers : tuple of CompiledLayer
    input, output : Map
    host : mapping of int to (operands, result)
        The maps that each host step reads and writes, by layer.
    """

    program: Program
    layers: tuple[CompiledLayer, ...]
    input: Map
    output: Map
    host: Mapping[int, tuple[tuple[Map, ...], Map]] = field(default_factory=dict)


def words_of(memory: NDArray[np.uint8], place: Map) -> NDArray[Any]:
    """The words of a map in external memory, as a view (rows, columns, channels)."""
    view = place.view
    dtype = _BUFFERS[view.dtype]
    size = math.prod(view.shape) * WORD_BYTES[view.dtype]
    array = memory[place.base : place.base + size].view(dtype).reshape(view.shape)
    (r, c, k), (rows, columns, channels) = view.origin, place.extents
    return array[r : r + rows, c : c + columns, k : k + channels]


def compile_network(
    model: IntegerModel,
    machine: Description,
    *,
    schedules: Schedules | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Compiled:
    """Compile a quantised model, batch 1.

    Parameters
    ----------
    model : IntegerModel
    machine : Description
    schedules : Schedules, optional
        Where tilings come from; by default the best by estimate.
    progress : callable, optional
        Receives a layer's name, its number and how many there are.

    Raises
    ------
    UnsupportedError
        A layer that fits no tile of the machine, or more external memory than addresses reach.
    """
    return _Builder(model, machine, schedules or Schedules(machine), progress).run()


def host_functions(
    compiled: Compiled, model: IntegerModel
) -> dict[int, Callable[[NDArray[np.uint8]], None]]:
    """What the host's steps compute, from the layers themselves."""

    def step(number: int) -> Callable[[NDArray[np.uint8]], None]:
        operands, result = compiled.host[number]
        prepared = model.layers[number]
        shapes = [
            model.layers[used].layer.shape or (1, *place.extents)
            for used, place in zip(prepared.layer.inputs, operands, strict=True)
        ]

        def compute(memory: NDArray[np.uint8]) -> None:
            values = [
                np.ascontiguousarray(words_of(memory, place), np.int32).reshape(shape)
                for place, shape in zip(operands, shapes, strict=True)
            ]
            words_of(memory, result)[...] = prepared.run(values).reshape(result.extents)

        return compute

    return {number: step(number) for number in compiled.host}


@dataclass
class _Array:
    """One array of external memory before it has a place."""

    shape: tuple[int, int, int]  # without border
    dtype: str
    border: list[int]  # top, left, bottom, right
    base: int = -1

    @property
    def whole(self) -> tuple[int, int, int]:
        top, left, bottom, right = self.border
        return self.shape[0] + top + bottom, self.shape[1] + left + right, self.shape[2]


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a layer's words are: an array, and which part of it."""

    array: int
    origin: tuple[int, int, int]
    extents: tuple[int, int, int]


class _Builder:
    def __init__(
        self, model: IntegerModel, machine: Description, schedules: Schedules, progress: Any
    ) -> None:
        self.model, self.machine, self.schedules = model, machine, schedules
        self.progress = progress
        self.prepared = model.layers
        self.arrays: list[_Array] = []
        self.parts: dict[int, _Part] = {}
        self.users: dict[int, list[int]] = {}
        for number, each in enumerate(self.prepared):
            for used in each.layer.inputs:
                self.users.setdefault(used, []).append(number)
        self.users.setdefault(model.network.output, []).append(-1)
        self.placed_in: dict[int, tuple[int, int]] = {}  # into which concatenation, at which word
        self.done: list[CompiledLayer] = []
        self.instructions: list[isa.Instruction] = []
        self.constants: list[tuple[int, bytes]] = []
        self.rom = bytearray()
        self.tables: dict[bytes, int] = {}
        self.end = 0
        self.next_scratchpad = self.next_sums = 0

    # -- where words are -------------------------------------------------------------------------
    def run(self) -> Compiled:
        self.plan()
        for array in self.arrays:
            array.base = self.reserve(math.prod(array.whole) * WORD_BYTES[array.dtype])
        self.external_words = self.end
        host: dict[int, tuple[tuple[Map, ...], Map]] = {}
        for number in range(len(self.prepared)):
            layer = self.prepared[number].layer
            if self.progress is not None:
                self.progress(layer.name, number, len(self.prepared))
            self.layer(number, host)
        if self.end > MOST_EXTERNAL:
            raise UnsupportedError(
                f"{self.model.network.name} needs {self.end} bytes of external memory, and "
                f"addresses reach {MOST_EXTERNAL}. Compile it for a smaller input."
            )
        from parc_hw.accel.dependencies import roll, synchronise

        program = Program(
            instructions=tuple(roll(synchronise(self.instructions))),
            description_hash=self.machine.hash,
            external_bytes=_up(self.end),
            rom=bytes(self.rom),
            constants=tuple(self.constants),
            metadata={"model": self.model.network.name},
        )
        return Compiled(
            program=program,
            layers=tuple(self.done),
            input=self.map(0),
            output=self.map(self.model.network.output),
            host=host,
        )

    def plan(self) -> None:
        """Give every layer's words a part of an array, borders included."""
        concatenations = [n for n, each in enumerate(self.prepared) if each.layer.kind == "concat"]
        for number in concatenations:
            self.join(number)
        for number in range(len(self.prepared)):
            if number not in self.parts:
                self.parts[number] = self.part_of(number)
        for each in self.prepared:
            border = border_of(each)
            for used in each.layer.inputs:
                array = self.arrays[self.parts[used].array]
                array.border = [max(a, b) for a, b in zip(array.border, border, strict=True)]

    def join(self, number: int) -> None:
        """Let the operands of a concatenation of channels be written where they belong."""
        each = self.prepared[number]
        layer = each.layer
        extents = [_extents(self.prepared[used].layer.shape) for used in layer.inputs]
        if layer.attrs["axis"] != len(layer.shape) - 1:
            return
        at = 0
        for used, (_, _, channels) in zip(layer.inputs, extents, strict=True):
            operand = self.prepared[used]
            fits = (
                self.users[used] == [number]
                and operand.layer.kind not in ("input", "concat", "slice", "reshape", "permute")
                and operand.format == each.format
            )
            if fits:
                self.placed_in[used] = (number, at)
            at += channels

    def part_of(self, number: int) -> _Part:
        each = self.prepared[number]
        layer = each.layer
        extents = _extents(layer.shape)
        if number in self.placed_in:
            whole, at = self.placed_in[number]
            if whole not in self.parts:
                self.parts[whole] = self.new(whole)
            part = self.parts[whole]
            r, c, k = part.origin
            return _Part(part.array, (r, c, k + at), extents)
        if layer.kind == "slice" and (cut := _simple_slice(layer)) is not None:
            part = self.parts[layer.inputs[0]]
            origin = tuple(a + b for a, b in zip(part.origin, cut, strict=True))
            return _Part(part.array, origin, extents)  # type: ignore[arg-type]
        if layer.kind == "reshape":
            # Only where no border will come between: nobody who reads either has one.
            part = self.parts[layer.inputs[0]]
            source = self.arrays[part.array]
            if part.extents == source.shape and self.unbordered(layer.inputs[0], number):
                self.arrays.append(
                    _Array(extents, source.dtype, [0, 0, 0, 0], base=-2 - part.array)
                )
                return _Part(len(self.arrays) - 1, (0, 0, 0), extents)
        return self.new(number)

    def unbordered(self, source: int, number: int) -> bool:
        readers = [*self.family(source), *self.family(number)]
        return not any(any(border_of(self.prepared[n])) for n in readers if n >= 0)

    def family(self, number: int) -> list[int]:
        """Layers that read a value or what only renames it."""
        found = []
        for user in self.users.get(number, []):
            found.append(user)
            if user >= 0 and self.prepared[user].layer.kind in ("slice", "reshape", "concat"):
                found += self.family(user)
        return found

    def new(self, number: int) -> _Part:
        each = self.prepared[number]
        dtype = dtype_of(each.format)
        if dtype is None:
            raise UnsupportedError(
                f"{each.layer.name}: words of {each.format} have more than the 16 bits that the "
                f"accelerator's units take. Compile with --dtype int8 or int16."
            )
        extents = _extents(each.layer.shape)
        self.arrays.append(_Array(extents, dtype, [0, 0, 0, 0]))
        return _Part(len(self.arrays) - 1, (0, 0, 0), extents)

    def reserve(self, size: int) -> int:
        begin = _up(self.end)
        self.end = begin + size
        return begin

    def base(self, array: _Array) -> int:
        while array.base <= -2:
            array = self.arrays[-2 - array.base]
        return array.base

    def map(self, number: int) -> Map:
        part = self.parts[number]
        array = self.arrays[part.array]
        top, left, _, _ = array.border
        r, c, k = part.origin
        return Map(
            base=self.base(array),
            view=View(shape=array.whole, origin=(r + top, c + left, k), dtype=array.dtype),
            extents=part.extents,
            format=self.prepared[number].format,
        )

    # -- one layer after the other ---------------------------------------------------------------
    def layer(self, number: int, host: dict[int, Any]) -> None:
        each = self.prepared[number]
        layer = each.layer
        common: dict[str, Any] = {
            "number": number,
            "name": layer.name,
            "kind": layer.kind,
            "macs": layer.macs,
            "words": math.prod(layer.shape),
        }
        works = self.works(number)
        if isinstance(works, OnHost):
            operands = tuple(self.map(used) for used in layer.inputs)
            host[number] = (operands, self.map(number))
            cycles = self.host_cycles(each)
            self.instructions.append(isa.host(number, cycles, tag=number))
            moved = sum(_words_bytes(m) for m in (*operands, self.map(number)))
            self.done.append(
                CompiledLayer(
                    where="host", reason=works.reason, host_cycles=cycles, instructions=1,
                    external_bytes=moved, **common,
                )
            )  # fmt: skip
            return
        if not works:
            self.done.append(CompiledLayer(where="nothing", **common))
            return
        before = len(self.instructions)
        tilings, moved = [], 0
        elements: dict[str, int] = {}
        for work in works:
            tiling, size = self.emit(work, number)
            tilings.append(tiling)
            moved += size
            for stage in work.kernel.stages:
                if not stage.name.endswith("_mac"):
                    count = math.prod(stage.loops.values())
                    elements[stage.name] = elements.get(stage.name, 0) + count
                else:
                    common["bits"] = tuple(
                        8 * WORD_BYTES[work.kernel.tensors[read.tensor].dtype]
                        for read in stage.reads
                    )
        self.done.append(
            CompiledLayer(
                where="machine",
                tiling="; ".join(tilings),
                elements=elements,
                external_bytes=moved,
                instructions=len(self.instructions) - before,
                **common,
            )
        )

    def host_cycles(self, each: Prepared) -> int:
        layer = each.layer
        work = layer.macs + math.prod(layer.shape)
        work += sum(math.prod(self.prepared[used].layer.shape) for used in layer.inputs)
        return max(1, round(work / HOST_WORDS_PER_CYCLE))

    def works(self, number: int) -> list[Work] | OnHost:
        each = self.prepared[number]
        layer = each.layer
        if layer.kind == "input":
            return []
        operands = [self.map(used) for used in layer.inputs]
        result = self.map(number)
        rounding = self.model.datapath.rounding
        ends = {
            "lo": each.format.min_raw, "hi": each.format.max_raw,
            "rounding": rounding_code(rounding),
        }  # fmt: skip
        if layer.kind == "slice":
            if _simple_slice(layer) is not None:
                return []
            shape = self.prepared[layer.inputs[0]].layer.shape
            work = cut_work(operands[0], result, shape, layer.attrs["index"], ends)
            return [work] if isinstance(work, Work) else work
        if layer.kind == "reshape":
            x = operands[0]
            if result.base == x.base:
                return []
            if x.is_dense and result.is_dense:
                flat = replace(x, extents=result.extents, view=result.view)
                return [copy_work(flat, result, ends)]
            if result.is_dense:  # out of its border first: a reshape keeps the order of words
                return [self.gather(x, result, ends)]
            return OnHost("its words lie apart in memory")
        if layer.kind == "permute":
            shape = self.prepared[layer.inputs[0]].layer.shape
            work = permute_work(operands[0], result, shape, layer.attrs["axes"])
            return [work] if isinstance(work, Work) else work
        if layer.kind == "concat":
            return self.concatenation(number, operands, result, ends)
        if layer.kind == "max_pool" and any(layer.attrs["window"].padding):
            source = self.prepared[layer.inputs[0]].layer
            if source.lowest is None or source.lowest < 0:
                return OnHost("its padding may be larger than negative words")
        work = lower_layer(each, operands, result, rounding)
        return [work] if isinstance(work, Work) else work

    def gather(self, x: Map, result: Map, ends: Mapping[str, Any]) -> Work:
        dense = replace(result, extents=x.extents, view=View(shape=x.extents, dtype=x.view.dtype))
        return copy_work(x, dense, ends)

    def concatenation(
        self, number: int, operands: Sequence[Map], result: Map, ends: Mapping[str, Any]
    ) -> list[Work] | OnHost:
        layer = self.prepared[number].layer
        if layer.attrs["axis"] != len(layer.shape) - 1:
            return OnHost("it joins another axis than channels")
        works, at = [], 0
        r, c, k = result.view.origin
        for used, x in zip(layer.inputs, operands, strict=True):
            if used not in self.placed_in:
                here = replace(
                    result,
                    view=replace(result.view, origin=(r, c, k + at)),
                    extents=x.extents,
                )
                works.append(copy_work(x, here, ends))
            at += x.extents[2]
        return works

    # -- instructions ----------------------------------------------------------------------------
    def emit(self, work: Work, number: int) -> tuple[str, int]:
        kernel = work.kernel
        scheduled = self.schedules.get(kernel)
        places: dict[str, Place] = {}
        moved = 0
        for name in kernel.parameters:
            tensor = kernel.tensors[name]
            if name in work.operands:
                places[name] = Place(isa.Space.EXTERNAL, work.operands[name].base)
                moved += _words_bytes(work.operands[name])
            elif tensor.memory == "rom":
                places[name] = Place(isa.Space.ROM, self.table(work.tables[name]))
            else:
                data = np.ascontiguousarray(work.constants[name]).tobytes()
                base = self.reserve(len(data))
                self.constants.append((base, data))
                places[name] = Place(isa.Space.EXTERNAL, base)
                moved += len(data)
        # Behind the layer before where there is room, so that it may still be finishing.
        first = self.next_scratchpad, self.next_sums
        sizes = scheduled.sizes
        if first[0] + sizes.scratchpad > self.machine.scratchpad.bytes:
            first = (0, first[1])
        if first[1] + sizes.accumulators > self.machine.accumulator.words:
            first = (first[0], 0)
        memory = place_buffers(
            scheduled.lowered, self.machine, scratchpad=first[0], accumulators=first[1]
        )
        self.next_scratchpad = first[0] + sizes.scratchpad
        self.next_sums = first[1] + sizes.accumulators
        self.instructions += generate(
            kernel, scheduled.lowered, places, memory, tag=number, steps=scheduled.steps
        )
        return str(scheduled.tiling), moved

    def table(self, data: bytes) -> int:
        if data not in self.tables:
            self.rom += b"\0" * (-len(self.rom) % 8)
            self.tables[data] = len(self.rom)
            self.rom += data
        return self.tables[data]


def _up(value: int) -> int:
    return -(-value // _ALIGNMENT) * _ALIGNMENT


def _words_bytes(place: Map) -> int:
    return math.prod(place.extents) * WORD_BYTES[place.view.dtype]


def _extents(shape: Sequence[int]) -> tuple[int, int, int]:
    """A layer's shape as rows, columns and channels."""
    whole = (1, 1, *shape)
    return math.prod(whole[:-2]), whole[-2], whole[-1]


def _simple_slice(layer: Any) -> tuple[int, int, int] | None:
    """Where a slice of consecutive words begins, None for any other."""
    index = layer.attrs["index"]
    if len(layer.shape) != 4 or layer.shape[0] != 1:
        return None
    begins = []
    for cut in index[1:]:
        begin, step = cut.start or 0, 1 if cut.step is None else cut.step
        if step != 1 or begin < 0:
            return None
        begins.append(begin)
    return begins[0], begins[1], begins[2]
