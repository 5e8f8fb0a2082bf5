"""What is ParC-Net (EdgeFormer), and how does its block use two ParCs in a row?

Written after ParC-Net (Zhang et al. 2022), first named EdgeFormer, and its continuation
Fast-ParC; keys, shapes and numbers are those of the authors' public code (`tests/vectors`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parc_hw.models.cvnets_layers import ConvLayer, Encoder, InvertedResidual, early_levels
from parc_hw.nn import circular_correlate, resize_taps
from parc_hw.nn.functional import Resize
from parc_hw.nn.op import kept_whole, parc
from parc_hw.spec import Axis

__all__ = ["SCALES", "Level", "ParCBlock", "ParCNet", "Scale", "create_parcnet"]

_RESIZES: dict[str, Resize] = {"interpolation_bilinear": "bilinear", "crop": "crop"}
_REDUCTION = 16  # of the channel attention
_DROPOUT = 0.1  # in the blocks, in training
_CLASSIFIER_DROPOUT = 0.2


@dataclass(frozen=True, slots=True)
class Level:
    """A level that ends in ParC blocks; the kernels' stored length is that at 256x256."""

    channels: int
    inner: int  # channels of the ParC blocks
    blocks: int
    length: int


@dataclass(frozen=True, slots=True)
class Scale:
    """A size of the network."""

    taps: int  # of the stem
    widths: tuple[int, int, int]  # stem, levels 1 and 2
    levels: tuple[Level, Level, Level]
    fusion: str = "concat"


SCALES = {
    "parcnet_s": Scale(
        3,
        (16, 32, 64),
        (Level(96, 192, 2, 32), Level(128, 256, 4, 16), Level(160, 320, 3, 8)),
    ),
    "parcnet_xs": Scale(
        3,
        (16, 32, 64),
        (Level(96, 96, 2, 32), Level(128, 128, 3, 16), Level(160, 160, 2, 8)),
        fusion="add",
    ),
    "parcnet_h": Scale(
        5,
        (48, 96, 144),
        (Level(216, 324, 3, 32), Level(288, 432, 9, 16), Level(432, 432, 3, 8)),
    ),
}


class ChannelAttention(nn.Module):
    """Scales each channel by a gate in [0, 1] that is computed from all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = channels // _REDUCTION
        self.fc = nn.Sequential(
            nn.Conv2d(channels, reduced, 1, bias=False),
            nn.BatchNorm2d(reduced),
            nn.Hardswish(),
            nn.Conv2d(reduced, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated input, of the shape of `x`."""
        return x * self.fc(x.mean((-2, -1), keepdim=True))


class ParCBlock(nn.Module):
    """The ParC block: two ParCs in a row on each half of the channels, then a gated MLP.

    The first half goes along H, then W; the second along W, then H. Position embeddings come
    before the norm, and between the two ParCs.

    Parameters
    ----------
    half_channels : int
        Channels of one half; the block has twice as many.
    length : int
        Stored taps of the kernels and embeddings.
    hidden : int
        Channels inside the MLP.
    bias : bool
        Of the ParCs.
    position_embedding : bool
    attention : bool
        Whether channel attention gates the MLP's output.
    resize : "bilinear" or "crop"
        How the stored taps become those of the input (`parc_hw.nn.resize_taps`).

    Notes
    -----
    The released code resizes all kernels and embeddings to the input's *height*, and so raises
    on inputs that are not square. Here each is resized to the length of its own axis: any
    rectangle works, and squares give the released code's numbers.

    References
    ----------
    ParC-Net, section 3; `gcc_mf_block` and `gcc_ca_mf_block` of the public code.
    """

    def __init__(
        self,
        half_channels: int,
        length: int,
        hidden: int,
        *,
        bias: bool = False,
        position_embedding: bool = False,
        attention: bool = True,
        resize: Resize = "bilinear",
    ) -> None:
        super().__init__()
        self.resize: Resize = resize
        for place in ("1_H", "1_W", "2_H", "2_W"):
            kernel = torch.empty(half_channels, 1, *_taps(place, length))
            bound = 1 / math.sqrt(length)  # as nn.Conv2d draws it
            nn.init.uniform_(kernel, -bound, bound)
            self.register_parameter(f"meta_kernel_{place}", nn.Parameter(kernel))
        for place in ("1_H", "1_W", "2_H", "2_W"):
            offset = nn.Parameter(torch.randn(half_channels)) if bias else None
            self.register_parameter(f"meta_{place}_bias", offset)
        for place in ("1_H", "1_W", "2_H", "2_W"):
            embedding = torch.randn(1, half_channels, *_taps(place, length))
            self.register_parameter(
                f"meta_pe_{place}", nn.Parameter(embedding) if position_embedding else None
            )
        self.pre_Norm_1 = nn.BatchNorm2d(half_channels)
        self.pre_Norm_2 = nn.BatchNorm2d(half_channels)
        channels = 2 * half_channels
        self.ffn = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, hidden, 1),
            nn.Hardswish(),
            nn.Dropout(0.0),
            nn.Conv2d(hidden, channels, 1),
            nn.Dropout(_DROPOUT),
        )
        self.ca = ChannelAttention(channels) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of `x`, (B, 2 * half_channels, H, W)."""
        first, second = x.chunk(2, dim=1)
        y = self._correlated(self.pre_Norm_1(self._embedded(first, "1_H")), "1_H")
        y = self._correlated(y, "2_W", embed=True)
        z = self._correlated(self.pre_Norm_2(self._embedded(second, "1_W")), "1_W")
        z = self._correlated(z, "2_H", embed=True)
        x = torch.cat([first + y, second + z], dim=1)
        return x + self.ca(self.ffn(x))

    def _resized(self, kind: str, place: str, x: Tensor) -> Tensor | None:
        """A kernel ("kernel") or embedding ("pe") at the length of `x`, or None when absent."""
        stored: Tensor | None = getattr(self, f"meta_{kind}_{place}")
        if stored is None:
            return None
        dim = _axis(place).dim
        return resize_taps(stored, x.shape[dim], dim=dim, resize=self.resize)

    def _embedded(self, x: Tensor, place: str) -> Tensor:
        embedding = self._resized("pe", place, x)
        return x if embedding is None else x + embedding

    def _correlated(self, x: Tensor, place: str, *, embed: bool = False) -> Tensor:
        """The ParC of `x` with the kernel of `place`, and with its embedding when `embed`."""
        axis = _axis(place)
        shape = (x.shape[1], x.shape[axis.dim])
        kernel = self._resized("kernel", place, x)
        assert kernel is not None
        embedding = self._resized("pe", place, x) if embed else None
        weight = kernel.reshape(shape)
        pe = None if embedding is None else embedding.reshape(shape)
        bias: Tensor | None = getattr(self, f"meta_{place}_bias")
        if not kept_whole():
            return circular_correlate(x, weight, bias, pe, axis=axis)
        # One node for importers, as nn.ParC.
        pe = torch.zeros_like(weight) if pe is None else pe
        bias = weight.new_zeros(shape[:1]) if bias is None else bias
        return parc(x, weight, pe, bias, axis.value)


class ParCFrame(nn.Module):
    """What stands around a level's ParC blocks: local convolutions before, fusion after.

    Parameters
    ----------
    level : Level
    fusion : "concat" or "add"
        How the input joins the blocks' output before the last 3x3 convolution.
    attention : bool
    resize : "bilinear" or "crop"
        As in `ParCBlock`.

    References
    ----------
    `outer_frame_v1` of the public code.
    """

    def __init__(self, level: Level, *, fusion: str, attention: bool, resize: Resize) -> None:
        super().__init__()
        channels, inner = level.channels, level.inner
        groups = math.gcd(channels, inner)
        self.concatenates = fusion == "concat"
        self.dim_adaptive = nn.Sequential(
            ConvLayer(channels, inner, 3, groups=groups),
            ConvLayer(inner, inner, 1, norm=False, act=None),
        )
        self.spatial_global_rep = nn.Sequential(
            *(
                ParCBlock(
                    inner // 2,
                    level.length,
                    2 * inner,
                    position_embedding=index == 0,
                    attention=attention,
                    resize=resize,
                )
                for index in range(level.blocks)
            ),
            nn.BatchNorm2d(inner),
        )
        self.channel_adaptive = ConvLayer(inner, channels, 1, groups=groups)
        joined = 2 * channels if self.concatenates else channels
        self.local_global_fusion = ConvLayer(joined, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the frame's output, of the shape of `x`."""
        y = self.channel_adaptive(self.spatial_global_rep(self.dim_adaptive(x)))
        y = torch.cat([y, x], dim=1) if self.concatenates else x + y
        return self.local_global_fusion(y)


class ParCNet(Encoder):
    """ParC-Net: MobileNetV2 blocks, and ParC blocks in the levels of stride 8, 16 and 32.

    Parameters
    ----------
    scale : Scale
    classes : int or None
        As `Encoder`.
    fusion, attention, resize
        As `ParCFrame`; fusion None is the scale's own.
    last_stride : int
        Stride of the last level over the one before: 2, or 1 for segmentation.

    Notes
    -----
    The forward pass takes (B, 3, H, W), any rectangle, and returns (B, classes). With
    resize "crop" an axis must not be longer than 256.
    """

    # The authors' module has one attribute more, which ends as another name of this block.
    state_dict_aliases: Mapping[str, str] = {"residual.": "layer_5.0."}

    def __init__(
        self,
        scale: Scale,
        *,
        classes: int | None,
        fusion: str | None = None,
        attention: bool = True,
        resize: Resize = "bilinear",
        last_stride: int = 2,
    ) -> None:
        fusion = fusion or scale.fusion
        levels = early_levels(scale.widths)
        before = scale.widths[-1]
        for level, stride in zip(scale.levels, (2, 2, last_stride), strict=True):
            levels.append(
                nn.Sequential(
                    InvertedResidual(before, level.channels, stride=stride),
                    ParCFrame(level, fusion=fusion, attention=attention, resize=resize),
                )
            )
            before = level.channels
        super().__init__(
            ConvLayer(3, scale.widths[0], scale.taps, stride=2),
            levels,
            channels=before,
            classes=classes,
            dropout=_CLASSIFIER_DROPOUT,
        )


def create_parcnet(
    name: str,
    *,
    classes: int = 1000,
    fusion: str | None = None,
    kernel: str = "gcc_ca",
    instance_kernel: str = "interpolation_bilinear",
) -> ParCNet:
    """Make `parcnet_s`, `parcnet_xs` or `parcnet_h`; the options have the authors' words."""
    return ParCNet(
        SCALES[name],
        classes=classes,
        fusion=fusion,
        attention=kernel == "gcc_ca",
        resize=_RESIZES[instance_kernel],
    )


def _axis(place: str) -> Axis:
    """The axis of a parameter's place, such as "1_H": first ParC of its pair, along H."""
    return Axis(place[-1])


def _taps(place: str, length: int) -> tuple[int, int]:
    return (length, 1) if _axis(place) is Axis.H else (1, length)
