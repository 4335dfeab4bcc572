"""Requests answered: each gets a draft or a reason, once.

Contract: a request is known by its sender and id, edits are ignored, and the requester may withdraw
it. Invariant: whatever a sender sends, it gets at most one draft for each request id.
"""

import logging
from collections.abc import Collection

from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.gate.clock import Clock
from agent_bridge.gate.countersigning import Countersigning
from agent_bridge.gate.drafting import Drafting
from agent_bridge.gate.freezing import RequestRefused
from agent_bridge.gate.request_ledger import Arrival, RequestLedger
from agent_bridge.gate.requests_room import (
    CANCEL_EVENT,
    REQUEST_EVENT,
    find_request_id,
    parse_wish,
)
from agent_bridge.gate.store import Store
from agent_bridge.matrix import PlaintextEvent
from homeserver.core.identifiers import UserID

logger = logging.getLogger(__name__)

_WORDS = {
    Reason.TOO_MANY_PER_HOUR: "rate_limited",
    Reason.PAUSED_AFTER_DENIALS: "paused",
    Reason.TIER_DENIED: "policy_denied",
    Reason.RENDERING_TOO_LARGE: "cannot_be_shown",
    Reason.PAYLOAD_TOO_LARGE: "cannot_be_shown",
    Reason.ACTION_UNKNOWN: "unknown_kind",
}
"""The words of the request contract for what the protocol calls otherwise."""


class RequestsDesk:
    def __init__(
        self,
        senders: Collection[UserID],
        store: Store,
        ledger: RequestLedger,
        drafting: Drafting,
        countersigning: Countersigning,
        clock: Clock,
    ) -> None:
        self._senders = senders
        self._store = store
        self._ledger = ledger
        self._drafting = drafting
        self._countersigning = countersigning
        self._clock = clock

    def take(self, event: PlaintextEvent) -> None:
        """Take in one event of the requests room."""
        if event.type not in (REQUEST_EVENT, CANCEL_EVENT) or _is_edit(event):
            return
        request_id = find_request_id(event.content)
        if event.sender not in self._senders or request_id is None:
            logger.warning("Request not heard sender=%s event=%s", event.sender, event.event_id)
        elif event.type == CANCEL_EVENT:
            self._withdraw(event, request_id)
        else:
            self._answer(event, request_id)

    def _withdraw(self, event: PlaintextEvent, request_id: str) -> None:
        entry = self._ledger.find(f"{event.sender} {request_id}")
        if entry is not None:
            requester = str(event.content.get("requester"))
            self._countersigning.withdraw(entry, requester, self._clock())

    def _answer(self, event: PlaintextEvent, request_id: str) -> None:
        arrival, entry = self._ledger.note(event.sender, request_id, event.event_id, event.content)
        if arrival is Arrival.OTHER:
            logger.warning("Another request under a known id sender=%s", event.sender)
            return
        is_new_event = self._store.mark_seen("request", event.event_id)
        if arrival is Arrival.KNOWN:
            if is_new_event:  # asked again, not only delivered again
                self._ledger.repeat(entry.request_key)
            return
        now = self._clock()
        try:
            wish = parse_wish(event.content)
            draft = self._drafting.draft(wish, event.sender, entry.request_key, now)
        except RequestRefused as error:
            self._refuse(event, entry.request_key, error.code, str(error))
        except Refused as error:
            self._refuse(
                event, entry.request_key, _WORDS.get(error.reason, error.reason), str(error)
            )
        else:
            self._countersigning.put_before_people(draft, now)

    def _refuse(self, event: PlaintextEvent, request_key: str, code: str, sentence: str) -> None:
        logger.info("Request refused event=%s reason=%s: %s", event.event_id, code, sentence)
        self._ledger.say(request_key, "refused", reason_code=code, summary=sentence[:1000])


def _is_edit(event: PlaintextEvent) -> bool:
    relation = event.content.get("m.relates_to")
    return isinstance(relation, dict) and relation.get("rel_type") == "m.replace"
