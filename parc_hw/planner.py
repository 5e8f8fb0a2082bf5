"""Which plan computes a ParC with the least work on a device, and why that one?

The estimate counts what a kernel executes for one line of one vector of channels: arithmetic,
loads and stores of the three stages (`parc_hw.weights`), values that do not fit the registers,
and turns of rolled loops. It orders plans; it is no time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from parc_hw.dataflow import Dag, Fma, Mul, count, fuse, real_dft, transpose
from parc_hw.device import Device, Isa
from parc_hw.errors import InputError
from parc_hw.plan import MAX_TRANSFORM, SplitPlan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import complex_rows

__all__ = ["Choice", "check_plan", "outputs_at_once", "plan_parc", "resolve_plan"]

LAYOUTS = ("NHWC", "NCHW")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A plan for one ParC and the reason for it.

    Parameters
    ----------
    plan : SplitPlan
        The plan to compile.
    reason : str
        One line for people.
    ranked : tuple of (SplitPlan, float)
        Every plan considered with its estimated cost, cheapest first; the unit is one
        multiply-add of a vector per channel and line.
    """

    plan: SplitPlan
    reason: str
    ranked: tuple[tuple[SplitPlan, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prices:
    """Cost of one instruction of each kind, in multiply-adds."""

    multiply: float = 1.0  # multiplication or fused multiply-add
    add: float
    load: float
    store: float
    constant: float  # bringing a codelet's constant into a register
    address: float  # of each row that a codelet reads from or writes to the tensor
    spill: float  # of the points of a codelet beyond `room` of the registers, to the power `steep`
    room: float
    steep: float = 1.0
    turn: float  # of a rolled loop: count, compare, branch, and what the pipeline loses


# ARM: fitted to the executed instructions (under qemu, 16 channels in NHWC) of the plans of 11 and 13
# lengths from 7 to 112 on a Cortex-A76 and a Cortex-A17; the choices execute at most 2 % (16 % for 8
# points) and 13 % more than the fewest of any plan. Counts are no times.
# x86: weights and constants are memory operands; fitted to the measured times of all plans of 40
# lengths from 7 to 256 on an Intel core, compiled for AVX2 and for AVX-512
# (`benchmarks/planner_pick.py` measures the choice). With AVX-512 long codelets cost more before
# they spill, at first little.
_PRICES = {
    Isa.X86_64: _Prices(
        add=0.9, load=1.25, store=0.35, constant=0.0, address=0.0, spill=11.0, room=0.75, turn=4.5
    ),
    Isa.AARCH64: _Prices(
        add=0.55, load=0.6, store=0.35, constant=1.25, address=0.3, spill=3.2, room=0.3, turn=1.5
    ),
    Isa.ARMV7A: _Prices(
        add=1.8, load=0.7, store=0.9, constant=5.0, address=1.7, spill=12.0, room=0.72, turn=1.9
    ),
}
_AVX512_PRICES = _Prices(
    add=0.16,
    load=0.7,
    store=0.8,
    constant=0.0,
    address=0.0,
    spill=0.75,
    room=0.25,
    steep=1.5,
    turn=0.5,
)


def _prices_of(device: Device) -> _Prices:
    avx512 = device.isa is Isa.X86_64 and device.vector_registers == 32
    return _AVX512_PRICES if avx512 else _PRICES[device.isa]


def plan_parc(spec: ParcSpec, device: Device, layout: str = "NHWC") -> Choice:
    """Choose the cheapest plan `n1 x n2` of a ParC.

    Every divisor n1 <= `MAX_TRANSFORM` of the length is considered; a prime length above that
    leaves the direct form alone.

    Parameters
    ----------
    spec : ParcSpec
        The operator; only its length and whether it is dense matter.
    device : Device
        Its instruction set and number of vector registers matter.
    layout : {"NHWC", "NCHW"}
        In memory. NHWC: weights are vectors over channels. NCHW: they are scalars, of which ARM
        loads a vector at once.

    Raises
    ------
    InputError
        Unknown layout.
    """
    ranked = _ranked(spec, device, layout)
    best, cost = ranked[0]
    registers = f"{device.vector_registers} vector registers"
    if len(ranked) == 1:
        reason = (
            "direct: a length of one point"
            if spec.length == 1
            else f"direct: {spec.length} has no factor from 2 to {MAX_TRANSFORM}"
        )
        return Choice(plan=best, reason=reason, ranked=ranked)
    direct = next(c for plan, c in ranked if plan.n1 == 1)
    if n1 := _measured(spec, device, layout):
        measured = SplitPlan(n1=n1, n2=spec.length // n1)
        times = dict(ranked)[measured] / cost
        reason = f"{measured}: measured fastest, though estimated at {times:.2f} times {best}"
        return Choice(plan=measured, reason=reason, ranked=ranked)
    if best.n1 == 1:
        second, other = ranked[1]
        compared = f"{second} is estimated at {other / cost:.2f} times its work"
    else:
        compared = f"estimated at {cost / direct:.2f} of the direct form's work"
    reason = f"{best}: cheapest of {len(ranked)} plans for {registers}, {compared}"
    return Choice(plan=best, reason=reason, ranked=ranked)


def _measured(spec: ParcSpec, device: Device, layout: str) -> int:
    """The n1 that was measured to be faster than the estimate's choice, or 0.

    Seven points on AVX-512 in NHWC: for 384 channels of a 7 x 7 map 7x1 took .0025 ms where 1x7, with
    twice the weights, took .0030 ms.
    """
    avx512 = _prices_of(device) is _AVX512_PRICES
    return 7 if avx512 and layout == "NHWC" and spec.depthwise and spec.length == 7 else 0


def resolve_plan(text: str, spec: ParcSpec, device: Device, layout: str = "NHWC") -> Choice:
    """The plan that a user's `--plan` text means at one ParC.

    Parameters
    ----------
    text : str
        "auto": `plan_parc`. "direct": `1xN`. "fft": the longest transform, n1 the largest divisor
        of N up to `MAX_TRANSFORM` (so `Nx1` for N <= 32, `28x2` for 56; a prime N above 32 is
        direct). "N1xN2": that plan where N1 * N2 is the length; at other lengths auto, which the
        reason says, because a model has ParCs of several lengths.
    spec, device, layout
        As for `plan_parc`.

    Raises
    ------
    InputError
        The text is none of these, or N1 is longer than `MAX_TRANSFORM`.
    """
    automatic = plan_parc(spec, device, layout)
    if text == "auto":
        return automatic
    length = spec.length
    if text == "direct":
        plan, reason = SplitPlan(n1=1, n2=length), "asked for direct"
    elif text == "fft":
        plan = max((plan for plan, _ in automatic.ranked), key=lambda plan: plan.n1)
        reason = "asked for fft"
        if length > MAX_TRANSFORM:
            reason += f": no longer transform of at most {MAX_TRANSFORM} points divides {length}"
    else:
        plan = _fixed(text)
        if plan.length != length:
            reason = f"{automatic.reason} ({text} covers {plan.length} points, not {length})"
            return Choice(plan=automatic.plan, reason=reason, ranked=automatic.ranked)
        reason = "asked for"
    cost = dict(automatic.ranked)[plan]
    times = cost / automatic.ranked[0][1]
    if plan != automatic.plan:
        reason += f"; estimated at {times:.2f} times the work of {automatic.plan}"
    return Choice(plan=plan, reason=f"{plan}: {reason}", ranked=automatic.ranked)


def outputs_at_once(n2: int, device: Device, *, pair: bool) -> int:
    """How many outputs of a Toeplitz product a kernel should accumulate at once.

    All n2 when inputs, accumulators and weights fit the registers together: the product is then
    written out, every input loaded once. Otherwise fewer, with a rolled loop over the inputs q in
    which an input and its weights are loaded where they are used.

    Parameters
    ----------
    n2 : int
        Length of the block.
    device : Device
        Its vector registers count; on ARM, where a weight must be in one, two more are kept.
    pair : bool
        Complex pair of rows (two accumulators and two inputs per position) or real row.

    Notes
    -----
    Written out for 16 registers, a pair of n2 = 7 compiles to 916 instructions on cortex-a17, 4.7
    per multiply-add, most of them spills; rolled with three outputs at once it takes 2.3.

    Examples
    --------
    >>> from parc_hw.device import load_device
    >>> [outputs_at_once(7, load_device(d), pair=True) for d in ("cortex-a53", "cortex-a17")]
    [7, 3]
    """
    rows = 2 if pair else 1
    spare = 0 if device.isa is Isa.X86_64 else 2
    if 2 * rows * n2 + rows + spare <= device.vector_registers:
        return n2
    return min(n2 - 1, (device.vector_registers - 2 * rows) // (2 * rows))


def check_plan(text: str) -> None:
    """Refuse early a `--plan` that no ParC of any length could take.

    Raises
    ------
    InputError
        Not auto, direct, fft or N1xN2, or N1 is longer than `MAX_TRANSFORM`.
    """
    if text not in ("auto", "direct", "fft"):
        _fixed(text)


def _fixed(text: str) -> SplitPlan:
    """Read N1xN2 of any length."""
    first, _, second = text.partition("x")
    if first.isdecimal() and second.isdecimal():
        return SplitPlan(n1=int(first), n2=int(second))
    raise InputError(
        f"plan {text!r} is not understood; accepted are auto, direct, fft and N1xN2 where "
        "N1 * N2 is the length of a ParC, for example 14x4."
    )


def _ranked(spec: ParcSpec, device: Device, layout: str) -> tuple[tuple[SplitPlan, float], ...]:
    """All plans of the length with their costs, cheapest first, shorter transforms first."""
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is not known; accepted: {', '.join(LAYOUTS)}.")
    length = spec.length
    prices = _prices_of(device)
    # by-element multiply-adds take a scalar weight from a vector of them; where channels are the
    # lanes, as of NCHW along the width when there are enough, weights are vectors
    turned = spec.axis is Axis.W and spec.channels >= device.lanes()
    shared = layout == "NCHW" and device.isa is not Isa.X86_64 and not turned
    weight = prices.load / device.lanes() if shared else prices.load
    inner, outer = (1, 1) if spec.depthwise else (spec.channels, spec.out_channels or 1)
    costs = []
    for n1 in range(1, min(length, MAX_TRANSFORM) + 1):
        if length % n1:
            continue
        plan = SplitPlan(n1=n1, n2=length // n1)
        forward, backward = _transforms(n1)
        products = _products(plan, device, prices, weight)
        cost = inner * outer * products
        if n1 > 1:
            cost += plan.n2 * (
                inner * _codelet(forward, prices, device.vector_registers)
                + outer * _codelet(backward, prices, device.vector_registers)
            )
        costs.append((plan, cost))
    return tuple(sorted(costs, key=lambda item: (item[1], item[0].n1)))


@cache
def _transforms(n1: int) -> tuple[Dag, Dag]:
    forward = real_dft(n1)
    return fuse(forward), fuse(transpose(forward))


@cache
def _codelet(dag: Dag, prices: _Prices, registers: int) -> float:
    """One pass of stage 1 or 3: `dag.inputs` loads and stores and the graph's operations."""
    counts = count(dag)
    constants = {node.constant for node in dag.nodes if isinstance(node, Mul | Fma)}
    rows = dag.inputs
    return (
        prices.multiply * (counts.multiplications + counts.fused)
        + prices.add * counts.additions
        + (prices.load + prices.store + prices.address) * rows
        + prices.constant * len(constants)
        + prices.spill * max(0.0, rows - prices.room * registers) ** prices.steep
        + prices.turn
    )


def _products(plan: SplitPlan, device: Device, prices: _Prices, weight: float) -> float:
    """Stage 2: the Toeplitz products of all rows; `weight` is the price of loading one weight."""
    n1, n2 = plan.n1, plan.n2
    pairs = len(complex_rows(n1))
    total = 0.0
    for rows, repeats in ((1, n1 - 2 * pairs), (2, pairs)):
        once = outputs_at_once(n2, device, pair=rows == 2)
        blocks = math.ceil(n2 / once)
        cost = prices.multiply * rows * rows * n2 * n2
        cost += rows * n2 * (weight + prices.store)  # start values and results
        if blocks == 1:
            cost += rows * (prices.load * n2 + weight * (2 * n2 - 1)) + prices.turn
        else:
            cost += rows * (prices.load * n2 * blocks + weight * n2 * n2)
            cost += prices.turn * n2 * blocks
        total += repeats * cost
    return total
