"""What is a depthwise ParC in float64, and how far may a float32 kernel be from it?"""

from __future__ import annotations

import numpy as np
from composites import U

from parc_hw.dataflow import absolute, count, evaluate, real_dft, transpose
from parc_hw.weights import complex_rows, split_tables, start_values


def correlate(x, weight, pe, bias, axis):
    """Equation 3, term by term, along axis 1 (H) or 2 (W) of NHWC, in float64."""
    position = 1 if axis == "H" else 2
    shape = [1, 1, 1, weight.shape[0]]
    shape[position] = weight.shape[1]
    x = x.astype(float) + pe.T.astype(float).reshape(shape)
    result = np.zeros(x.shape) + bias.astype(float)
    for k in range(weight.shape[1]):
        result += weight[:, k].astype(float) * np.roll(x, -k, axis=position)
    return result


def bound_of(x, weight, pe, bias, axis, plan):
    """How far the kernel's float32 result may be from `correlate`'s: magnitudes through the stages.

    Every value of a stage errs by at most (roundings so far) * U times the sum of magnitudes that
    flow into it; table and start values are rounded once themselves.
    """
    moved = np.moveaxis(x, 1 if axis == "H" else 2, 0)  # (N, ..., C)
    n1, n2 = plan.n1, plan.n2
    band = np.arange(n2)[:, None] - np.arange(n2) + n2 - 1
    tables = abs(split_tables(weight, plan)).reshape(-1, n1, 2 * n2 - 1)[..., band]
    start = abs(start_values(weight, pe, bias, plan)).reshape(-1, n1, n2)
    forward = real_dft(n1)
    u = evaluate(absolute(forward), abs(moved.astype(float)).reshape(n1, n2, *moved.shape[1:]))
    v = np.zeros(u.shape)
    pairs = complex_rows(n1)
    for row in range(n1):
        first = row if row in pairs else row - 1 if row - 1 in pairs else None
        terms = [(row, row)] if first is None else [(first, row), (first + 1, 2 * first + 1 - row)]
        v[row] = start[:, row].T.reshape(n2, 1, 1, -1)
        for table, other in terms:
            v[row] += np.einsum("cmq,qabc->mabc", tables[:, table], u[other])
    y = evaluate(absolute(transpose(forward)), v).reshape(moved.shape)
    roundings = count(forward).depth + 2 * n2 + 1 + count(transpose(forward)).depth
    return np.moveaxis(1.05 * roundings * U * y, 0, 1 if axis == "H" else 2)


def twice(x, first, second, plans):
    """(value, bound) of a correlation of the result of another; (weight, pe, bias, axis) each.

    The second adds its own roundings on values that err by e already, and carries e on: |w| e.
    """
    between = correlate(x, *first)
    error = bound_of(x, *first, plans[0])
    weight, pe, bias, axis = second
    own = bound_of(abs(between) + error, weight, pe, bias, axis, plans[1])
    carried = correlate(error, abs(weight), pe * 0, bias * 0, axis)
    return correlate(between, *second), own + carried
