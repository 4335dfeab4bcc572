"""Signatures of requests, and what a hostile Authorization header may hold."""

import dataclasses

import pytest

from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import SignatureInvalid
from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.core.request_signing import (
    RequestSignature,
    check_request_signature,
    make_authorization,
    parse_authorization,
)
from homeserver.core.signing import SigningKey, verify_signed_json

KEY = SigningKey("ed25519:a", b"k" * 32)
ORIGIN = ServerName("origin.test")
US = ServerName("us.test:8448")
URI = "/_matrix/federation/v1/send/1?a=%20"
CONTENT: JsonObject = {"pdus": [{"depth": 5}]}
BODY = encode_canonical_json(CONTENT)


def claim() -> RequestSignature:
    return parse_authorization(
        make_authorization(
            KEY,
            method="PUT",
            uri=URI,
            origin=ORIGIN,
            destination=US,
            content=BODY,
        )
    )


def check(
    signature: RequestSignature,
    *,
    method: str = "PUT",
    uri: str = URI,
    destination: ServerName = US,
    body: bytes = BODY,
) -> None:
    check_request_signature(
        signature,
        KEY.verify_key_base64,
        method=method,
        uri=uri,
        destination=destination,
        body=body,
    )


def test_what_is_signed_can_be_checked() -> None:
    signature = claim()

    check(signature)
    assert (signature.origin, signature.destination) == (ORIGIN, US)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "POST"},
        {"uri": URI + "1"},
        {"destination": ServerName("other.test")},
        {"body": b'{"pdus":[]}'},
        {"body": b""},
        {"body": b'{"pdus":[{"depth":5}]'},
        {"body": BODY + b',"destination":"us.test:8448"}'},
    ],
)
def test_attack_2_a_signature_is_good_for_one_request(changed: dict[str, object]) -> None:
    signature = claim()

    with pytest.raises(SignatureInvalid):
        check(signature, **changed)  # type: ignore[arg-type]  # one of several parameters


def test_the_signature_is_that_of_the_specification() -> None:
    """It is the one of the JSON signing algorithm over the whole request."""
    request: JsonObject = {
        "method": "PUT",
        "uri": URI,
        "origin": ORIGIN,
        "destination": US,
        "content": CONTENT,
        "signatures": {ORIGIN: {KEY.key_id: claim().signature}},
    }

    verify_signed_json(request, ORIGIN, KEY.key_id, KEY.verify_key_base64)


@pytest.mark.parametrize("body", [b'{ "pdus":[{"depth":5}]}', b'{"pdus":[{"depth":5}]}'])
def test_the_body_may_be_written_in_any_way(body: bytes) -> None:
    check_request_signature(
        claim(),
        KEY.verify_key_base64,
        method="PUT",
        uri=URI,
        destination=US,
        body=body,
    )


def test_attack_2_another_origin_cannot_use_the_signature() -> None:
    signature = dataclasses.replace(claim(), origin=ServerName("other.test"))

    with pytest.raises(SignatureInvalid):
        check(signature)


def test_a_signature_that_leaves_out_the_destination_is_checked_without_it() -> None:
    from_old = dataclasses.replace(claim(), destination=None)

    with pytest.raises(SignatureInvalid):
        check(from_old)


@pytest.mark.parametrize(
    "header",
    [
        'X-Matrix origin="origin.test",destination="us.test:8448",key="ed25519:a",sig="AA"',
        "X-Matrix origin=origin.test,destination=us.test:8448,key=ed25519:a,sig=AA",
        'x-matrix  Origin="origin.test" ,\tDESTINATION="us.test:8448", key=ed25519:a , sig="AA"',
        'X-Matrix origin="origin\\.test",destination="us.test:8448",key="ed25519:\\a",sig="AA",x=y',
        'X-Matrix sig="AA",key="ed25519:a",destination="us.test:8448",origin="origin.test"',
    ],
)
def test_the_header_is_read_as_the_rfc_has_it(header: str) -> None:
    assert parse_authorization(header) == RequestSignature(ORIGIN, US, "ed25519:a", "AA")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer abc",
        "X-Matrix",
        "X-Matrix origin=a.test,key=ed25519:a",
        "X-Matrix origin=a.test,origin=b.test,key=ed25519:a,sig=AA",
        'X-Matrix origin="a.test,key=ed25519:a,sig=AA',
        "X-Matrix origin=not/a/name,key=ed25519:a,sig=AA",
        "X-Matrix ====",
        "X-Matrix " + 'a="' + "\\" * 1990,
        "X-Matrix origin=a.test,key=ed25519:a,sig=" + "A" * 3000,
    ],
)
def test_a_header_that_is_not_complete_is_refused(header: str) -> None:
    with pytest.raises(SignatureInvalid):
        parse_authorization(header)
