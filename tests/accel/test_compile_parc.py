"""Has a compiled ParC the words of `fixedpoint.parc`, by sums and by transforms, near its bound?"""

import math

import numpy as np
import pytest
from accelerated import schedules

from fixedpoint.datapath import Cut
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.operator import parc
from fixedpoint.paths import DirectDatapath, FourierDatapath, SplitDatapath
from fixedpoint.qformat import QFormat
from fixedpoint.split import table_format
from parc_hw.accel import bounds
from parc_hw.accel.description import load_description
from parc_hw.accel.operator import compile_parc
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import Axis, ParcSpec
from schedules.accel.kernel import WORD_BYTES

pytestmark = pytest.mark.tvm

Q15 = QFormat.parse("Q1.15")
MACHINES = ("edge-npu", "fpga-small", "fft-heavy", "tiny")


def spec_of(length, lines, channels, axis=Axis.H, outputs=None, bias=True):
    height, width = (length, lines) if axis is Axis.H else (lines, length)
    return ParcSpec(
        axis=axis, batch=1, channels=channels, height=height, width=width,
        out_channels=outputs, bias=bias,
    )  # fmt: skip


def fourier(length, *, dense=False, **rest):
    plan = FftPlan.of(length, output_order="digit_reversed")
    accumulator = "Q5.15" if dense else None
    return plan, FourierDatapath.of(
        plan, data=Q15, bias=Q15, pairs=True, spectrum="Q-4.20", accumulator=accumulator, **rest
    )


def operands(spec, seed=0):
    random = np.random.default_rng(seed)
    shape = (1, spec.channels, spec.height, spec.width)
    outputs = spec.out_channels or spec.channels
    kernel = (spec.channels, spec.length)
    weights = random.integers(-500, 501, kernel if spec.depthwise else (outputs, *kernel))
    bias = random.integers(-2000, 2001, outputs) if spec.bias else None
    words = [
        random.integers(-(1 << 15), 1 << 15, shape),
        np.full(shape, -(1 << 15)),
        np.full(shape, (1 << 15) - 1),
        np.where(random.integers(0, 2, shape), -(1 << 15), (1 << 15) - 1),
    ]
    return words, weights, bias


def check(machine, spec, plan, datapath):
    words, weights, bias = operands(spec)
    program = compile_parc(
        spec, weights, plan=plan, datapath=datapath, machine=load_description(machine),
        bias=bias, schedules=schedules(machine),
    )  # fmt: skip
    for x in words:
        found, _ = program.run(x)
        wanted = parc(x, weights, spec=spec, plan=plan, datapath=datapath, bias=bias)
        assert np.count_nonzero(found != wanted) == 0


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("axis", list(Axis)[:2])
def test_direct_sums_are_exact(machine, axis):
    check(
        machine, spec_of(7, 6, 5, axis), "direct",
        DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), bias=Q15),
    )  # fmt: skip


@pytest.mark.parametrize("rounding", list(Rounding))
def test_every_rounding_and_wrapping(rounding):
    output = Cut(Q15, rounding, Overflow.WRAP)
    path = DirectDatapath(data=Q15, kernel=Q15, output=output, bias=QFormat.parse("Q6.10"))
    check("edge-npu", spec_of(6, 4, 3), "direct", path)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("length", "lines"), [(14, 6), (8, 5)])
def test_transforms_have_the_words_of_the_fixed_point_operator(machine, length, lines):
    check(machine, spec_of(length, lines, 4), *fourier(length))


@pytest.mark.parametrize("machine", ["edge-npu", "tiny"])
def test_a_dense_parc_by_both_plans(machine):
    spec = spec_of(14, 4, 3, Axis.W, outputs=5)
    check(machine, spec, *fourier(14, dense=True))
    direct = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), bias=Q15)
    check(machine, spec, "direct", direct)


def two_level(plan, weights, bits=16, bias=Q15, **rest):
    table = table_format(weights, Q15, plan, bits)
    return SplitDatapath.of(plan, data=Q15, table=table, bias=bias, **rest)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("n1", "n2"), [(7, 2), (4, 3)])
def test_the_two_level_plan_has_the_words_of_the_fixed_point_operator(machine, n1, n2):
    spec = spec_of(n1 * n2, 5, 4, Axis.W if n1 == 4 else Axis.H)
    plan = SplitPlan(n1=n1, n2=n2)
    check(machine, spec, plan, two_level(plan, operands(spec)[1]))


@pytest.mark.parametrize(("n1", "n2"), [(2, 4), (3, 2), (8, 1), (8, 7)])
def test_two_level_plans_of_every_shape(n1, n2):
    spec = spec_of(n1 * n2, 4, 3, bias=n1 != 3)
    plan = SplitPlan(n1=n1, n2=n2)
    check(
        "edge-npu",
        spec,
        plan,
        two_level(plan, operands(spec)[1], guard=1, bias=Q15 if spec.bias else None),
    )


@pytest.mark.parametrize("rounding", list(Rounding))
def test_the_two_level_plan_dense_and_with_every_rounding(rounding):
    spec = spec_of(12, 4, 3, outputs=5)
    plan = SplitPlan(n1=4, n2=3)
    check("edge-npu", spec, plan, two_level(plan, operands(spec)[1], rounding=rounding))


def test_a_spectrum_that_the_rom_does_not_hold_is_loaded():
    machine = load_description("tiny")
    spec = spec_of(56, 2, 256)
    plan, datapath = fourier(56)
    words, weights, bias = operands(spec)
    program = compile_parc(
        spec, weights // 8, plan=plan, datapath=datapath, machine=machine, bias=bias
    )
    assert program.work.kernel.tensors["S"].memory == "external"
    found, _ = program.run(words[0])
    wanted = parc(words[0], weights // 8, spec=spec, plan=plan, datapath=datapath, bias=bias)
    assert (found == wanted).all()


@pytest.mark.parametrize("machine", ["edge-npu", "fpga-small"])
@pytest.mark.parametrize("plan", ["direct", "fft"])
def test_cycles_are_not_below_the_bound_and_near_it(machine, plan):
    """After tuning the distance is less; this is the first estimate's tiling."""
    described = load_description(machine)
    length = lines = 14
    spec = spec_of(length, lines, 96)
    transform, path = fourier(length)
    if plan == "direct":
        path = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), bias=Q15)
    _, weights, bias = operands(spec)
    program = compile_parc(
        spec, weights, plan=transform if plan == "fft" else plan, datapath=path,
        machine=described, bias=bias, schedules=schedules(machine),
    )  # fmt: skip
    kernel = program.work.kernel
    moved = sum(
        math.prod(kernel.tensors[name].shape) * WORD_BYTES[kernel.tensors[name].dtype]
        for name in kernel.parameters
        if kernel.tensors[name].memory == "external"
    )
    points = 96 * length * lines
    work = {"macs": points * length, "bits": (16, 16)}
    if plan == "fft":
        frames = 96 * lines // 2
        counts = bounds.butterfly_counts(transform, 2 * frames)
        work = {"butterflies": counts, "products": frames * length}
    bound = bounds.lower_bound(
        described, elements={"requantise": points}, external_bytes=moved, **work
    )
    assert bound.cycles <= program.cycles() <= 1.5 * bound.cycles


def test_what_the_machine_has_no_points_for_is_refused():
    machine, spec = load_description("edge-npu"), spec_of(8, 4, 3)
    _, weights, bias = operands(spec)

    def attempt(plan, path, match, kind=UnsupportedError):
        with pytest.raises(kind, match=match):
            compile_parc(spec, weights, plan=plan, datapath=path, machine=machine, bias=bias)

    direct = DirectDatapath(data=Q15, kernel=Q15, output=Cut(Q15), bias=Q15)
    attempt("fft", direct, "do not belong together", InputError)
    split = SplitPlan(n1=4, n2=2)
    attempt(split, direct, "do not belong together", InputError)
    whole = SplitPlan(n1=1, n2=8)
    attempt(whole, two_level(whole, weights), "plan 1x8 has no transform")
    cut = two_level(split, weights, product="Q2.20")
    attempt(split, cut, "the machine's sums are exact")
    attempt(
        split, two_level(split, weights, bits=40, rows="Q4.20"), "Give rows or table fewer bits"
    )
    rounded = DirectDatapath(
        data=Q15, kernel=Q15, output=Cut(Q15), bias=Q15, product=Cut(QFormat.parse("Q2.20"))
    )
    attempt("direct", rounded, "the machine's sums are exact")
    raising = Cut(Q15, Rounding.HALF_UP, Overflow.RAISE)
    attempt(
        "direct",
        DirectDatapath(data=Q15, kernel=Q15, output=raising, bias=Q15),
        "saturates or wraps",
    )
    plan = FftPlan.of(8, output_order="digit_reversed")
    attempt(plan, FourierDatapath.of(plan, data=Q15, bias=Q15), "pairs=True")
    with pytest.raises(UnsupportedError, match="one image"):
        compile_parc(
            ParcSpec(axis=Axis.H, batch=2, channels=3, height=8, width=4),
            weights, plan="direct", datapath=direct, machine=machine,
        )  # fmt: skip
