"""Relations: what may be said of another event, and listing the children of one.

spec: client-server-api/#relationships-api, #avoiding-duplicate-annotations,
#validation-of-mthread-relationships, v1.19. Invariant: a page holds no event that the reader may
not see or whose sender he ignores.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.core.relations import ANNOTATION, THREAD, Relation, find_relation
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.errors import BadRequest, InvalidParam
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.services.room_access import RoomAccess
from homeserver.services.timeline import END, START, Timeline, make_token, place_before
from homeserver.storage import relations
from homeserver.storage.database import Database
from homeserver.storage.events import encode_event_id
from homeserver.storage.relations import MAX_DEPTH, Chosen

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
_MAX_SCANNED = 1_000


@dataclass(frozen=True, slots=True)
class ChildrenWanted:
    room_id: RoomID
    parent_id: EventID
    rel_type: str | None = None
    event_type: str | None = None
    start: str | None = None
    until: str | None = None
    limit: int | None = None
    backwards: bool = True
    recurse: bool = False


@dataclass(frozen=True, slots=True)
class ChildrenPage:
    events: Sequence[TimelineEvent]
    next_batch: str | None
    depth: int
    """How many relations deep was looked."""


class Relations:
    def __init__(
        self, database: Database, access: RoomAccess, timeline: Timeline, ignored: IgnoredUsers
    ) -> None:
        self._db = database
        self._access = access
        self._timeline = timeline
        self._ignored = ignored
        self._annotating: set[tuple[int, EventID, UserID, str, str]] = set()

    # --- sending

    @asynccontextmanager
    async def guard(
        self, room: LiveRoom, sender: UserID, event_type: str, content: JsonObject
    ) -> AsyncIterator[None]:
        """Refuse, or hold while it is sent, what relates to another event.

        Raises BadRequest for a thread on what relates to something itself, and for an annotation
        that the sender has made already or is making now.
        """
        relation = find_relation(content)
        if relation is None:
            yield
        elif relation.rel_type == THREAD:
            await self._check_thread_root(room, relation)
            yield
        elif relation.rel_type == ANNOTATION and relation.key is not None:
            mark = (room.room_nid, relation.parent_id, sender, event_type, relation.key)
            if mark in self._annotating:
                raise _duplicate()
            self._annotating.add(mark)
            try:
                await self._check_annotation(room, sender, event_type, relation)
                yield
            finally:
                self._annotating.discard(mark)
        else:
            yield

    async def _check_thread_root(self, room: LiveRoom, relation: Relation) -> None:
        root = await self._timeline.find_event(room, relation.parent_id)
        if root is not None and not root.is_redacted and find_relation(root.event.content):
            raise BadRequest(
                "A thread cannot begin at an event that relates to another", errcode="M_UNKNOWN"
            )

    async def _check_annotation(
        self, room: LiveRoom, sender: UserID, event_type: str, relation: Relation
    ) -> None:
        try:
            parent_id = encode_event_id(room.version, relation.parent_id)
        except ValueError:
            return  # no event of this room: the relation means nothing
        key = (relation.key or "").encode()
        if await self._db.read(
            relations.has_annotation, room.room_nid, parent_id, sender, event_type, key
        ):
            raise _duplicate()

    # --- reading

    async def list_children(self, user_id: UserID, wanted: ChildrenWanted) -> ChildrenPage:
        """Raises Forbidden, InvalidParam, and NotFound when the user may not see the parent."""
        limit = clamp_limit(wanted.limit)
        await self._timeline.get_event(user_id, wanted.room_id, wanted.parent_id)
        room = (await self._access.access_readable(user_id, wanted.room_id)).room
        parent_id = encode_event_id(room.version, wanted.parent_id)
        backwards = wanted.backwards
        place = await self._timeline.place_at(room, wanted.start, END if backwards else START)
        stop = await self._timeline.place_at(room, wanted.until, START if backwards else END)
        depth = MAX_DEPTH if wanted.recurse else 1
        ignored = list(await self._ignored.of(user_id))
        chosen = Chosen(wanted.rel_type, wanted.event_type, ignored)
        listing = relations.list_descendants if wanted.recurse else relations.list_children
        found: list[TimelineEvent] = []
        more, scanned = True, 0
        while more and len(found) < limit and scanned < _MAX_SCANNED:
            after, up_to = (stop, place) if backwards else (place, stop)
            stored = await self._db.read(
                listing, room.room_nid, parent_id, chosen, after, up_to, limit + 1,
                backwards=backwards,
            )  # fmt: skip
            more = len(stored) > limit
            chunk = [load_timeline_event(room.version, row) for row in stored[:limit]]
            seen = await self._timeline.visible(user_id, room, chunk)
            for event in chunk:
                scanned += 1
                place = place_before(event) if backwards else event.position
                if event in seen:
                    found.append(event)
                    if len(found) == limit:
                        more = more or event is not chunk[-1]
                        break
        return ChildrenPage(found, make_token(place) if more else None, depth)


def clamp_limit(limit: int | None) -> int:
    """Raises InvalidParam unless it is positive."""
    if limit is not None and limit < 1:
        raise InvalidParam("limit must be greater than zero")
    return min(limit or DEFAULT_LIMIT, MAX_LIMIT)


def _duplicate() -> BadRequest:
    return BadRequest(
        "You have annotated the event in this way already", errcode="M_DUPLICATE_ANNOTATION"
    )
