"""Receipts as the gate writes them: signed, chained, recorded with the last transition, published.

protocol: docs/cosign-protocol.md, section 11. Invariant: a draft reaches its last state in the same
transaction that appends its receipt, and every receipt recorded is published, also after a crash.
"""

import logging
from dataclasses import dataclass, replace

from agent_bridge.core.base64_text import decode_matrix_base64, encode_base64url
from agent_bridge.core.ed25519 import parse_public_key
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.output_chain import ChainTip
from agent_bridge.core.pae import PayloadType, ReceiptID, encode_pae, receipt_id_of
from agent_bridge.core.pins import Pins, encode_pins, pins_digest
from agent_bridge.core.policy import Policy
from agent_bridge.core.receipt import (
    RECEIPT_EVENT,
    ChangedFile,
    DecisionRef,
    Executed,
    Outcome,
    Receipt,
    SignedReceipt,
    encode_receipt,
    parse_receipt,
    receipt_content,
)
from agent_bridge.core.receipt_head import HEAD_EVENT, Head, encode_head
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.states import Event
from agent_bridge.gate.outbox import Outbox, Room
from agent_bridge.gate.store import Store
from agent_bridge.matrix import MatrixClient

logger = logging.getLogger(__name__)

PINS_EVENT = "org.countersign.pins"
POLICY_EVENT = "org.countersign.policy"


@dataclass(frozen=True)
class Ending:
    """How a draft ended, as its receipt tells it."""

    event: Event | None
    """The last transition; None when `Store.recover` made it already."""
    outcome: Outcome
    decisions: tuple[DecisionRef, ...]
    output: ChainTip
    executed: Executed | None = None
    changed_files: tuple[ChangedFile, ...] | None = ()
    """None: they could not be compared."""


class ReceiptBook:
    def __init__(self, client: MatrixClient, store: Store, outbox: Outbox) -> None:
        self._client = client
        self._store = store
        self._outbox = outbox
        self._ids = {receipt_id_of(signed.payload) for signed in store.list_receipts()}

    @property
    def own(self) -> frozenset[ReceiptID]:
        """Every receipt this gate remembers having written."""
        return frozenset(self._ids)

    @property
    def last_id(self) -> ReceiptID | None:
        last = self._store.last_receipt()
        return None if last is None else receipt_id_of(last.payload)

    def write(self, frozen: FrozenDraft, ending: Ending, now_ms: int) -> ReceiptID:
        """Sign, record and publish the receipt of a draft that ends now. Raises Refused."""
        draft, last = frozen.draft, self._store.last_receipt()
        receipt = Receipt(
            gate_key=draft.gate.key,
            host=draft.gate.host,
            sequence=1 if last is None else parse_receipt(last.payload).sequence + 1,
            previous=None if last is None else receipt_id_of(last.payload),
            draft_id=frozen.draft_id,
            policy=draft.policy,
            pins=draft.pins,
            decisions=ending.decisions,
            outcome=_noting_uncompared(ending),
            executed=ending.executed,
            changed_files=ending.changed_files or (),
            output=ending.output,
            issued_at=max(now_ms, ending.outcome.finished_at),
        )
        payload = self._encode(receipt)
        signed = SignedReceipt(payload, self._sign(PayloadType.RECEIPT, payload))
        self._store.append_receipt(signed, ending.event, now_ms)
        self._ids.add(receipt_id_of(payload))
        self._publish(signed)
        return receipt_id_of(payload)

    def publish_all(self) -> None:
        """Put out what a crash may have kept from being said; what was said is not repeated."""
        for signed in self._store.list_receipts():
            self._publish(signed)

    def publish_head(self, host: str, now_ms: int) -> None:
        """Say which receipt is the newest, signed, so that a rollback or fork is noticed."""
        last = self._store.last_receipt()
        head = Head(
            gate_key=parse_public_key(self._client.ed25519_key),
            host=host,
            sequence=0 if last is None else parse_receipt(last.payload).sequence,
            receipt_id=self.last_id,
            issued_at=now_ms,
        )
        payload = encode_head(head)
        self._outbox.put(
            f"head:{head.sequence}:{now_ms}",
            Room.APPROVALS,
            HEAD_EVENT,
            {
                "payload": encode_base64url(payload),
                "signature": encode_base64url(self._sign(PayloadType.HEAD, payload)),
            },
        )

    def publish_grounds(self, pins: Pins, policy: Policy, policy_text: str) -> None:
        """Say what drafts are judged by; bundles need it. Once for each change of either."""
        digest = pins_digest(pins)
        pins_text = encode_base64url(encode_pins(pins))
        self._outbox.put(f"pins:{digest}", Room.APPROVALS, PINS_EVENT, {"payload": pins_text})
        self._outbox.put(
            f"policy:{policy.digest}:{digest}",  # again for approvers who have come since
            Room.APPROVALS,
            POLICY_EVENT,
            {"payload": encode_base64url(policy_text.encode())},
        )

    def _publish(self, signed: SignedReceipt) -> None:
        self._outbox.put(
            f"receipt:{receipt_id_of(signed.payload)}",
            Room.APPROVALS,
            RECEIPT_EVENT,
            {**receipt_content(signed), "draft_id": parse_receipt(signed.payload).draft_id},
        )

    def _encode(self, receipt: Receipt) -> bytes:
        """List as many changed files as fit; the others are counted."""
        while True:
            try:
                return encode_receipt(receipt)
            except Refused as error:
                listed = receipt.changed_files
                if error.reason is not Reason.PAYLOAD_TOO_LARGE or not listed:
                    raise
            kept = len(listed) * 3 // 4
            omitted = receipt.omitted_files + len(listed) - kept
            receipt = replace(receipt, changed_files=listed[:kept], omitted_files=omitted)

    def _sign(self, kind: PayloadType, payload: bytes) -> bytes:
        return decode_matrix_base64(self._client.sign_bytes(encode_pae(kind, payload)))


def _noting_uncompared(ending: Ending) -> Outcome:
    if ending.changed_files is not None:
        return ending.outcome
    said = (ending.outcome.reason, "changed files could not be compared")
    return replace(ending.outcome, reason="; ".join(filter(None, said)))
