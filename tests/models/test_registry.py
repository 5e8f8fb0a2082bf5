"""The zoo: names, options, and that what is said about a model is so."""

import subprocess
import sys

import pytest

from parc_hw import models
from parc_hw.errors import InputError

NAMES = models.names()


def test_names_and_info_import_neither_torch_nor_tvm():
    code = (
        "import sys; from parc_hw import models;"
        "[models.info(name) for name in models.names()];"
        "print(sorted({'torch', 'tvm', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(
        InputError, match=r"'parc_convnext'\. Did you mean parc_convnext_xt.* Known"
    ):
        models.create("parc_convnext")
    with pytest.raises(InputError, match="unknown model 'parc_convnext'"):
        models.info("parc_convnext")


def test_an_unknown_option_is_answered_with_the_accepted_ones():
    with pytest.raises(
        InputError,
        match=r"unknown option 'class': convnext_xt takes classes\. Did you mean classes",
    ):
        models.create("convnext_xt", **{"class": 3})


@pytest.mark.parametrize("value", [0, -1, 2.0, "10", True])
def test_an_option_of_the_wrong_value_is_refused(value):
    with pytest.raises(InputError, match=r"option classes of convnext_xt .* at least 1, not"):
        models.create("convnext_xt", classes=value)


def test_a_choice_compares_types_too():
    option = models.Option(name="pe", default=True, what="has pe", choices=(True, False))
    option.check("m", False)
    with pytest.raises(InputError, match=r"option pe of m \(has pe\) must be one of True, False"):
        option.check("m", 1)


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_macs_are_as_stated(name):
    import torch

    known = models.info(name)
    with torch.device("meta"):  # counting needs no weights, and drawing them takes long
        model = models.create(name, **({"pretrained": False} if known.trained else {}))
    assert not model.training
    assert models.count_parameters(model) == known.parameters
    assert models.count_macs(model, known.input_shape) == known.macs


@pytest.mark.parametrize("name", NAMES)
def test_expected_input_is_consistent(name):
    known = models.info(name)
    batch, channels, height, width = known.input_shape
    assert (batch, height, width) == (1, known.resolution, known.resolution)
    assert len(known.mean) == len(known.std) == channels
    assert channels == {"RGB": 3, "BGR": 3, "grey": 1}[known.channel_order]


def test_counts_agree_with_the_paper_and_the_authors_code():
    # Printed to two decimals in millions, and to one decimal in G (rounded either way).
    for name, (parameters, macs) in {
        "parc_convnext_xt": (7.41e6, 1.1392e9),
        "convnext_xt": (7.44e6, 1.1440e9),
    }.items():
        known = models.info(name)
        assert abs(known.parameters - parameters) <= 0.005e6
        assert abs(known.macs - macs) <= 0.00005e9
        assert known.official_parameters == known.parameters


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in NAMES if models.info(name).trained])
def test_shipped_weights_are_loaded_unless_others_are_given(name, tmp_path):
    import torch

    trained, origin = models.prepare(name)
    assert origin == "trained weights shipped with parc_hw"
    path = tmp_path / "mine.pt"
    torch.save({k: torch.zeros_like(v) for k, v in trained.state_dict().items()}, path)
    mine, origin = models.prepare(name, weights=path)
    assert origin == "weights from mine.pt"
    assert all(float(p.abs().sum()) == 0 for p in mine.parameters())
    filled, origin = models.prepare(name, pretrained=False, seed=1)
    assert origin == "untrained: filled from seed 1"
    assert not torch.equal(filled.head.weight, trained.head.weight)


@pytest.mark.torch
def test_prepare_says_where_the_weights_come_from(tmp_path):
    import torch

    model, origin = models.prepare("convnext_xt", seed=5, classes=3)
    assert origin == "untrained: filled from seed 5"
    path = tmp_path / "mine.pt"
    torch.save({"model": model.state_dict()}, path)
    again, origin = models.prepare("convnext_xt", weights=path, classes=3)
    assert origin == "weights from mine.pt"
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
