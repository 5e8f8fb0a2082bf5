"""Is nn.ParC a good torch layer: any size, trainable, storable, exported as one operator?"""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from parc_hw.errors import InputError
from parc_hw.nn import ParC, circular_correlate

pytestmark = pytest.mark.torch

VARIANTS = [
    {"axis": axis, "out_channels": out_channels, "bias": bias, "position_embedding": pe}
    for axis, out_channels, (bias, pe) in itertools.product(
        ["H", "W"], [None, 6], [(True, True), (False, True), (True, False), (False, False)]
    )
]


def seeded(*args, **options):
    torch.manual_seed(0)
    return ParC(*args, **options).eval()


def parc_nodes(program):
    return [n for n in program.graph.nodes if n.target is torch.ops.parc_hw.parc.default]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (5, 7), (7, 3), (14, 28), (11, 13)])
def test_any_rectangular_input_gives_equal_results_in_both_forms(options, size):
    spatial = seeded(4, 7, **options)
    spectral = seeded(4, 7, **options, form="spectral")
    x = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(1)).double()
    y = spatial.double()(x)
    assert y.shape == (3, options["out_channels"] or 4, *size)
    # |y| is below 28 * 4 * 5 here; both forms make fewer than 1e3 roundings of 1e-16.
    torch.testing.assert_close(spectral.double()(x), y, rtol=0, atol=1e-12)


def test_the_papers_code_and_this_layer_agree_bit_by_bit():
    """`x + pe`, cat, conv2d, as the released ParC-ConvNets write it."""
    for axis, dim in (("H", 2), ("W", 3)):
        layer = seeded(6, 9, axis)
        x = torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(1))
        placed = x + layer.pe
        doubled = torch.cat([placed, placed.narrow(dim, 0, 8)], dim)
        assert torch.equal(layer(x), F.conv2d(doubled, layer.weight, layer.bias, groups=6))


def test_kernel_and_embedding_are_resized_as_the_papers_code_resizes_them():
    layer = seeded(3, 8, "H")
    weight, pe, bias = layer.constants(10)
    expected = F.interpolate(layer.weight, (10, 1), mode="bilinear", align_corners=True)
    assert torch.equal(weight, expected[:, 0, :, 0])
    expected = F.interpolate(layer.pe, (10, 1), mode="bilinear", align_corners=True)
    assert torch.equal(pe, expected[0, :, :, 0])
    assert bias is layer.bias


def test_the_other_axis_never_resizes_anything():
    layer = seeded(3, 8, "H", resize="none")
    x = torch.randn(1, 3, 8, 40, generator=torch.Generator().manual_seed(1))
    y = layer(x)
    torch.testing.assert_close(layer(x[..., 11:12]), y[..., 11:12], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_parameters_have_the_shapes_of_the_papers_code(options):
    layer = ParC(4, 7, **options)
    taps = (7, 1) if options["axis"] == "H" else (1, 7)
    lines = (4, 1) if options["out_channels"] is None else (6, 4)
    expected = {"weight": (*lines, *taps)}
    if options["bias"]:
        expected["bias"] = (lines[0],)
    if options["position_embedding"]:
        expected["pe"] = (1, 4, *taps)
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == expected


@pytest.mark.parametrize("options", VARIANTS[::3], ids=str)
def test_state_dict_round_trip_restores_every_bit(options):
    source = seeded(4, 7, **options)
    torch.manual_seed(1)
    target = ParC(4, 7, **options)
    x = torch.randn(1, 4, 7, 7)
    assert not torch.equal(source(x), target(x))
    target.load_state_dict(source.state_dict(), strict=True)
    assert torch.equal(source(x), target(x))


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "crop"])
def test_gradients_pass_through_the_resizing_of_kernel_and_embedding(resize):
    layer = seeded(2, 6, "W", resize=resize).double()
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_training_a_layer_towards_another_finds_its_kernel():
    teacher = seeded(2, 5, "H", position_embedding=False).double()
    torch.manual_seed(3)
    student = ParC(2, 5, "H", position_embedding=False).double()
    optimiser = torch.optim.LBFGS(student.parameters(), max_iter=100, line_search_fn="strong_wolfe")
    x = torch.randn(4, 2, 5, 3, dtype=torch.float64)

    def loss():
        optimiser.zero_grad()
        value = F.mse_loss(student(x), teacher(x).detach())
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(student.weight, teacher.weight, rtol=0, atol=1e-3)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_export_gives_one_parc_node_whose_constants_need_parameters_alone(options, strict):
    layer = seeded(4, 7, **options)
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    program = torch.export.export(layer, (x,), strict=strict)
    (node,) = parc_nodes(program)
    assert node.args[0].name == program.graph_signature.user_inputs[0]
    assert node.args[4] == options["axis"]
    shapes = [tuple(arg.meta["val"].shape) for arg in node.args[1:4]]
    out = options["out_channels"]
    assert shapes == [(4, 9) if out is None else (6, 4, 9), (4, 9), (out or 4,)]
    users = [n for n in program.graph.nodes if node.args[0] in n.all_input_nodes]
    assert users == [node]  # nothing else reads the input: the rest is constant
    assert torch.equal(program.module()(x), layer(x))


def test_export_of_the_spectral_form_is_the_same_operator():
    x = torch.randn(1, 4, 7, 7, generator=torch.Generator().manual_seed(1))
    program = torch.export.export(seeded(4, 7, form="spectral"), (x,))
    assert len(parc_nodes(program)) == 1
    assert torch.equal(program.module()(x), seeded(4, 7)(x))


def test_a_network_exports_one_node_for_each_layer_and_survives_decomposition():
    torch.manual_seed(0)
    network = nn.Sequential(ParC(4, 7, "H"), nn.GELU(), ParC(4, 7, "W", out_channels=8)).eval()
    x = torch.randn(1, 4, 7, 7)
    program = torch.export.export(network, (x,)).run_decompositions()
    assert len(parc_nodes(program)) == 2
    assert torch.equal(program.module()(x), network(x))


def test_the_operator_keeps_torch_library_rules():
    for weight in (torch.randn(3, 5), torch.randn(2, 3, 5)):
        bias = torch.randn(weight.shape[0])
        x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
        arguments = (x, weight, torch.randn(3, 5), bias, "W")
        torch.library.opcheck(torch.ops.parc_hw.parc, arguments)
        expected = circular_correlate(x, weight, bias, arguments[2], axis="W")
        assert torch.equal(torch.ops.parc_hw.parc(*arguments), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, r"channels must be a whole number of at least 1, not 0"),
        ({"length": 7.0}, r"length must be a whole number of at least 1, not 7.0"),
        ({"out_channels": -1}, r"out_channels must be .* not -1"),
        ({"axis": "horizontal"}, r"unknown axis 'horizontal': H"),
        ({"resize": "bilinaer"}, r"unknown resize 'bilinaer': .*Did you mean bilinear"),
        ({"form": "fourier"}, r"unknown form 'fourier': one of spatial, spectral"),
    ],
)
def test_arguments_that_make_no_layer_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ParC(**{"channels": 4, "length": 7, **arguments})


@pytest.mark.parametrize("shape", [(4, 7, 7), (1, 5, 7, 7), (1, 4, 0, 7)])
def test_inputs_that_are_not_four_dimensional_with_our_channels_are_refused(shape):
    with pytest.raises(InputError, match=r"takes inputs \(B, 4, H, W\), not of shape"):
        ParC(4, 7)(torch.zeros(shape))


def test_lengths_out_of_reach_are_refused_in_the_forward_pass():
    with pytest.raises(InputError, match=r"resize='none' accepts only length 7"):
        ParC(4, 7, resize="none")(torch.zeros(1, 4, 8, 7))
    with pytest.raises(InputError, match=r"resize='crop' accepts lengths 1 to 7"):
        ParC(4, 7, "W", resize="crop")(torch.zeros(1, 4, 7, 8))


def test_the_layer_prints_as_it_is_written():
    assert repr(ParC(4, 7, "W", bias=False)) == (
        "ParC(4, 7, axis='W', out_channels=None, bias=False, position_embedding=True, "
        "resize='bilinear', form='spatial')"
    )
