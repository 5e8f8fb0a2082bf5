"""A thousand damaged programs: each ends, with a clear error or without, inside its memories."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from run_near import far, near, sums

from fixedpoint.datapath import Cut, Datapath
from fixedpoint.mixed_radix import lower
from fixedpoint.modes import Rounding
from fixedpoint.paths import FourierDatapath
from fixedpoint.qformat import QFormat
from fixedpoint.stage import FftDatapath
from parc_hw.accel import rom
from parc_hw.accel.container import Program
from parc_hw.accel.dependencies import synchronise
from parc_hw.accel.description import load_description
from parc_hw.accel.encoding import decode, encode
from parc_hw.accel.simulator import run
from parc_hw.errors import InputError, ParcError
from parc_hw.isa import (
    Function,
    Operand,
    Space,
    Type,
    butterfly,
    circular_mac,
    load,
    matrix_mac,
    requantise,
    spectrum_product,
    store,
    vector,
)
from parc_hw.plan import FftPlan

EXTERNAL = 4096


def every_instruction():
    """A program with every opcode and function, and its tables."""
    plan = FftPlan.of(14, output_order="digit_reversed")
    forward = FftDatapath.of(plan, bits=16, scaling="half")
    held = QFormat(6, 10)
    datapath = FourierDatapath(
        data="Q1.15", kernel="Q1.15", forward=forward, spectrum="Q1.15",
        product=Datapath(Cut(held, Rounding.HALF_EVEN)),
        inverse=FftDatapath.of(plan.transposed, bits=16, scaling="none", input=held),
        output=Cut(held),
    )  # fmt: skip
    tables = [
        rom.activation_words("hardsigmoid"),
        rom.softmax_words(),
        rom.norm_records(np.arange(8), np.arange(8), 9),
        rom.stage_table(lower(plan, forward), 0),
        rom.product_table(datapath),
    ]
    offsets, at = [], 0
    for k, table in enumerate(tables):
        tables[k] = table + bytes(-len(table) % 8)
        offsets.append(at)
        at += len(tables[k])

    def table(k, type_, strides=()):
        return Operand(Space.ROM, type_, offsets[k], strides)

    line = near(Type.I8, 0, (8, 0, 0, 1))
    spectra = near(Type.I16, 2048, (0, 56, 4, 2))
    code = [
        load(far(Type.I8, 0, (0, 0, 8, 1)), near(Type.I8, 0, (0, 0, 8, 1)), (1, 1, 6, 8), ring=7,
             start=3),
        matrix_mac(near(Type.I8, 0, (8, 0, 0, 0, 0, 0, 1)), near(Type.I8, 64, (0, 0, 0, 1, 0, 0, 4)),
                   sums(0, (4, 0, 0, 1)), (4, 1, 1, 4, 1, 1, 8)),
        circular_mac(near(Type.I8, 0, (0, 4, 0, 1)), near(Type.I8, 64, (0, 0, 0, 1, 4)),
                     sums(64, (0, 4, 0, 1)), (1, 7, 1, 4, 7), ring=7, start=2),
        requantise(sums(0, (4, 0, 0, 1)), near(Type.I8, 128, (4, 0, 0, 1)), (4, 1, 1, 4), shift=5,
                   shifts=near(Type.I8, 8, (0, 0, 0, 1)), bias=near(Type.I32, 256, (0, 0, 0, 4))),
        vector(Function.ADD, near(Type.I16, 512, (16, 0, 0, 2)), (4, 1, 1, 8), a=line, b=line, up_a=3,
               shift=1),
        vector(Function.MULTIPLY, near(Type.I16, 512, (16, 0, 0, 2)), (4, 1, 1, 8), a=line, b=line),
        vector(Function.MAX, near(Type.I8, 640, (0, 0, 0, 1)), (1, 1, 1, 8, 3), a=near(
            Type.I8, 0, (0, 0, 0, 1, 8))),
        vector(Function.SUM, sums(128, (0, 0, 0, 1)), (1, 1, 1, 8, 3), a=near(
            Type.I8, 0, (0, 0, 0, 1, 8))),
        vector(Function.FILL, near(Type.I32, 768, (0, 0, 0, 4)), (1, 1, 1, 8), immediate=-3),
        vector(Function.ACTIVATE, near(Type.I8, 896, (8, 0, 0, 1)), (4, 1, 1, 8), a=line,
               b=table(0, Type.I32), immediate=513, up_a=3, shift=16),
        vector(Function.SOFTMAX, near(Type.I8, 960, (8, 0, 0, 1)), (4, 1, 1, 8), a=line,
               b=table(1, Type.I32), immediate=2049, up_a=3, shift=39),
        vector(Function.LAYER_NORM, near(Type.I8, 1024, (8, 0, 0, 1)), (4, 1, 1, 8), a=line,
               b=table(2, Type.I64, (0, 0, 0, 16)), immediate=5),
        butterfly(spectra, table(3, Type.I64), spectra, (1, 3, 14, 2)),
        spectrum_product(spectra, near(Type.I16, 3072, (0, 0, 4, 2)), table(4, Type.I64), spectra,
                         (1, 3, 14, 2)),
        store(near(Type.I8, 128, (0, 0, 0, 1)), far(Type.I8, 64, (0, 0, 0, 1)), (1, 1, 1, 1024)),
    ]  # fmt: skip
    return synchronise(code), b"".join(tables)


MACHINE = load_description("edge-npu")
CODE, TABLES = every_instruction()
DATA = np.random.default_rng(1).integers(0, 256, 1024, np.uint8).tobytes()
LIMITS = {"most_instructions": 1 << 14, "most_operations": 1 << 20}


def whole(code, tables=TABLES):
    return Program(
        instructions=tuple(code), description_hash=MACHINE.hash, external_bytes=EXTERNAL,
        rom=tables, constants=((0, DATA),),
    )  # fmt: skip


def guarded(program):
    """Run with walls around the external memory; they and what was not given stay as they are."""
    wall = 512
    memory = np.full(EXTERNAL + 2 * wall, 0xA5, np.uint8)
    memory[wall:-wall] = program.new_external()
    run(program, MACHINE, memory[wall:-wall], host={k: int for k in ()}, **LIMITS)
    assert (memory[:wall] == 0xA5).all()
    assert (memory[-wall:] == 0xA5).all()


def test_the_program_itself_runs():
    guarded(whole(CODE))


INTERESTING = (0, 1, -1, 2, 7, 8, 63, 64, 255, 4095, 4096, 1 << 20, (1 << 20) - 1, 1 << 30,
               (1 << 31) - 1, -(1 << 31), -8, -4096)  # fmt: skip


def mutated(seed):
    """The program with a few words changed, in instructions or tables."""
    draw = random.Random(seed)
    words = encode(CODE)
    tables = bytearray(TABLES)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        kind = draw.random()
        if kind < 0.1:
            at = draw.randrange(len(tables))
            tables[at] ^= 1 << draw.randrange(8)
        elif kind < 0.2:
            i, j = (draw.randrange(len(words)) for _ in range(2))
            words[[i, j]] = words[[j, i]]
        else:
            row = draw.randrange(len(words))
            used = [k for k in range(80) if words[row, k]] if draw.random() < 0.5 else range(80)
            k = draw.choice(list(used))
            near_by = int(words[row, k]) + draw.choice((-8, -4, -2, -1, 1, 2, 4, 8))
            value = draw.choice((*INTERESTING, near_by, near_by, near_by, near_by))
            words[row, k] = min(max(value, -(1 << 31)), (1 << 31) - 1)
    return words, bytes(tables)


@pytest.mark.parametrize("hundred", range(10))
def test_a_hundred_damaged_programs_end_clearly(hundred):
    ended = refused = 0
    for seed in range(100 * hundred, 100 * hundred + 100):
        words, tables = mutated(seed)
        try:
            guarded(whole(decode(words), tables))
            ended += 1
        except ParcError:
            refused += 1
    assert ended > 5  # the mutations are small enough to get past the door
    assert refused > 5


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_are_refused(seed):
    draw = random.Random(seed)
    data = bytearray(whole(CODE).to_bytes())
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    if draw.random() < 0.3:
        del data[draw.randrange(len(data)) :]
    if bytes(data) == whole(CODE).to_bytes():
        return
    with pytest.raises(InputError):
        Program.from_bytes(bytes(data), MACHINE)


def test_reads_and_writes_stay_inside_what_was_checked():
    """Addresses that the check lets pass are inside, counted one by one."""
    from parc_hw.accel.checks import reach

    draw = random.Random(5)
    for _ in range(300):
        extents = [draw.randint(1, 4) for _ in range(7)]
        counts = [draw.randint(1, 3) for _ in range(draw.randint(0, 3))]
        operand = Operand(
            Space.SCRATCHPAD, Type.I16, 2 * draw.randint(-9, 99),
            tuple(2 * draw.randint(-9, 9) for _ in range(7)),
            tuple(2 * draw.randint(-9, 9) for _ in counts),
        )  # fmt: skip
        low, high = reach(operand, extents, counts)
        every = np.array([operand.base])
        for extent, stride in zip(
            (*extents, *counts), (*operand.strides, *operand.steps), strict=False
        ):
            every = (every[:, None] + np.arange(extent) * stride).reshape(-1)
        assert (low, high) == (every.min(), every.max() + 2)


def test_a_softmax_whose_table_is_damaged_says_so():
    code = [each for each in CODE if each.function != Function.SOFTMAX]
    bad = next(each for each in CODE if each.function == Function.SOFTMAX)
    zero = replace(bad, b=replace(bad.b, space=Space.SCRATCHPAD, base=65536))
    with pytest.raises(InputError, match="is not that of exp"):
        guarded(whole(synchronise([*code, zero])))
