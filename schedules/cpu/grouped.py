"""Which kernel computes a 1x1 convolution in NHWC whose every result reads a few neighbouring channels?

That is a convolution in groups of m channels with one result each: ParC-Net joins two maps so, channel
by channel. A vector of results needs m vectors of input, whose every m-th element is the same term
of its sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from schedules.cpu import epilogue
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.windows import pair, sides
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled
from schedules.tir import Emitter

__all__ = ["grouped"]

NAME = "grouped"

MOST = 4  # channels of a group: each needs its own shuffle of all the group's vectors


def grouped(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """y[c] = bias[c] + sum_j w[c, j] x[m c + j] for every pixel, j < m <= 4, and its epilogue.

    Parameters
    ----------
    composite : Composite
        `relax.nn.conv2d` of an NHWC tensor of m C channels by a constant OHWI kernel (C, 1, 1, m)
        with groups = C, stride 1 and no padding; then its epilogue.
    context : Context
        The device gives the vector width.
    """
    node = composite.nodes[0]
    if reason := _refusal(composite):
        return NotApplicable(NAME, reason)
    tail = epilogue.parse(composite)
    if isinstance(tail, str):
        return NotApplicable(NAME, tail)
    x_ref, kernel = node.args[:2]
    channels, terms = kernel.shape[0], kernel.shape[3]
    pixels = math.prod(node.shape[:-1])
    blocks = ChannelBlocks.cover(channels, context.device.lanes())
    lanes = blocks.lanes
    folded = kernel.reshape(channels, terms).astype(np.float64) * tail.scale[:, None]

    e = Emitter(context.device)
    x = e.parameter("x", pixels * channels * terms)
    inputs = tail.declare_inputs(e, composite)
    w = e.parameter("w", blocks.count * terms * lanes)
    bias = e.parameter("bias", channels)
    operands = epilogue.Operands(inputs, tail.declare_constants(e))
    y = e.parameter("y", pixels * channels)

    with e.parallel(pixels) as pixel, e.loop(blocks.count, name="block") as block:
        channel = e.bind(blocks.start(e, block), "channel")
        at = e.bind((pixel * channels + channel) * terms, "at")
        vectors = [e.bind(e.load(x, at + j * lanes, lanes)) for j in range(terms)]
        total: Any = e.load(bias, channel, lanes)
        for j in range(terms):
            weights = e.load(w, (block * terms + j) * lanes, lanes)
            total = e.bind(e.fma(e.every(vectors, j), weights, total))
        place = e.bind(pixel * channels + channel, "place")
        result = tail.apply(e, total, at=place, channel=channel, operands=operands)
        e.store(y, place, result)

    return Scheduled(
        func=e.finish(),
        inputs=(x_ref.index, *tail.inputs),
        constants=(blocks.pack(folded), tail.shift.astype(np.float32), *tail.constants),
        rule=NAME,
        note=f"{terms} channels each, {lanes} results at a time",
        macs=pixels * channels * terms,
    )


def _refusal(composite: Composite) -> str:
    """Why the first node is no such convolution; "" if it is."""
    node = composite.nodes[0]
    if node.op != "relax.nn.conv2d":
        return f"the anchor is {node.op}, not relax.nn.conv2d"
    x_ref, kernel = node.args[:2]
    if not isinstance(x_ref, Ref) or not isinstance(kernel, np.ndarray):
        return "the weights are not a constant"
    data = str(node.attrs["data_layout"])
    layouts = (data, str(node.attrs["kernel_layout"]), str(node.attrs.get("out_layout") or data))
    if layouts != ("NHWC", "OHWI", "NHWC"):
        return f"layouts {layouts}; accepted: NHWC, OHWI, NHWC"
    groups, channels = node.attrs["groups"], composite.inputs[x_ref.index][-1]
    if groups != kernel.shape[0] or groups * kernel.shape[3] != channels:
        return f"{groups} groups and a kernel of shape {kernel.shape} for {channels} channels"
    if kernel.shape[3] > MOST:
        return f"groups of {kernel.shape[3]} channels; accepted: up to {MOST}"
    window = (*kernel.shape[1:3], *pair(node.attrs.get("strides", 1)))
    if window != (1, 1, 1, 1) or any(sides(node.attrs.get("padding", 0))):
        return "the window is not one pixel of an image without padding and stride"
    return ""
