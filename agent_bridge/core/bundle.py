"""Bundles: everything about one draft in one file, and its verification with no server.

protocol: docs/cosign-protocol.md, section 11. Invariant: the only thing believed without proof is
the verifier's own pins; whatever the bundle says is checked against them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from agent_bridge.core.actions import program_of
from agent_bridge.core.base64_text import decode_base64url, encode_base64url
from agent_bridge.core.decision import (
    PlainDenial,
    SignedDecision,
    Verdict,
    VerifiedDecision,
    decision_content,
    verify_decision,
)
from agent_bridge.core.frozen_draft import FrozenDraft, parse_draft
from agent_bridge.core.output_chain import check_chunks
from agent_bridge.core.payload import Fields, decode_payload, encode_payload
from agent_bridge.core.pins import Pins, encode_pins
from agent_bridge.core.policy import Policy, check_still_allowed
from agent_bridge.core.policy_file import load_policy
from agent_bridge.core.quorum import QuorumStatus, evaluate_quorum
from agent_bridge.core.receipt import (
    DecisionRef,
    Receipt,
    SignedReceipt,
    check_receipt,
    receipt_content,
    receipt_of_content,
    ref_of,
)
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.states import State
from agent_bridge.core.tiers import Assurance
from homeserver.core.json_types import JsonValue

BUNDLE_TYPE = "org.countersign.bundle.v1"
MAX_BUNDLE_BYTES = 8 * 1024 * 1024

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class ReceivedDecision:
    signed: SignedDecision
    received_at: int


@dataclass(frozen=True)
class Bundle:
    draft: bytes
    decisions: tuple[ReceivedDecision, ...]
    receipt: SignedReceipt
    pins: bytes
    policy: bytes
    """The policy file's text, UTF-8."""
    output: tuple[bytes, ...]
    """The payloads of the output chunks, in order."""


@dataclass(frozen=True)
class Check:
    """One thing verified, as `countersign verify` prints it."""

    name: str
    passed: bool
    reason: Reason | None = None
    detail: str = ""


def encode_bundle(bundle: Bundle) -> bytes:
    return encode_payload(
        {
            "type": BUNDLE_TYPE,
            "draft": encode_base64url(bundle.draft),
            "decisions": [
                {**decision_content(item.signed), "received_at": item.received_at}
                for item in bundle.decisions
            ],
            "receipt": receipt_content(bundle.receipt),
            "pins": encode_base64url(bundle.pins),
            "policy": encode_base64url(bundle.policy),
            "output": [encode_base64url(payload) for payload in bundle.output],
        },
        MAX_BUNDLE_BYTES,
    )


def parse_bundle(data: bytes) -> Bundle:
    fields = Fields.of(
        decode_payload(data, MAX_BUNDLE_BYTES),
        "bundle",
        "type",
        "draft",
        "decisions",
        "receipt",
        "pins",
        "policy",
        "output",
    )
    if fields.text("type") != BUNDLE_TYPE:
        raise fields.invalid("type", f"is not {BUNDLE_TYPE}")
    receipt = fields.raw("receipt")
    if not isinstance(receipt, dict):
        raise fields.invalid("receipt", "is not an object")
    return Bundle(
        draft=fields.octets("draft"),
        decisions=tuple(_received(value) for value in fields.items("decisions")),
        receipt=receipt_of_content(receipt),
        pins=fields.octets("pins"),
        policy=fields.octets("policy"),
        output=tuple(_chunk(value) for value in fields.items("output")),
    )


def verify_bundle(data: bytes, trusted: Pins) -> tuple[Check, ...]:
    """Verify everything a bundle claims; it holds if every check passed.

    trusted   the verifier's own pins, never taken from the bundle

    A check that needs something that failed to parse is left out: what it needs has failed.
    """
    checks = _Checks()
    bundle = checks.run("the bundle is well formed", parse_bundle, data)
    if bundle is None:
        return checks.done()
    checks.run("the approvers are the trusted ones", _check_pins, bundle, trusted)
    frozen = checks.run("the draft is strict and renders to its hash", parse_draft, bundle.draft)
    receipt = checks.run(
        "the receipt is signed by the trusted gate", check_receipt, bundle.receipt, trusted.gate_key
    )
    policy = checks.run("the policy loads", _load_policy, bundle)
    if frozen is None or receipt is None:
        return checks.done()
    decisions = []
    for number, item in enumerate(bundle.decisions, start=1):
        decision = checks.run(
            f"decision {number} is signed by a pinned approver",
            verify_decision,
            item.signed,
            frozen,
            trusted,
            frozenset(),
            item.received_at,
        )
        if decision is not None:
            decisions.append(decision)
    checks.run("the draft is for the trusted gate", _check_gate, frozen, trusted)
    checks.run("the receipt is about this draft", _check_subject, receipt, frozen)
    checks.run("the receipt lists exactly these decisions", _check_refs, receipt, decisions)
    if policy is not None:
        started_at = receipt.outcome.started_at
        moment = frozen.draft.issued_at if started_at is None else started_at
        checks.run(
            "the policy allowed it at this tier",
            check_still_allowed,
            policy,
            frozen,
            trusted,
            moment,
        )
    checks.run("the outcome fits the quorum", _check_quorum, receipt, frozen, decisions, trusted)
    checks.run("what ran is what was approved", _check_executed, receipt, frozen)
    checks.run("the output is whole", check_chunks, bundle.output, receipt.output)
    return checks.done()


class _Checks:
    def __init__(self) -> None:
        self._made: list[Check] = []

    def run(self, name: str, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Record how a check went; None when it refused."""
        try:
            result = check(*args, **kwargs)
        except Refused as error:
            self._made.append(Check(name, passed=False, reason=error.reason, detail=str(error)))
            return None
        self._made.append(Check(name, passed=True))
        return result

    def done(self) -> tuple[Check, ...]:
        return tuple(self._made)


def _received(value: JsonValue) -> ReceivedDecision:
    fields = Fields.of(value, "decisions", "payload", "signature", "chain", "received_at")
    signed = SignedDecision(
        payload=fields.octets("payload"),
        signature=fields.octets("signature"),
        chain=fields.octets("chain"),
    )
    return ReceivedDecision(signed, fields.time("received_at"))


def _chunk(value: JsonValue) -> bytes:
    if not isinstance(value, str):
        raise Refused(Reason.FIELD_INVALID, "bundle.output holds something that is not a text")
    return decode_base64url(value)


def _load_policy(bundle: Bundle) -> Policy:
    try:
        return load_policy(bundle.policy.decode())
    except UnicodeDecodeError as error:
        raise Refused(Reason.POLICY_INVALID, "not UTF-8") from error


def _check_pins(bundle: Bundle, trusted: Pins) -> None:
    if bundle.pins != encode_pins(trusted):
        raise Refused(Reason.PINS_UNTRUSTED)


def _check_gate(frozen: FrozenDraft, trusted: Pins) -> None:
    gate = frozen.draft.gate
    if (gate.key, gate.user_id) != (trusted.gate_key, trusted.gate_user_id):
        raise Refused(Reason.DECISION_OTHER_GATE, gate.user_id)


def _check_subject(receipt: Receipt, frozen: FrozenDraft) -> None:
    draft = frozen.draft
    same = (
        receipt.draft_id == frozen.draft_id
        and receipt.host == draft.gate.host
        and receipt.policy == draft.policy
        and receipt.pins == draft.pins
        and receipt.issued_at >= receipt.outcome.finished_at
    )
    if not same:
        raise Refused(Reason.RECEIPT_OTHER_DRAFT)


def _check_refs(receipt: Receipt, decisions: Sequence[VerifiedDecision]) -> None:
    signed = {ref for ref in receipt.decisions if ref.decision_id is not None}
    unsigned = [ref for ref in receipt.decisions if ref.decision_id is None]
    at_hand = {ref_of(decision) for decision in decisions}
    if signed != at_hand or any(not _is_plain_denial(ref) for ref in unsigned):
        raise Refused(
            Reason.RECEIPT_DECISIONS_DIFFER, f"{len(signed)} listed, {len(at_hand)} verified"
        )


def _is_plain_denial(ref: DecisionRef) -> bool:
    return (ref.verdict, ref.assurance) == (Verdict.DENY, Assurance.ZERO)


def _check_quorum(
    receipt: Receipt,
    frozen: FrozenDraft,
    decisions: Sequence[VerifiedDecision],
    trusted: Pins,
) -> None:
    """A launch needs a quorum reached before it and in time; a denial needs someone denying."""
    outcome = receipt.outcome
    until = outcome.finished_at if outcome.started_at is None else outcome.started_at
    quorum = evaluate_quorum(
        frozen,
        [decision for decision in decisions if decision.received_at <= until],
        [
            PlainDenial(ref.user_id, ref.received_at)
            for ref in receipt.decisions
            if ref.decision_id is None and ref.received_at <= until
        ],
        trusted,
        frozenset(),
        now_ms=until,
    )
    if outcome.started_at is not None:
        if quorum.status is QuorumStatus.DENIED:
            raise Refused(Reason.DENIED)
        if quorum.status is QuorumStatus.PENDING:
            raise Refused(Reason.QUORUM_INCOMPLETE, f"{quorum.missing} missing")
        if outcome.started_at >= frozen.draft.expires_at:
            raise Refused(Reason.EXPIRED)
        return
    denied = quorum.status is QuorumStatus.DENIED
    if denied != (outcome.state is State.DENIED) and outcome.state is not State.REVOKED:
        raise Refused(Reason.RECEIPT_OUTCOME_UNTRUE, f"{outcome.state}, {quorum.status}")


def _check_executed(receipt: Receipt, frozen: FrozenDraft) -> None:
    executed, draft = receipt.executed, frozen.draft
    if executed is None:
        return
    surroundings = draft.action.surroundings
    if (executed.executable, executed.cwd, executed.inputs, executed.sandbox) != (
        program_of(draft.action),
        surroundings.cwd,
        surroundings.inputs,
        draft.sandbox.digest,
    ):
        raise Refused(Reason.RECEIPT_OUTCOME_UNTRUE, "something else ran")
