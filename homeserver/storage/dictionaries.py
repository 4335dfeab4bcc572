"""Numbers for texts: users, event types and state slots. The text forms live only here."""

from collections.abc import Sequence

from homeserver.core.identifiers import UserID
from homeserver.storage.query import (
    Txn,
    array_of,
    find_value,
    insert_columns,
    insert_many,
    list_tuples,
)


def intern_users(txn: Txn, user_ids: Sequence[UserID]) -> dict[UserID, int]:
    """Return the number of each user id, making those that are new."""
    wanted = list(dict.fromkeys(user_ids))
    known = _users(txn, wanted)
    missing = [u for u in wanted if u not in known]
    if missing:
        insert_columns(
            txn,
            "INSERT INTO users (user_id) SELECT * FROM unnest(%s::text[]) ON CONFLICT DO NOTHING",
            [(u,) for u in missing],
        )
        known |= _users(txn, missing)
    return known


def _users(txn: Txn, user_ids: list[UserID]) -> dict[UserID, int]:
    rows = list_tuples(
        txn,
        "SELECT user_id, user_nid FROM users WHERE user_id = ANY(%s::text[])",
        (array_of(user_ids),),
    )
    return dict(rows)


def find_user_nid(txn: Txn, user_id: UserID) -> int | None:
    return find_value(txn, int, "SELECT user_nid FROM users WHERE user_id = %s", (user_id,))


def list_user_ids(txn: Txn, user_nids: Sequence[int]) -> dict[int, UserID]:
    rows = list_tuples(
        txn, "SELECT user_nid, user_id FROM users WHERE user_nid = ANY(%s)", (list(user_nids),)
    )
    return dict(rows)


def intern_types(txn: Txn, types: Sequence[str]) -> dict[str, int]:
    wanted = list(dict.fromkeys(types))
    insert_many(
        txn,
        "INSERT INTO event_types (type) VALUES %s ON CONFLICT DO NOTHING",
        [(t,) for t in wanted],
    )
    rows = list_tuples(
        txn, "SELECT type, type_nid FROM event_types WHERE type = ANY(%s)", (wanted,)
    )
    return dict(rows)


def intern_slots(
    txn: Txn, slots: Sequence[tuple[str, str]], types: dict[str, int]
) -> dict[tuple[str, str], int]:
    """Return the number of each (type, state key); `types` holds every type named."""
    wanted = list(dict.fromkeys(slots))
    known = _slots(txn, wanted, types)
    missing = [slot for slot in wanted if slot not in known]
    if missing:
        insert_columns(
            txn,
            """
            INSERT INTO state_slots (type_nid, state_key)
            SELECT * FROM unnest(%s::integer[], %s::text[]) ON CONFLICT DO NOTHING""",
            [(types[t], key) for t, key in missing],
        )
        known |= _slots(txn, missing, types)
    return known


def _slots(
    txn: Txn, slots: Sequence[tuple[str, str]], types: dict[str, int]
) -> dict[tuple[str, str], int]:
    rows = list_tuples(
        txn,
        """
        SELECT types.type, slots.state_key, slots.slot_nid
          FROM unnest(%s::integer[], %s::text[]) AS wanted (type_nid, state_key)
          JOIN state_slots AS slots USING (type_nid, state_key)
          JOIN event_types AS types USING (type_nid)""",
        (array_of(types[t] for t, _ in slots), array_of(key for _, key in slots)),
    )
    return {(t, key): nid for t, key, nid in rows}


def list_slots(txn: Txn, slot_nids: Sequence[int]) -> dict[int, tuple[str, str]]:
    rows = list_tuples(
        txn,
        """
        SELECT slot_nid, type, state_key
          FROM state_slots JOIN event_types USING (type_nid) WHERE slot_nid = ANY(%s)""",
        (list(slot_nids),),
    )
    return {nid: (event_type, key) for nid, event_type, key in rows}
