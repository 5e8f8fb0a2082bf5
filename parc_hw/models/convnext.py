"""What is ConvNeXt-XT, and where does the ParC form replace its depthwise convolution?

Written after the ParC-ConvNets paper (Fast-ParC, section 4) and ConvNeXt (Liu et al. 2022);
keys, shapes and numbers are those of the authors' public code (`tests/vectors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.models.parc_layers import OfficialParC, check_images, on_halves
from parc_hw.spec import Axis

__all__ = ["ConvNeXt", "LayerNormChannels", "create_convnext"]

RESOLUTION = 224
STRIDES = (4, 8, 16, 32)  # of the four stages
EPSILON = 1e-6  # of every LayerNorm
PARC_FROM = (3, 3, 6, 2)  # in each stage, the block from which on ParC replaces the 7x7


class BigKernel(nn.Module):
    """What ParC is compared with: as long a kernel, zeros beyond the edge, no embedding.

    Depthwise along H on the first half of the channels and along W on the second.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        half, edge = channels // 2, taps // 2
        self.gch_conv = nn.Conv2d(half, half, (taps, 1), padding=(edge, 0), groups=half)
        self.gcw_conv = nn.Conv2d(half, half, (1, taps), padding=(0, edge), groups=half)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved `x`, shape (B, C, H, W)."""
        return on_halves(x, self.gch_conv, self.gcw_conv)


class Block(nn.Module):
    """Spatial mixing, LayerNorm, Linear, GELU, Linear, scale by gamma, residual.

    `length` None: a depthwise 7x7 mixes. A number: ParC along H on the first half of the
    channels and along W on the second; not `circular`: big kernels of that length, made odd.
    """

    def __init__(self, channels: int, length: int | None, *, circular: bool = True) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.length, self.circular = length, circular
        if length is None:
            self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        elif circular:
            self.gcc_H = OfficialParC(channels // 2, length, Axis.H)
            self.gcc_W = OfficialParC(channels // 2, length, Axis.W)
        else:
            self.gc_conv = BigKernel(channels, length if length % 2 else length - 1)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def mix(self, x: Tensor) -> Tensor:
        """Return `x` mixed over space, channel by channel."""
        if self.length is None:
            return self.dwconv(x)
        return on_halves(x, self.gcc_H, self.gcc_W) if self.circular else self.gc_conv(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of `x`."""
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class LayerNormChannels(nn.LayerNorm):
    """LayerNorm over the channels of NCHW."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with each pixel's channels normalised."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt with ParC from a given block of each stage on.

    Parameters
    ----------
    parc_from : sequence of four int
        Index of the first ParC block of each stage; a stage's depth or more: none.
    circular : bool
        False: big kernels with zero padding stand where ParC would.
    dims, depths : sequence of four int
        Channels (even) and blocks of each stage.
    resolution : int
        Height and width, a multiple of 32, for which kernels and position embeddings of ParC
        are stored; for other inputs they are resized.
    classes : int
        Entries of the output.

    Notes
    -----
    The forward pass takes (B, 3, H, W) and returns (B, classes). It raises InputError for
    any other rank or channel count and for sizes under 32.
    """

    def __init__(
        self,
        *,
        parc_from: Sequence[int] = PARC_FROM,
        circular: bool = True,
        dims: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (3, 3, 9, 3),
        resolution: int = RESOLUTION,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(3, dims[0], 4, stride=4), LayerNormChannels(dims[0], eps=EPSILON)
        )
        self.downsample_layers = nn.ModuleList([stem])
        for before, after in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(
                    LayerNormChannels(before, eps=EPSILON), nn.Conv2d(before, after, 2, stride=2)
                )
            )
        self.stages = nn.ModuleList()
        for dim, depth, start, stride in zip(dims, depths, parc_from, STRIDES, strict=True):
            lengths = [resolution // stride if j >= start else None for j in range(depth)]
            self.stages.append(
                nn.Sequential(*(Block(dim, length, circular=circular) for length in lengths))
            )
        self.norm = nn.LayerNorm(dims[-1], eps=EPSILON)
        self.head = nn.Linear(dims[-1], classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes)."""
        check_images(x, least=STRIDES[-1])
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean((-2, -1))))


def create_convnext(name: str, *, classes: int = 1000) -> ConvNeXt:
    """Make `parc_convnext_xt`, `convnext_xt` or `convnext_bk_xt`."""
    parc_from = (3, 3, 9, 3) if name == "convnext_xt" else PARC_FROM
    return ConvNeXt(parc_from=parc_from, circular=name != "convnext_bk_xt", classes=classes)


def _initialise(module: nn.Module) -> None:
    """Draw weights as the authors do before training."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
