"""Presence through the API and in sync."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.config import PresenceSection
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, PendingReply, Reply, User

TIMEOUT_MS = 30_000


def path_of(user: User) -> str:
    return f"/presence/{quote(user.user_id)}/status"


def set_presence(user: User, presence: str, status: str | None = None) -> Reply:
    body = {"presence": presence} | ({} if status is None else {"status_msg": status})
    return user.put(path_of(user), body)


def seen(reader: User, user: User) -> str:
    reply = reader.get(path_of(user))
    assert reply.status == 200, reply.json
    return str(reply.json["presence"])


def told(synced: Any) -> dict[str, str]:
    """Return presence by user of a sync."""
    events = synced.get("presence", {}).get("events", [])
    assert all(event["type"] == "m.presence" for event in events)
    return {event["sender"]: event["content"]["presence"] for event in events}


def unseen_sync(user: User, since: str | None = None, **query: Any) -> Any:
    """A sync that leaves the user's own presence alone."""
    return user.sync(since, set_presence="offline", **query)


def poll(user: User, since: str, presence: str = "offline") -> PendingReply:
    query = {"since": since, "timeout": TIMEOUT_MS, "set_presence": presence}
    return user.start_request("GET", "/sync", query=query)


# --- setting and getting


def test_presence_that_is_set_can_be_read(alice: User, bob: User, room_id: str) -> None:
    assert set_presence(alice, "unavailable", "at lunch").status == 200
    alice.homeserver.advance(7)

    assert bob.get(path_of(alice)).json == {
        "presence": "unavailable",
        "last_active_ago": 7000,
        "currently_active": False,
        "status_msg": "at lunch",
    }


def test_new_state_without_a_message_takes_the_old_message_away(alice: User) -> None:
    set_presence(alice, "online", "here")

    set_presence(alice, "online")

    assert "status_msg" not in alice.get(path_of(alice)).json


def test_presence_of_another_cannot_be_set(alice: User, bob: User, room_id: str) -> None:
    reply = bob.put(path_of(alice), {"presence": "online"})

    assert (reply.status, reply.errcode) == (403, "M_FORBIDDEN")
    assert seen(bob, alice) == "offline"


@pytest.mark.parametrize(
    "body", [{}, {"presence": "busy"}, {"presence": "online", "status_msg": 1}]
)
def test_what_is_no_presence_is_refused(alice: User, body: object) -> None:
    assert alice.put(path_of(alice), body).status == 400


def test_message_without_end_is_refused(alice: User) -> None:
    assert set_presence(alice, "online", "x" * 2001).errcode == "M_INVALID_PARAM"


def test_those_who_share_no_room_see_nothing(alice: User, bob: User) -> None:
    set_presence(alice, "online")

    assert bob.get(path_of(alice)).status == 403
    assert told(bob.sync()) == {}


def test_user_who_was_never_there_is_offline(alice: User, bob: User, room_id: str) -> None:
    assert bob.get(path_of(alice)).json == {"presence": "offline"}


# --- by syncing, and by the clock


def test_user_is_online_while_syncing(alice: User, bob: User, room_id: str) -> None:
    waiting = poll(alice, alice.sync()["next_batch"], "online")
    alice.homeserver.advance(29)
    assert seen(bob, alice) == "online"

    alice.homeserver.advance(1)
    assert waiting.answered
    alice.homeserver.advance(29)
    assert seen(bob, alice) == "online"
    alice.homeserver.advance(2)
    assert seen(bob, alice) == "offline"


def test_sync_may_leave_the_presence_alone(alice: User, bob: User, room_id: str) -> None:
    unseen_sync(alice)

    assert seen(bob, alice) == "offline"


def test_sync_may_say_that_the_user_is_away(alice: User, bob: User, room_id: str) -> None:
    alice.sync(set_presence="unavailable")

    assert seen(bob, alice) == "unavailable"


def test_sliding_sync_makes_the_user_online_too(alice: User, bob: User, room_id: str) -> None:
    sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"

    alice.post(sliding, {"set_presence": "offline"})
    assert seen(bob, alice) == "offline"

    alice.post(sliding, {})
    assert seen(bob, alice) == "online"


def test_user_who_closed_the_connection_is_offline_soon(
    alice: User, bob: User, room_id: str
) -> None:
    waiting = poll(alice, alice.sync()["next_batch"], "online")
    waiting.disconnect()

    alice.homeserver.advance(31)

    assert seen(bob, alice) == "offline"


def test_idle_user_becomes_unavailable_and_a_message_brings_him_back(
    alice: User, bob: User, room_id: str
) -> None:
    since = alice.sync()["next_batch"]
    for _ in range(16):
        since = alice.sync(since)["next_batch"]
        alice.homeserver.advance(20)
    assert seen(bob, alice) == "unavailable"

    alice.send(room_id, "back")

    assert seen(bob, alice) == "online"
    assert bob.get(path_of(alice)).json["last_active_ago"] == 0


def test_best_of_several_devices_counts(alice: User, bob: User, room_id: str) -> None:
    phone = alice.login_again()
    alice.sync(set_presence="unavailable")
    phone.sync()
    assert seen(bob, alice) == "online"

    alice.homeserver.advance(20)
    alice.sync(set_presence="unavailable")
    alice.homeserver.advance(15)

    assert seen(bob, alice) == "unavailable"


# --- in sync


def test_waiting_sync_is_told_of_a_change(alice: User, bob: User, room_id: str) -> None:
    waiting = poll(bob, unseen_sync(bob)["next_batch"])
    assert not waiting.answered

    set_presence(alice, "online", "here")

    (event,) = waiting.reply().json["presence"]["events"]
    assert event["sender"] == alice.user_id
    assert event["content"] == {
        "presence": "online",
        "last_active_ago": 0,
        "currently_active": True,
        "status_msg": "here",
    }


def test_initial_sync_tells_who_is_there(alice: User, bob: User, room_id: str) -> None:
    alice.sync()

    assert told(unseen_sync(bob)) == {alice.user_id: "online"}


def test_what_was_told_is_not_told_again(alice: User, bob: User, room_id: str) -> None:
    alice.sync()
    since = unseen_sync(bob)["next_batch"]

    assert told(unseen_sync(bob, since)) == {}
    alice.homeserver.advance(31)
    assert told(unseen_sync(bob, since)) == {alice.user_id: "offline"}


def test_changes_of_a_second_are_told_together(alice: User, bob: User, room_id: str) -> None:
    set_presence(alice, "online")
    since = unseen_sync(bob)["next_batch"]
    waiting = poll(bob, since)

    set_presence(alice, "unavailable")
    set_presence(alice, "offline")
    assert not waiting.answered

    alice.homeserver.advance(1.5)
    assert told(waiting.reply().json) == {alice.user_id: "offline"}


def test_own_presence_is_told_when_it_was_set_but_not_for_syncing(
    alice: User, bob: User, room_id: str
) -> None:
    other_device = alice.login_again()
    since = alice.sync()["next_batch"]
    assert told(alice.sync(since)) == {}

    set_presence(other_device, "unavailable", "away")

    assert told(alice.sync(since, set_presence="offline")) == {alice.user_id: "online"}
    assert alice.get(path_of(alice)).json["status_msg"] == "away"


def test_syncing_does_not_answer_the_user_s_own_long_poll(alice: User, room_id: str) -> None:
    since = alice.sync()["next_batch"]
    alice.homeserver.advance(60)

    waiting = poll(alice, since, "online")

    alice.homeserver.advance(5)
    assert not waiting.answered


def test_newcomer_s_presence_is_told_both_ways(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    alice_since = alice.sync()["next_batch"]
    bob_since = bob.sync()["next_batch"]

    bob.join(room_id)

    assert told(alice.sync(alice_since)) == {bob.user_id: "online"}
    assert told(bob.sync(bob_since)) == {alice.user_id: "online"}


def test_filter_may_leave_presence_out(alice: User, bob: User, room_id: str) -> None:
    alice.sync()

    nothing = json.dumps({"presence": {"types": []}})

    assert "presence" not in bob.sync(filter=nothing)
    assert "presence" in bob.sync()


def test_token_of_an_earlier_process_is_told_everything(
    alice: User, bob: User, room_id: str
) -> None:
    for presence in ("online", "unavailable", "online"):
        set_presence(alice, presence)
    since = unseen_sync(bob)["next_batch"]
    later = alice.homeserver.restart()
    users = [user.at(later) for user in (alice, bob)]

    set_presence(users[0], "online")

    assert told(unseen_sync(users[1], since)) == {alice.user_id: "online"}
    later.stop()


# --- switched off


@pytest.fixture
def without_presence(database: InlineDatabase) -> Iterator[Homeserver]:
    config = dataclasses.replace(DEFAULT_CONFIG, presence=PresenceSection(enabled=False))
    homeserver = Homeserver(database, config)
    yield homeserver
    homeserver.stop()


def test_switched_off_everybody_seems_offline(without_presence: Homeserver) -> None:
    alice, bob = without_presence.register("alice"), without_presence.register("bob")
    alice.meet(bob)

    assert set_presence(alice, "online", "here").status == 200
    alice.sync()

    assert bob.get(path_of(alice)).json == {"presence": "offline"}
    assert "presence" not in bob.sync()
