"""What the signer has seen of its trusted gates, so that a decision or a bundle needs no server.

Invariant: everything in here came encrypted from a trusted gate's own device, or is a decision that
proves itself; nothing is overwritten.
"""

import json
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agent_bridge.core.decision import SignedDecision, decision_content, signed_of_content
from agent_bridge.core.pae import (
    DecisionID,
    Digest,
    DraftID,
    PayloadType,
    ReceiptID,
    decision_id_of,
    payload_digest,
    receipt_id_of,
)
from agent_bridge.core.receipt import Receipt, SignedReceipt, parse_receipt
from homeserver.core.identifiers import UserID

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS drafts (
    draft_id TEXT PRIMARY KEY, gate TEXT NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS decisions (
    decision_id TEXT PRIMARY KEY, event_id TEXT NOT NULL, content TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS receipts (
    receipt_id TEXT PRIMARY KEY, gate TEXT NOT NULL, draft_id TEXT NOT NULL,
    sequence INTEGER NOT NULL, payload BLOB NOT NULL, signature BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS outputs (
    draft_id TEXT NOT NULL, position INTEGER NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (draft_id, position)
);
CREATE TABLE IF NOT EXISTS grounds (          -- pins and policies by their digest
    digest TEXT PRIMARY KEY, gate TEXT NOT NULL, data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS heads (
    gate TEXT PRIMARY KEY, payload BLOB NOT NULL, signature BLOB NOT NULL
);
"""


@dataclass(frozen=True)
class SeenDraft:
    gate: UserID
    payload: bytes


class Record:
    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def put_draft(self, draft_id: DraftID, gate: UserID, payload: bytes) -> bool:
        """Keep a draft; False when it was kept before."""
        return self._put("INSERT OR IGNORE INTO drafts VALUES (?, ?, ?)", draft_id, gate, payload)

    def find_draft(self, draft_id: str) -> SeenDraft | None:
        row = self._row("SELECT gate, payload FROM drafts WHERE draft_id = ?", draft_id)
        return None if row is None else SeenDraft(UserID(str(row[0])), _octets(row[1]))

    def list_open_drafts(self) -> list[SeenDraft]:
        """Return the drafts without a receipt, oldest first; they may have expired."""
        rows = self._connection.execute(
            "SELECT gate, payload FROM drafts WHERE draft_id NOT IN"
            " (SELECT draft_id FROM receipts) ORDER BY rowid"
        )
        return [SeenDraft(UserID(str(gate)), _octets(payload)) for gate, payload in rows]

    def put_decision(self, signed: SignedDecision, event_id: str) -> bool:
        return self._put(
            "INSERT OR IGNORE INTO decisions VALUES (?, ?, ?)",
            decision_id_of(signed.payload),
            event_id,
            json.dumps(decision_content(signed)),
        )

    def find_decision(self, decision_id: DecisionID) -> SignedDecision | None:
        row = self._row("SELECT content FROM decisions WHERE decision_id = ?", decision_id)
        return None if row is None else signed_of_content(json.loads(str(row[0])))

    def put_receipt(self, gate: UserID, signed: SignedReceipt, receipt: Receipt) -> bool:
        return self._put(
            "INSERT OR IGNORE INTO receipts VALUES (?, ?, ?, ?, ?, ?)",
            receipt_id_of(signed.payload),
            gate,
            receipt.draft_id,
            receipt.sequence,
            signed.payload,
            signed.signature,
        )

    def find_receipt(self, draft_id: str) -> SignedReceipt | None:
        row = self._row("SELECT payload, signature FROM receipts WHERE draft_id = ?", draft_id)
        return None if row is None else SignedReceipt(_octets(row[0]), _octets(row[1]))

    def find_last_receipt(self, gate: UserID) -> tuple[ReceiptID, Receipt] | None:
        """Return a gate's receipt with the highest number."""
        row = self._row(
            "SELECT payload FROM receipts WHERE gate = ? ORDER BY sequence DESC LIMIT 1", gate
        )
        if row is None:
            return None
        payload = _octets(row[0])
        return receipt_id_of(payload), parse_receipt(payload)

    def put_output(self, draft_id: DraftID, position: int, payload: bytes) -> bool:
        return self._put(
            "INSERT OR IGNORE INTO outputs VALUES (?, ?, ?)", draft_id, position, payload
        )

    def list_output(self, draft_id: str, count: int) -> list[bytes]:
        """Return the first `count` chunks, in order."""
        rows = self._connection.execute(
            "SELECT payload FROM outputs WHERE draft_id = ? AND position < ? ORDER BY position",
            (draft_id, count),
        )
        return [_octets(payload) for (payload,) in rows]

    def put_grounds(self, kind: PayloadType, gate: UserID, data: bytes) -> bool:
        """Keep pins or a policy under the digest drafts and receipts name."""
        digest = payload_digest(kind, data)
        return self._put("INSERT OR IGNORE INTO grounds VALUES (?, ?, ?)", digest, gate, data)

    def find_grounds(self, digest: Digest) -> bytes | None:
        row = self._row("SELECT data FROM grounds WHERE digest = ?", digest)
        return None if row is None else _octets(row[0])

    def put_head(self, gate: UserID, payload: bytes, signature: bytes) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO heads VALUES (?, ?, ?)", (gate, payload, signature)
        )

    def find_head(self, gate: UserID) -> tuple[bytes, bytes] | None:
        row = self._row("SELECT payload, signature FROM heads WHERE gate = ?", gate)
        return None if row is None else (_octets(row[0]), _octets(row[1]))

    def _put(self, statement: str, *values: str | int | bytes) -> bool:
        return self._connection.execute(statement, values).rowcount == 1

    def _row(self, statement: str, *values: str) -> tuple[object, ...] | None:
        row: tuple[object, ...] | None = self._connection.execute(statement, values).fetchone()
        return row


def _octets(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
