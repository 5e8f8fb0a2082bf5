"""Spaces are data: they print themselves, check choices, and hand out points only."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc_hw.errors import InputError
from schedules.tuning.space import Choice, Dimension, Implication, Space


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    dimensions = tuple(
        Dimension(f"d{i}", tuple(range(count)), f"number {i}") for i, count in enumerate(counts)
    )
    implications = []
    for _ in range(draw(st.integers(0, 3))):
        a, b = draw(st.sampled_from(dimensions)), draw(st.sampled_from(dimensions))
        if a is b:
            continue
        accepted = draw(st.sets(st.sampled_from(b.values), min_size=1))
        accepted.add(0)  # the default is all zeros
        value = draw(st.sampled_from(a.values))
        implications.append(Implication(a.name, (value,), b.name, tuple(sorted(accepted))))
    default = Choice.of({d.name: 0 for d in dimensions})
    return Space("drawn", dimensions, default, tuple(implications))


@given(spaces())
def test_the_points_are_exactly_the_choices_without_a_refusal(space):
    points = list(space.points())
    assert len(points) == space.size == len(set(points))
    assert space.default in points
    assert all(space.contains(point) for point in points)


@given(spaces(), st.integers(0, 1000))
def test_whatever_a_space_hands_out_is_one_of_its_points(space, seed):
    source = random.Random(seed)
    a, b = space.sample(source), space.sample(source)
    assert space.contains(a)
    assert space.contains(space.mutated(a, source))
    assert space.contains(space.crossed(a, b, source))
    assert space.contains(space.nearest(a))
    assert space.nearest(a) == a
    for other in space.neighbours(a):
        assert space.contains(other)
        assert other != a


@given(spaces())
def test_a_space_survives_json(space):
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def space() -> Space:
    return Space(
        kernel="example",
        dimensions=(
            Dimension("fetch", (False, True), "fetch ahead"),
            Dimension("rows", (1, 2), "rows of a tile"),
        ),
        default=Choice.of({"fetch": False, "rows": 1}),
    )


def test_true_is_not_one():
    assert "fetch is 1, not no or yes" in space().refusal(Choice.of({"fetch": 1, "rows": 1}))
    assert "rows is yes, not 1 or 2" in space().refusal(Choice.of({"fetch": True, "rows": True}))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"fetch": True}, "rows is missing"),
        ({"fetch": True, "rows": 3}, "rows is 3, not 1 or 2"),
        ({"fetch": True, "rows": 1, "z": 1}, "z is no dimension of example"),
    ],
)
def test_a_refusal_says_what_is_wrong(values, reason):
    assert space().refusal(Choice.of(values)) == reason


def test_the_nearest_point_takes_what_another_space_has_in_common():
    foreign = Choice.of({"rows": 2, "fetch": "sometimes", "other": 3})
    assert space().nearest(foreign) == Choice.of({"fetch": False, "rows": 2})


def test_bad_spaces_are_refused():
    one = Dimension("a", (1,), "")
    with pytest.raises(InputError, match="two dimensions have one name"):
        Space("bad", (one, one), Choice.of({"a": 1}))
    with pytest.raises(InputError, match="at least one, each once"):
        Space("bad", (Dimension("a", (), ""),), Choice.of({"a": 1}))
    with pytest.raises(InputError, match="the default is no point of it: a is 2, not 1"):
        Space("bad", (one,), Choice.of({"a": 2}))
    with pytest.raises(InputError, match="unknown key 'size'"):
        Space.from_json({**space().to_json(), "size": 3})
    with pytest.raises(InputError, match="accepted: a table of names"):
        Choice.from_json([1, 2])
