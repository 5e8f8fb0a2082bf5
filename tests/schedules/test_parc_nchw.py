"""Do the kernels of single operators, NCHW and both axes in a row, compute equation 3?"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from composites import Builder, check
from correlations import bound_of, correlate, twice
from run_kernel import run_rule
from run_many import run_many

from parc_hw.device import load_device
from parc_hw.plan import SplitPlan
from parc_hw.planner import resolve_plan
from parc_hw.spec import Axis, ParcSpec
from schedules.cpu.parc import parc_twice
from schedules.cpu.parc_nchw import parc_nchw
from schedules.rule import Context, NotApplicable, Ref

pytestmark = pytest.mark.tvm


class Case:
    """An operator in the memory order of `layout`, beside it everything in NHWC for the oracle."""

    def __init__(self, shape, axes, layout="NCHW", *, half=0, seed=0):
        """`shape` is (B, H, W, C); `half`: that many channels along axes[0], the others axes[1]."""
        self.layout, self.axes, self.nhwc = layout, axes, shape
        self.builder = b = Builder(seed)
        x = b.input(*self.stored(shape))
        counts = [half, shape[3] - half] if half else [shape[3]] * len(axes)
        dim = layout.index("C")
        self.parts = []
        branches = []
        begin = 0
        for axis, count in zip(axes, counts, strict=True):
            length = shape[1 if axis == "H" else 2]
            part = (b.normal(count, length), b.normal(count, length), b.normal(count))
            self.parts.append((*part, axis))
            inner = self.stored((*shape[:3], count))
            source = b.value if b.nodes else x
            if half:
                cut = {"axes": (dim,), "begin": (begin,), "end": (begin + count,), "strides": (1,)}
                source = b.node("relax.strided_slice", x, shape=inner, **cut)
            branches.append(
                b.node("relax.parc", source, *part, shape=inner, axis=axis, layout=layout)
            )
            begin += count
        if half:
            b.node("relax.concat", tuple(branches), shape=self.stored(shape), axis=dim)
        self.half = half

    def stored(self, shape):
        return shape if self.layout == "NHWC" else (shape[0], shape[3], shape[1], shape[2])

    def plans(self, text="auto", device="host"):
        batch, height, width, _ = self.nhwc
        specs = [
            ParcSpec(axis=Axis(p[3]), batch=batch, channels=len(p[0]), height=height, width=width)
            for p in self.parts
        ]
        return [resolve_plan(text, s, load_device(device), self.layout).plan for s in specs]

    def exact(self, plans=None):
        """(value, bound) in NHWC."""
        plans = plans or self.plans()
        (x,) = self.builder.inputs
        x = x if self.layout == "NHWC" else x.transpose(0, 2, 3, 1)
        if self.half:
            pieces = np.split(x, [self.half], axis=3)
            each = zip(pieces, self.parts, plans, strict=True)
            both = [(correlate(v, *p), bound_of(v, *p, plan)) for v, p, plan in each]
            return tuple(np.concatenate(arrays, 3) for arrays in zip(*both, strict=True))
        if len(self.parts) == 2:
            return twice(x, *self.parts, plans)
        return correlate(x, *self.parts[0]), bound_of(x, *self.parts[0], plans[0])

    def nhwc_result(self, flat):
        result = flat.reshape(self.builder.shape)
        return result if self.layout == "NHWC" else result.transpose(0, 2, 3, 1)

    def job(self, text="auto"):
        context = Context(device=load_device("host"), plan=text)
        return RULES[self.layout](self.builder.composite(), context), self.builder.inputs


RULES = {"NCHW": parc_nchw, "NHWC": parc_twice}


def run_cases(cases, text="auto"):
    results = run_many([case.job(text) for case in cases])
    return [case.nhwc_result(r) for case, r in zip(cases, results, strict=True)]


@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("lengths", [range(1, 33), (37, 49, 56, 64, 112)], ids=["short", "long"])
def test_nchw_computes_every_length(axis, lengths):
    """With 3 channels and 5 lines: vectors that overlap."""
    cases = [Case((1, n, 5, 3) if axis == "H" else (1, 5, n, 3), axis, seed=n) for n in lengths]
    for case, result in zip(cases, run_cases(cases), strict=True):
        check(result, *case.exact())


@pytest.mark.parametrize("axis", ["H", "W"])
def test_nchw_computes_any_number_of_lines(axis):
    """1 to 40 lines: every width of vector, whole and overlapping."""
    lines = (1, 2, 3, 7, 8, 9, 14, 16, 17, 31, 32, 40)
    cases = [Case((2, 9, n, 2) if axis == "H" else (2, n, 9, 2), axis, seed=n) for n in lines]
    for case, result in zip(cases, run_cases(cases), strict=True):
        check(result, *case.exact())


@pytest.mark.parametrize("axis", ["H", "W"])
def test_nchw_computes_every_plan(axis):
    case = Case((1, 12, 20, 2) if axis == "H" else (1, 20, 12, 2), axis)
    texts = [f"{n}x{12 // n}" for n in (1, 2, 3, 4, 6, 12)]
    jobs = [case.job(text) for text in texts]
    for text, result in zip(texts, run_many(jobs), strict=True):
        check(case.nhwc_result(result), *case.exact([SplitPlan.parse(text, length=12)]))


@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (14, 5), (13, 17), (1, 6), (33, 28)])
def test_nchw_accesses_nothing_outside_the_buffers(axis, height, width):
    case = Case((2, height, width, 3), axis)
    result = run_rule(parc_nchw, case.builder.composite(), case.builder.inputs)
    check(case.nhwc_result(result), *case.exact())


@pytest.mark.parametrize("axes", ["HW", "WH"])
def test_nchw_halves_take_each_its_axis(axes):
    sizes = [((1, 14, 9, 6), 3), ((2, 7, 12, 5), 2), ((1, 4, 4, 2), 1)]
    for shape, half in sizes:
        case = Case(shape, axes, half=half)
        result = run_rule(parc_nchw, case.builder.composite(), case.builder.inputs)
        check(case.nhwc_result(result), *case.exact())


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("axes", ["HW", "WH", "HH"])
@pytest.mark.parametrize("shape", [(2, 14, 9, 5), (1, 7, 12, 33), (1, 28, 28, 16)])
def test_one_axis_after_the_other(layout, axes, shape):
    case = Case(shape, axes, layout)
    result = run_rule(RULES[layout], case.builder.composite(), case.builder.inputs)
    check(case.nhwc_result(result), *case.exact())


def test_nan_stays_in_its_line():
    """A NaN reaches the whole line that is correlated, in its channel, and nothing else."""
    case = Case((2, 14, 9, 3), "W")
    (x,) = case.builder.inputs
    x[1, 2, 5, 3] = np.nan
    (result,) = run_cases([case])
    expected = np.zeros(result.shape, bool)
    expected[1, 5, :, 2] = True
    assert np.array_equal(np.isnan(result), expected)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
def test_arm_devices_correlate_planes(device):
    case = Case((1, 14, 9, 5), "HW", half=2)
    composite, inputs = case.builder.composite(), case.builder.inputs
    result = run_rule(parc_nchw, composite, inputs, device)
    check(case.nhwc_result(result), *case.exact(case.plans(device=device)))


def test_what_is_none_of_the_known_forms_is_refused_with_the_reason():
    context = Context(device=load_device("host"))
    one = Case((1, 6, 5, 4), "H").builder
    node = one.nodes[0]
    half = Case((1, 6, 5, 4), "HW", half=2).builder
    cut = dataclasses.replace(half.nodes[2], attrs={**half.nodes[2].attrs, "begin": (1,)})
    relu = dataclasses.replace(node, op="relax.nn.relu", args=(Ref("node", 0),))
    dense = dataclasses.replace(node, args=(node.args[0], one.normal(4, 4, 6), *node.args[2:]))
    nhwc = dataclasses.replace(node, attrs={"axis": "H", "layout": "NHWC"})
    cases = [
        ([node, relu], one, r"parc\.relu is not one parc"),
        ([dense], one, r"dense kernel of shape \(4, 4, 6\)"),
        ([nhwc], one, "layout is NHWC"),
        ([*half.nodes[:2], cut, *half.nodes[3:]], half, "not one of two neighbouring parts"),
    ]
    for nodes, builder, reason in cases:
        composite = dataclasses.replace(builder.composite(), nodes=tuple(nodes))
        refusal = parc_nchw(composite, context)
        assert isinstance(refusal, NotApplicable)
        assert re.search(reason, refusal.reason), refusal.reason
    refusal = parc_twice(one.composite(), context)
    assert isinstance(refusal, NotApplicable)
    assert "not a parc of the result of a parc" in refusal.reason
