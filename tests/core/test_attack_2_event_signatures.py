"""Attack class 2: signatures and hashes of events."""

from typing import Any

import pytest

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import EventMalformed, SignatureInvalid
from homeserver.core.events import (
    check_content_hash,
    check_event_signature,
    compute_content_hash,
    parse_event,
    redact_event,
    required_signers,
)
from homeserver.core.identifiers import EventID
from homeserver.core.json_types import JsonObject
from homeserver.core.redaction import redact_pdu
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.core.signing import SigningKey, decode_base64, sign_json
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, KEY, Room, versions_between

V1 = ROOM_VERSIONS["1"]
VECTOR_KEY = SigningKey("ed25519:1", decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"))


@pytest.mark.parametrize(
    ("pdu", "content_hash", "signature"),
    [
        (
            {
                "room_id": "!x:domain",
                "sender": "@a:domain",
                "origin": "domain",
                "origin_server_ts": 1000000,
                "signatures": {},
                "hashes": {},
                "type": "X",
                "content": {},
                "prev_events": [],
                "auth_events": [],
                "depth": 3,
                "unsigned": {"age_ts": 1000000},
            },
            "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        ),
        (
            {
                "content": {"body": "Here is the message content"},
                "event_id": "$0:domain",
                "origin": "domain",
                "origin_server_ts": 1000000,
                "type": "m.room.message",
                "room_id": "!r:domain",
                "sender": "@u:domain",
                "signatures": {},
                "unsigned": {"age_ts": 1000000},
            },
            "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        ),
    ],
)
def test_hash_and_signature_equal_the_test_vectors_of_the_specification(
    pdu: JsonObject, content_hash: str, signature: str
) -> None:
    hashed = pdu | {"hashes": {"sha256": compute_content_hash(V1, pdu)}}
    signed = sign_json(redact_pdu(V1, hashed), "domain", VECTOR_KEY)

    assert hashed["hashes"] == {"sha256": content_hash}
    assert signed["signatures"] == {"domain": {"ed25519:1": signature}}


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_2_a_signature_covers_the_redacted_event(version_id: str) -> None:
    event = Room(version_id).make("m.room.message", ALICE, {"body": "hello"})

    check_event_signature(event, "a.example", KEY.key_id, KEY.verify_key_base64)
    check_event_signature(redact_event(event), "a.example", KEY.key_id, KEY.verify_key_base64)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "m.room.name"),
        ("sender", "@mallory:a.example"),
        ("depth", 99),
        ("origin_server_ts", 99),
        ("state_key", ""),
        ("prev_events", []),
        ("auth_events", ["$other"]),
        ("room_id", "!other:a.example"),
        ("hashes", {"sha256": "AAAA"}),
    ],
)
def test_attack_2_every_protected_key_is_signed(key: str, value: Any) -> None:
    event = Room("11").make("m.room.message", ALICE, {"body": "hello"})
    forged = parse_event(event.room_version, event.pdu | {key: value})

    assert forged.event_id != event.event_id
    with pytest.raises(SignatureInvalid):
        check_event_signature(forged, "a.example", KEY.key_id, KEY.verify_key_base64)


def test_attack_2_changed_content_keeps_the_signature_but_not_the_hash() -> None:
    event = Room("12").make("m.room.message", ALICE, {"body": "hello"})
    forged = parse_event(event.room_version, event.pdu | {"content": {"body": "forged"}})

    check_event_signature(forged, "a.example", KEY.key_id, KEY.verify_key_base64)
    assert forged.event_id == event.event_id
    assert not check_content_hash(forged)
    assert redact_event(forged).pdu_bytes == redact_event(event).pdu_bytes


@pytest.mark.parametrize("sha256", ["", "AAAA", "?", "é", "=", "A" * 43])
def test_attack_2_a_wrong_or_malformed_hash_is_a_mismatch(sha256: str) -> None:
    event = Room("12").make("m.room.message", ALICE, {"body": "hello"})

    assert not check_content_hash(
        parse_event(event.room_version, event.pdu | {"hashes": {"sha256": sha256}})
    )


def test_attack_2_further_hashes_do_not_replace_the_one_we_know() -> None:
    event = Room("12").make("m.room.message", ALICE, {"body": "hello"})
    hashes = {"sha256": event.pdu["hashes"]["sha256"], "md5": "AAAA"}  # type: ignore[index,call-overload]  # a JSON object

    assert check_content_hash(parse_event(event.room_version, event.pdu | {"hashes": hashes}))


@pytest.mark.parametrize(
    ("server_name", "key_id", "verify_key"),
    [
        ("b.example", KEY.key_id, KEY.verify_key_base64),
        ("a.example", "ed25519:other", KEY.verify_key_base64),
        ("a.example", KEY.key_id, VECTOR_KEY.verify_key_base64),
        ("a.example", KEY.key_id, ""),
        ("a.example", KEY.key_id, "no base64!"),
    ],
)
def test_attack_2_the_wrong_server_key_id_or_key_verifies_nothing(
    server_name: str, key_id: str, verify_key: str
) -> None:
    event = Room("11").make("m.room.message", ALICE, {"body": "hello"})

    with pytest.raises(SignatureInvalid):
        check_event_signature(event, server_name, key_id, verify_key)


def test_attack_2_a_signature_over_the_full_event_is_refused() -> None:
    event = Room("11").make("m.room.message", ALICE, {"body": "hello"})
    unsigned = {key: value for key, value in event.pdu.items() if key != "signatures"}
    forged = parse_event(event.room_version, sign_json(unsigned, "a.example", KEY))

    with pytest.raises(SignatureInvalid):
        check_event_signature(forged, "a.example", KEY.key_id, KEY.verify_key_base64)


def test_attack_2_removing_signatures_does_not_change_the_event_id() -> None:
    event = Room("11").make("m.room.message", ALICE, {"body": "hello"})
    bare = parse_event(event.room_version, event.pdu | {"signatures": {}})

    assert bare.event_id == event.event_id
    with pytest.raises(SignatureInvalid):
        check_event_signature(bare, "a.example", KEY.key_id, KEY.verify_key_base64)


def test_attack_2_a_key_named_twice_is_refused_not_resolved() -> None:
    event = Room("11").make("m.room.message", ALICE, {"body": "hello"})
    doubled = event.pdu_bytes.replace(b'"depth":', b'"depth":9,"depth":', 1)

    with pytest.raises(EventMalformed, match="twice"):
        parse_event(event.room_version, doubled)


def test_the_bytes_of_an_event_are_canonical() -> None:
    event = Room("11").make("m.room.message", ALICE, {"b": 1, "a": 2})

    assert event.pdu_bytes == encode_canonical_json(event.pdu)


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_2_the_senders_server_must_sign(version_id: str) -> None:
    room = Room(version_id)

    assert required_signers(room.make("m.room.message", BOB)) == {"b.example"}
    assert required_signers(room.create) == {"a.example"}


@pytest.mark.parametrize("version_id", ["1", "2"])
def test_attack_2_the_server_in_the_event_id_must_sign_in_versions_1_and_2(version_id: str) -> None:
    event = Room(version_id).make("m.room.message", BOB)
    event.event_id = EventID("$event:c.example")

    assert required_signers(event) == {"b.example", "c.example"}


@pytest.mark.parametrize("membership", ["join", "leave"])
def test_attack_2_the_authorizing_server_must_sign_from_version_8_on(membership: str) -> None:
    content: JsonObject = {"membership": membership, "join_authorised_via_users_server": CAROL}

    for version_id in versions_between(8, 12):
        event = Room(version_id).make("m.room.member", BOB, content, state_key=BOB)
        assert required_signers(event) == {"b.example", "c.example"}
    for version_id in versions_between(3, 7):
        event = Room(version_id).make("m.room.member", BOB, content, state_key=BOB)
        assert required_signers(event) == {"b.example"}


@pytest.mark.parametrize("authorizer", [None, 3, "carol", [CAROL]])
def test_attack_2_a_malformed_authorizer_names_no_server(authorizer: Any) -> None:
    content: JsonObject = {"membership": "join", "join_authorised_via_users_server": authorizer}
    event = Room("12").make("m.room.member", BOB, content, state_key=BOB)

    assert required_signers(event) == {"b.example"}


@pytest.mark.parametrize("version_id", versions_between(3, 12))
def test_an_invite_by_third_party_id_may_come_from_any_server(version_id: str) -> None:
    content: JsonObject = {"membership": "invite", "third_party_invite": {"signed": {}}}
    room = Room(version_id)

    assert required_signers(room.make("m.room.member", BOB, content, state_key=CAROL)) == set()
    joining = content | {"membership": "join"}
    assert required_signers(room.make("m.room.member", BOB, joining, state_key=BOB)) == {
        "b.example"
    }
    assert required_signers(room.make("org.example", BOB, content)) == {"b.example"}


def test_attack_2_a_third_party_invite_that_would_be_redacted_needs_its_senders_signature() -> None:
    content: JsonObject = {"membership": "invite", "third_party_invite": {"signed": {}}}
    event = Room("10").make("m.room.member", BOB, content, state_key=CAROL)
    spoiled = parse_event(event.room_version, event.pdu | {"content": content | {"reason": "x"}})

    assert redact_event(spoiled).content == {"membership": "invite"}
    assert required_signers(spoiled) == {"b.example"}
