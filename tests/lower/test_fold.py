"""Do position embedding and BatchNorm in front of a ParC vanish without changing a number?"""

import numpy as np
import pytest
import torch
from torch import nn

from parc_hw.importers import import_torch
from parc_hw.lower.fold import fold_into_parc
from parc_hw.lower.layout import to_nhwc
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

SHAPE = (1, 3, 6, 5)


class Before(nn.Module):
    """Something, then a ParC."""

    def __init__(self, axis, *, embedding=False, norm=False, other=None, out_channels=None):
        super().__init__()
        length = SHAPE[2] if axis == "H" else SHAPE[3]
        taps = (length, 1) if axis == "H" else (1, length)
        self.pe = nn.Parameter(torch.randn(1, 3, *taps)) if embedding else None
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.other = other
        self.stem = nn.Conv2d(3, 3, 1, bias=False)  # passes x on, in the memory order of a network
        self.parc = ParC(3, length, axis, out_channels=out_channels)

    def forward(self, x):
        x = self.stem(x)
        if self.pe is not None:
            x = x + self.pe
        x = self.norm(x)
        if self.other is not None:
            x = x * self.other
        return self.parc(x)


def randomised(module):
    generator = torch.Generator().manual_seed(1)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
    module.stem.weight.data.copy_(torch.eye(3).reshape(3, 3, 1, 1))
    return module.eval()


def folded(module):
    imported = import_torch(module, [SHAPE])
    graph = to_nhwc(imported.module["main"], imported.sources)
    fold_into_parc(graph)
    live = sorted(graph.live())
    (site,) = [graph.vertices[n] for n in live if graph.vertices[n].op == "relax.parc"]
    return [graph.vertices[n].op for n in live], site


@pytest.mark.parametrize("out_channels", [None, 4])
@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize(("embedding", "norm"), [(True, False), (False, True), (True, True)])
def test_embedding_and_batch_norm_fold_exactly(axis, embedding, norm, out_channels):
    module = randomised(Before(axis, embedding=embedding, norm=norm, out_channels=out_channels))
    operators, site = folded(module)
    assert not {"relax.add", "relax.multiply"} & set(operators)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(x).double()).numpy()
    weight, embedded, bias = (a.astype(np.float64) for a in site.args[1:])
    axes = (None, slice(None), slice(None), None) if axis == "H" else (None, slice(None), None)
    moved = x + embedded[axes]
    taps = weight[..., None] if axis == "H" else weight[..., None, :]
    kernel = taps[:, None] if weight.ndim == 2 else taps
    got = circular(moved, kernel, axis) + bias[None, :, None, None]
    # w and pe are each rounded to float32 once after folding: three roundings of every product.
    bound = 3 * 2.0**-24 * circular(np.abs(moved), np.abs(kernel), axis).max()
    assert np.abs(got - expected).max() <= bound


def circular(x, kernel, axis):
    """sum_k w[k] x[(i + k) mod N] by rolls, depthwise when the kernel has one input channel."""
    dim = 2 if axis == "H" else 3
    total = 0
    for k in range(x.shape[dim]):
        tap = kernel[:, :, k, 0] if axis == "H" else kernel[:, :, 0, k]
        rolled = np.roll(x, -k, dim)
        if kernel.shape[1] == 1:
            total = total + tap[None, :, 0, None, None] * rolled
        else:
            total = total + np.einsum("oc,bchw->bohw", tap, rolled)
    return total


@pytest.mark.parametrize(
    "other", [torch.tensor([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1), torch.rand(1, 3, 6, 5)]
)
def test_a_scale_that_is_zero_or_varies_over_the_map_stays(other):
    operators, _ = folded(randomised(Before("H", other=other)))
    assert "relax.multiply" in operators


def test_an_embedding_that_others_read_stays():
    class Shared(Before):
        def forward(self, x):
            y = self.stem(x) + self.pe
            return self.parc(y) + y

    operators, _ = folded(randomised(Shared("H", embedding=True)))
    assert operators.count("relax.add") == 2
