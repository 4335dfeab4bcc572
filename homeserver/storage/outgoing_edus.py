"""Ephemeral data that must not be lost on its way to other servers, and what they refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import ServerName, UserID
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
    about: UserID | None = None
    """Whose devices or keys have changed: many such changes may be reduced to the last."""


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


@dataclass(frozen=True, slots=True)
class WaitingMessages:
    """Messages to devices that wait for a server."""

    server_name: ServerName
    count: int
    size: int
    oldest_ts: int
    is_failing: bool
    """It has not answered the last time."""


def insert_edus(txn: Txn, rows: Sequence[NewEDU], now_ms: int) -> None:
    insert_many(
        txn,
        "INSERT INTO outgoing_edus (server_name, lane, edu_type, content, about, created_ts)"
        " VALUES %s",
        [(row.server_name, row.lane, row.edu_type, row.content, row.about, now_ms) for row in rows],
    )


def delete_superseded(txn: Txn, kept: int) -> int:
    """Where more than `kept` changes of one kind and user wait for a server, leave the last."""
    return execute(
        txn,
        """
        DELETE FROM outgoing_edus AS old
         USING (SELECT server_name, edu_type, about, max(edu_nid) AS last_nid
                  FROM outgoing_edus WHERE lane = %s AND about IS NOT NULL
                 GROUP BY server_name, edu_type, about HAVING count(*) > %s) AS many
         WHERE old.server_name = many.server_name AND old.lane = %s
           AND old.edu_type = many.edu_type AND old.about = many.about
           AND old.edu_nid < many.last_nid""",
        (DEVICES_AND_KEYS, kept, DEVICES_AND_KEYS),
    )


def list_waiting_messages(txn: Txn) -> list[WaitingMessages]:
    return list_rows(
        txn,
        WaitingMessages,
        """
        SELECT server_name, count(*), sum(octet_length(content))::bigint, min(created_ts),
               coalesce(bool_or(failing_since_ts IS NOT NULL), false)
          FROM outgoing_edus LEFT JOIN destinations USING (server_name)
         WHERE lane = %s GROUP BY server_name""",
        (TO_DEVICE,),
    )


def delete_oldest_messages(
    txn: Txn, server: ServerName, max_count: int, max_bytes: int, since_ts: int
) -> int:
    """Keep the newest messages to devices: so many, so large together, and none so old."""
    return execute(
        txn,
        """
        DELETE FROM outgoing_edus WHERE edu_nid IN (
               SELECT edu_nid FROM (
                      SELECT edu_nid, created_ts, count(*) OVER newest_first AS place,
                             sum(octet_length(content)) OVER newest_first AS size
                        FROM outgoing_edus WHERE server_name = %s AND lane = %s
                      WINDOW newest_first AS (ORDER BY edu_nid DESC)) AS waiting
                WHERE place > %s OR size > %s OR created_ts <= %s)""",
        (server, TO_DEVICE, max_count, max_bytes, since_ts),
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
