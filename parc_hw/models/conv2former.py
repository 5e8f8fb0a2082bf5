"""What is Conv2Former, in its hierarchical and its isotropic form?

Written after Conv2Former (Hou et al. 2022). The hierarchical networks have the keys, shapes and
numbers of the authors' public code (`tests/vectors`), which has more than the paper's text: a
GELU before the gate's depthwise convolution, a depthwise 3x3 in the MLP, scales on both
residuals, BatchNorm in the stem and a head of 1280 channels. For the isotropic ones no code is
public: widths and stems are the ones that lead to the paper's parameters and FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.models.convnext import LayerNormChannels
from parc_hw.models.parc_layers import check_images

__all__ = ["SCALES", "Conv2Former", "Scale", "create_conv2former"]

EPSILON = 1e-6  # of every LayerNorm
EXPANSION = 4  # of the MLP
HEAD = 1280  # channels before the classifier
LAYER_SCALE = 1e-6  # of both residuals before training


@dataclass(frozen=True, slots=True)
class Scale:
    """Channels and blocks of each stage, and the extent of the gate's depthwise kernel."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    taps: int = 11


SCALES = {
    "conv2former_n": Scale((64, 128, 256, 512), (2, 2, 8, 2), taps=7),
    "conv2former_t": Scale((72, 144, 288, 576), (3, 3, 12, 3)),
    "conv2former_s": Scale((72, 144, 288, 576), (4, 4, 32, 4)),
    "conv2former_b": Scale((96, 192, 384, 768), (4, 4, 34, 4)),
    "conv2former_l": Scale((128, 256, 512, 1024), (4, 4, 48, 4)),
    "conv2former_is": Scale((320,), (18,)),
    "conv2former_ib": Scale((640,), (18,)),
}

# Extent, stride and padding of each convolution, and the whole stem's stride.
STEMS = {
    "pyramid": (((3, 2, 1), (3, 1, 1), (2, 2, 0)), 4),
    "conv1": (((16, 16, 0),), 16),
    "conv3": (((4, 4, 0), (3, 2, 1), (2, 2, 0)), 16),
}


class Modulation(nn.Module):
    """What stands for attention: values times a depthwise convolution, `proj(att(x) * v(x))`."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.norm = LayerNormChannels(channels, eps=EPSILON)
        self.att = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, taps, padding=taps // 2, groups=channels),
        )
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the modulated values, of the shape of `x`."""
        x = self.norm(x)
        return self.proj(self.att(x) * self.v(x))


class MLP(nn.Module):
    """LayerNorm, 1x1, GELU, plus GELU of a depthwise 3x3 of itself, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.norm = LayerNormChannels(channels, eps=EPSILON)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.pos = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the MLP's output, of the shape of `x`."""
        h = F.gelu(self.fc1(self.norm(x)))
        return self.fc2(h + F.gelu(self.pos(h)))


class Block(nn.Module):
    """Modulation and MLP, each scaled per channel and added to its input."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.attn = Modulation(channels, taps)
        self.mlp = MLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of `x`."""
        x = x + self.layer_scale_1[:, None, None] * self.attn(x)
        return x + self.layer_scale_2[:, None, None] * self.mlp(x)


class Conv2Former(nn.Module):
    """Conv2Former of one or more stages.

    Parameters
    ----------
    scale : Scale
        Sizes halve from stage to stage.
    stem : "pyramid", "conv1" or "conv3"
        Of three convolutions and stride 4; or of stride 16, one convolution or three.
    classes : int
        Entries of the output.

    Notes
    -----
    The forward pass takes (B, 3, H, W) and returns (B, classes). It raises InputError for any
    other rank or channel count, and for sizes under the whole network's stride.
    """

    def __init__(self, scale: Scale, *, stem: str = "pyramid", classes: int = 1000) -> None:
        super().__init__()
        convolutions, stride = STEMS[stem]
        self.stride = stride << (len(scale.dims) - 1)
        self.downsample_layers = nn.ModuleList([_stem(scale.dims[0], convolutions)])
        for before, after in pairwise(scale.dims):
            self.downsample_layers.append(
                nn.Sequential(
                    LayerNormChannels(before, eps=EPSILON), nn.Conv2d(before, after, 2, stride=2)
                )
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, scale.taps) for _ in range(depth)))
            for dim, depth in zip(scale.dims, scale.depths, strict=True)
        )
        self.head = nn.Sequential(
            nn.Conv2d(scale.dims[-1], HEAD, 1), nn.GELU(), LayerNormChannels(HEAD, eps=EPSILON)
        )
        self.pred = nn.Linear(HEAD, classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes)."""
        check_images(x, least=self.stride)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.pred(self.head(x).mean((-2, -1)))


def create_conv2former(name: str, *, stem: str = "conv1", classes: int = 1000) -> Conv2Former:
    """Make `conv2former_{n,t,s,b,l,is,ib}`; `stem` is for the last two."""
    scale = SCALES[name]
    isotropic = len(scale.dims) == 1
    return Conv2Former(scale, stem=stem if isotropic else "pyramid", classes=classes)


def _stem(channels: int, convolutions: Sequence[tuple[int, int, int]]) -> nn.Sequential:
    """Convolutions to half the channels, GELU and BatchNorm after each, and one to all."""
    *early, (taps, stride, padding) = convolutions
    layers: list[nn.Module] = []
    before = 3
    for extent, step, edge in early:
        layers += [
            nn.Conv2d(before, channels // 2, extent, stride=step, padding=edge, bias=False),
            nn.GELU(),
            nn.BatchNorm2d(channels // 2),
        ]
        before = channels // 2
    # A stem of one convolution has a bias, as there is no BatchNorm.
    layers.append(nn.Conv2d(before, channels, taps, stride=stride, padding=padding, bias=not early))
    return nn.Sequential(*layers)


def _initialise(module: nn.Module) -> None:
    """Draw weights as the authors do before training."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
