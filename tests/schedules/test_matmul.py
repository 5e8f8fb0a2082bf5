"""Are linear layers right for every shape, epilogue and device?"""

from __future__ import annotations

import numpy as np
import pytest
from composites import check, linear, linear_expected
from run_kernel import run_rule

from parc_hw.device import load_device
from schedules.cpu.matmul import by_panels, matmul
from schedules.rule import Composite, Context, Node, NotApplicable, Ref

pytestmark = pytest.mark.tvm

HOST_DEVICES = [n for n in ("host", "x86-64-v3", "x86-64") if load_device(n).runs_here]
ODD = [1, 7, 13, 17]


def verify(builder, device="host"):
    y = run_rule(matmul, builder.composite(), builder.inputs, device)
    check(y, *linear_expected(builder))


@pytest.mark.parametrize("m", ODD)
@pytest.mark.parametrize("n", ODD)
def test_odd_sizes_of_rows_and_channels(m, n):
    verify(linear((m,), 13, n, ["bias"]))


@pytest.mark.parametrize("k", [1, 2, 3, 7, 17, 1000])
def test_odd_depths(k):
    verify(linear((9,), k, 20, ["bias"]))


@pytest.mark.parametrize("n", [1000, 48, 96, 100])
@pytest.mark.parametrize("m", [1, 49, 200])
def test_many_channels_and_rows(m, n):
    verify(linear((m,), 24, n))


EPILOGUES = [
    [],
    ["bias", "scale", "shrink"],
    ["scale", "bias", "nn.gelu"],
    ["bias", "nn.gelu_tanh"],
    ["bias", "nn.relu", "scale", "bias"],
    ["bias", "nn.silu"],
    ["reverse", "sigmoid"],
    ["bias", "clip"],
    ["bias", "residual"],
    ["residual", "nn.relu", "residual"],
    ["nn.gelu", "gate", "bias"],
    ["bias", "channel gate"],
    ["bias", "hardswish"],
]


@pytest.mark.parametrize("steps", EPILOGUES, ids=lambda steps: "-".join(steps) or "none")
@pytest.mark.parametrize("device", HOST_DEVICES)
def test_every_epilogue(steps, device):
    # 19 channels and 30 rows: whole and partial tiles, and pieces of the last vector.
    verify(linear((30,), 11, 19, steps), device)


def test_leading_dimensions_are_rows():
    verify(linear((2, 3, 5), 8, 16, ["bias", "residual"]))


@pytest.mark.parametrize("device", HOST_DEVICES)
def test_panels_as_tasks(device):
    described = load_device(device)
    assert by_panels(1, 8, 4 * 3 * 64, 4 * 64 * 1000, described)
    verify(linear((3,), 64, 1000, ["bias", "nn.relu"]), device)


def test_a_residual_may_be_the_input_itself():
    builder = linear((6,), 10, 10)
    builder.node("relax.add", builder.value, Ref("input", 0))
    verify(builder)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize(
    "shape", [(1, 7, 13), (13, 17, 30), (30, 48, 50)], ids=lambda s: "x".join(map(str, s))
)
def test_on_arm(device, shape):
    m, k, n = shape
    verify(linear((m,), k, n, ["bias", "nn.gelu", "residual"]), device)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
def test_activations_on_arm(device):
    verify(linear((9,), 5, 11, ["bias", "nn.silu", "nn.gelu_tanh", "sigmoid", "clip"]), device)


def test_folding_is_exact_in_double_precision():
    # (x w + b) s with s = 1/3: folding rounds w s and b s once; the product itself never.
    builder = linear((4,), 1, 8, ["bias", "shrink"])
    scheduled = matmul(builder.composite(), Context(device=load_device("host")))
    w = builder.nodes[0].args[1].astype(np.float64)
    bias = builder.nodes[1].args[1].astype(np.float64)
    np.testing.assert_array_equal(scheduled.constants[0][:8], (w / 3).astype(np.float32)[0])
    np.testing.assert_array_equal(scheduled.constants[1][:8], (bias / 3).astype(np.float32)[0])


def test_counts_and_note():
    builder = linear((14,), 6, 32)
    scheduled = matmul(builder.composite(), Context(device=load_device("cortex-a53")))
    assert scheduled.macs == 14 * 6 * 32
    assert "tile" in scheduled.note


def refusal(node: Node, *inputs: tuple[int, ...]) -> str:
    answer = matmul(Composite(inputs=inputs, nodes=(node,)), Context(device=load_device("host")))
    assert isinstance(answer, NotApplicable)
    return answer.reason


def test_refuses_what_it_cannot_take():
    x, w = Ref("input", 0), Ref("input", 1)
    two = Node(op="relax.matmul", args=(x, w), attrs={}, shape=(3, 5))
    assert "not a constant" in refusal(two, (3, 4), (4, 5))
    batched = np.zeros((2, 4, 5), np.float32)
    node = Node(op="relax.matmul", args=(x, batched), attrs={}, shape=(2, 3, 5))
    assert "not (K, N)" in refusal(node, (2, 3, 4))
    assert "the anchor is relax.add" in refusal(
        Node(op="relax.add", args=(x, w), attrs={}, shape=(3, 4)), (3, 4), (3, 4)
    )
