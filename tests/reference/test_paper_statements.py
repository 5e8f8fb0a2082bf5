"""Do the equations, Algorithm 1 and Theorem 1 say the same, and what the papers claim of them?

Where data are small integers every float64 sum is exact, and results must be equal. Elsewhere
the tolerance is derived: `depth_bound` for sums, `fourier_bound` for transforms.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parc_hw.errors import InputError
from parc_hw.reference import (
    algorithm_1_fourier,
    algorithm_1_spatial,
    depth_bound,
    dft,
    direct_depth,
    equation_2,
    equation_3,
    equation_4,
    inverse_dft,
    parc,
    theorem_1,
)

U64 = 2.0**-53
LENGTHS = range(1, 65)
AXES = ["H", "W"]


def integers(rng, *shape):
    return rng.integers(-8, 9, shape).astype(float)


def sum_bound(x, w, channels=1):
    """Two direct sums of the same terms in different orders: each is this far from the truth."""
    depth = direct_depth(np.shape(w)[-1], channels, fused=False)
    return 2 * depth_bound(x, w, depth=depth, unit_roundoff=U64)


def fourier_bound(x, w):
    """How far a correlation through three transforms may be from the exact one.

    However a transform of N points is factored, an operand meets at most N - 1 additions (an
    error of u each), a product with a root of unity (below 3 u) and that root's own error
    (its angle is below 2 pi and off by 2 u, cosine and sine round once: below 14 u). So each
    spectrum is off by g |.|_1 with g = (N + 20) u, which leaves room for second order. The
    spectra are at most |x|_1 and |w|_1, their product adds 3 u, the inverse transform g.
    """
    g = (np.shape(x)[-1] + 20) * U64
    return (3 * g + 3 * U64) * 1.01 * np.abs(x).sum(-1).max() * np.abs(w).sum(-1).max()


# ------------------------------------------------------------------ equation 2


@pytest.mark.parametrize("length", range(1, 17))
def test_equation_2_on_impulses_is_its_definition(length):
    """By linearity these N * N impulses fix the whole operator: y_i = 1 where i = j - k mod N."""
    eye = np.eye(length)
    for j in range(length):
        for k in range(length):
            assert np.array_equal(equation_2(eye[j], eye[k]), eye[(j - k) % length])


@pytest.mark.parametrize("length", LENGTHS)
def test_a_delta_kernel_is_the_identity_and_tap_k_fetches_k_points_ahead(length):
    x = np.random.default_rng(length).normal(size=length)
    for k in {0, 1 % length, length // 2, length - 1}:
        assert np.array_equal(equation_2(x, np.eye(length)[k]), np.roll(x, -k))


def test_parc_is_a_correlation_and_not_a_convolution():
    """No tap is flipped: flipping turns 2 x_i + 1 x_{i+1} into another operator."""
    x, w = np.array([1.0, 10.0, 100.0]), np.array([2.0, 1.0, 0.0])
    assert equation_2(x, w).tolist() == [12, 120, 201]
    assert equation_2(x, w[::-1]).tolist() == [210, 102, 21]


@given(st.data())
def test_parc_is_linear_in_signal_and_in_kernel(data):
    n = data.draw(st.integers(1, 12))
    line = hnp.arrays(float, n, elements=st.integers(-99, 99))
    x, z, w = (data.draw(line) for _ in range(3))
    assert np.array_equal(equation_2(x + z, w), equation_2(x, w) + equation_2(z, w))
    assert np.array_equal(equation_2(w, x + z), equation_2(w, x) + equation_2(w, z))


@pytest.mark.parametrize("length", LENGTHS)
def test_without_position_embedding_a_shifted_input_gives_the_shifted_output(length):
    """Circular shifts, all of them, bit for bit: the terms are summed in the same order."""
    rng = np.random.default_rng(length)
    x, w = rng.normal(size=(2, length))
    y = equation_2(x, w, bias=0.25)
    for shift in range(length):
        assert np.array_equal(equation_2(np.roll(x, shift), w, bias=0.25), np.roll(y, shift))


def test_with_position_embedding_the_operator_knows_where_things_are():
    x, w, pe = np.array([1.0, 0, 0]), np.array([1.0, 1, 0]), np.array([0.0, 5, 0])
    y = equation_2(x, w, position_embedding=pe)
    shifted = equation_2(np.roll(x, 1), w, position_embedding=pe)
    assert not np.array_equal(shifted, np.roll(y, 1))
    zero = np.zeros(3)
    assert np.array_equal(equation_2(x, w, position_embedding=zero), equation_2(x, w))


# ------------------------------------------------------------------ Theorem 1


@pytest.mark.parametrize("length", LENGTHS)
def test_theorem_1_for_every_length(length):
    """Y(k) = conj(W(k)) X(k): three transforms of different make against the sum."""
    rng = np.random.default_rng(length)
    x, w = rng.normal(size=(2, length))
    y = equation_2(x, w)
    tolerance = fourier_bound(x, w) + sum_bound(x, w)
    by_definition = inverse_dft(theorem_1(x, w))
    assert np.max(np.abs(by_definition - y)) <= tolerance
    real = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(w)), n=length)
    assert np.max(np.abs(real - y)) <= tolerance


@pytest.mark.parametrize("length", LENGTHS)
def test_theorem_1_is_exact_on_integers_after_rounding(length):
    rng = np.random.default_rng(length)
    x, w = integers(rng, length), integers(rng, length)
    assert np.array_equal(np.rint(inverse_dft(theorem_1(x, w)).real), equation_2(x, w))


def test_the_tolerance_of_theorem_1_would_notice_a_missing_conjugate():
    for length in range(3, 65):
        x, w = np.random.default_rng(length).normal(size=(2, length))
        wrong = inverse_dft(dft(w) * dft(x)).real
        assert np.max(np.abs(wrong - equation_2(x, w))) > 1e6 * fourier_bound(x, w)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_dft_is_numpy_s_and_its_inverse_undoes_it(length):
    rng = np.random.default_rng(length)
    x = rng.normal(size=length) + 1j * rng.normal(size=length)
    g = (length + 20) * U64 * np.abs(x).sum()
    assert np.max(np.abs(dft(x) - np.fft.fft(x))) <= 2 * g
    assert np.max(np.abs(inverse_dft(dft(x)) - x)) <= 2 * g


# ------------------------------------------------------------------ equations 3 and 4


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("height, width", [(1, 1), (1, 6), (6, 1), (5, 8), (7, 7)])
def test_each_line_of_equation_3_is_equation_2(axis, height, width):
    rng = np.random.default_rng(3)
    x = integers(rng, 2, 3, height, width)
    length = height if axis == "H" else width
    w, pe, b = integers(rng, 3, length), integers(rng, 3, length), integers(rng, 3)
    y = equation_3(x, w, axis=axis, position_embedding=pe, bias=b)
    for n in range(2):
        for c in range(3):
            lines = x[n, c].T if axis == "H" else x[n, c]
            results = y[n, c].T if axis == "H" else y[n, c]
            for line, result in zip(lines, results, strict=True):
                expected = equation_2(line, w[c], position_embedding=pe[c], bias=b[c])
                assert np.array_equal(result, expected)


@pytest.mark.parametrize("dense", [False, True])
def test_h_of_x_is_w_of_x_transposed(dense):
    """H(x) = W(x^T)^T, bit for bit."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 3, 5, 7))
    w = rng.normal(size=(4, 3, 5) if dense else (3, 5))
    pe, b = rng.normal(size=(3, 5)), rng.normal(size=4 if dense else 3)
    along_h = parc(x, w, axis="H", position_embedding=pe, bias=b)
    along_w = parc(x.swapaxes(2, 3), w, axis="W", position_embedding=pe, bias=b)
    assert np.array_equal(along_h, along_w.swapaxes(2, 3))


@pytest.mark.parametrize("axis", AXES)
def test_images_of_a_batch_and_depthwise_channels_do_not_mix(axis):
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(3, 4, 6, 6)), rng.normal(size=(4, 6))
    y = equation_3(x, w, axis=axis)
    for n in range(3):
        assert np.array_equal(equation_3(x[n : n + 1], w, axis=axis)[0], y[n])
    for c in range(4):
        alone = equation_3(x[:, c : c + 1], w[c : c + 1], axis=axis)
        assert np.array_equal(alone[:, 0], y[:, c])


@pytest.mark.parametrize("axis", AXES)
def test_dense_is_the_sum_of_depthwise_over_the_input_channels(axis):
    rng = np.random.default_rng(6)
    x, w = integers(rng, 2, 3, 4, 4), integers(rng, 5, 3, 4)
    pe, b = integers(rng, 3, 4), integers(rng, 5)
    y = equation_4(x, w, axis=axis, position_embedding=pe, bias=b)
    for co in range(5):
        depthwise = equation_3(x, w[co], axis=axis, position_embedding=pe)
        assert np.array_equal(y[:, co], depthwise.sum(axis=1) + b[co])


@pytest.mark.parametrize("axis", AXES)
def test_a_dense_kernel_that_is_diagonal_is_depthwise(axis):
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(2, 3, 5, 5)), rng.normal(size=(3, 5))
    diagonal = np.zeros((3, 3, 5))
    diagonal[range(3), range(3)] = w
    assert np.array_equal(equation_4(x, diagonal, axis=axis), equation_3(x, w, axis=axis))


# ------------------------------------------------------------------ Algorithm 1


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 14, 28, 31])
def test_the_forms_of_algorithm_1_are_equation_3(length, axis):
    rng = np.random.default_rng(length)
    shape = (2, 3, length, 4) if axis == "H" else (2, 3, 4, length)
    x, (w, pe), b = rng.normal(size=shape), rng.normal(size=(2, 3, length)), rng.normal(size=3)
    arguments = {"axis": axis, "position_embedding": pe, "bias": b}
    y = equation_3(x, w, **arguments)
    x_p = x + (pe[:, :, None] if axis == "H" else pe[:, None, :])
    near = sum_bound(x_p, w) + 4 * U64 * np.abs(b).max()
    assert np.max(np.abs(algorithm_1_spatial(x, w, **arguments) - y)) <= near
    lines = x_p.swapaxes(2, 3) if axis == "H" else x_p
    near += fourier_bound(lines, w)
    assert np.max(np.abs(algorithm_1_fourier(x, w, **arguments) - y)) <= near
    assert np.max(np.abs(algorithm_1_fourier(x, w, real=True, **arguments) - y)) <= near


@pytest.mark.parametrize("axis", AXES)
def test_the_spatial_form_is_exact_on_integers(axis):
    rng = np.random.default_rng(8)
    x, w = integers(rng, 2, 3, 6, 6), integers(rng, 3, 6)
    assert np.array_equal(algorithm_1_spatial(x, w, axis=axis), equation_3(x, w, axis=axis))


def test_the_real_transform_keeps_an_odd_length():
    """irfft without n would give N - 1 points for odd N."""
    x = np.arange(1.0, 8.0).reshape(1, 1, 1, 7)
    y = algorithm_1_fourier(x, np.eye(7)[:1], axis="W", real=True)
    assert y.shape == x.shape


# ------------------------------------------------------------------ what is not a ParC

X = np.zeros((1, 3, 4, 5))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: equation_2(np.zeros((2, 3)), [0]), r"x has the shape \(2, 3\); accepted: \(N,\)"),
        (lambda: equation_2([], []), r"x has the shape \(0,\); accepted: \(N,\)"),
        (lambda: equation_2([1, 2], [1, 2, 3]), "stored length 3 does not fit an axis of 2 points"),
        (lambda: equation_3(X[0], [[0]], axis="H"), r"accepted: \(B, C, H, W\)"),
        (lambda: equation_3(X, np.zeros((2, 4)), axis="H"), r"w .* \(2, 4\); accepted: \(3, 4\)"),
        (lambda: equation_3(X, np.zeros((3, 4)), axis="W"), "does not fit an axis of 5 points"),
        (lambda: equation_3(X, np.zeros((3, 4)), axis="V"), "axis must be H"),
        (
            lambda: equation_3(X, np.zeros((3, 4)), axis="H", bias=[1.0]),
            r"bias has the shape \(1,\); accepted: \(3,\)",
        ),
        (
            lambda: equation_3(X, np.zeros((3, 4)), axis="H", position_embedding=np.zeros((2, 4))),
            r"position_embedding has the shape \(2, 4\); accepted: \(3, 4\)",
        ),
        (lambda: equation_4(X, np.zeros((2, 2, 4)), axis="H"), r"accepted: \(C_out, 3, 4\)"),
        (lambda: parc(X, np.zeros(4), axis="H"), r"w has 1 dimensions; accepted: \(C, K\)"),
        (lambda: algorithm_1_spatial(X, np.zeros((3, 5)), axis="H"), r"accepted: \(3, 4\)"),
        (lambda: algorithm_1_fourier(X, np.zeros((3, 5)), axis="H"), r"accepted: \(3, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
