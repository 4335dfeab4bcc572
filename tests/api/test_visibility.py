"""Attack class 8: what one who was never in, has left or has forgotten a room learns of it."""

from typing import Any
from urllib.parse import quote

from tests.api.relating import redact
from tests.homeserver import Homeserver, User
from tests.room_state import join_rules

LAZY = '{"room":{"state":{"lazy_load_members":true}}}'


def set_topic(user: User, room_id: str, topic: str) -> str:
    reply = user.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": topic})
    assert reply.status == 200, reply.json
    return str(reply.json["event_id"])


def reading(user: User, room_id: str) -> list[int]:
    room = quote(room_id)
    replies = [
        user.get(f"/rooms/{room}/state"),
        user.get(f"/rooms/{room}/members"),
        user.get(f"/rooms/{room}/state/m.room.create/"),
        user.get(f"/rooms/{room}/messages", dir="b"),
    ]
    return [reply.status for reply in replies]


def test_attack_8_one_who_knocked_and_left_reads_nothing(alice: User, bob: User) -> None:
    room_id = alice.create_room(initial_state=[join_rules("knock")])
    knocked = bob.post(f"/knock/{quote(room_id)}", {})
    assert knocked.status == 200

    bob.act(room_id, "leave")

    assert reading(bob, room_id) == [403] * 4


def test_attack_8_one_who_rejected_an_invitation_reads_nothing(alice: User, bob: User) -> None:
    room_id = alice.create_room(invite=[bob.user_id])
    since = bob.sync()["next_batch"]
    set_topic(alice, room_id, "secret")
    for number in range(15):
        alice.send(room_id, f"m{number}")

    bob.act(room_id, "leave")

    assert reading(bob, room_id) == [403] * 4
    response = bob.sync(since)
    left = response["rooms"]["leave"][room_id]
    assert [e["content"]["membership"] for e in left["timeline"]["events"]] == ["leave"]
    assert "secret" not in str(response)
    assert "summary" not in left


def test_attack_8_a_stranger_who_is_banned_reads_nothing(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    since = bob.sync()["next_batch"]
    set_topic(alice, room_id, "secret")

    alice.act(room_id, "ban", bob)

    assert reading(bob, room_id) == [403] * 4
    assert "secret" not in str(bob.sync(since))
    assert "secret" not in str(bob.sync(filter='{"room":{"include_leave":true}}'))


def test_attack_8_a_later_ban_does_not_show_what_came_after_the_leaving(
    alice: User, bob: User, room_id: str
) -> None:
    start = bob.sync()["next_batch"]
    bob.act(room_id, "leave")
    since = bob.sync(start)["next_batch"]
    set_topic(alice, room_id, "secret")
    for number in range(15):
        alice.send(room_id, f"secret {number}")
    alice.act(room_id, "ban", bob)

    topic = bob.get(f"/rooms/{quote(room_id)}/state/m.room.topic/")

    assert topic.status == 404
    assert "secret" not in str(bob.get(f"/rooms/{quote(room_id)}/state").json)
    for token in (since, start, None):
        assert "secret" not in str(bob.sync(token, filter='{"room":{"include_leave":true}}'))
    told = bob.sync(since)["rooms"]["leave"][room_id]
    assert [e["content"]["membership"] for e in told["timeline"]["events"]] == ["ban"]


def test_attack_8_members_at_a_token_after_the_leaving_are_those_at_the_leaving(
    both_versions: Homeserver, alice: User, bob: User
) -> None:
    carol = both_versions.register("carol")
    room_id = alice.meet(bob)
    bob.act(room_id, "leave")
    carol.join(room_id)
    later = alice.sync()["next_batch"]

    reply = bob.get(f"/rooms/{quote(room_id)}/members", at=later)

    assert [e["state_key"] for e in reply.json["chunk"]] == [alice.user_id, bob.user_id]
    assert carol.user_id not in str(reply.json)


def test_attack_8_a_left_room_does_not_show_the_new_name_of_who_spoke(
    alice: User, bob: User, room_id: str
) -> None:
    since = bob.sync()["next_batch"]
    alice.send(room_id, "hello")
    bob.act(room_id, "leave")
    alice.put(f"/profile/{quote(alice.user_id)}/displayname", {"displayname": "New name"})

    response = bob.sync(since, filter=LAZY)

    assert "hello" in str(response)
    assert "New name" not in str(response)


def test_attack_8_a_forgotten_room_is_read_no_more(alice: User, bob: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")
    bob.act(room_id, "leave")
    assert reading(bob, room_id) == [200] * 4

    bob.act(room_id, "forget")

    assert reading(bob, room_id) == [403] * 4
    assert bob.get(f"/rooms/{quote(room_id)}/event/{quote(event_id)}").status == 404
    assert bob.join(room_id).status == 200
    assert reading(bob, room_id) == [200] * 4


def test_attack_8_forgetting_outlives_a_restart(
    both_versions: Homeserver, bob: User, room_id: str
) -> None:
    bob.act(room_id, "leave")
    bob.act(room_id, "forget")

    bob.homeserver = both_versions.restart()

    assert reading(bob, room_id) == [403] * 4
    assert "rooms" not in bob.sync(filter='{"room":{"include_leave":true}}')


def previous_content(user: User, room_id: str) -> Any:
    event = user.get(f"/rooms/{quote(room_id)}/state/m.room.topic/", format="event").json
    return event["unsigned"]["prev_content"]


def test_attack_8_what_was_redacted_does_not_live_on_as_previous_content(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    regretted = set_topic(alice, room_id, "my address")
    set_topic(alice, room_id, "tea")
    since = alice.sync()["next_batch"]
    del since

    redact(alice, room_id, regretted)

    assert previous_content(alice, room_id) == {}
    assert "my address" not in str(alice.sync())
    alice.homeserver = both_versions.restart()
    assert previous_content(alice, room_id) == {}
    assert "my address" not in str(alice.sync())


def test_attack_8_an_event_after_a_redacted_one_does_not_quote_it(
    both_versions: Homeserver, alice: User
) -> None:
    room_id = alice.create_room()
    redact(alice, room_id, set_topic(alice, room_id, "my address"))

    set_topic(alice, room_id, "tea")

    assert previous_content(alice, room_id) == {}
    alice.homeserver = both_versions.restart()
    assert previous_content(alice, room_id) == {}
