"""Whose devices we know, which of them are proven, and which users we must ask about again.

spec: client-server-api/#tracking-the-device-list-for-a-user, #cross-signing, v1.19
Invariant: a homeserver can hide keys from us but not change them: a device keeps the keys it was
first seen with, a device that has gone does not come back, and a new master key does not inherit
the trust of the one before it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from agent_bridge.matrix.device_keys import (
    CrossSigningKey,
    DeviceChain,
    DeviceKeys,
    Identity,
    UserKeys,
    check_device_signed,
    is_signed_by,
    parse_cross_signing_key,
    parse_device_keys,
    parse_public_key,
    parse_subordinate_key,
)
from agent_bridge.matrix.errors import KeysRefused
from agent_bridge.matrix.events import CryptoProblem, DeviceTrust, SenderDevice
from agent_bridge.matrix.json_fields import find_object, object_in
from agent_bridge.matrix.store import SqlValue, Store, blob, integer, text
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class KnownDevice:
    keys: DeviceKeys
    revoked: bool


class DeviceLists:
    """The tables tracked_users, devices, identities and pins."""

    def __init__(self, store: Store, own_user: UserID, own_device: DeviceID) -> None:
        self._store = store
        self._own_user = own_user
        self._own_device = own_device

    # Which users to ask about

    def track(self, users: Iterable[UserID]) -> None:
        """Follow these users' devices from now on; new ones are outdated until asked about."""
        self._store.execute_many(
            "INSERT INTO tracked_users (user_id, outdated) VALUES (?, 1) ON CONFLICT DO NOTHING",
            [(user_id,) for user_id in users],
        )

    def mark_outdated(self, users: Iterable[UserID]) -> None:
        """Note that tracked users' devices changed; others are not our business."""
        self._store.execute_many(
            "UPDATE tracked_users SET outdated ="
            " (SELECT max(outdated) + 1 FROM tracked_users) WHERE user_id = ?",
            [(user_id,) for user_id in users],
        )

    def untrack(self, users: Iterable[UserID]) -> None:
        """Forget to follow users; their keys and pins stay, so that they cannot be swapped."""
        self._store.execute_many(
            "DELETE FROM tracked_users WHERE user_id = ?",
            [(user_id,) for user_id in users if user_id != self._own_user],
        )

    def list_outdated(self) -> dict[UserID, int]:
        """Return the users to ask about, with the generation that apply_answer() must be given."""
        rows = self._store.rows("SELECT user_id, outdated FROM tracked_users WHERE outdated > 0")
        return {UserID(text(user_id)): integer(outdated) for user_id, outdated in rows}

    def is_fresh(self, user_id: UserID) -> bool:
        row = self._store.find_row("SELECT outdated FROM tracked_users WHERE user_id = ?", user_id)
        return row is not None and row[0] == 0

    # What the server answers

    def apply_answer(self, answer: JsonObject, asked: Mapping[UserID, int]) -> list[CryptoProblem]:
        """Take in an answer of /keys/query and return what was wrong with it.

        1. A user the server says nothing about stays outdated.  2. Objects that fail their checks
        are reported and change nothing.  3. Devices no longer listed are revoked.  4. A user
        marked outdated again while we asked stays so.
        """
        problems: list[CryptoProblem] = []
        with self._store.transaction():
            for user_id, generation in asked.items():
                listed = find_object(object_in(answer, "device_keys"), user_id)
                if listed is None:  # 1
                    continue
                self._apply_identity(user_id, answer, problems)
                for device_id, raw in listed.items():
                    try:
                        self._apply_device(user_id, DeviceID(device_id), raw, problems)
                    except KeysRefused as error:  # 2
                        problems.append(CryptoProblem("keys_refused", user_id, str(error)))
                self._revoke_unlisted(user_id, listed)  # 3
                self._store.execute(  # 4
                    "UPDATE tracked_users SET outdated = 0 WHERE user_id = ? AND outdated = ?",
                    user_id,
                    generation,
                )
        return problems

    def _apply_device(
        self, user_id: UserID, device_id: DeviceID, raw: object, problems: list[CryptoProblem]
    ) -> None:
        if not isinstance(raw, dict):
            raise KeysRefused(f"device {device_id} is not an object")
        raw.pop("unsigned", None)
        device = parse_device_keys(raw, user_id, device_id)
        known = self.find_device(user_id, device_id)
        if known is not None and known.revoked:
            problems.append(
                CryptoProblem("device_revoked", user_id, f"device {device_id} is listed again")
            )
            return
        if known is not None and (
            known.keys.ed25519 != device.ed25519 or known.keys.curve25519 != device.curve25519
        ):
            problems.append(
                CryptoProblem("device_changed", user_id, f"device {device_id} has other keys")
            )
            return
        self._put_device(device)

    def _put_device(self, device: DeviceKeys) -> None:
        self._store.execute(
            "INSERT INTO devices (user_id, device_id, ed25519, curve25519, keys)"
            " VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (user_id, device_id) DO UPDATE SET keys = excluded.keys",
            device.user_id,
            device.device_id,
            device.ed25519,
            device.curve25519,
            orjson.dumps(device.raw),
        )

    def put_own_device(self, raw: JsonObject) -> None:
        """Store our own device as we made it, so that no answer can put another in its place."""
        self._put_device(parse_device_keys(raw, self._own_user, self._own_device))

    def _revoke_unlisted(self, user_id: UserID, listed: JsonObject) -> None:
        for device in self.list_devices(user_id):
            device_id = device.keys.device_id
            is_own = user_id == self._own_user and device_id == self._own_device
            if device_id not in listed and not is_own:
                self._store.execute(
                    "UPDATE devices SET revoked = 1 WHERE user_id = ? AND device_id = ?",
                    user_id,
                    device_id,
                )

    def _apply_identity(
        self, user_id: UserID, answer: JsonObject, problems: list[CryptoProblem]
    ) -> None:
        """Store the served cross-signing keys that hold; those not served stay as they are."""
        served = find_object(object_in(answer, "master_keys"), user_id)
        if served is None:
            return
        known = self.find_identity(user_id)
        try:
            master = parse_cross_signing_key(served, user_id, "master")
            same = known is not None and known.master.public_key == master.public_key
            self_signing = known.self_signing if known is not None and same else None
            user_signing = known.user_signing if known is not None and same else None
            if raw := find_object(object_in(answer, "self_signing_keys"), user_id):
                self_signing = parse_subordinate_key(raw, "self_signing", master)
            if raw := find_object(object_in(answer, "user_signing_keys"), user_id):
                user_signing = parse_subordinate_key(raw, "user_signing", master)
        except KeysRefused as error:
            problems.append(CryptoProblem("keys_refused", user_id, str(error)))
            return
        self.put_identity(Identity(master, self_signing, user_signing))

    def put_identity(self, identity: Identity) -> None:
        """Store checked keys; the first master key of a user becomes the one first seen."""
        master, self_signing = identity.master, identity.self_signing
        self._store.execute(
            "INSERT OR REPLACE INTO identities"
            " (user_id, master_key, master, self_signing, user_signing) VALUES (?, ?, ?, ?, ?)",
            master.user_id,
            master.public_key,
            orjson.dumps(master.raw),
            None if self_signing is None else orjson.dumps(self_signing.raw),
            None if identity.user_signing is None else orjson.dumps(identity.user_signing.raw),
        )
        self._store.execute(
            "INSERT INTO pins (user_id, master_key, explicit) VALUES (?, ?, 0)"
            " ON CONFLICT DO NOTHING",
            master.user_id,
            master.public_key,
        )

    # Pins

    def pin(self, user_id: UserID, master_key: str) -> None:
        """Take a master key given out of band as the user's; it replaces the one first seen."""
        self._store.execute(
            "INSERT OR REPLACE INTO pins (user_id, master_key, explicit) VALUES (?, ?, 1)",
            user_id,
            parse_public_key(master_key),
        )

    def find_pin(self, user_id: UserID) -> tuple[str | None, bool]:
        """Return the master key pinned or first seen, and whether it was pinned."""
        row = self._store.find_row(
            "SELECT master_key, explicit FROM pins WHERE user_id = ?", user_id
        )
        return (None, False) if row is None else (text(row[0]), row[1] == 1)

    def list_identity_changes(self) -> list[UserID]:
        """Return the users whose master key is now another than the one pinned or first seen."""
        rows = self._store.rows(
            "SELECT i.user_id FROM identities i JOIN pins p ON p.user_id = i.user_id"
            " WHERE p.master_key <> i.master_key ORDER BY i.user_id"
        )
        return [UserID(text(user_id)) for (user_id,) in rows]

    # What we know

    def find_identity(self, user_id: UserID) -> Identity | None:
        row = self._store.find_row(
            "SELECT master, self_signing, user_signing FROM identities WHERE user_id = ?", user_id
        )
        if row is None:
            return None
        master = parse_cross_signing_key(_json(row[0]), user_id, "master")
        return Identity(
            master,
            None
            if row[1] is None
            else parse_subordinate_key(_json(row[1]), "self_signing", master),
            None
            if row[2] is None
            else parse_subordinate_key(_json(row[2]), "user_signing", master),
        )

    def find_device(self, user_id: UserID, device_id: DeviceID) -> KnownDevice | None:
        row = self._store.find_row(
            "SELECT device_id, keys, revoked FROM devices WHERE user_id = ? AND device_id = ?",
            user_id,
            device_id,
        )
        return None if row is None else _known_device(user_id, row)

    def find_device_by_keys(
        self, user_id: UserID, curve25519: str, ed25519: str
    ) -> KnownDevice | None:
        row = self._store.find_row(
            "SELECT device_id, keys, revoked FROM devices"
            " WHERE curve25519 = ? AND user_id = ? AND ed25519 = ? ORDER BY revoked DESC",
            curve25519,
            user_id,
            ed25519,
        )
        return None if row is None else _known_device(user_id, row)

    def list_devices(self, user_id: UserID) -> list[KnownDevice]:
        rows = self._store.rows(
            "SELECT device_id, keys, revoked FROM devices WHERE user_id = ?", user_id
        )
        return [_known_device(user_id, row) for row in rows]

    def judge(self, device: KnownDevice | None) -> tuple[DeviceTrust, str | None]:
        """Return how far a device is proven and the master key at which its chain ends."""
        if device is None:
            return DeviceTrust.UNKNOWN, None
        if device.revoked:
            return DeviceTrust.REVOKED, None
        user_id = device.keys.user_id
        identity = self.find_identity(user_id)
        if identity is None:
            return DeviceTrust.UNSIGNED, None
        try:
            check_device_signed(device.keys, identity)
        except KeysRefused:
            return DeviceTrust.UNSIGNED, None
        return self._judge_master(identity.master), identity.master.public_key

    def _judge_master(self, master: CrossSigningKey) -> DeviceTrust:
        pinned, explicit = self.find_pin(master.user_id)
        if explicit:
            holds = pinned == master.public_key
            return DeviceTrust.VERIFIED if holds else DeviceTrust.IDENTITY_CHANGED
        own = self.find_identity(self._own_user)
        own_pin, own_explicit = self.find_pin(self._own_user)
        if (
            own is not None
            and own.user_signing is not None
            and own_explicit
            and own_pin == own.master.public_key
            and is_signed_by_other(master, own.user_signing)
        ):
            return DeviceTrust.VERIFIED
        if pinned != master.public_key:
            return DeviceTrust.IDENTITY_CHANGED
        return DeviceTrust.CROSS_SIGNED

    def describe_sender(self, user_id: UserID, curve25519: str, ed25519: str) -> SenderDevice:
        device = self.find_device_by_keys(user_id, curve25519, ed25519)
        trust, master_key = self.judge(device)
        return SenderDevice(
            user_id,
            None if device is None else device.keys.device_id,
            ed25519,
            curve25519,
            trust,
            master_key,
            self.is_fresh(user_id),
        )

    def key_objects(self, user_id: UserID) -> UserKeys:
        identity = self.find_identity(user_id)
        devices = self.list_devices(user_id)
        return UserKeys(
            None if identity is None else identity.master.raw,
            None if identity is None or not identity.self_signing else identity.self_signing.raw,
            None if identity is None or not identity.user_signing else identity.user_signing.raw,
            {device.keys.device_id: device.keys.raw for device in devices if not device.revoked},
            frozenset(device.keys.device_id for device in devices if device.revoked),
        )

    def find_chain(self, user_id: UserID, device_id: DeviceID) -> DeviceChain | None:
        device = self.find_device(user_id, device_id)
        identity = self.find_identity(user_id)
        _, master_key = self.judge(device)
        if device is None or identity is None or identity.self_signing is None or not master_key:
            return None
        return DeviceChain(device.keys.raw, identity.master.raw, identity.self_signing.raw)


def is_signed_by_other(master: CrossSigningKey, user_signing: CrossSigningKey) -> bool:
    return master.user_id != user_signing.user_id and is_signed_by(master.raw, user_signing)


def _known_device(user_id: UserID, row: tuple[SqlValue, ...]) -> KnownDevice:
    device_id, keys, revoked = row
    parsed = parse_device_keys(_json(keys), user_id, DeviceID(text(device_id)))
    return KnownDevice(parsed, revoked == 1)


def _json(value: SqlValue) -> JsonObject:
    decoded: JsonObject = orjson.loads(blob(value))
    return decoded
