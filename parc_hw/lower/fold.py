"""Which multiplications and additions in front of a ParC disappear into its constants?

A position embedding, or a BatchNorm that stands between embedding and kernel (ParC-Net), is a
chain of element-wise operations with constants:

    parc(x + t; w, pe) -> parc(x; w, pe + t)
    parc(x * s; w, pe) -> parc(x; w * s, pe / s)        s per channel, nowhere zero

Neither costs anything at run time, because the embedding starts the accumulators.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from parc_hw.lower.graph import Graph, Use, Vertex

__all__ = ["fold_into_parc"]


def _constant_operand(vertex: Vertex) -> tuple[Use, np.ndarray] | None:
    """The computed and the constant operand of a binary vertex, None when it has not one each."""
    if len(vertex.args) != 2:
        return None
    first, second = vertex.args
    if isinstance(first, Use) and isinstance(second, np.ndarray):
        return first, second
    if isinstance(second, Use) and isinstance(first, np.ndarray):
        return second, first
    return None


def _along(array: np.ndarray, axis: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """A constant over NHWC as (C, N) along `axis`; None when it varies along anything else."""
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    batch, height, width, _ = array.shape
    _, rows, columns, channels = shape
    if batch != 1 or (width if axis == "H" else height) != 1:
        return None
    length = rows if axis == "H" else columns
    line = array[0, :, 0, :] if axis == "H" else array[0, 0, :, :]
    return np.broadcast_to(line, (length, channels)).T.astype(np.float64)


def _absorb(
    before: Vertex, constant: np.ndarray, parc: Vertex, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """The (weight, pe) that make `before` needless, None when there are none."""
    line = _along(constant, parc.attrs["axis"], shape)
    if line is None:
        return None
    weight, embedding = (np.asarray(a, np.float64) for a in parc.args[1:3])
    if before.op == "relax.add":
        return weight, embedding + line
    scale = line[:, :1]
    if before.op != "relax.multiply" or not np.all(line == scale) or not np.all(scale):
        return None
    return weight * scale, embedding / scale


def fold_into_parc(graph: Graph) -> None:
    """Let every NHWC ParC of `graph` absorb what stands in front of it, in place.

    An operation is absorbed when the ParC is its only user, its constant does not vary along
    the axis that the kernel does not run along, and a scale has no zero.
    """
    users = graph.users()
    for number, vertex in enumerate(graph.vertices):
        if vertex.op != "relax.parc" or vertex.attrs["layout"] != "NHWC":
            continue
        parc = vertex
        while True:
            source = parc.uses()[0]
            before = graph.vertices[source]
            operands = _constant_operand(before)
            if operands is None or users[source] != [number]:
                break
            origin, constant = operands
            if graph.vertices[origin.vertex].shape != before.shape:
                break
            found = _absorb(before, constant, parc, before.shape)
            if found is None:
                break
            args: tuple[Any, ...] = (origin, *found, parc.args[3])
            parc = replace(parc, args=args)
            users[origin.vertex] = [number if u == source else u for u in users[origin.vertex]]
        constants = tuple(np.asarray(a, np.float32) for a in parc.args[1:])
        graph.vertices[number] = replace(parc, args=(parc.args[0], *constants))
