"""Receipts: what became of a draft, signed by the gate and chained to the receipt before.

protocol: docs/cosign-protocol.md, section 11. Invariant: a receipt's outcome does not contradict
itself, and each receipt names its predecessor, so one left out, put in or swapped shows.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from agent_bridge.core.actions import (
    FileDigest,
    check_path,
    decode_file,
    decode_files,
    encode_file,
)
from agent_bridge.core.base64_text import decode_base64url, encode_base64url
from agent_bridge.core.decision import Verdict, VerifiedDecision
from agent_bridge.core.draft import PolicyRef, decode_policy_ref, encode_policy_ref
from agent_bridge.core.ed25519 import PublicKey, check_signature, encode_public_key
from agent_bridge.core.output_chain import ChainTip
from agent_bridge.core.pae import (
    DecisionID,
    Digest,
    DraftID,
    PayloadType,
    ReceiptID,
    encode_pae,
    parse_decision_id,
    parse_draft_id,
    parse_receipt_id,
    receipt_id_of,
)
from agent_bridge.core.payload import Fields, decode_payload, encode_payload
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.states import TERMINAL, State
from agent_bridge.core.tiers import Assurance
from homeserver.core.json_types import JsonObject, JsonValue

RECEIPT_EVENT = "org.countersign.receipt"


@dataclass(frozen=True)
class DecisionRef:
    """A decision the gate acted on; the signed ones can be verified from a bundle."""

    decision_id: DecisionID | None
    """None for a level-0 denial, which has no signed bytes."""
    user_id: str
    verdict: Verdict
    received_at: int
    assurance: Assurance


def ref_of(verified: VerifiedDecision) -> DecisionRef:
    decision = verified.decision
    return DecisionRef(
        decision_id=verified.decision_id,
        user_id=decision.user_id,
        verdict=decision.verdict,
        received_at=verified.received_at,
        assurance=verified.assurance,
    )


@dataclass(frozen=True)
class ChangedFile:
    path: bytes
    pre: Digest | None
    post: Digest | None


@dataclass(frozen=True)
class Outcome:
    state: State
    exit_code: int | None
    signal: int | None
    started_at: int | None
    """None: nothing was launched."""
    finished_at: int
    reason: str
    """A `Reason` code or a short text; empty when there is nothing to explain."""


@dataclass(frozen=True)
class Executed:
    """What was really opened and run, hashed through the descriptors that ran."""

    executable: FileDigest
    cwd: bytes
    inputs: tuple[FileDigest, ...]
    sandbox: Digest


@dataclass(frozen=True)
class Receipt:
    gate_key: PublicKey
    host: str
    sequence: int
    previous: ReceiptID | None
    draft_id: DraftID
    policy: PolicyRef
    pins: Digest
    decisions: tuple[DecisionRef, ...]
    outcome: Outcome
    executed: Executed | None
    changed_files: tuple[ChangedFile, ...]
    output: ChainTip
    issued_at: int
    omitted_files: int = 0
    """How many changed files are not listed because the receipt would grow too large."""


@dataclass(frozen=True)
class SignedReceipt:
    """A receipt as it travels; the signature is over PAE(receipt, payload)."""

    payload: bytes
    signature: bytes


def encode_receipt(receipt: Receipt) -> bytes:
    """Encode a receipt; one whose outcome contradicts itself is refused, not written."""
    check_outcome(receipt)
    return encode_payload(
        {
            "gate_key": encode_public_key(receipt.gate_key),
            "host": receipt.host,
            "sequence": receipt.sequence,
            "previous": receipt.previous,
            "draft_id": receipt.draft_id,
            "policy": encode_policy_ref(receipt.policy),
            "pins": receipt.pins,
            "decisions": [
                {
                    "decision_id": ref.decision_id,
                    "user_id": ref.user_id,
                    "verdict": ref.verdict.value,
                    "received_at": ref.received_at,
                    "assurance": ref.assurance.value,
                }
                for ref in receipt.decisions
            ],
            "outcome": {
                "state": receipt.outcome.state.value,
                "exit_code": receipt.outcome.exit_code,
                "signal": receipt.outcome.signal,
                "started_at": receipt.outcome.started_at,
                "finished_at": receipt.outcome.finished_at,
                "reason": receipt.outcome.reason,
            },
            "executed": None if receipt.executed is None else _encode_executed(receipt.executed),
            "changed_files": [
                {"path": encode_base64url(file.path), "pre": file.pre, "post": file.post}
                for file in receipt.changed_files
            ],
            "output": {
                "count": receipt.output.count,
                "byte_count": receipt.output.byte_count,
                "redactions": receipt.output.redactions,
                "digest": receipt.output.digest,
            },
            "issued_at": receipt.issued_at,
            "omitted_files": receipt.omitted_files,
        }
    )


def parse_receipt(payload: bytes) -> Receipt:
    fields = Fields.of(
        decode_payload(payload),
        "receipt",
        "gate_key",
        "host",
        "sequence",
        "previous",
        "draft_id",
        "policy",
        "pins",
        "decisions",
        "outcome",
        "executed",
        "changed_files",
        "output",
        "issued_at",
        "omitted_files",
    )
    draft_id = fields.parsed("draft_id", parse_draft_id)
    receipt = Receipt(
        gate_key=fields.key("gate_key"),
        host=fields.text("host"),
        sequence=fields.integer("sequence", minimum=1),
        previous=fields.optional("previous", lambda name: fields.parsed(name, parse_receipt_id)),
        draft_id=draft_id,
        policy=decode_policy_ref(fields.raw("policy")),
        pins=fields.digest("pins"),
        decisions=tuple(_decode_ref(value) for value in fields.items("decisions")),
        outcome=_decode_outcome(fields.raw("outcome")),
        executed=None if fields.raw("executed") is None else _executed(fields.raw("executed")),
        changed_files=tuple(_decode_changed(value) for value in fields.items("changed_files")),
        output=_decode_tip(fields.raw("output"), draft_id),
        issued_at=fields.time("issued_at"),
        omitted_files=fields.integer("omitted_files"),
    )
    check_outcome(receipt)
    return receipt


def check_outcome(receipt: Receipt) -> None:
    """Refuse an outcome that contradicts itself; an ambiguous one must not claim an exit."""
    outcome = receipt.outcome
    ended = outcome.exit_code is not None or outcome.signal is not None
    launched = outcome.started_at is not None
    consistent = {
        State.DONE: launched and outcome.exit_code == 0 and outcome.signal is None,
        State.FAILED: outcome.exit_code != 0 and (ended or bool(outcome.reason)),
        State.AMBIGUOUS: not ended,
        State.REVOKED: True,
    }.get(outcome.state, not launched and not ended)
    if (
        outcome.state not in TERMINAL
        or not consistent
        or (ended and not launched)
        or not _tells_what_ran(receipt)
        or (outcome.started_at or 0) > outcome.finished_at
        or (receipt.sequence == 1) != (receipt.previous is None)
    ):
        raise Refused(Reason.RECEIPT_OUTCOME_UNTRUE, outcome.state)


def _tells_what_ran(receipt: Receipt) -> bool:
    """A launch says what was opened; only an ambiguous one may not know."""
    if receipt.executed is None:
        return receipt.outcome.started_at is None or receipt.outcome.state is State.AMBIGUOUS
    return receipt.outcome.started_at is not None


def receipt_content(signed: SignedReceipt) -> JsonObject:
    """Make the content of an `org.countersign.receipt` event."""
    return {
        "payload": encode_base64url(signed.payload),
        "signature": encode_base64url(signed.signature),
    }


def receipt_of_content(content: JsonObject) -> SignedReceipt:
    payload, signature = content.get("payload"), content.get("signature")
    if not isinstance(payload, str) or not isinstance(signature, str):
        raise Refused(Reason.FIELD_MISSING, "payload or signature")
    return SignedReceipt(decode_base64url(payload), decode_base64url(signature))


def check_receipt(signed: SignedReceipt, gate_key: PublicKey) -> Receipt:
    check_signature(gate_key, encode_pae(PayloadType.RECEIPT, signed.payload), signed.signature)
    receipt = parse_receipt(signed.payload)
    if receipt.gate_key != gate_key:
        raise Refused(Reason.RECEIPT_OTHER_GATE)
    return receipt


def check_receipt_chain(receipts: Sequence[SignedReceipt], gate_key: PublicKey) -> None:
    """Check an unbroken stretch of one gate's receipts, oldest first."""
    previous: tuple[int, ReceiptID] | None = None
    for signed in receipts:
        receipt = check_receipt(signed, gate_key)
        if previous is not None and previous != (receipt.sequence - 1, receipt.previous):
            raise Refused(Reason.RECEIPT_CHAIN_BROKEN, f"at {receipt.sequence}")
        previous = (receipt.sequence, receipt_id_of(signed.payload))


def check_seen_head(seen: ReceiptID | None, own: Container[ReceiptID]) -> None:
    """Refuse when an approver has seen a receipt this gate does not have: it was rolled back."""
    if seen is not None and seen not in own:
        raise Refused(Reason.HEAD_REGRESSED, seen)


def _encode_executed(executed: Executed) -> JsonObject:
    return {
        "executable": encode_file(executed.executable),
        "cwd": encode_base64url(executed.cwd),
        "inputs": [encode_file(file) for file in executed.inputs],
        "sandbox": executed.sandbox,
    }


def _executed(value: JsonValue) -> Executed:
    fields = Fields.of(value, "executed", "executable", "cwd", "inputs", "sandbox")
    return Executed(
        executable=decode_file(fields.raw("executable"), fields.path("executable")),
        cwd=check_path(fields.octets("cwd")),
        inputs=decode_files(fields.items("inputs"), fields.path("inputs")),
        sandbox=fields.digest("sandbox"),
    )


def _decode_ref(value: JsonValue) -> DecisionRef:
    fields = Fields.of(
        value, "decisions", "decision_id", "user_id", "verdict", "received_at", "assurance"
    )
    return DecisionRef(
        decision_id=fields.optional(
            "decision_id", lambda name: fields.parsed(name, parse_decision_id)
        ),
        user_id=fields.text("user_id"),
        verdict=fields.parsed("verdict", Verdict),
        received_at=fields.time("received_at"),
        assurance=fields.parsed("assurance", Assurance),
    )


def _decode_outcome(value: JsonValue) -> Outcome:
    fields = Fields.of(
        value, "outcome", "state", "exit_code", "signal", "started_at", "finished_at", "reason"
    )
    return Outcome(
        state=fields.parsed("state", State),
        exit_code=fields.optional("exit_code", fields.integer),
        signal=fields.optional("signal", lambda name: fields.integer(name, minimum=1)),
        started_at=fields.optional("started_at", fields.time),
        finished_at=fields.time("finished_at"),
        reason=fields.text("reason"),
    )


def _decode_changed(value: JsonValue) -> ChangedFile:
    fields = Fields.of(value, "changed_files", "path", "pre", "post")
    return ChangedFile(
        path=check_path(fields.octets("path")),
        pre=fields.optional("pre", fields.digest),
        post=fields.optional("post", fields.digest),
    )


def _decode_tip(value: JsonValue, draft_id: DraftID) -> ChainTip:
    fields = Fields.of(value, "output", "count", "byte_count", "redactions", "digest")
    return ChainTip(
        draft_id=draft_id,
        count=fields.integer("count"),
        byte_count=fields.integer("byte_count"),
        redactions=fields.integer("redactions"),
        digest=fields.digest("digest"),
    )
