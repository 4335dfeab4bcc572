"""Numbers for texts: users, event types and state slots. The text forms live only here.

What is new is inserted in order: two transactions with the same texts wait for each other, but not
both at once.
"""

from collections.abc import Sequence

from homeserver.core.identifiers import UserID
from homeserver.storage.query import (
    Txn,
    array_of,
    find_value,
    insert_columns,
    list_tuples,
)


def intern_users(txn: Txn, user_ids: Sequence[UserID]) -> dict[UserID, int]:
    """Return the number of each user id, making those that are new."""
    known = _users(txn, list(dict.fromkeys(user_ids)))
    missing = sorted({u for u in user_ids if u not in known})
    if missing:
        made = list_tuples(
            txn,
            """
            INSERT INTO users (user_id) SELECT * FROM unnest(%s::text[])
            ON CONFLICT DO NOTHING RETURNING user_id, user_nid""",
            (array_of(missing),),
        )
        known |= dict(made)
        known |= _users(txn, [u for u in missing if u not in known])
    return known


def _users(txn: Txn, user_ids: list[UserID]) -> dict[UserID, int]:
    if not user_ids:
        return {}
    rows = list_tuples(
        txn,
        "SELECT user_id, user_nid FROM users WHERE user_id = ANY(%s::text[])",
        (array_of(user_ids),),
    )
    return dict(rows)


def find_user_nid(txn: Txn, user_id: UserID) -> int | None:
    return find_value(txn, int, "SELECT user_nid FROM users WHERE user_id = %s", (user_id,))


def intern_types(txn: Txn, types: Sequence[str]) -> dict[str, int]:
    """Return the number of each event type, making those that are new."""
    known = _types(txn, list(dict.fromkeys(types)))
    missing = sorted({t for t in types if t not in known})
    if missing:
        insert_columns(
            txn,
            """
            INSERT INTO event_types (type) SELECT * FROM unnest(%s::text[])
            ON CONFLICT DO NOTHING""",
            [(t,) for t in missing],
        )
        known |= _types(txn, missing)
    return known


def _types(txn: Txn, types: list[str]) -> dict[str, int]:
    rows = list_tuples(
        txn, "SELECT type, type_nid FROM event_types WHERE type = ANY(%s::text[])", (types,)
    )
    return dict(rows)


def intern_slots(
    txn: Txn, slots: Sequence[tuple[str, str]], types: dict[str, int]
) -> dict[tuple[str, str], int]:
    """Return the number of each (type, state key); `types` holds every type named."""
    wanted = {(types[t], key): (t, key) for t, key in slots}
    known = _slots(txn, list(wanted))
    missing = sorted(slot for slot in wanted if slot not in known)
    if missing:
        made = list_tuples(
            txn,
            """
            INSERT INTO state_slots (type_nid, state_key)
            SELECT * FROM unnest(%s::integer[], %s::text[])
            ON CONFLICT DO NOTHING RETURNING type_nid, state_key, slot_nid""",
            _columns(missing),
        )
        known |= {(type_nid, key): nid for type_nid, key, nid in made}
        known |= _slots(txn, [slot for slot in missing if slot not in known])
    return {wanted[slot]: nid for slot, nid in known.items()}


def _slots(txn: Txn, slots: list[tuple[int, str]]) -> dict[tuple[int, str], int]:
    if not slots:
        return {}
    rows = list_tuples(
        txn,
        """
        SELECT type_nid, state_key, slot_nid
          FROM unnest(%s::integer[], %s::text[]) AS wanted (type_nid, state_key)
          JOIN state_slots USING (type_nid, state_key)""",
        _columns(slots),
    )
    return {(type_nid, key): nid for type_nid, key, nid in rows}


def _columns(slots: Sequence[tuple[int, str]]) -> tuple[str, str]:
    return array_of(type_nid for type_nid, _ in slots), array_of(key for _, key in slots)


def list_slots(txn: Txn, slot_nids: Sequence[int]) -> dict[int, tuple[str, str]]:
    rows = list_tuples(
        txn,
        """
        SELECT slot_nid, type, state_key
          FROM state_slots JOIN event_types USING (type_nid) WHERE slot_nid = ANY(%s)""",
        (list(slot_nids),),
    )
    return {nid: (event_type, key) for nid, event_type, key in rows}
