"""Whether enough different people have agreed, nobody has refused and time remains.

protocol: docs/cosign-protocol.md, section 9. Invariant: any denial is final, a person or key counts
once, and a missing, empty or weak requirement is a refusal, never a pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from agent_bridge.core.decision import PlainDenial, Verdict, VerifiedDecision, party_of
from agent_bridge.core.draft import Draft, Limits
from agent_bridge.core.ed25519 import PublicKey
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import DecisionID
from agent_bridge.core.pins import Approver, EnrolledDevice, Pins, pins_digest
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import FLOOR_NEEDS, Assurance, Distinct, Need, Tier


@dataclass(frozen=True)
class Instant:
    """One moment on both clocks; the monotonic one survives a wall clock that is set back."""

    wall_ms: int
    monotonic_ms: int


class QuorumStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"


@dataclass(frozen=True)
class Quorum:
    status: QuorumStatus
    counted: tuple[VerifiedDecision, ...]
    """The approvals that count, one for each distinct user or device, oldest first."""
    missing: int
    hold_until: int | None
    """The wall time before which the draft may not run, when that is still to come."""
    limits: Limits
    """The draft's limits narrowed by every eligible approval."""
    set_aside: tuple[tuple[DecisionID, Reason], ...]
    """Approvals that are genuine but do not count, and why."""


def check_time(draft: Draft, opened: Instant, now: Instant) -> None:
    """Refuse once either clock says the draft's life is over, or the wall clock went back.

    opened   the moment the gate froze the draft, on its own clocks
    """
    lifetime = draft.expires_at - draft.issued_at
    if now.wall_ms >= draft.expires_at or now.monotonic_ms - opened.monotonic_ms >= lifetime:
        raise Refused(Reason.EXPIRED)
    if now.wall_ms < opened.wall_ms or now.monotonic_ms < opened.monotonic_ms:
        raise Refused(Reason.CLOCK_REGRESSED)


def check_need_floor(need: Need | None, tier: Tier) -> None:
    """Refuse a requirement that is absent, zero, unverifiable or below its tier's floor."""
    if tier is Tier.DENY:
        raise Refused(Reason.TIER_DENIED)
    if tier is Tier.T0 and need is None:
        return
    if tier is Tier.T0 or need is None:
        raise Refused(Reason.NEED_MISSING, f"tier {tier.name}")
    if need.approvals < 1:
        raise Refused(Reason.NEED_ZERO)
    if need.assurance is not Assurance.A:
        raise Refused(Reason.ASSURANCE_UNSUPPORTED, f"level {need.assurance}")
    floor = FLOOR_NEEDS[tier]
    by_device = need.distinct is Distinct.DEVICE
    if need.approvals < floor.approvals or (by_device and floor.distinct is Distinct.USER):
        raise Refused(Reason.NEED_TOO_WEAK, f"tier {tier.name}")


def check_need(frozen: FrozenDraft, pins: Pins, revoked_keys: frozenset[PublicKey]) -> None:
    """Refuse a draft whose quorum is too weak or can never be reached."""
    draft = frozen.draft
    check_need_floor(draft.need, draft.policy.tier)
    if draft.need is None:
        return
    if not pins.approvers:
        raise Refused(Reason.APPROVERS_EMPTY)
    eligible = list(_eligible_devices(frozen, pins, revoked_keys))
    by_user = draft.need.distinct is Distinct.USER
    available = len({approver.user_id for approver, _ in eligible}) if by_user else len(eligible)
    if available < draft.need.approvals:
        raise Refused(
            Reason.APPROVERS_TOO_FEW, f"{available} eligible, {draft.need.approvals} needed"
        )


def evaluate_quorum(
    frozen: FrozenDraft,
    decisions: Sequence[VerifiedDecision],
    denials: Sequence[PlainDenial],
    pins: Pins,
    revoked_keys: frozenset[PublicKey],
    *,
    now_ms: int,
) -> Quorum:
    """Count the decisions; call it again with fresh pins and revocations right before running.

    1. Any denial ends it: signed, or unsigned under the name of an approver.
    2. The requirement is checked against its floor and the approver set the draft was made for.
    3. Each approval is checked for eligibility and narrows the limits.
    4. The first of each user or key counts, until and beyond the needed number.
    """
    limits = frozen.draft.limits
    # 1
    if _is_denied(frozen, decisions, denials, pins):
        return Quorum(QuorumStatus.DENIED, (), 0, None, limits, ())
    # 2
    if pins_digest(pins) != frozen.draft.pins:
        raise Refused(Reason.PINS_CHANGED)
    check_need(frozen, pins, revoked_keys)
    need = frozen.draft.need
    if need is None:
        return Quorum(QuorumStatus.APPROVED, (), 0, None, limits, ())
    counted: dict[str | PublicKey, VerifiedDecision] = {}
    set_aside: list[tuple[DecisionID, Reason]] = []
    for verified in sorted(decisions, key=lambda item: item.received_at):
        # 3
        try:
            check_eligible(verified, frozen, pins, revoked_keys)
        except Refused as error:
            set_aside.append((verified.decision_id, error.reason))
            continue
        limits = _narrow(limits, verified)
        # 4
        decision = verified.decision
        voter = decision.user_id if need.distinct is Distinct.USER else decision.key
        if voter in counted:
            set_aside.append((verified.decision_id, Reason.DECISION_REPEATED))
        else:
            counted[voter] = verified
    missing = max(0, need.approvals - len(counted))
    hold_until = frozen.draft.issued_at + need.hold_ms
    holding = now_ms < hold_until
    return Quorum(
        status=QuorumStatus.PENDING if missing or holding else QuorumStatus.APPROVED,
        counted=tuple(counted.values()),
        missing=missing,
        hold_until=hold_until if holding else None,
        limits=limits,
        set_aside=tuple(set_aside),
    )


def check_eligible(
    verified: VerifiedDecision,
    frozen: FrozenDraft,
    pins: Pins,
    revoked_keys: frozenset[PublicKey],
) -> None:
    """Refuse an approval that is genuine but may not count for this draft."""
    decision, draft = verified.decision, frozen.draft
    if decision.draft_id != frozen.draft_id:
        raise Refused(Reason.DECISION_OTHER_DRAFT)
    if verified.assurance is not Assurance.A:
        raise Refused(Reason.ASSURANCE_TOO_LOW, f"level {verified.assurance}")
    approver = pins.find_approver(decision.user_id)
    if approver is None:
        raise Refused(Reason.APPROVER_UNKNOWN, decision.user_id)
    device = approver.find_device(decision.key)
    if device is None:
        raise Refused(Reason.DEVICE_NOT_ENROLLED, decision.device_id)
    _check_device(frozen, approver, device, revoked_keys)
    cooldown = draft.need.cooldown_ms if draft.need else 0
    if verified.received_at < device.enrolled_at + cooldown:
        raise Refused(Reason.DEVICE_COOLING_DOWN, device.device_id)


def _check_device(
    frozen: FrozenDraft,
    approver: Approver,
    device: EnrolledDevice,
    revoked_keys: frozenset[PublicKey],
) -> None:
    tier = frozen.draft.policy.tier
    if approver.user_id in party_of(frozen):
        raise Refused(Reason.APPROVER_IS_PARTY, approver.user_id)
    if revoked_keys & {device.key, approver.master_key}:
        raise Refused(Reason.DEVICE_REVOKED, device.device_id)
    if tier > approver.max_tier:
        raise Refused(Reason.TIER_TOO_HIGH, f"{approver.user_id} up to {approver.max_tier.name}")
    if device.colocated and tier >= Tier.T2:
        raise Refused(Reason.DEVICE_COLOCATED, device.device_id)


def _eligible_devices(
    frozen: FrozenDraft, pins: Pins, revoked_keys: frozenset[PublicKey]
) -> Iterator[tuple[Approver, EnrolledDevice]]:
    for approver in pins.approvers:
        for device in approver.devices:
            try:
                _check_device(frozen, approver, device, revoked_keys)
            except Refused:
                continue
            yield approver, device


def _is_denied(
    frozen: FrozenDraft,
    decisions: Sequence[VerifiedDecision],
    denials: Sequence[PlainDenial],
    pins: Pins,
) -> bool:
    return any(
        verified.decision.verdict is Verdict.DENY and verified.decision.draft_id == frozen.draft_id
        for verified in decisions
    ) or any(pins.find_approver(denial.user_id) for denial in denials)


def _narrow(limits: Limits, verified: VerifiedDecision) -> Limits:
    restrict = verified.decision.restrict
    if restrict is None:
        return limits
    return replace(
        limits,
        wall_ms=min(limits.wall_ms, restrict.wall_ms or limits.wall_ms),
        output_bytes=min(
            limits.output_bytes,
            limits.output_bytes if restrict.output_bytes is None else restrict.output_bytes,
        ),
    )
