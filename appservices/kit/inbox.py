"""The durable queue between the homeserver's transactions and the bot.

spec: application-service-api/#pushing-events, v1.19
Invariant: an event whose transaction was answered is either waiting here or was processed; each
event id enters once, in the order received.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from appservices.kit.errors import InboxFull
from homeserver.core.canonical_json import decode_json, encode_json
from homeserver.core.json_types import JsonObject, JsonValue

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
KEPT_TRANSACTIONS = 10_000
KEPT_EVENTS = 50_000

SCHEMA = """
-- Transactions answered with 200. The digest covers the event ids: a homeserver that lost its
-- database counts from 1 again, and its new transactions must not be mistaken for old ones.
CREATE TABLE IF NOT EXISTS transactions (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    txn_id TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL
);
-- Events in order of arrival. body is NULL once processed; the row stays to recognize a repeat.
CREATE TABLE IF NOT EXISTS inbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    body BLOB,
    failures INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS inbox_waiting ON inbox (position) WHERE body IS NOT NULL;
"""


@dataclass(frozen=True)
class WaitingEvent:
    position: int
    failures: int
    event: JsonObject


class Inbox:
    """Needs SCHEMA in its database."""

    def __init__(
        self,
        database: sqlite3.Connection,
        *,
        max_waiting: int = MAX_WAITING,
        kept_transactions: int = KEPT_TRANSACTIONS,
        kept_events: int = KEPT_EVENTS,
    ) -> None:
        self._database = database
        self._max_waiting = max_waiting
        self._kept_transactions = kept_transactions
        self._kept_events = kept_events

    def accept(self, txn_id: str, events: Sequence[JsonValue]) -> int:
        """Store a transaction durably and return how many of its events are new.

        An entry without an event id cannot be told apart from its repeat: it is logged and dropped,
        because refusing it would block the homeserver's queue for ever. Raises InboxFull.
        """
        named = [(name, event) for event in events if (name := _event_id(event)) is not None]
        if len(named) < len(events):
            logger.warning("events without id dropped count=%d", len(events) - len(named))
        digest = hashlib.sha256("\n".join(name for name, _ in named).encode()).digest()
        if self._is_known(txn_id, digest):
            return 0
        if self.count_waiting() + len(named) > self._max_waiting:
            raise InboxFull
        with self._database as database:
            added = database.executemany(
                "INSERT OR IGNORE INTO inbox (event_id, body) VALUES (?, ?)",
                [(name, encode_json(event)) for name, event in named],
            ).rowcount
            database.execute(
                "INSERT INTO transactions (txn_id, digest) VALUES (?, ?)"
                " ON CONFLICT (txn_id) DO UPDATE SET digest = excluded.digest",
                (txn_id, digest),
            )
            self._prune(database)
        return added

    def find_next(self) -> WaitingEvent | None:
        row = self._database.execute(
            "SELECT position, failures, body FROM inbox WHERE body IS NOT NULL"
            " ORDER BY position LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        event = decode_json(row["body"])
        assert isinstance(event, dict)
        return WaitingEvent(row["position"], row["failures"], event)

    def finish(self, position: int) -> None:
        with self._database as database:
            database.execute("UPDATE inbox SET body = NULL WHERE position = ?", (position,))

    def count_failure(self, position: int) -> None:
        with self._database as database:
            database.execute(
                "UPDATE inbox SET failures = failures + 1 WHERE position = ?", (position,)
            )

    def count_waiting(self) -> int:
        row = self._database.execute("SELECT count(*) FROM inbox WHERE body IS NOT NULL").fetchone()
        return int(row[0])

    def _is_known(self, txn_id: str, digest: bytes) -> bool:
        row = self._database.execute(
            "SELECT digest FROM transactions WHERE txn_id = ?", (txn_id,)
        ).fetchone()
        if row is None:
            return False
        if row["digest"] == digest:
            return True
        logger.warning("transaction id used again for other events txn_id=%s", txn_id)
        return False

    def _prune(self, database: sqlite3.Connection) -> None:
        database.execute(
            "DELETE FROM transactions"
            " WHERE position <= (SELECT max(position) FROM transactions) - ?",
            (self._kept_transactions,),
        )
        database.execute(
            "DELETE FROM inbox WHERE body IS NULL"
            " AND position <= (SELECT max(position) FROM inbox) - ?",
            (self._kept_events,),
        )


def _event_id(event: JsonValue) -> str | None:
    name = event.get("event_id") if isinstance(event, dict) else None
    return name if isinstance(name, str) and name else None
