"""The extensions for end-to-end encryption: to-device messages, device lists, key counts.

spec: MSC3885 (to-device), MSC3884 (e2ee), client-server-api/#extensions-to-sync, v1.19. To-device
messages have a token of their own, `since`: what it is past goes for ever.
"""

from dataclasses import replace

from homeserver.core.identifiers import DeviceID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.live_room import MEMBER
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.user_rooms import UserRooms
from homeserver.requester import Requester
from homeserver.services.device_lists import DeviceLists
from homeserver.services.sync.token import SyncToken
from homeserver.services.sync.user_parts import UserParts


class DeviceExtensions:
    def __init__(
        self,
        live_rooms: LiveRooms,
        user_rooms: UserRooms,
        device_lists: DeviceLists,
        user_parts: UserParts,
    ) -> None:
        self._live_rooms = live_rooms
        self._user_rooms = user_rooms
        self._device_lists = device_lists
        self._user_parts = user_parts

    async def to_device(
        self, requester: Requester, since: int, now: SyncToken, limit: int | None
    ) -> JsonObject:
        known = None if since == 0 else replace(now, to_device=since)
        part = await self._user_parts.to_device(requester, known, now, limit=limit)
        return {"next_batch": str(part.up_to), "events": list(part.events)}

    async def e2ee(
        self, user_id: UserID, device_id: DeviceID, since: SyncToken | None, now: SyncToken
    ) -> tuple[JsonObject, bool]:
        """Return the extension and whether it has news; the counts alone are none."""
        counts, unused = await self._user_parts.key_counts(user_id, device_id)
        told: JsonObject = {
            "device_one_time_keys_count": dict(counts),
            "device_unused_fallback_key_types": list(unused),
        }
        if since is None:
            return told, False
        changed, left = await self._device_list_changes(user_id, since, now)
        if changed or left:
            told["device_lists"] = {"changed": [*sorted(changed)], "left": [*sorted(left)]}
        return told, bool(changed or left)

    async def _device_list_changes(
        self, user_id: UserID, since: SyncToken, now: SyncToken
    ) -> tuple[set[UserID], set[UserID]]:
        """Return (changed, left) users.

        1. Whose keys changed, among those who share a room.
        2. Who has come into a room of the user's, or into whose rooms the user has come.
        3. Who is no longer in any room of the user's: he left, or the user did.
        """
        changed: set[UserID] = set()
        gone: set[UserID] = set()
        if since.device_lists < now.device_lists:  # 1
            changed |= set(await self._device_lists.changed_since(user_id, since.device_lists))
        if since.events < now.events:
            rooms = list((await self._user_rooms.rooms_of(user_id)).values())
            joined = [room for room in rooms if room.membership == "join"]
            for mine in await self._user_rooms.moved_since(joined, since.events):
                if mine.new_at > since.events:  # 2
                    changed |= set(await self._user_rooms.joined_users(mine.room_id))
                else:  # 2, 3
                    came, went = await self._members_since(mine.room_id, since.events)
                    changed |= came
                    gone |= went
            for mine in rooms:  # 3
                if mine.left_nid is not None and mine.left_nid > since.events:
                    gone |= set(await self._user_rooms.joined_users(mine.room_id))
        changed.discard(user_id)
        left = {
            member
            for member in gone - {user_id}
            if not await self._user_rooms.share_a_room(user_id, member)
        }
        return changed - left, left

    async def _members_since(self, room_id: RoomID, since: int) -> tuple[set[UserID], set[UserID]]:
        """Return who has come in and who has gone; the newest events are in memory."""
        room = await self._live_rooms.find(room_id)
        if room is None:
            return set(), set()
        moved = set(room.members)
        if since >= room.recent_from:
            moved = {
                UserID(event.event.state_key or "")
                for event in room.recent_after(since)
                if event.event.type == MEMBER
            } & moved
        came = set()
        went = set()
        for member in moved:
            standing = room.members[member]
            if standing.membership == "join":
                if (standing.joined_nid or 0) > since:
                    came.add(member)
            elif standing.left_nid is not None and standing.left_nid > since:
                went.add(member)
        return came, went
