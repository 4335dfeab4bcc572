"""Hostile moves with a client library: what the `countersign` command rightly cannot do."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agent_bridge.core.base64_text import decode_matrix_base64
from agent_bridge.core.decision import (
    DECISION_EVENT,
    SignedDecision,
    Verdict,
    decision_content,
    encode_decision,
    make_decision,
    parse_decision,
    signed_of_content,
)
from agent_bridge.core.device_chain import make_chain
from agent_bridge.core.ed25519 import parse_public_key
from agent_bridge.core.frozen_draft import DRAFT_EVENT, FrozenDraft, parse_draft
from agent_bridge.core.pae import PayloadType, encode_pae
from agent_bridge.matrix import DecryptedEvent, MatrixClient
from agent_bridge.signer.record import Record
from homeserver.core.identifiers import RoomID
from homeserver.core.json_types import JsonObject
from tools.demo_stage import Draft, Stage
from tools.stack import StackFailed

_MOST_PAGES = 10


@dataclass(frozen=True)
class SentDecision:
    """A recorded decision, as its event lies on the server and as it was inside."""

    ciphertext: JsonObject
    content: JsonObject
    signed: SignedDecision


async def find_decision(stage: Stage, device: str, draft: Draft) -> SentDecision:
    """Find the decision this very device sent on a draft. Raises StackFailed."""
    async with _open(stage, device) as client:
        async for event in _history(client, stage):
            if event.type == DECISION_EVENT and event.device.device_id == client.device_id:
                signed = signed_of_content(event.content)
                if parse_decision(signed.payload).draft_id == draft.draft_id:
                    ciphertext = event.raw["content"]
                    assert isinstance(ciphertext, dict)
                    return SentDecision(ciphertext, event.content, signed)
    raise StackFailed(f"no decision of {device} on {draft.short}")


async def find_draft_event(stage: Stage, device: str, draft: Draft) -> str:
    """Find the event that a draft came in. Raises StackFailed."""
    async with _open(stage, device) as client:
        async for event in _history(client, stage):
            if event.type == DRAFT_EVENT and event.content.get("draft_id") == draft.draft_id:
                return event.event_id
    raise StackFailed(f"no event of {draft.short}")


def read_draft(stage: Stage, device: str, draft: Draft) -> FrozenDraft:
    """Take a draft from a device's files: it leaked. Raises StackFailed."""
    record = Record(stage.stack.signer_directory(device) / "signer.sqlite3")
    try:
        seen = record.find_draft(draft.draft_id)
    finally:
        record.close()
    if seen is None:
        raise StackFailed(f"{device} has not got {draft.short}")
    return parse_draft(seen.payload)


async def replay(
    stage: Stage, person: str, decision: SentDecision, relation: JsonObject | None = None
) -> str:
    """Put a ciphertext into the room as a new event; what it relates to stands in clear beside."""
    content = decision.ciphertext | ({} if relation is None else {"m.relates_to": relation})
    return await stage.chat.send(person, stage.approvals_room, "m.room.encrypted", content)


async def send_decision_again(
    stage: Stage, device: str, decision: SentDecision, relation: JsonObject | None = None
) -> str:
    """Send a recorded decision in a fresh ciphertext of its own device."""
    content = decision.content | ({} if relation is None else {"m.relates_to": relation})
    async with _open(stage, device) as client:
        return await client.send_event(
            RoomID(stage.approvals_room), DECISION_EVENT, content, encrypt=True
        )


async def approve_as_thief(stage: Stage, device: str, frozen: FrozenDraft) -> str:
    """Sign and send an approval with whatever chain the device has by now."""
    async with _open(stage, device) as client:
        await client.refresh_devices([client.user_id])
        keys = client.key_objects(client.user_id)
        assert keys.self_signing_key is not None
        payload = encode_decision(
            make_decision(
                frozen,
                Verdict.APPROVE,
                user_id=client.user_id,
                device_id=client.device_id,
                key=parse_public_key(client.ed25519_key),
                issued_at=int(time.time() * 1000),
            )
        )
        signature = client.sign_bytes(encode_pae(PayloadType.DECISION, payload))
        chain = make_chain(keys.self_signing_key, keys.devices[client.device_id])
        signed = SignedDecision(payload, decode_matrix_base64(signature), chain)
        return await client.send_event(
            RoomID(stage.approvals_room), DECISION_EVENT, decision_content(signed), encrypt=True
        )


async def replace_identity(stage: Stage, device: str, password: str) -> None:
    """Give the account of a device a new cross-signing identity, in place of its owner's."""
    async with _open(stage, device) as client:
        await client.bootstrap_cross_signing(password, replace=True)


@asynccontextmanager
async def _open(stage: Stage, device: str) -> AsyncIterator[MatrixClient]:
    async with await MatrixClient.open(stage.stack.signer_directory(device) / "matrix") as client:
        yield client


async def _history(client: MatrixClient, stage: Stage) -> AsyncIterator[DecryptedEvent]:
    """What the device can read in the approvals room, newest first."""
    place: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.history(RoomID(stage.approvals_room), from_token=place)
        for event in page.events:
            if isinstance(event, DecryptedEvent):
                yield event
        place = page.end
        if place is None:
            return
