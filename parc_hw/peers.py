"""Which programs compute a ParC on this machine, each as fast as its users can make it?

The worker's side of `parc_hw.table11`: a worker process of one thread pool prepares the programs
of its runtime on one problem, checks each against float64, and times them when asked. Peers compute
the correlation alone; ours add position embedding and bias as well.

Every peer has its constants prepared (spectrum, circulant matrix, plan, session) and, where its
interface takes one, an output array that is made before. What is left for a call is what a
network would pay.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.count_instructions import count_instructions
from parc_hw.device import Device, load_device
from parc_hw.errors import MeasurementError, UnsupportedError
from parc_hw.measure import time_calls
from parc_hw.operator import ParcOperator, compile_parc, schedule_parc
from parc_hw.reference import depth_bound

if TYPE_CHECKING:
    from schedules.rule import Composite, Scheduled

__all__ = [
    "PEAK_SUMS",
    "PEAK_TURNS",
    "PROXIES",
    "RUNTIMES",
    "Entry",
    "Prepared",
    "Size",
    "count_arithmetic",
    "forget",
    "kernel_for",
    "prepare",
    "proxy_device",
    "time_entry",
]

Array = NDArray[Any]

RUNTIMES = {  # process -> what it needs beside the base install, and the extra that brings it
    "parc_hw": ((), ""),
    "torch": (("torch",), "torch"),
    "onnxruntime": (("onnx", "onnxruntime"), "bench"),
    "pyfftw": (("pyfftw",), "bench"),
    "scipy": ((), ""),
}

PROXIES = {"proxy 32": ("cortex-a76", 32), "proxy 16": ("cortex-a17", 16)}
"""Kernels for this machine with 4 lanes: whose plans they take, and how many registers they have."""


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """A feature map of a batch of one."""

    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One program on one problem.

    Parameters
    ----------
    size : Size
        Of the input.
    operator : str
        "H", "W", "half", "HW": depthwise ParC. "H part", "W part": along H or W on the part of the
        channels that "half" gives it. "dense H", "dense W": equation 4, as many output channels.
        "dw3", "dw7": depthwise 3x3 and 7x7 with zero padding. "peak": no ParC, but as much
        arithmetic on registers as the machine can do.
    program : str
        "ours", a proxy's name, or a peer: "cat conv", "rfft", "baddbmm", "conv", "slice concat conv",
        "fftw", "scipy". For "peak" the number of lanes and "fma", or "fma, add" for pairs.
    layout : str
        "NHWC" or "NCHW", in memory.
    plan : str
        Of ours: "auto" or "direct".
    threads : int
        How many may share a call.
    """

    size: Size
    operator: str
    program: str
    layout: str = "NCHW"
    plan: str = "auto"
    threads: int = 1

    @property
    def runtime(self) -> str:
        """The process that it runs in: a key of `RUNTIMES`."""
        if self.program in ("slice concat conv",):
            return "onnxruntime"
        if self.program in ("fftw", "scipy"):
            return "pyfftw" if self.program == "fftw" else "scipy"
        return "torch" if self.program in _TORCH else "parc_hw"

    @property
    def text(self) -> str:
        """For people."""
        name = self.program if self.runtime in self.program else f"{self.runtime} {self.program}"
        if self.runtime == "parc_hw":
            name = self.program if self.plan == "auto" else f"{self.program}, {self.plan}"
        return f"{name}, {self.layout}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a worker says of an entry that is ready.

    Attributes
    ----------
    error, bound : float
        Largest difference of any output from float64, and how large it may be.
    note : str
        The plan of ours.
    """

    error: float
    bound: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Program:
    """A call without arguments, and how its result is read in NCHW, (C, H, W)."""

    run: Callable[[], object]
    result: Callable[[], Array]
    note: str = ""


_ready: dict[Entry, _Program] = {}
_problems: dict[tuple[Size, str], _Problem] = {}


def prepare(entry: Entry) -> Prepared:
    """Make the entry ready to be timed, and check what it computes.

    Parameters
    ----------
    entry : Entry
        Its runtime is this process's.

    Raises
    ------
    MeasurementError
        The result is further from float64 than the bound of `parc_hw.reference.depth_bound`.
    """
    if entry.operator == "peak":
        _ready[entry] = program = _peak(entry)
        program.run()
        return Prepared(error=0.0, bound=0.0, note=program.note)
    key = entry.size, entry.operator
    problem = _problems.setdefault(key, _Problem(entry.size, entry.operator))
    maker = _TORCH.get(entry.program) or _OTHERS.get(entry.program)
    if maker is None:
        maker = _convolution if entry.operator.startswith("dw") else _ours
    program = maker(entry, problem)
    program.run()
    ours = entry.runtime == "parc_hw"
    expected = problem.expected(constants=ours)
    error = float(np.abs(program.result() - expected).max())
    bound = problem.bound(constants=ours)
    if not error <= bound:
        raise MeasurementError(
            f"{entry.text} on {entry.operator} of {entry.size} is off by {error:.2g}; a float32 "
            f"result may be off by {bound:.2g}. A program that computes something else is no peer."
        )
    _ready[entry] = program
    return Prepared(error=error, bound=bound, note=program.note)


def time_entry(entry: Entry, count: int, in_a_row: int) -> list[float]:
    """Seconds of a call, `count` times, each the mean of `in_a_row` calls without a pause."""
    return time_calls(_ready[entry].run, count, in_a_row=in_a_row)


def forget() -> None:
    """Release all entries and their memory."""
    _ready.clear()
    _problems.clear()


# ---------------------------------------------------------------- the problem


class _Problem:
    """Data of one operator on one size, the same in every process; arrays without the batch."""

    def __init__(self, size: Size, operator: str) -> None:
        self.size, self.operator = size, operator
        self._expected: dict[bool, Array] = {}
        c = size.channels
        random = np.random.default_rng([size.height, size.width, c, *operator.encode()])
        self.dense = operator.startswith("dense")
        self.channels = {"H part": c // 2, "W part": c - c // 2}.get(operator, c)

        def normal(*shape: int) -> NDArray[np.float32]:
            return random.standard_normal(shape, np.float32)

        self.x = normal(self.channels, size.height, size.width)
        self.weights, self.embeddings, self.biases = [], [], []
        self.parts: list[tuple[str, slice]] = []  # axis, channels
        if operator.startswith("dw"):
            taps = int(operator[2:])
            self.weights.append(normal(c, taps, taps) / np.float32(taps))
            return
        everything = slice(0, self.channels)
        self.parts = {
            "half": [("H", slice(0, c // 2)), ("W", slice(c // 2, c))],
            "HW": [("H", everything), ("W", everything)],
        }.get(operator, [(operator.removeprefix("dense ")[0], everything)])
        for axis, channels in self.parts:
            length = size.height if axis == "H" else size.width
            count = channels.stop - channels.start
            taps_of = (count, count, length) if self.dense else (count, length)
            scale = np.float32(length * (np.sqrt(count) if self.dense else 1))
            self.weights.append(normal(*taps_of) / scale)
            self.embeddings.append(normal(count, length))
            self.biases.append(normal(count))

    @property
    def axis(self) -> str:
        """Of the one correlation."""
        ((axis, _),) = self.parts
        return axis

    @property
    def length(self) -> int:
        """Points of the correlated axis."""
        return self.size.height if self.axis == "H" else self.size.width

    @property
    def dim(self) -> int:
        """The correlated axis of an array (C, H, W)."""
        return 1 if self.axis == "H" else 2

    def expected(self, *, constants: bool) -> Array:
        """The result in float64, with or without position embeddings and biases."""
        if constants not in self._expected:
            self._expected[constants] = self._compute(constants)
        return self._expected[constants]

    def _compute(self, constants: bool) -> Array:
        x = self.x.astype(np.float64)
        if self.operator.startswith("dw"):
            return self._convolved(x)
        results: list[Array] = []
        for number, (axis, channels) in enumerate(self.parts):
            source = results[-1] if self.operator == "HW" and results else x[channels]
            pe, bias = self.embeddings[number], self.biases[number]
            dim = 1 if axis == "H" else 2
            if constants:
                source = source + np.expand_dims(pe, 3 - dim)
            n = source.shape[dim]
            spectrum = np.conj(np.fft.rfft(self.weights[number].astype(np.float64)))
            points = np.fft.rfft(source, axis=dim)
            if self.dense:
                product = np.einsum(
                    "ock,ckl->okl" if dim == 1 else "ock,clk->olk", spectrum, points, optimize=True
                )
            else:
                product = points * np.expand_dims(spectrum, 3 - dim)
            result = np.fft.irfft(product, n=n, axis=dim)
            results.append(result + bias[:, None, None] if constants else result)
        return results[-1] if self.operator == "HW" else np.concatenate(results)

    def _convolved(self, x: Array) -> Array:
        """Depthwise convolution with zero padding."""
        taps = self.weights[0].shape[-1]
        height, width = self.size.height, self.size.width
        padded = np.pad(x, ((0, 0), (taps // 2,) * 2, (taps // 2,) * 2))
        total = np.zeros_like(x)
        for dy in range(taps):
            for dx in range(taps):
                weight = self.weights[0][:, dy, dx].astype(np.float64)
                total += weight[:, None, None] * padded[:, dy : dy + height, dx : dx + width]
        return total

    def bound(self, *, constants: bool) -> float:
        """How far a float32 result may be from the exact one: the bound of the direct form.

        Of two correlations in a row the second one's, plus the first one's through its kernel.
        """
        bound, most = 0.0, float(np.abs(self.x).max())
        for number, weight in enumerate(self.weights):
            taps = weight.reshape(len(weight), -1)
            pe = self.embeddings[number] if constants and self.embeddings else np.zeros(1)
            bias = self.biases[number] if constants and self.biases else np.zeros(1)
            reach = most + float(np.abs(pe).max())
            constant = float(np.abs(taps).sum(1).max() * np.abs(pe).max() + np.abs(bias).max())
            here = depth_bound([reach], taps, depth=taps.shape[1] + 1, constant=[constant])
            if self.operator == "HW" and number:
                here += bound * float(np.abs(taps).sum(1).max())
            most = float(np.abs(taps).sum(1).max()) * reach + constant
            bound = max(bound, here)
            if self.operator != "HW":
                most = float(np.abs(self.x).max())
        return bound

    @cached_property
    def circulant(self) -> NDArray[np.float32]:
        """(C, N, N): row i of a channel holds what output i takes from every input."""
        n = self.length
        index = (np.arange(n)[None, :] - np.arange(n)[:, None]) % n
        return self.weights[0][:, index]

    def spectrum(self) -> Array:
        """conj(rfft(w)), complex64, broadcast over the other axis (depthwise)."""
        spectrum = np.conj(np.fft.rfft(self.weights[0].astype(np.float64)))
        return np.expand_dims(spectrum, 3 - self.dim).astype(np.complex64)


# ---------------------------------------------------------------- ours


def _at_a_line(array: Array) -> Array:
    """A C-contiguous copy that begins at a cache line.

    numpy's arrays begin at multiples of 16 bytes, different ones from call to call; a vector that lies
    across two lines takes twice as long. torch's begin at lines, and so do all arrays here.
    """
    array = np.ascontiguousarray(array)
    room = np.empty(array.nbytes + _LINE_BYTES, np.uint8)
    first = -room.ctypes.data % _LINE_BYTES
    result = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


_LINE_BYTES = 64


def _in_layout(x: Array, layout: str) -> Array:
    """(C, H, W) as a batch of one."""
    return _at_a_line(x[None] if layout == "NCHW" else x.transpose(1, 2, 0)[None])


def _from_layout(y: Array, layout: str) -> Array:
    return y[0] if layout == "NCHW" else y[0].transpose(2, 0, 1)


def _bound_operator(op: ParcOperator, problem: _Problem, layout: str, note: str) -> _Program:
    x = _in_layout(problem.x, layout)
    y = _at_a_line(np.zeros(op.output_shape, np.float32))
    return _Program(op.bind(x, y), lambda: _from_layout(y, layout), note)


def _operator(problem: _Problem, layout: str) -> dict[str, Any]:
    """The problem as `compile_parc` and `schedule_parc` take it."""
    single = len(problem.parts) == 1

    def one_or_pair(values: list[Any]) -> Any:
        return values[0] if single else tuple(values)

    half = problem.operator == "half"
    return {
        "weight": one_or_pair(problem.weights),
        "axis": problem.axis if single else problem.operator,
        "shape": _in_layout(problem.x, layout).shape,
        "position_embedding": one_or_pair(problem.embeddings),
        "bias": np.concatenate(problem.biases) if half else one_or_pair(problem.biases),
        "layout": layout,
    }


def _ours(entry: Entry, problem: _Problem) -> _Program:
    """A user's `compile_parc`; for a proxy the same kernel for another device."""
    operator = _operator(problem, entry.layout)
    if entry.program in PROXIES:
        device = proxy_device(entry.program)
        core, _ = PROXIES[entry.program]
        _, foreign = schedule_parc(**operator, device=load_device(core))
        plan = _PLAN.search(foreign.note)
        if plan is None:
            raise MeasurementError(f"the note {foreign.note!r} names no plan; a bug in parc_hw.")
        made = schedule_parc(**operator, device=device, plan=plan[0])
        return _of_composite(entry, problem, *made, device)
    op = compile_parc(**operator, plan=entry.plan, threads=entry.threads)
    return _bound_operator(op, problem, entry.layout, op.plan)


_PLAN = re.compile(r"\b\d+x\d+\b")  # the first in a kernel's note is its plan


def _convolution(entry: Entry, problem: _Problem) -> _Program:
    """Our depthwise convolution, a kernel of models in NHWC."""
    device = load_device("host")
    return _of_composite(entry, problem, *_schedule_convolution(problem, device), device)


def _schedule_convolution(problem: _Problem, device: Device) -> tuple[Composite, Scheduled]:
    from schedules.cpu.depthwise import depthwise
    from schedules.rule import Composite, Context, Node, NotApplicable, Ref

    taps = problem.weights[0].shape[-1]
    kernel = np.ascontiguousarray(problem.weights[0].transpose(1, 2, 0)[..., None])
    attrs = {
        "strides": (1, 1),
        "padding": (taps // 2,) * 4,
        "dilation": (1, 1),
        "groups": problem.channels,
        "data_layout": "NHWC",
        "kernel_layout": "HWOI",
        "out_layout": "NHWC",
    }
    shape = (1, problem.size.height, problem.size.width, problem.channels)
    node = Node(op="relax.nn.conv2d", args=(Ref("input", 0), kernel), attrs=attrs, shape=shape)
    composite = Composite(inputs=(shape,), nodes=(node,))
    made = depthwise(composite, Context(device=device))
    if isinstance(made, NotApplicable):
        raise UnsupportedError(f"no kernel for {composite.name}: {made.reason}.")
    return composite, made


def _of_composite(
    entry: Entry, problem: _Problem, composite: Composite, scheduled: Scheduled, device: Device
) -> _Program:
    op = _loaded(composite, scheduled, device, entry.threads)
    return _bound_operator(op, problem, entry.layout, scheduled.note)


def _loaded(
    composite: Composite, scheduled: Scheduled, device: Device, threads: int
) -> ParcOperator:
    """A kernel that `compile_parc` does not make, called as those that it makes."""
    from schedules.jit import load_kernel

    kernel = load_kernel(scheduled.func, device)
    work = float(scheduled.macs) / device.lanes()
    return ParcOperator(composite, scheduled, kernel, device, threads=threads, work=work)


def proxy_device(name: str) -> Device:
    """Describe this machine as far as it can be a NEON: 4 lanes, with 32 or 16 registers.

    Raises
    ------
    UnsupportedError
        A machine without so many registers for them.
    """
    _, registers = PROXIES[name]
    host = load_device("host")
    if host.vector_registers < registers:
        raise UnsupportedError(
            f"{name}: {host.name} has {host.vector_registers} vector registers, fewer than "
            f"{registers}. Measure it on a machine with AVX-512."
        )
    if host.vector_registers > registers:
        host = load_device("x86-64-v3")  # AVX2: the same instructions on 16 registers
    return replace(host, name=f"{host.name}-{name.replace(' ', '-')}", vector_bits=128)


def kernel_for(entry: Entry, device: Device) -> Scheduled:
    """Our kernel of an entry for any device: to be counted, where it cannot be timed."""
    problem = _Problem(entry.size, entry.operator)
    if entry.operator.startswith("dw"):
        return _schedule_convolution(problem, device)[1]
    operator = _operator(problem, entry.layout)
    return schedule_parc(**operator, device=device, plan=entry.plan)[1]


def count_arithmetic(entry: Entry) -> dict[str, dict[str, int]]:
    """What a call of ours executes on this x86-64: by lanes, multiplications and additions.

    Fused multiply-adds are multiplications ("fma"), "add" is additions and subtractions alone.

    Raises
    ------
    ToolchainError
        There is no C compiler.
    """
    device = load_device("host")
    executed = count_instructions(kernel_for(entry, device), device)
    kinds = {"fma": r"v(?:fn?m(?:add|sub)\d+|mul)[ps]s ", "add": r"v(?:add|sub)[ps]s "}
    found = {}
    for lanes, register in ((16, "zmm"), (8, "ymm"), (4, "xmm")):
        numbers = {k: executed.matching(rf"{p}.*%{register}\d+$") for k, p in kinds.items()}
        if any(numbers.values()):
            found[str(lanes)] = numbers
    return found


PEAK_SUMS = 6  # of each kind: latency 4 for two units a cycle, and both fit 16 registers
PEAK_TURNS = 20_000


def _peak(entry: Entry) -> _Program:
    """`PEAK_SUMS * PEAK_TURNS` times two multiply-adds, or one and an addition, on registers."""
    from schedules.rule import Composite, Node, Scheduled
    from schedules.tir import Emitter

    device = load_device("host")
    width, _, other = entry.program.partition(" ")
    e, lanes = Emitter(device), int(width)
    x, y = e.parameter("x", 2 * lanes), e.parameter("y", 2 * PEAK_SUMS * lanes)
    with e.parallel(1):
        a, b = e.bind(e.load(x, 0, lanes)), e.bind(e.load(x, lanes, lanes))
        sums = [e.accumulator(lanes, e.splat(0.0, lanes)) for _ in range(2 * PEAK_SUMS)]
        with e.loop(PEAK_TURNS):
            for number, total in enumerate(sums):
                if number % 2 and other == "fma, add":
                    total.set(total.get() + a)
                else:
                    total.add_product(a, b)
        for number, total in enumerate(sums):
            e.store(y, number * lanes, total.get())
    shapes = (2 * lanes,), (2 * PEAK_SUMS * lanes,)
    node = Node(op="peak", args=(), attrs={}, shape=shapes[1])
    scheduled = Scheduled(func=e.finish(), inputs=(0,), constants=(), rule="peak")
    op = _loaded(Composite(inputs=shapes[:1], nodes=(node,)), scheduled, device, 1)
    values, out = np.ones(shapes[0], np.float32), np.empty(shapes[1], np.float32)
    return _Program(op.bind(values, out), lambda: out)


# ---------------------------------------------------------------- torch


def _torch(threads: int) -> Any:
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch


def _tensors(entry: Entry, problem: _Problem) -> tuple[Any, Any, Any]:
    """torch, and the input and a convolution's weights in the entry's layout."""
    torch = _torch(entry.threads)
    weight = problem.weights[0]
    if weight.ndim == 2 or problem.dense:
        weight = np.expand_dims(weight, -1 if problem.axis == "H" else -2)
    if not problem.dense:
        weight = np.expand_dims(weight, 1)
    x, w = (torch.from_numpy(_at_a_line(array)) for array in (problem.x[None], weight))
    if entry.layout == "NHWC":
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    return torch, x, w


class _Last:
    """A call whose last result can be looked at."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._value: Any = None

    def __call__(self) -> None:
        self._value = self._function()

    def numpy(self) -> Array:
        return np.asarray(self._value)[0]


def _cat_conv(entry: Entry, problem: _Problem) -> _Program:
    """The papers' own code: the input twice in a row through a convolution."""
    torch, x, w = _tensors(entry, problem)
    groups = 1 if problem.dense else problem.channels
    dim = problem.dim + 1
    head = x.narrow(dim, 0, problem.length - 1)
    cat, conv = torch.cat, torch.nn.functional.conv2d
    run = _Last(lambda: conv(cat((x, head), dim), w, groups=groups))
    return _Program(run, run.numpy)


def _conv(entry: Entry, problem: _Problem) -> _Program:
    """torch's depthwise convolution."""
    torch, x, w = _tensors(entry, problem)
    conv, taps = torch.nn.functional.conv2d, w.shape[-1]
    run = _Last(lambda: conv(x, w, padding=taps // 2, groups=problem.channels))
    return _Program(run, run.numpy)


def _rfft(entry: Entry, problem: _Problem) -> _Program:
    """Algorithm 1 of the paper with real transforms and a precomputed spectrum."""
    torch, x, _ = _tensors(entry, problem)
    dim, n = problem.dim + 1, problem.length
    rfft, irfft = torch.fft.rfft, torch.fft.irfft
    if not problem.dense:
        s = torch.from_numpy(problem.spectrum())
        run = _Last(lambda: irfft(rfft(x, dim=dim) * s, n=n, dim=dim))
        return _Program(run, run.numpy)
    # dense: one complex matrix product for each frequency
    spectrum = np.conj(np.fft.rfft(problem.weights[0].astype(np.float64)))
    s = torch.from_numpy(np.ascontiguousarray(spectrum.transpose(2, 0, 1), np.complex64))
    order, back = ((2, 1, 3), (1, 0, 2)) if dim == 2 else ((3, 1, 2), (1, 2, 0))

    def product() -> Any:
        points = rfft(x, dim=dim)[0].permute(*(i - 1 for i in order))
        return irfft(torch.bmm(s, points).permute(*back)[None], n=n, dim=dim)

    run = _Last(product)
    return _Program(run, run.numpy)


def _baddbmm(entry: Entry, problem: _Problem) -> _Program:
    """A circulant matrix for each channel, by MKL's batched product, into an array made before."""
    torch, x, _ = _tensors(entry, problem)
    matrices = torch.from_numpy(_at_a_line(problem.circulant))
    x, y = x[0], torch.empty(problem.x.shape)
    if problem.axis == "H":
        run = partial(torch.baddbmm, y, matrices, x, beta=0, out=y)
    else:
        turned = matrices.transpose(1, 2).contiguous()
        run = partial(torch.baddbmm, y, x, turned, beta=0, out=y)
    return _Program(run, y.numpy)


_TORCH: dict[str, Callable[[Entry, _Problem], _Program]] = {
    "cat conv": _cat_conv,
    "rfft": _rfft,
    "baddbmm": _baddbmm,
    "conv": _conv,
}


# ---------------------------------------------------------------- ONNX Runtime, FFTW, scipy


def _onnxruntime(entry: Entry, problem: _Problem) -> _Program:
    """Slice, Concat and Conv, with input and output bound."""
    onnx, runtime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))
    helper, as_tensor = onnx.helper, onnx.numpy_helper.from_array
    dim, shape = problem.dim + 1, [1, *problem.x.shape]
    weight = np.expand_dims(problem.weights[0], (1, -1 if problem.axis == "H" else -2))
    numbers = {"begin": [0], "end": [problem.length - 1], "dims": [dim]}
    constants = [as_tensor(np.array(v, np.int64), k) for k, v in numbers.items()]
    nodes = [
        helper.make_node("Slice", ["x", "begin", "end", "dims"], ["head"]),
        helper.make_node("Concat", ["x", "head"], ["twice"], axis=dim),
        helper.make_node(
            "Conv",
            ["twice", "weight"],
            ["y"],
            group=problem.channels,
            kernel_shape=list(weight.shape[2:]),
        ),
    ]
    ports = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)] for name in ("x", "y")
    ]
    graph = helper.make_graph(nodes, "parc", *ports, [*constants, as_tensor(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = entry.threads
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    value = runtime.OrtValue
    x = value.ortvalue_from_numpy(_at_a_line(problem.x[None]))
    y = value.ortvalue_from_shape_and_type(shape, np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    return _Program(partial(session.run_with_iobinding, binding), lambda: y.numpy()[0])


def _fftw(entry: Entry, problem: _Problem) -> _Program:
    """FFTW with plans chosen by measurement, and numpy's product between them."""
    fftw = importlib.import_module("pyfftw")
    shape, dim, n = problem.x.shape, problem.dim, problem.length
    half = tuple(n // 2 + 1 if i == dim else s for i, s in enumerate(shape))
    x, y = (fftw.empty_aligned(shape, "float32") for _ in range(2))
    points = fftw.empty_aligned(half, "complex64")
    plan = partial(fftw.FFTW, axes=(dim,), flags=("FFTW_MEASURE",), threads=entry.threads)
    forward, backward = plan(x, points), plan(points, y, direction="FFTW_BACKWARD")
    x[:] = problem.x  # planning has written to it
    s = problem.spectrum() / np.float32(n)  # FFTW's inverse leaves out 1/N
    first, second, multiply = forward.execute, backward.execute, np.multiply

    def run() -> None:
        first()
        multiply(points, s, out=points)
        second()

    return _Program(run, lambda: y)


def _scipy(entry: Entry, problem: _Problem) -> _Program:
    """scipy.fft (pocketfft)."""
    fft = importlib.import_module("scipy.fft")
    options: dict[str, Any] = {"axis": problem.dim, "workers": entry.threads}
    x, n, s = _at_a_line(problem.x[None]), problem.length, problem.spectrum()
    options["axis"] += 1
    rfft, irfft = fft.rfft, fft.irfft

    def compute() -> Any:
        points = rfft(x, **options)
        points *= s
        return irfft(points, n=n, overwrite_x=True, **options)

    run = _Last(compute)
    return _Program(run, run.numpy)


_OTHERS: dict[str, Callable[[Entry, _Problem], _Program]] = {
    "slice concat conv": _onnxruntime,
    "fftw": _fftw,
    "scipy": _scipy,
}
