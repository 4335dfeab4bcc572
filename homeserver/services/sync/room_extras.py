"""What a sync tells of a room beside its events.

Typing, receipts, the user's account data, and how much of the room is unread.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from homeserver.core.filters import RoomEventFilter, SyncFilter
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.services.account_data import AccountData
from homeserver.services.receipts import Receipts
from homeserver.services.sync.token import SyncToken
from homeserver.services.typing import Typing
from homeserver.services.unread_counts import UnreadCounts, render_unread


@dataclass(frozen=True, slots=True)
class Extras:
    global_account_data: list[JsonObject] = field(default_factory=list)
    room_account_data: Mapping[RoomID, list[JsonObject]] = field(default_factory=dict)
    ephemeral: Mapping[RoomID, list[JsonObject]] = field(default_factory=dict)
    read: Collection[RoomID] = ()
    """Where the user has sent a receipt, so that his unread counts may have changed."""

    def rooms(self) -> set[RoomID]:
        return {*self.room_account_data, *self.ephemeral, *self.read}


class RoomExtras:
    def __init__(
        self,
        account_data: AccountData,
        receipts: Receipts,
        typing: Typing,
        unread_counts: UnreadCounts,
    ) -> None:
        self._account_data = account_data
        self._receipts = receipts
        self._typing = typing
        self._unread_counts = unread_counts

    async def collect(
        self,
        user_id: UserID,
        since: SyncToken | None,
        now: SyncToken,
        joined: Collection[RoomID],
        newly_joined: Collection[RoomID],
        chosen: SyncFilter,
    ) -> Extras:
        """Return what changed since the token; all of it in rooms newly joined."""
        wanted = [room_id for room_id in joined if chosen.room.allows_room(room_id)]
        ephemeral: dict[RoomID, list[JsonObject]] = {}
        fresh = set(wanted) if since is None else set(newly_joined) & set(wanted)
        if since is None:
            in_account, in_rooms = await self._account_data.initial(user_id)
        else:
            in_account, in_rooms = await self._account_data.changes(
                user_id, since.account_data, now.account_data
            )
            if fresh:
                in_rooms = in_rooms | await self._account_data.of_rooms(user_id, fresh)
        receipts: dict[RoomID, JsonObject] = {}
        if fresh:
            receipts |= await self._receipts.initial(list(fresh), user_id)
        if since is not None and since.receipts < now.receipts:
            known = [room_id for room_id in wanted if room_id not in fresh]
            receipts |= await self._receipts.changes(known, since.receipts, now.receipts, user_id)
        for room_id, content in receipts.items():
            if content:
                ephemeral.setdefault(room_id, []).append({"type": "m.receipt", "content": content})
        typing_since = since.typing if since is not None else 0
        if typing_since < now.typing:
            for room_id in wanted:
                if self._typing.position_of(room_id) > typing_since:
                    content = self._typing.current(room_id)
                    if since is not None or content.get("user_ids"):
                        ephemeral.setdefault(room_id, []).append(
                            {"type": "m.typing", "content": content}
                        )
        return Extras(
            [e for e in in_account if chosen.account_data.allows_event(str(e["type"]), None)],
            _chosen(in_rooms, chosen.room.account_data, chosen),
            _chosen(ephemeral, chosen.room.ephemeral, chosen),
            [room_id for room_id, content in receipts.items() if _is_from(user_id, content)],
        )

    async def unread(
        self, user_id: UserID, rooms: Mapping[RoomID, int], chosen: SyncFilter
    ) -> dict[RoomID, bytes]:
        """Return the members of each room's object that count what is unread."""
        apart = chosen.room.timeline.unread_thread_notifications
        counts = await self._unread_counts.by_thread(user_id, rooms)
        return {
            room_id: orjson.dumps(render_unread(threads, apart=apart))[1:-1]
            for room_id, threads in counts.items()
        }


def _is_from(user_id: UserID, content: JsonObject) -> bool:
    """Tell whether a content of m.receipt has a receipt of the user."""
    return any(
        isinstance(of_kind, dict) and user_id in of_kind
        for of_event in content.values()
        if isinstance(of_event, dict)
        for of_kind in of_event.values()
    )


def _chosen(
    by_room: Mapping[RoomID, Iterable[JsonObject]], part: RoomEventFilter, chosen: SyncFilter
) -> dict[RoomID, list[JsonObject]]:
    found = {}
    for room_id, events in by_room.items():
        if chosen.room.allows_room(room_id) and part.allows_room(room_id):
            kept = [e for e in events if part.allows_event(str(e["type"]), None)]
            if kept:
                found[room_id] = kept
    return found


def render_events(events: Iterable[JsonObject]) -> bytes:
    return b'{"events":' + orjson.dumps(list(events)) + b"}"
