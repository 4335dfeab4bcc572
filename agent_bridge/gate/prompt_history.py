"""How often people were asked lately and what they answered, for the limits on asking.

protocol: docs/cosign-protocol.md, section 7. Invariant: a restart forgets nothing of it.
"""

from dataclasses import dataclass, field

from agent_bridge.core.frozen_draft import parse_draft
from agent_bridge.core.prompt_budget import PromptLimits, check_prompt_budget
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.states import State
from agent_bridge.gate.store import Store

_HOUR_MS = 3_600_000
_AGREED = (State.APPROVED, State.RUNNING, State.DONE, State.FAILED, State.DRIFT)


@dataclass
class PromptHistory:
    asked_at: list[int] = field(default_factory=list)
    automatic_at: list[int] = field(default_factory=list)
    denied_at: list[int] = field(default_factory=list)
    """The unbroken row of latest denials."""
    latest_ms: int = 0
    """The latest wall time the gate has acted at; a clock before it went back."""

    def note_draft(self, now_ms: int, *, automatic: bool) -> None:
        times = self.automatic_at if automatic else self.asked_at
        times.append(now_ms)
        self.latest_ms = max(self.latest_ms, now_ms)
        times[:] = [moment for moment in times if now_ms - moment < _HOUR_MS]

    def note_denial(self, now_ms: int) -> None:
        self.denied_at.append(now_ms)

    def note_approval(self) -> None:
        self.denied_at.clear()

    def check_asking(self, limits: PromptLimits, pending: int, now_ms: int) -> None:
        """Raises Refused."""
        check_prompt_budget(
            limits,
            pending=pending,
            asked_at=self.asked_at,
            denied_at=self.denied_at,
            now_ms=now_ms,
        )

    def check_automatic(self, per_hour: int, now_ms: int) -> None:
        """Raises Refused."""
        if sum(now_ms - moment < _HOUR_MS for moment in self.automatic_at) >= per_hour:
            raise Refused(Reason.RATE_LIMITED, f"at most {per_hour}")


def recall(store: Store, now_ms: int) -> PromptHistory:
    """Rebuild the history from the store."""
    history = PromptHistory()
    for stored in sorted(store.list_drafts(*State), key=lambda one: one.changed_at):
        history.latest_ms = max(history.latest_ms, stored.changed_at)
        if now_ms - stored.created_at < _HOUR_MS:
            automatic = parse_draft(stored.payload).draft.need is None
            history.note_draft(stored.created_at, automatic=automatic)
        if stored.state is State.DENIED:
            history.note_denial(stored.changed_at)
        elif stored.state in _AGREED:
            history.note_approval()
    return history
