"""How many notifications of each room, and of each thread in it, a user has not read.

spec: client-server-api/#receiving-notifications, #marking-notifications-as-read, v1.19. Counted
from the newest `KEPT_ROWS` of each room.
Invariant: a count covers every event up to the position at which it is asked for. What is
remembered is brought up to date from the room's log, and counted anew after a receipt.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.change_feed import ChangeFeed
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.streams import Stream
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.storage import notifications
from homeserver.storage.database import Database
from homeserver.storage.notifications import MAIN_THREAD

_MAX_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Unread:
    notifications: int = 0
    highlights: int = 0

    def __add__(self, other: "Unread") -> "Unread":
        return Unread(self.notifications + other.notifications, self.highlights + other.highlights)

    def to_json(self) -> JsonObject:
        return {
            "highlight_count": self.highlights,
            "notification_count": self.notifications,
        }


NOTHING = Unread()


@dataclass(slots=True)
class _Remembered:
    position: int
    """In the events stream; every event up to it is counted."""
    receipts: int
    """In the receipts stream."""
    ignored: frozenset[UserID]
    """Whom the user ignored when it was counted."""
    threads: dict[str, Unread]


class UnreadCounts:
    """`feed` is that of receipts; it knows of each user's in each room by `receipt_key`."""

    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        stream: Stream,
        feed: ChangeFeed,
        ignored: IgnoredUsers,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._stream = stream
        self._feed = feed
        self._ignored = ignored
        self._remembered: OrderedDict[tuple[UserID, RoomID], _Remembered] = OrderedDict()

    async def by_thread(
        self, user_id: UserID, rooms: Mapping[RoomID, int]
    ) -> dict[RoomID, Mapping[str, Unread]]:
        """Return the counts in rooms (id and number) the user is in; threads without are left out.

        Without a database read if they are remembered, else with one for all rooms.
        """
        ignored = await self._ignored.of(user_id)
        found: dict[RoomID, Mapping[str, Unread]] = {}
        missing: dict[RoomID, int] = {}
        for room_id, room_nid in rooms.items():
            known = self._remembered.get((user_id, room_id))
            if (
                known is not None
                and known.ignored == ignored
                and self._update(known, user_id, room_id)
            ):
                self._remembered.move_to_end((user_id, room_id))
                found[room_id] = dict(known.threads)
            else:
                missing[room_id] = room_nid
        if not missing:
            return found
        position, receipts = self._stream.current, self._feed.current
        counted = {room_id: _Remembered(position, receipts, ignored, {}) for room_id in missing}
        for row in await self._db.read(
            notifications.list_unread_counts,
            user_id,
            list(missing.values()),
            position,
            list(ignored),
        ):
            counted[row.room_id].threads[row.thread_id] = Unread(row.notifications, row.highlights)
        for room_id, known in counted.items():
            self._update(known, user_id, room_id)
            self._remembered[user_id, room_id] = known
            found[room_id] = dict(known.threads)
        while len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return found

    def has_new_receipt(self, user_id: UserID, room_id: RoomID, after: int) -> bool:
        """Tell whether the user may have read on in a room since a position of the receipts."""
        return self._feed.has_changed(receipt_key(user_id, room_id), after)

    def _update(self, known: _Remembered, user_id: UserID, room_id: RoomID) -> bool:
        """Count what has happened since; return False if that cannot be done from memory."""
        room = self._live_rooms.find_loaded(room_id)
        if room is None or self._feed.has_changed(receipt_key(user_id, room_id), known.receipts):
            return False
        member = room.members.get(user_id)
        if member is None or member.joined_nid is None or member.joined_nid > known.position:
            return False  # another stay
        if room.last_event <= known.position:
            return True
        if room.audience is None or room.audience.log_from > known.position:
            return False
        _count(known, user_id, room)
        return True


def _count(known: _Remembered, user_id: UserID, room: LiveRoom) -> None:
    assert room.audience is not None
    for notified in room.audience.list_after(known.position):
        if notified.sender == user_id and notified.is_mark:
            known.threads.pop(notified.thread_id, None)
            continue
        if notified.sender in known.ignored:
            continue
        verdict = notified.of_member(user_id)
        if verdict is not None:
            before = known.threads.get(notified.thread_id, NOTHING)
            known.threads[notified.thread_id] = before + Unread(1, int(verdict.is_highlight))
    known.position = max(known.position, room.last_event)


def render_unread(threads: Mapping[str, Unread], *, apart: bool) -> JsonObject:
    """Return the members of a room in sync; `apart`: each thread for itself."""
    if not apart:
        return {"unread_notifications": sum(threads.values(), NOTHING).to_json()}
    rendered: JsonObject = {
        "unread_notifications": threads.get(MAIN_THREAD, NOTHING).to_json(),
    }
    others: JsonObject = {
        root: unread.to_json() for root, unread in threads.items() if root != MAIN_THREAD
    }
    if others:
        rendered["unread_thread_notifications"] = others
    return rendered


def receipt_key(user_id: UserID, room_id: RoomID) -> str:
    """Return the key of the receipts feed for a user's own receipts in a room."""
    return f"{user_id} {room_id}"
