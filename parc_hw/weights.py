"""Which constants does a plan need, and in which order does a kernel read them?

A correlation of length N = n1 * n2 by a `SplitPlan` is `y = R' . B . R x (+ start values)`:

1. **Transform.** Write point i as `j * n2 + m` (j < n1, m < n2). For each m the n1 points
   `x[j * n2 + m]` go through the real DFT of length n1 (`parc_hw.dataflow.real_dft(n1)`). Its
   n1 half-complex outputs are *rows* `u[r][m]`: row 0 is re X[0]; rows 2k - 1 and 2k are re X[k]
   and im X[k] for 0 < k < n1/2; for even n1 the last row, n1 - 1, is re X[n1/2].
2. **Toeplitz products.** A *real* row r (k = 0 and k = n1/2) has weights t of length 2*n2 - 1::

       v[r][m] = z[r][m] + sum_q  t[m - q + n2 - 1] * u[r][q]               m, q < n2

   A *complex pair* of rows (r, r + 1) has weights tr and ti, each 2*n2 - 1 long::

       v[r][m]   = z[r][m]   + sum_q  tr[d] * u[r][q]   - ti[d] * u[r+1][q]
       v[r+1][m] = z[r+1][m] + sum_q  tr[d] * u[r+1][q] + ti[d] * u[r][q]   d = m - q + n2 - 1

3. **Transposed transform.** For each m the rows `v[.][m]` go through the transposed graph,
   `transpose(real_dft(n1))`, whose output j is `y[j * n2 + m]`.

The table of one kernel holds the rows' weights one after the other, so that row r starts at
`r * (2*n2 - 1)`: t for real rows, tr in the place of row 2k - 1 and ti in that of row 2k. The
start values are `z[r * n2 + m]`. Scales and the wrap factors of the residues are folded into the
table; position embedding and bias are folded into the start values and cost nothing at run time.

Sums start from z and run upwards in q, for each q tr's product before ti's: a kernel that is
written out (d then runs downwards) and one that is rolled have equal bits.
"""

from __future__ import annotations

import numpy as np

from parc_hw.errors import InputError
from parc_hw.plan import SplitPlan

__all__ = ["complex_rows", "fold_scale", "reference_split", "split_tables", "start_values"]


def complex_rows(n1: int) -> range:
    """The first rows of the complex pairs of a transform of length n1: 1, 3, 5, ...

    The remaining rows are real: row 0 and, for even n1 > 1, row n1 - 1.

    >>> list(complex_rows(7)), list(complex_rows(8)), list(complex_rows(1))
    ([1, 3, 5], [1, 3, 5], [])
    """
    return range(1, n1 - 1, 2)


def split_tables(weight: np.ndarray, plan: SplitPlan) -> np.ndarray:
    """Weights of the Toeplitz products of every kernel.

    Parameters
    ----------
    weight : array, shape (..., N)
        Correlation kernels: (C, N) depthwise, (C_out, C, N) dense.
    plan : SplitPlan
        A plan of length N.

    Returns
    -------
    float64 array, shape (..., n1 * (2*n2 - 1))
        In the order the module's docstring gives. The caller casts.

    Raises
    ------
    InputError
        The last axis of `weight` is not as long as the plan.

    Notes
    -----
    With w~[i] = w[-i mod N] the correlation is a cyclic convolution with w~, a product modulo
    z**N - 1 = prod_k (z**n2 - omega**k), omega = exp(2 pi i / n1). Modulo factor k the kernel is
    F[k][m] = sum_j w~[j*n2 + m] omega**(-jk), m < n2, and a term that passes z**n2 comes back times
    omega**-k: so the weight at m - q >= 0 is F[k][m - q], at m - q < 0 it is
    omega**-k F[k][m - q + n2]. Row scales are 1/n1 for real rows, 2/n1 for pairs, because the
    transposed graph leaves out the conjugate half.

    Examples
    --------
    The direct form's table is the kernel, twice round but for its first point:

    >>> split_tables(np.array([[1.0, 2.0, 3.0]]), SplitPlan(n1=1, n2=3))
    array([[3., 2., 1., 3., 2.]])
    """
    weight = _checked(weight, plan)
    n1, n2 = plan.n1, plan.n2
    reversed_ = np.roll(weight[..., ::-1], 1, axis=-1)
    residues = np.fft.fft(reversed_.reshape(*weight.shape[:-1], n1, n2), axis=-2)
    wrap = np.exp(-2j * np.pi * np.arange(n1) / n1)[:, None]
    toeplitz = np.concatenate([wrap * residues[..., 1:], residues], axis=-1)
    rows = _half_complex_rows(toeplitz, n1) * _row_scale(n1)
    return rows.reshape(*weight.shape[:-1], n1 * (2 * n2 - 1))


def start_values(
    weight: np.ndarray,
    pe: np.ndarray | None,
    bias: np.ndarray | None,
    plan: SplitPlan,
) -> np.ndarray:
    """What the accumulators of the Toeplitz products start from: bias and position embedding.

    The constant part of the output, `b + sum_k w[k] pe[(i+k) mod N]`, transformed as the rows are.

    Parameters
    ----------
    weight : array, shape (C, N) or (C_out, C, N)
        Correlation kernels.
    pe : array, shape (C, N), or None
        Position embedding, added to the input before the correlation.
    bias : array, shape (C,) or (C_out,), or None
        One per output channel.
    plan : SplitPlan
        A plan of length N.

    Returns
    -------
    float64 array, shape (C, N) or (C_out, N)
        Row r at `r * n2`. The caller casts.

    Raises
    ------
    InputError
        Shapes that do not fit together.
    """
    weight = _checked(weight, plan)
    if weight.ndim not in (2, 3):
        raise InputError(
            f"weight has shape {weight.shape}; accepted are (C, N) depthwise and (C_out, C, N) dense."
        )
    outputs, length = weight.shape[0], plan.length
    constant = np.zeros((outputs, length))
    if pe is not None:
        pe = np.asarray(pe, np.float64)
        if pe.shape != weight.shape[-2:]:
            raise InputError(
                f"position embedding has shape {pe.shape}; with weight {weight.shape} it must be "
                f"{weight.shape[-2:]}."
            )
        turned = pe[:, (np.arange(length)[:, None] + np.arange(length)) % length]
        constant += np.einsum("ck,cik->ci" if weight.ndim == 2 else "ock,cik->oi", weight, turned)
    if bias is not None:
        bias = np.asarray(bias, np.float64)
        if bias.shape != (outputs,):
            raise InputError(
                f"bias has shape {bias.shape}; with weight {weight.shape} it must be ({outputs},)."
            )
        constant += bias[:, None]
    spectrum = np.fft.fft(constant.reshape(outputs, plan.n1, plan.n2), axis=-2)
    rows = _half_complex_rows(spectrum, plan.n1) * _row_scale(plan.n1)
    return rows.reshape(outputs, length)


def reference_split(
    x: np.ndarray, tables: np.ndarray, start: np.ndarray, plan: SplitPlan
) -> np.ndarray:
    """The three stages in numpy, as the module's docstring states them: the oracle of kernels.

    Parameters
    ----------
    x : array, shape (..., C, N)
        Inputs, correlated along the last axis.
    tables : array, shape (C, T) or (C_out, C, T)
        From `split_tables`; with three axes the products are summed over C.
    start : array, shape (C, N) or (C_out, N)
        From `start_values`.
    plan : SplitPlan
        The plan both were made for.

    Returns
    -------
    array, shape (..., C, N) or (..., C_out, N)
        In the common dtype of the three arrays.

    Raises
    ------
    InputError
        Shapes that do not fit together.
    """
    n1, n2 = plan.n1, plan.n2
    count = 2 * n2 - 1
    dtype = np.result_type(x, tables, start)
    x, tables, start = (np.asarray(a, dtype) for a in (x, tables, start))
    channels = tables.shape[-2]
    if (
        tables.shape[-1] != n1 * count
        or start.shape != (tables.shape[0], plan.length)
        or x.shape[-2:] != (channels, plan.length)
    ):
        raise InputError(
            f"plan {plan} needs x (..., {channels}, {plan.length}), tables (..., {n1 * count}) and "
            f"start ({tables.shape[0]}, {plan.length}); got {x.shape}, {tables.shape}, {start.shape}."
        )
    transform = _transform_matrix(n1).astype(dtype)
    u = np.einsum("rj,...cjm->...crm", transform, x.reshape(*x.shape[:-1], n1, n2))
    band = np.arange(n2)[:, None] - np.arange(n2) + n2 - 1
    toeplitz = tables.reshape(*tables.shape[:-1], n1, count)[..., band]  # (..., C, n1, m, q)
    product = "crmq,...cq->...cm" if tables.ndim == 2 else "ocrmq,...cq->...om"

    def times(row: int, column: int) -> np.ndarray:
        """Weights of `row` applied to row `column` of u, for all channels."""
        return np.einsum(product.replace("r", ""), toeplitz[..., row, :, :], u[..., column, :])

    v = np.broadcast_to(start.reshape(-1, n1, n2), (*x.shape[:-2], start.shape[0], n1, n2)).copy()
    pairs = complex_rows(n1)
    for row in pairs:
        v[..., row, :] += times(row, row) - times(row + 1, row + 1)
        v[..., row + 1, :] += times(row, row + 1) + times(row + 1, row)
    for row in {0, n1 - 1} - {r + 1 for r in pairs}:
        v[..., row, :] += times(row, row)
    y = np.einsum("rj,...crm->...cjm", transform, v)
    return y.reshape(*v.shape[:-2], plan.length)


def fold_scale(
    weight: np.ndarray,
    bias: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of `scale * parc(x) + shift`, such as a batch-norm after the operator.

    The position embedding stays as it is: it passes through the scaled kernel.

    Parameters
    ----------
    weight : array, shape (C, N) or (C_out, C, N)
        Correlation kernels.
    bias : array, shape (C,) or (C_out,), or None
        One per output channel.
    scale, shift : array, shape (C,) or (C_out,)
        For batch-norm `gamma / sqrt(var + eps)` and `beta - mean * scale`.

    Returns
    -------
    weight, bias : float64 arrays
        Shapes of `weight` and `shift`.

    Raises
    ------
    InputError
        A vector that does not have one element per output channel.
    """
    weight = np.asarray(weight, np.float64)
    outputs = weight.shape[0]
    vectors = [
        np.zeros(outputs) if v is None else np.asarray(v, np.float64) for v in (bias, scale, shift)
    ]
    for name, vector in zip(("bias", "scale", "shift"), vectors, strict=True):
        if vector.shape != (outputs,):
            raise InputError(
                f"{name} has shape {vector.shape}; with weight {weight.shape} it must be "
                f"({outputs},), one per output channel."
            )
    bias_, scale_, shift_ = vectors
    return weight * scale_.reshape(-1, *[1] * (weight.ndim - 1)), bias_ * scale_ + shift_


def _checked(weight: np.ndarray, plan: SplitPlan) -> np.ndarray:
    weight = np.asarray(weight, np.float64)
    if weight.ndim == 0 or weight.shape[-1] != plan.length:
        raise InputError(
            f"weight has shape {weight.shape}, but plan {plan} covers length {plan.length}; "
            "the last axis must be that long."
        )
    return weight


def _half_complex_rows(spectrum: np.ndarray, n1: int) -> np.ndarray:
    """Rows (..., n1, m) from a full complex spectrum (..., n1, m)."""
    rows = np.empty(spectrum.shape)
    rows[..., 0, :] = spectrum[..., 0, :].real
    for row in complex_rows(n1):
        k = (row + 1) // 2
        rows[..., row, :] = spectrum[..., k, :].real
        rows[..., row + 1, :] = spectrum[..., k, :].imag
    if n1 % 2 == 0:
        rows[..., n1 - 1, :] = spectrum[..., n1 // 2, :].real
    return rows


def _row_scale(n1: int) -> np.ndarray:
    """1/n1 for real rows, 2/n1 for complex pairs; shape (n1, 1)."""
    scale = np.full((n1, 1), 1 / n1)
    for row in complex_rows(n1):
        scale[row : row + 2] = 2 / n1
    return scale


def _transform_matrix(n1: int) -> np.ndarray:
    """The real DFT of length n1 as a matrix, rows in half-complex order."""
    return _half_complex_rows(np.fft.fft(np.eye(n1), axis=0), n1)
