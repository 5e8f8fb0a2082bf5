"""How does torch compute a circular correlation, and how is a stored kernel resized?"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from parc_hw.errors import InputError, nearest
from parc_hw.spec import Axis

__all__ = ["FORMS", "RESIZES", "Form", "Resize", "circular_correlate", "resize_taps"]

Form: TypeAlias = Literal["spatial", "spectral"]
Resize: TypeAlias = Literal["none", "bilinear", "bicubic", "crop"]
FORMS: Final[tuple[str, ...]] = get_args(Form)
RESIZES: Final[tuple[str, ...]] = get_args(Resize)


def circular_correlate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    position_embedding: Tensor | None = None,
    *,
    axis: Axis | str,
    form: Form = "spatial",
) -> Tensor:
    """Correlate each line of `x` along `axis` with a kernel as long as the line, circularly.

    Depthwise, `y[i] = b + sum_k w[k] * (x[(i+k) mod N] + pe[(i+k) mod N])` per channel
    (equations 2 and 3); dense, with a sum over the input channels as well (equation 4).

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Any floating type; N is the extent along `axis`.
    weight : Tensor, shape (C, N) or (C_out, C, N)
        Depthwise or dense kernels; tap 0 meets the output's own position.
    bias : Tensor, shape (C,) or (C_out,), or None
    position_embedding : Tensor, shape (C, N), or None
        Added to `x` before the correlation, the same for all lines of a channel.
    axis : Axis or "H" or "W"
        H is dimension 2, W is dimension 3.
    form : "spatial" or "spectral"
        The spatial form (Algorithm 1) is a convolution over the line and its first N - 1
        points once more; the spectral form is `irfft(rfft(x) * conj(rfft(w)), n=N)`
        (Theorem 1). They agree but for rounding. Half types are transformed in float32.

    Returns
    -------
    Tensor, shape (B, C, H, W) or (B, C_out, H, W)

    Raises
    ------
    InputError
        A tensor whose shape does not fit the others, an unknown axis or form.

    References
    ----------
    Fast-ParC, equations 2 to 4, Theorem 1 and Algorithm 1 (`docs/operator.md`).

    Examples
    --------
    A kernel with its one at tap 1 brings the next point of the circle:

    >>> x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    >>> circular_correlate(x, torch.tensor([[0.0, 1.0, 0.0]]), axis="W").flatten()
    tensor([2., 3., 1.])
    """
    axis = parse_axis(axis)
    if form not in FORMS:
        raise InputError(f"unknown form {form!r}: one of {', '.join(FORMS)}.{nearest(form, FORMS)}")
    _check_shapes(x, weight, bias, position_embedding, axis)
    if position_embedding is not None:
        x = x + position_embedding.unsqueeze(-1 if axis is Axis.H else -2)
    if form == "spatial":
        return _spatial(x, weight, bias, axis)
    y = _spectral(x, weight, axis)
    return y if bias is None else y + bias[:, None, None]


def resize_taps(stored: Tensor, length: int, *, dim: int, resize: Resize) -> Tensor:
    """Bring a stored kernel or position embedding of K taps to `length` taps along `dim`.

    Parameters
    ----------
    stored : Tensor, 4-d, shape (..., K, 1) or (..., 1, K)
        `dim` is 2 or 3, the dimension of extent K; the other one is 1 and stays 1.
    length : int
        N, at least 1.
    resize : "none", "bilinear", "bicubic" or "crop"
        "none" accepts N = K alone. "bilinear" and "bicubic" interpolate so that the first and
        the last tap stay where they are (align_corners, as the official code; a stored
        length of 1 gives a constant). "crop" keeps the first N taps, for N <= K.

    Returns
    -------
    Tensor, of extent `length` along `dim`; `stored` itself when N = K.

    Raises
    ------
    InputError
        The length cannot be reached with this `resize`.
    """
    taps = stored.shape[dim]
    if taps == length:
        return stored
    if resize == "none":
        raise InputError(
            f"the input has length {length} along dimension {dim}, the stored kernel has {taps} "
            f"taps and resize='none' accepts only length {taps}. Feed an input of that "
            "length, or choose resize='bilinear', 'bicubic' or 'crop'."
        )
    if resize == "crop":
        if length > taps:
            raise InputError(
                f"the input has length {length} along dimension {dim}, more than the {taps} "
                f"stored taps: resize='crop' accepts lengths 1 to {taps}. Choose "
                "resize='bilinear' or 'bicubic', or store a longer kernel."
            )
        return stored.narrow(dim, 0, length)
    size = (length, 1) if dim == 2 else (1, length)
    return F.interpolate(stored, size=size, mode=resize, align_corners=True)


def parse_axis(axis: Axis | str) -> Axis:
    """`Axis` from itself or from its letter."""
    try:
        return Axis(axis)
    except ValueError:
        raise InputError(f"unknown axis {axis!r}: H (dimension 2) or W (dimension 3).") from None


def _check_shapes(
    x: Tensor, weight: Tensor, bias: Tensor | None, pe: Tensor | None, axis: Axis
) -> None:
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise InputError(f"x must have shape (B, C, H, W), none of C, H, W 0, not {_show(x)}.")
    channels, length = x.shape[1], x.shape[axis.dim]
    accepted = f"({channels}, {length}) or (C_out, {channels}, {length})"
    if weight.ndim not in (2, 3) or tuple(weight.shape[-2:]) != (channels, length):
        raise InputError(
            f"for x of shape {_show(x)} and axis {axis.value} the weight must have shape "
            f"{accepted}, not {_show(weight)}. Resize the kernel first, or use nn.ParC."
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise InputError(f"bias must have shape ({weight.shape[0]},), not {_show(bias)}.")
    if pe is not None and tuple(pe.shape) != (channels, length):
        raise InputError(
            f"position_embedding must have shape ({channels}, {length}), not {_show(pe)}."
        )


def _show(tensor: Tensor) -> str:
    return f"({', '.join(str(n) for n in tensor.shape)}{',' if tensor.ndim == 1 else ''})"


def _spatial(x: Tensor, weight: Tensor, bias: Tensor | None, axis: Axis) -> Tensor:
    """Algorithm 1's spatial form: `conv2d(cat([x, x[:N-1]]))` without padding."""
    again = x.narrow(axis.dim, 0, x.shape[axis.dim] - 1)
    groups = x.shape[1] if weight.ndim == 2 else 1
    kernel = weight.unsqueeze(1) if weight.ndim == 2 else weight
    kernel = kernel.unsqueeze(-1 if axis is Axis.H else -2)
    return F.conv2d(torch.cat([x, again], dim=axis.dim), kernel, bias, groups=groups)


def _spectral(x: Tensor, weight: Tensor, axis: Axis) -> Tensor:
    """Theorem 1: Y(k) = conj(W(k)) X(k). `n=N` keeps the last sample of an odd N."""
    dim, length = axis.dim, x.shape[axis.dim]
    # torch has no FFT of half types on the CPU.
    work = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    x_spectrum = torch.fft.rfft(x.to(work), dim=dim)
    kernel_spectrum = torch.fft.rfft(weight.to(work), dim=-1).conj()
    if weight.ndim == 2:
        product = x_spectrum * kernel_spectrum.unsqueeze(-1 if axis is Axis.H else -2)
    else:
        frequency = "bchw,och->bohw" if axis is Axis.H else "bchw,ocw->bohw"
        product = torch.einsum(frequency, x_spectrum, kernel_spectrum)
    return torch.fft.irfft(product, n=length, dim=dim).to(x.dtype)
