"""Where the positions of a new process begin: after all that earlier ones can have used.

Positions begin at the time of day, so that they are beyond those given out before even when the
database is an old backup. Without progress of the clock they go on after the last ones known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.storage.query import Txn, execute, fetch_value, list_rows

_PER_SECOND = 2**20
"""So many positions a second are the clock's. They fit into the numbers of JSON until 2106."""
_LATEST = 2**52
"""A clock beyond is wrong, and must not use up what there is."""


@dataclass(frozen=True, slots=True)
class EventEpoch:
    first_nid: int
    newest_before: int


def take_epoch(txn: Txn, now_ms: int) -> int:
    """Return a position that no process has reached; 2^32 more are free for the caller."""
    return fetch_value(
        txn,
        int,
        """
        SELECT setval('stream_epochs',
                      CASE WHEN %(at)s > last_value THEN %(at)s ELSE last_value + 4294967296 END)
          FROM stream_epochs""",
        {"at": _position_at(now_ms)},
    )


def last_epoch(txn: Txn) -> int:
    return fetch_value(txn, int, "SELECT last_value FROM stream_epochs")


def insert_event_epoch(txn: Txn, newest: int, now_ms: int) -> int:
    """Return after which number the events of a new process begin; `newest` is the newest stored.

    Usually beyond it; then the gap is stored.
    """
    first = _position_at(now_ms)
    if first <= newest:
        return newest
    execute(
        txn,
        """
        INSERT INTO event_epochs (first_nid, newest_before) VALUES (%s, %s)
        ON CONFLICT DO NOTHING""",
        (first, newest),
    )
    return first


def list_event_epochs(txn: Txn) -> Sequence[EventEpoch]:
    """All of them, in order."""
    return list_rows(
        txn, EventEpoch, "SELECT first_nid, newest_before FROM event_epochs ORDER BY first_nid"
    )


def _position_at(now_ms: int) -> int:
    return min(now_ms * _PER_SECOND // 1000, _LATEST)
