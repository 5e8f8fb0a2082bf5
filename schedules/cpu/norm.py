"""Which kernel computes a layer normalisation over the channels of NHWC?

Each row is read three times while it is in the first cache: its mean, the mean square of what
differs from it (two passes: no cancellation), and the result. Sums run in several vectors, which
are added up in a fixed order. The loops stay rolled and the vectors go through small buffers:
written out as one long chain of values, 384 channels compile for 54 seconds.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from schedules._tvm import tirx
from schedules.cpu import epilogue
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled
from schedules.tir import Emitter, pieces

__all__ = ["layer_norm", "over_vectors", "reduce_row"]

NAME = "layer_norm"

SIDE = 4  # vectors combined side by side: the latency of an addition on the devices described


def layer_norm(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta over the last axis.

    Parameters
    ----------
    composite : Composite
        `relax.nn.layer_norm` over the last axis with constant gamma and beta, then its
        epilogue, whose leading scale and shift go into gamma and beta.
    context : Context
        The device gives the vector width.
    """
    node = composite.nodes[0]
    if node.op != "relax.nn.layer_norm":
        return NotApplicable(NAME, f"the anchor is {node.op}, not relax.nn.layer_norm")
    x_ref, gamma, beta = node.args[:3]
    if not (isinstance(x_ref, Ref) and x_ref.kind == "input"):
        return NotApplicable(NAME, "the normalised tensor is not an input of the composite")
    if not (isinstance(gamma, np.ndarray) and isinstance(beta, np.ndarray)):
        return NotApplicable(NAME, "gamma or beta is computed at run time")
    axes = node.attrs["axes"]
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    if [a % len(node.shape) for a in axes] != [len(node.shape) - 1]:
        return NotApplicable(NAME, f"axes {axes} are not the last axis alone")
    tail = epilogue.parse(composite)
    if isinstance(tail, str):
        return NotApplicable(NAME, tail)

    channels = node.shape[-1]
    rows = math.prod(node.shape[:-1])
    centre = node.attrs.get("center", True)
    spread = node.attrs.get("scale", True)
    scale = tail.scale * (gamma.astype(np.float64).reshape(-1) if spread else 1.0)
    shift = tail.shift + tail.scale * (beta.astype(np.float64).reshape(-1) if centre else 0.0)

    e = Emitter(context.device)
    x = e.parameter("x", rows * channels)
    inputs = tail.declare_inputs(e, composite)
    scales = e.parameter("scale", channels)
    shifts = e.parameter("shift", channels)
    operands = epilogue.Operands(inputs, tail.declare_constants(e))
    y = e.parameter("y", rows * channels)
    lanes = context.device.lanes()

    with e.parallel(rows) as row:
        base = e.bind(row * channels, "base")
        total = reduce_row(
            e, channels, lanes, lambda total, at, width: total + e.load(x, base + at, width)
        )
        mean = e.bind(total * (1.0 / channels), "mean")

        def square(total: Any, at: Any, width: int) -> Any:
            difference = e.bind(e.load(x, base + at, width) - e.splat(mean, width))
            return e.fma(difference, difference, total)

        variance = reduce_row(e, channels, lanes, square) * (1.0 / channels)
        inverse = e.bind(
            1.0 / tirx.sqrt(variance + float(node.attrs.get("epsilon", 1e-5))), "inverse"
        )

        def normalise(at: Any, width: int) -> None:
            difference = e.bind(e.load(x, base + at, width) - e.splat(mean, width))
            factor = e.bind(e.load(scales, at, width) * e.splat(inverse, width))
            value = e.bind(e.fma(difference, factor, e.load(shifts, at, width)))
            place = base + at
            e.store(y, place, tail.apply(e, value, at=place, channel=at, operands=operands))

        over_vectors(e, channels, lanes, normalise)

    return Scheduled(
        func=e.finish(),
        inputs=(x_ref.index, *tail.inputs),
        constants=(scale.astype(np.float32), shift.astype(np.float32), *tail.constants),
        rule=NAME,
        note=f"{rows} rows of {channels}, two passes",
    )


def over_vectors(e: Emitter, length: int, lanes: int, body: Callable[[Any, int], None]) -> None:
    """Run `body(first element, width)` over full vectors, then over what is left of them."""
    full = length // lanes
    if full:
        with e.loop(full, name="vector") as i:
            body(e.bind(i * lanes, "at"), lanes)
    at = full * lanes
    for width in pieces(length - at, lanes):
        body(at, width)
        at += width


def reduce_row(
    e: Emitter,
    length: int,
    lanes: int,
    step: Callable[[Any, Any, int], Any],
    *,
    combine: Callable[[Any, Any], Any] = operator.add,
    initial: float = 0.0,
) -> Any:
    """Combine `length` elements, several vectors side by side and always in the same order.

    Parameters
    ----------
    step : callable
        step(partial, at, width) gives the partial vector joined with the elements from `at`.
    combine : callable
        Joins two partial vectors or scalars; addition unless given.
    initial : float
        Its neutral element.

    Returns
    -------
    expression
        A bound scalar.
    """
    full = length // lanes
    side = min(SIDE, full)
    parts: list[Any] = []
    if full:
        partials = [e.accumulator(lanes, e.splat(initial, lanes)) for _ in range(side)]
        with e.loop(full // side, name="vectors") as i:
            for j, partial in enumerate(partials):
                at = e.bind((i * side + j) * lanes, "at")
                partial.set(step(partial.get(), at, lanes))
        for j in range(full % side):
            at = (full // side * side + j) * lanes
            partials[j].set(step(partials[j].get(), at, lanes))
        while len(partials) > 1:
            for a, b in zip(partials[::2], partials[1::2], strict=False):
                a.set(combine(a.get(), b.get()))
            partials = partials[::2]
        parts.append(e.fold_lanes(partials[0].get(), combine))
    at = full * lanes
    for width in pieces(length - at, lanes):
        rest = e.accumulator(width, e.splat(initial, width))
        rest.set(step(rest.get(), at, width))
        parts.append(e.fold_lanes(rest.get(), combine))
        at += width
    result = parts[0]
    for part in parts[1:]:
        result = e.bind(combine(result, part))
    return result
