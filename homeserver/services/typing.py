"""Who is typing where. In memory only: it is over before it would be worth storing.

spec: client-server-api/#typing-notifications, server-server-api/#typing-notifications, v1.19
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall

from homeserver.clock import Clock, cancel_call
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER
from homeserver.engine.streams import Stream
from homeserver.services.room_access import RoomAccess

DEFAULT_TIMEOUT_MS = 30_000
_MIN_TIMEOUT_MS = 1_000
_MAX_TIMEOUT_MS = 120_000
_MAX_ROOMS = 100_000
_REMOTE_SECONDS = 60.0
"""Of other servers' users who are not heard of again."""
_REMIND_SECONDS = 40.0
"""Other servers are told again before they take somebody for gone."""


class TypingListener(Protocol):
    def __call__(self, room_id: RoomID, user_id: UserID, *, is_typing: bool) -> None: ...


class Typing:
    """`wake` is told the id of a room where somebody began or stopped."""

    def __init__(
        self,
        clock: Clock,
        stream: Stream,
        access: RoomAccess,
        wake: Callable[[Iterable[str]], None],
    ) -> None:
        self._clock = clock
        self._stream = stream
        self._access = access
        self._wake = wake
        self._rooms: dict[RoomID, dict[UserID, IDelayedCall]] = {}
        """Who is typing, with the call that ends it."""
        self._positions: dict[RoomID, int] = {}
        self._positions_known_from = 0
        self._listeners: list[TypingListener] = []
        self._reminders: dict[tuple[RoomID, UserID], IDelayedCall] = {}

    def subscribe(self, listener: TypingListener) -> None:
        """Call `listener` when somebody begins or ends, and again while he goes on."""
        self._listeners.append(listener)

    async def start(self, user_id: UserID, room_id: RoomID, timeout_ms: int) -> None:
        """Typing ends by itself after `timeout_ms`, which is brought within limits.

        Raises Forbidden for those not in the room.
        """
        await self._access.access_joined(user_id, room_id)
        seconds = min(max(timeout_ms, _MIN_TIMEOUT_MS), _MAX_TIMEOUT_MS) / 1000
        if self._start(user_id, room_id, seconds):
            self._remind(user_id, room_id)

    def start_remote(self, user_id: UserID, room_id: RoomID) -> None:
        """Say that a user of another server, who is in the room, types."""
        self._start(user_id, room_id, _REMOTE_SECONDS)

    def stop_remote(self, user_id: UserID, room_id: RoomID) -> None:
        self._end(room_id, user_id)

    def _start(self, user_id: UserID, room_id: RoomID, seconds: float) -> bool:
        typing = self._rooms.setdefault(room_id, {})
        is_new = user_id not in typing
        cancel_call(typing.get(user_id))
        typing[user_id] = self._clock.call_later(seconds, lambda: self._end(room_id, user_id))
        if is_new:
            self._changed(room_id)
        return is_new

    def _remind(self, user_id: UserID, room_id: RoomID) -> None:
        for listener in self._listeners:
            listener(room_id, user_id, is_typing=True)
        self._reminders[(room_id, user_id)] = self._clock.call_later(
            _REMIND_SECONDS, lambda: self._remind(user_id, room_id)
        )

    async def stop(self, user_id: UserID, room_id: RoomID) -> None:
        """Raises Forbidden for those not in the room."""
        await self._access.access_joined(user_id, room_id)
        self._end(room_id, user_id)

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Who has sent a message, or is no longer in the room, does not type."""
        for each in committed:
            event = each.event.event
            if event.state_key is None:
                self.message_sent(each.room_id, event.sender)
            elif event.type == MEMBER and event.membership != "join":
                self.message_sent(each.room_id, UserID(event.state_key))

    def message_sent(self, room_id: RoomID, user_id: UserID) -> None:
        self._end(room_id, user_id)

    def current(self, room_id: RoomID) -> JsonObject:
        """Return the content of the room's m.typing."""
        return {"user_ids": list(self._rooms.get(room_id, ()))}

    def position_of(self, room_id: RoomID) -> int:
        """Return a position not before that of the room's last change."""
        return self._positions.get(room_id, self._positions_known_from)

    def _end(self, room_id: RoomID, user_id: UserID) -> None:
        typing = self._rooms.get(room_id, {})
        ending = typing.pop(user_id, None)
        if ending is None:
            return
        cancel_call(ending)
        cancel_call(self._reminders.pop((room_id, user_id), None))
        if not typing:
            del self._rooms[room_id]
        self._changed(room_id)
        for listener in self._listeners:
            listener(room_id, user_id, is_typing=False)

    def _changed(self, room_id: RoomID) -> None:
        position = self._stream.allocate()
        if len(self._positions) >= _MAX_ROOMS:
            self._positions.clear()
            self._positions_known_from = position
        self._positions[room_id] = position
        self._stream.release(position)
        self._wake([room_id])
