import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.core.json_types import JsonObject
from homeserver.core.signing import (
    SignatureInvalid,
    SigningKey,
    decode_base64,
    decode_base64_urlsafe,
    encode_base64,
    encode_base64_urlsafe,
    sign_json,
    verify_signed_json,
)

# The key and signatures of appendices/#cryptographic-test-vectors.
KEY = SigningKey("ed25519:1", decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"))
EMPTY_SIGNATURE = (
    "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
)
DATA_SIGNATURE = (
    "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
)


@pytest.mark.parametrize(
    ("obj", "signature"), [({}, EMPTY_SIGNATURE), ({"one": 1, "two": "Two"}, DATA_SIGNATURE)]
)
def test_signatures_equal_the_test_vectors_of_the_specification(
    obj: JsonObject, signature: str
) -> None:
    signed = sign_json(obj, "domain", KEY)

    assert signed == obj | {"signatures": {"domain": {"ed25519:1": signature}}}
    verify_signed_json(signed, "domain", "ed25519:1", KEY.verify_key_base64)


def test_signing_keeps_the_object_and_other_signatures() -> None:
    other = SigningKey("ed25519:2", b"\2" * 32)
    obj: JsonObject = {"a": 1, "unsigned": {"age": 3}}

    once = sign_json(obj, "domain", KEY)
    twice = sign_json(once, "domain", other)
    thrice = sign_json(twice, "elsewhere", other)

    assert obj == {"a": 1, "unsigned": {"age": 3}}
    assert thrice["unsigned"] == {"age": 3}
    verify_signed_json(thrice, "domain", "ed25519:1", KEY.verify_key_base64)
    verify_signed_json(thrice, "domain", "ed25519:2", other.verify_key_base64)
    verify_signed_json(thrice, "elsewhere", "ed25519:2", other.verify_key_base64)


def test_signing_replaces_malformed_signatures() -> None:
    signed = sign_json({"signatures": {"domain": 3}}, "domain", KEY)

    assert signed == {"signatures": {"domain": {"ed25519:1": EMPTY_SIGNATURE}}}
    assert sign_json({"signatures": []}, "domain", KEY) == signed


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        {},
        {"domain": []},
        {"domain": {}},
        {"domain": {"ed25519:1": 3}},
        {"domain": {"ed25519:1": ""}},
        {"domain": {"ed25519:1": DATA_SIGNATURE}},
        {"domain": {"ed25519:1": EMPTY_SIGNATURE[:-4]}},
        {"domain": {"ed25519:1": EMPTY_SIGNATURE + "\n"}},
        {"domain": {"ed25519:1": "é" + EMPTY_SIGNATURE[1:]}},
        {"domain": {"ed25519:1": "\ud800" + EMPTY_SIGNATURE[1:]}},
        {"domain": {"ed25519:1": EMPTY_SIGNATURE + "="}},
        {"domain": {"ed25519:2": EMPTY_SIGNATURE}},
        {"elsewhere": {"ed25519:1": EMPTY_SIGNATURE}},
    ],
)
def test_attack_2_wrong_signatures_are_refused(signatures: JsonObject) -> None:
    with pytest.raises(SignatureInvalid):
        verify_signed_json({"signatures": signatures}, "domain", "ed25519:1", KEY.verify_key_base64)


def test_attack_2_a_signature_of_other_bytes_cannot_carry_them_along() -> None:
    message = b"{}"
    signature = decode_base64(KEY.sign(b"prefix" + message)) + b"prefix"
    signed: JsonObject = {"signatures": {"domain": {"ed25519:1": encode_base64(signature)}}}

    with pytest.raises(SignatureInvalid):
        verify_signed_json(signed, "domain", "ed25519:1", KEY.verify_key_base64)


@pytest.mark.parametrize("key", ["", "A", "AAAA", "?", encode_base64(b"\0" * 32), "A" * 43])
def test_attack_2_impossible_and_weak_keys_verify_nothing(key: str) -> None:
    zero_signature = encode_base64(b"\0" * 64)
    signed: JsonObject = {"signatures": {"domain": {"ed25519:1": zero_signature}}}

    with pytest.raises(SignatureInvalid):
        verify_signed_json(signed, "domain", "ed25519:1", key)


def test_attack_2_what_has_no_canonical_form_is_not_signed_by_anyone() -> None:
    signed: JsonObject = {"a": 0.5, "signatures": {"domain": {"ed25519:1": EMPTY_SIGNATURE}}}

    with pytest.raises(SignatureInvalid):
        verify_signed_json(signed, "domain", "ed25519:1", KEY.verify_key_base64)


@pytest.mark.parametrize(
    "key_id", ["", "ed25519", "ed25519:", "ed25519:a-b", "rsa:1", "ed25519:a\n"]
)
def test_key_ids_have_one_form(key_id: str) -> None:
    with pytest.raises(ValueError, match="key id"):
        SigningKey(key_id, b"\0" * 32)


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey("ed25519:1", b"\0" * 31)


def test_the_seed_is_never_shown() -> None:
    assert repr(KEY) == "<SigningKey ed25519:1>"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"f", "Zg"),
        (b"fo", "Zm8"),
        (b"foo", "Zm9v"),
        (b"foob", "Zm9vYg"),
        (b"fooba", "Zm9vYmE"),
        (b"foobar", "Zm9vYmFy"),
    ],
)
def test_base64_equals_the_examples_of_the_specification(data: bytes, text: str) -> None:
    assert encode_base64(data) == text
    assert decode_base64(text) == data
    assert decode_base64(text + "=" * (-len(text) % 4)) == data


@pytest.mark.parametrize("text", ["A", "Zg=", "Zg===", "Zm9v=", "Z g", "Zg\n", "Z-8", "=", "Zg=A"])
def test_attack_2_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"padding|base64|character|decod|ASCII|data"):
        decode_base64(text)


@given(st.binary())
def test_base64_decodes_to_what_was_encoded(data: bytes) -> None:
    assert decode_base64(encode_base64(data)) == data
    assert decode_base64_urlsafe(encode_base64_urlsafe(data)) == data


def test_url_safe_base64_has_its_own_alphabet() -> None:
    assert encode_base64_urlsafe(b"\xfb\xff") == "-_8"
    with pytest.raises(ValueError, match="URL-safe"):
        decode_base64_urlsafe("+/8")
