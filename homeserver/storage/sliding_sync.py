"""Questions that only sliding sync asks of events and memberships. It has no tables of its own."""

from homeserver.core.identifiers import UserID
from homeserver.storage.events import HIDDEN, HISTORICAL
from homeserver.storage.memberships import NUMBERS
from homeserver.storage.query import Txn, find_value, list_values

BUMPS = frozenset(
    {
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "m.beacon_info",
    }
)
"""Types of events that are activity, see MSC4186 on `bump_stamp`."""


def list_own_leaves(txn: Txn, user_id: UserID) -> list[int]:
    """Return the numbers of the membership events by which the user himself has left a room."""
    return list_values(
        txn,
        int,
        """
        SELECT m.event_nid
          FROM room_memberships AS m JOIN events AS e USING (room_nid, event_nid)
         WHERE m.user_nid = (SELECT user_nid FROM users WHERE user_id = %s)
           AND m.membership = %s AND e.sender_nid = m.user_nid""",
        (user_id, NUMBERS["leave"]),
    )


def find_last_bump(txn: Txn, room_nid: int, up_to: int) -> int | None:
    """Return the newest activity at or before a position."""
    return find_value(
        txn,
        int,
        """
        SELECT event_nid FROM events JOIN event_types USING (type_nid)
         WHERE room_nid = %s AND event_nid <= %s AND flags & %s = 0 AND type = ANY(%s)
         ORDER BY event_nid DESC LIMIT 1""",
        (room_nid, up_to, HIDDEN | HISTORICAL, list(BUMPS)),
    )
