"""Are dense convolutions right for every kernel, stride, padding, layout and device?"""

from __future__ import annotations

import re

import numpy as np
import pytest
from composites import Builder, U, check, expected
from run_kernel import run_rule

from parc_hw.device import load_device
from schedules.cpu.conv import conv
from schedules.rule import Context, NotApplicable

pytestmark = pytest.mark.tvm

HOST_DEVICES = [n for n in ("host", "x86-64-v3", "x86-64") if load_device(n).runs_here]


def build(
    x, out_c, kernel, *, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), nchw=False, steps=()
):
    """A convolution of input `x` (batch, height, width, channels), whatever its layout."""
    batch, h, w, c = x
    b = Builder()
    data = b.input(*((batch, c, h, w) if nchw else x))
    weights = b.normal(*((out_c, c, *kernel) if nchw else (out_c, *kernel, c)))
    out = [
        (size + before + after - d * (k - 1) - 1) // s + 1
        for size, before, after, d, k, s in zip(
            (h, w), padding[:2], padding[2:], dilation, kernel, stride, strict=True
        )
    ]
    b.node(
        "relax.nn.conv2d",
        data,
        weights,
        shape=(batch, *out, out_c),
        strides=stride,
        padding=padding,
        dilation=dilation,
        groups=1,
        data_layout="NCHW" if nchw else "NHWC",
        kernel_layout="OIHW" if nchw else "OHWI",
        out_layout="NHWC",
    )
    b.add_steps(steps)
    return b


def conv_expected(b):
    """(value, bound) from the definition: a sum over the taps, in float64."""
    node = b.nodes[0]
    x, w = b.inputs[0].astype(np.float64), node.args[1].astype(np.float64)
    if node.attrs["data_layout"] == "NCHW":
        x, w = x.transpose(0, 2, 3, 1), w.transpose(0, 2, 3, 1)
    top, left, bottom, right = node.attrs["padding"]
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (sh, sw), (dh, dw) = node.attrs["strides"], node.attrs["dilation"]
    _, out_h, out_w, _ = node.shape
    value, magnitude = np.zeros(node.shape), np.zeros(node.shape)
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            rows = slice(i * dh, i * dh + (out_h - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (out_w - 1) * sw + 1, sw)
            taps = x[:, rows, columns]
            value += taps @ w[:, i, j].T
            magnitude += np.abs(taps) @ np.abs(w[:, i, j]).T
    depth = w[0].size
    return expected(b, value, (depth + 2) * U * magnitude)


def verify(b, device="host"):
    check(run_rule(conv, b.composite(), b.inputs, device), *conv_expected(b))


CASES = {
    "3x3 padded": build((1, 8, 8, 16), 32, (3, 3), padding=(1, 1, 1, 1), steps=["bias"]),
    "odd channels, batch": build((2, 7, 7, 5), 13, (3, 3), padding=(1, 1, 1, 1)),
    "stride 2 padded": build((1, 15, 14, 8), 16, (3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
    "5x5 on an odd image": build((1, 9, 11, 3), 7, (5, 5), stride=(2, 2), padding=(2, 2, 2, 2)),
    "patches": build((1, 8, 8, 16), 24, (2, 2), stride=(2, 2), steps=["bias", "nn.gelu"]),
    "strided pointwise": build((2, 9, 9, 12), 20, (1, 1), stride=(2, 2)),
    "pointwise": build((3, 5, 5, 17), 40, (1, 1), steps=["scale", "bias", "nn.relu", "residual"]),
    "padded pointwise": build((1, 4, 4, 3), 5, (1, 1), padding=(1, 1, 1, 1), steps=["bias"]),
    "dilated": build((1, 10, 10, 8), 24, (3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
    "one side padded": build((1, 6, 7, 4), 8, (2, 3), padding=(0, 1, 1, 0), steps=["bias"]),
    "unequal in height and width": build(
        (1, 12, 9, 4), 18, (5, 2), stride=(3, 1), padding=(2, 0, 1, 1), dilation=(1, 3)
    ),
    "stem reads NCHW": build((1, 16, 16, 3), 48, (4, 4), stride=(4, 4), nchw=True, steps=["bias"]),
    "padded stem": build(
        (2, 17, 15, 3), 16, (7, 7), stride=(2, 2), padding=(3, 3, 3, 3), nchw=True,
        steps=["bias", "nn.relu"],
    ),
    "unpadded, long": build((1, 20, 40, 6), 33, (3, 3)),
    "kernel as large as the image": build((1, 7, 7, 6), 10, (7, 7)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("device", HOST_DEVICES)
def test_against_the_definition(case, device):
    verify(CASES[case], device)


@pytest.mark.parametrize("steps", [["bias", "nn.silu", "gate"], ["nn.relu", "residual", "clip"]])
def test_epilogues_after_a_convolution(steps):
    verify(build((1, 9, 10, 6), 21, (3, 3), padding=(1, 1, 1, 1), steps=steps))


def test_weights_beyond_the_cache_make_panels_the_tasks():
    b = build((1, 4, 4, 64), 512, (3, 3), padding=(1, 1, 1, 1), steps=["bias"])
    device = load_device("rk3288")
    scheduled = conv(b.composite(), Context(device=device))
    assert "4 rows of 8 channels" in scheduled.note


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("case", ["odd channels, batch", "patches", "padded stem", "dilated"])
def test_on_arm(case, device):
    verify(CASES[case], device)


@pytest.mark.cross
def test_panels_as_tasks_on_arm():
    b = build((1, 4, 4, 32), 1024, (3, 3), padding=(1, 1, 1, 1), steps=["bias"])
    assert "of 8 channels" in conv(b.composite(), Context(device=load_device("rk3288"))).note
    verify(b, "rk3288")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"groups": 2}, "2 groups; only 1 is dense"),
        ({"kernel_layout": "HWIO"}, "layouts .* accepted: NHWC, OHWI, NHWC"),
    ],
)
def test_refuses_what_it_cannot_take(change, reason):
    b = build((1, 4, 4, 4), 4, (1, 1))
    b.nodes[0].attrs.update(change)
    answer = conv(b.composite(), Context(device=load_device("host")))
    assert isinstance(answer, NotApplicable)
    assert re.search(reason, answer.reason)
