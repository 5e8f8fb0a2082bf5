"""Do compiled operators obey the laws of the operator: shifts, identity, independence, transposes?

Where two computations differ in addresses only the bits are equal; where they add in another
order, both are within the bound of `parc_bound`.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

import parc_hw
from parc_hw.dataflow import plan_depth
from parc_hw.plan import MAX_TRANSFORM, SplitPlan
from parc_hw.reference import parc, parc_bound

pytestmark = pytest.mark.tvm

LENGTHS = (7, 14, 15)
LAYOUTS = ("NCHW", "NHWC")


@cache
def normal(*shape, seed=0):
    result = np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)
    result.flags.writeable = False
    return result


class Operator:
    """A compiled operator that takes and gives NCHW."""

    def __init__(self, weight, axis, shape, *, layout="NCHW", **more):
        batch, channels, height, width = shape
        self.layout, self.weight, self.axis = layout, weight, axis
        self.more = {k: v for k, v in more.items() if k in ("position_embedding", "bias")}
        given = shape if layout == "NCHW" else (batch, height, width, channels)
        self.op = parc_hw.compile_parc(weight, axis, given, layout=layout, **more)

    def __call__(self, x):
        if self.layout == "NCHW":
            return self.op(np.ascontiguousarray(x))
        return self.op(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)

    def bound(self, x):
        """Of any plan."""
        n = self.weight.shape[-1]
        factors = [k for k in range(1, min(n, MAX_TRANSFORM) + 1) if n % k == 0]
        channels = self.weight.shape[1] if self.weight.ndim == 3 else 1
        depth = max(plan_depth(SplitPlan(n1=k, n2=n // k), channels) for k in factors)
        return parc_bound(x, self.weight, axis=self.axis, depth=depth, **self.more)


def kernels(channels, n, dense):
    return normal(6, channels, n) if dense else normal(channels, n)


KINDS = list(product("HW", LAYOUTS, (False, True)))


@pytest.mark.parametrize("axis, layout, dense", KINDS)
def test_a_shift_of_the_input_shifts_the_result(axis, layout, dense):
    """Without position embedding."""
    dim = 2 if axis == "H" else 3
    for n in (7, 28):
        shape = (2, 5, n, 3) if axis == "H" else (2, 5, 3, n)
        op = Operator(
            kernels(5, n, dense), axis, shape, layout=layout, bias=normal(6 if dense else 5)
        )
        x = normal(*shape)
        y = op(x)
        for shift in (1, n // 2, n - 1):
            difference = abs(op(np.roll(x, shift, dim)) - np.roll(y, shift, dim))
            assert np.all(difference <= 2 * op.bound(x))


def test_with_a_position_embedding_it_does_not():
    """The law above is not kept by chance."""
    op = Operator(normal(5, 14), "H", (2, 5, 14, 3), position_embedding=normal(5, 14, seed=1))
    x = normal(2, 5, 14, 3)
    assert np.any(abs(op(np.roll(x, 1, 2)) - np.roll(op(x), 1, 2)) > 1000 * op.bound(x))


@pytest.mark.parametrize("axis, layout, dense", KINDS)
def test_a_delta_kernel_is_the_identity_or_a_shift(axis, layout, dense):
    """w = 1 at tap k moves the input by k points; by the direct plan to the bit."""
    dim = 2 if axis == "H" else 3
    for n, k in ((14, 5), (7, 0)):
        shape = (1, 5, n, 18) if axis == "H" else (1, 5, 18, n)
        weight = np.zeros((5, n), np.float32)
        weight[:, k] = 1
        if dense:  # output o is input o
            weight = np.einsum("oc,cn->ocn", np.eye(5, dtype=np.float32), weight)
        x = normal(*shape)
        moved = np.roll(x, -k, dim)
        assert np.array_equal(Operator(weight, axis, shape, layout=layout, plan="direct")(x), moved)
        op = Operator(weight, axis, shape, layout=layout)
        assert np.all(abs(op(x) - moved) <= op.bound(x))


@pytest.mark.parametrize("axis, layout", product("HW", LAYOUTS))
def test_channels_do_not_mix(axis, layout):
    """A depthwise channel's bits are the same whatever the others hold."""
    shape = (1, 21, 14, 14)
    op = Operator(normal(21, 14), axis, shape, layout=layout)
    x = normal(*shape)
    y = op(x)
    other = normal(*shape, seed=1).copy()
    for channel in (0, 4, 20):
        changed = other.copy()
        changed[:, channel] = x[:, channel]
        assert np.array_equal(op(changed)[:, channel], y[:, channel])


@pytest.mark.parametrize("axis, layout, dense", KINDS)
def test_images_of_a_batch_do_not_mix(axis, layout, dense):
    """An image's bits are those that it has alone."""
    shape = (3, 9, 14, 11) if axis == "H" else (3, 9, 11, 14)
    weight = kernels(9, 14, dense)
    x = normal(*shape)
    batch = Operator(weight, axis, shape, layout=layout)(x)
    one = Operator(weight, axis, (1, *shape[1:]), layout=layout)
    for image in range(3):
        assert np.array_equal(one(x[image : image + 1])[0], batch[image])


@pytest.mark.parametrize("axis, layout, dense", KINDS)
def test_lines_do_not_mix(axis, layout, dense):
    """Other lines of the map change no bit of one."""
    shape = (1, 4, 14, 19) if axis == "H" else (1, 4, 19, 14)
    op = Operator(kernels(4, 14, dense), axis, shape, layout=layout)
    x, other = normal(*shape), normal(*shape, seed=1)
    y = op(x)
    for line in (0, 7, 18):
        here = (slice(None), slice(None), slice(None), line) if axis == "H" else np.s_[:, :, line]
        changed = other.copy()
        changed[here] = x[here]
        assert np.array_equal(op(changed)[here], y[here])


@pytest.mark.parametrize("layout, dense", product(LAYOUTS, (False, True)))
def test_h_is_w_of_the_transposed_map(layout, dense):
    for n in LENGTHS:
        weight, pe, bias = kernels(5, n, dense), normal(5, n, seed=1), normal(6 if dense else 5)
        x = normal(2, 5, n, 6)
        more = {"position_embedding": pe, "bias": bias, "layout": layout}
        along_h = Operator(weight, "H", (2, 5, n, 6), **more)(x)
        along_w = Operator(weight, "W", (2, 5, 6, n), **more)(x.swapaxes(2, 3))
        assert np.array_equal(along_h, along_w.swapaxes(2, 3))


@pytest.mark.parametrize("axis, layout, dense", KINDS)
def test_every_plan_gives_the_same_within_the_bound(axis, layout, dense):
    n = 12
    shape = (1, 5, n, 6) if axis == "H" else (1, 5, 6, n)
    x, weight = normal(*shape), kernels(5, n, dense)
    more = {"position_embedding": normal(5, n, seed=1), "bias": normal(6 if dense else 5)}
    exact = parc(x, weight, axis=axis, **more)
    for n1 in (1, 3, 4, 12):
        plan = SplitPlan(n1=n1, n2=n // n1)
        result = Operator(weight, axis, shape, layout=layout, plan=str(plan), **more)(x)
        depth = plan_depth(plan, 5 if dense else 1)
        assert np.all(abs(result - exact) <= parc_bound(x, weight, axis=axis, depth=depth, **more))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_and_both_axes_are_made_of_their_parts(layout):
    h, w = 14, 9
    x = normal(2, 6, h, w)
    along_h, along_w = normal(6, h), normal(6, w)
    half = Operator((along_h[:3], along_w[3:]), "half", x.shape, layout=layout)(x)
    parts = [
        Operator(along_h[:3], "H", (2, 3, h, w), layout=layout)(x[:, :3]),
        Operator(along_w[3:], "W", (2, 3, h, w), layout=layout)(x[:, 3:]),
    ]
    first = Operator(along_h, "H", x.shape, layout=layout)
    second = Operator(along_w, "W", x.shape, layout=layout)
    both = Operator((along_h, along_w), "HW", x.shape, layout=layout)(x)
    bound = np.concatenate(
        [first.bound(x)[:, :3] + 0 * x[:, :3], second.bound(x)[:, 3:] + 0 * x[:, 3:]], 1
    )
    assert np.all(abs(half - np.concatenate(parts, 1)) <= 2 * bound)
    between = first(x)
    carried = parc(first.bound(x) + 0 * x, abs(along_w), axis="W")
    assert np.all(abs(both - second(between)) <= 2.02 * (second.bound(between) + carried))


@pytest.mark.parametrize("dense", [False, True])
def test_layouts_agree(dense):
    for axis, n in product("HW", LENGTHS):
        shape = (1, 5, n, 6) if axis == "H" else (1, 5, 6, n)
        x, weight = normal(*shape), kernels(5, n, dense)
        one, other = (Operator(weight, axis, shape, layout=layout) for layout in LAYOUTS)
        assert np.all(abs(one(x) - other(x)) <= 2 * one.bound(x))
