"""Who may approve, as the console said it: one private file, read again whenever it changes.

protocol: docs/cosign-protocol.md, section 6. Invariant: only the console writes this file; nothing
that comes over the network adds, changes or unfreezes an approver.
"""

from dataclasses import dataclass
from pathlib import Path

from agent_bridge.core.ed25519 import PublicKey, encode_public_key, parse_public_key
from agent_bridge.core.refusals import Refused
from agent_bridge.core.tiers import Tier
from agent_bridge.gate.state_directory import StateUnusable, read_json, write_json
from homeserver.core.identifiers import UserID, parse_user_id
from homeserver.core.json_types import JsonObject, JsonValue


@dataclass(frozen=True)
class Enrollment:
    user_id: UserID
    master_key: PublicKey
    max_tier: Tier
    colocated_devices: frozenset[str] | None
    """Devices on the machine that acts; None: all of this approver's."""
    enrolled_at: int
    """Milliseconds since 1970; enrolling again makes it later, which lifts a freeze."""

    def is_colocated(self, device_id: str) -> bool:
        return self.colocated_devices is None or device_id in self.colocated_devices


def read_enrollments(path: Path) -> tuple[Enrollment, ...]:
    """Return the enrolled approvers, none when there is no file. Raises StateUnusable."""
    value = read_json(path)
    entries = [] if value is None else value.get("approvers")
    try:
        enrollments = tuple(_decode(entry) for entry in _list(entries))
    except (KeyError, TypeError, ValueError, Refused) as error:
        raise StateUnusable(f"{path} is damaged: {error}") from None
    if len({entry.user_id for entry in enrollments}) != len(enrollments):
        raise StateUnusable(f"{path} is damaged: it names one user twice")
    return enrollments


def put_enrollment(path: Path, enrollment: Enrollment) -> None:
    """Add an approver, or replace the one with this user id."""
    others = [one for one in read_enrollments(path) if one.user_id != enrollment.user_id]
    _write(path, [*others, enrollment])


def remove_enrollment(path: Path, user_id: UserID) -> bool:
    """Remove an approver; False when there was none."""
    before = read_enrollments(path)
    after = [one for one in before if one.user_id != user_id]
    _write(path, after)
    return len(after) < len(before)


def _write(path: Path, enrollments: list[Enrollment]) -> None:
    ordered = sorted(enrollments, key=lambda one: one.user_id)
    write_json(path, {"approvers": [_encode(one) for one in ordered]})


def _encode(enrollment: Enrollment) -> JsonObject:
    devices = enrollment.colocated_devices
    return {
        "user_id": enrollment.user_id,
        "master_key": encode_public_key(enrollment.master_key),
        "max_tier": enrollment.max_tier.name,
        "colocated": "all" if devices is None else [*sorted(devices)],
        "enrolled_at": enrollment.enrolled_at,
    }


def _list(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError("approvers is not a list")
    return value


def _decode(value: JsonValue) -> Enrollment:
    if not isinstance(value, dict):
        raise TypeError("an approver is not an object")
    colocated, enrolled_at = value["colocated"], value["enrolled_at"]
    if not isinstance(enrolled_at, int) or not (colocated == "all" or isinstance(colocated, list)):
        raise TypeError("enrolled_at or colocated has the wrong type")
    return Enrollment(
        user_id=parse_user_id(str(value["user_id"])),
        master_key=parse_public_key(str(value["master_key"])),
        max_tier=Tier[str(value["max_tier"])],
        colocated_devices=frozenset(map(str, colocated)) if isinstance(colocated, list) else None,
        enrolled_at=enrolled_at,
    )
