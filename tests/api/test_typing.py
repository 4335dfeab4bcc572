"""Typing notifications through the API and in sync."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.services import typing as typing_service
from tests.homeserver import Homeserver, Reply, User


def set_typing(user: User, room_id: str, *, typing: bool = True, **body: Any) -> Reply:
    path = f"/rooms/{quote(room_id)}/typing/{quote(user.user_id)}"
    return user.put(path, {"typing": typing, **body})


def typing_in(synced: Any, room_id: str) -> list[str] | None:
    """Who types; None when the sync does not say."""
    room = synced.get("rooms", {}).get("join", {}).get(room_id, {})
    events = room.get("ephemeral", {}).get("events", [])
    return next((e["content"]["user_ids"] for e in events if e["type"] == "m.typing"), None)


def test_others_see_who_types_and_who_has_stopped(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]

    assert set_typing(alice, room_id).status == 200
    first = bob.sync(since)
    set_typing(alice, room_id, typing=False)
    second = bob.sync(first["next_batch"])

    assert typing_in(first, room_id) == [alice.user_id]
    assert typing_in(second, room_id) == []
    assert typing_in(bob.sync(second["next_batch"]), room_id) is None


def test_typing_wakes_a_waiting_sync(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]
    waiting = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30000})
    assert not waiting.answered

    set_typing(alice, room_id)

    assert typing_in(waiting.reply().json, room_id) == [alice.user_id]


def test_typing_ends_after_its_time(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    set_typing(alice, room_id, timeout=20_000)
    since = bob.sync()["next_batch"]

    both_versions.advance(19.9)
    assert typing_in(bob.sync(since), room_id) is None

    both_versions.advance(0.2)
    assert typing_in(bob.sync(since), room_id) == []


def test_typing_again_goes_on_without_being_told_again(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    set_typing(alice, room_id, timeout=20_000)
    since = bob.sync()["next_batch"]
    both_versions.advance(15)

    set_typing(alice, room_id, timeout=20_000)

    both_versions.advance(15)
    assert typing_in(bob.sync(since), room_id) is None
    both_versions.advance(6)
    assert typing_in(bob.sync(since), room_id) == []


def test_time_is_kept_within_limits(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    set_typing(alice, room_id, timeout=10**12)
    since = bob.sync()["next_batch"]
    both_versions.advance(121)
    assert typing_in(bob.sync(since), room_id) == []

    set_typing(alice, room_id, timeout=-5)

    assert typing_in(bob.sync(since), room_id) == [alice.user_id]
    both_versions.advance(1.1)
    assert typing_in(bob.sync(since), room_id) == []


def test_a_message_ends_the_typing_of_its_sender(alice: User, bob: User, room_id: str) -> None:
    set_typing(alice, room_id)
    set_typing(bob, room_id)
    since = bob.sync()["next_batch"]

    alice.send(room_id, "done")

    assert typing_in(bob.sync(since), room_id) == [bob.user_id]


def test_who_leaves_does_not_type(alice: User, bob: User, room_id: str) -> None:
    set_typing(alice, room_id)
    since = bob.sync()["next_batch"]

    alice.post(f"/rooms/{quote(room_id)}/leave", {})

    assert typing_in(bob.sync(since), room_id) == []


def test_only_members_type_and_only_for_themselves(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    carol = both_versions.register("carol")
    for_alice = f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}"

    assert set_typing(carol, room_id).errcode == "M_FORBIDDEN"
    assert set_typing(carol, room_id, typing=False).errcode == "M_FORBIDDEN"
    assert set_typing(alice, "!unknown:hs.test").errcode == "M_FORBIDDEN"
    assert bob.put(for_alice, {"typing": True}).errcode == "M_FORBIDDEN"
    assert alice.put(for_alice, {}).errcode == "M_MISSING_PARAM"


def test_the_end_of_typing_is_told_though_memory_holds_few_rooms(
    alice: User, bob: User, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_room_id = alice.create_room()
    set_typing(alice, room_id)
    since = bob.sync()["next_batch"]
    monkeypatch.setattr(typing_service, "_MAX_ROOMS", 1)

    set_typing(alice, room_id, typing=False)
    set_typing(alice, other_room_id)

    assert typing_in(bob.sync(since), room_id) == []


def test_typing_touches_no_database(both_versions: Homeserver, alice: User, room_id: str) -> None:
    alice.send(room_id, "the room is in memory now")
    set_typing(alice, room_id)
    both_versions.database.statements.clear()

    set_typing(alice, room_id, typing=False)
    set_typing(alice, room_id)

    assert both_versions.database.statements == []
