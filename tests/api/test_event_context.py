"""What surrounds an event."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.relating import ids
from tests.homeserver import Homeserver, Reply, User


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    return alice.meet(bob, name="Tea")


def context(user: User, room_id: str, event_id: str, **query: Any) -> Reply:
    return user.get(f"/rooms/{quote(room_id)}/context/{quote(event_id, safe='')}", **query)


def messages(user: User, room_id: str, direction: str, token: str) -> list[str]:
    path = f"/rooms/{quote(room_id)}/messages"
    page = user.get(path, dir=direction, limit=50, **{"from": token}).json
    return [e["event_id"] for e in page["chunk"] if e["type"] == "m.room.message"]


def state_in(found: Any) -> dict[tuple[str, str], Any]:
    return {(e["type"], e["state_key"]): e["content"] for e in found["state"]}


def test_half_of_what_is_asked_for_comes_from_either_side(alice: User, room_id: str) -> None:
    sent = [alice.send(room_id, f"m{number}") for number in range(9)]

    found = context(alice, room_id, sent[4], limit=4).json

    assert found["event"]["event_id"] == sent[4]
    assert ids(found["events_before"]) == [sent[3], sent[2]]
    assert ids(found["events_after"]) == [sent[5], sent[6]]


def test_the_tokens_lead_on_without_a_gap(alice: User, room_id: str) -> None:
    sent = [alice.send(room_id, f"m{number}") for number in range(9)]

    found = context(alice, room_id, sent[4], limit=4).json

    assert messages(alice, room_id, "b", found["start"]) == [sent[1], sent[0]]
    assert messages(alice, room_id, "f", found["end"]) == [sent[7], sent[8]]


def test_an_event_may_be_asked_for_alone(alice: User, room_id: str) -> None:
    sent = [alice.send(room_id, f"m{number}") for number in range(3)]

    found = context(alice, room_id, sent[1], limit=0).json

    assert (found["events_before"], found["events_after"]) == ([], [])
    assert messages(alice, room_id, "b", found["start"]) == [sent[0]]
    assert messages(alice, room_id, "f", found["end"]) == [sent[2]]


def test_the_tokens_at_the_ends_of_a_room_are_good_for_what_comes(
    alice: User, room_id: str
) -> None:
    last = alice.send(room_id, "last")
    create = alice.get(f"/rooms/{quote(room_id)}/state").json[0]["event_id"]

    at_end = context(alice, room_id, last).json
    at_start = context(alice, room_id, create, limit=100).json
    later = alice.send(room_id, "later")

    assert messages(alice, room_id, "f", at_end["end"]) == [later]
    assert messages(alice, room_id, "b", at_start["start"]) == []
    assert messages(alice, room_id, "f", at_start["end"]) == [later]


def test_the_state_is_that_after_the_last_event(alice: User, room_id: str) -> None:
    path = f"/rooms/{quote(room_id)}/state/m.room.topic/"
    alice.put(path, {"topic": "before"})
    event_id = alice.send(room_id, "here")
    alice.send(room_id, "between")
    alice.put(path, {"topic": "within"})
    alice.put(path, {"topic": "after"})

    narrow = state_in(context(alice, room_id, event_id, limit=2).json)
    wide = state_in(context(alice, room_id, event_id, limit=4).json)
    widest = state_in(context(alice, room_id, event_id, limit=100).json)

    assert narrow[("m.room.topic", "")] == {"topic": "before"}
    assert wide[("m.room.topic", "")] == {"topic": "within"}
    assert widest[("m.room.topic", "")] == {"topic": "after"}
    assert ("m.room.create", "") in narrow


def test_a_filter_chooses_the_surroundings_and_the_state_but_not_the_event(
    alice: User, bob: User, room_id: str
) -> None:
    before = bob.send(room_id, "by bob")
    event_id = alice.send(room_id, "by alice")
    after = bob.send(room_id, "by bob again")
    alice.send(room_id, "by alice again")

    chosen = f'{{"senders":["{bob.user_id}"]}}'
    found = context(alice, room_id, event_id, filter=chosen, limit=4).json

    assert found["event"]["event_id"] == event_id
    assert before in ids(found["events_before"])
    assert ids(found["events_after"]) == [after]
    assert set(state_in(found)) == {("m.room.member", bob.user_id)}


@pytest.mark.parametrize("is_present", [True, False])
def test_lazy_loading_tells_only_the_members_who_speak(
    alice: User, bob: User, room_id: str, *, is_present: bool
) -> None:
    event_id = alice.send(room_id, "by alice")
    if not is_present:
        alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "later"})

    lazy = context(alice, room_id, event_id, filter='{"lazy_load_members":true}', limit=0).json
    whole = context(alice, room_id, event_id, limit=0).json

    members = {key for event_type, key in state_in(lazy) if event_type == "m.room.member"}
    assert members == {alice.user_id}
    assert ("m.room.name", "") in state_in(lazy)
    assert ("m.room.member", bob.user_id) in state_in(whole)


@pytest.mark.parametrize(
    ("query", "errcode"),
    [
        ({"limit": -1}, "M_INVALID_PARAM"),
        ({"filter": "{"}, "M_BAD_JSON"),
        ({"filter": '{"types":1}'}, "M_BAD_JSON"),
    ],
)
def test_a_query_without_sense_is_refused(
    alice: User, room_id: str, query: dict[str, Any], errcode: str
) -> None:
    event_id = alice.send(room_id, "here")

    reply = context(alice, room_id, event_id, **query)

    assert (reply.status, reply.errcode) == (400, errcode)


def test_what_one_may_not_see_is_not_found_and_surrounds_nothing(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    path = f"/rooms/{quote(room_id)}/state/m.room.history_visibility/"
    alice.put(path, {"history_visibility": "joined"})
    hidden = alice.send(room_id, "hidden")
    carol = both_versions.register("carol")
    carol.join(room_id)
    seen = alice.send(room_id, "seen")

    refused = context(carol, room_id, hidden)
    found = context(carol, room_id, seen, limit=20).json

    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    assert hidden not in ids(found["events_before"])
    carol.post(f"/rooms/{quote(room_id)}/leave", {})
    later = alice.send(room_id, "after carol")
    left = context(carol, room_id, seen, limit=20).json
    assert later not in ids(left["events_after"])
    assert context(carol, room_id, later).status == 404


def test_a_stranger_and_an_unknown_event_are_refused(
    both_versions: Homeserver, alice: User, room_id: str
) -> None:
    event_id = alice.send(room_id, "here")
    carol = both_versions.register("carol")

    assert context(carol, room_id, event_id).status == 403
    assert context(alice, room_id, "$" + "A" * 43).status == 404
