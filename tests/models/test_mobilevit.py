"""MobileViT, against the authors' copy of it and against what attention is."""

import pytest
import torch
import torch.nn.functional as F
from goldens import assert_golden, assert_official_keys
from torch import nn

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.mobilevit import HEADS, Attention, Level, MobileViT, MobileViTBlock, Scale

pytestmark = pytest.mark.torch

NAMES = ("mobilevit_s", "mobilevit_xs")
TINY = Scale((8, 8, 8), (Level(8, 16, 1), Level(8, 16, 2), Level(16, 16, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_keys_outputs_and_activations_are_those_of_the_authors_code(name):
    model = models.create(name)
    assert_official_keys(model, name)
    assert len(assert_golden(model, name, 256)) >= 5
    known = models.info(name)
    assert known.parameters == known.official_parameters


def test_attention_is_torchs_own():
    attention = Attention(24)
    x = torch.randn(3, 7, 24)
    query, key, value = (
        part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for part in attention.qkv_proj(x).chunk(3, dim=-1)
    )
    mixed = F.scaled_dot_product_attention(query, key, value)
    wanted = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    # Two float32 softmaxes of sums of 6 products.
    torch.testing.assert_close(attention(x), wanted, rtol=1e-5, atol=1e-6)


def block(*, channels=8, inner=8):
    return MobileViTBlock(Level(channels, inner, 1)).eval()


def test_patches_come_back_to_their_places():
    layer = block()
    for name in ("local_rep", "global_rep", "conv_proj"):
        setattr(layer, name, nn.Identity())
    layer.fusion = nn.Identity()
    x = torch.randn(2, 8, 6, 10)
    torch.testing.assert_close(layer(x), torch.cat([x, x], dim=1), rtol=0, atol=0)


def test_attention_runs_between_equal_places_of_all_patches():
    layer = block()
    for name in ("local_rep", "conv_proj", "fusion"):
        setattr(layer, name, nn.Identity())
    x = torch.randn(1, 8, 6, 10)
    moved = x.clone()
    moved[0, :, 3, 4] += torch.randn(8)  # place (1, 0) of its patch
    changed = (layer(moved) - layer(x))[0, 8:].abs().amax(0) > 0
    wanted = torch.zeros(6, 10, dtype=torch.bool)
    wanted[1::2, 0::2] = True
    assert torch.equal(changed, wanted)


def test_an_odd_map_is_resized_for_the_attention_and_back():
    layer = block()
    for name in ("local_rep", "global_rep", "conv_proj", "fusion"):
        setattr(layer, name, nn.Identity())
    x = torch.randn(1, 8, 7, 4)

    def resized(map_, size):
        return F.interpolate(map_, size=size, mode="bilinear", align_corners=False)

    wanted = resized(resized(x, (8, 4)), (7, 4))
    torch.testing.assert_close(layer(x)[:, 8:], wanted, rtol=0, atol=0)


def test_any_rectangle_is_taken_down_to_one_pixel():
    model = MobileViT(TINY, classes=5).eval()
    for shape in ((2, 3, 64, 96), (1, 3, 224, 40), (1, 3, 1, 1)):
        y = model(torch.randn(shape))
        assert y.shape == (shape[0], 5)
        assert torch.isfinite(y).all()
    with pytest.raises(InputError, match=r"takes inputs of shape \(B, 3, H, W\), not \(1, 4,"):
        model(torch.zeros(1, 4, 64, 64))


def test_gradients_reach_every_parameter():
    model = MobileViT(TINY, classes=5)
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        assert value.grad.abs().sum() > 0, key
