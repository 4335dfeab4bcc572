"""A draft: everything that decides what happens, before anyone has agreed to it.

protocol: docs/cosign-protocol.md, section 4. Invariant: whatever changes what would run, where, for
whom, under which rule or with whose consent is a field here, and so is signed.
"""

import re
from dataclasses import dataclass

from agent_bridge.core.actions import (
    Action,
    check_arguments,
    check_path,
    decode_action,
    encode_action,
)
from agent_bridge.core.base64_text import encode_base64url
from agent_bridge.core.ed25519 import PublicKey, encode_public_key
from agent_bridge.core.pae import Digest, DraftID, ReceiptID, parse_draft_id, parse_receipt_id
from agent_bridge.core.payload import Fields
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.tiers import Assurance, Distinct, Need, Tier
from homeserver.core.identifiers import parse_room_id, parse_user_id
from homeserver.core.json_types import JsonObject, JsonValue

MIN_NONCE_BYTES = 16
MAX_NONCE_BYTES = 32

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True)
class GateIdentity:
    """Who would act: the gate's Matrix account, its device key and the machine."""

    user_id: str
    key: PublicKey
    host: str


@dataclass(frozen=True)
class AgentContext:
    """Who proposes, and what the proposal was exposed to."""

    agent_id: str
    user_id: str | None
    """The Matrix account the agent speaks with, if it has one; it can never approve."""
    session: str
    turn: int
    taint: tuple[str, ...] = ()
    """Untrusted sources the turn read, sorted, such as `web:example.org`; any raises the tier."""
    claim: str = ""
    """The agent's own words; shown last and marked as unverified."""


@dataclass(frozen=True)
class PolicyRef:
    """Which policy put the action into which tier."""

    digest: Digest
    version: int
    rule: str
    tier: Tier


@dataclass(frozen=True)
class Sandbox:
    """The confinement: its profile's digest and, in words, what it lets out."""

    name: str
    digest: Digest
    network: bool
    writable: tuple[bytes, ...]


@dataclass(frozen=True)
class Limits:
    wall_ms: int
    output_bytes: int
    uses: int = 1


@dataclass(frozen=True)
class Draft:
    """One proposed action of one gate. Times are milliseconds since 1970."""

    gate: GateIdentity
    room_id: str
    sequence: int
    nonce: bytes
    issued_at: int
    expires_at: int
    supersedes: DraftID | None
    previous_receipt: ReceiptID | None
    agent: AgentContext
    policy: PolicyRef
    need: Need | None
    """None only in tier T0, which asks nobody."""
    pins: Digest
    """The approver set in force when the draft was frozen."""
    action: Action
    sandbox: Sandbox
    limits: Limits


def encode_draft(draft: Draft, rendering: Digest) -> JsonObject:
    gate, agent, sandbox = draft.gate, draft.agent, draft.sandbox
    return {
        "gate": {
            "user_id": gate.user_id,
            "key": encode_public_key(gate.key),
            "host": gate.host,
        },
        "room_id": draft.room_id,
        "sequence": draft.sequence,
        "nonce": encode_base64url(draft.nonce),
        "issued_at": draft.issued_at,
        "expires_at": draft.expires_at,
        "supersedes": draft.supersedes,
        "previous_receipt": draft.previous_receipt,
        "agent": {
            "agent_id": agent.agent_id,
            "user_id": agent.user_id,
            "session": agent.session,
            "turn": agent.turn,
            "taint": list(agent.taint),
            "claim": agent.claim,
        },
        "policy": encode_policy_ref(draft.policy),
        "need": None if draft.need is None else _encode_need(draft.need),
        "pins": draft.pins,
        "action": encode_action(draft.action),
        "sandbox": {
            "name": sandbox.name,
            "digest": sandbox.digest,
            "network": sandbox.network,
            "writable": [encode_base64url(path) for path in sandbox.writable],
        },
        "limits": {
            "wall_ms": draft.limits.wall_ms,
            "output_bytes": draft.limits.output_bytes,
            "uses": draft.limits.uses,
        },
        "rendering": rendering,
    }


def decode_draft(value: JsonObject) -> tuple[Draft, Digest]:
    """Return the draft and the digest its rendering must have."""
    fields = Fields.of(
        value,
        "draft",
        "gate",
        "room_id",
        "sequence",
        "nonce",
        "issued_at",
        "expires_at",
        "supersedes",
        "previous_receipt",
        "agent",
        "policy",
        "need",
        "pins",
        "action",
        "sandbox",
        "limits",
        "rendering",
    )
    nonce = fields.octets("nonce")
    if not MIN_NONCE_BYTES <= len(nonce) <= MAX_NONCE_BYTES:
        raise fields.invalid("nonce", "is not 16 to 32 bytes")
    issued_at, expires_at = fields.time("issued_at"), fields.time("expires_at")
    if expires_at <= issued_at:
        raise fields.invalid("expires_at", "is not after issued_at")
    policy = decode_policy_ref(fields.raw("policy"))
    draft = Draft(
        gate=_decode_gate(fields.raw("gate")),
        room_id=fields.parsed("room_id", parse_room_id),
        sequence=fields.integer("sequence", minimum=1),
        nonce=nonce,
        issued_at=issued_at,
        expires_at=expires_at,
        supersedes=fields.optional("supersedes", lambda name: fields.parsed(name, parse_draft_id)),
        previous_receipt=fields.optional(
            "previous_receipt", lambda name: fields.parsed(name, parse_receipt_id)
        ),
        agent=_decode_agent(fields.raw("agent")),
        policy=policy,
        need=None if fields.raw("need") is None else _decode_need(fields.raw("need")),
        pins=fields.digest("pins"),
        action=decode_action(fields.raw("action")),
        sandbox=_decode_sandbox(fields.raw("sandbox")),
        limits=_decode_limits(fields.raw("limits")),
    )
    if policy.tier is Tier.DENY:
        raise Refused(Reason.TIER_DENIED, policy.rule)
    if (draft.need is None) != (policy.tier is Tier.T0):
        raise Refused(Reason.NEED_MISSING, f"tier {policy.tier.name}")
    return draft, fields.digest("rendering")


def encode_policy_ref(policy: PolicyRef) -> JsonObject:
    return {
        "digest": policy.digest,
        "version": policy.version,
        "rule": policy.rule,
        "tier": policy.tier.name,
    }


def decode_policy_ref(value: JsonValue) -> PolicyRef:
    fields = Fields.of(value, "policy", "digest", "version", "rule", "tier")
    return PolicyRef(
        digest=fields.digest("digest"),
        version=fields.integer("version", minimum=1),
        rule=fields.text("rule"),
        tier=decode_tier(fields, "tier"),
    )


def decode_tier(fields: Fields, name: str) -> Tier:
    try:
        return Tier[fields.text(name)]
    except KeyError as error:
        raise fields.invalid(name, "is not a tier") from error


def _encode_need(need: Need) -> JsonObject:
    return {
        "approvals": need.approvals,
        "distinct": need.distinct.value,
        "assurance": need.assurance.value,
        "cooldown_ms": need.cooldown_ms,
        "hold_ms": need.hold_ms,
    }


def _decode_need(value: JsonValue) -> Need:
    fields = Fields.of(
        value, "need", "approvals", "distinct", "assurance", "cooldown_ms", "hold_ms"
    )
    return Need(
        approvals=fields.integer("approvals"),
        distinct=fields.parsed("distinct", Distinct),
        assurance=fields.parsed("assurance", Assurance),
        cooldown_ms=fields.integer("cooldown_ms"),
        hold_ms=fields.integer("hold_ms"),
    )


def _decode_gate(value: JsonValue) -> GateIdentity:
    fields = Fields.of(value, "gate", "user_id", "key", "host")
    host = fields.text("host")
    if not _HOST.fullmatch(host):
        raise fields.invalid("host", "is not a host name")
    return GateIdentity(fields.parsed("user_id", parse_user_id), fields.key("key"), host)


def _decode_agent(value: JsonValue) -> AgentContext:
    fields = Fields.of(value, "agent", "agent_id", "user_id", "session", "turn", "taint", "claim")
    return AgentContext(
        agent_id=fields.text("agent_id"),
        user_id=fields.optional("user_id", lambda name: fields.parsed(name, parse_user_id)),
        session=fields.text("session"),
        turn=fields.integer("turn"),
        taint=fields.texts("taint"),
        claim=fields.text("claim"),
    )


def _decode_sandbox(value: JsonValue) -> Sandbox:
    fields = Fields.of(value, "sandbox", "name", "digest", "network", "writable")
    writable = check_arguments(fields.items("writable"), fields.path("writable"))
    if list(writable) != sorted(set(writable)):
        raise fields.invalid("writable", "is not sorted by different paths")
    return Sandbox(
        name=fields.text("name"),
        digest=fields.digest("digest"),
        network=fields.boolean("network"),
        writable=tuple(check_path(path) for path in writable),
    )


def _decode_limits(value: JsonValue) -> Limits:
    fields = Fields.of(value, "limits", "wall_ms", "output_bytes", "uses")
    if fields.integer("uses") != 1:
        raise fields.invalid("uses", "is not 1: this version has no grants")
    return Limits(fields.integer("wall_ms", minimum=1), fields.integer("output_bytes"))
