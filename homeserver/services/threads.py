"""The threads of a room.

spec: client-server-api/#querying-threads-in-a-room, v1.19. Tokens are places in the topological
order, of newest replies. Invariant: a thread is listed when the reader sees its root and a reply;
the order is the same for all who are in the room, whatever they see of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.events import redact_event
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.relations import THREAD
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.services.relations import clamp_limit
from homeserver.services.room_access import RoomAccess
from homeserver.services.sight import Sight, bounds_of
from homeserver.services.timeline import END, Timeline, make_token
from homeserver.storage import relations
from homeserver.storage.database import Database
from homeserver.storage.relations import Reader

_MAX_SCANNED = 500


@dataclass(frozen=True, slots=True)
class ThreadsPage:
    roots: Sequence[TimelineEvent]
    """Newest reply first."""
    next_batch: str | None


class RoomThreads:
    def __init__(
        self,
        database: Database,
        access: RoomAccess,
        timeline: Timeline,
        sight: Sight,
        ignored: IgnoredUsers,
    ) -> None:
        self._db = database
        self._access = access
        self._timeline = timeline
        self._sight = sight
        self._ignored = ignored

    async def list_roots(
        self,
        user_id: UserID,
        room_id: RoomID,
        *,
        only_participated: bool,
        start: str | None,
        limit: int | None,
    ) -> ThreadsPage:
        """Raises Forbidden and InvalidParam."""
        room = (await self._access.access_readable(user_id, room_id)).room
        place = await self._timeline.place_at(room, start, END)
        wanted = clamp_limit(limit)
        ignored = await self._ignored.of(user_id)
        reader = Reader(user_id, list(ignored), *bounds_of(user_id, room).sure)
        roots: list[TimelineEvent] = []
        more, scanned = True, 0
        while more and len(roots) < wanted and scanned < _MAX_SCANNED:
            threads = await self._db.read(
                relations.list_threads, room.room_nid, reader, place, wanted + 1,
                only_participated=only_participated,
            )  # fmt: skip
            more = len(threads) > wanted
            chunk = [
                (load_timeline_event(room.version, thread.root), thread.latest)
                for thread in threads[:wanted]
            ]
            seen = await self._timeline.may_see(user_id, room, [root for root, _ in chunk])
            unsure = {one.root.event_nid for one in threads[:wanted] if not one.is_sure}
            unseen = unsure - await self._with_reply(reader, room, unsure)
            for root, (depth, event_nid) in chunk:
                scanned += 1
                place = (depth, event_nid - 1)
                if root in seen and root.event_nid not in unseen:
                    roots.append(_redacted(root) if root.event.sender in ignored else root)
                    if len(roots) == wanted:
                        more = more or root is not chunk[-1][0]
                        break
        return ThreadsPage(roots, make_token(place) if more else None)

    async def _with_reply(self, reader: Reader, room: LiveRoom, root_nids: set[int]) -> set[int]:
        """Return the roots that have a reply which the reader sees by the state before it."""
        if not root_nids:
            return set()
        replies = [
            child
            for child in await self._db.read(
                relations.list_unsure, room.room_nid, list(root_nids), reader
            )
            if child.rel_type == THREAD
        ]
        shown = await self._sight.find_shown(reader.user_id, room, replies)
        return {reply.parent_nid for reply in replies if reply.event_nid in shown}


def _redacted(root: TimelineEvent) -> TimelineEvent:
    """Return the root as if redacted: its sender is ignored, though not the whole thread."""
    return TimelineEvent(
        redact_event(root.event),
        root.event_nid,
        state_before=root.state_before,
        state_after=root.state_after,
        room_state=root.room_state,
        is_historical=root.is_historical,
    )
