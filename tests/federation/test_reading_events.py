"""Events that another server asks for one by one."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.events import parse_event
from homeserver.core.room_versions import ROOM_VERSIONS
from tests.federation.asking import ask
from tests.federation.meeting import enter, leave, meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User
from tests.room_state import history_visibility


@pytest.mark.parametrize(("visibility", "shown"), [("shared", True), ("joined", False)])
def test_an_event_that_a_server_may_not_see_is_given_redacted(
    a: Homeserver, alice: User, bob: User, visibility: str, shown: bool
) -> None:
    room_id = alice.create_room(
        preset="public_chat", initial_state=[history_visibility(visibility)]
    )
    event_id = alice.send(room_id, "before")
    enter(bob, room_id)

    reply = ask(a, "b.test", "GET", f"/event/{quote(event_id)}")

    assert reply.status == 200
    (pdu,) = reply.json["pdus"]
    assert pdu["sender"] == alice.user_id
    assert pdu["content"].get("body") == ("before" if shown else None)


def test_an_event_of_a_room_that_a_server_is_not_in_is_refused(
    a: Homeserver, alice: User, b: Homeserver
) -> None:
    del b
    room_id = alice.create_room(preset="public_chat")
    event_id = alice.send(room_id, "among ourselves")

    assert ask(a, "b.test", "GET", f"/event/{quote(event_id)}").status == 403


def by_id(pdus: list[Any]) -> dict[str, Any]:
    """PDUs by their event ids, for rooms of version 11."""
    version = ROOM_VERSIONS["11"]
    return {parse_event(version, pdu).event_id: pdu for pdu in pdus}


def bodies(pdus: list[Any]) -> list[str]:
    return [pdu["content"]["body"] for pdu in pdus if "body" in pdu["content"]]


@pytest.mark.parametrize(
    ("visibility", "shown"),
    [("world_readable", True), ("shared", True), ("invited", False), ("joined", False)],
)
def test_history_is_given_as_far_as_a_server_may_see_it(
    a: Homeserver, b: Homeserver, alice: User, bob: User, visibility: str, shown: bool
) -> None:
    room_id = alice.create_room(
        preset="public_chat", initial_state=[history_visibility(visibility)], name="A room"
    )
    before = alice.send(room_id, "before")
    enter(bob, room_id)
    after = alice.send(room_id, "after")

    room = quote(room_id)
    filled = ask(a, b.name, "GET", f"/backfill/{room}", v=after, limit="100").json["pdus"]
    query = {"latest_events": [after], "earliest_events": [], "limit": 20}
    missing = ask(a, b.name, "POST", f"/get_missing_events/{room}", query).json["events"]

    for found in (filled, missing):
        pdus = by_id(found)
        assert pdus[before]["content"].get("body") == ("before" if shown else None)
        assert any(pdu["type"] == "m.room.create" for pdu in found)
    assert by_id(filled)[after]["content"]["body"] == "after"
    assert after not in by_id(missing)


def test_history_is_given_in_order_and_no_more_than_is_asked_for(
    a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    said = [alice.send(room_id, f"{number}") for number in range(120)]
    room = quote(room_id)

    def filled(limit: int) -> list[str]:
        reply = ask(a, b.name, "GET", f"/backfill/{room}", v=said[-1], limit=str(limit))
        return bodies(reply.json["pdus"])

    def missing(limit: int, min_depth: int = 0) -> list[Any]:
        query = {
            "latest_events": [said[-1]],
            "earliest_events": [said[0]],
            "limit": limit,
            "min_depth": min_depth,
        }
        found = ask(a, b.name, "POST", f"/get_missing_events/{room}", query).json["events"]
        assert isinstance(found, list)
        return found

    assert filled(3) == ["119", "118", "117"]
    assert len(filled(1_000_000)) == 100
    assert bodies(missing(3)) == ["116", "117", "118"]
    assert bodies(missing(10**9)) == [str(number) for number in range(99, 119)]
    depth = missing(3)[1]["depth"]
    assert bodies(missing(3, depth)) == ["117", "118"]


def test_what_a_server_does_not_know_it_does_not_give(
    a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    room_id, other = meet(alice, bob), meet(alice)
    elsewhere = alice.send(other, "elsewhere")
    room = quote(room_id)

    for event_id in ("$unknown", "$" + "A" * 43, elsewhere):
        for path in (f"/state/{room}", f"/state_ids/{room}"):
            assert ask(a, b.name, "GET", path, event_id=event_id).status == 404
        path = f"/event_auth/{room}/{quote(event_id, safe='')}"
        assert ask(a, b.name, "GET", path).status == 404
        found = ask(a, b.name, "GET", f"/backfill/{room}", v=event_id, limit="10")
        assert found.json["pdus"] == []
        query = {"latest_events": [event_id], "earliest_events": [event_id]}
        found = ask(a, b.name, "POST", f"/get_missing_events/{room}", query)
        assert found.json["events"] == []
    assert ask(a, b.name, "GET", "/event/%24unknown").status == 404
    assert ask(a, b.name, "GET", f"/event/{quote(elsewhere)}").status == 403


@pytest.mark.parametrize("reason", ["stranger", "left", "denied"])
def test_nothing_of_a_room_is_given_to_a_server_that_is_not_in_it(
    a: Homeserver, b: Homeserver, alice: User, bob: User, reason: str
) -> None:
    room_id = alice.create_room(
        preset="public_chat", initial_state=[history_visibility("world_readable")]
    )
    if reason != "stranger":
        enter(bob, room_id)
    event_id = alice.send(room_id, "said")
    if reason == "left":
        leave(bob, room_id)
        a.settle()
    if reason == "denied":
        acl = {"allow": ["*"], "deny": ["b.test"]}
        alice.put(f"/rooms/{quote(room_id)}/state/m.room.server_acl/", acl)
    room = quote(room_id)

    query = {"latest_events": [event_id], "earliest_events": []}
    replies = [
        ask(a, b.name, "GET", f"/event/{quote(event_id)}"),
        ask(a, b.name, "GET", f"/state/{room}", event_id=event_id),
        ask(a, b.name, "GET", f"/state_ids/{room}", event_id=event_id),
        ask(a, b.name, "GET", f"/event_auth/{room}/{quote(event_id)}"),
        ask(a, b.name, "GET", f"/backfill/{room}", v=event_id, limit="10"),
        ask(a, b.name, "POST", f"/get_missing_events/{room}", query),
        ask(a, b.name, "GET", f"/timestamp_to_event/{room}", ts="0", dir="f"),
    ]

    assert [reply.status for reply in replies] == [403] * 7


@pytest.mark.parametrize("ts", [0, -(10**30), 10**30, 2**63 - 1, 2**63, -(2**63)])
def test_any_moment_can_be_asked_for(
    a: Homeserver, b: Homeserver, alice: User, bob: User, ts: int
) -> None:
    room_id = meet(alice, bob)

    path = f"/timestamp_to_event/{quote(room_id)}"
    statuses = [ask(a, b.name, "GET", path, ts=str(ts), dir=way).status for way in ("f", "b")]

    assert statuses == ([200, 404] if ts < 2**50 else [404, 200])


def test_the_moment_of_an_event_that_a_server_may_not_see_is_not_told(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat", initial_state=[history_visibility("joined")])
    network.advance(10)
    alice.send(room_id, "among ourselves")
    at = a.clock.now_ms()
    network.advance(10)
    enter(bob, room_id)

    path = f"/timestamp_to_event/{quote(room_id)}"
    reply = ask(a, b.name, "GET", path, ts=str(at), dir="f")

    assert reply.status == 404
