"""The requests of people, from the command to the last word about it.

Invariant: what must still be told to the gate or shown in the room follows from a row alone, so a
restart loses nothing: request_event NULL = not asked yet, version > shown_version = not shown yet.
"""

import sqlite3
from dataclasses import asdict, dataclass

from appservices.request_bot.contract import RANKS, Rank, Status, parse_status
from homeserver.core.canonical_json import decode_json, encode_json
from homeserver.core.identifiers import EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    request_id TEXT PRIMARY KEY,
    requester TEXT NOT NULL,
    chat_room TEXT NOT NULL,
    chat_event TEXT NOT NULL,
    thread_root TEXT NOT NULL,
    content BLOB NOT NULL,          -- the request event's content
    issued_ms INTEGER NOT NULL,
    deadline_ms INTEGER NOT NULL,   -- without news by then the request is closed as unanswered
    state TEXT NOT NULL,            -- the gate's word, or sent, undelivered, unanswered: ours
    rank INTEGER NOT NULL,          -- of the gate's last state
    is_open INTEGER NOT NULL,
    status BLOB,                    -- last status, missing keys filled from the ones before
    version INTEGER NOT NULL,       -- grows with each change worth showing
    shown_version INTEGER NOT NULL,
    notice_event TEXT,              -- our message in the chat room, edited from then on
    request_event TEXT,
    cancel_state TEXT NOT NULL      -- none, wanted, sent
);
CREATE INDEX IF NOT EXISTS requests_open ON requests (requester) WHERE is_open;
CREATE INDEX IF NOT EXISTS requests_due ON requests (issued_ms) WHERE is_open
    OR version > shown_version OR cancel_state = 'wanted';
"""

KEPT_CLOSED = 1_000


@dataclass(frozen=True)
class StoredRequest:
    request_id: str
    requester: UserID
    chat_room: RoomID
    chat_event: EventID
    thread_root: EventID
    content: JsonObject
    issued_ms: int
    deadline_ms: int
    state: str
    rank: Rank
    is_open: bool
    status: Status | None
    version: int
    shown_version: int
    notice_event: EventID | None
    request_event: EventID | None
    cancel_state: str

    @property
    def draft_id(self) -> str | None:
        return self.status.draft_id if self.status else None


class RequestsStore:
    """Needs SCHEMA in its database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def insert(
        self,
        content: JsonObject,
        *,
        requester: UserID,
        chat_room: RoomID,
        chat_event: EventID,
        thread_root: EventID,
        issued_ms: int,
        deadline_ms: int,
    ) -> None:
        """Add a request; once more with the same id changes nothing."""
        with self._database as database:
            database.execute(
                "INSERT OR IGNORE INTO requests (request_id, requester, chat_room, chat_event,"
                " thread_root, content, issued_ms, deadline_ms, state, rank, is_open, version,"
                " shown_version, cancel_state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'sent', 0, 1, 0, 0, 'none')",
                (
                    content["request_id"],
                    requester,
                    chat_room,
                    chat_event,
                    thread_root,
                    encode_json(content),
                    issued_ms,
                    deadline_ms,
                ),
            )
            database.execute(
                "DELETE FROM requests WHERE request_id IN (SELECT request_id FROM requests"
                " WHERE NOT is_open AND version = shown_version"
                " ORDER BY issued_ms DESC LIMIT -1 OFFSET ?)",
                (KEPT_CLOSED,),
            )

    def find(self, request_id: str) -> StoredRequest | None:
        found = self._select("SELECT * FROM requests WHERE request_id = ?", request_id)
        return found[0] if found else None

    def list_open(self, requester: UserID) -> list[StoredRequest]:
        return self._select(
            "SELECT * FROM requests WHERE is_open AND requester = ? ORDER BY issued_ms, rowid",
            requester,
        )

    def list_in_room(self, chat_room: RoomID) -> list[StoredRequest]:
        return self._select(
            "SELECT * FROM requests WHERE chat_room = ? ORDER BY issued_ms, rowid", chat_room
        )

    def count_open(self) -> int:
        return int(
            self._database.execute("SELECT count(*) FROM requests WHERE is_open").fetchone()[0]
        )

    def list_due(self) -> list[StoredRequest]:
        """List the requests with something to send, oldest first."""
        return self._select(
            "SELECT * FROM requests WHERE version > shown_version OR cancel_state = 'wanted'"
            " OR (is_open AND (notice_event IS NULL OR request_event IS NULL))"
            " ORDER BY issued_ms, rowid"
        )

    def apply_status(self, status: Status, *, deadline_ms: int) -> bool:
        """Take over what the gate says, unless a later word is already known.

        A request closed as unanswered opens again: the gate was only late.
        """
        request = self.find(status.request_id)
        if request is None or status.rank < request.rank or request.rank is Rank.CLOSED:
            return False
        known: JsonObject = asdict(request.status) if request.status else {}
        news: JsonObject = {
            key: value for key, value in asdict(status).items() if value is not None
        }
        # A reason explains one state and must not outlive it.
        merged = known | {"reason_code": None} | news
        if request.state == status.state and merged == known:
            return False
        self._write(
            "UPDATE requests SET state = ?, rank = ?, is_open = ?, status = ?, deadline_ms = ?,"
            " version = version + 1 WHERE request_id = ?",
            status.state,
            int(status.rank),
            status.rank is not Rank.CLOSED,
            encode_json(merged),
            deadline_ms,
            status.request_id,
        )
        return True

    def close(self, request_id: str, state: str) -> None:
        """Close without a word of the gate: `undelivered` or `unanswered`."""
        assert state not in RANKS
        self._write(
            "UPDATE requests SET state = ?, is_open = 0, version = version + 1"
            " WHERE request_id = ? AND is_open",
            state,
            request_id,
        )

    def forget(self, request_id: str) -> None:
        """Drop a request nobody can be told about."""
        self._write("DELETE FROM requests WHERE request_id = ?", request_id)

    def close_overdue(self, now_ms: int) -> int:
        return self._write(
            "UPDATE requests SET state = 'unanswered', is_open = 0, version = version + 1"
            " WHERE is_open AND deadline_ms < ?",
            now_ms,
        )

    def want_cancel(self, request_id: str) -> None:
        self._write(
            "UPDATE requests SET cancel_state = 'wanted'"
            " WHERE request_id = ? AND cancel_state = 'none'",
            request_id,
        )

    def note_cancel_sent(self, request_id: str) -> None:
        self._write("UPDATE requests SET cancel_state = 'sent' WHERE request_id = ?", request_id)

    def note_notice(self, request_id: str, event_id: EventID) -> None:
        self._write(
            "UPDATE requests SET notice_event = ? WHERE request_id = ?", event_id, request_id
        )

    def note_request_sent(self, request_id: str, event_id: EventID) -> None:
        self._write(
            "UPDATE requests SET request_event = ? WHERE request_id = ?", event_id, request_id
        )

    def note_shown(self, request_id: str, version: int) -> None:
        self._write(
            "UPDATE requests SET shown_version = ? WHERE request_id = ?", version, request_id
        )

    def _write(self, sql: str, *parameters: str | int | bytes) -> int:
        with self._database as database:
            return database.execute(sql, parameters).rowcount

    def _select(self, sql: str, *parameters: str | int) -> list[StoredRequest]:
        return [_make_request(row) for row in self._database.execute(sql, parameters)]


def _make_request(row: sqlite3.Row) -> StoredRequest:
    content = decode_json(row["content"])
    status = None if row["status"] is None else decode_json(row["status"])
    assert isinstance(content, dict)
    fields = {key: row[key] for key in row.keys()}  # noqa: SIM118 - a Row iterates over values
    return StoredRequest(
        **fields
        | {
            "content": content,
            "rank": Rank(row["rank"]),
            "is_open": bool(row["is_open"]),
            "status": parse_status(status) if isinstance(status, dict) else None,
        }
    )
