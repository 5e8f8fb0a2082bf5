"""Does the arena hold every value for as long as it is needed, and little more?"""

import hypothesis.strategies as st
from hypothesis import given

from parc_hw.lower.memory import ALIGNMENT_BYTES, Lifetime, aligned, plan_memory

lifetimes = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 6)),
    min_size=0,
    max_size=25,
).map(
    lambda rows: {
        key: Lifetime(size_bytes=size, first=first, last=first + duration)
        for key, (size, first, duration) in enumerate(rows)
    }
)


@given(lifetimes)
def test_buffers_alive_at_the_same_call_never_share_a_byte(buffers):
    plan = plan_memory(buffers)
    for one, a in buffers.items():
        for other, b in buffers.items():
            if one < other and a.meets(b):
                first, second = sorted(
                    [
                        (plan.offsets_bytes[one], a.size_bytes),
                        (plan.offsets_bytes[other], b.size_bytes),
                    ]
                )
                assert first[0] + first[1] <= second[0]


@given(lifetimes)
def test_offsets_are_aligned_and_inside_the_arena(buffers):
    plan = plan_memory(buffers)
    assert set(plan.offsets_bytes) == set(buffers)
    for key, offset in plan.offsets_bytes.items():
        assert offset % ALIGNMENT_BYTES == 0
        assert offset + buffers[key].size_bytes <= plan.arena_bytes


@given(lifetimes)
def test_the_arena_is_at_least_the_live_peak_and_at_most_everything(buffers):
    plan = plan_memory(buffers)
    total = sum(aligned(b.size_bytes) for b in buffers.values())
    assert plan.live_peak_bytes <= plan.arena_bytes <= total


def test_a_chain_needs_only_two_neighbours():
    chain = {k: Lifetime(size_bytes=1000, first=k, last=k + 1) for k in range(50)}
    plan = plan_memory(chain)
    assert plan.arena_bytes == plan.live_peak_bytes == 2 * aligned(1000)


def test_no_buffers_need_no_arena():
    plan = plan_memory({})
    assert (plan.arena_bytes, plan.live_peak_bytes) == (0, 0)
