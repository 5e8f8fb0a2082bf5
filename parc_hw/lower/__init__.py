"""How does an imported model become a flat program of kernel calls?

`schedule_model` walks it into NHWC, forms composites and asks the rules; `compile_program`
plans memory and compiles the kernels. Between them lies everything that `analyze` shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parc_hw.device import Device
from parc_hw.errors import InputError
from parc_hw.lower.graph import Graph
from parc_hw.lower.memory import Lifetime, aligned, plan_memory
from parc_hw.lower.program import (
    Call,
    Kernel,
    Layer,
    Operand,
    Place,
    Program,
    ShapePlan,
    Tensor,
)

if TYPE_CHECKING:
    from parc_hw.records import Records

__all__ = ["Lowering", "compile_program", "schedule_model"]

_FLOAT_BYTES = 4
_MOST_ELEMENTS = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """A model with a kernel chosen for everything, before any code is made."""

    graph: Graph
    steps: tuple[Any, ...]  # of parc_hw.lower.group.Step
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    device: Device

    @property
    def arena_bytes(self) -> int:
        """Bytes of intermediate values, as the memory plan lays them out."""
        return _places(self)[1]

    @property
    def weights_bytes(self) -> int:
        """Bytes of all constants; an array that several steps read counts once."""
        constants = {id(c): c.nbytes for step in self.steps for c in step.scheduled.constants}
        return sum(constants.values())

    def layer_name(self, step: Any) -> str:
        """Where in the source model a step's first operators stand, e.g. `stages.2.6.pwconv1`."""
        vertices = [self.graph.vertices[number] for number in step.chain]
        named = [vertex for vertex in vertices if vertex.source] or vertices
        anchors = vertices if step.composite.nodes[0].op == "relax.strided_slice" else named[:1]
        shared: list[str] = []
        for parts in zip(*(vertex.module.split(".") for vertex in anchors), strict=False):
            if len(set(parts)) > 1:
                break
            shared.append(parts[0])
        return ".".join(shared) or step.composite.nodes[0].op.rsplit(".", 1)[-1]

    def step_bytes(self, step: Any) -> int:
        """Bytes a step reads and writes once: its inputs, constants and result."""
        tensors = sum(math.prod(shape) for shape in (*step.composite.inputs, step.composite.shape))
        return _FLOAT_BYTES * tensors + sum(c.nbytes for c in step.scheduled.constants)


def schedule_model(
    module: Any,
    sources: Mapping[Any, Any],
    *,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    device: Device,
    plan: str = "auto",
    panel_vectors: dict[bytes, int] | None = None,
    records: Records | None = None,
    threads: int = 1,
    replay: bool = False,
) -> Lowering:
    """Choose a kernel for every operator of an imported model.

    Parameters
    ----------
    module : tvm.IRModule
        With one Relax function `main`, static shapes, ParC as `relax.parc`.
    sources : mapping of relax.Var to a source
        As `parc_hw.importers.Imported.sources`.
    inputs, outputs : sequence of Tensor
        Names and logical shapes at the user's boundary.
    device : Device
        What to compile for.
    plan : str
        `auto`, `direct`, `fft` or `N1xN2` for the ParC sites.
    panel_vectors : dict, optional
        `schedules.rule.Context.panel_vectors`, the same one for all shapes of a bundle.
    records : Records, optional
        Tuning records to use where they apply; None: the kernels' own choices.
    threads : int
        How many share a kernel, as records know it.
    replay : bool
        Use the records of a bundle's manifest as they were used in it.

    Raises
    ------
    InputError
        A value of 2**31 elements or more.
    UnsupportedError
        Some operators have no kernel; all are listed.
    """
    from parc_hw.lower.fold import fold_into_parc
    from parc_hw.lower.group import schedule_graph
    from parc_hw.lower.layout import to_nhwc
    from schedules.cpu import RULES
    from schedules.rule import Context
    from schedules.tuning.database import decider, replayer

    graph = to_nhwc(module["main"], sources)
    _check_sizes(graph)
    fold_into_parc(graph)
    decide = None
    if records is not None:
        decide = (
            replayer(records) if replay else decider(records, device, plan=plan, threads=threads)
        )
    context = Context(
        device=device,
        plan=plan,
        panel_vectors={} if panel_vectors is None else panel_vectors,
        decide=decide,
    )
    steps = schedule_graph(graph, RULES, context)
    return Lowering(
        graph=graph,
        steps=tuple(steps),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        device=device,
    )


def _check_sizes(graph: Graph) -> None:
    """Refuse values that the kernels' 32-bit indices do not reach, all of them."""
    large = [
        f"{vertex.op} at {vertex.module or 'the top level'}: {'x'.join(map(str, vertex.shape))}"
        for vertex in (graph.vertices[number] for number in sorted(graph.live()))
        if math.prod(vertex.shape) > _MOST_ELEMENTS
    ]
    if large:
        listed = "\n  ".join(dict.fromkeys(large))
        raise InputError(
            f"{len(large)} value(s) have 2**31 elements or more, and kernels count with 32 bits:\n  "
            f"{listed}\nTake a smaller input or batch."
        )


class _Blob:
    """One run of bytes with every constant, each 64-byte aligned and equal ones stored once."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._seen: dict[bytes, Operand] = {}

    def add(self, array: Any) -> Operand:
        """Where this constant lies; it is appended when no equal one was."""
        data = np.ascontiguousarray(array, np.float32).tobytes()
        if data not in self._seen:
            self._seen[data] = Operand(place=Place.WEIGHTS, offset_bytes=len(self._bytes))
            self._bytes.extend(data)
            self._bytes.extend(bytes(aligned(len(data)) - len(data)))
        return self._seen[data]

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)


def _places(lowering: Lowering) -> tuple[dict[int, Operand], int, int]:
    """Where each vertex's bytes are; the arena's size and the live peak."""
    graph, steps = lowering.graph, lowering.steps
    places: dict[int, Operand] = {}
    for index, number in enumerate(graph.inputs):
        places[number] = Operand(place=Place.INPUT, index=index)
    for index, number in enumerate(graph.outputs):
        places[graph.root(number)] = Operand(place=Place.OUTPUT, index=index)
    lifetimes: dict[int, Lifetime] = {}
    for call, step in enumerate(steps):
        for number in (step.output, *step.inputs):
            root = graph.root(number)
            if root in places:
                continue
            first = lifetimes[root].first if root in lifetimes else call
            size = _FLOAT_BYTES * math.prod(graph.vertices[root].shape)
            lifetimes[root] = Lifetime(size_bytes=size, first=first, last=call)
    plan = plan_memory(lifetimes)
    for root, offset in plan.offsets_bytes.items():
        places[root] = Operand(place=Place.ARENA, offset_bytes=offset)
    return places, plan.arena_bytes, plan.live_peak_bytes


def compile_program(
    lowerings: Sequence[Lowering],
    *,
    prefix: str,
    progress: Callable[[int, int, str], None] | None = None,
    dump: dict[str, str] | None = None,
) -> Program:
    """Compile the kernels of a model's lowerings and lay out their memory.

    Parameters
    ----------
    lowerings : sequence of Lowering
        From `schedule_model`, one for each input shape, all for one device. They share kernels
        that are structurally equal and constants that are equal.
    prefix : str
        Beginning of every kernel's symbol.
    progress : callable of (done, total, symbol), optional
        Called as kernels are compiled.
    dump : dict, optional
        Receives the texts `tir`, `ll` and `asm`.
    """
    from schedules.aot import compile_kernels

    compiled = compile_kernels(
        [step.scheduled.func for lowering in lowerings for step in lowering.steps],
        lowerings[0].device,
        prefix=prefix,
        progress=progress,
        dump=dump,
    )
    kernels: dict[str, Kernel] = {}
    for signature in compiled.kernels:
        kernels.setdefault(
            signature.symbol,
            Kernel(
                symbol=signature.symbol,
                arguments=signature.arguments,
                extent=signature.extent,
                scratch_bytes=signature.scratch_bytes,
            ),
        )
    numbers = {symbol: number for number, symbol in enumerate(kernels)}
    used = iter(compiled.kernels)
    weights = _Blob()
    shapes = [
        _shape_plan(lowering, [numbers[next(used).symbol] for _ in lowering.steps], weights)
        for lowering in lowerings
    ]
    return Program(
        shapes=tuple(shapes),
        kernels=tuple(kernels.values()),
        weights=bytes(weights),
        objects=tuple(compiled.objects),
    )


def _shape_plan(lowering: Lowering, kernels: Sequence[int], weights: _Blob) -> ShapePlan:
    """The calls of one lowering, whose steps run these kernels; constants go to `weights`."""
    graph = lowering.graph
    places, arena_bytes, live_peak_bytes = _places(lowering)
    calls, layers = [], []
    for index, (step, kernel) in enumerate(zip(lowering.steps, kernels, strict=True)):
        result = graph.vertices[step.output]
        output = places[graph.root(step.output)]
        read = [places[graph.root(step.inputs[k])] for k in step.scheduled.inputs]
        constants = [weights.add(array) for array in step.scheduled.constants]
        calls.append(Call(kernel=kernel, operands=(*read, *constants, output), layer=index))
        layers.append(
            Layer(
                name=lowering.layer_name(step),
                source=result.source,
                ops=step.composite.name,
                rule=step.scheduled.rule,
                note=step.scheduled.note,
                record=tuned.record if (tuned := step.scheduled.tuned) else "",
                untuned=tuned.reason if tuned and not tuned.record else "",
                macs=step.scheduled.macs,
                shape=result.shape,
                order=result.order,
                output=output,
            )
        )
    return ShapePlan(
        inputs=lowering.inputs,
        outputs=lowering.outputs,
        calls=tuple(calls),
        layers=tuple(layers),
        arena_bytes=arena_bytes,
        live_peak_bytes=live_peak_bytes,
    )
