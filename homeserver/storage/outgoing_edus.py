"""Ephemeral data that must not be lost on its way to other servers, and what they refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import ServerName
from homeserver.storage.query import Txn, execute, insert_many, list_rows, list_tuples, list_values

TO_DEVICE = 0
DEVICES_AND_KEYS = 1


@dataclass(frozen=True, slots=True)
class NewEDU:
    server_name: ServerName
    lane: int
    edu_type: str
    content: bytes
    """Canonical JSON."""


@dataclass(frozen=True, slots=True)
class StoredEDU:
    edu_nid: int
    edu_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    kind: str
    """pdu or edu."""
    item: bytes
    error: str
    created_ts: int


def insert_edus(txn: Txn, rows: Sequence[NewEDU]) -> None:
    insert_many(
        txn,
        "INSERT INTO outgoing_edus (server_name, lane, edu_type, content) VALUES %s",
        [(row.server_name, row.lane, row.edu_type, row.content) for row in rows],
    )


def list_edus(txn: Txn, server: ServerName, limit: int) -> list[StoredEDU]:
    return list_rows(
        txn,
        StoredEDU,
        """
        SELECT edu_nid, edu_type, content FROM outgoing_edus
         WHERE server_name = %s ORDER BY lane, edu_nid LIMIT %s""",
        (server, limit),
    )


def delete_edus(txn: Txn, edu_nids: Sequence[int]) -> None:
    execute(txn, "DELETE FROM outgoing_edus WHERE edu_nid = ANY(%s)", (list(edu_nids),))


def list_waiting_servers(txn: Txn) -> list[ServerName]:
    return [
        ServerName(name)
        for name in list_values(txn, str, "SELECT DISTINCT server_name FROM outgoing_edus")
    ]


def count_edus(txn: Txn) -> dict[ServerName, int]:
    rows = list_tuples(txn, "SELECT server_name, count(*) FROM outgoing_edus GROUP BY server_name")
    return dict(rows)


def count_dead_letters(txn: Txn) -> dict[ServerName, int]:
    rows = list_tuples(txn, "SELECT server_name, count(*) FROM dead_letters GROUP BY server_name")
    return dict(rows)


def list_dead_letters(txn: Txn, server: ServerName) -> list[DeadLetter]:
    """Return what the server refused, newest first; only so many of each server are kept."""
    return list_rows(
        txn,
        DeadLetter,
        """
        SELECT kind, item, error, created_ts FROM dead_letters
         WHERE server_name = %s ORDER BY letter_nid DESC""",
        (server,),
    )


def insert_dead_letter(
    txn: Txn, server: ServerName, kind: str, item: bytes, error: str, now_ms: int, kept: int
) -> None:
    """Keep what a server refused; of each server only the newest `kept`."""
    execute(
        txn,
        "INSERT INTO dead_letters (server_name, kind, item, error, created_ts)"
        " VALUES (%s, %s, %s, %s, %s)",
        (server, kind, item, error, now_ms),
    )
    execute(
        txn,
        """
        DELETE FROM dead_letters
         WHERE server_name = %s AND letter_nid <= (
               SELECT letter_nid FROM dead_letters WHERE server_name = %s
                ORDER BY letter_nid DESC OFFSET %s LIMIT 1)""",
        (server, server, kept),
    )
