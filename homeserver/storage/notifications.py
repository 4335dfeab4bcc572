"""Whom events have notified, and what of it a user has not read."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, UserID
from homeserver.storage.query import Txn, execute, find_value, insert_many, list_rows

MAIN_THREAD = "main"


@dataclass(frozen=True, slots=True)
class NewNotification:
    room_nid: int
    event_nid: int
    part: int
    """0: for everybody whom no other part names."""
    users: Sequence[int] | None
    """User numbers; None for part 0."""
    sender_nid: int
    thread_id: str
    is_mark: bool
    is_notify: bool
    is_highlight: bool
    actions: str


@dataclass(frozen=True, slots=True)
class UnreadCount:
    room_id: RoomID
    thread_id: str
    notifications: int
    highlights: int


@dataclass(frozen=True, slots=True)
class StoredNotification:
    room_id: RoomID
    room_nid: int
    event_nid: int
    actions: str
    is_read: bool


def insert_notifications(txn: Txn, rows: Sequence[NewNotification]) -> None:
    insert_many(
        txn,
        """
        INSERT INTO notifications (room_nid, event_nid, part, users, sender_nid, thread_id,
                                   is_mark, is_notify, is_highlight, actions)
        VALUES %s""",
        [
            (
                row.room_nid, row.event_nid, row.part,
                None if row.users is None else "{" + ",".join(map(str, row.users)) + "}",
                row.sender_nid, row.thread_id, row.is_mark, row.is_notify, row.is_highlight,
                row.actions,
            )
            for row in rows
        ],
    )  # fmt: skip


def delete_old(txn: Txn, room_nid: int, keep: int) -> None:
    """Leave the newest `keep` rows of a room."""
    execute(
        txn,
        """
        DELETE FROM notifications WHERE room_nid = %(room)s AND event_nid <= (
            SELECT event_nid FROM notifications WHERE room_nid = %(room)s
             ORDER BY event_nid DESC OFFSET %(keep)s LIMIT 1)""",
        {"room": room_nid, "keep": keep},
    )


def list_unread_counts(
    txn: Txn, user_id: UserID, room_nids: Sequence[int], up_to: int, ignored: Sequence[UserID]
) -> list[UnreadCount]:
    """Count what notified the user in rooms he is in, up to a position and since he read it.

    1. An unthreaded receipt reads the whole room, and nothing from before the stay counts.
    2. A threaded receipt, or an event of the user's own, reads its thread.
    3. Whom the user ignores does not count.
    Threads without anything are left out. Costs as much as there are events after 1.
    """
    return list_rows(
        txn,
        UnreadCount,
        """
        WITH me AS MATERIALIZED (SELECT user_nid FROM users WHERE user_id = %(user)s),
        stays AS MATERIALIZED (
            SELECT m.room_nid,
                   greatest(m.joined_nid, (
                       SELECT max(r.event_nid) FROM receipts AS r
                        WHERE r.room_nid = m.room_nid AND r.user_nid = m.user_nid
                          AND r.thread_id = '')) AS floor
              FROM room_memberships AS m JOIN me USING (user_nid)
             WHERE m.room_nid = ANY(%(rooms)s) AND m.membership = 1),
        told AS MATERIALIZED (
            SELECT DISTINCT ON (n.room_nid, n.event_nid) n.*
              FROM me, stays AS s JOIN notifications AS n ON n.room_nid = s.room_nid
                                                         AND n.event_nid > s.floor
             WHERE n.event_nid <= %(up_to)s AND (n.users IS NULL OR me.user_nid = ANY(n.users))
             ORDER BY n.room_nid, n.event_nid, n.part DESC),
        marks AS (
            SELECT room_nid, thread_id, max(event_nid) AS read_nid
              FROM (SELECT room_nid, thread_id, event_nid
                      FROM told JOIN me ON sender_nid = user_nid
                     WHERE is_mark
                    UNION ALL
                    SELECT r.room_nid, r.thread_id, r.event_nid
                      FROM receipts AS r JOIN me USING (user_nid) JOIN stays USING (room_nid)
                     WHERE r.thread_id <> '') AS both_kinds
             GROUP BY room_nid, thread_id)
        SELECT rooms.room_id, told.thread_id, count(*)::integer,
               (count(*) FILTER (WHERE is_highlight))::integer
          FROM told JOIN rooms USING (room_nid) LEFT JOIN marks USING (room_nid, thread_id)
         WHERE is_notify AND sender_nid <> (SELECT user_nid FROM me)
           AND sender_nid <> ALL (ARRAY(SELECT user_nid FROM users
                                         WHERE user_id = ANY(%(ignored)s)))
           AND told.event_nid > coalesce(read_nid, 0)
         GROUP BY rooms.room_id, told.thread_id""",
        {
            "user": user_id,
            "rooms": list(room_nids),
            "up_to": up_to,
            "ignored": list(ignored),
        },
    )


def list_notifications(
    txn: Txn, user_id: UserID, before: int, limit: int, *, only_highlights: bool
) -> list[StoredNotification]:
    """Newest first: what has notified the user before a position, in rooms not forgotten.

    In rooms he is not in now, what happened during his last stay, and invitations.
    """
    return list_rows(
        txn,
        StoredNotification,
        """
        WITH me AS MATERIALIZED (SELECT user_nid FROM users WHERE user_id = %(user)s),
        page AS MATERIALIZED (
            SELECT n.*, n.event_nid < m.joined_nid AS is_past
              FROM me JOIN room_memberships AS m USING (user_nid) CROSS JOIN LATERAL (
                SELECT * FROM notifications AS one
                 WHERE one.room_nid = m.room_nid AND one.event_nid < %(before)s
                   AND one.is_notify AND one.sender_nid <> m.user_nid
                   AND (one.is_highlight OR NOT %(only_highlights)s)
                   AND CASE WHEN one.users IS NOT NULL THEN m.user_nid = ANY(one.users)
                            ELSE one.event_nid > m.joined_nid
                             AND one.event_nid < coalesce(m.left_nid, %(before)s)
                             AND NOT EXISTS (
                                 SELECT FROM notifications AS other
                                  WHERE other.room_nid = one.room_nid
                                    AND other.event_nid = one.event_nid AND other.part > 0
                                    AND m.user_nid = ANY(other.users)) END
                 ORDER BY one.event_nid DESC LIMIT %(limit)s) AS n
             WHERE NOT m.forgotten
             ORDER BY n.event_nid DESC LIMIT %(limit)s)
        SELECT rooms.room_id, page.room_nid, page.event_nid, page.actions,
               coalesce(is_past, false)
               OR EXISTS (SELECT FROM receipts AS r
                           WHERE r.room_nid = page.room_nid AND r.user_nid = me.user_nid
                             AND r.thread_id IN ('', page.thread_id)
                             AND r.event_nid >= page.event_nid)
               OR EXISTS (SELECT FROM notifications AS own
                           WHERE own.room_nid = page.room_nid AND own.event_nid > page.event_nid
                             AND own.sender_nid = me.user_nid AND own.is_mark
                             AND own.thread_id = page.thread_id)
          FROM me, page JOIN rooms USING (room_nid)
         ORDER BY page.event_nid DESC""",
        {
            "user": user_id,
            "before": before,
            "limit": limit,
            "only_highlights": only_highlights,
        },
    )


def find_thread(txn: Txn, room_nid: int, event_id: bytes, hops: int) -> bytes | None:
    """Return the root of the thread that an event is in, followed through at most `hops` relations.

    None: it is in none, as far as is known.
    """
    return find_value(
        txn,
        bytes,
        """
        WITH RECURSIVE chain AS (
            SELECT r.rel_type, r.parent_id, 1 AS hop
              FROM events AS e JOIN event_relations AS r
                ON r.room_nid = e.room_nid AND r.child_nid = e.event_nid
             WHERE e.event_id = %(event)s AND e.room_nid = %(room)s
            UNION ALL
            SELECT r.rel_type, r.parent_id, hop + 1
              FROM chain
              JOIN events AS e ON e.event_id = chain.parent_id AND e.room_nid = %(room)s
              JOIN event_relations AS r ON r.room_nid = e.room_nid AND r.child_nid = e.event_nid
             WHERE chain.rel_type <> 'm.thread' AND hop < %(hops)s)
        SELECT parent_id FROM chain WHERE rel_type = 'm.thread' LIMIT 1""",
        {"event": event_id, "room": room_nid, "hops": hops},
    )
