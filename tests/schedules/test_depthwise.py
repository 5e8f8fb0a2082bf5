"""Does the depthwise kernel compute a convolution of every channel, whatever its window?"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from run_kernel import UNIT_ROUNDOFF, run_rule
from run_many import run_many

from parc_hw.device import load_device
from schedules.cpu.depthwise import depthwise
from schedules.rule import Composite, Context, Node, NotApplicable, Ref

pytestmark = pytest.mark.tvm


@dataclass(frozen=True)
class Case:
    """One depthwise convolution; padding is top, left, bottom, right."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    epilogue: bool = False
    multiplier: int = 1

    @property
    def result(self) -> tuple[int, int, int, int]:
        b, h, w, c = self.shape
        top, left, bottom, right = self.padding
        (sy, sx), (dy, dx) = self.strides, self.dilation
        rows = (h + top + bottom - (self.kernel[0] - 1) * dy - 1) // sy + 1
        columns = (w + left + right - (self.kernel[1] - 1) * dx - 1) // sx + 1
        return b, rows, columns, c * self.multiplier

    def __str__(self) -> str:
        return "-".join("x".join(map(str, v)) for v in (self.shape, self.kernel, self.strides))


CASES = [
    Case((1, 14, 14, 32), (7, 7), (3, 3, 3, 3)),
    Case((2, 9, 13, 48), (3, 3), (1, 1, 1, 1)),
    Case((1, 7, 7, 24), (11, 11), (5, 5, 5, 5)),  # wider than the image
    Case((1, 20, 31, 8), (5, 3), (2, 1, 2, 1)),
    Case((1, 8, 8, 16), (4, 2), (0, 0, 0, 0)),  # even, no padding
    Case((2, 10, 9, 17), (3, 5), (0, 1, 2, 3)),  # padding differs on every side
    Case((1, 11, 12, 33), (3, 3), (1, 1, 1, 1), strides=(2, 2)),
    Case((1, 13, 17, 5), (3, 3), (2, 2, 2, 2), dilation=(2, 2)),
    Case((2, 15, 14, 3), (3, 2), (4, 3, 1, 2), strides=(3, 2), dilation=(2, 3)),
    Case((1, 4, 3, 1), (5, 5), (6, 6, 6, 6)),  # some windows lie wholly in the padding
    Case((1, 1, 1, 20), (3, 3), (1, 1, 1, 1)),
    Case((2, 6, 9, 40), (3, 3), (1, 1, 1, 1), epilogue=True),
    Case((1, 5, 6, 7), (3, 3), (1, 1, 1, 1), strides=(2, 1), epilogue=True),
    Case((1, 33, 40, 40), (3, 3), (1, 1, 1, 1)),  # blocks of channels together
    Case((1, 33, 40, 72), (9, 9), (4, 4, 4, 4)),  # two of them at a time, the last alone
    Case((1, 7, 6, 20), (3, 3), (1, 1, 1, 1), multiplier=2, epilogue=True),
    Case((1, 4, 5, 9), (3, 3), (1, 1, 1, 1), multiplier=4),
    Case((1, 33, 40, 33), (3, 3), (1, 1, 1, 1), strides=(1, 2), multiplier=2),
    Case((1, 3, 4, 1), (2, 2), multiplier=8),
]


def windows(x: np.ndarray, kernel: np.ndarray, case: Case) -> np.ndarray:
    """The convolution, window by window, in the dtype of the operands."""
    top, left, bottom, right = case.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    x = np.repeat(x, case.multiplier, axis=-1)
    result = np.zeros(case.result, x.dtype)
    _, rows, columns, _ = case.result
    (sy, sx), (ry, rx) = case.strides, case.dilation
    for dy in range(case.kernel[0]):
        for dx in range(case.kernel[1]):
            part = x[:, dy * ry :, dx * rx :][
                :, : (rows - 1) * sy + 1 : sy, : (columns - 1) * sx + 1 : sx
            ]
            result += part * kernel[dy, dx, :, 0]
    return result


def problem(case: Case) -> tuple[Composite, list[np.ndarray], np.ndarray, np.ndarray]:
    """Composite, inputs, the exact result (float64) and a bound of the kernel's error."""
    rng = np.random.default_rng(sum(case.shape))
    channels = case.result[-1]
    x = rng.normal(size=case.shape).astype(np.float32)
    kernel = rng.normal(size=(*case.kernel, channels, 1)).astype(np.float32)
    scale, shift = rng.normal(size=(2, channels)).astype(np.float32)
    residual = rng.normal(size=case.result).astype(np.float32)
    nodes = [
        Node(
            op="relax.nn.conv2d",
            args=(Ref("input", 0), kernel),
            attrs={
                "strides": case.strides,
                "padding": case.padding,
                "dilation": case.dilation,
                "groups": case.shape[-1],
                "data_layout": "NHWC",
                "kernel_layout": "HWOI",
                "out_layout": "NHWC",
            },
            shape=case.result,
        )
    ]

    def then(op: str, *operands: object) -> None:
        args = (Ref("node", len(nodes) - 1), *operands)
        nodes.append(Node(op=op, args=args, attrs={}, shape=case.result))

    then("relax.multiply", scale)
    then("relax.add", shift)
    exact = windows(x.astype(float), kernel.astype(float), case) * scale + shift
    size = windows(abs(x.astype(float)), abs(kernel.astype(float)), case) * abs(scale) + abs(shift)
    inputs = [x]
    if case.epilogue:
        then("relax.nn.relu")
        then("relax.add", Ref("input", 1))
        inputs.append(residual)
        exact = np.maximum(exact, 0) + residual
        size = size + abs(residual)
    composite = Composite(inputs=tuple(i.shape for i in inputs), nodes=tuple(nodes))
    # one rounding of each folded weight, one fma per tap from the bias on, one addition
    depth = 1 + case.kernel[0] * case.kernel[1] + 2
    return composite, inputs, exact, 1.01 * depth * UNIT_ROUNDOFF * size


def test_every_window_gives_the_convolution():
    problems = [problem(case) for case in CASES]
    context = Context(device=load_device("host"))
    results = run_many([(depthwise(c, context), inputs) for c, inputs, _, _ in problems])
    for case, result, (_, _, exact, bound) in zip(CASES, results, problems, strict=True):
        assert np.all(abs(result.reshape(exact.shape) - exact) <= bound), str(case)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 17, 24, 33])
def test_any_number_of_channels_stays_inside_its_buffers(channels):
    composite, inputs, exact, bound = problem(Case((1, 5, 6, channels), (3, 3), (1, 1, 1, 1)))
    result = run_rule(depthwise, composite, inputs)
    assert np.all(abs(result - exact) <= bound)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("case", [CASES[0], CASES[5], CASES[11], CASES[15]], ids=str)
def test_arm_devices_compute_the_same_convolution(case, device):
    composite, inputs, exact, bound = problem(case)
    result = run_rule(depthwise, composite, inputs, device)
    assert np.all(abs(result - exact) <= bound)


def test_a_kernel_of_one_one_copies_its_input():
    """Delta kernel: the convolution is the identity, to the bit."""
    x = np.random.default_rng(0).normal(size=(1, 6, 10, 20)).astype(np.float32)
    kernel = np.zeros((3, 3, 20, 1), np.float32)
    kernel[1, 1] = 1
    composite, _, _, _ = problem(Case(x.shape, (3, 3), (1, 1, 1, 1)))
    node = composite.nodes[0]
    node = Node(op=node.op, args=(node.args[0], kernel), attrs=node.attrs, shape=node.shape)
    composite = Composite(inputs=composite.inputs, nodes=(node,))
    assert np.array_equal(run_rule(depthwise, composite, [x]), x)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"groups": 4}, "4 groups and a kernel of shape .* for 32 channels"),
        ({"data_layout": "NCHW"}, "layouts are .*NCHW"),
        ({"out_layout": "NCHW"}, "out_layout is NCHW"),
    ],
)
def test_other_convolutions_are_refused_with_the_reason(change, reason):
    composite, _, _, _ = problem(CASES[0])
    first = composite.nodes[0]
    node = Node(op=first.op, args=first.args, attrs={**first.attrs, **change}, shape=first.shape)
    refusal = depthwise(
        Composite(inputs=composite.inputs, nodes=(node,)), Context(device=load_device("host"))
    )
    assert isinstance(refusal, NotApplicable)
    assert re.search(reason, refusal.reason), refusal.reason


def test_three_results_per_channel_are_refused():
    composite, *_ = problem(Case((1, 4, 5, 8), (3, 3), multiplier=3))
    refusal = depthwise(composite, Context(device=load_device("host")))
    assert isinstance(refusal, NotApplicable)
    assert re.search("3 results per channel do not divide", refusal.reason)
