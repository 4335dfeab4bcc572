"""What an event in the approvals room means before any signature is looked at.

protocol: docs/cosign-protocol.md, section 8. Invariant: only a decrypted `org.countersign.decision`
is ever taken for an approval; everything else can deny, be refused, or mean nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent_bridge.core.decision import (
    DECISION_EVENT,
    SignedDecision,
    Verdict,
    parse_decision,
    signed_of_content,
)
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.matrix import (
    DecryptedEvent,
    PlaintextEvent,
    TimelineEvent,
    UndecryptableEvent,
    UndecryptableReason,
)
from homeserver.core.json_types import JsonObject

_YES = ("approve", "\u2705", "\U0001f44d", "\u2714", "+1")
_NO = ("deny", "\u274c", "\U0001f44e", "\u2716", "-1")
_POLL_TYPES = ("m.poll.response", "org.matrix.msc3381.poll.response")
_UNDECRYPTABLE = {
    UndecryptableReason.REPLAYED: Reason.REPLAYED,
    UndecryptableReason.WRONG_ROOM: Reason.WRONG_ROOM,
    UndecryptableReason.SENDER_MISMATCH: Reason.SENDER_MISMATCH,
}


@dataclass(frozen=True)
class Cast:
    """A decision to verify."""

    event: DecryptedEvent
    signed: SignedDecision


@dataclass(frozen=True)
class PlainNo:
    """A denial without proof."""

    draft_id: str
    said: Reason | None = None
    """Why it is not more than that, when its author may have meant more."""


@dataclass(frozen=True)
class Refusal:
    reason: Reason
    draft_id: str | None = None
    detail: str = ""


Heard = Cast | PlainNo | Refusal | None


class Listener:
    """Tells events apart.

    find_draft            the draft a gate's own event is about
    find_decision_draft   the open draft that a counted decision's event is about
    """

    def __init__(
        self,
        find_draft: Callable[[str], str | None],
        find_decision_draft: Callable[[str], str | None],
    ) -> None:
        self._find_draft = find_draft
        self._find_decision_draft = find_decision_draft

    def hear(self, event: TimelineEvent) -> Heard:
        if isinstance(event, UndecryptableEvent):
            reason = _UNDECRYPTABLE.get(event.reason, Reason.UNDECRYPTABLE)
            return Refusal(reason, detail=event.detail)
        if (edited := _relation_target(event, "m.replace")) is not None:
            return self._hear_change(edited, event, Reason.EDITED)
        if isinstance(event, DecryptedEvent):
            return self._hear_decrypted(event)
        if event.type == "m.room.redaction":
            target = event.content.get("redacts") or event.raw.get("redacts")
            return self._hear_change(str(target), event, Reason.REDACTED)
        if event.type == DECISION_EVENT:
            return self._hear_plain_decision(event)
        if event.type == "m.reaction" or event.type in _POLL_TYPES:
            return self._hear_words(event, _reaction_key(event.content), Reason.REACTION)
        if event.type == "m.room.message":
            return self._hear_words(event, _body(event.content), Reason.NOT_ENCRYPTED)
        return None

    def _hear_decrypted(self, event: DecryptedEvent) -> Heard:
        if event.type == DECISION_EVENT:
            try:
                return Cast(event, signed_of_content(event.content))
            except Refused as error:
                return Refusal(error.reason, detail=error.detail)
        if event.type == "m.reaction" or event.type in _POLL_TYPES:
            return self._hear_words(event, _reaction_key(event.content), Reason.REACTION)
        if event.type == "m.room.message":
            return self._hear_words(event, _body(event.content), Reason.ASSURANCE_UNSUPPORTED)
        return None

    def _hear_words(
        self, event: DecryptedEvent | PlaintextEvent, words: str, refusal: Reason
    ) -> Heard:
        draft_id = self._draft_meant(event, words)
        if words.startswith(_NO):
            return None if draft_id is None else PlainNo(draft_id)
        if words.startswith(_YES) or event.type in _POLL_TYPES:
            return Refusal(refusal, draft_id)
        return None

    def _hear_plain_decision(self, event: PlaintextEvent) -> Heard:
        """A decision the server can have written; only its no is heard."""
        try:
            decision = parse_decision(signed_of_content(event.content).payload)
        except Refused:
            return Refusal(Reason.NOT_ENCRYPTED)
        if decision.verdict is Verdict.DENY:
            return PlainNo(decision.draft_id, Reason.NOT_ENCRYPTED)
        return Refusal(Reason.NOT_ENCRYPTED, decision.draft_id)

    def _hear_change(
        self, target: str, event: DecryptedEvent | PlaintextEvent, reason: Reason
    ) -> Heard:
        """An edit or redaction: of a decision or a draft it is a denial, else it may try to lie."""
        draft_id = self._find_decision_draft(target) or self._find_draft(target)
        if draft_id is not None:
            return PlainNo(draft_id, reason)
        new_content = event.content.get("m.new_content")
        text = _body(new_content) if isinstance(new_content, dict) else ""
        is_decision = event.type == DECISION_EVENT
        return Refusal(reason) if is_decision or text.startswith(_YES) else None

    def _draft_meant(self, event: DecryptedEvent | PlaintextEvent, words: str) -> str | None:
        for word in words.split():
            if word.startswith("d1:"):
                return word
        target = _relation_target(event)
        return None if target is None else self._find_draft(target)


def _relation_target(
    event: DecryptedEvent | PlaintextEvent, rel_type: str | None = None
) -> str | None:
    """Return the event related to; the ciphertext's word goes before the server's."""
    outer = event.cleartext_relation if isinstance(event, DecryptedEvent) else None
    for relation in (event.content.get("m.relates_to"), outer):
        if not isinstance(relation, dict):
            continue
        if rel_type is not None and relation.get("rel_type") != rel_type:
            continue
        reply = relation.get("m.in_reply_to")
        target = relation.get("event_id") or (
            reply.get("event_id") if isinstance(reply, dict) else None
        )
        if isinstance(target, str):
            return target
    return None


def _body(content: JsonObject) -> str:
    body = content.get("body")
    return body.strip().lower() if isinstance(body, str) else ""


def _reaction_key(content: JsonObject) -> str:
    relation = content.get("m.relates_to")
    key = relation.get("key") if isinstance(relation, dict) else None
    return key.strip().lower() if isinstance(key, str) else ""
