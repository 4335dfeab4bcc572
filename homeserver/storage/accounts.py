"""Accounts of this server's users.

Invariant: an account is never deleted, so a name never passes to somebody else.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import UserID
from homeserver.storage.dictionaries import intern_users
from homeserver.storage.query import Txn, execute, find_row, find_value


@dataclass(frozen=True, slots=True)
class Account:
    user_id: UserID
    user_nid: int
    password_hash: str | None
    is_admin: bool
    appservice_id: str | None
    is_deactivated: bool


def insert_account(
    txn: Txn,
    user_id: UserID,
    *,
    created_ts: int,
    password_hash: str | None = None,
    is_admin: bool = False,
    appservice_id: str | None = None,
) -> int | None:
    """Return the user's number, or None when the name is taken."""
    user_nid = intern_users(txn, [user_id])[user_id]
    return find_value(
        txn,
        int,
        """
        INSERT INTO accounts (user_nid, password_hash, is_admin, appservice_id, created_ts)
        VALUES (%s, %s, %s, %s, %s)
        ON CONFLICT DO NOTHING
        RETURNING user_nid""",
        (user_nid, password_hash, is_admin, appservice_id, created_ts),
    )


def find_account(txn: Txn, user_id: UserID) -> Account | None:
    return find_row(
        txn,
        Account,
        """
        SELECT user_id, user_nid, password_hash, is_admin, appservice_id,
               deactivated_ts IS NOT NULL
          FROM users JOIN accounts USING (user_nid)
         WHERE user_id = %s""",
        (user_id,),
    )


def update_password_hash(txn: Txn, user_nid: int, password_hash: str) -> None:
    execute(
        txn,
        "UPDATE accounts SET password_hash = %s WHERE user_nid = %s AND deactivated_ts IS NULL",
        (password_hash, user_nid),
    )


def update_deactivated(txn: Txn, user_nid: int, deactivated_ts: int) -> None:
    """Deactivate the account and forget its password."""
    execute(
        txn,
        """
        UPDATE accounts SET deactivated_ts = %s, password_hash = NULL
         WHERE user_nid = %s AND deactivated_ts IS NULL""",
        (deactivated_ts, user_nid),
    )
