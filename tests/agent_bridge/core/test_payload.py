"""Strict bytes: encoding, base64, identifiers, keys (attack cases 28 to 32 and 34)."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bridge.core.base64_text import (
    decode_base64url,
    decode_matrix_base64,
    encode_base64url,
    encode_matrix_base64,
)
from agent_bridge.core.draft import encode_draft
from agent_bridge.core.ed25519 import (
    check_public_key,
    check_signature,
    encode_public_key,
    parse_public_key,
)
from agent_bridge.core.frozen_draft import parse_draft
from agent_bridge.core.pae import (
    PayloadType,
    decision_id_of,
    draft_id_of,
    encode_pae,
    parse_digest,
    parse_draft_id,
    parse_receipt_id,
    payload_digest,
    receipt_id_of,
)
from agent_bridge.core.payload import (
    MAX_PAYLOAD_BYTES,
    MAX_TIME_MS,
    Fields,
    decode_payload,
    encode_payload,
)
from agent_bridge.core.refusals import Reason, Refused
from homeserver.core.json_types import JsonObject, JsonValue
from tests.agent_bridge.core.refusing import refusing
from tests.agent_bridge.core.samples import DIGEST, draft, frozen, public_key, secret_key

ORDER = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER_KEYS = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text("aé\U0001f600\x01"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé"), inner, max_size=3),
    max_leaves=8,
)


def test_attack_28_duplicate_keys_are_refused() -> None:
    with refusing(Reason.JSON_INVALID):
        decode_payload(b'{"a":1,"a":1}')
    with refusing(Reason.JSON_INVALID):
        decode_payload(rb'{"a":1,"\u0061":2}')


@pytest.mark.parametrize("number", ["1.5", "1e3", "9007199254740992", "NaN", "Infinity", "-"])
def test_attack_29_numbers_that_are_not_safe_integers_are_refused(number: str) -> None:
    with refusing(Reason.JSON_INVALID):
        decode_payload(b'{"a":%b}' % number.encode())


@pytest.mark.parametrize("number", ["-0", "01", "-0.0"])
def test_attack_29_numbers_with_a_second_spelling_are_refused(number: str) -> None:
    with pytest.raises(Refused):
        decode_payload(b'{"a":%b}' % number.encode())


@pytest.mark.parametrize("data", [b'{"a":"e\xcc\x81"}', b'{"e\xcc\x81":1}', b'{"a":["e\xcc\x81"]}'])
def test_attack_30_text_outside_normal_form_c_is_refused(data: bytes) -> None:
    with refusing(Reason.NOT_NFC):
        decode_payload(data)


@pytest.mark.parametrize("data", [rb'{"a":"\ud800"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\xff"}'])
def test_attack_30_lone_surrogates_and_broken_utf8_are_refused(data: bytes) -> None:
    with refusing(Reason.JSON_INVALID):
        decode_payload(data)


@pytest.mark.parametrize(
    "data", [b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1}\n', rb'{"a":"\u0041"}', rb'{"a":"\/"}']
)
def test_attack_31_bytes_that_are_not_their_own_canonical_form_are_refused(data: bytes) -> None:
    with refusing(Reason.NOT_CANONICAL):
        decode_payload(data)


def test_attack_31_a_reserialized_draft_is_refused() -> None:
    reserialized = json.dumps(json.loads(frozen().payload)).encode()

    with refusing(Reason.NOT_CANONICAL):
        parse_draft(reserialized)


def test_attack_32_a_signature_covers_kind_and_version_of_its_payload() -> None:
    payload = frozen().payload
    messages = {encode_pae(kind, payload) for kind in PayloadType}
    ids = {draft_id_of(payload), decision_id_of(payload), receipt_id_of(payload)}
    signature = secret_key("x").sign(encode_pae(PayloadType.DRAFT, payload)).signature

    assert len(messages) == len(PayloadType)
    assert len({text.partition(":")[2] for text in ids}) == 3
    for kind in set(PayloadType) - {PayloadType.DRAFT}:
        with refusing(Reason.SIGNATURE_INVALID):
            check_signature(public_key("x"), encode_pae(kind, payload), signature)


def test_attack_32_a_draft_with_a_field_from_another_version_is_refused() -> None:
    value = encode_draft(draft(), DIGEST)

    with refusing(Reason.FIELD_UNKNOWN):
        parse_draft(encode_payload({**value, "version": 0}))
    with refusing(Reason.FIELD_MISSING):
        parse_draft(encode_payload({k: v for k, v in value.items() if k != "nonce"}))


@pytest.mark.parametrize("key", SMALL_ORDER_KEYS)
def test_attack_34_small_order_and_non_canonical_keys_are_refused(key: bytes) -> None:
    with refusing(Reason.KEY_INVALID):
        check_public_key(key)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_attack_34_keys_and_signatures_of_the_wrong_length_are_refused(size: int) -> None:
    with refusing(Reason.KEY_INVALID):
        check_public_key(b"k" * size)
    with refusing(Reason.SIGNATURE_INVALID):
        check_signature(public_key("x"), b"message", b"s" * (size + 1))


def test_attack_34_the_second_form_of_a_signature_is_refused() -> None:
    signature = secret_key("x").sign(b"message").signature
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    malleated = signature[:32] + scalar.to_bytes(32, "little")

    check_signature(public_key("x"), b"message", signature)
    with refusing(Reason.SIGNATURE_INVALID):
        check_signature(public_key("x"), b"message", malleated)


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q", "Q Q", "QQ\n", "Q_+A", "+w", "é"])
def test_attack_34_base64url_has_one_spelling(text: str) -> None:
    with refusing(Reason.BASE64_INVALID):
        decode_base64url(text)


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q", "-w", "_w"])
def test_attack_34_matrix_base64_has_one_spelling(text: str) -> None:
    with refusing(Reason.BASE64_INVALID):
        decode_matrix_base64(text)


@given(st.binary(max_size=64))
def test_base64_round_trips(data: bytes) -> None:
    assert decode_base64url(encode_base64url(data)) == data
    assert decode_matrix_base64(encode_matrix_base64(data)) == data


@given(st.dictionaries(st.text("abé", max_size=4), JSON_VALUES, max_size=4))
def test_payloads_round_trip_byte_for_byte(value: JsonObject) -> None:
    data = encode_payload(value)

    assert decode_payload(data) == value
    assert encode_payload(decode_payload(data)) == data


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_refused_or_their_own_canonical_form(data: bytes) -> None:
    try:
        value = decode_payload(data)
    except Refused:
        return
    assert encode_payload(value) == data


def test_the_encoding_of_dsse_is_reproduced() -> None:
    assert encode_pae(PayloadType.HEAD, b"{}") == b"DSSEv1 23 org.countersign.head.v1 2 {}"


def test_identifiers_parse_only_in_their_one_form() -> None:
    draft_id = frozen().draft_id

    assert parse_draft_id(draft_id) == draft_id
    for text in (draft_id.upper(), draft_id[:-1], draft_id[:-1] + "b", "d1" + draft_id[3:]):
        with refusing(Reason.FIELD_INVALID):
            parse_draft_id(text)
    with refusing(Reason.FIELD_INVALID):
        parse_receipt_id(draft_id)


def test_digests_parse_only_in_their_one_form() -> None:
    assert parse_digest(DIGEST) == DIGEST
    for text in (DIGEST.upper(), DIGEST[7:], DIGEST + "0", "md5:" + "0" * 64):
        with refusing(Reason.FIELD_INVALID):
            parse_digest(text)


def test_keys_round_trip_through_text() -> None:
    assert parse_public_key(encode_public_key(public_key("x"))) == public_key("x")


def test_a_payload_that_is_too_large_is_refused_before_it_is_parsed() -> None:
    with refusing(Reason.PAYLOAD_TOO_LARGE):
        decode_payload(b"[" * (MAX_PAYLOAD_BYTES + 1))
    with refusing(Reason.PAYLOAD_TOO_LARGE):
        encode_payload({"a": "b" * MAX_PAYLOAD_BYTES})


def test_a_payload_of_exactly_the_largest_size_is_accepted() -> None:
    data = b'{"a":"%b"}' % (b"b" * (MAX_PAYLOAD_BYTES - 8))

    assert len(data) == MAX_PAYLOAD_BYTES
    assert encode_payload(decode_payload(data)) == data


def test_the_last_millisecond_of_the_last_year_is_a_time_and_the_next_is_none() -> None:
    assert Fields.of({"a": MAX_TIME_MS}, "test", "a").time("a") == MAX_TIME_MS
    with refusing(Reason.FIELD_INVALID):
        Fields.of({"a": MAX_TIME_MS + 1}, "test", "a").time("a")


def test_a_payload_that_is_no_object_or_holds_a_float_is_refused() -> None:
    for data in (b"[]", b"1", b"null"):
        with refusing(Reason.JSON_INVALID):
            decode_payload(data)
    with refusing(Reason.JSON_INVALID):
        encode_payload({"a": 1.5})


def test_the_digest_of_a_payload_depends_on_its_kind() -> None:
    assert payload_digest(PayloadType.PINS, b"{}") != payload_digest(PayloadType.POLICY, b"{}")


@pytest.mark.parametrize("name", ["gate", "agent", "policy", "need", "sandbox", "limits"])
def test_a_part_of_a_draft_that_is_no_object_is_refused(name: str) -> None:
    with refusing(Reason.FIELD_INVALID):
        parse_draft(encode_payload({**encode_draft(draft(), DIGEST), name: []}))


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (1, "text"),
        ("1", "integer"),
        (True, "integer"),
        (-1, "integer"),
        (10**15, "time"),
        (1, "boolean"),
        ({}, "items"),
        (["b", "a"], "texts"),
        (["a", "a"], "texts"),
        (["a", 1], "texts"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(value: JsonValue, read: str) -> None:
    fields = Fields.of({"a": value}, "test", "a")

    with refusing(Reason.FIELD_INVALID):
        getattr(fields, read)("a")


def test_the_protocol_document_lists_every_reason() -> None:
    document = (Path(__file__).parents[3] / "docs" / "cosign-protocol.md").read_text()

    for reason in Reason:
        assert f"| `{reason.value}` | {reason.sentence} |" in document


def test_every_reason_has_a_code_like_its_name_and_a_sentence() -> None:
    for reason in Reason:
        assert reason.value == reason.name.lower()
        assert reason.sentence.endswith(".")
    assert str(Refused(Reason.EXPIRED)) == Reason.EXPIRED.sentence
    assert str(Refused(Reason.EXPIRED, "why")) == "The draft has expired. (why)"
