"""Class 2: signatures, hashes and keys, on every way in."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.task import Clock as FakeReactor

from homeserver.clock import Clock
from homeserver.config import FederationSection
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.events import Event
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey, sign_json, verify_signed_json
from homeserver.services.own_keys import OwnKeys, read_old_keys
from homeserver.transport.outbound import Answer
from tests.federation.conftest import MakeServer
from tests.federation.hostile_server import HostileServer, Stage
from tests.federation.network import MemoryNetwork
from tests.homeserver import START_MS, Homeserver, Reply, User, key_of
from tests.room_state import join_rules

STRANGER = SigningKey("ed25519:stranger", b"?" * 32)


def forge(event: Event, how: str) -> JsonObject:
    """The event's PDU with something wrong about its signature."""
    (by_server,) = event.pdu["signatures"].values()  # type: ignore[union-attr]  # an object
    assert isinstance(by_server, dict)
    ((key_id, signature),) = by_server.items()
    assert isinstance(signature, str)
    other = STRANGER.sign(b"x")
    found: dict[str, Any] = {
        "none": {},
        "of another server": {"b.test": by_server},
        "no key": {"evil.test": {}},
        "unknown key": {"evil.test": {"ed25519:unknown": signature}},
        "other algorithm": {"evil.test": {"rsa:sim": signature}},
        "other signature": {"evil.test": {key_id: other}},
        "short": {"evil.test": {key_id: signature[:40]}},
        "empty": {"evil.test": {key_id: ""}},
        "not base64": {"evil.test": {key_id: "*" + signature[1:]}},
        "not text": {"evil.test": {key_id: 7}},
        "url-safe base64": {"evil.test": {key_id: "-_" + signature[2:]}},
        "spaces": {"evil.test": {key_id: " " + signature}},
    }
    return {**event.pdu, "signatures": found[how]}


FORGERIES = [
    "none",
    "of another server",
    "no key",
    "unknown key",
    "other algorithm",
    "other signature",
    "short",
    "empty",
    "not base64",
    "not text",
    "url-safe base64",
    "spaces",
]


@pytest.mark.parametrize("how", FORGERIES)
def test_attack_2_a_forged_event_is_not_taken_in_by_a_transaction(stage: Stage, how: str) -> None:
    event = stage.message("forged")

    reply = stage.hostile.transaction(stage.a, [forge(event, how)])

    assert reply.status == 200
    assert reply.json["pdus"].get(event.event_id, {"error": 1}) != {}
    assert stage.heard() == []


@pytest.mark.parametrize("how", ["none", "unknown key", "other signature"])
def test_attack_2_a_forged_event_is_not_taken_in_as_a_missing_one(stage: Stage, how: str) -> None:
    missing = stage.message("forged")
    event = stage.message("upon it", prev=[missing.event_id], auth=missing.auth_events)
    forged = forge(missing, how)
    for operation in ("get_missing_events", "event", "backfill", "state"):
        stage.hostile.operations[operation] = lambda *_: {
            "events": [forged], "pdus": [forged], "auth_chain": [forged]
        }  # fmt: skip

    stage.hostile.transaction(stage.a, [event])

    assert "forged" not in stage.heard()
    assert stage.hostile.count("get_missing_events")


@pytest.mark.parametrize("how", ["none", "unknown key", "other signature"])
def test_attack_2_forged_events_of_an_answered_join_are_left_out(
    network: MemoryNetwork, alice: User, how: str
) -> None:
    hostile = HostileServer(network)
    forged = forge(
        hostile.room.send("m.room.topic", hostile.creator, {"topic": "forged"}, state_key=""), how
    )

    def accept(_: list[str], pdu: Any) -> Any:
        answer: dict[str, Any] = hostile.accept_join(pdu)
        for part in ("state", "auth_chain"):
            answer[part] = [
                forged if event["type"] == "m.room.topic" else event for event in answer[part]
            ]
        return answer

    hostile.operations["send_join"] = accept
    hostile.let_in(alice)

    path = f"/rooms/{quote(hostile.room_id)}/state"
    assert alice.get(f"{path}/m.room.topic").status == 404
    assert alice.get(f"{path}/m.room.name").json == {"name": "Elsewhere"}


def test_attack_2_an_event_whose_hash_is_wrong_is_shown_without_its_content(stage: Stage) -> None:
    event = stage.message("what was said")
    content: JsonObject = {"msgtype": "m.text", "body": "what was not"}
    changed: JsonObject = {**event.pdu, "content": content}

    reply = stage.hostile.transaction(stage.a, [changed])

    assert reply.json["pdus"] == {event.event_id: {}}
    found = stage.alice.get(f"/rooms/{quote(stage.room_id)}/event/{quote(event.event_id, safe='')}")
    assert found.json["content"] == {}


def test_attack_2_of_a_key_named_twice_the_signed_meaning_counts(stage: Stage) -> None:
    """Whoever reads the first is told by the hash that it is not what was signed."""
    event = stage.message("signed")
    pdu = json.dumps(event.pdu)
    twice = pdu.replace('"body": "signed"', '"body": "not signed", "body": "signed"')
    other = pdu.replace('"body": "signed"', '"body": "signed", "body": "not signed"')
    assert twice != pdu

    for text in (other, twice):
        body = '{"origin":"evil.test","origin_server_ts":1,"pdus":[' + text + "]}"
        reply = stage.hostile.transaction(stage.a, raw=body.encode())
        assert reply.status in (200, 400)

    assert "not signed" not in str(stage.alice.get(f"/rooms/{quote(stage.room_id)}/messages").json)


def test_attack_2_a_request_whose_body_is_another_is_refused(stage: Stage) -> None:
    event = stage.message("x")
    body: JsonObject = {"origin": "evil.test", "origin_server_ts": 1, "pdus": [event.pdu]}
    sent = stage.hostile.start_asking(stage.a, "PUT", "/send/x", body, key=STRANGER)
    stage.network.settle()

    assert b" 401 " in bytes(sent.received)
    assert stage.heard() == []


@pytest.mark.parametrize("version", ["1", "2"])
def test_attack_2_an_event_id_of_another_domain_needs_that_servers_signature(
    network: MemoryNetwork, a: Homeserver, alice: User, version: str
) -> None:
    hostile = HostileServer(network, version=version)
    hostile.let_in(alice)
    join_id = hostile.room.graph.tips()[0]
    text: JsonObject = {"msgtype": "m.text", "body": "mine"}
    event = hostile.room.make("m.room.message", hostile.creator, text, prev=[join_id])
    stolen = hostile.change(event, event_id="$stolen:b.test")

    hostile.transaction(a, [stolen])
    hostile.transaction(a, [event])

    chunk = alice.get(f"/rooms/{quote(hostile.room_id)}/messages", dir="b").json["chunk"]
    ids = [found["event_id"] for found in chunk]
    assert event.event_id in ids
    assert "$stolen:b.test" not in ids


def test_attack_2_a_restricted_join_needs_the_signature_of_who_vouches(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    open_room = alice.create_room(preset="public_chat")
    rules = join_rules("restricted", open_room)
    room_id = alice.create_room(preset="private_chat", initial_state=[rules])
    hostile = HostileServer(network)
    hostile.join(a, open_room)
    made = hostile.ask(
        a, "GET", f"/make_join/{quote(room_id)}/{quote('@mallory:evil.test')}?ver=11"
    ).json
    join = hostile.sign_template(made)
    ours: JsonObject = {"ed25519:test": STRANGER.sign(b"x")}
    theirs = join.pdu["signatures"]
    assert isinstance(theirs, dict)
    forged: JsonObject = {**theirs, "a.test": ours}

    hostile.transaction(a, [join])
    hostile.transaction(a, [{**join.pdu, "signatures": forged}])

    members = alice.get(f"/rooms/{quote(room_id)}/joined_members").json["joined"]
    assert set(members) == {alice.user_id}


def test_attack_2_every_event_shown_with_an_invitation_to_a_v12_room_is_checked(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network, version="12")
    events = list(hostile.room.graph.events.values())
    invite = hostile.invite(alice)
    good: list[JsonObject] = [event.pdu for event in events]
    refused: list[Any] = [
        [],
        good[1:],
        [*good[:-1], forge(events[-1], "none")],
        [*good, forge(events[1], "other signature")],
        [*good, hostile.invite(alice, key=STRANGER).pdu],
        good * 50,
    ]

    statuses = [hostile.send_invite(a, invite, invite_room_state=state).status for state in refused]

    assert statuses == [400] * len(refused)
    assert hostile.send_invite(a, invite, invite_room_state=good).status == 200


def rotate(hostile: HostileServer, *, expired: int) -> SigningKey:
    """Let the server have a new key; the one it had has expired."""
    old, new = hostile.key, SigningKey("ed25519:new", b"n" * 32)
    hostile.key = hostile.room.key = new
    answer = hostile.keys(
        old_verify_keys={old.key_id: {"key": old.verify_key_base64, "expired_ts": expired}},
        valid_until_ts=START_MS + 30 * 86_400_000,
    )
    hostile.operations["keys"] = lambda *_: answer
    return old


@pytest.mark.parametrize(("expired_after", "heard"), [(1000, ["old"]), (-1000, [])])
def test_an_event_of_an_old_key_is_believed_if_it_was_made_before_the_key_expired(
    network: MemoryNetwork, a: Homeserver, expired_after: int, heard: list[str]
) -> None:
    stage = Stage(network, a)
    a.advance(8 * 86_400)
    made_at = START_MS + 7 * 86_400_000
    event = stage.message("old", timestamp=made_at)
    rotate(stage.hostile, expired=made_at + expired_after)

    stage.hostile.transaction(a, [event])

    assert stage.heard() == heard


def test_attack_2_a_request_is_not_signed_with_a_key_that_has_expired(
    network: MemoryNetwork, a: Homeserver
) -> None:
    stage = Stage(network, a)
    a.advance(8 * 86_400)
    old = rotate(stage.hostile, expired=START_MS + 7 * 86_400_000)
    path = "/query/directory?room_alias=%23x%3Aa.test"

    replies = [stage.hostile.ask(a, "GET", path, key=key) for key in (old, stage.hostile.key)]

    assert [reply.status for reply in replies] == [401, 404]


def test_attack_2_a_new_key_is_found_although_others_have_asked_in_its_name(
    network: MemoryNetwork, a: Homeserver
) -> None:
    stage = Stage(network, a)
    path = "/query/directory?room_alias=%23x%3Aa.test"
    for number in range(100):
        forged = SigningKey(f"ed25519:f{number}", b"f" * 32)
        assert stage.hostile.ask(a, "GET", path, key=forged).status == 401
        a.advance(120)
    asked = stage.hostile.count("keys")
    rotate(stage.hostile, expired=a.clock.now_ms())

    a.advance(301)
    reply = stage.hostile.ask(a, "GET", path)

    assert reply.status == 404
    assert asked < 60


@pytest.mark.parametrize(
    "change",
    [
        {"server_name": "b.test"},
        {"valid_until_ts": "soon"},
        {"valid_until_ts": None},
        {"valid_until_ts": -5},
        {"verify_keys": {}},
        {"verify_keys": []},
        {"verify_keys": {"ed25519:sim": {"key": "AAAA"}}},
        {"verify_keys": {"ed25519:sim": "x"}},
        {"old_verify_keys": {"ed25519:sim": {"key": "x", "expired_ts": 1}}, "verify_keys": {}},
    ],
)
def test_attack_2_keys_that_make_no_sense_are_not_believed(
    network: MemoryNetwork, a: Homeserver, change: dict[str, Any]
) -> None:
    hostile = HostileServer(network)
    hostile.operations["keys"] = lambda *_: hostile.keys(**change)

    assert hostile.ask(a, "GET", "/query/directory?room_alias=%23x%3Aa.test").status == 401


def make_anew(hostile: HostileServer) -> None:
    """Let the server have another key under the id of the one it had."""
    hostile.key = SigningKey(hostile.key.key_id, b"t" * 32)
    answer = hostile.keys(valid_until_ts=START_MS + 30 * 86_400_000)
    hostile.operations["keys"] = lambda *_: answer


@pytest.mark.parametrize(("days", "status"), [(1, 401), (8, 404)])
def test_attack_2_a_key_becomes_another_only_when_it_is_no_longer_valid(
    network: MemoryNetwork, a: Homeserver, days: int, status: int
) -> None:
    """A server that was made anew must not be refused for ever."""
    stage = Stage(network, a)
    make_anew(stage.hostile)
    a.advance(days * 86_400)

    replies = [
        stage.hostile.ask(a, "GET", "/query/directory?room_alias=%23x%3Aa.test") for _ in range(2)
    ]

    assert [reply.status for reply in replies] == [status] * 2


def test_attack_2_a_notary_cannot_make_a_key_another(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    notary = HostileServer(network, "notary.test")
    section = FederationSection(trusted_key_servers=[notary.name])
    a = make_server("a.test", federation=section)
    stage = Stage(network, a)
    made_up = HostileServer(network, "made-up.test")
    made_up.name = stage.hostile.name
    made_up.key = SigningKey(stage.hostile.key.key_id, b"m" * 32)
    answer = made_up.keys(valid_until_ts=START_MS + 30 * 86_400_000)
    signed = sign_json(answer, notary.name, notary.key)
    notary.operations["keys"] = lambda path, _: (
        {"server_keys": [signed]}
        if path[0] == "query"
        else notary.keys(valid_until_ts=START_MS + 30 * 86_400_000)
    )
    stage.hostile.operations["keys"] = lambda *_: Answer(503, b"{}")
    a.advance(8 * 86_400)

    reply = made_up.ask(a, "GET", "/query/directory?room_alias=%23x%3Aa.test")

    assert reply.status == 401
    assert ("keys", ["query"]) in [(name, path[:1]) for name, path, _ in notary.received]


def test_what_an_old_key_of_ours_signed_can_be_checked_by_others() -> None:
    old, new = SigningKey("ed25519:old", b"o" * 32), SigningKey("ed25519:new", b"n" * 32)
    name = ServerName("a.test")
    old_keys = read_old_keys(f"# retired\n{old.key_id} {old.verify_key_base64} 1000\n")
    signed = sign_json({"said": "long ago"}, name, old)

    response = OwnKeys(name, new, Clock(FakeReactor()), old_keys).response()

    said: Any = response["old_verify_keys"]
    verify_signed_json(signed, name, old.key_id, said[old.key_id]["key"])
    assert said[old.key_id]["expired_ts"] == 1000
    verify_signed_json(response, name, new.key_id, new.verify_key_base64)


@pytest.mark.parametrize(
    "line", ["ed25519:x", "ed25519:x AAAA 7", "rsa:x " + "A" * 43 + " 7", "ed25519:x !! soon"]
)
def test_a_line_of_old_keys_that_is_none_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read_old_keys(f"# comment\n{line}\n")


def test_attack_2_a_notary_is_no_way_to_make_up_keys(
    network: MemoryNetwork, make_server: MakeServer
) -> None:
    """An answer that the other server has not signed is passed on by nobody."""
    a = make_server("a.test")
    forged = sign_json(
        {"server_name": "b.test", "verify_keys": {}, "valid_until_ts": START_MS + 1},
        "b.test",
        key_of(ServerName("b.test")),
    )
    hostile = HostileServer(network, "b.test")
    hostile.operations["keys"] = lambda *_: json.loads(encode_canonical_json(forged))

    assert a.request("GET", "/_matrix/key/v2/query/b.test").json == {"server_keys": []}


def test_attack_5_who_asks_a_notary_for_servers_that_hang_gets_an_answer(
    network: MemoryNetwork, a: Homeserver
) -> None:
    names = [f"hanging{number}.test" for number in range(100)]
    for name in names:
        network.hold(name, "/key/")
    asked: JsonObject = {"server_keys": {name: {} for name in names}}
    reply = a.start_request("POST", "/_matrix/key/v2/query", asked)

    for _ in range(10):
        network.advance(5)

    assert reply.reply().json == {"server_keys": []}
    assert len(network.requests) <= 3


def test_attack_2_joins_and_invitations_that_are_not_signed_are_forbidden(
    network: MemoryNetwork, a: Homeserver, alice: User
) -> None:
    hostile = HostileServer(network)
    room_id = alice.create_room(preset="public_chat")
    path = f"/make_join/{quote(room_id)}/{quote('@mallory:evil.test')}?ver=11"
    join = hostile.sign_template(hostile.ask(a, "GET", path).json)
    invite = hostile.invite(alice)
    shown = {"room_version": "11", "event": forge(invite, "none"), "invite_room_state": []}

    def put(operation: str, event: Event, body: Any) -> Reply:
        target = f"{operation}/{quote(event.room_id)}/{quote(event.event_id, safe='')}"
        return hostile.ask(a, "PUT", f"/_matrix/federation/v2/{target}", body)

    replies = [
        put("send_join", join, forge(join, "other signature")),
        put("invite", invite, shown),
    ]

    assert [(r.status, r.errcode) for r in replies] == [(403, "M_FORBIDDEN")] * 2
    assert "invite" not in alice.sync()["rooms"]
