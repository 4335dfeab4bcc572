"""Key objects a hostile server makes up are refused; pure, no server."""

import copy

import pytest

from agent_bridge.matrix.cross_signing import PrivateKey, add_signature
from agent_bridge.matrix.device_keys import (
    DeviceChain,
    Usage,
    parse_cross_signing_key,
    parse_device_keys,
    parse_public_key,
    verify_device_chain,
)
from agent_bridge.matrix.errors import KeysRefused
from agent_bridge.matrix.json_fields import object_in
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.signing import SigningKey, encode_base64, sign_json

ALICE = UserID("@alice:hostile.test")
EVE = UserID("@eve:hostile.test")
PHONE = DeviceID("PHONE")
CURVE = encode_base64(b"c" * 32)

MASTER = PrivateKey("master", b"m" * 32)
SELF_SIGNING = PrivateKey("self_signing", b"s" * 32)
OTHER = PrivateKey("master", b"o" * 32)


def make_device(
    seed: bytes = b"d" * 32, user_id: UserID = ALICE, device_id: DeviceID = PHONE
) -> JsonObject:
    key = PrivateKey("master", seed)
    raw: JsonObject = {
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": {f"ed25519:{device_id}": key.public_key, f"curve25519:{device_id}": CURVE},
    }
    signed = add_signature(raw, user_id, key)
    signatures = object_in(signed, "signatures")
    by_user = object_in(signatures, user_id)
    by_user[f"ed25519:{device_id}"] = by_user.pop(f"ed25519:{key.public_key}")
    return signed


def make_key(
    key: PrivateKey, usage: Usage, signer: PrivateKey | None, user_id: UserID = ALICE
) -> JsonObject:
    raw: JsonObject = {
        "user_id": user_id,
        "usage": [usage],
        "keys": {f"ed25519:{key.public_key}": key.public_key},
    }
    return raw if signer is None else add_signature(raw, user_id, signer)


def sign_also(raw: JsonObject, key: PrivateKey, user_id: UserID = ALICE) -> JsonObject:
    signed = copy.deepcopy(raw)
    new = object_in(object_in(add_signature(raw, user_id, key), "signatures"), user_id)
    object_in(object_in(signed, "signatures"), user_id).update(new)
    return signed


def make_chain(
    *, device: JsonObject | None = None, self_signing: JsonObject | None = None
) -> DeviceChain:
    return DeviceChain(
        device_keys=device or sign_also(make_device(), SELF_SIGNING),
        master_key=make_key(MASTER, "master", None),
        self_signing_key=self_signing or make_key(SELF_SIGNING, "self_signing", MASTER),
    )


def test_a_true_chain_proves_the_device() -> None:
    device = verify_device_chain(make_chain(), ALICE, MASTER.public_key)

    assert (device.device_id, device.curve25519) == (PHONE, CURVE)


def test_a_chain_is_no_proof_for_another_master_key() -> None:
    with pytest.raises(KeysRefused, match="not the expected one"):
        verify_device_chain(make_chain(), ALICE, OTHER.public_key)


def test_a_chain_is_no_proof_for_another_user() -> None:
    with pytest.raises(KeysRefused, match="names another user"):
        verify_device_chain(make_chain(), EVE, MASTER.public_key)


def test_a_device_only_it_signed_itself_has_no_chain() -> None:
    with pytest.raises(KeysRefused, match="no valid signature"):
        verify_device_chain(make_chain(device=make_device()), ALICE, MASTER.public_key)


def test_a_self_signing_key_signed_by_a_strange_master_key_is_refused() -> None:
    chain = make_chain(self_signing=make_key(SELF_SIGNING, "self_signing", OTHER))

    with pytest.raises(KeysRefused, match="no valid signature"):
        verify_device_chain(chain, ALICE, MASTER.public_key)


def test_a_user_signing_key_cannot_stand_in_for_a_self_signing_key() -> None:
    chain = make_chain(self_signing=make_key(SELF_SIGNING, "user_signing", MASTER))

    with pytest.raises(KeysRefused, match="another usage"):
        verify_device_chain(chain, ALICE, MASTER.public_key)


def test_the_master_key_cannot_stand_in_for_a_self_signing_key() -> None:
    chain = make_chain(
        device=sign_also(make_device(), MASTER),
        self_signing=make_key(MASTER, "self_signing", MASTER),
    )

    with pytest.raises(KeysRefused, match="master key itself"):
        verify_device_chain(chain, ALICE, MASTER.public_key)


@pytest.mark.parametrize("imitated", [MASTER, SELF_SIGNING])
def test_a_device_named_like_a_cross_signing_key_is_refused(imitated: PrivateKey) -> None:
    device = make_device(imitated.seed, device_id=DeviceID(imitated.public_key))
    chain = make_chain(device=sign_also(device, SELF_SIGNING))

    with pytest.raises(KeysRefused, match="imitates"):
        verify_device_chain(chain, ALICE, MASTER.public_key)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algorithms", ["m.none"]),
        ("user_id", EVE),
        ("device_id", "LAPTOP"),
        ("keys", {"ed25519:PHONE": OTHER.public_key, "curve25519:PHONE": CURVE}),
        ("signatures", {}),
        ("signatures", {ALICE: {"ed25519:PHONE": encode_base64(bytes(64))}}),
        ("signatures", {ALICE: {"ed25519:PHONE": 7}}),
        ("keys", "none"),
    ],
)
def test_device_keys_the_server_changed_are_refused(field: str, value: object) -> None:
    raw = make_device()
    raw[field] = value  # type: ignore[assignment]  # any JSON

    with pytest.raises(KeysRefused):
        parse_device_keys(raw, ALICE, PHONE)


def test_another_curve25519_key_breaks_the_devices_own_signature() -> None:
    raw = make_device()
    object_in(raw, "keys")["curve25519:PHONE"] = encode_base64(b"e" * 32)

    with pytest.raises(KeysRefused, match="no valid signature"):
        parse_device_keys(raw, ALICE, PHONE)


def test_what_stands_in_unsigned_is_not_covered_by_the_signature() -> None:
    raw = make_device()
    raw["unsigned"] = {"device_display_name": "Phone"}

    assert parse_device_keys(raw, ALICE, PHONE).device_id == PHONE


@pytest.mark.parametrize(
    "text",
    [
        encode_base64(b"k" * 31),
        encode_base64(b"k" * 33),
        encode_base64(b"k" * 32) + "=",
        encode_base64(b"k" * 32)[:-1] + "t",
        "-" * 43,
        "",
        None,
        5,
    ],
)
def test_a_key_has_exactly_one_spelling(text: str | int | None) -> None:
    with pytest.raises(KeysRefused):
        parse_public_key(text)


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)])
def test_a_small_order_key_signs_nothing(point: bytes) -> None:
    raw = make_device()
    object_in(raw, "keys")["ed25519:PHONE"] = encode_base64(point)
    raw["signatures"] = {ALICE: {"ed25519:PHONE": encode_base64(point + bytes(32))}}

    with pytest.raises(KeysRefused, match="no valid signature"):
        parse_device_keys(raw, ALICE, PHONE)


def test_a_cross_signing_key_whose_id_is_not_its_key_is_refused() -> None:
    raw = make_key(MASTER, "master", None)
    raw["keys"] = {f"ed25519:{OTHER.public_key}": MASTER.public_key}

    with pytest.raises(KeysRefused, match="key id"):
        parse_cross_signing_key(raw, ALICE, "master")


def test_a_cross_signing_object_with_two_keys_is_refused() -> None:
    raw = make_key(MASTER, "master", None)
    object_in(raw, "keys")[f"ed25519:{OTHER.public_key}"] = OTHER.public_key

    with pytest.raises(KeysRefused, match="exactly one"):
        parse_cross_signing_key(raw, ALICE, "master")


def test_our_signatures_are_those_of_the_reference_library() -> None:
    raw: JsonObject = {"b": [1, "ü"], "a": {"z": None}}
    reference = SigningKey("ed25519:x", MASTER.seed)

    signed = add_signature(raw, ALICE, MASTER)

    ours = object_in(object_in(signed, "signatures"), ALICE)[f"ed25519:{MASTER.public_key}"]
    theirs = object_in(object_in(sign_json(raw, ALICE, reference), "signatures"), ALICE)
    assert ours == theirs["ed25519:x"]
