"""Instructions at random strides, signs and types, against loops over single elements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from parc_hw.accel.values import Memories, execute
from parc_hw.isa import (
    Flag,
    Function,
    Operand,
    Space,
    Type,
    circular_mac,
    matrix_mac,
    requantise,
    vector,
)

SIZE = 4096
KINDS = {Type.I8: np.int8, Type.I16: np.int16, Type.I32: np.int32, Type.I64: np.int64}


def fresh(rng):
    return Memories(
        external=np.zeros(0, np.uint8),
        scratchpad=rng.integers(0, 256, SIZE, np.uint8),
        accumulator=rng.integers(-1000, 1000, 1024),
        rom=b"",
        accumulator_bits=48,
    )


def operand(rng, type_, extents, used):
    """Somewhere in the middle of the scratchpad, strides of either sign, some 0."""
    size = type_.bytes
    strides = [
        int(rng.integers(-6, 7)) * size * int(rng.integers(0, 2)) if i in used else 0
        for i in range(7)
    ]
    return Operand(Space.SCRATCHPAD, type_, SIZE // 2, tuple(strides))


def apart(rng, type_, extents, space=Space.SCRATCHPAD):
    """A place for results in which no two points meet: a random order of the dimensions."""
    step = 1 if space is Space.ACCUMULATOR else type_.bytes
    strides = [0] * 7
    for i in rng.permutation(4):
        strides[i] = step
        step *= extents[i]
    base = 0 if space is Space.SCRATCHPAD else int(rng.integers(0, 64))
    return Operand(space, type_, base, tuple(strides))


def element(memories, operand, point, places=None):
    at = operand.base + sum(d * s for d, s in zip(point, operand.strides, strict=True))
    if places is not None:
        at += places
    if operand.space is Space.ACCUMULATOR:
        return int(memories.accumulator[at])
    size = operand.type.bytes
    return int.from_bytes(bytes(memories.scratchpad[at : at + size]), "little", signed=True)


def points(extents):
    return itertools.product(*(range(extent) for extent in extents))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("ring", [False, True])
def test_macs_at_any_strides(seed, ring):
    rng = np.random.default_rng(seed)
    extents = tuple(int(n) for n in rng.integers(1, 4, 7))
    a = operand(rng, Type(rng.integers(3)), extents, range(7))
    b = operand(rng, Type(rng.integers(3)), extents, range(7))
    c = operand(rng, Type(rng.integers(4)), extents, range(4)) if rng.random() < 0.5 else None
    out = apart(rng, Type.I64, extents, Space.ACCUMULATOR)
    kwargs = {"c": c} if c is not None else {"accumulate": bool(rng.integers(2))}
    length, start = int(rng.integers(1, 6)), 0
    if ring:
        start = int(rng.integers(length))
        a = Operand(a.space, a.type, a.base, (*a.strides[:4], 0, *a.strides[5:]))
        each = circular_mac(a, b, out, extents, ring=length, start=start, **kwargs)
    else:
        each = matrix_mac(a, b, out, extents, **kwargs)
    memories = fresh(rng)
    before = memories.accumulator.copy()
    expected = before.copy()
    for p in points(extents[:4]):
        at = (*p, 0, 0, 0)
        total = 0
        if c is not None:
            total = element(memories, c, at)
        elif Flag.ACCUMULATE in each.flags:
            total = element(memories, out, at)
        for k in points(extents[4:]):
            d = (*p, *k)
            if ring:
                place = (start + d[1] + d[4]) % length
                x = element(memories, a, (d[0], place, *d[2:]))
            else:
                x = element(memories, a, d)
            total += x * element(memories, b, d)
        where = out.base + sum(i * s for i, s in zip(p, out.strides, strict=False))
        expected[where] = (total + (1 << 47)) % (1 << 48) - (1 << 47)
    execute(each, memories, ())
    assert np.array_equal(memories.accumulator, expected)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("function", ["max", "sum", "add", "multiply", "copy", "requantise"])
def test_vector_functions_at_any_strides(seed, function):
    rng = np.random.default_rng(seed)
    reduces = function in ("max", "sum")
    extents = tuple(int(n) for n in rng.integers(1, 4, 7))
    if not reduces:
        extents = (*extents[:4], 1, 1, 1)
    a = operand(rng, Type(rng.integers(3)), extents, range(7) if reduces else range(4))
    b = operand(rng, Type(rng.integers(2)), extents, range(4))
    out = apart(rng, Type(rng.integers(1, 4)), extents)
    lo, hi, shift, up = -3000, 12345, int(rng.integers(-2, 9)), int(rng.integers(0, 4))
    common = {"lo": lo, "hi": hi, "shift": shift}
    memories = fresh(rng)
    start = {}
    for p in points(extents[:4]):
        at = (*p, 0, 0, 0)
        terms = [element(memories, a, (*p, *k)) for k in points(extents[4:])]
        x, y = terms[0], element(memories, b, at)
        start[p] = {
            "max": max(terms),
            "sum": sum(terms),
            "add": (x << up) + y,
            "multiply": x * y,
            "copy": x << up,
            "requantise": x * 77 + y,
        }[function]
    if function == "requantise":
        bias = Operand(b.space, Type.I32, b.base, tuple(4 * (s // b.type.bytes) for s in b.strides))
        for p in start:
            x = element(memories, a, (*p, 0, 0, 0))
            start[p] = x * 77 + element(memories, bias, (*p, 0, 0, 0))
        each = requantise(a, out, extents, bias=bias, multiplier=77, **common)
    else:
        names = {"max": Function.MAX, "sum": Function.SUM, "add": Function.ADD,
                 "multiply": Function.MULTIPLY, "copy": Function.COPY}  # fmt: skip
        two = {"b": b} if function in ("add", "multiply") else {}
        each = vector(
            names[function], out, extents, a=a, up_a=up if not reduces else 0, **two, **common
        )
    execute(each, memories, ())
    ends = -(1 << (8 * out.type.bytes - 1)), (1 << (8 * out.type.bytes - 1)) - 1
    for p, value in start.items():
        rounded = (value + (1 << shift >> 1)) >> shift if shift > 0 else value << -shift
        word = min(max(rounded, lo, ends[0]), hi, ends[1])
        assert element(memories, out, (*p, 0, 0, 0)) == word
