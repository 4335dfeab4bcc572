"""Scene 5 of `make demo`: attacks, each refused with its reason, none of them executed.

Most of them want `touch stolen.txt` to run without a co-signature. It stays pending all along, and
at the end one honest co-signature runs it: it was the attacks that failed, not the draft.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass

from agent_bridge.core.base64_text import decode_matrix_base64, encode_matrix_base64
from agent_bridge.core.decision import (
    DECISION_EVENT,
    SignedDecision,
    Verdict,
    decision_content,
    encode_decision,
    make_decision,
    parse_decision,
)
from agent_bridge.core.frozen_draft import FrozenDraft
from agent_bridge.core.pae import PayloadType, encode_pae
from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.server_keys import load_signing_key
from homeserver.randomness import Randomness
from tools.demo_hostile import (
    SentDecision,
    approve_as_thief,
    find_decision,
    find_draft_event,
    read_draft,
    replace_identity,
    replay,
    send_decision_again,
)
from tools.demo_hostile_server import Forgery, forge_events
from tools.demo_scenes import BUNDLE, verify_bundle
from tools.demo_stage import Draft, Stage, user_id_of
from tools.stack import StackFailed

_TARGET = "stolen.txt"


@dataclass(frozen=True)
class Attacks:
    stage: Stage
    target: Draft
    """What the attacks want to run."""
    done: Draft
    """What alice honestly approved before."""
    decision: SentDecision
    """With which she did."""

    async def show_all(self) -> None:
        """Try every attack, whatever became of the one before."""
        for attack in (
            self.say_approve,
            self.react,
            self.use_unsigned_device,
            self.relate_to_another_draft,
            self.rewrite_script,
            self.forge_in_database,
            self.replace_identity,
            self.approve_honestly,
        ):
            try:
                await attack()
            except StackFailed as error:
                self.stage.story.fail(error)

    async def say_approve(self) -> None:
        event_id = await self.stage.chat.send(
            "alice",
            self.stage.approvals_room,
            "m.room.message",
            {"msgtype": "m.text", "body": f"approve {self.target.draft_id}"},
        )
        await self._expect_refused("a plaintext 'approve' by alice", event_id, "not_encrypted")

    async def react(self) -> None:
        """React with ✅ to the draft."""
        draft_event = await find_draft_event(self.stage, "alice-phone", self.target)
        relation = {"rel_type": "m.annotation", "event_id": draft_event, "key": "\u2705"}
        content = {"m.relates_to": relation}
        event_id = await self.stage.chat.send(
            "alice", self.stage.approvals_room, "m.reaction", content
        )
        await self._expect_refused("a ✅ reaction by alice on the draft", event_id, "reaction")

    async def use_unsigned_device(self) -> None:
        """A thief has alice's password and logs in; nobody signs his device."""
        stage = self.stage
        await self._log_thief_in("alice")
        blind = await stage.device("alice-thief", "approve", self.target.draft_id)
        stage.story.expect(
            "a thief with alice's password logs in on an unsigned device: the gate does not"
            f" encrypt to it ({blind.problems.strip()})",
            holds=blind.code == 5,  # noqa: PLR2004  # documented: no such draft
            instead=blind.printed,
        )
        frozen = read_draft(stage, "alice-phone", self.target)
        event_id = await approve_as_thief(stage, "alice-thief", frozen)
        await self._expect_refused(
            "he got the draft elsewhere, signs a decision with his device and sends it encrypted",
            event_id,
            "device_unsigned",
        )

    async def replace_identity(self) -> None:
        """A thief has bob's password and makes him a new identity, which signs his device."""
        stage = self.stage
        await self._log_thief_in("bob")
        password = (stage.stack.directory / "bob.password").read_text("utf-8")
        await replace_identity(stage, "bob-thief", password)
        frozen = read_draft(stage, "alice-phone", self.target)
        event_id = await approve_as_thief(stage, "bob-thief", frozen)
        await self._expect_refused(
            "a thief with bob's password gives the account a new master key, has it sign"
            " his own device, and approves",
            event_id,
            "approver_frozen",
        )

    async def relate_to_another_draft(self) -> None:
        """An approval of one draft is said to be about another."""
        draft_event = await find_draft_event(self.stage, "alice-phone", self.target)
        relation: JsonObject = {"rel_type": "m.reference", "event_id": draft_event}
        event_id = await send_decision_again(self.stage, "alice-phone", self.decision, relation)
        await self._expect_refused(
            "alice's co-signature of `git log`, freshly encrypted, re-related to this draft",
            event_id,
            "draft_closed",
        )
        event_id = await replay(self.stage, "alice", self.decision, relation)
        await self._expect_refused(
            "the ciphertext of it with another cleartext m.relates_to", event_id, "replayed"
        )

    async def rewrite_script(self) -> None:
        """The bytes change between draft and approval."""
        stage = self.stage
        script = stage.stack.workspace / "water.py"
        script.write_text("open('watered.txt', 'w')\n", "utf-8")
        draft = await stage.ask("bob", "!run python3 water.py")
        script.write_text("open('flooded.txt', 'w')\n", "utf-8")
        stage.story.tell("the agent rewrites water.py while the draft is pending")
        ended = await stage.device("alice-phone", "approve", draft.draft_id, "--wait", "60")
        outcome = await stage.wait_for_end(draft)
        made = [name for name in ("watered.txt", "flooded.txt") if self._exists(name)]
        stage.story.expect(
            f"alice approves what she was shown; the gate looks again: {outcome}",
            holds=ended.code == 1
            and outcome.startswith("drift")
            and stage.state_of(draft) == "drift"
            and not made,
            instead=f"{ended.printed}{ended.problems} {made}",
        )
        answer = await stage.chat.wait_for_answer(draft.command, "Stopped")
        stage.story.tell(f"the bot says: {answer.splitlines()[0]}")

    async def forge_in_database(self) -> None:
        """The homeserver writes what it likes into its own database."""
        stage, stack = self.stage, self.stage.stack
        frozen = read_draft(stage, "alice-phone", self.target)
        forgeries = {
            "a decision in alice's name, in clear, signed with the server's own key": (
                Forgery(_ALICE, DECISION_EVENT, self._forge_decision(frozen)),
                "not_encrypted",
            ),
            "a ciphertext in alice's name with a session it made up": (
                Forgery(_ALICE, "m.room.encrypted", self._forge_ciphertext()),
                "undecryptable",
            ),
            "alice's ciphertext of before under a new event id": (
                Forgery(_ALICE, "m.room.encrypted", self.decision.ciphertext),
                "replayed",
            ),
        }
        stage.story.tell("the homeserver is stopped and turns hostile: it owns key and database…")
        await stage.stop_watch()
        await stack.stop_program("homeserver")
        verified = await verify_bundle(stage, stack.directory / BUNDLE)
        stage.story.expect(
            "with no server at all, `countersign verify` still verifies the bundle of before",
            holds=verified.code == 0,
            instead=verified.printed + verified.problems,
        )
        event_ids = await asyncio.to_thread(
            forge_events,
            stack.directory,
            RoomID(stage.approvals_room),
            [forgery for forgery, _ in forgeries.values()],
        )
        await stack.start_homeserver()
        await stage.start_watch()
        for event_id, (what, (_, code)) in zip(event_ids, forgeries.items(), strict=True):
            await self._expect_refused(f"it inserts {what}", event_id, code)

    async def approve_honestly(self) -> None:
        stage = self.stage
        pending = await stage.list_pending("alice-laptop")
        stage.story.expect(
            "after all this, alice's laptop shows the draft as the only pending one",
            holds=pending == [self.target.draft_id],
            instead=f"{pending}",
        )
        ended = await stage.device("alice-laptop", "approve", self.target.draft_id, "--wait", "60")
        stage.story.expect(
            "and one honest co-signature of alice runs it",
            holds=ended.code == 0 and self._exists(_TARGET),
            instead=ended.printed + ended.problems,
        )
        stage.ran.append(self.target)

    async def _log_thief_in(self, person: str) -> None:
        stage, stack = self.stage, self.stage.stack
        await stack.signer(
            f"{person}-thief", "login", "--homeserver", stack.base_url,
            "--user", user_id_of(person),
            "--password-file", str(stack.directory / f"{person}.password"),
        )  # fmt: skip
        gate, fingerprint = stage.gate["gate user"], stage.gate["gate fingerprint"]
        await stack.signer(f"{person}-thief", "trust-gate", gate, fingerprint)

    async def _expect_refused(self, what: str, event_id: str, code: str) -> None:
        """Expect this reason, an untouched draft, and that nothing ran."""
        said = await self.stage.wait_for_refusal(event_id)
        state = self.stage.state_of(self.target)
        ran = self._exists(_TARGET)
        self.stage.story.expect(
            f"{what}: {said.code} — {said.sentence}",
            holds=said.code == code and state == "pending" and not ran,
            instead=f"wanted {code}; the draft is {state}; {'it ran' if ran else 'nothing ran'}",
        )

    def _exists(self, name: str) -> bool:
        return (self.stage.stack.workspace / name).exists()

    def _forge_decision(self, frozen: FrozenDraft) -> JsonObject:
        """All that is public is right: user, device, key, chain. The signature cannot be."""
        public = parse_decision(self.decision.signed.payload)
        payload = encode_decision(
            make_decision(
                frozen,
                Verdict.APPROVE,
                user_id=public.user_id,
                device_id=public.device_id,
                key=public.key,
                issued_at=int(time.time() * 1000),
            )
        )
        folder = self.stage.stack.directory
        key = load_signing_key(folder / "data" / "signing.key", Randomness())
        signature = key.sign(encode_pae(PayloadType.DECISION, payload))
        return decision_content(
            SignedDecision(payload, decode_matrix_base64(signature), self.decision.signed.chain)
        )

    def _forge_ciphertext(self) -> JsonObject:
        noise = encode_matrix_base64(secrets.token_bytes(200))
        session = encode_matrix_base64(secrets.token_bytes(32))
        return self.decision.ciphertext | {"ciphertext": noise, "session_id": session}


_ALICE = UserID(user_id_of("alice"))


async def show_attacks(stage: Stage, done: Draft) -> None:
    stage.story.begin("5. Attacks: each is refused with its reason, and nothing runs")
    decision = await find_decision(stage, "alice-phone", done)
    target = await stage.ask("alice", f"!run touch {_TARGET}")
    await stage.device("alice-phone", "sync")
    await Attacks(stage, target, done, decision).show_all()
