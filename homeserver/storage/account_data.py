"""Account data: JSON that users keep on the server, global or for one room."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, UserID
from homeserver.storage.query import Txn, execute, fetch_value, find_value, list_rows


@dataclass(frozen=True, slots=True)
class AccountDatum:
    room_id: RoomID
    """Empty: of no room."""
    type: str
    content: str
    """JSON text."""


def lock_user(txn: Txn, user_id: UserID) -> int:
    """Return the user's number; others who lock the same user wait for the end of `txn`."""
    return fetch_value(
        txn,
        int,
        "SELECT user_nid FROM users WHERE user_id = %s FOR NO KEY UPDATE",
        (user_id,),
    )


def upsert_account_data(
    txn: Txn, user_nid: int, room_id: RoomID, data_type: str, content: str, position: int
) -> None:
    execute(
        txn,
        """
        INSERT INTO account_data (user_nid, room_id, type, content, position)
        VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT (user_nid, room_id, type) DO UPDATE
           SET content = excluded.content, position = excluded.position""",
        (user_nid, room_id, data_type, content, position),
    )


def count_account_data(txn: Txn, user_nid: int) -> int:
    return fetch_value(
        txn, int, "SELECT count(*) FROM account_data WHERE user_nid = %s", (user_nid,)
    )


def find_account_data(txn: Txn, user_id: UserID, room_id: RoomID, data_type: str) -> str | None:
    """Return the content as JSON text."""
    return find_value(
        txn,
        str,
        """
        SELECT content FROM account_data
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s)
           AND room_id = %s AND type = %s""",
        (user_id, room_id, data_type),
    )


def list_of_rooms(txn: Txn, user_id: UserID, room_ids: Sequence[RoomID]) -> list[AccountDatum]:
    return list_rows(
        txn,
        AccountDatum,
        """
        SELECT room_id, type, content FROM account_data
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s)
           AND room_id = ANY(%s)
         ORDER BY position""",
        (user_id, list(room_ids)),
    )


def list_account_data(
    txn: Txn, user_id: UserID, after: int = -1, up_to: int = 2**63 - 1
) -> list[AccountDatum]:
    """Return what changed last at a position in (after, up_to]; by default everything."""
    return list_rows(
        txn,
        AccountDatum,
        """
        SELECT room_id, type, content FROM account_data
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s)
           AND position > %s AND position <= %s
         ORDER BY position""",
        (user_id, after, up_to),
    )
