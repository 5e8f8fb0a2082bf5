"""Torch modules as Relax functions: the numbers, the form, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from relax_vm import check_against_torch, operators
from torch import nn

from parc_hw.errors import InputError, UnsupportedError
from parc_hw.importers import import_torch
from parc_hw.lower import _tvm
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]


class Lambda(nn.Module):
    """A function as a module, with modules or parameters it uses."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def random_norm(norm):
    """Statistics, scales and offsets that are not the neutral ones."""
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


def constants(imported):
    values = [value for _, value in _tvm.bindings(imported.module["main"])]
    return [
        _tvm.constant(arg)
        for value in values
        if _tvm.is_call(value)
        for arg in value.args
        if _tvm.operand_kind(arg) == "constant"
    ]


# -- our module ----------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "crop"])
@pytest.mark.parametrize("out_channels", [None, 3], ids=["depthwise", "dense"])
@pytest.mark.parametrize("axis, length", [("H", 6), ("W", 5)])
def test_our_parc_is_one_operator_for_every_resize(axis, length, out_channels, resize):
    layer = ParC(4, 7, axis, out_channels=out_channels, resize=resize)
    imported = check_against_torch(layer, (2, 4, 6, 5))
    assert operators(imported.module) == {"parc": 1}
    lines = (4,) if out_channels is None else (3, 4)
    assert [c.shape for c in constants(imported)] == [(*lines, length), (4, length), (lines[0],)]
    (source,) = {source.node for source in imported.sources.values()}
    assert source == "parc"


@pytest.mark.parametrize("form", ["spatial", "spectral"])
def test_our_parc_is_one_operator_without_constants_and_in_either_form(form):
    layer = ParC(4, 6, "H", bias=False, position_embedding=False, resize="none", form=form)
    assert operators(check_against_torch(layer, (1, 4, 6, 5)).module) == {"parc": 1}


def test_a_parc_refuses_a_length_in_its_own_words():
    with pytest.raises(InputError, match="resize='none' accepts only length 7"):
        import_torch(ParC(4, 7, "H", resize="none"), [(1, 4, 6, 5)])


# -- operators -----------------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x):
        gate = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(F.silu(self.down(gate))))


SHAPE = (2, 8, 6, 5)
NETS = {
    "linear, n-d": (nn.Linear(5, 7), {"matmul": 1, "add": 1}),
    "linear without bias": (nn.Linear(5, 7, bias=False), {"matmul": 1}),
    "conv": (nn.Conv2d(8, 3, 3, padding=1, stride=2), {"nn.conv2d": 1, "add": 1}),
    "conv without bias": (nn.Conv2d(8, 6, 3, groups=2, bias=False), {"nn.conv2d": 1}),
    "conv, same padding": (
        nn.Conv2d(8, 3, (4, 2), padding="same", dilation=(1, 2)),
        {"nn.conv2d": 1, "add": 1},
    ),
    "conv, valid padding": (nn.Conv2d(8, 3, 3, padding="valid"), {"nn.conv2d": 1, "add": 1}),
    "batch norm": (random_norm(nn.BatchNorm2d(8)), {"multiply": 1, "add": 1}),
    "batch norm without scale": (
        random_norm(nn.BatchNorm2d(8, affine=False)),
        {"multiply": 1, "add": 1},
    ),
    "layer norm": (random_norm(nn.LayerNorm(5)), {"nn.layer_norm": 1}),
    "layer norm of two axes without scale": (
        nn.LayerNorm((6, 5), elementwise_affine=False),
        {"nn.layer_norm": 1},
    ),
    "gelu": (nn.GELU(), {"nn.gelu": 1}),
    "gelu, tanh": (nn.GELU("tanh"), {"nn.gelu_tanh": 1}),
    "relu, silu": (nn.Sequential(nn.ReLU(), nn.SiLU()), {"nn.relu": 1, "nn.silu": 1}),
    "relu6": (nn.ReLU6(), None),
    "hardswish": (nn.Hardswish(), None),
    "hardsigmoid": (nn.Hardsigmoid(), None),
    "dropout and identity": (
        nn.Sequential(nn.Dropout(), nn.Identity(), nn.ReLU(), nn.Dropout2d()),
        {"nn.relu": 1},
    ),
    "max pool": (nn.MaxPool2d(2), {"nn.max_pool2d": 1}),
    "avg pool": (nn.AvgPool2d(2, stride=1), {"nn.avg_pool2d": 1}),
    "pool to one pixel": (
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        {"mean": 1, "reshape": 1},
    ),
    "pool to some pixels": (nn.AdaptiveAvgPool2d((2, 5)), {"nn.adaptive_avg_pool2d": 1}),
    "mean": (Lambda(lambda s, x: x.mean((2, 3))), {"mean": 1}),
    "permute": (Lambda(lambda s, x: x.permute(0, 2, 3, 1)), {"permute_dims": 1}),
    "squeeze and excite": (SqueezeExcite(), None),
    "even chunks": (
        Lambda(lambda s, x: torch.cat(x.chunk(2, 1)[::-1], 1)),
        {"split": 1, "concat": 1},
    ),
    "uneven chunks": (
        Lambda(lambda s, x: torch.cat(x.chunk(3, 1)[::-1], 1)),
        {"split": 1, "concat": 1},
    ),
    "split by sizes": (
        Lambda(lambda s, x: torch.cat(x.split([1, 5, 2], 1)[::-1], 1)),
        {"split": 1, "concat": 1},
    ),
    "one chunk": (Lambda(lambda s, x: torch.relu(x.chunk(1, 1)[0])), {"nn.relu": 1}),
    "slices": (Lambda(lambda s, x: x[:, 1:-1, ::2, -3:]), {"strided_slice": 3}),
    "an empty step of slicing": (Lambda(lambda s, x: x[:, :, 0:100].exp()), {"exp": 1}),
    "a scale of each channel": (
        Lambda(lambda s, x: s.gamma * x.permute(0, 2, 3, 1), gamma=torch.randn(8)),
        {"permute_dims": 1, "multiply": 1},
    ),
    "numbers on either side": (
        Lambda(lambda s, x: (2 * x + 1 - x / 3) * (1 - x) - (3 - x)),
        None,
    ),
    "alpha of add and rsub": (
        Lambda(
            lambda s, x: torch.rsub(torch.add(x, x.exp(), alpha=2), s.t, alpha=3), t=torch.ones(5)
        ),
        None,
    ),
    "0-d constants keep float32": (
        Lambda(lambda s, x: x * torch.tensor(2.5, dtype=torch.float64) + torch.tensor(3)),
        {"multiply": 1, "add": 1},
    ),
    "softmax": (Lambda(lambda s, x: torch.softmax(x, 1)), {"nn.softmax": 1}),
    "product of two activations": (
        Lambda(lambda s, x: x @ x.transpose(-1, -2)),
        {"permute_dims": 1, "matmul": 1},
    ),
    "zero padding": (nn.ZeroPad2d((1, 2, 0, 3)), None),
    "bilinear resize, corners": (
        nn.Upsample((9, 7), mode="bilinear", align_corners=True),
        {"image.resize2d": 1},
    ),
    "bilinear resize": (
        nn.Upsample(scale_factor=2, mode="bilinear"),
        {"image.resize2d": 1},
    ),
    "nearest resize to any size": (nn.Upsample((9, 7)), {"image.resize2d": 1}),
    "bicubic resize": (nn.Upsample((9, 7), mode="bicubic"), {"image.resize2d": 1}),
    "decomposed: gated linear unit": (
        nn.GLU(1),
        {"strided_slice": 2, "sigmoid": 1, "multiply": 1},
    ),
    "decomposed: mish": (nn.Mish(), {"nn.softplus": 1, "tanh": 1, "multiply": 1}),
    "decomposed: pixel shuffle": (nn.PixelShuffle(2), {"reshape": 2, "permute_dims": 1}),
    "decomposed: standard deviation": (Lambda(lambda s, x: x.std(1)), None),
    "decomposed: attention": (
        Lambda(lambda s, x: F.scaled_dot_product_attention(x, x.exp(), x)),
        None,
    ),
    "transposed convolution": (nn.ConvTranspose2d(8, 3, 2, stride=2), None),
}


@pytest.mark.parametrize("name", NETS)
def test_numbers_and_form(name):
    net, form = NETS[name]
    imported = check_against_torch(net, SHAPE)
    if form is not None:
        assert operators(imported.module) == form


def test_per_channel_constants_have_the_rank_of_their_operand():
    net = nn.Sequential(nn.Conv2d(8, 4, 1), random_norm(nn.BatchNorm2d(4)))
    shapes = [c.shape for c in constants(check_against_torch(net, SHAPE))]
    assert shapes == [(4, 8, 1, 1), (1, 4, 1, 1), (1, 4, 1, 1), (1, 4, 1, 1)]


def test_what_an_operator_writes_in_place_is_not_seen_by_earlier_readers():
    def forward(_, x):
        y = x.exp()
        z = y * 2
        y.relu_().add_(1)
        return z + y

    check_against_torch(Lambda(forward), SHAPE)


def test_several_inputs_and_outputs_keep_their_order_and_names():
    net = Lambda(lambda s, a, b: {"total": a + b, "ratio": a / b.exp()})
    imported = check_against_torch(net, (2, 3), (1, 3))
    assert [t.shape for t in imported.inputs] == [(2, 3), (1, 3)]
    assert [t.name for t in imported.outputs] == ["total", "ratio"]
    imported = check_against_torch(Lambda(lambda s, a: (a.exp(), [a.relu()], a.exp())), (2, 3))
    assert [t.name for t in imported.outputs] == ["output0", "output1", "output2"]


def test_names_of_inputs_are_those_of_the_forward_method():
    (boundary,) = import_torch(nn.ReLU(), [(1, 2)]).inputs
    assert boundary.name == "input"


def test_what_no_output_needs_is_gone():
    net = Lambda(lambda s, x: (x.exp() + 1, torch.relu(x))[1])
    assert operators(import_torch(net, [(1, 2)]).module) == {"nn.relu": 1}


def test_values_that_depend_on_parameters_alone_are_constants():
    def forward(s, x):
        kernel = F.interpolate(s.kernel, (3, 3), mode="bicubic", align_corners=True)
        offsets = torch.arange(6.0) / 6
        return F.conv2d(x, kernel.softmax(0).flip(2), padding=1) + offsets[:, None]

    net = Lambda(forward, kernel=torch.randn(4, 8, 5, 5))
    assert operators(check_against_torch(net, SHAPE).module) == {"nn.conv2d": 1, "add": 1}


# -- the way back --------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), random_norm(nn.BatchNorm2d(8)))
        self.mix = nn.ModuleDict({"h": ParC(4, 4, "H"), "w": ParC(4, 4, "W")})
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = F.gelu(self.stem(x))
        a, b = x.chunk(2, 1)
        x = x + torch.cat([self.mix["h"](a), self.mix["w"](b)], 1)
        return self.head(self.norm(x.mean((2, 3))))


def test_every_variable_has_its_node_and_module():
    imported = check_against_torch(Small(), (1, 3, 8, 8))
    variables = [var for var, _ in _tvm.bindings(imported.module["main"])]
    assert set(imported.sources) == set(variables)
    rows = []
    for var, value in _tvm.bindings(imported.module["main"]):
        source = imported.sources[var]
        rows.append((value.op.name if _tvm.is_call(value) else "", source.node, source.module_path))
    assert rows == [
        ("relax.nn.conv2d", "", "stem.0"),  # before the bias
        ("relax.add", "conv2d", "stem.0"),
        ("relax.multiply", "", "stem.1"),
        ("relax.add", "getitem", "stem.1"),
        ("relax.nn.gelu", "gelu", ""),
        ("relax.split", "split", ""),
        ("", "getitem_3", ""),
        ("", "getitem_4", ""),
        ("relax.parc", "parc", "mix.h"),
        ("relax.parc", "parc_1", "mix.w"),
        ("relax.concat", "cat", ""),
        ("relax.add", "add", ""),
        ("relax.mean", "mean", ""),
        ("relax.nn.layer_norm", "layer_norm", "norm"),
        ("relax.matmul", "", "head"),
        ("relax.add", "linear", "head"),
        ("", "linear", "head"),
    ]


def test_the_model_keeps_its_mode_and_its_gradients():
    model = Small().train()
    model.norm.eval()
    import_torch(model, [(1, 3, 8, 8)])
    assert model.training
    assert model.head.training
    assert not model.norm.training
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert model.head.weight.grad is not None


# -- what is refused -----------------------------------------------------------------------


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x), n=x.shape[-1])


def test_all_unsupported_operators_are_named_at_once_with_their_modules():
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Fourier(), nn.Sequential(nn.ReLU(), Fourier())
            self.noise = Lambda(lambda s, x: x + torch.rand_like(x))
            self.pick = Lambda(lambda s, x: x.argmax(-1).float())

        def forward(self, x):
            return self.pick(self.noise(self.second(self.first(x))))

    with pytest.raises(UnsupportedError) as caught:
        import_torch(Bad(), [(2, 6)])
    message = str(caught.value)
    for line in (
        r"aten.fft_rfft.default (2 times) in first, second.1: a Fourier transform is only taken",
        r"aten.fft_irfft.default (2 times) in first, second.1: its way through the frequency domain",
        r"aten.rand_like.default in noise: it draws random numbers",
        r"aten.argmax.default in pick: its result is int64, not float32",
    ):
        assert f"\n  {line}" in message


def test_what_a_conversion_itself_refuses_is_reported_with_the_rest():
    net = nn.Sequential(
        Lambda(lambda s, x: F.conv2d(x[0], s.w), w=torch.randn(8, 8, 1, 1)),
        Lambda(
            lambda s, x: torch.ops.parc_hw.parc(x[None], x[:, :, 0].contiguous(), s.pe, s.b, "H"),
            pe=torch.zeros(8, 6),
            b=torch.zeros(8),
        ),
    )
    with pytest.raises(UnsupportedError) as caught:
        import_torch(net, [(1, 8, 6, 5)])
    message = str(caught.value)
    assert "aten.conv2d.default in 0: its input is (8, 6, 5), not (B, C, H, W)" in message
    assert "parc_hw.parc.default in 1: its kernel, position embedding or bias depends" in message


def test_a_resize_by_a_factor_that_the_sizes_do_not_have_is_refused():
    # torch would place its samples by 1.5, and not by 7 / 5.
    with pytest.raises(
        UnsupportedError,
        match=r"scale factors \(1\.5, 1\.5\) do not lead from \(6, 5\) to \(9, 7\)",
    ):
        import_torch(nn.Upsample(scale_factor=1.5, mode="bilinear"), [SHAPE])


def test_a_foreign_operator_is_not_taken_for_torchs_of_the_same_name():
    @torch.library.custom_op("strange::relu", mutates_args=())
    def strange(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    strange.register_fake(torch.empty_like)
    with pytest.raises(UnsupportedError, match=r"strange\.relu\.default in the top module: there"):
        import_torch(Lambda(lambda s, x: strange(x)), [(2, 3)])


def test_importing_warns_of_nothing(recwarn):
    import_torch(nn.Sequential(nn.Conv2d(8, 8, 3), nn.GLU(1)), [SHAPE])
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([], "no input shape was given"),
        ([()], r"input shape \(\) is not acceptable"),
        ([(1, 3, 0, 8)], "every extent must be a whole number of at least 1"),
        ([(1, 3, -1, 8)], "every extent must be a whole number of at least 1"),
        ([(None, 3, 8, 8)], "Shapes are fixed when a model is compiled"),
        ([("n", 3, 8, 8)], "Shapes are fixed when a model is compiled"),
        ([(1, 4, 8, 8)], r"cannot take inputs of shape \(1, 4, 8, 8\): .*channels"),
        ([(1, 3, 1, 1)], r"cannot take inputs of shape \(1, 3, 1, 1\): .*[Kk]ernel size"),
        ([(1, 3, 8, 8), (1,)], r"cannot take inputs of shape \(1, 3, 8, 8\), \(1,\): "),
    ],
)
def test_shapes_that_cannot_be_are_refused(shapes, message):
    with pytest.raises(InputError, match=message):
        import_torch(nn.Conv2d(3, 4, 3), shapes)


def test_a_models_own_refusal_comes_through():
    from parc_hw import models

    with pytest.raises(InputError, match=r"H and W of at least 32, not \(1, 3, 31, 224\)"):
        import_torch(models.create("parc_convnext_xt"), [(1, 3, 31, 224)])


def test_control_flow_that_depends_on_values_is_refused():
    net = Lambda(lambda s, x: x.exp() if x.sum() > 0 else x.relu())
    with pytest.raises(UnsupportedError, match=r"torch\.export cannot trace the model: .*control"):
        import_torch(net, [(2, 3)])


def test_outputs_that_do_not_depend_on_the_input_are_refused():
    net = Lambda(lambda s, x: (x.exp(), s.w * 2, x), w=torch.ones(3))
    with pytest.raises(UnsupportedError) as caught:
        import_torch(net, [(2, 3)])
    assert "output 1 does not depend on the input" in str(caught.value)


def test_an_output_that_is_the_input_is_refused():
    with pytest.raises(UnsupportedError, match="output 1 is an input as it came"):
        import_torch(Lambda(lambda s, x: (x.exp(), x)), [(2, 3)])


def test_a_forward_pass_that_changes_a_buffer_is_refused():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls.add_(1)
            return x.exp()

    with pytest.raises(UnsupportedError, match="the forward pass changes calls"):
        import_torch(Counts(), [(2, 3)])


def test_weights_of_other_types_are_refused():
    with pytest.raises(InputError, match=r"weight is torch\.float64; only float32"):
        import_torch(nn.Linear(3, 4).double(), [(1, 3)])
    with pytest.raises(InputError, match="weight lies on meta; move the model to the CPU"):
        import_torch(nn.Linear(3, 4, device="meta"), [(1, 3)])


def test_arrays_of_the_right_type_arrive():
    imported = check_against_torch(Small(), (1, 3, 8, 8))
    assert {c.dtype for c in constants(imported)} == {np.dtype(np.float32)}
