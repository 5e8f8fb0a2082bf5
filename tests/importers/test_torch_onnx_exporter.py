"""Files of torch's own ONNX exporters: what users have. Every ParC is found in them."""

import warnings

import numpy as np
import pytest
import torch
from relax_vm import operators
from torch import nn

from parc_hw import models
from parc_hw.importers import import_onnx, import_torch, reference_values
from parc_hw.models.parcnet import ParCBlock
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

# With torch.export as its front end (the default), and by tracing.
EXPORTERS = pytest.mark.parametrize("traced", [False, True], ids=["dynamo", "traced"])


def leave(model, shape, path, *, traced):
    """Write `model` as a user would, and import the file."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the exporters among themselves
        torch.onnx.export(model.eval(), (x,), path, dynamo=not traced, verbose=False)
    return x, import_onnx(path)


def check(model, shape, path, *, traced):
    """As many ParC as torch.export leads to, and the same numbers."""
    x, imported = leave(model, shape, path, traced=traced)
    kept = operators(import_torch(model, [shape]).module)["parc"]
    assert operators(imported.module)["parc"] == kept > 0
    with torch.no_grad():
        wanted = model(x).numpy()
    (seen,), _ = reference_values(imported, [x.numpy()])
    assert seen.shape == wanted.shape
    # Both sum in float32, in another order.
    assert np.abs(seen - wanted).max() <= 1e-5 * max(1.0, wanted.std())


class Kinds(nn.Module):
    """Depthwise along both axes, resized, and dense."""

    def __init__(self):
        super().__init__()
        self.h, self.w = ParC(4, 9, "H"), ParC(4, 9, "W", bias=False)
        self.dense = ParC(8, 6, "H", out_channels=8, position_embedding=False)

    def forward(self, x):
        a, b = torch.split(x, 4, 1)
        return self.dense(torch.cat([self.h(a), self.w(b)], 1))


@EXPORTERS
def test_every_kind_of_parc_is_found(tmp_path, traced):
    check(Kinds(), (1, 8, 6, 5), tmp_path / "m.onnx", traced=traced)


def test_the_spectral_form_is_found(tmp_path):
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, 4, 6, 1) / 6)

        def forward(self, x):
            spectrum = torch.fft.rfft(self.weight, dim=2)
            return torch.fft.irfft(torch.fft.rfft(x, dim=2) * spectrum.conj(), n=6, dim=2)

    check(Spectral(), (1, 4, 6, 5), tmp_path / "m.onnx", traced=False)


@EXPORTERS
def test_the_canvas_network_returns_whole(tmp_path, traced):
    model, _ = models.prepare("parc_canvas")
    check(model, models.info("parc_canvas").input_shape, tmp_path / "m.onnx", traced=traced)


@EXPORTERS
def test_a_block_of_parc_net_returns_whole(tmp_path, traced):
    torch.manual_seed(0)
    block = ParCBlock(
        16,
        length=6 if traced else 8,  # the tracing exporter has no convolution by resized taps
        hidden=64,
        bias=True,
        position_embedding=True,
        attention=True,
        resize="bilinear",
    )
    check(block, (1, 32, 6, 6), tmp_path / "m.onnx", traced=traced)
