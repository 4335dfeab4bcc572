"""kill -9 in the middle of 200 concurrent sends: what got a 200 is in the room, once."""

import asyncio
import collections
from pathlib import Path

import aiohttp

from tests.process.running import (
    Process,
    StrictClient,
    many_connections,
    register,
    server_on,
)

SENDS = 200
KILL_AFTER_ANSWERS = 60


def test_attack_15_kill_9_loses_nothing_that_was_acknowledged_and_doubles_nothing(
    tmp_path: Path, fresh_database: str
) -> None:
    # PostgreSQL outlives the killed server in any case: the session's serves as well as its own.
    with server_on(tmp_path, fresh_database) as process:
        asyncio.run(_scenario(process))


async def _scenario(process: Process) -> None:
    async with many_connections(process) as session:
        alice = await register(session)
        room_id = (await alice.call("POST", "createRoom", {}))["room_id"]
        acknowledged: dict[str, str] = {}
        enough = asyncio.Event()

        async def send(number: int) -> None:
            # Each sender goes on until the server is gone, so that the kill hits many at work.
            for round_number in range(50):
                body = f"{number}/{round_number}"
                path = f"rooms/{room_id}/send/m.room.message/t{number}-{round_number}"
                try:
                    answer = await alice.call("PUT", path, {"msgtype": "m.text", "body": body})
                except (aiohttp.ClientError, OSError):
                    return
                acknowledged[body] = answer["event_id"]
                if len(acknowledged) >= KILL_AFTER_ANSWERS:
                    enough.set()

        senders = [asyncio.create_task(send(number)) for number in range(SENDS)]
        await asyncio.wait_for(enough.wait(), 60)
        process.kill()
        await asyncio.gather(*senders)
    assert len(acknowledged) < SENDS * 50, "the kill came too late to prove anything"

    process.start()
    async with aiohttp.ClientSession(process.base_url) as session:
        alice = alice.at(session)
        found = await _bodies(alice, room_id)
        path = f"rooms/{room_id}/send/m.room.message/t0-0"
        again = await alice.call("PUT", path, {"msgtype": "m.text", "body": "0/0"})
    counts = collections.Counter(body for _, body in found)
    assert {body for body, count in counts.items() if count > 1} == set()
    stored = {body: event_id for event_id, body in found}
    assert {b: stored.get(b) for b in acknowledged} == acknowledged
    if "0/0" in stored:
        assert again["event_id"] == stored["0/0"]


async def _bodies(alice: StrictClient, room_id: str) -> list[tuple[str, str]]:
    found = []
    start: str | None = ""
    while start is not None:
        page = await alice.call("GET", f"rooms/{room_id}/messages?dir=f&limit=500&from={start}")
        found += [
            (event["event_id"], event["content"]["body"])
            for event in page["chunk"]
            if event["type"] == "m.room.message"
        ]
        start = page.get("end")
    return found
