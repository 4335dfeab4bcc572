"""What is signed and named: DSSE v1 pre-authentication encoding, digests, identifiers.

protocol: docs/cosign-protocol.md, sections 2 and 3. Invariant: every signature and identifier
covers the payload type, so a signature for one kind or version never fits another.

    >>> encode_pae(PayloadType.HEAD, b"{}")
    b'DSSEv1 23 org.countersign.head.v1 2 {}'
"""

import re
from base64 import b32encode
from enum import StrEnum
from hashlib import sha256
from typing import NewType

from agent_bridge.core.refusals import Reason, Refused

Digest = NewType("Digest", str)
DraftID = NewType("DraftID", str)
DecisionID = NewType("DecisionID", str)
ReceiptID = NewType("ReceiptID", str)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ID_BODY = re.compile(r"[a-z2-7]{51}[aq]")
"""52 characters carry 260 bits; the last one has four unused bits, which must be zero."""


class PayloadType(StrEnum):
    DRAFT = "org.countersign.draft.v1"
    DECISION = "org.countersign.decision.v1"
    RECEIPT = "org.countersign.receipt.v1"
    HEAD = "org.countersign.head.v1"
    OUTPUT = "org.countersign.output.v1"
    PINS = "org.countersign.pins.v1"
    POLICY = "org.countersign.policy.v1"


def encode_pae(kind: PayloadType, payload: bytes) -> bytes:
    name = kind.value.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def digest_of(data: bytes) -> Digest:
    return Digest(f"sha256:{sha256(data).hexdigest()}")


def payload_digest(kind: PayloadType, payload: bytes) -> Digest:
    return digest_of(encode_pae(kind, payload))


def parse_digest(text: str) -> Digest:
    if not _DIGEST.fullmatch(text):
        raise Refused(Reason.FIELD_INVALID, "not a sha256 digest")
    return Digest(text)


def draft_id_of(payload: bytes) -> DraftID:
    return DraftID(_identifier("d1", PayloadType.DRAFT, payload))


def decision_id_of(payload: bytes) -> DecisionID:
    return DecisionID(_identifier("c1", PayloadType.DECISION, payload))


def receipt_id_of(payload: bytes) -> ReceiptID:
    return ReceiptID(_identifier("r1", PayloadType.RECEIPT, payload))


def parse_draft_id(text: str) -> DraftID:
    return DraftID(_parse_identifier("d1", text))


def parse_decision_id(text: str) -> DecisionID:
    return DecisionID(_parse_identifier("c1", text))


def parse_receipt_id(text: str) -> ReceiptID:
    return ReceiptID(_parse_identifier("r1", text))


def _identifier(prefix: str, kind: PayloadType, payload: bytes) -> str:
    body = b32encode(sha256(encode_pae(kind, payload)).digest()).rstrip(b"=").decode().lower()
    return f"{prefix}:{body}"


def _parse_identifier(prefix: str, text: str) -> str:
    head, separator, body = text.partition(":")
    if head != prefix or not separator or not _ID_BODY.fullmatch(body):
        raise Refused(Reason.FIELD_INVALID, f"not a {prefix} identifier")
    return text
