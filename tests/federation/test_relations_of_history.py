"""What is told of an event's children where other servers, or forks, have brought them."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.relating import bundle_of, children, edited, ids, reacted, redact, related
from tests.federation.history import walk
from tests.federation.meeting import enter, meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.room_state import history_visibility


def set_visibility(user: User, room_id: str, visibility: str) -> None:
    path = f"/rooms/{quote(room_id)}/state/m.room.history_visibility/"
    assert user.put(path, {"history_visibility": visibility}).status == 200


def roots(user: User, room_id: str, **query: Any) -> tuple[list[str], str | None]:
    path = f"/_matrix/client/v1/rooms/{quote(room_id)}/threads"
    body = user.get(path, **query).json
    return ids(body["chunk"]), body.get("next_batch")


def test_an_edit_from_before_a_join_is_told_with_what_it_edits(
    a: Homeserver, alice: User, bob: User
) -> None:
    mallory = a.register("mallory")
    room_id = meet(alice, mallory)
    event_id = alice.send(room_id, "frist")
    edited(alice, room_id, event_id, "firts")
    edit = edited(alice, room_id, event_id, "first")
    edited(mallory, room_id, event_id, "worst")
    enter(bob, room_id)

    walk(bob, room_id, 50)

    assert bundle_of(bob, room_id, event_id)["m.replace"]["event_id"] == edit


def test_an_edit_from_before_a_join_that_was_redacted_is_not_told(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    event_id = alice.send(room_id, "frist")
    first = edited(alice, room_id, event_id, "first")
    redact(alice, room_id, edited(alice, room_id, event_id, "best"))
    enter(bob, room_id)

    walk(bob, room_id, 50)

    assert bundle_of(bob, room_id, event_id)["m.replace"]["event_id"] == first


def test_a_thread_from_before_a_join_is_counted_once(
    c: Homeserver, alice: User, bob: User, carol: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    root = alice.send(room_id, "root")
    for _ in range(3):
        last = related(alice, room_id, root, "m.thread")
    enter(carol, room_id)
    walk(carol, room_id, 50)
    enter(bob, room_id, c.name)

    for _ in range(2):
        walk(bob, room_id, 50)

        thread = bundle_of(bob, room_id, root)["m.thread"]
        assert (thread["count"], thread["latest_event"]["event_id"]) == (3, last)
        assert thread["current_user_participated"] is False
    last = related(bob, room_id, root, "m.thread")
    thread = bundle_of(bob, room_id, root)["m.thread"]
    assert (thread["count"], thread["latest_event"]["event_id"]) == (4, last)
    assert thread["current_user_participated"] is True


def test_references_and_reactions_from_before_a_join_are_found(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    event_id = alice.send(room_id, "said")
    reference = related(alice, room_id, event_id, "m.reference")
    reaction = reacted(alice, room_id, event_id, "👍").json["event_id"]
    enter(bob, room_id)

    walk(bob, room_id, 50)

    chunk = bundle_of(bob, room_id, event_id)["m.reference"]["chunk"]
    assert ids(chunk) == [reference]
    assert ids(children(bob, room_id, event_id).json["chunk"]) == [reaction, reference]


def test_replies_from_before_a_join_that_were_not_for_newcomers_are_not_counted(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    root = alice.send(room_id, "root")
    shown = related(alice, room_id, root, "m.thread")
    set_visibility(alice, room_id, "joined")
    related(alice, room_id, root, "m.thread")
    edited(alice, room_id, root, "among us")
    enter(bob, room_id)

    walk(bob, room_id, 50)

    told = bundle_of(bob, room_id, root)
    assert told.keys() == {"m.thread"}
    assert told["m.thread"]["count"] == 1
    assert told["m.thread"]["latest_event"]["event_id"] == shown


def test_threads_from_before_a_join_are_listed_if_a_reply_is_seen(
    a: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    begun = [alice.send(room_id, f"{number}") for number in range(4)]
    for root in begun:
        related(alice, room_id, root, "m.thread")
    hidden = alice.send(room_id, "a root whose replies are not for newcomers")
    set_visibility(alice, room_id, "joined")
    related(alice, room_id, begun[0], "m.thread")
    related(alice, room_id, hidden, "m.thread")
    enter(bob, room_id)
    walk(bob, room_id, 50)
    related(alice, room_id, begun[1], "m.thread")
    a.settle()

    listed = [begun[number] for number in (1, 3, 2, 0)]
    assert roots(bob, room_id) == (listed, None)
    paged: list[str] = []
    token: dict[str, str] = {}
    for _ in range(10):
        found, end = roots(bob, room_id, limit=1, **token)
        paged += found
        if end is None:
            break
        token = {"from": end}
    assert paged == listed


@pytest.mark.parametrize("visibility", ["shared", "joined"])
def test_what_two_servers_say_at_the_same_time_is_told_with_the_rest(
    network: MemoryNetwork, b: Homeserver, alice: User, bob: User, visibility: str
) -> None:
    room_id = meet(alice, bob, initial_state=[history_visibility(visibility)])
    root = alice.send(room_id, "root")
    network.settle()
    network.cut_off(b.name)
    edit = edited(alice, room_id, root, "the root")
    here = related(alice, room_id, root, "m.thread")
    there = related(bob, room_id, root, "m.thread")
    network.heal()
    network.advance(120)

    for user in (alice, bob):
        told = bundle_of(user, room_id, root)
        assert told["m.replace"]["event_id"] == edit
        assert told["m.thread"]["count"] == 2
        assert told["m.thread"]["latest_event"]["event_id"] in (here, there)
        assert roots(user, room_id) == ([root], None)
