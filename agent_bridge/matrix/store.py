"""The client's durable state: one SQLite file that one process at a time may open.

spec: client-server-api/#end-to-end-encryption, v1.19
Invariant: a ratchet is stored before what it encrypted leaves the process, and secrets are stored
only sealed with a key that lies in its own file.
"""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import nacl.exceptions
import nacl.secret

from agent_bridge.matrix.errors import StoreCorrupt, StoreLocked, StoreMissing, StoreTaken
from homeserver.core.identifiers import DeviceID, UserID

SqlValue = str | bytes | int | None

_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE account (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    base_url TEXT NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    access_token BLOB NOT NULL,          -- sealed
    olm_account TEXT NOT NULL,           -- vodozemac pickle
    keys_uploaded INTEGER NOT NULL DEFAULT 0,
    cross_signing BLOB,                  -- sealed: master, self-signing, user-signing seed
    next_batch TEXT                      -- token of the last acknowledged batch
);
CREATE TABLE olm_sessions (
    session_id TEXT PRIMARY KEY,
    sender_key TEXT NOT NULL,
    pickle TEXT NOT NULL,
    used INTEGER NOT NULL                -- grows with each use: the newest is used to encrypt
);
CREATE INDEX olm_sessions_by_sender ON olm_sessions (sender_key, used);
CREATE TABLE inbound_sessions (
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    sender_key TEXT NOT NULL,            -- Curve25519 of the device whose Olm message brought it
    user_id TEXT NOT NULL,
    ed25519 TEXT NOT NULL,
    pickle TEXT NOT NULL,
    PRIMARY KEY (room_id, session_id, sender_key)
) WITHOUT ROWID;
CREATE TABLE outbound_sessions (
    room_id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    pickle TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    messages INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE outbound_shares (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    curve25519 TEXT NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,     -- 0 = may have it, 1 = the server took it
    PRIMARY KEY (room_id, user_id, device_id)
) WITHOUT ROWID;
CREATE TABLE tracked_users (
    user_id TEXT PRIMARY KEY,
    outdated INTEGER NOT NULL            -- generation of the last change; 0 = up to date
) WITHOUT ROWID;
CREATE TABLE devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    ed25519 TEXT NOT NULL,
    curve25519 TEXT NOT NULL,
    keys BLOB NOT NULL,                  -- as served, self-signature checked
    revoked INTEGER NOT NULL DEFAULT 0,  -- never goes back to 0
    PRIMARY KEY (user_id, device_id)
) WITHOUT ROWID;
CREATE INDEX devices_by_curve25519 ON devices (curve25519);
CREATE TABLE identities (
    user_id TEXT PRIMARY KEY,
    master_key TEXT NOT NULL,            -- the key itself, to compare with pins
    master BLOB NOT NULL,                -- and the objects as served, signatures checked
    self_signing BLOB,
    user_signing BLOB
) WITHOUT ROWID;
CREATE TABLE pins (
    user_id TEXT PRIMARY KEY,
    master_key TEXT NOT NULL,
    explicit INTEGER NOT NULL            -- 0 = first seen, 1 = pinned by the owner of this store
) WITHOUT ROWID;
CREATE TABLE replays (
    session_id TEXT NOT NULL,
    message_index INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (session_id, message_index)
) WITHOUT ROWID;
CREATE TABLE rooms (
    room_id TEXT PRIMARY KEY,
    last_event_id TEXT,                  -- where gap filling stops
    encryption BLOB                      -- content of the first m.room.encryption seen
) WITHOUT ROWID;
CREATE TABLE members (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    membership TEXT NOT NULL,
    PRIMARY KEY (room_id, user_id)
) WITHOUT ROWID;
CREATE TABLE waiting_events (
    arrived INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    raw BLOB NOT NULL
);
CREATE INDEX waiting_events_by_session ON waiting_events (session_id);
CREATE TABLE to_device_done (
    digest BLOB PRIMARY KEY,             -- of a message decrypted in a batch not yet acknowledged
    event BLOB NOT NULL                  -- sealed
) WITHOUT ROWID;
CREATE TABLE healed_sessions (
    sender_key TEXT PRIMARY KEY,
    at_ms INTEGER NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Credentials:
    base_url: str
    user_id: UserID
    device_id: DeviceID
    access_token: str


class Store:
    """The open database with its lock and sealing key; the tables belong to the modules using them.

    Calls are synchronous and short; a transaction never spans an await.
    """

    def __init__(self, directory: Path, *, create: bool) -> None:
        """Open or create the store. Raises StoreLocked, StoreMissing, StoreCorrupt."""
        database = directory / "client.sqlite3"
        if create:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        elif not database.exists():
            raise StoreMissing(f"no Matrix account in {directory}")
        self._lock_descriptor = _lock(directory / "lock")
        try:
            self.pickle_key = _load_key(directory / "key", create=not database.exists())
            self._database = _open_database(database)
        except BaseException:
            os.close(self._lock_descriptor)
            raise
        self._depth = 0

    def close(self) -> None:
        """Close the database and give the directory free; again is harmless."""
        if self._lock_descriptor >= 0:
            self._database.close()
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside together or nothing; nested use joins the outer one."""
        if self._depth == 0:
            self._database.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self._database.execute("ROLLBACK")
            raise
        self._depth -= 1
        if self._depth == 0:
            self._database.execute("COMMIT")

    def execute(self, sql: str, *values: SqlValue) -> int:
        """Run one statement, in its own transaction unless inside one; return the rows changed."""
        return self._database.execute(sql, values).rowcount

    def execute_many(self, sql: str, rows: Sequence[tuple[SqlValue, ...]]) -> None:
        self._database.executemany(sql, rows)

    def rows(self, sql: str, *values: SqlValue) -> list[tuple[SqlValue, ...]]:
        return self._database.execute(sql, values).fetchall()

    def find_row(self, sql: str, *values: SqlValue) -> tuple[SqlValue, ...] | None:
        row: tuple[SqlValue, ...] | None = self._database.execute(sql, values).fetchone()
        return row

    def seal(self, secret: bytes) -> bytes:
        return bytes(nacl.secret.SecretBox(self.pickle_key).encrypt(secret))

    def unseal(self, sealed: bytes) -> bytes:
        """Open what seal() closed. Raises StoreCorrupt."""
        try:
            return nacl.secret.SecretBox(self.pickle_key).decrypt(sealed)
        except nacl.exceptions.CryptoError as error:
            raise StoreCorrupt("a sealed value does not open with this key") from error

    # The account

    def check_empty(self) -> None:
        """Raise StoreTaken when there is an account already."""
        if self.find_row("SELECT 1 FROM account") is not None:
            raise StoreTaken("this store already has an account")

    def create_account(self, credentials: Credentials, olm_account: str) -> None:
        self.check_empty()
        self.execute(
            "INSERT INTO account (only_row, base_url, user_id, device_id, access_token,"
            " olm_account) VALUES (1, ?, ?, ?, ?, ?)",
            credentials.base_url,
            credentials.user_id,
            credentials.device_id,
            self.seal(credentials.access_token.encode()),
            olm_account,
        )

    def get_credentials(self) -> Credentials:
        """Raises StoreMissing when no account was created."""
        row = self.find_row("SELECT base_url, user_id, device_id, access_token FROM account")
        if row is None:
            raise StoreMissing("the store has no account")
        base_url, user_id, device_id, token = row
        return Credentials(
            text(base_url),
            UserID(text(user_id)),
            DeviceID(text(device_id)),
            self.unseal(blob(token)).decode(),
        )

    def find_sync_token(self) -> str | None:
        row = self.find_row("SELECT next_batch FROM account")
        return None if row is None or row[0] is None else text(row[0])

    def acknowledge(self, next_batch: str) -> None:
        """Store the sync token and drop what was kept for the case of redelivery."""
        with self.transaction():
            self.execute("UPDATE account SET next_batch = ?", next_batch)
            self.execute("DELETE FROM to_device_done")


def text(value: SqlValue) -> str:
    """Narrow a column that the schema says is text. Raises StoreCorrupt."""
    if not isinstance(value, str):
        raise StoreCorrupt("a text column does not hold text")
    return value


def blob(value: SqlValue) -> bytes:
    if not isinstance(value, bytes):
        raise StoreCorrupt("a blob column does not hold bytes")
    return value


def integer(value: SqlValue) -> int:
    if not isinstance(value, int):
        raise StoreCorrupt("an integer column does not hold an integer")
    return value


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreLocked(f"another process uses {path.parent}") from error
    return descriptor


def _load_key(path: Path, *, create: bool) -> bytes:
    """Read the sealing key; a new one is durable before anything is sealed with it."""
    if create:
        with suppress(FileNotFoundError):
            path.unlink()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
    try:
        key = path.read_bytes()
    except OSError as error:
        raise StoreCorrupt(f"the key file {path} cannot be read") from error
    if len(key) != nacl.secret.SecretBox.KEY_SIZE:
        raise StoreCorrupt(f"the key file {path} does not hold a key")
    return key


def _open_database(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
    except sqlite3.DatabaseError as error:
        database.close()
        raise StoreCorrupt(f"{path} cannot be read: {error}") from error
    if version not in {0, _SCHEMA_VERSION}:
        database.close()
        raise StoreCorrupt(f"the store has version {version}, not {_SCHEMA_VERSION}")
    return database
