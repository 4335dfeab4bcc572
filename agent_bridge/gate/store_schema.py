"""The tables of the gate's store.

protocol: docs/cosign-protocol.md, section 10. Invariant: what proves that something
happened (consumed drafts, seen decisions and messages, receipts) can be added to and never
changed or removed.
"""

APPLICATION_ID = 0x43534754
FORMAT = 1

SCHEMA = """
-- One row: the number the next draft gets.
CREATE TABLE sequence (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    next INTEGER NOT NULL
) STRICT;
INSERT INTO sequence (only, next) VALUES (1, 1);

CREATE TABLE drafts (
    draft_id    TEXT PRIMARY KEY,
    payload     BLOB NOT NULL,
    nonce       BLOB NOT NULL UNIQUE,
    -- who asked and under which request id, so that a resent request finds its draft
    request_key TEXT NOT NULL UNIQUE,
    state       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    changed_at  INTEGER NOT NULL
) STRICT;

-- The one use of a draft. Written, and on disk, before anything is launched.
CREATE TABLE consumed (
    draft_id    TEXT PRIMARY KEY REFERENCES drafts,
    consumed_at INTEGER NOT NULL
) STRICT;

CREATE TABLE decisions (
    decision_id TEXT PRIMARY KEY,
    draft_id    TEXT NOT NULL REFERENCES drafts,
    payload     BLOB NOT NULL,
    received_at INTEGER NOT NULL
) STRICT;

-- Everything that counts only the first time, such as a Megolm (session, index).
CREATE TABLE seen (
    kind TEXT NOT NULL,
    key  TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE receipts (
    sequence   INTEGER PRIMARY KEY,
    receipt_id TEXT NOT NULL UNIQUE,
    draft_id   TEXT NOT NULL UNIQUE REFERENCES drafts,
    payload    BLOB NOT NULL,
    signature  BLOB NOT NULL
) STRICT;

CREATE TRIGGER drafts_stay BEFORE DELETE ON drafts
BEGIN SELECT RAISE(ABORT, 'drafts are never deleted'); END;
CREATE TRIGGER consumed_stay BEFORE DELETE ON consumed
BEGIN SELECT RAISE(ABORT, 'consumed is append-only'); END;
CREATE TRIGGER consumed_fixed BEFORE UPDATE ON consumed
BEGIN SELECT RAISE(ABORT, 'consumed is append-only'); END;
CREATE TRIGGER decisions_stay BEFORE DELETE ON decisions
BEGIN SELECT RAISE(ABORT, 'decisions is append-only'); END;
CREATE TRIGGER decisions_fixed BEFORE UPDATE ON decisions
BEGIN SELECT RAISE(ABORT, 'decisions is append-only'); END;
CREATE TRIGGER seen_stay BEFORE DELETE ON seen
BEGIN SELECT RAISE(ABORT, 'seen is append-only'); END;
CREATE TRIGGER seen_fixed BEFORE UPDATE ON seen
BEGIN SELECT RAISE(ABORT, 'seen is append-only'); END;
CREATE TRIGGER receipts_stay BEFORE DELETE ON receipts
BEGIN SELECT RAISE(ABORT, 'receipts is append-only'); END;
CREATE TRIGGER receipts_fixed BEFORE UPDATE ON receipts
BEGIN SELECT RAISE(ABORT, 'receipts is append-only'); END;
"""

TABLES = frozenset({"sequence", "drafts", "consumed", "decisions", "seen", "receipts"})
TRIGGERS = 9
