"""Every reason the gate can refuse something, as a stable code and a human sentence.

protocol: docs/cosign-protocol.md, section 12. Invariant: codes are never renamed or reused;
receipts and bundles carry them.
"""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A stable machine code; `sentence` says it to a person."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    # Bytes and encoding
    JSON_INVALID = "json_invalid", "The payload is not strict JSON."
    NOT_CANONICAL = "not_canonical", "The payload bytes are not their own canonical form."
    NOT_NFC = "not_nfc", "A text in the payload is not in Unicode normal form C."
    FIELD_MISSING = "field_missing", "A required field is missing."
    FIELD_UNKNOWN = "field_unknown", "The payload has a field this version does not know."
    FIELD_INVALID = "field_invalid", "A field has the wrong type or an impossible value."
    BASE64_INVALID = "base64_invalid", "A base64 text is padded, malformed or not in its one form."
    PAYLOAD_TOO_LARGE = "payload_too_large", "The payload is larger than may be shown and signed."
    RENDERING_TOO_LARGE = (
        "rendering_too_large",
        "The action cannot be shown whole, so it cannot be approved.",
    )
    RENDERING_MISMATCH = (
        "rendering_mismatch",
        "The text shown to people is not the text these bytes render to.",
    )
    ID_MISMATCH = "id_mismatch", "The identifier does not belong to these bytes."

    # Actions
    ACTION_UNKNOWN = "action_unknown", "This kind of action is not in the closed set."
    PATH_INVALID = "path_invalid", "A path is not absolute and normalized."

    # Keys and signatures
    KEY_INVALID = "key_invalid", "A public key is malformed, of small order or off the curve."
    SIGNATURE_INVALID = "signature_invalid", "The signature does not verify with this key."
    CHAIN_INVALID = "chain_invalid", "The device-key chain is malformed."
    CHAIN_WRONG_USER = "chain_wrong_user", "The device-key chain belongs to another user."
    CHAIN_WRONG_USAGE = "chain_wrong_usage", "A cross-signing key is used for what it is not for."
    CHAIN_UNSIGNED = "chain_unsigned", "A link of the device-key chain is not signed."
    CHAIN_BROKEN = "chain_broken", "A signature in the device-key chain does not verify."
    CHAIN_KEY_REUSED = "chain_key_reused", "One key plays two parts in the device-key chain."

    # Approvers
    APPROVER_UNKNOWN = "approver_unknown", "This user is not an enrolled approver."
    APPROVER_IS_PARTY = (
        "approver_is_party",
        "The gate's account and the account that asked cannot approve a draft.",
    )
    DEVICE_NOT_ENROLLED = "device_not_enrolled", "This device key is not enrolled."
    DEVICE_REVOKED = "device_revoked", "This device key has been revoked."
    DEVICE_COLOCATED = (
        "device_colocated",
        "A device on the machine that acts cannot approve at this tier.",
    )
    DEVICE_COOLING_DOWN = "device_cooling_down", "This device was enrolled too recently."
    TIER_TOO_HIGH = "tier_too_high", "This approver may not approve at this tier."

    # Decisions
    DECISION_OTHER_DRAFT = "decision_other_draft", "The decision is for another draft."
    DECISION_OTHER_GATE = "decision_other_gate", "The decision is for another gate."
    DECISION_OTHER_NONCE = "decision_other_nonce", "The decision repeats another nonce."
    DECISION_OTHER_KEY = "decision_other_key", "The decision names a key that did not sign it."
    DECISION_OTHER_RENDERING = (
        "decision_other_rendering",
        "The approver was shown another text than this draft's.",
    )
    DECISION_OUTLIVES_DRAFT = "decision_outlives_draft", "The decision outlives its draft."
    DECISION_EXPIRED = "decision_expired", "The decision arrived after it expired."
    RESTRICT_WIDENS = "restrict_widens", "A restriction may only narrow the draft's limits."
    ASSURANCE_UNSUPPORTED = (
        "assurance_unsupported",
        "Levels B and C are named by the protocol but not verified by this version.",
    )
    ASSURANCE_TOO_LOW = "assurance_too_low", "The decision's assurance cannot approve this draft."
    DECISION_REPEATED = "decision_repeated", "This approver already counts once."

    # Quorum and time
    NEED_ZERO = "need_zero", "A quorum of zero approvals is no quorum."
    NEED_MISSING = "need_missing", "Only tier T0 may go without a quorum."
    NEED_TOO_WEAK = "need_too_weak", "The quorum is weaker than its tier's compiled-in floor."
    APPROVERS_EMPTY = "approvers_empty", "There are no approvers, which means deny."
    APPROVERS_TOO_FEW = "approvers_too_few", "Fewer eligible approvers exist than are needed."
    QUORUM_INCOMPLETE = "quorum_incomplete", "The draft has not got its quorum."
    DENIED = "denied", "An approver denied the draft."
    TIER_DENIED = "tier_denied", "Policy never lets this action run."
    EXPIRED = "expired", "The draft has expired."
    CLOCK_REGRESSED = "clock_regressed", "The clock stands before the draft was issued."
    TRANSITION_NOT_ALLOWED = "transition_not_allowed", "The draft's state does not allow this."
    TOO_MANY_PENDING = "too_many_pending", "Too many drafts are waiting for people."
    TOO_MANY_PER_HOUR = "too_many_per_hour", "Too many drafts were asked within an hour."
    PAUSED_AFTER_DENIALS = "paused_after_denials", "Drafting is paused after repeated denials."

    # Policy
    POLICY_INVALID = "policy_invalid", "The policy file is not valid."
    POLICY_EXAMPLE_FAILS = "policy_example_fails", "A policy rule contradicts its own example."
    POLICY_EXPIRED = "policy_expired", "The policy has expired."
    POLICY_CHANGED = "policy_changed", "The policy changed while the draft was pending."
    PINS_CHANGED = "pins_changed", "The approver set changed while the draft was pending."
    TIER_RAISED = "tier_raised", "The policy now needs a higher tier than was approved."

    # Receipts and bundles
    RECEIPT_OTHER_GATE = "receipt_other_gate", "The receipt was not made by this gate."
    RECEIPT_OTHER_DRAFT = "receipt_other_draft", "The receipt is about another draft."
    RECEIPT_CHAIN_BROKEN = "receipt_chain_broken", "A receipt is missing or out of order."
    RECEIPT_OUTCOME_UNTRUE = (
        "receipt_outcome_untrue",
        "The receipt's outcome contradicts itself or its draft.",
    )
    RECEIPT_DECISIONS_DIFFER = (
        "receipt_decisions_differ",
        "The receipt lists other decisions than the ones at hand.",
    )
    HEAD_REGRESSED = "head_regressed", "The gate's receipt head went back."
    HEAD_FORKED = "head_forked", "Two different receipt heads share one sequence number."
    OUTPUT_CHAIN_BROKEN = "output_chain_broken", "Output chunks are missing or altered."
    PINS_UNTRUSTED = "pins_untrusted", "The bundle's approvers are not the ones you trust."

    # How a decision came
    NOT_ENCRYPTED = "not_encrypted", "An approval that was not encrypted counts for nothing."
    REACTION = "reaction", "A reaction binds nothing, so it cannot approve; use `countersign`."
    UNDECRYPTABLE = "undecryptable", "The event cannot be read, so it is not an approval."
    REPLAYED = "replayed", "The encrypted message was received before as another event."
    SENDER_MISMATCH = "sender_mismatch", "The event names another sender than its key's owner."
    WRONG_ROOM = "wrong_room", "The message was encrypted for another room."
    DEVICE_UNSIGNED = "device_unsigned", "The sending device is not signed by its owner."
    DEVICE_UNKNOWN = "device_unknown", "The sending device is not one its user has listed."
    DEVICE_LIST_STALE = (
        "device_list_stale",
        "The server does not say which devices are still valid; send the decision again.",
    )
    APPROVER_FROZEN = (
        "approver_frozen",
        "This approver's master key is not the pinned one; enroll again at the gate's console.",
    )
    EDITED = "edited", "An edited approval is a denial."
    REDACTED = "redacted", "A withdrawn approval is a denial."
    DRAFT_UNKNOWN = "draft_unknown", "There is no such draft on this gate."
    DRAFT_CLOSED = "draft_closed", "The draft is no longer pending."
    SYNC_GAP = "sync_gap", "The server did not deliver everything said in this room."

    # Why nothing is drafted or run
    APPROVALS_ROOM_NOT_PRIVATE = (
        "approvals_room_not_private",
        "Somebody who is not an approver is in the approvals room; nothing is posted there.",
    )
    SANDBOX_UNAVAILABLE = "sandbox_unavailable", "This machine cannot confine actions."
    RATE_LIMITED = "rate_limited", "Too many actions ran by themselves within an hour."
    STALE_REQUEST = "stale_request", "The request is older than it may wait."
    UNKNOWN_KIND = "unknown_kind", "This kind of action is not in the closed set."
    MALFORMED = "malformed", "The request is not as the contract says."
    TOO_LARGE = "too_large", "The request is too large."
    CANCELLED_BY_REQUESTER = "cancelled_by_requester", "The requester withdrew the request."
    GATE_RESTARTED = "gate_restarted", "The gate was restarted."
    INTERNAL = "internal", "The gate failed; its log says why."


class Refused(Exception):
    """Something was refused; `reason` is for programs, the text for people."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.sentence} ({self.detail})" if self.detail else self.reason.sentence
