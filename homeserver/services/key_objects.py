"""Keys as clients send them: checked for form and owner, then kept as canonical JSON.

spec: client-server-api/#key-algorithms, #device-keys, #cross-signing, v1.19
Invariant: what passes here is what its owner signed but for `unsigned`, belongs to the user it
names, and can be signed (it is canonical JSON). Signatures of devices are for clients to verify.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.core.canonical_json import decode_json, encode_canonical_json
from homeserver.core.errors import JsonInvalid, SignatureInvalid
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.signing import PUBLIC_KEY_BYTES, decode_base64, verify_signed_json
from homeserver.errors import BadJSON, Forbidden, InvalidParam, TooLarge
from homeserver.storage.one_time_keys import Key

MAX_KEY_BYTES = 65_536
MAX_ONE_TIME_KEY_BYTES = 8_192
_MAX_NAME_LETTERS = 255


@dataclass(frozen=True, slots=True)
class CrossSigningUpload:
    usage: str
    public_key: str
    key: JsonObject


def load_object(stored: bytes) -> JsonObject:
    value = decode_json(stored)
    assert isinstance(value, dict), "only objects are stored"
    return value


def without_signatures(keys: JsonObject) -> JsonObject:
    """What signatures of the object are over."""
    return {name: value for name, value in keys.items() if name not in ("signatures", "unsigned")}


def signatures_by(keys: JsonObject, user_id: UserID) -> dict[str, str]:
    """Return key id -> signature, leaving out what is none."""
    signatures = keys.get("signatures")
    by_user = signatures.get(user_id) if isinstance(signatures, dict) else None
    if not isinstance(by_user, dict):
        return {}
    return {name: value for name, value in by_user.items() if isinstance(value, str)}


def parse_device_keys(keys: JsonObject, user_id: UserID, device_id: DeviceID) -> bytes:
    """Raises BadJSON, TooLarge; InvalidParam for keys of another user or device."""
    named_user, named_device = keys.get("user_id"), keys.get("device_id")
    if not isinstance(named_user, str) or not isinstance(named_device, str):
        raise BadJSON("device_keys.user_id and device_keys.device_id must be strings")
    if named_user != user_id or named_device != device_id:
        raise InvalidParam("device_keys are not those of the device that sends them")
    algorithms = keys.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(a, str) for a in algorithms):
        raise BadJSON("device_keys.algorithms must be a list of strings")
    if not _is_map_of_strings(keys.get("keys")):
        raise BadJSON("device_keys.keys must be an object of strings")
    _check_signatures(keys.get("signatures"), "device_keys")
    return _encode(keys, "device_keys", MAX_KEY_BYTES)


def parse_one_time_keys(keys: Mapping[str, JsonValue], field: str) -> list[Key]:
    """Raises BadJSON, TooLarge."""
    parsed = []
    for name, key in keys.items():
        algorithm, colon, key_id = name.partition(":")
        if not colon or not algorithm or not key_id or "\0" in name:
            raise BadJSON(f"{field}: a key is named algorithm:key_id")
        if len(name) > _MAX_NAME_LETTERS:
            raise BadJSON(f"{field}: a key's name has at most {_MAX_NAME_LETTERS} characters")
        if isinstance(key, dict):
            if not isinstance(key.get("key"), str):
                raise BadJSON(f"{field}.{name}.key must be a string")
            _check_signatures(key.get("signatures"), f"{field}.{name}")
        elif not isinstance(key, str) or algorithm.startswith("signed_"):
            raise BadJSON(f"{field}.{name} must be an object with key and signatures")
        parsed.append(Key(algorithm, key_id, _encode(key, name, MAX_ONE_TIME_KEY_BYTES)))
    return parsed


def parse_cross_signing_key(key: JsonObject, usage: str, user_id: UserID) -> CrossSigningUpload:
    """Raises BadJSON, TooLarge; Forbidden for a key of another user."""
    field = f"{usage}_key"
    owner, usages, public = key.get("user_id"), key.get("usage"), key.get("keys")
    if not isinstance(owner, str):
        raise BadJSON(f"{field}.user_id must be a string")
    if owner != user_id:
        raise Forbidden(f"{field} is not a key of the user who sends it")
    if not isinstance(usages, list) or usage not in usages:
        raise BadJSON(f"{field}.usage must be a list that holds {usage}")
    if not isinstance(public, dict) or len(public) != 1:
        raise BadJSON(f"{field}.keys must hold exactly one key")
    ((key_id, public_key),) = public.items()
    if not isinstance(public_key, str) or key_id != f"ed25519:{public_key}":
        raise BadJSON(f"{field}.keys must map ed25519:PUBLIC_KEY to PUBLIC_KEY")
    try:
        has_length = len(decode_base64(public_key)) == PUBLIC_KEY_BYTES
    except ValueError:
        has_length = False
    if not has_length or public_key.endswith("="):
        raise BadJSON(f"{field}.keys must hold 32 bytes in unpadded base64")
    if key.get("signatures") is not None:
        _check_signatures(key["signatures"], field)
    _encode(key, field, MAX_KEY_BYTES)
    return CrossSigningUpload(usage, public_key, key)


def encode_key(key: JsonObject) -> bytes:
    """Canonical JSON of a key that was parsed here, as it is stored."""
    return encode_canonical_json({k: v for k, v in key.items() if k != "unsigned"})


def is_signed_by(key: JsonObject, user_id: UserID, signer_key: str, verify_key: str) -> bool:
    try:
        verify_signed_json(key, user_id, f"ed25519:{signer_key}", verify_key)
    except SignatureInvalid:
        return False
    return True


def _encode(key: JsonValue, name: str, limit: int) -> bytes:
    if isinstance(key, dict):
        key = {k: v for k, v in key.items() if k != "unsigned"}
    try:
        encoded = encode_canonical_json(key)
    except JsonInvalid as error:
        raise BadJSON(f"{name} is not canonical JSON: {error}") from error
    if len(encoded) > limit:
        raise TooLarge(f"{name} is larger than {limit} bytes")
    return encoded


def _check_signatures(signatures: JsonValue, name: str) -> None:
    if not isinstance(signatures, dict) or not all(
        _is_map_of_strings(by_user) for by_user in signatures.values()
    ):
        raise BadJSON(f"{name}.signatures must be an object of objects of strings")


def _is_map_of_strings(value: JsonValue) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
