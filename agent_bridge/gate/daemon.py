"""The gate: listens in two rooms, drafts what is asked, runs what is countersigned.

protocol: docs/cosign-protocol.md, section 10. Invariant: a batch is acknowledged only after all of
it was handled and what followed is on the disk; whatever a crash interrupts is closed at the next
start, never resumed.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from agent_bridge.core.refusals import Reason
from agent_bridge.gate.approvers import Approvers
from agent_bridge.gate.clock import Clock
from agent_bridge.gate.closing import Closing
from agent_bridge.gate.countersigning import Countersigning
from agent_bridge.gate.open_drafts import OpenDrafts
from agent_bridge.gate.outbox import Outbox, Rooms
from agent_bridge.gate.premises import Premises
from agent_bridge.gate.receipt_book import ReceiptBook
from agent_bridge.gate.refusal_reports import RefusalReports
from agent_bridge.gate.request_ledger import RequestLedger
from agent_bridge.gate.requests_desk import RequestsDesk
from agent_bridge.gate.running import Runner
from agent_bridge.gate.settings import Settings
from agent_bridge.gate.status_file import StatusFile
from agent_bridge.gate.store import Store
from agent_bridge.matrix import (
    AccessTokenRefused,
    DecryptedEvent,
    MatrixClient,
    MatrixFailure,
    PlaintextEvent,
    RoomUpdate,
    SyncBatch,
)
from homeserver.core.identifiers import UserID

logger = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_HEAD_INTERVAL_MS = 3_600_000
_SHUTDOWN_SECONDS = 15.0


@dataclass
class Gate:
    """Everything of a running gate. Made by `build_gate`."""

    settings: Settings
    client: MatrixClient
    rooms: Rooms
    store: Store
    clock: Clock
    outbox: Outbox
    ledger: RequestLedger
    approvers: Approvers
    drafts: OpenDrafts
    receipts: ReceiptBook
    premises: Premises
    requests: RequestsDesk
    runner: Runner
    closing: Closing
    countersigning: Countersigning
    reports: RefusalReports
    status: StatusFile
    last_head_ms: int = 0
    welcomed: tuple[UserID, ...] = ()
    """The approvers we follow and have invited."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gate has begun to listen."""

    async def start(self) -> None:
        """1. Close what the last process left open. 2. Say what was not said.

        3. Know the approvers. 4. Take in what came meanwhile. 5. Invite who belongs in.
        """
        now = self.clock()
        self.store.recover(now.wall_ms)  # 1
        self.closing.close_recovered(now)
        self.receipts.publish_all()  # 2
        self._publish_head(now.wall_ms)
        await self.approvers.follow()  # 3
        self._update_approvers()
        batch = await self.client.sync_once(0)  # 4
        await self.handle(batch)
        await self.client.acknowledge(batch)
        await self.invite_missing()  # 5
        self.welcomed = self.approvers.users
        self._write_status()

    async def run(self) -> None:
        """Start, then listen until cancelled."""
        await self._start_patiently()
        self.ready.set()
        loops = [
            asyncio.create_task(self._listen(), name="listen"),
            asyncio.create_task(self._deliver(), name="deliver"),
            asyncio.create_task(self._keep_time(), name="keep time"),
        ]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._stop_runs()

    def close(self) -> None:
        self.outbox.close()
        self.ledger.close()

    async def handle(self, batch: SyncBatch) -> None:
        """Take in a batch; the caller acknowledges it afterwards."""
        for problem in batch.problems:
            logger.warning("%s user=%s detail=%s", problem.kind, problem.user_id, problem.detail)
        self._update_approvers()
        if update := batch.rooms.get(self.rooms.requests):
            for event in update.events:
                if isinstance(event, PlaintextEvent):
                    self.requests.take(event)
        if update := batch.rooms.get(self.rooms.approvals):
            self._handle_approvals(update)
        for late in batch.late:
            if late.room_id == self.rooms.approvals:
                self.countersigning.hear(late, self.clock())
        for room_id in set(batch.left) & {self.rooms.approvals, self.rooms.requests}:
            logger.error("The gate is no longer in its room room=%s", room_id)

    def tick(self) -> None:
        """Let time pass: expiry, holds, changed enrollments, revocations, a head now and then."""
        now = self.clock()
        self._update_approvers()
        self.countersigning.pass_time(now)
        if now.wall_ms - self.last_head_ms >= _HEAD_INTERVAL_MS:
            self._publish_head(now.wall_ms)
        self._write_status()

    async def invite_missing(self) -> None:
        """Invite approvers and request senders who are not in their room."""
        for room_id, users in (
            (self.rooms.approvals, self.approvers.users),
            (self.rooms.requests, self.settings.senders),
        ):
            members = self.client.members(room_id)
            for user_id in users:
                if members.get(user_id) in ("join", "invite", "ban"):
                    continue
                try:
                    await self.client.invite(room_id, user_id)
                except MatrixFailure as error:
                    logger.warning("Cannot invite user=%s error=%r", user_id, error)

    async def _start_patiently(self) -> None:
        """A gate may start before its server does; what it closes, it closes at once."""
        while True:
            try:
                await self.start()
            except AccessTokenRefused:
                raise
            except MatrixFailure as error:
                logger.warning("Not started yet, trying again error=%r", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _listen(self) -> None:
        async for batch in self.client.sync_forever():
            await self.handle(batch)

    async def _deliver(self) -> None:
        while True:
            if await self.outbox.deliver():
                await self.outbox.filled.wait()
            else:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            self.tick()
            if self.welcomed != self.approvers.users:
                await self._welcome()

    async def _welcome(self) -> None:
        """Follow and invite who was enrolled at the console while we run."""
        users = self.approvers.users
        try:
            await self.approvers.follow()
        except MatrixFailure as error:
            logger.warning("Keys cannot be read error=%r", error)
            return
        await self.invite_missing()
        self.welcomed = users

    async def _stop_runs(self) -> None:
        """End what runs, so that its receipt says so instead of leaving it ambiguous."""
        for draft in self.drafts:
            draft.stopped_because = draft.stopped_because or "shutdown"
            draft.stop.set()
        try:
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                await self.runner.finish()
                await self.outbox.deliver()
        except TimeoutError:
            logger.warning("Not everything ended in time; the next start closes it")

    def _handle_approvals(self, update: RoomUpdate) -> None:
        if update.gap_unfilled and update.events:
            self.reports.report(update.events[0].event_id, Reason.SYNC_GAP)
        for event in update.events:
            own = event.sender == self.client.user_id
            if own and isinstance(event, DecryptedEvent):
                continue
            self.countersigning.hear(event, self.clock())

    def _update_approvers(self) -> None:
        now = self.clock()
        may_enroll = not any(draft.frozen.draft.need for draft in self.drafts)
        for user_id in self.approvers.update(now.wall_ms, may_enroll=may_enroll):
            self.reports.report(
                f"master-key:{user_id}:{now.wall_ms}", Reason.APPROVER_FROZEN, detail=user_id
            )
        self.countersigning.look_for_revocations(now)

    def _write_status(self) -> None:
        self.status.write(
            self.approvers.describe(), self.drafts.count_asking(), self.premises.list_problems()
        )

    def _publish_head(self, now_ms: int) -> None:
        self.last_head_ms = now_ms
        self.receipts.publish_head(self.settings.host, now_ms)
