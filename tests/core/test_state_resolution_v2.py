"""State resolution 2.0 and 2.1."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.core.errors import MissingEvent
from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.core.state_resolution_v2 import auth_chain_of, resolve
from tests.core.scenario import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    Branch,
    first_branch,
    versions_between,
)

BOTH = ["2", "3", "11", "12"]
"""Versions with 2.0, with and without hashes as ids, and the version with 2.1."""


def resolved(*branches: Branch, rejected: Sequence[Event] = ()) -> dict[tuple[str, str], EventID]:
    """Resolve the branches in every order; the answer must be one."""
    room = branches[0].room
    answers = [
        resolve(
            room.version,
            [branch.ids for branch in order],
            [auth_chain_of(branch.ids.values(), room.events) for branch in order],
            room.events,
            {event.event_id for event in rejected},
        )
        for order in permutations(branches)
    ]
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def users(branch: Branch, **levels: int) -> JsonObject:
    """Return levels of users, with the creator's where the creator may be named."""
    names = {"alice": ALICE, "bob": BOB, "carol": CAROL, "dave": DAVE}
    result: JsonObject = {names[name]: level for name, level in levels.items()}
    if branch.room.version.privileged_creators:
        result.pop(ALICE, None)
    return result


@pytest.mark.parametrize("version_id", versions_between(2, 12))
def test_a_single_state_is_returned_unchanged(version_id: str) -> None:
    branch = first_branch(version_id, BOB)

    assert resolved(branch) == branch.ids
    assert resolved(branch, branch.fork()) == branch.ids


@pytest.mark.parametrize("version_id", versions_between(2, 12))
def test_what_only_one_branch_has_is_let_in_if_it_is_allowed(version_id: str) -> None:
    branch = first_branch(version_id)
    fork = branch.fork()
    joined = fork.member(BOB, "join")
    forged = fork.topic(BOB)

    answer = resolved(branch, fork)

    assert answer == branch.ids | {("m.room.member", BOB): joined.event_id}
    assert forged.event_id not in answer.values()


@pytest.mark.parametrize("version_id", BOTH)
def test_attack_4_a_ban_wins_over_what_the_banned_user_did_meanwhile(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    branch.levels(ALICE, users=users(branch, alice=100, bob=50))
    fork = branch.fork()
    ban = branch.member(ALICE, "ban", BOB)
    branch.topic(ALICE)
    fork.topic(BOB)
    fork.member(BOB, "leave")
    rejoined = fork.member(BOB, "join")

    answer = resolved(branch, fork)

    assert answer["m.room.member", BOB] == ban.event_id
    assert answer["m.room.topic", ""] == branch.ids["m.room.topic", ""]
    assert rejoined.event_id not in answer.values()


@pytest.mark.parametrize("version_id", BOTH)
def test_attack_4_a_backdated_branch_does_not_evade_a_ban(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    fork = branch.fork()
    branch.member(ALICE, "ban", BOB)
    for _ in range(25):
        fork.send("m.room.member", BOB, {"membership": "join", "n": fork.clock}, BOB, timestamp=-9)

    assert resolved(branch, fork) == branch.ids


@pytest.mark.parametrize("version_id", BOTH)
def test_attack_4_a_demoted_admin_cannot_take_the_levels_back(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    branch.levels(ALICE, users=users(branch, alice=100, bob=99))
    fork = branch.fork()
    demotion = branch.levels(ALICE, users=users(branch, alice=100))
    fork.levels(BOB, users=users(branch, alice=100, bob=99, carol=99))
    fork.levels(BOB, users=users(branch, alice=100, bob=99, carol=99, dave=99))

    assert resolved(branch, fork)["m.room.power_levels", ""] == demotion.event_id


@pytest.mark.parametrize("version_id", BOTH)
def test_levels_of_equals_are_decided_by_time_and_then_by_id(version_id: str) -> None:
    branch = first_branch(version_id)
    first, second = branch.fork(), branch.fork()
    first.send(
        "m.room.power_levels",
        ALICE,
        {"users": users(branch, alice=100), "ban": 60},
        timestamp=5_000,
    )
    later = second.send(
        "m.room.power_levels",
        ALICE,
        {"users": users(branch, alice=100), "ban": 70},
        timestamp=5_001,
    )

    assert resolved(first, second)["m.room.power_levels", ""] == later.event_id

    third = branch.fork()
    same_time = third.send(
        "m.room.power_levels",
        ALICE,
        {"users": users(branch, alice=100), "ban": 80},
        timestamp=5_001,
    )
    assert resolved(second, third)["m.room.power_levels", ""] == max(
        later.event_id, same_time.event_id
    )


@pytest.mark.parametrize("version_id", BOTH)
def test_attack_4_joining_while_the_door_closes_fails(version_id: str) -> None:
    branch = first_branch(version_id)
    fork = branch.fork()
    closed = branch.join_rule(ALICE, "invite")
    joined = fork.member(BOB, "join")

    answer = resolved(branch, fork)

    assert answer["m.room.join_rules", ""] == closed.event_id
    # Only one branch has the join rule on both sides of the change, so nothing lets Bob in.
    assert joined.event_id not in answer.values()


@pytest.mark.parametrize("version_id", BOTH)
def test_topics_follow_the_mainline_before_the_clock(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    old = branch.fork()
    branch.levels(ALICE, users=users(branch, alice=100), ban=60)
    newer = branch.topic(ALICE, timestamp=1)
    old.topic(ALICE, timestamp=9_000)

    assert resolved(branch, old)["m.room.topic", ""] == newer.event_id


@pytest.mark.parametrize("version_id", BOTH)
def test_topics_of_the_same_levels_follow_the_clock(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    forks = [branch.fork() for _ in range(4)]
    for number, fork in enumerate(forks):
        fork.topic(ALICE, timestamp=5_000 + number % 3)

    assert resolved(*forks)["m.room.topic", ""] == forks[2].ids["m.room.topic", ""]


@pytest.mark.parametrize("version_id", BOTH)
def test_events_that_cite_no_levels_come_first(version_id: str) -> None:
    branch = Branch(first_branch(version_id).room)
    branch.member(ALICE, "join")
    without = branch.fork()
    branch.levels(ALICE, users=users(branch, alice=100))
    topic = branch.topic(ALICE, timestamp=1)
    without.topic(ALICE, timestamp=9_000)

    assert resolved(branch, without)["m.room.topic", ""] == topic.event_id


def reset_by_later_join_rules(version_id: str) -> tuple[Branch, Branch, Event]:
    """MSC4297 problem A: a join of a once public room is judged by the rules of today."""
    branch = first_branch(version_id)
    branch.member(BOB, "join")
    branch.member(BOB, "leave")
    stale = branch.fork()
    joined = branch.member(BOB, "join")
    stale.state["m.room.join_rules", ""] = branch.join_rule(ALICE, "invite")
    return branch, stale, joined


def reset_by_missing_levels_between(version_id: str) -> tuple[Branch, Branch, Event]:
    """MSC4297 problem B: what gave the sender the power is not in conflict itself."""
    branch = first_branch(version_id, BOB)
    stale = branch.fork()
    branch.levels(ALICE, users=users(branch, alice=100, bob=90))
    stale.state["m.room.topic", ""] = branch.topic(BOB)
    latest = branch.levels(BOB, users=users(branch, alice=100, bob=90, carol=80))
    return branch, stale, latest


@pytest.mark.parametrize("version_id", ["11"])
def test_edition_2_0_resets_state_in_problems_a_and_b(version_id: str) -> None:
    branch, stale, joined = reset_by_later_join_rules(version_id)
    assert resolved(branch, stale)["m.room.member", BOB] != joined.event_id

    branch, stale, latest = reset_by_missing_levels_between(version_id)
    assert resolved(branch, stale)["m.room.power_levels", ""] != latest.event_id


def test_attack_4_edition_2_1_keeps_the_state_in_problem_a() -> None:
    branch, stale, joined = reset_by_later_join_rules("12")

    assert resolved(branch, stale)["m.room.member", BOB] == joined.event_id


def test_attack_4_edition_2_1_keeps_the_state_in_problem_b() -> None:
    branch, stale, latest = reset_by_missing_levels_between("12")

    assert resolved(branch, stale)["m.room.power_levels", ""] == latest.event_id


def test_attack_4_a_creator_of_version_12_outranks_any_clock() -> None:
    branch = first_branch("12", BOB)
    branch.levels(ALICE, users={BOB: 2**53 - 1})
    fork = branch.fork()
    demotion = branch.send("m.room.power_levels", ALICE, {"users": {}}, timestamp=9_000)
    fork.send("m.room.power_levels", BOB, {"users": {BOB: 2**53 - 1, CAROL: 100}}, timestamp=1)

    assert resolved(branch, fork)["m.room.power_levels", ""] == demotion.event_id


@pytest.mark.parametrize("version_id", BOTH)
def test_a_rejected_event_does_not_serve_as_auth_event(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    branch.levels(ALICE, users=users(branch, alice=100), events={"m.room.topic": 0})
    fork = branch.fork()
    branch.topic(BOB)
    latest = fork.topic(BOB, timestamp=9_000)
    # Nothing in the state says that Bob is in the room, only what his topics cite.
    joined = branch.state.pop(("m.room.member", BOB))
    del fork.state["m.room.member", BOB]

    assert resolved(branch, fork)["m.room.topic", ""] == latest.event_id
    assert ("m.room.topic", "") not in resolved(branch, fork, rejected=[joined])


@pytest.mark.parametrize("version_id", ["11", "12"])
def test_missing_events_are_named(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    fork = branch.fork()
    one, two = branch.topic(ALICE), fork.topic(ALICE)
    sets = [branch.ids, fork.ids]
    chains = [auth_chain_of(ids.values(), branch.room.events) for ids in sets]
    events = {key: event for key, event in branch.room.events.items() if event not in (one, two)}

    with pytest.raises(MissingEvent) as caught:
        resolve(branch.room.version, sets, chains, events)

    assert set(caught.value.event_ids) == {one.event_id, two.event_id}


def test_all_that_the_checks_need_is_missed_at_once() -> None:
    branch = first_branch("11", BOB)
    fork = branch.fork()
    branch.topic(ALICE)
    fork.topic(ALICE)
    sets = [branch.ids, fork.ids]
    chains = [auth_chain_of(ids.values(), branch.room.events) for ids in sets]
    conflicted = [sets[0]["m.room.topic", ""], sets[1]["m.room.topic", ""]]
    events = {event_id: branch.room.events[event_id] for event_id in conflicted}

    with pytest.raises(MissingEvent) as caught:
        resolve(branch.room.version, sets, chains, events)

    assert set(caught.value.event_ids) == {
        branch.ids["m.room.create", ""],
        branch.ids["m.room.power_levels", ""],
        branch.ids["m.room.member", ALICE],
    }


def test_the_create_event_of_version_12_is_found_by_the_room_id() -> None:
    branch = first_branch("12")
    fork = branch.fork()
    branch.topic(ALICE)
    sets = [branch.ids, fork.ids]
    chains = [auth_chain_of(ids.values(), branch.room.events) for ids in sets]
    create_id = branch.room.create.event_id
    events = {key: event for key, event in branch.room.events.items() if key != create_id}

    with pytest.raises(MissingEvent) as caught:
        resolve(branch.room.version, sets, chains, events)

    assert caught.value.event_ids == (create_id,)


@pytest.mark.parametrize("version_id", ["11", "12"])
def test_missing_power_levels_of_the_mainline_are_named(version_id: str) -> None:
    branch = first_branch(version_id)
    oldest = branch.state["m.room.power_levels", ""]
    branch.levels(ALICE, users=users(branch, alice=100), ban=60)
    branch.levels(ALICE, users=users(branch, alice=100), ban=70)
    fork = branch.fork()
    branch.topic(ALICE)
    fork.levels(ALICE, users=users(branch, alice=100), ban=80)
    sets = [branch.ids, fork.ids]
    chains = [auth_chain_of(ids.values(), branch.room.events) for ids in sets]
    events = {key: event for key, event in branch.room.events.items() if event is not oldest}

    with pytest.raises(MissingEvent) as caught:
        resolve(branch.room.version, sets, chains, events)

    assert caught.value.event_ids == (oldest.event_id,)


@pytest.mark.parametrize("version_id", BOTH)
def test_attack_4_a_message_cited_as_auth_event_never_becomes_state(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    fork = branch.fork()
    message = fork.room.make("m.room.power_levels", BOB, {"users": {BOB: 100}})
    topic = fork.room.make(
        "m.room.topic", BOB, {}, state_key="", auth=[message.event_id, fork.room.create.event_id]
    )
    fork.state["m.room.topic", ""] = topic

    assert resolved(branch, fork) == branch.ids


@pytest.mark.parametrize("version_id", ["2", "11"])
def test_attack_4_power_events_without_a_create_event_have_no_power(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    fork = branch.fork()
    rule = branch.join_rule(ALICE, "invite")
    bare = fork.room.make(
        "m.room.join_rules", ALICE, {"join_rule": "knock"}, state_key="", timestamp=1
    )
    fork.state["m.room.join_rules", ""] = bare

    # Ranked behind Alice's true level, the bare one is checked last and thereby wins.
    assert bare.origin_server_ts < rule.origin_server_ts
    assert resolved(branch, fork)["m.room.join_rules", ""] == bare.event_id


def test_the_auth_chain_of_events_includes_them_and_names_what_is_missing() -> None:
    branch = first_branch("11", BOB)
    topic = branch.topic(ALICE)
    events = branch.room.events
    create, member = branch.room.create, branch.state["m.room.member", ALICE]

    chain = auth_chain_of([topic.event_id], events)

    assert chain == {
        topic.event_id,
        branch.ids["m.room.power_levels", ""],
        member.event_id,
        create.event_id,
    }
    with pytest.raises(MissingEvent):
        auth_chain_of([topic.event_id], {topic.event_id: topic})


def test_attack_5_events_that_cite_each_other_in_a_circle_end_nothing() -> None:
    branch = first_branch("2")
    fork = branch.fork()
    one = branch.levels(ALICE, users={ALICE: 100}, ban=60)
    two = fork.levels(ALICE, users={ALICE: 100}, ban=70)
    for event, other in ((one, two), (two, one)):
        event.auth_events = (*event.auth_events, other.event_id)

    answer = resolved(branch, fork)

    assert answer["m.room.power_levels", ""] in {one.event_id, two.event_id}


@pytest.mark.parametrize("version_id", ["11", "12"])
def test_attack_5_a_long_auth_chain_needs_no_recursion(version_id: str) -> None:
    branch = first_branch(version_id, BOB)
    fork = branch.fork()
    for number in range(1_500):
        branch.levels(ALICE, users=users(branch, alice=100), ban=number % 50)
    topic = branch.topic(ALICE)
    fork.topic(ALICE)

    assert resolved(branch, fork)["m.room.topic", ""] == topic.event_id


PEOPLE = [ALICE, BOB, CAROL, DAVE]
moves = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("leave"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("kick"), st.sampled_from(PEOPLE), st.sampled_from(PEOPLE)),
    st.tuples(st.just("ban"), st.sampled_from(PEOPLE), st.sampled_from(PEOPLE)),
    st.tuples(st.just("invite"), st.sampled_from(PEOPLE), st.sampled_from(PEOPLE)),
    st.tuples(st.just("rule"), st.sampled_from(PEOPLE), st.sampled_from(["public", "invite"])),
    st.tuples(st.just("levels"), st.sampled_from(PEOPLE), st.integers(0, 100)),
    st.tuples(st.just("topic"), st.sampled_from(PEOPLE), st.integers(0, 5)),
)


def play(branch: Branch, move: tuple[Any, ...]) -> None:
    kind, sender, *rest = move
    match kind:
        case "join" | "leave":
            branch.member(sender, kind)
        case "kick":
            branch.member(sender, "leave", rest[0])
        case "ban" | "invite":
            branch.member(sender, kind, rest[0])
        case "rule":
            branch.join_rule(sender, rest[0])
        case "levels":
            branch.levels(sender, users=users(branch, alice=100, bob=rest[0], carol=50))
        case _:
            branch.topic(sender, timestamp=rest[0])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(BOTH),
    st.lists(moves, max_size=5),
    st.lists(st.lists(moves, max_size=6), min_size=2, max_size=4),
)
def test_attack_4_the_order_of_delivery_does_not_matter(
    version_id: str, common: list[Any], forks: list[list[Any]]
) -> None:
    base = first_branch(version_id, BOB)
    for move in common:
        play(base, move)
    branches = []
    for fork_moves in forks:
        fork = base.fork()
        for move in fork_moves:
            play(fork, move)
        branches.append(fork)

    answer = resolved(*branches)

    agreed = [
        key
        for key, event_id in branches[0].ids.items()
        if all(branch.ids.get(key) == event_id for branch in branches)
    ]
    assert {key: answer[key] for key in agreed} == {key: branches[0].ids[key] for key in agreed}
    known = {event_id for branch in branches for event_id in branch.ids.values()}
    assert all(base.room.events[event_id].is_state for event_id in answer.values())
    assert known & set(answer.values())
