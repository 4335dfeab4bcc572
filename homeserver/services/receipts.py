"""Read receipts and read markers: up to where a user has read a room.

spec: client-server-api/#receipts, #read-and-unread-markers, v1.19
Invariant: a receipt names an event of its room and thread, never moves back, and a private one
leaves here for its owner alone.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from homeserver.clock import Clock
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.relations import THREAD, find_relation
from homeserver.engine.change_feed import ChangeFeed
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.errors import InvalidParam, NotFound
from homeserver.services.account_data import AccountData
from homeserver.services.room_access import RoomAccess
from homeserver.services.timeline import Timeline
from homeserver.services.unread_counts import receipt_key
from homeserver.storage import receipts
from homeserver.storage.database import Database
from homeserver.storage.dictionaries import intern_users
from homeserver.storage.events import encode_event_id
from homeserver.storage.receipts import NewReceipt, Receipt

READ = "m.read"
PRIVATE_READ = "m.read.private"
MAIN_THREAD = "main"
UNTHREADED = ""
_MAX_HOPS = 3


@dataclass(frozen=True, slots=True)
class PublicReceipt:
    user_id: UserID
    event_id: EventID
    thread_id: str
    """UNTHREADED, MAIN_THREAD or the event id of the thread's root."""
    ts: int


ReceiptListener = Callable[[RoomID, PublicReceipt], None]


class Receipts:
    """Public receipts are changes of their room, private ones of their user."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        feed: ChangeFeed,
        access: RoomAccess,
        timeline: Timeline,
        account_data: AccountData,
    ) -> None:
        self._db = database
        self._clock = clock
        self._feed = feed
        self._access = access
        self._timeline = timeline
        self._account_data = account_data
        self._listeners: list[ReceiptListener] = []

    def subscribe(self, listener: ReceiptListener) -> None:
        """Call `listener` with each public receipt that has moved forward."""
        self._listeners.append(listener)

    # --- writing

    async def set_read(
        self, user_id: UserID, room_id: RoomID, kind: str, event_id: EventID, thread_id: str
    ) -> None:
        """Say that the user has read up to an event; of an older one than before nothing changes.

        kind       READ or PRIVATE_READ
        thread_id  UNTHREADED, MAIN_THREAD or the event id of the thread's root
        Raises Forbidden for those not in the room, NotFound, and InvalidParam when the event is
        not in the thread.
        """
        room = await self._access.access_joined(user_id, room_id)
        receipt = PublicReceipt(user_id, event_id, thread_id, self._clock.now_ms())
        if await self._store(room, kind, receipt) and kind == READ:
            for listener in self._listeners:
                listener(room_id, receipt)

    async def set_remote(self, room: LiveRoom, receipt: PublicReceipt) -> None:
        """Take in a receipt of a user of another server, who is in the room.

        Raises NotFound, and InvalidParam when the event is not in the thread.
        """
        if room.is_partial:  # nothing may be known yet of a user whom the state lacks
            await self._db.run(intern_users, [receipt.user_id])
        await self._store(room, READ, receipt)

    async def _store(self, room: LiveRoom, kind: str, read: PublicReceipt) -> bool:
        event = await self._get_event(room, read.event_id)
        if read.thread_id != UNTHREADED and not await self._is_in_thread(
            room, event, read.thread_id
        ):
            raise InvalidParam("The event is not in this thread")
        receipt = NewReceipt(
            room_nid=room.room_nid,
            user_id=read.user_id,
            kind=kind,
            thread_id=read.thread_id,
            event_nid=event.event_nid,
            event_id=encode_event_id(room.version, read.event_id),
            ts=read.ts,
        )

        async def transaction(position: int) -> bool:
            return await self._db.run(receipts.upsert_receipt, receipt, position)

        return await self._feed.write(
            room.room_id if kind == READ else read.user_id,
            transaction,
            quietly=receipt_key(read.user_id, room.room_id),
        )

    async def set_fully_read(self, user_id: UserID, room_id: RoomID, event_id: EventID) -> None:
        """Put the user's read marker. Raises Forbidden and NotFound."""
        room = await self._access.access_joined(user_id, room_id)
        await self._get_event(room, event_id)
        await self._account_data.set_fully_read(user_id, room_id, event_id)

    async def _get_event(self, room: LiveRoom, event_id: EventID) -> TimelineEvent:
        event = await self._timeline.find_event(room, event_id)
        if event is None:
            raise NotFound("There is no such event in this room")
        return event

    async def _is_in_thread(self, room: LiveRoom, event: TimelineEvent, thread_id: str) -> bool:
        """Follow the relations of the event, a few steps, to its thread.

        The root of a thread, and what relates to the root, is in the main timeline; a receipt of
        the thread may name it all the same, as where the thread begins.
        """
        current: TimelineEvent | None = event
        for _ in range(_MAX_HOPS + 1):
            if current is None:
                break
            if current.event.event_id == thread_id:
                return True
            relation = find_relation(current.event.content)
            if relation is None:
                break
            if relation.rel_type == THREAD:
                return relation.parent_id == thread_id
            current = await self._timeline.find_event(room, relation.parent_id)
        return thread_id == MAIN_THREAD

    # --- for sync

    async def changes(
        self, room_ids: Collection[RoomID], after: int, up_to: int, reader: UserID
    ) -> dict[RoomID, JsonObject]:
        """Return the content of m.receipt by room, of what changed last in (after, up_to]."""
        asked = list(room_ids)
        if not self._feed.has_changed(reader, after):
            asked = [room_id for room_id in asked if self._feed.has_changed(room_id, after)]
        if not asked:
            return {}
        return _contents(await self._db.read(receipts.list_receipts, asked, reader, after, up_to))

    async def initial(
        self, room_ids: Collection[RoomID], reader: UserID
    ) -> dict[RoomID, JsonObject]:
        """Return the content of m.receipt by room, with all that `reader` may see."""
        if not room_ids:
            return {}
        return _contents(await self._db.read(receipts.list_receipts, list(room_ids), reader))


def _contents(found: list[Receipt]) -> dict[RoomID, JsonObject]:
    """Group receipts as clients read them.

    NOTSPEC: of two receipts of one user and kind for one event, which the format cannot hold in
    one m.receipt, the unthreaded is told (it says more), else the newer.
    """
    contents: dict[RoomID, dict[EventID, dict[str, dict[UserID, JsonObject]]]] = {}
    for receipt in found:
        of_event = contents.setdefault(receipt.room_id, {}).setdefault(receipt.event_id, {})
        of_kind = of_event.setdefault(receipt.kind, {})
        told = of_kind.get(receipt.user_id)
        if told is None or "thread_id" in told:
            of_kind[receipt.user_id] = (
                {"ts": receipt.ts, "thread_id": receipt.thread_id}
                if receipt.thread_id
                else {"ts": receipt.ts}
            )
    return contents  # type: ignore[return-value]  # nested dicts of JSON, which are invariant
