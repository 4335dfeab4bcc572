import hashlib
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.core.errors import MissingEvent
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.state_resolution_v1 import resolve
from tests.core.scenario import ALICE, BOB, CAROL, Branch, first_branch


def resolved(*branches: Branch) -> dict[tuple[str, str], EventID]:
    """Resolve the branches in every order; the answer must be one."""
    events = branches[0].room.events
    answers = [
        resolve([branch.ids for branch in order], events) for order in permutations(branches)
    ]
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def lowest_hash(*events: Event) -> Event:
    return min(events, key=lambda event: hashlib.sha1(event.event_id.encode()).digest())


def set_depth(depth: int, *events: Event) -> None:
    for event in events:
        event.depth = depth


def test_a_single_state_is_returned_unchanged() -> None:
    branch = first_branch("1", BOB)

    assert resolved(branch) == branch.ids
    assert resolved(branch, branch.fork()) == branch.ids


def test_what_only_one_branch_has_is_no_conflict() -> None:
    branch = first_branch("1")
    fork = branch.fork()
    fork.topic(BOB)

    assert resolved(branch, fork) == fork.ids


def test_the_oldest_levels_decide_about_the_later_ones() -> None:
    branch = first_branch("1", BOB)
    branch.levels(ALICE, users={ALICE: 100, BOB: 50})
    fork = branch.fork()
    first = branch.levels(ALICE, users={ALICE: 100, BOB: 50}, ban=60)
    second = fork.levels(BOB, users={ALICE: 100, BOB: 50}, ban=40)

    # Bob may not change what the older event has set above his level.
    assert first.depth < second.depth
    assert resolved(branch, fork)["m.room.power_levels", ""] == first.event_id


def test_later_levels_that_are_allowed_win() -> None:
    branch = first_branch("1", BOB)
    fork = branch.fork()
    branch.levels(ALICE, users={ALICE: 100}, ban=60)
    second = fork.levels(ALICE, users={ALICE: 100}, ban=40)

    assert resolved(branch, fork)["m.room.power_levels", ""] == second.event_id


def test_the_first_event_that_is_not_allowed_ends_the_list() -> None:
    branch = first_branch("1", BOB)
    forks = [branch.fork() for _ in range(3)]
    oldest = forks[0].levels(ALICE, users={ALICE: 100}, ban=60)
    forks[1].levels(BOB, users={BOB: 100})
    forks[2].levels(ALICE, users={ALICE: 100}, ban=40)

    assert resolved(*forks)["m.room.power_levels", ""] == oldest.event_id


def test_join_rules_and_memberships_are_decided_by_the_levels_found() -> None:
    branch = first_branch("1", BOB)
    branch.levels(ALICE, users={ALICE: 100, BOB: 50})
    fork = branch.fork()
    branch.levels(ALICE, users={ALICE: 100})
    first_rule = branch.join_rule(ALICE, "invite")
    fork.join_rule(BOB, "public")
    fork.levels(BOB, users={ALICE: 100, BOB: 50})
    kicked = branch.member(ALICE, "leave", CAROL)
    fork.member(BOB, "ban", CAROL)

    answer = resolved(branch, fork)

    assert answer["m.room.join_rules", ""] == first_rule.event_id
    assert answer["m.room.member", CAROL] == kicked.event_id


def test_the_newest_other_event_that_is_allowed_is_taken() -> None:
    branch = first_branch("1", BOB)
    forks = [branch.fork() for _ in range(3)]
    forks[0].topic(ALICE)
    allowed = forks[1].topic(ALICE)
    forks[2].topic(BOB)

    assert resolved(*forks)["m.room.topic", ""] == allowed.event_id


def test_if_no_other_event_is_allowed_the_oldest_is_taken() -> None:
    branch = first_branch("1", BOB)
    forks = [branch.fork() for _ in range(2)]
    oldest = forks[0].topic(BOB)
    forks[1].topic(BOB)

    assert resolved(*forks)["m.room.topic", ""] == oldest.event_id


@pytest.mark.parametrize("attempt", range(4))
def test_of_the_same_depth_the_lowest_hash_is_the_newest(attempt: int) -> None:
    branch = first_branch("1")
    forks = [branch.fork() for _ in range(3)]
    for fork in forks:
        fork.topic(ALICE, timestamp=attempt)
    topics = [fork.state["m.room.topic", ""] for fork in forks]
    set_depth(50, *topics)

    assert resolved(*forks)["m.room.topic", ""] == lowest_hash(*topics).event_id


def test_a_missing_event_is_named() -> None:
    branch = first_branch("1")
    topic = branch.topic(ALICE)
    events = {key: event for key, event in branch.room.events.items() if event is not topic}

    with pytest.raises(MissingEvent) as caught:
        resolve([branch.ids], events)

    assert caught.value.event_ids == (topic.event_id,)


moves = st.tuples(
    st.sampled_from([ALICE, BOB, CAROL]),
    st.sampled_from(["join", "leave", "ban", "topic", "levels", "rule"]),
    st.sampled_from([ALICE, BOB, CAROL]),
)


def play(branch: Branch, sender: str, kind: str, target: str) -> None:
    if kind == "topic":
        branch.topic(sender)
    elif kind == "levels":
        branch.levels(sender, users={ALICE: 100, target: 50})
    elif kind == "rule":
        branch.join_rule(sender, "public" if target == ALICE else "invite")
    else:
        branch.member(sender, kind, sender if kind == "join" else target)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(moves, max_size=5), min_size=2, max_size=4))
def test_attack_4_the_order_of_delivery_does_not_matter(forks: list[list[Any]]) -> None:
    base = first_branch("1", BOB)
    branches = [base.fork() for _ in forks]
    for branch, fork_moves in zip(branches, forks, strict=True):
        for move in fork_moves:
            play(branch, *move)

    answer = resolved(*branches)

    assert answer.keys() == set().union(*(branch.ids.keys() for branch in branches))
