"""What is ConvFormer, the network of multi-scale convolutional attention (MCA)?

No code is public. What the paper's text and equations leave open (BatchNorms, biases, the
gate's width, a depthwise 3x3 in the MLP) is chosen so that both networks and the paper's three
ablations have the parameters that its tables print; `parc_hw.models.info` says what remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.models.parc_layers import check_images

__all__ = ["SCALES", "ConvFormer", "Scale", "create_convformer"]

DIMS = (64, 128, 320, 512)
RATIOS = (8, 8, 4, 4)  # of the MLP, in each stage
STRIDE = 32  # of the whole network


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Blocks of each stage, and the parts of MCA that the paper's ablations take away.

    `kernels` are extent and dilation of the parallel depthwise convolutions.
    """

    depths: tuple[int, int, int, int]
    expansion: int = 4
    kernels: tuple[tuple[int, int], ...] = field(default=((3, 1), (5, 2), (7, 3)))
    gate: bool = True


SCALES = {
    "convformer_s": Scale(depths=(2, 2, 6, 2)),
    "convformer_l": Scale(depths=(3, 3, 12, 3)),
}


class MCA(nn.Module):
    """Multi-scale convolutional attention: expand, parallel depthwise, reduce, mix, gate.

    With X the input, `Y = proj(reduce(relu(sum_k depthwise_k(expand(X)))) + X)` and the output
    is `Y * sigmoid(gate(mean(X)))` (the paper's equations 1 to 4).
    """

    def __init__(self, channels: int, scale: Scale) -> None:
        super().__init__()
        wide = scale.expansion * channels
        self.expand = _pointwise(channels, wide)
        self.depthwise = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    wide,
                    wide,
                    taps,
                    padding=dilation * (taps // 2),
                    dilation=dilation,
                    groups=wide,
                    bias=False,
                ),
                nn.BatchNorm2d(wide),
            )
            for taps, dilation in scale.kernels
        )
        self.reduce = _pointwise(wide, channels)
        self.proj = _pointwise(channels, channels)
        self.gate: nn.Module | None = None
        if scale.gate:
            self.gate = nn.Sequential(
                nn.Conv2d(channels, channels, 1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 1),
                nn.Sigmoid(),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended `x`, of its shape."""
        y = self.expand(x)
        first, *others = (branch(y) for branch in self.depthwise)
        y = self.reduce(F.relu(sum(others, first)))
        y = self.proj(y + x)
        return y if self.gate is None else y * self.gate(x.mean((-2, -1), keepdim=True))


class MLP(nn.Module):
    """1x1, a depthwise 3x3 unless `depthwise` is False, GELU, 1x1 (equation 6)."""

    def __init__(self, channels: int, ratio: int, *, depthwise: bool) -> None:
        super().__init__()
        hidden = ratio * channels
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv: nn.Module | None = None
        if depthwise:
            self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the MLP's output, of the shape of `x`."""
        h = self.fc1(x)
        return self.fc2(F.gelu(h if self.dwconv is None else self.dwconv(h)))


class Block(nn.Module):
    """BatchNorm and MCA, BatchNorm and MLP, each added to its input (equations 5 and 6)."""

    def __init__(self, channels: int, ratio: int, scale: Scale, *, mlp_dw: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.mca = MCA(channels, scale)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = MLP(channels, ratio, depthwise=mlp_dw)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of `x`."""
        x = x + self.mca(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConvFormer(nn.Module):
    """ConvFormer of four stages.

    Parameters
    ----------
    scale : Scale
    mlp_dw : bool
        Whether the MLP has the depthwise 3x3 that the paper's parameter counts ask for and its
        equation 6 does not show.
    classes : int
        Entries of the output.

    Notes
    -----
    The forward pass takes (B, 3, H, W) and returns (B, classes). It raises InputError for any
    other rank or channel count.
    """

    # Untrained BatchNorms do not hold the residual branches back: activations would triple in
    # each block, until the gates' sigmoids jump between 0 and 1 at the rounding of their inputs.
    fill_factors: ClassVar = {"mca.proj.1.weight": 0.1, "mlp.fc2.weight": 0.1}

    def __init__(self, scale: Scale, *, mlp_dw: bool = True, classes: int = 1000) -> None:
        super().__init__()
        first = DIMS[0]
        stem = nn.Sequential(
            *_conv_norm(3, first, 7, 2, 3),
            *_conv_norm(first, first, 3, 1, 1),
            *_conv_norm(first, first, 2, 2, 0),
        )
        self.downsample_layers = nn.ModuleList([stem])
        for before, after in pairwise(DIMS):
            self.downsample_layers.append(nn.Sequential(*_conv_norm(before, after, 3, 2, 1)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, ratio, scale, mlp_dw=mlp_dw) for _ in range(depth)))
            for dim, ratio, depth in zip(DIMS, RATIOS, scale.depths, strict=True)
        )
        self.norm = nn.BatchNorm2d(DIMS[-1])
        self.head = nn.Linear(DIMS[-1], classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes)."""
        check_images(x, least=3)  # the stem's last convolution takes two pixels of its half
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x).mean((-2, -1)))


def create_convformer(name: str, *, mlp_dw: bool = True, classes: int = 1000) -> ConvFormer:
    """Make `convformer_s` or `convformer_l`."""
    return ConvFormer(SCALES[name], mlp_dw=mlp_dw, classes=classes)


def _conv_norm(
    before: int, after: int, taps: int, stride: int, padding: int
) -> Sequence[nn.Module]:
    return nn.Conv2d(before, after, taps, stride=stride, padding=padding), nn.BatchNorm2d(after)


def _pointwise(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 1), nn.BatchNorm2d(after))


def _initialise(module: nn.Module) -> None:
    """Draw weights before training: truncated normal, biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
