"""Device keys and cross-signing keys as signed objects, and the chain from one to the other.

spec: client-server-api/#device-keys, client-server-api/#cross-signing, v1.19
Invariant: a value of a class here exists only after its signatures were checked over the raw
object; keys are compared as key text in its one canonical form, never by key id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agent_bridge.matrix.errors import KeysRefused
from agent_bridge.matrix.json_fields import find_text, object_in, texts_in
from homeserver.core.errors import SignatureInvalid
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.signing import decode_base64, encode_base64, verify_signed_json

OLM = "m.olm.v1.curve25519-aes-sha2"
MEGOLM = "m.megolm.v1.aes-sha2"

Usage = Literal["master", "self_signing", "user_signing"]

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class DeviceKeys:
    """A device's identity keys, signed by the device itself."""

    user_id: UserID
    device_id: DeviceID
    ed25519: str
    curve25519: str
    algorithms: tuple[str, ...]
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class CrossSigningKey:
    user_id: UserID
    usage: Usage
    public_key: str
    raw: JsonObject


@dataclass(frozen=True, slots=True)
class Identity:
    """A master key and the keys it signed; a subordinate key it did not sign is None."""

    master: CrossSigningKey
    self_signing: CrossSigningKey | None
    user_signing: CrossSigningKey | None


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """The raw objects that prove a device to whoever knows the user's master key."""

    device_keys: JsonObject
    master_key: JsonObject
    self_signing_key: JsonObject


@dataclass(frozen=True, slots=True)
class UserKeys:
    """Everything known of a user's keys, raw and signature-checked."""

    master_key: JsonObject | None
    self_signing_key: JsonObject | None
    user_signing_key: JsonObject | None
    devices: Mapping[DeviceID, JsonObject]
    revoked: frozenset[DeviceID]


def parse_public_key(text: JsonValue) -> str:
    """Accept 32 bytes in canonical unpadded base64 only: one key, one spelling."""
    if not isinstance(text, str):
        raise KeysRefused("a key is not text")
    try:
        key = decode_base64(text)
    except ValueError as error:
        raise KeysRefused("a key is not unpadded base64") from error
    if len(key) != _KEY_BYTES or encode_base64(key) != text:
        raise KeysRefused("a key is not 32 bytes in canonical base64")
    return text


def check_signature(raw: JsonObject, user_id: UserID, key_id: str, public_key: str) -> None:
    """Raise KeysRefused unless the object carries user_id's valid signature by this key."""
    try:
        verify_signed_json(raw, user_id, f"ed25519:{key_id}", public_key)
    except (SignatureInvalid, ValueError) as error:
        raise KeysRefused(f"no valid signature of {user_id} by ed25519:{key_id}") from error


def parse_device_keys(raw: JsonObject, user_id: UserID, device_id: DeviceID) -> DeviceKeys:
    """Check a device keys object against whom it is said to belong to. Raises KeysRefused."""
    if find_text(raw, "user_id") != user_id or find_text(raw, "device_id") != device_id:
        raise KeysRefused(f"device keys of {user_id} {device_id} name another user or device")
    keys = object_in(raw, "keys")
    ed25519 = parse_public_key(keys.get(f"ed25519:{device_id}"))
    curve25519 = parse_public_key(keys.get(f"curve25519:{device_id}"))
    check_signature(raw, user_id, device_id, ed25519)
    algorithms = tuple(texts_in(raw, "algorithms"))
    return DeviceKeys(user_id, device_id, ed25519, curve25519, algorithms, raw)


def parse_cross_signing_key(raw: JsonObject, user_id: UserID, usage: Usage) -> CrossSigningKey:
    """Check form, owner and usage; whose signature it needs depends on the usage, see Identity."""
    if find_text(raw, "user_id") != user_id:
        raise KeysRefused(f"{usage} key of {user_id} names another user")
    if raw.get("usage") != [usage]:
        raise KeysRefused(f"{usage} key of {user_id} has another usage")
    keys = object_in(raw, "keys")
    if len(keys) != 1:
        raise KeysRefused(f"{usage} key of {user_id} does not hold exactly one key")
    ((key_id, value),) = keys.items()
    public_key = parse_public_key(value)
    if key_id != f"ed25519:{public_key}":
        raise KeysRefused(f"{usage} key of {user_id} has a key id that is not its key")
    return CrossSigningKey(user_id, usage, public_key, raw)


def parse_subordinate_key(
    raw: JsonObject, usage: Usage, master: CrossSigningKey
) -> CrossSigningKey:
    """Check a self-signing or user-signing key and the master key's signature on it."""
    key = parse_cross_signing_key(raw, master.user_id, usage)
    if key.public_key == master.public_key:
        raise KeysRefused(f"{usage} key of {master.user_id} is the master key itself")
    check_signature(raw, master.user_id, master.public_key, master.public_key)
    return key


def is_signed_by(raw: JsonObject, signer: CrossSigningKey) -> bool:
    try:
        check_signature(raw, signer.user_id, signer.public_key, signer.public_key)
    except KeysRefused:
        return False
    return True


def check_device_signed(device: DeviceKeys, identity: Identity) -> None:
    """Raise KeysRefused unless the identity's self-signing key signed the device.

    A device that is named like one of the cross-signing keys is refused: its own signature would
    stand under the key id of the key it imitates.
    """
    signing_key = identity.self_signing
    if signing_key is None:
        raise KeysRefused(f"{device.user_id} has no self-signing key")
    reserved = {signing_key.public_key, identity.master.public_key}
    if identity.user_signing is not None:
        reserved.add(identity.user_signing.public_key)
    if device.device_id in reserved or device.ed25519 in reserved:
        raise KeysRefused(f"device {device.device_id} imitates a cross-signing key")
    if signing_key.user_id != device.user_id:
        raise KeysRefused("device and self-signing key belong to different users")
    check_signature(device.raw, device.user_id, signing_key.public_key, signing_key.public_key)


def verify_device_chain(chain: DeviceChain, user_id: UserID, master_key: str) -> DeviceKeys:
    """Prove a device from its user's master key alone, without a server.

    1. The master key object holds exactly master_key.  2. It signed the self-signing key.
    3. The device signed its keys.  4. The self-signing key signed them too.
    Raises KeysRefused.
    """
    master = parse_cross_signing_key(chain.master_key, user_id, "master")  # 1
    if master.public_key != master_key:
        raise KeysRefused(f"the master key of {user_id} is not the expected one")
    self_signing = parse_subordinate_key(chain.self_signing_key, "self_signing", master)  # 2
    device_id = DeviceID(find_text(chain.device_keys, "device_id") or "")
    device = parse_device_keys(chain.device_keys, user_id, device_id)  # 3
    check_device_signed(device, Identity(master, self_signing, None))  # 4
    return device
