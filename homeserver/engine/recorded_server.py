"""Asking another server outside of a room's queue: what it said is remembered for the next try.

Whoever must not wait for a server asks a `RecordedServer`. What that cannot answer yet it raises,
as `Unanswered`; once that has been asked, the work begins again and finds the answer. Invariant:
nothing waits for a server but who has called `Unanswered.ask`.
"""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.engine.remote_server import RemoteFailure, RemoteServer, StateIDs, StatePDUs

T = TypeVar("T")


class Unanswered(Exception):
    """The server has not been asked this yet."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        super().__init__("another server is to be asked")
        self.ask = ask
        """Ask it, and remember what it says, even if that is a failure."""


class RecordedServer:
    """A remote server that is asked a limited number of times: for one event, say."""

    def __init__(self, server: RemoteServer, limit: int) -> None:
        self._server = server
        self._left = limit
        self._answers: dict[Hashable, object] = {}

    async def get_missing_events(
        self,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
    ) -> Sequence[JsonObject]:
        # Not `earliest`: the room moves on meanwhile, and what was said remains true.
        return self._find(
            ("missing events", room_id, *sorted(latest)),
            lambda: self._server.get_missing_events(
                room_id, earliest=earliest, latest=latest, limit=limit
            ),
        )

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        return self._find(
            ("state ids", room_id, event_id), lambda: self._server.get_state_ids(room_id, event_id)
        )

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        return self._find(
            ("state", room_id, event_id), lambda: self._server.get_state(room_id, event_id)
        )

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[JsonObject]:
        return self._find(
            ("event auth", room_id, event_id),
            lambda: self._server.get_event_auth(room_id, event_id),
        )

    async def get_event(self, event_id: EventID) -> JsonObject:
        return self._find(("event", event_id), lambda: self._server.get_event(event_id))

    async def backfill(
        self, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[JsonObject]:
        return self._find(
            ("backfill", room_id, *event_ids),
            lambda: self._server.backfill(room_id, event_ids, limit),
        )

    def _find(self, question: Hashable, request: Callable[[], Awaitable[T]]) -> T:
        if question in self._answers:
            answer = self._answers[question]
            if isinstance(answer, RemoteFailure):
                raise answer
            return answer  # type: ignore[return-value]  # of the same question
        if not self._left:
            raise RemoteFailure("too many requests would be needed")

        async def ask() -> None:
            self._left -= 1
            try:
                self._answers[question] = await request()
            except RemoteFailure as failure:
                self._answers[question] = failure

        raise Unanswered(ask)
