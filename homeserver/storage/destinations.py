"""How far each other server has been told, and what keeps it from being told more."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import ServerName
from homeserver.storage.query import (
    Txn,
    commit_lightly,
    execute,
    fetch_value,
    insert_many,
    list_rows,
)


@dataclass(frozen=True, slots=True)
class DestinationRow:
    server_name: ServerName
    delivered: int
    failing_since_ts: int | None
    next_try_ts: int | None
    failures: int
    last_success_ts: int | None
    last_cause: str | None
    last_error: str | None
    dropped_messages: int
    """To devices; ever."""
    dropped_ts: int | None


def list_destinations(txn: Txn) -> list[DestinationRow]:
    return list_rows(
        txn,
        DestinationRow,
        """
        SELECT server_name, delivered, failing_since_ts, next_try_ts, failures,
               last_success_ts, last_cause, last_error, dropped_messages, dropped_ts
          FROM destinations ORDER BY server_name""",
    )


def insert_destinations(txn: Txn, servers: Sequence[ServerName], delivered: int) -> None:
    insert_many(
        txn,
        "INSERT INTO destinations (server_name, delivered) VALUES %s ON CONFLICT DO NOTHING",
        [(server, delivered) for server in servers],
    )


def update_delivered(txn: Txn, server: ServerName, delivered: int, now_ms: int) -> None:
    """Note a success. It need not survive a crash: what is sent twice is known there."""
    commit_lightly(txn)
    execute(
        txn,
        """
        UPDATE destinations
           SET delivered = greatest(delivered, %s), failing_since_ts = NULL, next_try_ts = NULL,
               failures = 0, last_success_ts = %s
         WHERE server_name = %s""",
        (delivered, now_ms, server),
    )


def update_failing(
    txn: Txn, server: ServerName, now_ms: int, next_try_ms: int, cause: str, error: str
) -> None:
    execute(
        txn,
        """
        UPDATE destinations
           SET failing_since_ts = coalesce(failing_since_ts, %s), next_try_ts = %s,
               failures = failures + 1, last_cause = %s, last_error = %s
         WHERE server_name = %s""",
        (now_ms, next_try_ms, cause, error, server),
    )


def add_dropped(txn: Txn, server: ServerName, count: int, now_ms: int) -> None:
    execute(
        txn,
        """
        UPDATE destinations SET dropped_messages = dropped_messages + %s, dropped_ts = %s
         WHERE server_name = %s""",
        (count, now_ms, server),
    )


def count_failing(txn: Txn) -> int:
    return fetch_value(
        txn, int, "SELECT count(*) FROM destinations WHERE failing_since_ts IS NOT NULL"
    )
