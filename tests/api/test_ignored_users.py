"""Of whom a user ignores, his clients are told state and nothing else."""

from typing import Any
from urllib.parse import quote

from tests.api.sliding import room_list, slide, subscription, texts
from tests.api.syncing import joined
from tests.homeserver import Homeserver, User


def ignore(user: User, *ignored: User) -> None:
    path = f"/user/{quote(user.user_id)}/account_data/m.ignored_user_list"
    listed: dict[str, Any] = {other.user_id: {} for other in ignored}
    assert user.put(path, {"ignored_users": listed}).status == 200


def test_messages_of_an_ignored_user_are_not_told_but_his_state_is(
    alice: User, bob: User, room_id: str
) -> None:
    since = bob.sync()["next_batch"]
    ignore(bob, alice)
    event_id = alice.send(room_id, "spam")
    room = f"/rooms/{quote(room_id)}"
    alice.put(f"{room}/state/m.room.topic/", {"topic": "tea"})

    response = bob.sync(since)

    told = joined(response, room_id)["timeline"]["events"]
    assert [event["type"] for event in told] == ["m.room.topic"]
    assert "spam" not in str(bob.sync())
    assert "spam" not in str(bob.get(f"{room}/messages", dir="b").json)
    assert bob.get(f"{room}/event/{quote(event_id)}").status == 404
    sliding = slide(bob, subscription(room_id))["rooms"][room_id]
    assert "spam" not in texts(sliding)


def test_an_ignored_user_does_not_count_as_unread(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]
    alice.send(room_id, "one")
    first = bob.sync(since)
    assert joined(first, room_id)["unread_notifications"]["notification_count"] == 1

    ignore(bob, alice)
    alice.send(room_id, "two")
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "tea"})

    counts = joined(bob.sync(first["next_batch"]), room_id)["unread_notifications"]
    assert counts["notification_count"] == 0
    assert bob.get("/notifications").json["notifications"] == []
    ignore(bob)
    assert len(bob.get("/notifications").json["notifications"]) == 2


def test_an_invitation_by_an_ignored_user_is_not_told(alice: User, bob: User) -> None:
    ignore(bob, alice)
    alice.create_room(invite=[bob.user_id])

    assert "invite" not in bob.sync().get("rooms", {})
    assert slide(bob, room_list())["lists"]["all_rooms"]["count"] == 0
    ignore(bob)
    assert len(bob.sync()["rooms"]["invite"]) == 1
    assert slide(bob, room_list())["lists"]["all_rooms"]["count"] == 1


def test_who_sent_an_invitation_is_looked_up_once(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    ignore(bob, alice)
    alice.create_room(invite=[bob.user_id])
    pos = slide(bob, room_list())["pos"]
    statements = both_versions.database.statements
    before = len(statements)

    assert slide(bob, room_list(), pos)["lists"]["all_rooms"]["count"] == 0

    assert not [one for one in statements[before:] if "invite_states" in one]
