"""Does the reference compute what the authors' own code computed, tensor by tensor?

`golden_op_gcc_mf_block.npz` holds the outputs of the official `gcc_mf_block` (four channels per
half, bias, position embedding) for seven pairs of stored length K and feature size S. See
`tests/vectors/operator/README.md`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parc_hw.models.fill import image, parameter
from parc_hw.reference import (
    UNIT_ROUNDOFF,
    BatchNorm,
    algorithm_1_fourier,
    algorithm_1_spatial,
    depth_bound,
    direct_depth,
    fold_batch_norm,
    fold_position_embedding,
    parc,
    resize,
)

GOLDEN = np.load(Path(__file__).parents[1] / "vectors" / "operator" / "golden_op_gcc_mf_block.npz")
CASES = sorted({name.partition(":")[0] for name in GOLDEN.files})
SEED = 20220727
# half of the channels: its axes in order, and which norm stands before the first
HALVES = [("H", "W", "pre_Norm_1"), ("W", "H", "pre_Norm_2")]


def sizes(case):
    stored, _, size = case[1:].partition("_S")
    return int(stored), int(size)


def stored(kind, position, axis, length):
    """A parameter of the block as a (4, K) array, by the official name."""
    shape = {"kernel": (4, 1), "pe": (1, 4)}[kind] + ((length, 1) if axis == "H" else (1, length))
    return parameter(f"meta_{kind}_{position}_{axis}", shape, SEED).reshape(4, length)


def bias(position, axis):
    return parameter(f"meta_{position}_{axis}_bias", (4,), SEED)


def norm(name):
    entries = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = (parameter(f"{name}.{e}", (4,), SEED) for e in entries)
    return BatchNorm(gamma=gamma, beta=beta, mean=mean, variance=variance)


def half_of_image(size, index):
    return np.float64(image((1, 8, size, size), SEED)[:, 4 * index : 4 * index + 4])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("position, axis", [(1, "H"), (1, "W"), (2, "H"), (2, "W")])
def test_kernels_and_embeddings_are_resized_as_the_authors_code_does(case, position, axis):
    """Bilinear with align_corners in float32: a place within 3 roundings of K, two products."""
    length, size = sizes(case)
    for kind, official in (("kernel", "inst_kernel"), ("pe", "inst_pe")):
        values = stored(kind, position, axis, length)
        expected = GOLDEN[f"{case}:{official}_{position}_{axis}"].reshape(4, size)
        tolerance = (3 * length + 6) * UNIT_ROUNDOFF * 2 * np.abs(values).max()
        assert np.max(np.abs(resize(values, size) - expected)) <= tolerance


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("index", [0, 1])
def test_the_first_parc_of_each_half_with_its_norm_is_the_authors(case, index):
    """x + pe, BatchNorm, ParC with bias: spatial, Fourier and folded, against their float32."""
    length, size = sizes(case)
    axis, _, name = HALVES[index]
    x, n, b = half_of_image(size, index), norm(name), bias(1, axis)
    w, pe = (resize(stored(kind, 1, axis, length), size) for kind in ("kernel", "pe"))
    expected = GOLDEN[f"{case}:parc_out_1_{axis}"]
    normed = n(x + (pe[:, :, None] if axis == "H" else pe[:, None, :]))
    # float32 roundings: the sum of N products and its bias, 4 of the norm, 1 of x + pe; resized
    # kernel and embedding are off by (3 K + 6) u each as above.
    depth = direct_depth(size, fused=False) + 6 + 2 * (3 * length + 6)
    parts = np.abs(n.scale).max() * (np.abs(x).max() + np.abs(pe).max()) + np.abs(n.shift).max()
    tolerance = depth_bound(parts, w, depth=depth, constant=b)
    assert tolerance < 1e-3 * expected.std()

    for y in (
        parc(normed, w, axis=axis, bias=b),
        algorithm_1_spatial(normed, w, axis=axis, bias=b),
        algorithm_1_fourier(normed, w, axis=axis, bias=b),
    ):
        assert np.max(np.abs(y - expected)) <= tolerance
    kernel, constant = fold_batch_norm(w, n, position_embedding=pe, bias=b)
    folded = parc(x, kernel, axis=axis)
    folded += constant[:, :, None] if axis == "H" else constant[:, None, :]
    assert np.max(np.abs(folded - expected)) <= tolerance


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("index", [0, 1])
def test_the_second_parc_of_each_half_is_the_authors(case, index):
    """From the first one's recorded output: + pe along the other axis, ParC with bias, no norm."""
    length, size = sizes(case)
    first, axis, _ = HALVES[index]
    x, b = np.float64(GOLDEN[f"{case}:parc_out_1_{first}"]), bias(2, axis)
    w, pe = (resize(stored(kind, 2, axis, length), size) for kind in ("kernel", "pe"))
    expected = GOLDEN[f"{case}:parc_out_2_{axis}"]
    depth = direct_depth(size, fused=False) + 2 + 2 * (3 * length + 6)
    tolerance = depth_bound(np.abs(x).max() + np.abs(pe).max(), w, depth=depth, constant=b)
    assert tolerance < 1e-3 * expected.std()
    y = parc(x, w, axis=axis, position_embedding=pe, bias=b)
    assert np.max(np.abs(y - expected)) <= tolerance
    constant = fold_position_embedding(w, pe, b)
    folded = parc(x, w, axis=axis)
    folded += constant[:, :, None] if axis == "H" else constant[:, None, :]
    assert np.max(np.abs(folded - expected)) <= tolerance


@pytest.mark.parametrize("mistake", ["flipped kernel", "rolled kernel", "no embedding", "cropped"])
def test_the_vectors_would_show_a_misread_operator(mistake):
    length, size = 14, 28
    x = np.float64(GOLDEN["K14_S28:parc_out_1_H"])
    w, pe = (resize(stored(kind, 2, "W", length), size) for kind in ("kernel", "pe"))
    expected = GOLDEN["K14_S28:parc_out_2_W"]
    if mistake == "flipped kernel":
        w = w[:, ::-1]
    elif mistake == "rolled kernel":
        w = np.roll(w, size // 2, axis=1)
    elif mistake == "no embedding":
        pe = np.zeros_like(pe)
    else:
        w = np.pad(stored("kernel", 2, "W", length), ((0, 0), (0, size - length)))
    y = parc(x, w, axis="W", position_embedding=pe, bias=bias(2, "W"))
    assert np.max(np.abs(y - expected)) > 0.1 * expected.std()
