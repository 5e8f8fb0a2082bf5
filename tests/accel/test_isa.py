"""Instructions as text, as words and as objects; programs as files; what is refused."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_near import far, make, near, sums

from parc_hw.accel.assembler import from_text, line_of, parse, program_from_text, to_text
from parc_hw.accel.container import Program
from parc_hw.accel.dependencies import roll, synchronise
from parc_hw.accel.description import load_description
from parc_hw.accel.encoding import WORDS, decode, encode
from parc_hw.accel.simulator import run
from parc_hw.accel.stream import expand
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.isa import (
    NOWHERE,
    Flag,
    Function,
    Instruction,
    Opcode,
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

WORD = st.integers(-(1 << 31), (1 << 31) - 1)
OPERAND = st.builds(
    Operand,
    st.sampled_from([space for space in Space if space]),
    st.sampled_from(Type),
    WORD,
    st.lists(WORD, max_size=7).map(tuple),
    st.lists(WORD, max_size=4).map(tuple),
)
INSTRUCTION = st.builds(
    Instruction,
    opcode=st.sampled_from([code for code in Opcode if code is not Opcode.SYNC]),
    function=st.sampled_from(Function),
    wait=st.integers(0, 63),
    signal=st.integers(0, 63),
    tag=WORD,
    flags=st.sampled_from([Flag(bits) for bits in range(4)]),
    extents=st.lists(WORD, max_size=7).map(tuple),
    ring=WORD,
    start=WORD,
    lo=WORD,
    hi=WORD,
    immediate=WORD,
    immediate2=WORD,
    shift=WORD,
    up_a=WORD,
    up_b=WORD,
    rounding=WORD,
    a=OPERAND | st.just(NOWHERE),
    b=OPERAND | st.just(NOWHERE),
    c=OPERAND | st.just(NOWHERE),
    out=OPERAND | st.just(NOWHERE),
)


@settings(max_examples=100, deadline=None)
@given(INSTRUCTION)
def test_words_and_text_give_the_instruction_back(each):
    assert decode(encode([each])) == [each]
    assert parse(line_of(each)) == each


@pytest.mark.parametrize(
    "each", [loop(14), end(), barrier(3), host(2, 500), sync(Queue.MAC, wait=1)]
)
def test_what_the_dispatcher_does_round_trips(each):
    assert decode(encode([each])) == [each]
    assert parse(line_of(each)) == each


# ---------------------------------------------------------------- a program to break
def small():
    code = [
        load(far(Type.I8, 0, (0, 0, 0, 1)), near(Type.I8, 0, (0, 0, 0, 1)), (1, 1, 1, 64), tag=1),
        matrix_mac(
            near(Type.I8, 0, (8, 0, 0, 0, 0, 0, 1)),
            near(Type.I8, 32, (0, 0, 0, 1, 0, 0, 4)),
            sums(0, (4, 0, 0, 1)),
            (4, 1, 1, 4, 1, 1, 8),
            tag=1,
        ),
        requantise(
            sums(0, (4, 0, 0, 1)), near(Type.I8, 128, (4, 0, 0, 1)), (4, 1, 1, 4), shift=4, tag=2
        ),
        store(near(Type.I8, 128, (0, 0, 0, 1)), far(Type.I8, 64, (0, 0, 0, 1)), (1, 1, 1, 16)),
    ]
    data = np.arange(64, dtype=np.int8).tobytes()
    program, machine = make("edge-npu", code, external_bytes=80, constants=[(0, data)])
    return replace(program, metadata={"tags": {"1": "first"}}), machine


def test_programs_round_trip_as_bytes_and_as_text():
    program, machine = small()
    again = Program.from_bytes(program.to_bytes(), machine)
    assert again == program
    assert again.to_bytes() == program.to_bytes()
    assert program_from_text(to_text(program), program) == program
    assert np.array_equal(run(again, machine).external, run(program, machine).external)


def sealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


def test_truncated_programs_are_refused_wherever_they_end():
    data = small()[0].to_bytes()
    for length in range(0, len(data), 7):
        with pytest.raises(InputError, match=r"truncated|corrupt|no accelerator program"):
            Program.from_bytes(data[:length])
        if length >= 84:
            with pytest.raises(InputError, match=r"truncated|corrupt|no JSON"):
                Program.from_bytes(sealed(data[:length]))


def test_every_corrupt_byte_is_found():
    data = small()[0].to_bytes()
    for place in range(len(data)):
        bad = bytearray(data)
        bad[place] ^= 0x40
        with pytest.raises(InputError, match=r"corrupt|truncated|no accelerator program|version"):
            Program.from_bytes(bytes(bad))


def test_bytes_behind_the_end_are_refused():
    data = small()[0].to_bytes()
    with pytest.raises(InputError, match="3 bytes stand behind its end"):
        Program.from_bytes(sealed(data[:-4] + b"abc"))


def test_another_machines_program_is_refused():
    program, _ = small()
    with pytest.raises(InputError, match="made for another description: its hash is"):
        Program.from_bytes(program.to_bytes(), load_description("tiny"))


def test_undefined_instructions_are_refused():
    program, machine = small()
    data = bytearray(program.to_bytes())
    data[80 + 4 * WORDS] = 99
    with pytest.raises(InputError, match="instruction 1: undefined instruction: opcode is 99"):
        Program.from_bytes(sealed(bytes(data[:-4])), machine)
    data[80 + 4 * WORDS] = 3
    data[80 + 4 * (WORDS + 79)] = 1
    with pytest.raises(InputError, match="instruction 1: word 79 is 1; accepted: 0"):
        Program.from_bytes(sealed(bytes(data[:-4])), machine)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("LAOD extents=4", "undefined instruction 'LAOD'. Did you mean LOAD"),
        ("LOAD extents=x", "extents is 'x': expected a whole number"),
        ("LOAD extnts=4", "is not understood; accepted: key=value"),
        ("LOAD a=HERE:I8@0", "space 'HERE'"),
        ("LOAD a=ROM@0", "accepted: SPACE:TYPE@base"),
        ("SYNC NOWHERE", "queue 'NOWHERE'"),
        ("LOAD wait=FOO", "queue 'FOO'"),
        ("LOAD shift=4294967296", "signed, of 32 bits"),
    ],
)
def test_text_that_is_not_understood(line, message):
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        from_text(f"; a comment\n{line}\n")


# ---------------------------------------------------------------- what is checked at load
A = near(Type.I8, 0, (8, 0, 0, 0, 0, 0, 1))
B = near(Type.I8, 0, (0, 0, 0, 1, 0, 0, 4))
SUMS = sums(0, (4, 0, 0, 1))
TILE = (4, 1, 1, 4, 1, 1, 8)
LINE = near(Type.I8, 0, (0, 0, 0, 1))
FAR = far(Type.I8, 0, (0, 0, 0, 1))


def mac(**changed):
    values = {"a": A, "b": B, "out": SUMS, "extents": TILE, **changed}
    return matrix_mac(**values)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (load(FAR, LINE, (1, 1, 1, 101)), "a reaches from 0 to 100 in EXTERNAL.*0 to 99"),
        (load(FAR, near(Type.I8, -1, (0, 0, 0, 1)), (1, 1, 1, 4)), "out reaches from -1"),
        (load(FAR, near(Type.I8, 3, (0, 0, 0, -2)), (1, 1, 1, 4)), "out reaches from -3"),
        (load(FAR, near(Type.I16, 0, (0, 0, 0, 2)), (1, 1, 1, 4)), "they differ"),
        (load(LINE, LINE, (1, 1, 1, 4)), "a is in SCRATCHPAD; accepted: EXTERNAL"),
        (load(FAR, LINE, (1, 1, 4, 4)), "points of out overlap"),
        (load(FAR, LINE, (1, 1, 1, 0)), "extents are"),
        (load(FAR, LINE, (1, 1, 1, 4, 2)), "extent 4 is 2; accepted: 1"),
        (load(FAR, LINE, (1, 1, 1, 4), ring=4, start=4), "a start on it"),
        (load(far(Type.I8, 0, (0, 0, 8, 1)), near(Type.I8, 0, (0, 0, 8, 1)), (1, 1, 5, 8), ring=4),
         "extent 2 is 5; the ring has 4 places"),
        (load(far(Type.I8, 0, (0, 0, 20, 1)), near(Type.I8, 0, (0, 0, 8, 1)), (1, 1, 2, 8), ring=6,
              start=5), "a reaches from 0 to 107"),
        (store(near(Type.I8, 0, (0, 20, 4, 1)), far(Type.I8, 0, (0, 16, 4, 1)), (1, 2, 4, 4), ring=5),
         "points of out overlap"),
        (mac(out=LINE), "out is in SCRATCHPAD; accepted: ACCUMULATOR"),
        (mac(out=sums(65530, (4, 0, 0, 1))), "out reaches from 65530 to 65545 in ACCUMULATOR"),
        (mac(a=FAR), "a is in EXTERNAL; accepted: SCRATCHPAD, ROM"),
        (mac(a=NOWHERE), "operand a is missing"),
        (mac(a=near(Type.I16, 1)), "not all multiples of 2 bytes"),
        (mac(a=near(Type.I64, 0)), "a has type I64; accepted: I8, I16, I32"),
        (mac(out=sums(0, (4, 0, 0, 1, 1))), "out has strides"),
        (mac(c=LINE, accumulate=True), "only one can be"),
        (mac(b=Operand(Space.ROM, Type.I8, 0)), "b reaches from 0 to 0 in ROM"),
        (circular_mac(A, B, SUMS, TILE, ring=0), "ring is 0; accepted"),
        (circular_mac(near(Type.I8, 0, (0, 8, 0, 0, 8)), B, SUMS, TILE, ring=4), "along strides.1."),
        (circular_mac(near(Type.I8, 1048570, (0, 2)), B, SUMS, TILE, ring=4), "a reaches"),
        (replace(mac(), wait=1 << Queue.MAC), "one bit for each other queue"),
        (replace(mac(), rounding=5), "rounding is 5"),
        (replace(mac(), tag=-1), "tag is -1"),
        (replace(mac(), shift=63), "shift is 63"),
        (replace(mac(), lo=3, hi=2), "lo is at most hi"),
        (replace(mac(), ring=4), "it has neither"),
        (replace(mac(), function=int(Function.ADD)), "function is ADD; it has none"),
        (replace(mac(), flags=Flag.WRAP), "always keep their low bits"),
        (replace(barrier(), wait=1), "neither takes nor sends tokens"),
        (replace(barrier(), a=LINE), "it has no operand a"),
        (replace(sync(Queue.MAC), out=SUMS), "it has no operand out"),
        (vector(Function.STAGE, LINE, (1, 1, 1, 4), a=LINE), "function is STAGE; accepted: COPY"),
        (vector(Function.ADD, LINE, (1, 1, 1, 4), a=LINE), "operand b is missing"),
        (vector(Function.ADD, LINE, (1, 1, 1, 4), a=LINE, b=LINE, flags=Flag.ACCUMULATE),
         "only MAX and SUM"),
        (vector(Function.ACTIVATE, LINE, (1, 1, 1, 4), a=LINE, b=near(Type.I32, 0), immediate=1),
         "2 words and more"),
        (vector(Function.ACTIVATE, LINE, (1, 1, 1, 4), a=LINE, b=near(Type.I32, 0), immediate=9,
                up_a=40), "accepted: 0 to 28 and 30"),
        (vector(Function.ACTIVATE, LINE, (1, 1, 1, 4), a=LINE, b=near(Type.I32, 1048560),
                immediate=9), "b reaches from 1048560 to 1048595"),
        (vector(Function.LAYER_NORM, LINE, (1, 1, 1, 4), a=LINE,
                b=near(Type.I64, 1048560, (0, 0, 0, 16)), immediate=1), "b reaches"),
        (vector(Function.LAYER_NORM, LINE, (1, 1, 1, 4), a=LINE, b=near(Type.I64, 0, (0, 0, 0, 16))),
         "epsilon, which is at least 1"),
        (Instruction(opcode=Opcode.BUTTERFLY, function=1, a=near(Type.I16, 0), out=near(Type.I16, 0),
                     b=Operand(Space.ROM, Type.I64, 0), extents=(1, 1, 4, 2)), "in ROM, which has"),
        (Instruction(opcode=Opcode.BUTTERFLY, function=1, a=near(Type.I16, 0), out=near(Type.I16, 0),
                     b=near(Type.I64, 0), extents=(1, 1, 4, 2)), "b is in SCRATCHPAD"),
    ],
)  # fmt: skip
def test_instructions_that_cannot_run_are_refused_by_name(each, message):
    program, machine = make("edge-npu", [], external_bytes=100)
    bad = replace(program, instructions=(barrier(), each))
    with pytest.raises(InputError, match=rf"instruction 1 \({each.opcode.name}\): .*{message}"):
        bad.check(machine)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ([end()], "END without a LOOP"),
        ([loop(2)], "this LOOP has no END"),
        ([loop(2), end()], "the loop that ends here is empty"),
        ([loop(1)] * 5 + [barrier()] + [end()] * 5, "a loop inside 4 others"),
        ([load(replace(FAR, steps=(1,)), LINE, (1, 1, 1, 4))], "inside 0 loops"),
        (
            [loop(98), load(replace(FAR, steps=(1,)), LINE, (1, 1, 1, 4)), end()],
            "reaches from 0 to 100",
        ),
        ([loop(0), barrier(), end()], "extents are"),
    ],
)
def test_loops_that_are_not_right(code, message):
    program, machine = make("edge-npu", [], external_bytes=100)
    with pytest.raises(InputError, match=message):
        replace(program, instructions=tuple(code)).check(machine)


def test_units_that_a_machine_lacks():
    machine = load_description("edge-npu")
    none = replace(machine, butterfly=replace(machine.butterfly, units=0))
    stage = Instruction(
        opcode=Opcode.BUTTERFLY, function=1, a=near(Type.I16, 0), out=near(Type.I16, 0),
        b=Operand(Space.ROM, Type.I64, 0), extents=(1, 1, 4, 2),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="has no butterfly unit"):
        make(none, [stage])
    few = replace(machine, vector=replace(machine.vector, cycles=(("copy", 1),)))
    with pytest.raises(UnsupportedError, match="has no fill"):
        make(few, [vector(Function.FILL, LINE, (1, 1, 1, 4))])


def test_programs_whose_parts_do_not_fit():
    program, machine = small()
    with pytest.raises(InputError, match="the ROM of edge-npu has 262144"):
        replace(program, rom=bytes(262145)).check(machine)
    with pytest.raises(InputError, match="lies outside the external memory"):
        replace(program, constants=((70, bytes(20)),))
    with pytest.raises(InputError, match="on the constant before"):
        replace(program, constants=((0, bytes(20)), (10, bytes(20))))
    with pytest.raises(InputError, match="addresses of 31 bits"):
        replace(program, external_bytes=1 << 40)
    with pytest.raises(InputError, match=r"32 of Description.hash"):
        replace(program, description_hash=b"")


# ---------------------------------------------------------------- tokens
def test_tokens_are_placed_where_memory_is_shared_and_nowhere_else():
    program, _ = small()
    names = [(each.wait, each.signal) for each in program.instructions]
    chain = [Queue.LOAD, Queue.MAC, Queue.VECTOR, Queue.STORE]
    bits = [1 << queue for queue in chain]
    assert names == [(0, bits[1]), (bits[0], bits[2]), (bits[1], bits[3]), (bits[2], 0)]


def test_two_instructions_that_race_are_found():
    program, machine = small()
    for number in (0, 1, 2):
        code = list(program.instructions)
        code[number] = replace(code[number], signal=0)
        code[number + 1] = replace(code[number + 1], wait=0)
        with pytest.raises(
            InputError, match=rf"instruction {number + 1} .* may start before instruction {number} "
        ):
            run(replace(program, instructions=tuple(code)), machine)


def test_a_token_that_nobody_sends_would_hang():
    program, machine = small()
    code = list(program.instructions)
    code[1] = replace(code[1], wait=1 << Queue.STORE)
    with pytest.raises(InputError, match="waits for a token from STORE that no instruction before"):
        run(replace(program, instructions=tuple(code)), machine)
    code[1] = replace(code[1], wait=1 << Queue.VECTOR)  # which sends its token later
    code[2] = replace(code[2], signal=1 << Queue.MAC, wait=0)
    with pytest.raises(
        InputError, match="waits for a token from VECTOR that no instruction before"
    ):
        run(replace(program, instructions=tuple(code)), machine)


def random_moves(rng, count):
    """Transfers and vector operations on a few small, often overlapping, places."""
    code = []
    for _ in range(count):
        kind = rng.integers(4)
        stride = int(rng.choice([8, 12, 16]))
        near_at, far_at = (int(rng.integers(0, 9)) * 8 for _ in range(2))
        extents = (int(rng.integers(1, 4)), 1, 1, int(rng.integers(1, 9)))
        here = near(Type.I8, near_at, (stride, 0, 0, 1))
        there = far(Type.I8, far_at, (stride, 0, 0, 1))
        if kind == 0:
            code.append(load(there, here, extents))
        elif kind == 1:
            code.append(store(here, there, extents))
        elif kind == 2:
            code.append(vector(Function.FILL, here, extents, immediate=int(rng.integers(99))))
        else:
            other = near(Type.I8, int(rng.integers(0, 9)) * 8, (stride, 0, 0, 1))
            code.append(vector(Function.COPY, here, extents, a=other))
    return code


def touched(each):
    """Every address of an instruction's operands, by definition: (space, address, writes)."""
    found = set()
    for name in ("a", "out"):
        operand = getattr(each, name)
        if not operand:
            continue
        for d0 in range(each.extents[0]):
            for d3 in range(each.extents[3]):
                at = operand.base + d0 * operand.strides[0] + d3 * operand.strides[3]
                found.add((operand.space, at, name == "out"))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_placed_tokens_order_exactly_what_conflicts(seed):
    code = synchronise(random_moves(np.random.default_rng(seed), 60))
    # Who has ended before each starts, from the tokens, by definition.
    sent, before = {}, []
    last = {}
    for i, each in enumerate(code):
        known = set()
        if each.queue in last:
            known |= {last[each.queue]} | before[last[each.queue]]
        for p in Queue:
            if each.wait >> p & 1:
                sender = sent[p, each.queue].pop(0)
                known |= {sender} | before[sender]
        before.append(known)
        for q in Queue:
            if each.signal >> q & 1:
                sent.setdefault((each.queue, q), []).append(i)
        last[each.queue] = i
    assert not any(sent.values())  # nothing is sent in vain
    places = [touched(each) for each in code]
    for i, mine in enumerate(places):
        for j in range(i):
            if code[i].queue is code[j].queue:
                continue
            shared = any(
                (s, at, True) in places[j] or (w and (s, at, False) in places[j])
                for s, at, w in mine
            )
            if shared:
                assert j in before[i], (j, i)
    # Without any one of the tokens something races.
    program, machine = make("edge-npu", code, external_bytes=256, tokens=False)
    run(program, machine)


def test_no_token_is_placed_that_others_imply():
    for seed in range(10):
        code = synchronise(random_moves(np.random.default_rng(100 + seed), 12))
        program, machine = make("edge-npu", code, external_bytes=256, tokens=False)
        for i, each in enumerate(code):
            for p in Queue:
                if not each.wait >> p & 1:
                    continue
                # drop this token: its sender is the one that stands as many sends before
                taken = sum(e.wait >> p & 1 for e in code[:i] if e.queue is each.queue)
                senders = [
                    k for k, e in enumerate(code) if e.queue is p and e.signal >> each.queue & 1
                ]
                fewer = list(code)
                fewer[i] = replace(each, wait=each.wait & ~(1 << p))
                k = senders[taken]
                fewer[k] = replace(fewer[k], signal=fewer[k].signal & ~(1 << each.queue))
                with pytest.raises(InputError, match="may start before"):
                    run(replace(program, instructions=tuple(fewer)), machine)


def test_strides_tell_interleaved_tiles_apart():
    # even and odd bytes: a load of one does not wait for a copy of the other
    evens, odds = near(Type.I8, 0, (0, 0, 0, 2)), near(Type.I8, 1, (0, 0, 0, 2))
    code = synchronise(
        [
            vector(Function.FILL, odds, (1, 1, 1, 8), immediate=1),
            load(FAR, evens, (1, 1, 1, 8)),
            load(FAR, odds, (1, 1, 1, 8)),
        ]
    )
    assert [each.wait for each in code] == [0, 0, 1 << Queue.VECTOR]


def test_loops_are_refused_where_tokens_are_placed():
    with pytest.raises(InputError, match="instruction 0 is a LOOP"):
        synchronise([loop(2), barrier(), end()])


def test_rolled_loops_are_the_same_stream():
    body = [
        load(FAR, LINE, (1, 1, 1, 4)),
        vector(Function.FILL, near(Type.I8, 64, (0, 0, 0, 1)), (1, 1, 1, 4)),
    ]
    flat = [barrier()]
    for k in range(20):
        for each in body:
            moved = {
                name: replace(getattr(each, name), base=getattr(each, name).base + 8 * k)
                for name in ("a", "out")
                if getattr(each, name)
            }
            flat.append(replace(each, **moved))
    flat.append(store(LINE, FAR, (1, 1, 1, 4)))
    rolled = roll(flat)
    assert len(rolled) == 6
    stream = expand(rolled, 1000)
    unrolled = []
    for index, counters in zip(stream.index, stream.counters, strict=True):
        each = rolled[index]
        if each.opcode in (Opcode.LOOP, Opcode.END):
            continue
        at = {
            name: replace(
                operand,
                base=operand.base + int(np.dot(operand.steps, counters)),
                steps=(),
            )
            for name in ("a", "b", "c", "out")
            if (operand := getattr(each, name))
        }
        unrolled.append(replace(each, **at))
    assert unrolled == flat


# ---------------------------------------------------------------- running
def test_what_run_refuses():
    program, machine = small()
    with pytest.raises(InputError, match=r"uint8 of shape \(80,\)"):
        run(program, machine, np.zeros(79, np.uint8))
    with pytest.raises(InputError, match="contiguous and writeable"):
        run(program, machine, np.zeros(160, np.uint8)[::2])
    calling = replace(program, instructions=(host(3),))
    with pytest.raises(InputError, match="calls function 3, which was not given; given: 1"):
        run(calling, machine, host={1: print})
    turning = replace(program, instructions=(loop(1 << 30), barrier(), end()))
    with pytest.raises(InputError, match="meets 2147483649 instructions"):
        run(turning, machine)
    with pytest.raises(InputError, match="operations; at most 100 are simulated"):
        run(program, machine, most_operations=100)


def test_runs_are_deterministic_and_passes_can_be_left_out():
    program, machine = small()
    first, second = run(program, machine), run(program, machine)
    assert np.array_equal(first.external, second.external)
    assert (first.cycles, first.units, first.tags) == (second.cycles, second.units, second.tags)
    only = run(program, machine, values=False)
    assert only.cycles == first.cycles
    assert not only.external[64:].any()
    assert run(program, machine, timing=False).cycles == 0


def test_an_empty_program_takes_no_time():
    program, machine = make("edge-npu", [])
    result = run(program, machine)
    assert result.cycles == 0
    assert result.utilisation("MAC") == 0.0
