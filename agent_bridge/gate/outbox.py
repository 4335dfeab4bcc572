"""What the gate says, kept until the server has it: durable, in order for each room, once.

Invariant: what was put is sent exactly once as far as the server honors transaction ids, also over
restarts; a silent or refusing server delays words, never actions.
"""

import asyncio
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent_bridge.matrix import ClientError, MatrixClient, SharePolicy
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS outgoing (
    position INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,   -- what is said; the same thing is not said twice
    room TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT,               -- NULL once sent
    thread TEXT,                -- key of the event in whose thread it goes
    event_id TEXT               -- NULL until sent
);
CREATE INDEX IF NOT EXISTS outgoing_unsent ON outgoing (room, position) WHERE event_id IS NULL;
CREATE INDEX IF NOT EXISTS outgoing_events ON outgoing (event_id);
"""


class Room(StrEnum):
    APPROVALS = "approvals"
    """Encrypted to the pinned approvers' devices."""
    REQUESTS = "requests"
    """Plain text."""


@dataclass(frozen=True)
class Rooms:
    approvals: RoomID
    requests: RoomID


@dataclass(frozen=True)
class _Outgoing:
    key: str
    room: Room
    type: str
    content: JsonObject
    thread: str | None


class Outbox:
    def __init__(
        self, path: Path, client: MatrixClient, rooms: Rooms, policy: Callable[[], SharePolicy]
    ) -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        os.close(descriptor)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(_SCHEMA)
        self._client = client
        self._rooms = rooms
        self._policy = policy
        self._sending = asyncio.Lock()
        self.filled = asyncio.Event()

    def close(self) -> None:
        self._connection.close()

    def put(
        self, key: str, room: Room, event_type: str, content: JsonObject, thread: str | None = None
    ) -> None:
        """Say something; durable on return. Nothing happens when this key was said before.

        thread   key of an event of the same room that was put before
        """
        self._connection.execute(
            "INSERT OR IGNORE INTO outgoing (key, room, type, content, thread)"
            " VALUES (?, ?, ?, ?, ?)",
            (key, room.value, event_type, json.dumps(content), thread),
        )
        self.filled.set()

    def find_event_id(self, key: str) -> EventID | None:
        row = self._row("SELECT event_id FROM outgoing WHERE key = ?", key)
        return None if row is None or row[0] is None else EventID(str(row[0]))

    def find_key(self, event_id: str) -> str | None:
        """Return what an event of ours said."""
        row = self._row("SELECT key FROM outgoing WHERE event_id = ?", event_id)
        return None if row is None else str(row[0])

    async def deliver(self) -> bool:
        """Send everything; False when something has to wait for another try."""
        self.filled.clear()
        async with self._sending:
            return all([await self._deliver_room(room) for room in Room])

    async def _deliver_room(self, room: Room) -> bool:
        while (item := self._find_next(room)) is not None:
            try:
                event_id = await self._send(item)
            except ClientError as error:
                logger.warning("Not sent yet room=%s key=%s error=%r", room, item.key, error)
                return False
            self._connection.execute(
                "UPDATE outgoing SET event_id = ?, content = NULL WHERE key = ?",
                (event_id, item.key),
            )
        return True

    async def _send(self, item: _Outgoing) -> EventID:
        content = item.content
        if item.thread is not None:
            root = self.find_event_id(item.thread)
            content = {**content, "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        txn_id = hashlib.sha256(item.key.encode()).hexdigest()
        if item.room is Room.REQUESTS:
            return await self._client.send_event(
                self._rooms.requests, item.type, content, encrypt=False, txn_id=txn_id
            )
        return await self._client.send_event(
            self._rooms.approvals,
            item.type,
            content,
            encrypt=True,
            policy=self._policy(),
            txn_id=txn_id,
        )

    def _find_next(self, room: Room) -> _Outgoing | None:
        row = self._row(
            "SELECT key, type, content, thread FROM outgoing"
            " WHERE room = ? AND event_id IS NULL ORDER BY position LIMIT 1",
            room.value,
        )
        if row is None:
            return None
        key, event_type, content, thread = row
        return _Outgoing(
            str(key),
            room,
            str(event_type),
            json.loads(str(content)),
            None if thread is None else str(thread),
        )

    def _row(self, statement: str, *values: str) -> tuple[object, ...] | None:
        row: tuple[object, ...] | None = self._connection.execute(statement, values).fetchone()
        return row
