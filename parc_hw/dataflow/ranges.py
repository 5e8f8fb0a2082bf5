"""Which values can each node of an integer graph take, and how many bits does it need?"""

from __future__ import annotations

from collections.abc import Sequence

from parc_hw.dataflow.expr import (
    Add,
    Dag,
    Fma,
    Input,
    Mul,
    Round,
    Saturate,
    Shift,
    Sub,
    dropped,
)
from parc_hw.errors import InputError

__all__ = ["ranges", "signed_bits"]

Interval = tuple[int, int]


def ranges(dag: Dag, inputs: Sequence[Interval]) -> tuple[Interval, ...]:
    """Smallest and largest value of every node, as integers.

    A node is kept as a sum of independent atoms (inputs, and the results of Round and
    Saturate), so that x + y - x is known to be y: between two roundings the interval is
    attained. Across a rounding it is safe but may be wider than attained.

    Parameters
    ----------
    dag : Dag
        A graph with integer constants.
    inputs : sequence of (int, int), length dag.inputs
        Smallest and largest value of each input.

    Returns
    -------
    tuple of (int, int)
        One interval per node of `dag.nodes`.

    Raises
    ------
    InputError
        As many intervals as inputs are needed, each with low <= high; constants must be whole.

    Examples
    --------
    >>> from parc_hw.dataflow import Dag, Input, Round, Rounding, Add
    >>> dag = Dag(2, (Input(0), Input(1), Add(0, 1), Round(2, 1, Rounding.FLOOR)), (3,))
    >>> ranges(dag, [(-128, 127)] * 2)
    ((-128, 127), (-128, 127), (-256, 254), (-128, 127))
    """
    if len(inputs) != dag.inputs or any(low > high for low, high in inputs):
        raise InputError(
            f"the graph has {dag.inputs} inputs; got the intervals {list(inputs)!r}. "
            "Give one (low, high) with low <= high for each."
        )
    # forms[i]: atom -> coefficient, an atom being the position of the node it is the value of
    forms: list[dict[int, int]] = []
    found: list[Interval] = []

    def combined(first: dict[int, int], factor: int, second: dict[int, int]) -> dict[int, int]:
        form = dict(first)
        for atom, coefficient in second.items():
            form[atom] = form.get(atom, 0) + factor * coefficient
        return form

    def whole(constant: float) -> int:
        if int(constant) != constant:
            raise InputError(
                f"an integer graph cannot multiply by {constant!r}; quantize its constants first."
            )
        return int(constant)

    for position, node in enumerate(dag.nodes):
        interval: Interval | None = None
        match node:
            case Input(index):
                interval = inputs[index]
            case Round(a, bits, rounding):
                low, high = found[a]
                interval = dropped(low, bits, rounding), dropped(high, bits, rounding)
            case Saturate(a, bits):
                limit = 1 << (bits - 1)
                low, high = (min(max(end, -limit), limit - 1) for end in found[a])
                interval = low, high
            case Add(a, b):
                form = combined(forms[a], 1, forms[b])
            case Sub(a, b):
                form = combined(forms[a], -1, forms[b])
            case Mul(constant, a):
                form = combined({}, whole(constant), forms[a])
            case Fma(constant, a, b):
                form = combined(forms[b], whole(constant), forms[a])
            case Shift(a, bits):
                form = combined({}, 1 << bits, forms[a])
        if interval is not None:
            forms.append({position: 1})
            found.append(interval)
            continue
        low = high = 0
        for atom, coefficient in form.items():
            ends = coefficient * found[atom][0], coefficient * found[atom][1]
            low, high = low + min(ends), high + max(ends)
        forms.append(form)
        found.append((low, high))
    return tuple(found)


def signed_bits(interval: Interval) -> int:
    """Bits of the smallest two's complement integer that holds the interval.

    >>> signed_bits((-128, 127)), signed_bits((0, 128)), signed_bits((0, 0))
    (8, 9, 1)
    """
    low, high = interval
    return (
        max((~low if low < 0 else low).bit_length(), (~high if high < 0 else high).bit_length()) + 1
    )
