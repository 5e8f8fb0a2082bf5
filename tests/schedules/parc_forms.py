"""Every form of ParC kernel at every length: operators with odd shapes, their values and bounds.

A form is an axis, a layout and whether the kernel is dense. Values are float64, in NCHW; the
bound is that of `docs/operator.md`, taken for every line and channel on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parc_hw.dataflow import plan_depth
from parc_hw.device import load_device
from parc_hw.operator import schedule_parc
from parc_hw.plan import MAX_TRANSFORM, SplitPlan
from parc_hw.reference import parc, parc_bound


@dataclass(frozen=True)
class Form:
    """One family of kernels."""

    axis: str
    layout: str
    dense: bool = False

    def __str__(self) -> str:
        return f"{'dense ' if self.dense else ''}{self.axis} {self.layout}"


LAYOUTS = ("NHWC", "NCHW")
FORMS = [Form(axis, layout) for layout in LAYOUTS for axis in ("H", "W", "half", "HW")]
FORMS += [Form(axis, layout, dense=True) for layout in LAYOUTS for axis in "HW"]


@dataclass(frozen=True)
class Case:
    """A form at a length. The other extents follow from it: odd ones, smaller than vectors and larger."""

    form: Form
    length: int
    device: str = "host"
    plan: str = "auto"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, C, H, W)."""
        n = self.length
        batch, channels = 1 + n % 2, (5, 19, 3, 33, 9, 17, 1, 12)[n % 8]
        other = (7, 1, 5, 18, 3, 11, 2, 37)[n // 3 % 8]
        if self.form.axis == "half":
            channels = max(channels, 2)
        if self.form.axis in ("half", "HW"):
            other = (n * 5 + 2) % 13 + 1
        return (batch, channels, other, n) if self.form.axis == "W" else (batch, channels, n, other)

    @cached_property
    def parts(self) -> list[tuple[str, slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Axis, input channels, weight, position embedding and bias of each correlation."""
        rng = np.random.default_rng(self.length)
        _, channels, height, width = self.shape
        axes = {"half": "HW"}.get(self.form.axis, self.form.axis)
        cut = channels // 2 if self.form.axis == "half" else 0
        parts = []
        for axis, begin, end in zip(axes, (0, cut), (cut or channels, channels), strict=False):
            n, c = height if axis == "H" else width, end - begin
            outputs = (7, 1, 20, 18)[self.length % 4] if self.form.dense else c
            weight = rng.standard_normal((outputs, c, n) if self.form.dense else (c, n), np.float32)
            pe, bias = (
                rng.standard_normal((c, n), np.float32),
                rng.standard_normal(outputs, np.float32),
            )
            parts.append((axis, slice(begin, end), weight, pe, bias))
        return parts

    @cached_property
    def x(self) -> np.ndarray:
        """Input, NCHW."""
        return np.random.default_rng([1, self.length]).standard_normal(self.shape, np.float32)

    def stored(self, x: np.ndarray) -> np.ndarray:
        """As it lies in memory."""
        return np.ascontiguousarray(x if self.form.layout == "NCHW" else x.transpose(0, 2, 3, 1))

    def nchw(self, flat: np.ndarray) -> np.ndarray:
        """A kernel's result in NCHW."""
        batch, _, height, width = self.shape
        if self.form.layout == "NCHW":
            return flat.reshape(batch, -1, height, width)
        return flat.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)

    def scheduled(self):
        """The kernel."""
        axis, parts = self.form.axis, self.parts
        weight, pe, bias = ([p[i] for p in parts] for i in (2, 3, 4))
        if len(parts) == 1:
            (weight,), (pe,), (bias,) = weight, pe, bias
        elif axis == "half":
            bias = np.concatenate(bias)
        _, result = schedule_parc(
            weight,
            axis,
            self.stored(self.x).shape,
            position_embedding=pe,
            bias=bias,
            device=load_device(self.device),
            plan=self.plan,
            layout=self.form.layout,
        )
        return result

    @cached_property
    def exact(self) -> tuple[np.ndarray, np.ndarray]:
        """(value, bound)."""
        x = self.x.astype(float)
        if self.form.axis == "half":
            each = [correlate(x[:, p[1]], *p, self.plan) for p in self.parts]
            return tuple(np.concatenate(arrays, 1) for arrays in zip(*each, strict=True))
        value, bound = correlate(x, *self.parts[0], self.plan)
        if self.form.axis == "HW":
            between, error = value, bound
            value, bound = correlate(between, *self.parts[1], self.plan)
            _, _, weight, _, _ = self.parts[1]
            carried = parc(error, abs(weight), axis="W")  # what the first one errs by
            bound = 1.01 * bound + carried
        return value, bound

    def check(self, flat: np.ndarray) -> None:
        """The flat result of a kernel is within the bound."""
        value, bound = self.exact
        result = self.nchw(flat)
        assert np.isfinite(result).all(), f"{self}: not finite"
        worst = np.max(abs(result - value) / bound)
        assert worst <= 1, f"{self}: the error is {worst:.2f} times the bound"


def most_depth(length: int, channels: int = 1, plan: str = "auto") -> int:
    """Roundings of the plan, or of the deepest one of the length; `channels` an output sums over."""
    factors = [n for n in range(1, min(length, MAX_TRANSFORM) + 1) if length % n == 0]
    plans = [SplitPlan(n1=n, n2=length // n) for n in factors]
    if plan not in ("auto", "direct", "fft"):
        plans = [SplitPlan.parse(plan, length=length)]
    return max(plan_depth(p, channels) for p in plans)


def correlate(x, axis, channels, weight, pe, bias, plan="auto"):
    """(value, bound) of one correlation."""
    value = parc(x, weight, axis=axis, position_embedding=pe, bias=bias)
    depth = most_depth(weight.shape[-1], weight.shape[1] if weight.ndim == 3 else 1, plan)
    bound = parc_bound(x, weight, axis=axis, depth=depth, position_embedding=pe, bias=bias)
    return value, np.broadcast_to(bound, value.shape)
