"""What is MobileViT, the attention network that ParC-Net is measured against?

Written after MobileViT (Mehta & Rastegari 2022); keys, shapes and numbers are those of the
copy in ParC-Net's public code (`tests/vectors`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.models.cvnets_layers import ConvLayer, Encoder, InvertedResidual, early_levels

__all__ = ["Level", "MobileViT", "Scale", "create_mobilevit"]

PATCH = 2  # height and width of a patch
HEADS = 4
_DROPOUT = 0.1  # in training


@dataclass(frozen=True, slots=True)
class Level:
    """A level that ends in transformer blocks."""

    channels: int
    inner: int  # channels of the transformer
    blocks: int


@dataclass(frozen=True, slots=True)
class Scale:
    """A size of the network."""

    widths: tuple[int, int, int]  # stem, levels 1 and 2
    levels: tuple[Level, Level, Level]


SCALES = {
    "mobilevit_s": Scale((16, 32, 64), (Level(96, 144, 2), Level(128, 192, 4), Level(160, 240, 3))),
    "mobilevit_xs": Scale((16, 32, 48), (Level(64, 96, 2), Level(80, 120, 4), Level(96, 144, 3))),
}


class Attention(nn.Module):
    """Multi-head self-attention: `softmax(q k^T / sqrt(d)) v` for each of `HEADS` heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) for (B, N, C): attention runs over N."""
        batch, points, channels = x.shape
        depth = channels // HEADS
        qkv = self.qkv_proj(x).reshape(batch, points, 3, HEADS, depth).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind()
        scores = (query * depth**-0.5) @ key.transpose(-1, -2)
        y = torch.softmax(scores, dim=-1) @ value
        return self.out_proj(y.transpose(1, 2).reshape(batch, points, channels))


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each behind a LayerNorm and beside a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pre_norm_mha = nn.Sequential(
            nn.LayerNorm(channels), Attention(channels), nn.Dropout(_DROPOUT)
        )
        self.pre_norm_ffn = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.SiLU(),
            nn.Dropout(0.0),
            nn.Linear(2 * channels, channels),
            nn.Dropout(_DROPOUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, N, C) for (B, N, C)."""
        x = x + self.pre_norm_mha(x)
        return x + self.pre_norm_ffn(x)


class MobileViTBlock(nn.Module):
    """Local convolutions, attention between the equal places of all patches, fusion.

    A map whose height or width is odd is resized to the next even size for the attention, and
    back after it (bilinear, corners not aligned), as in the authors' code.
    """

    def __init__(self, level: Level) -> None:
        super().__init__()
        channels, inner = level.channels, level.inner
        self.local_rep = nn.Sequential()
        self.local_rep.add_module("conv_3x3", ConvLayer(channels, channels, 3))
        self.local_rep.add_module("conv_1x1", ConvLayer(channels, inner, 1, norm=False, act=None))
        self.global_rep = nn.Sequential(
            *(TransformerBlock(inner) for _ in range(level.blocks)), nn.LayerNorm(inner)
        )
        self.conv_proj = ConvLayer(inner, channels, 1)
        self.fusion = ConvLayer(2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of `x`, (B, channels, H, W)."""
        y = self.local_rep(x)
        batch, channels, *size = y.shape
        rows, columns = (-(-extent // PATCH) for extent in size)  # of patches
        padded = [rows * PATCH, columns * PATCH]
        if padded != size:
            y = F.interpolate(y, size=padded, mode="bilinear", align_corners=False)
        # Places within a patch join the batch; attention runs over the patches.
        y = y.permute(0, 2, 3, 1).reshape(batch, rows, PATCH, columns, PATCH, channels)
        y = y.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows * columns, channels)
        y = self.global_rep(y)
        y = y.reshape(batch, PATCH, PATCH, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
        y = y.reshape(batch, *padded, channels).permute(0, 3, 1, 2)
        if padded != size:
            y = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
        return self.fusion(torch.cat([x, self.conv_proj(y)], dim=1))


class MobileViT(Encoder):
    """MobileViT: MobileNetV2 blocks, and transformers in the levels of stride 8, 16 and 32.

    Parameters
    ----------
    scale : Scale
    classes : int or None
        As `Encoder`.

    Notes
    -----
    The forward pass takes (B, 3, H, W), any rectangle, and returns (B, classes).
    """

    def __init__(self, scale: Scale, *, classes: int | None) -> None:
        levels = early_levels(scale.widths)
        before = scale.widths[-1]
        for level in scale.levels:
            levels.append(
                nn.Sequential(
                    InvertedResidual(before, level.channels, stride=2), MobileViTBlock(level)
                )
            )
            before = level.channels
        super().__init__(
            ConvLayer(3, scale.widths[0], 3, stride=2),
            levels,
            channels=before,
            classes=classes,
            dropout=_DROPOUT,
        )


def create_mobilevit(name: str, *, classes: int = 1000) -> MobileViT:
    """Make `mobilevit_s` or `mobilevit_xs`."""
    return MobileViT(SCALES[name], classes=classes)
