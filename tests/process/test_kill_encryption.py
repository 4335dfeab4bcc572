"""kill -9 in the middle of to-device sends and key claims: nothing is lost, nothing comes twice."""

import asyncio
import collections
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.process.running import (
    Process,
    StrictClient,
    many_connections,
    register,
    server_on,
)

WORKERS = 40
ROUNDS = 40
KEYS = 900
KILL_AFTER = 120


def test_attack_12_kill_9_loses_no_message_and_gives_no_key_out_twice(
    tmp_path: Path, fresh_database: str
) -> None:
    with server_on(tmp_path, fresh_database) as process:
        asyncio.run(_scenario(process))


async def _scenario(process: Process) -> None:
    async with many_connections(process) as session:
        alice, bob = await register(session, "alice"), await register(session, "bob")
        device = await bob.call("GET", "account/whoami")
        keys = {f"curve25519:K{n}": f"key {n}" for n in range(KEYS)}
        await bob.call("POST", "keys/upload", {"one_time_keys": keys})
        since = (await bob.call("GET", "sync"))["next_batch"]

        sent: list[str] = []
        claimed: list[str] = []
        await _work_until_killed(
            process,
            [
                lambda name: _send(alice, device, name, sent),
                lambda _name: _claim(alice, device, claimed),
            ],
            done=lambda: min(len(sent), len(claimed)) >= KILL_AFTER,
        )

    process.start()
    async with aiohttp.ClientSession(process.base_url) as session:
        alice, bob = alice.at(session), bob.at(session)
        for name in sent[:5]:
            await _send(alice, device, name, [])
        arrived = await _receive_all(bob, since)
        for _ in range(20):
            await _claim(alice, device, claimed)

    assert len(sent) < WORKERS * ROUNDS // 2, "the kill came too late to prove anything"
    assert not [name for name, n in collections.Counter(arrived).items() if n > 1]
    assert set(sent) <= set(arrived)
    assert not [key for key, n in collections.Counter(claimed).items() if n > 1]


async def _work_until_killed(
    process: Process, kinds: list[Callable[[str], Awaitable[None]]], done: Callable[[], bool]
) -> None:
    async def work(number: int) -> None:
        for turn in range(ROUNDS):
            try:
                await kinds[number % len(kinds)](f"{number}-{turn}")
            except (aiohttp.ClientError, OSError):
                return
            if done():
                process.kill()

    await asyncio.gather(*(work(number) for number in range(WORKERS)))


async def _send(sender: StrictClient, device: Any, name: str, sent: list[str]) -> None:
    messages = {device["user_id"]: {device["device_id"]: {"name": name}}}
    await sender.call("PUT", f"sendToDevice/m.test/{name}", {"messages": messages})
    sent.append(name)


async def _claim(claimer: StrictClient, device: Any, claimed: list[str]) -> None:
    wanted = {device["user_id"]: {device["device_id"]: "curve25519"}}
    answer = await claimer.call("POST", "keys/claim", {"one_time_keys": wanted})
    claimed += answer["one_time_keys"][device["user_id"]][device["device_id"]]


async def _receive_all(receiver: StrictClient, since: str) -> list[str]:
    arrived: list[str] = []
    while True:
        synced = await receiver.call("GET", f"sync?since={since}")
        events = synced.get("to_device", {}).get("events", [])
        if not events:
            return arrived
        arrived += [event["content"]["name"] for event in events]
        since = synced["next_batch"]
