"""What the filter and the parameters of a sync make of it."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.api.sliding import PATH, ask, slide
from tests.homeserver import User
from tests.room_state import join_rules

FIELDS = ["content.body", "event_id", "origin_server_ts", "sender", "type"]


def sync(user: User, chosen: Any, since: str | None = None, **query: Any) -> Any:
    return user.sync(since, filter=json.dumps(chosen), **query)


def shown(response: Any, room_id: str) -> list[str]:
    events = response["rooms"]["join"][room_id]["timeline"]["events"]
    return [event["content"].get("body", event["type"]) for event in events]


@pytest.mark.parametrize(
    ("timeline", "expected"),
    [
        ({"types": ["m.room.mess*"]}, ["a", "b", "file"]),
        ({"types": ["m.*"], "not_types": ["*.message"]}, ["m.room.topic"]),
        ({"senders": ["@bob:hs.test"]}, ["b"]),
        ({"not_senders": ["@bob:hs.test"], "types": ["m.room.message"]}, ["a", "file"]),
        ({"contains_url": True}, ["file"]),
        ({"contains_url": False, "types": ["m.room.message"]}, ["a", "b"]),
        ({"limit": 1}, ["file"]),
        ({"not_rooms": ["!elsewhere:hs.test"], "limit": 2}, ["m.room.topic", "file"]),
        ({"rooms": []}, []),
    ],
    ids=str,
)
def test_a_timeline_is_filtered(
    alice: User, bob: User, room_id: str, timeline: Any, expected: Any
) -> None:
    since = alice.sync()["next_batch"]
    alice.send(room_id, "a")
    bob.send(room_id, "b")
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "tea"})
    file = {"msgtype": "m.file", "body": "file", "url": "mxc://hs.test/x"}
    alice.send_event(room_id, "m.room.message", file)

    response = sync(alice, {"room": {"timeline": timeline}}, since)

    assert (shown(response, room_id) if "rooms" in response else []) == expected


def test_rooms_left_out_of_a_filter_are_not_told(alice: User) -> None:
    wanted, unwanted = alice.create_room(), alice.create_room()

    for chosen in ({"rooms": [wanted]}, {"not_rooms": [unwanted]}):
        assert list(sync(alice, {"room": chosen})["rooms"]["join"]) == [wanted]
    both = {"rooms": [wanted], "not_rooms": [wanted]}
    assert "rooms" not in sync(alice, {"room": both})


def test_only_the_fields_asked_for_are_told(alice: User) -> None:
    room_id = alice.create_room()
    alice.send(room_id, "hello")
    chosen = {
        "event_fields": FIELDS,
        "room": {"timeline": {"types": ["m.room.message"]}, "state": {"types": []}},
    }

    response = sync(alice, chosen)

    last = response["rooms"]["join"][room_id]["timeline"]["events"][-1]
    assert last.keys() == {"content", "event_id", "origin_server_ts", "sender", "type"}
    assert last["content"] == {"body": "hello"}


def test_events_are_told_as_servers_exchange_them(alice: User) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "regretted")
    alice.put(f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/1", {})

    reply = alice.request("GET", "/sync", query={"filter": '{"event_format":"federation"}'})

    timeline = reply.json["rooms"]["join"][room_id]["timeline"]["events"]
    assert all({"auth_events", "prev_events", "hashes", "signatures"} <= e.keys() for e in timeline)
    assert "regretted" not in str(timeline)


def test_state_after_stands_in_the_place_of_state(alice: User, bob: User, room_id: str) -> None:
    since = alice.sync()["next_batch"]
    bob.put(f"/rooms/{quote(room_id)}/typing/{quote(bob.user_id)}", {"typing": True, "timeout": 9})

    typing = alice.sync(since, use_state_after="true")
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    left = bob.sync(since, use_state_after="true")

    for room in (typing["rooms"]["join"][room_id], left["rooms"]["leave"][room_id]):
        assert "state" not in room
        assert "state_after" in room


def test_left_rooms_are_told_on_request_with_their_account_data(alice: User) -> None:
    room_id = alice.create_room()
    tag = f"/user/{quote(alice.user_id)}/rooms/{quote(room_id)}/tags/u.mine"
    assert alice.put(tag, {"order": 0.5}).status == 200
    alice.post(f"/rooms/{quote(room_id)}/leave", {})

    assert "rooms" not in sync(alice, {})
    left = sync(alice, {"room": {"include_leave": True}})["rooms"]["leave"][room_id]

    assert [event["type"] for event in left["account_data"]["events"]] == ["m.tag"]


def test_invitations_and_knocks_have_the_event_that_created_the_room(
    alice: User, bob: User
) -> None:
    rules = join_rules("knock")
    alice.create_room(initial_state=[rules], invite=[bob.user_id])
    knocked = alice.create_room(initial_state=[rules])
    assert bob.post(f"/knock/{quote(knocked)}", {}).status == 200

    rooms = bob.sync()["rooms"]

    for section, key in (("invite", "invite_state"), ("knock", "knock_state")):
        (room,) = rooms[section].values()
        assert "m.room.create" in [event["type"] for event in room[key]["events"]]
        assert all(
            event.keys() == {"type", "sender", "content", "state_key"}
            for event in room[key]["events"]
        )


def test_attack_8_leaving_ends_delivery_to_who_waits(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]
    pos = slide(bob, {"lists": {}})["pos"]
    waiting = bob.start_request("GET", "/sync", query={"since": since, "timeout": 30_000})
    sliding = bob.start_request("POST", PATH, {}, query={"pos": pos, "timeout": 30_000})
    assert not waiting.answered

    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    alice.send(room_id, "secret")
    told = waiting.reply().json
    later = bob.sync(told["next_batch"])

    assert list(told["rooms"]) == ["leave"]
    assert "secret" not in str((told, later, bob.sync(since)))
    sliding.disconnect()


def test_attack_8_the_pos_of_another_user_is_unknown(alice: User, bob: User) -> None:
    alice.create_room()
    pos = slide(alice, {"lists": {}})["pos"]

    reply = ask(bob, {"lists": {}}, pos)

    assert (reply.status, reply.errcode) == (400, "M_UNKNOWN_POS")


def test_to_device_messages_are_told_as_many_as_asked_for(alice: User, bob: User) -> None:
    for number in range(3):
        content = {"messages": {bob.user_id: {bob.device_id: {"number": number}}}}
        assert alice.put(f"/sendToDevice/m.test/{number}", content).status == 200
    told: list[int] = []
    wish: dict[str, Any] = {"enabled": True, "limit": 2}
    pos = None
    for _ in range(2):
        response = slide(bob, {"extensions": {"to_device": wish}}, pos)
        pos = response["pos"]
        part = response["extensions"]["to_device"]
        assert len(part["events"]) <= 2
        told += [event["content"]["number"] for event in part["events"]]
        wish["since"] = part["next_batch"]

    assert told == [0, 1, 2]


def test_a_filtered_timeline_is_looked_for_behind_what_the_filter_drops(
    alice: User, bob: User, room_id: str
) -> None:
    since = bob.sync()["next_batch"]
    texts = [alice.send(room_id, text) and text for text in "abc"]
    for n in range(30):
        alice.send_event(room_id, "org.noise", {"n": n})

    for limit, expected, is_limited in ((2, texts[1:], True), (3, texts, False)):
        chosen = {"room": {"timeline": {"types": ["m.room.message"], "limit": limit}}}
        response = sync(bob, chosen, since)

        assert shown(response, room_id) == expected
        assert response["rooms"]["join"][room_id]["timeline"]["limited"] is is_limited


def test_state_that_changed_before_a_filtered_timeline_is_told(alice: User, bob: User) -> None:
    room_id = alice.meet(bob, topic="coffee")
    since = bob.sync()["next_batch"]
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "tea"})
    for n in range(5):
        alice.send_event(room_id, "org.noise", {"n": n})
    alice.send(room_id, "hello")

    for limit in (1, 10):
        chosen = {"room": {"timeline": {"types": ["m.room.message"], "limit": limit}}}
        response = sync(bob, chosen, since)

        assert shown(response, room_id) == ["hello"]
        state = response["rooms"]["join"][room_id]["state"]["events"]
        assert [event["content"] for event in state] == [{"topic": "tea"}]


def test_state_before_a_filtered_timeline_is_told_though_it_changes_again_in_it(
    alice: User, bob: User
) -> None:
    room_id = alice.meet(bob, topic="coffee")
    since = bob.sync()["next_batch"]
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "tea"})
    alice.send(room_id, "hello")
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "milk"})
    chosen = {"room": {"timeline": {"types": ["m.room.message"]}}}

    before = sync(bob, chosen, since)["rooms"]["join"][room_id]["state"]["events"]
    after = sync(bob, chosen, since, use_state_after="true")["rooms"]["join"][room_id]

    assert [event["content"]["topic"] for event in before] == ["tea"]
    assert [event["content"]["topic"] for event in after["state_after"]["events"]] == ["milk"]


def test_who_wants_no_timeline_is_told_the_state(alice: User, bob: User, room_id: str) -> None:
    since = bob.sync()["next_batch"]
    alice.send(room_id, "hello")
    alice.put(f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "tea"})

    response = sync(bob, {"room": {"timeline": {"limit": 0}}}, since)

    room = response["rooms"]["join"][room_id]
    assert (room["timeline"]["events"], room["timeline"]["limited"]) == ([], True)
    assert [event["content"] for event in room["state"]["events"]] == [{"topic": "tea"}]
    messages = bob.get(
        f"/rooms/{quote(room_id)}/messages",
        dir="b",
        limit=2,
        **{"from": room["timeline"]["prev_batch"]},
    )
    assert [event["type"] for event in messages.json["chunk"]] == ["m.room.topic", "m.room.message"]
