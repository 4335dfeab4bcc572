"""Sync where something has been missed: gaps, rejoining, restarts, lost answers."""

import dataclasses
from urllib.parse import quote

from homeserver.config import LimitsSection
from tests.api.syncing import bodies, joined
from tests.database import InlineDatabase
from tests.homeserver import DEFAULT_CONFIG, Homeserver, User

LAZY = '{"room":{"state":{"lazy_load_members":true}}}'


def test_a_new_name_of_ones_own_is_an_event_and_not_a_new_room(
    alice: User, bob: User, room_id: str
) -> None:
    alice.send(room_id, "old")
    since = bob.sync()["next_batch"]

    bob.put(f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bobby"})

    response = bob.sync(since)
    room = joined(response, room_id)
    assert [e["type"] for e in room["timeline"]["events"]] == ["m.room.member"]
    assert room["state"]["events"] == []
    assert room["timeline"]["limited"] is False
    assert "device_lists" not in response


def test_one_who_left_and_came_back_gets_the_whole_state(alice: User, bob: User) -> None:
    room_id = alice.meet(bob, name="Tea")
    since = bob.sync()["next_batch"]
    bob.act(room_id, "leave")
    alice.send(room_id, "while away")
    bob.join(room_id)
    bob.put(f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bobby"})

    room = joined(bob.sync(since), room_id)

    known = room["state"]["events"] + room["timeline"]["events"]
    assert {"m.room.create", "m.room.name"} <= {e["type"] for e in known}


def test_one_who_was_banned_and_let_in_again_is_told_of_both(
    alice: User, bob: User, room_id: str
) -> None:
    since = bob.sync()["next_batch"]
    alice.act(room_id, "ban", bob)
    banned = bob.sync(since)
    alice.act(room_id, "unban", bob)
    unbanned = bob.sync(banned["next_batch"])
    bob.join(room_id)
    alice.send(room_id, "welcome back")

    again = joined(bob.sync(unbanned["next_batch"]), room_id)

    assert room_id in banned["rooms"]["leave"]
    assert bodies(again) == ["welcome back"]
    assert "m.room.create" in {
        e["type"] for e in again["state"]["events"] + again["timeline"]["events"]
    }


def test_device_lists_name_who_joined_in_a_gap_also_when_members_are_loaded_lazily(
    alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    since = alice.sync(filter=LAZY)["next_batch"]
    bob.join(room_id)
    for number in range(15):
        alice.send(room_id, f"m{number}")

    response = alice.sync(since, filter=LAZY)

    assert joined(response, room_id)["timeline"]["limited"] is True
    assert response["device_lists"]["changed"] == [bob.user_id]


def test_no_event_hides_behind_a_token_of_the_process_before(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    refused = alice.post(
        "/createRoom",
        {"invite": [bob.user_id], "power_level_content_override": {"users": {bob.user_id: "x"}}},
    )
    assert refused.status in (400, 403)
    both_versions.database.fail_at = 3
    lost = alice.put(f"/rooms/{quote(room_id)}/send/m.room.message/lost", {"body": "lost"})
    assert lost.status == 503
    since = bob.sync()["next_batch"]

    alice.homeserver = bob.homeserver = both_versions.restart()
    alice.send(room_id, "after the restart")

    assert bodies(joined(bob.sync(since), room_id)) == ["after the restart"]


def test_a_commit_whose_answer_got_lost_is_shown_and_acknowledged(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    poll = bob.start_request(
        "GET", "/sync", query={"since": bob.sync()["next_batch"], "timeout": 30000}
    )
    both_versions.database.lose_next_answer = True

    alice.send(room_id, "committed")

    assert bodies(joined(poll.reply().json, room_id)) == ["committed"]


def test_a_commit_nobody_can_ask_about_is_shown_with_the_next_one(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    room_id = alice.create_room(preset="public_chat")
    other = alice.create_room()
    bob.join(room_id)
    poll = bob.start_request(
        "GET", "/sync", query={"since": bob.sync()["next_batch"], "timeout": 30000}
    )
    both_versions.database.lose_next_answer = True
    both_versions.database.fail_at_after_loss = True
    unknown = alice.put(f"/rooms/{quote(room_id)}/send/m.room.message/t", {"body": "unknown"})
    assert unknown.status == 503
    assert not poll.answered

    alice.send(other, "elsewhere")

    assert bodies(joined(poll.reply().json, room_id)) == ["unknown"]
    again = alice.put(f"/rooms/{quote(room_id)}/send/m.room.message/t", {"body": "unknown"})
    assert again.status == 200
    assert bodies(joined(bob.sync(), room_id)) == ["unknown"]


def test_everything_works_when_only_one_room_fits_into_memory(database: InlineDatabase) -> None:
    limits = LimitsSection(live_rooms_bytes=1)
    homeserver = Homeserver(database, dataclasses.replace(DEFAULT_CONFIG, limits=limits))
    alice, bob = homeserver.register("alice"), homeserver.register("bob")
    rooms = [alice.create_room(preset="public_chat", name=f"Room {n}") for n in range(3)]
    for room_id in rooms:
        bob.join(room_id)
    since = bob.sync()["next_batch"]

    for number in range(12):
        alice.send(rooms[number % 3], f"m{number}")

    response = bob.sync(since)
    for place, room_id in enumerate(rooms):
        assert bodies(joined(response, room_id)) == [f"m{n}" for n in range(place, 12, 3)]
    assert len(bob.sync()["rooms"]["join"]) == 3
    alice.homeserver = homeserver.restart()
    assert alice.send(rooms[0], "after")
    alice.homeserver.stop()


def test_a_topic_changed_three_hundred_times_is_right_at_every_place(
    both_versions: Homeserver, alice: User, bob: User, room_id: str
) -> None:
    tokens = []
    for number in range(300):
        reply = alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": f"t{number}"})
        assert reply.status == 200
        if number in (0, 126, 127, 128, 254, 255, 299):
            tokens.append((number, bob.sync()["next_batch"]))
    alice.send(room_id, "end")

    bob.homeserver = both_versions.restart()

    for number, token in tokens:
        room = joined(bob.sync(token, filter='{"room":{"timeline":{"limit":2}}}'), room_id)
        topics = [
            e["content"]["topic"]
            for e in room["state"]["events"] + room["timeline"]["events"]
            if e["type"] == "m.room.topic"
        ]
        assert topics[-1:] == (["t299"] if number < 299 else [])
    now = bob.get(f"/rooms/{quote(room_id)}/state/m.room.topic").json
    assert now == {"topic": "t299"}


def test_a_poll_is_woken_by_an_invitation_and_by_being_kicked(alice: User, bob: User) -> None:
    since = bob.sync()["next_batch"]
    poll = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30000})
    room_id = alice.create_room(invite=[bob.user_id])
    invited = poll.reply().json
    bob.join(room_id)
    since = bob.sync(invited["next_batch"])["next_batch"]
    poll = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30000})

    alice.act(room_id, "kick", bob)

    assert room_id in invited["rooms"]["invite"]
    assert room_id in poll.reply().json["rooms"]["leave"]
