"""Which models does parc_hw know, and how is one made, filled, loaded and counted?

Everything here is light: `names` and `info` are plain data, and torch is imported only inside
the functions that make or touch a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.models.registry import ModelInfo, Option, info, names

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DEFAULT_SEED",
    "ModelInfo",
    "Option",
    "check_finite",
    "count_macs",
    "count_parameters",
    "create",
    "info",
    "load_official",
    "names",
    "prepare",
    "read_checkpoint",
    "train",
]

DEFAULT_SEED = 20220727  # seed of the golden vectors


def create(name: str, **options: Any) -> nn.Module:
    """Make a model of the zoo in eval mode, with the official state_dict keys.

    Parameters
    ----------
    name : str
        One of `names()`.
    **options
        What `info(name).options` lists.

    Returns
    -------
    torch.nn.Module
        With the weights that are shipped for it, else initialised as its authors do for
        training; `prepare` gives it reproducible weights.

    Raises
    ------
    InputError
        A name, an option or an option's value that is not known; says which are.
    """
    from parc_hw.models.registry import build

    return build(name, options)


def prepare(
    name: str, weights: str | Path | None = None, seed: int = DEFAULT_SEED, **options: Any
) -> tuple[nn.Module, str]:
    """Make a model of the zoo and give it weights.

    Parameters
    ----------
    name : str
        One of `names()`.
    weights : path or None
        A checkpoint (`read_checkpoint`, `load_official`). None: the trained weights that are
        shipped, or else a deterministic fill.
    seed : int
        Seed of the fill, 0 to 2**32 - 1.
    **options
        As `create`.

    Returns
    -------
    model : torch.nn.Module
        In eval mode.
    origin : str
        Where the weights come from, for reports: "weights from FILE", "trained weights
        shipped with parc_hw" or "untrained: filled from seed N".

    Raises
    ------
    InputError
        As `create`, `read_checkpoint` and `load_official`; a seed out of range.
    """
    from parc_hw.models.fill import fill_model

    if info(name).trained:
        options.setdefault("pretrained", weights is None)
    model = create(name, **options)
    if weights is not None:
        path = Path(weights)
        load_official(model, read_checkpoint(path))
        return model, f"weights from {path.name}"
    if options.get("pretrained"):
        return model, "trained weights shipped with parc_hw"
    fill_model(model, seed)
    return model, f"untrained: filled from seed {seed}"


def load_official(
    model: nn.Module, state_dict: Mapping[str, Any], *, entry: str | None = None
) -> str:
    """Load a checkpoint of the papers' code; see `parc_hw.models.checkpoints.load_official`."""
    from parc_hw.models.checkpoints import load_official as load

    return load(model, state_dict, entry=entry)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a `.pt`, `.pth` or `.safetensors` file; see `parc_hw.models.checkpoints`."""
    from parc_hw.models.checkpoints import read_checkpoint as read

    return read(path)


def train(name: str, **arguments: Any) -> Any:
    """Train a shipped small network again; see `parc_hw.models.canvas_train.train`."""
    from parc_hw.models.canvas_train import train as train_canvas

    return train_canvas(name, **arguments)


def check_finite(model: nn.Module) -> None:
    """Raise InputError when a weight is NaN or infinite; names all such keys."""
    from parc_hw.models.checkpoints import check_finite as check

    check(model)


def count_parameters(model: nn.Module) -> int:
    """Count the elements of all parameters, shared ones once."""
    from parc_hw.models.count import count_parameters as count

    return count(model)


def count_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Count multiply-accumulates of one forward pass; see `parc_hw.models.count`."""
    from parc_hw.models.count import count_macs as count

    return count(model, shape)
