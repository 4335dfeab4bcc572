"""What a sync tells of the user and his device, apart from rooms.

spec: client-server-api/#get_matrixclientv3sync, #extensions-to-sync (end-to-end encryption,
send-to-device), v1.19.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from homeserver.core.filters import EventFilter
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.user_rooms import RoomOfUser
from homeserver.requester import Requester
from homeserver.services.device_lists import DeviceLists
from homeserver.services.e2e_keys import E2EKeys
from homeserver.services.presence import Presence
from homeserver.services.sync.token import SyncToken
from homeserver.services.to_device import ToDevice


@dataclass(frozen=True, slots=True)
class ToDevicePart:
    events: list[JsonObject]
    up_to: int
    """Position for the next token: it does not pass messages that did not fit."""


class UserParts:
    def __init__(
        self,
        to_device: ToDevice,
        device_lists: DeviceLists,
        e2e_keys: E2EKeys,
        presence: Presence,
        *,
        max_to_device: int,
    ) -> None:
        self._to_device = to_device
        self._device_lists = device_lists
        self._e2e_keys = e2e_keys
        self._presence = presence
        self._max_to_device = max_to_device

    async def to_device(
        self,
        requester: Requester,
        since: SyncToken | None,
        now: SyncToken,
        *,
        limit: int | None = None,
    ) -> ToDevicePart:
        """Return messages for the device; those it has, as its token says, go for ever."""
        limit = max(1, min(limit or self._max_to_device, self._max_to_device))
        device_id = requester.device_id
        if device_id is None:
            return ToDevicePart([], now.to_device)
        after = since.to_device if since is not None else 0
        user_id = requester.user_id
        if since is not None:
            await self._to_device.delete_up_to(user_id, device_id, after)
        if not await self._to_device.has_messages_after(user_id, device_id, after):
            return ToDevicePart([], now.to_device)
        events, last = await self._to_device.list_for_device(
            user_id, device_id, after, now.to_device, limit
        )
        is_full = len(events) >= limit
        return ToDevicePart(events, last if is_full else now.to_device)

    async def members_since(
        self, user_id: UserID, rooms: Iterable[RoomOfUser], since: SyncToken | None, now: SyncToken
    ) -> tuple[set[UserID], set[UserID]]:
        """Return whom the user has met anew and left behind in these rooms."""
        if since is None or since.events >= now.events:
            return set(), set()
        return await self._device_lists.members_since(user_id, rooms, since.events)

    async def presence(
        self,
        user_id: UserID,
        since: SyncToken | None,
        met: Collection[UserID],
        chosen: EventFilter,
    ) -> list[JsonObject]:
        """Return the m.presence of those who changed, and of those the user has newly met."""
        after = 0 if since is None else since.presence
        found = await self._presence.changes(user_id, after, met)
        return [e for e in found if chosen.allows_event("m.presence", str(e["sender"]))]

    async def key_counts(
        self, user_id: UserID, device_id: DeviceID
    ) -> tuple[dict[str, int], list[str]]:
        return await self._e2e_keys.key_counts(user_id, device_id)

    async def device_lists(
        self,
        user_id: UserID,
        since: SyncToken,
        now: SyncToken,
        met: Collection[UserID],
        left: Collection[UserID],
    ) -> tuple[list[UserID], list[UserID]]:
        """Return (changed, left): whose keys changed or who is met anew, and who is left behind."""
        changed = set(met)
        if since.device_lists < now.device_lists:
            changed.update(await self._device_lists.changed_since(user_id, since.device_lists))
        return sorted(changed.difference(left)), sorted(left)
