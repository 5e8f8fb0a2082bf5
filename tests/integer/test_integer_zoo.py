"""Do the shipped networks and the zoo run in integers, and does the page say what the code does?"""

import re
from pathlib import Path

import numpy as np
import pytest

from fixedpoint.integer import tables
from parc_hw.errors import UnsupportedError
from parc_hw.integer import (
    IntegerModel,
    accuracy,
    agreement,
    choose_formats,
    load_datapath,
    observe,
    quantize_model,
    read_network,
)
from parc_hw.integer.model import calibration_images

PAGE = (Path(__file__).parents[2] / "docs" / "integer_rule.md").read_text()


def test_the_page_has_every_tables_words():
    for name in (*tables.NAMES, "(softmax)"):
        words = tables.exponential() if name == "(softmax)" else tables.table(name)
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| {name} |"))
        assert f"`{tables.checksum(words)}`" in row
        assert f"| {len(words) - 1} |" in row
        assert words.max() < 1 << 21


def test_the_pages_datapath_file_is_one(tmp_path):
    text = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert text is not None
    (tmp_path / "d.toml").write_text(text[1])
    datapath = load_datapath(tmp_path / "d.toml")
    assert list(datapath.layers) == ["input", "stem", "stages.0.0.gelu"]
    assert datapath.layers["stem"].weight_frac_bits == (7, 8, 7)


@pytest.mark.tvm
@pytest.mark.torch
@pytest.mark.parametrize("name", ["parc_canvas", "conv_canvas"])
def test_trained_networks_keep_their_answers(name):
    from parc_hw.models.canvas_data import canvases

    images, labels = canvases("test", 48, seed=4)
    network = read_network(name)
    assert network.trained
    real = network.evaluate(images)
    seen = observe(network, calibration_images(name)[:32])
    for bits, least_db in ((8, 20.0), (16, 40.0)):
        model = IntegerModel(network, choose_formats(network, seen, bits=bits, method="mse"))
        logits = model.run(images).values
        noise = ((logits - real) ** 2).sum()
        assert 10 * np.log10((real**2).sum() / noise) > least_db
        assert agreement(logits, real).share > 0.95
        assert accuracy(logits, labels).share > 0.85  # 95 % on 20,000
        # The accumulators that the rule promises.
        widest = max(p.accumulator_bits for p in model.layers if p.layer.kind in ("linear", "parc"))
        assert widest <= (32 if bits == 8 else 48)


@pytest.mark.slow
@pytest.mark.tvm
@pytest.mark.torch
@pytest.mark.parametrize(
    "name",
    [
        "parc_convnext_xt",
        "convnext_xt",
        "parcnet_s",
        "parc_resnet50",
        "parc_mobilenetv2",
        "mobilevit_s",
        "conv2former_n",
        "convformer_s",
    ],
)
def test_the_zoo_runs_in_int16_near_float(name):
    import torch

    from parc_hw import models

    images = calibration_images(name)[:1]
    module, _ = models.prepare(name)
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    network = read_network(name)
    real = network.evaluate(images)
    assert np.abs(real - wanted).max() < 1e-3 * wanted.std()  # the reading is the model
    assert not network.trained
    model = quantize_model(network, "int16", calibration=images)
    noise = ((model.run(images).values - real) ** 2).sum()
    assert 10 * np.log10((real**2).sum() / noise) > 30


@pytest.mark.slow
@pytest.mark.tvm
@pytest.mark.torch
@pytest.mark.parametrize(
    "name, match",
    [
        ("deeplabv3_parcnet_s", r"lacks operators of this model:\n.*resize2d"),
        ("ssdlite_parcnet_s", r"has 1 inputs and \d+ outputs; the integer simulator runs"),
    ],
)
def test_what_the_rule_lacks_is_named(name, match):
    with pytest.raises(UnsupportedError, match=match):
        read_network(name)
