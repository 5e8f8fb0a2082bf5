"""A ParC as the authors of the ParC-ConvNets write it, at its own length and at others."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from parc_hw.models.convnext import ConvNeXt
from parc_hw.models.mobilenetv2 import MobileNetV2
from parc_hw.models.parc_layers import OfficialParC, on_halves
from parc_hw.models.resnet import ResNet
from parc_hw.nn import ParC
from parc_hw.spec import Axis

pytestmark = pytest.mark.torch

CASES = [
    (axis, dense, position_embedding)
    for axis in Axis
    for dense in (False, True)
    for position_embedding in (False, True)
]
# Dot products of at most 6 x 9 float32 products of size about 1.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def layers(axis, dense, position_embedding, *, length=5, channels=6):
    official = OfficialParC(
        channels, length, axis, dense=dense, position_embedding=position_embedding
    )
    if position_embedding:
        torch.nn.init.normal_(official.pe)
    ours = ParC(
        channels,
        length,
        axis,
        out_channels=channels if dense else None,
        position_embedding=position_embedding,
    )
    names = {"gcc_conv.weight": "weight", "gcc_conv.bias": "bias", "pe": "pe"}
    ours.load_state_dict({names[key]: value for key, value in official.state_dict().items()})
    return official, ours


@pytest.mark.parametrize("axis, dense, position_embedding", CASES)
@pytest.mark.parametrize("size", [(5, 5), (9, 4), (1, 7), (3, 1)])
def test_the_authors_layout_computes_the_same_as_nn_parc(axis, dense, position_embedding, size):
    official, ours = layers(axis, dense, position_embedding)
    x = torch.randn(2, 6, *size)
    torch.testing.assert_close(ours(x), official(x), **CLOSE)


@pytest.mark.parametrize("axis, dense, position_embedding", CASES)
def test_other_sizes_follow_the_authors_segmentation_code(axis, dense, position_embedding):
    layer, _ = layers(axis, dense, position_embedding)
    height, width = 7, 4
    x = torch.randn(2, 6, height, width)
    # That code resizes the embedding to the whole map and the kernel along its axis.
    z = x
    if position_embedding:
        z = z + F.interpolate(layer.pe, (height, width), mode="bilinear", align_corners=True)
    size = (height, 1) if axis is Axis.H else (1, width)
    weight = F.interpolate(layer.gcc_conv.weight, size, mode="bilinear", align_corners=True)
    doubled = torch.cat([z, z[:, :, :-1] if axis is Axis.H else z[:, :, :, :-1]], axis.dim)
    wanted = F.conv2d(doubled, weight, layer.gcc_conv.bias, groups=1 if dense else 6)
    torch.testing.assert_close(layer(x), wanted, **CLOSE)


def test_halves_keep_their_order():
    x = torch.randn(1, 6, 2, 2)
    y = on_halves(x, torch.nn.Identity(), torch.nn.Flatten(1, 1))
    assert torch.equal(x, y)
    y = on_halves(x, torch.nn.ReLU(), torch.nn.Tanh())
    assert torch.equal(y[:, :3], x[:, :3].relu())
    assert torch.equal(y[:, 3:], x[:, 3:].tanh())


@pytest.mark.tvm
@pytest.mark.parametrize("size", [(32, 32), (33, 70)])
@pytest.mark.parametrize(
    "make, sites",
    [
        (lambda: ConvNeXt(dims=(4, 4, 4, 4), depths=(1, 1, 2, 1), parc_from=(1, 1, 0, 0)), 6),
        (lambda: ResNet(depths=(1, 1, 2, 2), parc_from=(1, 1, 1, 1), width=4), 4),
        (MobileNetV2, 8),
    ],
    ids=["convnext", "resnet", "mobilenetv2"],
)
def test_each_parc_is_imported_as_one_operator(make, sites, size):
    from parc_hw.importers import import_torch
    from parc_hw.lower import _tvm

    imported = import_torch(make().eval(), [(1, 3, *size)])
    values = [value for _, value in _tvm.bindings(imported.module["main"])]
    counts = Counter(value.op.name for value in values if _tvm.is_call(value))
    assert counts["relax.parc"] == sites
    assert counts["relax.concat"] == sites // 2
