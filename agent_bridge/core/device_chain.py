"""The way from a pinned master key to the device key that signed: two Matrix key objects.

spec: client-server-api/#cross-signing, v1.19. protocol: docs/cosign-protocol.md, section 6.
Invariant: each link is verified over strict canonical JSON with key bytes we already trust; key
ids only say where to look for a signature.
"""

from dataclasses import dataclass

from agent_bridge.core.base64_text import decode_matrix_base64
from agent_bridge.core.ed25519 import (
    PublicKey,
    check_signature,
    encode_public_key,
    parse_public_key,
)
from agent_bridge.core.payload import decode_payload, encode_payload
from agent_bridge.core.pins import Approver
from agent_bridge.core.refusals import Reason, Refused
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.json_types import JsonObject, JsonValue

_ALGORITHM = "ed25519:"


@dataclass(frozen=True)
class ChainLink:
    """The device a verified chain ends in."""

    user_id: str
    device_id: str
    device_key: PublicKey
    self_signing_key: PublicKey


def make_chain(self_signing_key: JsonObject, device_keys: JsonObject) -> bytes:
    """Pack the two objects of a `/keys/query` answer that a decision carries."""
    return encode_payload(
        {
            "self_signing_key": _without_unsigned(self_signing_key),
            "device_keys": _without_unsigned(device_keys),
        }
    )


def check_chain(chain: bytes, approver: Approver) -> ChainLink:
    """Verify pinned master key -> self-signing key -> device key.

    1. The self-signing key is this user's and only that; the pinned master key signed it.
    2. The device keys are this user's; the self-signing key and the device itself signed them.
    3. No key and no device id plays two parts.
    """
    value = decode_payload(chain)
    if value.keys() != {"self_signing_key", "device_keys"}:
        raise Refused(Reason.CHAIN_INVALID, "not exactly a self-signing key and device keys")
    signer, device = _object(value, "self_signing_key"), _object(value, "device_keys")
    # 1
    _check_user(signer, approver.user_id)
    if signer.get("usage") != ["self_signing"]:
        raise Refused(Reason.CHAIN_WRONG_USAGE, "not a self-signing key")
    signer_name, self_signing_key = _only_key(signer)
    if signer_name != encode_public_key(self_signing_key):
        raise Refused(Reason.CHAIN_INVALID, "a cross-signing key is not named by its bytes")
    _check_link(signer, approver.user_id, approver.master_key)
    # 2
    _check_user(device, approver.user_id)
    if "usage" in device:
        raise Refused(Reason.CHAIN_WRONG_USAGE, "a cross-signing key in the device's place")
    device_id, device_key = _only_key(device)
    if device.get("device_id") != device_id:
        raise Refused(Reason.CHAIN_INVALID, "the device key is named after another device")
    _check_link(device, approver.user_id, self_signing_key)
    _check_link(device, approver.user_id, device_key, name=device_id)
    # 3
    keys = {approver.master_key, self_signing_key, device_key}
    if len(keys) != 3 or device_id in {encode_public_key(key) for key in keys}:  # noqa: PLR2004  the three links
        raise Refused(Reason.CHAIN_KEY_REUSED)
    return ChainLink(approver.user_id, device_id, device_key, self_signing_key)


def _without_unsigned(value: JsonObject) -> JsonObject:
    return {key: item for key, item in value.items() if key != "unsigned"}


def _object(value: JsonObject, name: str) -> JsonObject:
    item = value.get(name)
    if not isinstance(item, dict):
        raise Refused(Reason.CHAIN_INVALID, f"{name} is not an object")
    return item


def _check_user(value: JsonObject, user_id: str) -> None:
    if value.get("user_id") != user_id:
        raise Refused(Reason.CHAIN_WRONG_USER)


def _only_key(value: JsonObject) -> tuple[str, PublicKey]:
    """Return the name after `ed25519:` and the bytes of an object's one Ed25519 key."""
    found = [
        (name.removeprefix(_ALGORITHM), text)
        for name, text in _object(value, "keys").items()
        if name.startswith(_ALGORITHM)
    ]
    if len(found) != 1:
        raise Refused(Reason.CHAIN_INVALID, f"{len(found)} Ed25519 keys instead of one")
    name, text = found[0]
    return name, parse_public_key(_text(text))


def _check_link(value: JsonObject, user_id: str, key: PublicKey, name: str | None = None) -> None:
    """Check that `key` signed the object; `name` is its key id when that is not its own bytes."""
    by_user = _object(value, "signatures").get(user_id)
    signature = (
        by_user.get(_ALGORITHM + (name or encode_public_key(key)))
        if isinstance(by_user, dict)
        else None
    )
    if signature is None:
        raise Refused(Reason.CHAIN_UNSIGNED)
    signed = {item: value[item] for item in value if item not in ("signatures", "unsigned")}
    try:
        check_signature(key, encode_canonical_json(signed), decode_matrix_base64(_text(signature)))
    except Refused as error:
        raise Refused(Reason.CHAIN_BROKEN, str(error)) from error


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise Refused(Reason.CHAIN_INVALID, "a key or signature is not a text")
    return value
