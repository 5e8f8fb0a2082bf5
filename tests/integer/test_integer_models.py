"""Do whole models in integers give the oracle's words, and what is refused?"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fixedpoint.errors import FormatError  # noqa: E402
from fixedpoint.integer import exact  # noqa: E402
from fixedpoint.integer.operators import Ending  # noqa: E402
from fixedpoint.modes import Rounding  # noqa: E402
from fixedpoint.qformat import QFormat  # noqa: E402
from parc_hw.errors import InputError, UnsupportedError  # noqa: E402
from parc_hw.importers import import_torch  # noqa: E402
from parc_hw.integer import (  # noqa: E402
    IntegerModel,
    choose_formats,
    observe,
    quantize_model,
    read_network,
)
from parc_hw.integer.network import MOVES, move  # noqa: E402
from parc_hw.nn import ParC  # noqa: E402

pytestmark = [pytest.mark.tvm, pytest.mark.torch]


# ------------------------------------------------------------ the oracle of a whole model


def exact_words(model: IntegerModel, image: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer's words for one image (C, H, W), by `fixedpoint.integer.exact`."""
    values: list[np.ndarray] = []
    found = {}
    for prepared in model.layers:
        layer = prepared.layer
        x = [values[used] for used in layer.inputs]
        points = [model.layers[used].format.frac_bits for used in layer.inputs]
        end = Ending(
            format=prepared.format,
            rounding=model.datapath.rounding,
            lowest=layer.lowest,
            highest=layer.highest,
        )
        held = (prepared.weight, prepared.bias, prepared.frac_bits)
        if layer.kind == "input":
            y = np.empty((1, *image.shape), object)
            for point in np.ndindex(*image.shape):
                y[(0, *point)] = exact.input_word(image[point], end)
            y = y.transpose(model.network.input_axes)
        elif layer.kind in MOVES:
            y = move(layer, [x[0].astype(np.int64)]).astype(object)
        elif layer.kind in ("convolution", "depthwise"):
            run = getattr(exact, layer.kind)
            y = run(x[0], *held, points[0], end, layer.attrs["window"])
        elif layer.kind in ("parc", "parc_dense"):
            run = getattr(exact, layer.kind)
            y = run(x[0], *held, points[0], end, layer.attrs["axis"])
        elif layer.kind == "linear":
            rows = x[0].reshape(-1, x[0].shape[-1])
            y = exact.linear(rows, *held, points[0], end).reshape(*x[0].shape[:-1], -1)
        elif layer.kind == "affine":
            y = exact.affine(x[0], *held, points[0], end)
        elif layer.kind == "layer_norm":
            y = exact.layer_norm(x[0], *held, layer.attrs["epsilon"], points[0], end)
        elif layer.kind in ("add", "subtract"):
            y = exact.sum_of(*x, *points, end, sign=-1 if layer.kind == "subtract" else 1)
        elif layer.kind == "multiply":
            y = exact.product(*x, *points, end)
        elif layer.kind == "matmul":
            y = exact.matrix_product(*x, *points, end)
        elif layer.kind == "mean":
            y = exact.mean(x[0], points[0], end, keep=layer.attrs["keep"])
        elif layer.kind == "softmax":
            y = exact.softmax(x[0], points[0], end)
        elif layer.kind == "concat":
            parts = [exact.requantize(a, f, end) for a, f in zip(x, points, strict=True)]
            y = np.concatenate(parts, axis=layer.attrs["axis"])
        elif layer.kind == "clip":
            y = exact.requantize(x[0], points[0], end)
        else:
            y = exact.activation(layer.kind, x[0], points[0], end)
        values.append(y)
        found[layer.name] = y
    return found


class Mixed(nn.Module):
    """Most of the rule's operators on a 3x6x6 image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.parc_h, self.parc_w = ParC(4, 3, "H"), ParC(4, 3, "W")
        self.lift = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.layer_norm = nn.LayerNorm(8)
        self.widen, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.lone = nn.BatchNorm2d(8)
        self.pairs = nn.Conv2d(8, 4, 1, groups=4)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        a, b = torch.chunk(x, 2, dim=1)
        x = torch.cat((self.parc_h(a), self.parc_w(b)), dim=1)
        x = x + nn.functional.hardswish(self.lift(x))
        y = self.layer_norm(x.permute(0, 2, 3, 1))
        y = self.narrow(nn.functional.gelu(self.widen(y))).permute(0, 3, 1, 2)
        gate = nn.functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))
        gate = nn.functional.hardsigmoid(self.excite(gate))
        x = torch.clamp(x - y * gate, -1.5, 1.5)
        x = torch.cat((self.lone(x), self.pairs(x)), dim=1)
        x = nn.functional.max_pool2d(x, 2, stride=1)
        return self.head(torch.sigmoid(x).mean((2, 3)))


class Attention(nn.Module):
    """What MobileViT adds: reshapes, products of computed matrices, softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(6, 18), nn.Linear(6, 3)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.project(x).chunk(3, dim=-1)
        weights = torch.softmax(q @ k.transpose(1, 2) * 6**-0.5, dim=-1)
        return self.out(weights @ v)


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return module.eval()


@pytest.fixture(scope="module")
def mixed():
    module = filled(Mixed())
    return module, read_network(import_torch(module, [(1, 3, 6, 6)]))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(0, 1, (6, 3, 6, 6)).astype(np.float32)


def test_the_network_in_real_numbers_is_the_module(mixed, images):
    module, network = mixed
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(network.evaluate(images), wanted, atol=1e-5)


def test_constants_per_channel_fold_into_the_layer_before(mixed):
    _, network = mixed
    kinds = {layer.name: layer.kind for layer in network.layers}
    assert kinds["stem"] == "convolution"
    assert network.layer("stem").lowest == 0.0  # BatchNorm and ReLU belong to it
    assert kinds["lone"] == "affine"
    assert "hardswish" in kinds.values()
    assert "hardsigmoid" in kinds.values()
    assert len(set(kinds)) == len(network.layers)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("bits, weight_bits", [(8, 8), (16, 16), (6, 10)])
def test_every_layers_words_are_the_oracles(mixed, images, rounding, bits, weight_bits):
    _, network = mixed
    seen = observe(network, images)
    datapath = choose_formats(network, seen, bits=bits, weight_bits=weight_bits, method="mse")
    model = IntegerModel(network, datapath.replace(rounding=rounding))
    names = [layer.name for layer in network.layers]
    ours = model.words(images[:1] * 1.5, names)  # beyond the calibration: saturation as well
    wanted = exact_words(model, images[0] * np.float32(1.5))
    for name in names:
        np.testing.assert_array_equal(ours[name].astype(object), wanted[name], err_msg=name)


@pytest.mark.parametrize("bits", [8, 16])
def test_attention_is_the_oracles(bits):
    module = filled(Attention(), seed=1)
    network = read_network(import_torch(module, [(1, 6, 2, 3)]))
    images = np.random.default_rng(1).normal(0, 1, (4, 6, 2, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(network.evaluate(images), wanted, atol=1e-5)
    model = IntegerModel(network, choose_formats(network, observe(network, images), bits=bits))
    names = [layer.name for layer in network.layers]
    ours, oracle = model.words(images[:1], names), exact_words(model, images[0])
    for name in names:
        np.testing.assert_array_equal(ours[name].astype(object), oracle[name], err_msg=name)
    assert model.run(images).raw.shape == (4, 6, 3)


def test_a_dense_parc_is_the_oracles():
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parc = ParC(3, 5, "W", out_channels=4)

        def forward(self, x):
            return self.parc(x)

    network = read_network(import_torch(filled(Dense()), [(1, 3, 2, 5)]))
    assert [layer.kind for layer in network.layers][1] == "parc_dense"
    images = np.random.default_rng(2).normal(0, 1, (3, 3, 2, 5)).astype(np.float32)
    model = IntegerModel(network, choose_formats(network, observe(network, images), bits=8))
    names = [layer.name for layer in network.layers]
    ours, oracle = model.words(images[:1], names), exact_words(model, images[0])
    for name in names:
        np.testing.assert_array_equal(ours[name].astype(object), oracle[name], err_msg=name)


def test_batches_and_single_images_give_the_same_words(mixed, images):
    _, network = mixed
    model = IntegerModel(network, choose_formats(network, observe(network, images), bits=8))
    together = model.run(images)
    one_by_one = np.concatenate([model.run(image[None]).raw for image in images])
    assert (together.raw == one_by_one).all()
    assert together.values.dtype == np.float64
    assert (together.values == together.raw * model.output_format.lsb).all()


def test_more_bits_lose_less(mixed, images):
    _, network = mixed
    seen = observe(network, images)
    real = network.evaluate(images)
    errors = [
        np.abs(
            IntegerModel(network, choose_formats(network, seen, bits=bits)).run(images).values
            - real
        ).max()
        for bits in (6, 10, 16, 22)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-4  # the tables' 2**-17 per activation, carried through the layers


def test_traces_add_up(mixed, images):
    _, network = mixed
    model = IntegerModel(network, choose_formats(network, observe(network, images), bits=8))
    rows = model.trace(images)
    assert [row.name for row in rows] == [
        layer.name for layer in network.layers if layer.has_format
    ]
    by_name = {row.name: row for row in rows}
    assert by_name["input"].sqnr_db == by_name["input"].sqnr_local_db
    # What a layer alone loses, it also loses after its predecessors: to a small margin, as errors
    # may cancel.
    assert all(row.sqnr_db <= row.sqnr_local_db + 3 for row in rows)
    words = model.words(images, ["head"])["head"]
    assert by_name["head"].peak_raw == np.abs(words).max()
    assert by_name["head"].words == words.size
    assert all(
        row.accumulator_bits <= 32 for row in rows if row.weight_bits and row.kind != "layer_norm"
    )


# ------------------------------------------------------------ formats per layer


def test_a_layers_format_is_what_was_asked_for(mixed, images):
    _, network = mixed
    datapath = choose_formats(network, observe(network, images), bits=8)
    changed = datapath.with_layers({"widen": "Q3.3", "head": QFormat(4, 10)})
    model = IntegerModel(network, changed.with_layer("narrow", weight_bits=5))
    traced = {row.name: row for row in model.trace(images)}
    assert traced["widen"].format == "Q3.3"
    assert str(model.output_format) == "Q4.10"
    assert traced["narrow"].weight_bits <= 5
    assert traced["stem"].format == str(datapath.layers["stem"].output)


def test_operands_of_a_concatenation_share_its_format(mixed, images):
    _, network = mixed
    layers = choose_formats(network, observe(network, images), bits=8).layers
    concat = next(layer for layer in network.layers if layer.kind == "concat")
    for used in concat.inputs:
        assert layers[network.layers[used].name].output == layers[concat.name].output


def test_products_too_wide_are_named_with_their_layer(mixed, images):
    _, network = mixed
    datapath = choose_formats(network, observe(network, images), bits=24)
    wide = datapath.with_layer("head", weight_bits=32, weight_frac_bits=(29,))
    with pytest.raises(FormatError, match=r"head: the sum of 12 products of Q\d+\.\d+ and 32-bit"):
        IntegerModel(network, wide)


def test_a_bias_too_fine_for_the_accumulator_is_named(mixed, images):
    _, network = mixed
    datapath = choose_formats(network, observe(network, images), bits=8)
    with pytest.raises(FormatError, match=r"head: a bias of .* has more than 53 bits"):
        IntegerModel(network, datapath.with_layer("head", weight_bits=8, weight_frac_bits=(64,)))


# ------------------------------------------------------------ what is refused


def test_unsupported_operators_are_all_named_at_once():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return torch.exp(self.second(torch.tanh(self.first(x)))) / torch.exp(self.first(x))

    imported = import_torch(filled(Odd()), [(1, 3, 4, 4)])
    with pytest.raises(UnsupportedError) as caught:
        read_network(imported)
    message = str(caught.value)
    assert all(f"\n  {op}" in message for op in ("tanh", "exp (2 times)", "divide"))


def test_constants_that_vary_over_positions_are_refused():
    class Varying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.map = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(1, 4, 4, 4))

        def forward(self, x):
            return self.conv(x) + self.map

    with pytest.raises(UnsupportedError, match=r"add in .*: its constant varies over positions"):
        read_network(import_torch(filled(Varying()), [(1, 3, 4, 4)]))


def test_batches_are_the_simulators_own():
    with pytest.raises(InputError, match=r"imported for a batch of 2. Import it for one image"):
        read_network(import_torch(filled(Mixed()), [(2, 3, 6, 6)]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_without_a_word_are_refused_with_their_index(mixed, images, value):
    _, network = mixed
    bad = images.copy()
    bad[2, 1, 0, 3] = value
    with pytest.raises(InputError, match=r"calibration: (nan|inf) at index \(2, 1, 0, 3\)"):
        observe(network, bad)
    model = IntegerModel(network, choose_formats(network, observe(network, images), bits=8))
    with pytest.raises(InputError, match=r"x: (nan|inf) at index \(2, 1, 0, 3\)"):
        model.run(bad)


def test_other_inputs_are_refused(mixed, images):
    _, network = mixed
    with pytest.raises(InputError, match=r"calibration: shape \(0, 3, 6, 6\) holds no image"):
        observe(network, images[:0])
    with pytest.raises(InputError, match=r"x has shape \(3, 6, 6\); .* read for \(n, 3, 6, 6\)"):
        network.evaluate(images[0])
    with pytest.raises(InputError, match=r"x: real numbers are expected, not complex64"):
        network.evaluate(images.astype(np.complex64))


def test_arguments_that_exclude_each_other_are_named(mixed, images):
    _, network = mixed
    with pytest.raises(InputError, match=r"unknown dtype 'int9': one of int8, int16, or bits=N"):
        quantize_model(network, "int9", calibration=images)
    with pytest.raises(InputError, match=r"dtype 'int8' and bits 12: give one"):
        quantize_model(network, "int8", bits=12, calibration=images)
    with pytest.raises(InputError, match=r"model: give calibration images, \(n, 3, 6, 6\)"):
        quantize_model(network, "int8")
    with pytest.raises(InputError, match=r"seed belongs to a name of the zoo"):
        read_network(network, seed=3)
    datapath = choose_formats(network, observe(network, images), bits=8)
    with pytest.raises(InputError, match=r"dtype and datapath: a datapath has all formats"):
        quantize_model(network, "int8", datapath=datapath)
    with pytest.raises(InputError, match=r"no model 'parc_canvs'|parc_canvas"):
        read_network("parc_canvs")
