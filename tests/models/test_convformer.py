"""ConvFormer against the paper's tables and equations; no code is public."""

import pytest
import torch
import torch.nn.functional as F

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.convformer import MCA, MLP, ConvFormer, Scale, create_convformer

pytestmark = pytest.mark.torch


def made(scale, **options):
    with torch.device("meta"):
        return ConvFormer(scale, **options)


@pytest.mark.parametrize(
    "scale, parameters, macs",
    [  # the paper's tables, in millions and G, printed to one decimal
        (Scale(depths=(2, 2, 6, 2)), 26.7, 5.0),
        (Scale(depths=(3, 3, 12, 3)), 45.0, None),  # its 8.7G cannot be: see models.info
        (Scale(depths=(2, 2, 12, 2), expansion=1), 26.9, None),  # without expansion: 4.94 for 5.0
        (Scale(depths=(2, 2, 6, 2), kernels=((7, 1),)), 26.2, 4.9),  # without parallel kernels
        (Scale(depths=(2, 2, 7, 2), gate=False), 26.2, 5.4),  # without the gate
    ],
)
def test_counts_are_the_papers(scale, parameters, macs):
    model = made(scale)
    assert abs(models.count_parameters(model) / 1e6 - parameters) <= 0.05
    if macs is not None:
        assert abs(models.count_macs(model, (1, 3, 224, 224)) / 1e9 - macs) <= 0.05


@pytest.mark.parametrize("name", ["convformer_s", "convformer_l"])
def test_equation_6_as_printed_has_no_depthwise_convolution_in_the_mlp(name):
    with torch.device("meta"):
        ours, printed = models.create(name), models.create(name, mlp_dw=False)
    keys = set(ours.state_dict()) - set(printed.state_dict())
    assert keys
    assert all(".mlp.dwconv." in key for key in keys)
    assert set(printed.state_dict()) <= set(ours.state_dict())
    assert models.count_parameters(printed) < models.count_parameters(ours) - 140_000


def test_mca_is_equations_1_to_4():
    layer = MCA(4, Scale(depths=(1, 1, 1, 1))).eval()
    for norm in (m for m in layer.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
    x = torch.randn(2, 4, 9, 8)
    wide = layer.expand(x)
    total = torch.zeros(())
    for (conv, norm), (padding, dilation) in zip(
        layer.depthwise, ((1, 1), (4, 2), (9, 3)), strict=True
    ):
        total = total + norm(F.conv2d(wide, conv.weight, None, 1, padding, dilation, 16))
    y = layer.proj(layer.reduce(total.clamp(min=0)) + x)
    mean = x.mean((2, 3), keepdim=True)
    gate = torch.sigmoid(layer.gate[2](layer.gate[0](mean).clamp(min=0)))
    torch.testing.assert_close(layer(x), y * gate, rtol=1e-4, atol=1e-5)


def test_the_mlp_is_equation_6():
    layer = MLP(4, 3, depthwise=False)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), layer.fc2(F.gelu(layer.fc1(x))), rtol=0, atol=0)
    layer = MLP(4, 3, depthwise=True)
    h = F.conv2d(layer.fc1(x), layer.dwconv.weight, layer.dwconv.bias, padding=1, groups=12)
    torch.testing.assert_close(layer(x), layer.fc2(F.gelu(h)), rtol=0, atol=0)


def test_a_block_keeps_both_residuals():
    block = ConvFormer(Scale(depths=(1, 1, 1, 1))).eval().stages[0][0]
    x = torch.randn(1, 64, 4, 4)
    y = x + block.mca(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)), rtol=0, atol=0)


def test_any_rectangle_of_three_pixels_or_more_is_taken():
    model = create_convformer("convformer_s", classes=3).eval()
    for size in ((3, 3), (65, 40)):
        assert model(torch.randn(1, 3, *size)).shape == (1, 3)
    with pytest.raises(InputError, match=r"H and W of at least 3, not \(1, 3, 2, 64\)"):
        model(torch.zeros(1, 3, 2, 64))


def test_gradients_reach_every_parameter():
    model = ConvFormer(Scale(depths=(1, 1, 1, 1)), classes=3).train()
    model(torch.randn(3, 3, 64, 64)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
