"""Cycles against what is published and what cannot be beaten; energy and traces add up."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from run_near import far, make, near, sums

from parc_hw.accel.bounds import butterfly_counts, lower_bound
from parc_hw.accel.description import description_names, load_description
from parc_hw.accel.simulator import run
from parc_hw.accel.timing import bank_words, cost, transfer_bursts
from parc_hw.accel.trace import trace_events, write_trace
from parc_hw.errors import InputError
from parc_hw.isa import Function, Type, load, matrix_mac, requantise, store, vector
from parc_hw.plan import FftPlan


def systolic(rows, columns):
    """A square array as SCALE-Sim has it: output stationary, operands pass from cell to cell."""
    base = load_description("edge-npu")
    mac = replace(
        base.mac, rows=rows, columns=columns, latency=0, fold_cycles=2 * rows + columns - 2
    )
    wide = replace(base.scratchpad, bytes=1 << 22, banks=256)
    return replace(
        base, mac=mac, scratchpad=wide, accumulator=replace(base.accumulator, words=1 << 20)
    )


def matrix(m, k, n):
    return matrix_mac(
        near(Type.I8, 0, (k, 0, 0, 0, 0, 0, 1)),
        near(Type.I8, 1 << 21, (0, 0, 0, 1, 0, 0, n)),
        sums(0, (n, 0, 0, 1)),
        (m, 1, 1, n, 1, 1, k),
    )


LAYERS = [
    ("resnet conv3x3", 784, 1152, 128),
    ("pointwise", 3136, 96, 192),
    ("linear", 1, 1024, 1000),
    ("attention", 196, 64, 196),
    ("uneven", 100, 77, 45),
]


@pytest.mark.parametrize(("name", "m", "k", "n"), LAYERS)
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (16, 64)])
def test_matrix_layers_take_the_cycles_of_scale_sims_formula(name, m, k, n, size):
    """Samajdar et al., SCALE-Sim (2018, 2020), output stationary, each fold of M / R x N / C:
    2 R + C + T - 2 cycles with T = K.
    """
    rows, columns = size
    published = (2 * rows + columns + k - 2) * math.ceil(m / rows) * math.ceil(n / columns)
    assert cost(matrix(m, k, n), systolic(rows, columns)).cycles == published


@pytest.mark.parametrize(("name", "m", "k", "n"), LAYERS)
def test_broadcast_arrays_differ_by_filling_and_draining(name, m, k, n):
    """Our machines broadcast operands: a fold takes K cycles, without the 2 R + C - 2 that a wave needs
    to cross a systolic array. That is the whole difference; it is below 10 % from K = 940 on.
    """
    machine = load_description("edge-npu")
    rows, columns = machine.mac.rows, machine.mac.columns
    folds = math.ceil(m / rows) * math.ceil(n / columns)
    published = (2 * rows + columns + k - 2) * folds
    ours = cost(matrix(m, k, n), machine)
    assert ours.cycles == published - (2 * rows + columns - 2) * folds + machine.mac.latency
    if k >= 940:
        assert ours.cycles > 0.9 * published


@pytest.mark.parametrize("name", description_names())
def test_nothing_beats_the_bound(name):
    """Random programs of one layer, at any tile size, take at least max(compute, memory)."""
    machine = load_description(name)
    rng = np.random.default_rng(3)
    for _ in range(10):
        m, k, n = (int(rng.integers(1, 13)) for _ in range(3))
        out = m * k + k * n
        code = [
            load(far(Type.I8, 0, (0, 0, 0, 1)), near(Type.I8, 0, (0, 0, 0, 1)), (1, 1, 1, out)),
            matrix_mac(
                near(Type.I8, 0, (k, 0, 0, 0, 0, 0, 1)),
                near(Type.I8, m * k, (0, 0, 0, 1, 0, 0, n)),
                sums(0, (n, 0, 0, 1)),
                (m, 1, 1, n, 1, 1, k),
            ),
            requantise(sums(0, (n, 0, 0, 1)), near(Type.I8, 1024, (n, 0, 0, 1)), (m, 1, 1, n)),
            store(
                near(Type.I8, 1024, (0, 0, 0, 1)), far(Type.I8, out, (0, 0, 0, 1)), (1, 1, 1, m * n)
            ),
        ]
        program, _ = make(machine, code, external_bytes=out + m * n)
        result = run(program, machine)
        bound = lower_bound(
            machine,
            macs=m * k * n,
            elements={"requantise": m * n},
            external_bytes=out + m * n,
        )
        assert result.cycles >= bound.cycles
        for unit, part in (("MAC", "mac"), ("VECTOR", "vector")):
            assert result.units[unit].busy >= bound.parts[part]
        assert result.units["LOAD"].busy + result.units["STORE"].busy >= bound.parts["bus"]


def test_bounds_count_transforms():
    machine = load_description("fft-heavy")
    plan = FftPlan.of(56)
    bound = lower_bound(machine, butterflies=butterfly_counts(plan, 64), products=64 * 56)
    # radix 4: 14, radix 2: 28, radix 7: 8 butterflies of 3 cycles, 16 at once
    assert bound.parts["butterfly"] == 64 * (14 + 28 + 3 * 8) // 16
    assert bound.parts["product"] == 64 * 56 // 32
    assert bound.limit == "butterfly"


def test_bank_words_are_counted_once():
    # 3 x 3 windows over 8 columns of 1 byte share their words
    assert bank_words(((6, 1), (3, 1)), 1, 4, 4) == (2, 1)
    assert bank_words((), 1, 4, 4) == (1, 1)
    assert bank_words(((5, 8),), 8, 4, 4) == (10, 3)
    assert bank_words(((4, 4), (4, 16)), 4, 4, 4) == (16, 4)


def test_bursts_are_counted_run_by_run():
    line = far(Type.I16, 0, (0, 0, 64, 2))
    assert transfer_bursts(line, (1, 1, 4, 32, 1, 1, 1), 0, 64, 0, 0) == (4, 1, 256)
    assert transfer_bursts(line, (1, 1, 4, 16, 1, 1, 1), 48, 64, 0, 0) == (8, 4, 128)
    # a ring of 6 from place 4: places 4, 5 and 0, 1: two runs
    assert transfer_bursts(line, (1, 1, 4, 32, 1, 1, 1), 0, 64, 6, 4) == (4, 2, 256)


def test_bursts_of_a_loop_depend_on_where_it_stands():
    from parc_hw.isa import Operand, Space, end, loop

    machine = load_description("edge-npu")
    here = Operand(Space.SCRATCHPAD, Type.I8, 0, (0, 0, 0, 1), (64,))
    code = [
        loop(4),
        load(Operand(Space.EXTERNAL, Type.I8, 0, (0, 0, 0, 1), (80,)), here, (1, 1, 1, 64)),
        end(),
    ]
    program, _ = make(machine, code, external_bytes=4096, tokens=False)
    # at 0, 80, 160, 240: 1, 2, 2, 2 bursts of 64 bytes
    assert run(program, machine).units["LOAD"].external_bytes == 64 * 7


def layer(machine):
    code = [
        load(far(Type.I8, 0, (0, 0, 0, 1)), near(Type.I8, 0, (0, 0, 0, 1)), (1, 1, 1, 64), tag=3),
        vector(
            Function.COPY, near(Type.I8, 64, (0, 0, 0, 1)), (1, 1, 1, 64),
            a=near(Type.I8, 0, (0, 0, 0, 1)), tag=3,
        ),
        store(near(Type.I8, 64, (0, 0, 0, 1)), far(Type.I8, 64, (0, 0, 0, 1)), (1, 1, 1, 64), tag=4),
    ]  # fmt: skip
    return make(machine, code, external_bytes=128)


def test_energy_is_the_sum_of_its_parts():
    machine = load_description("edge-npu")
    program, _ = layer(machine)
    result = run(program, machine)
    energy = machine.energy
    # 2 transfers of one burst; 64 bytes by each of DMA twice and the vector unit twice; 64 elements
    spent = 2 * 64 * energy.external_byte + 4 * 64 * energy.scratchpad_byte + 64 * energy.vector
    idle = energy.idle_mw * 1e-3 * result.cycles / machine.clock.hz * 1e12
    assert result.energy_pj == pytest.approx(spent + idle)
    assert sum(tag.energy_pj for tag in result.tags.values()) == pytest.approx(spent)


def test_tags_and_units_tell_the_same_story():
    machine = load_description("tiny")
    program, _ = layer(machine)
    result = run(program, machine)
    assert set(result.tags) == {3, 4}
    for name, unit in result.units.items():
        assert sum(tag.busy.get(name, 0) for tag in result.tags.values()) == unit.busy
        assert sum(tag.work.get(name, 0) for tag in result.tags.values()) == unit.work
    assert max(tag.last for tag in result.tags.values()) == result.cycles
    assert result.seconds == result.cycles / machine.clock.hz


def test_traces_have_every_unit_and_the_bus(tmp_path):
    machine = load_description("edge-npu")
    program, _ = layer(machine)
    result = run(program, machine)
    write_trace(tmp_path / "trace.json", program, result, {3: "stem"})
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [each for each in events if each["ph"] == "X"]
    assert [each["name"] for each in spans] == [
        "LOAD stem", "LOAD stem", "VECTOR stem", "STORE 4", "STORE 4",
    ]  # fmt: skip
    assert max(each["ts"] + each["dur"] for each in spans) == result.cycles
    assert {each["args"]["name"] for each in events if each.get("name") == "thread_name"} >= {
        "LOAD", "MAC", "bus", "host",
    }  # fmt: skip
    with pytest.raises(InputError, match="was not timed"):
        trace_events(program, run(program, machine, timing=False))
