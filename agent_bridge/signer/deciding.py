"""From a person's yes or no to a signed decision on its way to the gate.

protocol: docs/cosign-protocol.md, section 6. Invariant: what is signed names the draft by
the digest of the bytes that were rendered here, and goes to the gate encrypted with the chain that
proves it.
"""

from agent_bridge.core.base64_text import decode_matrix_base64
from agent_bridge.core.decision import (
    DECISION_EVENT,
    Restrict,
    SignedDecision,
    Verdict,
    decision_content,
    encode_decision,
    make_decision,
)
from agent_bridge.core.device_chain import make_chain
from agent_bridge.core.ed25519 import encode_public_key, parse_public_key
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import PayloadType, ReceiptID, encode_pae
from agent_bridge.matrix import CrossSignedDevices, KeysRefused, MatrixClient
from agent_bridge.signer.trusted_gates import TrustedGate
from homeserver.core.identifiers import EventID, RoomID, UserID


def sign_decision(
    client: MatrixClient,
    frozen: FrozenDraft,
    verdict: Verdict,
    *,
    now_ms: int,
    receipt_head: ReceiptID | None = None,
    restrict: Restrict | None = None,
) -> SignedDecision:
    """Sign with this device. Raises KeysRefused while the device itself is not signed."""
    chain = client.find_device_chain(client.user_id, client.device_id)
    if chain is None:
        raise KeysRefused(
            "this device is not signed; on a signed device of yours run:"
            f" countersign verify-device {client.device_id} {client.ed25519_key}"
        )
    decision = make_decision(
        frozen,
        verdict,
        user_id=client.user_id,
        device_id=client.device_id,
        key=parse_public_key(client.ed25519_key),
        issued_at=now_ms,
        receipt_head=receipt_head,
        restrict=restrict,
    )
    payload = encode_decision(decision)
    signature = client.sign_bytes(encode_pae(PayloadType.DECISION, payload))
    return SignedDecision(
        payload,
        decode_matrix_base64(signature),
        make_chain(chain.self_signing_key, chain.device_keys),
    )


async def send_decision(
    client: MatrixClient, frozen: FrozenDraft, gate: TrustedGate, signed: SignedDecision
) -> EventID:
    """Send to the gate's room; the gate must be able to read it, the other approvers may.

    Raises MatrixFailure, NoRecipients.
    """
    room_id = RoomID(frozen.draft.room_id)
    readers: dict[UserID, str | None] = dict.fromkeys(client.members(room_id))
    readers[gate.user_id] = encode_public_key(gate.master_key)
    return await client.send_event(
        room_id,
        DECISION_EVENT,
        decision_content(signed),
        encrypt=True,
        policy=CrossSignedDevices(readers),
    )
