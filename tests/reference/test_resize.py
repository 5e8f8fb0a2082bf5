"""Does f(w, N) resize as the official code's call of torch does, for every pair of lengths?"""

from __future__ import annotations

import numpy as np
import pytest

from parc_hw.errors import InputError
from parc_hw.reference import RESIZES, parc, resize


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_is_torch_s_with_align_corners(mode):
    """All stored lengths to all lengths up to 17, and the official pairs 32, 16, 8, 14, 7 to 56.

    Both compute a place i (K - 1) / (N - 1) within 3 roundings of at most K, and weigh at most
    four values with weights that sum to at most 1.5 in size and change by at most 3 per unit:
    3 * 3 K u for the place and some 20 u for weights and sum.
    """
    import torch

    rng = np.random.default_rng(0)
    pairs = [(k, n) for k in range(1, 18) for n in range(1, 18)]
    pairs += [(k, n) for k in (7, 8, 14, 16, 32) for n in (7, 10, 20, 28, 42, 56)]
    for stored, length in pairs:
        w = rng.normal(size=(3, stored))
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(w)[:, None, :, None],
            size=(length, 1),
            mode=mode,
            align_corners=True,
        )[:, 0, :, 0].numpy()
        tolerance = (9 * stored + 20) * 4 * 2.0**-53 * np.abs(w).max()
        assert np.max(np.abs(resize(w, length, mode) - expected)) <= tolerance, (stored, length)


@pytest.mark.parametrize("mode", RESIZES)
@pytest.mark.parametrize("length", [1, 2, 7, 14, 32])
def test_every_mode_is_the_identity_at_the_stored_length(mode, length):
    w = np.random.default_rng(length).normal(size=(2, length))
    tolerance = 0 if mode != "bicubic" else 8 * 2.0**-53 * np.abs(w).max()
    assert np.max(np.abs(resize(w, length, mode) - w)) <= tolerance


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_ends_stay_the_ends_and_constants_stay_constant(mode):
    w = np.array([3.0, -1.0, 4.0, 1.0, -5.0])
    for length in range(2, 40):
        resized = resize(w, length, mode)
        assert resized[0] == pytest.approx(3.0, abs=1e-14)
        assert resized[-1] == pytest.approx(-5.0, abs=1e-14)
        assert np.allclose(resize(np.ones(5), length, mode), 1, rtol=0, atol=1e-14)


def test_bilinear_reproduces_straight_lines():
    """Integers on a line, refined by a whole factor, are exact in binary."""
    assert resize([0, 8, 16], 9).tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]


def test_a_single_stored_value_serves_every_length_and_one_point_takes_the_first():
    for mode in ("bilinear", "bicubic"):
        assert resize([2.5], 4, mode).tolist() == [2.5] * 4
        assert resize([1.0, 2.0, 3.0], 1, mode).tolist() == [1.0]


def test_crop_takes_the_first_taps():
    assert resize([[1, 2, 3], [4, 5, 6]], 2, "crop").tolist() == [[1, 2], [4, 5]]


def test_resizing_does_not_touch_what_is_stored():
    w = np.ones((1, 4))
    for mode in RESIZES:
        resize(w, 4, mode)[:] = 0
    assert np.array_equal(w, np.ones((1, 4)))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "crop"])
def test_kernel_and_position_embedding_are_resized_alike_inside_the_operator(mode):
    rng = np.random.default_rng(1)
    x, w, pe = rng.normal(size=(1, 2, 5, 3)), rng.normal(size=(2, 8)), rng.normal(size=(2, 7))
    inside = parc(x, w, axis="H", position_embedding=pe, resize=mode)
    outside = parc(x, resize(w, 5, mode), axis="H", position_embedding=resize(pe, 5, mode))
    assert np.array_equal(inside, outside)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ([1, 2], 3, "none"),
            'stored length 2 does not fit an axis of 3 points, and resize is "no',
        ),
        (([1, 2], 3, "crop"), r"cannot crop 2 stored points to 3\. Use bilinear or bicubic"),
        (([1, 2], 0, "bilinear"), "cannot resize to 0 points; accepted: at least 1"),
        (([], 3, "bilinear"), r"nothing to resize: the stored shape is \(0,\)"),
        ((1.0, 3, "bilinear"), r"nothing to resize: the stored shape is \(\)"),
        (([1], 3, "billinear"), "no resize is called 'billinear'. Did you mean bilinear"),
    ],
)
def test_what_a_mode_cannot_serve_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        resize(*arguments)
