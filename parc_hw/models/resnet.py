"""What is ResNet50, and where do two dense ParCs replace its 3x3 convolution?

Written after the ParC-ConvNets paper (Fast-ParC, section 4) and ResNet (He et al. 2016, with
the stride in the 3x3); keys, shapes and numbers are those of the authors' public code
(`tests/vectors`), which for ResNet50 itself are torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.models.parc_layers import OfficialParC, check_images, on_halves
from parc_hw.spec import Axis

__all__ = ["ResNet", "create_resnet"]

RESOLUTION = 224
DEPTHS = (3, 4, 6, 3)
STRIDES = (4, 8, 16, 32)  # of the four stages
PARC_FROM = (3, 4, 3, 2)  # in each stage, the block from which on ParC replaces the 3x3
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, spatial mixing, 1x1, each with BatchNorm; ReLU between them; residual; ReLU.

    `length` None: a 3x3 convolution mixes. A number: ParC along H from the first half of the
    channels to itself and along W on the second, both dense, at stride 1.
    """

    def __init__(
        self, channels: int, width: int, *, stride: int = 1, length: int | None = None
    ) -> None:
        super().__init__()
        wide = EXPANSION * width
        self.has_parc = length is not None
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if length is None:
            self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        else:
            self.parc_H = OfficialParC(width // 2, length, Axis.H, dense=True)
            self.parc_W = OfficialParC(width // 2, length, Axis.W, dense=True)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != wide:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, wide, 1, stride=stride, bias=False), nn.BatchNorm2d(wide)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, shape (B, 4 width, ceil(H / stride), ceil(W / stride))."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = on_halves(y, self.parc_H, self.parc_W) if self.has_parc else self.conv2(y)
        y = self.bn3(self.conv3(F.relu(self.bn2(y))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet of bottlenecks with dense ParC from a given block of each stage on.

    Parameters
    ----------
    parc_from : sequence of four int
        Index of the first ParC block of each stage, at least 1, as the first block may have a
        stride; a stage's depth or more: none.
    depths : sequence of four int
        Blocks of each stage.
    width : int
        Channels of the stem, even; a stage's bottleneck has 1, 2, 4 and 8 times as many.
    resolution : int
        Height and width, a multiple of 32, for which kernels and position embeddings of ParC
        are stored; for other inputs they are resized.
    classes : int
        Entries of the output.

    Notes
    -----
    The forward pass takes (B, 3, H, W) of any size and returns (B, classes). It raises
    InputError for any other rank or channel count.
    """

    def __init__(
        self,
        *,
        parc_from: Sequence[int] = PARC_FROM,
        depths: Sequence[int] = DEPTHS,
        width: int = 64,
        resolution: int = RESOLUTION,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, stages = width, []
        for k, (depth, start) in enumerate(zip(depths, parc_from, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(
                    Bottleneck(
                        channels,
                        width << k,
                        stride=2 if k > 0 and j == 0 else 1,
                        length=resolution // STRIDES[k] if j >= start else None,
                    )
                )
                channels = EXPANSION * width << k
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as the authors before training
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes)."""
        check_images(x)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((-2, -1)))


def create_resnet(name: str, *, classes: int = 1000) -> ResNet:
    """Make `parc_resnet50` or `resnet50`."""
    parc_from = {"parc_resnet50": PARC_FROM, "resnet50": DEPTHS}[name]
    return ResNet(parc_from=parc_from, classes=classes)
