"""Which kernels average or maximise over pixels in NHWC: the global mean and pooling windows?

Channels lie along the vector. A window is a pair of loops whose bounds are cut at the image, so
nothing is padded.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from schedules._tvm import tirx
from schedules.cpu import epilogue
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.windows import pair, sides
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Scheduled
from schedules.tir import Emitter

__all__ = ["global_mean", "pool_window"]

MEAN = "global_mean"
WINDOW = "pool_window"

SUMS = 4  # pixels that are summed side by side: the latency of an addition

_LOWEST = float(np.finfo(np.float32).min)


def global_mean(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Average over height and width of an NHWC tensor.

    Parameters
    ----------
    composite : Composite
        `relax.mean` over axes 1 and 2, keepdims or not, or `relax.nn.adaptive_avg_pool2d` to one
        pixel; then its epilogue.
    context : Context
        The device gives the vector width.
    """
    node = composite.nodes[0]
    if reason := _not_a_mean(composite):
        return NotApplicable(MEAN, reason)
    tail = epilogue.parse(composite)
    if isinstance(tail, str):
        return NotApplicable(MEAN, tail)
    x_ref = node.args[0]
    batch, height, width, channels = composite.inputs[x_ref.index]
    pixels = height * width
    blocks = ChannelBlocks.cover(channels, context.device.lanes())

    e = Emitter(context.device)
    x = e.parameter("x", batch * pixels * channels)
    inputs = tail.declare_inputs(e, composite)
    affine = _Affine(e, tail)
    operands = epilogue.Operands(inputs, tail.declare_constants(e))
    y = e.parameter("y", batch * channels)

    with e.parallel(batch * blocks.count) as task:
        channel = e.bind(blocks.start(e, task % blocks.count), "channel")
        image = e.bind(task // blocks.count, "image")
        base = e.bind(image * (pixels * channels) + channel, "base")

        def pixel(number: Any) -> Any:
            return e.load(x, base + number * channels, blocks.lanes)

        side = min(SUMS, pixels)
        sums = [e.accumulator(blocks.lanes, e.splat(0.0, blocks.lanes)) for _ in range(side)]
        with e.loop(pixels // side, name="pixels") as i:
            for j, total in enumerate(sums):
                total.set(total.get() + pixel(i * side + j))
        for j in range(pixels % side):
            sums[j].set(sums[j].get() + pixel(pixels // side * side + j))
        while len(sums) > 1:
            for a, b in zip(sums[::2], sums[1::2], strict=False):
                a.set(a.get() + b.get())
            sums = sums[::2]
        place = e.bind(image * channels + channel, "place")
        mean = e.bind(sums[0].get() * e.splat(1.0 / pixels, blocks.lanes))
        value = affine.apply(mean, channel)
        e.store(y, place, tail.apply(e, value, at=place, channel=channel, operands=operands))

    return Scheduled(
        func=e.finish(),
        inputs=(x_ref.index, *tail.inputs),
        constants=(*affine.constants, *tail.constants),
        rule=MEAN,
        note=f"{pixels} pixels, {blocks.lanes} channels at a time",
    )


def pool_window(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """Maximum or average over windows of an NHWC tensor.

    Parameters
    ----------
    composite : Composite
        `relax.nn.max_pool2d` or `relax.nn.avg_pool2d` with any window, stride, dilation and
        padding, ceil_mode and count_include_pad as PyTorch defines them; then its epilogue.
    context : Context
        The device gives the vector width.
    """
    node = composite.nodes[0]
    if reason := _not_a_window(composite):
        return NotApplicable(WINDOW, reason)
    tail = epilogue.parse(composite)
    if isinstance(tail, str):
        return NotApplicable(WINDOW, tail)
    x_ref = node.args[0]
    average = node.op == "relax.nn.avg_pool2d"
    batch, height, width, channels = composite.inputs[x_ref.index]
    _, out_height, out_width, _ = node.shape
    blocks = ChannelBlocks.cover(channels, context.device.lanes())
    top, left, bottom, right = sides(node.attrs.get("padding", 0))
    sizes, strides, dilations = (
        pair(node.attrs.get(k, 1)) for k in ("pool_size", "strides", "dilation")
    )
    padded = average and bool(node.attrs.get("count_include_pad", False))

    e = Emitter(context.device)
    x = e.parameter("x", batch * height * width * channels)
    inputs = tail.declare_inputs(e, composite)
    affine = _Affine(e, tail)
    operands = epilogue.Operands(inputs, tail.declare_constants(e))
    y = e.parameter("y", math.prod(node.shape))

    def reach(position: Any, axis: int) -> tuple[Any, Any, Any, Any]:
        """Of a window: where it begins, its first and number of taps in the image, its divisor."""
        extent, before, after = ((height, top, bottom), (width, left, right))[axis]
        begin = e.bind(position * strides[axis] - before, "begin")
        first = e.bind(e.maximum(-(begin // dilations[axis]), 0), "first")
        beyond = e.minimum((extent - 1 - begin) // dilations[axis] + 1, sizes[axis])
        taps = e.bind(e.maximum(beyond - first, 0), "taps")
        whole = (sizes[axis] - 1) * dilations[axis] + 1
        # ceil_mode may let a window reach beyond the padding: that part never counts
        counted = e.minimum((extent + after - begin), whole) if padded else taps
        return begin, first, taps, counted

    with e.parallel(batch * out_height) as task:
        row = e.bind(task % out_height, "row")
        image = e.bind(task // out_height, "image")
        up, first_y, taps_y, counted_y = reach(row, 0)
        with e.loop(out_width, name="column") as column:
            back, first_x, taps_x, counted_x = reach(column, 1)
            if average:
                divisor = e.bind(
                    tirx.Cast("float32", e.maximum(counted_y * counted_x, 1)), "divisor"
                )
            with e.loop(blocks.count, name="block") as block:
                channel = e.bind(blocks.start(e, block), "channel")
                total = e.accumulator(
                    blocks.lanes, e.splat(0.0 if average else _LOWEST, blocks.lanes)
                )
                with e.loop(taps_y, name="dy") as dy, e.loop(taps_x, name="dx") as dx:
                    pixel_y = up + (first_y + dy) * dilations[0]
                    pixel_x = back + (first_x + dx) * dilations[1]
                    at = ((image * height + pixel_y) * width + pixel_x) * channels + channel
                    value = e.load(x, at, blocks.lanes)
                    old = total.get()
                    total.set(old + value if average else e.maximum(old, value))
                place = e.bind(
                    ((image * out_height + row) * out_width + column) * channels + channel, "place"
                )
                value = total.get()
                if average:
                    value = e.bind(value / e.splat(divisor, blocks.lanes))
                value = affine.apply(value, channel)
                e.store(
                    y, place, tail.apply(e, value, at=place, channel=channel, operands=operands)
                )

    return Scheduled(
        func=e.finish(),
        inputs=(x_ref.index, *tail.inputs),
        constants=(*affine.constants, *tail.constants),
        rule=WINDOW,
        note=f"windows of {sizes[0]} x {sizes[1]}, {blocks.lanes} channels at a time",
    )


class _Affine:
    """The epilogue's leading scale and shift: there are no weights that could take them."""

    def __init__(self, e: Emitter, tail: epilogue.Epilogue) -> None:
        self._emitter = e
        self.constants: tuple[np.ndarray, ...] = ()
        if np.any(tail.scale != 1) or np.any(tail.shift != 0):
            self.constants = (tail.scale.astype(np.float32), tail.shift.astype(np.float32))
        self._buffers = [
            e.parameter(name, c.size)
            for name, c in zip(("scale", "shift"), self.constants, strict=False)
        ]

    def apply(self, value: Any, channel: Any) -> Any:
        """value * scale + shift, where they are not 1 and 0."""
        if not self._buffers:
            return value
        e, lanes = self._emitter, self._emitter.lanes(value)
        scale, shift = (e.load(buffer, channel, lanes) for buffer in self._buffers)
        return e.bind(e.fma(value, scale, shift))


def _not_a_mean(composite: Composite) -> str:
    """Why the first node is not an average over height and width, or ''."""
    node = composite.nodes[0]
    if node.op not in ("relax.mean", "relax.nn.adaptive_avg_pool2d"):
        return f"the anchor is {node.op}, not relax.mean"
    if reason := _not_an_image(composite, node):
        return reason
    if node.op == "relax.nn.adaptive_avg_pool2d":
        if node.attrs.get("layout") != "NHWC" or node.shape[1:3] != (1, 1):
            return f"the result of shape {node.shape} is not one pixel in NHWC"
        return ""
    axes = node.attrs.get("axis")
    axes = (axes,) if isinstance(axes, int) else tuple(axes or ())
    if sorted(a % 4 for a in axes) != [1, 2]:
        return f"axes {axes} are not height and width, 1 and 2"
    return ""


def _not_a_window(composite: Composite) -> str:
    """Why the first node is not pooling in NHWC, or ''."""
    node = composite.nodes[0]
    if node.op not in ("relax.nn.max_pool2d", "relax.nn.avg_pool2d"):
        return f"the anchor is {node.op}, not relax.nn.max_pool2d or avg_pool2d"
    if node.attrs.get("layout") != "NHWC" or node.attrs.get("out_layout") not in (None, "", "NHWC"):
        return f"layout is {node.attrs.get('layout')}; accepted is NHWC"
    if node.op == "relax.nn.avg_pool2d" and pair(node.attrs.get("dilation", 1)) != (1, 1):
        return "an average over a dilated window"
    return _not_an_image(composite, node)


def _not_an_image(composite: Composite, node: Node) -> str:
    x = node.args[0]
    if not (isinstance(x, Ref) and x.kind == "input"):
        return "the pooled tensor is not an input of the composite"
    if len(composite.inputs[x.index]) != 4:
        return f"the pooled tensor has shape {composite.inputs[x.index]}, not (B, H, W, C)"
    return ""
