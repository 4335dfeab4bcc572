"""Decisions on open drafts: heard, verified, recorded, counted, and what follows from them.

protocol: docs/cosign-protocol.md, sections 8 to 10. Invariant: a draft becomes approved only by its
quorum of recorded decisions; any denial ends it, whenever it comes.
"""

import logging

from agent_bridge.core.actions import Action, ExecAction
from agent_bridge.core.decision import PlainDenial, Verdict, VerifiedDecision, parse_decision
from agent_bridge.core.frozen_draft import DRAFT_EVENT, draft_content
from agent_bridge.core.quorum import Instant, Quorum, QuorumStatus, check_time
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.rendering import rendering_html
from agent_bridge.core.states import Event, State
from agent_bridge.core.visible_text import quote
from agent_bridge.gate.approvals_room import Cast, Listener, PlainNo, Refusal
from agent_bridge.gate.open_drafts import OpenDraft
from agent_bridge.gate.outbox import Outbox, Room
from agent_bridge.gate.refusal_reports import RefusalReports
from agent_bridge.gate.request_ledger import RequestEntry, RequestLedger
from agent_bridge.gate.running import Runner
from agent_bridge.gate.verification import Verifier
from agent_bridge.matrix import TimelineEvent

logger = logging.getLogger(__name__)

_DRAFT_KEY = "draft:"
_SUMMARY_CHARACTERS = 1000


class Countersigning:
    def __init__(
        self,
        verifier: Verifier,
        runner: Runner,
        outbox: Outbox,
        ledger: RequestLedger,
        reports: RefusalReports,
    ) -> None:
        self._store = verifier.store
        self._drafts = verifier.drafts
        self._verifier = verifier
        self._runner = runner
        self._outbox = outbox
        self._ledger = ledger
        self._reports = reports
        self._listener = Listener(self._find_draft_of_event, self._find_draft_of_decision)

    def put_before_people(self, draft: OpenDraft, now: Instant) -> None:
        """Post a new draft; one that needs nobody is approved at once."""
        content = draft_content(draft.frozen) | {
            "format": "org.matrix.custom.html",
            "formatted_body": rendering_html(draft.frozen.rendering),
        }
        self._outbox.put(f"{_DRAFT_KEY}{draft.draft_id}", Room.APPROVALS, DRAFT_EVENT, content)
        need, policy = draft.frozen.draft.need, draft.frozen.draft.policy
        self._ledger.say(
            draft.request_key,
            State.PENDING,
            draft_id=draft.draft_id,
            tier=policy.tier.name,
            summary=_summary(draft.frozen.draft.action),
            needed=0 if need is None else need.approvals,
            have=0,
            expires_ms=draft.frozen.draft.expires_at,
        )
        self._count(draft, now)

    def hear(self, event: TimelineEvent, now: Instant) -> None:
        """Take in one event of the approvals room, once."""
        kind = f"heard-{type(event).__name__}"  # an unreadable event may become readable later
        if not self._store.mark_seen(kind, event.event_id):
            return
        heard = self._listener.hear(event)
        if isinstance(heard, Cast):
            self._take(heard, now)
        elif isinstance(heard, PlainNo):
            self._take_plain_no(heard, event, now)
        elif isinstance(heard, Refusal):
            self._reports.report(
                event.event_id, heard.reason, draft_id=heard.draft_id, detail=heard.detail
            )

    def withdraw(self, entry: RequestEntry, requester: str, now: Instant) -> None:
        """The requester takes a request back; what already ended stays as it ended."""
        draft = self._drafts.find_by_request(entry.request_key)
        if draft is None or entry.requester != requester:
            return
        reason = Reason.CANCELLED_BY_REQUESTER.value
        if draft.state is State.RUNNING:
            self._stop(draft, reason)
            return
        self._runner.closing.close(draft, Event.WITHDRAWAL, now, reason=reason)

    def pass_time(self, now: Instant) -> None:
        """Expire, and count again what was only waiting for its hold time."""
        for draft in self._drafts:
            if draft.state is State.RUNNING:
                continue
            try:
                check_time(draft.frozen.draft, draft.opened, now)
            except Refused as error:
                self._runner.closing.close(draft, Event.EXPIRY, now, reason=error.reason)
                continue
            if draft.hold_until is not None and now.wall_ms >= draft.hold_until:
                self._count(draft, now)

    def look_for_revocations(self, now: Instant) -> None:
        """Stop what runs, and close what was approved, by a quorum that no longer stands."""
        for draft in self._drafts:
            if draft.state is State.PENDING or draft.stop.is_set():
                continue
            try:
                quorum = self._runner.count(draft, now)
                stands = quorum.status is QuorumStatus.APPROVED
            except Refused as error:
                stands = error.reason is Reason.PINS_CHANGED  # the last look's business
            if not stands:
                self._deny(draft, Reason.DEVICE_REVOKED, now)

    def _take(self, cast: Cast, now: Instant) -> None:
        """Verify, 9. record, 10. count."""
        try:
            draft, verified = self._verifier.verify(cast, now)
            self._verifier.record(cast, draft, verified)  # 9
        except Refused as error:
            self._refuse_cast(cast, error.reason, error.detail, now)
            return
        draft.decisions.append(verified)
        draft.decision_events.add(cast.event.event_id)
        self._log(draft, verified)
        if verified.decision.verdict is Verdict.DENY:
            self._deny(draft, Reason.DENIED, now)
        else:
            self._count(draft, now)  # 10

    def _refuse_cast(self, cast: Cast, reason: Reason, detail: str, now: Instant) -> None:
        """Say why a decision does not count; a no that proves nothing is still a no."""
        draft_id = None
        try:
            decision = parse_decision(cast.signed.payload)
            draft_id = decision.draft_id
            is_no = decision.verdict is Verdict.DENY
        except Refused:
            is_no = False
        self._reports.report(cast.event.event_id, reason, draft_id=draft_id, detail=detail)
        if is_no and draft_id is not None:
            self._take_plain_no(PlainNo(draft_id), cast.event, now)

    def _take_plain_no(self, no: PlainNo, event: TimelineEvent, now: Instant) -> None:
        """A denial without proof counts under the name of an approver."""
        if no.said is not None:
            self._reports.report(event.event_id, no.said, draft_id=no.draft_id)
        draft = self._drafts.find(no.draft_id)
        if draft is None or self._verifier.approvers.find(event.sender) is None:
            return
        draft.denials.append(PlainDenial(event.sender, now.wall_ms))
        self._deny(draft, Reason.DENIED, now)

    def _deny(self, draft: OpenDraft, reason: Reason, now: Instant) -> None:
        if draft.state is State.RUNNING:
            self._stop(draft, reason)
        else:
            self._runner.closing.close(draft, Event.DENIAL, now, reason=reason)

    def _stop(self, draft: OpenDraft, reason: str) -> None:
        draft.stopped_because = draft.stopped_because or reason
        draft.stop.set()

    def _count(self, draft: OpenDraft, now: Instant) -> None:
        try:
            quorum = self._runner.count(draft, now)
        except Refused as error:
            logger.warning("Draft cannot go on draft=%s reason=%s", draft.draft_id, error.reason)
            self._runner.closing.close(
                draft, Event.DRIFT_FOUND, now, reason=error.reason, detail=error.detail
            )
            return
        draft.hold_until = None if quorum.missing else quorum.hold_until
        if quorum.status is QuorumStatus.APPROVED:
            self._approve(draft, quorum, now)
        elif draft.decisions:
            self._ledger.say(draft.request_key, State.PENDING, have=len(quorum.counted))

    def _approve(self, draft: OpenDraft, quorum: Quorum, now: Instant) -> None:
        draft.state = self._store.move_draft(draft.draft_id, Event.QUORUM_MET, now.wall_ms)
        if draft.frozen.draft.need is not None:
            self._runner.closing.history.note_approval()
        self._ledger.say(draft.request_key, State.APPROVED, have=len(quorum.counted))
        self._runner.launch(draft)

    def _find_draft_of_event(self, event_id: str) -> str | None:
        key = self._outbox.find_key(event_id)
        if key is None or not key.startswith(_DRAFT_KEY):
            return None
        return key.removeprefix(_DRAFT_KEY)

    def _find_draft_of_decision(self, event_id: str) -> str | None:
        draft = self._drafts.find_by_decision_event(event_id)
        return None if draft is None else draft.draft_id

    def _log(self, draft: OpenDraft, verified: VerifiedDecision) -> None:
        decision = verified.decision
        logger.info(
            "Decision recorded draft=%s verdict=%s user=%s device=%s",
            draft.draft_id,
            decision.verdict,
            decision.user_id,
            decision.device_id,
        )


def _summary(action: Action) -> str:
    """Say on one line what would run; the draft shows it whole."""
    if isinstance(action, ExecAction):
        return " ".join(map(quote, action.argv))[:_SUMMARY_CHARACTERS]
    first_line = action.script.partition(b"\n")[0]
    words = (action.interpreter.path, *action.arguments)
    text = f"{' '.join(map(quote, words))} on {len(action.script)} bytes: {quote(first_line)}"
    return text[:_SUMMARY_CHARACTERS]
