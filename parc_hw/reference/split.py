"""What does the split form N = n1 * n2 compute, as its derivation says?

The float kernels are this with fast transforms (`docs/operator.md` has the derivation).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.errors import InputError
from parc_hw.plan import SplitPlan
from parc_hw.reference.dft import dft, inverse_dft

__all__ = ["split_correlate"]


def split_correlate(x: ArrayLike, w: ArrayLike, plan: SplitPlan) -> NDArray[np.float64]:
    """Circular correlation through the residues modulo z**n2 - omega**k, k = 0 .. n1 - 1.

    Parameters
    ----------
    x, w : array, shape (..., N)
        Real signal and kernel; N = n1 * n2.
    plan : SplitPlan
        n1 = 1 is equation 2, n2 = 1 is Theorem 1.

    Returns
    -------
    float64 array, shape (..., N)
        y_i = sum_k w_k x_{(k+i) mod N}.

    Raises
    ------
    InputError
        The last axes are not both of the plan's length.

    Examples
    --------
    >>> split_correlate([1, 2, 3, 4], [0, 1, 0, 0], SplitPlan(n1=2, n2=2))
    array([2., 3., 4., 1.])
    """
    n1, n2 = plan.n1, plan.n2
    signal, kernel = np.asarray(x, dtype=np.float64), np.asarray(w, dtype=np.float64)
    for name, values in (("x", signal), ("w", kernel)):
        if values.shape[-1:] != (plan.length,):
            raise InputError(
                f"{name} has the shape {values.shape}; accepted for the plan {plan}: "
                f"(..., {plan.length})."
            )
    reverse = kernel[..., -np.arange(plan.length) % plan.length]  # W(1/z): tap n goes to -n

    def residues(values: NDArray[np.float64]) -> NDArray[np.complex128]:
        """R_k[r] = sum_m values[m n2 + r] omega**(k m), shape (..., n2, n1), omega of order n1."""
        blocks = values.reshape(*values.shape[:-1], n1, n2)
        return dft(np.swapaxes(blocks, -1, -2))

    omega = np.exp(-2j * np.pi * np.arange(n1) / n1)
    x_k, w_k = residues(signal), residues(reverse)
    y_k = np.zeros(np.broadcast_shapes(x_k.shape, w_k.shape), dtype=np.complex128)
    for r in range(n2):
        for s in range(n2):
            # A Toeplitz product: z**n2 = omega**k brings what runs over the end back to the front.
            toeplitz = w_k[..., r - s, :] if s <= r else omega * w_k[..., n2 + r - s, :]
            y_k[..., r, :] += toeplitz * x_k[..., s, :]
    blocks = np.swapaxes(inverse_dft(y_k).real, -1, -2)
    return np.ascontiguousarray(blocks).reshape(*y_k.shape[:-2], plan.length)
