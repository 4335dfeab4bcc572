"""Lazy loading: which member events come with a sync, and which are not repeated."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.homeserver import Homeserver, User

LAZY = {"room": {"state": {"lazy_load_members": True}}}
REDUNDANT = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}


def sync(user: User, since: str | None = None, chosen: Any = LAZY, **query: Any) -> Any:
    return user.sync(since, filter=json.dumps(chosen), **query)


def members(response: Any, room_id: str, part: str = "state") -> list[str]:
    room = response.get("rooms", {}).get("join", {}).get(room_id, {part: {"events": []}})
    found = [e for e in room[part]["events"] if e["type"] == "m.room.member"]
    return sorted(event["state_key"] for event in found)


def rename(user: User, name: str) -> None:
    path = f"/profile/{quote(user.user_id)}/displayname"
    assert user.put(path, {"displayname": name}).status == 200


@pytest.fixture
def room_id(alice: User, bob: User) -> str:
    """A named room, so that nobody is needed as a hero."""
    room_id = alice.meet(bob, name="Tea")
    for number in range(12):
        alice.send(room_id, str(number))
    return room_id


def test_a_member_is_sent_once_unless_he_changes(alice: User, bob: User, room_id: str) -> None:
    since = sync(alice)["next_batch"]
    bob.send(room_id, "one")
    first = sync(alice, since)
    bob.send(room_id, "two")
    second = sync(alice, first["next_batch"])
    rename(bob, "Robert")
    bob.send(room_id, "three")
    third = sync(alice, second["next_batch"])

    assert members(first, room_id) == [bob.user_id]
    assert members(second, room_id) == []
    assert members(third, room_id) == []
    assert members(third, room_id, "timeline") == [bob.user_id]


def test_redundant_members_are_sent_to_who_asks_for_them(
    alice: User, bob: User, room_id: str
) -> None:
    since = sync(alice, chosen=REDUNDANT)["next_batch"]
    for text in ("one", "two"):
        bob.send(room_id, text)
        response = sync(alice, since, REDUNDANT)
        since = response["next_batch"]
        assert members(response, room_id) == [bob.user_id]


def test_a_member_is_sent_again_when_the_answer_may_have_been_lost(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    since = sync(alice)["next_batch"]
    bob.send(room_id, "one")

    first = sync(alice, since)
    assert members(sync(alice, since), room_id) == [bob.user_id]
    bob.send(room_id, "two")
    other_device = alice.login_again()
    assert members(sync(other_device, first["next_batch"]), room_id) == [bob.user_id]
    alice.homeserver = both_versions.restart()
    assert members(sync(alice, first["next_batch"]), room_id) == [bob.user_id]


def test_whoever_changed_in_a_gap_is_told(alice: User, bob: User, room_id: str) -> None:
    since = sync(alice)["next_batch"]
    rename(bob, "Robert")
    for number in range(12):
        alice.send(room_id, str(number))

    response = sync(alice, since)

    assert response["rooms"]["join"][room_id]["timeline"]["limited"]
    assert bob.user_id in members(response, room_id)


def test_who_renames_himself_in_the_timeline_is_told_as_he_was(
    alice: User, bob: User, room_id: str
) -> None:
    rename(bob, "Bobby")
    for number in range(12):
        alice.send(room_id, str(number))
    bob.send(room_id, "I was Bobby")
    rename(bob, "Robert")

    state = sync(alice)["rooms"]["join"][room_id]["state"]["events"]
    after = sync(alice, use_state_after="true")["rooms"]["join"][room_id]["state_after"]["events"]

    def names(events: Any) -> list[str]:
        return [e["content"]["displayname"] for e in events if e.get("state_key") == bob.user_id]

    assert names(state) == ["Bobby"]
    assert names(after) == ["Robert"]


def test_full_state_and_a_join_tell_the_user_of_himself(
    alice: User, bob: User, room_id: str
) -> None:
    carol = alice.homeserver.register("carol")
    since = sync(carol)["next_batch"]
    carol.join(room_id)
    for number in range(12):
        alice.send(room_id, str(number))

    joined = sync(carol, since)
    full = sync(carol, joined["next_batch"], full_state="true")

    assert carol.user_id in members(joined, room_id)
    assert carol.user_id in members(full, room_id)


def test_heroes_come_with_their_member_events(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    others = [alice.homeserver.register(f"u{number}") for number in range(6)]
    for other in others:
        other.join(room_id)
    first = sync(alice)
    others[0].post(f"/rooms/{quote(room_id)}/leave", {})
    second = sync(alice, first["next_batch"])

    heroes = first["rooms"]["join"][room_id]["summary"]["m.heroes"]
    assert heroes == [other.user_id for other in others[:5]]
    summary = second["rooms"]["join"][room_id]["summary"]
    assert summary["m.heroes"] == [other.user_id for other in others[1:6]]
    assert summary["m.joined_member_count"] == 6
    known = members(first, room_id) + members(first, room_id, "timeline")
    assert others[5].user_id in known + members(second, room_id)


def test_attack_8_who_has_left_is_told_of_members_as_they_were_then(
    alice: User, bob: User, room_id: str
) -> None:
    bob.act(room_id, "leave")
    rename(alice, "Secret")

    found = bob.get(
        f"/rooms/{quote(room_id)}/messages", dir="b", filter=json.dumps({"lazy_load_members": True})
    )

    told = [event for event in found.json["state"] if event["state_key"] == alice.user_id]
    assert [event["content"].get("displayname") for event in told] == [None]
