"""Does the emitter write what it says: names, pieces, sums, and chains that stay cheap?"""

from __future__ import annotations

import operator
import time

import numpy as np
import pytest
from run_kernel import run

from parc_hw.device import load_device
from schedules._tvm import structural_equal
from schedules.aot import compile_kernels
from schedules.cpu import activation
from schedules.rule import Scheduled
from schedules.tir import Emitter, has_fma, parameter_sizes, pieces

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("count", range(40))
def test_pieces_cover_exactly_with_powers_of_two(count, lanes):
    widths = pieces(count, lanes)
    assert sum(widths) == count
    assert widths == sorted(widths, reverse=True)
    assert all(width <= lanes and width & (width - 1) == 0 for width in widths)


@pytest.mark.parametrize(
    "name, fused",
    [
        ("x86-64", False),
        ("x86-64-v3", True),
        ("x86-64-v4", True),
        ("znver4", True),
        ("cortex-a53", True),
        ("cortex-a7", True),
        ("rk3288", True),
    ],
)
def test_which_devices_fuse(name, fused):
    assert has_fma(load_device(name)) is fused


def some_kernel():
    e = Emitter(load_device("host"))
    x, y = e.parameter("x", 64), e.parameter("y", 4)
    with e.parallel(4) as i:
        e.store(y, i, e.fold_lanes(e.load(x, i * 16, 16), operator.add))
    return e.finish()


def test_two_emissions_are_equal_to_the_letter():
    assert structural_equal(some_kernel(), some_kernel())
    assert some_kernel().script() == some_kernel().script()


def test_parameter_sizes():
    assert parameter_sizes(some_kernel()) == (64, 4)


def test_fold_lanes_combines_halves():
    # Only by halves do these sums of 2**24 and 1 stay exact.
    x = np.zeros((4, 16), np.float32)
    x[0, :] = np.arange(16)
    x[1, [0, 8]] = 2.0**24, -(2.0**24)
    x[1, 1] = 1
    scheduled = Scheduled(func=some_kernel(), inputs=(0,), constants=(), rule="test")
    np.testing.assert_array_equal(run(scheduled, [x.reshape(-1)]), [120, 1, 0, 0])


def test_names_are_numbered_within_a_kernel():
    e = Emitter(load_device("host"))
    assert [e.parameter("x", 1).name for _ in range(3)] == ["x", "x_1", "x_2"]


def test_a_condition_guards_its_statements():
    e = Emitter(load_device("host"))
    x, y = e.parameter("x", 8), e.parameter("y", 8)
    with e.parallel(8) as i:
        e.store(y, i, e.load(x, i, 1))
        with e.when(i >= 5):
            e.store(y, i, e.splat(9.0, 1))
    scheduled = Scheduled(func=e.finish(), inputs=(0,), constants=(), rule="test")
    np.testing.assert_array_equal(run(scheduled, [np.arange(8)]), [0, 1, 2, 3, 4, 9, 9, 9])


def test_long_chains_compile_in_proportion():
    # With bound variables the passes took 0.06, 1.3 and 32 s for one, two and three sigmoids.
    device = load_device("host")
    e = Emitter(device)
    x, y = e.parameter("x", 16), e.parameter("y", 16)
    value = e.load(x, 0, 16)
    for _ in range(12):
        value = activation.gelu(e, activation.silu(e, value))
    e.store(y, 0, value)
    started = time.perf_counter()
    compile_kernels([e.finish()], device, prefix="chain")
    assert time.perf_counter() - started < 60
