"""How a draft ends: receipt first, then the word to the requester, then it is no longer open.

protocol: docs/cosign-protocol.md, sections 10 and 11. Invariant: no draft ends without a receipt,
and no status tells of an end that has none.
"""

import logging
import unicodedata
from dataclasses import dataclass, replace

from agent_bridge.core.decision import parse_decision
from agent_bridge.core.frozen_draft import parse_draft
from agent_bridge.core.output_chain import empty_chain
from agent_bridge.core.quorum import Instant
from agent_bridge.core.receipt import DecisionRef, Outcome, parse_receipt
from agent_bridge.core.refusals import Reason
from agent_bridge.core.states import TERMINAL, Event, State, next_state
from agent_bridge.core.tiers import Assurance
from agent_bridge.core.visible_text import escape
from agent_bridge.gate.executor import Execution
from agent_bridge.gate.executor_run import Ending as RunEnding
from agent_bridge.gate.open_drafts import OpenDraft, OpenDrafts
from agent_bridge.gate.prompt_history import PromptHistory
from agent_bridge.gate.receipt_book import Ending, ReceiptBook
from agent_bridge.gate.request_ledger import RequestLedger
from agent_bridge.gate.store import Store, StoredDraft

logger = logging.getLogger(__name__)

_DETAIL_CHARACTERS = 300
_QUOTING = "\u2039\u203a\u00ab\u00bb"
"""What `visible_text.quote` writes around foreign text and escapes."""


@dataclass(frozen=True)
class Closing:
    store: Store
    receipts: ReceiptBook
    ledger: RequestLedger
    drafts: OpenDrafts
    history: PromptHistory

    def close(
        self,
        draft: OpenDraft,
        event: Event,
        now: Instant,
        *,
        reason: str,
        detail: str = "",
    ) -> None:
        """End a draft that never ran, or whose run is lost; `reason` is a code."""
        state = next_state(draft.state, event)
        code = str(reason)  # an enumeration member is not what goes into a receipt
        text = code if not detail else f"{code}: {_plain(detail)}"
        outcome = Outcome(state, None, None, None, now.wall_ms, text)
        receipt_id = self.receipts.write(
            draft.frozen, Ending(event, outcome, draft.refs, draft.tip), now.wall_ms
        )
        if state is State.DENIED:
            self.history.note_denial(now.wall_ms)
        self._leave(draft, state)
        self.ledger.say(draft.request_key, state, reason_code=code, receipt_digest=receipt_id)

    def close_run(self, draft: OpenDraft, execution: Execution, now: Instant) -> None:
        """End a draft that ran."""
        outcome = execution.outcome
        code = "" if execution.ending is RunEnding.EXITED else execution.ending.value
        if execution.ending is RunEnding.STOPPED:
            code = str(draft.stopped_because) or code
            outcome = replace(outcome, reason=code)
        outcome = replace(outcome, reason=_plain(outcome.reason))
        signal = outcome.signal
        state = outcome.state
        receipt_id = self.receipts.write(
            draft.frozen,
            Ending(
                execution.event,
                outcome,
                draft.refs,
                draft.tip,
                execution.executed,
                execution.changed_files,
            ),
            now.wall_ms,
        )
        self._leave(draft, state)
        self.ledger.say(
            draft.request_key,
            state,
            exit_code=execution.exit_code if signal is None else -signal,
            output_tail=execution.output.tail.decode(errors="replace"),
            output_truncated=execution.output.truncated,
            receipt_digest=receipt_id,
            reason_code=code or None,
        )

    def close_recovered(self, now: Instant) -> None:
        """Write the receipts that are missing: of the drafts a restart closed."""
        told = {parse_receipt(one.payload).draft_id for one in self.store.list_receipts()}
        for stored in self.store.list_drafts(*TERMINAL):
            if stored.draft_id not in told:
                self._close_recovered(stored, now)

    def _close_recovered(self, stored: StoredDraft, now: Instant) -> None:
        frozen = parse_draft(stored.payload)
        decisions = []
        for one in self.store.list_decisions(stored.draft_id):
            decision = parse_decision(one.payload)
            decisions.append(
                DecisionRef(
                    one.decision_id,
                    decision.user_id,
                    decision.verdict,
                    one.received_at,
                    Assurance.A,
                )
            )
        reason = Reason.GATE_RESTARTED.value
        outcome = Outcome(stored.state, None, None, None, now.wall_ms, reason)
        ending = Ending(None, outcome, tuple(decisions), empty_chain(stored.draft_id))
        receipt_id = self.receipts.write(frozen, ending, now.wall_ms)
        self.ledger.say(
            stored.request_key, stored.state, reason_code=reason, receipt_digest=receipt_id
        )

    def _leave(self, draft: OpenDraft, state: State) -> None:
        draft.state = state
        self.drafts.discard(draft)
        logger.info("Draft ended draft=%s state=%s", draft.draft_id, state)


def _plain(detail: str) -> str:
    """Foreign bytes made visible; what was quoted already stays as it is."""
    tokens = zip(detail, escape(detail.encode(errors="surrogateescape")), strict=True)
    text = "".join(plain if plain in _QUOTING else visible for plain, visible in tokens)
    return unicodedata.normalize("NFC", text)[:_DETAIL_CHARACTERS]
