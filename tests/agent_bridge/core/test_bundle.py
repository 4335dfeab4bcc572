"""Bundles verified with no server (attack cases 93 and 95)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent_bridge.core.base64_text import decode_base64url, encode_base64url
from agent_bridge.core.bundle import (
    Bundle,
    Check,
    ReceivedDecision,
    encode_bundle,
    parse_bundle,
    verify_bundle,
)
from agent_bridge.core.decision import Verdict, verify_decision
from agent_bridge.core.draft import PolicyRef
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.output_chain import (
    empty_chain,
)
from agent_bridge.core.pae import digest_of
from agent_bridge.core.payload import decode_payload, encode_payload
from agent_bridge.core.pins import encode_pins
from agent_bridge.core.policy_file import load_policy
from agent_bridge.core.receipt import (
    DecisionRef,
    Executed,
    Outcome,
    ref_of,
)
from agent_bridge.core.refusals import Reason
from agent_bridge.core.states import State
from agent_bridge.core.tiers import Assurance, Tier
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.core.receipts import (
    DONE,
    FROZEN,
    OUTPUT,
    POLICY_TEXT,
    STARTED,
    executed,
    output_of,
    receipt,
    signed,
)
from tests.agent_bridge.core.samples import (
    ANNA,
    BO,
    DIGEST,
    DURING,
    EXPIRES,
    ISSUED,
    NO_KEYS,
    PINS,
    Person,
    frozen,
    public_key,
)


def bundle(*people: Person, of: FrozenDraft = FROZEN, **changes: Any) -> Bundle:
    received = tuple(ReceivedDecision(person.sign(person.decide(of)), DURING) for person in people)
    refs = tuple(
        ref_of(verify_decision(item.signed, of, PINS, NO_KEYS, DURING)) for item in received
    )
    made = receipt(**{"decisions": refs, **changes})
    return Bundle(
        of.payload, received, signed(made), encode_pins(PINS), POLICY_TEXT.encode(), OUTPUT
    )


def failures(made: Bundle | bytes, **given: Any) -> set[Reason | None]:
    data = made if isinstance(made, bytes) else encode_bundle(made)
    checks: tuple[Check, ...] = verify_bundle(data, given.get("trusted", PINS))
    assert checks
    return {check.reason for check in checks if not check.passed}


def test_an_honest_bundle_passes_every_check() -> None:
    checks = verify_bundle(encode_bundle(bundle(ANNA)), PINS)

    assert [check for check in checks if not check.passed] == []
    assert [check.name for check in checks] == [
        "the bundle is well formed",
        "the approvers are the trusted ones",
        "the draft is strict and renders to its hash",
        "the receipt is signed by the trusted gate",
        "the policy loads",
        "decision 1 is signed by a pinned approver",
        "the draft is for the trusted gate",
        "the receipt is about this draft",
        "the receipt lists exactly these decisions",
        "the policy allowed it at this tier",
        "the outcome fits the quorum",
        "what ran is what was approved",
        "the output is whole",
    ]


def test_a_bundle_round_trips() -> None:
    made = bundle(ANNA, BO)

    assert parse_bundle(encode_bundle(made)) == made
    assert failures(made) == set()


def test_an_honest_bundle_of_a_denied_draft_passes() -> None:
    denial = ANNA.verified(FROZEN, Verdict.DENY)
    item = ReceivedDecision(ANNA.sign(ANNA.decide(FROZEN, Verdict.DENY)), DURING)
    made = bundle(
        decisions=(ref_of(denial),),
        outcome=Outcome(State.DENIED, None, None, None, STARTED, "denied"),
        executed=None,
    )

    assert failures(replace(made, decisions=(item,))) == set()


PLAIN_NO = DecisionRef(None, BO.user_id, Verdict.DENY, DURING, Assurance.ZERO)


def test_an_unsigned_denial_in_the_receipt_explains_a_denied_draft() -> None:
    outcome = Outcome(State.DENIED, None, None, None, STARTED, "reaction")

    assert failures(bundle(decisions=(PLAIN_NO,), outcome=outcome, executed=None)) == set()


def test_a_denial_after_the_start_explains_a_revoked_run() -> None:
    outcome = Outcome(State.REVOKED, None, 15, STARTED, STARTED + 500, "denied")
    late = replace(PLAIN_NO, received_at=STARTED + 100)
    made = bundle(ANNA)
    ref = ref_of(ANNA.verified(FROZEN))

    revoked = signed(receipt(outcome=outcome, decisions=(ref, late)))
    assert failures(replace(made, receipt=revoked)) == set()


def test_attack_93_a_receipt_for_a_draft_never_approved_fails() -> None:
    assert failures(bundle()) == {Reason.QUORUM_INCOMPLETE}


def test_attack_93_a_run_despite_a_denial_fails() -> None:
    ref = ref_of(ANNA.verified(FROZEN))

    assert failures(bundle(ANNA, decisions=(ref, PLAIN_NO))) == {Reason.DENIED}


def test_attack_93_a_denied_outcome_without_a_denial_fails() -> None:
    outcome = Outcome(State.DENIED, None, None, None, STARTED, "")

    assert failures(bundle(outcome=outcome, executed=None)) == {Reason.RECEIPT_OUTCOME_UNTRUE}


def test_a_decision_in_the_millisecond_of_the_start_counts_as_before_it() -> None:
    at_once = replace(DONE, started_at=DURING)
    ref = ref_of(ANNA.verified(FROZEN))

    assert failures(bundle(ANNA, outcome=at_once)) == set()
    assert failures(bundle(ANNA, outcome=at_once, decisions=(ref, PLAIN_NO))) == {Reason.DENIED}


def test_attack_93_an_approval_that_came_after_the_start_does_not_count() -> None:
    assert Reason.QUORUM_INCOMPLETE in failures(
        bundle(ANNA, outcome=replace(DONE, started_at=DURING - 1))
    )


def test_a_run_that_started_after_the_draft_expired_fails() -> None:
    late = Outcome(State.DONE, 0, None, EXPIRES, EXPIRES, "")

    assert failures(bundle(ANNA, outcome=late, issued_at=EXPIRES)) == {Reason.EXPIRED}


def test_attack_95_a_missing_decision_fails() -> None:
    made = replace(bundle(ANNA), decisions=())

    assert failures(made) == {Reason.RECEIPT_DECISIONS_DIFFER, Reason.QUORUM_INCOMPLETE}


def test_an_unsigned_approval_in_the_receipt_fails() -> None:
    yes = replace(PLAIN_NO, verdict=Verdict.APPROVE)
    ref = ref_of(ANNA.verified(FROZEN))

    assert Reason.RECEIPT_DECISIONS_DIFFER in failures(bundle(ANNA, decisions=(ref, yes)))


def test_attack_95_tampered_device_keys_fail() -> None:
    made = bundle(ANNA)
    (item,) = made.decisions
    tampered = replace(item, signed=replace(item.signed, chain=BO.chain("PHONE")))

    assert Reason.CHAIN_WRONG_USER in failures(replace(made, decisions=(tampered,)))


def test_attack_95_an_expired_policy_fails() -> None:
    text = POLICY_TEXT.replace("2028-01-01", "2020-01-01")
    expired = load_policy(text)
    of = frozen(
        policy=PolicyRef(expired.digest, 1, "publish commits", Tier.T2),
        need=expired.needs[Tier.T2],
    )
    chunks, tip = output_of(of, b"x")
    made = bundle(ANNA, of=of, draft_id=of.draft_id, policy=of.draft.policy, output=tip)

    assert failures(replace(made, policy=text.encode(), output=chunks)) == {Reason.POLICY_EXPIRED}


def test_another_policy_than_the_drafts_fails() -> None:
    made = bundle(ANNA)

    assert failures(replace(made, policy=made.policy + b"#")) == {Reason.POLICY_CHANGED}
    assert failures(replace(made, policy=b"\xff")) == {Reason.POLICY_INVALID}


def test_the_bundles_own_pins_are_never_believed() -> None:
    trusted = replace(PINS, approvers=(BO.approver(),))

    assert {Reason.PINS_UNTRUSTED, Reason.APPROVER_UNKNOWN} <= failures(
        bundle(ANNA), trusted=trusted
    )
    other_gate = replace(PINS, gate_key=public_key("other gate"))
    assert Reason.SIGNATURE_INVALID in failures(bundle(ANNA), trusted=other_gate)


def test_a_draft_for_another_gate_account_fails() -> None:
    other = replace(PINS, gate_user_id="@othergate:example.org")

    assert Reason.DECISION_OTHER_GATE in failures(bundle(ANNA), trusted=other)


@pytest.mark.parametrize(
    "changes",
    [
        {"draft_id": frozen(sequence=9).draft_id, "output": empty_chain(FROZEN.draft_id)},
        {"host": "server.example.org"},
        {"policy": replace(FROZEN.draft.policy, rule="other")},
        {"pins": DIGEST},
        {"issued_at": ISSUED},
    ],
)
def test_a_receipt_about_something_else_fails(changes: dict[str, Any]) -> None:
    assert Reason.RECEIPT_OTHER_DRAFT in failures(bundle(ANNA, **changes))


@pytest.mark.parametrize(
    "changed",
    [
        replace(executed(), cwd=b"/root"),
        replace(executed(), inputs=()),
        replace(executed(), sandbox=digest_of(b"other")),
        replace(executed(), executable=replace(executed().executable, path=b"/tmp/git")),
    ],
)
def test_something_else_than_was_approved_fails(changed: Executed) -> None:
    assert failures(bundle(ANNA, executed=changed)) == {Reason.RECEIPT_OUTCOME_UNTRUE}


def test_altered_output_fails() -> None:
    assert failures(replace(bundle(ANNA), output=OUTPUT[:1])) == {Reason.OUTPUT_CHAIN_BROKEN}


def flip_draft(value: JsonObject) -> JsonObject:
    draft = decode_base64url(str(value["draft"])).replace(b'"turn":3', b'"turn":4')
    return {**value, "draft": encode_base64url(draft)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda value: {**value, "type": "org.countersign.bundle.v0"}, Reason.FIELD_INVALID),
        (lambda value: {**value, "receipt": 1}, Reason.FIELD_INVALID),
        (lambda value: {**value, "output": [1]}, Reason.FIELD_INVALID),
        (lambda value: {**value, "extra": 1}, Reason.FIELD_UNKNOWN),
        (flip_draft, Reason.RENDERING_MISMATCH),
    ],
)
def test_a_malformed_bundle_fails_and_says_why(
    change: Callable[[JsonObject], JsonObject], reason: Reason
) -> None:
    value = decode_payload(encode_bundle(bundle(ANNA)), 10**6)

    assert failures(encode_payload(change(value), 10**6)) == {reason}


def test_a_bundle_that_is_no_json_fails() -> None:
    assert failures(b"not a bundle") == {Reason.JSON_INVALID}
