"""The road of a decision from the wire to the record, in the documented order.

protocol: docs/cosign-protocol.md, section 8. Invariant: what is recorded was sent,
encrypted, by the very device that signed it, whose chain ends at its owner's pinned master key,
for a draft that is open now.
"""

from dataclasses import dataclass

from agent_bridge.core.decision import Verdict, VerifiedDecision, parse_decision, verify_decision
from agent_bridge.core.ed25519 import encode_public_key
from agent_bridge.core.pae import DraftID
from agent_bridge.core.quorum import Instant, check_eligible, check_time
from agent_bridge.core.receipt import check_seen_head
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.states import State
from agent_bridge.gate.approvals_room import Cast
from agent_bridge.gate.approvers import Approvers
from agent_bridge.gate.open_drafts import OpenDraft, OpenDrafts
from agent_bridge.gate.receipt_book import ReceiptBook
from agent_bridge.gate.store import Store
from agent_bridge.matrix import DecryptedEvent, DeviceTrust

_CLOSED = {
    State.EXPIRED: Reason.EXPIRED,
    State.DENIED: Reason.DENIED,
}
_TRUST = {
    DeviceTrust.UNKNOWN: Reason.DEVICE_UNKNOWN,
    DeviceTrust.UNSIGNED: Reason.DEVICE_UNSIGNED,
    DeviceTrust.IDENTITY_CHANGED: Reason.APPROVER_FROZEN,
}


@dataclass(frozen=True)
class Verifier:
    store: Store
    approvers: Approvers
    receipts: ReceiptBook
    drafts: OpenDrafts

    def verify(self, cast: Cast, now: Instant) -> tuple[OpenDraft, VerifiedDecision]:
        """Verify a decision for the draft its payload names. Raises Refused.

        1. We decrypted it with a key the device gave us directly: that is what a DecryptedEvent is.
        2. (session, index) was never seen under another event id.
        3. Its ciphertext names this room and 4. its sender owns the session: likewise.
        5. The sending device chains to the pinned master key by bytes, and signed the decision.
        6. It is not revoked; for an approval also eligible: tier, co-location, cool-down.
        7. The signature holds.  8. It is for this gate, draft, nonce and rendering, and in time on
        both clocks.  The caller then 9. records it and 10. counts.
        """
        event = cast.event  # 1, 3, 4
        self._check_replay(event)  # 2
        decision = parse_decision(cast.signed.payload)
        draft = self._get_draft(decision.draft_id)
        self._check_device(event, decision.user_id)  # 5, 6
        if event.device.ed25519 != encode_public_key(decision.key):
            raise Refused(Reason.DECISION_OTHER_KEY, "another device sent it")
        pins, revoked = self.approvers.pins(), self.approvers.revoked_keys()
        verified = verify_decision(cast.signed, draft.frozen, pins, revoked, now.wall_ms)  # 5 to 8
        if decision.verdict is Verdict.APPROVE:
            check_eligible(verified, draft.frozen, pins, revoked)  # 6
        check_time(draft.frozen.draft, draft.opened, now)  # 8
        check_seen_head(decision.receipt_head, self.receipts.own)
        return draft, verified

    def record(self, cast: Cast, draft: OpenDraft, verified: VerifiedDecision) -> None:
        """Write a verified decision down, once. Raises Refused."""
        if verified.decision.verdict is Verdict.APPROVE and draft.state is not State.PENDING:
            raise Refused(Reason.DRAFT_CLOSED, draft.state)
        if not self.store.insert_decision(
            draft.draft_id, verified.decision_id, cast.signed.payload, verified.received_at
        ):
            raise Refused(Reason.DECISION_REPEATED)

    def _check_replay(self, event: DecryptedEvent) -> None:
        """Note the message; noted with its event id first, so that a crash between cannot hurt."""
        place = f"{event.session_id}:{event.message_index}"
        is_new_event = self.store.mark_seen("megolm-event", f"{place}:{event.event_id}")
        is_new_place = self.store.mark_seen("megolm", place)
        if is_new_event and not is_new_place:
            raise Refused(Reason.REPLAYED)

    def _get_draft(self, draft_id: DraftID) -> OpenDraft:
        draft = self.drafts.find(draft_id)
        if draft is not None:
            return draft
        stored = self.store.find_draft(draft_id)
        if stored is None:
            raise Refused(Reason.DRAFT_UNKNOWN)
        reason = _CLOSED.get(stored.state)
        if reason is not None:
            raise Refused(reason)
        raise Refused(Reason.DRAFT_CLOSED, stored.state)

    def _check_device(self, event: DecryptedEvent, user_id: str) -> None:
        enrollment = self.approvers.find(event.sender)
        if enrollment is None:
            raise Refused(Reason.APPROVER_UNKNOWN, event.sender)
        if event.sender != user_id:
            raise Refused(Reason.SENDER_MISMATCH, user_id)
        device = event.device
        if self.approvers.is_frozen(event.sender):
            raise Refused(Reason.APPROVER_FROZEN, event.sender)
        if device.trust is DeviceTrust.REVOKED:
            raise Refused(Reason.DEVICE_REVOKED, device.device_id or "")
        reason = _TRUST.get(device.trust)
        if reason is not None:
            raise Refused(reason, device.device_id or "")
        if device.master_key != encode_public_key(enrollment.master_key):
            raise Refused(Reason.APPROVER_FROZEN, event.sender)
        if not device.device_list_fresh:
            raise Refused(Reason.DEVICE_LIST_STALE)
