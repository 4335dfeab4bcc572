"""What the gate must never forget: drafts, their one use, what was already seen, receipts.

protocol: docs/cosign-protocol.md, sections 9 and 10. Invariant: when a method
returns, what it wrote survives a power cut; a store that is damaged, missing or in use is not
opened.
"""

import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import DecisionID, DraftID, ReceiptID, receipt_id_of
from agent_bridge.core.receipt import SignedReceipt, parse_receipt
from agent_bridge.core.states import TERMINAL, Event, State, next_state
from agent_bridge.gate.store_schema import APPLICATION_ID, FORMAT, SCHEMA, TABLES, TRIGGERS

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class StoreDamaged(Exception):
    """The store cannot be trusted or is in use: the gate stays closed. The text says why."""


class AlreadyConsumed(Exception):
    """The draft has had its one use."""


class NonceReused(Exception):
    """A draft with this nonce, request or identifier exists already."""


class ReceiptRefused(Exception):
    """The receipt does not continue the chain, or contradicts the draft's state."""


@dataclass(frozen=True)
class StoredDraft:
    draft_id: DraftID
    payload: bytes
    request_key: str
    state: State
    created_at: int
    changed_at: int


@dataclass(frozen=True)
class StoredDecision:
    decision_id: DecisionID
    payload: bytes
    received_at: int


@dataclass(frozen=True)
class Recovery:
    """What a restart made of the drafts that were open."""

    expired: tuple[DraftID, ...]
    ambiguous: tuple[DraftID, ...]


def create_store(path: Path) -> "Store":
    """Make a new, empty store. For the console: an existing file is never replaced."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise StoreDamaged(f"{path} exists already; it is never replaced") from None
    os.close(descriptor)
    connection = _connect(path)
    connection.executescript(
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
        f"BEGIN; {SCHEMA} COMMIT;"
    )
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return Store(connection)


def open_store(path: Path) -> "Store":
    """Open a store. Raises StoreDamaged with a sentence that says why the gate stays closed."""
    try:
        status = path.lstat()
    except OSError:
        raise StoreDamaged(f"{path} is missing; initialize the gate at the console") from None
    if not stat.S_ISREG(status.st_mode) or status.st_mode & _OTHERS:
        raise StoreDamaged(f"{path} is not a private file (want a regular file with mode 0600)")
    if status.st_uid != os.geteuid():
        raise StoreDamaged(f"{path} belongs to another user")
    connection: sqlite3.Connection | None = None
    try:
        connection = _connect(path)
        _check_whole(connection)
    except (sqlite3.DatabaseError, ValueError) as error:
        if connection is not None:
            connection.close()
        if "locked" in str(error):
            raise StoreDamaged(f"{path} is in use by another gate") from None
        raise StoreDamaged(
            f"{path} is damaged ({error}); nothing runs until it is initialized at the console"
        ) from None
    return Store(connection)


class Store:
    """Made by `create_store` and `open_store`; used by one process and one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def recover(self, now_ms: int) -> Recovery:
        """Close what was open when the last process ended. Call once, before anything else.

        Nothing waits across a restart, and what may have run is never run again.
        """
        moved: dict[State, list[DraftID]] = {State.EXPIRED: [], State.AMBIGUOUS: []}
        with self._transaction():
            for draft in self._drafts("WHERE state IN ('pending', 'approved', 'running')", ()):
                state = next_state(draft.state, Event.RESTART)
                self._set_state(draft.draft_id, state, now_ms)
                moved[state].append(draft.draft_id)
        return Recovery(tuple(moved[State.EXPIRED]), tuple(moved[State.AMBIGUOUS]))

    def next_sequence(self) -> int:
        """Hand out the next draft number; a number is never handed out twice."""
        with self._transaction():
            row = self._row("UPDATE sequence SET next = next + 1 RETURNING next - 1", ())
            assert row is not None
            return _integer(row[0])

    def insert_draft(self, frozen: FrozenDraft, request_key: str, now_ms: int) -> None:
        """Record a pending draft. Raises NonceReused."""
        values = (frozen.draft_id, frozen.payload, frozen.draft.nonce, request_key)
        try:
            with self._transaction():
                self._connection.execute(
                    """INSERT INTO drafts
                       (draft_id, payload, nonce, request_key, state, created_at, changed_at)
                       VALUES (?, ?, ?, ?, 'pending', ?, ?)""",
                    (*values, now_ms, now_ms),
                )
        except sqlite3.IntegrityError as error:
            raise NonceReused(str(error)) from None

    def find_draft(self, draft_id: DraftID) -> StoredDraft | None:
        return next(iter(self._drafts("WHERE draft_id = ?", (draft_id,))), None)

    def find_draft_by_request(self, request_key: str) -> StoredDraft | None:
        return next(iter(self._drafts("WHERE request_key = ?", (request_key,))), None)

    def list_drafts(self, *states: State) -> tuple[StoredDraft, ...]:
        """Every draft in one of the states, oldest first."""
        wanted = json.dumps(states)
        condition = "WHERE state IN (SELECT value FROM json_each(?)) ORDER BY created_at, rowid"
        return tuple(self._drafts(condition, (wanted,)))

    def move_draft(self, draft_id: DraftID, event: Event, now_ms: int) -> State:
        """Carry out one transition. Raises Refused when the state does not allow it.

        Running is not reached this way: only `consume` leads there.
        """
        with self._transaction():
            state = next_state(self._get(draft_id).state, event)
            if state is State.RUNNING:
                raise ValueError("a draft starts running by being consumed")
            self._set_state(draft_id, state, now_ms)
            return state

    def consume(self, draft_id: DraftID, now_ms: int) -> None:
        """Take a draft's one use. Raises AlreadyConsumed, or Refused when it is not approved."""
        with self._transaction():
            try:
                self._connection.execute(
                    "INSERT INTO consumed (draft_id, consumed_at) VALUES (?, ?)", (draft_id, now_ms)
                )
            except sqlite3.IntegrityError:
                raise AlreadyConsumed(draft_id) from None
            state = next_state(self._get(draft_id).state, Event.CONSUMED)
            self._set_state(draft_id, state, now_ms)

    def insert_decision(
        self, draft_id: DraftID, decision_id: DecisionID, payload: bytes, received_at: int
    ) -> bool:
        """Record a decision; False when this very decision was seen before, for whichever draft."""
        with self._transaction():
            return self._insert_new(
                "INSERT OR IGNORE INTO decisions VALUES (?, ?, ?, ?)",
                (decision_id, draft_id, payload, received_at),
            )

    def list_decisions(self, draft_id: DraftID) -> tuple[StoredDecision, ...]:
        rows = self._connection.execute(
            """SELECT decision_id, payload, received_at FROM decisions
               WHERE draft_id = ? ORDER BY rowid""",
            (draft_id,),
        )
        return tuple(StoredDecision(*row) for row in rows)

    def mark_seen(self, kind: str, key: str) -> bool:
        """Note something that counts once; False when it was noted before."""
        with self._transaction():
            return self._insert_new("INSERT OR IGNORE INTO seen VALUES (?, ?)", (kind, key))

    def append_receipt(self, signed: SignedReceipt, event: Event | None, now_ms: int) -> None:
        """Append a receipt and carry out the transition it tells of, both or neither.

        event   None: the draft has reached its last state already, as after `recover`
        Raises ReceiptRefused, Refused.
        """
        receipt = parse_receipt(signed.payload)
        with self._transaction():
            state = self._get(receipt.draft_id).state
            if event is not None:
                state = next_state(state, event)
                self._set_state(receipt.draft_id, state, now_ms)
            if state not in TERMINAL or receipt.outcome.state is not state:
                raise ReceiptRefused(f"it says {receipt.outcome.state}, the draft is {state}")
            if (receipt.sequence, receipt.previous) != self._next_link():
                raise ReceiptRefused("it does not follow the last receipt")
            try:
                self._connection.execute(
                    "INSERT INTO receipts VALUES (?, ?, ?, ?, ?)",
                    (
                        receipt.sequence,
                        receipt_id_of(signed.payload),
                        receipt.draft_id,
                        signed.payload,
                        signed.signature,
                    ),
                )
            except sqlite3.IntegrityError:
                raise ReceiptRefused("the draft has a receipt already") from None

    def list_receipts(self) -> tuple[SignedReceipt, ...]:
        """The whole chain, oldest first."""
        rows = self._connection.execute("SELECT payload, signature FROM receipts ORDER BY sequence")
        return tuple(SignedReceipt(payload, signature) for payload, signature in rows)

    def last_receipt(self) -> SignedReceipt | None:
        row = self._row(
            "SELECT payload, signature FROM receipts ORDER BY sequence DESC LIMIT 1", ()
        )
        return None if row is None else SignedReceipt(_octets(row[0]), _octets(row[1]))

    def _next_link(self) -> tuple[int, ReceiptID | None]:
        last = self.last_receipt()
        if last is None:
            return 1, None
        return parse_receipt(last.payload).sequence + 1, receipt_id_of(last.payload)

    def _get(self, draft_id: DraftID) -> StoredDraft:
        found = self.find_draft(draft_id)
        if found is None:
            raise LookupError(f"no draft {draft_id}")
        return found

    def _drafts(self, condition: str, values: tuple[object, ...]) -> list[StoredDraft]:
        columns = "draft_id, payload, request_key, state, created_at, changed_at"
        rows = self._connection.execute(
            f"SELECT {columns} FROM drafts {condition}",  # noqa: S608  literals of this module
            values,
        )
        return [
            StoredDraft(DraftID(row[0]), row[1], row[2], State(row[3]), row[4], row[5])
            for row in rows
        ]

    def _set_state(self, draft_id: DraftID, state: State, now_ms: int) -> None:
        self._connection.execute(
            "UPDATE drafts SET state = ?, changed_at = ? WHERE draft_id = ?",
            (state.value, now_ms, draft_id),
        )

    def _insert_new(self, statement: str, values: tuple[object, ...]) -> bool:
        return self._connection.execute(statement, values).rowcount == 1

    def _row(self, statement: str, values: tuple[object, ...]) -> tuple[object, ...] | None:
        row: tuple[object, ...] | None = self._connection.execute(statement, values).fetchone()
        return row

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):  # a failed disk has ended it already
                self._connection.execute("ROLLBACK")
            raise


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = EXTRA")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _check_whole(connection: sqlite3.Connection) -> None:
    """Take the lock for good, then check bytes, format and what the tables must agree on."""
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("COMMIT")
    for pragma, wanted in (("application_id", APPLICATION_ID), ("user_version", FORMAT)):
        if connection.execute(f"PRAGMA {pragma}").fetchone() != (wanted,):
            raise ValueError(f"its {pragma} is not a gate store's")
    if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
        raise ValueError("its pages do not agree")
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise ValueError("a row refers to a missing draft")
    present = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
    if not {name for kind, name in present if kind == "table"} >= TABLES:
        raise ValueError("a table is missing")
    if sum(kind == "trigger" for kind, _ in present) != TRIGGERS:
        raise ValueError("its append-only rules were altered")
    disagreement = connection.execute(
        """SELECT 'a consumed draft is still open' FROM drafts JOIN consumed USING (draft_id)
            WHERE state IN ('pending', 'approved')
           UNION ALL
           SELECT 'a draft ran without being consumed' FROM drafts
            WHERE state IN ('running', 'done', 'failed', 'ambiguous')
              AND draft_id NOT IN (SELECT draft_id FROM consumed)
           UNION ALL
           SELECT 'a receipt is missing'
             FROM (SELECT count(*) AS rows, max(sequence) AS last FROM receipts)
            WHERE rows <> coalesce(last, 0)
           LIMIT 1"""
    ).fetchone()
    if disagreement is not None:
        raise ValueError(disagreement[0])


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


def _octets(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value
