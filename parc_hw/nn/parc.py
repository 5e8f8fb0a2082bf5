"""What is a ParC layer in torch: which parameters, which sizes, which forward?"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from parc_hw.errors import InputError, nearest
from parc_hw.nn.functional import (
    FORMS,
    RESIZES,
    Form,
    Resize,
    circular_correlate,
    parse_axis,
    resize_taps,
)
from parc_hw.nn.op import kept_whole, parc
from parc_hw.spec import Axis

__all__ = ["ParC"]


class ParC(nn.Module):
    """Position-aware circular convolution: a global, circular, learned filter along one axis.

    `y[i] = b + sum_k w[k] * (x[(i+k) mod N] + pe[(i+k) mod N])` along `axis`, with kernel and
    position embedding stored at one length and resized to the input's. Any batch and any
    rectangular input.

    Parameters
    ----------
    channels : int
        C, the input's channels.
    length : int
        K, the stored taps of kernel and position embedding.
    axis : Axis or "H" or "W"
        H runs along dimension 2 of NCHW, W along dimension 3.
    out_channels : int or None
        None: depthwise, one kernel per channel. A number: dense (equation 4).
    bias, position_embedding : bool
        Whether the layer has them.
    resize : "bilinear", "bicubic", "crop" or "none"
        How K taps become N (`resize_taps`); kernel and embedding along their own axis only.
    form : "spatial" or "spectral"
        How the forward pass is computed; the results agree but for rounding.

    Attributes
    ----------
    weight : Parameter, shape (C, 1, K, 1) or (C, 1, 1, K); dense (C_out, C, K, 1) or (.., 1, K)
        The layout of `Conv2d.weight`, so a checkpoint of the papers' code loads unchanged.
    bias : Parameter, shape (C,) or (C_out,), or None
    pe : Parameter, shape (1, C, K, 1) or (1, C, 1, K), or None

    Raises
    ------
    InputError
        Here: a count below 1, an unknown axis, resize or form. In the forward pass: an input
        that is not (B, C, H, W) with this layer's C, or a length that `resize` cannot reach.

    Notes
    -----
    Under `torch.export` the forward pass is one `parc_hw.parc` node (`parc_hw.nn.op`), whose
    other arguments depend on parameters alone.

    References
    ----------
    Fast-ParC, equations 2 to 4; EdgeFormer / ParC-Net, section 3.

    Examples
    --------
    >>> layer = ParC(channels=16, length=14, axis="H")
    >>> layer(torch.zeros(2, 16, 20, 9)).shape
    torch.Size([2, 16, 20, 9])
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    pe: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        length: int,
        axis: Axis | str = "H",
        *,
        out_channels: int | None = None,
        bias: bool = True,
        position_embedding: bool = True,
        resize: Resize = "bilinear",
        form: Form = "spatial",
    ) -> None:
        super().__init__()
        for name, value in (
            ("channels", channels),
            ("length", length),
            ("out_channels", 1 if out_channels is None else out_channels),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, not {value!r}.")
        for name, word, accepted in (("resize", resize, RESIZES), ("form", form, FORMS)):
            if word not in accepted:
                raise InputError(
                    f"unknown {name} {word!r}: one of {', '.join(accepted)}."
                    f"{nearest(str(word), accepted)}"
                )
        self.axis = parse_axis(axis)
        self.channels = channels
        self.length = length
        self.out_channels = out_channels
        self.resize: Resize = resize
        self.form: Form = form
        taps = (length, 1) if self.axis is Axis.H else (1, length)
        lines = (channels, 1) if out_channels is None else (out_channels, channels)
        self.weight = nn.Parameter(torch.empty(*lines, *taps))
        self.register_parameter("bias", nn.Parameter(torch.empty(lines[0])) if bias else None)
        self.register_parameter(
            "pe", nn.Parameter(torch.empty(1, channels, *taps)) if position_embedding else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw kernel and bias as `Conv2d` does, the embedding as the ParC-ConvNets do."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)
        if self.pe is not None:
            nn.init.trunc_normal_(self.pe, std=0.02)

    def constants(self, length: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return kernel, position embedding and bias for inputs of one length.

        Parameters
        ----------
        length : int
            N, at least 1.

        Returns
        -------
        weight : Tensor, shape (C, N) or (C_out, C, N)
        pe : Tensor, shape (C, N), or None
        bias : Tensor, shape (C,) or (C_out,), or None

        Raises
        ------
        InputError
            `resize` cannot reach `length`.
        """
        dim = self.axis.dim
        shape = (length,) if self.out_channels is None else (self.channels, length)
        weight = resize_taps(self.weight, length, dim=dim, resize=self.resize)
        weight = weight.reshape(self.weight.shape[0], *shape)
        if self.pe is None:
            return weight, None, self.bias
        pe = resize_taps(self.pe, length, dim=dim, resize=self.resize)
        return weight, pe.reshape(self.channels, length), self.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the ParC of `x`, shape (B, C, H, W) to (B, C or C_out, H, W)."""
        if x.ndim != 4 or x.shape[1] != self.channels or 0 in x.shape[2:]:
            raise InputError(
                f"this ParC takes inputs (B, {self.channels}, H, W), not of shape {tuple(x.shape)}."
            )
        length = x.shape[self.axis.dim]
        weight, pe, bias = self.constants(length)
        if kept_whole():
            if pe is None:
                pe = weight.new_zeros((self.channels, length))
            if bias is None:
                bias = weight.new_zeros((weight.shape[0],))
            return parc(x, weight, pe, bias, self.axis.value)
        return circular_correlate(x, weight, bias, pe, axis=self.axis, form=self.form)

    def extra_repr(self) -> str:
        """Arguments as they would be written."""
        return (
            f"{self.channels}, {self.length}, axis={self.axis.value!r}, "
            f"out_channels={self.out_channels}, bias={self.bias is not None}, "
            f"position_embedding={self.pe is not None}, resize={self.resize!r}, form={self.form!r}"
        )
