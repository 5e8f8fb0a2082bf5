"""Do the pooling kernels average and maximise exactly the pixels of each window?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from composites import Builder, U, check, expected
from run_kernel import run_rule
from run_many import run_many

from parc_hw.device import load_device
from schedules.cpu.pool import global_mean, pool_window
from schedules.rule import Context, NotApplicable

pytestmark = pytest.mark.tvm


def build_mean(*shape, keepdims=True, steps=(), **attrs):
    b = Builder(seed=shape[-1])
    x = b.input(*shape)
    batch, _, _, channels = shape
    result = (batch, 1, 1, channels) if keepdims else (batch, channels)
    attrs = {"axis": (1, 2), "keepdims": keepdims, **attrs}
    b.node("relax.mean", x, shape=result, **attrs)
    b.add_steps(steps)
    return b


def exact_mean(b):
    x = b.inputs[0].astype(float)
    shape = b.nodes[0].shape
    roundings = x.shape[1] * x.shape[2] + 3  # additions, the rounded 1/n, the product
    value = x.mean((1, 2)).reshape(shape)
    return expected(b, value, roundings * U * abs(x).mean((1, 2)).reshape(shape))


def build_window(
    kind,
    shape,
    size,
    *,
    strides=1,
    padding=(0, 0, 0, 0),
    dilation=1,
    ceil=False,
    pad=True,
    steps=(),
):
    """`relax.nn.{kind}_pool2d`; the result's extent is PyTorch's."""
    b = Builder(seed=sum(shape))
    x = b.input(*shape)
    (sy, sx), (ky, kx), (dy, dx) = (
        (v, v) if isinstance(v, int) else v for v in (strides, size, dilation)
    )

    def extent(n, before, after, k, s, d):
        reach = n + before + after - d * (k - 1) - 1
        out = (-(-reach // s) if ceil else reach // s) + 1
        return out - (ceil and (out - 1) * s >= n + before)  # none begins beyond the image

    top, left, bottom, right = padding
    rows = extent(shape[1], top, bottom, ky, sy, dy)
    columns = extent(shape[2], left, right, kx, sx, dx)
    b.node(
        f"relax.nn.{kind}_pool2d",
        x,
        shape=(shape[0], rows, columns, shape[3]),
        pool_size=(ky, kx),
        strides=(sy, sx),
        padding=padding,
        dilation=(dy, dx),
        ceil_mode=ceil,
        count_include_pad=pad,
        layout="NHWC",
        out_layout="NHWC",
    )
    b.add_steps(steps)
    return b


def exact_window(b):
    """Window by window, as PyTorch defines ceil_mode and count_include_pad."""
    node, x = b.nodes[0], b.inputs[0].astype(float)
    a = node.attrs
    top, left, bottom, right = a["padding"]
    value, bound = np.zeros((2, *node.shape))
    for oy in range(node.shape[1]):
        for ox in range(node.shape[2]):
            y0, x0 = oy * a["strides"][0] - top, ox * a["strides"][1] - left
            ys = [y0 + i * a["dilation"][0] for i in range(a["pool_size"][0])]
            xs = [x0 + i * a["dilation"][1] for i in range(a["pool_size"][1])]
            inside = [y for y in ys if 0 <= y < x.shape[1]], [v for v in xs if 0 <= v < x.shape[2]]
            window = x[:, inside[0]][:, :, inside[1]]
            if node.op.endswith("max_pool2d"):
                value[:, oy, ox] = window.max((1, 2))
                continue
            count = len(inside[0]) * len(inside[1])
            if a["count_include_pad"]:
                count = sum(y < x.shape[1] + bottom for y in ys) * sum(
                    v < x.shape[2] + right for v in xs
                )
            value[:, oy, ox] = window.sum((1, 2)) / count
            bound[:, oy, ox] = (len(ys) * len(xs) + 1) * U * abs(window).sum((1, 2)) / count
    return expected(b, value, bound + 1e-30)


MEANS = [
    (1, 7, 7, 48),
    (2, 5, 3, 24),
    (3, 1, 1, 5),
    (1, 1, 3, 17),
    (2, 14, 14, 33),
    (1, 2, 2, 1),
    (1, 13, 11, 3),
]

WINDOWS = [
    dict(kind="max", shape=(1, 14, 14, 32), size=3, strides=2, padding=(1, 1, 1, 1)),
    dict(kind="max", shape=(2, 9, 7, 24), size=2, strides=2),
    dict(kind="max", shape=(2, 9, 10, 5), size=3, strides=2, padding=(1, 1, 1, 1), ceil=True),
    dict(
        kind="max",
        shape=(1, 9, 10, 33),
        size=(3, 2),
        strides=(1, 3),
        dilation=2,
        padding=(1, 0, 1, 0),
    ),
    dict(kind="avg", shape=(1, 14, 14, 32), size=3, strides=2, padding=(1, 1, 1, 1)),
    dict(kind="avg", shape=(2, 8, 8, 5), size=3, strides=2, padding=(1, 1, 1, 1), ceil=True),
    dict(
        kind="avg",
        shape=(2, 8, 9, 5),
        size=3,
        strides=2,
        padding=(1, 1, 1, 1),
        ceil=True,
        pad=False,
    ),
    dict(kind="avg", shape=(1, 6, 7, 17), size=(2, 3), padding=(0, 1, 1, 2), pad=False),
    dict(kind="avg", shape=(1, 6, 5, 24), size=2, strides=2, steps=("scale", "bias", "nn.relu")),
    dict(kind="max", shape=(1, 6, 5, 24), size=2, strides=2, steps=("bias", "residual")),
]


@pytest.mark.parametrize("steps", [(), ("scale", "bias", "nn.relu")], ids=["plain", "epilogue"])
@pytest.mark.parametrize("keepdims", [True, False])
def test_means_of_any_size(keepdims, steps):
    context = Context(device=load_device("host"))
    builders = [build_mean(*shape, keepdims=keepdims, steps=steps) for shape in MEANS]
    results = run_many([(global_mean(b.composite(), context), b.inputs) for b in builders])
    for b, result in zip(builders, results, strict=True):
        check(result.reshape(b.shape), *exact_mean(b))


def test_windows_of_any_kind():
    context = Context(device=load_device("host"))
    builders = [build_window(**w) for w in WINDOWS]
    results = run_many([(pool_window(b.composite(), context), b.inputs) for b in builders])
    for b, result in zip(builders, results, strict=True):
        check(result.reshape(b.shape), *exact_window(b))


def test_a_maximum_is_one_of_its_inputs_to_the_bit():
    b = build_window("max", (1, 6, 6, 20), 3, padding=(1, 1, 1, 1))
    value, _ = exact_window(b)
    assert np.array_equal(run_rule(pool_window, b.composite(), b.inputs), value.astype(np.float32))


@pytest.mark.parametrize("channels", [1, 3, 24, 33])
def test_tails_stay_inside_the_buffers(channels):
    b = build_window("avg", (2, 5, 4, channels), 3, padding=(1, 1, 1, 1))
    check(run_rule(pool_window, b.composite(), b.inputs), *exact_window(b))
    b = build_mean(2, 3, 3, channels)
    check(run_rule(global_mean, b.composite(), b.inputs), *exact_mean(b))


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
def test_arm_devices_pool(device):
    b = build_mean(2, 7, 7, 27, steps=("scale", "nn.relu"))
    check(run_rule(global_mean, b.composite(), b.inputs, device), *exact_mean(b))
    for window in (WINDOWS[3], WINDOWS[6]):
        b = build_window(**window)
        check(run_rule(pool_window, b.composite(), b.inputs, device), *exact_window(b))


def test_other_reductions_are_refused_with_the_reason():
    context = Context(device=load_device("host"))
    refusal = global_mean(build_mean(1, 4, 4, 8, axis=(1,)).composite(), context)
    assert isinstance(refusal, NotApplicable)
    assert re.search(r"axes \(1,\) are not height and width", refusal.reason)
    b = build_window("avg", (1, 6, 6, 8), 2, dilation=2)
    refusal = pool_window(b.composite(), context)
    assert isinstance(refusal, NotApplicable)
    assert re.search("dilated", refusal.reason)
