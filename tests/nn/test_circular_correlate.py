"""Do both forms of the torch operator compute the papers' equations, for every length?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from parc_hw import reference
from parc_hw.errors import InputError
from parc_hw.nn import circular_correlate, resize_taps
from parc_hw.spec import Axis

pytestmark = pytest.mark.torch

# 1, every small length, primes, powers of two, the papers' lengths and their neighbours.
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 14, 16, 17, 23, 28, 29, 31, 32, 33, 47, 56, 64]


def equation(x, weight, bias, pe, axis):
    """The papers' sums in float64: equation 3 for depthwise kernels, 4 for dense ones."""
    return reference.parc(
        x.double(), weight.double(), axis=axis, position_embedding=pe.double(), bias=bias.double()
    )


def case(length, shape, axis, out_channels, dtype):
    batch, channels, lines = shape
    generator = torch.Generator().manual_seed(length)
    extent = (length, lines) if axis == "H" else (lines, length)
    kernel = (channels, length) if out_channels is None else (out_channels, channels, length)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    return (
        draw(batch, channels, *extent),
        draw(*kernel),
        draw(kernel[0]),
        draw(channels, length),
    )


def spatial_bound(x, weight, bias, pe, axis):
    """Sum of n + 2 terms in any order: gamma(n + 2) * (sum |w| (|x| + |pe|) + |b|)."""
    terms = weight.shape[-1] * (1 if weight.ndim == 2 else weight.shape[1]) + 2
    unit = torch.finfo(x.dtype).eps / 2
    gamma = terms * unit / (1 - terms * unit)
    return gamma * equation(x.abs(), weight.abs(), bias.abs(), pe.abs(), axis)


def spectral_bound(x, weight, bias, pe, axis, expected):
    """Three transforms and a product, errors in the 2-norm of a line.

    Higham, Accuracy and Stability (2nd ed.), Theorem 24.2: one radix-2 transform errs by at
    most log2(n) * eta of its norm, eta = u + gamma_4 (sqrt 2 + u). A length with a large
    prime is done by Bluestein's chirp: three transforms of less than 4N points and three
    products by unit factors. |y| <= |w|_2 |x|_2, and a spectrum's largest value is at most
    sqrt(N) times the 2-norm of its line.
    """
    length = x.shape[2 if axis == "H" else 3]
    unit = torch.finfo(x.dtype).eps / 2
    eta = unit + 4 * unit / (1 - 4 * unit) * (math.sqrt(2) + unit)
    transform = 3 * (math.ceil(math.log2(4 * length)) + 1) * eta
    channels = 1 if weight.ndim == 2 else weight.shape[1]
    factor = (3 * transform + (channels + 3) * eta) * math.sqrt(length)
    line = x.double().norm(dim=2 if axis == "H" else 3).amax() + pe.double().norm(dim=-1).amax()
    kernels = weight.double().norm(dim=-1)
    kernel = (kernels if weight.ndim == 2 else kernels.sum(dim=1)).amax()
    return (1 + unit) * factor * float(line * kernel) + unit * (
        np.abs(expected).max() + float(bias.abs().max())
    )


@pytest.mark.parametrize("out_channels", [None, 1, 4])
@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_forms_compute_the_papers_equations(length, axis, out_channels, dtype):
    x, weight, bias, pe = case(length, (2, 3, 5), axis, out_channels, dtype)
    expected = equation(x, weight, bias, pe, axis)
    spatial = circular_correlate(x, weight, bias, pe, axis=axis, form="spatial")
    spectral = circular_correlate(x, weight, bias, pe, axis=axis, form="spectral")
    assert spatial.dtype == spectral.dtype == dtype
    # The reference rounds in float64 too: its own bound doubles the float64 cases'.
    factor = 2 if dtype is torch.float64 else 1
    bound = factor * spatial_bound(x, weight, bias, pe, axis)
    assert (np.abs(spatial.double().numpy() - expected) <= bound).all()
    bound = factor * spectral_bound(x, weight, bias, pe, axis, expected)
    assert np.abs(spectral.double().numpy() - expected).max() <= bound


@pytest.mark.parametrize("form", ["spatial", "spectral"])
@pytest.mark.parametrize("axis", ["H", "W"])
def test_a_delta_at_tap_k_rolls_the_line_by_minus_k(axis, form):
    x = torch.randn(2, 7, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.eye(7, dtype=torch.float64)  # channel c has its one at tap c
    y = circular_correlate(x, weight, axis=axis, form=form)
    dim = 1 if axis == "H" else 2
    for channel in range(7):
        expected = torch.roll(x[:, channel], -channel, dims=dim)
        torch.testing.assert_close(y[:, channel], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", ["spatial", "spectral"])
@pytest.mark.parametrize("out_channels", [None, 3])
def test_axis_w_is_axis_h_of_the_transposed_map(form, out_channels):
    x, weight, bias, pe = case(9, (2, 4, 5), "H", out_channels, torch.float64)
    along_h = circular_correlate(x, weight, bias, pe, axis=Axis.H, form=form)
    along_w = circular_correlate(x.mT.contiguous(), weight, bias, pe, axis=Axis.W, form=form)
    torch.testing.assert_close(along_w.mT, along_h, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", ["spatial", "spectral"])
def test_without_position_embedding_it_commutes_with_shifts_and_with_one_it_does_not(form):
    x, weight, bias, pe = case(10, (2, 3, 4), "H", None, torch.float64)
    moved = torch.roll(x, 3, dims=2)
    plain = circular_correlate(moved, weight, bias, axis="H", form=form)
    before = circular_correlate(x, weight, bias, axis="H", form=form)
    torch.testing.assert_close(plain, torch.roll(before, 3, dims=2), rtol=0, atol=1e-13)
    placed = circular_correlate(moved, weight, bias, pe, axis="H", form=form)
    before = circular_correlate(x, weight, bias, pe, axis="H", form=form)
    assert (placed - torch.roll(before, 3, dims=2)).abs().max() > 0.1


@pytest.mark.parametrize("form", ["spatial", "spectral"])
@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("out_channels", [None, 2])
@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_gradients_agree_with_finite_differences(form, axis, out_channels, length):
    leaves = [
        leaf.requires_grad_() for leaf in case(length, (2, 3, 2), axis, out_channels, torch.float64)
    ]
    assert torch.autograd.gradcheck(
        lambda *args: circular_correlate(*args, axis=axis, form=form), leaves
    )


@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("out_channels", [None, 4])
@pytest.mark.parametrize("length", [1, 7, 14, 28, 31])
def test_gradients_of_both_forms_are_equal(axis, out_channels, length):
    gradients = []
    for form in ("spatial", "spectral"):
        leaves = [
            leaf.requires_grad_()
            for leaf in case(length, (2, 3, 5), axis, out_channels, torch.float64)
        ]
        y = circular_correlate(*leaves, axis=axis, form=form)
        target = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
        gradients.append(torch.autograd.grad((y * target).sum(), leaves))
    for spatial, spectral in zip(*gradients, strict=True):
        # The adjoints are correlations of at most 2 * 5 * 31 * 4 terms of size about 1: far
        # less than 1e4 roundings of 1e-16 each, relative to the largest.
        scale = float(spatial.abs().max()) + 1
        torch.testing.assert_close(spatial, spectral, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_keep_their_type_in_both_forms(dtype):
    x, weight, bias, pe = case(8, (1, 2, 3), "W", None, dtype)
    exact = equation(x, weight, bias, pe, "W")
    bound = spatial_bound(x.double(), weight.double(), bias.double(), pe.double(), "W")
    bound = bound / torch.finfo(torch.float64).eps * torch.finfo(dtype).eps
    for form in ("spatial", "spectral"):
        y = circular_correlate(x, weight, bias, pe, axis="W", form=form)
        assert y.dtype == dtype
        assert (np.abs(y.double().numpy() - exact) <= bound).all()


def test_bilinear_keeps_both_ends_and_stays_on_the_line_between():
    stored = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64).reshape(1, 1, 4, 1)
    longer = resize_taps(stored, 7, dim=2, resize="bilinear").flatten()
    expected = torch.tensor([0.0, 0.5, 1.0, 2.5, 4.0, 6.5, 9.0], dtype=torch.float64)
    torch.testing.assert_close(longer, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("resize", ["none", "bilinear", "bicubic", "crop"])
@pytest.mark.parametrize("dim", [2, 3])
def test_resizing_is_the_references(resize, dim):
    for stored, length in [(8, 8), (8, 5), (1, 1), (7, 1), (16, 14), (8, 10), (7, 23), (1, 6)]:
        if (resize == "none" and stored != length) or (resize == "crop" and length > stored):
            continue
        lines = torch.randn(3, 2, stored, generator=torch.Generator().manual_seed(1)).double()
        shaped = lines.unsqueeze(-1 if dim == 2 else -2)
        resized = resize_taps(shaped, length, dim=dim, resize=resize).squeeze(5 - dim)
        expected = torch.from_numpy(reference.resize(lines, length, resize))
        # A position errs by 3 roundings of at most 22; each weight's slope is below 3.
        torch.testing.assert_close(resized, expected, rtol=0, atol=4 * 3 * 66 * 1.2e-16 * 6)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dim", [2, 3])
def test_interpolation_keeps_the_ends_and_the_other_extents(resize, dim):
    stored = torch.randn(3, 2, 8, 1, generator=torch.Generator().manual_seed(0))
    stored = stored if dim == 2 else stored.mT
    for length in (2, 5, 7, 10, 29):
        resized = resize_taps(stored, length, dim=dim, resize=resize)
        assert resized.shape == ((3, 2, length, 1) if dim == 2 else (3, 2, 1, length))
        for end in (0, -1):
            torch.testing.assert_close(resized.select(dim, end), stored.select(dim, end))


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_one_stored_tap_becomes_a_constant(resize):
    resized = resize_taps(torch.full((1, 2, 1, 1), 0.25), 6, dim=2, resize=resize)
    assert torch.equal(resized, torch.full((1, 2, 6, 1), 0.25))


def test_crop_keeps_the_first_taps():
    stored = torch.arange(5.0).reshape(1, 1, 1, 5)
    assert resize_taps(stored, 3, dim=3, resize="crop").flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("resize", ["none", "bilinear", "bicubic", "crop"])
def test_equal_lengths_are_the_identity(resize):
    stored = torch.randn(1, 2, 5, 1)
    assert resize_taps(stored, 5, dim=2, resize=resize) is stored


def test_lengths_that_a_resize_cannot_reach_are_refused():
    stored = torch.zeros(1, 1, 5, 1)
    with pytest.raises(InputError, match=r"length 6 .* has 5 taps .* accepts only length 5"):
        resize_taps(stored, 6, dim=2, resize="none")
    with pytest.raises(InputError, match=r"length 6 .* accepts lengths 1 to 5\. Choose"):
        resize_taps(stored, 6, dim=2, resize="crop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": "V"}, r"unknown axis 'V': H \(dimension 2\) or W"),
        ({"form": "spectrl"}, r"unknown form 'spectrl': .* Did you mean spectral\?"),
        ({"x": torch.zeros(3, 7, 5)}, r"x must have shape \(B, C, H, W\).*not \(3, 7, 5\)"),
        ({"x": torch.zeros(1, 3, 0, 5)}, r"none of C, H, W 0"),
        ({"weight": torch.zeros(3, 6)}, r"\(3, 7\) or \(C_out, 3, 7\), not \(3, 6\)"),
        ({"weight": torch.zeros(4, 2, 7)}, r"\(C_out, 3, 7\), not \(4, 2, 7\)"),
        ({"bias": torch.zeros(2)}, r"bias must have shape \(3,\), not \(2,\)"),
        ({"position_embedding": torch.zeros(3, 5)}, r"must have shape \(3, 7\), not \(3, 5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    arguments = {
        "x": torch.zeros(1, 3, 7, 5),
        "weight": torch.zeros(3, 7),
        "bias": torch.zeros(3),
        "position_embedding": torch.zeros(3, 7),
        "axis": "H",
    }
    with pytest.raises(InputError, match=message):
        circular_correlate(**{**arguments, **change})
