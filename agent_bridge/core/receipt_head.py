"""The gate's newest receipt, signed from time to time, so that going back or forking shows.

protocol: docs/cosign-protocol.md, section 11. Invariant: for one gate, sequence numbers only grow
and each has one receipt.
"""

from dataclasses import dataclass

from agent_bridge.core.ed25519 import PublicKey, check_signature, encode_public_key
from agent_bridge.core.pae import PayloadType, ReceiptID, encode_pae, parse_receipt_id
from agent_bridge.core.payload import Fields, decode_payload, encode_payload
from agent_bridge.core.refusals import Reason, Refused

HEAD_EVENT = "org.countersign.head"


@dataclass(frozen=True)
class Head:
    gate_key: PublicKey
    host: str
    sequence: int
    """0 before the first receipt."""
    receipt_id: ReceiptID | None
    issued_at: int


def encode_head(head: Head) -> bytes:
    """Encode a head; the gate signs PAE(head, payload)."""
    return encode_payload(
        {
            "gate_key": encode_public_key(head.gate_key),
            "host": head.host,
            "sequence": head.sequence,
            "receipt_id": head.receipt_id,
            "issued_at": head.issued_at,
        }
    )


def check_head(payload: bytes, signature: bytes, gate_key: PublicKey) -> Head:
    check_signature(gate_key, encode_pae(PayloadType.HEAD, payload), signature)
    fields = Fields.of(
        decode_payload(payload), "head", "gate_key", "host", "sequence", "receipt_id", "issued_at"
    )
    head = Head(
        gate_key=fields.key("gate_key"),
        host=fields.text("host"),
        sequence=fields.integer("sequence"),
        receipt_id=fields.optional(
            "receipt_id", lambda name: fields.parsed(name, parse_receipt_id)
        ),
        issued_at=fields.time("issued_at"),
    )
    if head.gate_key != gate_key:
        raise Refused(Reason.RECEIPT_OTHER_GATE)
    if (head.sequence == 0) != (head.receipt_id is None):
        raise fields.invalid("receipt_id", "does not fit its sequence number")
    return head


def check_head_follows(last: Head | None, new: Head) -> None:
    """Refuse a head that goes back or contradicts the last one seen."""
    if last is None:
        return
    if new.gate_key != last.gate_key:
        raise Refused(Reason.RECEIPT_OTHER_GATE)
    if new.sequence < last.sequence:
        raise Refused(Reason.HEAD_REGRESSED, f"{last.sequence} to {new.sequence}")
    if new.sequence == last.sequence and new.receipt_id != last.receipt_id:
        raise Refused(Reason.HEAD_FORKED, f"at {new.sequence}")
