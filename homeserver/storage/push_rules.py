"""Push rules: what each user changed of the predefined ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import UserID
from homeserver.storage.query import Txn, execute, list_rows


@dataclass(frozen=True, slots=True)
class StoredRuleset:
    user_id: UserID
    ruleset: str
    """JSON text."""
    position: int


def list_rulesets(txn: Txn, user_ids: Sequence[UserID]) -> list[StoredRuleset]:
    """Return the rulesets of those users who have one."""
    return list_rows(
        txn,
        StoredRuleset,
        """
        SELECT user_id, ruleset, position FROM push_rules JOIN users USING (user_nid)
         WHERE user_id = ANY(%s)""",
        (list(user_ids),),
    )


def upsert_ruleset(txn: Txn, user_nid: int, ruleset: str, position: int) -> None:
    execute(
        txn,
        """
        INSERT INTO push_rules (user_nid, ruleset, position) VALUES (%s, %s, %s)
        ON CONFLICT (user_nid) DO UPDATE
           SET ruleset = excluded.ruleset, position = excluded.position""",
        (user_nid, ruleset, position),
    )
