"""Does every operator of the integer rule give the oracle's words, bit for bit?"""

import itertools
import math

import numpy as np
import pytest

from fixedpoint.errors import FormatError
from fixedpoint.integer import exact, operators, tables
from fixedpoint.integer.operators import Ending, Window
from fixedpoint.modes import Rounding
from fixedpoint.qformat import QFormat

ROUNDINGS = list(Rounding)
WIDTHS = [8, 16]


def q(text: str) -> QFormat:
    return QFormat.parse(text)


def words(rng, fmt: QFormat, shape, *, ends=True):
    """Random words of a format, its ends among them."""
    x = rng.integers(fmt.min_raw, fmt.max_raw + 1, shape).astype(np.int32)
    if ends and x.size > 2:
        x.flat[0], x.flat[1] = fmt.min_raw, fmt.max_raw
    return x


def constants(rng, shape, channels, bits, channel_axis):
    """Weights with a fraction length per channel, and none of -2**(bits - 1)."""
    limit = (1 << (bits - 1)) - 1
    weight = rng.integers(-limit, limit + 1, shape)
    frac = rng.integers(bits - 4, bits + 3, channels)
    assert shape[channel_axis] == channels
    return weight, frac


def same(ours, oracle):
    np.testing.assert_array_equal(np.asarray(ours, object), oracle)


# ------------------------------------------------------------ sums of products


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", WIDTHS)
def test_linear_is_the_oracles(rounding, bits):
    rng = np.random.default_rng(1)
    x_format, out = QFormat(3, bits - 3), QFormat(4, bits - 4)
    weight, frac = constants(rng, (19, 7), 7, bits, 1)
    bias = rng.integers(-(1 << 2 * bits - 3), 1 << 2 * bits - 3, 7)
    x = words(rng, x_format, (11, 19))
    end = Ending(format=out, rounding=rounding)
    layer = operators.Linear(
        weight, bias, x=x_format, frac_bits=frac, weight_bits=bits, ending=end, name="w"
    )
    same(layer(x), exact.linear(x, weight, bias, frac, x_format.frac_bits, end))


@pytest.mark.parametrize(
    "window",
    [
        Window(taps=(1, 1)),
        Window(taps=(3, 3), padding=(1, 1, 1, 1)),
        Window(taps=(3, 2), strides=(2, 1), padding=(0, 1, 2, 1)),
        Window(taps=(2, 2), strides=(2, 2)),
        Window(taps=(3, 3), dilation=(2, 1), padding=(2, 1, 2, 1)),
    ],
)
@pytest.mark.parametrize("bits", WIDTHS)
def test_convolutions_are_the_oracles(window, bits):
    rng = np.random.default_rng(2)
    x_format, end = QFormat(2, bits - 2), Ending(format=QFormat(4, bits - 4), lowest=0.0)
    x = words(rng, x_format, (2, 6, 5, 3))
    weight, frac = constants(rng, (*window.taps, 3, 4), 4, bits, 3)
    bias = rng.integers(-999, 999, 4)
    common = {"x": x_format, "frac_bits": frac, "weight_bits": bits, "ending": end, "name": "w"}
    linear = operators.Linear(weight.reshape(-1, 4), bias, **common)
    ours = operators.Convolution(linear, window)(x)
    same(ours, exact.convolution(x, weight, bias, frac, x_format.frac_bits, end, window))

    weight, frac = constants(rng, (*window.taps, 6), 6, bits, 2)  # two outputs of each channel
    bias = rng.integers(-999, 999, 6)
    common["frac_bits"] = frac
    ours = operators.Depthwise(weight, bias, window, **common)(x)
    same(ours, exact.depthwise(x, weight, bias, frac, x_format.frac_bits, end, window))


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_parc_is_the_oracles(axis, rounding, bits, length):
    rng = np.random.default_rng(3)
    x_format, end = QFormat(1, bits - 1), Ending(format=QFormat(3, bits - 3), rounding=rounding)
    shape = (2, length, 3, 5) if axis == 1 else (2, 3, length, 5)
    x = words(rng, x_format, shape)
    weight, frac = constants(rng, (5, length), 5, bits, 0)
    bias = rng.integers(-(1 << 2 * bits - 4), 1 << 2 * bits - 4, (5, length))
    common = {"x": x_format, "frac_bits": frac, "weight_bits": bits, "ending": end, "name": "w"}
    ours = operators.Parc(weight, bias, axis, **common)(x)
    same(ours, exact.parc(x, weight, bias, frac, x_format.frac_bits, end, axis))

    weight, frac = constants(rng, (4, 5, length), 4, bits, 0)
    bias = rng.integers(-999, 999, (4, length))
    common["frac_bits"] = frac
    ours = operators.ParcDense(weight, bias, axis, **common)(x)
    same(ours, exact.parc_dense(x, weight, bias, frac, x_format.frac_bits, end, axis))


def test_parc_of_a_delta_moves_words_around_the_circle():
    x = np.arange(6, dtype=np.int32).reshape(1, 6, 1, 1)
    weight = np.zeros((1, 6), np.int64)
    weight[0, 2] = 1
    end = Ending(format=q("Q8.0"))
    layer = operators.Parc(
        weight, np.zeros((1, 6), np.int64), 1, x=q("Q8.0"), frac_bits=np.array([0]),
        weight_bits=8, ending=end, name="w",
    )  # fmt: skip
    assert layer(x).ravel().tolist() == [2, 3, 4, 5, 0, 1]


@pytest.mark.parametrize("bits", WIDTHS)
def test_affine_is_the_oracles(bits):
    rng = np.random.default_rng(4)
    x_format, end = QFormat(2, bits - 2), Ending(format=QFormat(1, bits - 1), highest=0.25)
    x = words(rng, x_format, (3, 2, 2, 6))
    weight, frac = constants(rng, (6,), 6, bits, 0)
    bias = rng.integers(-999, 999, 6)
    layer = operators.Affine(
        weight, bias, x=x_format, frac_bits=frac, weight_bits=bits, ending=end, name="w"
    )
    same(layer(x), exact.affine(x, weight, bias, frac, x_format.frac_bits, end))


@pytest.mark.parametrize("bits", WIDTHS)
def test_products_of_computed_matrices_are_the_oracles(bits):
    rng = np.random.default_rng(5)
    fa, fb, end = QFormat(2, bits - 2), QFormat(1, bits - 1), Ending(format=QFormat(5, bits - 5))
    a, b = words(rng, fa, (2, 3, 4, 6)), words(rng, fb, (2, 3, 6, 5))
    layer = operators.MatrixProduct(a=fa, b=fb, count=6, ending=end, name="w")
    same(layer(a, b), exact.matrix_product(a, b, fa.frac_bits, fb.frac_bits, end))


@pytest.mark.parametrize("taps", [1 << 9, 1 << 10])
def test_products_in_floating_point_are_exact_at_their_bound(taps):
    """The largest sums that float32 is trusted with, and the first that float64 gets."""
    x_format, end = q("Q8.0"), Ending(format=QFormat(32, 0))
    weight = np.full((taps, 1), 127, np.int64)
    layer = operators.Linear(
        weight, np.array([1]), x=x_format, frac_bits=np.array([0]), weight_bits=8, ending=end,
        name="w",
    )  # fmt: skip
    assert layer.dtype == (np.float32 if taps * 127 * 128 <= 1 << 24 else np.float64)
    x = np.full((3, taps), -128, np.int32)
    x[1, ::2] += 1
    x[2] = 127
    assert layer(x).ravel().tolist() == (x.astype(np.int64) @ weight + 1).ravel().tolist()


# ------------------------------------------------------------ element by element


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_sums_and_products_of_all_short_words_are_the_oracles(rounding):
    every = np.arange(-8, 8, dtype=np.int32)
    a, b = (part.ravel() for part in np.meshgrid(every, every))
    for fa, fb, out in [
        ("Q2.2", "Q2.2", "Q2.2"),
        ("Q1.3", "Q3.1", "Q3.1"),
        ("Q4.0", "Q1.3", "Q1.3"),
    ]:
        end = Ending(format=q(out), rounding=rounding)
        first, second = q(fa), q(fb)
        points = first.frac_bits, second.frac_bits
        for negative in (False, True):
            ours = operators.Sum(a=first, b=second, negative=negative, ending=end, name="s")(a, b)
            same(ours, exact.sum_of(a, b, *points, end, sign=-1 if negative else 1))
        ours = operators.Product(a=first, b=second, ending=end, name="p")(a, b)
        same(ours, exact.product(a, b, *points, end))


def test_gates_broadcast_over_positions():
    rng = np.random.default_rng(6)
    x, gate = words(rng, q("Q2.6"), (2, 3, 3, 4)), words(rng, q("Q1.7"), (2, 1, 1, 4))
    end = Ending(format=q("Q2.6"))
    ours = operators.Product(a=q("Q2.6"), b=q("Q1.7"), ending=end, name="gate")(x, gate)
    same(ours, exact.product(x, gate, 6, 7, end))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("shift", [-3, 0, 1, 5])
def test_requantising_is_the_oracles(rounding, shift):
    every = np.arange(-128, 128, dtype=np.int32)
    end = Ending(
        format=QFormat(8 - 4 + shift, 4 - shift), rounding=rounding, lowest=-0.7, highest=3
    )
    layer = operators.Requantize(frac_bits=4, bound=128, ending=end, name="c")
    same(layer(every), exact.requantize(every, 4, end))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_input_words_are_the_oracles(rounding):
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.normal(0, 2, 500), np.arange(-40, 40) / 32, [1e30, -1e30, 0.0, -0.0]])
    end = Ending(format=q("Q3.4"), rounding=rounding)
    ours = operators.input_words(x.astype(np.float32), end)
    assert ours.tolist() == [exact.input_word(v, end) for v in x.astype(np.float32)]


@pytest.mark.parametrize("count", [(1, 1), (2, 2), (7, 7), (3, 5)])
@pytest.mark.parametrize("keep", [False, True])
def test_means_are_the_oracles(count, keep):
    rng = np.random.default_rng(8)
    x = words(rng, q("Q4.12"), (2, *count, 3))
    end = Ending(format=q("Q2.14"))
    ours = operators.Mean(math.prod(count), keep=keep, x=q("Q4.12"), ending=end, name="m")(x)
    same(ours, exact.mean(x, 12, end, keep=keep))


def test_the_largest_word_is_never_padding():
    x = np.full((1, 3, 3, 1), -100, np.int32)
    window = Window(taps=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1))
    assert operators.max_pool(x, window).ravel().tolist() == [-100] * 4
    assert operators.max_pool(x.astype(np.float32), window).ravel().tolist() == [-100.0] * 4


# ------------------------------------------------------------ tabulated functions


@pytest.mark.parametrize("name", [*tables.NAMES, "exp"])
def test_tables_are_those_of_the_definitions(name):
    ours = tables.exponential() if name == "exp" else tables.table(name)
    assert ours.tolist() == exact.table(name)


@pytest.mark.parametrize("name", tables.NAMES)
def test_every_int8_word_of_every_format_is_the_oracles(name):
    every = np.arange(-128, 128, dtype=np.int32)
    for fx, fy in itertools.product((-2, 0, 4, 7, 9), (2, 5, 7)):
        for rounding in (Rounding.HALF_UP, Rounding.HALF_EVEN):
            x_format = QFormat(8 - fx, fx)
            end = Ending(format=QFormat(8 - fy, fy), rounding=rounding)
            ours = operators.Activation(name, x=x_format, ending=end, name="a")(every)
            same(ours, exact.activation(name, every, fx, end))


@pytest.mark.parametrize("name", tables.NAMES)
@pytest.mark.parametrize("fx", [3, 11, 15])
def test_wide_words_are_the_oracles_and_within_the_stated_error(name, fx):
    rng = np.random.default_rng(9)
    x_format, fine = QFormat(16 - fx, fx), QFormat(6, 26)
    every = np.arange(-(1 << 15), 1 << 15, dtype=np.int32)
    some = rng.choice(every, 400)
    end = Ending(format=q("Q2.14"))
    layer = operators.Activation(name, x=x_format, ending=end, name="a")
    same(layer(some), exact.activation(name, some, fx, end))
    # With 26 fraction bits the last rounding hides nothing: 2**-27 at most.
    value = operators.Activation(name, x=x_format, ending=Ending(format=fine), name="a")(every)
    x = every * x_format.lsb
    inside = np.abs(x) < 30  # what Q6.26 holds
    error = np.abs(value * fine.lsb - tables.curve(name).function(x))[inside].max()
    assert error <= tables.curve(name).error_bound + 2.0**-27


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_gelu_is_torchs(name):
    torch = pytest.importorskip("torch")
    x = np.linspace(-9, 9, 4001)
    form = "tanh" if name == "gelu_tanh" else "none"
    wanted = torch.nn.functional.gelu(torch.from_numpy(x), approximate=form).numpy()
    assert np.abs(tables.curve(name).function(x) - wanted).max() < 1e-12


def test_words_above_16_bits_are_computed_without_a_whole_table():
    rng = np.random.default_rng(10)
    x = words(rng, q("Q5.19"), (300,))
    end = Ending(format=q("Q5.19"))
    ours = operators.Activation("silu", x=q("Q5.19"), ending=end, name="a")(x)
    same(ours, exact.activation("silu", x, 19, end))


# ------------------------------------------------------------ over rows


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("x_format", ["Q4.4", "Q4.12", "Q1.15", "Q9.7"])
@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_layer_norm_is_the_oracles(rounding, x_format, count):
    rng = np.random.default_rng(11)
    fmt, end = q(x_format), Ending(format=q("Q4.12"), rounding=rounding)
    weight, frac = constants(rng, (count,), count, 8, 0)
    bias = rng.integers(-(1 << 20), 1 << 20, count)
    x = words(rng, fmt, (12, count))
    x[2] = 3  # no variance at all
    x[3] = fmt.min_raw
    x[4] = fmt.min_raw  # as much as there can be
    x[4, ::2] = fmt.max_raw
    x[5] = rng.integers(0, 2, count)
    layer = operators.LayerNorm(
        weight, bias, 1e-6, x=fmt, frac_bits=frac, weight_bits=8, ending=end, name="n"
    )
    same(layer(x), exact.layer_norm(x, weight, bias, frac, 1e-6, fmt.frac_bits, end))


def test_layer_norm_is_near_the_real_one():
    rng = np.random.default_rng(12)
    count, fmt, end = 96, q("Q4.12"), Ending(format=q("Q4.12"))
    x = np.rint(rng.normal(1, 0.7, (200, count)) * 2**12).astype(np.int32)
    layer = operators.LayerNorm(
        np.full(count, 1 << 14), np.zeros(count, np.int64), 1e-6, x=fmt,
        frac_bits=np.full(count, 14), weight_bits=16, ending=end, name="n",
    )  # fmt: skip
    v = x * fmt.lsb
    wanted = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-6)
    # Half an LSB, half of a 2**-16 step of the norm, and 3 * 2**-24 of the largest norm.
    bound = 0.5 * 2.0**-12 + 2.0**-17 + 3 * 2.0**-24 * np.abs(wanted).max()
    assert np.abs(layer(x) * 2.0**-12 - wanted).max() <= bound * (1 + 1e-9)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("x_format", ["Q4.4", "Q5.11", "Q12.4"])
def test_softmax_is_the_oracles(rounding, x_format):
    rng = np.random.default_rng(13)
    fmt, end = q(x_format), Ending(format=q("Q1.15"), rounding=rounding)
    x = words(rng, fmt, (8, 9))
    x[1] = 5
    ours = operators.Softmax(9, x=fmt, ending=end, name="s")(x)
    same(ours, exact.softmax(x, fmt.frac_bits, end))


def test_softmax_is_near_the_real_one():
    from scipy import special

    rng = np.random.default_rng(14)
    fmt = q("Q4.12")
    x = np.rint(rng.normal(0, 2, (100, 64)) * 2**11).astype(np.int32)
    ours = operators.Softmax(64, x=fmt, ending=Ending(format=q("Q2.14")), name="s")(x)
    wanted = special.softmax(x * fmt.lsb, axis=-1)
    # Half an LSB; each power and their sum are off by less than 2**-17 + 2**-21 of a power near 1.
    assert np.abs(ours * 2.0**-14 - wanted).max() < 2.0**-15 + 2 * (2.0**-17 + 2.0**-21)


# ------------------------------------------------------------ what is refused


def test_products_too_wide_for_exact_sums_are_named():
    with pytest.raises(FormatError, match=r"w: the sum of 4 products of Q4\.20 and 32-bit weights"):
        operators.Linear(
            np.full((4, 1), (1 << 31) - 1), np.array([0]), x=q("Q4.20"), frac_bits=np.array([31]),
            weight_bits=32, ending=Ending(format=q("Q4.20")), name="w",
        )  # fmt: skip


def test_variances_too_wide_are_named():
    with pytest.raises(FormatError, match=r"n: the variance of 1024 words of Q4\.20"):
        operators.LayerNorm(
            np.ones(1024, np.int64), np.zeros(1024, np.int64), 1e-6, x=q("Q4.20"),
            frac_bits=np.zeros(1024, np.int64), weight_bits=8, ending=Ending(format=q("Q4.4")),
            name="n",
        )  # fmt: skip


def test_an_output_far_finer_than_its_sum_is_named():
    with pytest.raises(
        FormatError, match=r"m: the product of Q30\.0 and Q30\.0 reaches .* shifted up"
    ):
        operators.Product(a=q("Q30.0"), b=q("Q30.0"), ending=Ending(format=q("Q1.15")), name="m")


@pytest.mark.parametrize("text", ["UQ0.8", "Q1.0", "Q8.28"])
def test_words_are_signed_and_of_2_to_32_bits(text):
    with pytest.raises(FormatError, match=r"signed and have 2 to 32 bits"):
        Ending(format=q(text))


def test_an_unknown_curve_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'gelo' is no tabulated function. Did you mean gelu"):
        tables.curve("gelo")
