"""Relations between events: the children of an event, and what is told of them with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.core.identifiers import UserID
from homeserver.storage import events
from homeserver.storage.events import StoredEvent
from homeserver.storage.query import (
    Txn,
    execute,
    fetch_value,
    insert_many,
    list_tuples,
    list_values,
)

MAX_DEPTH = 3
"""How many relations deep `list_descendants` goes; 1 would be the children."""
_MAX_REFERENCES = 100
_MAX_TIES = 10

Place = tuple[int, int]
"""(depth, event number)"""


@dataclass(frozen=True, slots=True)
class NewRelation:
    room_nid: int
    child_nid: int
    parent_id: bytes
    """As `events.encode_event_id` gives it."""
    rel_type: str
    type_nid: int
    sender_nid: int
    depth: int
    origin_server_ts: int
    annotation_key: bytes | None
    can_replace: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which children are asked for; None: any."""

    rel_type: str | None = None
    event_type: str | None = None
    ignored: Sequence[UserID] = ()
    """Senders to leave out."""


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom children are summed up, and what is surely visible to him."""

    user_id: UserID
    ignored: Sequence[UserID]
    visible_from: int
    visible_to: int
    """Event numbers, both included."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told of an event's children. Event numbers are keys of `Summaries.events`."""

    thread_count: int
    latest_in_thread: int | None
    """Event number of the topologically newest."""
    has_participated: bool
    """The reader sent the parent or something in the thread."""
    replacements: Sequence[int]
    """Event numbers of the valid replacements with the newest timestamp."""
    references: Sequence[bytes]
    """Stored event ids, oldest first."""


@dataclass(frozen=True, slots=True)
class Summaries:
    by_parent: Mapping[int, Summary] = field(default_factory=dict)
    """By event number of the parent; those without such children are left out."""
    events: Mapping[int, StoredEvent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredThread:
    root: StoredEvent
    latest: Place


def insert_relations(txn: Txn, rows: Sequence[NewRelation]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO event_relations (room_nid, child_nid, parent_id, rel_type, type_nid, sender_nid,
                                     depth, origin_server_ts, annotation_key, can_replace)
        VALUES %s""",
        [
            (
                row.room_nid, row.child_nid, row.parent_id, row.rel_type, row.type_nid,
                row.sender_nid, row.depth, row.origin_server_ts, row.annotation_key,
                row.can_replace,
            )
            for row in rows
        ],
    )  # fmt: skip


def delete_relation(txn: Txn, room_nid: int, child_nid: int) -> None:
    """Undo the relation of an event that is redacted."""
    execute(
        txn,
        "DELETE FROM event_relations WHERE room_nid = %s AND child_nid = %s",
        (room_nid, child_nid),
    )


def has_annotation(
    txn: Txn, room_nid: int, parent_id: bytes, sender: UserID, event_type: str, key: bytes
) -> bool:
    """Tell whether the sender has annotated the parent in the same way."""
    return fetch_value(
        txn,
        bool,
        """
        SELECT EXISTS (
            SELECT FROM event_relations
             WHERE room_nid = %s AND parent_id = %s AND rel_type = 'm.annotation'
               AND sender_nid = (SELECT user_nid FROM users WHERE user_id = %s)
               AND type_nid = (SELECT type_nid FROM event_types WHERE type = %s)
               AND annotation_key = %s)""",
        (room_nid, parent_id, sender, event_type, key),
    )


def list_children_backwards(
    txn: Txn, room_nid: int, parent_id: bytes, chosen: Chosen, after: Place, up_to: Place, limit: int
) -> list[StoredEvent]:
    """Topologically newest first: the children in (after, up_to]."""
    nids = list_values(
        txn,
        int,
        """
        SELECT child_nid FROM event_relations
         WHERE room_nid = %(room)s AND parent_id = %(parent)s
           AND (%(rel_type)s IS NULL OR rel_type = %(rel_type)s)
           AND (%(type)s IS NULL OR type_nid = (SELECT type_nid FROM event_types WHERE type = %(type)s))
           AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users WHERE user_id = ANY(%(ignored)s)))
           AND (depth, child_nid) > %(after)s AND (depth, child_nid) <= %(up_to)s
         ORDER BY depth DESC, child_nid DESC LIMIT %(limit)s""",
        _range_values(room_nid, parent_id, chosen, after, up_to, limit),
    )
    return events.list_shown(txn, room_nid, nids)


def list_children_forwards(
    txn: Txn, room_nid: int, parent_id: bytes, chosen: Chosen, after: Place, up_to: Place, limit: int
) -> list[StoredEvent]:
    """Topologically oldest first: the children in (after, up_to]."""
    nids = list_values(
        txn,
        int,
        """
        SELECT child_nid FROM event_relations
         WHERE room_nid = %(room)s AND parent_id = %(parent)s
           AND (%(rel_type)s IS NULL OR rel_type = %(rel_type)s)
           AND (%(type)s IS NULL OR type_nid = (SELECT type_nid FROM event_types WHERE type = %(type)s))
           AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users WHERE user_id = ANY(%(ignored)s)))
           AND (depth, child_nid) > %(after)s AND (depth, child_nid) <= %(up_to)s
         ORDER BY depth, child_nid LIMIT %(limit)s""",
        _range_values(room_nid, parent_id, chosen, after, up_to, limit),
    )
    return events.list_shown(txn, room_nid, nids)
