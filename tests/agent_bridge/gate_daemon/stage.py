"""A whole gate on a homeserver that can be made to lie: real crypto, real sandbox, our clock.

Everything between the people and the gate is the hostile server's: tests edit what it stores.
"""

import asyncio
import copy
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from agent_bridge.core.decision import Restrict, SignedDecision, Verdict
from agent_bridge.core.ed25519 import parse_public_key
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import ReceiptID
from agent_bridge.core.quorum import Instant
from agent_bridge.core.tiers import Tier
from agent_bridge.gate.building import Surroundings, build_gate
from agent_bridge.gate.daemon import Gate
from agent_bridge.gate.enrollment import Enrollment, put_enrollment
from agent_bridge.gate.outbox import Rooms
from agent_bridge.gate.sandbox_probe import SandboxMissing, SandboxReady
from agent_bridge.gate.settings import Settings, load_settings
from agent_bridge.gate.state_directory import StateDirectory
from agent_bridge.gate.store import create_store, open_store
from agent_bridge.matrix import CrossSignedDevices, MatrixClient
from agent_bridge.signer.deciding import send_decision, sign_decision
from agent_bridge.signer.inbox import Inbox, NewDraft, NewReceipt, NewRefusal, News
from agent_bridge.signer.record import Record
from agent_bridge.signer.trusted_gates import TrustedGate
from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from tests.agent_bridge.matrix.hostile_server import HostileServer

START_MS = 1_790_000_000_000

POLICY = """
version = {version}
expires_at = 2099-01-01T00:00:00Z
[needs.T3]
hold_seconds = {hold}
cooldown_seconds = {cooldown}
[[rules]]
name = "listing"
tier = "T0"
executables = ["/usr/bin/ls"]
matches = [{{ executable = "/usr/bin/ls", argv = ["ls"] }}]
matches_not = [{{ executable = "/usr/bin/cat", argv = ["cat"] }}]
[[rules]]
name = "deletion"
tier = "T3"
executables = ["/usr/bin/rm"]
matches = [{{ executable = "/usr/bin/rm", argv = ["rm"] }}]
matches_not = [{{ executable = "/usr/bin/ls", argv = ["ls"] }}]
[[rules]]
name = "disks"
tier = "DENY"
executables = ["/usr/bin/dd"]
matches = [{{ executable = "/usr/bin/dd", argv = ["dd"] }}]
matches_not = [{{ executable = "/usr/bin/ls", argv = ["ls"] }}]
"""


class FakeClock:
    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.monotonic_ms = 1_000

    def __call__(self) -> Instant:
        return Instant(self.wall_ms, self.monotonic_ms)

    def advance(self, seconds: float) -> None:
        self.wall_ms += int(seconds * 1000)
        self.monotonic_ms += int(seconds * 1000)


@dataclass
class Person:
    """One device of an approver, with the signer's record over it."""

    client: MatrixClient
    record: Record
    gate: TrustedGate
    inbox: Inbox
    news: list[News] = field(default_factory=list)

    async def read(self) -> None:
        self.news += await self.inbox.catch_up()

    @property
    def drafts(self) -> list[FrozenDraft]:
        return [item.frozen for item in self.news if isinstance(item, NewDraft)]

    @property
    def receipts(self) -> list[NewReceipt]:
        return [item for item in self.news if isinstance(item, NewReceipt)]

    @property
    def refusals(self) -> list[str]:
        return [item.reason_code for item in self.news if isinstance(item, NewRefusal)]


@dataclass
class Stage:
    """A gate, a bot that asks, and whoever was enrolled."""

    directory: Path
    sandbox: SandboxReady | SandboxMissing
    server: HostileServer = field(default_factory=HostileServer)
    clock: FakeClock = field(default_factory=FakeClock)
    people: dict[str, Person] = field(default_factory=dict)
    open_clients: list[MatrixClient] = field(default_factory=list)
    request_count: int = 0
    is_nobody_to_tell: bool = False
    gate: Gate = field(init=False)
    bot: MatrixClient = field(init=False)
    settings: Settings = field(init=False)
    rooms: Rooms = field(init=False)

    @property
    def workspace(self) -> Path:
        return self.directory / "work"

    @property
    def approver(self) -> Person:
        return self.people["alice"]

    # Setting up

    async def open(self, *approvers: str) -> None:
        self.workspace.mkdir()
        self.write_policy()
        config = self.directory / "gate.toml"
        config.write_text(
            'homeserver = "http://hostile.test"\nuser = "gate"\nhost = "laptop"\n'
            'state_directory = "state"\nworkspace = "work"\npolicy = "policy.toml"\n'
            '[requests]\nsenders = ["@bot:hostile.test"]\n'
        )
        self.settings = load_settings(config)
        state = StateDirectory(self.settings.state_directory)
        state.create()
        create_store(state.store).close()
        gate = await self.enter("gate", "GATE")
        self.bot = await self.enter("bot", "BOT", signed=False)
        self.rooms = Rooms(
            await gate.create_room(name="Approvals"), await gate.create_room(encrypted=False)
        )
        await self.bot.join(self.rooms.requests)
        for name in approvers:
            await self.add_approver(name, gate)
        await self.start_gate(gate)

    async def enter(self, name: str, device: str, *, signed: bool = True) -> MatrixClient:
        client = self.server.connect(self.directory / f"{name}-{device}", name, device)
        self.open_clients.append(client)
        await self.sync(client)
        if signed:
            await client.bootstrap_cross_signing("password")
        return client

    async def add_approver(
        self, name: str, gate: MatrixClient, *, max_tier: Tier = Tier.T3, colocated: bool = False
    ) -> Person:
        client = await self.enter(name, f"{name.upper()}PHONE")
        await client.join(self.rooms.approvals)
        await self.sync(client)
        self.enroll(client, max_tier=max_tier, colocated=colocated)
        person = self.make_person(client, gate)
        self.people[name] = person
        return person

    def make_person(self, client: MatrixClient, gate: MatrixClient) -> Person:
        master_key = gate.find_pin(gate.user_id)
        assert master_key is not None
        trusted = TrustedGate(
            gate.user_id, parse_public_key(gate.ed25519_key), parse_public_key(master_key)
        )
        client.pin_master_key(gate.user_id, master_key)
        record = Record(self.directory / f"{client.user_id[1:]}-{client.device_id}.sqlite3")
        inbox = Inbox(client, record, {gate.user_id: trusted})
        return Person(client, record, trusted, inbox)

    async def add_device(self, name: str, device: str, *, signed: bool = True) -> Person:
        """Log an approver in once more; their first device signs it unless told not to."""
        client = await self.enter(name, device, signed=False)
        if signed:
            first = self.people[name].client
            await first.refresh_devices([first.user_id])
            await first.sign_own_device(client.device_id, client.ed25519_key)
            await client.refresh_devices([client.user_id])
        await self.sync(client)
        person = self.make_person(client, self.gate.client)
        self.people[f"{name}-{device}"] = person
        return person

    def enroll(
        self, client: MatrixClient, *, max_tier: Tier = Tier.T3, colocated: bool = False
    ) -> None:
        master_key = client.find_pin(client.user_id)
        assert master_key is not None
        put_enrollment(
            StateDirectory(self.settings.state_directory).approvers,
            Enrollment(
                client.user_id,
                parse_public_key(master_key),
                max_tier,
                None if colocated else frozenset(),
                self.clock.wall_ms,
            ),
        )

    def write_policy(self, *, version: int = 1, hold: int = 0, cooldown: int = 0) -> None:
        text = POLICY.format(version=version, hold=hold, cooldown=cooldown)
        (self.directory / "policy.toml").write_text(text)

    async def start_gate(self, client: MatrixClient) -> None:
        store = open_store(StateDirectory(self.settings.state_directory).store)
        around = Surroundings(self.clock, self.sandbox, chunk_interval=0)
        self.gate = build_gate(self.settings, client, store, self.rooms, around)
        await self.gate.start()
        await self.let_gate_work()

    async def restart_gate(self, *, losing_words: bool = False, store: bytes | None = None) -> None:
        """Pull the plug: nothing is finished, everything in memory is gone.

        losing_words   what the gate had still to say is gone, too
        store          what somebody put in the place of the gate's store
        """
        state = StateDirectory(self.settings.state_directory)
        for task in list(self.gate.runner.tasks):
            task.cancel()
        await asyncio.gather(*self.gate.runner.tasks, return_exceptions=True)
        self.close_gate()
        if losing_words:
            state.post.unlink()
        if store is not None:
            state.store.write_bytes(store)
        await self.gate.client.close()
        client = self.server.reopen(self.directory / "gate-GATE")
        self.open_clients.append(client)
        await self.start_gate(client)

    def close_gate(self) -> None:
        self.gate.close()
        self.gate.store.close()

    async def close(self) -> None:
        await self.gate.runner.finish()
        self.close_gate()
        for person in self.people.values():
            person.record.close()
        for client in self.open_clients:
            await client.close()

    # What happens

    async def sync(self, *clients: MatrixClient) -> None:
        for client in clients:
            await client.acknowledge(await client.sync_once(0))

    async def let_gate_work(self) -> None:
        """Let the gate take in what there is, finish what it runs, and say what it has to say."""
        for _ in range(2):
            batch = await self.gate.client.sync_once(0)
            await self.gate.handle(batch)
            await self.gate.client.acknowledge(batch)
            await self.gate.runner.finish()
            assert await self.gate.outbox.deliver() or self.is_nobody_to_tell

    async def ask(self, *argv: str, **more: object) -> str:
        """Send a request as the bot does and let everybody read; returns the request's id."""
        self.request_count += 1
        content: JsonObject = {
            "request_id": f"request-{self.request_count}",
            "requester": "@someone:hostile.test",
            "chat_room": "!chat:hostile.test",
            "chat_event": "$chat",
            "issued_ms": self.clock.wall_ms,
            "kind": "exec",
            "argv": list(argv),
        }
        content |= orjson.loads(orjson.dumps(more))
        await self.send_request("org.countersign.request", content)
        return str(content["request_id"])

    async def send_request(self, event_type: str, content: JsonObject) -> None:
        await self.bot.send_event(self.rooms.requests, event_type, content, encrypt=False)
        await self.let_gate_work()
        await self.read_all()

    async def draft(self, *argv: str, **more: object) -> FrozenDraft:
        """Ask, and return the draft as the first approver sees it."""
        before = len(self.approver.drafts)
        await self.ask(*(argv or ("touch", "made")), **more)
        assert len(self.approver.drafts) == before + 1, (
            self.statuses(),
            self.approver.news,
            self.gate.client.last_share(self.rooms.approvals),
        )
        return self.approver.drafts[-1]

    async def read_all(self) -> None:
        for person in self.people.values():
            await person.read()

    def sign(
        self,
        person: Person,
        frozen: FrozenDraft,
        verdict: Verdict = Verdict.APPROVE,
        restrict: Restrict | None = None,
        head: ReceiptID | None = None,
    ) -> SignedDecision:
        return sign_decision(
            person.client,
            frozen,
            verdict,
            now_ms=self.clock.wall_ms,
            receipt_head=head,
            restrict=restrict,
        )

    async def send(
        self, person: Person, frozen: FrozenDraft, signed: SignedDecision, *, work: bool = True
    ) -> EventID:
        event_id = await send_decision(person.client, frozen, person.gate, signed)
        if work:
            await self.let_gate_work()
            await self.read_all()
        return event_id

    async def decide(
        self,
        person: Person,
        frozen: FrozenDraft,
        verdict: Verdict = Verdict.APPROVE,
        restrict: Restrict | None = None,
        *,
        work: bool = True,
    ) -> EventID:
        signed = self.sign(person, frozen, verdict, restrict)
        return await self.send(person, frozen, signed, work=work)

    async def say(self, person: Person, event_type: str, content: JsonObject) -> EventID:
        """Send anything encrypted into the approvals room."""
        gate = self.gate.client
        policy = CrossSignedDevices({gate.user_id: gate.find_pin(gate.user_id)})
        event_id = await person.client.send_event(
            self.rooms.approvals, event_type, content, encrypt=True, policy=policy
        )
        await self.let_gate_work()
        await self.read_all()
        return event_id

    async def forge(self, sender: str, event_type: str, content: JsonObject) -> str:
        """Put an event into the approvals room that nobody sent."""
        event_id = self.server.place(
            self.rooms.approvals,
            {"type": event_type, "sender": f"@{sender}:hostile.test", "content": content},
        )
        await self.let_gate_work()
        await self.read_all()
        return event_id

    async def place(self, event: JsonObject, room_id: RoomID | None = None) -> str:
        """Serve a changed copy of an event as a new one."""
        event = copy.deepcopy(event)
        event.pop("event_id", None)
        event_id = self.server.place(room_id or self.rooms.approvals, event)
        await self.let_gate_work()
        await self.read_all()
        return event_id

    async def tick(self) -> None:
        self.gate.tick()
        await self.let_gate_work()
        await self.read_all()

    # What can be seen

    def statuses(self, request_id: str | None = None) -> list[JsonObject]:
        """What the gate said in the requests room."""
        found = [
            placed.event["content"]
            for placed in self.server.rooms[self.rooms.requests]
            if placed.event["type"] == "org.countersign.request.status"
        ]
        contents = [content for content in found if isinstance(content, dict)]
        return [one for one in contents if request_id in (None, one["request_id"])]

    @property
    def status(self) -> JsonObject:
        return self.statuses()[-1]

    def draft_event_id(self, frozen: FrozenDraft) -> EventID:
        event_id = self.gate.outbox.find_event_id(f"draft:{frozen.draft_id}")
        assert event_id is not None
        return event_id

    def has_run(self) -> bool:
        return (self.workspace / "made").exists()

    def assert_refused(self, *reasons: str) -> None:
        """Nothing ran, the draft still waits, and the approvers were told these reasons."""
        assert self.approver.refusals == list(reasons)
        assert not self.has_run()
        assert self.status["state"] == "pending"
