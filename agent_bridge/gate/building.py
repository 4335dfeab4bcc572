"""A gate, constructed in dependency order from its settings, an open client and an open store.

Invariant: construction does no network I/O; `Gate.start` does.
"""

import asyncio
from dataclasses import dataclass

from agent_bridge.gate.approvers import Approvers
from agent_bridge.gate.clock import Clock, system_clock
from agent_bridge.gate.closing import Closing
from agent_bridge.gate.countersigning import Countersigning
from agent_bridge.gate.daemon import Gate
from agent_bridge.gate.drafting import Drafting
from agent_bridge.gate.executor import Executor
from agent_bridge.gate.freezing import make_workspace
from agent_bridge.gate.open_drafts import OpenDrafts
from agent_bridge.gate.outbox import Outbox, Rooms
from agent_bridge.gate.policy_source import PolicySource
from agent_bridge.gate.premises import Machine, Premises
from agent_bridge.gate.prompt_history import recall
from agent_bridge.gate.receipt_book import ReceiptBook
from agent_bridge.gate.refusal_reports import RefusalReports
from agent_bridge.gate.request_ledger import RequestLedger
from agent_bridge.gate.requests_desk import RequestsDesk
from agent_bridge.gate.running import Runner
from agent_bridge.gate.sandbox_probe import SandboxMissing, SandboxReady, probe_sandbox
from agent_bridge.gate.secrets_store import SecretStore
from agent_bridge.gate.settings import Settings
from agent_bridge.gate.state_directory import StateDirectory
from agent_bridge.gate.status_file import StatusFile
from agent_bridge.gate.store import Store
from agent_bridge.gate.verification import Verifier
from agent_bridge.matrix import MatrixClient


@dataclass(frozen=True)
class Surroundings:
    """What tests put in place of the machine's own."""

    clock: Clock = system_clock
    sandbox: SandboxReady | SandboxMissing | None = None
    """None: probe."""
    chunk_interval: float = 1.0


def build_gate(
    settings: Settings,
    client: MatrixClient,
    store: Store,
    rooms: Rooms,
    around: Surroundings | None = None,
) -> Gate:
    """Raises RequestRefused for an impossible workspace, StateUnusable, StateDamaged."""
    around = around or Surroundings()
    clock = around.clock
    state = StateDirectory(settings.state_directory)
    approvers = Approvers(state, client)
    outbox = Outbox(state.post, client, rooms, lambda: approvers.share_policy)
    ledger = RequestLedger(state.post, outbox)
    receipts = ReceiptBook(client, store, outbox)
    drafts = OpenDrafts()
    history = recall(store, clock().wall_ms)
    closing = Closing(store, receipts, ledger, drafts, history)
    policy = PolicySource(settings.policy, own_paths(settings))
    workspace = make_workspace(bytes(settings.workspace), [bytes(settings.state_directory)])
    sandbox = around.sandbox or probe_sandbox()
    machine = Machine(settings.host, workspace, SecretStore(state.secrets), sandbox)
    premises = Premises(client, rooms, machine, policy, approvers)
    executor = None
    if isinstance(sandbox, SandboxReady):
        executor = Executor(
            store, machine.secrets, sandbox, workspace, now_ms=lambda: clock().wall_ms
        )
    runner = Runner(
        executor,
        approvers,
        policy,
        outbox,
        ledger,
        closing,
        clock,
        asyncio.Semaphore(settings.running),
        around.chunk_interval,
    )
    drafting = Drafting(settings, premises, store, receipts, drafts, history)
    reports = RefusalReports(outbox, clock)
    verifier = Verifier(store, approvers, receipts, drafts)
    countersigning = Countersigning(verifier, runner, outbox, ledger, reports)
    requests = RequestsDesk(settings.senders, store, ledger, drafting, countersigning, clock)
    return Gate(
        settings=settings,
        client=client,
        rooms=rooms,
        store=store,
        clock=clock,
        outbox=outbox,
        ledger=ledger,
        approvers=approvers,
        drafts=drafts,
        receipts=receipts,
        premises=premises,
        requests=requests,
        runner=runner,
        closing=closing,
        countersigning=countersigning,
        reports=reports,
        status=StatusFile(state.status, sandbox),
    )


def own_paths(settings: Settings) -> tuple[bytes, ...]:
    """Return the gate's own files and folders, by their real paths."""
    paths = (settings.state_directory, settings.policy, settings.file)
    return tuple(sorted({bytes(path.resolve()) for path in paths}))
