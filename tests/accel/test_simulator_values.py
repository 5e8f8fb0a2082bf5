"""Every instruction computes what `fixedpoint` computes, word for word."""

from __future__ import annotations

import numpy as np
import pytest
from run_near import compute, drain, far, make, near, row_strides, sums

from fixedpoint.datapath import Cut, Datapath
from fixedpoint.integer import operators
from fixedpoint.integer.operators import Ending, Window
from fixedpoint.integer.tables import NAMES, curve
from fixedpoint.mixed_radix import lower
from fixedpoint.mixed_radix import run as transform
from fixedpoint.modes import Overflow, Rounding, rounding_code
from fixedpoint.operator import parc
from fixedpoint.paths import FourierDatapath
from fixedpoint.qformat import QFormat
from fixedpoint.scaling import BlockScaling, ScalingSchedule
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from parc_hw.accel import rom
from parc_hw.errors import InputError
from parc_hw.isa import (
    Function,
    Operand,
    Space,
    Type,
    butterfly,
    circular_mac,
    load,
    matrix_mac,
    requantise,
    spectrum_product,
    store,
    vector,
)
from parc_hw.plan import FftPlan
from parc_hw.spec import Axis, ParcSpec

RNG = np.random.default_rng(8)
DTYPES = {8: np.int8, 16: np.int16}


def words(bits, *shape, corners=True):
    """Random words over the full range, with both ends among them."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    found = RNG.integers(low, high + 1, shape).astype(DTYPES.get(bits, np.int64))
    if corners and found.size > 2:
        found.reshape(-1)[:2] = low, high
    return found


def weights(bits, *shape):
    found = words(bits, *shape, corners=False)
    return np.maximum(found, -(1 << (bits - 1)) + 1)


# ---------------------------------------------------------------- multiply and accumulate
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 7, 3), (40, 33, 35)])
def test_a_linear_layer_is_the_rules(bits, m, k, n):
    x, w = words(bits, m, k), weights(bits, k, n)
    bias = RNG.integers(-(1 << 20), 1 << 20, n)
    frac = RNG.integers(bits - 2, bits + 2, n)
    fx, out = QFormat(3, bits - 3), QFormat(4, bits - 4)
    ending = Ending(format=out)
    rule = operators.Linear(
        w.astype(np.int64), bias, x=fx, frac_bits=frac, weight_bits=bits, ending=ending, name="l"
    )
    shift = (fx.frac_bits + frac - out.frac_bits).astype(np.int8)
    size = bits // 8
    code = [
        matrix_mac(
            near(x, 0, (k * size, 0, 0, 0, 0, 0, size)),
            near(w, 4096, (0, 0, 0, size, 0, 0, n * size)),
            sums(0, (n, 0, 0, 1)),
            (m, 1, 1, n, 1, 1, k),
            c=near(bias, 8192, (0, 0, 0, 8)),
        ),
        requantise(
            sums(0, (n, 0, 0, 1)),
            near(x, 16384, (n * size, 0, 0, size)),
            (m, 1, 1, n),
            shifts=near(shift, 12288, (0, 0, 0, 1)),
        ),
    ]
    inputs = {0: x, 4096: w, 8192: bias, 12288: shift}
    y, _ = compute(code, inputs, (16384, x.dtype, (m, n)))
    assert np.array_equal(y, rule(x.astype(np.int32)))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_convolution_is_one_instruction(bits):
    height, width, channels, outputs, taps = 9, 8, 5, 6, 3
    x, w = words(bits, 1, height, width, channels), weights(bits, taps, taps, channels, outputs)
    window = Window(taps=(taps, taps), strides=(2, 1), padding=(1, 1, 1, 1))
    fx, fw, out = QFormat(2, bits - 2), np.full(outputs, bits - 1), QFormat(6, bits - 6)
    bias = RNG.integers(-(1 << 10), 1 << 10, outputs)
    common = {"x": fx, "frac_bits": fw, "weight_bits": bits, "name": "c"}
    rule = operators.Convolution(
        operators.Linear(
            w.reshape(-1, outputs).astype(np.int64), bias, ending=Ending(format=out), **common
        ),
        window,
    )
    expected = rule(x.astype(np.int32))[0]
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    size, rows, columns = bits // 8, *expected.shape[:2]
    down, across, deep = row_strides(padded.shape, size)
    tap_down, tap_across, tap_deep, tap = row_strides(w.shape, size)
    code = [
        matrix_mac(
            near(x, 0, (2 * down, across, 0, 0, down, across, deep)),
            near(w, 4096, (0, 0, 0, tap, tap_down, tap_across, tap_deep)),
            sums(100, (columns * outputs, outputs, 0, 1)),
            (rows, columns, 1, outputs, taps, taps, channels),
        ),
        requantise(
            sums(100, (columns * outputs, outputs, 0, 1)),
            near(x, 16384, row_strides((rows, columns, 1, outputs), size)),
            (rows, columns, 1, outputs),
            bias=near(bias, 12288, (0, 0, 0, 8)),
            shift=int(fx.frac_bits + fw[0] - out.frac_bits),
        ),
    ]
    y, _ = compute(code, {0: padded, 4096: w, 12288: bias}, (16384, x.dtype, expected.shape))
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_convolution_has_weights_for_each_output(bits, multiplier):
    height, width, channels, taps = 6, 7, 4, 3
    outputs = channels * multiplier
    x, w = words(bits, 1, height, width, channels), weights(bits, taps, taps, outputs)
    window = Window(taps=(taps, taps))
    bias = np.zeros(outputs, np.int64)
    rule = operators.Depthwise(
        w.astype(np.int64), bias, window, x=QFormat(1, bits - 1), frac_bits=np.full(outputs, 5),
        weight_bits=bits, ending=Ending(format=QFormat(5, bits - 5)), name="d",
    )  # fmt: skip
    expected = rule(x.astype(np.int32))[0]
    size, rows, columns = bits // 8, *expected.shape[:2]
    down, across, deep = row_strides(x.shape[1:], size)
    place = (columns * outputs, outputs, multiplier, 1)
    code = [
        matrix_mac(
            near(x, 0, (down, across, deep, 0, down, across, 0)),
            near(w, 4096, (0, 0, multiplier * size, size, taps * outputs * size, outputs * size)),
            sums(0, place),
            (rows, columns, channels, multiplier, taps, taps),
        ),
        requantise(
            sums(0, place),
            near(x, 8192, tuple(size * stride for stride in place)),
            (rows, columns, channels, multiplier),
            shift=bits - 1 + 5 - (bits - 5),
        ),
    ]
    y, _ = compute(code, {0: x, 4096: w}, (8192, x.dtype, expected.shape))
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_a_depthwise_parc_is_one_instruction_for_each_tile(bits, axis, start):
    shape, channels = (1, 7, 5, 6), 6
    length = shape[axis]
    x, w = words(bits, *shape), weights(bits, channels, length)
    bias = RNG.integers(-(1 << 12), 1 << 12, (channels, length))
    rule = operators.Parc(
        w.astype(np.int64), bias, axis, x=QFormat(1, bits - 1), frac_bits=np.full(channels, bits),
        weight_bits=bits, ending=Ending(format=QFormat(4, bits - 4)), name="p",
    )  # fmt: skip
    places = length - start
    expected = np.moveaxis(rule(x.astype(np.int32))[0], axis - 1, 0)[start:]  # places, lines, C
    size, lines = bits // 8, expected.shape[1]
    steps = row_strides(shape[1:], size)
    along, other = (steps[0], steps[1]) if axis == 1 else (steps[1], steps[0])
    taps = np.ascontiguousarray(w.T)
    starts = np.ascontiguousarray(bias.T)
    out = (0, lines * channels, channels, 1)
    code = [
        circular_mac(
            near(x, 0, (0, along, other, size)),
            near(taps, 4096, (0, 0, 0, size, channels * size)),
            sums(0, out),
            (1, places, lines, channels, length),
            ring=length,
            start=start,
            c=near(starts, 8192 + 8 * channels * start, (0, 8 * channels, 0, 8)),
        ),
        requantise(
            sums(0, out),
            near(x, 16384, tuple(size * stride for stride in out)),
            (1, places, lines, channels),
            shift=bits - 1 + bits - (bits - 4),
        ),
    ]
    y, _ = compute(code, {0: x, 4096: taps, 8192: starts}, (16384, x.dtype, expected.shape))
    assert np.array_equal(y, expected)


def test_a_dense_parc_sums_over_channels():
    height, width, channels, outputs = 6, 4, 5, 3
    x, w = words(8, 1, height, width, channels), weights(8, outputs, channels, height)
    bias = np.zeros((outputs, height), np.int64)
    rule = operators.ParcDense(
        w.astype(np.int64), bias, 1, x=QFormat(1, 7), frac_bits=np.full(outputs, 7),
        weight_bits=8, ending=Ending(format=QFormat(6, 2)), name="p",
    )  # fmt: skip
    expected = rule(x.astype(np.int32))[0]
    down, across, deep = row_strides(x.shape[1:], 1)
    out = (0, width * outputs, outputs, 1)
    code = [
        circular_mac(
            near(x, 0, (0, down, across, 0, 0, 0, deep)),
            near(w, 4096, (0, 0, 0, channels * height, 1, 0, height)),
            sums(0, out),
            (1, height, width, outputs, height, 1, channels),
            ring=height,
        ),
        requantise(sums(0, out), near(x, 8192, out), (1, height, width, outputs), shift=12),
    ]
    y, _ = compute(code, {0: x, 4096: w}, (8192, np.int8, expected.shape))
    assert np.array_equal(y, expected)


def test_batches_of_matrices_multiply_each_on_their_own():
    heads, rows, deep, columns = 3, 4, 5, 6
    a, b = words(16, heads, rows, deep), words(16, heads, deep, columns)
    rule = operators.MatrixProduct(
        a=QFormat(1, 15), b=QFormat(1, 15), count=deep, ending=Ending(format=QFormat(3, 13)),
        name="m",
    )  # fmt: skip
    out = (rows * columns, columns, 0, 1)
    code = [
        matrix_mac(
            near(a, 0, (2 * rows * deep, 2 * deep, 0, 0, 0, 0, 2)),
            near(b, 1024, (2 * deep * columns, 0, 0, 2, 0, 0, 2 * columns)),
            sums(0, out),
            (heads, rows, 1, columns, 1, 1, deep),
        ),
        requantise(
            sums(0, out),
            near(a, 4096, tuple(2 * stride for stride in out)),
            (heads, rows, 1, columns),
            shift=17,
        ),
    ]
    y, _ = compute(code, {0: a, 1024: b}, (4096, np.int16, (heads, rows, columns)))
    assert np.array_equal(y, rule(a.astype(np.int32), b.astype(np.int32)))


def test_sums_are_exact_where_floating_point_would_round():
    x = np.full((1, 4), -(1 << 31), np.int32)
    w = np.array([[-(1 << 31)], [(1 << 31) - 1], [1], [3]], np.int32)
    code = [
        matrix_mac(
            near(x, 0, (16, 0, 0, 0, 0, 0, 4)),
            near(w, 64, (0, 0, 0, 0, 0, 0, 4)),
            sums(0, ()),
            (1, 1, 1, 1, 1, 1, 4),
        ),
        drain(0, 128, 1),
    ]
    y, _ = compute(code, {0: x, 64: w}, (128, np.int64, (1,)))
    exact = int((x.astype(object) @ w.astype(object))[0, 0])
    assert y[0] == (exact + (1 << 47)) % (1 << 48) - (1 << 47)  # 48 bits are kept


def test_accumulators_wrap_and_say_so():
    x = np.full((1, 3), -(1 << 31), np.int32)
    code = [
        matrix_mac(
            near(x, 0, (0, 0, 0, 0, 0, 0, 4)),
            near(x, 0, (0, 0, 0, 0, 0, 0, 4)),
            sums(0, ()),
            (1, 1, 1, 1, 1, 1, 3),
        ),
        drain(0, 128, 1),
    ]
    y, result = compute(code, {0: x}, (128, np.int64, (1,)))
    assert y[0] == (3 << 62) % (1 << 48)
    assert result.wrapped == 1


def test_accumulate_adds_to_what_is_there():
    x, w = words(8, 4, 6), weights(8, 6, 3)
    operands = {
        "a": near(x, 0, (6, 0, 0, 0, 0, 0, 1)),
        "b": near(w, 64, (0, 0, 0, 1, 0, 0, 3)),
        "out": sums(0, (3, 0, 0, 1)),
        "extents": (4, 1, 1, 3, 1, 1, 6),
    }
    code = [matrix_mac(**operands), matrix_mac(**operands, accumulate=True), drain(0, 128, 12)]
    y, _ = compute(code, {0: x, 64: w}, (128, np.int64, (4, 3)))
    assert np.array_equal(y, 2 * (x.astype(int) @ w.astype(int)))


# ---------------------------------------------------------------- the vector unit
@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("shift", [-3, 0, 1, 7, 20])
def test_requantise_rounds_in_every_mode(rounding, shift):
    frac = 10
    out = QFormat(16 - (frac - shift), frac - shift)
    value = RNG.integers(-(1 << 20), 1 << 20, 64)
    value[:4] = (1 << (max(shift, 1) - 1)) * np.array([1, -1, 3, -3])  # ties
    rule = operators.Requantize(
        frac_bits=frac, bound=1 << 21, ending=Ending(format=out, rounding=rounding), name="r"
    )
    code = [
        requantise(
            near(value, 0, (0, 0, 0, 8)),
            near(Type.I16, 1024, (0, 0, 0, 2)),
            (1, 1, 1, 64),
            shift=shift,
            rounding=rounding_code(rounding),
        )
    ]
    y, _ = compute(code, {0: value}, (1024, np.int16, (64,)))
    assert np.array_equal(y, rule(value.reshape(1, 64))[0])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("negative", [False, True])
def test_sums_align_their_points(bits, negative):
    a, b = words(bits, 50), words(bits, 50)
    fa, fb, out = QFormat(2, bits - 2), QFormat(5, bits - 5), QFormat(3, bits - 3)
    rule = operators.Sum(
        a=fa, b=fb, negative=negative, ending=Ending(format=out, lowest=0.0), name="s"
    )
    size = bits // 8
    code = [
        vector(
            Function.SUBTRACT if negative else Function.ADD,
            near(a, 1024, (0, 0, 0, size)),
            (1, 1, 1, 50),
            a=near(a, 0, (0, 0, 0, size)),
            b=near(b, 512, (0, 0, 0, size)),
            up_b=3,
            shift=1,
            lo=0,
        )
    ]
    y, _ = compute(code, {0: a, 512: b}, (1024, a.dtype, (50,)))
    assert np.array_equal(y, rule(a.astype(np.int32), b.astype(np.int32)))


def test_products_broadcast_by_strides_of_zero():
    a, b = words(16, 5, 8), words(16, 8)
    rule = operators.Product(
        a=QFormat(1, 15), b=QFormat(1, 15), ending=Ending(format=QFormat(1, 15)), name="p"
    )
    code = [
        vector(
            Function.MULTIPLY,
            near(a, 1024, (16, 0, 0, 2)),
            (5, 1, 1, 8),
            a=near(a, 0, (16, 0, 0, 2)),
            b=near(b, 512, (0, 0, 0, 2)),
            shift=15,
        )
    ]
    y, _ = compute(code, {0: a, 512: b}, (1024, np.int16, (5, 8)))
    assert np.array_equal(y, rule(a.astype(np.int32), b.astype(np.int32)[None]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [8, 16])
def test_activations_come_from_the_rules_tables(name, bits):
    x = np.arange(-(1 << (bits - 1)), 1 << (bits - 1)).astype(DTYPES[bits])[
        :: max(1, bits * 3 - 23)
    ]
    fx, out = QFormat(4, bits - 4), QFormat(4, bits - 4)
    rule = operators.Activation(name, x=fx, ending=Ending(format=out), name=name)
    table = rom.activation_words(name)
    up, k = max(7 - fx.frac_bits, 0), max(fx.frac_bits - 7, 0)
    size = bits // 8
    code = [
        vector(
            Function.ACTIVATE,
            near(x, 65536, (0, 0, 0, size)),
            (1, 1, 1, x.size),
            a=near(x, 0, (0, 0, 0, size)),
            b=Operand(Space.ROM, Type.I32, 0),
            immediate=len(table) // 4,
            immediate2=int(curve(name).grows),
            up_a=up,
            up_b=k,
            shift=k + 20 - out.frac_bits,
        )
    ]
    y, _ = compute(code, {0: x}, (65536, x.dtype, x.shape), rom=table)
    assert np.array_equal(y, rule(x.astype(np.int32)))


@pytest.mark.parametrize("bits", [8, 16])
def test_layer_norm_and_softmax_are_the_rules(bits):
    rows, channels = 6, 24
    x = words(bits, rows, channels)
    fx, out = QFormat(3, bits - 3), QFormat(4, bits - 4)
    frac = RNG.integers(4, 8, channels)
    weight = RNG.integers(-100, 100, channels)
    bias = RNG.integers(-(1 << 20), 1 << 20, channels)
    rule = operators.LayerNorm(
        weight, bias, 1e-6, x=fx, frac_bits=frac, weight_bits=8, ending=Ending(format=out), name="n"
    )
    epsilon = operators.normal_epsilon(1e-6, channels, fx)
    records = rom.norm_records(weight, bias, 16 + frac - out.frac_bits)
    size = bits // 8
    strides = (channels * size, 0, 0, size)
    code = [
        vector(
            Function.LAYER_NORM,
            near(x, 8192, strides),
            (rows, 1, 1, channels),
            a=near(x, 0, strides),
            b=Operand(Space.ROM, Type.I64, 0, (0, 0, 0, 16)),
            immediate=epsilon & 0x7FFFFFFF,
            immediate2=epsilon >> 31,
        )
    ]
    y, _ = compute(code, {0: x}, (8192, x.dtype, x.shape), rom=records)
    assert np.array_equal(y, rule(x.astype(np.int32)))

    soft = operators.Softmax(channels, x=fx, ending=Ending(format=QFormat(1, bits - 1)), name="s")
    table = rom.softmax_words()
    k = max(fx.frac_bits - 7, 0)
    code = [
        vector(
            Function.SOFTMAX,
            near(x, 8192, strides),
            (rows, 1, 1, channels),
            a=near(x, 0, strides),
            b=Operand(Space.ROM, Type.I32, 0),
            immediate=len(table) // 4,
            up_a=max(7 - fx.frac_bits, 0),
            up_b=k,
            shift=46 - (bits - 1),
        )
    ]
    y, _ = compute(code, {0: x}, (8192, x.dtype, x.shape), rom=table)
    assert np.array_equal(y, soft(x.astype(np.int32)))


def test_pooling_and_means_reduce_over_windows():
    height, width, channels = 6, 8, 5
    x = words(8, 1, height, width, channels)
    window = Window(taps=(3, 3), strides=(2, 2))
    expected = operators.max_pool(x, window)[0]
    down, across, deep = row_strides(x.shape[1:], 1)
    rows, columns = expected.shape[:2]
    code = [
        vector(
            Function.MAX,
            near(x, 4096, row_strides((rows, columns, 1, channels), 1)),
            (rows, columns, 1, channels, 3, 3),
            a=near(x, 0, (2 * down, 2 * across, 0, deep, down, across)),
        )
    ]
    y, _ = compute(code, {0: x}, (4096, np.int8, expected.shape))
    assert np.array_equal(y, expected)

    count = height * width
    rule = operators.Mean(
        count, keep=False, x=QFormat(2, 6), ending=Ending(format=QFormat(1, 7)), name="m"
    )
    exponent = 15 + (count - 1).bit_length()
    code = [
        vector(
            Function.SUM,
            sums(0, (0, 0, 0, 1)),
            (1, 1, 1, channels, height, width),
            a=near(x, 0, (0, 0, 0, deep, down, across)),
        ),
        requantise(
            sums(0, (0, 0, 0, 1)),
            near(x, 4096, (0, 0, 0, 1)),
            (1, 1, 1, channels),
            multiplier=int(np.rint(2.0**exponent / count)),
            shift=exponent + 6 - 7,
        ),
    ]
    y, _ = compute(code, {0: x}, (4096, np.int8, (channels,)))
    assert np.array_equal(y, rule(x.astype(np.int32))[0])


def test_fill_copy_and_the_low_bits_of_what_wraps():
    value = np.array([300, -300, 127, -129], np.int32)
    code = [
        vector(Function.FILL, near(Type.I16, 64, (0, 0, 0, 2)), (1, 1, 1, 3), immediate=-7),
        vector(
            Function.COPY,
            near(Type.I8, 80, (0, 0, 0, 1)),
            (1, 1, 1, 4),
            a=near(value, 0, (0, 0, 0, 4)),
        ),
    ]
    y, _ = compute(code, {0: value}, (64, np.int8, (20,)))
    assert y[:6].view(np.int16).tolist() == [-7, -7, -7]
    assert y[16:].tolist() == [127, -128, 127, -128]


# ---------------------------------------------------------------- transforms
PLANS = [
    FftPlan.of(14, output_order="digit_reversed"),
    FftPlan.of(56, output_order="digit_reversed"),
    FftPlan.of(60, output_order="digit_reversed"),
    FftPlan(radices=(3, 5), decimation="dit", input_order="digit_reversed"),
    FftPlan(radices=(2, 2, 2), output_order="digit_reversed", groups=(2, 1)),
]


def in_place(transform_program, lines, base, extents, size):
    """All stages of a transform on words at `base`, and their tables."""
    tables, code = b"", []
    type_ = Type.I16 if size == 2 else Type.I32
    place = near(type_, base, row_strides(extents, size))
    for s in range(len(transform_program.plan.radices)):
        table = Operand(Space.ROM, Type.I64, len(tables))
        tables += rom.stage_table(transform_program, s)
        code.append(butterfly(place, table, place, extents))
    return code, tables


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scaling", ["half", "growing"])
@pytest.mark.parametrize("product", ["last", "first"])
def test_stages_are_those_of_the_lowered_transform(plan, inverse, scaling, product):
    lines, length = 5, plan.length
    try:
        datapath = FftDatapath.of(plan, bits=16, scaling=scaling, product=product)
    except InputError:
        datapath = FftDatapath.of(plan, bits=16, scaling=scaling)
    lowered = lower(plan, datapath, inverse)
    x = RNG.integers(-32768, 32768, (lines, length, 2)).astype(np.int32)
    expected = transform(lowered, x).words
    natural = x[:, lowered.source]
    code, tables = in_place(lowered, lines, 0, (1, lines, length, 2), 4)
    y, _ = compute(code, {0: natural}, (0, np.int32, natural.shape), rom=tables)
    held = np.empty_like(y)
    held[:, lowered.target] = y
    assert np.array_equal(held, expected)


def test_block_floating_point_is_refused():
    plan = FftPlan.of(8)
    lowered = lower(plan, FftDatapath.of(plan, bits=16, scaling="none", block=BlockScaling()))
    with pytest.raises(InputError, match="no block floating point"):
        rom.stage_table(lowered, 0)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_parc_by_transforms_is_the_fixed_point_operators(pairs, channels):
    """Forward, product, inverse and bias as instructions, against `fixedpoint.parc`."""
    from fixedpoint import spectral

    length, lines = 14, 4
    plan = FftPlan.of(length, output_order="digit_reversed")
    bits = 16
    forward = FftDatapath.of(plan, bits=bits, scaling="half")
    raw_w = RNG.integers(-(1 << 13), 1 << 13, (channels, length))
    kernel = QFormat.parse("Q1.15")
    spectrum = spectral.spectrum_format(raw_w, kernel, bits)
    held = QFormat(bits - forward.output.frac_bits + 3, forward.output.frac_bits - 3)
    inverse = FftDatapath.of(plan.transposed, bits=bits, scaling="none", input=held)
    output = Cut(QFormat.parse("Q3.13"), Rounding.HALF_EVEN)
    datapath = FourierDatapath(
        data="Q1.15", kernel=kernel, forward=forward, spectrum=spectrum,
        product=Datapath(Cut(held, Rounding.HALF_EVEN)), inverse=inverse, output=output,
        pairs=pairs, bias="Q1.15",
    )  # fmt: skip
    spec = ParcSpec(
        axis=Axis.W, batch=1, channels=channels, height=lines, width=length, bias=True,
        position_embedding=False,
    )  # fmt: skip
    x = words(bits, 1, channels, lines, length)
    bias = RNG.integers(-2000, 2000, channels)
    expected = parc(x, raw_w, spec=spec, plan=plan, datapath=datapath, bias=bias)[0]

    frames = lines // 2 if pairs else lines
    packed = np.zeros((channels, frames, length, 2), np.int32)
    packed[..., 0] = x[0, :, ::2] if pairs else x[0]
    if pairs:
        packed[..., 1] = x[0, :, 1::2]
    shape = packed.shape
    there, tables = in_place(lower(plan, forward), frames, 0, shape, 4)
    back_program = lower(plan.transposed, inverse, True)
    product_at = len(tables)
    tables += rom.product_table(datapath)
    back, more = [], b""
    place = near(Type.I32, 0, row_strides(shape, 4))
    for s in range(len(plan.radices)):
        back.append(
            butterfly(place, Operand(Space.ROM, Type.I64, len(tables) + len(more)), place, shape)
        )
        more += rom.stage_table(back_program, s)
    kernel_words = spectral.kernel_words(raw_w.reshape(channels, 1, length), plan, datapath)
    s_words = np.ascontiguousarray(kernel_words[:, 0]).astype(np.int32)
    point = max(inverse.output.frac_bits, 15)  # of the sum with the bias
    starts = bias << (point - 15)
    code = [
        *there,
        spectrum_product(
            place,
            near(s_words, 32768, (8 * length, 0, 8, 4)),
            Operand(Space.ROM, Type.I64, product_at),
            place,
            shape,
        ),
        *back,
        vector(
            Function.ADD,
            near(Type.I16, 49152, row_strides((channels, frames, length, 2), 2)),
            (channels, frames, length, 2 if pairs else 1),
            a=place,
            b=near(starts.astype(np.int32), 40960, (4,)),
            up_a=point - inverse.output.frac_bits,
            shift=point - output.format.frac_bits,
            rounding=rounding_code(Rounding.HALF_EVEN),
        ),
    ]
    inputs = {0: packed, 32768: s_words, 40960: starts.astype(np.int32)}
    y, _ = compute(code, inputs, (49152, np.int16, shape), rom=tables + more)
    unpacked = np.empty((channels, lines, length), np.int16)
    if pairs:
        unpacked[:, ::2], unpacked[:, 1::2] = y[..., 0], y[..., 1]
    else:
        unpacked[:] = y[..., 0]
    assert np.array_equal(unpacked, expected)


@pytest.mark.parametrize("transposed", [False, True])
def test_graphs_are_those_of_the_two_level_plan(transposed):
    from fixedpoint.paths import SplitDatapath
    from fixedpoint.split import integer_graph, run_graph

    datapath = SplitDatapath(
        data="Q1.15", kernel="Q1.15", coefficient="Q2.14", table="Q4.12",
        rows=Cut(QFormat.parse("Q4.12")), columns=Cut(QFormat.parse("Q6.10")),
        output=Cut(QFormat.parse("Q4.12")),
    )  # fmt: skip
    graph = integer_graph(7, datapath.coefficient, datapath.rounding, transposed=transposed)
    x = words(16, 3, 4, 7)
    expected = run_graph(graph, x.reshape(-1, 7).astype(np.int64), datapath.guard, datapath)
    strides = row_strides((3, 4, 7, 1), 2)
    code = [
        butterfly(
            near(x, 0, strides),
            Operand(Space.ROM, Type.I64, 0),
            near(Type.I32, 4096, tuple(2 * stride for stride in strides)),
            (3, 4, 7, 1),
            function=Function.GRAPH,
        )
    ]
    y, _ = compute(code, {0: x}, (4096, np.int32, (12, 7)), rom=rom.graph_table(graph, datapath))
    assert np.array_equal(y, expected)


# ---------------------------------------------------------------- moving
def test_transfers_are_strided_and_wrap_around_a_ring():
    from parc_hw.accel.simulator import run

    height, width, channels = 5, 6, 4
    x = words(16, height, width, channels)
    out_at = x.nbytes
    code = [
        # columns 4, 5, 0, 1 of channels 1 and 2
        load(
            far(Type.I16, 2, (48, 0, 8, 2)),
            near(Type.I16, 0, (16, 0, 4, 2)),
            (height, 1, 4, 2),
            ring=width,
            start=4,
        ),
        store(
            near(Type.I16, 0, (16, 0, 4, 2)),
            far(Type.I16, out_at, (24, 0, 4, 2)),
            (height, 1, 4, 2),
            ring=6,
            start=3,
        ),
    ]
    program, machine = make(
        "edge-npu", code, external_bytes=out_at + 120, constants=[(0, x.tobytes())]
    )
    y = run(program, machine).external[out_at:].view(np.int16).reshape(height, 6, 2)
    tile = x[:, [4, 5, 0, 1], 1:3]
    assert np.array_equal(y[:, [3, 4, 5, 0]], tile)
    assert not y[:, [1, 2]].any()


def test_loops_move_addresses_by_their_steps():
    from parc_hw.accel.simulator import run
    from parc_hw.isa import end, loop

    x = words(8, 3, 4, 8)
    code = [
        load(
            far(Type.I8, 0, (0, 0, 0, 1)), near(Type.I8, 0, (0, 0, 0, 1)), (1, 1, 1, 96), signal=32
        ),
        loop(3),
        loop(4),
        store(
            Operand(Space.SCRATCHPAD, Type.I8, 0, (0, 0, 0, 1), (32, 8)),
            Operand(Space.EXTERNAL, Type.I8, 96, (0, 0, 0, 1), (8, 24)),
            (1, 1, 1, 8),
        ),
        end(),
        end(),
    ]
    # the first of the stores waits for the load: a SYNC in front of the loops takes the token
    from parc_hw.isa import Queue, sync

    code.insert(1, sync(Queue.STORE, wait=1))
    program, machine = make(
        "edge-npu", code, external_bytes=192, constants=[(0, x.tobytes())], tokens=False
    )
    y = run(program, machine).external[96:].view(np.int8).reshape(4, 3, 8)
    assert np.array_equal(y, x.swapaxes(0, 1))


@pytest.mark.parametrize("overflow", [Overflow.SATURATE, Overflow.WRAP])
def test_transform_words_saturate_or_wrap_as_their_datapath_says(overflow):
    plan = FftPlan(radices=(4, 2), output_order="digit_reversed")
    datapath = FftDatapath.of(plan, bits=16, scaling=ScalingSchedule.none(plan), overflow=overflow)
    lowered = lower(plan, datapath)
    x = RNG.integers(-32768, 32768, (3, 8, 2)).astype(np.int16)
    code, tables = in_place(lowered, 3, 0, (1, 3, 8, 2), 2)
    y, _ = compute(code, {0: x}, (0, np.int16, x.shape), rom=tables)
    assert np.array_equal(y, transform(lowered, x.astype(np.int64)).words)


def drawn_stage(rng, dif):
    """A stage with points that the usual datapaths lack."""

    def point(shift, **fields):
        return Point(
            shift=shift,
            rounding=list(Rounding)[rng.integers(5)],
            bits=18,
            overflow=(Overflow.SATURATE, Overflow.WRAP)[rng.integers(2)],
            **fields,
        )

    shift, split = int(rng.integers(0, 3)), int(rng.integers(0, 2))
    sum_first = dif and bool(rng.integers(2))
    left = 0 if sum_first or not dif else shift
    return StageDatapath(
        input=point(1) if rng.integers(2) else None,
        each=point(split, guard=1),
        product=point(
            left - split, **({"from_bits": 34, "then_bits": 17} if dif else {"guard": 2})
        ),
        constants=point(0, guard=2) if rng.integers(2) else None,
        sum=point(shift, from_bits=24),
        output=point(0) if rng.integers(2) else None,
        trivial=list(Trivial)[rng.integers(3)],
        turn_first=bool(rng.integers(2)),
        sum_first=sum_first,
    )


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("decimation", ["dif", "dit"])
def test_stages_may_have_every_point_there_is(seed, decimation):
    """Registers, separate roundings of products, turns behind the sum."""
    rng = np.random.default_rng(seed)
    radices = tuple(int(r) for r in rng.choice([2, 3, 4, 5, 7], 2))
    plan = FftPlan(radices=radices, decimation=decimation)
    stages = tuple(drawn_stage(rng, decimation == "dif") for _ in radices)
    lowered = lower(plan, FftDatapath(stages=stages, input="Q1.15"), bool(rng.integers(2)))
    x = rng.integers(-(1 << 15), 1 << 15, (3, plan.length, 2)).astype(np.int32)
    code, tables = in_place(lowered, 3, 0, (1, 3, plan.length, 2), 4)
    y, _ = compute(code, {0: x[:, lowered.source]}, (0, np.int32, x.shape), rom=tables)
    held = np.empty_like(y)
    held[:, lowered.target] = y
    assert np.array_equal(held, transform(lowered, x).words)
