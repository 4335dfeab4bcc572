"""Auth chains by numbers, compared with walking everything."""

import random
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.engine.auth_chains import (
    CountedChain,
    Steps,
    TooFarToWalk,
    chain_of,
    paths_between,
    reach_beside,
    reach_of,
)
from homeserver.engine.not_loaded import NotLoaded

Graph = Mapping[int, Sequence[int]]
SEEDS = st.integers(0, 10**6)
MANY = settings(max_examples=200, deadline=None)


def random_graph(seed: int, size: int) -> Graph:
    """A graph as hostile as one with at most ten citations an event can be, repeated ones too."""
    chance = random.Random(seed)
    most = chance.choice((1, 3, 10))
    near = chance.choice((2, 10, size))
    return {
        number: chance.choices(range(max(1, number - near), number), k=chance.randrange(most + 1))
        if number > 1
        else []
        for number in range(1, size + 1)
    }


def whole_chain(numbers: Iterable[int], graph: Graph) -> set[int]:
    """The definition: the numbers, and the chains of what they cite."""
    chain = set(numbers)
    while more := {cited for number in chain for cited in graph[number]} - chain:
        chain |= more
    return chain


def random_set(chance: random.Random, size: int) -> set[int]:
    return set(chance.sample(range(1, size + 1), chance.randrange(1, size + 1)))


@MANY
@given(seed=SEEDS, size=st.integers(3, 60), sets=st.integers(2, 4))
def test_both_ways_give_the_difference_of_whole_chains(seed: int, size: int, sets: int) -> None:
    graph = random_graph(seed, size)
    chance = random.Random(seed + 1)
    shared = random_set(chance, size) if chance.random() < 0.5 else set()
    states = [random_set(chance, size) | shared for _ in range(sets)]
    common = states[0].intersection(*states)
    conflicted = [state - common for state in states]
    anchors = [number for number in sorted(common) if chance.random() < 0.3]
    counted = CountedChain()
    counted.move_to(random_set(chance, size), graph, Steps())
    counted.move_to(common, graph, Steps())

    walked = reach_of(conflicted, common, anchors, graph, Steps())
    beside = reach_beside(conflicted, counted, graph, Steps())

    every = (1 << sets) - 1
    chains = [whole_chain(state, graph) for state in states]
    difference = chains[0].union(*chains) - chains[0].intersection(*chains)
    for bits in (walked, beside):
        assert {number for number, held in bits.items() if held != every} == difference
        for number in difference:
            assert bits[number] == sum(1 << i for i, chain in enumerate(chains) if number in chain)


@MANY
@given(seed=SEEDS, size=st.integers(3, 60), moves=st.integers(1, 8))
def test_a_counted_chain_is_the_whole_chain_wherever_it_moves(
    seed: int, size: int, moves: int
) -> None:
    graph = random_graph(seed, size)
    chance = random.Random(seed + 2)
    chain = CountedChain()
    for _ in range(moves):
        roots = random_set(chance, size) if chance.random() < 0.9 else set()
        chain.move_to(roots, graph, Steps())
        expected = whole_chain(roots, graph)
        assert {number for number in graph if number in chain} == expected
        assert len(chain) == len(expected)


@MANY
@given(seed=SEEDS, size=st.integers(3, 40))
def test_a_move_that_fails_for_want_of_citations_or_steps_can_be_made_again(
    seed: int, size: int
) -> None:
    graph = random_graph(seed, size)
    chance = random.Random(seed + 3)
    chain = CountedChain()
    known: dict[int, Sequence[int]] = {}
    for _ in range(3):
        roots = random_set(chance, size)
        while True:
            try:
                chain.move_to(roots, known, Steps(chance.randrange(2 * size)))
            except NotLoaded as missing:
                wanted = missing.graph.citations if missing.graph is not None else ()
                known |= {number: graph[number] for number in wanted}
            except TooFarToWalk:
                continue
            else:
                break
        assert {number for number in graph if number in chain} == whole_chain(roots, graph)
        known = {n: cited for n, cited in known.items() if chance.random() < 0.5}


@MANY
@given(seed=SEEDS, size=st.integers(3, 60), count=st.integers(1, 6))
def test_paths_are_what_lies_above_one_and_below_another(seed: int, size: int, count: int) -> None:
    apart = 97  # a set of small numbers would happen to be in order
    small = random_graph(seed, size)
    graph = {apart * n: [apart * cited for cited in small[n]] for n in small}
    ends = random.Random(seed).sample(sorted(graph), min(count, size))

    below = whole_chain(ends, graph)
    above = {n for n in graph if not whole_chain([n], graph).isdisjoint(ends)}
    assert paths_between(ends, graph, Steps()) == below & above


def test_what_is_missing_is_named_at_once() -> None:
    graph = {5: [3, 4], 4: [1], 3: [1]}

    with pytest.raises(NotLoaded) as caught:
        chain_of([5, 9, 8], graph, Steps())

    assert caught.value.graph is not None
    assert set(caught.value.graph.citations) == {1, 8, 9}


def taken(steps: Steps, most: int) -> int:
    return most - steps.left


MOST = 1_000_000


def test_old_events_are_not_walked_for_a_recent_difference() -> None:
    graph: dict[int, Sequence[int]] = {n: [1, 2] for n in range(3, 100_000)}
    steps = Steps(MOST)

    reach_of([{99_998}, {99_999}], range(1, 99_990), [1, 2], graph | {1: [], 2: [1]}, steps)

    assert taken(steps, MOST) < 10


def long_chain(length: int) -> dict[int, Sequence[int]]:
    """1 is the room; 2 is old and in one state only; then somebody's endless memberships."""
    graph: dict[int, Sequence[int]] = {1: [], 2: [1], 3: [1]}
    return graph | {n: [1, n - 1] for n in range(4, length + 4)}


def test_attack_5_a_chain_of_100_000_is_walked_once_and_then_never_again() -> None:
    graph = long_chain(100_000)
    top = max(graph)
    graph |= {top + 1: [1, top], top + 2: [1, top], top + 3: [top + 1], top + 4: [top + 2]}
    common = {1, top}
    with pytest.raises(TooFarToWalk):
        reach_of([{2, top + 1}, {top + 2}], common, [1], graph, Steps(2_000))
    chain = CountedChain()

    first, second = Steps(MOST), Steps(MOST)
    chain.move_to(common, graph, first)
    reach_beside([{2, top + 1}, {top + 2}], chain, graph, first)
    chain.move_to({1, top, top + 1}, graph, second)
    bits = reach_beside([{2, top + 3}, {top + 4}], chain, graph, second)

    assert taken(first, MOST) <= 100_010
    assert taken(second, MOST) <= 10
    assert {n for n, held in bits.items() if held != 3} == {2, top + 2, top + 3, top + 4}


def test_attack_5_a_wide_graph_costs_what_differs_and_not_what_is_shared() -> None:
    members = range(10, 100_010)
    graph: dict[int, Sequence[int]] = {n: [1, 2, 3, 4] for n in members}
    graph |= {1: [], 2: [1], 3: [1, 2], 4: [1, 2], 5: [1, 2], 200_000: [5], 200_001: [2]}
    chain = CountedChain()
    chain.move_to({1, 2, 3, 4, *members}, graph, Steps(MOST))
    steps = Steps(MOST)

    chain.move_to({1, 2, 3, 4, *members[:-50]}, graph, steps)
    reach_beside([{5, 200_000}, {200_001, *members[-50:]}], chain, graph, steps)

    assert taken(steps, MOST) < 200


def test_attack_5_an_adversary_of_chain_covers_gains_nothing() -> None:
    """Ladders of citations, ten an event, of which no two lie on one path: every event would be a
    chain of its own and link to all below. Here it is an event like any other.
    """
    rungs, width = 2_000, 10
    graph: dict[int, Sequence[int]] = {n: [] for n in range(1, width + 1)}
    for rung in range(1, rungs):
        below = range((rung - 1) * width + 1, rung * width + 1)
        graph |= {n + width: list(below) for n in below}
    top = rungs * width
    chain = CountedChain()
    steps = Steps(MOST)

    chain.move_to(set(range(top - 4, top + 1)), graph, steps)
    bits = reach_beside([{top - 5}, {top - 6}], chain, graph, steps)

    assert taken(steps, MOST) <= top
    assert bits == {top - 5: 1, top - 6: 2}
    chain.move_to(set(), graph, steps)
    assert len(chain) == 0
    assert taken(steps, MOST) <= 2 * top
