"""What is MobileNetV2, and where does ParC replace its depthwise 3x3 convolution?

Written after the ParC-ConvNets paper (Fast-ParC, section 4) and MobileNetV2 (Sandler et al.
2018); keys, shapes and numbers are those of the authors' public code (`tests/vectors`), which
for MobileNetV2 itself are torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.models.parc_layers import OfficialParC, check_images, on_halves
from parc_hw.spec import Axis

__all__ = ["MobileNetV2", "create_mobilenetv2"]

RESOLUTION = 224
# Expansion, channels, blocks and stride of each stage.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, LAST = 32, 1280  # channels
PARC_FROM = {64: 2, 96: 2, 160: 2}  # by a stage's channels, the first block with ParC


class ConvNorm(nn.Sequential):
    """A convolution that keeps the size (over `stride`), BatchNorm, ReLU6."""

    def __init__(
        self, before: int, after: int, taps: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        conv = nn.Conv2d(
            before, after, taps, stride=stride, padding=taps // 2, groups=groups, bias=False
        )
        super().__init__(conv, nn.BatchNorm2d(after), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, reduce; a residual where shapes allow it."""

    def __init__(self, before: int, after: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * before
        self.has_residual = stride == 1 and before == after
        self.conv = nn.Sequential(
            *([ConvNorm(before, hidden, 1)] if expansion != 1 else []),
            ConvNorm(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, ceil(H / stride), ceil(W / stride))."""
        y = self.conv(x)
        return x + y if self.has_residual else y


class ParCResidual(nn.Module):
    """Expand, ParC along H and W on channel halves, BatchNorm, ReLU6, reduce; a residual."""

    def __init__(
        self, channels: int, *, expansion: int, length: int, position_embedding: bool
    ) -> None:
        super().__init__()
        hidden = expansion * channels
        self.pw_expand = ConvNorm(channels, hidden, 1)
        self.gcc_H, self.gcc_W = (
            OfficialParC(hidden // 2, length, axis, position_embedding=position_embedding)
            for axis in (Axis.H, Axis.W)
        )
        self.bn = nn.BatchNorm2d(hidden)
        self.pw_linear = nn.Sequential(
            nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of `x`."""
        y = on_halves(self.pw_expand(x), self.gcc_H, self.gcc_W)
        return x + self.pw_linear(F.relu6(self.bn(y)))


class MobileNetV2(nn.Module):
    """MobileNetV2 with ParC from a given block of some stages on.

    Parameters
    ----------
    parc_from : mapping of int to int
        For a stage of so many channels the index of its first ParC block, at least 1, as the
        first block changes the channels. Only that first one has position embeddings.
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
        parc_from: Mapping[int, int] = PARC_FROM,
        resolution: int = RESOLUTION,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, STEM, 3, stride=2)]
        before, reduction = STEM, 2
        for expansion, channels, depth, stride in STAGES:
            reduction *= stride
            start = parc_from.get(channels, depth)
            for j in range(depth):
                if j < start:
                    layers.append(
                        InvertedResidual(
                            before, channels, stride=stride if j == 0 else 1, expansion=expansion
                        )
                    )
                else:
                    layers.append(
                        ParCResidual(
                            channels,
                            expansion=expansion,
                            length=resolution // reduction,
                            position_embedding=j == start,
                        )
                    )
                before = channels
        self.features = nn.Sequential(*layers, ConvNorm(before, LAST, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, classes))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes)."""
        check_images(x)
        return self.classifier(self.features(x).mean((-2, -1)))


def create_mobilenetv2(name: str, *, classes: int = 1000) -> MobileNetV2:
    """Make `parc_mobilenetv2` or `mobilenetv2`."""
    parc_from = {"parc_mobilenetv2": PARC_FROM, "mobilenetv2": {}}[name]
    return MobileNetV2(parc_from=parc_from, classes=classes)


def _initialise(module: nn.Module) -> None:
    """Draw weights as the authors do before training."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
