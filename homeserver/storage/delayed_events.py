"""Events that are to be sent later, and for some days what became of them.

A row with a `due_ts` is scheduled. Without, it is finalised: sent, cancelled or failed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.storage.query import Txn, execute, find_row, find_value, list_rows


@dataclass(frozen=True, slots=True)
class NewDelayed:
    delay_id: str
    device_id: DeviceID | str
    txn_id: str | None
    room_nid: int
    event_type: str
    state_key: str | None
    origin_server_ts: int | None
    content: bytes
    delay_ms: int
    since_ts: int
    position: int
    due_ts: int


@dataclass(frozen=True, slots=True)
class Delayed:
    delay_id: str
    user_id: UserID
    room_nid: int
    room_id: RoomID
    event_type: str
    state_key: str | None
    origin_server_ts: int | None
    content: bytes
    delay_ms: int
    since_ts: int
    position: int
    tries: int
    finalised_ts: int | None
    event_id: EventID | None
    error: bytes | None


@dataclass(frozen=True, slots=True)
class Claimed:
    delay_id: str
    user_nid: int
    room_nid: int
    send_ts: int
    delay_nid: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a user has scheduled."""

    count: int
    bytes: int
    next_ts: int | None


@dataclass(frozen=True, slots=True)
class StateDelay:
    delay_id: str
    user_id: UserID
    room_id: RoomID
    event_type: str
    state_key: str


# --- schedule and restart


def lock_user(txn: Txn, user_nid: int) -> None:
    """Let no two transactions count one user's events at once."""
    execute(txn, "SELECT 1 FROM users WHERE user_nid = %s FOR NO KEY UPDATE", (user_nid,))


def find_transaction(
    txn: Txn, user_nid: int, device_id: DeviceID | str, room_nid: int, txn_id: str
) -> str | None:
    return find_value(
        txn,
        str,
        """
        SELECT delay_id FROM delayed_events
         WHERE user_nid = %s AND device_id = %s AND room_nid = %s AND txn_id = %s""",
        (user_nid, device_id, room_nid, txn_id),
    )


def count_scheduled(txn: Txn, user_nid: int) -> Held:
    found = find_row(
        txn,
        Held,
        """
        SELECT count(*), coalesce(sum(length(content)), 0)::bigint, min(due_ts)
          FROM delayed_events WHERE user_nid = %s AND finalised_ts IS NULL""",
        (user_nid,),
    )
    assert found is not None
    return found


def insert_delayed(txn: Txn, user_nid: int, new: NewDelayed) -> None:
    execute(
        txn,
        """
        INSERT INTO delayed_events
               (delay_id, user_nid, device_id, txn_id, room_nid, event_type, state_key,
                origin_server_ts, content, delay_ms, since_ts, position, due_ts)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)""",
        (
            new.delay_id,
            user_nid,
            new.device_id,
            new.txn_id,
            new.room_nid,
            new.event_type,
            new.state_key,
            new.origin_server_ts,
            new.content,
            new.delay_ms,
            new.since_ts,
            new.position,
            new.due_ts,
        ),
    )


def update_restarted(txn: Txn, delay_id: str, since_ts: int, now: int) -> None:
    execute(
        txn,
        """
        UPDATE delayed_events SET since_ts = %s, due_ts = %s + delay_ms, tries = 0
         WHERE delay_id = %s AND finalised_ts IS NULL""",
        (since_ts, now, delay_id),
    )


def update_all_due(txn: Txn, now: int) -> None:
    """Count the delays anew by the clock of this process; none is longer than it was at first."""
    execute(
        txn,
        """
        UPDATE delayed_events SET due_ts = least(since_ts, %(now)s) + delay_ms, tries = 0
         WHERE finalised_ts IS NULL
           AND (due_ts <> least(since_ts, %(now)s) + delay_ms OR tries > 0)""",
        {"now": now},
    )


# --- what is due


def claim_due(
    txn: Txn,
    now: int,
    busy_rooms: Sequence[int],
    busy_users: Mapping[int, int],
    *,
    at_most: int,
    at_most_a_user: int,
    retry_seconds: tuple[float, float],
) -> list[Claimed]:
    """Take what is due, the oldest first, a few of each user; it is due again unless finalised.

    busy_users     how many of each user's are taken already
    retry_seconds  how long until then: the first time, and at most; doubled with each try
    """
    first, longest = retry_seconds
    full_users = [user for user, count in busy_users.items() if count >= at_most_a_user]
    claimed = list_rows(
        txn,
        Claimed,
        """
        WITH due AS (
            SELECT delay_nid, user_nid, due_ts FROM delayed_events
             WHERE due_ts <= %(now)s
               AND room_nid <> ALL(%(rooms)s) AND user_nid <> ALL(%(full_users)s)
             ORDER BY due_ts, delay_nid LIMIT 1000
        ), placed AS (
            SELECT delay_nid, due_ts, coalesce(busy.count, 0)
                   + row_number() OVER (PARTITION BY user_nid ORDER BY due_ts, delay_nid) AS place
              FROM due
              LEFT JOIN unnest(%(users)s::bigint[], %(counts)s::bigint[]) AS busy (user_nid, count)
                USING (user_nid)
        ), taken AS (
            SELECT delay_nid FROM placed WHERE place <= %(at_most_a_user)s
             ORDER BY due_ts, delay_nid LIMIT %(at_most)s
        )
        UPDATE delayed_events AS d
           SET tries = d.tries + 1,
               due_ts = %(now)s + (least(%(first)s * 2.0 ^ least(d.tries, 20), %(longest)s)
                                   * 1000)::bigint
          FROM taken
         WHERE d.delay_nid = taken.delay_nid
        RETURNING d.delay_id, d.user_nid, d.room_nid, d.since_ts + d.delay_ms, d.delay_nid""",
        {
            "now": now,
            "rooms": list(busy_rooms),
            "full_users": full_users,
            "users": list(busy_users.keys()),
            "counts": list(busy_users.values()),
            "at_most": at_most,
            "at_most_a_user": at_most_a_user,
            "first": first,
            "longest": longest,
        },
    )
    return sorted(claimed, key=lambda one: (one.send_ts, one.delay_nid))


def find_next_due(txn: Txn, busy_rooms: Sequence[int], full_users: Sequence[int]) -> int | None:
    return find_value(
        txn,
        int,
        """
        SELECT due_ts FROM delayed_events
         WHERE due_ts IS NOT NULL AND room_nid <> ALL(%s) AND user_nid <> ALL(%s)
         ORDER BY due_ts LIMIT 1""",
        (list(busy_rooms), list(full_users)),
    )


def list_state_delays(txn: Txn, limit: int) -> list[StateDelay]:
    """Return state events that are scheduled, the soonest first."""
    return list_rows(
        txn,
        StateDelay,
        """
        SELECT delay_id, user_id, room_id, event_type, state_key
          FROM delayed_events JOIN users USING (user_nid) JOIN rooms USING (room_nid)
         WHERE due_ts IS NOT NULL AND state_key IS NOT NULL
         ORDER BY due_ts LIMIT %s""",
        (limit,),
    )


# --- reading


def find_delayed(txn: Txn, delay_id: str) -> Delayed | None:
    return find_row(
        txn,
        Delayed,
        """
        SELECT delay_id, user_id, room_nid, room_id, event_type, state_key, origin_server_ts,
               content, delay_ms, since_ts, position, tries, finalised_ts, event_id, error
          FROM delayed_events JOIN users USING (user_nid) JOIN rooms USING (room_nid)
         WHERE delay_id = %s""",
        (delay_id,),
    )


def list_scheduled(txn: Txn, user_id: UserID) -> list[Delayed]:
    """Return what the user has scheduled, in the order in which it is to be sent."""
    return list_rows(
        txn,
        Delayed,
        """
        SELECT delay_id, user_id, room_nid, room_id, event_type, state_key, origin_server_ts,
               content, delay_ms, since_ts, position, tries, finalised_ts, event_id, error
          FROM delayed_events JOIN users USING (user_nid) JOIN rooms USING (room_nid)
         WHERE user_id = %s AND finalised_ts IS NULL
         ORDER BY since_ts + delay_ms, delay_nid""",
        (user_id,),
    )


# --- the end


def update_finalised(
    txn: Txn, delay_id: str, finalised_ts: int, event_id: EventID | None, error: bytes | None
) -> int | None:
    """Return the number of its user; None when it is not scheduled."""
    return find_value(
        txn,
        int,
        """
        UPDATE delayed_events
           SET due_ts = NULL, finalised_ts = %s, event_id = %s, error = %s
         WHERE delay_id = %s AND finalised_ts IS NULL
        RETURNING user_nid""",
        (finalised_ts, event_id, error, delay_id),
    )


def delete_surplus(txn: Txn, user_nid: int, kept: int) -> None:
    """Delete all but the user's newest finalised ones."""
    execute(
        txn,
        """
        DELETE FROM delayed_events WHERE delay_nid IN (
            SELECT delay_nid FROM delayed_events
             WHERE user_nid = %s AND finalised_ts IS NOT NULL
             ORDER BY finalised_ts DESC, delay_nid DESC OFFSET %s)""",
        (user_nid, kept),
    )


def delete_old(txn: Txn, before_ts: int) -> int:
    return execute(txn, "DELETE FROM delayed_events WHERE finalised_ts < %s", (before_ts,))


def delete_for_user(txn: Txn, user_nid: int) -> None:
    execute(txn, "DELETE FROM delayed_events WHERE user_nid = %s", (user_nid,))
