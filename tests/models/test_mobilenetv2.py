"""MobileNetV2 with and without ParC, against the authors' public code."""

import pytest
import torch
from goldens import assert_golden, assert_official_keys

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.mobilenetv2 import MobileNetV2, ParCResidual

pytestmark = pytest.mark.torch

NAMES = ("parc_mobilenetv2", "mobilenetv2")


@pytest.mark.parametrize("name", NAMES)
def test_keys_logits_and_activations_are_those_of_the_authors_code(name):
    model = models.create(name)
    assert_official_keys(model, name)
    assert len(assert_golden(model, name, 224)) >= 5
    known = models.info(name)
    assert known.parameters == known.official_parameters


def test_only_the_first_parc_block_of_a_stage_has_position_embeddings():
    blocks = {
        place: block
        for place, block in enumerate(MobileNetV2().features)
        if isinstance(block, ParCResidual)
    }
    assert list(blocks) == [9, 10, 13, 16]
    for place, block in blocks.items():
        for layer in (block.gcc_H, block.gcc_W):
            assert (layer.pe is not None) == (place != 10)


def test_position_embeddings_in_each_block_would_give_the_papers_parameters():
    # The paper prints 3.54M; its code has 3.53M.
    model = MobileNetV2()
    missing = model.features[10]
    count = models.count_parameters(model)
    count += sum(layer.gcc_conv.weight.numel() for layer in (missing.gcc_H, missing.gcc_W))
    assert count == 3_537_512


def test_any_size_is_taken():
    model = MobileNetV2(classes=3).eval()
    for shape in ((1, 3, 64, 64), (1, 3, 40, 97), (1, 3, 1, 300)):
        assert model(torch.randn(shape)).shape == (1, 3)


def test_other_ranks_and_channels_are_refused():
    with pytest.raises(InputError, match=r"shape \(B, 3, H, W\), not \(1, 4, 64, 64\)"):
        MobileNetV2().eval()(torch.zeros(1, 4, 64, 64))


def test_gradients_reach_every_parameter():
    model = MobileNetV2(resolution=64, classes=3).train()
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        # BatchNorm takes away what a bias in front of it adds: its gradient is rounding.
        if not key.endswith("gcc_conv.bias"):
            assert value.grad.abs().sum() > 0, key
