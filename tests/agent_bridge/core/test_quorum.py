"""Who counts, who refuses, and when it is too late (attack cases 23, 35, 36, 41, 59, 82, 86)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_bridge.core.decision import PlainDenial, Restrict, Verdict, VerifiedDecision
from agent_bridge.core.ed25519 import PublicKey
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pins import Pins, pins_digest
from agent_bridge.core.quorum import (
    Instant,
    Quorum,
    QuorumStatus,
    check_eligible,
    check_need,
    check_need_floor,
    check_time,
    evaluate_quorum,
)
from agent_bridge.core.refusals import Reason
from agent_bridge.core.tiers import FLOOR_NEEDS, Assurance, Distinct, Need, Tier
from tests.agent_bridge.core.refusing import refusing
from tests.agent_bridge.core.samples import (
    ANNA,
    BO,
    CY,
    DURING,
    EXPIRES,
    ISSUED,
    NEEDS,
    NO_KEYS,
    PINS,
    Person,
    draft,
    frozen,
)

DAY = 86_400_000
OPENED = Instant(ISSUED, 1_000)


def evaluate(
    of: FrozenDraft,
    *decisions: VerifiedDecision,
    denials: tuple[PlainDenial, ...] = (),
    pins: Pins = PINS,
    revoked: frozenset[PublicKey] = NO_KEYS,
    now_ms: int = DURING,
) -> Quorum:
    return evaluate_quorum(of, decisions, denials, pins, revoked, now_ms=now_ms)


def test_one_approval_is_enough_in_tier_two() -> None:
    of = frozen()

    assert evaluate(of).status is QuorumStatus.PENDING
    assert evaluate(of).missing == 1
    assert evaluate(of, ANNA.verified(of)).status is QuorumStatus.APPROVED


def test_tier_three_needs_two_different_users() -> None:
    of = frozen(Tier.T3)
    anna, bo = ANNA.verified(of), BO.verified(of)

    assert evaluate(of, anna).missing == 1
    both = evaluate(of, anna, bo)
    assert both.status is QuorumStatus.APPROVED
    assert both.counted == (anna, bo)


def test_the_lowest_tier_needs_nobody_but_a_denial_still_ends_it() -> None:
    of = frozen(Tier.T0)

    assert evaluate(of).status is QuorumStatus.APPROVED
    denied = evaluate(of, denials=(PlainDenial(ANNA.user_id, DURING),))
    assert denied.status is QuorumStatus.DENIED


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_any_denial_is_terminal_in_any_order(order: tuple[int, ...]) -> None:
    of = frozen(Tier.T3)
    votes = [ANNA.verified(of), BO.verified(of), CY.verified(of, Verdict.DENY)]

    assert evaluate(of, *(votes[i] for i in order)).status is QuorumStatus.DENIED


def test_a_later_denial_by_an_approving_device_ends_the_draft() -> None:
    of = frozen()
    denial = ANNA.verified(of, Verdict.DENY, received_at=DURING + 1)

    assert evaluate(of, ANNA.verified(of), denial).status is QuorumStatus.DENIED


def test_an_unsigned_denial_counts_only_under_an_approvers_name() -> None:
    of = frozen()
    anna = ANNA.verified(of)

    stranger = evaluate(of, anna, denials=(PlainDenial("@eve:example.org", DURING),))
    named = evaluate(of, anna, denials=(PlainDenial(BO.user_id, DURING),))
    assert stranger.status is QuorumStatus.APPROVED
    assert named.status is QuorumStatus.DENIED


def test_attack_82_a_decision_on_another_draft_neither_approves_nor_denies_this_one() -> None:
    of, old = frozen(), frozen(sequence=6)

    quorum = evaluate(of, ANNA.verified(old), BO.verified(old, Verdict.DENY))

    assert quorum.status is QuorumStatus.PENDING
    assert [reason for _, reason in quorum.set_aside] == [Reason.DECISION_OTHER_DRAFT] * 2


def test_attack_35_the_same_key_is_counted_once() -> None:
    of = frozen(Tier.T2, need=Need(2, Distinct.DEVICE))
    first = ANNA.verified(of)
    second = replace(first, received_at=DURING + 5)

    quorum = evaluate(of, first, second)

    assert quorum.missing == 1
    assert quorum.set_aside == ((second.decision_id, Reason.DECISION_REPEATED),)


def test_attack_25_a_duplicated_decision_changes_nothing() -> None:
    of = frozen(Tier.T3)
    anna = ANNA.verified(of)

    assert evaluate(of, anna, anna, anna).missing == 1


def test_attack_36_two_devices_of_one_user_are_one_user() -> None:
    of = frozen(Tier.T3)
    phone, tablet = ANNA.verified(of), ANNA.verified(of, device_id="TABLET")

    assert evaluate(of, phone, tablet).missing == 1


def test_two_devices_of_one_user_are_two_where_devices_are_asked_for() -> None:
    of = frozen(Tier.T2, need=Need(2, Distinct.DEVICE))
    phone, tablet = ANNA.verified(of), ANNA.verified(of, device_id="TABLET")

    assert evaluate(of, phone, tablet).status is QuorumStatus.APPROVED


@pytest.mark.parametrize(
    ("need", "tier", "reason"),
    [
        (Need(0), Tier.T1, Reason.NEED_ZERO),
        (Need(-1), Tier.T2, Reason.NEED_ZERO),
        (Need(1), Tier.T3, Reason.NEED_TOO_WEAK),
        (Need(2, Distinct.DEVICE), Tier.T3, Reason.NEED_TOO_WEAK),
        (Need(1, assurance=Assurance.B), Tier.T2, Reason.ASSURANCE_UNSUPPORTED),
        (Need(1, assurance=Assurance.C), Tier.T2, Reason.ASSURANCE_UNSUPPORTED),
        (Need(1, assurance=Assurance.ZERO), Tier.T2, Reason.ASSURANCE_UNSUPPORTED),
        (None, Tier.T1, Reason.NEED_MISSING),
        (None, Tier.T3, Reason.NEED_MISSING),
        (Need(1), Tier.T0, Reason.NEED_MISSING),
        (Need(1), Tier.DENY, Reason.TIER_DENIED),
        (None, Tier.DENY, Reason.TIER_DENIED),
    ],
)
def test_attack_41_a_missing_zero_or_weak_threshold_is_refused(
    need: Need | None, tier: Tier, reason: Reason
) -> None:
    with refusing(reason):
        check_need_floor(need, tier)


def test_attack_41_a_frozen_draft_with_a_zero_or_weak_threshold_gets_no_quorum() -> None:
    zero, weak = frozen(need=Need(0)), frozen(Tier.T3, need=Need(1))

    with refusing(Reason.NEED_ZERO):
        evaluate(zero, ANNA.verified(zero))
    with refusing(Reason.NEED_TOO_WEAK):
        evaluate(weak, ANNA.verified(weak))


def test_the_floor_itself_and_anything_stronger_is_accepted() -> None:
    check_need_floor(None, Tier.T0)
    for tier, need in FLOOR_NEEDS.items():
        check_need_floor(need, tier)
        check_need_floor(Need(need.approvals + 1), tier)


def test_attack_41_an_empty_approver_set_means_deny() -> None:
    nobody = replace(PINS, approvers=())
    of = frozen(pins=pins_digest(nobody))

    with refusing(Reason.APPROVERS_EMPTY):
        evaluate(of, pins=nobody)


def approvers(*people: Person) -> Pins:
    return replace(PINS, approvers=tuple(person.approver() for person in people))


@pytest.mark.parametrize(
    ("tier", "need", "pins", "revoked"),
    [
        (Tier.T3, NEEDS[Tier.T3], approvers(ANNA), NO_KEYS),
        (Tier.T3, Need(3), PINS, NO_KEYS),
        (Tier.T2, Need(4, Distinct.DEVICE), approvers(ANNA), NO_KEYS),
        (Tier.T2, Need(1), approvers(ANNA), frozenset({ANNA.public("msk")})),
        (Tier.T2, Need(1), approvers(Person("coder")), NO_KEYS),
    ],
)
def test_attack_41_fewer_eligible_approvers_than_needed_is_refused(
    tier: Tier, need: Need, pins: Pins, revoked: frozenset[PublicKey]
) -> None:
    of = frozen(tier, need=need, pins=pins_digest(pins))

    with refusing(Reason.APPROVERS_TOO_FEW):
        check_need(of, pins, revoked)


def test_a_reachable_quorum_passes() -> None:
    check_need(frozen(Tier.T3), PINS, NO_KEYS)
    check_need(frozen(Tier.T2, need=Need(6, Distinct.DEVICE)), PINS, NO_KEYS)
    check_need(frozen(Tier.T0), PINS, NO_KEYS)


def test_attack_59_approvers_changed_while_pending_stop_the_draft() -> None:
    of = frozen()

    with refusing(Reason.PINS_CHANGED):
        evaluate(of, ANNA.verified(of), pins=approvers(ANNA))


def only_reason(of: FrozenDraft, vote: VerifiedDecision, **given: Any) -> Reason:
    quorum = evaluate(of, vote, **given)
    assert quorum.status is QuorumStatus.PENDING
    assert not quorum.counted
    ((_, reason),) = quorum.set_aside
    return reason


@pytest.mark.parametrize("tier", [Tier.T2, Tier.T3])
def test_attack_72_a_device_on_the_acting_machine_cannot_approve_from_tier_two(tier: Tier) -> None:
    of = frozen(tier)

    assert only_reason(of, ANNA.verified(of, device_id="LAPTOP")) is Reason.DEVICE_COLOCATED


def test_a_device_on_the_acting_machine_may_approve_in_tier_one() -> None:
    of = frozen(Tier.T1)

    vote = ANNA.verified(of, device_id="LAPTOP")
    assert evaluate(of, vote).status is QuorumStatus.APPROVED


def test_an_approver_cannot_approve_above_their_highest_tier() -> None:
    of = frozen()

    assert only_reason(of, CY.verified(of)) is Reason.TIER_TOO_HIGH


def test_attack_86_a_new_device_cannot_approve_inside_its_cool_down() -> None:
    of = frozen(Tier.T3)

    assert only_reason(of, ANNA.verified(of, device_id="NEW")) is Reason.DEVICE_COOLING_DOWN


def test_attack_86_the_cool_down_ends_on_time() -> None:
    need = Need(1, cooldown_ms=100_000)
    of = frozen(need=need)
    early = ANNA.verified(of, device_id="NEW", received_at=ISSUED + 99_999)
    late = ANNA.verified(of, device_id="NEW", received_at=ISSUED + 100_000)

    assert only_reason(of, early) is Reason.DEVICE_COOLING_DOWN
    assert evaluate(of, late).status is QuorumStatus.APPROVED


def test_attack_60_a_revocation_after_the_approval_takes_it_back() -> None:
    of = frozen()
    vote = ANNA.verified(of)

    assert only_reason(of, vote, revoked=frozenset({ANNA.public("PHONE")})) is Reason.DEVICE_REVOKED


@pytest.mark.parametrize("level", [Assurance.ZERO, Assurance.B, Assurance.C])
def test_a_level_this_version_does_not_verify_never_approves(level: Assurance) -> None:
    of = frozen()

    vote = replace(ANNA.verified(of), assurance=level)
    assert only_reason(of, vote) is Reason.ASSURANCE_TOO_LOW


def test_an_approval_of_someone_or_something_no_longer_enrolled_is_refused() -> None:
    of = frozen()
    vote = ANNA.verified(of)
    anna = replace(ANNA.approver(), devices=())

    with refusing(Reason.APPROVER_UNKNOWN):
        check_eligible(vote, of, approvers(BO), NO_KEYS)
    with refusing(Reason.DEVICE_NOT_ENROLLED):
        check_eligible(vote, of, replace(PINS, approvers=(anna,)), NO_KEYS)


def test_in_the_lowest_tier_there_is_no_cool_down() -> None:
    of = frozen(Tier.T0)

    check_eligible(ANNA.verified(of, device_id="NEW"), of, PINS, NO_KEYS)


def test_an_approval_holds_until_the_hold_time_is_over() -> None:
    of = frozen(Tier.T3)
    votes = (ANNA.verified(of), BO.verified(of))
    hold_until = ISSUED + 30_000

    waiting = evaluate(of, *votes, now_ms=hold_until - 1)
    assert (waiting.status, waiting.missing) == (QuorumStatus.PENDING, 0)
    assert waiting.hold_until == hold_until
    over = evaluate(of, *votes, now_ms=hold_until)
    assert (over.status, over.hold_until) == (QuorumStatus.APPROVED, None)


def restricted(vote: VerifiedDecision, restrict: Restrict) -> VerifiedDecision:
    return replace(vote, decision=replace(vote.decision, restrict=restrict))


def test_attack_38_every_eligible_restriction_narrows_the_limits() -> None:
    of = frozen(Tier.T3)
    votes = (
        restricted(ANNA.verified(of), Restrict(5_000, None)),
        restricted(BO.verified(of), Restrict(50_000, 0)),
        restricted(CY.verified(of), Restrict(1, 1)),
    )

    limits = evaluate(of, *votes).limits

    assert (limits.wall_ms, limits.output_bytes) == (5_000, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from([ANNA, BO]), st.sampled_from(["PHONE", "TABLET"])), max_size=6
    ),
    st.booleans(),
)
def test_a_quorum_never_counts_a_user_or_a_key_twice(
    votes: list[tuple[Person, str]], by_user: bool
) -> None:
    of = frozen(need=Need(3 if not by_user else 2, Distinct.USER if by_user else Distinct.DEVICE))
    cast = [person.verified(of, device_id=device) for person, device in votes]

    quorum = evaluate(of, *cast)

    voters = {person.user_id for person, _ in votes} if by_user else set(votes)
    assert len(quorum.counted) == len(voters)
    assert (quorum.status is QuorumStatus.APPROVED) == (len(voters) >= (2 if by_user else 3))
    assert len(quorum.counted) + len(quorum.set_aside) == len(cast)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (Instant(EXPIRES, 1_001), Reason.EXPIRED),
        (Instant(EXPIRES + DAY, 1_001), Reason.EXPIRED),
        (Instant(ISSUED, 601_000), Reason.EXPIRED),
        (Instant(ISSUED - 1, 2_000), Reason.CLOCK_REGRESSED),
        (Instant(ISSUED - DAY, 2_000), Reason.CLOCK_REGRESSED),
        (Instant(ISSUED, 999), Reason.CLOCK_REGRESSED),
    ],
)
def test_attack_23_and_24_a_draft_ends_by_either_clock(now: Instant, reason: Reason) -> None:
    with refusing(reason):
        check_time(draft(), OPENED, now)


@pytest.mark.parametrize("now", [OPENED, Instant(EXPIRES - 1, 600_999)])
def test_a_draft_lives_until_its_last_millisecond(now: Instant) -> None:
    check_time(draft(), OPENED, now)


@given(st.integers(0, 2 * 600_000), st.integers(0, 2 * 600_000))
def test_setting_the_wall_clock_back_never_prolongs_a_draft(wall: int, monotonic: int) -> None:
    now = Instant(ISSUED + wall, 1_000 + monotonic)

    if max(wall, monotonic) < 600_000:
        check_time(draft(), OPENED, now)
    else:
        with refusing(Reason.EXPIRED):
            check_time(draft(), OPENED, now)
