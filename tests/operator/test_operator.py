"""Does `compile_parc` give a function that computes the reference, on any acceptable array?"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import parc_hw
from parc_hw.dataflow import plan_depth
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import MAX_TRANSFORM, SplitPlan
from parc_hw.reference import depth_bound, parc

pytestmark = pytest.mark.tvm

ROOT = Path(__file__).parents[2]
SHAPES = {"NCHW": (2, 6, 14, 9), "NHWC": (2, 14, 9, 6)}
LENGTHS = {"H": 14, "W": 9}
AXES = ("H", "W", "half", "HW")
LAYOUTS = ("NCHW", "NHWC")


@cache
def normal(*shape, seed=0):
    result = np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)
    result.flags.writeable = False
    return result


def constants(axis):
    """weight, position_embedding and bias for the channels and lengths of `SHAPES`."""
    if axis in LENGTHS:
        n = LENGTHS[axis]
        return normal(6, n), normal(6, n, seed=1), normal(6)
    channels = 3 if axis == "half" else 6
    weight, pe = (tuple(normal(channels, n, seed=s) for n in LENGTHS.values()) for s in (0, 1))
    return weight, pe, normal(6) if axis == "half" else (normal(6), normal(6, seed=1))


@cache
def operator(axis="H", layout="NCHW"):
    weight, position_embedding, bias = constants(axis)
    return parc_hw.compile_parc(
        weight=weight,
        axis=axis,
        shape=SHAPES[layout],
        position_embedding=position_embedding,
        bias=bias,
        layout=layout,
    )


def to_nchw(x, layout):
    return x if layout == "NCHW" else x.transpose(0, 3, 1, 2)


def one(x, weight, axis, pe, bias):
    """(value, bound) of one correlation in NCHW; the bound holds for every plan of the length."""
    n = weight.shape[-1]
    plans = [SplitPlan(n1=f, n2=n // f) for f in range(1, min(n, MAX_TRANSFORM) + 1) if n % f == 0]
    depth = max(map(plan_depth, plans)) + 1  # the start values are rounded once
    if weight.ndim == 3:
        depth *= weight.shape[1]
    value = parc(x, weight, axis=axis, position_embedding=pe, bias=bias)
    return value, depth_bound(abs(x).max() + abs(pe).max(), weight, depth=depth, constant=bias)


def reference(x, axis):
    """(value, bound) of an operator of `constants` in NCHW."""
    weight, pe, bias = constants(axis)
    if axis in LENGTHS:
        return one(x, weight, axis, pe, bias)
    if axis == "half":
        first, e1 = one(x[:, :3], weight[0], "H", pe[0], bias[:3])
        second, e2 = one(x[:, 3:], weight[1], "W", pe[1], bias[3:])
        return np.concatenate([first, second], 1), max(e1, e2)
    between, error = one(x, weight[0], "H", pe[0], bias[0])
    value, own = one(between, weight[1], "W", pe[1], bias[1])
    return value, 1.01 * own + error * abs(weight[1]).sum(1).max()


def within(result, value, bound):
    assert np.isfinite(result).all()
    assert np.max(abs(result - value)) <= bound


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", AXES)
def test_every_axis_and_layout_computes_the_reference(axis, layout):
    x = normal(*SHAPES[layout], seed=2)
    result = operator(axis, layout)(x)
    assert result.dtype == np.float32
    within(to_nchw(result, layout), *reference(to_nchw(x, layout), axis))


@cache
def dense(axis, layout):
    """From 6 channels to 7."""
    n = LENGTHS[axis]
    return parc_hw.compile_parc(
        weight=normal(7, 6, n),
        axis=axis,
        shape=SHAPES[layout],
        position_embedding=normal(6, n),
        bias=normal(7),
        layout=layout,
    )


@pytest.mark.parametrize("axis", ["H", "W"])
def test_a_dense_kernel_sums_over_the_input_channels(axis):
    """Both layouts do the same sums in the same order: equal bits."""
    n = LENGTHS[axis]
    x = normal(*SHAPES["NCHW"], seed=2)
    value, bound = one(x, normal(7, 6, n), axis, normal(6, n), normal(7))
    result = dense(axis, "NCHW")(x)
    assert dense(axis, "NCHW").output_shape == (2, 7, 14, 9)
    assert dense(axis, "NHWC").output_shape == (2, 14, 9, 7)
    within(result, value, bound)
    other = dense(axis, "NHWC")(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    assert np.array_equal(to_nchw(other, "NHWC"), result)


def test_one_array_of_kernels_serves_both_halves_of_a_square_map():
    weight, pe = normal(5, 7), normal(5, 7, seed=1)
    whole = parc_hw.compile_parc(
        weight=weight, axis="half", shape=(1, 5, 7, 7), position_embedding=pe
    )
    pair = parc_hw.compile_parc(
        weight=(weight[:2], weight[2:]),
        axis="half",
        shape=(1, 5, 7, 7),
        position_embedding=(pe[:2], pe[2:]),
    )
    x = normal(1, 5, 7, 7)
    assert np.array_equal(whole(x), pair(x))


@pytest.mark.parametrize("axis", ["half", "HW"])
def test_of_a_pair_of_position_embeddings_either_may_be_missing(axis):
    weight, pe, _ = constants(axis)
    x = normal(*SHAPES["NCHW"])
    results = [
        parc_hw.compile_parc(
            weight=weight, axis=axis, shape=SHAPES["NCHW"], position_embedding=given
        )(x)
        for given in ((pe[0], None), (pe[0], pe[1] * 0))
    ]
    assert np.array_equal(*results)


def test_the_result_goes_into_out():
    op, x = operator(), normal(*SHAPES["NCHW"])
    out = np.full(SHAPES["NCHW"], np.nan, np.float32)
    assert op(x, out=out) is out
    assert np.array_equal(out, op(x))


def test_a_new_result_begins_at_a_cache_line():
    op, x = operator(), normal(*SHAPES["NCHW"])
    results = [op(x) for _ in range(5)]
    assert all(result.ctypes.data % 64 == 0 for result in results)
    assert all(result.flags.c_contiguous and result.flags.writeable for result in results)
    assert {result.dtype for result in results} == {np.dtype(np.float32)}


def test_a_bound_call_reads_and_writes_the_arrays_as_they_are_then():
    op = operator()
    x, y = np.zeros((2, *SHAPES["NCHW"]), np.float32)
    call = op.bind(x, y)
    x[:] = normal(*SHAPES["NCHW"])
    call()
    assert np.array_equal(y, op(x))


def test_a_bound_call_outlives_its_operator():
    x, y = normal(1, 2, 5, 3), np.zeros((1, 2, 5, 3), np.float32)
    op = parc_hw.compile_parc(weight=normal(2, 5), axis="H", shape=x.shape)
    expected = op(x)
    call = op.bind(x, y)
    del op
    gc.collect()
    call()
    assert np.array_equal(y, expected)


def test_two_threads_may_call_one_operator():
    op = operator("W")
    xs = [normal(*SHAPES["NCHW"], seed=s) for s in (3, 4)]
    expected = [op(x) for x in xs]
    wrong = []

    def work(x, y):
        wrong.extend(i for i in range(200) if not np.array_equal(op(x), y))

    threads = [threading.Thread(target=work, args=a) for a in zip(xs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", AXES)
def test_arrays_may_lie_at_any_multiple_of_four_bytes(axis, layout):
    op, x = operator(axis, layout), normal(*SHAPES[layout])
    expected = op(x)
    for shift in range(1, 17):
        given, out = (np.full(x.size + 64, np.nan, np.float32) for _ in range(2))
        inside = slice(shift, shift + x.size)
        given[inside] = x.ravel()
        op(given[inside].reshape(x.shape), out=out[inside].reshape(x.shape))
        assert np.array_equal(out[inside].reshape(x.shape), expected)
        assert np.isnan(out[:shift]).all()
        assert np.isnan(out[shift + x.size :]).all()


def against_a_page(size, *, at_end):
    """`size` floats that begin or end at an inaccessible page."""
    page = mmap.PAGESIZE
    room = -(-size * 4 // page) * page
    area = mmap.mmap(-1, room + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for guard in (base, base + page + room):
        assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    offset = page + (room - size * 4 if at_end else 0)
    return np.frombuffer(area, np.float32, size, offset)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", AXES)
def test_nothing_outside_the_arrays_is_touched(axis, layout, at_end):
    """A stray access ends the process: the arrays lie against inaccessible pages."""
    op, given = operator(axis, layout), normal(*SHAPES[layout])
    x, y = (against_a_page(given.size, at_end=at_end).reshape(given.shape) for _ in range(2))
    x[:] = given
    assert np.array_equal(op(x, out=y), op(given))


def touched(axis, points):
    """Which elements of an NCHW result depend on these of the input."""
    result = np.zeros(SHAPES["NCHW"], bool)
    for b, c, h, w in points:
        along_h = axis == "H" or (axis == "half" and c < 3)
        lines = np.s_[b, c] if axis == "HW" else np.s_[b, c, :, w] if along_h else np.s_[b, c, h]
        result[lines] = True
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", AXES)
def test_nan_and_infinity_reach_what_depends_on_them_and_nothing_else(axis, layout):
    x = normal(*SHAPES["NCHW"]).copy()
    x[0, 1, 3, 4], x[1, 5, 0, 0], x[1, 2, 13, 8] = np.nan, np.inf, -np.inf
    given = np.ascontiguousarray(x if layout == "NCHW" else x.transpose(0, 2, 3, 1))
    result = to_nchw(operator(axis, layout)(given), layout)
    points = [(0, 1, 3, 4), (1, 5, 0, 0), (1, 2, 13, 8)]
    assert np.array_equal(~np.isfinite(result), touched(axis, points))
    assert np.isnan(result[touched(axis, points[:1])]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", ["H", "W"])
def test_nan_in_a_dense_operator_reaches_all_channels_of_its_line(axis, layout):
    x = normal(*SHAPES["NCHW"]).copy()
    x[0, 1, 3, 4] = np.nan
    given = np.ascontiguousarray(x if layout == "NCHW" else x.transpose(0, 2, 3, 1))
    result = to_nchw(dense(axis, layout)(given), layout)
    expected = np.zeros(result.shape, bool)
    expected[(0, slice(None), slice(None), 4) if axis == "H" else (0, slice(None), 3)] = True
    assert np.array_equal(np.isnan(result), expected)


def test_infinity_of_the_direct_form_is_what_ieee_says():
    """inf times a positive weight is inf, a negative one -inf; inf - inf is NaN."""
    weight = np.array([[1.0, -2.0, 3.0]], np.float32)
    op = parc_hw.compile_parc(weight, "W", (1, 1, 2, 3), plan="direct")
    x = np.array([[np.inf, 1, 1], [np.inf, np.inf, 1]], np.float32).reshape(1, 1, 2, 3)
    with np.errstate(invalid="ignore"):
        sums = [
            [sum(w * r[(i + k) % 3] for k, w in enumerate(weight[0])) for i in range(3)]
            for r in x[0, 0]
        ]
    assert np.array_equal(op(x)[0, 0], np.array(sums, np.float32), equal_nan=True)


def test_a_constant_that_is_nan_stays_in_its_channel():
    weight = normal(6, 14).copy()
    weight[2, 5] = np.nan
    result = parc_hw.compile_parc(weight, "H", SHAPES["NCHW"])(normal(*SHAPES["NCHW"]))
    assert np.isnan(result[:, 2]).all()
    assert np.isfinite(np.delete(result, 2, 1)).all()


def test_a_read_only_input_is_read():
    assert not normal(*SHAPES["NCHW"]).flags.writeable
    operator()(normal(*SHAPES["NCHW"]))


def bad_arrays():
    x = np.zeros(SHAPES["NCHW"], np.float32)
    y = np.zeros_like(x)
    fixed = np.zeros_like(x)
    fixed.flags.writeable = False
    bytes_ = np.zeros(x.nbytes + 1, np.uint8)
    odd = bytes_[1:].view(np.float32).reshape(x.shape)
    both = np.zeros(x.size + 1, np.float32)
    turned = np.zeros((2, 6, 9, 14), np.float32).transpose(0, 1, 3, 2)
    return {
        "list": (x.tolist(), y, "x is a list; accepted: a numpy array"),
        "masked": (np.ma.array(x), y, "x is a MaskedArray; accepted: a numpy array"),
        "float64": (x.astype(float), y, "x has dtype <f8; accepted: float32"),
        "byte order": (x.astype(">f4"), y, "x has dtype >f4"),
        "shape": (x[:1], y, r"x has shape \(1, 6, 14, 9\); the operator was compiled for"),
        "flat": (x.ravel(), y, "x has shape"),
        "no dimension": (np.zeros((), np.float32), y, r"x has shape \(\)"),
        "scalar": (np.float32(1), y, "x is a float32; accepted: a numpy array"),
        "none": (None, y, "x is a NoneType"),
        "empty": (x[:0], y, r"x has shape \(0, 6, 14, 9\)"),
        "integers": (x.astype(np.int32), y, "x has dtype <i4"),
        "complex": (x.astype(np.complex64), y, "x has dtype <c8"),
        "repeated": (np.broadcast_to(x[:, :, :1], x.shape), y, "x has strides"),
        "strides": (turned, y, r"x has strides .* not C-contiguous; copy it with np.asc"),
        "reversed": (x[:, :, ::-1], y, "x has strides"),
        "odd address": (odd, y, "x does not begin at a multiple of 4 bytes"),
        "out dtype": (x, y.astype(np.float16), "out has dtype <f2"),
        "out list": (x, y.tolist(), "out is a list"),
        "out byte order": (x, y.astype(">f4"), "out has dtype >f4"),
        "out empty": (x, y[:0], r"out has shape \(0, 6, 14, 9\)"),
        "out shape": (x, y[:, :5], r"out has shape \(2, 5, 14, 9\)"),
        "out strides": (x, turned, "out has strides"),
        "out odd": (x, odd, "out does not begin at a multiple of 4 bytes"),
        "out read-only": (x, fixed, "out is read-only"),
        "in place": (x, x, "x and out overlap"),
        "overlap": (both[1:].reshape(x.shape), both[:-1].reshape(x.shape), "x and out overlap"),
    }


@pytest.mark.parametrize("name", list(bad_arrays()))
def test_arrays_that_do_not_fit_are_refused_by_name(name):
    x, out, message = bad_arrays()[name]
    with pytest.raises(InputError, match=message):
        operator()(x, out=out)


# ---------------------------------------------------------------- arguments

W = normal(6, 14)
GOOD = {"weight": W, "axis": "H", "shape": SHAPES["NCHW"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": "V"}, "axis is 'V'; accepted: H, W, half, HW"),
        ({"layout": "HWC"}, "layout is 'HWC'; accepted: NCHW, NHWC"),
        ({"threads": 0}, "threads is 0; accepted: a whole number from 1 to 64"),
        ({"threads": 65}, "threads is 65; accepted: a whole number from 1 to 64"),
        ({"threads": True}, "threads is True"),
        ({"plan": "fast"}, "plan 'fast' is not understood"),
        ({"plan": "64x1"}, "n1 = 64 is longer than the longest codelet"),
        ({"target": "cortex-a54"}, "no target is called 'cortex-a54'"),
        ({"shape": (6, 14, 9)}, r"shape is \(6, 14, 9\); accepted: four whole numbers"),
        ({"shape": (1, 6, 14, 0)}, "four whole numbers of at least 1"),
        ({"shape": (1, 6, 14, 1 << 30)}, r"2\*\*31 elements or more"),
        ({"shape": 4}, "shape is 4"),
        ({"weight": W.tolist()}, "weight is a list; accepted: a numpy array"),
        ({"weight": W.astype(int)}, "weight has dtype int64; accepted: floating-point"),
        ({"weight": W.astype(complex)}, "weight has dtype complex128"),
        (
            {"weight": W.astype(float) * 1e39},
            "weight has the value .*e.39, which is beyond float32",
        ),
        ({"weight": W[0, 0]}, "weight is a float32; accepted: a numpy array"),
        ({"weight": W[:0]}, r"weight has shape \(0, 14\)"),
        ({"weight": normal(0, 6, 14)}, r"weight has shape \(0, 6, 14\)"),
        ({"weight": normal(3, 5, 14)}, r"weight has shape \(3, 5, 14\); .* \(C_out, 6, 14\)"),
        ({"weight": normal(1, 3, 6, 14)}, r"weight has shape \(1, 3, 6, 14\)"),
        ({"weight": W[:5]}, r"weight has shape \(5, 14\); with 6 channels and 14 points"),
        ({"weight": W[:, :9]}, r"it must be \(6, 14\)"),
        ({"weight": W[0]}, r"weight has shape \(14,\)"),
        ({"axis": "W"}, r"it must be \(6, 9\)"),
        ({"position_embedding": W[:, :3]}, r"position_embedding has shape \(6, 3\)"),
        ({"position_embedding": 1.0}, "position_embedding is a float"),
        ({"bias": W}, r"bias has shape \(6, 14\); it must be \(6,\)"),
        ({"axis": "HW"}, r"weight is of shape \(6, 14\); .* takes a pair"),
        ({"axis": "half"}, r"weight is of shape \(6, 14\); .* takes a pair"),
        ({"axis": "half", "weight": (W, W[:, :9])}, "have 6 and 6 channels; together they must"),
        ({"axis": "half", "weight": (W[:0], W[:, :9])}, "each at least one"),
        ({"axis": "HW", "weight": (W, W)}, r"weight has shape \(6, 14\); .* 9 points"),
        ({"axis": "HW", "weight": (W, W[:, :9]), "bias": W[:, 0]}, r"bias is of shape \(6,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        parc_hw.compile_parc(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "cortex-a53"}, "target cortex-a53 does not run on this machine"),
        (
            {"axis": "half", "weight": (normal(3, 3, 14), normal(3, 3, 9))},
            'along axis "half" is not supported. Compile one operator for each axis',
        ),
        ({"axis": "half", "weight": normal(6, 6, 14)}, 'a dense kernel .* along axis "half"'),
        (
            {"axis": "HW", "weight": (normal(6, 6, 14), normal(6, 6, 9))},
            'along axis "HW" is not supported. Compile one operator for each axis',
        ),
    ],
)
def test_what_no_kernel_computes_is_named(change, message):
    with pytest.raises(UnsupportedError, match=message):
        parc_hw.compile_parc(**{**GOOD, **change})


@pytest.mark.parametrize("plan", ["direct", "fft", "7x2"])
def test_the_plan_asked_for_is_taken(plan):
    op = parc_hw.compile_parc(**GOOD, plan=plan)
    names = {"direct": "1x14", "fft": "14x1", "7x2": "7x2"}
    assert f"along H: {names[plan]}" in op.plan
    assert names[plan] in repr(op)
    assert op.macs == 2 * 6 * 14 * 9 * 14


def test_no_c_compiler_is_needed():
    """In a process that finds no program at all."""
    program = (
        "import numpy as np, parc_hw\n"
        "x = np.ones((1, 2, 6, 5), np.float32)\n"
        "op = parc_hw.compile_parc(weight=np.ones((2, 6), np.float32), axis='H', shape=x.shape)\n"
        "assert (op(x) == 6).all()\n"
    )
    environment = {**os.environ, "PATH": "/nowhere", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
