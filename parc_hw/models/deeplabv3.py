"""What is DeepLabV3 on ParC-Net, the segmentation network of the papers?

Written after DeepLabV3 (Chen et al. 2017); keys, shapes and numbers are those of ParC-Net's
public code (`tests/vectors`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.models.cvnets_layers import ConvLayer, Encoder, initialise
from parc_hw.models.parcnet import SCALES, ParCNet

__all__ = ["DeepLabV3", "create_deeplabv3"]

RATES = (6, 12, 18)  # dilations of the 3x3 branches
CHANNELS = 256  # of every branch, and of their projection
STRIDE = 16  # of the encoder's last level
_DROPOUT = 0.1  # in training


class ImagePooling(nn.Module):
    """The branch that sees the whole image: its mean, spread over the map again."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.aspp_pool = nn.Sequential(
            OrderedDict(
                global_pool=nn.AdaptiveAvgPool2d(1),
                conv_1x1=ConvLayer(before, after, 1, act=nn.ReLU),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, H, W) for (B, before, H, W)."""
        y = self.aspp_pool(x)
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: branches of different reach side by side."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                ConvLayer(before, after, 1, act=nn.ReLU),
                *(ConvLayer(before, after, 3, dilation=rate, act=nn.ReLU) for rate in RATES),
                ImagePooling(before, after),
            ]
        )
        self.project = ConvLayer(len(self.convs) * after, after, 1, act=nn.ReLU)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, H, W) for (B, before, H, W)."""
        return self.dropout(self.project(torch.cat([conv(x) for conv in self.convs], dim=1)))


class Head(nn.Module):
    """From the encoder's last map to class scores at the image's size."""

    def __init__(self, before: int, classes: int) -> None:
        super().__init__()
        self.aspp = nn.Sequential(OrderedDict(aspp_layer=ASPP(before, CHANNELS)))
        last = ConvLayer(CHANNELS, classes, 1, bias=True, norm=False, act=None)
        self.classifier = nn.Sequential(OrderedDict(dropout=nn.Dropout(_DROPOUT), classifier=last))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, classes, 16 H, 16 W) for (B, before, H, W)."""
        y = self.classifier(self.aspp(x))
        size = [STRIDE * extent for extent in y.shape[2:]]
        return F.interpolate(y, size=size, mode="bilinear", align_corners=False)


class DeepLabV3(nn.Module):
    """An encoder of output stride 16 and the ASPP head.

    Parameters
    ----------
    encoder : Encoder
        Without classifier, its last level of stride 1.
    channels : int
        Of that level.
    classes : int

    Notes
    -----
    The forward pass takes (B, 3, H, W), any rectangle, and returns class scores
    (B, classes, 16 * ceil(H / 16), 16 * ceil(W / 16)): the image's size when H and W are
    multiples of 16. As in the authors' code, the encoder's last level keeps dilation 1.
    """

    state_dict_aliases: Mapping[str, str] = {"encoder.residual.": "encoder.layer_5.0."}

    def __init__(self, encoder: Encoder, channels: int, *, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.seg_head = Head(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores of every pixel."""
        _, last = self.encoder.levels(x)
        return self.seg_head(last)


def create_deeplabv3(name: str, *, classes: int = 21) -> DeepLabV3:
    """Make `deeplabv3_parcnet_s`."""
    scale = SCALES[name.removeprefix("deeplabv3_")]
    encoder = ParCNet(scale, classes=None, last_stride=1)
    return DeepLabV3(encoder, scale.levels[-1].channels, classes=classes)
