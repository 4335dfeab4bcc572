"""Scene 1 of `make demo`: three people, two devices each, a gate that knows them, a chat room."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tools.demo_chat import make_chat
from tools.demo_stage import KINDS, PEOPLE, Stage, user_id_of
from tools.demo_story import Story
from tools.stack import BOT, GATE, Stack, facts_in

POLICY = Path(__file__).with_name("demo-policy.toml")


async def set_up(stack: Stack, story: Story) -> Stage:
    """1. The server. 2. The gate's identity, and the bot. 3. People and devices. 4. Whom the gate
    knows. 5. The gate runs. 6. Everybody comes in.
    """
    story.begin("1. Three people with two devices each, a gate, and a chat room with the bot")
    stack.make_workspace()
    await stack.start_homeserver()  # 1
    gate = await stack.set_up_gate(POLICY)  # 2
    await stack.start_bot(gate["requests room"], [user_id_of(PEOPLE[0])])
    story.tell(f"the gate's console shows its fingerprint: {gate['gate fingerprint']}")
    story.tell("alice, bob and carol log in on a phone and a laptop…")
    keys = await asyncio.gather(*(_log_in(stack, person) for person in PEOPLE))  # 3
    for person, one in zip(PEOPLE, keys, strict=True):
        story.expect(
            f"{person}: the phone signed itself and, by `countersign verify-device`, the laptop",
            holds=one.phone_signs_laptop,
        )
    for person, one in zip(PEOPLE, keys, strict=True):  # 4
        printed = await stack.gate("enroll", user_id_of(person), "--master-key", one.master_key)
        story.expect(
            f"at the gate's console: {printed.splitlines()[0]}", holds="enrolled" in printed
        )
    await asyncio.gather(*(_trust_gate(stack, person, gate) for person in PEOPLE))
    story.tell("each of them compares the gate's fingerprint and says `countersign trust-gate`")
    await stack.start_gate()  # 5
    await asyncio.gather(*(stack.signer(f"{person}-phone", "sync") for person in PEOPLE))  # 6
    stage = Stage(stack, story, gate, await make_chat(stack, PEOPLE))
    await stage.start_watch()
    await _show_rooms(stage)
    return stage


@dataclass(frozen=True)
class Keys:
    master_key: str
    phone_signs_laptop: bool


async def _log_in(stack: Stack, person: str) -> Keys:
    """Make both devices; the phone first, as the first one makes the person's identity."""
    await stack.make_account(person)
    password = stack.directory / f"{person}.password"
    printed = {}
    for kind in KINDS:
        text = await stack.signer(
            f"{person}-{kind}", "login", "--homeserver", stack.base_url,
            "--user", user_id_of(person), "--password-file", str(password),
        )  # fmt: skip
        printed[kind] = facts_in(text)
    laptop = printed["laptop"]
    signed = await stack.signer(
        f"{person}-phone", "verify-device", laptop["device"], laptop["device key"]
    )
    needs_a_signature = "verify-device" in laptop.get("next", "")
    return Keys(
        printed["phone"]["master key"],
        phone_signs_laptop=needs_a_signature and f"signed: {laptop['device']}" in signed,
    )


async def _trust_gate(stack: Stack, person: str, gate: dict[str, str]) -> None:
    for kind in KINDS:
        await stack.signer(f"{person}-{kind}", "trust-gate", GATE, gate["gate fingerprint"])


async def _show_rooms(stage: Stage) -> None:
    token = stage.chat.tokens[PEOPLE[0]]
    members = {}
    for name, room in (("chat", stage.chat.room_id), ("approvals", stage.approvals_room)):
        path = f"/_matrix/client/v3/rooms/{room}/joined_members"
        members[name] = set((await stage.stack.call("GET", path, token=token))["joined"])
    people = {user_id_of(person) for person in PEOPLE}
    stage.story.expect(
        "the chat room has the people and the bot, but not the gate",
        holds=members["chat"] == people | {BOT},
        instead=f"{sorted(members['chat'])}",
    )
    stage.story.expect(
        "the approvals room has the people and the gate, but not the bot",
        holds=members["approvals"] == people | {GATE},
        instead=f"{sorted(members['approvals'])}",
    )
