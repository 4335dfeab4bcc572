"""The approvers in force: the console's enrollments joined with the devices seen for them.

protocol: docs/cosign-protocol.md, sections 6 and 8. Invariant: a device joins only with a chain to
its owner's pinned master key bytes; a device or an approver that was taken away stays away until
the console enrolls again.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agent_bridge.core.ed25519 import PublicKey, encode_public_key, parse_public_key
from agent_bridge.core.pins import Approver, EnrolledDevice, Pins
from agent_bridge.core.refusals import Refused
from agent_bridge.gate.enrollment import Enrollment, read_enrollments
from agent_bridge.gate.state_directory import (
    StateDirectory,
    StateUnusable,
    file_version,
    read_json,
    write_json,
)
from agent_bridge.matrix import CrossSignedDevices, KeysRefused, MatrixClient, verify_device_chain
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject, JsonValue

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenDevice:
    key: PublicKey
    seen_at: int


@dataclass(frozen=True)
class _Record:
    """What the gate knows of one approver since the enrollment it belongs to."""

    enrolled_at: int
    devices: dict[str, SeenDevice] = field(default_factory=dict)
    is_frozen: bool = False


class Approvers:
    """Reads `approvers.json`, keeps `devices.json`."""

    def __init__(self, state: StateDirectory, client: MatrixClient) -> None:
        self._state = state
        self._client = client
        self._enrollments: dict[UserID, Enrollment] = {}
        self._records: dict[UserID, _Record] = _decode_records(read_json(state.devices))
        self._version: tuple[int, ...] | None = ()
        self._reload()

    @property
    def users(self) -> tuple[UserID, ...]:
        return tuple(self._enrollments)

    @property
    def share_policy(self) -> CrossSignedDevices:
        """Who may read what the gate says in the approvals room."""
        return CrossSignedDevices(
            {
                user_id: encode_public_key(one.master_key)
                for user_id, one in self._enrollments.items()
            }
        )

    def find(self, user_id: str) -> Enrollment | None:
        return self._enrollments.get(UserID(user_id))

    def is_frozen(self, user_id: str) -> bool:
        record = self._records.get(UserID(user_id))
        return record is not None and record.is_frozen

    def pins(self) -> Pins:
        """Return what is trusted now; removed devices are still in it, see `revoked_keys`."""
        gate_key = parse_public_key(self._client.ed25519_key)
        approvers = [self._approver(one) for one in self._enrollments.values()]
        return Pins(self._client.user_id, gate_key, tuple(approvers))

    def revoked_keys(self) -> frozenset[PublicKey]:
        """The keys of removed devices and everything of frozen approvers."""
        revoked: set[PublicKey] = set()
        for user_id, enrollment in self._enrollments.items():
            record = self._records[user_id]
            if record.is_frozen:
                revoked.add(enrollment.master_key)
            gone = self._client.key_objects(user_id).revoked
            revoked.update(
                device.key
                for device_id, device in record.devices.items()
                if record.is_frozen or device_id in gone
            )
        return frozenset(revoked)

    async def follow(self) -> None:
        """Ask the server about every approver's keys now. Raises MatrixFailure."""
        await self._client.refresh_devices(self.users)

    def update(self, now_ms: int, *, may_enroll: bool) -> tuple[UserID, ...]:
        """Take in what changed on disk and in the key lists; return who was frozen just now.

        1. Read the enrollments again and pin their master keys.  2. Freeze who is listed with
        another master key.  3. Enroll new devices whose chain ends at the pinned key.
        may_enroll   False while drafts wait: they keep the approver set they were made for
        """
        self._reload()  # 1
        before = dict(self._records)
        frozen = [user for user in self.users if self._has_other_master_key(user)]  # 2
        for user_id in frozen:
            self._records[user_id] = replace(self._records[user_id], is_frozen=True)
        if may_enroll:
            for user_id in self.users:
                self._enroll_devices(user_id, now_ms)  # 3
        if self._records != before:
            write_json(self._state.devices, _encode_records(self._records))
        return tuple(user for user in frozen if not before[user].is_frozen)

    def describe(self) -> list[JsonValue]:
        """For people: `gate status`."""
        return [
            {
                "user_id": user_id,
                "master_key": encode_public_key(enrollment.master_key),
                "max_tier": enrollment.max_tier.name,
                "devices": [*sorted(self._records[user_id].devices)],
                "frozen": self._records[user_id].is_frozen,
            }
            for user_id, enrollment in sorted(self._enrollments.items())
        ]

    def _reload(self) -> None:
        """Read the console's file if it is another one than last time."""
        version = file_version(self._state.approvers)
        if version == self._version:
            return
        self._version = version
        self._enrollments = {
            one.user_id: one
            for one in read_enrollments(self._state.approvers)
            if one.user_id != self._client.user_id
        }
        for user_id, enrollment in self._enrollments.items():
            record = self._records.get(user_id)
            if record is None or record.enrolled_at != enrollment.enrolled_at:
                self._records[user_id] = _Record(enrollment.enrolled_at)
            self._client.pin_master_key(user_id, encode_public_key(enrollment.master_key))

    def _approver(self, enrollment: Enrollment) -> Approver:
        devices = self._records[enrollment.user_id].devices
        return Approver(
            enrollment.user_id,
            enrollment.master_key,
            enrollment.max_tier,
            tuple(
                EnrolledDevice(
                    device_id, device.key, device.seen_at, enrollment.is_colocated(device_id)
                )
                for device_id, device in sorted(devices.items())
            ),
        )

    def _has_other_master_key(self, user_id: UserID) -> bool:
        listed = self._client.key_objects(user_id).master_key
        if listed is None:
            return False
        keys = listed.get("keys")
        pinned = encode_public_key(self._enrollments[user_id].master_key)
        return not isinstance(keys, dict) or list(keys.values()) != [pinned]

    def _enroll_devices(self, user_id: UserID, now_ms: int) -> None:
        record, keys = self._records[user_id], self._client.key_objects(user_id)
        if record.is_frozen:
            return
        taken = {key for one in self.pins().approvers for key in _keys_of(one)}
        new: dict[str, SeenDevice] = {}
        for device_id in sorted(keys.devices.keys() - record.devices.keys()):
            key = self._prove_device(user_id, device_id)
            if key is not None and key not in taken:
                new[device_id] = SeenDevice(key, now_ms)
                logger.info("Device enrolled user=%s device=%s", user_id, device_id)
        if new:
            self._records[user_id] = replace(record, devices={**record.devices, **new})

    def _prove_device(self, user_id: UserID, device_id: DeviceID) -> PublicKey | None:
        chain = self._client.find_device_chain(user_id, device_id)
        if chain is None:
            return None
        pinned = encode_public_key(self._enrollments[user_id].master_key)
        try:
            return parse_public_key(verify_device_chain(chain, user_id, pinned).ed25519)
        except (KeysRefused, Refused) as error:
            logger.warning("Device not enrolled user=%s reason=%s", user_id, error)
            return None


def _keys_of(approver: Approver) -> Iterable[PublicKey]:
    return (approver.master_key, *(device.key for device in approver.devices))


def _encode_records(records: dict[UserID, _Record]) -> JsonObject:
    return {
        user_id: {
            "enrolled_at": record.enrolled_at,
            "frozen": record.is_frozen,
            "devices": {
                device_id: {"key": encode_public_key(device.key), "seen_at": device.seen_at}
                for device_id, device in record.devices.items()
            },
        }
        for user_id, record in records.items()
    }


def _decode_records(value: JsonObject | None) -> dict[UserID, _Record]:
    try:
        return {
            UserID(user_id): _decode_record(record) for user_id, record in (value or {}).items()
        }
    except (KeyError, TypeError, ValueError, Refused) as error:
        raise StateUnusable(f"devices.json is damaged: {error}") from None


def _decode_record(value: JsonValue) -> _Record:
    if not isinstance(value, dict) or not isinstance(value["devices"], dict):
        raise TypeError("an approver's devices are not an object")
    devices = {}
    for device_id, device in value["devices"].items():
        if not isinstance(device, dict) or not isinstance(device["seen_at"], int):
            raise TypeError("a device is not an object with a time")
        devices[device_id] = SeenDevice(parse_public_key(str(device["key"])), device["seen_at"])
    enrolled_at = value["enrolled_at"]
    if not isinstance(enrolled_at, int):
        raise TypeError("enrolled_at is not a number")
    return _Record(enrolled_at, devices, value["frozen"] is True)
