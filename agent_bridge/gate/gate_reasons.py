"""Why the gate refuses what core never sees: how an event came, not what it says.

protocol: docs/cosign-protocol.md, section 12. Invariant: like core's codes, these are never renamed
or reused.
"""

from enum import StrEnum
from typing import Self

from agent_bridge.core.refusals import Reason


class GateReason(StrEnum):
    """A stable machine code; `sentence` says it to a person."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

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
    ROOM_NOT_PRIVATE = (
        "approvals_room_not_private",
        "Somebody who is not an approver is in the approvals room; nothing is posted there.",
    )
    SANDBOX_UNAVAILABLE = "sandbox_unavailable", "This machine cannot confine actions."
    RATE_LIMITED = "rate_limited", "Too many actions ran by themselves within an hour."
    STALE_REQUEST = "stale_request", "The request is older than it may wait."
    UNKNOWN_KIND = "unknown_kind", "This kind of action is not in the closed set."
    MALFORMED = "malformed", "The request is not as the contract says."
    TOO_LARGE = "too_large", "The request is too large."
    CANCELLED = "cancelled_by_requester", "The requester withdrew the request."
    GATE_RESTARTED = "gate_restarted", "The gate was restarted."
    INTERNAL = "internal", "The gate failed; its log says why."


AnyReason = Reason | GateReason


class Declined(Exception):
    """Something is refused for a reason of the gate's own."""

    def __init__(self, reason: GateReason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.sentence} ({self.detail})" if self.detail else self.reason.sentence


REQUEST_WORDS = {
    Reason.TOO_MANY_PENDING: "too_many_pending",
    Reason.TOO_MANY_PER_HOUR: "rate_limited",
    Reason.PAUSED_AFTER_DENIALS: "paused",
    Reason.TIER_DENIED: "policy_denied",
    Reason.RENDERING_TOO_LARGE: "cannot_be_shown",
    Reason.PAYLOAD_TOO_LARGE: "cannot_be_shown",
    Reason.ACTION_UNKNOWN: "unknown_kind",
}
"""The words of the request contract for what core calls otherwise; all others go as they are."""


def request_word(reason: Reason) -> str:
    return REQUEST_WORDS.get(reason, reason.value)
