"""Are the vector activations as exact as they claim, on every float32 input that matters?"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from run_kernel import run
from scipy.special import erf, expit

from parc_hw.device import load_device
from schedules.aot import compile_kernels
from schedules.cpu import activation
from schedules.rule import Scheduled
from schedules.tir import Emitter

pytestmark = pytest.mark.tvm

HOST_DEVICES = [n for n in ("host", "x86-64-v3", "x86-64") if load_device(n).runs_here]
COUNT = 1 << 18


def kernel(function, device, count):
    """y = function(x) on `count` elements."""
    e = Emitter(device)
    lanes = device.lanes()
    x, y = e.parameter("x", count), e.parameter("y", count)
    with e.parallel(count // lanes) as i:
        e.store(y, i * lanes, function(e, e.load(x, i * lanes, lanes)))
    return Scheduled(func=e.finish(), inputs=(0,), constants=(), rule="test")


def apply(function, x, name):
    device = load_device(name)
    return run(kernel(function, device, x.size), [x], device).astype(np.float64)


def exact_gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def exact_gelu_tanh(x):
    return x * expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


# function, exact, and the documented bound of its error.
FUNCTIONS = {
    "gelu": (activation.gelu, exact_gelu, lambda x: 3e-7 + 1e-7 * abs(x)),
    "gelu_tanh": (activation.gelu_tanh, exact_gelu_tanh, lambda x: 1e-6 * abs(x) + 1e-37),
    "silu": (activation.silu, lambda x: x * expit(x), lambda x: 4e-7 * abs(x) + 1e-37),
    "sigmoid": (activation.sigmoid, expit, lambda x: 2e-7 + 0 * x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("device", HOST_DEVICES)
def test_error_over_a_dense_grid(name, device):
    function, exact, bound = FUNCTIONS[name]
    for limit in (8.0, 150.0):
        x = np.linspace(-limit, limit, COUNT).astype(np.float32)
        error = np.abs(apply(function, x, device) - exact(x.astype(np.float64)))
        assert np.all(error <= bound(x.astype(np.float64))), (limit, np.max(error / bound(x)))


def test_gelu_agrees_with_the_error_function_of_math():
    x = np.linspace(-10, 10, 4096).astype(np.float32)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    assert np.max(np.abs(apply(activation.gelu, x, "host") - exact)) < 1e-6


def test_gelu_of_large_numbers_is_zero_or_the_number():
    x = np.zeros(64, np.float32)
    x[:4] = -1e4, 1e4, -100, 100
    y = apply(activation.gelu, x, "host")
    np.testing.assert_allclose(y[:4], [0, 1e4, 0, 100], rtol=1e-7, atol=1e-4)


@pytest.mark.parametrize("device", HOST_DEVICES)
def test_exp_over_its_range(device):
    x = np.linspace(-87, 88, COUNT).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(apply(activation.exp, x, device) / exact - 1)) < 3e-7


def test_exp_stops_at_its_ends():
    x = np.array([-1e30, -88.5, 88.5, 1e30] * 16, np.float32)
    y = apply(activation.exp, x, "host")
    np.testing.assert_allclose(y[:4], np.exp([-87.0, -87.0, 88.0, 88.0]), rtol=3e-7)


@pytest.mark.cross
@pytest.mark.parametrize("device", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_on_arm(name, device):
    function, exact, bound = FUNCTIONS[name]
    x = np.linspace(-20, 20, 1 << 14).astype(np.float32)
    error = np.abs(apply(function, x, device) - exact(x.astype(np.float64)))
    assert np.all(error <= bound(x.astype(np.float64)))


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "cortex-a53", "rk3288"])
@pytest.mark.parametrize("function", [activation.gelu, activation.silu])
def test_no_call_into_libm(function, name):
    device = load_device(name)
    text: dict[str, str] = {}
    compile_kernels([kernel(function, device, 64).func], device, prefix="k", dump=text)
    assert not re.search(r"\b(callq?|bl)\s+(?!__)\w*(exp|erf|fma|tanh)", text["asm"])
