"""kill -9 while delayed events are due: each that was acknowledged is sent, once."""

import asyncio
import collections
import json
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tests.server_process import free_port, start_homeserver, wait_until_up

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
    asyncio.run(_scenario(tmp_path, {**SECTIONS, "database": {"url": fresh_database}}))


async def _scenario(directory: Path, sections: dict[str, Any]) -> None:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    server = start_homeserver(directory, port, sections)
    try:
        wait_until_up(server, base_url, directory)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(base_url, connector=connector) as session:
            users = [await _register(session, f"user{n}") for n in range(USERS)]
            room_ids = [await _create_room(session, token) for token in users]
            began = asyncio.get_running_loop().time()
            acknowledged: dict[str, str] = {}

            async def hand_in(user: int, number: int) -> None:
                text = f"{user}/{number}"
                passed_ms = int((asyncio.get_running_loop().time() - began) * 1000)
                due_ms = FIRST_MS + SPREAD_MS * number // EVENTS_EACH
                delay_ms = max(100, due_ms - passed_ms)
                path = f"/_matrix/client/v3/rooms/{room_ids[user]}/send/m.room.message/t{number}"
                answer = await _call(
                    session,
                    users[user],
                    "PUT",
                    f"{path}?org.matrix.msc4140.delay={delay_ms}",
                    {"msgtype": "m.text", "body": text},
                )
                acknowledged[answer["delay_id"]] = text

            await asyncio.gather(
                *(hand_in(user, number) for user in range(USERS) for number in range(EVENTS_EACH))
            )
            # In the middle of sending: some have gone out, some have not.
            await _wait_for_texts(session, users[0], room_ids[0], 1)
            before = [await _sent(session, u, r) for u, r in zip(users, room_ids, strict=True)]
            server.send_signal(signal.SIGKILL)
        server.wait()
        assert 0 < sum(map(len, before)) < USERS * EVENTS_EACH, "the kill came at a wrong time"

        server = start_homeserver(directory, port, sections)
        wait_until_up(server, base_url, directory)
        async with aiohttp.ClientSession(base_url) as session:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for token, room_id in zip(users, room_ids, strict=True):
                    await _wait_for_texts(session, token, room_id, EVENTS_EACH)
            after = [await _sent(session, u, r) for u, r in zip(users, room_ids, strict=True)]
        counts = collections.Counter(text for texts in after for text in texts)
        assert len(acknowledged) == USERS * EVENTS_EACH
        assert counts == dict.fromkeys(acknowledged.values(), 1)
        for first, whole in zip(before, after, strict=True):
            assert whole[: len(first)] == first, "what was seen before is where it was"
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(30)


async def _register(session: aiohttp.ClientSession, name: str) -> str:
    body = {"username": name, "password": "a-long-password", "auth": {"type": "m.login.dummy"}}
    async with session.post("/_matrix/client/v3/register", json=body) as response:
        assert response.status == 200
        return str((await response.json())["access_token"])


async def _create_room(session: aiohttp.ClientSession, token: str) -> str:
    answer = await _call(session, token, "POST", "/_matrix/client/v3/createRoom", {})
    return str(answer["room_id"])


async def _sent(session: aiohttp.ClientSession, token: str, room_id: str) -> list[str]:
    path = f"/_matrix/client/v3/rooms/{room_id}/messages?dir=f&limit=500"
    page = await _call(session, token, "GET", path)
    return [e["content"]["body"] for e in page["chunk"] if e["type"] == "m.room.message"]


async def _wait_for_texts(
    session: aiohttp.ClientSession, token: str, room_id: str, count: int
) -> None:
    found, since = 0, ""
    while found < count:
        query = {"timeout": "10000", "filter": FILTER} | ({"since": since} if since else {})
        page = await _call(session, token, "GET", f"/_matrix/client/v3/sync?{urlencode(query)}")
        since = page["next_batch"]
        room = page.get("rooms", {}).get("join", {}).get(room_id, {"timeline": {"events": []}})
        found += sum(e["type"] == "m.room.message" for e in room["timeline"]["events"])


async def _call(
    session: aiohttp.ClientSession, token: str, method: str, path: str, body: object = None
) -> Any:
    async with session.request(
        method,
        path,
        data=None if body is None else json.dumps(body),
        headers={"Authorization": f"Bearer {token}"},
    ) as response:
        assert response.status == 200, await response.text()
        return await response.json()
