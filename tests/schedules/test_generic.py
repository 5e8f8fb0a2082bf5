"""Does the last rule compute any operator that TVM defines, in one kernel, and say why when not?"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from composites import Builder, U
from run_kernel import run_rule
from run_many import run_many
from torch.nn import functional

from parc_hw.device import load_device
from schedules.cpu.generic import generic
from schedules.rule import Context, NotApplicable, Ref, Scheduled

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def case(name, inputs, nodes, reference, *, roundings=0, size=None, function=0.0):
    """One composite.

    inputs: shapes; nodes: (op, args, shape, attrs), where args may hold "x0" for an input and
    "n0" for a node; reference: on float64 tensors in logical NCHW or as given; its error may be
    `roundings` * U * size(inputs) + `function`.
    """
    return pytest.param(inputs, nodes, reference, roundings, size, function, id=name)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def conv_size(x, w, **options):
    return nhwc(functional.conv2d(nchw(x.abs()), w.abs(), **options))


GROUPED = normal(18, 8, 3, 3)  # OIHW: 3 groups of 8 inputs
CHANNELS = normal(1, 1, 1, 24)
WINDOW = {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}

CASES = [
    case(
        "add",
        [(2, 5, 7, 24)] * 2,
        [("add", ["x0", "x1"], (2, 5, 7, 24), {})],
        lambda a, b: a + b,
        roundings=1,
        size=lambda a, b: a.abs() + b.abs(),
    ),
    case(
        "broadcast of rows and columns",
        [(2, 5, 1, 24), (1, 1, 7, 1)],
        [("multiply", ["x0", "x1"], (2, 5, 7, 24), {})],
        lambda a, b: a * b,
        roundings=1,
        size=lambda a, b: (a * b).abs(),
    ),
    case(
        "chain of constants and gelu",
        [(1, 6, 5, 24)],
        [
            ("multiply", ["x0", CHANNELS], (1, 6, 5, 24), {}),
            ("nn.gelu", ["n0"], (1, 6, 5, 24), {}),
        ],
        lambda x: functional.gelu(x * torch.tensor(CHANNELS)),
        roundings=8,
        size=lambda x: (x * torch.tensor(CHANNELS)).abs(),
    ),
    case(
        "value read twice",
        [(1, 4, 4, 9)],
        [
            ("sigmoid", ["x0"], (1, 4, 4, 9), {}),
            ("multiply", ["x0", "n0"], (1, 4, 4, 9), {}),
            ("add", ["n1", "n0"], (1, 4, 4, 9), {}),
        ],
        lambda x: x * torch.sigmoid(x) + torch.sigmoid(x),
        roundings=8,
        size=lambda x: x.abs() + 1,
    ),
    case(
        "softmax over the last axis",
        [(2, 3, 49)],
        [("nn.softmax", ["x0"], (2, 3, 49), {"axis": -1})],
        lambda x: torch.softmax(x, -1),
        roundings=49 + 16,
        size=lambda x: torch.softmax(x, -1),
    ),
    case(
        "softmax over a middle axis",
        [(2, 20, 33)],
        [("nn.softmax", ["x0"], (2, 20, 33), {"axis": 1})],
        lambda x: torch.softmax(x, 1),
        roundings=20 + 16,
        size=lambda x: torch.softmax(x, 1),
    ),
    case(
        "softmax of everything",
        [(1, 500)],
        [("nn.softmax", ["x0"], (1, 500), {"axis": -1})],
        lambda x: torch.softmax(x, -1),
        roundings=500 + 16,
        size=lambda x: torch.softmax(x, -1),
    ),
    case(
        "resize",
        [(1, 7, 9, 24)],
        [
            (
                "image.resize2d",
                ["x0", (14, 18)],
                (1, 14, 18, 24),
                {
                    "layout": "NHWC",
                    "method": "linear",
                    "coordinate_transformation_mode": "align_corners",
                },
            )
        ],
        lambda x: nhwc(
            functional.interpolate(nchw(x), (14, 18), mode="bilinear", align_corners=True)
        ),
        roundings=4 * 9 + 8,  # a coordinate up to 9 errs by 2 roundings, then two interpolations
        size=lambda x: x.abs().max() + 0 * torch.zeros(1, 14, 18, 24),
    ),
    case(
        "product of two computed matrices",
        [(4, 49, 32), (4, 32, 50)],
        [("matmul", ["x0", "x1"], (4, 49, 50), {})],
        lambda a, b: a @ b,
        roundings=33,
        size=lambda a, b: a.abs() @ b.abs(),
    ),
    case(
        "attention",
        [(2, 17, 8), (2, 8, 17), (2, 17, 8)],
        [
            ("matmul", ["x0", "x1"], (2, 17, 17), {}),
            ("nn.softmax", ["n0"], (2, 17, 17), {"axis": -1}),
            ("matmul", ["n1", "x2"], (2, 17, 8), {}),
        ],
        lambda q, k, v: torch.softmax(q @ k, -1) @ v,
        roundings=9 * 40 + 17 + 16 + 18,  # the logits reach 40
        size=lambda q, k, v: torch.softmax(q @ k, -1) @ v.abs(),
    ),
    case(
        "convolution in groups",
        [(2, 7, 6, 24)],
        [
            (
                "nn.conv2d",
                ["x0", np.ascontiguousarray(GROUPED.transpose(2, 3, 1, 0))],
                (2, 7, 6, 18),
                {
                    **WINDOW,
                    "groups": 3,
                    "data_layout": "NHWC",
                    "kernel_layout": "HWIO",
                    "out_layout": "NHWC",
                    "out_dtype": "",
                },
            )
        ],
        lambda x: nhwc(
            functional.conv2d(nchw(x), torch.tensor(GROUPED).double(), padding=1, groups=3)
        ),
        roundings=73,
        size=lambda x: conv_size(x, torch.tensor(GROUPED).double(), padding=1, groups=3),
    ),
    case(
        "gate of the mean",
        [(2, 7, 7, 24)],
        [
            ("mean", ["x0"], (2, 1, 1, 24), {"axis": (1, 2), "keepdims": True}),
            ("sigmoid", ["n0"], (2, 1, 1, 24), {}),
            ("multiply", ["x0", "n1"], (2, 7, 7, 24), {}),
        ],
        lambda x: x * torch.sigmoid(x.mean((1, 2), keepdim=True)),
        roundings=49 + 8,
        size=lambda x: x.abs(),
    ),
]

MOVES = [
    case(
        "concat of channels",
        [(1, 5, 4, 24), (1, 5, 4, 9)],
        [("concat", [("x0", "x1")], (1, 5, 4, 33), {"axis": 3})],
        lambda a, b: torch.cat([a, b], 3),
    ),
    case(
        "concat of rows",
        [(1, 5, 4, 9), (1, 2, 4, 9)],
        [("concat", [("x0", "x1")], (1, 7, 4, 9), {"axis": 1})],
        lambda a, b: torch.cat([a, b], 1),
    ),
    case(
        "permute",
        [(2, 5, 6, 24)],
        [("permute_dims", ["x0"], (2, 24, 5, 6), {"axes": (0, 3, 1, 2)})],
        nchw,
    ),
    case(
        "slice",
        [(2, 5, 6, 24)],
        [
            (
                "strided_slice",
                ["x0"],
                (2, 5, 6, 11),
                {"axes": (3,), "begin": (5,), "end": (16,), "strides": (1,)},
            )
        ],
        lambda x: x[..., 5:16],
    ),
    case(
        "reshape",
        [(2, 6, 4, 5)],
        [("reshape", ["x0", (2, 24, 5)], (2, 24, 5), {})],
        lambda x: x.reshape(2, 24, 5),
    ),
    case(
        "pad",
        [(2, 5, 4, 9)],
        [("nn.pad", ["x0"], (2, 7, 6, 9), {"pad_width": (0, 0, 1, 1, 1, 1, 0, 0)})],
        lambda x: functional.pad(x, (0, 0, 1, 1, 1, 1)),
    ),
    case("relu of a vector", [(1001,)], [("nn.relu", ["x0"], (1001,), {})], torch.relu),
    case(
        "maximum over rows and columns",
        [(2, 5, 6, 9)],
        [("max", ["x0"], (2, 1, 1, 9), {"axis": (1, 2), "keepdims": True})],
        lambda x: x.amax((1, 2), keepdim=True),
    ),
]


def build(inputs, nodes):
    b = Builder()
    for shape in inputs:
        b.input(*shape)

    def operand(a):
        if isinstance(a, str) and re.fullmatch(r"[xn]\d", a):
            return Ref({"x": "input", "n": "node"}[a[0]], int(a[1:]))
        if isinstance(a, tuple) and a and isinstance(a[0], str):
            return tuple(map(operand, a))
        return a

    for op, args, shape, attrs in nodes:
        b.node(f"relax.{op}", *map(operand, args), shape=shape, **attrs)
    return b


def host():
    return Context(device=load_device("host"))


def compare(result, b, reference, roundings, size, function):
    tensors = [torch.tensor(x).double() for x in b.inputs]
    value = reference(*tensors).numpy()
    bound = function + (roundings * U * size(*tensors).numpy() if size else 0.0)
    assert result.shape == value.shape
    assert np.all(abs(result - value) <= bound), f"{np.max(abs(result - value))} off"


def test_any_operator_is_one_kernel():
    """All cases in one library; every result within its bound."""
    built = [build(*c.values[:2]) for c in CASES + MOVES]
    results = run_many([(generic(b.composite(), host()), b.inputs) for b in built])
    for c, b, result in zip(CASES + MOVES, built, results, strict=True):
        compare(result.reshape(b.shape), b, *c.values[2:])


@pytest.mark.parametrize(
    ("inputs", "nodes", "reference", "roundings", "size", "function"),
    [CASES[4], CASES[8], MOVES[0], MOVES[5]],
)
def test_no_access_leaves_the_buffers(inputs, nodes, reference, roundings, size, function):
    b = build(inputs, nodes)
    compare(run_rule(generic, b.composite(), b.inputs), b, reference, roundings, size, function)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize(
    ("inputs", "nodes", "reference", "roundings", "size", "function"),
    [CASES[2], CASES[9], MOVES[1]],
)
def test_arm_devices_compute_the_same(inputs, nodes, reference, roundings, size, function, device):
    b = build(inputs, nodes)
    result = run_rule(generic, b.composite(), b.inputs, device)
    compare(result, b, reference, roundings, size, function)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("axis", ["H", "W"])
def test_parc_dense_and_depthwise_by_its_definition(axis, dense):
    shape, outputs = (2, 6, 5, 9), 12 if dense else 9
    length = shape[1 if axis == "H" else 2]
    b = Builder(3)
    x = b.input(*shape)
    weight = b.normal(outputs, 9, length) if dense else b.normal(9, length)
    pe, bias = b.normal(9, length), b.normal(outputs)
    b.node("relax.parc", x, weight, pe, bias, shape=(*shape[:3], outputs), axis=axis, layout="NHWC")
    scheduled = generic(b.composite(), host())
    (result,) = run_many([(scheduled, b.inputs)])
    position = 1 if axis == "H" else 2
    embedding = pe.T.reshape((1, length, 1, 9) if axis == "H" else (1, 1, length, 9)).astype(float)
    full = weight if dense else weight[:, None] * np.eye(9)[:, :, None]

    def sums(x, w, b):
        total = np.zeros((*shape[:3], outputs)) + b
        for k in range(length):
            total += np.roll(x, -k, axis=position) @ w[:, :, k].T.astype(float)
        return total

    x = b.inputs[0].astype(float)
    value = sums(x + embedding, full, bias)
    terms = length * (9 if dense else 1)
    bound = (terms + 3) * U * sums(abs(x) + abs(embedding), abs(full), abs(bias))
    assert np.all(abs(result.reshape(value.shape) - value) <= bound)
    assert scheduled.macs == 2 * 6 * 5 * outputs * terms


def test_rows_are_parallel_where_that_repeats_no_work():
    inputs, nodes = CASES[4].values[:2]
    kernel = generic(build(inputs, nodes).composite(), host())
    assert isinstance(kernel, Scheduled)
    assert kernel.note == "TVM's definition, parallel over 6 rows"


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([("nn.bogus", ["x0"], (1, 4), {})], "no operator relax.nn.bogus"),
        ([("nn.relu", ["x0"], (1, 5), {})], r"not one float32 tensor of shape \(1, 5\)"),
        ([("split", ["x0", 2], (1, 2), {"axis": 1})], "not one float32 tensor"),
        ([("nn.relu", ["x0"], (1, 4), {"slope": 1})], "no attribute 'slope'"),
        ([("astype", ["x0", "int32"], (1, 4), {})], "not one float32 tensor"),
        ([("add", ["x0", np.zeros(4)], (1, 4), {})], "a constant is float64"),
        ([("matmul", ["x0", np.zeros((5, 2), np.float32)], (1, 2), {})], "relax.matmul: "),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_tvm_cannot_define_is_refused_with_the_reason(nodes, reason, capfd):
    refusal = generic(build([(1, 4)], nodes).composite(), host())
    assert isinstance(refusal, NotApplicable)
    assert re.search(reason, refusal.reason), refusal.reason
    assert capfd.readouterr() == ("", "")  # TVM prints nothing either
