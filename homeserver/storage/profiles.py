"""Profile fields of this server's users, each value as JSON text."""

from homeserver.core.identifiers import UserID
from homeserver.storage.query import Txn, execute, find_value, list_tuples


def list_fields(txn: Txn, user_id: UserID) -> dict[str, str] | None:
    """Return field -> JSON text; None when there is no such active account."""
    rows = list_tuples(
        txn,
        """
        SELECT field, value
          FROM users JOIN accounts USING (user_nid) LEFT JOIN profile_fields USING (user_nid)
         WHERE user_id = %s AND deactivated_ts IS NULL""",
        (user_id,),
    )
    if not rows:
        return None
    return {field: value for field, value in rows if field is not None}


def lock_profile(txn: Txn, user_id: UserID) -> int | None:
    """Return the user's number, and let nobody else change the profile in this transaction."""
    return find_value(
        txn,
        int,
        """
        SELECT user_nid FROM accounts JOIN users USING (user_nid)
         WHERE user_id = %s AND deactivated_ts IS NULL FOR UPDATE OF accounts""",
        (user_id,),
    )


def upsert_field(txn: Txn, user_nid: int, field: str, value: str) -> None:
    execute(
        txn,
        """
        INSERT INTO profile_fields (user_nid, field, value) VALUES (%s, %s, %s)
        ON CONFLICT (user_nid, field) DO UPDATE SET value = excluded.value""",
        (user_nid, field, value),
    )


def delete_field(txn: Txn, user_nid: int, field: str) -> bool:
    """Return False when there is no such field."""
    return bool(
        execute(
            txn,
            "DELETE FROM profile_fields WHERE user_nid = %s AND field = %s",
            (user_nid, field),
        )
    )


def delete_fields(txn: Txn, user_nid: int) -> None:
    execute(txn, "DELETE FROM profile_fields WHERE user_nid = %s", (user_nid,))
