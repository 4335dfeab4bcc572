"""The extensions of sliding sync, and how Element X starts."""

from typing import Any
from urllib.parse import quote

from tests.api.signed_keys import one_time_keys, upload, upload_device_keys
from tests.api.sliding import ask, poll, room_list, slide, subscription, texts
from tests.homeserver import User


def extended(body: dict[str, Any], **extensions: dict[str, Any]) -> dict[str, Any]:
    enabled = {name: {"enabled": True, **options} for name, options in extensions.items()}
    return {**body, "extensions": enabled}


def read(user: User, room_id: str, event_id: str, kind: str = "m.read") -> None:
    reply = user.post(f"/rooms/{quote(room_id)}/receipt/{kind}/{quote(event_id)}", {})
    assert reply.status == 200, reply.json


def set_typing(user: User, room_id: str, *, typing: bool) -> None:
    body = {"typing": typing, "timeout": 20_000}
    assert user.put(f"/rooms/{quote(room_id)}/typing/{user.user_id}", body).status == 200


def set_data(user: User, name: str, content: object, room_id: str | None = None) -> None:
    where = "" if room_id is None else f"/rooms/{quote(room_id)}"
    path = f"/user/{user.user_id}{where}/account_data/{name}"
    assert user.put(path, content).status == 200


def message(user: User, to: User, text: str) -> None:
    body = {"messages": {to.user_id: {to.device_id: {"text": text}}}}
    assert user.put(f"/sendToDevice/m.test/{text}", body).status == 200


def test_extensions_that_are_not_enabled_say_nothing(alice: User) -> None:
    alice.create_room()
    set_data(alice, "m.test", {"a": 1})
    body = {**room_list(), "extensions": {"account_data": {"enabled": False}, "e2ee": {}}}

    assert slide(alice, body)["extensions"] == {}


def test_to_device_messages_are_kept_until_their_token_comes_back(alice: User, bob: User) -> None:
    message(alice, bob, "one")

    first = slide(bob, extended({}, to_device={}))["extensions"]["to_device"]
    again = slide(bob, extended({}, to_device={}))["extensions"]["to_device"]
    message(alice, bob, "two")
    second = slide(bob, extended({}, to_device={"since": first["next_batch"]}))
    after = slide(bob, extended({}, to_device={}))["extensions"]["to_device"]

    def told(part: Any) -> list[str]:
        return [event["content"]["text"] for event in part["events"]]

    assert told(first) == told(again) == ["one"]
    assert first["events"][0]["sender"] == alice.user_id
    assert told(second["extensions"]["to_device"]) == told(after) == ["two"]


def test_a_to_device_message_wakes_the_encryption_connection(alice: User, bob: User) -> None:
    body = extended({"conn_id": "encryption"}, to_device={}, e2ee={})
    first = slide(bob, body)
    since = first["extensions"]["to_device"]["next_batch"]
    body = extended({"conn_id": "encryption"}, to_device={"since": since}, e2ee={})
    pending = poll(bob, body, first["pos"])
    assert not pending.answered

    message(alice, bob, "one")

    events = pending.reply().json["extensions"]["to_device"]["events"]
    assert [event["content"]["text"] for event in events] == ["one"]


def test_key_counts_are_always_told_and_device_lists_when_they_change(
    alice: User, bob: User
) -> None:
    alice.meet(bob)
    upload(bob, one_time_keys=one_time_keys(bob, "A", "B"))
    body = extended({}, e2ee={})

    first = slide(bob, body)
    pending = poll(bob, body, first["pos"])
    assert not pending.answered
    upload_device_keys(alice)
    second = pending.reply().json

    e2ee = first["extensions"]["e2ee"]
    assert e2ee["device_one_time_keys_count"]["signed_curve25519"] == 2
    assert e2ee["device_unused_fallback_key_types"] == []
    assert "device_lists" not in e2ee
    assert second["extensions"]["e2ee"]["device_lists"] == {
        "changed": [alice.user_id],
        "left": [],
    }


def test_device_lists_follow_who_comes_and_goes(alice: User, bob: User) -> None:
    room_id = alice.create_room(preset="public_chat")
    body = extended({}, e2ee={})
    pos = slide(alice, body)["pos"]

    bob.join(room_id)
    came = slide(alice, body, pos)
    alice.send(room_id, "nothing of it")
    still = slide(alice, body, came["pos"])
    bob.post(f"/rooms/{quote(room_id)}/leave", {})
    went = slide(alice, body, still["pos"])

    def lists(response: Any) -> Any:
        return response["extensions"]["e2ee"].get("device_lists")

    assert lists(came) == {"changed": [bob.user_id], "left": []}
    assert lists(still) is None
    assert lists(went) == {"changed": [], "left": [bob.user_id]}


def test_account_data_is_told_once(alice: User) -> None:
    room_id = alice.create_room()
    set_data(alice, "m.test", {"a": 1})
    set_data(alice, "m.of_room", {"b": 1}, room_id)
    body = extended(room_list(), account_data={})

    first = slide(alice, body)
    second = slide(alice, body, first["pos"])
    pending = poll(alice, body, second["pos"])
    set_data(alice, "m.of_room", {"b": 2}, room_id)
    third = pending.reply().json

    told = first["extensions"]["account_data"]
    assert {"type": "m.test", "content": {"a": 1}} in told["global"]
    assert "m.push_rules" in {event["type"] for event in told["global"]}
    assert told["rooms"] == {room_id: [{"type": "m.of_room", "content": {"b": 1}}]}
    assert second["extensions"] == {}
    assert third["extensions"] == {
        "account_data": {"rooms": {room_id: [{"type": "m.of_room", "content": {"b": 2}}]}}
    }


def test_account_data_of_a_room_comes_with_its_room(alice: User) -> None:
    old = alice.create_room()
    alice.create_room()
    set_data(alice, "m.of_room", {"b": 1}, old)

    first = slide(alice, extended(room_list(0), account_data={}))
    second = slide(alice, extended(room_list(1), account_data={}), first["pos"])

    assert "rooms" not in first["extensions"]["account_data"]
    assert second["extensions"]["account_data"] == {
        "rooms": {old: [{"type": "m.of_room", "content": {"b": 1}}]}
    }


def test_what_changed_out_of_sight_is_told_when_the_room_is_back(alice: User, bob: User) -> None:
    one = alice.meet(bob)
    body = extended(room_list(0), receipts={}, account_data={})
    pos = slide(alice, body)["pos"]
    event_id = bob.send(one, "one")
    pos = slide(alice, body, pos)["pos"]
    other = alice.create_room()
    pos = slide(alice, body, pos)["pos"]
    read(bob, one, event_id)
    set_data(alice, "m.of_room", {"b": 2}, one)
    away = slide(alice, body, pos)
    bob.send(one, "two")

    back = slide(alice, body, away["pos"])

    assert other not in back["rooms"]
    assert away["rooms"] == {}
    assert away["extensions"] == {}
    assert set(back["extensions"]["receipts"]["rooms"]) == {one}
    assert set(back["extensions"]["account_data"]["rooms"]) == {one}


def test_receipts_begin_with_those_of_the_timeline_and_ones_own(
    alice: User, bob: User, room_id: str
) -> None:
    old = alice.send(room_id, "old")
    read(bob, room_id, old)
    read(alice, room_id, old, "m.read.private")
    new = alice.send(room_id, "new")
    body = extended(room_list(), receipts={})

    first = slide(alice, body)
    pending = poll(alice, body, first["pos"])
    read(bob, room_id, new)
    second = pending.reply().json

    content = first["extensions"]["receipts"]["rooms"][room_id]["content"]
    assert set(content) == {old}
    assert {kind: set(users) for kind, users in content[old].items()} == {
        "m.read.private": {alice.user_id}
    }
    event = second["extensions"]["receipts"]["rooms"][room_id]
    assert event["type"] == "m.receipt"
    assert set(event["content"][new]["m.read"]) == {bob.user_id}


def test_a_private_receipt_of_another_is_never_told(alice: User, bob: User, room_id: str) -> None:
    event_id = alice.send(room_id, "hello")
    body = extended(room_list(), receipts={})
    pos = slide(alice, body)["pos"]
    read(bob, room_id, event_id, "m.read.private")

    assert slide(alice, body, pos)["extensions"] == {}
    assert slide(alice, body)["extensions"] == {}


def test_typing_is_told_while_it_goes_on(alice: User, bob: User, room_id: str) -> None:
    body = extended(room_list(), typing={})
    first = slide(alice, body)
    pending = poll(alice, body, first["pos"])
    set_typing(bob, room_id, typing=True)
    second = pending.reply().json
    third = slide(alice, body, second["pos"])
    fresh = slide(alice, body)
    set_typing(bob, room_id, typing=False)
    stopped = slide(alice, body, fresh["pos"])

    def typists(response: Any) -> Any:
        return response["extensions"]["typing"]["rooms"][room_id]["content"]["user_ids"]

    assert first["extensions"] == third["extensions"] == {}
    assert typists(second) == typists(fresh) == [bob.user_id]
    assert typists(stopped) == []


def test_an_extension_can_be_confined_to_lists_and_subscriptions(alice: User, bob: User) -> None:
    listed = alice.meet(bob)
    subscribed = alice.meet(bob)
    one = room_list()["lists"]["all_rooms"]
    direct = {**one, "filters": {"is_dm": True}}
    body = {
        "lists": {"all": one, "direct": direct},
        **subscription(subscribed),
    }
    for room_id in (listed, subscribed):
        set_typing(bob, room_id, typing=True)

    def told(**scope: Any) -> set[str]:
        extensions = slide(alice, extended(body, typing=scope))["extensions"]
        return set(extensions.get("typing", {}).get("rooms", {}))

    assert told() == told(lists=["*"]) == {listed, subscribed}
    assert told(lists=["direct"], rooms=[]) == set()
    assert told(lists=[], rooms=[subscribed]) == {subscribed}
    assert told(lists=[], rooms=[listed]) == set()
    assert told(lists=["all"], rooms=[]) == {listed, subscribed}


def test_element_x_starts_with_two_connections_and_growing_windows(alice: User, bob: User) -> None:
    rooms = [alice.meet(bob) for _ in range(25)]
    last = rooms[-1]
    state = [
        ["m.room.name", ""],
        ["m.room.encryption", ""],
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"],
        ["m.room.create", ""],
        ["org.matrix.msc3401.call.member", "*"],
    ]
    encryption = extended({"conn_id": "encryption"}, to_device={}, e2ee={})

    def listing(last_index: int) -> dict[str, Any]:
        body = room_list(last_index, state=state)
        return extended(
            {**body, "conn_id": "room-list"},
            account_data={},
            receipts={"rooms": ["*"]},
            typing={},
        )

    crypto = slide(alice, encryption)
    start = slide(alice, listing(19))
    grown = slide(alice, listing(99), start["pos"])
    crypto_poll = poll(alice, encryption, crypto["pos"])
    pending = poll(alice, listing(99), grown["pos"])
    message(bob, alice, "key")
    bob.send(rooms[0], "hello")
    live = pending.reply().json
    opened = {**listing(99), **subscription(last, timeline_limit=20, state=[["*", "*"]])}
    room_opened = slide(alice, opened, live["pos"])
    sent = alice.send(last, "answer", "m1")
    echoed = slide(alice, opened, room_opened["pos"])

    assert len(start["rooms"]) == 20
    assert len(grown["rooms"]) == 5
    assert start["lists"]["all_rooms"]["count"] == 25
    assert not start["rooms"].keys() & grown["rooms"].keys()
    assert crypto_poll.reply().json["extensions"]["to_device"]["events"]
    assert list(live["rooms"]) == [rooms[0]]
    assert texts(live["rooms"][rooms[0]]) == ["hello"]
    assert list(room_opened["rooms"]) == [last]
    assert room_opened["rooms"][last]["expanded_timeline"] is True
    echo = echoed["rooms"][last]["timeline"][-1]
    assert echo["event_id"] == sent
    assert echo["unsigned"]["transaction_id"] == "m1"
    assert ask(alice, listing(99), crypto["pos"]).errcode == "M_UNKNOWN_POS"
