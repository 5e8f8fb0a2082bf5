"""What is SSDLite on ParC-Net, the detector of the papers?

Written after SSD (Liu et al. 2016) in its light form; keys, shapes and numbers are those of
ParC-Net's public code (`tests/vectors`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from parc_hw.models.cvnets_layers import ConvLayer, Encoder, SeparableConv, initialise_head
from parc_hw.models.parcnet import SCALES, ParCNet

__all__ = ["SSDLite", "create_ssdlite"]

COORDINATES = 4  # of a box
# Output stride -> (channels that the head works in, anchors at each place). -1: one place.
PLACES = {16: (512, 6), 32: (256, 6), 64: (256, 6), 128: (128, 6), 256: (128, 6), -1: (64, 4)}


class Head(nn.Module):
    """Boxes and class scores for every anchor of one map.

    Parameters
    ----------
    before : int
        Channels of the map.
    inner : int
        Channels that the head works in; a 1x1 convolution leads there when they differ.
    anchors, classes : int
    single : bool
        The map is one pixel: a 1x1 convolution is enough.
    """

    def __init__(
        self, before: int, inner: int, *, anchors: int, classes: int, single: bool
    ) -> None:
        super().__init__()
        self.fields = (COORDINATES, classes)
        after = anchors * sum(self.fields)
        if single:
            self.proj_layer: nn.Module = nn.Identity()
            self.loc_cls_layer: nn.Module = ConvLayer(
                before, after, 1, bias=True, norm=False, act=None
            )
        else:
            projects = before != inner
            self.proj_layer = (
                ConvLayer(before, inner, 1, act=nn.ReLU) if projects else nn.Identity()
            )
            self.loc_cls_layer = SeparableConv(inner, after, last=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, H * W * anchors, 4) and scores (B, H * W * anchors, classes)."""
        y = self.loc_cls_layer(self.proj_layer(x)).permute(0, 2, 3, 1)
        locations, scores = y.reshape(x.shape[0], -1, sum(self.fields)).split(self.fields, dim=-1)
        return locations, scores


class SSDLite(nn.Module):
    """A backbone's levels 4 and 5, four smaller maps made from them, and a head on each.

    Parameters
    ----------
    encoder : Encoder
        Without classifier.
    channels : (int, int)
        Of its levels 4 and 5.
    classes : int
        With the background, which is class 0.

    Notes
    -----
    The forward pass takes (B, 3, H, W), any rectangle, and returns class scores
    (B, anchors, classes) before softmax and boxes (B, anchors, 4) as offsets from the anchors;
    the anchors go map by map, stride 16 first, and row by row.
    """

    state_dict_aliases: Mapping[str, str] = {"encoder.residual.": "encoder.layer_5.0."}

    def __init__(self, encoder: Encoder, channels: tuple[int, int], *, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        of_maps = [*channels]
        extra: OrderedDict[str, nn.Module] = OrderedDict()
        for stride, (inner, _) in PLACES.items():
            if stride > 32:
                extra[f"os_{stride}"] = SeparableConv(of_maps[-1], inner, stride=2)
            elif stride == -1:
                conv = ConvLayer(of_maps[-1], inner, 1, norm=False, act=nn.ReLU)
                extra[f"os_{stride}"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv)
            else:
                continue
            of_maps.append(inner)
        self.extra_layers = nn.ModuleDict(extra)
        self.ssd_heads = nn.ModuleList(
            Head(before, inner, anchors=anchors, classes=classes, single=stride == -1)
            for before, (stride, (inner, anchors)) in zip(of_maps, PLACES.items(), strict=True)
        )
        initialise_head(self.extra_layers)
        initialise_head(self.ssd_heads)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return class scores (B, anchors, classes) and box offsets (B, anchors, 4)."""
        maps = [*self.encoder.levels(x)]
        for layer in self.extra_layers.values():
            maps.append(layer(maps[-1]))
        found = [head(each) for head, each in zip(self.ssd_heads, maps, strict=True)]
        locations, scores = zip(*found, strict=True)
        return torch.cat(scores, dim=1), torch.cat(locations, dim=1)


def create_ssdlite(name: str, *, classes: int = 81) -> SSDLite:
    """Make `ssdlite_parcnet_s`."""
    scale = SCALES[name.removeprefix("ssdlite_")]
    fourth, fifth = (level.channels for level in scale.levels[1:])
    return SSDLite(ParCNet(scale, classes=None), (fourth, fifth), classes=classes)
