"""Events that relate to an event, and the threads of a room.

spec: client-server-api/#relationships-api, #querying-threads-in-a-room, v1.19.
"""

from typing import Literal

import orjson

from homeserver.core.identifiers import EventID, RoomID
from homeserver.requester import Requester
from homeserver.services.aggregations import Aggregations
from homeserver.services.relations import ChildrenWanted, Relations
from homeserver.services.threads import RoomThreads
from homeserver.transport.endpoint import Auth, RawJSON, endpoint


class RelationsAPI:
    """Children of events."""

    def __init__(
        self, relations: Relations, threads: RoomThreads, aggregations: Aggregations
    ) -> None:
        self._relations = relations
        self._threads = threads
        self._aggregations = aggregations

    @endpoint(
        "getRelatingEvents", "GET", "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def get_relating_events(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        *,
        from_: str | None = None,
        to: str | None = None,
        limit: int | None = None,
        dir_: Literal["b", "f"] = "b",
        recurse: bool | None = None,
    ) -> RawJSON:
        wanted = ChildrenWanted(
            room_id,
            event_id,
            start=from_,
            until=to,
            limit=limit,
            backwards=dir_ == "b",
            recurse=recurse or False,
        )
        return await self._page(requester, wanted, tells_depth=recurse is not None)

    @endpoint(
        "getRelatingEventsWithRelType", "GET",
        "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def get_relating_events_with_rel_type(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        rel_type: str,
        *,
        from_: str | None = None,
        to: str | None = None,
        limit: int | None = None,
        dir_: Literal["b", "f"] = "b",
        recurse: bool | None = None,
    ) -> RawJSON:
        wanted = ChildrenWanted(
            room_id,
            event_id,
            rel_type,
            start=from_,
            until=to,
            limit=limit,
            backwards=dir_ == "b",
            recurse=recurse or False,
        )
        return await self._page(requester, wanted, tells_depth=recurse is not None)

    @endpoint(
        "getRelatingEventsWithRelTypeAndEventType", "GET",
        "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}",
        auth=Auth.CLIENT,
    )  # fmt: skip
    async def get_relating_events_with_rel_type_and_event_type(
        self,
        requester: Requester,
        room_id: RoomID,
        event_id: EventID,
        rel_type: str,
        event_type: str,
        *,
        from_: str | None = None,
        to: str | None = None,
        limit: int | None = None,
        dir_: Literal["b", "f"] = "b",
        recurse: bool | None = None,
    ) -> RawJSON:
        wanted = ChildrenWanted(
            room_id,
            event_id,
            rel_type,
            event_type,
            start=from_,
            until=to,
            limit=limit,
            backwards=dir_ == "b",
            recurse=recurse or False,
        )
        return await self._page(requester, wanted, tells_depth=recurse is not None)

    async def _page(
        self, requester: Requester, wanted: ChildrenWanted, *, tells_depth: bool
    ) -> RawJSON:
        page = await self._relations.list_children(requester.user_id, wanted)
        chunk = await self._aggregations.render(requester, wanted.room_id, page.events)
        parts = [b'{"chunk":[', b",".join(chunk), b"]"]
        if page.next_batch is not None:
            parts += [b',"next_batch":', orjson.dumps(page.next_batch)]
        if wanted.start is not None:
            parts += [b',"prev_batch":', orjson.dumps(wanted.start)]
        if tells_depth:
            parts += [b',"recursion_depth":', orjson.dumps(page.depth)]
        return RawJSON(b"".join([*parts, b"}"]))

    @endpoint(
        "getThreadRoots", "GET", "/_matrix/client/v1/rooms/{roomId}/threads",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def get_thread_roots(
        self,
        requester: Requester,
        room_id: RoomID,
        *,
        include: Literal["all", "participated"] = "all",
        limit: int | None = None,
        from_: str | None = None,
    ) -> RawJSON:
        page = await self._threads.list_roots(
            requester.user_id,
            room_id,
            only_participated=include == "participated",
            start=from_,
            limit=limit,
        )
        chunk = await self._aggregations.render(requester, room_id, page.roots)
        parts = [b'{"chunk":[', b",".join(chunk), b"]"]
        if page.next_batch is not None:
            parts += [b',"next_batch":', orjson.dumps(page.next_batch)]
        return RawJSON(b"".join([*parts, b"}"]))
