"""Random operators with random datapaths, shared by the tests of the operator."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from fixedpoint import (
    BlockScaling,
    Cut,
    Datapath,
    DirectDatapath,
    FourierDatapath,
    NttDatapath,
    Overflow,
    ParcDatapath,
    QFormat,
    Rounding,
    SplitDatapath,
    spectrum_format,
)
from parc_hw.plan import FftPlan, SplitPlan
from parc_hw.spec import Axis, ParcSpec

ROUTES = ("direct", "split", "ntt", "fourier")


@dataclass(frozen=True)
class Case:
    """One call of `fixedpoint.parc`."""

    x: np.ndarray
    w: np.ndarray
    spec: ParcSpec
    plan: Any
    datapath: ParcDatapath
    extra: dict[str, np.ndarray]


def draw(route: str, seed: int, *, room: int = 0) -> Case:
    """Draw one: depthwise or dense, both axes, with and without position embedding and bias.

    Every format has up to `room` integer bits more, so that fewer stages overflow.
    """
    pick, rng = random.Random(f"{route} {seed} {room}"), np.random.default_rng(seed)

    def wide(int_bits: int) -> int:
        return int_bits + (pick.randint(0, room) if room else 0)

    def cut(int_bits: int, frac_bits: int) -> Cut:
        modes = [Overflow.SATURATE, Overflow.WRAP]
        fmt = QFormat(wide(int_bits), frac_bits)
        return Cut(fmt, pick.choice(list(Rounding)), pick.choice(modes))

    n1, n2 = pick.choice([(a, b) for a in (2, 3, 4, 5, 7, 8, 14) for b in (1, 2, 3)])
    length, dense, axis = n1 * n2, pick.choice([None, 2]), pick.choice(list(Axis))
    height, width = (length, 3) if axis is Axis.H else (3, length)
    spec = ParcSpec(
        axis=axis,
        batch=1,
        channels=2,
        height=height,
        width=width,
        out_channels=dense,
        position_embedding=pick.random() < 0.5,
        bias=pick.random() < 0.5,
    )
    data, kernel = QFormat(1, pick.randint(3, 8)), QFormat(1, pick.randint(3, 8))

    def words(fmt: QFormat, shape: tuple[int, ...], part: int = 1) -> np.ndarray:
        return rng.integers(fmt.min_raw // part, fmt.max_raw // part + 1, shape)

    common: dict[str, Any] = {
        "data": data,
        "kernel": kernel,
        "output": cut(pick.randint(1, 3), pick.randint(2, 9)),
    }
    extra = {}
    if spec.position_embedding:
        fmt = QFormat(pick.randint(0, 2), pick.randint(3, 8))
        common["position_embedding"] = fmt
        extra["position_embedding"] = words(fmt, (2, length))
        if pick.random() < 0.5:
            common["total"] = cut(1, data.frac_bits)
    if spec.bias:
        common["bias"] = QFormat(1, pick.randint(3, 8))
        extra["bias"] = words(common["bias"], (2,), 2)  # what every accumulator here holds
    x = words(data, (1, 2, height, width))
    w = words(kernel, (2, length) if dense is None else (2, 2, length))
    product = cut(pick.randint(1, 2), pick.randint(5, 12)) if pick.random() < 0.5 else None
    register = cut(pick.randint(1, 4), pick.randint(5, 18)) if pick.random() < 0.6 else None

    plan: Any
    path: ParcDatapath
    if route == "direct":
        plan = SplitPlan(n1=1, n2=length)
        path = DirectDatapath(**common, product=product, accumulator=register)
    elif route == "ntt":
        plan, path = "ntt", NttDatapath(**common)
    elif route == "split":
        plan = SplitPlan(n1=n1, n2=n2)
        path = SplitDatapath(
            **common,
            coefficient=QFormat(2, pick.randint(4, 12)),
            table=QFormat(4, pick.randint(4, 12)),
            rows=cut(pick.randint(2, 5), pick.randint(4, 8)),
            columns=cut(pick.randint(1, 4), pick.randint(4, 10)),
            product=product,
            accumulator=register,
            guard=pick.randint(0, 3),
            rounding=pick.choice(list(Rounding)),
        )
    else:
        plan = FftPlan.of(
            length,
            output_order=pick.choice(["digit_reversed", "natural"]),
            decimation=pick.choice(["dif", "dit"]),
        )
        block = BlockScaling() if dense is None and pick.random() < 0.2 else None
        path = FourierDatapath.of(
            plan,
            **common,
            spectrum=spectrum_format(w, kernel, pick.randint(6, 12)),
            product=QFormat(wide(pick.randint(1, 3)), pick.randint(5, 10)),
            scaling="none" if block else pick.choice(["half", "none", "growing"]),
            block=block,
            twiddle=pick.randint(6, 12),
            rounding=pick.choice(list(Rounding)),
            overflow=pick.choice([Overflow.SATURATE, Overflow.WRAP]),
            once=pick.random() < 0.5,
            pairs=pick.random() < 0.5,
        )
        points = Datapath(
            path.product.result,
            product=product,
            accumulator=register,
            multiplications=pick.choice([3, 4]),
        )
        path = dataclasses.replace(path, product=points)
    return Case(x, w, spec, plan, path, extra)
