"""How does one ParC, by any plan, become a program that gives the words of `fixedpoint.parc`?

Direct sums on the array of multipliers; transforms on the butterflies, the kernel's spectrum stored
in the order in which the forward transform leaves its words, so that nothing is reordered; or both,
with short transforms around Toeplitz products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.datapath import Cut
from fixedpoint.mixed_radix import lower as lower_transform
from fixedpoint.modes import Overflow, rounding_code
from fixedpoint.operator import Operands
from fixedpoint.paths import DirectDatapath, FourierDatapath, ParcDatapath, SplitDatapath
from fixedpoint.qformat import QFormat
from fixedpoint.spectral import kernel_words
from fixedpoint.split import check_widths, integer_graph, kernel_table
from parc_hw import isa
from parc_hw.accel import rom, simulator
from parc_hw.accel.codegen import Place, generate, place_buffers
from parc_hw.accel.container import Program
from parc_hw.accel.dependencies import synchronise
from parc_hw.accel.description import Description
from parc_hw.accel.scheduled import Schedules
from parc_hw.dataflow import Dag, Input, ranges
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.isa import Flag
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import complex_rows
from schedules.accel.kernel import WORD_BYTES, Kernel
from schedules.accel.operators import View, circular, fourier, two_level

__all__ = ["OperatorProgram", "ParcWork", "compile_parc", "parc_kernel"]

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcWork:
    """A ParC as a kernel.

    Attributes
    ----------
    kernel : Kernel
    x, y : View
        Where its words lie in its arrays.
    constants : mapping of str to array
    tables : mapping of str to bytes
    """

    kernel: Kernel
    x: View
    y: View
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    tables: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorProgram:
    """A ParC of one image on a machine.

    Attributes
    ----------
    spec : ParcSpec
    machine : Description
    program : Program
    work : ParcWork
    places : mapping of str to int
        First byte of "X" and "Y" in external memory.
    tiling : str
    """

    spec: ParcSpec
    machine: Description
    program: Program
    work: ParcWork
    places: Mapping[str, int]
    tiling: str

    def run(self, raw_x: ArrayLike) -> tuple[NDArray[np.int64], simulator.Result]:
        """Words (1, C, H, W) of words (1, C, H, W), and what the simulation counted."""
        memory = self.program.new_external()
        x = np.asarray(raw_x)[0].transpose(1, 2, 0)
        _part(memory, self.places["X"], self.work.x, x.shape)[...] = x
        result = simulator.run(self.program, self.machine, memory)
        outputs = self.spec.out_channels or self.spec.channels
        shape = (self.spec.height, self.spec.width, outputs)
        y = _part(memory, self.places["Y"], self.work.y, shape)
        return y.transpose(2, 0, 1)[None].astype(np.int64), result

    def cycles(self) -> int:
        """Simulated cycles, without values."""
        return simulator.run(self.program, self.machine, values=False).cycles


def _part(
    memory: NDArray[np.uint8], base: int, view: View, extents: tuple[int, ...]
) -> NDArray[Any]:
    dtype = np.dtype(view.dtype)
    count = int(np.prod(view.shape))
    array = memory[base : base + count * dtype.itemsize].view(dtype).reshape(view.shape)
    return array[: extents[0], : extents[1], : extents[2]]


def compile_parc(
    spec: ParcSpec,
    raw_w: ArrayLike,
    *,
    plan: FftPlan | SplitPlan | str,
    datapath: ParcDatapath,
    machine: Description,
    bias: ArrayLike | None = None,
    schedules: Schedules | None = None,
) -> OperatorProgram:
    """Compile a ParC of one image.

    Parameters
    ----------
    spec : ParcSpec
        Batch 1, no position embedding: fold it into the layer before, or use a network.
    raw_w : int array
        Words of the kernel, (C, N), or (C_out, C, N) where it is dense.
    plan : FftPlan, SplitPlan or str
        "direct", "fft", a transform's plan with digit-reversed output, or a two-level plan.
    datapath : DirectDatapath, FourierDatapath or SplitDatapath
    machine : Description
    bias : int array, shape (C_out,), optional
    schedules : Schedules, optional

    Raises
    ------
    UnsupportedError
        Another plan, points that the machine does not have, no tile that fits.
    InputError
        As `fixedpoint.parc`.
    """
    work = parc_kernel(spec, raw_w, plan=plan, datapath=datapath, machine=machine, bias=bias)
    kernel = work.kernel
    scheduled = (schedules or Schedules(machine)).get(kernel)
    places: dict[str, Place] = {}
    constants: list[tuple[int, bytes]] = []
    tables = bytearray()
    at = 0
    for name in kernel.parameters:
        tensor = kernel.tensors[name]
        if tensor.memory == "rom":
            places[name] = Place(isa.Space.ROM, len(tables))
            tables += work.tables[name]
            tables += b"\0" * (-len(tables) % 8)
            continue
        size = int(np.prod(tensor.shape)) * WORD_BYTES[tensor.dtype]
        places[name] = Place(isa.Space.EXTERNAL, at)
        if name in work.constants:
            constants.append((at, np.ascontiguousarray(work.constants[name]).tobytes()))
        at += -(-size // _ALIGNMENT) * _ALIGNMENT
    memory = place_buffers(scheduled.lowered, machine)
    instructions = generate(kernel, scheduled.lowered, places, memory, steps=scheduled.steps)
    program = Program(
        instructions=tuple(synchronise(instructions)),
        description_hash=machine.hash,
        external_bytes=at,
        rom=bytes(tables),
        constants=tuple(constants),
        metadata={"operator": kernel.name, "plan": str(plan)},
    )
    return OperatorProgram(
        spec=spec,
        machine=machine,
        program=program,
        work=work,
        places={name: place.base for name, place in places.items()},
        tiling=str(scheduled.tiling),
    )


def parc_kernel(
    spec: ParcSpec,
    raw_w: ArrayLike,
    *,
    plan: FftPlan | SplitPlan | str,
    datapath: ParcDatapath,
    machine: Description,
    bias: ArrayLike | None = None,
) -> ParcWork:
    """The kernel and constants of a ParC; parameters and errors as `compile_parc`."""
    if spec.batch != 1 or spec.position_embedding:
        raise UnsupportedError(
            f"{spec}: a program takes one image, and no position embedding. Run images one by one, "
            f"and fold the embedding into what stands before, or use a network."
        )
    zeros = np.zeros((1, spec.channels, spec.height, spec.width), np.int64)
    operands = Operands.of(zeros, raw_w, None, bias, spec, datapath)
    if plan == "direct" and isinstance(datapath, DirectDatapath):
        return _direct(spec, operands, datapath)
    if plan == "fft":
        plan = FftPlan.of(spec.length, output_order="digit_reversed")
    if isinstance(plan, FftPlan) and isinstance(datapath, FourierDatapath):
        return _fourier(spec, operands, datapath, plan, machine)
    if isinstance(plan, SplitPlan) and isinstance(datapath, SplitDatapath):
        return _two_level(spec, operands, datapath, plan, machine)
    raise InputError(
        f"plan {plan} and {type(datapath).__name__} do not belong together; accepted: direct with "
        f"DirectDatapath, fft or an FftPlan with FourierDatapath, a SplitPlan with SplitDatapath."
    )


def _ending(
    cut: Cut, frac_bits: int, *, multiplier: int = 1, what: str = "the output", most: int = 16
) -> dict[str, Any]:
    """Fields of a requantisation; `most` bits may leave it."""
    if cut.overflow is Overflow.RAISE:
        raise UnsupportedError(
            f"{what} raises where a word does not fit; the machine saturates or wraps. Give its "
            f"cut another overflow."
        )
    fmt = cut.format
    if fmt.bits > most:
        raise UnsupportedError(f"{what} is {fmt}; the machine's words have up to {most} bits.")
    wraps = cut.overflow is Overflow.WRAP
    if wraps and fmt.bits not in (8, 16, most):
        raise UnsupportedError(
            f"{what} {fmt} wraps; the machine wraps words of {'8 or 16' if most == 16 else '16 or 32'} "
            f"bits."
        )
    return {
        "lo": -(1 << 31) if wraps else fmt.min_raw,
        "hi": (1 << 31) - 1 if wraps else fmt.max_raw,
        "rounding": rounding_code(cut.rounding),
        "shift": frac_bits - fmt.frac_bits,
        "immediate": multiplier,
        **({"flags": Flag.WRAP} if wraps else {}),
    }


def _word(bits: int, what: str) -> str:
    if bits > 16:
        raise UnsupportedError(f"{what} have {bits} bits; the machine's words have up to 16.")
    return "int8" if bits <= 8 else "int16"


def _views(spec: ParcSpec, data: str, output: str, lines: int) -> tuple[View, View]:
    """Arrays of channels-last words with `lines` lines beside each other."""
    axis = 0 if spec.axis is Axis.H else 1
    shape = [spec.height, spec.width]
    shape[1 - axis] = lines
    outputs = spec.out_channels or spec.channels
    return (
        View(shape=(shape[0], shape[1], spec.channels), dtype=data),
        View(shape=(shape[0], shape[1], outputs), dtype=output),
    )


def _direct(spec: ParcSpec, operands: Operands, datapath: DirectDatapath) -> ParcWork:
    if datapath.product is not None or datapath.accumulator is not None:
        raise UnsupportedError(
            "the direct datapath rounds products or sums; the machine's sums are exact. Leave "
            "product and accumulator out."
        )
    exact = datapath.summand.frac_bits + datapath.kernel.frac_bits
    point = exact
    if datapath.bias is not None:
        point = max(exact, datapath.bias.frac_bits)
    dense = not operands.depthwise
    outputs, _, length = operands.w.shape
    weights = _word(datapath.kernel.bits, "the kernel's words")
    x, y = _views(
        spec,
        _word(datapath.data.bits, "the data"),
        _word(datapath.output.format.bits, "the output's words"),
        spec.width if spec.axis is Axis.H else spec.height,
    )
    fields = _ending(datapath.output, point, multiplier=1 << (point - exact))
    shift = fields.pop("shift")
    start = np.zeros((length, outputs), np.int64)
    if operands.bias is not None and datapath.bias is not None:
        start += operands.bias << (point - datapath.bias.frac_bits)
    w = operands.w.transpose(2, 1, 0) if dense else operands.w[:, 0].T
    kernel = circular(
        x,
        y,
        axis=0 if spec.axis is Axis.H else 1,
        length=length,
        others=x.shape[1] if spec.axis is Axis.H else x.shape[0],
        channels=spec.channels,
        outputs=outputs if dense else None,
        weights=weights,
        bias="int64",
        ending=fields,
    )
    return ParcWork(
        kernel=kernel,
        x=x,
        y=y,
        constants={
            "W": w.astype(weights),
            "B": start,
            "S": np.full(outputs, shift, np.int8),
        },
    )


def _fourier(
    spec: ParcSpec,
    operands: Operands,
    datapath: FourierDatapath,
    plan: FftPlan,
    machine: Description,
) -> ParcWork:
    if not datapath.pairs:
        raise UnsupportedError(
            "the transforms take two lines each, as real and imaginary part: give the datapath "
            "pairs=True."
        )
    if machine.butterfly.units == 0 or machine.complex.units == 0:
        raise UnsupportedError(f"{machine.name} has no butterflies. Use the direct plan.")
    lines = spec.width if spec.axis is Axis.H else spec.height
    frames = (lines + 1) // 2
    forward = lower_transform(plan, datapath.forward)
    inverse = lower_transform(plan.transposed, datapath.inverse, True)
    tables: dict[str, bytes] = {}
    sizes: list[list[int]] = [[], []]
    for n, (letter, transform) in enumerate((("F", forward), ("I", inverse))):
        for stage in range(len(plan.radices)):
            tables[f"T{letter}{stage}"] = rom.stage_table(transform, stage)
            sizes[n].append(len(tables[f"T{letter}{stage}"]) // 8)
    dense = not operands.depthwise
    outputs, channels, length = operands.w.shape
    tables["P"] = rom.product_table(datapath, channels if dense else 1)
    spectra = kernel_words(operands.w, plan, datapath)
    kind = "int16" if datapath.spectrum.bits <= 16 else "int32"
    if datapath.spectrum.bits > 32:
        raise UnsupportedError(f"the spectrum is {datapath.spectrum}: at most 32 bits.")
    spectra = np.ascontiguousarray(spectra if dense else spectra[:, 0], np.dtype(kind))
    used = sum(map(len, tables.values()))
    in_rom = used + spectra.nbytes <= machine.rom.bytes
    if in_rom:
        tables["S"] = spectra.tobytes()
    widths = [*forward.bounds, *inverse.bounds]
    widest = max(bound.bit_length() for bound in widths) + 1
    fits_16 = max(widths) <= 1 << 15 and datapath.product.result.format.bits <= 16
    if widest > 33:
        raise UnsupportedError(f"words of {widest - 1} bits between stages; at most 32.")
    output = datapath.inverse.output.frac_bits
    point, bias = output, None
    if operands.bias is not None and datapath.bias is not None:
        point = max(output, datapath.bias.frac_bits)
        bias = operands.bias << (point - datapath.bias.frac_bits)
    x, y = _views(
        spec,
        "int16" if _word(datapath.data.bits, "the data") else "",
        _word(datapath.output.format.bits, "the output's words"),
        2 * frames,
    )
    kernel = fourier(
        x,
        y,
        axis=0 if spec.axis is Axis.H else 1,
        length=length,
        frames=frames,
        channels=spec.channels,
        outputs=outputs if dense else None,
        stages=(tuple(sizes[0]), tuple(sizes[1])),
        product_words=len(tables["P"]) // 8,
        spectrum=kind,
        spectrum_memory="rom" if in_rom else "external",
        word="int16" if fits_16 else "int32",
        biased=bias is not None,
        ending=_ending(datapath.output, point, multiplier=1 << (point - output)),
    )
    constants: dict[str, NDArray[Any]] = {}
    if not in_rom:
        constants["S"] = spectra
    if bias is not None:
        constants["B"] = bias.astype(np.int64)
    return ParcWork(kernel=kernel, x=x, y=y, constants=constants, tables=tables)


def _two_level(
    spec: ParcSpec,
    operands: Operands,
    datapath: SplitDatapath,
    plan: SplitPlan,
    machine: Description,
) -> ParcWork:
    if datapath.product is not None or datapath.accumulator is not None:
        raise UnsupportedError(
            "the two-level datapath rounds products or sums; the machine's sums are exact. Leave "
            "product and accumulator out."
        )
    if machine.butterfly.units == 0 or machine.butterfly.interval(0) is None:
        raise UnsupportedError(f"{machine.name} has no integer graphs. Use the direct plan.")
    n1, n2, guard = plan.n1, plan.n2, datapath.guard
    if n1 == 1:
        raise UnsupportedError(f"plan {plan} has no transform. Use the direct plan.")
    forward = integer_graph(n1, datapath.coefficient, datapath.rounding, transposed=False)
    backward = integer_graph(n1, datapath.coefficient, datapath.rounding, transposed=True)
    rows, columns = datapath.rows.format, datapath.columns.format
    check_widths(forward, datapath.summand, guard, "rows")
    check_widths(backward, columns, guard, "output")
    tables = {
        "TF": rom.graph_table(forward, datapath),
        "TI": rom.graph_table(_turned(backward), datapath),
    }
    exact = rows.frac_bits + datapath.table.frac_bits
    point = exact if datapath.bias is None else max(exact, datapath.bias.frac_bits)
    outputs = len(operands.w)
    dense = not operands.depthwise
    weights = _toeplitz(kernel_table(operands.w, plan, datapath), plan)
    if not dense:
        weights = weights[..., 0, :]
    start = np.zeros((n1, outputs), np.int64)
    if operands.bias is not None and datapath.bias is not None:  # a constant is all in row 0
        start[n1 - 1] = operands.bias << (point - datapath.bias.frac_bits)
    summed = np.abs(weights).sum(axis=tuple(range(1, weights.ndim - 1)))
    largest = int(summed.max()) * -rows.min_raw + (int(np.abs(start).max()) >> (point - exact))
    if largest >> (machine.mac.accumulator_bits - 1):
        raise UnsupportedError(
            f"the Toeplitz products may reach {largest.bit_length() + 1} bits, and the accumulators "
            f"of {machine.name} have {machine.mac.accumulator_bits}. Give rows or table fewer bits."
        )
    x, y = _views(
        spec,
        _word(datapath.data.bits, "the data"),
        _word(datapath.output.format.bits, "the output's words"),
        spec.width if spec.axis is Axis.H else spec.height,
    )
    top = int(np.abs(weights).max(initial=0)).bit_length() + 1
    if top > 32:
        raise UnsupportedError(f"the table has words of {top} bits; at most 32.")
    kind = "int8" if top <= 8 else "int16" if top <= 16 else "int32"
    kernel = two_level(
        x,
        y,
        axis=0 if spec.axis is Axis.H else 1,
        n1=n1,
        n2=n2,
        others=x.shape[1] if spec.axis is Axis.H else x.shape[0],
        channels=spec.channels,
        outputs=outputs if dense else None,
        graphs=(len(tables["TF"]) // 8, len(tables["TI"]) // 8),
        words=(
            _graph_word(forward, datapath.summand, guard),
            "int16" if rows.bits <= 16 else "int32",
            "int16" if columns.bits <= 16 else "int32",
            _graph_word(backward, columns, guard),
        ),
        weights=kind,
        biased=bool(start.any()),
        endings=(
            _ending(datapath.rows, datapath.summand.frac_bits + guard, what="rows", most=32),
            _ending(
                datapath.columns, point, multiplier=1 << (point - exact), what="columns", most=32
            ),
            _ending(datapath.output, columns.frac_bits + guard),
        ),
    )
    constants: dict[str, NDArray[Any]] = {"W": np.ascontiguousarray(weights, np.dtype(kind))}
    if start.any():
        constants["B"] = start
    return ParcWork(kernel=kernel, x=x, y=y, constants=constants, tables=tables)


def _graph_word(graph: Dag, word: QFormat, guard: int) -> str:
    """The type that holds every output of a graph of words `word`."""
    limits = (word.min_raw << guard, word.max_raw << guard)
    found = ranges(graph, [limits] * graph.inputs)
    fits = all(found[n][0] >= -(1 << 31) and found[n][1] < 1 << 31 for n in graph.outputs)
    return "int32" if fits else "int64"


def _turned(graph: Dag) -> Dag:
    """The same graph for rows of which each lies one place further in front, around the ring."""
    nodes = (
        Input((node.index - 1) % graph.inputs) if isinstance(node, Input) else node
        for node in graph.nodes
    )
    return Dag(graph.inputs, tuple(nodes), graph.outputs)


def _toeplitz(table: NDArray[np.int64], plan: SplitPlan) -> NDArray[np.int64]:
    """Tables (O, C or 1, T) as what position p of the sums takes from row p + s: (n1, 3, T / n1, C, O)."""
    n1 = plan.n1
    rows = table.reshape(*table.shape[:2], n1, -1).transpose(2, 3, 1, 0)
    found = np.zeros((n1, 3, *rows.shape[1:]), np.int64)
    pairs = complex_rows(n1)
    for row in {0, n1 - 1} - {first + 1 for first in pairs}:
        found[row - 1, 1] = rows[row]
    for row in pairs:  # re = tr re - ti im, im = tr im + ti re
        found[row - 1, 1], found[row - 1, 2] = rows[row], -rows[row + 1]
        found[row, 1], found[row, 0] = rows[row], rows[row + 1]
    return found
