"""Local users in rooms whose other servers have yet to hear of their devices."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, ServerName, UserID
from homeserver.storage.query import Txn, execute, insert_many, list_rows


@dataclass(frozen=True, slots=True)
class NewIntroduction:
    user_nid: int
    room_nid: int
    servers: Sequence[ServerName] | None
    """Those that have turned out to be in the room; None: the user has just come into it."""


@dataclass(frozen=True, slots=True)
class Introduction:
    user_nid: int
    user_id: UserID
    room_nid: int
    room_id: RoomID
    servers: list[ServerName] | None
    version: str
    """Another each time that it is written, be it with the same words."""


def insert_introductions(txn: Txn, rows: Sequence[NewIntroduction]) -> None:
    """One user may have come into one room several times; a statement must not say so twice."""
    merged: dict[tuple[int, int], list[ServerName] | None] = {}
    for row in rows:
        key = row.user_nid, row.room_nid
        before = merged.get(key, [])
        has_come = before is None or row.servers is None
        merged[key] = None if has_come else [*(before or ()), *(row.servers or ())]
    insert_many(
        txn,
        """
        INSERT INTO pending_introductions AS known (user_nid, room_nid, servers) VALUES %s
        ON CONFLICT (user_nid, room_nid) DO UPDATE
           SET servers = CASE WHEN known.servers IS NOT NULL AND excluded.servers IS NOT NULL
                              THEN known.servers || excluded.servers END""",
        [(*key, servers) for key, servers in merged.items()],
    )


def list_introductions(txn: Txn, user_limit: int) -> list[Introduction]:
    """Return all of some users, each user's together."""
    return list_rows(
        txn,
        Introduction,
        """
        SELECT user_nid, user_id, room_nid, room_id, servers, p.xmin::text
          FROM pending_introductions AS p JOIN users USING (user_nid) JOIN rooms USING (room_nid)
         WHERE user_nid IN (SELECT DISTINCT user_nid FROM pending_introductions
                             ORDER BY user_nid LIMIT %s)
         ORDER BY user_nid, room_nid""",
        (user_limit,),
    )


def lock_introductions(txn: Txn, user_nid: int) -> list[Introduction]:
    """Return those of a user; they stay as they are until the transaction ends."""
    return list_rows(
        txn,
        Introduction,
        """
        SELECT user_nid, user_id, room_nid, room_id, servers, p.xmin::text
          FROM pending_introductions AS p JOIN users USING (user_nid) JOIN rooms USING (room_nid)
         WHERE user_nid = %s ORDER BY room_nid FOR UPDATE OF p""",
        (user_nid,),
    )


def delete_introductions(txn: Txn, rows: Sequence[Introduction]) -> None:
    for row in rows:
        execute(
            txn,
            "DELETE FROM pending_introductions WHERE user_nid = %s AND room_nid = %s",
            (row.user_nid, row.room_nid),
        )
