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
_MAX_KEPT = 100_000
"""Events in all answers that are kept."""
_MANY = 1_000
"""Answers with fewer are always kept."""
_MAX_REPEATED = 20_000
"""Events in answers, counted each time that the work goes through them once more."""
_IDS_AN_EVENT = 20
"""To go through so many ids costs as much as to check one event."""


class Unanswered(Exception):
    """The server has not been asked this yet."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        super().__init__("another server is to be asked")
        self.ask = ask
        """Ask it, and remember what it says, even if that is a failure."""


class RecordedServer:
    """A remote server that is asked a limited number of times: for one event, say.

    Of large answers the last ones are kept: what is good of others is stored by then. It is asked
    nothing more when going through all of it again and again has become too much.
    """

    def __init__(self, server: RemoteServer, limit: int) -> None:
        self._server = server
        self._left = limit
        self._answers: dict[Hashable, object] = {}
        self._used: set[Hashable] = set()
        self._kept = 0
        self._repeated = 0

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
        async def ask() -> StateIDs:
            said = await self._server.get_state_ids(room_id, event_id)
            return StateIDs(said.state, ())  # nobody needs the rest

        return self._find(("state ids", room_id, event_id), ask)

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
            if question in self._used:
                self._repeated += _weight(answer)
            self._used.add(question)
            return answer  # type: ignore[return-value]  # of the same question
        if not self._left or self._repeated > _MAX_REPEATED:
            raise RemoteFailure("too many requests would be needed")

        async def ask() -> None:
            self._left -= 1
            try:
                self._keep(question, await request())
            except RemoteFailure as failure:
                self._keep(question, failure)

        raise Unanswered(ask)

    def _keep(self, question: Hashable, answer: object) -> None:
        before = [asked for asked, given in self._answers.items() if _is_large(given)]
        self._answers[question] = answer
        self._kept += _weight(answer)
        for oldest in before:
            if self._kept <= _MAX_KEPT:
                break
            self._kept -= _weight(self._answers.pop(oldest))


def _is_large(answer: object) -> bool:
    return isinstance(answer, (StatePDUs, list)) and _weight(answer) > _MANY


def _weight(answer: object) -> int:
    """Return how many events an answer has in it, or what costs as much."""
    match answer:
        case StatePDUs():
            return len(answer.state) + len(answer.auth_chain)
        case StateIDs():
            return len(answer.state) // _IDS_AN_EVENT
        case list():
            return len(answer)
    return 1
