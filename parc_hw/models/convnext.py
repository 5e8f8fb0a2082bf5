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

from parc_hw.errors import InputError
from parc_hw.spec import Axis

__all__ = ["ConvNeXt", "create_convnext"]

RESOLUTION = 224
STRIDES = (4, 8, 16, 32)  # of the four stages
EPSILON = 1e-6  # of every LayerNorm
PARC_FROM = (3, 3, 6, 2)  # in each stage, the block from which on ParC replaces the 7x7


class OfficialParC(nn.Module):
    """A ParC of fixed length in the authors' layout: `pe` and `gcc_conv.{weight,bias}`.

    The same operator as `parc_hw.nn.ParC(channels, length, axis, resize="none")`, written as
    the authors do (Algorithm 1); importers recognise it.
    """

    def __init__(self, channels: int, length: int, axis: Axis) -> None:
        super().__init__()
        taps = (length, 1) if axis is Axis.H else (1, length)
        self.dim = axis.dim
        self.pe = nn.Parameter(torch.empty(1, channels, *taps))
        self.gcc_conv = nn.Conv2d(channels, channels, taps, groups=channels)
        nn.init.trunc_normal_(self.pe, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the ParC of `x`, shape (B, C, H, W)."""
        x = x + self.pe
        again = x.narrow(self.dim, 0, x.shape[self.dim] - 1)
        return self.gcc_conv(torch.cat([x, again], dim=self.dim))


class Block(nn.Module):
    """Spatial mixing, LayerNorm, Linear, GELU, Linear, scale by gamma, residual.

    `length` None: a depthwise 7x7 mixes. A number: ParC along H on the first half of the
    channels and along W on the second.
    """

    def __init__(self, channels: int, length: int | None) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.has_parc = length is not None
        if length is None:
            self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        else:
            self.gcc_H = OfficialParC(channels // 2, length, Axis.H)
            self.gcc_W = OfficialParC(channels // 2, length, Axis.W)
        self.norm = nn.LayerNorm(channels, eps=EPSILON)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of `x`."""
        if self.has_parc:
            first, second = x.chunk(2, dim=1)
            y = torch.cat([self.gcc_H(first), self.gcc_W(second)], dim=1)
        else:
            y = self.dwconv(x)
        y = self.norm(y.permute(0, 2, 3, 1))
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
    dims, depths : sequence of four int
        Channels (even) and blocks of each stage.
    resolution : int
        Height and width of the input, a multiple of 32. A network with ParC takes no other:
        its kernels have the length of their stage and are not resized.
    classes : int
        Entries of the output.

    Notes
    -----
    The forward pass takes (B, 3, H, W) and returns (B, classes). It raises InputError for
    any other rank or channel count, for sizes under 32, and with ParC for H or W other than
    `resolution`.
    """

    def __init__(
        self,
        *,
        parc_from: Sequence[int] = PARC_FROM,
        dims: Sequence[int] = (48, 96, 192, 384),
        depths: Sequence[int] = (3, 3, 9, 3),
        resolution: int = RESOLUTION,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.has_parc = any(start < depth for start, depth in zip(parc_from, depths, strict=True))
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
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Block(dim, resolution // stride if j >= start else None) for j in range(depth))
            )
            for dim, depth, start, stride in zip(dims, depths, parc_from, STRIDES, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=EPSILON)
        self.head = nn.Linear(dims[-1], classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes)."""
        self._check(tuple(x.shape))
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean((-2, -1))))

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or shape[1] != 3:
            raise InputError(f"the network takes inputs of shape (B, 3, H, W), not {shape}.")
        size = self.resolution
        if self.has_parc and shape[2:] != (size, size):
            raise InputError(
                f"the network takes inputs of shape (B, 3, {size}, {size}), not {shape}: its ParC "
                "kernels have the length of their stage at that size and are not resized."
            )
        if min(shape[2:]) < STRIDES[-1]:
            raise InputError(
                f"the network takes inputs of shape (B, 3, H, W) with H and W of at least "
                f"{STRIDES[-1]}, not {shape}: its last stage would be empty."
            )


def create_convnext(name: str, *, classes: int = 1000) -> ConvNeXt:
    """Make `parc_convnext_xt` or `convnext_xt`."""
    parc_from = {"parc_convnext_xt": PARC_FROM, "convnext_xt": (3, 3, 9, 3)}[name]
    return ConvNeXt(parc_from=parc_from, classes=classes)


def _initialise(module: nn.Module) -> None:
    """Draw weights as the authors do before training."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
