"""kill -9 while delayed events are due: each that was acknowledged is sent, once."""

import asyncio
import collections
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tests.process.running import (
    Process,
    StrictClient,
    many_connections,
    register,
    server_on,
)

USERS = 8
EVENTS_EACH = 30
SPREAD_MS = 3_000
"""The events become due over this time, after `FIRST_MS`."""
FIRST_MS = 2_500
PATIENCE_SECONDS = 30.0
FILTER = '{"room":{"timeline":{"limit":500}}}'
SECTIONS: dict[str, Any] = {"delayed_events": {"max_delay_ms": 600_000}}


def test_attack_15_kill_9_loses_no_delayed_event_and_doubles_none(
    tmp_path: Path, fresh_database: str
) -> None:
    with server_on(tmp_path, fresh_database, **SECTIONS) as process:
        asyncio.run(_scenario(process))


async def _scenario(process: Process) -> None:
    async with many_connections(process) as session:
        users = [await register(session, f"user{n}") for n in range(USERS)]
        room_ids = [(await user.call("POST", "createRoom", {}))["room_id"] for user in users]
        began = asyncio.get_running_loop().time()
        acknowledged: dict[str, str] = {}

        async def hand_in(user: int, number: int) -> None:
            text = f"{user}/{number}"
            passed_ms = int((asyncio.get_running_loop().time() - began) * 1000)
            due_ms = FIRST_MS + SPREAD_MS * number // EVENTS_EACH
            delay_ms = max(100, due_ms - passed_ms)
            path = f"rooms/{room_ids[user]}/send/m.room.message/t{number}"
            answer = await users[user].call(
                "PUT",
                f"{path}?org.matrix.msc4140.delay={delay_ms}",
                {"msgtype": "m.text", "body": text},
            )
            acknowledged[answer["delay_id"]] = text

        await asyncio.gather(
            *(hand_in(user, number) for user in range(USERS) for number in range(EVENTS_EACH))
        )
        # In the middle of sending: some have gone out, some have not.
        await _wait_for_texts(users[0], room_ids[0], 1)
        before = [await _sent(user, room) for user, room in zip(users, room_ids, strict=True)]
        process.kill()
    assert 0 < sum(map(len, before)) < USERS * EVENTS_EACH, "the kill came at a wrong time"

    process.start()
    async with aiohttp.ClientSession(process.base_url) as session:
        users = [user.at(session) for user in users]
        async with asyncio.timeout(PATIENCE_SECONDS):
            for user, room_id in zip(users, room_ids, strict=True):
                await _wait_for_texts(user, room_id, EVENTS_EACH)
        after = [await _sent(user, room) for user, room in zip(users, room_ids, strict=True)]
    counts = collections.Counter(text for texts in after for text in texts)
    assert len(acknowledged) == USERS * EVENTS_EACH
    assert counts == dict.fromkeys(acknowledged.values(), 1)
    for first, whole in zip(before, after, strict=True):
        assert whole[: len(first)] == first, "what was seen before is where it was"


async def _sent(user: StrictClient, room_id: str) -> list[str]:
    page = await user.call("GET", f"rooms/{room_id}/messages?dir=f&limit=500")
    return [e["content"]["body"] for e in page["chunk"] if e["type"] == "m.room.message"]


async def _wait_for_texts(user: StrictClient, room_id: str, count: int) -> None:
    found, since = 0, ""
    while found < count:
        query = {"timeout": "10000", "filter": FILTER} | ({"since": since} if since else {})
        page = await user.call("GET", f"sync?{urlencode(query)}")
        since = page["next_batch"]
        room = page.get("rooms", {}).get("join", {}).get(room_id, {"timeline": {"events": []}})
        found += sum(e["type"] == "m.room.message" for e in room["timeline"]["events"])
