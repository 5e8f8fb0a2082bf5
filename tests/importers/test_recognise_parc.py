"""ParC written as concatenation and convolution becomes one operator; near misses do not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from relax_vm import check_against_torch, operators
from torch import nn

from parc_hw.lower import _tvm

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

CHANNELS, HEIGHT, WIDTH = 4, 6, 5


class Spelled(nn.Module):
    """Algorithm 1's spatial form, with one thing at a time to spoil."""

    def __init__(self, dim, *, out_channels=None, pe=True, bias=True, **spoiled):
        super().__init__()
        length = (HEIGHT, WIDTH)[dim - 2]
        taps = spoiled.get("taps", length)
        size = (taps, 1) if dim == 2 else (1, taps)
        size = spoiled.get("kernel", size)
        self.dim = dim
        self.conv = nn.Conv2d(
            CHANNELS,
            out_channels or CHANNELS,
            size,
            groups=spoiled.get("groups", 1 if out_channels else CHANNELS),
            bias=bias,
            stride=spoiled.get("stride", 1),
            padding=spoiled.get("padding", 0),
            dilation=spoiled.get("dilation", 1),
        )
        shape = (length, 1) if dim == 2 else (1, length)
        self.pe = nn.Parameter(torch.randn(1, CHANNELS, *shape)) if pe else None
        self.begin, self.end = spoiled.get("cut", (0, -1))
        self.step = spoiled.get("step", 1)
        self.swap = spoiled.get("swap", False)
        self.join = spoiled.get("join", dim)

    def forward(self, x):
        if self.pe is not None:
            x = x + self.pe
        index = [slice(None)] * 4
        index[self.dim] = slice(self.begin, self.end, self.step)
        pieces = [x, x[tuple(index)]]
        return self.conv(torch.cat(pieces[::-1] if self.swap else pieces, self.join))


SHAPE = (2, CHANNELS, HEIGHT, WIDTH)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("pe", [True, False], ids=["pe", "no_pe"])
@pytest.mark.parametrize("out_channels", [None, 3], ids=["depthwise", "dense"])
@pytest.mark.parametrize("dim", [2, 3], ids=["H", "W"])
def test_every_form_becomes_exactly_one_operator(dim, out_channels, pe, bias):
    model = Spelled(dim, out_channels=out_channels, pe=pe, bias=bias)
    imported = check_against_torch(model, SHAPE)
    assert operators(imported.module) == {"parc": 1}
    ((_, call),) = [
        (var, value) for var, value in _tvm.bindings(imported.module["main"]) if _tvm.is_call(value)
    ]
    assert call.attrs["axis"] == "NCHW"[dim]
    assert call.attrs["layout"] == "NCHW"
    x, weight, embedding, offset = call.args
    assert x.same_as(imported.module["main"].params[0])
    np.testing.assert_array_equal(
        _tvm.constant(weight).ravel(), model.conv.weight.detach().numpy().ravel()
    )
    wanted = model.pe.detach().numpy().ravel() if pe else 0.0
    np.testing.assert_array_equal(_tvm.constant(embedding).ravel(), wanted)
    wanted = model.conv.bias.detach().numpy() if bias else 0.0
    np.testing.assert_array_equal(_tvm.constant(offset), wanted)


def test_the_result_keeps_its_source():
    imported = check_against_torch(Spelled(2), SHAPE)
    nodes = {source.node: source.module_path for source in imported.sources.values()}
    assert nodes["conv2d"] == "conv"


@pytest.mark.parametrize(
    "spoiled",
    [
        pytest.param({"cut": (0, None)}, id="all of x again: N + 1 outputs"),
        pytest.param({"cut": (0, -2)}, id="one point short"),
        pytest.param({"cut": (1, None)}, id="the last N - 1 points"),
        pytest.param({"cut": (0, -1), "step": 2}, id="every second point"),
        pytest.param({"swap": True}, id="the slice first"),
        pytest.param({"taps": HEIGHT - 1}, id="a kernel one tap short"),
        pytest.param({"kernel": (HEIGHT, 3)}, id="a kernel that is wide too"),
        pytest.param({"stride": (2, 1)}, id="stride along the axis"),
        pytest.param({"stride": (1, 2)}, id="stride along the other axis"),
        pytest.param({"padding": (0, 1)}, id="padding along the other axis"),
        pytest.param({"padding": (1, 0)}, id="padding along the axis"),
        pytest.param({"dilation": (2, 1), "taps": HEIGHT - 1}, id="dilation"),
        pytest.param({"groups": 2}, id="groups between dense and depthwise"),
        pytest.param({"groups": 4, "out_channels": 8}, id="two kernels for each channel"),
    ],
)
def test_a_near_miss_stays_what_it_is(spoiled):
    imported = check_against_torch(Spelled(2, **spoiled), SHAPE)
    found = operators(imported.module)
    assert "parc" not in found
    assert found["nn.conv2d"] == 1


def test_a_kernel_along_the_other_axis_than_the_concatenation_is_no_parc():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, (1, 5), groups=4)

        def forward(self, x):
            return self.conv(torch.cat([x, x[:, :, :-1]], 2))

    assert "parc" not in operators(check_against_torch(Crossed(), (1, 4, 5, 5)).module)


def test_concatenation_with_another_tensors_slice_is_no_parc():
    class Stranger(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, (5, 1), groups=4)

        def forward(self, x):
            return self.conv(torch.cat([x, F.relu(x)[:, :, :-1]], 2))

    assert "parc" not in operators(check_against_torch(Stranger(), (1, 4, 5, 5)).module)


def test_concatenation_of_channels_is_no_parc():
    class Channels(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(7, 4, 1)

        def forward(self, x):
            return self.conv(torch.cat([x, x[:, :-1]], 1))

    assert "parc" not in operators(check_against_torch(Channels(), (1, 4, 5, 5)).module)


def test_a_position_embedding_that_varies_along_the_other_axis_stays_an_add():
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.pe = nn.Parameter(torch.randn(1, 4, 6, 5))
            self.conv = nn.Conv2d(4, 4, (6, 1), groups=4)

        def forward(self, x):
            x = x + self.pe
            return self.conv(torch.cat([x, x[:, :, :-1]], 2))

    assert operators(check_against_torch(Map(), (1, 4, 6, 5)).module) == {"add": 1, "parc": 1}


def test_an_embedded_input_that_is_read_elsewhere_too_stays_an_add():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.pe = nn.Parameter(torch.randn(1, 4, 6, 1))
            self.conv = nn.Conv2d(4, 4, (6, 1), groups=4)

        def forward(self, x):
            x = x + self.pe
            return x + self.conv(torch.cat([x, x[:, :, :-1]], 2))

    assert operators(check_against_torch(Residual(), (1, 4, 6, 5)).module) == {"add": 2, "parc": 1}


def test_a_result_that_is_read_before_its_addend_keeps_it_outside():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, (6, 1), groups=4, bias=False)
            self.shift = nn.Parameter(torch.randn(4, 1, 1))

        def forward(self, x):
            y = self.conv(torch.cat([x, x[:, :, :-1]], 2))
            return y * (y + self.shift)

    found = operators(check_against_torch(Twice(), (1, 4, 6, 5)).module)
    assert found == {"parc": 1, "add": 1, "multiply": 1}


def test_an_addend_along_the_width_is_no_bias():
    class Columns(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(5, 5, (6, 1), groups=5, bias=False)
            self.shift = nn.Parameter(torch.randn(5))

        def forward(self, x):
            return self.conv(torch.cat([x, x[:, :, :-1]], 2)) + self.shift

    assert operators(check_against_torch(Columns(), (1, 5, 6, 5)).module) == {"parc": 1, "add": 1}


def test_a_line_of_one_point_is_a_parc_too():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, (1, 1), groups=4)

        def forward(self, x):
            return self.conv(torch.cat([x, x[:, :, :-1]], 2))

    assert operators(check_against_torch(Single(), (1, 4, 1, 5)).module) == {"parc": 1}


@pytest.mark.parametrize("dim", [2, 3])
def test_resized_kernels_and_embeddings_are_folded_before_recognition(dim):
    """The downstream code of the authors: bilinear, align_corners, on every forward pass."""

    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            size = (7, 1) if dim == 2 else (1, 7)
            self.weight = nn.Parameter(torch.randn(CHANNELS, 1, *size))
            self.pe = nn.Parameter(torch.randn(1, CHANNELS, *size))

        def forward(self, x):
            length = x.shape[dim]
            size = (length, 1) if dim == 2 else (1, length)
            kernel = F.interpolate(self.weight, size, mode="bilinear", align_corners=True)
            # The embedding goes to the whole map, which is constant along the other axis.
            pe = F.interpolate(self.pe, x.shape[2:], mode="bilinear", align_corners=True)
            x = x + pe
            x = torch.cat([x, x.narrow(dim, 0, length - 1)], dim)
            return F.conv2d(x, kernel, groups=CHANNELS)

    assert operators(check_against_torch(Resized(), SHAPE).module) == {"parc": 1}


def test_an_input_dependent_kernel_is_no_parc():
    class Dynamic(nn.Module):
        def forward(self, x):
            kernel = x.mean((0, 3)).reshape(4, 1, 6, 1)
            return F.conv2d(torch.cat([x, x[:, :, :-1]], 2), kernel, groups=4)

    found = operators(check_against_torch(Dynamic(), (1, 4, 6, 5)).module)
    assert "parc" not in found
    assert found["nn.conv2d"] == 1
