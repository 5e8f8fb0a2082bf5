"""Are the rows of a softmax right for every length, offset and device?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from composites import Builder, U, check
from run_kernel import run_rule
from run_many import run_many

from parc_hw.device import load_device
from schedules.cpu.softmax import softmax
from schedules.rule import Context, NotApplicable

pytestmark = pytest.mark.tvm


def build(*shape, scale=1.0, offset=0.0, axis=-1):
    b = Builder(seed=shape[-1])
    x = b.input(*shape)
    b.inputs[0] *= np.float32(scale)
    b.inputs[0] += np.float32(offset)
    b.node("relax.nn.softmax", x, shape=shape, axis=axis)
    return b


def exact(b):
    """(value, bound): `exp` to 3e-7 of its argument rounded once, the sum's and two more roundings."""
    x = b.inputs[0].astype(float)
    d = x - x.max(-1, keepdims=True)
    t = np.exp(d)
    value = t / t.sum(-1, keepdims=True)
    relative = 2 * (3e-7 + U * abs(d)) + (x.shape[-1] / 4 + 16) * U
    return value, 1.05 * relative * value + 2e-38


def test_rows_of_every_length_sum_to_one():
    context = Context(device=load_device("host"))
    builders = [build(3, n, scale=3.0) for n in [*range(1, 40), 48, 63, 64, 65, 256, 257, 1000]]
    results = run_many([(softmax(b.composite(), context), b.inputs) for b in builders])
    for b, result in zip(builders, results, strict=True):
        check(result.reshape(b.shape), *exact(b))


@pytest.mark.parametrize("length", [1, 5, 24, 33])
def test_tails_stay_inside_the_buffers(length):
    b = build(2, 3, length)
    check(run_rule(softmax, b.composite(), b.inputs), *exact(b))


def test_large_values_neither_overflow_nor_cancel():
    b = build(4, 50, scale=100.0, offset=3e4)
    check(run_rule(softmax, b.composite(), b.inputs), *exact(b))


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("length", [64, 27])
def test_arm_devices_agree(device, length):
    b = build(5, length, scale=4.0)
    check(run_rule(softmax, b.composite(), b.inputs, device), *exact(b))


def test_another_axis_is_refused_with_the_reason():
    b = build(2, 3, 8, axis=1)
    refusal = softmax(b.composite(), Context(device=load_device("host")))
    assert isinstance(refusal, NotApplicable)
    assert re.search("axis 1 is not the last", refusal.reason)
