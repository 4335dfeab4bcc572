"""Auth chains by numbers, compared with walking everything."""

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.engine.auth_chains import chain_of, paths_between, reach_of
from homeserver.engine.not_loaded import NotLoaded

Graph = Mapping[int, Sequence[int]]


def random_graph(seed: int, size: int) -> Graph:
    chance = random.Random(seed)
    return {
        number: sorted(chance.sample(range(1, number), min(number - 1, chance.randrange(4))))
        for number in range(1, size + 1)
    }


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(3, 60), sets=st.integers(2, 4))
def test_the_difference_is_that_of_whole_chains(seed: int, size: int, sets: int) -> None:
    graph = random_graph(seed, size)
    chance = random.Random(seed + 1)
    states = [
        set(chance.sample(range(1, size + 1), chance.randrange(1, size))) for _ in range(sets)
    ]
    common = {number for number in states[0] if all(number in state for state in states)}
    conflicted = [state - common for state in states]
    anchors = [number for number in common if chance.random() < 0.3]

    bits = reach_of(conflicted, common, anchors, graph)

    every = (1 << sets) - 1
    chains = [chain_of(state, graph) for state in states]
    in_all = {number for number in chains[0] if all(number in chain for chain in chains)}
    difference = set().union(*chains) - in_all
    assert {number for number, held in bits.items() if held != every} == difference
    for number in difference:
        assert bits[number] == sum(1 << i for i, chain in enumerate(chains) if number in chain)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(3, 60), count=st.integers(1, 6))
def test_paths_are_what_lies_above_one_and_below_another(seed: int, size: int, count: int) -> None:
    graph = random_graph(seed, size)
    ends = random.Random(seed).sample(range(1, size + 1), min(count, size))

    below = set.union(*(chain_of([end], graph) for end in ends))
    above = {n for n in graph if not chain_of([n], graph).isdisjoint(ends)}
    assert paths_between(ends, graph) == below & above


def test_what_is_missing_is_named_at_once() -> None:
    graph = {5: [3, 4], 4: [1], 3: [1]}

    with pytest.raises(NotLoaded) as caught:
        chain_of([5, 9, 8], graph)

    assert caught.value.graph is not None
    assert set(caught.value.graph.citations) == {1, 8, 9}


def test_old_events_are_not_walked_for_a_recent_difference() -> None:
    graph: dict[int, Sequence[int]] = {n: [1, 2] for n in range(3, 100_000)}
    met: list[int] = []

    class Watched(dict[int, Sequence[int]]):
        def __getitem__(self, number: int) -> Sequence[int]:
            met.append(number)
            return super().__getitem__(number)

    watched = Watched(graph | {1: [], 2: [1]})
    common = list(range(1, 99_990))
    reach_of([{99_998}, {99_999}], common, [1, 2], watched)

    assert len(met) < 100
