"""States of rooms that are checked and stored a part at a time."""

from collections.abc import Sequence

import pytest

from homeserver.core.events import Event
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.engine.pdu_checks import CHECKED_AT_ONCE
from homeserver.errors import DatabaseUnavailable
from homeserver.storage.query import Txn, fetch_value
from tests.homeserver import Homeserver
from tests.remote_room import RemoteStage
from tests.results import result_of

MEMBERS = 2 * CHECKED_AT_ONCE + 20


@pytest.fixture
def stage(homeserver: Homeserver) -> RemoteStage:
    return RemoteStage(homeserver, "11")


def make_members(stage: RemoteStage, count: int = MEMBERS) -> list[Event]:
    """Joins of so many users, which nobody but this takes time to resolve."""
    remote = stage.remote
    first = remote.join(remote.user("member-0"))
    return [
        first,
        *(
            remote.make(
                "m.room.member",
                remote.user(f"member-{number}"),
                {"membership": "join"},
                state_key=remote.user(f"member-{number}"),
                prev=[first.event_id],
                depth=first.depth + number,
                auth=first.auth_events,
            )
            for number in range(1, count)
        ),
    ]


def enter(
    stage: RemoteStage, state: Sequence[JsonObject], auth_chain: Sequence[JsonObject]
) -> None:
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    stage.take_in(join, state, auth_chain)


def answer(stage: RemoteStage) -> tuple[list[JsonObject], list[JsonObject]]:
    """The state before the members came, and its auth chain."""
    join = stage.make_member(stage.alice, "join")
    stage.remote.graph.add(join)
    found = stage.answer_to(join)
    del stage.remote.graph.events[join.event_id]
    return found


def count_stored(stage: RemoteStage) -> int:
    def count(txn: Txn) -> int:
        return fetch_value(txn, int, "SELECT count(*) FROM events")

    return result_of(stage.homeserver.database.read(count))


def ids_of(events: Sequence[Event]) -> set[EventID]:
    return {event.event_id for event in events}


def test_all_members_of_a_large_state_are_there(stage: RemoteStage) -> None:
    state, chain = answer(stage)
    members = make_members(stage)

    enter(stage, state + [event.pdu for event in members], chain)

    assert ids_of(members) <= set(stage.state().values())
    assert len(stage.room.joined) == MEMBERS + 2
    assert stage.remote.requests == []


def test_what_is_wrong_in_one_part_does_not_touch_the_others(stage: RemoteStage) -> None:
    state, chain = answer(stage)
    members = make_members(stage)
    wrong = members[CHECKED_AT_ONCE + 5]
    forged: JsonObject = {**wrong.pdu, "signatures": members[0].pdu["signatures"]}

    enter(stage, state + [forged if e is wrong else e.pdu for e in members], chain)

    assert set(stage.state().values()) & ids_of(members) == ids_of(members) - {wrong.event_id}


def test_a_state_event_that_cites_a_later_part_is_stored_after_it(stage: RemoteStage) -> None:
    """The auth chain should have what it cites, and has not."""
    state, chain = answer(stage)
    members = make_members(stage)
    guest = stage.remote.user("guest")
    inviter = members[-1]
    power_levels_join_rules_create = members[0].auth_events
    invite = stage.remote.make(
        "m.room.member",
        inviter.sender,
        {"membership": "invite"},
        state_key=guest,
        prev=[inviter.event_id],
        depth=inviter.depth + 1,
        auth=[*power_levels_join_rules_create, inviter.event_id],
    )

    enter(stage, state + [event.pdu for event in (invite, *members)], chain)

    assert invite.event_id in set(stage.state().values())
    assert stage.remote.requests == []


@pytest.mark.parametrize("statement", range(4, 40, 6))
def test_what_a_try_before_has_stored_is_not_stored_again(
    stage: RemoteStage, statement: int
) -> None:
    state, chain = answer(stage)
    told = state + [event.pdu for event in make_members(stage)]
    join = stage.make_member(stage.alice, "join")
    stage.homeserver.database.fail_at = statement
    with pytest.raises(DatabaseUnavailable):
        stage.take_in(join, told, chain)

    stage.restart()
    stage.take_in(join, told, chain)

    assert len(stage.room.joined) == MEMBERS + 2
    own_join = 1
    assert count_stored(stage) == len(told) + own_join
