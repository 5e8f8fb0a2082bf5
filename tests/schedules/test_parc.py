"""Does the ParC kernel compute equation 3 for every length, plan, axis, width and device?"""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest
from composites import Builder, check, expected
from correlations import bound_of, correlate
from run_kernel import run_rule
from run_many import run_many

from parc_hw.device import load_device
from parc_hw.plan import MAX_TRANSFORM, SplitPlan
from parc_hw.planner import resolve_plan
from parc_hw.spec import Axis, ParcSpec
from schedules.cpu.parc import parc
from schedules.rule import Composite, Context, Node, NotApplicable, Ref

pytestmark = pytest.mark.tvm


def constants(b, channels, length):
    return b.normal(channels, length), b.normal(channels, length), b.normal(channels)


def build(shape, axis, steps=(), seed=0):
    """One ParC over all channels of `shape`."""
    b = Builder(seed)
    x = b.input(*shape)
    weights = constants(b, shape[3], shape[1 if axis == "H" else 2])
    b.node("relax.parc", x, *weights, shape=shape, axis=axis, layout="NHWC")
    b.add_steps(steps)
    return b


def plan_of(shape, axis, device="host", text="auto"):
    batch, height, width, channels = shape
    spec = ParcSpec(axis=Axis(axis), batch=batch, channels=channels, height=height, width=width)
    return resolve_plan(text, spec, load_device(device)).plan


def settle(b, anchor, value, bound):
    """(value, bound) of the composite whose node `anchor` is `value`.

    Leading steps by constants are part of the kernel's weights and start values, and so of
    bound(scale, shift); the others follow one by one.
    """
    scale, shift = np.ones(value.shape[-1]), np.zeros(value.shape[-1])
    for node in b.nodes[anchor + 1 :]:
        operands = [np.asarray(a, float).ravel() for a in node.args if isinstance(a, np.ndarray)]
        if node.op not in ("relax.multiply", "relax.add") or not operands:
            break
        if node.op == "relax.multiply":
            scale, shift = scale * operands[0], shift * operands[0]
        else:
            shift = shift + operands[0]
        anchor += 1
    after = Builder()
    after.inputs = b.inputs
    for node in b.nodes[anchor:]:
        args = tuple(
            Ref("node", a.index - anchor) if isinstance(a, Ref) and a.kind == "node" else a
            for a in node.args
        )
        after.nodes.append(dataclasses.replace(node, args=args))
    return expected(after, value * scale + shift, bound(scale, shift))


def exact(b, plan):
    """(value, bound) of `build`'s composite under `plan`."""
    x, axis = b.inputs[0], b.nodes[0].attrs["axis"]
    weight, pe, bias = b.nodes[0].args[1:]

    def bound(scale, shift):
        return bound_of(x, weight * scale[:, None], pe, bias * scale + shift, axis, plan)

    return settle(b, 0, correlate(x, weight, pe, bias, axis), bound)


def build_half(shape, first, axes, steps=()):
    """Channels 0 to `first` along axes[0], the others along axes[1], joined again."""
    b = Builder(sum(shape))
    x = b.input(*shape)
    branches = []
    for (begin, end), axis in zip(pairwise((0, first, shape[3])), axes, strict=True):
        part = (*shape[:3], end - begin)
        along = {"axes": (3,), "begin": (begin,), "end": (end,), "strides": (1,)}
        piece = b.node("relax.strided_slice", x, shape=part, **along)
        weights = constants(b, end - begin, shape[1 if axis == "H" else 2])
        branches.append(b.node("relax.parc", piece, *weights, shape=part, axis=axis, layout="NHWC"))
    b.node("relax.concat", tuple(branches), shape=shape, axis=3)
    b.add_steps(steps)
    return b


def exact_half(b, device="host"):
    """(value, bound) of `build_half`'s composite."""
    parts = []
    for cut, node in ((b.nodes[0], b.nodes[1]), (b.nodes[2], b.nodes[3])):
        channels = slice(cut.attrs["begin"][0], cut.attrs["end"][0])
        parts.append((channels, b.inputs[0][..., channels], *node.args[1:], node.attrs["axis"]))

    def bound(scale, shift):
        return np.concatenate(
            [
                bound_of(
                    x,
                    weight * scale[channels, None],
                    pe,
                    bias * scale[channels] + shift[channels],
                    axis,
                    plan_of(x.shape, axis, device),
                )
                for channels, x, weight, pe, bias, axis in parts
            ],
            axis=3,
        )

    return settle(b, 4, np.concatenate([correlate(*part[1:]) for part in parts], 3), bound)


def run_builders(builders, text="auto"):
    context = Context(device=load_device("host"), plan=text)
    results = run_many([(parc(b.composite(), context), b.inputs) for b in builders])
    return [r.reshape(b.shape) for r, b in zip(results, builders, strict=True)]


@pytest.mark.parametrize("lengths", [range(1, 23), range(23, 45), range(45, 65)], ids=str)
def test_every_length_up_to_64(lengths):
    """Each length with the planner's choice, the axes in turn; 5 channels: two blocks that overlap."""
    axes = ["HW"[n % 2] for n in lengths]
    shapes = [(1, n, 2, 5) if n % 2 == 0 else (1, 2, n, 5) for n in lengths]
    builders = [build(s, axis, seed=n) for n, s, axis in zip(lengths, shapes, axes, strict=True)]
    results = run_builders(builders)
    for b, shape, axis, result in zip(builders, shapes, axes, results, strict=True):
        check(result, *exact(b, plan_of(shape, axis)))


@pytest.mark.parametrize("length", [12, 28, 30])
def test_every_plan_of_a_length_computes_the_same(length):
    factors = [n for n in range(1, min(length, MAX_TRANSFORM) + 1) if length % n == 0]
    b = build((1, length, 2, 6), "H")
    jobs = []
    for n1 in factors:
        context = Context(device=load_device("host"), plan=f"{n1}x{length // n1}")
        jobs.append((parc(b.composite(), context), b.inputs))
    for n1, result in zip(factors, run_many(jobs), strict=True):
        check(result.reshape(b.shape), *exact(b, SplitPlan(n1=n1, n2=length // n1)))


@pytest.mark.parametrize("text", ["direct", "fft"])
def test_the_forms_of_both_papers(text):
    builders = [build((1, n, 3, 4), "H") for n in (7, 14, 31, 37, 56)]
    for b, result in zip(builders, run_builders(builders, text), strict=True):
        check(result, *exact(b, plan_of(b.shape, "H", text=text)))


@pytest.mark.parametrize("length", [97, 112, 211, 1009, 1024])
def test_long_and_prime_lengths(length):
    shape = (1, 1, length, 4)
    (result,) = run_builders([b := build(shape, "W")])
    check(result, *exact(b, plan_of(shape, "W")))


@pytest.mark.parametrize("axis", ["H", "W"])
def test_rectangles_batches_and_any_number_of_channels(axis):
    shapes = [(2, 14, 9, c) for c in (1, 3, 5, 17, 24, 33, 48)] + [(3, 8, 21, 16), (1, 1, 10, 7)]
    builders = [build(shape, axis, steps=("scale", "bias")) for shape in shapes]
    for b, shape, result in zip(builders, shapes, run_builders(builders), strict=True):
        check(result, *exact(b, plan_of(shape, axis)))


@pytest.mark.parametrize("channels", [1, 3, 5, 17, 24, 33])
def test_no_access_leaves_the_buffers(channels):
    b = build((2, 6, 5, channels), "H", steps=("scale", "bias", "nn.gelu", "residual"))
    check(run_rule(parc, b.composite(), b.inputs), *exact(b, plan_of(b.shape, "H")))


@pytest.mark.parametrize("axes", ["HW", "WH"])
@pytest.mark.parametrize(
    ("shape", "first"), [((2, 14, 9, 48), 24), ((1, 7, 12, 33), 16), ((1, 4, 6, 5), 3)]
)
def test_halves_along_both_axes_in_one_kernel(shape, first, axes):
    b = build_half(shape, first, axes, steps=("scale", "bias", "nn.relu", "residual"))
    check(run_rule(parc, b.composite(), b.inputs), *exact_half(b))


def test_halves_equal_the_two_correlations_to_the_bit():
    """The joined kernel changes addresses, never a number."""
    b = build_half((1, 14, 14, 32), 16, "HW")
    parts = []
    for begin, node in ((0, b.nodes[1]), (16, b.nodes[3])):
        alone = Node(
            op=node.op, args=(Ref("input", 0), *node.args[1:]), attrs=node.attrs, shape=node.shape
        )
        x = np.ascontiguousarray(b.inputs[0][..., begin : begin + 16])
        parts.append((Composite(inputs=(node.shape,), nodes=(alone,)), [x]))
    context = Context(device=load_device("host"))
    whole, *halves = run_many(
        [(parc(b.composite(), context), b.inputs)] + [(parc(c, context), x) for c, x in parts]
    )
    joined = np.concatenate([h.reshape(1, 14, 14, 16) for h in halves], 3)
    assert np.array_equal(whole.reshape(joined.shape), joined)


def unit(b, **change):
    """The builder's only node with other constants: weight, position_embedding or bias."""
    names = ("x", "weight", "position_embedding", "bias")
    args = [change.get(n, a) for n, a in zip(names, b.nodes[0].args, strict=True)]
    b.nodes[0] = dataclasses.replace(b.nodes[0], args=tuple(args))
    return b


@pytest.mark.parametrize("text", ["auto", "direct"])
def test_a_delta_kernel_shifts(text):
    """w = delta at k: y[i] = x[i + k mod N]; with the direct form to the bit."""
    shape, k = (1, 14, 3, 8), 5
    delta = np.zeros((8, 14), np.float32)
    delta[:, k] = 1
    b = unit(build(shape, "H"), weight=delta, position_embedding=delta * 0, bias=delta[:, 0] * 0)
    (result,) = run_builders([b], text)
    shifted = np.roll(b.inputs[0], -k, axis=1)
    if text == "direct":
        assert np.array_equal(result, shifted)
    check(result, shifted.astype(float), exact(b, plan_of(shape, "H", text=text))[1])


def test_without_position_embedding_a_shift_of_the_input_shifts_the_result():
    shape = (1, 28, 2, 8)
    b = build(shape, "H")
    unit(b, position_embedding=np.zeros((8, 28), np.float32))
    scheduled = parc(b.composite(), Context(device=load_device("host")))
    inputs = [b.inputs[0], np.roll(b.inputs[0], 9, axis=1)]
    one, other = (r.reshape(shape) for r in run_many([(scheduled, [x]) for x in inputs]))
    bound = exact(b, plan_of(shape, "H"))[1]
    assert np.all(abs(np.roll(one, 9, axis=1) - other) <= bound + np.roll(bound, 9, axis=1))


def test_h_and_w_are_transposes_of_each_other():
    """H(x) = W(x^T)^T, to the bit: only addresses differ."""
    b = build((2, 14, 6, 20), "H")
    turned = Builder()
    turned.inputs = [np.ascontiguousarray(b.inputs[0].swapaxes(1, 2))]
    node = b.nodes[0]
    turned.node(node.op, *node.args, shape=(2, 6, 14, 20), axis="W", layout="NHWC")
    along_h, along_w = run_builders([b, turned])
    assert np.array_equal(along_h, along_w.swapaxes(1, 2))


def test_registers_change_no_number():
    """Few registers regroup the sums; on one instruction set the bits are the same."""
    device = load_device("host")
    b = build((1, 28, 3, 8), "H")
    jobs = []
    for registers in (8, 16, 32):
        small = dataclasses.replace(device, vector_registers=registers)
        jobs.append((parc(b.composite(), Context(device=small, plan="4x7")), b.inputs))
    first, *others = run_many(jobs)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize(
    ("axis", "length", "channels"), [("H", 28, 24), ("W", 14, 9), ("H", 13, 3)]
)
def test_arm_devices_correlate(device, axis, length, channels):
    shape = (2, length, 3, channels) if axis == "H" else (2, 3, length, channels)
    b = build(shape, axis, steps=("scale", "nn.gelu"))
    check(run_rule(parc, b.composite(), b.inputs, device), *exact(b, plan_of(shape, axis, device)))


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
def test_arm_devices_correlate_halves(device):
    b = build_half((1, 14, 7, 40), 20, "WH", steps=("bias", "residual"))
    check(run_rule(parc, b.composite(), b.inputs, device), *exact_half(b, device))


def test_what_is_no_depthwise_parc_is_refused_with_the_reason():
    context = Context(device=load_device("host"))
    b = build((1, 6, 5, 4), "H")
    cases = [
        (
            unit(build((1, 6, 5, 4), "H"), weight=b.normal(4, 4, 6)),
            r"dense kernel of shape \(4, 4, 6\)",
        ),
        (build_half((1, 6, 5, 4), 2, "HW"), "joined along axis 2"),
    ]
    cases[1][0].nodes[4] = dataclasses.replace(cases[1][0].nodes[4], attrs={"axis": 2})
    b.nodes[0] = dataclasses.replace(b.nodes[0], attrs={"axis": "H", "layout": "NCHW"})
    cases.append((b, "layout is NCHW"))
    for builder, reason in cases:
        refusal = parc(builder.composite(), context)
        assert isinstance(refusal, NotApplicable)
        assert re.search(reason, refusal.reason), refusal.reason
