"""Everything refused is said: to the approvers, and in the log.

protocol: docs/cosign-protocol.md, section 12. Invariant: a flood of refusable events costs the room
a bounded number of reports; the log says how many more there were.
"""

import logging
from collections import deque

from agent_bridge.core.refusals import Reason
from agent_bridge.gate.clock import Clock
from agent_bridge.gate.outbox import Outbox, Room

logger = logging.getLogger(__name__)

REFUSAL_EVENT = "org.countersign.refusal"

_PER_MINUTE = 20
_MINUTE_MS = 60_000


class RefusalReports:
    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock
        self._reported: deque[int] = deque()

    def report(
        self, event_id: str, reason: Reason, *, draft_id: str | None = None, detail: str = ""
    ) -> None:
        logger.warning(
            "Refused reason=%s event=%s draft=%s detail=%s", reason, event_id, draft_id, detail
        )
        now = self._clock().monotonic_ms
        while self._reported and now - self._reported[0] >= _MINUTE_MS:
            self._reported.popleft()
        if len(self._reported) >= _PER_MINUTE:
            logger.warning("Not reported in the room: over %d a minute", _PER_MINUTE)
            return
        self._reported.append(now)
        content = {"event_id": event_id, "reason_code": reason.value, "sentence": reason.sentence}
        if draft_id is not None:
            content["draft_id"] = draft_id
        if detail:
            content["detail"] = detail[:300]
        self._outbox.put(f"refusal:{event_id}:{reason}", Room.APPROVALS, REFUSAL_EVENT, {**content})
