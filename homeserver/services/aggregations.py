"""What is told of an event's children together with it: bundled aggregations.

spec: client-server-api/#aggregations-of-child-events, v1.19, and what #threading,
#event-replacements and #reference-relations say of server-side aggregation.

Invariant: nothing is told of children that the reader may not see, ignores, or that are redacted;
and a page whose events have no such children costs no query as long as memory has them.
NOTSPEC: children that are visible only by the state before them (`timeline.surely_visible`) are
left out: to count them, each one's state would have to be read.
"""

from collections.abc import Iterable, Mapping

import orjson

from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonValue
from homeserver.core.relations import REPLACE, find_relation
from homeserver.engine.live_rooms import LiveRoom, LiveRooms
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.requester import Requester
from homeserver.services.client_events import Bundles, render_event
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.services.timeline import surely_visible
from homeserver.storage import relations
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id
from homeserver.storage.relations import Reader, Summary


class Aggregations:
    def __init__(self, database: Database, live_rooms: LiveRooms, ignored: IgnoredUsers) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._ignored = ignored

    async def bundle(
        self, requester: Requester, room_id: RoomID, found: Iterable[TimelineEvent]
    ) -> Bundles:
        """Sum up the children of these events, for one reader.

        1. State events have no aggregations; of recent events memory knows which have children.
        2. One query sums up the children of all the others.
        3. The newest event of a thread is told with its own children. It is none of a thread
           itself, so this ends here.
        """
        room = await self._live_rooms.find(room_id)
        if room is None:
            return {}
        asked = room.list_possible_parents(e for e in found if not e.event.is_state)  # 1
        if not asked:
            return {}
        sure_from, sure_to = surely_visible(requester.user_id, room)
        if sure_from > sure_to:
            return {}
        ignored = await self._ignored.of(requester.user_id)
        reader = Reader(requester.user_id, list(ignored), sure_from, sure_to)
        return await self._sum_up(requester, reader, room, asked)

    async def _sum_up(
        self, requester: Requester, reader: Reader, room: LiveRoom, asked: list[TimelineEvent]
    ) -> dict[int, bytes]:
        if not asked:
            return {}
        summaries = await self._db.read(
            relations.summarize_children,
            room.room_nid,
            [event.event_nid for event in asked],
            reader,
        )  # 2
        children = {
            nid: load_timeline_event(room.version, stored)
            for nid, stored in summaries.events.items()
        }
        told = [
            (event, summary, _latest_in_thread(event, summary, children))
            for event in asked
            if (summary := summaries.by_parent.get(event.event_nid)) is not None
        ]
        below = room.list_possible_parents(latest for _, _, latest in told if latest is not None)
        inner = await self._sum_up(requester, reader, room, below)  # 3
        bundles = {}
        for event, summary, latest in told:
            parts: dict[str, JsonValue | orjson.Fragment] = {}
            if latest is not None:
                parts["m.thread"] = orjson.Fragment(
                    b'{"latest_event":%s,"count":%d,"current_user_participated":%s}'
                    % (
                        render_event(latest, requester, room.room_id, inner),
                        summary.thread_count,
                        b"true" if summary.has_participated else b"false",
                    )
                )
            replacement = _replacement(event, summary, children)
            if replacement is not None:
                parts["m.replace"] = orjson.Fragment(
                    render_event(replacement, requester, room.room_id)
                )
            if summary.references:
                parts["m.reference"] = {
                    "chunk": [
                        {"event_id": decode_event_id(room.version, reference)}
                        for reference in summary.references
                    ]
                }
            if parts:
                bundles[event.event_nid] = orjson.dumps(parts)
        return bundles


def _latest_in_thread(
    event: TimelineEvent, summary: Summary, children: Mapping[int, TimelineEvent]
) -> TimelineEvent | None:
    """Return the newest event of the thread; what relates to something itself begins none."""
    if summary.latest_in_thread is None or _relation_type(event) is not None:
        return None
    return children.get(summary.latest_in_thread)


def _replacement(
    event: TimelineEvent, summary: Summary, children: Mapping[int, TimelineEvent]
) -> TimelineEvent | None:
    """Return the newest valid replacement; of equal timestamps the greatest event id wins."""
    if event.is_redacted or _relation_type(event) == REPLACE:
        return None
    candidates = [children[nid] for nid in summary.replacements if nid in children]
    return max(candidates, key=lambda c: (c.event.origin_server_ts, c.event.event_id), default=None)


def _relation_type(event: TimelineEvent) -> str | None:
    """A redaction takes the relation away."""
    relation = None if event.is_redacted else find_relation(event.event.content)
    return None if relation is None else relation.rel_type
