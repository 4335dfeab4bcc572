"""kill -9 in the middle of 200 concurrent sends: what got a 200 is in the room, once."""

import asyncio
import collections
import json
import signal
from pathlib import Path
from typing import Any

import aiohttp

from tests.server_process import free_port, start_homeserver, wait_until_up

SENDS = 200
KILL_AFTER_ANSWERS = 60


def test_attack_15_kill_9_loses_nothing_that_was_acknowledged_and_doubles_nothing(
    tmp_path: Path, fresh_database: str
) -> None:
    # PostgreSQL outlives the killed server in any case: the session's serves as well as its own.
    asyncio.run(_scenario(tmp_path, {"database": {"url": fresh_database}}))


async def _scenario(directory: Path, sections: dict[str, Any]) -> None:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    server = start_homeserver(directory, port, sections)
    try:
        wait_until_up(server, base_url, directory)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(base_url, connector=connector) as session:
            token = await _register(session)
            room_id = (await _call(session, token, "POST", "createRoom", {}))["room_id"]
            acknowledged: dict[str, str] = {}
            enough = asyncio.Event()

            async def send(number: int) -> None:
                # Each sender goes on until the server is gone, so that the kill hits many at work.
                for round_number in range(50):
                    body = f"{number}/{round_number}"
                    try:
                        answer = await _call(
                            session,
                            token,
                            "PUT",
                            f"rooms/{room_id}/send/m.room.message/t{number}-{round_number}",
                            {"msgtype": "m.text", "body": body},
                        )
                    except (aiohttp.ClientError, OSError):
                        return
                    acknowledged[body] = answer["event_id"]
                    if len(acknowledged) >= KILL_AFTER_ANSWERS:
                        enough.set()

            senders = [asyncio.create_task(send(number)) for number in range(SENDS)]
            await asyncio.wait_for(enough.wait(), 60)
            server.send_signal(signal.SIGKILL)
            await asyncio.gather(*senders)
        server.wait()
        assert len(acknowledged) < SENDS * 50, "the kill came too late to prove anything"

        server = start_homeserver(directory, port, sections)
        wait_until_up(server, base_url, directory)
        async with aiohttp.ClientSession(base_url) as session:
            found = await _bodies(session, token, room_id)
            again = await _call(
                session,
                token,
                "PUT",
                f"rooms/{room_id}/send/m.room.message/t0-0",
                {"msgtype": "m.text", "body": "0/0"},
            )
        counts = collections.Counter(body for _, body in found)
        assert {body for body, count in counts.items() if count > 1} == set()
        stored = {body: event_id for event_id, body in found}
        assert {b: stored.get(b) for b in acknowledged} == acknowledged
        if "0/0" in stored:
            assert again["event_id"] == stored["0/0"]
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(30)


async def _register(session: aiohttp.ClientSession) -> str:
    body = {
        "username": "alice",
        "password": "a-long-password",
        "auth": {"type": "m.login.dummy"},
    }
    async with session.post("/_matrix/client/v3/register", json=body) as response:
        assert response.status == 200
        return str((await response.json())["access_token"])


async def _call(
    session: aiohttp.ClientSession, token: str, method: str, path: str, body: object = None
) -> Any:
    async with session.request(
        method,
        f"/_matrix/client/v3/{path}",
        data=None if body is None else json.dumps(body),
        headers={"Authorization": f"Bearer {token}"},
    ) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def _bodies(
    session: aiohttp.ClientSession, token: str, room_id: str
) -> list[tuple[str, str]]:
    found = []
    start: str | None = ""
    while start is not None:
        page = await _call(
            session, token, "GET", f"rooms/{room_id}/messages?dir=f&limit=500&from={start}"
        )
        found += [
            (event["event_id"], event["content"]["body"])
            for event in page["chunk"]
            if event["type"] == "m.room.message"
        ]
        start = page.get("end")
    return found
