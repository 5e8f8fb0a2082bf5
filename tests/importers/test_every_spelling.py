"""A ParC becomes one operator in whatever spelling it comes; what only looks like one does not."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from relax_vm import operators, run_vm
from spelled import ONNX, SHAPE, TORCH, Spelled, numbers, onnx_parc, write_onnx
from torch import nn

from parc_hw.errors import UnsupportedError
from parc_hw.importers import import_onnx, import_torch, reference_values
from parc_hw.lower import _tvm

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

# -- what is one ---------------------------------------------------------------------------

VARIANTS = [(False, False), (True, False), (True, True)]  # (position embedding, resized)
CASES = [
    pytest.param(
        kind,
        spelling,
        dim,
        dense,
        pe,
        resized,
        id=f"{kind} {spelling} {'HW'[dim - 2]} {'dense' if dense else 'depthwise'}"
        f"{' pe' * pe}{' resized' * resized}",
    )
    for kind, spellings in (("torch", TORCH), ("onnx", ONNX))
    for spelling, dim, dense, (pe, resized) in itertools.product(
        spellings, (2, 3), (False, True), VARIANTS
    )
    # A stored spectrum has one length; padding_mode cannot resize its kernel.
    if not (resized and (spelling.startswith("dft") or spelling == "padding_mode"))
    # In the frequency domain and by padding, the spelling of the sums is the same.
    if not (kind == "torch" and resized and spelling in ("pad", "fft"))
]


def imported_case(tmp_path, kind, spelling, dim, dense, pe, resized):
    if kind == "torch":
        torch.manual_seed(0)
        model = Spelled(spelling, dim, dense=dense, pe=pe, resized=resized).eval()
        return import_torch(model, [SHAPE])
    path = tmp_path / "m.onnx"
    return import_onnx(onnx_parc(path, spelling, dim, dense=dense, pe=pe, resized=resized))


def equation_4(call, x):
    """The ParC of a relax.parc call, in float64 and point by point of the kernel."""
    weight, pe, bias = (_tvm.constant(a).astype(np.float64) for a in call.args[1:])
    dim = "NCHW".index(str(call.attrs["axis"]))
    x = x + np.expand_dims(pe, 1 if dim == 3 else 2)
    equation = "c,bchw->bchw" if weight.ndim == 2 else "oc,bchw->bohw"
    total = sum(
        np.einsum(equation, weight[..., k], np.roll(x, -k, axis=dim)) for k in range(x.shape[dim])
    )
    return total + bias[:, None, None]


def test_the_table_is_as_large_as_it_should_be():
    assert len(CASES) >= 80


@pytest.mark.parametrize("kind, spelling, dim, dense, pe, resized", CASES)
def test_a_parc_becomes_one_operator(tmp_path, kind, spelling, dim, dense, pe, resized):
    imported = imported_case(tmp_path, kind, spelling, dim, dense, pe, resized)
    assert operators(imported.module) == {"parc": 1}
    assert imported.near_misses == ()
    (call,) = [v for _, v in _tvm.bindings(imported.module["main"]) if _tvm.is_call(v)]
    assert call.attrs["axis"] == "NCHW"[dim]
    assert _tvm.constant(call.args[1]).ndim == (3 if dense else 2)
    assert bool(np.any(_tvm.constant(call.args[2]))) == pe
    x = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    (wanted,), _ = reference_values(imported, [x])
    seen = equation_4(call, x)
    # At most 24 products and 5 sums more, and a transform there and back: 64 roundings.
    assert np.abs(seen - wanted).max() <= 64 * 2.0**-24 * np.abs(seen).max()


@pytest.mark.parametrize(
    "case",
    [
        ("torch", "padding_mode", 2, False, True, False),
        ("torch", "fft", 3, True, True, False),
        ("onnx", "pad_wrap_centred", 3, True, True, False),
        ("onnx", "dft20", 2, False, True, False),
    ],
    ids=str,
)
def test_built_code_gives_the_sources_numbers(tmp_path, case):
    check_numbers(imported_case(tmp_path, *case))


def check_numbers(imported):
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal(t.shape).astype(np.float32) for t in imported.inputs]
    wanted, _ = reference_values(imported, inputs)
    for ours, theirs in zip(run_vm(imported.module, *inputs), wanted, strict=True):
        limit = 200 * 2.0**-24 * max(1.0, float(np.abs(theirs).max()))
        assert np.abs(ours - theirs).max() <= limit


# -- what is none, and runs as what it is --------------------------------------------------


class Near(nn.Module):
    """`prepare(x)`, then a convolution."""

    def __init__(self, prepare, size=(6, 1), channels=4, outputs=4, **options):
        super().__init__()
        options = {"groups": 4, **options}
        self.prepare = prepare
        self.conv = nn.Conv2d(channels, outputs, size, **options)

    def forward(self, x):
        return self.conv(self.prepare(x))


def again(x):
    return torch.cat([x, x[:, :, :-1]], 2)


def onnx_near(nodes, size=(6, 1), opset=19, constants=None, **attrs):
    """`nodes` make "line" from "x"; then a depthwise Conv."""
    rng = np.random.default_rng(4)
    given = {"w": rng.standard_normal((4, 1, *size)).astype(np.float32)} | (constants or {})
    conv = ("Conv", ["line", "w"], ["y"], {"group": 4, **attrs})
    return lambda path: write_onnx(path, [*nodes, conv], given, opset=opset)


def onnx_pad(mode, pads, **more):
    return onnx_near(
        [("Pad", ["x", "pads"], ["line"], {"mode": mode})],
        constants={"pads": numbers(*pads)},
        **more,
    )


def onnx_cut(end, **more):
    constants = {"s0": numbers(0), "s1": numbers(end), "ax": numbers(2)}
    nodes = [
        ("Slice", ["x", "s0", "s1", "ax"], ["head"], {}),
        ("Concat", ["x", "head"], ["line"], {"axis": 2}),
    ]
    return onnx_near(nodes, constants=constants, **more)


class OwnKernel(nn.Module):
    def forward(self, x):
        return F.conv2d(again(x), x.mean((0, 3)).reshape(4, 1, 6, 1), groups=4)


NEAR_MISSES = {
    "all of x again": (Near(lambda x: torch.cat([x, x], 2)), r"have 12 points; 11 = 2 \* 6 - 1"),
    "one point short": (Near(lambda x: torch.cat([x, x[:, :, :-2]], 2)), "have 10 points"),
    "the last points": (Near(lambda x: torch.cat([x, x[:, :, 1:]], 2)), "in their order"),
    "the slice first": (Near(lambda x: torch.cat([x[:, :, :-1], x], 2)), "in their order"),
    "every second point": (Near(lambda x: torch.cat([x, x[:, :, :-1:2]], 2)), "9 points"),
    "another tensor between": (
        Near(lambda x: torch.cat([x, x[:, :, :-2], F.relu(x)[:, :, :1]], 2)),
        "another tensor's points",
    ),
    "one tap short": (Near(again, (5, 1)), "5 taps for lines of 6 points"),
    "a wide kernel": (Near(again, (6, 3)), "6x3, not 1 wide across H"),
    "a crossed kernel": (Near(again, (1, 5)), "not 1 wide across H"),
    "stride along": (Near(again, stride=(2, 1)), r"stride is \(2, 1\)"),
    "stride across": (Near(again, stride=(1, 2)), r"stride is \(1, 2\)"),
    "zeros on top": (Near(again, padding=(0, 1)), "on top of that, with zeros"),
    "dilation": (Near(again, dilation=(2, 1), size=(5, 1)), "5 taps for lines"),
    "dilation across": (Near(again, dilation=(1, 2)), r"dilation is \(1, 2\)"),
    "half the groups": (Near(again, groups=2), "2 groups and 4 outputs for 4 channels"),
    "two kernels each": (Near(again, outputs=8), "4 groups and 8 outputs"),
    "a kernel of the input": (OwnKernel(), "depends on the input"),
    "zero padding by F.pad": (Near(lambda x: F.pad(x, (0, 0, 0, 5))), "continued by zeros"),
    "zero padding by conv": (Near(nn.Identity(), padding="same"), "continued by zeros"),
    "reflection": (
        Near(lambda x: F.pad(x, (0, 0, 0, 5), mode="reflect")),
        "continued by reflect",
    ),
    "a short circular kernel": (
        Near(lambda x: F.pad(x, (0, 0, 1, 1), mode="circular"), (3, 1)),
        "3 taps for lines of 6 points",
    ),
    "circular along both axes": (
        Near(lambda x: F.pad(x, (0, 4, 0, 5), mode="circular"), (6, 5)),
        "6x5, not 1 wide",
    ),
    "onnx: all of x again": (onnx_cut(6), "have 12 points"),
    "onnx: one point short": (onnx_cut(4), "have 10 points"),
    "onnx: stride": (onnx_cut(5, strides=[2, 1]), "stride is"),
    "onnx: one tap short": (onnx_cut(5, size=(5, 1)), "5 taps"),
    "onnx: zero padding": (onnx_pad("constant", [0, 0, 0, 0, 0, 0, 5, 0]), "continued by zeros"),
    "onnx: edge padding": (onnx_pad("edge", [0, 0, 2, 0, 0, 0, 3, 0]), "continued by replicate"),
    "onnx: short and wrapped": (
        onnx_pad("wrap", [0, 0, 1, 0, 0, 0, 1, 0], size=(3, 1)),
        "3 taps for lines",
    ),
    "onnx: auto_pad": (
        onnx_near([("Identity", ["x"], ["line"], {})], auto_pad="SAME_UPPER"),
        "continued by zeros",
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_near_miss_stays_ordinary_and_says_why(tmp_path, name):
    model, reason = NEAR_MISSES[name]
    if isinstance(model, nn.Module):
        imported = import_torch(model.eval(), [SHAPE])
    else:
        imported = import_onnx(model(tmp_path / "m.onnx"))
    found = operators(imported.module)
    assert "parc" not in found
    assert found["nn.conv2d"] == 1
    ((_, why),) = imported.near_misses
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why)
    check_numbers(imported)


def test_ordinary_convolutions_are_no_near_misses():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, (1, 5)))
    assert import_torch(net, [SHAPE]).near_misses == ()


# -- what is none and has no other form ----------------------------------------------------


class Spectrum(nn.Module):
    def __init__(self, function, *shape):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.stored = nn.Parameter(torch.randn(*shape, 2, generator=generator))
        self.function = function

    def forward(self, x):
        return self.function(x, torch.view_as_complex(self.stored))


REFUSED = {
    "GFNet's filter of both axes": (
        Spectrum(lambda x, s: torch.fft.irfft2(torch.fft.rfft2(x) * s, s=(6, 5)), 4, 6, 3),
        r"aten\.fft_irfft2\.default .*no ParC.*a filter of both axes, as GFNet's",
    ),
    "irfft without n": (
        Spectrum(lambda x, s: torch.fft.irfft(torch.fft.rfft(x) * s), 4, 1, 3),
        r"it makes 2x4x6x4 of 2x4x6x5; .*n = N",
    ),
    "a longer transform": (
        Spectrum(
            lambda x, s: torch.fft.irfft(torch.fft.rfft(x, n=16, dim=2) * s, n=16, dim=2)[:, :, :6],
            4, 9, 1,
        ),
        "it makes 2x4x16x5 of 2x4x6x5",
    ),
    "another kernel for each column": (
        Spectrum(lambda x, s: torch.fft.irfft(torch.fft.rfft(x, dim=2) * s, n=6, dim=2), 4, 4, 5),
        "no circular correlation along one axis, the same for all lines",
    ),
    "magnitudes": (
        Spectrum(lambda x, s: torch.fft.rfft(x).abs(), 1),
        r"aten\.abs\.default is not linear",
    ),
    "a product of two spectra": (
        Spectrum(
            lambda x, s: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(x.relu()), n=5), 1
        ),
        "2 tensors meet in its frequency domain",
    ),
    "an added spectrum": (
        Spectrum(lambda x, s: torch.fft.irfft(torch.fft.rfft(x) + s, n=5), 4, 1, 3),
        "is not linear in one tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_ways_through_the_frequency_domain_are_refused_by_name(name):
    model, reason = REFUSED[name]
    with pytest.raises(UnsupportedError, match=reason):
        import_torch(model.eval(), [SHAPE])


@pytest.mark.parametrize(
    "nodes, reason",
    [
        (
            [("DFT", ["u"], ["X"], {"axis": 2}), ("DFT", ["X"], ["Y"], {"axis": 3}),
             ("Mul", ["X", "half"], ["P"], {}), ("DFT", ["Y"], ["B"], {"axis": 2, "inverse": 1})],
            "no ParC",
        ),
        ([("DFT", ["u"], ["X"], {"axis": 2}), ("Abs", ["X"], ["B"], {})], "not linear"),
        ([("DFT", ["u"], ["X"], {"axis": 2}), ("Mul", ["X", "X"], ["B"], {})], "multiplied"),
        ([("DFT", ["u"], ["X"], {"axis": 2}), ("Add", ["X", "half"], ["B"], {})], "constant is added"),
    ],
    ids=["two axes", "magnitudes", "a square", "an added constant"],
)  # fmt: skip
def test_onnx_transforms_that_are_no_parc_are_refused_by_name(tmp_path, nodes, reason):
    path = write_onnx(
        tmp_path / "m.onnx",
        [
            ("Unsqueeze", ["x", "last"], ["u"], {}),
            *nodes,
            ("Gather", ["B", "zero"], ["y"], {"axis": -1}),
        ],
        {"last": numbers(-1), "zero": np.array(0, np.int64), "half": np.array(0.5, np.float32)},
    )
    with pytest.raises(UnsupportedError, match=reason):
        import_onnx(path)


def test_a_transform_of_every_channel_in_turn_is_still_a_parc():
    """Normalisation, order of axes and the sum's spelling do not matter: the map does."""

    class Roundabout(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 6))

        def forward(self, x):
            kernel = torch.fft.fft(self.w, norm="ortho").conj() * 6**0.5
            lines = torch.fft.fft(x.permute(0, 1, 3, 2), norm="forward")
            y = torch.fft.ifft(lines * kernel[:, None], norm="forward").real
            return y.permute(0, 1, 3, 2)

    imported = import_torch(Roundabout(), [SHAPE])
    assert operators(imported.module)["parc"] == 1
    check_numbers(imported)
