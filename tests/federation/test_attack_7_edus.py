"""EDUs with which a server says more than it may, or too much, or twice."""

from typing import Any
from urllib.parse import quote

import pytest

from tests.api.signed_keys import CrossSigningKeys, Key, device_keys, query, upload_device_keys
from tests.federation.asking import ask
from tests.federation.meeting import ephemeral, meet, say, say_all
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User

EVIL = "c.test"


def contents(alice: User, bob: User, room_id: str, event_id: str) -> dict[str, Any]:
    """What would be good from a.test, by type."""
    cross = CrossSigningKeys(alice, "forged").body()
    return {
        "m.typing": {"room_id": room_id, "user_id": alice.user_id, "typing": True},
        "m.receipt": {
            room_id: {"m.read": {alice.user_id: {"event_ids": [event_id], "data": {"ts": 1}}}}
        },
        "m.presence": {
            "push": [{"user_id": alice.user_id, "presence": "online", "last_active_ago": 1}]
        },
        "m.direct_to_device": {
            "sender": alice.user_id,
            "type": "m.test",
            "message_id": "m1",
            "messages": {bob.user_id: {bob.device_id: {}}},
        },
        "m.device_list_update": {
            "user_id": alice.user_id,
            "device_id": "FORGED",
            "stream_id": 2**40,
            "prev_id": [],
            "keys": device_keys(alice, device_id="FORGED"),
        },
        "m.signing_key_update": {"user_id": alice.user_id, **cross},
        "org.matrix.signing_key_update": {"user_id": alice.user_id, **cross},
    }


TYPES = [
    "m.typing", "m.receipt", "m.presence", "m.direct_to_device", "m.device_list_update",
    "m.signing_key_update", "org.matrix.signing_key_update",
]  # fmt: skip


def seen(bob: User, alice: User, room_id: str) -> dict[str, Any]:
    synced = bob.sync(set_presence="offline")
    presence = bob.get(f"/presence/{quote(alice.user_id)}/status").json["presence"]
    keys = query(bob, alice.user_id)
    return {
        "ephemeral": synced["rooms"]["join"][room_id].get("ephemeral"),
        "to_device": synced.get("to_device"),
        "presence": presence,
        "devices": keys["device_keys"],
        "master": keys["master_keys"],
    }


@pytest.mark.parametrize("edu_type", TYPES)
def test_attack_7_a_server_does_not_speak_for_users_of_another(
    a: Homeserver, b: Homeserver, alice: User, bob: User, carol: User, edu_type: str
) -> None:
    room_id = meet(alice, bob, carol)
    upload_device_keys(alice)
    event_id = alice.send(room_id, "read me")
    a.settle()
    before = seen(bob, alice, room_id)

    reply = say(b, EVIL, edu_type, contents(alice, bob, room_id, event_id)[edu_type])

    assert reply.status == 200
    assert seen(bob, alice, room_id) == before


@pytest.mark.parametrize("edu_type", ["m.typing", "m.receipt"])
def test_attack_7_a_server_that_is_shut_out_is_not_heard(
    a: Homeserver, b: Homeserver, alice: User, bob: User, edu_type: str
) -> None:
    room_id = meet(alice, bob)
    event_id = bob.send(room_id, "read me")
    path = f"/rooms/{quote(room_id)}/state/m.room.server_acl"
    alice.put(path, {"allow": ["*"], "deny": ["B.TEST", "b.test:*"]})
    b.settle()

    content = contents(bob, alice, room_id, event_id)[edu_type]
    say(a, b.name, edu_type, content)

    assert ephemeral(alice, room_id, edu_type) is None
    alice.put(path, {"allow": ["*"]})
    say(a, b.name, edu_type, content)
    assert ephemeral(alice, room_id, edu_type) is not None


@pytest.mark.parametrize("edu_type", ["m.typing", "m.receipt"])
def test_attack_7_who_is_not_in_the_room_is_not_heard(
    a: Homeserver, b: Homeserver, alice: User, bob: User, edu_type: str
) -> None:
    dave = b.register("dave")
    room_id = meet(alice, bob)
    event_id = alice.send(room_id, "read me")

    say(a, b.name, edu_type, contents(dave, alice, room_id, event_id)[edu_type])

    assert ephemeral(alice, room_id, edu_type) is None
    say(a, b.name, edu_type, contents(bob, alice, room_id, event_id)[edu_type])
    assert ephemeral(alice, room_id, edu_type) is not None


def test_attack_7_presence_of_strangers_is_not_kept(
    a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    stranger = {"user_id": bob.user_id, "presence": "online", "last_active_ago": 0}
    say(a, b.name, "m.presence", {"push": [stranger]})

    meet(alice, bob)

    assert alice.get(f"/presence/{quote(bob.user_id)}/status").json["presence"] == "offline"


def test_attack_7_more_than_a_hundred_edus_are_refused_altogether(
    a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    typing = {"room_id": room_id, "user_id": bob.user_id, "typing": True}
    edu = {"edu_type": "m.typing", "content": typing}

    refused = say_all(a, b.name, [edu] * 101)
    before = ephemeral(alice, room_id, "m.typing")
    taken = say_all(a, b.name, [edu] * 100)

    assert (refused.status, taken.status) == (400, 200)
    assert before is None
    assert ephemeral(alice, room_id, "m.typing") == {"user_ids": [bob.user_id]}


def test_attack_7_a_repeated_transaction_does_nothing_again(
    a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    typing = {"room_id": room_id, "user_id": bob.user_id, "typing": True}
    edu = {"edu_type": "m.typing", "content": typing}
    say_all(a, b.name, [edu], txn_id="same")
    a.advance(61)

    reply = say_all(a, b.name, [edu], txn_id="same")

    assert reply.status == 200
    assert ephemeral(alice, room_id, "m.typing") is None


NONSENSE: list[Any] = [
    {}, {"user_id": 7}, {"user_id": "bob"}, {"user_id": "@bob:b.test", "room_id": "!x:y"},
    {"push": 5}, {"push": [5, {"user_id": "@bob:b.test", "presence": "away"}]},
    {"!room:a.test": 5, "bad": {"m.read": {"@bob:b.test": {"event_ids": [], "data": []}}}},
    {"sender": "@bob:b.test", "type": "t", "message_id": "\0", "messages": {}},
    {"sender": "@bob:b.test", "type": "t", "message_id": "m", "messages": {"@alice:a.test": 5}},
    {"user_id": "@bob:b.test", "device_id": {"an": "object"}, "stream_id": 1},
    {"user_id": "@bob:b.test", "device_id": "\0", "stream_id": 1},
    {"user_id": "@bob:b.test", "device_id": "D", "stream_id": -1},
    {"user_id": "@bob:b.test", "device_id": "D", "stream_id": True},
    {"user_id": "@bob:b.test", "device_id": "D", "stream_id": 1, "prev_id": ["x"]},
    {"user_id": "@bob:b.test", "device_id": "D", "stream_id": 1, "prev_id": [1] * 10_000},
    {"user_id": "@bob:b.test", "device_id": "D" * 10_000, "stream_id": 1},
    {"user_id": "@bob:b.test", "master_key": {"usage": 5}, "self_signing_key": []},
]  # fmt: skip


@pytest.mark.parametrize("edu_type", TYPES)
def test_attack_7_nonsense_is_left_out_and_the_rest_is_not(
    a: Homeserver, b: Homeserver, alice: User, bob: User, edu_type: str
) -> None:
    room_id = meet(alice, bob)
    typing = {"room_id": room_id, "user_id": bob.user_id, "typing": True}
    edus: list[Any] = [{"edu_type": edu_type, "content": content} for content in NONSENSE]
    edus += [{"edu_type": edu_type}, {"edu_type": 5, "content": {}}, {"content": {}}]

    reply = say_all(a, b.name, [*edus, {"edu_type": "m.typing", "content": typing}])

    assert reply.status == 200
    assert ephemeral(alice, room_id, "m.typing") == {"user_ids": [bob.user_id]}


def test_attack_7_a_message_to_a_device_that_is_too_large_is_left_out_alone(
    a: Homeserver, alice: User, b: Homeserver
) -> None:
    other = alice.login_again()
    b.register("bob")
    messages = {alice.user_id: {alice.device_id: {"x": "y" * 70_000}, other.device_id: {"x": "z"}}}
    content = {
        "sender": "@bob:b.test", "type": "m.test", "message_id": "m1", "messages": messages,
    }  # fmt: skip

    say(a, b.name, "m.direct_to_device", content)

    assert alice.sync().get("to_device", {}).get("events", []) == []
    assert [e["content"] for e in other.sync()["to_device"]["events"]] == [{"x": "z"}]


def test_attack_7_a_list_of_endless_devices_is_cut(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    meet(alice, bob)
    upload_device_keys(alice)
    query(bob, alice.user_id)
    last = ask(a, b.name, "GET", f"/user/devices/{alice.user_id}").json["stream_id"]
    network.requests.clear()
    for number in range(15):
        edus = [
            {
                "edu_type": "m.device_list_update",
                "content": {
                    "user_id": alice.user_id,
                    "device_id": f"D{number}-{each}",
                    "stream_id": last + each + 1,
                    "prev_id": [last + each],
                    "keys": device_keys(alice, device_id=f"D{number}-{each}"),
                },
            }
            for each in range(100)
        ]
        last += 100
        say_all(b, a.name, edus)

    assert len(query(bob, alice.user_id)["device_keys"][alice.user_id]) == 1_000
    assert network.requests == []


def test_attack_7_updates_with_gaps_do_not_make_this_server_ask_for_each(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    meet(alice, bob)
    upload_device_keys(alice)
    query(bob, alice.user_id)
    network.requests.clear()
    gap = {"user_id": alice.user_id, "device_id": "D", "stream_id": 2**40, "prev_id": []}

    for _ in range(5):
        say_all(b, a.name, [{"edu_type": "m.device_list_update", "content": gap}] * 100)
    network.advance(60)

    assert 1 <= len(network.requests) <= 3
    assert list(query(bob, alice.user_id)["device_keys"][alice.user_id]) == [alice.device_id]


def test_attack_12_a_self_signing_key_that_the_master_key_has_not_signed_is_not_shown(
    a: Homeserver, b: Homeserver, alice: User, bob: User
) -> None:
    meet(alice, bob)
    upload_device_keys(alice)
    query(bob, alice.user_id)
    forged = CrossSigningKeys(alice)
    stranger = Key("somebody else")
    content = {
        "user_id": alice.user_id,
        "master_key": forged.object("master", forged.master, None),
        "self_signing_key": forged.object("self_signing", forged.self_signing, stranger),
    }

    say(b, a.name, "m.signing_key_update", content)

    found = query(bob, alice.user_id)
    assert list(found["master_keys"]) == [alice.user_id]
    assert found["self_signing_keys"] == {}
