"""The enrolled approvers and the gate they guard: the trust anchors, as key bytes.

protocol: docs/cosign-protocol.md, section 6. Invariant: no key has two roles or two owners, and the
gate is not its own approver.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent_bridge.core.draft import decode_tier
from agent_bridge.core.ed25519 import PublicKey, encode_public_key
from agent_bridge.core.pae import Digest, PayloadType, payload_digest
from agent_bridge.core.payload import Fields, decode_payload, encode_payload
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Tier
from homeserver.core.identifiers import parse_user_id
from homeserver.core.json_types import JsonObject, JsonValue


@dataclass(frozen=True)
class EnrolledDevice:
    device_id: str
    key: PublicKey
    enrolled_at: int
    """Milliseconds since 1970; cool-downs count from here."""
    colocated: bool
    """The device shares the machine that acts, so an agent could drive it."""


@dataclass(frozen=True)
class Approver:
    """A person: pinned by the bytes of their cross-signing master key."""

    user_id: str
    master_key: PublicKey
    max_tier: Tier
    devices: tuple[EnrolledDevice, ...]

    def find_device(self, key: PublicKey) -> EnrolledDevice | None:
        return next((device for device in self.devices if device.key == key), None)


@dataclass(frozen=True)
class Pins:
    """What a gate, or someone checking a bundle, trusts; nothing else is."""

    gate_user_id: str
    gate_key: PublicKey
    approvers: tuple[Approver, ...]

    def find_approver(self, user_id: str) -> Approver | None:
        return next((a for a in self.approvers if a.user_id == user_id), None)


def encode_pins(pins: Pins) -> bytes:
    approvers = sorted(pins.approvers, key=lambda approver: approver.user_id)
    return encode_payload(
        {
            "gate": {"user_id": pins.gate_user_id, "key": encode_public_key(pins.gate_key)},
            "approvers": [_encode_approver(approver) for approver in approvers],
        }
    )


def parse_pins(data: bytes) -> Pins:
    fields = Fields.of(decode_payload(data), "pins", "gate", "approvers")
    gate = Fields.of(fields.raw("gate"), "pins.gate", "user_id", "key")
    pins = Pins(
        gate_user_id=gate.parsed("user_id", parse_user_id),
        gate_key=gate.key("key"),
        approvers=tuple(_decode_approver(value) for value in fields.items("approvers")),
    )
    _check_roles(pins)
    if encode_pins(pins) != data:
        raise Refused(Reason.NOT_CANONICAL, "approvers or devices are not sorted")
    return pins


def pins_digest(pins: Pins) -> Digest:
    return payload_digest(PayloadType.PINS, encode_pins(pins))


def _check_roles(pins: Pins) -> None:
    users = [pins.gate_user_id, *(approver.user_id for approver in pins.approvers)]
    if len(set(users)) != len(users):
        raise Refused(Reason.FIELD_INVALID, "pins name one user twice")
    keys = list(_keys(pins))
    if len(set(keys)) != len(keys):
        raise Refused(Reason.FIELD_INVALID, "pins name one key twice")


def _keys(pins: Pins) -> Iterator[PublicKey]:
    yield pins.gate_key
    for approver in pins.approvers:
        yield approver.master_key
        yield from (device.key for device in approver.devices)


def _encode_approver(approver: Approver) -> JsonObject:
    devices = sorted(approver.devices, key=lambda device: device.device_id)
    return {
        "user_id": approver.user_id,
        "master_key": encode_public_key(approver.master_key),
        "max_tier": approver.max_tier.name,
        "devices": [
            {
                "device_id": device.device_id,
                "key": encode_public_key(device.key),
                "enrolled_at": device.enrolled_at,
                "colocated": device.colocated,
            }
            for device in devices
        ],
    }


def _decode_approver(value: JsonValue) -> Approver:
    fields = Fields.of(value, "approver", "user_id", "master_key", "max_tier", "devices")
    return Approver(
        user_id=fields.parsed("user_id", parse_user_id),
        master_key=fields.key("master_key"),
        max_tier=decode_tier(fields, "max_tier"),
        devices=tuple(_decode_device(device) for device in fields.items("devices")),
    )


def _decode_device(value: JsonValue) -> EnrolledDevice:
    fields = Fields.of(value, "device", "device_id", "key", "enrolled_at", "colocated")
    return EnrolledDevice(
        device_id=fields.text("device_id"),
        key=fields.key("key"),
        enrolled_at=fields.time("enrolled_at"),
        colocated=fields.boolean("colocated"),
    )
