"""Push rules: reading and changing them, and what sync and push evaluation need of them.

spec: client-server-api/#push-rules-api, v1.19
Invariant: what is remembered is what is committed: nothing is remembered while a change is under
way.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from json import dumps
from typing import cast

from homeserver.core.canonical_json import decode_json
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.push_rules import (
    PushRule,
    PushRuleInvalid,
    PushRuleKind,
    PushRuleNotFound,
    Ruleset,
    load_ruleset,
    parse_actions,
    parse_push_rule,
    render_rule,
    render_ruleset,
)
from homeserver.core.room_succession import follow_in_push_rules
from homeserver.engine.change_feed import ChangeFeed
from homeserver.errors import InvalidParam, NotFound
from homeserver.storage import account_data, push_rules
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

PUSH_RULES = "m.push_rules"
_UNCHANGED = Ruleset()
_MAX_REMEMBERED = 50_000


class PushRules:
    """`feed` is that of account data: clients see push rules as account data.

    changed  is told of each user whose rules may have changed
    """

    def __init__(
        self, database: Database, feed: ChangeFeed, changed: Callable[[UserID], None]
    ) -> None:
        self._db = database
        self._feed = feed
        self._changed = changed
        self._remembered: OrderedDict[UserID, Ruleset] = OrderedDict()
        self._under_way = 0
        self._changes = 0
        """Grows with each change, so that a read can tell whether one overtook it."""

    # --- reading

    async def list_rulesets(self, user_ids: Collection[UserID]) -> dict[UserID, Ruleset]:
        """Return everybody's rules; users with the predefined ones share one object."""
        found = {}
        missing = []
        for user_id in user_ids:
            known = self._remembered.get(user_id)
            if known is None:
                missing.append(user_id)
            else:
                self._remembered.move_to_end(user_id)
                found[user_id] = known
        if missing:
            changes = self._changes
            rows = await self._db.read(push_rules.list_rulesets, missing)
            stored = {row.user_id: _load(row.ruleset) for row in rows}
            read = {user_id: stored.get(user_id, _UNCHANGED) for user_id in missing}
            if changes == self._changes and not self._under_way:
                self._remember(read)
            found |= read
        return found

    async def get_ruleset(self, user_id: UserID) -> Ruleset:
        return (await self.list_rulesets([user_id]))[user_id]

    async def render(self, user_id: UserID) -> JsonObject:
        """Return the content of the user's m.push_rules."""
        return {"global": render_ruleset(await self.get_ruleset(user_id), user_id)}

    async def has_changed(self, user_id: UserID, after: int, up_to: int) -> bool:
        """Say whether the last change of the user's rules lies in (after, up_to]."""
        if not self._feed.has_changed(user_id, after):
            return False
        rows = await self._db.read(push_rules.list_rulesets, [user_id])
        return any(after < row.position <= up_to for row in rows)

    async def get_rule(self, user_id: UserID, kind: PushRuleKind, rule_id: str) -> PushRule:
        """Raises NotFound."""
        rule = (await self.get_ruleset(user_id)).find_rule(kind, rule_id)
        if rule is None:
            raise NotFound("There is no such push rule")
        return rule

    async def render_rule(self, user_id: UserID, kind: PushRuleKind, rule_id: str) -> JsonObject:
        """Raises NotFound."""
        return render_rule(kind, await self.get_rule(user_id, kind, rule_id), user_id)

    # --- changing

    async def put_rule(
        self,
        user_id: UserID,
        kind: PushRuleKind,
        rule_id: str,
        body: JsonObject,
        *,
        before: str | None,
        after: str | None,
    ) -> None:
        """Raises InvalidParam."""

        def change(ruleset: Ruleset) -> Ruleset:
            rule = parse_push_rule(kind, rule_id, body)
            return ruleset.put_rule(kind, rule, before=before, after=after)

        await self._change(user_id, change)

    async def delete_rule(self, user_id: UserID, kind: PushRuleKind, rule_id: str) -> None:
        """Raises NotFound."""
        await self._change(user_id, lambda ruleset: ruleset.delete_rule(kind, rule_id))

    async def set_enabled(
        self, user_id: UserID, kind: PushRuleKind, rule_id: str, *, enabled: bool
    ) -> None:
        """Raises NotFound."""
        await self._change(
            user_id, lambda ruleset: ruleset.set_enabled(kind, rule_id, enabled=enabled)
        )

    async def set_actions(
        self, user_id: UserID, kind: PushRuleKind, rule_id: str, actions: list[JsonValue]
    ) -> None:
        """Raises NotFound and InvalidParam."""
        await self._change(
            user_id, lambda ruleset: ruleset.set_actions(kind, rule_id, parse_actions(actions))
        )

    async def follow_room(self, user_id: UserID, old_id: RoomID, new_id: RoomID) -> None:
        """Copy the rules about a room for the room that replaces it. Raises InvalidParam."""
        await self._change(user_id, lambda ruleset: follow_in_push_rules(ruleset, old_id, new_id))

    async def _change(self, user_id: UserID, change: Callable[[Ruleset], Ruleset]) -> None:
        async def transaction(position: int) -> bool:
            return await self._db.run(change_ruleset_txn, user_id, change, position)

        self._remembered.pop(user_id, None)
        self._under_way += 1
        try:
            await self._feed.write(user_id, transaction)
        except PushRuleInvalid as error:
            raise InvalidParam(str(error)) from error
        except PushRuleNotFound as error:
            raise NotFound("There is no such push rule") from error
        finally:
            self._under_way -= 1
            self._changes += 1
            self._changed(user_id)

    def _remember(self, rulesets: dict[UserID, Ruleset]) -> None:
        self._remembered |= rulesets
        while len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def change_ruleset_txn(
    txn: Txn, user_id: UserID, change: Callable[[Ruleset], Ruleset], position: int
) -> bool:
    """Return False when the change changes nothing."""
    user_nid = account_data.lock_user(txn, user_id)
    rows = push_rules.list_rulesets(txn, [user_id])
    before = _load(rows[0].ruleset) if rows else _UNCHANGED
    changed = change(before)
    if changed == before:
        return False
    # Not encode_json, which refuses members of enumerations as keys.
    push_rules.upsert_ruleset(txn, user_nid, dumps(changed.to_json()), position)
    return True


def _load(stored: str) -> Ruleset:
    return load_ruleset(cast("JsonObject", decode_json(stored)))
