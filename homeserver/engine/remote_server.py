"""What the engine asks of another server about a room's event graph.

spec: server-server-api/#backfilling-and-retrieving-missing-events, #retrieving-events, v1.19.
Whatever comes back is hostile until it has passed the checks of `inbound_events`. An answer is
bounded in size and time by whoever implements this; a failure of any kind is RemoteFailure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject


class RemoteFailure(Exception):
    """The server gave no answer, or none that makes sense."""


@dataclass(frozen=True, slots=True)
class StateIDs:
    """The state before an event."""

    state: Sequence[EventID]
    auth_chain: Sequence[EventID]


@dataclass(frozen=True, slots=True)
class StatePDUs:
    """The same, with the events themselves."""

    state: Sequence[JsonObject]
    auth_chain: Sequence[JsonObject]


class RemoteServer(Protocol):
    async def get_missing_events(
        self,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
    ) -> Sequence[JsonObject]:
        """Return events that lie between, walking back from `latest`."""
        ...

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs: ...

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs: ...

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[JsonObject]:
        """Return the event's auth chain."""
        ...

    async def get_event(self, event_id: EventID) -> JsonObject: ...

    async def backfill(
        self, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[JsonObject]:
        """Return these events and what came before them."""
        ...


class CountedServer:
    """A remote server that is asked a limited number of times: for one event, say."""

    def __init__(self, server: RemoteServer | None, limit: int) -> None:
        """`server`: None for an event of which nothing can be missing."""
        self._server = server
        self._left = limit

    def _count(self) -> RemoteServer:
        if self._server is None or not self._left:
            raise RemoteFailure("too many requests would be needed")
        self._left -= 1
        return self._server

    async def get_missing_events(
        self,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
    ) -> Sequence[JsonObject]:
        return await self._count().get_missing_events(
            room_id, earliest=earliest, latest=latest, limit=limit
        )

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        return await self._count().get_state_ids(room_id, event_id)

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        return await self._count().get_state(room_id, event_id)

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[JsonObject]:
        return await self._count().get_event_auth(room_id, event_id)

    async def get_event(self, event_id: EventID) -> JsonObject:
        return await self._count().get_event(event_id)

    async def backfill(
        self, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[JsonObject]:
        return await self._count().backfill(room_id, event_ids, limit)
