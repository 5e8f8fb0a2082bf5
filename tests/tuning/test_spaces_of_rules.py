"""Every point of a rule's space computes the same numbers, and the default is what it was."""

from __future__ import annotations

import ctypes
import json
import math
import random

import numpy as np
import pytest

from parc_hw.device import load_device
from parc_hw.errors import InputError, MeasurementError
from parc_hw.operator import schedule_parc
from schedules._tvm import structural_equal
from schedules.aot import compile_kernels
from schedules.jit import aligned, load_kernel, scratch_memory
from schedules.rule import Composite, Node, Ref
from schedules.tuning.space import Choice
from schedules.tuning.task import Task, signature

pytestmark = pytest.mark.tvm

RNG = np.random.default_rng(5)


def parc_task(axis: str, layout: str, shape: tuple[int, ...], *, device: str = "host") -> Task:
    """A ParC of each form of `compile_parc`."""
    channels, height, width = (shape[layout.index(name)] for name in "CHW")
    lengths = {"H": (height,), "W": (width,)}.get(axis, (height, width))
    counts = [channels // 2, channels - channels // 2] if axis == "half" else [channels] * 2
    parts = [np.ones(size, np.float32) for size in zip(counts, lengths, strict=False)]
    weight = parts if len(parts) > 1 else parts[0]
    found = load_device(device)
    composite, scheduled = schedule_parc(weight, axis, shape, device=found, layout=layout)
    return Task(kernel=scheduled.rule, composite=composite, device=found)


def dense_task(layout: str, shape: tuple[int, ...], *, device: str = "host") -> Task:
    """A dense ParC along the height."""
    weight = np.ones((20, shape[layout.index("C")], shape[layout.index("H")]), np.float32)
    found = load_device(device)
    composite, scheduled = schedule_parc(weight, "H", shape, device=found, layout=layout)
    return Task(kernel=scheduled.rule, composite=composite, device=found)


def matmul_task(rows: int, k: int, n: int, *, device: str = "host") -> Task:
    """A linear layer with a heavy epilogue and a residual."""
    nodes = (
        Node(
            op="relax.matmul",
            args=(Ref("input", 0), np.ones((k, n), np.float32)),
            attrs={},
            shape=(rows, n),
        ),
        Node(op="relax.nn.gelu", args=(Ref("node", 0),), attrs={}, shape=(rows, n)),
        Node(op="relax.add", args=(Ref("node", 1), Ref("input", 1)), attrs={}, shape=(rows, n)),
    )
    composite = Composite(inputs=((rows, k), (rows, n)), nodes=nodes)
    return Task(kernel="matmul", composite=composite, device=load_device(device))


def conv_task(
    kernel: str, *, taps: int = 3, stride: int = 1, channels: int = 24, device: str = "host"
) -> Task:
    """A convolution of a 13 x 13 map."""
    depthwise = kernel == "depthwise"
    side = 13
    out = (side - 1) // stride + 1
    weight = np.ones(
        (taps, taps, channels, 1) if depthwise else (20, taps, taps, channels), np.float32
    )
    results = channels if depthwise else 20
    node = Node(
        op="relax.nn.conv2d",
        args=(Ref("input", 0), weight),
        attrs={
            "data_layout": "NHWC",
            "kernel_layout": "HWOI" if depthwise else "OHWI",
            "out_layout": "NHWC",
            "groups": channels if depthwise else 1,
            "padding": (taps // 2,) * 4,
            "strides": (stride, stride),
            "dilation": (1, 1),
        },
        shape=(1, out, out, results),
    )
    composite = Composite(inputs=((1, side, side, channels),), nodes=(node,))
    return Task(kernel=kernel, composite=composite, device=load_device(device))


def run(task: Task, choice: Choice | None) -> np.ndarray:
    """The result of a choice, flat."""
    scheduled = task.schedule(choice)
    kernel = load_kernel(scheduled.func, task.device)
    inputs = [aligned(array) for array in task.inputs()]
    result = scratch_memory(4 * math.prod(task.composite.shape))
    result[:] = np.nan
    arrays = [
        *(inputs[i] for i in scheduled.inputs),
        *(aligned(constant) for constant in scheduled.constants),
        result,
    ]
    scratch = scratch_memory(max(64, kernel.signature.scratch_bytes))
    job = kernel.job(
        [array.ctypes.data for array in arrays], [scratch.ctypes.data], shares=1, wakes=False
    )
    kernel.share(ctypes.c_void_p(job.ctypes.data), 0, 0)
    return np.array(result)


TASKS = {
    "parc H": lambda **on: parc_task("H", "NHWC", (1, 14, 5, 24), **on),
    "parc W": lambda **on: parc_task("W", "NHWC", (2, 3, 12, 20), **on),
    "parc half": lambda **on: parc_task("half", "NHWC", (1, 14, 14, 32), **on),
    "parc HW": lambda **on: parc_task("HW", "NHWC", (1, 12, 7, 32), **on),
    "nchw H": lambda **on: parc_task("H", "NCHW", (1, 6, 14, 24), **on),
    "nchw W": lambda **on: parc_task("W", "NCHW", (1, 20, 9, 14), **on),
    "nchw HW": lambda **on: parc_task("HW", "NCHW", (1, 18, 7, 8), **on),
    "dense": lambda **on: dense_task("NHWC", (1, 6, 5, 12), **on),
    "dense nchw": lambda **on: dense_task("NCHW", (1, 12, 7, 5), **on),
    "matmul": lambda **on: matmul_task(37, 24, 40, **on),
    "conv": lambda **on: conv_task("conv", **on),
    "conv stride": lambda **on: conv_task("conv", stride=2, **on),
    "conv 1x1": lambda **on: conv_task("conv", taps=1, **on),
    # reductions of more than one run of steps
    "matmul long": lambda **on: matmul_task(20, 600, 40, **on),
    "conv long": lambda **on: conv_task("conv", channels=72, **on),
    "depthwise": lambda **on: conv_task("depthwise", taps=5, **on),
}


def points(task: Task, count: int) -> list[Choice]:
    source = random.Random(task.key)
    return [task.space.sample(source) for _ in range(count)]


@pytest.mark.parametrize("name", TASKS)
def test_points_of_the_space_compute_the_same_numbers(name):
    task = TASKS[name]()
    assert task.space.size >= 40, f"{name}: {task.space}"
    expected = run(task, None)
    assert np.isfinite(expected).all()
    for choice in points(task, 2):
        assert task.check(choice, run(task, choice), expected) == "", str(choice)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_many_points_of_the_space_compute_the_same_numbers(name):
    task = TASKS[name]()
    expected = run(task, None)
    for choice in points(task, 40):
        assert task.check(choice, run(task, choice), expected) == "", str(choice)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("device", ["cortex-a53", "cortex-a17"])
def test_points_compile_for_arm(name, device):
    task = TASKS[name](device=device)
    for choice in points(task, 2):
        compiled = compile_kernels([task.schedule(choice).func], task.device, prefix="k")
        assert len(compiled.objects[0]) > 0


def test_the_default_choice_is_the_kernel_of_the_rule_itself():
    for name in ("parc half", "nchw H", "matmul", "conv", "depthwise"):
        task = TASKS[name]()
        assert structural_equal(task.schedule().func, task.schedule(task.default).func), name


def test_only_a_plan_may_differ_by_more_than_nothing():
    task = TASKS["parc half"]()
    for choice in points(task, 30):
        same = all(choice[name] == task.default[name] for name in ("plan_H", "plan_W"))
        assert (task.tolerance(choice) == 0) == same


def test_a_wrong_result_is_told_with_its_place():
    task = TASKS["matmul"]()
    expected = run(task, None)
    wrong = expected.copy()
    wrong[7] = np.nextafter(wrong[7], np.inf)
    assert "1 of 1480 results are wrong, first number 7" in task.check(
        task.default, wrong, expected
    )
    plan = TASKS["parc H"]()
    other = next(c for c in plan.space.points() if c["plan"] != plan.default["plan"])
    right = run(plan, None)
    nan = right.copy()
    nan[3] = np.nan
    assert "first number 3: nan" in plan.check(other, nan, right)
    assert "a difference of at most" in plan.check(other, right + 1, right)
    assert "not 840" in plan.check(other, right[:5], right[:840])


@pytest.mark.parametrize("name", TASKS)
def test_a_task_survives_json_with_the_same_kernel_and_numbers(name):
    task = TASKS[name]()
    again = Task.from_json(json.loads(json.dumps(task.to_json())))
    assert again == task
    assert again.key == task.key
    assert again.space == task.space
    a, b = task.schedule(), again.schedule()
    assert all(np.array_equal(x, y) for x, y in zip(a.constants, b.constants, strict=True))


def test_the_signature_knows_shapes_but_not_weights():
    def composite(weight: np.ndarray, rows: int = 4) -> Composite:
        node = Node(op="relax.matmul", args=(Ref("input", 0), weight), attrs={}, shape=(rows, 8))
        return Composite(inputs=((rows, 8),), nodes=(node,))

    one, other = RNG.standard_normal((2, 8, 8)).astype(np.float32)
    assert signature(composite(one)) == signature(composite(other))
    assert signature(composite(one)) != signature(composite(one, rows=5))
    assert signature(composite(one)) != signature(composite(one[:, :4]))


def test_a_choice_that_is_no_point_is_refused():
    task = TASKS["matmul"]()
    with pytest.raises(InputError, match=r"matmul cannot take .*: rows is 99, not"):
        task.schedule(task.default.but(rows=99))


def test_an_unknown_rule_is_refused():
    task = TASKS["matmul"]()
    with pytest.raises(InputError, match=r"no rule is called 'gemm'; accepted: .*matmul"):
        Task(kernel="gemm", composite=task.composite, device=task.device)


def test_how_far_plans_differ_after_an_unknown_operator_is_not_guessed():
    task = TASKS["parc H"]()
    (node,) = task.composite.nodes
    odd = Node(op="relax.tan", args=(Ref("node", 0),), attrs={}, shape=node.shape)
    composite = Composite(inputs=task.composite.inputs, nodes=(node, odd))
    strange = Task(kernel="parc", composite=composite, device=task.device)
    object.__setattr__(strange, "_default", task.schedule())
    other = next(c for c in task.space.points() if c["plan"] != task.default["plan"])
    with pytest.raises(MeasurementError, match=r"not known after relax.tan"):
        strange.tolerance(other)
