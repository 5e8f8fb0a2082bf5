"""Which single operator does an exported graph hold in place of a ParC?"""

from __future__ import annotations

import torch
from torch import Tensor

from parc_hw.nn.functional import circular_correlate

__all__ = ["kept_whole", "parc"]


def kept_whole() -> bool:
    """Whether a ParC that runs now has to call `parc`: `torch.export` traces, and for itself.

    torch's ONNX exporter traces with `torch.export` too, but has no name for our operator: it
    gets the ParC written out as slices, concatenation and convolution, where importers find it.
    """
    return torch.compiler.is_exporting() and not torch.onnx.is_in_onnx_export()


@torch.library.custom_op("parc_hw::parc", mutates_args=())
def parc(x: Tensor, weight: Tensor, pe: Tensor, bias: Tensor, axis: str) -> Tensor:
    """Compute a ParC whose constants already have the input's length, in the spatial form.

    `torch.export` keeps a call of it as one node, `torch.ops.parc_hw.parc`; importers turn
    that node into one operator. It is for inference: it has no derivative.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
    weight : Tensor, shape (C, N) depthwise or (C_out, C, N) dense
    pe : Tensor, shape (C, N)
        Zeros when there is no position embedding.
    bias : Tensor, shape (C,) or (C_out,)
        Zeros when there is no bias.
    axis : "H" or "W"

    Returns
    -------
    Tensor, shape (B, C, H, W) or (B, C_out, H, W), contiguous

    Raises
    ------
    InputError
        As `parc_hw.nn.circular_correlate`.
    """
    return circular_correlate(x, weight, bias, pe, axis=axis).contiguous()


@parc.register_fake
def _(x: Tensor, weight: Tensor, pe: Tensor, bias: Tensor, axis: str) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], x.shape[2], x.shape[3]))
