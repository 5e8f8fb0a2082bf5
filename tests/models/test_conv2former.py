"""Conv2Former against the authors' public code, and against the paper where there is none."""

import pytest
import torch
import torch.nn.functional as F
from goldens import assert_golden, assert_official_keys

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.conv2former import Block, Conv2Former, Scale, create_conv2former

pytestmark = pytest.mark.torch

LARGE = ("conv2former_b", "conv2former_l")
NAMES = ("conv2former_n", "conv2former_t", "conv2former_s")
TINY = Scale((4, 8, 12, 16), (1, 1, 2, 1), taps=5)


@pytest.mark.parametrize(
    "name", [*NAMES, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)]
)
def test_keys_logits_and_activations_are_those_of_the_authors_code(name):
    with torch.device("meta"):  # the fill sets every weight: drawing some first takes long
        model = models.create(name)
    assert_official_keys(model, name)
    assert len(assert_golden(model.to_empty(device="cpu"), name, 224)) >= 5
    known = models.info(name)
    assert known.parameters == known.official_parameters


@pytest.mark.parametrize(
    "make, resolution, parameters, macs",
    [  # the paper's figures, in millions and G, with half of the last digit printed
        (lambda: create_conv2former("conv2former_n"), 224, (15, 0.5), None),
        (lambda: create_conv2former("conv2former_t"), 224, (27, 0.5), (4.4, 0.05)),
        (lambda: create_conv2former("conv2former_s"), 224, (50, 0.5), (8.7, 0.05)),
        (lambda: create_conv2former("conv2former_b"), 224, (90, 0.5), (15.9, 0.05)),
        (lambda: create_conv2former("conv2former_b"), 384, (90, 0.5), (46.7, 0.05)),
        (lambda: create_conv2former("conv2former_l"), 224, (199, 0.5), (36.0, 0.05)),
        (lambda: create_conv2former("conv2former_l"), 384, (199, 0.5), (105.9, 0.05)),
        (lambda: create_conv2former("conv2former_is"), 224, (23, 0.5), (4.3, 0.05)),
        (lambda: create_conv2former("conv2former_is", stem="conv3"), 224, (23, 0.5), (4.5, 0.05)),
        (lambda: create_conv2former("conv2former_ib"), 224, (86, 0.5), (16.5, 0.05)),
        (lambda: create_conv2former("conv2former_ib", stem="conv3"), 224, (87, 0.5), (17.3, 0.05)),
        (  # B with a 7x7 kernel
            lambda: Conv2Former(Scale((96, 192, 384, 768), (4, 4, 34, 4), taps=7)),
            224,
            (89, 0.5),
            (15.6, 0.05),
        ),
        (  # the ablation of T with other depths
            lambda: Conv2Former(Scale((80, 160, 320, 640), (3, 3, 8, 3))),
            224,
            (28, 0.5),
            (4.4, 0.05),
        ),
    ],
)
def test_counts_are_the_papers(make, resolution, parameters, macs):
    with torch.device("meta"):
        model = make()
    number, half = parameters
    assert abs(models.count_parameters(model) / 1e6 - number) <= half
    if macs is not None:
        number, half = macs
        assert abs(models.count_macs(model, (1, 3, resolution, resolution)) / 1e9 - number) <= half


@pytest.mark.parametrize(
    "name, stem, parameters",
    [
        ("conv2former_is", "conv1", 23_229_480),
        ("conv2former_is", "conv3", 23_426_920),
        ("conv2former_ib", "conv1", 85_724_520),
        ("conv2former_ib", "conv3", 86_989_800),
    ],
)
def test_isotropic_networks_have_stems_of_one_or_three_convolutions(name, stem, parameters):
    with torch.device("meta"):
        model = models.create(name, stem=stem)
    assert models.count_parameters(model) == parameters
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


def test_stems_are_an_option_of_the_isotropic_networks_alone():
    with pytest.raises(InputError, match="unknown option 'stem': conv2former_t takes classes"):
        models.create("conv2former_t", stem="conv1")
    with pytest.raises(
        InputError, match=r"stem of conv2former_is .* 'conv1', 'conv3', not 'conv2'"
    ):
        models.create("conv2former_is", stem="conv2")


def test_a_block_is_modulation_and_mlp():
    block = Block(4, 5)
    for scale in (block.layer_scale_1, block.layer_scale_2):
        torch.nn.init.normal_(scale)
    x = torch.randn(2, 4, 6, 7)

    def norm(z):
        return (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + 1e-6).sqrt()

    attn, mlp = block.attn, block.mlp
    z = norm(x)
    gate = F.conv2d(F.gelu(attn.att[0](z)), attn.att[2].weight, attn.att[2].bias, 1, 2, 1, 4)
    x1 = x + block.layer_scale_1.reshape(1, 4, 1, 1) * attn.proj(gate * attn.v(z))
    h = F.gelu(mlp.fc1(norm(x1)))
    h = h + F.gelu(F.conv2d(h, mlp.pos.weight, mlp.pos.bias, padding=1, groups=16))
    wanted = x1 + block.layer_scale_2.reshape(1, 4, 1, 1) * mlp.fc2(h)
    torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model, least",
    [
        (lambda: Conv2Former(TINY, classes=3), 32),
        (lambda: Conv2Former(Scale((8,), (1,)), stem="conv1", classes=3), 16),
        (lambda: Conv2Former(Scale((8,), (1,)), stem="conv3", classes=3), 16),
    ],
)
def test_any_rectangle_is_taken_down_to_one_pixel(model, least):
    model = model().eval()
    for size in ((least, least), (least, 75), (61, least)):
        assert model(torch.randn(2, 3, *size)).shape == (2, 3)
    with pytest.raises(InputError, match=f"H and W of at least {least}, not"):
        model(torch.zeros(1, 3, least - 1, 64))


def test_gradients_reach_every_parameter():
    model = Conv2Former(TINY, classes=3)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        assert value.grad.abs().sum() > 0, key
