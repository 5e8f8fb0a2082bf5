"""What are the two small networks that classify canvases, with ParC and with convolutions?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.errors import BundleError, InputError, nearest
from parc_hw.models.canvas_data import CLASSES
from parc_hw.nn import ParC

__all__ = ["NAMES", "CanvasNet", "create_canvas", "shipped_weights"]

NAMES: Final = ("parc_canvas", "conv_canvas")
CHANNELS: Final = (32, 64, 128)
LENGTHS: Final = (28, 14, 7)  # N of the three stages, for canvases of 112 pixels
DEPTHS: Final = (1, 2, 2)
PATCH: Final = 4
EXPANSION: Final = 2
WINDOW: Final = 7  # of the convolutions that conv_canvas has in place of ParC
# Mean and deviation of a canvas's ink, rounded: the stem starts as if it saw them removed.
INK_MEAN, INK_DEVIATION = 0.12, 0.17


class ParcHalves(nn.Module):
    """ParC along H on the first half of the channels, along W on the second.

    Written as the papers' code writes it: chunk, two ParC, cat.
    """

    def __init__(self, channels: int, length: int, *, position_embedding: bool) -> None:
        super().__init__()
        half = channels // 2
        self.parc_h = ParC(half, length, "H", position_embedding=position_embedding)
        self.parc_w = ParC(half, length, "W", position_embedding=position_embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of `x`'s shape, (B, C, H, W)."""
        x_h, x_w = torch.chunk(x, 2, dim=1)
        return torch.cat((self.parc_h(x_h), self.parc_w(x_w)), dim=1)


class Block(nn.Module):
    """A ConvNeXt block: mix positions, norm, widen, GELU, narrow, scale, add."""

    def __init__(self, channels: int, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, EXPANSION * channels)
        self.narrow = nn.Linear(EXPANSION * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of `x`'s shape, (B, C, H, W)."""
        y = self.mixer(x).permute(0, 2, 3, 1)
        y = self.gamma * self.narrow(F.gelu(self.widen(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class CanvasNet(nn.Module):
    """A small ConvNeXt-like classifier of 112x112 canvases, at N = 28, 14 and 7.

    Parameters
    ----------
    mixer : callable
        `mixer(channels, length)` makes the layer that mixes positions in a block.

    Notes
    -----
    The ground fills most of a canvas, and the head sees a mean over all of it. What is equal on all
    canvases would drown what differs, and training would stand still for tens of
    thousands of canvases. So all biases start at zero, the stem starts centred on the
    ink's mean, and no norm stands outside the blocks, where it would lift the empty
    ground to the size of the digits.
    """

    def __init__(self, mixer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS[0], PATCH, stride=PATCH)
        stages: list[nn.Module] = []
        before = CHANNELS[0]
        for channels, length, depth in zip(CHANNELS, LENGTHS, DEPTHS, strict=True):
            layers: list[nn.Module] = []
            if channels != before:
                layers.append(nn.Conv2d(before, channels, 2, stride=2))
            layers += [Block(channels, mixer(channels, length)) for _ in range(depth)]
            stages.append(nn.Sequential(*layers))
            before = channels
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, CLASSES)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        self.stem.weight /= INK_DEVIATION
        assert self.stem.bias is not None
        self.stem.bias -= INK_MEAN * self.stem.weight.sum(dim=(1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (B, 10), of canvases (B, 1, 112, 112) with ink in [0, 1]."""
        return self.head(self.stages(self.stem(x)).mean(dim=(2, 3)))


def create_canvas(
    name: str, *, pretrained: bool = True, position_embedding: bool = True
) -> CanvasNet:
    """Make `parc_canvas` or `conv_canvas`, in eval mode.

    Parameters
    ----------
    name : "parc_canvas" or "conv_canvas"
        ParC halves, or depthwise 7x7 convolutions with zero padding, in every block.
    pretrained : bool
        With the weights that are shipped, or as initialised for training.
    position_embedding : bool
        False makes `parc_canvas` without position embeddings, for which no weights are
        shipped.

    Returns
    -------
    CanvasNet
        Takes (B, 1, 112, 112), ink in [0, 1]; gives 10 logits. ParC resizes itself to other
        sizes, but the trained answer holds for 112x112.

    Raises
    ------
    InputError
        An unknown name; an option that the network does not have or has no weights for.
    BundleError
        The shipped weights are missing or damaged.
    """
    if name not in NAMES:
        raise InputError(
            f"unknown canvas network {name!r}: one of {', '.join(NAMES)}.{nearest(name, NAMES)}"
        )
    if not position_embedding and name == "conv_canvas":
        raise InputError(
            "conv_canvas has no position embedding to leave out: position_embedding=False "
            "belongs to parc_canvas."
        )
    if not position_embedding and pretrained:
        raise InputError(
            "no weights are shipped for parc_canvas without position embedding: train it, or "
            "ask for pretrained=False."
        )

    def parc_mixer(channels: int, length: int) -> nn.Module:
        return ParcHalves(channels, length, position_embedding=position_embedding)

    def conv_mixer(channels: int, length: int) -> nn.Module:
        return nn.Conv2d(channels, channels, WINDOW, padding=WINDOW // 2, groups=channels)

    network = CanvasNet(parc_mixer if name == "parc_canvas" else conv_mixer)
    if pretrained:
        _load(network, shipped_weights(name))
    return network.eval()


def shipped_weights(name: str) -> Path:
    """Path of the weights that are shipped for one of `NAMES` (safetensors, float32)."""
    return Path(__file__).parent / "weights" / f"{name}.safetensors"


def _load(network: CanvasNet, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(
            f"the shipped weights {path.name} are missing or damaged ({error}). Reinstall "
            f"parc_hw, or make them again: parc-hw train {path.stem} -o {path.name}"
        ) from error
