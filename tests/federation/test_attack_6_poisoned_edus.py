"""One bad item never stops what is on its way to another server."""

from typing import Any

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.transport.outbound import Answer
from tests.api.signed_keys import device_keys, upload, upload_device_keys
from tests.federation.asking import make_hostile
from tests.federation.meeting import meet
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, User

TOO_LARGE = Answer(413, encode_canonical_json({"errcode": "M_TOO_LARGE", "error": "no"}))
BAD = Answer(400, encode_canonical_json({"errcode": "M_BAD_JSON", "error": "no"}))


def send(sender: User, target: str, txn_id: str, content: Any) -> int:
    messages = {target: {"DEVICE": content}}
    reply = sender.put(f"/sendToDevice/m.test/{txn_id}", {"messages": messages})
    sender.homeserver.settle()
    return reply.status


def test_attack_6_a_message_that_a_server_refuses_holds_up_no_other(
    network: MemoryNetwork, a: Homeserver
) -> None:
    taken: list[str] = []

    def answer(_method: str, _target: str, body: Any) -> Any:
        texts = [
            message["text"]
            for edu in body["edus"]
            for by_device in edu["content"]["messages"].values()
            for message in by_device.values()
        ]
        if any(text.startswith("poison") for text in texts):
            return TOO_LARGE
        taken.extend(texts)
        return {"pdus": {}}

    alice = a.register("alice")
    make_hostile(network, "b.test", answer)
    network.cut.add(frozenset({a.name, "b.test"}))  # type: ignore[arg-type]  # a name
    for number in range(20):
        text = "poison" if number in (3, 11) else f"good {number}"
        assert send(alice, "@bob:b.test", f"t{number}", {"text": text}) == 200

    network.heal()
    network.advance(60)

    assert taken == [f"good {number}" for number in range(20) if number not in (3, 11)]


def test_attack_6_a_message_that_is_too_large_is_refused_before_it_waits(
    network: MemoryNetwork, alice: User, bob: User
) -> None:
    network.requests.clear()

    refused = send(alice, bob.user_id, "t1", {"text": "x" * 70_000})

    assert refused == 413
    assert network.requests == []


def test_attack_6_poisoned_device_keys_stop_neither_their_server_nor_the_other(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    room_id = meet(alice, bob)
    poisoned: list[dict[str, Any]] = [
        {"keys": {"ed25519:\0": "\0" * 1_000}},
        {"algorithms": ["\U0001f4a3" * 1_000]},
        {"extra": {str(n): {"deep": [[[[n]]]]} for n in range(500)}},
        {"big": 2**53 - 1},
    ]
    for changed in poisoned:
        other = alice.login_again()
        assert upload(other, device_keys=device_keys(other, **changed)).status == 200
    for number in (2**53, 0.5):
        assert upload(alice, device_keys={**device_keys(alice), "n": number}).status == 400
    upload_device_keys(alice)

    alice.send(room_id, "still here")
    a.settle()
    network.advance(30)

    found = bob.post("/keys/query", {"device_keys": {alice.user_id: []}}).json
    assert len(found["device_keys"][alice.user_id]) == 5
    chunk = bob.get(f"/rooms/{room_id}/messages", dir="b", limit=5).json["chunk"]
    assert chunk[0]["content"]["body"] == "still here"


def test_attack_6_updates_that_a_server_refuses_do_not_stop_messages_to_it(
    network: MemoryNetwork, a: Homeserver, alice: User, bob: User
) -> None:
    meet(alice, bob)
    messages: list[Any] = []

    def answer(_method: str, _target: str, body: Any) -> Any:
        if any(edu["edu_type"] == "m.device_list_update" for edu in body["edus"]):
            return BAD
        messages.extend(e for e in body["edus"] if e["edu_type"] == "m.direct_to_device")
        return {"pdus": {}}

    make_hostile(network, "b.test", answer)

    upload_device_keys(alice)
    a.settle()
    send(alice, bob.user_id, "t1", {"text": "hello"})
    network.advance(60)

    assert len(messages) == 1
