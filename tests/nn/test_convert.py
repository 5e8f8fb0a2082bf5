"""Putting ParC in place of convolutions: which ones, how long, and that nothing else changes."""

import pytest
import torch
from torch import nn

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.nn import ParC, ParCHalves, convert
from parc_hw.spec import Axis

pytestmark = pytest.mark.torch


def depthwise(channels=4, taps=3, **options):
    options = {"padding": taps // 2} | options
    return nn.Conv2d(channels, channels, taps, groups=channels, **options)


def dense(channels=4, **options):
    return nn.Conv2d(channels, channels, 3, padding=1, **options)


def halve(channels=4):
    return nn.Conv2d(channels, channels, 2, stride=2)


def three_stages(layer):
    """Six layers at 16x24, five at 8x12, three at 4x6."""
    parts = [layer() for _ in range(6)] + [halve()] + [layer() for _ in range(5)] + [halve()]
    return nn.Sequential(*parts, *(layer() for _ in range(3)))


SHAPE = (1, 4, 16, 24)


# -- as the papers do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, fraction, wanted",
    [
        (
            "convnext_xt",
            1 / 3,
            [f"stages.{place}.dwconv" for place in ("2.6", "2.7", "2.8", "3.2")],
        ),
        ("resnet50", 1 / 2, [f"layer{place}.conv2" for place in ("3.3", "3.4", "3.5", "4.2")]),
    ],
)
def test_the_papers_networks_become_their_parc_networks(name, fraction, wanted):
    model, twin = models.create(name), models.create(f"parc_{name}")
    assert list(convert(model, fraction)) == wanted
    assert models.count_parameters(model) == models.count_parameters(twin)
    # With the same weights they compute the same.
    moved = {}
    for key, value in twin.state_dict().items():
        for kind in ("gcc_H", "gcc_W", "parc_H", "parc_W"):
            conv = "dwconv" if kind.startswith("gcc") else "conv2"
            key = key.replace(f".{kind}.gcc_conv.", f".{conv}.{kind[-1].lower()}.")
            key = key.replace(f".{kind}.", f".{conv}.{kind[-1].lower()}.")
        moved[key] = value
    model.load_state_dict(moved)
    x = torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)


def test_mobilenetv2_still_takes_any_size():
    model = models.create("mobilenetv2", classes=3)
    names = convert(model)
    # Six depthwise convolutions work at 14x14 and two at 7x7.
    assert names == ("features.12.conv.1.0", "features.13.conv.1.0", "features.17.conv.1.0")
    assert model(torch.randn(1, 3, 160, 96)).shape == (1, 3)


# -- which convolutions --------------------------------------------------------------------


@pytest.mark.parametrize("layer", [depthwise, dense])
@pytest.mark.parametrize(
    "fraction, stages, wanted",
    [
        (1 / 3, 2, ["10", "11", "15"]),
        (1 / 2, 2, ["9", "10", "11", "14", "15"]),
        (1, 1, ["13", "14", "15"]),
        (1e-6, 3, ["5", "11", "15"]),
        (1 / 3, 9, ["4", "5", "10", "11", "15"]),
    ],
)
def test_the_last_part_of_the_last_stages_is_replaced(layer, fraction, stages, wanted):
    net = three_stages(layer)
    others = {name: part for name, part in net.named_children() if name not in wanted}
    assert list(convert(net, fraction, stages=stages, input_shape=SHAPE)) == wanted
    for name, part in net.named_children():
        assert isinstance(part, ParCHalves) if name in wanted else part is others[name]
    assert net(torch.randn(2, *SHAPE[1:])).shape == (2, 4, 4, 6)


@pytest.mark.parametrize("count", range(1, 40))
def test_a_third_of_a_multiple_of_three_is_exact(count):
    net = nn.Sequential(*(depthwise(2) for _ in range(count)))
    assert len(convert(net, 1 / 3, input_shape=(1, 2, 3, 3))) == -(-count // 3)


@pytest.mark.parametrize("is_dense", [False, True])
def test_kernels_are_as_long_as_the_map_is_high_and_wide(is_dense):
    net = three_stages(dense if is_dense else depthwise)
    convert(net, input_shape=SHAPE)
    layer = net[15]
    assert (layer.h.length, layer.w.length) == (4, 6)
    assert (layer.h.axis, layer.w.axis) == (Axis.H, Axis.W)
    assert layer.h.channels == layer.w.channels == 2
    assert layer.h.out_channels == (2 if is_dense else None)
    assert layer.h.bias is not None
    assert layer.h.pe is not None


def test_options_reach_the_layers():
    net = nn.Sequential(depthwise())
    convert(net, input_shape=SHAPE, position_embedding=False, resize="crop")
    assert net[0].h.pe is None
    assert net[0].w.resize == "crop"


def test_depthwise_convolutions_go_before_dense_ones():
    net = nn.Sequential(dense(), depthwise(taps=7), dense())
    assert convert(net, 1, input_shape=SHAPE) == ("1",)


def test_dilated_ones_that_keep_the_size_can_be_replaced():
    net = nn.Sequential(depthwise(taps=5, padding=4, dilation=2), depthwise(padding="same"))
    assert convert(net, 1, input_shape=SHAPE) == ("0", "1")


def test_the_order_is_that_of_execution_not_of_definition():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = depthwise(), depthwise(), depthwise()

        def forward(self, x):
            return self.a(self.b(self.c(x)))

    assert convert(Backwards(), 2 / 3, input_shape=SHAPE) == ("b", "a")


def test_stages_end_in_the_order_in_which_their_last_convolutions_are_executed():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.high, self.down, self.low, self.again = (
                depthwise(),
                halve(),
                depthwise(),
                depthwise(),
            )

        def forward(self, x):
            small = self.low(self.down(self.high(x)))
            return self.again(nn.functional.interpolate(small, size=x.shape[2:]))

    assert convert(Up(), stages=1, input_shape=SHAPE) == ("again",)


# -- what else stays -----------------------------------------------------------------------


def test_weights_modes_statistics_and_hooks_of_the_rest_stay():
    net = nn.Sequential(dense(), nn.BatchNorm2d(4), nn.Dropout(), depthwise()).train()
    net[2].eval()
    before = {key: value.clone() for key, value in net[:3].state_dict().items()}
    convert(net, input_shape=SHAPE)
    assert [part.training for part in net] == [True, True, False, True]
    assert all(part.training for part in net[3].modules())
    for key, value in net[:3].state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(part._forward_hooks for part in net.modules())


def test_a_new_layer_has_its_predecessors_type():
    net = nn.Sequential(depthwise()).double()
    convert(net, input_shape=SHAPE)
    assert net[0].h.weight.dtype == torch.float64
    assert net(torch.zeros(SHAPE, dtype=torch.float64)).dtype == torch.float64


def test_gradients_reach_the_new_layers():
    net = three_stages(depthwise)
    convert(net, input_shape=SHAPE)
    net(torch.randn(SHAPE)).square().sum().backward()
    for key, value in net.named_parameters():
        assert value.grad.abs().sum() > 0, key


def test_converting_again_goes_on_with_what_is_left():
    net = nn.Sequential(*(depthwise() for _ in range(3)))
    assert convert(net, input_shape=SHAPE) == ("2",)
    assert convert(net, input_shape=SHAPE) == ("1",)


@pytest.mark.tvm
def test_a_converted_network_is_imported_with_its_parcs_whole():
    from parc_hw.importers import import_torch
    from parc_hw.lower import _tvm

    net = nn.Sequential(dense(), nn.ReLU(), depthwise(), nn.ReLU(), depthwise())
    convert(net, 1, input_shape=SHAPE)
    values = [value for _, value in _tvm.bindings(import_torch(net, [SHAPE]).module["main"])]
    assert sum(_tvm.is_call(v) and v.op.name == "relax.parc" for v in values) == 4


# -- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0, -1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match="fraction must be above 0 and at most 1, not"):
        convert(nn.Sequential(depthwise()), fraction, input_shape=SHAPE)


@pytest.mark.parametrize("stages", [0, 1.5, True])
def test_a_number_of_stages_out_of_range_is_refused(stages):
    with pytest.raises(InputError, match="stages must be a whole number of at least 1, not"):
        convert(nn.Sequential(depthwise()), stages=stages, input_shape=SHAPE)


def test_an_unknown_resize_is_refused_and_nothing_is_changed():
    net = nn.Sequential(depthwise())
    with pytest.raises(InputError, match="unknown resize 'cubic'"):
        convert(net, input_shape=SHAPE, resize="cubic")
    assert isinstance(net[0], nn.Conv2d)


@pytest.mark.parametrize("shape", [(1, 5, 16, 24), (4,), (1, 4, 0, 24)])
def test_a_shape_that_the_model_does_not_take_is_refused(shape):
    net = nn.Sequential(depthwise())
    with pytest.raises(InputError, match=r"the model cannot take an input of shape \("):
        convert(net, input_shape=shape)
    assert not net[0]._forward_hooks


def test_a_models_own_refusal_is_passed_on():
    with pytest.raises(InputError, match="the network takes inputs of shape"):
        convert(models.create("convnext_xt"), input_shape=(1, 4, 224, 224))


@pytest.mark.parametrize(
    "layer, reason",
    [
        (nn.Conv2d(4, 4, 3, stride=2, padding=1), r"0: its stride is \(2, 2\)"),
        (nn.Conv2d(4, 4, 3), r"0: it makes \(1, 4, 14, 22\) of \(1, 4, 16, 24\)"),
        (nn.Conv2d(4, 8, 3, padding=1), r"0: it makes \(1, 8, 16, 24\) of \(1, 4, 16, 24\)"),
        (nn.Conv2d(4, 4, 3, padding=1, groups=2), "0: it has 2 groups"),
        (nn.Conv2d(4, 4, 5, padding=2), "0: it is dense and has 5x5 taps"),
        (nn.Conv2d(4, 4, 1), "it executes no nn.Conv2d of more than one tap"),
        (nn.ReLU(), "it executes no nn.Conv2d of more than one tap"),
    ],
)
def test_a_model_without_such_convolutions_is_refused_with_the_reasons(layer, reason):
    with pytest.raises(
        InputError, match=rf"no convolution that ParC can replace[^:]*:\n  {reason}"
    ):
        convert(nn.Sequential(layer), input_shape=SHAPE)


def test_shared_odd_and_single_pixel_ones_are_refused():
    layer = depthwise()
    with pytest.raises(InputError, match="it is executed 2 times"):
        convert(nn.Sequential(layer, nn.ReLU(), layer), input_shape=SHAPE)
    with pytest.raises(InputError, match="an odd number of channels, 3"):
        convert(nn.Sequential(depthwise(3)), input_shape=(1, 3, 8, 8))
    with pytest.raises(InputError, match="its map is 1x1"):
        convert(nn.Sequential(nn.AdaptiveAvgPool2d(1), depthwise()), input_shape=SHAPE)
    with pytest.raises(InputError, match=r"it executes no nn\.Conv2d"):
        convert(depthwise(), input_shape=SHAPE)  # it has no parent to hold its successor


def test_long_lists_of_reasons_are_cut():
    net = nn.Sequential(*(dense(3) for _ in range(20)))
    with pytest.raises(InputError, match=r"7: it has an odd number of channels, 3\n  and 12 more"):
        convert(net, input_shape=(1, 3, 8, 8))


def test_halves_of_an_odd_number_are_refused():
    with pytest.raises(InputError, match="needs an even number, not 5"):
        ParCHalves(5, (3, 3))


def test_halves_are_two_parcs():
    layer = ParCHalves(6, (5, 7), dense=True)
    x = torch.randn(2, 6, 4, 9)
    wanted = torch.cat([layer.h(x[:, :3]), layer.w(x[:, 3:])], dim=1)
    assert torch.equal(layer(x), wanted)
    assert isinstance(layer.h, ParC)
