"""Sync v2 through the API."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.syncing import bodies, joined
from tests.homeserver import Homeserver, User


def types(events: list[Any]) -> list[str]:
    return [e["type"] for e in events]


def long_poll(user: User, since: str, **query: Any) -> Any:
    return user.start_request("GET", "/sync", query={"since": since, "timeout": 30000, **query})


def test_an_initial_sync_tells_the_rooms_and_their_state(alice: User, bob: User) -> None:
    room_id = alice.meet(bob, name="Tea")
    alice.send(room_id, "hello")

    room = joined(bob.sync(), room_id)

    assert bodies(room) == ["hello"]
    known = {
        (e["type"], e["state_key"])
        for e in room["state"]["events"] + room["timeline"]["events"]
        if "state_key" in e
    }
    assert {
        ("m.room.create", ""),
        ("m.room.name", ""),
        ("m.room.member", alice.user_id),
        ("m.room.member", bob.user_id),
    } <= known
    assert room["summary"]["m.joined_member_count"] == 2


def test_state_and_timeline_together_are_the_state_of_the_room(alice: User) -> None:
    room_id = alice.create_room(name="One")
    for number in range(30):
        alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": f"t{number}"})

    room = joined(alice.sync(), room_id)

    assert room["timeline"]["limited"] is True
    state: dict[tuple[str, str], Any] = {}
    for event in room["state"]["events"] + room["timeline"]["events"]:
        state[(event["type"], event["state_key"])] = event["content"]
    current = {
        (e["type"], e["state_key"]): e["content"]
        for e in alice.get(f"/rooms/{quote(room_id)}/state").json
    }
    assert state == current
    before = [e for e in room["state"]["events"] if e["type"] == "m.room.topic"]
    assert [e["content"]["topic"] for e in before] == ["t19"]


def test_an_incremental_sync_tells_only_what_is_new(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    other = alice.create_room(preset="public_chat")
    bob.join(room_id)
    bob.join(other)
    since = bob.sync()["next_batch"]
    alice.send(room_id, "new")

    response = bob.sync(since)

    assert set(response["rooms"]["join"]) == {room_id}
    room = joined(response, room_id)
    assert bodies(room) == ["new"]
    assert room["state"]["events"] == []
    assert room["timeline"]["limited"] is False
    assert "rooms" not in bob.sync(response["next_batch"])


def test_a_gap_is_limited_and_its_token_leads_to_the_rest(
    alice: User, bob: User, room_id: str
) -> None:
    since = bob.sync()["next_batch"]
    for number in range(25):
        alice.send(room_id, f"m{number}")
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "in the gap"})
    for number in range(25, 40):
        alice.send(room_id, f"m{number}")

    room = joined(bob.sync(since), room_id)

    assert room["timeline"]["limited"] is True
    assert bodies(room) == [f"m{number}" for number in range(30, 40)]
    assert [e["content"] for e in room["state"]["events"]] == [{"topic": "in the gap"}]
    page = bob.get(
        f"/rooms/{quote(room_id)}/messages",
        dir="b",
        limit=100,
        to=since,
        **{"from": room["timeline"]["prev_batch"]},
    ).json
    missed = [e["content"]["body"] for e in page["chunk"] if e["type"] == "m.room.message"]
    assert missed == [f"m{number}" for number in reversed(range(30))]


def test_state_after_is_the_state_at_the_end_of_the_timeline(alice: User) -> None:
    room_id = alice.create_room(name="One")
    since = alice.sync()["next_batch"]
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "Two"})
    for number in range(15):
        alice.send(room_id, f"m{number}")

    room = joined(alice.sync(since, use_state_after="true"), room_id)

    assert "state" not in room
    assert [e["content"] for e in room["state_after"]["events"]] == [{"name": "Two"}]


def test_a_waiting_sync_is_answered_by_a_message(alice: User, bob: User, room_id: str) -> None:
    poll = long_poll(bob, bob.sync()["next_batch"])
    assert not poll.answered

    alice.send(room_id, "wake up")

    assert bodies(joined(poll.reply().json, room_id)) == ["wake up"]


def test_a_waiting_sync_is_not_woken_by_rooms_of_others(alice: User, bob: User) -> None:
    poll = long_poll(bob, bob.sync()["next_batch"])
    room_id = alice.create_room()

    alice.send(room_id, "not for bob")

    assert not poll.answered


def test_a_waiting_sync_ends_after_its_timeout(both_versions: Homeserver, alice: User) -> None:
    poll = long_poll(alice, alice.sync()["next_batch"])

    both_versions.advance(29)
    assert not poll.answered
    both_versions.advance(2)

    assert "rooms" not in poll.reply().json


def test_a_client_that_hangs_up_leaves_nothing_waiting(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    poll = long_poll(alice, alice.sync()["next_batch"])

    poll.disconnect()

    alice.send(room_id, "nobody listens")
    both_versions.advance(40)
    assert joined(alice.sync(), room_id)


def test_an_invitation_shows_the_stripped_state(alice: User, bob: User) -> None:
    poll = long_poll(bob, bob.sync()["next_batch"])

    room_id = alice.create_room(name="Tea", invite=[bob.user_id])

    invite = poll.reply().json["rooms"]["invite"][room_id]["invite_state"]["events"]
    named = {(e["type"], e["state_key"]): e["content"] for e in invite}
    assert named[("m.room.name", "")] == {"name": "Tea"}
    assert named[("m.room.member", bob.user_id)]["membership"] == "invite"
    assert ("m.room.member", alice.user_id) in named


def test_joining_turns_the_invitation_into_a_room_with_its_history(alice: User, bob: User) -> None:
    room_id = alice.create_room(invite=[bob.user_id])
    alice.send(room_id, "before bob")
    since = bob.sync()["next_batch"]

    bob.join(room_id)

    response = bob.sync(since)
    room = joined(response, room_id)
    assert bodies(room) == ["before bob"]
    assert "m.room.create" in types(room["state"]["events"] + room["timeline"]["events"])
    assert "invite" not in response["rooms"]


def test_a_left_room_is_told_once_up_to_the_leaving(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]
    alice.send(room_id, "still here")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    alice.send(room_id, "gone")

    response = bob.sync(since)

    left = response["rooms"]["leave"][room_id]
    assert bodies(left) == ["still here"]
    assert types(left["timeline"]["events"])[-1] == "m.room.member"
    assert "rooms" not in bob.sync(response["next_batch"])


def test_attack_8_leaving_ends_delivery_also_for_a_poll_that_waits(
    alice: User, bob: User, room_id: str
) -> None:
    poll = long_poll(bob, bob.sync()["next_batch"])

    alice.post(f"/rooms/{quote(room_id)}/ban", {"user_id": bob.user_id})
    first = poll.reply().json
    again = long_poll(bob, first["next_batch"])
    alice.send(room_id, "behind his back")

    assert "leave" in first["rooms"]
    assert not again.answered


def test_the_sending_device_alone_sees_its_transaction_id(alice: User) -> None:
    room_id = alice.create_room()
    tablet = alice.login_again()
    since = alice.sync()["next_batch"]
    alice.send(room_id, "hello", txn_id="mine")

    on_phone = joined(alice.sync(since), room_id)["timeline"]["events"][0]
    on_tablet = joined(tablet.sync(since), room_id)["timeline"]["events"][0]

    assert on_phone["unsigned"]["transaction_id"] == "mine"
    assert "transaction_id" not in on_tablet.get("unsigned", {})


def test_lazy_loading_leaves_out_members_who_have_not_spoken(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    carol = both_versions.register("carol")
    room_id = alice.meet(bob, carol, name="Tea")
    for number in range(12):
        bob.send(room_id, f"m{number}")

    lazy = '{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":5}}}'
    room = joined(alice.sync(filter=lazy), room_id)

    members = {e["state_key"] for e in room["state"]["events"] if e["type"] == "m.room.member"}
    assert bob.user_id in members
    assert alice.user_id in members
    nameless = alice.meet(carol)
    room = joined(alice.sync(filter=lazy), nameless)
    assert room["summary"]["m.heroes"] == [carol.user_id]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ('{"room":{"timeline":{"limit":2}}}', ["m8", "m9"]),
        ('{"room":{"timeline":{"types":["m.room.name"]}}}', []),
        ('{"room":{"timeline":{"not_senders":["@alice:hs.test"]}}}', []),
    ],
)
def test_a_filter_chooses_the_timeline(alice: User, chosen: str, expected: list[str]) -> None:
    room_id = alice.create_room()
    for number in range(10):
        alice.send(room_id, f"m{number}")

    assert bodies(joined(alice.sync(filter=chosen), room_id)) == expected


def test_a_filter_leaves_a_room_out(alice: User) -> None:
    room_id = alice.create_room()

    response = alice.sync(filter=f'{{"room":{{"not_rooms":["{room_id}"]}}}}')

    assert "rooms" not in response


@pytest.mark.parametrize("since", ["x", "s1_2", "t1_2", "s1_2_3_4_5_6_-7"])
def test_a_token_of_no_server_is_refused(alice: User, since: str) -> None:
    reply = alice.get("/sync", since=since)

    assert (reply.status, reply.errcode) == (400, "M_INVALID_PARAM")


def test_a_token_is_good_after_a_restart(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    since = bob.sync()["next_batch"]
    alice.send(room_id, "while bob was away")

    alice.homeserver = bob.homeserver = both_versions.restart()

    response = bob.sync(since)
    assert bodies(joined(response, room_id)) == ["while bob was away"]
    alice.send(room_id, "after")
    assert bodies(joined(bob.sync(response["next_batch"]), room_id)) == ["after"]


def test_full_state_tells_rooms_without_news_too(alice: User) -> None:
    room_id = alice.create_room(name="Tea")
    since = alice.sync()["next_batch"]

    room = joined(alice.sync(since, full_state="true"), room_id)

    assert "m.room.name" in types(room["state"]["events"])


def test_someone_who_comes_into_a_room_is_a_change_of_device_lists(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    since = alice.sync()["next_batch"]
    bob.join(room_id)

    joined = alice.sync(since)
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    left = alice.sync(joined["next_batch"])

    assert joined["device_lists"]["changed"] == [bob.user_id]
    assert left["device_lists"]["left"] == [bob.user_id]
