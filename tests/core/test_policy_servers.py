"""Which policy server a room uses, and whose signature counts."""

from typing import Any

import pytest

from homeserver.core.errors import EventMalformed
from homeserver.core.events import MAX_PDU_BYTES, Event, check_content_hash, redact_event
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.policy_servers import (
    POLICY_KEY_ID,
    PolicyServer,
    add_policy_signature,
    find_policy_server,
    find_policy_signature,
    is_exempt,
    is_signed_by,
)
from homeserver.core.signing import SigningKey, sign_json
from tests.core.scenario import ALICE, ALL_VERSIONS, Room

NAME = "policy.example"
KEY = SigningKey(POLICY_KEY_ID, b"\x07" * 32)
OTHER_KEY = SigningKey(POLICY_KEY_ID, b"\x08" * 32)
SERVER = PolicyServer(ServerName(NAME), KEY.verify_key_base64)
KEYS: JsonObject = {"ed25519": KEY.verify_key_base64}


def message(version: str = "11", body: str = "hello", sender: str = ALICE) -> Event:
    return Room(version).make("m.room.message", sender, {"body": body})


def signature_of(event: Event, key: SigningKey = KEY) -> str:
    signed: Any = sign_json({**redact_event(event).pdu, "signatures": {}}, NAME, key)
    return str(signed["signatures"][NAME][key.key_id])


def answer_to(event: Event, key: SigningKey = KEY) -> JsonObject:
    return {NAME: {POLICY_KEY_ID: signature_of(event, key)}}


def urlsafe(base64: str) -> str:
    return base64.replace("+", "-").replace("/", "_")


# The room.


def test_a_room_uses_the_policy_server_that_is_named_with_a_key_and_is_in_it() -> None:
    content = {"via": NAME, "public_keys": KEYS, "more": 1}

    assert find_policy_server(content, {"a.example", NAME}) == SERVER


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"via": NAME},
        {"public_keys": KEYS},
        {"via": None, "public_keys": KEYS},
        {"via": [NAME], "public_keys": KEYS},
        {"via": {NAME: 1}, "public_keys": KEYS},
        {"via": "other.example", "public_keys": KEYS},
        {"via": NAME, "public_keys": {}},
        {"via": NAME, "public_keys": {"curve25519": "x"}},
        {"via": NAME, "public_keys": {"ed25519": 7}},
        {"via": NAME, "public_keys": {"ed25519": None}},
        {"via": NAME, "public_keys": ["ed25519"]},
        {"via": NAME, "public_keys": KEY.verify_key_base64},
    ],
)
def test_a_room_uses_none_when_something_is_missing(content: dict[str, object]) -> None:
    assert find_policy_server(content, {"a.example", NAME}) is None


def test_a_room_uses_none_when_nobody_of_that_server_is_joined() -> None:
    assert find_policy_server({"via": NAME, "public_keys": KEYS}, {"a.example"}) is None


@pytest.mark.parametrize(
    "key", ["", "x", "not a key", "AAAA", "é" * 43, KEY.verify_key_base64[:-3]]
)
def test_a_key_that_is_none_makes_no_signature_valid(key: str) -> None:
    server = find_policy_server({"via": NAME, "public_keys": {"ed25519": key}}, {NAME})

    assert server is not None
    assert find_policy_signature(message(), server, answer_to(message())) is None


@pytest.mark.parametrize("padding", ["", "="])
def test_the_key_may_be_in_either_alphabet(padding: str) -> None:
    keys = [SigningKey(POLICY_KEY_ID, bytes([n] * 32)) for n in range(10)]
    key = next(key for key in keys if urlsafe(key.verify_key_base64) != key.verify_key_base64)
    content = {
        "via": NAME,
        "public_keys": {"ed25519": urlsafe(key.verify_key_base64) + padding},
    }

    server = find_policy_server(content, {NAME})

    assert server is not None
    assert find_policy_signature(message(), server, answer_to(message(), key)) is not None


@pytest.mark.parametrize(
    ("event_type", "state_key", "exempt"),
    [
        ("m.room.policy", "", True),
        ("m.room.policy", None, False),
        ("m.room.policy", "x", False),
        ("m.room.message", None, False),
        ("m.room.member", ALICE, False),
        ("m.room.power_levels", "", False),
    ],
)
def test_what_sets_the_policy_server_is_all_that_it_is_not_asked_about(
    event_type: str, state_key: str | None, *, exempt: bool
) -> None:
    assert is_exempt(event_type, state_key) is exempt


# The signature.


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_a_signature_is_taken_from_the_answer_and_added(version: str) -> None:
    event = message(version)
    signature = find_policy_signature(event, SERVER, answer_to(event))
    assert signature is not None

    signed = add_policy_signature(event, SERVER, signature)

    assert not is_signed_by(event, SERVER)
    assert is_signed_by(signed, SERVER)
    assert is_signed_by(redact_event(signed), SERVER)
    assert signed.event_id == event.event_id
    assert check_content_hash(signed)
    before: Any = event.pdu["signatures"]
    assert signed.pdu["signatures"] == {**before, **answer_to(event)}
    assert {**signed.pdu, "signatures": 0} == {**event.pdu, "signatures": 0}


def test_a_signature_of_the_senders_own_server_stands_beside_its_other_one() -> None:
    event = message(sender=f"@guard:{NAME}")
    before: Any = event.pdu["signatures"]
    signature = signature_of(event)

    signed = add_policy_signature(event, SERVER, signature)

    assert signed.pdu["signatures"] == {NAME: {**before[NAME], POLICY_KEY_ID: signature}}


def test_a_signature_that_was_wrong_is_replaced() -> None:
    event = message()
    wrong = add_policy_signature(event, SERVER, signature_of(event, OTHER_KEY))

    signed = add_policy_signature(wrong, SERVER, signature_of(event))

    assert not is_signed_by(wrong, SERVER)
    assert is_signed_by(signed, SERVER)


def test_a_signature_in_the_other_alphabet_or_padded_is_written_in_the_usual_way() -> None:
    event = next(
        event
        for event in (message(body=str(number)) for number in range(100))
        if urlsafe(signature_of(event)) != signature_of(event)
    )
    answer: JsonObject = {NAME: {POLICY_KEY_ID: urlsafe(signature_of(event)) + "=="}}

    assert find_policy_signature(event, SERVER, answer) == signature_of(event)


EVENT = message()
GOOD = signature_of(EVENT)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {NAME: None},
        {NAME: GOOD},
        {NAME: [GOOD]},
        {NAME: {POLICY_KEY_ID: None}},
        {NAME: {POLICY_KEY_ID: [GOOD]}},
        {NAME: {POLICY_KEY_ID: ""}},
        {NAME: {POLICY_KEY_ID: GOOD[:-1]}},
        {NAME: {POLICY_KEY_ID: GOOD + "AAAA"}},
        {NAME: {POLICY_KEY_ID: " " + GOOD}},
        {NAME: {POLICY_KEY_ID: "A" * 86}},
        {NAME: {POLICY_KEY_ID: "é" * 86}},
        {NAME: {POLICY_KEY_ID: "\ud800" * 86}},
        {NAME: {"ed25519:other": GOOD}},
        {"a.example": {POLICY_KEY_ID: GOOD}},
        {"signatures": {NAME: {POLICY_KEY_ID: GOOD}}},
        answer_to(EVENT, OTHER_KEY),
        answer_to(message(body="another")),
    ],
)
def test_attack_1_what_is_no_signature_of_the_event_by_the_rooms_key_is_none(
    answer: JsonObject,
) -> None:
    assert find_policy_signature(EVENT, SERVER, answer) is None


def test_an_event_without_room_for_the_signature_has_one_all_the_same() -> None:
    size = len(message(body="").pdu_bytes)
    event = message(body="x" * (MAX_PDU_BYTES - size - 30))

    signature = find_policy_signature(event, SERVER, answer_to(event))

    assert signature is not None
    with pytest.raises(EventMalformed, match="bytes"):
        add_policy_signature(event, SERVER, signature)
    smaller = message(body="x" * 60_000)
    with pytest.raises(EventMalformed, match="bytes"):
        add_policy_signature(smaller, SERVER, signature_of(smaller), max_bytes=60_000)
