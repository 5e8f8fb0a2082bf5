"""Is the frozen form (one kernel, one constant map) the operator with its embedding and norm?"""

from __future__ import annotations

import numpy as np
import pytest

from parc_hw.errors import InputError
from parc_hw.reference import (
    BatchNorm,
    depth_bound,
    direct_depth,
    fold_batch_norm,
    fold_position_embedding,
    parc,
)

U64 = 2.0**-53


def integers(rng, *shape):
    return rng.integers(-8, 9, shape).astype(float)


def as_map(constant, axis):
    """A constant (C, N) as it is added to an NCHW map."""
    return constant[:, :, None] if axis == "H" else constant[:, None, :]


@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 14])
def test_position_embedding_and_bias_fold_exactly_into_one_map(length, dense, axis):
    """corr(x + pe, w) + b = corr(x, w) + (corr(pe, w) + b), exact on integers."""
    rng = np.random.default_rng(length)
    x = integers(rng, 2, 3, length, 5) if axis == "H" else integers(rng, 2, 3, 5, length)
    w = integers(rng, 4, 3, length) if dense else integers(rng, 3, length)
    pe, b = integers(rng, 3, length), integers(rng, len(w))
    constant = fold_position_embedding(w, pe, b)
    assert constant.shape == (len(w), length)
    frozen = parc(x, w, axis=axis) + as_map(constant, axis)
    assert np.array_equal(frozen, parc(x, w, axis=axis, position_embedding=pe, bias=b))


def test_a_constant_embedding_is_a_bias():
    w, pe = np.array([[1.0, 2.0, 3.0]]), np.full((1, 3), 10.0)
    assert fold_position_embedding(w, pe, [0.5]).tolist() == [[60.5, 60.5, 60.5]]


@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 14])
def test_embedding_norm_and_kernel_fold_into_kernel_and_map(length, embedded, dense, axis):
    """ParC-Net's first block of a stage: x + pe, BatchNorm, ParC with bias."""
    rng = np.random.default_rng(length)
    x = rng.normal(size=(2, 3, length, 5) if axis == "H" else (2, 3, 5, length))
    w = rng.normal(size=(4, 3, length) if dense else (3, length))
    b = rng.normal(size=len(w))
    pe = rng.normal(size=(3, length)) if embedded else None
    norm = BatchNorm(
        gamma=rng.normal(size=3),
        beta=rng.normal(size=3),
        mean=rng.normal(size=3),
        variance=rng.uniform(0.1, 2, size=3),
    )
    embedding = np.zeros((3, length)) if pe is None else pe
    normed = norm(x + as_map(embedding, axis))
    y = parc(normed, w, axis=axis, bias=b)
    kernel, constant = fold_batch_norm(w, norm, position_embedding=pe, bias=b)
    assert kernel.shape == w.shape
    frozen = parc(x, kernel, axis=axis) + as_map(constant, axis)
    # Both sides sum the same terms s (x + pe) + t; the parts before they cancel bound the error.
    parts = np.abs(norm.scale).max() * (np.abs(x).max() + np.abs(embedding).max())
    parts += np.abs(norm.shift).max()
    depth = direct_depth(length, 3 if dense else 1, fused=False) + 8
    tolerance = 2 * depth_bound(parts, w, depth=depth, constant=b, unit_roundoff=U64)
    assert np.max(np.abs(frozen - y)) <= tolerance


def test_batch_norm_takes_the_variance_and_not_the_deviation():
    norm = BatchNorm(gamma=[2.0], beta=[1.0], mean=[3.0], variance=[4.0], epsilon=0.0)
    assert norm(np.full((1, 1, 1, 1), 7.0)).item() == 2 * (7 - 3) / 2 + 1


@pytest.mark.torch
def test_batch_norm_is_torch_s_in_evaluation():
    import torch

    rng = np.random.default_rng(0)
    x, gamma, beta, mean = rng.normal(size=(2, 3, 4, 5)), *rng.normal(size=(3, 3))
    variance = rng.uniform(0.1, 2, size=3)
    tensors = [torch.from_numpy(a) for a in (x, mean, variance, gamma, beta)]
    expected = torch.nn.functional.batch_norm(*tensors, training=False, eps=1e-3).numpy()
    norm = BatchNorm(gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=1e-3)
    parts = np.abs(norm.scale).max() * (np.abs(x).max() + np.abs(mean).max()) + np.abs(beta).max()
    assert np.max(np.abs(norm(x) - expected)) <= 16 * U64 * parts


def test_shapes_that_do_not_fit_are_refused():
    norm = BatchNorm(gamma=[1.0], beta=[0.0], mean=[0.0], variance=[1.0])
    with pytest.raises(InputError, match=r"w has the shape \(2, 5\); accepted: \(1, N\) or"):
        fold_batch_norm(np.zeros((2, 5)), norm)
    with pytest.raises(InputError, match=r"position_embedding .* accepted: \(C, N\)"):
        fold_position_embedding(np.zeros((1, 5)), np.zeros(5))
    with pytest.raises(InputError, match="stored length 4 does not fit an axis of 5 points"):
        fold_position_embedding(np.zeros((1, 4)), np.zeros((1, 5)))
