"""What we keep of rooms: who is in them, how they are encrypted, and where our timeline ends.

spec: client-server-api/#syncing, client-server-api/#mroomencryption, v1.19
Invariant: the end of a timeline moves only when its batch is acknowledged, so no gap is taken for
filled because of a batch that nobody processed.
"""

from collections.abc import Iterable, Mapping

import orjson

from agent_bridge.matrix.events import SyncBatch
from agent_bridge.matrix.json_fields import find_integer, find_text, object_in
from agent_bridge.matrix.megolm import OutboundSessions, RotationLimits
from agent_bridge.matrix.store import Store, blob, integer, text
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject

_READERS = ("join", "invite")
_DEPARTED = ("leave", "ban")
_MOST_WAITING = 10_000


class Rooms:
    """The tables rooms, members and waiting_events."""

    def __init__(self, store: Store, outbound: OutboundSessions) -> None:
        self._store = store
        self._outbound = outbound

    # State

    def apply_state(self, room_id: RoomID, event: JsonObject) -> None:
        """Take in one state event: membership and encryption are all we keep."""
        event_type = find_text(event, "type")
        state_key = find_text(event, "state_key")
        content = object_in(event, "content")
        if event_type == "m.room.member" and state_key is not None:
            self.put_member(room_id, UserID(state_key), find_text(content, "membership") or "leave")
        elif event_type == "m.room.encryption" and state_key == "":
            self._store.execute(
                "INSERT INTO rooms (room_id, encryption) VALUES (?1, ?2) ON CONFLICT (room_id)"
                " DO UPDATE SET encryption = coalesce(encryption, excluded.encryption)",
                room_id,
                orjson.dumps(content),
            )

    def put_member(self, room_id: RoomID, user_id: UserID, membership: str) -> None:
        """Note a membership; who departs may keep the room key, so the next message gets a new."""
        self._store.execute(
            "INSERT OR REPLACE INTO members (room_id, user_id, membership) VALUES (?, ?, ?)",
            room_id,
            user_id,
            membership,
        )
        if membership in _DEPARTED:
            self._outbound.discard(room_id)

    def members(self, room_id: RoomID) -> Mapping[UserID, str]:
        rows = self._store.rows(
            "SELECT user_id, membership FROM members WHERE room_id = ?", room_id
        )
        return {UserID(text(user_id)): text(membership) for user_id, membership in rows}

    def list_readers(self, room_id: RoomID) -> list[UserID]:
        """Return who is in the room or invited to it: they may read what is sent now."""
        return [user for user, state in self.members(room_id).items() if state in _READERS]

    def rotation_limits(self, room_id: RoomID) -> RotationLimits:
        """Return our limits, or the room's where they are stricter."""
        row = self._store.find_row("SELECT encryption FROM rooms WHERE room_id = ?", room_id)
        if row is None or row[0] is None:
            return RotationLimits()
        content: JsonObject = orjson.loads(blob(row[0]))
        ours = RotationLimits()
        messages = find_integer(content, "rotation_period_msgs") or ours.messages
        milliseconds = find_integer(content, "rotation_period_ms") or ours.milliseconds
        return RotationLimits(
            min(max(messages, 1), ours.messages),
            min(max(milliseconds, 1), ours.milliseconds),
        )

    # Where timelines end

    def find_last_event_id(self, room_id: RoomID) -> str | None:
        row = self._store.find_row("SELECT last_event_id FROM rooms WHERE room_id = ?", room_id)
        return None if row is None or row[0] is None else text(row[0])

    def acknowledge(self, batch: SyncBatch) -> None:
        """Move the ends of timelines and forget the waiting events that were delivered."""
        for update in batch.rooms.values():
            if update.events:
                self._store.execute(
                    "INSERT INTO rooms (room_id, last_event_id) VALUES (?, ?) ON CONFLICT (room_id)"
                    " DO UPDATE SET last_event_id = excluded.last_event_id",
                    update.room_id,
                    update.events[-1].event_id,
                )
        for event in batch.late:
            self._store.execute("DELETE FROM waiting_events WHERE event_id = ?", event.event_id)

    # Events whose key has not come

    def put_waiting(
        self, room_id: RoomID, event_id: EventID, session_id: str, raw: JsonObject
    ) -> None:
        self._store.execute(
            "INSERT INTO waiting_events (event_id, room_id, session_id, raw) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            event_id,
            room_id,
            session_id,
            orjson.dumps(raw),
        )
        self._store.execute(
            "DELETE FROM waiting_events WHERE arrived <="
            " (SELECT max(arrived) FROM waiting_events) - ?",
            _MOST_WAITING,
        )

    def list_waiting(self, sessions: Iterable[str]) -> list[tuple[RoomID, JsonObject]]:
        """Return the events waiting for these sessions, in order of arrival."""
        found = []
        for session_id in sessions:
            found += self._store.rows(
                "SELECT arrived, room_id, raw FROM waiting_events WHERE session_id = ?", session_id
            )
        return [
            (RoomID(text(room_id)), orjson.loads(blob(raw)))
            for _, room_id, raw in sorted(found, key=lambda row: integer(row[0]))
        ]
