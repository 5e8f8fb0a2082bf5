"""Do all roads through the compiler, composites and generic kernels alike, give PyTorch's numbers?"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from parc_hw.build import analyze, compile
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]


class Half(nn.Module):
    """ParC along H on the first channels, along W on the others."""

    def __init__(self, channels, height, width, cut=None):
        super().__init__()
        self.sizes = (cut or channels // 2, channels - (cut or channels // 2))
        self.h, self.w = ParC(self.sizes[0], height, "H"), ParC(self.sizes[1], width, "W")

    def forward(self, x):
        a, b = torch.split(x, self.sizes, 1)
        return torch.cat([self.h(a), self.w(b)], 1)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    """x + inner(x), in NHWC inside."""

    def __init__(self, channels, inner):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(channels), inner
        self.up, self.down = nn.Linear(channels, 3 * channels), nn.Linear(3 * channels, channels)

    def forward(self, x):
        y = self.inner(x).permute(0, 2, 3, 1)
        y = self.down(F.gelu(self.up(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class Both(nn.Module):
    """The activated sum of two branches."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x):
        return F.silu(self.a(x) + self.b(x))


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels):
        super().__init__()
        self.a, self.b = nn.Linear(channels, 5), nn.Linear(5, channels)

    def forward(self, x):
        g = torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))
        return x * g[:, :, None, None]


def conv(a, b, k=3, **kw):
    return nn.Conv2d(a, b, k, padding=kw.pop("padding", k // 2), **kw)


NETWORKS = {
    "stem_bn_relu": lambda: nn.Sequential(conv(3, 10), nn.BatchNorm2d(10), nn.ReLU()),
    "strided_convs": lambda: nn.Sequential(conv(3, 9, stride=2), nn.SiLU(), conv(9, 7, stride=2)),
    "dilated_and_grouped": lambda: nn.Sequential(
        conv(3, 8), conv(8, 8, dilation=2, padding=2), conv(8, 12, groups=4), nn.Hardswish()
    ),
    "depthwise_sizes": lambda: nn.Sequential(
        conv(3, 6), conv(6, 6, 5, groups=6), nn.ReLU6(), conv(6, 6, 7, groups=6, stride=2)
    ),
    "parc_h_then_w": lambda: nn.Sequential(conv(3, 5), ParC(5, 12, "H"), ParC(5, 10, "W")),
    "parc_half": lambda: nn.Sequential(conv(3, 8), Half(8, 12, 10)),
    "parc_half_unequal": lambda: nn.Sequential(conv(3, 7), Half(7, 12, 10, cut=2), nn.GELU()),
    "parc_dense": lambda: nn.Sequential(conv(3, 4), ParC(4, 12, "H", out_channels=6), nn.ReLU()),
    "parc_resized": lambda: nn.Sequential(ParC(3, 8, "H"), ParC(3, 5, "W", resize="bicubic")),
    "parc_on_the_input": lambda: nn.Sequential(ParC(3, 12, "H"), conv(3, 4)),
    "residual_block": lambda: nn.Sequential(conv(3, 8), Residual(8, Half(8, 12, 10))),
    "gate": lambda: nn.Sequential(conv(3, 8), Gate(8), nn.ReLU()),
    "pools": lambda: nn.Sequential(
        conv(3, 8), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "classifier": lambda: nn.Sequential(
        conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 11)
    ),
    "softmax_attention": lambda: nn.Sequential(
        conv(3, 8),
        Apply(lambda x: x.flatten(2).transpose(1, 2)),
        Apply(lambda t: torch.softmax(t @ t.transpose(1, 2) * 0.1, -1) @ t),
    ),
    "mixed_reshape": lambda: nn.Sequential(
        conv(3, 8), Apply(lambda x: torch.relu(x.reshape(x.shape[0], 4, 2, 12, 10).mean(2)))
    ),
    "slices_and_concat": lambda: nn.Sequential(
        conv(3, 6), Apply(lambda x: torch.cat([x[:, 1:4], x[:, :2] * 2, x[:, 3:, :, :]], 1))
    ),
    "spatial_slice": lambda: nn.Sequential(conv(3, 4), Apply(lambda x: x[:, :, 1:9:2, 2:])),
    "resized_maps": lambda: nn.Sequential(
        conv(3, 4),
        Apply(lambda x: F.interpolate(x, (9, 7), mode="bilinear", align_corners=False)),
        Apply(lambda x: F.interpolate(x, (5, 11), mode="bilinear", align_corners=True)),
    ),
    "sum_of_two": lambda: nn.Sequential(conv(3, 4), Both(conv(4, 6), conv(4, 6, 1))),
    "values_read_twice": lambda: nn.Sequential(
        conv(3, 4), Apply(lambda x: torch.relu(x) + torch.softmax(x, 1) * x), nn.Hardswish()
    ),
    "only_elementwise": lambda: Apply(lambda x: torch.tanh(x) * x + 0.5),
}


def randomised(module):
    """Weights and statistics away from their initial values, from a fixed seed."""
    generator = torch.Generator().manual_seed(5)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.4 * torch.rand(tensor.shape, generator=generator) + 0.1)
    return module.eval()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_network_gives_pytorchs_numbers(name, batch, tmp_path):
    check(randomised(NETWORKS[name]()), (batch, 3, 12, 10), tmp_path)


def check(network, shape, tmp_path):
    """The compiled network is as exact as PyTorch, and gives equal bits with two threads."""
    bundle = compile(network, input_shape=shape, output=tmp_path / "net", name="net")
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
        exact = network.double()(torch.from_numpy(x).double()).numpy()
    got = bundle.run(x)
    assert got.shape == expected.shape
    # As exact as PyTorch itself, up to a factor for another order of summation.
    scale = np.abs(exact).max()
    assert np.abs(got - exact).max() <= max(8 * np.abs(expected - exact).max(), 4e-6 * scale)
    assert np.array_equal(got, bundle.run(x, threads=2))


class Small(nn.Module):
    """What every model of the zoo is made of, for maps of any size."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = conv(3, 13), nn.BatchNorm2d(13)
        self.h, self.w = ParC(13, 4, "H"), ParC(13, 6, "W")
        self.depthwise, self.gate = conv(13, 13, 7, groups=13), Gate(13)
        self.block = Residual(13, self.depthwise)
        self.down, self.head = conv(13, 21, stride=2), nn.Linear(21, 5)

    def forward(self, x):
        y = F.silu(self.norm(self.stem(x)))
        y = self.block(self.gate(self.w(self.h(y))))
        return self.head(F.max_pool2d(self.down(y), 3, 1, 1).mean((2, 3)))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 3, 1, 1), id="one pixel"),
        pytest.param((3, 3, 1, 1), id="three of one pixel"),
        pytest.param((1, 3, 2, 4000), id="very wide"),
        pytest.param((2, 3, 997, 1), id="a column of a prime"),
        pytest.param((5, 3, 2, 3), id="batch 5"),
    ],
)
def test_maps_of_extreme_shapes_give_pytorchs_numbers(shape, tmp_path):
    check(randomised(Small()), shape, tmp_path)


def test_several_outputs_come_in_the_models_order(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = conv(3, 4)

        def forward(self, x):
            y = self.stem(x)
            return y.mean((2, 3)), torch.relu(y)

    network = randomised(Two())
    bundle = compile(network, input_shape=(1, 3, 6, 6), output=tmp_path / "two", name="two")
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)
    with torch.no_grad():
        expected = [y.numpy() for y in network(torch.from_numpy(x))]
    got = bundle.run(x)
    assert isinstance(got, tuple)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("plan", ["direct", "fft", "4x3"])
def test_every_plan_gives_the_same_numbers_and_analyze_names_it(plan, tmp_path):
    network = randomised(nn.Sequential(conv(3, 8), ParC(8, 12, "H")))
    shape = (1, 3, 12, 5)
    bundle = compile(network, input_shape=shape, output=tmp_path / "net", name="net", plan=plan)
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    assert np.abs(bundle.run(x) - expected).max() <= 1e-5 * np.abs(expected).max()
    (site,) = analyze(network, input_shape=shape, plan=plan).parc_sites
    assert {"direct": "1x12", "fft": "12x1", "4x3": "4x3"}[plan] in site.note


def test_equal_compilations_are_byte_identical(tmp_path):
    files = []
    for directory in ("one", "two"):
        network = randomised(nn.Sequential(conv(3, 8), Half(8, 12, 10), nn.GELU()))
        compile(network, input_shape=(1, 3, 12, 10), output=tmp_path / directory, name="net")
        root = tmp_path / directory
        files.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert files[0].keys() == files[1].keys()
    assert [name for name in files[0] if files[0][name] != files[1][name]] == []
