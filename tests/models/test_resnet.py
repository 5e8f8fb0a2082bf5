"""ResNet50 with and without dense ParC, against the authors' public code."""

import pytest
import torch
from goldens import assert_golden, assert_official_keys

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.resnet import ResNet

pytestmark = pytest.mark.torch

NAMES = ("parc_resnet50", "resnet50")


def tiny(**options):
    options = {"depths": (1, 1, 2, 2), "parc_from": (1, 1, 1, 1)} | options
    return ResNet(width=4, resolution=64, classes=3, **options).eval()


@pytest.mark.parametrize("name", NAMES)
def test_keys_logits_and_activations_are_those_of_the_authors_code(name):
    model = models.create(name)
    assert_official_keys(model, name)
    assert len(assert_golden(model, name, 224)) >= 4
    known = models.info(name)
    assert known.parameters == known.official_parameters


def test_any_size_is_taken():
    model = tiny()
    for shape in ((2, 3, 64, 64), (2, 3, 40, 97), (2, 3, 1, 300)):
        assert model(torch.randn(shape)).shape == (2, 3)


def test_other_ranks_and_channels_are_refused():
    with pytest.raises(InputError, match=r"shape \(B, 3, H, W\), not \(1, 1, 64, 64\)"):
        tiny()(torch.zeros(1, 1, 64, 64))
    with pytest.raises(InputError, match=r"H and W of at least 1, not \(1, 3, 0, 64\)"):
        tiny()(torch.zeros(1, 3, 0, 64))


def test_gradients_reach_every_parameter():
    model = tiny().train()
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        # BatchNorm takes away what a bias in front of it adds: its gradient is rounding.
        if not key.endswith("gcc_conv.bias"):
            assert value.grad.abs().sum() > 0, key
