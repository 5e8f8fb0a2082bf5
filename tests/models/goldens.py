"""How do the tests compare a model with what its authors' code computed (`tests/vectors`)?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from parc_hw import models
from parc_hw.models.fill import fill_model, image, sample

VECTORS = Path(__file__).parent.parent / "vectors" / "models"
LONG = 4096  # of an output that has more elements, 1024 samples are stored
TOLERANCE = 1e-3  # standard deviations; the official float32 runs are within 2e-4 of float64


def assert_official_keys(model: nn.Module, label: str) -> None:
    """Keys, shapes, types and their order are the authors', but for names of the same tensor."""
    official = json.loads((VECTORS / f"keys_{label}.json").read_text())
    aliases = official.get("aliases", {})
    wanted = {key: value for key, value in official["keys"].items() if key not in aliases}
    ours = {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in model.state_dict().items()
    }
    assert list(ours.items()) == list(wanted.items())
    assert len(official["keys"]) == official["n_keys"]
    assert models.count_parameters(model) == official["params"]
    prefixes: Mapping[str, str] = getattr(model, "state_dict_aliases", {})
    for alias, key in aliases.items():
        assert any(
            alias.startswith(p) and key == q + alias.removeprefix(p) for p, q in prefixes.items()
        ), alias


def assert_golden(model: nn.Module, label: str, resolution: int) -> list[str]:
    """Outputs and recorded activations are the authors'; returns the activations' names."""
    golden = np.load(VECTORS / f"golden_{label}_{resolution}.npz")
    fill_model(model, models.DEFAULT_SEED)
    places = [
        key.removeprefix("act:")
        for key in golden.files
        if key.startswith("act:") and not key.endswith(":shape") and "oned_conv" not in key
    ]
    seen: dict[str, Tensor] = {}

    def recorder(place):
        def record(module, inputs, output):
            seen[place] = output[0] if isinstance(output, tuple) else output

        return record

    hooks = [model.get_submodule(p).register_forward_hook(recorder(p)) for p in places]
    with torch.no_grad():
        outputs = model(official_input(resolution))
    for hook in hooks:
        hook.remove()
    for index, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
        name = f"out{index}" if isinstance(outputs, tuple) else "logits"
        assert tuple(output.shape) == tuple(golden[f"{name}.shape"])
        points = 1024 if output.numel() > LONG else output.numel()
        assert_close(sample(output.numpy(), points), golden[f"{name}_f64"], name)
    for place in places:
        assert tuple(seen[place].shape) == tuple(golden[f"act:{place}:shape"]), place
        assert_close(sample(seen[place].numpy()), golden[f"act:{place}"], place)
    return places


def official_input(resolution: int) -> Tensor:
    """The input of the golden vectors."""
    return torch.from_numpy(image((1, 3, resolution, resolution), models.DEFAULT_SEED))


def assert_close(ours: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Within `TOLERANCE` standard deviations of `wanted`, element by element."""
    assert np.abs(ours - wanted).max() <= TOLERANCE * wanted.std(), what
