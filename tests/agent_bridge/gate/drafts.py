"""A small gate's worth of drafts for the tests: real freezing, real files, a fixed clock."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from agent_bridge.core.draft import (
    AgentContext,
    Draft,
    GateIdentity,
    Limits,
    PolicyRef,
)
from agent_bridge.core.ed25519 import PublicKey
from agent_bridge.core.frozen_draft import FrozenDraft, freeze_draft
from agent_bridge.core.output_chain import empty_chain
from agent_bridge.core.pae import digest_of
from agent_bridge.core.receipt import Receipt, SignedReceipt, encode_receipt
from agent_bridge.core.states import Event
from agent_bridge.core.tiers import Tier
from agent_bridge.gate.executor import Execution, Executor
from agent_bridge.gate.executor_commit import Approved
from agent_bridge.gate.freezing import (
    ExecRequest,
    FrozenAction,
    ScriptRequest,
    Workspace,
    freeze_action,
    make_workspace,
)
from agent_bridge.gate.output import OutputChunk
from agent_bridge.gate.sandbox_probe import SandboxReady, probe_sandbox
from agent_bridge.gate.sandbox_profiles import PROFILES, SandboxProfile, sandbox_of
from agent_bridge.gate.secrets_store import SecretStore
from agent_bridge.gate.store import Store, create_store

NOW = 1_790_000_000_000
LIMITS = Limits(20_000, 100_000)
GATE_KEY = PublicKey(
    bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
)


@cache
def ready_sandbox() -> SandboxReady:
    found = probe_sandbox()
    assert isinstance(found, SandboxReady), found
    return found


def make_draft(
    action: FrozenAction,
    profile: SandboxProfile,
    workspace: Workspace,
    sequence: int,
    limits: Limits,
) -> FrozenDraft:
    return freeze_draft(
        Draft(
            gate=GateIdentity("@gate:example.org", GATE_KEY, "laptop"),
            room_id="!room:example.org",
            sequence=sequence,
            nonce=sequence.to_bytes(16, "big"),
            issued_at=NOW,
            expires_at=NOW + 600_000,
            supersedes=None,
            previous_receipt=None,
            agent=AgentContext("bot", "@bot:example.org", "s1", 1),
            policy=PolicyRef(digest_of(b"policy"), 1, "reads", Tier.T0),
            need=None,
            pins=digest_of(b"pins"),
            action=action.action,
            sandbox=sandbox_of(profile, workspace),
            limits=limits,
        )
    )


@dataclass
class Gate:
    """A store, a workspace and an executor over them."""

    store: Store
    root: Path
    workspace: Workspace
    executor: Executor
    sandbox: SandboxReady
    chunks: list[OutputChunk] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    secrets: SecretStore = field(default_factory=lambda: SecretStore(Path("/nonexistent")))
    profiles: dict[str, SandboxProfile] = field(default_factory=lambda: dict(PROFILES))

    def approve(
        self,
        request: ExecRequest | ScriptRequest,
        profile: str = "read",
        limits: Limits = LIMITS,
    ) -> Approved:
        """Freeze, draft, store and approve a request, as if the quorum had been met."""
        action = freeze_action(request, self.workspace, secret_names=self.secrets.names())
        frozen = make_draft(
            action, self.profiles[profile], self.workspace, self.store.next_sequence(), limits
        )
        self.store.insert_draft(frozen, f"request-{frozen.draft.sequence}", NOW)
        self.store.move_draft(frozen.draft_id, Event.QUORUM_MET, NOW)
        return Approved(frozen, action, limits)

    async def deliver(self, chunk: OutputChunk) -> None:
        self.chunks.append(chunk)

    async def execute(
        self, approved: Approved, recheck: Callable[[], None] = lambda: None
    ) -> Execution:
        return await self.executor.execute(
            approved, recheck=recheck, sink=self.deliver, stop=self.stop, chunk_interval=0
        )

    def run(self, approved: Approved) -> Execution:
        self.stop = asyncio.Event()
        return asyncio.run(self.execute(approved))

    def rebuild(self) -> None:
        """Build the executor anew, as a restarted gate with other profiles would."""
        self.executor = Executor(
            self.store,
            self.secrets,
            self.sandbox,
            self.workspace,
            now_ms=lambda: NOW,
            profiles=self.profiles,
        )

    @property
    def output(self) -> str:
        return b"".join(chunk.data for chunk in self.chunks).decode()

    def script(
        self,
        text: str,
        profile: str = "read",
        interpreter: bytes = b"sh",
        limits: Limits = LIMITS,
    ) -> Execution:
        """Run a shell script; the output is in `output`."""
        self.chunks.clear()
        return self.run(self.approve(ScriptRequest(interpreter, text.encode()), profile, limits))


def make_gate(directory: Path, protected: Sequence[Path] = (), **profiles: SandboxProfile) -> Gate:
    """Build a gate below a directory. The caller closes the store."""
    sandbox = ready_sandbox()
    state = directory / "state"
    root = directory / "workspace"
    state.mkdir(mode=0o700)
    root.mkdir()
    secrets = SecretStore(state / "secrets")
    (state / "secrets").mkdir(mode=0o700)
    store = create_store(state / "gate.sqlite3")
    workspace = make_workspace(bytes(root), [bytes(state), *map(bytes, protected)])
    known = {**PROFILES, **profiles}
    executor = Executor(store, secrets, sandbox, workspace, now_ms=lambda: NOW, profiles=known)
    return Gate(store, root, workspace, executor, sandbox, secrets=secrets, profiles=known)


def make_receipt(frozen: FrozenDraft, execution: Execution) -> SignedReceipt:
    """Make a receipt as the daemon would, with an empty signature."""
    draft = frozen.draft
    return SignedReceipt(
        encode_receipt(
            Receipt(
                gate_key=draft.gate.key,
                host=draft.gate.host,
                sequence=1,
                previous=None,
                draft_id=frozen.draft_id,
                policy=draft.policy,
                pins=draft.pins,
                decisions=(),
                outcome=execution.outcome,
                executed=execution.executed,
                changed_files=execution.changed_files or (),
                output=empty_chain(frozen.draft_id),
                issued_at=NOW,
            )
        ),
        bytes(64),
    )
