"""Filters that clients have uploaded."""

from homeserver.core.identifiers import UserID
from homeserver.storage.query import Txn, execute, find_value


def insert_filter(txn: Txn, user_id: UserID, filter_id: str, definition: str, *, keep: int) -> None:
    """Store the filter unless it is known; of more than `keep` the oldest go."""
    is_new = execute(
        txn,
        """
        INSERT INTO filters (user_nid, filter_id, definition)
        SELECT user_nid, %s, %s FROM users WHERE user_id = %s
        ON CONFLICT DO NOTHING""",
        (filter_id, definition, user_id),
    )
    if is_new:
        execute(
            txn,
            """
            DELETE FROM filters
             WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %(user_id)s)
               AND filter_nid <= (
                   SELECT filter_nid FROM filters
                    WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %(user_id)s)
                    ORDER BY filter_nid DESC OFFSET %(keep)s LIMIT 1)""",
            {"user_id": user_id, "keep": keep},
        )


def find_filter(txn: Txn, user_id: UserID, filter_id: str) -> str | None:
    """Return the definition as JSON text."""
    return find_value(
        txn,
        str,
        """
        SELECT definition FROM filters
         WHERE user_nid = (SELECT user_nid FROM users WHERE user_id = %s) AND filter_id = %s""",
        (user_id, filter_id),
    )
