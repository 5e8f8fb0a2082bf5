"""Which layers do ParC-Net, MobileViT and their detection and segmentation heads share?

The classes hold the state_dict keys of the public code (CVNets, on which ParC-Net is built):
a convolution is `block.{conv,norm}`, an inverted residual is `block.{exp_1x1,conv_3x3,red_1x1}`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from parc_hw.errors import InputError

__all__ = [
    "ConvLayer",
    "Encoder",
    "InvertedResidual",
    "SeparableConv",
    "early_levels",
    "initialise",
    "initialise_head",
]

EXPANSION = 4  # of the inverted residuals, and of the last 1x1 convolution
WIDEST = 960  # channels of the last 1x1 convolution at most


class ConvLayer(nn.Module):
    """A convolution that keeps the size (over `stride`), BatchNorm, and an activation.

    Parameters
    ----------
    before, after : int
        Channels.
    taps : int
        Extent of the square kernel, odd.
    stride, dilation, groups : int
    bias, norm : bool
    act : type of nn.Module or None
        Made without arguments; None for no activation.
    """

    def __init__(
        self,
        before: int,
        after: int,
        taps: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
        act: type[nn.Module] | None = nn.SiLU,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(
            before,
            after,
            taps,
            stride=stride,
            padding=dilation * (taps // 2),
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if norm:
            parts["norm"] = nn.BatchNorm2d(after)
        if act is not None:
            parts["act"] = act()
        self.block = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, ceil(H / stride), ceil(W / stride)) for (B, before, H, W)."""
        return self.block(x)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise 3x3, reduce; a residual where shapes allow it."""

    def __init__(self, before: int, after: int, *, stride: int = 1) -> None:
        super().__init__()
        hidden = _divisible(EXPANSION * before)
        self.has_residual = stride == 1 and before == after
        self.block = nn.Sequential(
            OrderedDict(
                exp_1x1=ConvLayer(before, hidden, 1),
                conv_3x3=ConvLayer(hidden, hidden, 3, stride=stride, groups=hidden),
                red_1x1=ConvLayer(hidden, after, 1, act=None),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, ceil(H / stride), ceil(W / stride))."""
        y = self.block(x)
        return x + y if self.has_residual else y


class SeparableConv(nn.Module):
    """A depthwise 3x3 with BatchNorm, then a 1x1 convolution: with BatchNorm and ReLU, or bias."""

    def __init__(self, before: int, after: int, *, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        self.dw_conv = ConvLayer(before, before, 3, stride=stride, groups=before, act=None)
        act = None if last else nn.ReLU
        self.pw_conv = ConvLayer(before, after, 1, bias=last, norm=not last, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, ceil(H / stride), ceil(W / stride))."""
        return self.pw_conv(self.dw_conv(x))


class GlobalMean(nn.Module):
    """The mean of each channel's map."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C) for (B, C, H, W)."""
        return x.mean((-2, -1))


class Encoder(nn.Module):
    """A backbone of a stem, five levels of stride 2, 4, 8, 16 and 32, and a classifier.

    Parameters
    ----------
    stem : ConvLayer
        The first convolution, stride 2.
    levels : sequence of five nn.Sequential
    channels : int
        Of the last level's output.
    classes : int or None
        Entries of the output. None: no classifier; `levels` is what a head calls then.
    dropout : float
        Before the classifier, in training.
    """

    def __init__(
        self,
        stem: ConvLayer,
        levels: Sequence[nn.Sequential],
        *,
        channels: int,
        classes: int | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv_1 = stem
        self.layer_1, self.layer_2, self.layer_3, self.layer_4, self.layer_5 = levels
        if classes is not None:
            wide = min(EXPANSION * channels, WIDEST)
            self.conv_1x1_exp = ConvLayer(channels, wide, 1)
            self.classifier = nn.Sequential(
                OrderedDict(
                    global_pool=GlobalMean(),
                    dropout=nn.Dropout(dropout),
                    fc=nn.Linear(wide, classes),
                )
            )
        initialise(self)

    def levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of levels 4 and 5, shapes (B, C, H / 16, W / 16) and (.., / 32).

        Raises
        ------
        InputError
            `x` is not of shape (B, 3, H, W).
        """
        if x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape[2:]:
            raise InputError(
                f"the network takes inputs of shape (B, 3, H, W), not {tuple(x.shape)}."
            )
        x = self.layer_3(self.layer_2(self.layer_1(self.conv_1(x))))
        fourth = self.layer_4(x)
        return fourth, self.layer_5(fourth)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, shape (B, classes)."""
        _, fifth = self.levels(x)
        return self.classifier(self.conv_1x1_exp(fifth))


def early_levels(widths: Sequence[int]) -> list[nn.Sequential]:
    """Levels 1 and 2, which all backbones share; `widths` are the stem's and theirs."""
    stem, first, second = widths
    return [
        nn.Sequential(InvertedResidual(stem, first)),
        nn.Sequential(
            InvertedResidual(first, second, stride=2),
            InvertedResidual(second, second),
            InvertedResidual(second, second),
        ),
    ]


def initialise(module: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers as the authors do."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def initialise_head(module: nn.Module) -> None:
    """Draw the weights of a detection head's convolutions as the authors do."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _divisible(channels: int) -> int:
    """The multiple of 8 nearest to `channels`, not less than 90 % of it."""
    result = max(8, (channels + 4) // 8 * 8)
    return result + 8 if result < 0.9 * channels else result
