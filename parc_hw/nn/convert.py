"""How does ParC take the place of convolutions in a network that was made without it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from parc_hw.errors import InputError, ParcError
from parc_hw.nn.evaluating import evaluating
from parc_hw.nn.functional import Resize
from parc_hw.nn.parc import ParC
from parc_hw.spec import Axis

__all__ = ["ParCHalves", "convert"]

_LISTED = 8  # refused convolutions that an error names


class ParCHalves(nn.Module):
    """ParC along H on the first half of the channels and along W on the second.

    Parameters
    ----------
    channels : int
        C, even.
    lengths : (int, int)
        Stored taps of the kernel along H and of the one along W.
    dense : bool
        Whether each output channel sums over its half of the input channels (equation 4).
    position_embedding : bool
    resize : "bilinear", "bicubic", "crop" or "none"
        As `ParC`.

    Attributes
    ----------
    h, w : ParC
        Of C / 2 channels each.

    Raises
    ------
    InputError
        An odd number of channels; otherwise as `ParC`.
    """

    def __init__(
        self,
        channels: int,
        lengths: tuple[int, int],
        *,
        dense: bool = False,
        position_embedding: bool = True,
        resize: Resize = "bilinear",
    ) -> None:
        super().__init__()
        half, odd = divmod(channels, 2)
        if odd:
            raise InputError(f"ParC on channel halves needs an even number, not {channels}.")
        self.h, self.w = (
            ParC(
                half,
                length,
                axis,
                out_channels=half if dense else None,
                position_embedding=position_embedding,
                resize=resize,
            )
            for length, axis in zip(lengths, (Axis.H, Axis.W), strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) for (B, C, H, W)."""
        first, second = x.chunk(2, dim=1)
        return torch.cat([self.h(first), self.w(second)], dim=1)


def convert(
    model: nn.Module,
    fraction: float = 1 / 3,
    *,
    input_shape: Sequence[int] = (1, 3, 224, 224),
    stages: int = 2,
    position_embedding: bool = True,
    resize: Resize = "bilinear",
) -> tuple[str, ...]:
    """Put ParC in place of the last convolutions of a network's last stages.

    As the ParC-ConvNets do: in each of the last `stages` stages the last part of the
    convolutions that mix over space becomes ParC, along H on the first half of the channels
    and along W on the second, as long as the map is high and wide. With the defaults ConvNeXt-XT
    becomes ParC-ConvNeXt-XT; with `fraction=1/2` ResNet50 becomes ParC-ResNet50.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place, or not at all when an error is raised. A new layer is on its
        predecessor's device, of its type and in its mode; its weights are untrained.
    fraction : float
        Above 0, at most 1; of the n convolutions of a stage that can be replaced the last
        ceil(n * fraction) are.
    input_shape : sequence of int
        Shape of the model's one input, in which it is traced. The stored kernels and position
        embeddings have the length of the maps that are met then.
    stages : int
        How many stages, from the last one backwards. A stage is what works on maps of one size.
    position_embedding : bool
    resize : "bilinear", "bicubic", "crop" or "none"
        How kernels follow inputs of other sizes, as `ParC`.

    Returns
    -------
    tuple of str
        Dotted names of the convolutions that were replaced, in the order of their execution.

    Raises
    ------
    InputError
        An argument out of range, a model that does not take an input of this shape, or one in
        which nothing can be replaced; names the convolutions and why not.

    Notes
    -----
    A convolution can be replaced when it keeps the shape (B, C, H, W) at stride 1, has no more
    taps than 3x3 or is depthwise, C is even, H or W exceeds 1, and it is executed once.
    Dense 3x3 ones are replaced only in networks without depthwise ones, by dense ParC.

    References
    ----------
    Fast-ParC, section 4 (plug and play).

    Examples
    --------
    >>> net = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, groups=4) for _ in range(3)))
    >>> convert(net, input_shape=(1, 4, 8, 6))
    ('2',)
    >>> net[2]
    ParCHalves(
      (h): ParC(2, 8, axis='H', ...)
      (w): ParC(2, 6, axis='W', ...)
    )
    """
    _check_arguments(fraction, stages)
    calls = _trace(model, input_shape)
    refusals = {call.name: _refusal(call) for call in calls}
    able = [call for call in calls if refusals[call.name] is None]
    able = [call for call in able if call.is_depthwise] or able
    if not able:
        raise InputError(_nothing_to_replace(refusals))
    chosen = _chosen(able, fraction, stages)
    layers = {
        call.name: ParCHalves(
            call.conv.in_channels,
            call.size,
            dense=not call.is_depthwise,
            position_embedding=position_embedding,
            resize=resize,
        )
        for call in chosen
    }
    for call in chosen:
        layer = layers[call.name].to(call.conv.weight).train(call.conv.training)
        path, _, name = call.name.rpartition(".")
        setattr(model.get_submodule(path), name, layer)
    return tuple(layers)


@dataclass(slots=True)
class _Call:
    """A convolution as the trace met it."""

    name: str
    conv: nn.Conv2d
    before: tuple[int, ...]
    after: tuple[int, ...]
    times: int = 1

    @property
    def size(self) -> tuple[int, int]:
        return self.after[-2], self.after[-1]

    @property
    def is_depthwise(self) -> bool:
        return self.conv.groups == self.conv.in_channels > 1


def _check_arguments(fraction: float, stages: int) -> None:
    if not 0 < fraction <= 1:
        raise InputError(f"fraction must be above 0 and at most 1, not {fraction!r}.")
    if not isinstance(stages, int) or isinstance(stages, bool) or stages < 1:
        raise InputError(f"stages must be a whole number of at least 1, not {stages!r}.")


@torch.no_grad()
def _trace(model: nn.Module, input_shape: Sequence[int]) -> list[_Call]:
    """Every 2-d convolution that a forward pass on zeros executes, in that order."""
    calls: dict[nn.Module, _Call] = {}
    names = {m: name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and name}

    def record(conv: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        if conv in calls:
            calls[conv].times += 1
        else:
            calls[conv] = _Call(names[conv], conv, tuple(inputs[0].shape), tuple(output.shape))

    reference = next(model.parameters(), torch.zeros(0))
    handles = [conv.register_forward_hook(record) for conv in names]
    try:
        with evaluating(model):
            model(reference.new_zeros(tuple(input_shape)))
    except ParcError:  # the model's own refusal
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the model cannot take an input of shape {tuple(input_shape)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list(calls.values())


def _refusal(call: _Call) -> str | None:
    """Why ParC cannot take a convolution's place, or None."""
    conv = call.conv
    taps = tuple(conv.kernel_size)
    if taps == (1, 1):
        return "it does not mix over space"
    if tuple(conv.stride) != (1, 1):
        return f"its stride is {tuple(conv.stride)}"
    if call.before != call.after:
        return f"it makes {call.after} of {call.before}"
    if conv.groups not in (1, conv.in_channels):
        return f"it has {conv.groups} groups"
    if not call.is_depthwise and max(taps) > 3:
        return f"it is dense and has {taps[0]}x{taps[1]} taps"
    if conv.in_channels % 2:
        return f"it has an odd number of channels, {conv.in_channels}"
    if max(call.size) == 1:
        return "its map is 1x1"
    if call.times > 1:
        return f"it is executed {call.times} times"
    return None


def _chosen(able: list[_Call], fraction: float, stages: int) -> list[_Call]:
    """The last part of each of the last stages, in the order of execution."""
    by_size: dict[tuple[int, int], list[_Call]] = {}
    for call in able:
        by_size.setdefault(call.size, []).append(call)
    last = sorted(by_size, key=lambda size: able.index(by_size[size][-1]))[-stages:]
    chosen: set[str] = set()
    for size in last:
        # A third of 3 is 1, whatever the last bit of 3 * (1 / 3) is.
        count = math.ceil(len(by_size[size]) * fraction - 1e-9)
        chosen.update(call.name for call in by_size[size][-max(count, 1) :])
    return [call for call in able if call.name in chosen]


def _nothing_to_replace(refusals: dict[str, str | None]) -> str:
    spatial = {
        n: reason for n, reason in refusals.items() if reason != "it does not mix over space"
    }
    lines = [f"{name}: {reason}" for name, reason in spatial.items()]
    hidden = len(lines) - _LISTED
    lines = lines[:_LISTED] + ([f"and {hidden} more"] if hidden > 0 else [])
    seen = "\n  ".join(lines) if lines else "it executes no nn.Conv2d of more than one tap"
    return (
        "the model has no convolution that ParC can replace (stride 1, the same shape before and "
        f"after, an even number of channels, depthwise or dense 3x3):\n  {seen}"
    )
