"""From quorum to receipt: look again, run, tell what comes out, write down how it ended.

protocol: docs/cosign-protocol.md, section 10. Invariant: right before the one use is consumed,
policy, approvers, revocations, quorum and both clocks are checked once more, as they are then.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from agent_bridge.core.base64_text import encode_base64url
from agent_bridge.core.output_chain import OUTPUT_EVENT, append_chunk
from agent_bridge.core.policy import check_still_allowed
from agent_bridge.core.quorum import Instant, Quorum, QuorumStatus, check_time, evaluate_quorum
from agent_bridge.core.refusals import Reason, Refused
from agent_bridge.core.states import Event, State
from agent_bridge.gate.approvers import Approvers
from agent_bridge.gate.clock import Clock
from agent_bridge.gate.closing import Closing
from agent_bridge.gate.executor import Execution, Executor
from agent_bridge.gate.executor_commit import Approved, Drift
from agent_bridge.gate.open_drafts import OpenDraft
from agent_bridge.gate.outbox import Outbox, Room
from agent_bridge.gate.output import OutputChunk
from agent_bridge.gate.policy_source import PolicySource
from agent_bridge.gate.request_ledger import RequestLedger
from agent_bridge.matrix import MatrixFailure

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0
_TAIL_BYTES = 8 << 10
_EVENTS = {
    Reason.EXPIRED: Event.EXPIRY,
    Reason.CLOCK_REGRESSED: Event.EXPIRY,
    Reason.DENIED: Event.DENIAL,
    Reason.QUORUM_INCOMPLETE: Event.DENIAL,
    Reason.APPROVERS_TOO_FEW: Event.DENIAL,
}
"""How a refusal at the last look ends the draft; whatever is not named here is drift."""


@dataclass
class Runner:
    executor: Executor | None
    approvers: Approvers
    policy: PolicySource
    outbox: Outbox
    ledger: RequestLedger
    closing: Closing
    clock: Clock
    slots: asyncio.Semaphore
    chunk_interval: float = 1.0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def launch(self, draft: OpenDraft) -> None:
        """Start a run that owns itself: whatever happens in it ends in a receipt and the log."""
        task = asyncio.create_task(self._run(draft), name=f"run {draft.draft_id}")
        self.tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("No receipt could be written run=%s", task.get_name(), exc_info=error)

    async def finish(self) -> None:
        """Wait until nothing runs."""
        while self.tasks:
            await asyncio.gather(*self.tasks)

    def count(self, draft: OpenDraft, now: Instant) -> Quorum:
        """Count a draft's decisions by today's approvers and revocations. Raises Refused."""
        return evaluate_quorum(
            draft.frozen,
            draft.decisions,
            draft.denials,
            self.approvers.pins(),
            self.approvers.revoked_keys(),
            now_ms=now.wall_ms,
        )

    async def _run(self, draft: OpenDraft) -> None:
        """Wait for a slot, execute, write the receipt."""
        try:
            async with self.slots:
                execution = await self._execute(draft)
        except Drift as drift:
            self._close(draft, Event.DRIFT_FOUND, "drift", str(drift))
        except Refused as error:
            event = _EVENTS.get(error.reason, Event.DRIFT_FOUND)
            self._close(draft, event, error.reason, error.detail)
        except Exception:
            logger.exception("A run failed in the gate itself draft=%s", draft.draft_id)
            event = Event.LOST if draft.state is State.RUNNING else Event.DRIFT_FOUND
            self._close(draft, event, Reason.INTERNAL)
        else:
            self.closing.close_run(draft, execution, self.clock())

    async def _execute(self, draft: OpenDraft) -> Execution:
        await self._follow_approvers(draft)
        approved = Approved(draft.frozen, draft.action, self.count(draft, self.clock()).limits)
        assert self.executor is not None  # without a sandbox nothing is drafted
        return await self.executor.execute(
            approved,
            recheck=lambda: self._look_again(draft),
            sink=lambda chunk: self._tell(draft, chunk),
            stop=draft.stop,
            chunk_interval=self.chunk_interval,
        )

    def _close(self, draft: OpenDraft, event: Event, reason: str, detail: str = "") -> None:
        if draft.state not in (State.APPROVED, State.RUNNING):
            return  # it ended while it waited
        self.closing.close(draft, event, self.clock(), reason=reason, detail=detail)

    async def _follow_approvers(self, draft: OpenDraft) -> None:
        """Read the revocations again; while the server does not answer, wait and do not run."""
        if draft.frozen.draft.need is None:
            return
        while True:
            check_time(draft.frozen.draft, draft.opened, self.clock())
            try:
                await self.approvers.follow()
            except MatrixFailure as error:
                logger.warning("Revocations cannot be read, not running yet error=%r", error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self.approvers.update(self.clock().wall_ms, may_enroll=False)
            return

    def _look_again(self, draft: OpenDraft) -> None:
        """The last look before the one use. Raises Refused."""
        now = self.clock()
        if draft.state is not State.APPROVED or draft.stop.is_set():
            raise Refused(Reason.DENIED, draft.stopped_because)
        self.approvers.update(now.wall_ms, may_enroll=False)
        policy, _ = self.policy.load()
        check_still_allowed(policy, draft.frozen, self.approvers.pins(), now.wall_ms)
        quorum = self.count(draft, now)
        if quorum.status is QuorumStatus.DENIED:
            raise Refused(Reason.DENIED)
        if quorum.status is not QuorumStatus.APPROVED:
            raise Refused(Reason.QUORUM_INCOMPLETE, f"{quorum.missing} missing")
        check_time(draft.frozen.draft, draft.opened, now)
        draft.state = State.RUNNING
        self.ledger.say(draft.request_key, State.RUNNING)

    async def _tell(self, draft: OpenDraft, chunk: OutputChunk) -> None:
        index = draft.tip.count
        payload, draft.tip = append_chunk(draft.tip, chunk.stream, chunk.data, chunk.redacted)
        self.outbox.put(
            f"output:{draft.draft_id}:{index}",
            Room.APPROVALS,
            OUTPUT_EVENT,
            {"draft_id": draft.draft_id, "payload": encode_base64url(payload)},
            thread=f"draft:{draft.draft_id}",
        )
        draft.tail = (draft.tail + chunk.data)[-_TAIL_BYTES:]
        tail = draft.tail.decode(errors="ignore")
        self.ledger.say(draft.request_key, State.RUNNING, output_tail=tail)
