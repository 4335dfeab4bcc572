"""The drafts that wait or run, in memory: what a restart closes anyway.

protocol: docs/cosign-protocol.md, sections 9 and 10. Invariant: a draft is in here exactly while
the store has it in a state that is not terminal.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent_bridge.core.decision import PlainDenial, Verdict, VerifiedDecision
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.output_chain import ChainTip, empty_chain
from agent_bridge.core.pae import DraftID
from agent_bridge.core.quorum import Instant
from agent_bridge.core.receipt import DecisionRef, ref_of
from agent_bridge.core.states import State
from agent_bridge.core.tiers import Assurance
from agent_bridge.gate.freezing import FrozenAction


@dataclass
class OpenDraft:
    frozen: FrozenDraft
    action: FrozenAction
    opened: Instant
    """When it was frozen, on both clocks."""
    request_key: str
    state: State = State.PENDING
    decisions: list[VerifiedDecision] = field(default_factory=list)
    decision_events: set[str] = field(default_factory=set)
    denials: list[PlainDenial] = field(default_factory=list)
    hold_until: int | None = None
    """The wall time before which a met quorum may not run yet."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the run."""
    stopped_because: str = ""
    tail: bytes = b""
    """The last of the output so far."""
    tip: ChainTip = field(init=False)

    def __post_init__(self) -> None:
        self.tip = empty_chain(self.frozen.draft_id)

    @property
    def draft_id(self) -> DraftID:
        return self.frozen.draft_id

    @property
    def refs(self) -> tuple[DecisionRef, ...]:
        """What the receipt says was decided."""
        signed = [ref_of(verified) for verified in self.decisions]
        plain = [
            DecisionRef(None, denial.user_id, Verdict.DENY, denial.received_at, Assurance.ZERO)
            for denial in self.denials
        ]
        return (*signed, *plain)


class OpenDrafts:
    def __init__(self) -> None:
        self._drafts: dict[str, OpenDraft] = {}

    def __iter__(self) -> Iterator[OpenDraft]:
        return iter(list(self._drafts.values()))

    def add(self, draft: OpenDraft) -> None:
        self._drafts[draft.draft_id] = draft

    def discard(self, draft: OpenDraft) -> None:
        self._drafts.pop(draft.draft_id, None)

    def find(self, draft_id: str) -> OpenDraft | None:
        return self._drafts.get(draft_id)

    def find_by_request(self, request_key: str) -> OpenDraft | None:
        return next((draft for draft in self if draft.request_key == request_key), None)

    def find_by_decision_event(self, event_id: str) -> OpenDraft | None:
        return next((draft for draft in self if event_id in draft.decision_events), None)

    def count_asking(self) -> int:
        """Count the drafts people are being asked about."""
        return sum(
            draft.state is State.PENDING and draft.frozen.draft.need is not None for draft in self
        )
