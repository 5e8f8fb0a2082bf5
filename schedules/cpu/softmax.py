"""Which kernel computes a softmax over the last axis?

A row is read for its maximum, then its exponentials are written and summed, then scaled: three
passes in the nearest cache. Maxima and sums run in several vectors, combined in a fixed order.
"""

from __future__ import annotations

import math
from typing import Any

from schedules.cpu.activation import exp
from schedules.cpu.norm import over_vectors, reduce_row
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled
from schedules.tir import Emitter

__all__ = ["softmax"]

NAME = "softmax"


def softmax(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """y = exp(x - max x) / sum exp(x - max x) along the last axis.

    Parameters
    ----------
    composite : Composite
        `relax.nn.softmax` over the last axis, alone.
    context : Context
        The device gives the vector width.

    Notes
    -----
    Relative error of each result below 3e-7 + (L / 4 + 16) 2^-24 for rows of L elements (`exp`
    and the sum's roundings). An element 87 or more below the maximum counts as exp(-87) = 2e-38.
    """
    node = composite.nodes[0]
    if node.op != "relax.nn.softmax":
        return NotApplicable(NAME, f"the anchor is {node.op}, not relax.nn.softmax")
    if len(composite.nodes) > 1:
        return NotApplicable(NAME, "it takes no epilogue")
    (x_ref,) = node.args[:1]
    if not (isinstance(x_ref, Ref) and x_ref.kind == "input"):
        return NotApplicable(NAME, "its operand is not an input of the composite")
    axis = int(node.attrs["axis"])
    if axis % len(node.shape) != len(node.shape) - 1:
        return NotApplicable(NAME, f"axis {axis} is not the last")

    length = node.shape[-1]
    rows = math.prod(node.shape[:-1])
    e = Emitter(context.device)
    x = e.parameter("x", rows * length)
    y = e.parameter("y", rows * length)
    lanes = context.device.lanes()

    with e.parallel(rows) as row:
        base = e.bind(row * length, "base")
        most = reduce_row(
            e,
            length,
            lanes,
            lambda most, at, width: e.maximum(most, e.load(x, base + at, width)),
            combine=e.maximum,
            initial=-math.inf,
        )

        def exponential(total: Any, at: Any, width: int) -> Any:
            value = exp(e, e.bind(e.load(x, base + at, width) - e.splat(most, width)))
            e.store(y, base + at, value)
            return total + value

        total = reduce_row(e, length, lanes, exponential)
        inverse = e.bind(1.0 / total, "inverse")

        def scale(at: Any, width: int) -> None:
            e.store(y, base + at, e.load(y, base + at, width) * e.splat(inverse, width))

        over_vectors(e, length, lanes, scale)

    return Scheduled(
        func=e.finish(),
        inputs=(x_ref.index,),
        constants=(),
        rule=NAME,
        note=f"{rows} rows of {length}, three passes",
    )
