"""How many cycles does an operator take at least, from the description alone?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from parc_hw.accel.description import Description
from parc_hw.plan import FftPlan

__all__ = ["Bound", "butterfly_counts", "lower_bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What no schedule can beat.

    Attributes
    ----------
    cycles : int
        The largest of the parts.
    parts : dict of str to int
        Of each unit, and "bus".
    limit : str
        The unit of the largest part.
    """

    cycles: int
    parts: dict[str, int]
    limit: str


def lower_bound(
    description: Description,
    *,
    macs: int = 0,
    bits: tuple[int, int] = (8, 8),
    butterflies: dict[int, int] | None = None,
    products: int = 0,
    elements: dict[str, int] | None = None,
    external_bytes: int = 0,
) -> Bound:
    """Return max(compute, memory) of an operator, every unit always busy and nothing waiting.

    Parameters
    ----------
    description : Description
    macs : int
        Multiply-accumulates of words of `bits`.
    bits : tuple of int
    butterflies : dict of int to int
        By radix.
    products : int
        Complex ones.
    elements : dict of str to int
        By function of the vector unit.
    external_bytes : int
        Read and written once: inputs, weights, outputs.

    Examples
    --------
    ParC of 96 channels on 14 x 14 points in int8: the bus, with 37 632 bytes of activations.

    >>> from parc_hw.accel.description import load_description
    >>> bound = lower_bound(load_description("edge-npu"), macs=96 * 14 * 14 * 14,
    ...                     elements={"requantise": 96 * 196}, external_bytes=2 * 96 * 196)
    >>> bound.cycles, bound.limit, bound.parts["mac"]
    (2352, 'bus', 258)
    """
    d = description
    parts = {
        "mac": math.ceil(macs * d.mac.interval * d.mac.passes(*bits) / d.mac.count),
        "bus": math.ceil(external_bytes / d.external.bytes_per_cycle),
    }
    busy = sum(n * (d.butterfly.interval(radix) or 1) for radix, n in (butterflies or {}).items())
    if busy:
        parts["butterfly"] = math.ceil(busy / max(d.butterfly.units, 1))
    if products:
        parts["product"] = math.ceil(products * d.complex.interval / max(d.complex.units, 1))
    spent = sum(n * (d.vector.cost(name) or 1) for name, n in (elements or {}).items())
    if spent:
        parts["vector"] = math.ceil(spent / d.vector.lanes)
    limit = max(parts, key=lambda name: parts[name])
    return Bound(cycles=parts[limit], parts=parts, limit=limit)


def butterfly_counts(plan: FftPlan, lines: int) -> dict[int, int]:
    """The butterflies of `lines` transforms by radix, for `lower_bound`.

    >>> butterfly_counts(FftPlan.of(56), 2)
    {4: 28, 2: 56, 7: 16}
    """
    found: dict[int, int] = {}
    for radix in plan.radices:
        found[radix] = found.get(radix, 0) + lines * plan.length // radix
    return found
