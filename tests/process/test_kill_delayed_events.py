"""kill -9 while delayed events are due: each that was acknowledged is sent, once."""

import asyncio
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
MAX_EACH = 90
"""Of a user's; a hundred may be scheduled at once."""
DELAY_MS = 1_000
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
        acknowledged: list[set[str]] = [set() for _ in users]

        async def hand_in(user: int) -> None:
            # Goes on until the server is gone, so that the kill finds many that are not due yet.
            for number in range(MAX_EACH):
                query = urlencode({"org.matrix.msc4140.delay": DELAY_MS})
                path = f"rooms/{room_ids[user]}/send/m.room.message/t{number}?{query}"
                body = {"msgtype": "m.text", "body": f"{number}"}
                try:
                    await users[user].call("PUT", path, body)
                except (aiohttp.ClientError, OSError):
                    return
                acknowledged[user].add(body["body"])

        handing_in = [asyncio.create_task(hand_in(user)) for user in range(USERS)]
        # In the middle of sending: some have gone out, some have not.
        await _wait_for_texts(users[0], room_ids[0], {"0"})
        before = [await _sent(user, room) for user, room in zip(users, room_ids, strict=True)]
        process.kill()
        await asyncio.gather(*handing_in)
    assert 0 < sum(map(len, before)) < sum(map(len, acknowledged)), "the kill came too late"

    process.start()
    async with aiohttp.ClientSession(process.base_url) as session:
        users = [user.at(session) for user in users]
        async with asyncio.timeout(PATIENCE_SECONDS):
            for user, room_id, texts in zip(users, room_ids, acknowledged, strict=True):
                await _wait_for_texts(user, room_id, texts)
        after = [await _sent(user, room) for user, room in zip(users, room_ids, strict=True)]
    for first, whole, texts in zip(before, after, acknowledged, strict=True):
        assert texts <= set(whole), "none is lost"
        assert len(whole) == len(set(whole)), "none is sent twice"
        assert whole[: len(first)] == first, "what was seen before is where it was"


async def _sent(user: StrictClient, room_id: str) -> list[str]:
    page = await user.call("GET", f"rooms/{room_id}/messages?dir=f&limit=500")
    return [e["content"]["body"] for e in page["chunk"] if e["type"] == "m.room.message"]


async def _wait_for_texts(user: StrictClient, room_id: str, wanted: set[str]) -> None:
    found: set[str] = set()
    since = ""
    while not wanted <= found:
        query = {"timeout": "10000", "filter": FILTER} | ({"since": since} if since else {})
        page = await user.call("GET", f"sync?{urlencode(query)}")
        since = page["next_batch"]
        room = page.get("rooms", {}).get("join", {}).get(room_id, {"timeline": {"events": []}})
        events = room["timeline"]["events"]
        found |= {e["content"]["body"] for e in events if e["type"] == "m.room.message"}
