"""Invites of people by e-mail or telephone: rule 5.4.1 of version 12."""

from typing import Any

import pytest

from homeserver.core import membership_auth
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey, decode_base64, encode_base64_urlsafe, sign_json
from tests.core.scenario import ALICE, ALL_VERSIONS, BOB, CAROL, Room

IDENTITY_KEY = SigningKey("ed25519:0", b"\5" * 32)
OTHER_KEY = SigningKey("ed25519:0", b"\6" * 32)
PUBLIC_KEY = IDENTITY_KEY.verify_key_base64
SIGNED = sign_json({"mxid": BOB, "token": "abc"}, "id.example", IDENTITY_KEY)


def refusal(
    version_id: str = "12",
    signed: Any = SIGNED,
    offer: JsonObject | None = None,
    *,
    offer_sender: str = ALICE,
    before: str = "leave",
    invite: Any = None,
) -> str | None:
    room = Room(version_id)
    room.set_members({ALICE: "join", BOB: before})
    content: JsonObject = {"public_key": PUBLIC_KEY} if offer is None else offer
    room.put("m.room.third_party_invite", offer_sender, content, "abc")
    event = room.make(
        "m.room.member",
        ALICE,
        {"membership": "invite", "third_party_invite": invite or {"signed": signed}},
        state_key=BOB,
    )
    return room.refusal_of(event)


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_an_invite_signed_by_the_identity_server_is_allowed(version_id: str) -> None:
    assert refusal(version_id) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_the_sender_of_a_signed_invite_need_not_be_in_the_room_any_more(version_id: str) -> None:
    room = Room(version_id)
    room.set_members({ALICE: "leave"})
    room.put("m.room.third_party_invite", ALICE, {"public_key": PUBLIC_KEY}, "abc")
    content: JsonObject = {"membership": "invite", "third_party_invite": {"signed": SIGNED}}

    assert room.refusal_of(room.make("m.room.member", ALICE, content, state_key=BOB)) is None


@pytest.mark.parametrize(
    "offer",
    [
        {"public_keys": [{"public_key": PUBLIC_KEY}]},
        {"public_key": OTHER_KEY.verify_key_base64, "public_keys": [{"public_key": PUBLIC_KEY}]},
        {"public_key": encode_base64_urlsafe(decode_base64(PUBLIC_KEY))},
        {
            "public_key": "junk",
            "public_keys": [3, {}, {"public_key": 3}, {"public_key": PUBLIC_KEY}],
        },
    ],
)
def test_any_key_of_the_invite_may_have_signed(offer: JsonObject) -> None:
    assert refusal(offer=offer) is None


def test_any_signature_may_match() -> None:
    signed = sign_json(SIGNED, "elsewhere.example", OTHER_KEY)

    assert refusal(signed=signed) is None


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_a_banned_user_is_not_invited(version_id: str) -> None:
    assert refusal(version_id, before="ban") == "member.third_party.banned"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize(
    "invite", [3, "text", [], {"display_name": "B"}, {"signed": 3}, {"signed": []}]
)
def test_attack_3_something_must_be_signed(version_id: str, invite: Any) -> None:
    assert refusal(version_id, invite=invite or [3]) == "member.third_party.signed"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize("missing", ["mxid", "token"])
@pytest.mark.parametrize("value", [None, 3, ["abc"]])
def test_attack_3_mxid_and_token_are_strings(version_id: str, missing: str, value: Any) -> None:
    assert refusal(version_id, signed=SIGNED | {missing: value}) == "member.third_party.signed"
    del (copy := dict(SIGNED))[missing]
    assert refusal(version_id, signed=copy) == "member.third_party.signed"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_the_invite_is_for_the_one_who_was_signed(version_id: str) -> None:
    assert refusal(version_id, signed=SIGNED | {"mxid": CAROL}) == "member.third_party.mxid"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_the_token_is_one_of_the_room(version_id: str) -> None:
    assert refusal(version_id, signed=SIGNED | {"token": "other"}) == "member.third_party.token"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
def test_attack_3_the_sender_is_the_one_who_offered(version_id: str) -> None:
    assert refusal(version_id, offer_sender=CAROL) == "member.third_party.sender"


@pytest.mark.parametrize("version_id", ALL_VERSIONS)
@pytest.mark.parametrize(
    ("signed", "offer"),
    [
        (SIGNED, {}),
        (SIGNED, {"public_key": OTHER_KEY.verify_key_base64}),
        (SIGNED, {"public_key": 3, "public_keys": {"public_key": PUBLIC_KEY}}),
        (SIGNED | {"extra": 1}, None),
        (SIGNED | {"signatures": None}, None),
        (SIGNED | {"signatures": {"id.example": [PUBLIC_KEY]}}, None),
        (SIGNED | {"signatures": {"id.example": {"ed25519:0": 3}}}, None),
        (SIGNED | {"signatures": {"id.example": {"rsa:0": "AAAA"}}}, None),
    ],
)
def test_attack_3_a_key_of_the_invite_must_have_signed(
    version_id: str, signed: JsonObject, offer: JsonObject | None
) -> None:
    assert refusal(version_id, signed=signed, offer=offer) == "member.third_party.signature"


def test_attack_5_the_number_of_signatures_tried_is_bounded() -> None:
    tried = membership_auth.MAX_SIGNATURE_CHECKS
    junk = {f"ed25519:{number:03}": "AAAA" for number in range(tried)}
    signatures: Any = {"a.example": junk} | SIGNED["signatures"]  # type: ignore[operator]  # an object

    assert refusal(signed=SIGNED | {"signatures": signatures}) == "member.third_party.signature"
    del junk["ed25519:000"]
    assert refusal(signed=SIGNED | {"signatures": signatures}) is None
