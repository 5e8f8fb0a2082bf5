"""How is one ParC called from Python, on this machine, without a bundle or a C compiler?

`compile_parc` makes the same kernels as `compile` does, in memory, and hands out a function of
numpy arrays.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import Device, load_device
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.planner import LAYOUTS, check_plan, resolve_plan
from parc_hw.records import COMMITTED
from parc_hw.spec import Axis, ParcSpec

if TYPE_CHECKING:
    from pathlib import Path

    from parc_hw.records import Records
    from schedules.jit import LoadedKernel
    from schedules.rule import Composite, Scheduled

__all__ = ["ParcOperator", "compile_parc", "schedule_parc"]

AXES = ("H", "W", "half", "HW")
# Multiply-adds of vectors, as the planner estimates them: a million take about 0.3 ms on AVX-512.
_LEAST_WORK = 15_000  # of each thread: a hand-over to one that looks for work costs about 1 us
_WORTH_WAKING = 200_000  # of a call, to wake threads for it alone: about 20 us
_SHARES = 4  # for each thread, so that one that is interrupted holds up less

Array = NDArray[Any]
Arrays = Array | Sequence[Array | None]


def compile_parc(
    weight: Arrays,
    axis: str,
    shape: Sequence[int],
    *,
    position_embedding: Arrays | None = None,
    bias: Arrays | None = None,
    target: str = "host",
    plan: str = "auto",
    threads: int = 1,
    layout: str = "NCHW",
    records: Records | str | Path | None = COMMITTED,
) -> ParcOperator:
    """Compile one ParC with constant kernels for arrays of one shape.

    Parameters
    ----------
    weight : array, shape (C, N) or (C_out, C, N), or a pair of arrays
        Correlation kernels; N is the extent of the correlated axis. Three axes: the dense operator
        (equation 4), for axis H or W. For axis "half" a pair (C1, H), (C2, W) with
        C1 + C2 = C, or one (C, N) where H = W = N, of which the first C // 2 kernels run along H.
        For axis "HW" a pair (C, H), (C, W).
    axis : {"H", "W", "half", "HW"}
        Along the height (tensor axis -2 of NCHW) or the width (-1); half: the first part of the
        channels along H, the rest along W; HW: along H, then the result along W.
    shape : sequence of int
        Of the input, in the order of `layout`.
    position_embedding : array, shape (C, N), or a pair, or None
        Added to the input before each correlation. A pair where `weight` is one; either of it may
        be None.
    bias : array, shape (C,) or (C_out,), or None
        Per output channel. For axis "HW" a pair, one for each correlation.
    target : str
        "host" or a described CPU whose code this machine executes.
    plan : str
        auto, direct, fft or N1xN2.
    threads : int
        How many share a call, at most: as many as the work is worth, which `ParcOperator.threads`
        tells. The result does not depend on it. All operators of a process share one pool; a call
        that finds it busy with another is computed by its caller alone. No environment
        variable limits it, neither TVM_NUM_THREADS nor OMP_NUM_THREADS.
    layout : {"NCHW", "NHWC"}
        Of input and output.
    records : Records, path or None
        Tuning records, used if one applies: those that come with this package; a file's and those; only
        the ones given; or none at all. `ParcOperator.tuning` says which.

    Returns
    -------
    ParcOperator
        `y = op(x)`, `op(x, out=y)`, or `call = op.bind(x, y)` for calls without checks.

    Raises
    ------
    InputError
        A value, shape or type that is not acceptable.
    UnsupportedError
        A target whose code does not run here, or a dense kernel for axis "half" or "HW".

    Examples
    --------
    A kernel that is 1 at tap 1 moves every column up by one point:

    >>> weight = np.array([[0, 1, 0, 0]], np.float32)
    >>> op = compile_parc(weight=weight, axis="H", shape=(1, 1, 4, 1))
    >>> op(np.array([5, 6, 7, 8], np.float32).reshape(1, 1, 4, 1)).ravel()
    array([6., 7., 8., 5.], dtype=float32)
    """
    if not _whole(threads) or not 1 <= threads <= 64:
        raise InputError(f"threads is {threads!r}; accepted: a whole number from 1 to 64.")
    from schedules.tuning.database import records_of

    device = load_device(target)
    if not device.runs_here:
        raise UnsupportedError(
            f"target {target} does not run on this machine, and an operator is called in this "
            'process. Take target="host", or compile a model with parc_hw.compile for a bundle.'
        )
    composite, scheduled = schedule_parc(
        weight,
        axis,
        shape,
        position_embedding=position_embedding,
        bias=bias,
        device=device,
        plan=plan,
        layout=layout,
        records=records_of(records),
        threads=int(threads),
    )

    from schedules.jit import load_kernel

    kernel = load_kernel(scheduled.func, device)
    work = _work(composite, device, plan, layout)
    return ParcOperator(composite, scheduled, kernel, device, threads=int(threads), work=work)


def schedule_parc(
    weight: Arrays,
    axis: str,
    shape: Sequence[int],
    *,
    position_embedding: Arrays | None = None,
    bias: Arrays | None = None,
    device: Device,
    plan: str = "auto",
    layout: str = "NCHW",
    records: Records | None = None,
    threads: int = 1,
) -> tuple[Composite, Scheduled]:
    """The operator of `compile_parc` as the rules read it, and its kernel for any device.

    Of `records` only those are looked in that are given.

    Raises
    ------
    InputError, UnsupportedError
        As `compile_parc`, but for its target and threads.
    """
    if axis not in AXES:
        raise InputError(f"axis is {axis!r}; accepted: {', '.join(AXES)}.")
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}; accepted: {', '.join(sorted(LAYOUTS))}.")
    check_plan(plan)
    extents = _shape(shape, layout)
    channels = extents[1 if layout == "NCHW" else 3]
    height, width = extents[2:] if layout == "NCHW" else extents[1:3]
    parts = _parts(axis, weight, position_embedding, bias, channels, height, width)

    from schedules.cpu.parc import parc, parc_twice
    from schedules.cpu.parc_dense import parc_dense
    from schedules.cpu.parc_nchw import parc_nchw
    from schedules.rule import Context, NotApplicable

    composite = _composite(axis, layout, extents, parts)
    if parts[0][0].ndim == 3:
        rule = parc_dense
    elif layout == "NCHW":
        rule = parc_nchw
    else:
        rule = parc_twice if axis == "HW" else parc
    context = Context(device=device, plan=plan)
    if records is not None:
        from schedules.tuning.database import decider

        decide = decider(records, device, plan=plan, threads=threads)
        context = Context(device=device, plan=plan, decide=decide)
    scheduled = rule(composite, context)
    if isinstance(scheduled, NotApplicable):
        raise UnsupportedError(f"no kernel for this operator: {scheduled.reason}.")
    return composite, scheduled


class ParcOperator:
    """A compiled ParC; made by `compile_parc`.

    Safe to call from several threads only with `op(x)`; see `bind` for its own rule.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        In the layout the operator was compiled for.
    plan : str
        The plan of each correlation and why it was chosen, one line.
    tuning : str
        Which tuning record it uses, or why none applied.
    macs : int
        Multiply-accumulates of the direct form.
    threads : int
        How many share a call: as many as were asked for, or fewer where the work is too little.
    """

    def __init__(
        self,
        composite: Composite,
        scheduled: Scheduled,
        kernel: LoadedKernel,
        device: Device,
        *,
        threads: int,
        work: float,
    ) -> None:
        from schedules.jit import aligned

        self.input_shape = composite.inputs[0]
        self.output_shape = composite.shape
        self.plan = scheduled.note
        self.tuning = scheduled.tuned.reason if scheduled.tuned else ""
        self.macs = scheduled.macs
        self.threads, self._shares = _sharing(kernel.signature.extent, threads, work)
        self._wakes = work >= _WORTH_WAKING
        self._kernel = kernel
        self._device = device
        self._constants = [aligned(c) for c in scheduled.constants]

    def __repr__(self) -> str:
        return f"<ParcOperator {self.input_shape} -> {self.output_shape}, {self.plan}>"

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """Compute the operator.

        Parameters
        ----------
        x : float32 array, shape `input_shape`
            C-contiguous; may be read-only and of any alignment of its elements. NaN and infinity
            spread along their lines as IEEE 754 says.
        out : float32 array, shape `output_shape`, or None
            C-contiguous, writable, apart from `x`. None: a new array.

        Returns
        -------
        array
            `out`, or the new one, which begins at a cache line.

        Raises
        ------
        InputError
            An array that is not as described; nothing has been written.
        """
        if out is None:
            from schedules.jit import scratch_memory

            # numpy begins at 16 bytes, and then every wide vector lies across two cache lines
            out = scratch_memory(4 * math.prod(self.output_shape)).reshape(self.output_shape)
        self.bind(x, out)()
        return out

    def bind(self, x: Array, y: Array) -> Callable[[], object]:
        """Check the arrays once and return a call without arguments that computes `y` from `x`.

        The call keeps both arrays alive and has its own scratch memory. It must not run in two
        threads at once, as any writing to `y` must not.

        Raises
        ------
        InputError
            As for calling the operator.
        """
        _check("x", x, self.input_shape)
        _check("out", y, self.output_shape)
        if not y.flags.writeable:
            raise InputError("out is read-only; give an array that can be written to.")
        if np.may_share_memory(x, y):
            raise InputError(
                "x and out overlap in memory; the operator cannot work in place. "
                "Give another array, or none for a new one."
            )
        return self._call(x, y)

    def _call(self, x: Array, y: Array) -> Callable[[], object]:
        """The kernel on these arrays."""
        from schedules.jit import scratch_memory

        arrays = (x, *self._constants, y)
        size = self._kernel.signature.scratch_bytes  # a multiple of the alignment
        scratch = scratch_memory(size * self.threads)
        job = self._kernel.job(
            [_address(a) for a in arrays],
            [_address(scratch) + size * i for i in range(self.threads)],
            shares=self._shares,
            wakes=self._wakes,
        )
        pointer = ctypes.c_void_p(_address(job))
        pointer.keeps = (arrays, scratch, job, self._kernel)  # type: ignore[attr-defined]
        if self.threads == 1:
            return partial(self._kernel.share, pointer, 0, 0)
        from schedules.threads import shared_pool

        pool = shared_pool(self._device)
        pool.ensure(self.threads - 1)
        return partial(pool.run, pool.address, pointer)


def _sharing(extent: int, threads: int, work: float) -> tuple[int, int]:
    """How many threads take part, and into how many shares the parallel loop is cut."""
    from schedules.threads import MOST_SHARES

    threads = max(1, int(min(threads, extent, work / _LEAST_WORK, MOST_SHARES)))
    return threads, 1 if threads == 1 else min(_SHARES * threads, extent, MOST_SHARES)


def _work(composite: Composite, device: Device, plan: str, layout: str) -> float:
    """The planner's estimate of all correlations, in multiply-adds of a vector."""
    total = 0.0
    for node in composite.nodes:
        if node.op != "relax.parc":
            continue
        weight = node.args[1]
        order = [layout.index(name) for name in "NHW"]
        batch, height, width = (node.shape[i] for i in order)
        dense = weight.ndim == 3
        spec = ParcSpec(
            axis=Axis(node.attrs["axis"]),
            batch=batch,
            channels=weight.shape[-2],
            out_channels=len(weight) if dense else None,
            height=height,
            width=width,
        )
        choice = resolve_plan(plan, spec, device, layout)
        cost = dict(choice.ranked)[choice.plan] * spec.lines
        total += cost * (1 if dense else spec.channels) / device.lanes()
    return total


def _address(array: Array) -> int:
    """Of the array's first element."""
    return int(array.__array_interface__["data"][0])


# ---------------------------------------------------------------- what the user gave


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _shape(shape: Sequence[int], layout: str) -> tuple[int, int, int, int]:
    """The four extents as plain numbers."""
    extents = tuple(shape) if isinstance(shape, (tuple, list)) else ()
    if len(extents) != 4 or not all(_whole(e) and e >= 1 for e in extents):
        raise InputError(
            f"shape is {shape!r}; accepted: four whole numbers of at least 1, in the order {layout}."
        )
    if math.prod(int(e) for e in extents) >= 2**31:
        raise InputError(f"shape {extents} has 2**31 elements or more; kernels count with 32 bits.")
    a, b, c, d = (int(e) for e in extents)
    return a, b, c, d


def _check(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse what the kernel cannot take."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise InputError(f"{name} is a {type(array).__name__}; accepted: a numpy array.")
    if array.dtype != np.float32:
        raise InputError(
            f"{name} has dtype {array.dtype.str}; accepted: float32 in this machine's byte order."
        )
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}; the operator was compiled for {shape}.")
    if not array.flags.c_contiguous:
        raise InputError(
            f"{name} has strides {array.strides} and is not C-contiguous; "
            "copy it with np.ascontiguousarray."
        )
    if not array.flags.aligned:
        raise InputError(f"{name} does not begin at a multiple of 4 bytes; copy it with np.array.")


def _parts(
    axis: str,
    weight: Arrays,
    position_embedding: Arrays | None,
    bias: Arrays | None,
    channels: int,
    height: int,
    width: int,
) -> list[tuple[Array, Array, Array]]:
    """Kernel, position embedding and bias of each correlation, checked, float32."""
    lengths = {"H": (height,), "W": (width,)}.get(axis, (height, width))
    given = weight if isinstance(weight, (tuple, list)) else (weight,)
    if len(lengths) == 2 and any(getattr(w, "ndim", 0) == 3 for w in given):
        raise UnsupportedError(
            f'a dense kernel (C_out, C, N) along axis "{axis}" is not supported. '
            "Compile one operator for each axis."
        )
    weights: list[Any]
    if len(lengths) == 1:
        weights, embeddings, biases = [weight], [position_embedding], [bias]
    elif axis == "HW":
        weights = _pair("weight", weight)
        embeddings = _pair("position_embedding", position_embedding)
        biases = _pair("bias", bias)
    else:
        if isinstance(weight, np.ndarray) and weight.ndim == 2 and height == width:
            cut = channels // 2
            weight = (weight[:cut], weight[cut:])
            if isinstance(position_embedding, np.ndarray) and position_embedding.ndim == 2:
                position_embedding = (position_embedding[:cut], position_embedding[cut:])
        weights = _pair("weight", weight)
        embeddings = _pair("position_embedding", position_embedding)
        biases = [bias, None]
    found = [_numbers("weight", w) for w in weights]
    if axis == "half":
        counts = [len(w) if w.ndim else 0 for w in found]
        if sum(counts) != channels or 0 in counts:
            raise InputError(
                f"the weights of axis half have {counts[0]} and {counts[1]} channels; together they "
                f"must have the input's {channels}, and each at least one."
            )
        bias = np.zeros(channels) if bias is None else _numbers("bias", bias)
        if bias.shape != (channels,):
            raise InputError(f"bias has shape {bias.shape}; it must be ({channels},).")
        biases = [bias[: counts[0]], bias[counts[0] :]]
    else:
        counts = [channels] * len(found)
    parts = []
    for w, pe, b, count, length in zip(found, embeddings, biases, counts, lengths, strict=True):
        if w.ndim not in (2, 3) or w.shape[-2:] != (count, length) or w.shape[0] < 1:
            raise InputError(
                f"weight has shape {w.shape}; with {count} channels and {length} points along "
                f"the axis it must be ({count}, {length}), or (C_out, {count}, {length})."
            )
        pe = np.zeros((count, length)) if pe is None else _numbers("position_embedding", pe)
        if pe.shape != (count, length):
            raise InputError(
                f"position_embedding has shape {pe.shape}; it must be ({count}, {length})."
            )
        b = np.zeros(len(w)) if b is None else _numbers("bias", b)
        if b.shape != (len(w),):
            raise InputError(f"bias has shape {b.shape}; it must be ({len(w)},).")
        parts.append((w, pe.astype(np.float32), b.astype(np.float32)))
    return parts


def _pair(name: str, value: Arrays | None) -> list[Any]:
    """The two of a pair; two times None for None."""
    if value is None:
        return [None, None]
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return list(value)
    kind = f"of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)
    raise InputError(
        f"{name} is {kind}; an operator along both axes takes a pair (along H, along W)."
    )


def _numbers(name: str, value: Any) -> NDArray[np.float32]:
    """A constant as float32."""
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name} is a {type(value).__name__}; accepted: a numpy array.")
    if value.dtype.kind != "f":
        raise InputError(f"{name} has dtype {value.dtype}; accepted: floating-point numbers.")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(value, np.float32)
    if np.any(np.isinf(result) & np.isfinite(value)):
        raise InputError(
            f"{name} has the value {value.flat[np.argmax(abs(value))]}, which is beyond float32; "
            "accepted: up to 3.4e38."
        )
    return result


def _composite(
    axis: str, layout: str, shape: tuple[int, ...], parts: list[tuple[Array, Array, Array]]
) -> Composite:
    """The operator as the rules read it."""
    from schedules.rule import Composite, Node, Ref

    dim = layout.index("C")

    def parc(source: Ref, along: str, part: tuple[Array, Array, Array]) -> Node:
        extents = tuple(len(part[0]) if i == dim else n for i, n in enumerate(shape))
        attrs = {"axis": along, "layout": layout}
        return Node(op="relax.parc", args=(source, *part), attrs=attrs, shape=extents)

    x = Ref("input", 0)
    if axis in ("H", "W"):
        nodes = [parc(x, axis, parts[0])]
    elif axis == "HW":
        nodes = [parc(x, "H", parts[0]), parc(Ref("node", 0), "W", parts[1])]
    else:
        nodes = []
        begin = 0
        for along, part in zip("HW", parts, strict=True):
            end = begin + len(part[0])
            attrs = {"axes": (dim,), "begin": (begin,), "end": (end,), "strides": (1,)}
            extents = tuple(end - begin if i == dim else n for i, n in enumerate(shape))
            cut = Node(op="relax.strided_slice", args=(x,), attrs=attrs, shape=extents)
            nodes += [cut, parc(Ref("node", len(nodes)), along, part)]
            begin = end
        joined = (Ref("node", 1), Ref("node", 3))
        nodes.append(Node(op="relax.concat", args=(joined,), attrs={"axis": dim}, shape=shape))
    return Composite(inputs=(shape,), nodes=tuple(nodes))
