"""Does the walk leave no needless transposes, and does grouping find the composites?"""

import numpy as np
import pytest
import torch
from torch import nn

from parc_hw.importers import import_torch
from parc_hw.lower.graph import INPUT, VIEW
from parc_hw.lower.group import _chains, compose, half_sites
from parc_hw.lower.layout import NHWC, to_nhwc
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]


def graph_of(module, *shape):
    imported = import_torch(module.eval(), [shape])
    return to_nhwc(imported.module["main"], imported.sources)


def operators(graph):
    return [graph.vertices[n].op.removeprefix("relax.") for n in sorted(graph.live())]


def composites(graph):
    return [compose(graph, chain)[0].name for chain in _chains(graph)]


class Block(nn.Module):
    """ConvNeXt's block: channels first outside, channels last inside."""

    def __init__(self, channels, mixer):
        super().__init__()
        self.mixer, self.norm = mixer, nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.rand(channels))

    def forward(self, x):
        y = self.norm(self.mixer(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(nn.functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Half(nn.Module):
    """ParC along H on the first half of the channels, along W on the second."""

    def __init__(self, channels, height, width, order="HW", cut=None):
        super().__init__()
        self.cut = cut or channels // 2
        sizes = (self.cut, channels - self.cut)
        lengths = {"H": height, "W": width}
        self.parts = nn.ModuleList(
            ParC(size, lengths[axis], axis) for size, axis in zip(sizes, order, strict=True)
        )

    def forward(self, x):
        a, b = torch.split(x, (self.cut, x.shape[1] - self.cut), 1)
        return torch.cat([self.parts[0](a), self.parts[1](b)], 1)


def stem(channels):
    return nn.Conv2d(3, channels, 4, 4)


def test_a_convnext_block_keeps_no_transpose_and_forms_four_kernels():
    mixer = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    graph = graph_of(nn.Sequential(stem(8), Block(8, mixer), stem_like(8)), 1, 3, 32, 32)
    assert "permute_dims" not in operators(graph)[:-1]
    assert composites(graph)[:5] == [
        "conv2d.add",
        "conv2d.add",
        "layer_norm",
        "matmul.add.gelu",
        "matmul.add.multiply.add",
    ]


def stem_like(channels):
    return nn.Conv2d(channels, channels, 1)


def test_the_stem_reads_the_users_layout():
    graph = graph_of(stem(8), 1, 3, 8, 8)
    (conv,) = [v for v in graph.vertices if v.op == "relax.nn.conv2d"]
    assert conv.attrs["data_layout"] == "NCHW"
    assert conv.attrs["out_layout"] == "NHWC"
    assert conv.order == NHWC
    assert graph.vertices[conv.uses()[0]].op == INPUT


@pytest.mark.parametrize("order", ["HW", "WH"])
@pytest.mark.parametrize("cut", [4, 3])
def test_parc_on_two_halves_is_one_composite(order, cut):
    net = nn.Sequential(stem(8), Half(8, 5, 6, order, cut))
    graph = graph_of(net, 1, 3, 20, 24)
    assert len(half_sites(graph)) == 1
    assert "strided_slice.parc.strided_slice.parc.concat" in composites(graph)


def test_a_half_whose_slice_is_used_twice_is_not_one_composite():
    class Used(Half):
        def forward(self, x):
            a, b = torch.split(x, (self.cut, x.shape[1] - self.cut), 1)
            return torch.cat([self.parts[0](a), self.parts[1](b)], 1), a + 1

    graph = graph_of(nn.Sequential(stem(8), Used(8, 5, 5)), 1, 3, 20, 20)
    assert half_sites(graph) == {}


def test_swapped_halves_are_not_one_composite():
    class Swapped(Half):
        def forward(self, x):
            a, b = torch.split(x, (self.cut, x.shape[1] - self.cut), 1)
            return torch.cat([self.parts[1](b), self.parts[0](a)], 1)

    graph = graph_of(nn.Sequential(stem(8), Swapped(8, 5, 5)), 1, 3, 20, 20)
    assert half_sites(graph) == {}


def test_batch_norm_becomes_an_epilogue_of_the_convolution():
    net = nn.Sequential(stem(8), nn.BatchNorm2d(8), nn.ReLU())
    graph = graph_of(net, 1, 3, 8, 8)
    assert composites(graph)[0] == "conv2d.add.multiply.add.relu"


def test_a_value_used_twice_inside_the_chain_stays_in_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            y = self.linear(x)
            return torch.relu(y) + y

    assert composites(graph_of(Twice(), 1, 4)) == ["matmul.add.relu.add"]


def test_a_value_that_another_operator_reads_ends_the_chain():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            y = self.linear(x)
            return torch.relu(y) + torch.softmax(y, -1)

    assert composites(graph_of(Twice(), 1, 4)) == ["matmul.add", "softmax", "relu.add"]


def test_hardswish_is_an_epilogue():
    graph = graph_of(nn.Sequential(stem(8), nn.Hardswish()), 1, 3, 8, 8)
    assert composites(graph)[0].startswith("conv2d.add.add.clip")


def test_a_sum_of_two_convolutions_belongs_to_one_of_them():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return torch.relu(self.a(x) + self.b(x)).mean((2, 3))

    assert sorted(composites(graph_of(Sum(), 1, 3, 4, 4))) == [
        "conv2d.add",
        "conv2d.add.add.relu",
        "mean",
    ]


def test_outputs_own_their_bytes():
    class Same(nn.Module):
        def forward(self, x):
            y = x + 1
            return y, y, torch.relu(y)

    graph = graph_of(Same(), 1, 4)
    roots = [graph.root(number) for number in graph.outputs]
    assert len(set(roots)) == 3
    assert not set(roots) & set(graph.inputs)


def test_a_reshape_that_moves_no_bytes_is_a_view():
    class Flat(nn.Module):
        def forward(self, x):
            return torch.relu(x.mean((2, 3), keepdim=True).flatten(1))

    graph = graph_of(nn.Sequential(stem(8), Flat()), 1, 3, 8, 8)
    assert "permute_dims" not in operators(graph)
    assert VIEW in operators(graph)


def test_a_reshape_that_mixes_axes_transposes_once():
    class Mixed(nn.Module):
        def forward(self, x):
            return torch.relu(x.reshape(1, 4, -1))

    graph = graph_of(nn.Sequential(stem(8), Mixed()), 1, 3, 8, 8)
    assert operators(graph).count("permute_dims") == 1


def test_every_live_vertex_with_a_source_has_the_sources_shape():
    net = nn.Sequential(stem(8), nn.BatchNorm2d(8), Block(8, Half(8, 5, 5)))
    imported = import_torch(net.eval(), [(1, 3, 20, 20)])
    graph = to_nhwc(imported.module["main"], imported.sources)
    shapes = {
        node.name: tuple(node.meta["val"].shape)
        for node in imported.exported.graph.nodes
        if hasattr(node.meta.get("val"), "shape")
    }
    named = [graph.vertices[n] for n in graph.live() if graph.vertices[n].source in shapes]
    assert len(named) > 5
    for vertex in named:
        assert tuple(np.array(shapes[vertex.source])[list(vertex.order)]) == vertex.shape
