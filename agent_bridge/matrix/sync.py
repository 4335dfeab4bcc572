"""One round of /sync, from the server's answer to a batch of events with their proofs.

spec: client-server-api/#syncing, client-server-api/#e2e-extensions-to-sync, v1.19
Invariant: reading the same answer twice gives the same batch, and reading moves no token.
"""

import logging
from dataclasses import dataclass

from agent_bridge.matrix.api import MatrixAPI
from agent_bridge.matrix.crypto import Crypto
from agent_bridge.matrix.errors import (
    MatrixFailure,
    MegolmRefused,
    RequestRefused,
    ResponseMalformed,
)
from agent_bridge.matrix.events import (
    CryptoProblem,
    DecryptedEvent,
    HistoryPage,
    PlaintextEvent,
    RoomUpdate,
    SyncBatch,
    TimelineEvent,
    UndecryptableEvent,
    UndecryptableReason,
)
from agent_bridge.matrix.json_fields import (
    find_integer,
    find_object,
    find_text,
    object_in,
    objects_in,
    texts_in,
)
from agent_bridge.matrix.rooms import Rooms
from agent_bridge.matrix.store import Store
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

_GAP_PAGE_EVENTS = 100
_GAP_PAGES = 200


@dataclass(frozen=True, slots=True)
class _RawTimeline:
    """A room's part of an answer after its gap was filled, not yet decrypted."""

    room_id: RoomID
    state: list[JsonObject]
    events: list[JsonObject]
    gap_unfilled: bool


class SyncReader:
    """Fetches and decrypts batches; acknowledging them is the client's part."""

    def __init__(self, store: Store, api: MatrixAPI, crypto: Crypto, rooms: Rooms) -> None:
        self._store = store
        self._api = api
        self._crypto = crypto
        self._rooms = rooms

    async def read(self, timeout_seconds: float) -> SyncBatch:
        """Fetch and decrypt what came after the acknowledged token.

        1. Ask.  2. Note whose devices changed.  3. Open to-device messages, which bring room keys.
        4. Fill gaps and take in membership.  5. Ask about changed devices, so that senders are
        judged by what the server says now.  6. Decrypt.  7. Look at events that waited for keys.
        8. Give the server the keys it ran out of, and replace broken Olm sessions.
        """
        since = self._store.find_sync_token()
        answer = await self._api.sync(since, timeout_seconds)  # 1
        next_batch = find_text(answer, "next_batch")
        if next_batch is None:
            raise ResponseMalformed("an answer of /sync lacks next_batch")
        problems: list[CryptoProblem] = []
        device_lists = object_in(answer, "device_lists")
        self._crypto.lists.mark_outdated(map(UserID, texts_in(device_lists, "changed")))  # 2
        self._crypto.lists.untrack(map(UserID, texts_in(device_lists, "left")))
        payloads, new_sessions = self._crypto.receive_to_device(  # 3
            objects_in(object_in(answer, "to_device"), "events"), problems
        )
        timelines = await self._read_rooms(object_in(answer, "rooms"), since)  # 4
        problems += await self._crypto.query_outdated()  # 5
        with self._store.transaction():  # 6
            updates = {room_id: self._decrypt_room(room) for room_id, room in timelines.items()}
            late = self._decrypt_waiting(new_sessions)  # 7
        await self._maintain(answer)  # 8
        rooms = object_in(answer, "rooms")
        return SyncBatch(
            since=since,
            next_batch=next_batch,
            rooms=updates,
            invites={
                RoomID(room_id): tuple(objects_in(find_object(room, "invite_state"), "events"))
                for room_id, room in object_in(rooms, "invite").items()
            },
            left=tuple(map(RoomID, object_in(rooms, "leave"))),
            late=tuple(late),
            to_device=tuple(self._crypto.describe(payload) for payload in payloads),
            problems=tuple(problems),
            identity_changes=tuple(self._crypto.lists.list_identity_changes()),
        )

    async def _maintain(self, answer: JsonObject) -> None:
        """Do what the other side needs; its failure must not keep us from what has come."""
        try:
            unused = (
                texts_in(answer, "device_unused_fallback_key_types")
                if "device_unused_fallback_key_types" in answer
                else ("signed_curve25519",)  # a server that does not say is not asked to keep one
            )
            await self._crypto.upload_keys(object_in(answer, "device_one_time_keys_count"), unused)
            await self._crypto.heal_sessions()
        except MatrixFailure as error:
            logger.warning("Keys could not be uploaded or sessions replaced error=%r", error)

    # Rooms

    async def _read_rooms(self, rooms: JsonObject, since: str | None) -> dict[RoomID, _RawTimeline]:
        timelines = {}
        for section in ("join", "leave"):
            for name in object_in(rooms, section):
                room_id = RoomID(name)
                room = object_in(object_in(rooms, section), name)
                timelines[room_id] = await self._read_room(room_id, room, since)
        return timelines

    async def _read_room(
        self, room_id: RoomID, room: JsonObject, since: str | None
    ) -> _RawTimeline:
        timeline = object_in(room, "timeline")
        events = objects_in(timeline, "events")
        state = objects_in(object_in(room, "state"), "events")
        gap: list[JsonObject] = []
        unfilled = False
        if timeline.get("limited") is True and since is not None:
            prev_batch = find_text(timeline, "prev_batch")
            gap, unfilled = await self._fill_gap(room_id, prev_batch, since)
        known = {find_text(event, "event_id") for event in events}
        gap = [event for event in gap if find_text(event, "event_id") not in known]
        with self._store.transaction():
            for event in (*gap, *state, *events):
                if "state_key" in event:
                    self._rooms.apply_state(room_id, event)
        return _RawTimeline(room_id, state, [*gap, *events], unfilled)

    async def _fill_gap(
        self, room_id: RoomID, prev_batch: str | None, since: str
    ) -> tuple[list[JsonObject], bool]:
        """Fetch what lies between the last batch and a limited timeline, oldest first.

        Ends at the token of the last batch, at the last event we acknowledged, or where the server
        has no more; True when it ended for another reason.
        """
        last_event_id = self._rooms.find_last_event_id(room_id)
        newest_first: list[JsonObject] = []
        from_token = prev_batch
        for _ in range(_GAP_PAGES):
            if from_token is None:
                return newest_first[::-1], prev_batch is None
            try:
                page = await self._api.messages(
                    room_id, from_token=from_token, to_token=since, limit=_GAP_PAGE_EVENTS
                )
            except RequestRefused as refusal:
                logger.warning("A gap could not be filled errcode=%s", refusal.errcode)
                return newest_first[::-1], True
            for event in objects_in(page, "chunk"):
                if last_event_id is not None and event.get("event_id") == last_event_id:
                    return newest_first[::-1], False
                newest_first.append(event)
            end = find_text(page, "end")
            from_token = None if end == from_token or not page.get("chunk") else end
        return newest_first[::-1], True

    def _decrypt_room(self, room: _RawTimeline) -> RoomUpdate:
        state = [self.read_event(room.room_id, event) for event in room.state]
        events = [self.read_event(room.room_id, event, wait=True) for event in room.events]
        return RoomUpdate(
            room.room_id,
            tuple(event for event in state if isinstance(event, PlaintextEvent)),
            tuple(event for event in events if event is not None),
            room.gap_unfilled,
        )

    def _decrypt_waiting(self, sessions: set[str]) -> list[DecryptedEvent]:
        read = [
            self.read_event(room_id, raw) for room_id, raw in self._rooms.list_waiting(sessions)
        ]
        return [event for event in read if isinstance(event, DecryptedEvent)]

    # Events

    def read_event(
        self, room_id: RoomID, event: JsonObject, *, wait: bool = False
    ) -> TimelineEvent | None:
        """Turn an event as served into what can be said of it; None when it is not an event.

        wait keeps an event whose room key is missing until the key comes.
        """
        event_id = find_text(event, "event_id")
        sender = find_text(event, "sender")
        event_type = find_text(event, "type")
        if event_id is None or sender is None or event_type is None:
            logger.warning("The server sent something that is not an event")
            return None
        raw: JsonObject = {**event, "room_id": room_id}
        served_at = find_integer(event, "origin_server_ts") or 0
        content = object_in(event, "content")
        if event_type != "m.room.encrypted" or "state_key" in event:
            return PlaintextEvent(
                EventID(event_id),
                room_id,
                UserID(sender),
                event_type,
                content,
                find_text(event, "state_key"),
                served_at,
                raw,
            )
        try:
            payload, device = self._crypto.decrypt_room_event(
                room_id, UserID(sender), EventID(event_id), content
            )
        except MegolmRefused as refusal:
            if wait and refusal.reason is UndecryptableReason.MISSING_SESSION:
                session_id = find_text(content, "session_id") or ""
                self._rooms.put_waiting(room_id, EventID(event_id), session_id, raw)
            return UndecryptableEvent(
                EventID(event_id),
                room_id,
                UserID(sender),
                refusal.reason,
                refusal.detail,
                served_at,
                raw,
            )
        return DecryptedEvent(
            EventID(event_id),
            room_id,
            UserID(sender),
            payload.type,
            payload.content,
            served_at,
            find_object(content, "m.relates_to"),
            device,
            payload.session_id,
            payload.message_index,
            raw,
        )

    async def read_history(
        self, room_id: RoomID, from_token: str | None, limit: int
    ) -> HistoryPage:
        page = await self._api.messages(room_id, from_token=from_token, to_token=None, limit=limit)
        await self._crypto.query_outdated()
        with self._store.transaction():
            events = [self.read_event(room_id, event) for event in objects_in(page, "chunk")]
        return HistoryPage(
            tuple(event for event in events if event is not None), find_text(page, "end")
        )
