"""Does the layer normalisation keep its accuracy for every width, offset and device?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from composites import Builder, U, check, expected
from run_kernel import run_rule
from run_many import run_many

from parc_hw.device import load_device
from schedules.cpu.norm import layer_norm
from schedules.rule import Context, NotApplicable

pytestmark = pytest.mark.tvm

EPSILON = 1e-6


def build(*shape, offset=0.0, steps=(), **attrs):
    """A layer normalisation of x + offset over the last axis, gamma and beta normal."""
    b = Builder(seed=shape[-1])
    x = b.input(*shape)
    b.inputs[0] += np.float32(offset)
    attrs = {"axes": (-1,), "epsilon": EPSILON, "center": True, "scale": True, **attrs}
    b.node("relax.nn.layer_norm", x, b.normal(shape[-1]), b.normal(shape[-1]), shape=shape, **attrs)
    b.add_steps(steps)
    return b


def exact(b):
    """(value, bound) of the result; every line of the bound is one step of the kernel."""
    x = b.inputs[0].astype(float)
    attrs = b.nodes[0].attrs
    gamma = b.nodes[0].args[1].astype(float) if attrs["scale"] else 1.0
    beta = b.nodes[0].args[2].astype(float) if attrs["center"] else 0.0
    channels = x.shape[-1]
    roundings = channels / 4 + 12  # of a sum in vectors of at least 4, halves and tails included
    mean = x.mean(-1, keepdims=True)
    d = x - mean
    variance = (d * d).mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(variance + EPSILON)
    e_mean = (roundings + 2) * U * abs(x).mean(-1, keepdims=True)
    e_d = e_mean + U * abs(d)
    e_variance = (2 * abs(d) * e_d + e_d**2).mean(-1, keepdims=True) + (
        roundings + 2
    ) * U * variance
    e_inverse = inverse * (e_variance / (variance + EPSILON) / 2 + 4 * U)
    value = d * inverse * gamma + beta
    bound = abs(gamma) * (inverse * e_d + abs(d) * e_inverse + 3 * U * abs(d) * inverse)
    return expected(b, value, 1.05 * (bound + 2 * U * (abs(d * inverse * gamma) + abs(beta))))


def test_every_width_is_normalised():
    context = Context(device=load_device("host"))
    builders = [build(3, c) for c in [*range(1, 40), 48, 63, 64, 65, 96, 192, 257, 384, 1000]]
    builders += [build(2, 4, 5, 24, steps=s) for s in (["scale", "bias", "nn.relu"], ["residual"])]
    results = run_many([(layer_norm(b.composite(), context), b.inputs) for b in builders])
    for b, result in zip(builders, results, strict=True):
        check(result.reshape(b.shape), *exact(b))


@pytest.mark.parametrize("channels", [1, 5, 24, 33])
def test_tails_stay_inside_the_buffers(channels):
    b = build(2, 3, channels, steps=["residual"])
    check(run_rule(layer_norm, b.composite(), b.inputs), *exact(b))


def test_a_large_offset_does_not_cancel():
    """One pass (mean of squares less squared mean) would lose all digits at 1000 deviations."""
    b = build(4, 96, offset=1000.0)
    result = run_rule(layer_norm, b.composite(), b.inputs)
    value, bound = exact(b)
    check(result, value, bound)
    x = b.inputs[0]
    one_pass = (x * x).mean(-1) - x.mean(-1) ** 2
    assert np.max(abs(one_pass / x.astype(float).var(-1) - 1)) > 0.01


def test_gamma_and_beta_can_be_absent():
    b = build(3, 20, center=False, scale=False)
    check(run_rule(layer_norm, b.composite(), b.inputs), *exact(b))


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("channels", [96, 27])
def test_arm_devices_normalise(device, channels):
    b = build(5, channels, steps=["scale", "nn.gelu"])
    check(run_rule(layer_norm, b.composite(), b.inputs, device), *exact(b))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"axes": (1, 2)}, r"axes \(1, 2\) are not the last axis"), ({"axes": (0,)}, "last axis")],
)
def test_other_axes_are_refused_with_the_reason(change, reason):
    b = build(2, 3, 8, **change)
    refusal = layer_norm(b.composite(), Context(device=load_device("host")))
    assert isinstance(refusal, NotApplicable)
    assert re.search(reason, refusal.reason)
