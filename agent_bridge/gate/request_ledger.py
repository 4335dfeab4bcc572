"""Requests and what was last said of each, so that a repeated one gets the same answer.

Contract: a request is known by its sender and request id; its content never changes, and a status
of it is said once for each change. Invariant: no request becomes two drafts.
"""

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from agent_bridge.gate.outbox import Outbox, Room
from homeserver.core.json_types import JsonObject

STATUS_EVENT = "org.countersign.request.status"

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS requests (
    request_key TEXT PRIMARY KEY,
    request_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    digest TEXT NOT NULL,               -- of the content
    requester TEXT NOT NULL,
    statuses INTEGER NOT NULL DEFAULT 0,
    status TEXT                         -- the latest, whole
);
"""


class Arrival(Enum):
    NEW = "new"
    KNOWN = "known"
    """The same request once more."""
    OTHER = "other"
    """A different request under a known id."""


@dataclass(frozen=True)
class RequestEntry:
    request_key: str
    request_id: str
    requester: str


class RequestLedger:
    def __init__(self, path: Path, outbox: Outbox) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(_SCHEMA)
        self._outbox = outbox

    def close(self) -> None:
        self._connection.close()

    def note(
        self, sender: str, request_id: str, event_id: str, content: JsonObject
    ) -> tuple[Arrival, RequestEntry]:
        """Write a request down and say whether it was known."""
        request_key = f"{sender} {request_id}"
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        entry = RequestEntry(request_key, request_id, str(content.get("requester", "")))
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO requests (request_key, request_id, event_id, digest, requester)"
            " VALUES (?, ?, ?, ?, ?)",
            (request_key, request_id, event_id, digest, entry.requester),
        )
        if cursor.rowcount == 1:
            return Arrival.NEW, entry
        row = self._row("SELECT digest, status FROM requests WHERE request_key = ?", request_key)
        assert row is not None  # it could not be inserted, so it is there
        if row[0] != digest:
            return Arrival.OTHER, entry
        # Without a status the gate stopped before it had decided anything.
        return (Arrival.NEW if row[1] is None else Arrival.KNOWN), entry

    def find(self, request_key: str) -> RequestEntry | None:
        row = self._row(
            "SELECT request_id, requester FROM requests WHERE request_key = ?", request_key
        )
        return None if row is None else RequestEntry(request_key, str(row[0]), str(row[1]))

    def say(self, request_key: str, state: str, **fields: str | int | bool | None) -> None:
        """Queue a status; fields not given keep their former value, None included."""
        row = self._row(
            "SELECT request_id, event_id, status FROM requests WHERE request_key = ?", request_key
        )
        if row is None:
            return
        request_id, event_id, former = str(row[0]), str(row[1]), row[2]
        status: JsonObject = {} if former is None else json.loads(str(former))
        status |= {"request_id": request_id, "state": state}
        status |= {name: value for name, value in fields.items() if value is not None}
        status["m.relates_to"] = {"rel_type": "m.reference", "event_id": event_id}
        self._connection.execute(
            "UPDATE requests SET status = ?, statuses = statuses + 1 WHERE request_key = ?",
            (json.dumps(status), request_key),
        )
        self._queue(request_key, status)

    def repeat(self, request_key: str) -> None:
        """Queue the latest status again, for a sender that asks again."""
        row = self._row("SELECT status FROM requests WHERE request_key = ?", request_key)
        if row is None or row[0] is None:
            return
        self._connection.execute(
            "UPDATE requests SET statuses = statuses + 1 WHERE request_key = ?", (request_key,)
        )
        self._queue(request_key, json.loads(str(row[0])))

    def _queue(self, request_key: str, status: JsonObject) -> None:
        row = self._row("SELECT statuses FROM requests WHERE request_key = ?", request_key)
        assert row is not None
        self._outbox.put(f"status:{request_key}.{row[0]}", Room.REQUESTS, STATUS_EVENT, status)

    def _row(self, statement: str, *values: str) -> tuple[object, ...] | None:
        row: tuple[object, ...] | None = self._connection.execute(statement, values).fetchone()
        return row
