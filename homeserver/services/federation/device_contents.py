"""What other servers say of their users' devices and keys, read with care.

spec: server-server-api/#device-management, #end-to-end-encryption, v1.19. Signatures of devices are
for clients to verify, as for local ones; here keys must have the form of keys and the right owner.
Invariant: a key that has not is left out, and the others are not.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from homeserver.core.errors import CoreError
from homeserver.core.identifiers import DeviceID, ServerName, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import BadJSON, MatrixError
from homeserver.services.federation.edu_contents import (
    get_device_id,
    get_display_name,
    get_number,
    get_user_of,
    is_number,
)
from homeserver.services.key_lists import MASTER, SELF_SIGNING
from homeserver.services.key_objects import (
    CrossSigningUpload,
    parse_cross_signing_key,
    parse_device_keys,
)
from homeserver.storage.remote_devices import RemoteDevice

logger = logging.getLogger(__name__)

MAX_DEVICES = 1_000
"""Of one user; further ones are left out."""
_MAX_PREVIOUS = 20


@dataclass(frozen=True, slots=True)
class DeviceUpdate:
    """A change of one device."""

    user_id: UserID
    device_id: DeviceID
    stream_id: int
    prev_ids: Collection[int]
    device: RemoteDevice | None
    """None: it is gone, or has no keys."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a user's devices and keys."""

    stream_id: int
    devices: dict[DeviceID, RemoteDevice]
    keys: dict[str, CrossSigningUpload]
    """Cross-signing keys by usage."""


def parse_device_update(origin: ServerName, content: JsonObject) -> DeviceUpdate:
    """Raises BadJSON, IdentifierInvalid, Forbidden."""
    user_id = get_user_of(origin, content)
    device_id = get_device_id(content)
    previous = content.get("prev_id", [])
    if not isinstance(previous, list) or not all(is_number(entry) for entry in previous):
        raise BadJSON("prev_id must be a list of numbers")
    if len(previous) > _MAX_PREVIOUS:
        raise BadJSON(f"prev_id has at most {_MAX_PREVIOUS} entries")
    device = None
    if content.get("deleted") is not True:
        device = _parse_device(user_id, device_id, content)
    return DeviceUpdate(
        user_id,
        device_id,
        get_number(content, "stream_id"),
        [entry for entry in previous if isinstance(entry, int)],
        device,
    )


def parse_snapshot(user_id: UserID, answer: JsonObject) -> Snapshot:
    """Return what makes sense of an answer of getUserDevices. Raises BadJSON if nothing does."""
    entries = answer.get("devices")
    if answer.get("user_id") != user_id or not isinstance(entries, list):
        raise BadJSON("the answer is not a list of this user's devices")
    devices: dict[DeviceID, RemoteDevice] = {}
    for entry in entries[:MAX_DEVICES]:
        if not isinstance(entry, dict):
            continue
        try:
            device_id = get_device_id(entry)
        except BadJSON as error:
            logger.info("Device left out user=%s: %s", user_id, error)
            continue
        device = _parse_device(user_id, device_id, entry)
        if device is not None:
            devices[device_id] = device
    keys = parse_signing_keys(user_id, answer)
    return Snapshot(get_number(answer, "stream_id"), devices, keys)


def parse_signing_keys(user_id: UserID, content: JsonObject) -> dict[str, CrossSigningUpload]:
    """Return the cross-signing keys of `master_key` and `self_signing_key` by usage."""
    found = {}
    for usage in (MASTER, SELF_SIGNING):
        key = parse_signing_key(user_id, usage, content.get(f"{usage}_key"))
        if key is not None:
            found[usage] = key
    return found


def parse_signing_key(user_id: UserID, usage: str, key: JsonValue) -> CrossSigningUpload | None:
    if not isinstance(key, dict):
        return None
    try:
        return parse_cross_signing_key(key, usage, user_id)
    except (CoreError, MatrixError) as error:
        logger.info("Cross-signing key left out user=%s: %s", user_id, error)
        return None


def parse_keys_of(user_id: UserID, device_id: DeviceID, keys: JsonValue) -> bytes | None:
    """Return the canonical JSON of a device's keys; None: there are none that are any good."""
    if not isinstance(keys, dict):
        return None
    try:
        return parse_device_keys(keys, user_id, device_id)
    except (CoreError, MatrixError) as error:
        logger.info("Keys of a device left out user=%s: %s", user_id, error)
        return None


def _parse_device(user_id: UserID, device_id: DeviceID, content: JsonObject) -> RemoteDevice | None:
    keys = parse_keys_of(user_id, device_id, content.get("keys"))
    if keys is None:
        return None
    return RemoteDevice(device_id, keys, get_display_name(content, "device_display_name"))
