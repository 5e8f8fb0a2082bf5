"""ConvNeXt-XT with and without ParC, against the authors' public code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.convnext import ConvNeXt, OfficialParC
from parc_hw.models.fill import image, sample
from parc_hw.nn import ParC
from parc_hw.spec import Axis

pytestmark = pytest.mark.torch

VECTORS = Path(__file__).parent.parent / "vectors" / "models"
NAMES = ("parc_convnext_xt", "convnext_xt")


@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_types_and_their_order_are_official(name):
    official = json.loads((VECTORS / f"keys_{name}.json").read_text())
    ours = {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in models.create(name).state_dict().items()
    }
    assert list(ours.items()) == list(official["keys"].items())
    assert len(ours) == official["n_keys"]
    assert models.info(name).parameters == official["params"]


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_activations_are_those_of_the_authors_code(name):
    golden = np.load(VECTORS / f"golden_{name}_224.npz")
    model, _ = models.prepare(name)
    names = [key for key in golden.files if key.startswith("act:stages") and ":shape" not in key]
    seen = {}
    for key in names:
        model.get_submodule(key.removeprefix("act:")).register_forward_hook(
            lambda module, inputs, output, key=key: seen.update({key: output.numpy()})
        )
    with torch.no_grad():
        logits = model(torch.from_numpy(image((1, 3, 224, 224), models.DEFAULT_SEED))).numpy()
    wanted = golden["logits_f64"]
    assert np.abs(logits[0] - wanted).max() <= 1e-3 * wanted.std()
    assert len(names) >= 4
    for key in names:
        assert seen[key].shape == tuple(golden[f"{key}:shape"]), key
        wanted = golden[key]
        assert np.abs(sample(seen[key]) - wanted).max() <= 1e-3 * wanted.std(), key


@pytest.mark.parametrize("axis", list(Axis))
def test_the_authors_layout_computes_the_same_as_nn_parc(axis):
    official = OfficialParC(4, 5, axis)
    ours = ParC(4, 5, axis, resize="none")
    ours.load_state_dict(
        {
            "weight": official.gcc_conv.weight,
            "bias": official.gcc_conv.bias,
            "pe": official.pe,
        }
    )
    x = torch.randn(2, 4, *((5, 3) if axis is Axis.H else (3, 5)))
    torch.testing.assert_close(ours(x), official(x), rtol=1e-5, atol=1e-6)


def test_parc_takes_its_own_resolution_alone():
    model = models.create("parc_convnext_xt")
    for shape in ((1, 3, 256, 256), (1, 3, 224, 192)):
        with pytest.raises(InputError, match=r"shape \(B, 3, 224, 224\), not .* not resized"):
            model(torch.zeros(shape))
    with pytest.raises(InputError, match=r"shape \(B, 3, H, W\), not \(1, 1, 224, 224\)"):
        model(torch.zeros(1, 1, 224, 224))
    with pytest.raises(InputError, match=r"shape \(B, 3, H, W\), not \(3, 224, 224\)"):
        model(torch.zeros(3, 224, 224))


def test_without_parc_other_sizes_are_taken_down_to_one_pixel_of_the_last_stage():
    model = models.create("convnext_xt", classes=2)
    assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 2)
    with pytest.raises(InputError, match="at least 32"):
        model(torch.zeros(1, 3, 224, 31))


def test_gradients_reach_every_parameter():
    model = ConvNeXt(
        dims=(4, 8, 12, 16), depths=(1, 1, 2, 2), parc_from=(1, 0, 1, 1), resolution=32, classes=3
    )
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        assert value.grad.abs().sum() > 0, key


def test_methods_of_module_are_not_hidden():
    # An attribute called `half` once hid nn.Module.half.
    model = ConvNeXt(
        dims=(4, 8, 12, 16), depths=(1, 1, 1, 1), parc_from=(1, 1, 0, 0), resolution=32, classes=3
    )
    assert model.double()(torch.zeros(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
    assert next(model.half().parameters()).dtype == torch.float16
