"""A decision on a draft: an approver's signed yes or no, and how to verify it.

protocol: docs/cosign-protocol.md, sections 6 and 8. Invariant: a `VerifiedDecision` was signed
by an enrolled device of a pinned user over exactly this draft's identifier, nonce, gate, rendering.
"""

from dataclasses import dataclass
from enum import StrEnum

from agent_bridge.core.base64_text import decode_base64url, encode_base64url
from agent_bridge.core.device_chain import check_chain
from agent_bridge.core.ed25519 import PublicKey, check_signature, encode_public_key
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import (
    DecisionID,
    Digest,
    DraftID,
    PayloadType,
    ReceiptID,
    decision_id_of,
    encode_pae,
    parse_draft_id,
    parse_receipt_id,
)
from agent_bridge.core.payload import Fields, decode_payload, encode_payload
from agent_bridge.core.pins import Pins
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Assurance
from homeserver.core.identifiers import parse_user_id
from homeserver.core.json_types import JsonObject, JsonValue

DECISION_EVENT = "org.countersign.decision"


class Verdict(StrEnum):
    APPROVE = "approve"
    DENY = "deny"


@dataclass(frozen=True)
class Restrict:
    """An approver's own, tighter limits; None leaves the draft's."""

    wall_ms: int | None = None
    output_bytes: int | None = None


@dataclass(frozen=True)
class Decision:
    draft_id: DraftID
    verdict: Verdict
    nonce: bytes
    gate_key: PublicKey
    user_id: str
    device_id: str
    key: PublicKey
    issued_at: int
    expires_at: int
    rendering: Digest
    """Of the text the approver was shown."""
    receipt_head: ReceiptID | None
    """The newest receipt of this gate the approver has seen."""
    restrict: Restrict | None


@dataclass(frozen=True)
class SignedDecision:
    """A decision as it travels: exact payload bytes, 64-byte signature, device-key chain."""

    payload: bytes
    signature: bytes
    chain: bytes


@dataclass(frozen=True)
class VerifiedDecision:
    decision_id: DecisionID
    decision: Decision
    assurance: Assurance
    received_at: int


@dataclass(frozen=True)
class PlainDenial:
    """A level-0 no: a reaction, plaintext or anything unverifiable under an approver's name.

    A server can forge it. It can also drop every message, so this gives it no new power.
    """

    user_id: str
    received_at: int


def make_decision(
    frozen: FrozenDraft,
    verdict: Verdict,
    *,
    user_id: str,
    device_id: str,
    key: PublicKey,
    issued_at: int,
    expires_at: int | None = None,
    receipt_head: ReceiptID | None = None,
    restrict: Restrict | None = None,
) -> Decision:
    """Answer a draft; it is the caller who has shown `frozen.rendering` to a person."""
    draft = frozen.draft
    return Decision(
        draft_id=frozen.draft_id,
        verdict=verdict,
        nonce=draft.nonce,
        gate_key=draft.gate.key,
        user_id=user_id,
        device_id=device_id,
        key=key,
        issued_at=issued_at,
        expires_at=draft.expires_at if expires_at is None else expires_at,
        rendering=frozen.rendering_digest,
        receipt_head=receipt_head,
        restrict=restrict,
    )


def encode_decision(decision: Decision) -> bytes:
    restrict = decision.restrict
    return encode_payload(
        {
            "draft_id": decision.draft_id,
            "verdict": decision.verdict.value,
            "nonce": encode_base64url(decision.nonce),
            "gate_key": encode_public_key(decision.gate_key),
            "user_id": decision.user_id,
            "device_id": decision.device_id,
            "key": encode_public_key(decision.key),
            "issued_at": decision.issued_at,
            "expires_at": decision.expires_at,
            "rendering": decision.rendering,
            "receipt_head": decision.receipt_head,
            "restrict": None
            if restrict is None
            else {"wall_ms": restrict.wall_ms, "output_bytes": restrict.output_bytes},
        }
    )


def parse_decision(payload: bytes) -> Decision:
    fields = Fields.of(
        decode_payload(payload),
        "decision",
        "draft_id",
        "verdict",
        "nonce",
        "gate_key",
        "user_id",
        "device_id",
        "key",
        "issued_at",
        "expires_at",
        "rendering",
        "receipt_head",
        "restrict",
    )
    verdict = fields.parsed("verdict", Verdict)
    restrict = None if fields.raw("restrict") is None else _decode_restrict(fields.raw("restrict"))
    if verdict is Verdict.DENY and restrict is not None:
        raise fields.invalid("restrict", "is meaningless in a denial")
    return Decision(
        draft_id=fields.parsed("draft_id", parse_draft_id),
        verdict=verdict,
        nonce=fields.octets("nonce"),
        gate_key=fields.key("gate_key"),
        user_id=fields.parsed("user_id", parse_user_id),
        device_id=fields.text("device_id"),
        key=fields.key("key"),
        issued_at=fields.time("issued_at"),
        expires_at=fields.time("expires_at"),
        rendering=fields.digest("rendering"),
        receipt_head=fields.optional(
            "receipt_head", lambda name: fields.parsed(name, parse_receipt_id)
        ),
        restrict=restrict,
    )


def decision_content(signed: SignedDecision) -> JsonObject:
    """Make the content of an `org.countersign.decision` event."""
    return {
        "payload": encode_base64url(signed.payload),
        "signature": encode_base64url(signed.signature),
        "chain": encode_base64url(signed.chain),
    }


def signed_of_content(content: JsonObject) -> SignedDecision:
    """Read a decision event; relations and every other key are the sender's and are ignored."""
    return SignedDecision(
        payload=_octets(content, "payload"),
        signature=_octets(content, "signature"),
        chain=_octets(content, "chain"),
    )


def verify_decision(
    signed: SignedDecision,
    frozen: FrozenDraft,
    pins: Pins,
    revoked_keys: frozenset[PublicKey],
    received_at: int,
) -> VerifiedDecision:
    """Verify a decision at assurance A; what it counts for is `evaluate_quorum`'s.

    1. The payload is strict and names an enrolled approver who is no party to the draft.
    2. The chain leads from that user's pinned master key to the key and device the payload names.
    3. That key is enrolled by its bytes, and neither it nor the chain's keys are revoked.
    4. It signed PAE(decision, payload).
    5. The payload echoes this draft's id, gate, nonce and rendering.
    6. It does not outlive the draft and was received in time.
    7. A restriction only narrows.
    """
    # 1
    decision = parse_decision(signed.payload)
    approver = pins.find_approver(decision.user_id)
    if approver is None:
        raise Refused(Reason.APPROVER_UNKNOWN, decision.user_id)
    if decision.user_id in party_of(frozen):
        raise Refused(Reason.APPROVER_IS_PARTY, decision.user_id)
    # 2
    link = check_chain(signed.chain, approver)
    if (link.device_key, link.device_id) != (decision.key, decision.device_id):
        raise Refused(Reason.DECISION_OTHER_KEY, decision.device_id)
    # 3
    device = approver.find_device(link.device_key)
    if device is None or device.device_id != link.device_id:
        raise Refused(Reason.DEVICE_NOT_ENROLLED, link.device_id)
    if revoked_keys & {link.device_key, link.self_signing_key, approver.master_key}:
        raise Refused(Reason.DEVICE_REVOKED, link.device_id)
    # 4
    check_signature(
        link.device_key, encode_pae(PayloadType.DECISION, signed.payload), signed.signature
    )
    _check_echo(decision, frozen)  # 5
    _check_times(decision, frozen, received_at)  # 6
    _check_restrict(decision, frozen)  # 7
    return VerifiedDecision(decision_id_of(signed.payload), decision, Assurance.A, received_at)


def party_of(frozen: FrozenDraft) -> frozenset[str]:
    """The accounts that may never decide this draft."""
    gate, agent = frozen.draft.gate.user_id, frozen.draft.agent.user_id
    return frozenset({gate}) if agent is None else frozenset({gate, agent})


def _check_echo(decision: Decision, frozen: FrozenDraft) -> None:
    draft = frozen.draft
    for same, reason in (
        (decision.gate_key == draft.gate.key, Reason.DECISION_OTHER_GATE),
        (decision.draft_id == frozen.draft_id, Reason.DECISION_OTHER_DRAFT),
        (decision.nonce == draft.nonce, Reason.DECISION_OTHER_NONCE),
        (decision.rendering == frozen.rendering_digest, Reason.DECISION_OTHER_RENDERING),
    ):
        if not same:
            raise Refused(reason)


def _check_times(decision: Decision, frozen: FrozenDraft, received_at: int) -> None:
    if decision.expires_at > frozen.draft.expires_at:
        raise Refused(Reason.DECISION_OUTLIVES_DRAFT)
    if received_at >= decision.expires_at:
        raise Refused(Reason.DECISION_EXPIRED)


def _check_restrict(decision: Decision, frozen: FrozenDraft) -> None:
    limits, restrict = frozen.draft.limits, decision.restrict or Restrict()
    if restrict.wall_ms is not None and restrict.wall_ms > limits.wall_ms:
        raise Refused(Reason.RESTRICT_WIDENS, "wall_ms")
    if restrict.output_bytes is not None and restrict.output_bytes > limits.output_bytes:
        raise Refused(Reason.RESTRICT_WIDENS, "output_bytes")


def _decode_restrict(value: JsonValue) -> Restrict:
    fields = Fields.of(value, "restrict", "wall_ms", "output_bytes")
    return Restrict(
        wall_ms=fields.optional("wall_ms", lambda name: fields.integer(name, minimum=1)),
        output_bytes=fields.optional("output_bytes", fields.integer),
    )


def _octets(content: JsonObject, name: str) -> bytes:
    text = content.get(name)
    if not isinstance(text, str):
        raise Refused(Reason.FIELD_MISSING, name)
    return decode_base64url(text)
