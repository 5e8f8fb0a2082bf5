"""Does every result of a convolution in small groups read its own neighbouring channels?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from run_kernel import UNIT_ROUNDOFF, run_rule
from run_many import run_many

from parc_hw.device import load_device
from schedules.cpu.grouped import grouped
from schedules.rule import Composite, Context, Node, NotApplicable, Ref

pytestmark = pytest.mark.tvm


def problem(pixels, channels, terms, **attrs):
    """Composite with scale, shift, relu and residual; inputs, exact result and error bound."""
    rng = np.random.default_rng(channels)
    x = rng.normal(size=(*pixels, channels * terms)).astype(np.float32)
    kernel = rng.normal(size=(channels, 1, 1, terms)).astype(np.float32)
    scale, shift = rng.normal(size=(2, channels)).astype(np.float32)
    shape = (*pixels, channels)
    residual = rng.normal(size=shape).astype(np.float32)
    given = {
        "strides": (1, 1),
        "padding": (0, 0, 0, 0),
        "dilation": (1, 1),
        "groups": channels,
        "data_layout": "NHWC",
        "kernel_layout": "OHWI",
        "out_layout": "NHWC",
    }
    steps = [
        ("relax.nn.conv2d", (Ref("input", 0), kernel), given | attrs),
        ("relax.multiply", (Ref("node", 0), scale), {}),
        ("relax.add", (Ref("node", 1), shift), {}),
        ("relax.nn.relu", (Ref("node", 2),), {}),
        ("relax.add", (Ref("node", 3), Ref("input", 1)), {}),
    ]
    nodes = tuple(Node(op=op, args=args, attrs=a, shape=shape) for op, args, a in steps)
    composite = Composite(inputs=(x.shape, shape), nodes=nodes)
    products = x.astype(float).reshape(*shape, terms) * kernel[:, 0, 0].astype(float)
    exact = np.maximum(products.sum(-1) * scale + shift, 0) + residual
    size = abs(products).sum(-1) * abs(scale) + abs(shift) + abs(residual)
    # one rounding of each folded weight, one fma per term from the bias on, one addition
    return composite, [x, residual], exact, 1.01 * (terms + 3) * UNIT_ROUNDOFF * size


CASES = [((1, 3, 4), c, m) for m in (2, 3, 4) for c in (1, 2, 3, 5, 8, 16, 17, 24, 33, 96)]


def test_every_group_gives_its_sum():
    problems = [problem(*case) for case in [*CASES, ((2, 1, 1), 40, 2)]]
    context = Context(device=load_device("host"))
    results = run_many([(grouped(c, context), inputs) for c, inputs, _, _ in problems])
    for result, (_, _, exact, bound) in zip(results, problems, strict=True):
        assert np.all(abs(result.reshape(exact.shape) - exact) <= bound), exact.shape


@pytest.mark.parametrize("channels", [1, 7, 24, 33])
def test_any_number_of_channels_stays_inside_its_buffers(channels):
    composite, inputs, exact, bound = problem((1, 2, 3), channels, 2)
    assert np.all(abs(run_rule(grouped, composite, inputs) - exact) <= bound)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("channels", [24, 7])
def test_arm_devices_compute_the_same_sums(channels, device):
    composite, inputs, exact, bound = problem((1, 2, 3), channels, 2)
    assert np.all(abs(run_rule(grouped, composite, inputs, device) - exact) <= bound)


@pytest.mark.parametrize(
    ("terms", "change", "reason"),
    [
        (2, {"groups": 4}, r"4 groups and a kernel of shape \(8, 1, 1, 2\) for 16 channels"),
        (2, {"kernel_layout": "HWOI"}, r"layouts .*HWOI.*; accepted: NHWC, OHWI, NHWC"),
        (5, {}, "groups of 5 channels; accepted: up to 4"),
        (2, {"strides": (2, 2)}, "the window is not one pixel"),
        (2, {"padding": (1, 1, 1, 1)}, "the window is not one pixel"),
    ],
)
def test_other_convolutions_are_refused_with_the_reason(terms, change, reason):
    composite, _, _, _ = problem((1, 3, 4), 8, terms, **change)
    refusal = grouped(composite, Context(device=load_device("host")))
    assert isinstance(refusal, NotApplicable)
    assert re.search(reason, refusal.reason)
