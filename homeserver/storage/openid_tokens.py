"""Tokens by which a user proves to a third party who he is, hashed."""

from homeserver.core.identifiers import UserID
from homeserver.storage.dictionaries import intern_users
from homeserver.storage.query import Txn, execute, find_value


def insert_token(txn: Txn, token_hash: bytes, user_id: UserID, expires_ts: int) -> None:
    execute(
        txn,
        "INSERT INTO openid_tokens (token_hash, user_nid, expires_ts) VALUES (%s, %s, %s)",
        (token_hash, intern_users(txn, [user_id])[user_id], expires_ts),
    )


def find_user(txn: Txn, token_hash: bytes, now_ms: int) -> UserID | None:
    """Return whose token it is; None for one that has expired, or of an account that is no more."""
    found = find_value(
        txn,
        str,
        """
        SELECT user_id
          FROM openid_tokens JOIN users USING (user_nid) JOIN accounts USING (user_nid)
         WHERE token_hash = %s AND expires_ts > %s AND deactivated_ts IS NULL""",
        (token_hash, now_ms),
    )
    return None if found is None else UserID(found)


def delete_expired(txn: Txn, now_ms: int) -> None:
    execute(txn, "DELETE FROM openid_tokens WHERE expires_ts <= %s", (now_ms,))
