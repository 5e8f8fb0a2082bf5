"""Does the dense ParC kernel compute equation 4 for every length, plan, axis, width and device?"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from composites import Builder, U, check, expected
from run_kernel import run_rule
from run_many import run_many

from parc_hw.dataflow import absolute, count, evaluate, real_dft, transpose
from parc_hw.device import load_device
from parc_hw.plan import SplitPlan
from parc_hw.planner import resolve_plan
from parc_hw.spec import Axis, ParcSpec
from parc_hw.weights import complex_rows, split_tables, start_values
from schedules.cpu import RULES
from schedules.cpu.generic import generic
from schedules.cpu.parc import parc
from schedules.cpu.parc_dense import parc_dense
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Scheduled

pytestmark = pytest.mark.tvm


def build(shape, outputs, axis, steps=(), seed=0):
    """One dense ParC from all channels of `shape` to `outputs` channels."""
    b = Builder(seed)
    x = b.input(*shape)
    length = shape[1 if axis == "H" else 2]
    weights = (
        b.normal(outputs, shape[3], length),
        b.normal(shape[3], length),
        b.normal(outputs),
    )
    b.node("relax.parc", x, *weights, shape=(*shape[:3], outputs), axis=axis, layout="NHWC")
    b.add_steps(steps)
    return b


def plan_of(b, device="host", text="auto"):
    node = b.nodes[0]
    batch, height, width, channels = b.inputs[0].shape
    spec = ParcSpec(
        axis=Axis(node.attrs["axis"]),
        batch=batch,
        channels=channels,
        out_channels=node.shape[3],
        height=height,
        width=width,
    )
    return resolve_plan(text, spec, load_device(device)).plan


def correlate(x, weight, pe, bias, axis):
    """Equation 4, tap by tap, along axis 1 (H) or 2 (W) of NHWC, in float64."""
    position = 1 if axis == "H" else 2
    shape = [1, 1, 1, pe.shape[0]]
    shape[position] = pe.shape[1]
    x = x.astype(float) + pe.T.astype(float).reshape(shape)
    result = np.zeros((*x.shape[:3], weight.shape[0])) + bias.astype(float)
    for k in range(pe.shape[1]):
        result += np.roll(x, -k, axis=position) @ weight[:, :, k].T.astype(float)
    return result


def bound_of(b, plan):
    """How far float32 may be from `correlate`: magnitudes through the three stages.

    Every value of a stage errs by at most (roundings so far) * U times the sum of magnitudes that
    flow into it; weights and start values are rounded once themselves.
    """
    x, (weight, pe, bias) = b.inputs[0], b.nodes[0].args[1:]
    position = 1 if b.nodes[0].attrs["axis"] == "H" else 2
    n1, n2 = plan.n1, plan.n2
    outputs, channels, _ = weight.shape
    moved = np.moveaxis(abs(x.astype(float)), position, 0)  # (N, ..., C)
    band = np.arange(n2)[:, None] - np.arange(n2) + n2 - 1
    tables = abs(split_tables(weight, plan)).reshape(outputs, channels, n1, 2 * n2 - 1)[..., band]
    start = abs(start_values(weight, pe, bias, plan)).reshape(-1, n1, n2)
    forward = real_dft(n1)
    u = evaluate(absolute(forward), moved.reshape(n1, n2, *moved.shape[1:]))
    v = np.zeros((n1, n2, *moved.shape[1:3], outputs))
    pairs = complex_rows(n1)
    for row in range(n1):
        first = row if row in pairs else row - 1 if row - 1 in pairs else None
        terms = [(row, row)] if first is None else [(first, row), (first + 1, 2 * first + 1 - row)]
        v[row] = start[:, row].T.reshape(n2, 1, 1, -1)
        for table, other in terms:
            v[row] += np.einsum("ocmq,qabc->mabo", tables[:, :, table], u[other], optimize=True)
    y = evaluate(absolute(transpose(forward)), v).reshape(-1, *v.shape[2:])
    terms = 2 * n2 * channels
    roundings = count(forward).depth + terms + 1 + count(transpose(forward)).depth
    return np.moveaxis(1.05 * roundings * U * y, 0, position)


def exact(b, plan):
    """(value, bound) of `build`'s composite, whose steps the kernel keeps as steps."""
    x, axis = b.inputs[0], b.nodes[0].attrs["axis"]
    return expected(b, correlate(x, *b.nodes[0].args[1:], axis), bound_of(b, plan))


def run_builders(builders, text="auto"):
    context = Context(device=load_device("host"), plan=text)
    results = run_many([(parc_dense(b.composite(), context), b.inputs) for b in builders])
    return [r.reshape(b.shape) for r, b in zip(results, builders, strict=True)]


@pytest.mark.parametrize("lengths", [range(1, 17), range(17, 33), (34, 37, 49, 56, 64)], ids=str)
def test_every_length_up_to_32_and_longer_ones(lengths):
    """Each with the planner's choice, the axes in turn; channel counts that fill no vector."""
    builders = [
        build((1, n, 2, 5), 3, "H", seed=n) if n % 2 else build((1, 2, n, 3), 5, "W", seed=n)
        for n in lengths
    ]
    for b, result in zip(builders, run_builders(builders), strict=True):
        check(result, *exact(b, plan_of(b)))


@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("length", [12, 14])
def test_every_plan_of_a_length_computes_the_same(axis, length):
    shape = (1, length, 3, 6) if axis == "H" else (1, 3, length, 6)
    b = build(shape, 20, axis)
    factors = [n for n in range(1, length + 1) if length % n == 0]
    jobs = []
    for n1 in factors:
        context = Context(device=load_device("host"), plan=f"{n1}x{length // n1}")
        jobs.append((parc_dense(b.composite(), context), b.inputs))
    for n1, result in zip(factors, run_many(jobs), strict=True):
        check(result.reshape(b.shape), *exact(b, SplitPlan(n1=n1, n2=length // n1)))


@pytest.mark.parametrize("axis", ["H", "W"])
def test_rectangles_batches_and_any_number_of_channels(axis):
    sizes = [((2, 6, 7, 1), 17), ((1, 4, 9, 33), 1), ((3, 7, 11, 16), 48), ((1, 5, 1, 24), 50)]
    builders = [build(shape, outputs, axis) for shape, outputs in sizes]
    for b, result in zip(builders, run_builders(builders), strict=True):
        check(result, *exact(b, plan_of(b)))


@pytest.mark.parametrize("text", ["auto", "direct"])
@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize(("channels", "outputs"), [(3, 5), (17, 33), (32, 16)])
def test_no_access_leaves_the_buffers(axis, channels, outputs, text):
    """13 lines are two tasks of unequal size; the epilogue reads a residual."""
    shape = (1, 6, 13, channels) if axis == "H" else (1, 13, 6, channels)
    b = build(shape, outputs, axis, steps=("nn.gelu", "residual"))
    rule = lambda c, context: parc_dense(c, dataclasses.replace(context, plan=text))  # noqa: E731
    result = run_rule(rule, b.composite(), b.inputs)
    check(result, *exact(b, plan_of(b, text=text)))


def test_constant_steps_become_part_of_the_weights():
    b = build((1, 6, 4, 8), 12, "H", steps=("scale", "bias", "nn.relu"))
    weight, pe, bias = b.nodes[0].args[1:]
    scale, shift = b.nodes[1].args[0].astype(float), b.nodes[2].args[1].ravel().astype(float)
    folded = build((1, 6, 4, 8), 12, "H")
    folded.inputs = b.inputs
    args = (folded.nodes[0].args[0], weight * scale[:, None, None], pe, bias * scale + shift)
    folded.nodes[0] = dataclasses.replace(folded.nodes[0], args=args)
    value, bound = exact(folded, plan_of(b))
    (result,) = run_builders([b])
    check(result, np.maximum(value, 0), bound)
    scheduled = parc_dense(b.composite(), Context(device=load_device("host")))
    assert len(scheduled.constants) == 2  # weights and start values, no scale and no shift


def test_a_diagonal_kernel_is_the_depthwise_operator():
    """w[o, c] = 0 unless o = c: equation 4 is equation 3 for every channel."""
    shape = (1, 7, 3, 6)
    dense = build(shape, 6, "H")
    _, weight, pe, bias = dense.nodes[0].args
    depthwise = np.ascontiguousarray(weight[range(6), range(6)])
    diagonal = np.zeros_like(weight)
    diagonal[range(6), range(6)] = depthwise
    args = (Ref("input", 0), diagonal, pe, bias)
    dense.nodes[0] = dataclasses.replace(dense.nodes[0], args=args)
    one = dataclasses.replace(dense.nodes[0], args=(Ref("input", 0), depthwise, pe, bias))
    context = Context(device=load_device("host"))
    both = run_many(
        [
            (parc_dense(dense.composite(), context), dense.inputs),
            (parc(Composite(inputs=(shape,), nodes=(one,)), context), dense.inputs),
        ]
    )
    bound = 2 * bound_of(dense, plan_of(dense)).ravel()
    assert np.all(abs(both[0] - both[1]) <= bound)


def test_h_and_w_are_transposes_of_each_other():
    """H(x) = W(x^T)^T, to the bit: only addresses differ."""
    b = build((2, 14, 6, 20), 24, "H")
    turned = Builder()
    turned.inputs = [np.ascontiguousarray(b.inputs[0].swapaxes(1, 2))]
    node = b.nodes[0]
    turned.node(node.op, *node.args, shape=(2, 6, 14, 24), axis="W", layout="NHWC")
    along_h, along_w = run_builders([b, turned])
    assert np.array_equal(along_h, along_w.swapaxes(1, 2))


def test_the_rules_choose_it_before_the_generic_kernel():
    b = build((1, 7, 7, 16), 16, "W", steps=("nn.relu",))
    context = Context(device=load_device("host"))
    answers = [rule(b.composite(), context) for rule in RULES]
    first = next(a for a in answers if isinstance(a, Scheduled))
    assert first.rule == "parc_dense"
    assert "along W: 7x1" in first.note
    # The two kernels add in different orders, so that they agree within both their bounds.
    ours, theirs = run_many([(first, b.inputs), (generic(b.composite(), context), b.inputs)])
    value, bound = exact(b, plan_of(b))
    direct = exact(b, SplitPlan(n1=1, n2=7))[1]
    check(ours.reshape(b.shape), value, bound)
    check(theirs.reshape(b.shape), value, direct)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize(
    ("axis", "length", "channels", "outputs"), [("H", 14, 12, 9), ("W", 13, 3, 10)]
)
def test_arm_devices_correlate(device, axis, length, channels, outputs):
    shape = (1, length, 3, channels) if axis == "H" else (1, 3, length, channels)
    b = build(shape, outputs, axis, steps=("nn.gelu",))
    check(run_rule(parc_dense, b.composite(), b.inputs, device), *exact(b, plan_of(b, device)))


def test_what_is_no_dense_parc_is_refused_with_the_reason():
    context = Context(device=load_device("host"))
    b = build((1, 6, 5, 4), 3, "H")
    node = b.nodes[0]
    x, weight, pe, bias = node.args
    depthwise = dataclasses.replace(node, args=(x, weight[0], pe, bias[:1]), shape=(1, 6, 5, 4))
    unknown = dataclasses.replace(node, attrs={"axis": "H", "layout": "HWC"})
    computed = dataclasses.replace(node, args=(x, Ref("input", 0), pe, bias))
    relu = Node(op="relax.nn.relu", args=(x,), attrs={}, shape=(1, 6, 5, 4))
    cases = [
        (depthwise, r"depthwise kernel of shape \(4, 6\)"),
        (unknown, "layout is HWC; accepted: NHWC, NCHW"),
        (computed, "computed at run time"),
        (relu, "the anchor is relax.nn.relu"),
    ]
    for anchor, reason in cases:
        refusal = parc_dense(Composite(inputs=((1, 6, 5, 4),), nodes=(anchor,)), context)
        assert isinstance(refusal, NotApplicable)
        assert re.search(reason, refusal.reason), refusal.reason
    planes = dataclasses.replace(
        node, args=(x, weight, pe, bias), attrs={"axis": "H", "layout": "NCHW"}, shape=(1, 3, 6, 5)
    )
    after = Node(op="relax.nn.relu", args=(Ref("node", 0),), attrs={}, shape=(1, 3, 6, 5))
    refusal = parc_dense(Composite(inputs=((1, 4, 6, 5),), nodes=(planes, after)), context)
    assert isinstance(refusal, NotApplicable)
    assert "parc.relu in NCHW has an epilogue" in refusal.reason
