"""Asking another server outside of a room's queue: what it said is remembered for the next try.

Whoever must not wait for a server asks a `RecordedServer`. What that cannot answer yet it raises,
as `Unanswered`; once that has been asked, the work begins again and finds the answer. Invariants:
nothing waits for a server but who has called `Unanswered.ask`; what is remembered is the text of
answers, within the bounds of `KeptAnswers`, and nothing that it was made from.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from homeserver.core.canonical_json import decode_json, encode_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.engine.kept_answers import KeptAnswer, KeptAnswers
from homeserver.engine.remote_server import RemoteFailure, RemoteServer, StateIDs, StatePDUs

_MAX_REPEATED = 20_000
"""Events in answers, counted each time that the work goes through them once more."""
_IDS_AN_EVENT = 20
"""To go through so many ids costs as much as to check one event."""
_MAX_REASON = 500


class Unanswered(Exception):
    """The server has not been asked this yet, or what it said was lost."""

    def __init__(self, ask: Callable[[], Awaitable[None]]) -> None:
        super().__init__("another server is to be asked")
        self.ask = ask
        """Ask it, and remember what it says, even if that is a failure."""


@dataclass(frozen=True, slots=True)
class _Said:
    text: bytes
    weight: int = 1
    """How many events it has in it, or what costs as much."""


@dataclass(frozen=True, slots=True)
class _Remembered:
    kept: KeptAnswer
    weight: int
    is_failure: bool


_Question = tuple[str, ...]


class RecordedServer:
    """A remote server that is asked a limited number of times: for one event, say.

    It is asked nothing more when going through its answers again and again has become too much.
    """

    def __init__(
        self, server: RemoteServer, room_id: RoomID, limit: int, kept: KeptAnswers
    ) -> None:
        """`room_id`: for whose sake it is asked."""
        self._server = server
        self._room_id = room_id
        self._left = limit
        self._kept = kept
        self._answers: dict[_Question, _Remembered] = {}
        self._used: set[_Question] = set()
        self._repeated = 0

    def forget(self) -> None:
        """Keep nothing more: what it was asked for is decided."""
        for remembered in self._answers.values():
            self._kept.let_go(remembered.kept)
        self._answers.clear()

    async def get_missing_events(
        self,
        room_id: RoomID,
        *,
        earliest: Sequence[EventID],
        latest: Sequence[EventID],
        limit: int,
    ) -> Sequence[JsonObject]:
        async def ask() -> _Said:
            return _pack(
                await self._server.get_missing_events(
                    room_id, earliest=earliest, latest=latest, limit=limit
                )
            )

        # Not `earliest`: the room moves on meanwhile, and what was said remains true.
        return _pdus(self._find(("missing events", room_id, _digest(sorted(latest))), ask))

    async def get_state_ids(self, room_id: RoomID, event_id: EventID) -> StateIDs:
        async def ask() -> _Said:
            said = await self._server.get_state_ids(room_id, event_id)
            weight = len(said.state) // _IDS_AN_EVENT
            return _Said(encode_json(list(said.state)), weight)  # nobody needs the rest

        state = self._find(("state ids", room_id, event_id), ask)
        return StateIDs(cast("list[EventID]", state), ())

    async def get_state(self, room_id: RoomID, event_id: EventID) -> StatePDUs:
        async def ask() -> _Said:
            said = await self._server.get_state(room_id, event_id)
            state, auth_chain = _pack(said.state), _pack(said.auth_chain)
            text = b"[%s,%s]" % (state.text, auth_chain.text)
            return _Said(text, state.weight + auth_chain.weight)

        state, auth_chain = cast("list[JsonValue]", self._find(("state", room_id, event_id), ask))
        return StatePDUs(_pdus(state), _pdus(auth_chain))

    async def get_event_auth(self, room_id: RoomID, event_id: EventID) -> Sequence[JsonObject]:
        async def ask() -> _Said:
            return _pack(await self._server.get_event_auth(room_id, event_id))

        return _pdus(self._find(("event auth", room_id, event_id), ask))

    async def get_event(self, event_id: EventID) -> JsonObject:
        async def ask() -> _Said:
            return _Said(encode_json(await self._server.get_event(event_id)))

        return cast("JsonObject", self._find(("event", event_id), ask))

    async def backfill(
        self, room_id: RoomID, event_ids: Sequence[EventID], limit: int
    ) -> Sequence[JsonObject]:
        async def ask() -> _Said:
            return _pack(await self._server.backfill(room_id, event_ids, limit))

        return _pdus(self._find(("backfill", room_id, _digest(event_ids)), ask))

    def _find(self, question: _Question, request: Callable[[], Awaitable[_Said]]) -> JsonValue:
        remembered = self._answers.get(question)
        text = None if remembered is None else remembered.kept.text
        if remembered is not None and text is not None:
            if remembered.is_failure:
                raise RemoteFailure(text.decode())
            if question in self._used:
                self._repeated += remembered.weight
            self._used.add(question)
            return decode_json(text)
        if not self._left or self._repeated > _MAX_REPEATED:
            raise RemoteFailure("too many requests would be needed")

        async def ask() -> None:
            self._left -= 1
            is_failure = False
            try:
                said = await request()
            except (RemoteFailure, JsonInvalid) as failure:
                is_failure = True
                # Not the failure itself, which holds on to all that was at hand when it was raised.
                said = _Said(str(failure)[:_MAX_REASON].encode(errors="replace"))
            kept = self._kept.keep(self._room_id, said.text)
            self._answers[question] = _Remembered(kept, said.weight, is_failure)

        raise Unanswered(ask)


def _pack(pdus: Sequence[JsonObject]) -> _Said:
    """Write PDUs as JSON; what is nested too deeply for that is no event."""
    texts = []
    for pdu in pdus:
        with suppress(JsonInvalid):
            texts.append(encode_json(pdu))
    return _Said(b"[%s]" % b",".join(texts), len(pdus))


def _pdus(value: JsonValue) -> list[JsonObject]:
    return cast("list[JsonObject]", value)


def _digest(event_ids: Sequence[EventID]) -> str:
    return hashlib.sha256("\n".join(event_ids).encode()).hexdigest()
