"""Class 1: what a hostile policy server answers, and what it gets us to sign, send or tell."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.core.events import Event, parse_event, redact_event
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.policy_servers import POLICY_KEY_ID, PolicyServer
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.signing import SigningKey, sign_json
from homeserver.errors import PolicyRefused
from homeserver.services.federation.policy_servers import PolicyServers
from homeserver.services.federation.requests import FederationRequests
from homeserver.transport.outbound import Answer
from tests.federation.hostile_server import HostileServer, send_event
from tests.federation.network import MemoryNetwork
from tests.federation.policy_server import SIGN, FakePolicyServer, refusal, with_signature
from tests.homeserver import Homeserver, Reply, User
from tests.remote_room import begin_room
from tests.results import result_of

ANOTHER_KEY = SigningKey(POLICY_KEY_ID, b"\x0a" * 32)
FORGED = "A" * 86


class Stage:
    """A room of alice's whose policy server is the attacker's."""

    def __init__(self, network: MemoryNetwork, a: Homeserver) -> None:
        self.network = network
        self.a = a
        self.alice: User = a.register("alice")
        self.room_id = self.alice.create_room(preset="public_chat")
        self.policy = FakePolicyServer(network)
        self.guard = self.policy.guard(self.alice, self.room_id)

    def answer(self, answer: Any) -> None:
        self.policy.operations["sign"] = lambda _, __: answer

    def say(self, text: str = "hello", txn_id: str = "t") -> Reply:
        path = f"/rooms/{quote(self.room_id)}/send/m.room.message/{txn_id}"
        reply = self.alice.put(path, {"body": text})
        self.network.settle()
        return reply

    def timeline(self) -> list[Any]:
        room = self.alice.sync()["rooms"]["join"][self.room_id]
        return [e for e in room["timeline"]["events"] if e["type"] == "m.room.message"]

    def sent(self) -> list[Any]:
        """Events that the attacker was sent."""
        self.network.settle()
        return [
            pdu
            for transaction in self.policy["send"]
            for pdu in transaction["pdus"]
            if pdu["type"] == "m.room.message"
        ]


@pytest.fixture
def stage(network: MemoryNetwork, a: Homeserver) -> Stage:
    return Stage(network, a)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        7,
        "x",
        {"policy.test": {}},
        {"policy.test": []},
        {"policy.test": {POLICY_KEY_ID: FORGED}},
        {"policy.test": {POLICY_KEY_ID: {"a": 1}}},
        {"policy.test": {"ed25519:sim": FORGED}},
        {"a.test": {POLICY_KEY_ID: FORGED}},
        {"signatures": {"policy.test": {POLICY_KEY_ID: FORGED}}},
        Answer(200, b"", {}),
        Answer(200, b"not JSON", {}),
        Answer(200, b"[" * 60_000, {}),
        Answer(200, b'{"policy.test":' + b'{"x":' * 10_000 + b"1" + b"}" * 10_001, {}),
        Answer(200, json.dumps({"x": "x" * 100_000}).encode(), {}),
        Answer(204, b"", {}),
        Answer(302, b"{}", {"location": "http://127.0.0.1/"}),
        Answer(500, b"<html>", {}),
    ],
)
def test_attack_1_an_answer_without_the_signature_sends_nothing(stage: Stage, answer: Any) -> None:
    stage.answer(answer)

    reply = stage.say()

    assert reply.status in (403, 502)
    assert reply.errcode in ("M_FORBIDDEN", "M_UNKNOWN")
    assert stage.timeline() == []
    assert stage.sent() == []


def test_attack_1_a_signature_of_another_event_or_key_sends_nothing(stage: Stage) -> None:
    stage.policy.operations["sign"] = lambda _, pdu: stage.policy.sign(pdu, ANOTHER_KEY)
    assert stage.say("by another key").status == 403
    earlier = stage.policy.asked[-1]
    stage.policy.operations["sign"] = lambda _, __: stage.policy.sign(earlier)

    assert stage.say("with the signature of another").status == 403

    assert stage.timeline() == stage.sent() == []


def test_attack_1_nothing_but_the_signature_is_taken(stage: Stage) -> None:
    """The answer is a whole event, signed by everybody."""
    asked: list[JsonObject] = []

    def answer(_: list[str], pdu: Any) -> JsonObject:
        asked.append(pdu)
        good: Any = stage.policy.sign(pdu)
        return {
            **pdu,
            "content": {"body": "something else"},
            "sender": "@mallory:policy.test",
            "unsigned": {"age": 1},
            "a.test": {"ed25519:test": FORGED, POLICY_KEY_ID: FORGED},
            "b.test": {"ed25519:x": FORGED},
            "policy.test": {**good["policy.test"], "ed25519:sim": FORGED, "ed25519:more": FORGED},
        }

    stage.policy.operations["sign"] = answer

    event_id = stage.say().json["event_id"]

    (sent,) = stage.sent()
    assert {**sent, "signatures": 0} == {**asked[0], "signatures": 0}
    ours: Any = asked[0]["signatures"]
    assert sent["signatures"] == {**ours, **stage.policy.sign(asked[0])}
    (shown,) = stage.timeline()
    assert (shown["event_id"], shown["content"]) == (event_id, {"body": "hello"})


@pytest.mark.parametrize("status", [400, 403, 404])
@pytest.mark.parametrize(
    "errcode",
    [
        "M_UNKNOWN_TOKEN",
        "M_MISSING_TOKEN",
        "M_USER_DEACTIVATED",
        "M_USER_LOCKED",
        "M_CONSENT_NOT_GIVEN",
        "M_UNAUTHORIZED",
        "M_RESOURCE_LIMIT_EXCEEDED",
        "M_" + "X" * 1000,
        "X" * 1000,
        "with\nlines",
        "",
    ],
)
def test_attack_1_an_error_code_does_not_log_clients_out_or_lead_them_elsewhere(
    stage: Stage, status: int, errcode: str
) -> None:
    stage.answer(refusal(status, errcode, consent_uri="https://evil.test", soft_logout=False))

    reply = stage.say()

    assert (reply.status, reply.errcode) == (status, "M_FORBIDDEN")


@pytest.mark.parametrize("status", [401, 402, 405, 409, 418, 451, 500, 503])
def test_attack_1_another_status_is_no_answer(stage: Stage, status: int) -> None:
    flows: dict[str, Any] = {"flows": [{"stages": ["m.login.password"]}], "session": "x"}
    stage.answer(refusal(status, "M_UNKNOWN_TOKEN", **flows))

    reply = stage.say()

    assert (reply.status, reply.errcode) == (502, "M_UNKNOWN")
    assert set(reply.json) == {"errcode", "error"}


@pytest.mark.parametrize("after", [10**15, 2**70, -5, 0, "soon", None, 1.5, True])
def test_attack_1_clients_are_not_told_to_wait_for_ever(stage: Stage, after: Any) -> None:
    body = {"errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": after}
    stage.answer(Answer(429, json.dumps(body).encode(), {"retry-after": "999999999999"}))

    reply = stage.say()

    assert (reply.status, reply.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert 0 < reply.json["retry_after_ms"] <= 60_000


def test_attack_1_a_policy_server_that_hangs_holds_up_nobody_elsewhere(
    network: MemoryNetwork, stage: Stage
) -> None:
    other_id = stage.alice.create_room()
    network.hold(stage.policy.name, SIGN)
    path = f"/rooms/{quote(stage.room_id)}/send/m.room.message"
    hanging = [stage.alice.start_request("PUT", f"{path}/{n}", {"body": "x"}) for n in range(50)]

    assert stage.alice.send(other_id, "hello")
    assert not any(pending.answered for pending in hanging)
    network.advance(11)

    assert {pending.reply().status for pending in hanging} == {502}
    assert stage.timeline() == []


def test_attack_1_a_policy_server_that_hangs_is_not_asked_about_all_that_comes(
    network: MemoryNetwork, stage: Stage
) -> None:
    """Fifty events of a transaction wait as long as one."""
    other = HostileServer(network)
    stage.policy.operations["sign"] = lambda _, pdu: stage.policy.sign(pdu)
    join = other.join(stage.a, stage.room_id)
    network.settle()
    stage.policy.received.clear()
    network.hold(stage.policy.name, SIGN)
    events = [send_event(other, join, f"{number}") for number in range(50)]
    body: JsonObject = {
        "origin": "evil.test",
        "origin_server_ts": 1,
        "pdus": [event.pdu for event in events],
    }
    sent = other.start_asking(stage.a, "PUT", "/send/many", body)
    network.settle()
    asked = len(network.held[stage.policy.name, SIGN])

    network.advance(11)
    network.held.clear()

    assert sent.received
    assert asked == 10
    assert stage.timeline() == []
    assert stage.say("after").status == 200


def test_attack_1_what_a_policy_server_signs_is_not_said_by_its_users(
    network: MemoryNetwork, stage: Stage
) -> None:
    """It publishes the key it signs recommendations with, and is asked to sign a forgery."""
    stage.policy.operations["keys"] = lambda _, __: stage.policy.keys(
        verify_keys={
            stage.policy.key.key_id: {"key": stage.policy.key.verify_key_base64},
            POLICY_KEY_ID: {"key": stage.policy.policy_key.verify_key_base64},
        }
    )
    network.advance(3600)
    other = HostileServer(network)
    other.join(stage.a, stage.room_id)
    guard = UserID("@guard:policy.test")
    forged = forge(stage, other, guard)

    answer = other.transaction(stage.a, [with_signature(forged, stage.policy.sign(forged))])

    assert "error" in answer.json["pdus"][forged.event_id]
    assert stage.timeline() == []


def forge(stage: Stage, other: HostileServer, sender: UserID) -> Event:
    """A message by the user of another server, with that server's signature left out."""
    message = stage.policy.room.make(
        "m.room.message", sender, {"body": "forged"}, prev=[stage.guard.event_id]
    )
    return other.change(message, signatures={})


def test_attack_1_what_was_signed_is_not_another_event_with_the_same_id(
    network: MemoryNetwork, a: Homeserver
) -> None:
    """In the first room versions whoever makes an event chooses its id."""
    version = ROOM_VERSIONS["1"]
    policy = FakePolicyServer(network)
    key = policy.policy_key
    server = PolicyServer(policy.name, key.verify_key_base64)
    signers = PolicyServers(
        FederationRequests(network.client_of(a.name, a.reactor)), a.clock, a.server.background
    )
    room = begin_room("1", "evil.test")
    harmless = room.say(room.user("creator"), "harmless")
    spam = parse_event(
        version, {**room.say(room.user("creator"), "spam").pdu, "event_id": harmless.event_id}
    )

    def sign(_: Any, pdu: JsonObject) -> Any:
        if pdu == spam.pdu:
            return refusal()
        bare = {**redact_event(parse_event(version, pdu)).pdu, "signatures": {}}
        return sign_json(bare, policy.name, key)["signatures"]

    policy.operations["sign"] = sign

    assert result_of(signers.sign(server, harmless))
    with pytest.raises(PolicyRefused):
        result_of(signers.sign(server, spam))


def test_attack_1_a_refusal_that_cannot_be_written_is_told_without_its_depths(
    stage: Stage,
) -> None:
    deep = b'{"errcode":"M_FORBIDDEN","error":"No","x":' + b"[" * 300 + b"]" * 300 + b"}"
    stage.answer(Answer(400, deep, {}))

    reply = stage.say()

    assert reply.json == {"errcode": "M_FORBIDDEN", "error": "No"}


def test_attack_1_what_is_remembered_of_long_refusals_is_bounded(
    network: MemoryNetwork, a: Homeserver
) -> None:
    policy = FakePolicyServer(network)
    policy.operations["sign"] = lambda _, __: refusal(x="x" * 60_000)
    server = PolicyServer(policy.name, policy.policy_key.verify_key_base64)
    signers = PolicyServers(
        FederationRequests(network.client_of(a.name, a.reactor)), a.clock, a.server.background
    )
    room = begin_room("11", "evil.test")
    events = [room.say(room.user("creator"), f"{number}") for number in range(150)]

    def ask(event: Event) -> int:
        with pytest.raises(PolicyRefused):
            result_of(signers.sign(server, event))
        return len(policy.asked)

    assert ask(events[0]) == ask(events[0]) == 1
    for event in events[1:]:
        ask(event)

    assert ask(events[0]) == len(events) + 1


def test_attack_1_what_it_passes_on_before_it_has_answered_is_not_said_twice(
    stage: Stage,
) -> None:
    def sign(_: Any, pdu: JsonObject) -> Any:
        event = parse_event(ROOM_VERSIONS["11"], pdu)
        signatures = stage.policy.sign(event)
        told = stage.policy.transaction(stage.a, [with_signature(event, signatures)])
        assert told.status == 200
        return signatures

    stage.policy.operations["sign"] = sign

    replies = [stage.say("hello", txn_id) for txn_id in ("t", "t", "u")]
    stage.network.advance(5)

    assert [reply.status for reply in replies] == [200, 200, 200]
    shown = [event["event_id"] for event in stage.timeline()]
    assert shown == [replies[0].json["event_id"], replies[2].json["event_id"]]
    assert replies[1].json == replies[0].json
