"""Relations between events: the children of an event, and what is told of them with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homeserver.core.events import Event
from homeserver.core.identifiers import UserID
from homeserver.core.relations import REPLACE, can_replace, find_relation
from homeserver.core.room_versions import RoomVersion
from homeserver.storage import events
from homeserver.storage.events import HISTORICAL, NewEvent, StoredEvent
from homeserver.storage.query import (
    Txn,
    execute,
    fetch_value,
    insert_many,
    list_rows,
    list_tuples,
    list_values,
)

MAX_DEPTH = 3
"""How many relations deep `list_descendants` goes; 1 would be the children."""
_MAX_REFERENCES = 100
_MAX_TIES = 10
_MAX_UNSURE = 5_000

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
    """Event numbers, both included, of events in line; nothing that came later is for him."""
    shown: Sequence[int] = ()
    """Event numbers of further children that he sees, see `list_unsure`."""


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
    has_unsure: bool
    """There are more children, which the reader may see or not: see `list_unsure`."""


@dataclass(frozen=True, slots=True)
class Summaries:
    by_parent: Mapping[int, Summary] = field(default_factory=dict)
    """By event number of the parent; those without such children are left out."""
    events: Mapping[int, StoredEvent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredThread:
    root: StoredEvent
    latest: Place
    is_sure: bool
    """The reader surely sees a reply."""


@dataclass(frozen=True, slots=True)
class UnsureChild:
    parent_nid: int
    rel_type: str
    event_nid: int
    depth: int
    state_before: int
    is_historical: bool


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


def has_relations(txn: Txn, room_nid: int) -> bool:
    """Tell whether any event of the room relates to another."""
    return fetch_value(
        txn,
        bool,
        "SELECT EXISTS (SELECT FROM event_relations WHERE room_nid = %s)",
        (room_nid,),
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


def list_children(
    txn: Txn,
    room_nid: int,
    parent_id: bytes,
    chosen: Chosen,
    after: Place,
    up_to: Place,
    limit: int,
    *,
    backwards: bool,
) -> list[StoredEvent]:
    """In topological order, or against it: the children in (after, up_to]."""
    values = _values(room_nid, parent_id, chosen, after, up_to, limit)
    if backwards:
        nids = list_values(
            txn,
            int,
            """
            SELECT child_nid FROM event_relations
             WHERE room_nid = %(room)s AND parent_id = %(parent)s
               AND (%(any_rel_type)s OR rel_type = %(rel_type)s)
               AND (%(any_type)s OR type_nid = (SELECT t.type_nid FROM event_types AS t
                                                 WHERE type = %(type)s))
               AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users
                                             WHERE user_id = ANY(%(ignored)s)))
               AND (depth, child_nid) > %(after)s AND (depth, child_nid) <= %(up_to)s
             ORDER BY depth DESC, child_nid DESC LIMIT %(limit)s""",
            values,
        )
    else:
        nids = list_values(
            txn,
            int,
            """
            SELECT child_nid FROM event_relations
             WHERE room_nid = %(room)s AND parent_id = %(parent)s
               AND (%(any_rel_type)s OR rel_type = %(rel_type)s)
               AND (%(any_type)s OR type_nid = (SELECT t.type_nid FROM event_types AS t
                                                 WHERE type = %(type)s))
               AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users
                                             WHERE user_id = ANY(%(ignored)s)))
               AND (depth, child_nid) > %(after)s AND (depth, child_nid) <= %(up_to)s
             ORDER BY depth, child_nid LIMIT %(limit)s""",
            values,
        )
    return events.list_in_order(txn, room_nid, nids)


def list_descendants(
    txn: Txn,
    room_nid: int,
    parent_id: bytes,
    chosen: Chosen,
    after: Place,
    up_to: Place,
    limit: int,
    *,
    backwards: bool,
) -> list[StoredEvent]:
    """As `list_children`, with children of children down to MAX_DEPTH.

    Only what is chosen is gone through. The parent is not its own descendant, also where old room
    versions let senders choose ids that make a cycle. Costs as much as there are descendants.
    """
    nids = list_values(
        txn,
        int,
        """
        WITH RECURSIVE wanted AS NOT MATERIALIZED (
            SELECT room_nid, child_nid, parent_id, depth FROM event_relations
             WHERE room_nid = %(room)s
               AND (%(any_rel_type)s OR rel_type = %(rel_type)s)
               AND (%(any_type)s OR type_nid = (SELECT t.type_nid FROM event_types AS t
                                                 WHERE type = %(type)s))
               AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users
                                             WHERE user_id = ANY(%(ignored)s)))),
        descendants (child_nid, depth, level) AS (
            SELECT child_nid, depth, 1 FROM wanted WHERE parent_id = %(parent)s
            UNION
            SELECT wanted.child_nid, wanted.depth, level + 1
              FROM descendants
              JOIN events ON events.room_nid = %(room)s
                         AND events.event_nid = descendants.child_nid
              JOIN wanted ON wanted.parent_id = events.event_id
             WHERE level < %(max_depth)s)
        SELECT child_nid FROM descendants
         WHERE (depth, child_nid) > %(after)s AND (depth, child_nid) <= %(up_to)s
           AND child_nid <> ALL (ARRAY(SELECT event_nid FROM events
                                        WHERE event_id = %(parent)s AND room_nid = %(room)s))
         GROUP BY child_nid, depth
         ORDER BY depth * %(sign)s, child_nid * %(sign)s LIMIT %(limit)s""",
        _values(room_nid, parent_id, chosen, after, up_to, limit)
        | {"max_depth": MAX_DEPTH, "sign": -1 if backwards else 1},
    )
    return events.list_in_order(txn, room_nid, nids)


def _values(
    room_nid: int, parent_id: bytes, chosen: Chosen, after: Place, up_to: Place, limit: int
) -> dict[str, object]:
    return {
        "room": room_nid,
        "parent": parent_id,
        "any_rel_type": chosen.rel_type is None,
        "rel_type": chosen.rel_type,
        "any_type": chosen.event_type is None,
        "type": chosen.event_type,
        "ignored": list(chosen.ignored),
        "after": after,
        "up_to": up_to,
        "limit": limit,
    }


def list_threads(
    txn: Txn, room_nid: int, reader: Reader, up_to: Place, limit: int, *, only_participated: bool
) -> list[StoredThread]:
    """Newest reply first: the threads whose newest reply is up to `up_to`.

    Which replies count for the order does not depend on what the reader sees, but for those of
    senders he ignores and those that came when he had left.

    1. From reply to older reply, each of another thread than all before; PostgreSQL makes no more
       of them than the limit asks for, and gives them in the order it makes them.
    2. A thread with a reply after `up_to` is not for this page.
    3. What itself relates to an event is no root.
    """
    rows = list_tuples(
        txn,
        """
        WITH RECURSIVE replies AS NOT MATERIALIZED (
            SELECT depth, child_nid, parent_id FROM event_relations
             WHERE room_nid = %(room)s AND rel_type = 'm.thread'
               AND (child_nid <= %(to)s
                    OR EXISTS (SELECT FROM events AS e
                                WHERE e.room_nid = %(room)s AND e.event_nid = child_nid
                                  AND e.flags & %(historical)s <> 0))
               AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users
                                             WHERE user_id = ANY(%(ignored)s)))),
        threads (depth, child_nid, parent_id, seen) AS (
            (SELECT depth, child_nid, parent_id, ARRAY[parent_id] FROM replies
              WHERE (depth, child_nid) <= %(up_to)s
              ORDER BY depth DESC, child_nid DESC LIMIT 1)
            UNION ALL
            SELECT older.depth, older.child_nid, older.parent_id, seen || older.parent_id
              FROM threads CROSS JOIN LATERAL (
                   SELECT depth, child_nid, parent_id FROM replies
                    WHERE (depth, child_nid) < (threads.depth, threads.child_nid)
                      AND parent_id <> ALL (seen)
                    ORDER BY depth DESC, child_nid DESC LIMIT 1) AS older),
        me AS MATERIALIZED (SELECT user_nid FROM users WHERE user_id = %(reader)s)
        SELECT root.event_nid, thread.depth, thread.child_nid,
               EXISTS (SELECT FROM replies AS reply
                        WHERE reply.parent_id = thread.parent_id
                          AND reply.child_nid BETWEEN %(from)s AND %(to)s
                          AND NOT EXISTS (SELECT FROM events AS e
                                           WHERE e.room_nid = %(room)s
                                             AND e.event_nid = reply.child_nid
                                             AND (e.room_state IS NOT NULL
                                                  OR e.flags & %(historical)s <> 0)))
          FROM threads AS thread CROSS JOIN LATERAL (
               SELECT event_nid, sender_nid FROM events
                WHERE event_id = thread.parent_id AND room_nid = %(room)s OFFSET 0) AS root
         WHERE NOT EXISTS (SELECT FROM replies AS newer
                            WHERE newer.parent_id = thread.parent_id
                              AND (newer.depth, newer.child_nid) > %(up_to)s)
           AND NOT EXISTS (SELECT FROM event_relations AS own
                            WHERE own.room_nid = %(room)s AND own.child_nid = root.event_nid)
           AND (NOT %(only_participated)s OR EXISTS (
               SELECT FROM me WHERE me.user_nid = root.sender_nid OR EXISTS (
                   SELECT FROM event_relations AS mine
                    WHERE mine.room_nid = %(room)s AND mine.parent_id = thread.parent_id
                      AND mine.rel_type = 'm.thread' AND mine.sender_nid = me.user_nid)))
         LIMIT %(limit)s""",
        _reader_values(room_nid, reader)
        | {"up_to": up_to, "only_participated": only_participated, "limit": limit},
    )
    roots = events.list_in_order(txn, room_nid, [row[0] for row in rows])
    return [
        StoredThread(root, (depth, child_nid), is_sure)
        for root, (_, depth, child_nid, is_sure) in zip(roots, rows, strict=True)
    ]


def summarize_children(
    txn: Txn, room_nid: int, parent_nids: Sequence[int], reader: Reader
) -> Summaries:
    """Sum up what a reader is known to see of the children of each parent."""
    rows = list_tuples(
        txn,
        """
        WITH children AS NOT MATERIALIZED (
            SELECT *,
                   child_nid = ANY(%(shown)s::bigint[])
                   OR (child_nid BETWEEN %(from)s AND %(to)s
                       AND NOT EXISTS (SELECT FROM events AS e
                                        WHERE e.room_nid = %(room)s AND e.event_nid = child_nid
                                          AND (e.room_state IS NOT NULL
                                               OR e.flags & %(historical)s <> 0))) AS is_visible
              FROM event_relations
             WHERE room_nid = %(room)s
               AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users
                                             WHERE user_id = ANY(%(ignored)s)))),
        visible AS NOT MATERIALIZED (SELECT * FROM children WHERE is_visible),
        me AS MATERIALIZED (SELECT user_nid FROM users WHERE user_id = %(reader)s)
        SELECT parent.event_nid,
               counted.in_thread,
               (SELECT child_nid FROM visible AS child
                 WHERE child.parent_id = parent.event_id AND child.rel_type = 'm.thread'
                 ORDER BY depth DESC, child_nid DESC LIMIT 1),
               EXISTS (SELECT FROM me
                        WHERE me.user_nid = parent.sender_nid OR EXISTS (
                            SELECT FROM event_relations AS own
                             WHERE own.room_nid = %(room)s AND own.parent_id = parent.event_id
                               AND own.rel_type = 'm.thread' AND own.sender_nid = me.user_nid)),
               ARRAY(SELECT child_nid FROM (
                   SELECT child_nid FROM visible AS child
                    WHERE child.parent_id = parent.event_id AND child.rel_type = 'm.replace'
                      AND child.can_replace AND child.sender_nid = parent.sender_nid
                      AND child.type_nid = parent.type_nid
                    ORDER BY origin_server_ts DESC FETCH FIRST 1 ROW WITH TIES) AS newest
                    LIMIT %(max_ties)s),
               ARRAY(SELECT event_id FROM (
                   SELECT child.depth, child.child_nid, e.event_id
                     FROM visible AS child
                     JOIN events AS e ON e.room_nid = %(room)s AND e.event_nid = child.child_nid
                    WHERE child.parent_id = parent.event_id AND child.rel_type = 'm.reference'
                    ORDER BY child.depth DESC, child.child_nid DESC
                    LIMIT %(max_references)s) AS newest
                    ORDER BY depth, child_nid),
               counted.has_unsure
          FROM events AS parent CROSS JOIN LATERAL (
               SELECT count(*) FILTER (WHERE is_visible AND rel_type = 'm.thread') AS in_thread,
                      bool_or(NOT is_visible) AS has_unsure
                 FROM (SELECT rel_type, is_visible FROM children AS child
                        WHERE child.parent_id = parent.event_id
                          AND child.rel_type IN ('m.thread', 'm.replace', 'm.reference')
                       OFFSET 0) AS child) AS counted
         WHERE parent.room_nid = %(room)s AND parent.event_nid = ANY(%(parents)s)
           AND counted.has_unsure IS NOT NULL""",
        _reader_values(room_nid, reader)
        | {
            "shown": list(reader.shown),
            "max_ties": _MAX_TIES,
            "max_references": _MAX_REFERENCES,
            "parents": list(parent_nids),
        },
    )
    by_parent = {
        parent_nid: Summary(
            count, latest, participated, replacements, [bytes(r) for r in refs], has_unsure
        )
        for parent_nid, count, latest, participated, replacements, refs, has_unsure in rows
    }
    shown = [nid for summary in by_parent.values() for nid in summary.replacements]
    shown += [s.latest_in_thread for s in by_parent.values() if s.latest_in_thread is not None]
    found = events.list_events(txn, room_nid, shown) if shown else []
    return Summaries(by_parent, {stored.event_nid: stored for stored in found})


def list_unsure(
    txn: Txn, room_nid: int, parent_nids: Sequence[int], reader: Reader
) -> list[UnsureChild]:
    """Return the newest children of which no number says whether the reader sees them."""
    return list_rows(
        txn,
        UnsureChild,
        """
        SELECT parent.event_nid, child.rel_type, e.event_nid, e.depth, e.state_before,
               e.flags & %(historical)s <> 0
          FROM unnest(%(parents)s::bigint[]) AS wanted (event_nid)
          CROSS JOIN LATERAL
               (SELECT event_nid, event_id FROM events
                 WHERE room_nid = %(room)s AND event_nid = wanted.event_nid OFFSET 0) AS parent
          JOIN event_relations AS child
            ON child.room_nid = %(room)s AND child.parent_id = parent.event_id
           AND child.rel_type IN ('m.thread', 'm.replace', 'm.reference')
           AND child.sender_nid <> ALL (ARRAY(SELECT user_nid FROM users
                                               WHERE user_id = ANY(%(ignored)s)))
          CROSS JOIN LATERAL
               (SELECT event_nid, depth, state_before, room_state, flags FROM events
                 WHERE room_nid = %(room)s AND event_nid = child.child_nid OFFSET 0) AS e
         WHERE e.state_before IS NOT NULL
           AND (e.flags & %(historical)s <> 0
                OR (e.event_nid <= %(to)s
                    AND (e.event_nid < %(from)s OR e.room_state IS NOT NULL)))
         ORDER BY child.depth DESC, child.child_nid DESC LIMIT %(limit)s""",
        _reader_values(room_nid, reader) | {"parents": list(parent_nids), "limit": _MAX_UNSURE},
    )


def _reader_values(room_nid: int, reader: Reader) -> dict[str, object]:
    return {
        "room": room_nid,
        "reader": reader.user_id,
        "ignored": list(reader.ignored),
        "from": reader.visible_from,
        "to": reader.visible_to,
        "historical": HISTORICAL,
    }


def new_relation(version: RoomVersion, event: Event, row: NewEvent) -> NewRelation | None:
    """Return the row of an event that relates to another; None for one that nobody is shown."""
    relation = find_relation(event.content)
    if relation is None or row.flags & events.HIDDEN:
        return None
    try:
        parent_id = events.encode_event_id(version, relation.parent_id)
    except ValueError:
        return None
    if events.decode_event_id(version, parent_id) != relation.parent_id:
        return None  # base64 of the same bytes, but not the id of an event
    return NewRelation(
        room_nid=row.room_nid,
        child_nid=row.event_nid,
        parent_id=parent_id,
        rel_type=relation.rel_type,
        type_nid=row.type_nid,
        sender_nid=row.sender_nid,
        depth=row.depth,
        origin_server_ts=row.origin_server_ts,
        annotation_key=None if relation.key is None else relation.key.encode(),
        can_replace=relation.rel_type == REPLACE and can_replace(event),
    )
