"""Do kernels for several input shapes read one packed copy of their weights, and rightly?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from composites import check, linear, linear_expected
from run_kernel import run
from test_conv import build as convolution
from test_conv import conv_expected

from parc_hw.device import load_device
from schedules.cpu.conv import conv
from schedules.cpu.matmul import matmul
from schedules.cpu.tile import choose_tile, weights_key
from schedules.rule import Context

pytestmark = pytest.mark.tvm


def products(rows):
    return [linear((count,), 24, 90, ["bias"]) for count in rows]


def convolutions(sizes):
    return [convolution((1, size, size, 6), 90, (3, 3), padding=(1, 1, 1, 1)) for size in sizes]


CASES = {
    "matmul": (matmul, linear_expected, products, (1, 7, 196)),
    "conv": (conv, conv_expected, convolutions, (2, 5, 16)),
}


def same_weights(builders):
    """The builders with the weights of the first in all of them."""
    for b in builders:
        node = b.nodes[0]
        b.nodes[0] = dataclasses.replace(node, args=(node.args[0], builders[0].nodes[0].args[1]))
    return builders


@pytest.mark.parametrize("last", [0, -1])
@pytest.mark.parametrize("case", CASES)
def test_the_first_shape_decides_how_weights_are_packed(case, last):
    rule, expected, build, sizes = CASES[case]
    context = Context(device=load_device("host"))
    builders = same_weights(build(sizes if last else sizes[::-1]))
    packed = []
    for b in builders:
        scheduled = rule(b.composite(), context)
        check(run(scheduled, b.inputs).reshape(b.shape), *expected(b))
        packed.append(scheduled.constants[0].tobytes())
    assert packed[1:] == packed[:1] * 2
    alone = rule(builders[0].composite(), Context(device=load_device("host")))
    assert alone.constants[0].tobytes() == packed[0]


def test_other_weights_are_not_bound_by_it():
    device = load_device("x86-64-v4")
    context = Context(device=device)
    small, large = products((1, 196))  # with weights of their own
    shared = [matmul(b.composite(), context) for b in (small, large)]
    alone = [matmul(b.composite(), Context(device=device)) for b in (small, large)]
    assert [s.note for s in shared] == [s.note for s in alone]
    assert shared[0].note.split()[0] != shared[1].note.split()[0]  # other tiles


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4", "cortex-a53", "rk3288"])
def test_a_width_that_one_row_count_chose_fits_every_other(name):
    device = load_device(name)
    for first in (1, 2, 5, 1000):
        vectors = choose_tile(first, 90, device).vectors
        for rows in (1, 2, 5, 1000):
            assert choose_tile(rows, 90, device, vectors).vectors == vectors


def test_weights_of_another_shape_have_another_key():
    values = np.arange(12, dtype=np.float32)
    assert weights_key(values.reshape(3, 4)) != weights_key(values.reshape(4, 3))
    assert weights_key(values.reshape(3, 4)) == weights_key(values.reshape(3, 4).copy())
    assert weights_key(values.reshape(3, 4)) != weights_key(values.reshape(3, 4) + 1)
