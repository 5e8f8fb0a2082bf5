"""How do the authors of the ParC-ConvNets write a ParC, and how do they split the channels?

Keys are those of the released code; lengths other than the stored one follow the authors'
segmentation code, which is the same at the stored length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.errors import InputError
from parc_hw.nn import resize_taps
from parc_hw.spec import Axis

__all__ = ["OfficialParC", "check_images", "on_halves"]


class OfficialParC(nn.Module):
    """A ParC in the authors' layout: `pe` and `gcc_conv.{weight,bias}`.

    The same operator as `parc_hw.nn.ParC(channels, length, axis)`, written as the authors do
    (Algorithm 1); importers recognise it.

    Parameters
    ----------
    channels : int
        Of the input and the output.
    length : int
        Stored taps of kernel and position embedding; for inputs of another length both are
        resized along `axis`, bilinearly with aligned corners.
    axis : Axis
    dense : bool
        Whether each output channel sums over all input channels (equation 4).
    position_embedding : bool
    """

    def __init__(
        self,
        channels: int,
        length: int,
        axis: Axis,
        *,
        dense: bool = False,
        position_embedding: bool = True,
    ) -> None:
        super().__init__()
        taps = (length, 1) if axis is Axis.H else (1, length)
        self.dim = axis.dim
        self.pe: nn.Parameter | None = None
        if position_embedding:
            self.pe = nn.Parameter(torch.empty(1, channels, *taps))
            nn.init.trunc_normal_(self.pe, std=0.02)
        self.gcc_conv = nn.Conv2d(channels, channels, taps, groups=1 if dense else channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the ParC of `x`, shape (B, C, H, W)."""
        conv, length = self.gcc_conv, x.shape[self.dim]
        if self.pe is not None:
            x = x + resize_taps(self.pe, length, dim=self.dim, resize="bilinear")
        weight = resize_taps(conv.weight, length, dim=self.dim, resize="bilinear")
        again = x.narrow(self.dim, 0, length - 1)
        doubled = torch.cat([x, again], dim=self.dim)
        return F.conv2d(doubled, weight, conv.bias, groups=conv.groups)


def on_halves(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    """Apply `first` to the first half of the channels of (B, C, H, W) and `second` to the rest."""
    low, high = x.chunk(2, dim=1)
    return torch.cat([first(low), second(high)], dim=1)


def check_images(x: Tensor, least: int = 1) -> None:
    """Raise InputError unless `x` is of shape (B, 3, H, W) with H and W of at least `least`."""
    shape = tuple(x.shape)
    if len(shape) != 4 or shape[1] != 3:
        raise InputError(f"the network takes inputs of shape (B, 3, H, W), not {shape}.")
    if min(shape[2:]) < least:
        raise InputError(
            f"the network takes inputs of shape (B, 3, H, W) with H and W of at least {least}, "
            f"not {shape}: a smaller map would be empty on its way."
        )
