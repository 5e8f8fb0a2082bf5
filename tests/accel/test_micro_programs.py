"""Ten programs whose cycles are computed by hand, in the comments, from docs/accelerator.md."""

from __future__ import annotations

from dataclasses import replace

import pytest
from run_near import far, make, near, sums

from parc_hw.accel.description import load_description
from parc_hw.accel.simulator import run
from parc_hw.isa import (
    Function,
    Operand,
    Queue,
    Space,
    Type,
    barrier,
    circular_mac,
    end,
    host,
    load,
    loop,
    matrix_mac,
    requantise,
    store,
    sync,
    vector,
)

LOAD, MAC, VECTOR, STORE = (
    1 << queue for queue in (Queue.LOAD, Queue.MAC, Queue.VECTOR, Queue.STORE)
)


def machine(**parts):
    """A machine of round numbers; `mac={"rows": 2}` changes one."""
    base = load_description("edge-npu")
    own = {
        "control": {"issue_cycles": 1},
        "queues": dict.fromkeys(("load", "mac", "butterfly", "product", "vector", "store"), 4),
        "mac": {"rows": 4, "columns": 4, "operand_bits": 8, "interval": 1, "latency": 3},
        "vector": {"lanes": 8, "latency": 2},
        "scratchpad": {"bytes": 4096, "banks": 4, "ports": 1, "width_bytes": 4},
        "external": {"bytes_per_cycle": 8, "latency": 10, "burst_bytes": 16},
        "dma": {"channels": 1, "width_bytes": 8},
    }
    changed = {
        name: replace(getattr(base, name), **{**own.get(name, {}), **parts.get(name, {})})
        for name in {*own, *parts}
    }
    return replace(base, name="micro", **changed)


def cycles(code, description, **kind):
    program, _ = make(description, code, external_bytes=65536, tokens=False, **kind)
    result = run(program, description)
    return result.cycles, result


# 64 bytes: 4 bursts of 16 bytes, 8 cycles on the bus. In the scratchpad 64 / 8 = 8 cycles, too.
LINE = (1, 1, 1, 64)


def line_in(base=0, at=0, **tokens):
    return load(far(Type.I8, at, (0, 0, 0, 1)), near(Type.I8, base, (0, 0, 0, 1)), LINE, **tokens)


def line_out(base=0, at=4096, **tokens):
    return store(near(Type.I8, base, (0, 0, 0, 1)), far(Type.I8, at, (0, 0, 0, 1)), LINE, **tokens)


# A MAC of 4 x 4 sums of 16 products; a fold reads 4 rows of 16 bytes: 16 words, and 16 x 4 bytes: 16
# words, each spread evenly over the 4 banks: 4 + 4 words of a bank at 1 port: 8 cycles of banks
# behind 16 of the array. 16 + latency 3 = 19.
def tile(a=0, b=64, out=0, **tokens):
    return matrix_mac(
        near(Type.I8, a, (16, 0, 0, 0, 0, 0, 1)),
        near(Type.I8, b, (0, 0, 0, 1, 0, 0, 4)),
        sums(out, (4, 0, 0, 1)),
        (4, 1, 1, 4, 1, 1, 16),
        **tokens,
    )


# 16 sums in 8 lanes: 2 cycles + latency 2 = 4; written are 16 bytes: 4 words in 4 banks, 1 cycle.
def narrow(base=1024, acc=0, **tokens):
    return requantise(
        sums(acc, (4, 0, 0, 1)), near(Type.I8, base, (4, 0, 0, 1)), (4, 1, 1, 4), **tokens
    )


def test_1_a_chain_of_dependencies_adds_up():
    # LOAD      arrives 1, asks 1, bus 11 .. 19
    # MAC       arrives 2, token 19: 19 .. 38
    # REQUANT.  arrives 3, token 38: 38 .. 42
    # STORE     arrives 4, token 42: bus 42, 16 bytes: 1 burst, 2 cycles: 44, and latency 10: 54
    last = store(
        near(Type.I8, 1024, (0, 0, 0, 1)), far(Type.I8, 4096, (0, 0, 0, 1)), (1, 1, 1, 16),
        wait=VECTOR,
    )  # fmt: skip
    code = [
        line_in(signal=MAC),
        tile(wait=LOAD, signal=VECTOR),
        narrow(wait=MAC, signal=STORE),
        last,
    ]
    found, result = cycles(code, machine())
    assert found == 54
    assert result.timeline.start.tolist() == [1, 19, 38, 42]
    assert result.timeline.end.tolist() == [19, 38, 42, 54]
    assert result.units["MAC"].stalled == {"dispatch": 2, "LOAD": 17}
    assert result.units["VECTOR"].stalled == {"dispatch": 3, "MAC": 35}


def test_2_units_without_tokens_between_them_run_side_by_side():
    # LOAD arrives 1: bus 11 .. 19.  MAC on other words arrives 2: 2 .. 21.  COPY of 8 bytes arrives
    # 3: 1 cycle in the lanes, 2 words read and 2 written, which begin in bank 0 again: 2 cycles
    # of banks, and latency 2: 3 .. 7.
    copy = vector(
        Function.COPY, near(Type.I8, 520, (0, 0, 0, 1)), (1, 1, 1, 8),
        a=near(Type.I8, 512, (0, 0, 0, 1)),
    )  # fmt: skip
    found, result = cycles([line_in(base=256), tile(), copy], machine())
    assert found == 21
    assert result.timeline.start.tolist() == [1, 2, 3]
    assert result.timeline.end.tolist() == [19, 21, 7]


@pytest.mark.parametrize(
    ("stride", "expected"),
    [
        # Rows of a, 4 elements of 1 byte in columns of 16 products: K = 1, so a fold reads 4 bytes of
        # a and 4 of b. Side by side they are 1 word each, both of bank 0: 2 cycles, + latency 3.
        (1, 5),
        # 4 bytes apart: 4 words in 4 banks, 1 each; with b's word bank 0 has 2: 2 + 3.
        (4, 5),
        # 8 apart: words 0, 2, 4, 6 in banks 0 and 2, 2 each; with b's 3: 3 + 3.
        (8, 6),
        # 16 apart: 4 words of bank 0; with b's 5: 5 + 3.
        (16, 8),
    ],
)
def test_3_strides_that_meet_in_one_bank_wait_for_it(stride, expected):
    code = [
        matrix_mac(
            near(Type.I8, 0, (stride,)),
            near(Type.I8, 64, (0, 0, 0, 1)),
            sums(0, (4, 0, 0, 1)),
            (4, 1, 1, 4),
        )
    ]
    found, result = cycles(code, machine())
    assert found == 1 + expected
    assert result.units["MAC"].busy == expected
    # Two ports deliver two words at once: half of it, rounded up.
    found, _ = cycles(code, machine(scratchpad={"ports": 2}))
    assert found == 1 + 3 + -(-(expected - 3) // 2)


def test_4_a_full_queue_holds_the_dispatcher():
    # Queue of 1. MAC 0 arrives 1: 1 .. 20. MAC 1 arrives 2, the queue is full. MAC 2 is ready at 3
    # and gets room when MAC 1 starts at 20: arrives 20. LOAD behind it is ready at 21: arrives 21,
    # bus 31 .. 39. MAC 1: 20 .. 39, MAC 2: 39 .. 58.
    code = [tile(out=0), tile(out=16), tile(out=32), line_in(base=256)]
    found, result = cycles(code, machine(queues={"mac": 1}))
    assert found == 58
    assert result.timeline.arrival.tolist() == [1, 2, 20, 21]
    assert result.timeline.start.tolist() == [1, 20, 39, 21]
    assert result.units["MAC"].stalled == {"dispatch": 1, "full": 17}
    # With room for 3 the LOAD arrives 4 and ends at 22; the MACs end when they did.
    found, result = cycles(code, machine(queues={"mac": 3}))
    assert found == 58
    assert result.timeline.arrival.tolist() == [1, 2, 3, 4]
    assert result.timeline.end.tolist()[-1] == 22


def test_5_channels_hide_the_latency_of_transfers():
    # One channel: arrive 1 .. 3; 1: bus 11 .. 19; the next asks at 19: bus 29 .. 37; then 47 .. 55.
    code = [line_in(base=64 * k, at=64 * k) for k in range(3)]
    found, result = cycles(code, machine())
    assert found == 55
    assert result.timeline.bus.tolist() == [11, 29, 47]
    # Two: the second asks at 2, may have the bus from 12 and gets it at 19 .. 27; the third asks when
    # the first ends, at 19: bus 29 .. 37.
    found, result = cycles(code, machine(dma={"channels": 2}))
    assert found == 37
    assert result.timeline.bus.tolist() == [11, 19, 29]
    # Three: asks at 1, 2, 3; bus 11, 19, 27 .. 35.
    found, result = cycles(code, machine(dma={"channels": 3}))
    assert found == 35
    # Each waited one cycle for the dispatcher; the second may have the bus at 12, the third at 13.
    assert result.units["LOAD"].stalled == {"dispatch": 3, "bus": 7 + 14}


def test_6_loads_and_stores_share_the_bus_by_whole_transfers():
    # STORE of 64 bytes arrives 1, has the bus at once: 1 .. 9, ends 19. LOAD arrives 2, could have
    # the bus at 12: 12 .. 20. A second STORE arrives 3, its channel is free at 19: bus 20 .. 28 (it
    # asks at 19, while the LOAD is on), ends 38.
    code = [line_out(base=0), line_in(base=128), line_out(base=64, at=8192)]
    found, result = cycles(code, machine())
    assert found == 38
    assert result.timeline.bus.tolist() == [1, 12, 20]
    assert result.units["STORE"].stalled["bus"] == 1


@pytest.mark.parametrize(
    ("offset", "row", "stride", "bursts"),
    [
        (0, 64, 64, 16),  # 4 rows of 64 bytes one behind the other: one run of 256
        (8, 64, 64, 17),  # the same, 8 bytes into a burst
        (0, 16, 64, 4),  # each row is a burst
        (8, 16, 64, 8),  # each row lies across two
        (0, 1, 16, 4),  # a byte costs a burst
    ],
)
def test_7_runs_of_a_transfer_pay_for_whole_bursts(offset, row, stride, bursts):
    # 2 cycles a burst; in the scratchpad 4 rows of `row` bytes take at most 4 * 8 cycles, which is no
    # more. Arrival 1, latency 10.
    code = [
        load(
            far(Type.I8, offset, (stride, 0, 0, 1)),
            near(Type.I8, 0, (row, 0, 0, 1)),
            (4, 1, 1, row),
        )
    ]
    found, result = cycles(code, machine())
    assert found == 1 + 10 + 2 * bursts
    assert result.units["LOAD"].external_bytes == 16 * bursts


def test_8_a_loop_costs_an_issue_for_itself_and_one_for_each_turn():
    # issue_cycles 2. LOOP 0 .. 2. Turn 1: MAC fetched 2 .. 4, arrives 4, 4 .. 23; END .. 6. Turn 2:
    # arrives 8, END .. 10; turn 3: arrives 12; END .. 14. MACs: 4 .. 23, 23 .. 42, 42 .. 61.
    step = replace(tile(), out=Operand(Space.ACCUMULATOR, Type.I64, 0, (4, 0, 0, 1), (16,)))
    found, result = cycles([loop(3), step, end()], machine(control={"issue_cycles": 2}))
    assert found == 61
    mine = result.timeline.stream.queue == Queue.MAC
    assert result.timeline.arrival[mine].tolist() == [4, 8, 12]
    assert result.timeline.start[mine].tolist() == [4, 23, 42]
    # With a MAC of 1 + 3 cycles the dispatcher is what limits: 4 cycles a turn.
    small = replace(step, extents=(1,) * 7)
    found, result = cycles([loop(3), small, end()], machine(control={"issue_cycles": 2}))
    # One word of a and one of b, both of bank 0: 2 cycles, + 3: 5. 4 .. 9, 9 .. 14, 14 .. 19.
    assert found == 19


def double_buffered(turns):
    """Loads into two buffers in turn; each MAC frees its buffer for the load after the next."""
    code = []
    for k in range(turns):
        base = 512 * (k % 2)
        code.append(line_in(base=base, at=64 * k, wait=MAC if k >= 2 else 0, signal=MAC))
        code.append(
            tile(a=base, b=256, out=16 * (k % 2), wait=LOAD, signal=LOAD if k + 2 < turns else 0)
        )
    return code


def test_9_double_buffering_overlaps_transfers_with_work():
    # Loads take 10 + 8 = 18 cycles, MACs 19: with two buffers and two channels the MACs follow one
    # another. LOAD 0: asks 1, bus 11 .. 19. LOAD 1 arrives 3: may at 13, bus 19 .. 27. MAC 0:
    # 19 .. 38. MAC 1: 38 .. 57. LOAD 2 waits for MAC 0: asks 38, bus 48 .. 56. MAC 2: 57 .. 76.
    # LOAD 3 waits for MAC 1: asks 57, bus 67 .. 75. MAC 3: 76 .. 95.
    found, result = cycles(double_buffered(4), machine(dma={"channels": 2}))
    assert found == 95
    macs = result.timeline.stream.queue == Queue.MAC
    assert result.timeline.start[macs].tolist() == [19, 38, 57, 76]
    # One buffer: every load waits for the MAC before: 19 + 19, then 18 + 19 for each of three more.
    single = []
    for k in range(4):
        single.append(line_in(at=64 * k, wait=MAC if k else 0, signal=MAC))
        single.append(tile(b=256, wait=LOAD, signal=LOAD if k < 3 else 0))
    found, _ = cycles(single, machine(dma={"channels": 2}))
    assert found == 38 + 3 * (18 + 19)


def test_10_barriers_syncs_and_the_host():
    # MAC arrives 1: 1 .. 20. SYNC in VECTOR arrives 2, waits for it: 20 .. 21 (one cycle), sends to
    # STORE. STORE arrives 3: starts 21, bus 21 .. 29, ends 39. BARRIER is ready at 4, done at 39.
    # HOST is ready at 40 and takes 100: 40 .. 140. LOAD is ready at 141: bus 151 .. 159.
    code = [
        tile(signal=VECTOR),
        sync(Queue.VECTOR, wait=MAC, signal=STORE),
        line_out(base=2048, wait=VECTOR),
        barrier(),
        host(7, 100),
        line_in(base=2048),
    ]
    program, _ = make(machine(), code, external_bytes=65536, tokens=False)
    called = []
    result = run(program, machine(), host={7: called.append})
    assert result.cycles == 159
    assert len(called) == 1
    assert result.host_cycles == 100
    assert result.tags[0].busy["HOST"] == 100
    line = result.timeline
    assert line.start.tolist() == [1, 20, 21, 39, 40, 141]
    assert line.end.tolist() == [20, 21, 39, 39, 140, 159]


def test_circular_macs_read_each_place_of_the_ring_once():
    # 4 channels side by side in columns, 4 of 8 places in rows: 2 folds of 8 products. A fold
    # touches all 8 places (4 + 8 - 1 > 8) of 4 bytes: 8 words; 8 taps of 4 bytes: 8 words; 2 + 2 of
    # each bank: 4 cycles behind 8. 2 * 8 + 3 = 19.
    code = [
        circular_mac(
            near(Type.I8, 0, (0, 4, 0, 1)),
            near(Type.I8, 64, (0, 0, 0, 1, 4)),
            sums(0, (0, 4, 0, 1)),
            (1, 8, 1, 4, 8),
            ring=8,
        )
    ]
    found, result = cycles(code, machine())
    assert found == 1 + 19
    assert result.units["MAC"].work == 8 * 8 * 4


def test_wide_words_take_several_passes():
    # 16-bit words on 8-bit multipliers: 4 passes. 16 * 4 + 3; banks: 4 x 32 and 16 x 8 bytes, 64
    # words, 16 of each bank: less.
    code = [
        matrix_mac(
            near(Type.I16, 0, (32, 0, 0, 0, 0, 0, 2)),
            near(Type.I16, 256, (0, 0, 0, 2, 0, 0, 8)),
            sums(0, (4, 0, 0, 1)),
            (4, 1, 1, 4, 1, 1, 16),
        )
    ]
    assert cycles(code, machine())[0] == 1 + 67
