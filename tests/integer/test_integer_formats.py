"""Are formats chosen as the rule says, kept exactly in files, and answers compared rightly?"""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixedpoint.modes import Rounding
from fixedpoint.qformat import QFormat
from parc_hw.errors import InputError
from parc_hw.integer import (
    IntegerModel,
    Layer,
    LayerFormats,
    ModelDatapath,
    Network,
    accuracy,
    agreement,
    choose_formats,
    load_datapath,
    mcnemar,
    observe,
    save_datapath,
)
from parc_hw.integer.calibrate import fit_weights, most_frac_bits


def linear_layer(weight, bias, name="head"):
    return Layer(
        name=name,
        kind="linear",
        inputs=(0,),
        shape=(1, weight.shape[1]),
        weight=weight.astype(np.float64),
        bias=bias.astype(np.float64),
    )


@pytest.fixture
def network():
    """A linear layer behind an input of 5 numbers."""
    rng = np.random.default_rng(0)
    layers = (
        Layer(name="input", kind="input", inputs=(), shape=(1, 5)),
        linear_layer(rng.normal(0, 1, (5, 3)), rng.normal(0, 1, 3)),
    )
    return Network(
        name="tiny", layers=layers, output=1, input_shape=(5,), input_axes=(0, 1), origin="test",
        trained=False,
    )  # fmt: skip


@pytest.fixture
def seen(network):
    return observe(network, np.random.default_rng(1).normal(0, 1, (400, 5)))


# ------------------------------------------------------------ fraction bits


@given(st.floats(1e-9, 1e9), st.integers(2, 24))
def test_the_most_fraction_bits_fit_and_one_more_does_not(largest, bits):
    f, limit = most_frac_bits(largest, bits), 2 ** (bits - 1) - 1
    assert np.rint(largest * 2.0**f) <= limit
    if f < 64:
        assert np.rint(largest * 2.0 ** (f + 1)) > limit


def test_minmax_saturates_nothing_it_has_seen(network, seen):
    x = np.random.default_rng(1).normal(0, 1, (400, 5))
    model = IntegerModel(network, choose_formats(network, seen, bits=8))
    words = model.words(x, ["input"])["input"]
    assert np.abs(words * model.layers[0].format.lsb - x).max() <= model.layers[0].format.lsb / 2


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_mse_is_the_best_of_all_fraction_lengths(network, bits):
    x = np.random.default_rng(2).standard_t(3, (3000, 5)).astype(np.float32)
    seen = observe(network, x)
    chosen = choose_formats(network, seen, bits=bits, method="mse").layers["input"].output

    def loss(f):
        limit = 2 ** (bits - 1) - 1
        return ((np.clip(np.rint(x * 2.0**f), -limit - 1, limit) * 2.0**-f - x) ** 2).mean()

    assert loss(chosen.frac_bits) <= 1.02 * min(loss(f) for f in range(-8, 12))


def test_percentile_ignores_a_lone_outlier(network):
    x = np.random.default_rng(3).uniform(-1, 1, (50_000, 5))
    x[7, 3] = 1000.0
    formats = {
        method: choose_formats(network, observe(network, x), bits=8, method=method)
        .layers["input"]
        .output
        for method in ("minmax", "percentile", "mse")
    }
    assert str(formats["minmax"]) == "Q11.-3"
    assert str(formats["percentile"]) == "Q2.6"  # the bin's edge lies just above 1
    assert formats["mse"].frac_bits >= formats["minmax"].frac_bits


def test_observing_in_parts_or_at_once_is_the_same(network, seen):
    x = np.random.default_rng(1).normal(0, 1, (400, 5))
    parts = [observe(network, x[:100]), observe(network, x[100:])]
    merged = parts[0].ranges["input"].merged(parts[1].ranges["input"])
    assert merged.largest == seen.ranges["input"].largest
    assert (merged.bins == seen.ranges["input"].bins).all()
    assert pickle.loads(pickle.dumps(seen)).ranges["head"].count == 1200


def test_weights_take_the_most_fraction_bits_that_fit():
    weight = np.array([[0.5, 3.0, 0.0], [-0.9, 0.1, 0.0]])
    layer = linear_layer(weight, np.zeros(3))
    assert fit_weights(layer, QFormat(1, 7), 8).tolist() == [7, 5, 7]


@pytest.mark.parametrize("bits, most", [(8, 31), (16, 47)])
def test_a_bias_beside_tiny_weights_does_not_widen_the_accumulator(bits, most):
    layer = linear_layer(np.full((4, 1), 1e-9), np.array([5.0]))
    x = QFormat(1, bits - 1)
    f = int(fit_weights(layer, x, bits)[0])
    reach = 4 * np.rint(1e-9 * 2.0**f) * 2 ** (bits - 1) + np.rint(5.0 * 2.0 ** (f + bits - 1))
    assert reach < 2.0**most <= 2.5 * reach  # the next fraction bit would double it


def test_mse_may_saturate_the_largest_weight():
    rng = np.random.default_rng(4)
    weight = np.append(rng.normal(0, 0.03, 4000), 0.51)[:, None]
    layer = linear_layer(weight, np.zeros(1))
    x = QFormat(1, 7)
    assert fit_weights(layer, x, 4, method="mse")[0] > fit_weights(layer, x, 4)[0]


# ------------------------------------------------------------ files


FORMATS = st.builds(
    LayerFormats,
    output=st.builds(lambda bits, f: QFormat(bits - f, f), st.integers(2, 32), st.integers(-9, 40)),
    weight_bits=st.integers(2, 32),
    weight_frac_bits=st.none() | st.lists(st.integers(-64, 64), min_size=1, max_size=4).map(tuple),
)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.dictionaries(NAMES, FORMATS, min_size=1, max_size=4), st.sampled_from(list(Rounding)))
def test_files_round_trip_whatever_the_names(tmp_path_factory, layers, rounding):
    path = tmp_path_factory.mktemp("datapath") / "d.toml"
    datapath = ModelDatapath(model='m "x"\n', layers=layers, rounding=rounding)
    save_datapath(datapath, path)
    assert load_datapath(path) == datapath
    assert list(load_datapath(path).layers) == list(layers)


def test_a_loaded_datapath_gives_the_same_words(network, seen, tmp_path):
    x = np.random.default_rng(5).normal(0, 1, (50, 5))
    datapath = choose_formats(network, seen, bits=6, weight_bits=5, method="mse")
    save_datapath(datapath, tmp_path / "d.toml")
    first = IntegerModel(network, datapath).run(x)
    second = IntegerModel(network, load_datapath(tmp_path / "d.toml")).run(x)
    assert (first.raw == second.raw).all()
    assert pickle.loads(pickle.dumps(datapath)) == datapath
    assert hash(pickle.loads(pickle.dumps(datapath))) == hash(datapath)


GOOD = 'schema = 1\nmodel = "m"\nrounding = "half_up"\n[layers."a"]\noutput = "Q1.7"\n'


@pytest.mark.parametrize(
    "text, match",
    [
        ("schema = [", r"d.toml: not a TOML file"),
        (GOOD.replace("schema = 1", "schema = 2"), r"schema is 2; this version reads schema 1"),
        (GOOD.replace("model", "modell"), r"unknown key 'modell'. Did you mean model"),
        (GOOD.replace("half_up", "half_upp"), r"d.toml: 'half_upp' is no rounding"),
        (GOOD.replace("output", "outptu"), r"layers.a: unknown key 'outptu'. Did you mean output"),
        (GOOD.replace("Q1.7", "Q17"), r"layers.a: 'Q17' is not a format"),
        (GOOD + "weight_bits = 99\n", r"layers.a: weight_bits is 99: expected 2 to 32"),
        (GOOD + "weight_frac_bits = 3\n", r"layers.a: weight_frac_bits without weight_bits"),
        (GOOD + "weight_bits = 8\nweight_frac_bits = [1, 2.5]\n", r"weight_frac_bits holds 2.5"),
        ('schema = 1\nmodel = "m"\nrounding = "half_up"\n', r"d.toml: missing layers"),
        (GOOD.replace('[layers."a"]', "[layers]"), r"layers.output: expected a table"),
    ],
)
def test_files_that_are_not_acceptable_are_explained(tmp_path, text, match):
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(InputError, match=match):
        load_datapath(tmp_path / "d.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.toml: cannot be read \(No such file"):
        load_datapath(tmp_path / "none.toml")


def test_unknown_and_missing_layers_are_named(network, seen):
    datapath = choose_formats(network, seen, bits=8)
    with pytest.raises(InputError, match=r"no layer 'haed'. Did you mean head"):
        datapath.with_layers({"haed": "Q1.7"})
    with pytest.raises(InputError, match=r"input has no weights"):
        datapath.with_layer("input", weight_bits=8)
    other = ModelDatapath(model="m", layers={"haed": LayerFormats(output=QFormat(1, 7))})
    with pytest.raises(
        InputError, match=r"tiny has no layer 'haed' with a format. Did you mean head"
    ):
        IntegerModel(network, other)
    with pytest.raises(InputError, match=r"no formats for 2 of 2 layers of tiny: input, head"):
        IntegerModel(network, ModelDatapath(model="m"))
    with pytest.raises(InputError, match=r"head: weight_frac_bits has 2 entries: expected 1 or 3"):
        IntegerModel(network, datapath.with_layer("head", weight_bits=8, weight_frac_bits=(7, 6)))
    bare = {**datapath.layers, "head": LayerFormats(output=QFormat(1, 7))}
    with pytest.raises(InputError, match=r"head has weights: give weight_bits"):
        IntegerModel(network, ModelDatapath(model="m", layers=bare))
    model = IntegerModel(network, datapath)
    with pytest.raises(InputError, match=r"tiny has no layer 'hed'. Did you mean head"):
        model.words(np.zeros((1, 5)), ["hed"])


def test_word_lengths_and_methods_that_do_not_exist_are_refused(network, seen):
    with pytest.raises(InputError, match=r"bits is 25: expected a word length from 2 to 24"):
        choose_formats(network, seen, bits=25)
    with pytest.raises(InputError, match=r"weight_bits is 1: expected"):
        choose_formats(network, seen, bits=8, weight_bits=1)
    with pytest.raises(InputError, match=r"unknown calibration method 'mes': .* Did you mean mse"):
        choose_formats(network, seen, bits=8, method="mes")


# ------------------------------------------------------------ comparing


def test_shares_have_wilsons_interval():
    share = agreement(np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 2, 1]])
    assert (share.count, share.of, share.share) == (3, 4, 0.75)
    # Wilson 1927, z = 1.96: (p + z^2/2n -+ z sqrt(p q/n + z^2/4n^2)) / (1 + z^2/n)
    assert share.low == pytest.approx(0.30064, abs=1e-4)
    assert share.high == pytest.approx(0.95441, abs=1e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_the_binomial_of_discordant_pairs(pairs):
    first, second = np.array(pairs, bool).T
    result = mcnemar(first, second)
    b, c = result.only_first, result.only_second
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert result.p_value == pytest.approx(min(1.0, 2 * tail) if b != c else 1.0)
    assert mcnemar(second, first).p_value == pytest.approx(result.p_value)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match=r"shapes \(2, 3\) and \(3, 2\)"):
        agreement(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"first holds NaN"):
        agreement([[np.nan, 1.0]], [[0.0, 1.0]])
    with pytest.raises(InputError, match=r"labels have shape \(3,\): expected \(2,\)"):
        accuracy(np.zeros((2, 4)), [1, 2, 3])
    with pytest.raises(InputError, match=r"two boolean arrays"):
        mcnemar([1, 0], [0, 1])
