"""The extensions for end-to-end encryption: to-device messages, device lists, key counts.

spec: MSC3885 (to-device), MSC3884 (e2ee), client-server-api/#extensions-to-sync, v1.19. To-device
messages have a token of their own, `since`: what it is past goes for ever.
"""

from dataclasses import replace

from homeserver.core.identifiers import DeviceID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.user_rooms import UserRooms
from homeserver.requester import Requester
from homeserver.services.device_lists import DeviceLists
from homeserver.services.sync.token import SyncToken
from homeserver.services.sync.user_parts import UserParts


class DeviceExtensions:
    def __init__(
        self, user_rooms: UserRooms, device_lists: DeviceLists, user_parts: UserParts
    ) -> None:
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
        """Return (changed, left): whose keys changed or who is met anew, and who is left behind."""
        changed: set[UserID] = set()
        left: set[UserID] = set()
        if since.device_lists < now.device_lists:
            changed.update(await self._device_lists.changed_since(user_id, since.device_lists))
        if since.events < now.events:
            rooms = (await self._user_rooms.rooms_of(user_id)).values()
            met, left = await self._device_lists.members_since(user_id, rooms, since.events)
            changed |= met
        return changed - left, left
