"""What a sync tells of the user and his device, apart from rooms.

spec: client-server-api/#get_matrixclientv3sync, #extensions-to-sync (end-to-end encryption,
send-to-device), v1.19.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from homeserver.core.filters import EventFilter
from homeserver.core.identifiers import DeviceID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.engine.user_rooms import UserRooms
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
        user_rooms: UserRooms,
        to_device: ToDevice,
        device_lists: DeviceLists,
        e2e_keys: E2EKeys,
        presence: Presence,
        *,
        max_to_device: int,
    ) -> None:
        self._user_rooms = user_rooms
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

    async def presence(
        self,
        user_id: UserID,
        since: SyncToken | None,
        changed_members: Iterable[tuple[RoomID, TimelineEvent]],
        newly_joined: Iterable[RoomID],
        chosen: EventFilter,
    ) -> list[JsonObject]:
        """Return the m.presence of those who changed, and of those the user has newly met."""
        newcomers: set[UserID] = set()
        if since is not None:
            for room_id in newly_joined:
                newcomers.update(await self._user_rooms.joined_users(room_id))
            newcomers |= {
                UserID(event.state_key or "")
                for _, event in changed_members
                if event.membership == "join"
            }
        after = 0 if since is None else since.presence
        found = await self._presence.changes(user_id, after, newcomers)
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
        changed_members: Iterable[tuple[RoomID, TimelineEvent]],
        newly_joined: Iterable[RoomID],
        newly_left: Iterable[RoomID],
    ) -> tuple[list[str], list[str]]:
        """Return (changed, left) users.

        1. Whose keys changed, among those who share a room.
        2. Who has come into a room of the user's, or into whose rooms the user has come.
        3. Who is no longer in any room of the user's: he left, or the user did.
        """
        changed: set[str] = set()
        left: set[str] = set()
        candidates: set[UserID] = set()
        if since.device_lists < now.device_lists:  # 1
            changed |= set(await self._device_lists.changed_since(user_id, since.device_lists))
        for _room_id, event in changed_members:  # 2, 3
            member = UserID(event.state_key or "")
            if member == user_id:
                continue
            if event.membership == "join":
                before = event.replaced.membership if event.replaced is not None else None
                if before != "join":
                    changed.add(member)
            else:
                candidates.add(member)
        for room_id in newly_joined:  # 2
            changed |= set(await self._user_rooms.joined_users(room_id)) - {user_id}
        for room_id in newly_left:  # 3
            candidates |= set(await self._user_rooms.joined_users(room_id))
        for member in candidates - {user_id}:
            if not await self._user_rooms.share_a_room(user_id, member):
                left.add(member)
        return sorted(changed - left), sorted(left)
