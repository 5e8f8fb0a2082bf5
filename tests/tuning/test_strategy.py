"""The search takes small spaces whole and finds good points of large ones in few trials."""

from __future__ import annotations

import random
import statistics

import pytest
from pretended import cost_of, matmul_task, parc_task

from schedules.tuning.space import Choice, Dimension, Space
from schedules.tuning.strategy import EXHAUSTIVE, Search


def run(search: Search, cost, *, trials: int) -> None:
    while len(search.seen) < trials:
        choices = search.propose(min(4, trials - len(search.seen)))
        if not choices:
            return
        for choice in choices:
            search.tell(choice, cost(choice))


def grid(*sizes: int) -> Space:
    dimensions = tuple(Dimension(f"d{i}", tuple(range(size)), "") for i, size in enumerate(sizes))
    return Space("grid", dimensions, Choice.of({d.name: 0 for d in dimensions}))


def test_a_small_space_is_measured_whole_and_nothing_twice():
    space = grid(6, 8)
    assert space.size == EXHAUSTIVE
    search = Search(space)
    asked = []
    while choices := search.propose(5):
        asked += choices
    assert sorted(map(str, asked)) == sorted(map(str, space.points()))
    assert search.exhausted


def test_nothing_is_proposed_twice_in_a_large_space_until_it_is_exhausted():
    search = Search(grid(8, 8, 2))
    run(search, lambda choice: 1.0 + choice["d0"], trials=200)
    assert len(search.seen) == 128
    assert search.exhausted
    assert search.propose(4) == []


def test_what_was_best_elsewhere_is_measured_first():
    space = grid(16, 16)
    first = [Choice.of({"d0": 9, "d1": 3}), Choice.of({"d0": 99, "d1": 3})]
    assert Search(space, first=first).propose(4)[0] == first[0]
    assert first[1] not in Search(space, first=first).propose(4)


@pytest.mark.tvm
@pytest.mark.parametrize(("make", "sizes"), [(matmul_task, ()), (parc_task, (28, 96))])
def test_the_model_finds_better_points_than_as_many_random_ones(make, sizes):
    task = make(*sizes)
    space = task.space
    assert space.size > 4 * EXHAUSTIVE
    found, blind = [], []
    for seed in range(5):
        search = Search(space, seed=seed)
        search.tell(space.default, cost_of(task, space.default))
        run(search, lambda choice: cost_of(task, choice), trials=48)
        found.append(cost_of(task, search.best))
        source = random.Random(seed)
        blind.append(min(cost_of(task, space.sample(source)) for _ in range(48)))
    assert statistics.median(found) < statistics.median(blind)


def test_failures_are_avoided():
    """Half of the space fails; the search learns to stay out of it."""
    search = Search(grid(16, 16, 4), seed=3)
    failed = 0
    for _ in range(30):
        for choice in search.propose(4):
            bad = choice["d0"] >= 8
            failed += bad
            search.tell(choice, None if bad else 2.0 + (choice["d1"] - 11) ** 2)
    assert failed < 30
    assert search.best["d1"] == 11


def test_the_same_seed_and_costs_give_the_same_proposals():
    def proposals(seed: int) -> list[Choice]:
        search = Search(grid(16, 16), seed=seed)
        run(search, lambda choice: 1.0 + choice["d0"] * choice["d1"], trials=32)
        return sorted(search.seen, key=str)

    assert proposals(1) == proposals(1)
    assert proposals(1) != proposals(2)


def test_a_space_of_one_point_proposes_it():
    assert len(Search(grid(1)).propose(4)) == 1
