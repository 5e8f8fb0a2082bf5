"""ConvNeXt-XT with ParC, with big kernels and without both, against the authors' public code."""

import pytest
import torch
from goldens import assert_golden, assert_official_keys

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.convnext import BigKernel, ConvNeXt

pytestmark = pytest.mark.torch

NAMES = ("parc_convnext_xt", "convnext_xt", "convnext_bk_xt")


def tiny(**options):
    options = {"dims": (4, 8, 12, 16), "depths": (1, 1, 2, 2), "parc_from": (1, 0, 1, 1)} | options
    return ConvNeXt(resolution=32, classes=3, **options).eval()


@pytest.mark.parametrize("name", NAMES)
def test_keys_logits_and_activations_are_those_of_the_authors_code(name):
    model = models.create(name)
    assert_official_keys(model, name)
    assert len(assert_golden(model, name, 224)) >= 4
    known = models.info(name)
    assert known.parameters == known.official_parameters


@pytest.mark.parametrize("circular", [True, False])
def test_any_rectangle_is_taken_down_to_one_pixel_of_the_last_stage(circular):
    model = tiny(circular=circular)
    for shape in ((2, 3, 32, 32), (2, 3, 40, 97), (2, 3, 160, 33)):
        assert model(torch.randn(shape)).shape == (2, 3)
    with pytest.raises(InputError, match=r"H and W of at least 32, not \(1, 3, 224, 31\)"):
        model(torch.zeros(1, 3, 224, 31))


def test_other_ranks_and_channels_are_refused():
    model = tiny()
    with pytest.raises(InputError, match=r"shape \(B, 3, H, W\), not \(1, 1, 224, 224\)"):
        model(torch.zeros(1, 1, 224, 224))
    with pytest.raises(InputError, match=r"shape \(B, 3, H, W\), not \(3, 224, 224\)"):
        model(torch.zeros(3, 224, 224))


def test_a_big_kernel_sees_zeros_beyond_the_edge():
    layer = BigKernel(4, 5)
    x = torch.randn(1, 4, 6, 3)
    y = layer(x)
    # Row 0 of the first half meets taps 2 to 4; column 2 of the second half meets taps 0 to 2.
    w = layer.gch_conv.weight[:, 0, 2:, 0]
    top = (w[:, :, None] * x[0, :2, :3]).sum(1) + layer.gch_conv.bias[:, None]
    torch.testing.assert_close(y[0, :2, 0], top, rtol=1e-5, atol=1e-6)
    w = layer.gcw_conv.weight[:, 0, 0, :3]
    right = (w[:, None] * x[0, 2:]).sum(2) + layer.gcw_conv.bias[:, None]
    torch.testing.assert_close(y[0, 2:, :, 2], right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("circular", [True, False])
def test_gradients_reach_every_parameter(circular):
    model = tiny(circular=circular)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        assert value.grad.abs().sum() > 0, key


def test_methods_of_module_are_not_hidden():
    # An attribute called `half` once hid nn.Module.half.
    model = tiny()
    assert model.double()(torch.zeros(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
    assert next(model.half().parameters()).dtype == torch.float16
