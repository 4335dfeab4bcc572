"""Runs an approved action: verify again, consume, launch confined, watch, report.

protocol: docs/cosign-protocol.md, section 9. Invariant: nothing is launched that is not consumed
first, and nothing consumed is launched twice. What runs are the sealed bytes that were compared
with the draft.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from agent_bridge.core.actions import program_of
from agent_bridge.core.pae import Digest
from agent_bridge.core.receipt import ChangedFile, Executed, Outcome
from agent_bridge.core.states import Event, State, next_state
from agent_bridge.gate.executor_changes import digest_tree, list_changes
from agent_bridge.gate.executor_commit import (
    Approved,
    Committed,
    Drift,
    check_draft,
    commit_files,
)
from agent_bridge.gate.executor_run import Ending, OutputRoute, run_committed
from agent_bridge.gate.freezing import Workspace
from agent_bridge.gate.freezing_files import PathRefused
from agent_bridge.gate.output import OutputCollector, OutputSink, OutputSummary
from agent_bridge.gate.sandbox_probe import SandboxReady
from agent_bridge.gate.sandbox_profiles import PROFILES, SandboxProfile, WorkspaceView
from agent_bridge.gate.sandbox_view import View, ViewRefused, make_view
from agent_bridge.gate.secrets_store import SecretStore
from agent_bridge.gate.store import Store


@dataclass(frozen=True)
class Execution:
    """What happened, for the receipt."""

    ending: Ending
    exit_code: int | None
    """128 + n also stands for signal n. None when the gate ended the run."""
    signal: int | None
    """The signal the gate ended the run with."""
    detail: str
    started_at: int | None
    """None: nothing of the action ran, though its draft is used up."""
    finished_at: int
    executed: Executed | None
    changed_files: tuple[ChangedFile, ...] | None
    """None: the workspace was writable and too large to compare."""
    output: OutputSummary
    process_count_enforced: bool

    @property
    def event(self) -> Event:
        """The transition this ending means for the draft."""
        if self.ending is Ending.STOPPED:
            return Event.DENIAL
        succeeded = self.ending is Ending.EXITED and self.exit_code == 0
        return Event.SUCCEEDED if succeeded else Event.FAILED

    @property
    def outcome(self) -> Outcome:
        """Say it in a receipt's words."""
        reason = f"{self.ending}: {self.detail}" if self.detail else self.ending.value
        return Outcome(
            state=next_state(State.RUNNING, self.event),
            exit_code=self.exit_code,
            signal=self.signal,
            started_at=self.started_at,
            finished_at=self.finished_at,
            reason="" if self.ending is Ending.EXITED else reason,
        )


class Executor:
    """The only thing that starts actions. It exists only where a sandbox does."""

    def __init__(
        self,
        store: Store,
        secrets: SecretStore,
        sandbox: SandboxReady,
        workspace: Workspace,
        *,
        now_ms: Callable[[], int],
        profiles: Mapping[str, SandboxProfile] = PROFILES,
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._sandbox = sandbox
        self._workspace = workspace
        self._now_ms = now_ms
        self._profiles = profiles

    def check(self, approved: Approved) -> None:
        """Do the commit check and nothing else. Raises Drift."""
        with ExitStack() as opened:
            self._commit(approved, opened)

    async def execute(
        self,
        approved: Approved,
        *,
        recheck: Callable[[], None],
        sink: OutputSink,
        stop: asyncio.Event,
        chunk_interval: float = 1.0,
    ) -> Execution:
        """Run an approved draft once.

        1. Open, hash, compare, seal. 2. `recheck`: policy, revocations, expiry; it raises to abort,
        and nothing is consumed. 3. Consume, durably. 4. Set the sandbox up and look at it from
        outside. 5. Release, stream, wait, kill what is left.

        stop   ends the run when set, at any time
        Raises Drift, AlreadyConsumed, and what `recheck` raises; after step 3 every failure is an
        Execution, except one of the gate itself, which leaves the draft to become ambiguous.
        """
        with ExitStack() as opened:
            committed, view = self._commit(approved, opened)
            before = await self._digest_workspace(committed.profile)
            recheck()
            started_at = self._now_ms()
            self._store.consume(approved.frozen.draft_id, started_at)
            collector = OutputCollector(approved.limits.output_bytes, committed.secrets)
            route = OutputRoute(collector, sink, chunk_interval)
            result = await run_committed(
                self._sandbox, view, approved, committed, route=route, stop=stop
            )
            finished_at = self._now_ms()
        after = await self._digest_workspace(committed.profile)
        changed: tuple[ChangedFile, ...] | None = ()
        if committed.profile.workspace is WorkspaceView.WRITE:
            changed = None if before is None or after is None else list_changes(before, after)
        return Execution(
            ending=result.ending,
            exit_code=result.exit_code,
            signal=result.signal,
            detail=result.detail,
            started_at=started_at if result.launched else None,
            finished_at=finished_at,
            executed=_executed(approved, committed.profile) if result.launched else None,
            changed_files=changed,
            output=collector.summarize(),
            process_count_enforced=result.process_count_enforced,
        )

    def _commit(self, approved: Approved, opened: ExitStack) -> tuple[Committed, View]:
        draft = approved.frozen.draft
        profile = self._profiles.get(draft.sandbox.name)
        check_draft(approved, profile, self._workspace)
        assert profile is not None  # checked just now
        cwd = draft.action.surroundings.cwd
        committed = commit_files(approved, profile, self._workspace, self._secrets, opened)
        try:
            view = make_view(profile, self._workspace, cwd, committed.files, opened)
        except PathRefused as error:
            raise Drift(error.path, error.detail) from None
        except ViewRefused as error:
            raise Drift(cwd, str(error)) from None
        return committed, view

    async def _digest_workspace(self, profile: SandboxProfile) -> Mapping[bytes, Digest] | None:
        if profile.workspace is not WorkspaceView.WRITE:
            return None
        return await asyncio.to_thread(digest_tree, self._workspace.root)


def _executed(approved: Approved, profile: SandboxProfile) -> Executed:
    action = approved.frozen.draft.action
    around = action.surroundings
    return Executed(program_of(action), around.cwd, around.inputs, profile.digest)
