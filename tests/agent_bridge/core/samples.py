"""People, a gate and a draft to try things on; every key comes from a fixed seed."""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from nacl.signing import SigningKey

from agent_bridge.core.actions import (
    EnvValue,
    ExecAction,
    FileDigest,
    ScriptAction,
    Surroundings,
)
from agent_bridge.core.base64_text import encode_matrix_base64
from agent_bridge.core.decision import (
    Decision,
    SignedDecision,
    Verdict,
    VerifiedDecision,
    encode_decision,
    make_decision,
    verify_decision,
)
from agent_bridge.core.device_chain import make_chain
from agent_bridge.core.draft import AgentContext, Draft, GateIdentity, Limits, PolicyRef, Sandbox
from agent_bridge.core.ed25519 import PublicKey, encode_public_key
from agent_bridge.core.frozen_draft import FrozenDraft, freeze_draft
from agent_bridge.core.pae import PayloadType, digest_of, encode_pae
from agent_bridge.core.pins import Approver, EnrolledDevice, Pins, pins_digest
from agent_bridge.core.tiers import Distinct, Need, Tier
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.json_types import JsonObject

ISSUED = 1_790_000_000_000
EXPIRES = ISSUED + 600_000
DURING = ISSUED + 60_000
DIGEST = digest_of(b"a file")
NO_KEYS: frozenset[PublicKey] = frozenset()


def secret_key(name: str) -> SigningKey:
    return SigningKey(sha256(name.encode()).digest())


def public_key(name: str) -> PublicKey:
    return PublicKey(bytes(secret_key(name).verify_key))


def sign_object(value: JsonObject, user_id: str, key_name: str, secret: SigningKey) -> None:
    """Add a Matrix signature to a key object."""
    signed = {k: v for k, v in value.items() if k not in ("signatures", "unsigned")}
    signature = encode_matrix_base64(secret.sign(encode_canonical_json(signed)).signature)
    signatures = value.setdefault("signatures", {})
    assert isinstance(signatures, dict)
    by_user = signatures.setdefault(user_id, {})
    assert isinstance(by_user, dict)
    by_user[f"ed25519:{key_name}"] = signature


@dataclass(frozen=True)
class Person:
    """A Matrix user with cross-signing keys and devices, all named after them."""

    name: str

    @property
    def user_id(self) -> str:
        return f"@{self.name}:example.org"

    def secret(self, part: str) -> SigningKey:
        return secret_key(f"{self.name}/{part}")

    def public(self, part: str) -> PublicKey:
        return public_key(f"{self.name}/{part}")

    def text(self, part: str) -> str:
        return encode_public_key(self.public(part))

    def self_signing_object(self) -> JsonObject:
        value: JsonObject = {
            "user_id": self.user_id,
            "usage": ["self_signing"],
            "keys": {f"ed25519:{self.text('ssk')}": self.text("ssk")},
        }
        sign_object(value, self.user_id, self.text("msk"), self.secret("msk"))
        return value

    def device_object(self, device_id: str) -> JsonObject:
        value: JsonObject = {
            "user_id": self.user_id,
            "device_id": device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"ed25519:{device_id}": self.text(device_id),
                f"curve25519:{device_id}": encode_matrix_base64(b"c" * 32),
            },
            "unsigned": {"device_display_name": "phone"},
        }
        sign_object(value, self.user_id, self.text("ssk"), self.secret("ssk"))
        sign_object(value, self.user_id, device_id, self.secret(device_id))
        return value

    def chain(self, device_id: str) -> bytes:
        return make_chain(self.self_signing_object(), self.device_object(device_id))

    def sign(self, decision: Decision) -> SignedDecision:
        payload = encode_decision(decision)
        message = encode_pae(PayloadType.DECISION, payload)
        signature = self.secret(decision.device_id).sign(message).signature
        return SignedDecision(payload, signature, self.chain(decision.device_id))

    def decide(
        self, frozen: FrozenDraft, verdict: Verdict = Verdict.APPROVE, device_id: str = "PHONE"
    ) -> Decision:
        return make_decision(
            frozen,
            verdict,
            user_id=self.user_id,
            device_id=device_id,
            key=self.public(device_id),
            issued_at=DURING,
        )

    def verified(
        self,
        frozen: FrozenDraft,
        verdict: Verdict = Verdict.APPROVE,
        device_id: str = "PHONE",
        received_at: int = DURING,
    ) -> VerifiedDecision:
        signed = self.sign(self.decide(frozen, verdict, device_id))
        return verify_decision(signed, frozen, PINS, NO_KEYS, received_at)

    def approver(self, max_tier: Tier = Tier.T3) -> Approver:
        return Approver(
            self.user_id,
            self.public("msk"),
            max_tier,
            (
                EnrolledDevice("LAPTOP", self.public("LAPTOP"), 0, colocated=True),
                EnrolledDevice("NEW", self.public("NEW"), ISSUED, colocated=False),
                EnrolledDevice("PHONE", self.public("PHONE"), 0, colocated=False),
                EnrolledDevice("TABLET", self.public("TABLET"), 0, colocated=False),
            ),
        )


ANNA, BO, CY, EVE = Person("anna"), Person("bo"), Person("cy"), Person("eve")
GATE_SECRET = secret_key("gate")
GATE = GateIdentity("@gate:example.org", public_key("gate"), "laptop.example.org")
PINS = Pins(GATE.user_id, GATE.key, (ANNA.approver(), BO.approver(), CY.approver(Tier.T1)))

SURROUNDINGS = Surroundings(
    cwd=b"/home/agent/work",
    environment={"PATH": EnvValue(b"/usr/bin:/bin"), "LANG": EnvValue(b"C.UTF-8")},
    stdin=None,
    inputs=(FileDigest(b"/home/agent/work/Makefile", DIGEST),),
)
EXEC = ExecAction(FileDigest(b"/usr/bin/git", DIGEST), (b"git", b"push"), SURROUNDINGS)
SCRIPT = ScriptAction(
    FileDigest(b"/usr/bin/python3.11", DIGEST), b"print('hello')\n", (b"one",), SURROUNDINGS
)
NEEDS = {
    Tier.T0: None,
    Tier.T1: Need(1, Distinct.DEVICE),
    Tier.T2: Need(1),
    Tier.T3: Need(2, Distinct.USER, cooldown_ms=86_400_000, hold_ms=30_000),
}


def draft(tier: Tier = Tier.T2, **changes: Any) -> Draft:
    base = Draft(
        gate=GATE,
        room_id="!approvals:example.org",
        sequence=7,
        nonce=b"0123456789abcdef",
        issued_at=ISSUED,
        expires_at=EXPIRES,
        supersedes=None,
        previous_receipt=None,
        agent=AgentContext("coder", "@coder:example.org", "session-1", 3),
        policy=PolicyRef(DIGEST, 1, "push", tier),
        need=NEEDS[tier],
        pins=pins_digest(PINS),
        action=EXEC,
        sandbox=Sandbox("network", DIGEST, network=True, writable=(b"/home/agent/work",)),
        limits=Limits(60_000, 1_000_000),
    )
    return replace(base, **changes)


def frozen(tier: Tier = Tier.T2, **changes: Any) -> FrozenDraft:
    return freeze_draft(draft(tier, **changes))
