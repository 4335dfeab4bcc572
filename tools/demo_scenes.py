"""Scenes 2 to 4 of `make demo`: what happens to drafts when everybody is honest."""

import asyncio
import json
import sqlite3
from pathlib import Path

from agent_bridge.core.base64_text import decode_base64url, encode_base64url
from agent_bridge.core.payload import decode_payload, encode_payload
from tools.demo_hostile import find_decision, replay, send_decision_again
from tools.demo_stage import Draft, Stage
from tools.stack import Ended

BUNDLE = "git-log.bundle"


async def show_one_signature(stage: Stage) -> Draft:
    """Scene 2: asked in the chat room, countersigned on a phone, done, and provable."""
    story = stage.story
    story.begin("2. A request, one co-signature, a receipt anybody can verify")
    draft = await stage.ask("alice", "!run git log --oneline")
    answer = stage.chat.answers[draft.command].splitlines()
    story.expect(f"the bot answers in the chat room: {answer[0]}", holds="0 of 1" in answer[0])
    phone, laptop = await asyncio.gather(
        stage.device("alice-phone", "pending"), stage.device("alice-laptop", "pending")
    )
    story.tell("alice's phone shows, from the draft's own bytes:")
    story.show(phone.printed)
    story.expect(
        "alice's laptop shows the very same draft",
        holds=laptop.printed == phone.printed and draft.draft_id in phone.printed,
        instead=laptop.printed + laptop.problems,
    )
    ended = await stage.device("alice-phone", "approve", draft.draft_id, "--wait", "60")
    lines = ended.printed.splitlines()
    output = [line.removeprefix("| ") for line in lines if line.startswith("| ")]
    story.tell("alice countersigns on her phone; the output comes to her phone, encrypted:")
    story.show("\n".join(output))
    story.expect(
        "the action ran: three commits, exit code 0",
        holds=ended.code == 0 and len(output) == 3 and "Plant the garden" in output[-1],  # noqa: PLR2004
        instead=ended.printed + ended.problems,
    )
    answer = (await stage.chat.wait_for_answer(draft.command, "Receipt")).splitlines()
    story.tell("the bot says in the chat room:")
    story.show("\n".join(answer))
    story.expect(
        "output, status and receipt are in the chat room",
        holds="Done" in answer[0] and any("Harvest" in line for line in answer),
    )
    await _show_bundle(stage, draft)
    stage.ran.append(draft)
    return draft


async def _show_bundle(stage: Stage, draft: Draft) -> None:
    story = stage.story
    bundle = stage.stack.directory / BUNDLE
    exported = await stage.device("alice-phone", "export", draft.draft_id, str(bundle))
    story.expect(
        "alice's phone exports the bundle: draft, co-signature, receipt, policy, output",
        holds=exported.code == 0,
        instead=exported.problems,
    )
    await stage.device("bob-laptop", "sync")
    verified = await verify_bundle(stage, bundle)
    checks = verified.printed.splitlines()[:-1]
    story.expect(
        f"bob's laptop verifies it offline with its own pins: {len(checks)} checks pass",
        holds=verified.code == 0 and verified.printed.endswith("\nverified\n"),
        instead=verified.printed + verified.problems,
    )
    tampered = bundle.with_suffix(".tampered")
    tampered.write_bytes(_rewrite_history(bundle.read_bytes()))
    refused = await verify_bundle(stage, tampered)
    failing = [line for line in refused.printed.splitlines() if line.startswith("FAIL")]
    story.expect(
        f"a bundle with one word of the output changed does not verify: {'; '.join(failing)}",
        holds=refused.code == 1 and refused.printed.endswith("\nNOT verified\n"),
        instead=refused.printed + refused.problems,
    )


async def verify_bundle(stage: Stage, bundle: Path) -> Ended:
    """Verify with the pins of somebody else's device; it needs no server."""
    return await stage.device("bob-laptop", "verify", str(bundle))


def _rewrite_history(bundle: bytes) -> bytes:
    """Let the recorded output say another thing."""
    content = json.loads(bundle)
    chunk = decode_payload(decode_base64url(content["output"][0]))
    said = decode_base64url(str(chunk["data"]))
    chunk["data"] = encode_base64url(said.replace(b"Harvest", b"Hrvaest"))
    content["output"][0] = encode_base64url(encode_payload(chunk))
    return encode_payload(content, 1 << 23)


async def show_two_people(stage: Stage) -> None:
    """Scene 3: a T3 draft needs two people, whatever one of them has or sends again."""
    story = stage.story
    story.begin("3. A deletion is tier T3: two people, not two devices")
    doomed = stage.stack.workspace / "old-plans"
    doomed.mkdir()
    (doomed / "plan.txt").write_text("Sell the garden\n", "utf-8")
    draft = await stage.ask("bob", "!run rm -r old-plans")
    answer = stage.chat.answers[draft.command].splitlines()[0]
    story.expect(f"the bot answers: {answer}", holds="0 of 2" in answer and "T3" in answer)
    first = await stage.device("alice-phone", "approve", draft.draft_id)
    answer = await stage.chat.wait_for_answer(draft.command, "1 of 2")
    story.expect(
        f"alice countersigns on her phone: {answer.splitlines()[0]}", holds=first.code == 0
    )
    second = await stage.device("alice-laptop", "approve", draft.draft_id)
    await stage.wait_for_decisions(draft, 2)
    answer = stage.chat.answers[draft.command].splitlines()[0]
    story.expect(
        f"alice countersigns on her laptop, too; she is still one person: {answer}",
        holds=second.code == 0 and stage.state_of(draft) == "pending" and "1 of 2" in answer,
        instead=f"{stage.state_of(draft)} {second.problems}",
    )
    decision = await find_decision(stage, "alice-phone", draft)
    for what, event_id in (
        (
            "the server sends the ciphertext of her co-signature again, as a new event",
            await replay(stage, "alice", decision),
        ),
        (
            "her phone sends the recorded co-signature again, freshly encrypted",
            await send_decision_again(stage, "alice-phone", decision),
        ),
    ):
        said = await stage.wait_for_refusal(event_id)
        wanted = "replayed" if "ciphertext" in what else "decision_repeated"
        story.expect(
            f"{what}: {said.code} — {said.sentence}",
            holds=said.code == wanted and stage.state_of(draft) == "pending" and doomed.exists(),
            instead=f"{stage.state_of(draft)}, wanted {wanted}",
        )
    third = await stage.device("bob-phone", "approve", draft.draft_id, "--wait", "60")
    last_line = third.printed.splitlines()[-1]
    story.expect(
        f"bob countersigns on his phone, and the folder is gone: {_short(last_line)}",
        holds=third.code == 0 and not doomed.exists(),
        instead=third.printed + third.problems,
    )
    stage.ran.append(draft)


async def show_denial_and_expiry(stage: Stage) -> None:
    """Scene 4: a no is final, and so is silence."""
    story = stage.story
    story.begin("4. A denial is final, and so is silence")
    silent = await stage.ask("alice", "!run --ttl 10s touch too-late.txt")
    draft = await stage.ask("alice", "!run touch unwanted.txt")
    denied = await stage.device("bob-phone", "deny", draft.draft_id, "--wait", "60")
    answer = await stage.chat.wait_for_answer(draft.command, "Denied")
    story.expect(
        f"bob denies it on his phone; the bot says: {answer.splitlines()[0]}",
        holds=denied.code == 0 and stage.state_of(draft) == "denied",
        instead=denied.printed + denied.problems,
    )
    await _expect_closed(stage, draft, "unwanted.txt")
    outcome = await stage.wait_for_end(silent)
    answer = await stage.chat.wait_for_answer(silent.command, "Expired")
    story.expect(
        f"nobody answers for 10 seconds; the bot says: {answer.splitlines()[0]}",
        holds=outcome.startswith("expired") and stage.state_of(silent) == "expired",
        instead=outcome,
    )
    await _expect_closed(stage, silent, "too-late.txt")


async def _expect_closed(stage: Stage, draft: Draft, marker: str) -> None:
    state = stage.state_of(draft)
    late = await stage.device("alice-phone", "approve", draft.draft_id)
    stage.story.expect(
        f"alice would approve it now: {late.problems.strip()}",
        holds=late.code == 5  # noqa: PLR2004  # documented: no longer pending
        and stage.state_of(draft) == state
        and not (stage.stack.workspace / marker).exists(),
        instead=late.printed,
    )


def _short(receipt_line: str) -> str:
    """`receipt r1:… done exit 0 d1:…` without most of the ids."""
    return " ".join(f"{word[:11]}…" if word[2:3] == ":" else word for word in receipt_line.split())


async def show_record(stage: Stage) -> None:
    """Scene 6: the gate has stopped, and its own store says what was executed, and why."""
    story = stage.story
    story.begin("6. The gate's own record")
    await stage.stop_watch()
    await stage.stack.stop_program("gate")
    store = stage.stack.directory / "gate" / "gate.sqlite3"
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        states = [
            state for (state,) in connection.execute("SELECT state FROM drafts ORDER BY rowid")
        ]
        consumed = {draft_id for (draft_id,) in connection.execute("SELECT draft_id FROM consumed")}
        (receipts,) = connection.execute("SELECT count(*) FROM receipts").fetchone()
    finally:
        connection.close()
    story.expect(
        f"only the {len(consumed)} drafts that people countersigned were ever executed",
        holds=consumed == {draft.draft_id for draft in stage.ran},
        instead=f"{sorted(consumed)}",
    )
    story.expect(
        f"each of the {len(states)} drafts has its end and its receipt: {', '.join(states)}",
        holds=receipts == len(states)
        and states == ["done", "done", "expired", "denied", "done", "drift"],
        instead=f"{receipts} receipts",
    )
