"""What is told of an event's children together with it: bundled aggregations.

spec: client-server-api/#aggregations-of-child-events, v1.19, and what #threading,
#event-replacements and #reference-relations say of server-side aggregation.

Invariant: nothing is told of children that the reader may not see, ignores, or that are redacted;
and a page whose events have no such children costs no query as long as memory has them.
Children of which no number says whether the reader sees them (`sight.bounds_of`) are looked up
by the states before them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import orjson

from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonValue
from homeserver.core.relations import REPLACE, find_relation
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.timeline_event import TimelineEvent, load_timeline_event
from homeserver.requester import Requester
from homeserver.services.client_events import NO_BUNDLES, Bundles, ClientEvents
from homeserver.services.ignored_users import IgnoredUsers
from homeserver.services.sight import Sight, bounds_of
from homeserver.storage import relations
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id
from homeserver.storage.relations import Reader, Summary


class Aggregations:
    def __init__(
        self,
        database: Database,
        live_rooms: LiveRooms,
        sight: Sight,
        ignored: IgnoredUsers,
        client_events: ClientEvents,
    ) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._sight = sight
        self._ignored = ignored
        self._client_events = client_events

    async def render(
        self,
        requester: Requester,
        room_id: RoomID,
        found: Sequence[TimelineEvent],
        *,
        with_room: bool = True,
        is_live: bool = False,
    ) -> list[bytes]:
        """Return the JSON of each event as the requester's device is shown it.

        with_room  False: without `room_id`, as in sync
        is_live    without aggregations: what relates to these events comes with them
        """
        bundles = NO_BUNDLES if is_live else await self._bundle(requester, room_id, found)
        return await self._client_events.render(
            requester, room_id, found, bundles, with_room=with_room
        )

    async def render_state(
        self,
        requester: Requester,
        room_id: RoomID,
        found: Sequence[TimelineEvent],
        *,
        with_room: bool = True,
    ) -> list[bytes]:
        """Return the JSON of state events, which have no aggregations; there may be many."""
        return await self._client_events.render(
            requester, room_id, found, looks_up=False, with_room=with_room
        )

    async def _bundle(
        self, requester: Requester, room_id: RoomID, found: Iterable[TimelineEvent]
    ) -> Bundles:
        """Sum up the children of these events, for one reader.

        1. State events have no aggregations; memory knows whether the room has any, and which of
           the recent events have children.
        2. One query sums up the children of all the others.
        3. Where forks or fetched history have children, it is asked which of them he sees.
        4. The newest event of a thread is told with its own children. It is none of a thread
           itself, so this ends here.
        """
        room = await self._live_rooms.find(room_id)
        if room is None:
            return {}
        if room.has_relations is None:
            has_relations = await self._db.read(relations.has_relations, room.room_nid)
            if room.has_relations is None:  # else there has been one in the meantime
                room.has_relations = has_relations
        asked = room.list_possible_parents(found)  # 1
        if not asked:
            return {}
        sure_from, sure_to = bounds_of(requester.user_id, room).sure
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
        asked_nids = [event.event_nid for event in asked]
        summaries = await self._db.read(
            relations.summarize_children, room.room_nid, asked_nids, reader
        )  # 2
        unsure = [nid for nid, one in summaries.by_parent.items() if one.has_unsure]
        if unsure:  # 3
            moments = await self._db.read(relations.list_unsure, room.room_nid, unsure, reader)
            shown = await self._sight.find_shown(requester.user_id, room, moments)
            if shown:
                summaries = await self._db.read(
                    relations.summarize_children,
                    room.room_nid,
                    asked_nids,
                    replace(reader, shown=list(shown)),
                )
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
        inner = await self._sum_up(requester, reader, room, below)  # 4
        latest_jsons = await self._render(
            requester, room, [latest for _, _, latest in told if latest is not None], inner
        )
        replacements = {
            event.event_nid: found
            for event, summary, _ in told
            if (found := _replacement(event, summary, children)) is not None
        }
        replacement_jsons = await self._render(requester, room, [*replacements.values()])
        bundles = {}
        for event, summary, latest in told:
            parts: dict[str, JsonValue | orjson.Fragment] = {}
            if latest is not None:
                parts["m.thread"] = orjson.Fragment(
                    b'{"latest_event":%s,"count":%d,"current_user_participated":%s}'
                    % (
                        latest_jsons[latest.event_nid],
                        summary.thread_count,
                        b"true" if summary.has_participated else b"false",
                    )
                )
            replacement = replacements.get(event.event_nid)
            if replacement is not None:
                parts["m.replace"] = orjson.Fragment(replacement_jsons[replacement.event_nid])
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

    async def _render(
        self,
        requester: Requester,
        room: LiveRoom,
        found: list[TimelineEvent],
        bundles: Bundles = NO_BUNDLES,
    ) -> dict[int, bytes]:
        jsons = await self._client_events.render(requester, room.room_id, found, bundles)
        return {event.event_nid: json for event, json in zip(found, jsons, strict=True)}


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
