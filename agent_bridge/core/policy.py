"""Policy: which tier an action is in, and what that tier needs.

protocol: docs/cosign-protocol.md, section 7. Invariant: the strictest matching rule wins, the floor
and taint only raise, and what no rule knows is T2 or stricter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import Digest
from agent_bridge.core.pins import Pins, pins_digest
from agent_bridge.core.policy_floor import floor_of
from agent_bridge.core.policy_request import Request, request_of
from agent_bridge.core.policy_rule import Rule
from agent_bridge.core.prompt_budget import PromptLimits
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Distinct, Need, Tier, raise_for_taint

DEFAULT_RULE = "default"
FLOOR_RULE = "floor"


@dataclass(frozen=True)
class Classification:
    tier: Tier
    rule: str
    """The rule that decided, or `default`, or `floor`."""
    need: Need | None
    """None in T0, which needs nobody, and in DENY, which nobody can give."""
    because: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    version: int
    digest: Digest
    expires_at: int
    default_tier: Tier
    needs: Mapping[Tier, Need]
    prompt_limits: PromptLimits
    protected: tuple[bytes, ...]
    """The gate's own files and folders; naming them denies."""
    rules: tuple[Rule, ...]

    def classify(self, request: Request, now_ms: int) -> Classification:
        """Put an action into a tier.

        1. The strictest of the matching rules, or the default if none matches.
        2. Not below the compiled-in floor.
        3. One tier up if the agent's turn was tainted.
        """
        if now_ms >= self.expires_at:
            raise Refused(Reason.POLICY_EXPIRED)
        # 1
        matching = [rule for rule in self.rules if rule.conditions.match(request)]
        strictest = max(matching, key=lambda rule: rule.tier, default=None)
        tier = self.default_tier if strictest is None else strictest.tier
        rule = DEFAULT_RULE if strictest is None else strictest.name
        because = [f"rule {name}: {tier.name}" for name, tier in _named(matching)] or ["no rule"]
        # 2
        floor, reasons = floor_of(request, self.protected)
        because.extend(f"floor: {reason}" for reason in reasons)
        if floor > tier:
            tier, rule = floor, FLOOR_RULE
        # 3
        if request.taint:
            because.append(f"tainted by {', '.join(request.taint)}")
        tier = raise_for_taint(tier, tainted=bool(request.taint))
        return Classification(tier, rule, self.needs.get(tier), tuple(because))


def check_still_allowed(policy: Policy, frozen: FrozenDraft, pins: Pins, now_ms: int) -> None:
    """Right before running: nothing that was approved may have become easier than it is now."""
    draft = frozen.draft
    if pins_digest(pins) != draft.pins:
        raise Refused(Reason.PINS_CHANGED)
    if (policy.digest, policy.version) != (draft.policy.digest, draft.policy.version):
        raise Refused(Reason.POLICY_CHANGED)
    now = policy.classify(request_of(draft), now_ms)
    if now.tier is Tier.DENY:
        raise Refused(Reason.TIER_DENIED, now.rule)
    if now.tier > draft.policy.tier:
        raise Refused(Reason.TIER_RAISED, f"{draft.policy.tier.name} to {now.tier.name}")
    required = policy.needs.get(draft.policy.tier)
    if required is not None and not _is_at_least(draft.need, required):
        raise Refused(Reason.NEED_TOO_WEAK, f"tier {draft.policy.tier.name}")


def _named(rules: list[Rule]) -> list[tuple[str, Tier]]:
    return [(rule.name, rule.tier) for rule in rules]


def _is_at_least(need: Need | None, required: Need) -> bool:
    return (
        need is not None
        and need.approvals >= required.approvals
        and (need.distinct is Distinct.USER or required.distinct is Distinct.DEVICE)
        and need.assurance is required.assurance
        and need.cooldown_ms >= required.cooldown_ms
        and need.hold_ms >= required.hold_ms
    )
