"""GET /notifications: what a user has been notified of."""

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.engine import push_groups
from tests.api.relating import related
from tests.api.test_unread_counts import mention, put_rule, read, unread
from tests.homeserver import User


@pytest.fixture
def room_id(room_id: str, alice: User) -> str:
    """With Carol in it too: the third makes it no direct chat."""
    assert alice.homeserver.register("carol").join(room_id).status == 200
    return room_id


def listed(user: User, **query: Any) -> list[Any]:
    reply = user.get("/notifications", **query)
    assert reply.status == 200, reply.json
    found: list[Any] = reply.json["notifications"]
    return found


def ids(found: list[Any]) -> list[str]:
    return [one["event"]["event_id"] for one in found]


def test_notifications_are_listed_newest_first_with_their_actions(
    alice: User, bob: User, room_id: str
) -> None:
    first = alice.send(room_id, "one")
    second = mention(alice, room_id, bob)

    found = listed(bob)

    assert ids(found) == [second, first]
    assert [one["room_id"] for one in found] == [room_id, room_id]
    assert [one["read"] for one in found] == [False, False]
    assert found[1]["actions"] == ["notify"]
    assert {"set_tweak": "highlight"} in found[0]["actions"]
    assert found[0]["ts"] == found[0]["event"]["origin_server_ts"]
    assert listed(alice) == []


def test_notifications_of_several_rooms_are_in_one_order(alice: User, bob: User) -> None:
    rooms = [alice.create_room(preset="public_chat") for _ in range(2)]
    for room_id in rooms:
        bob.join(room_id)

    sent = [alice.send(rooms[number % 2], str(number)) for number in range(4)]

    assert ids(listed(bob)) == sent[::-1]


def test_pages_follow_each_other_without_a_gap(alice: User, bob: User, room_id: str) -> None:
    sent = [alice.send(room_id, str(number)) for number in range(5)]

    found = []
    query: dict[str, Any] = {"limit": 2}
    for _ in range(3):
        page = bob.get("/notifications", **query).json
        found += ids(page["notifications"])
        query["from"] = page.get("next_token")

    assert found == sent[::-1]
    assert query["from"] is None


def test_only_highlights_can_be_asked_for(alice: User, bob: User, room_id: str) -> None:
    wanted = mention(alice, room_id, bob)
    alice.send(room_id, "not this")

    assert ids(listed(bob, only="highlight")) == [wanted]


def test_receipt_makes_notifications_read(alice: User, bob: User, room_id: str) -> None:
    first = alice.send(room_id, "one")
    alice.send(room_id, "two")

    read(bob, room_id, first)

    assert [one["read"] for one in listed(bob)] == [False, True]


def test_receipt_of_a_thread_leaves_the_room_unread(alice: User, bob: User, room_id: str) -> None:
    root = alice.send(room_id, "root")
    reply = related(alice, room_id, root, "m.thread")

    read(bob, room_id, reply, thread_id=root)

    assert [one["read"] for one in listed(bob)] == [True, False]


def test_own_event_makes_notifications_read(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "one")

    bob.send(room_id, "seen")

    assert [one["read"] for one in listed(bob)] == [True]


def test_invitation_is_a_notification_of_the_invited(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="private_chat", invite=[bob.user_id])

    found = listed(bob)

    assert [one["event"]["content"]["membership"] for one in found] == ["invite"]
    assert found[0]["room_id"] == room_id


def test_invitation_that_the_invited_has_muted_is_none(alice: User, bob: User) -> None:
    put_rule(bob, "override", "quiet", conditions=[])

    alice.create_room(preset="private_chat", invite=[bob.user_id])

    assert listed(bob) == []


def test_nothing_after_leaving_is_listed(alice: User, bob: User, room_id: str) -> None:
    during = alice.send(room_id, "one")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    alice.send(room_id, "two")

    assert ids(listed(bob)) == [during]


def test_nothing_of_a_forgotten_room_is_listed(alice: User, bob: User, room_id: str) -> None:
    alice.send(room_id, "one")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    bob.post(f"/rooms/{quote(room_id)}/forget", {})

    assert listed(bob) == []


def test_event_from_before_joining_is_not_listed(alice: User, bob: User, room_id: str) -> None:
    dave = alice.homeserver.register("dave")
    mention(alice, room_id, dave, bob)
    dave.join(room_id)

    assert listed(dave) == []


@pytest.mark.parametrize("token", ["x", "1" * 19, "-1"])
def test_token_of_another_server_is_refused(alice: User, token: str) -> None:
    reply = alice.request("GET", "/notifications", query={"from": token})

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_only_the_newest_of_a_room_are_kept(
    alice: User, bob: User, room_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_groups, "_DELETE_EVERY", 5)
    monkeypatch.setattr("homeserver.engine.change_writer.KEPT_ROWS", 3)

    sent = [alice.send(room_id, str(number)) for number in range(20)]

    found = ids(listed(bob))
    assert found == sent[::-1][: len(found)]
    assert 3 <= len(found) < 3 + 5
    other = alice.meet(bob)
    alice.send(other, "elsewhere")
    assert unread(bob, other) == (1, 0)
