"""Push rules.

spec: client-server-api/#push-rules-api, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.core.push_rules import PushRuleKind, render_ruleset
from homeserver.requester import Requester
from homeserver.services.push_rules import PushRules
from homeserver.transport.endpoint import EMPTY, Auth, endpoint

_GLOBAL = "/_matrix/client/v3/pushrules/global/"
_RULE = _GLOBAL + "{kind}/{ruleId}"


@dataclass(frozen=True)
class Enabled:
    enabled: bool


@dataclass(frozen=True)
class RuleActions:
    actions: list[JsonValue]


class PushRulesAPI:
    """Which events a user is told of, and how loudly."""

    def __init__(self, push_rules: PushRules) -> None:
        self._push_rules = push_rules

    @endpoint("getPushRules", "GET", "/_matrix/client/v3/pushrules/", auth=Auth.CLIENT)
    async def get_push_rules(self, requester: Requester) -> JsonObject:
        return await self._push_rules.render(requester.user_id)

    @endpoint("getPushRulesGlobal", "GET", _GLOBAL, auth=Auth.CLIENT)
    async def get_push_rules_global(self, requester: Requester) -> JsonObject:
        ruleset = await self._push_rules.get_ruleset(requester.user_id)
        return render_ruleset(ruleset, requester.user_id)

    @endpoint("getPushRule", "GET", _RULE, auth=Auth.CLIENT)
    async def get_push_rule(
        self, requester: Requester, kind: PushRuleKind, rule_id: str
    ) -> JsonObject:
        return await self._push_rules.render_rule(requester.user_id, kind, rule_id)

    @endpoint("setPushRule", "PUT", _RULE, auth=Auth.CLIENT, rate_limited=True)
    async def set_push_rule(
        self,
        requester: Requester,
        kind: PushRuleKind,
        rule_id: str,
        body: JsonObject,
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> JsonObject:
        await self._push_rules.put_rule(
            requester.user_id, kind, rule_id, body, before=before, after=after
        )
        return EMPTY

    @endpoint("deletePushRule", "DELETE", _RULE, auth=Auth.CLIENT)
    async def delete_push_rule(
        self, requester: Requester, kind: PushRuleKind, rule_id: str
    ) -> JsonObject:
        await self._push_rules.delete_rule(requester.user_id, kind, rule_id)
        return EMPTY

    @endpoint("isPushRuleEnabled", "GET", _RULE + "/enabled", auth=Auth.CLIENT)
    async def is_push_rule_enabled(
        self, requester: Requester, kind: PushRuleKind, rule_id: str
    ) -> JsonObject:
        rule = await self._push_rules.get_rule(requester.user_id, kind, rule_id)
        return {"enabled": rule.enabled}

    @endpoint("setPushRuleEnabled", "PUT", _RULE + "/enabled", auth=Auth.CLIENT)
    async def set_push_rule_enabled(
        self, requester: Requester, kind: PushRuleKind, rule_id: str, body: Enabled
    ) -> JsonObject:
        await self._push_rules.set_enabled(requester.user_id, kind, rule_id, enabled=body.enabled)
        return EMPTY

    @endpoint("getPushRuleActions", "GET", _RULE + "/actions", auth=Auth.CLIENT)
    async def get_push_rule_actions(
        self, requester: Requester, kind: PushRuleKind, rule_id: str
    ) -> JsonObject:
        rule = await self._push_rules.get_rule(requester.user_id, kind, rule_id)
        return {"actions": list(rule.actions)}

    @endpoint("setPushRuleActions", "PUT", _RULE + "/actions", auth=Auth.CLIENT)
    async def set_push_rule_actions(
        self, requester: Requester, kind: PushRuleKind, rule_id: str, body: RuleActions
    ) -> JsonObject:
        await self._push_rules.set_actions(requester.user_id, kind, rule_id, body.actions)
        return EMPTY
