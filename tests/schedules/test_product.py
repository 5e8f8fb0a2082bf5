"""Is the product of two computed matrices right for every shape, batch and device?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from composites import Builder, U, check, expected
from run_kernel import run_rule
from run_many import run_many

from parc_hw.device import load_device
from schedules.cpu.product import product
from schedules.rule import Context, NotApplicable

pytestmark = pytest.mark.tvm


def build(batch, rows, depth, columns, *, steps=(), shared=False):
    b = Builder(seed=rows + depth + columns)
    a = b.input(*batch, rows, depth)
    c = b.input(*(() if shared else batch), depth, columns)
    b.node("relax.matmul", a, c, shape=(*batch, rows, columns))
    b.add_steps(steps)
    return b


def exact(b):
    """Products and sums in float32, in order: `depth` roundings of every partial sum."""
    x, y = (array.astype(float) for array in b.inputs[:2])
    bound = 1.05 * (x.shape[-1] + 1) * U * (np.abs(x) @ np.abs(y))
    return expected(b, x @ y, bound)


SHAPES = [
    ((), 1, 1, 1), ((), 1, 5, 7), ((), 7, 3, 16), ((2,), 5, 24, 33), ((2, 2), 16, 9, 21),
    ((3,), 49, 12, 49), ((4,), 64, 64, 24), ((1,), 256, 24, 256), ((2,), 30, 100, 47),
]  # fmt: skip


def test_every_shape_is_right():
    context = Context(device=load_device("host"))
    builders = [build(*shape) for shape in SHAPES]
    builders += [build((2,), 9, 8, 11, steps=s) for s in (["nn.relu"], ["residual", "nn.gelu"])]
    builders.append(build((3,), 10, 6, 9, shared=True))
    results = run_many([(product(b.composite(), context), b.inputs) for b in builders])
    for b, result in zip(builders, results, strict=True):
        check(result.reshape(b.shape), *exact(b))


@pytest.mark.parametrize("columns", [1, 5, 24, 33])
def test_tails_stay_inside_the_buffers(columns):
    b = build((2,), 13, 5, columns)
    check(run_rule(product, b.composite(), b.inputs), *exact(b))


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("columns", [24, 27])
def test_arm_devices_agree(device, columns):
    b = build((2,), 13, 7, columns)
    check(run_rule(product, b.composite(), b.inputs, device), *exact(b))


def test_what_it_cannot_take_is_refused_with_the_reason():
    context = Context(device=load_device("host"))
    scaled = build((2,), 4, 4, 4, steps=["scale"])
    b = Builder()
    a, c = b.input(2, 4, 4), b.input(3, 4, 4)
    b.node("relax.matmul", a, c, shape=(2, 4, 4))
    for builder, reason in ((scaled, "constant scale"), (b, "leading dimensions")):
        refusal = product(builder.composite(), context)
        assert isinstance(refusal, NotApplicable)
        assert re.search(reason, refusal.reason)
