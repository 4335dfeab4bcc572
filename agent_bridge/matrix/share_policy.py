"""Who may read what we encrypt.

spec: client-server-api/#mmegolmv1aes-sha2, v1.19
Invariant: membership, which the homeserver states, can only take recipients away from a policy that
names users, never add one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent_bridge.matrix.device_keys import MEGOLM, DeviceKeys
from agent_bridge.matrix.device_lists import DeviceLists, KnownDevice
from agent_bridge.matrix.events import DeviceTrust
from homeserver.core.identifiers import DeviceID, UserID

_PROVEN = frozenset({DeviceTrust.CROSS_SIGNED, DeviceTrust.VERIFIED})


@dataclass(frozen=True, slots=True)
class AllDevices:
    """Every listed device of every member: what chat rooms usually do."""


@dataclass(frozen=True, slots=True)
class CrossSignedDevices:
    """Only these users, and of them only devices with a chain to their master key.

    The value is the master key the chain must end at; None means the one pinned or first seen.
    """

    users: Mapping[UserID, str | None]


SharePolicy = AllDevices | CrossSignedDevices


@dataclass(slots=True)
class Recipients:
    """The devices that get a room key, and why others do not."""

    devices: list[DeviceKeys] = field(default_factory=list)
    left_out: dict[tuple[UserID, DeviceID], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShareReport:
    """Who holds the current room key of a room, and who was left out and why."""

    session_id: str
    shared: tuple[tuple[UserID, DeviceID], ...]
    left_out: Mapping[tuple[UserID, DeviceID], str]


def users_of(policy: SharePolicy, members: Iterable[UserID]) -> list[UserID]:
    """Return the members whose devices the policy considers at all."""
    if isinstance(policy, AllDevices):
        return sorted(members)
    return sorted(user_id for user_id in members if user_id in policy.users)


def choose_recipients(
    policy: SharePolicy, users: Iterable[UserID], lists: DeviceLists, own: tuple[UserID, DeviceID]
) -> Recipients:
    """Sort the known devices of these users into recipients and left out; ours is neither."""
    chosen = Recipients()
    for user_id in users:
        for device in lists.list_devices(user_id):
            key = (user_id, device.keys.device_id)
            if key == own:
                continue
            reason = _find_objection(policy, device, lists)
            if reason is None:
                chosen.devices.append(device.keys)
            else:
                chosen.left_out[key] = reason
    return chosen


def _find_objection(policy: SharePolicy, device: KnownDevice, lists: DeviceLists) -> str | None:
    if device.revoked:
        return "revoked"
    if MEGOLM not in device.keys.algorithms:
        return "does not speak Megolm"
    if isinstance(policy, AllDevices):
        return None
    trust, master_key = lists.judge(device)
    expected = policy.users[device.keys.user_id]
    if expected is not None:
        # The caller brings the key, so what we saw first does not matter.
        return None if master_key == expected else f"no chain to the expected key ({trust.value})"
    return None if trust in _PROVEN else trust.value
