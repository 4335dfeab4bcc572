"""Room aliases of this server."""

from collections.abc import Sequence

from homeserver.core.identifiers import RoomAlias, RoomID, UserID
from homeserver.storage.dictionaries import intern_users
from homeserver.storage.query import Txn, execute, find_value, list_values


def find_alias(txn: Txn, alias: RoomAlias) -> RoomID | None:
    found = find_value(
        txn,
        str,
        "SELECT room_id FROM room_aliases JOIN rooms USING (room_nid) WHERE alias = %s",
        (alias,),
    )
    return None if found is None else RoomID(found)


def find_alias_creator(txn: Txn, alias: RoomAlias) -> UserID | None:
    found = find_value(
        txn,
        str,
        "SELECT user_id FROM room_aliases JOIN users ON user_nid = creator_nid WHERE alias = %s",
        (alias,),
    )
    return None if found is None else UserID(found)


def list_aliases(txn: Txn, room_nid: int) -> list[str]:
    return list_values(
        txn, str, "SELECT alias FROM room_aliases WHERE room_nid = %s ORDER BY alias", (room_nid,)
    )


def insert_alias(txn: Txn, alias: RoomAlias, room_nid: int, creator: UserID) -> bool:
    """Return False when the alias is taken."""
    creator_nid = intern_users(txn, [creator])[creator]
    inserted = execute(
        txn,
        "INSERT INTO room_aliases (alias, room_nid, creator_nid) VALUES (%s, %s, %s)"
        " ON CONFLICT DO NOTHING",
        (alias, room_nid, creator_nid),
    )
    return inserted == 1


def move_aliases(txn: Txn, from_room: int, to_room: int) -> None:
    """Let the aliases of one room lead to another."""
    execute(txn, "UPDATE room_aliases SET room_nid = %s WHERE room_nid = %s", (to_room, from_room))


def delete_alias(txn: Txn, alias: RoomAlias) -> None:
    execute(txn, "DELETE FROM room_aliases WHERE alias = %s", (alias,))


def delete_aliases_of(txn: Txn, room_nids: Sequence[int]) -> None:
    execute(txn, "DELETE FROM room_aliases WHERE room_nid = ANY(%s)", (list(room_nids),))
