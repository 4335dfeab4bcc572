"""kill -9 in the middle of to-device sends and key claims: nothing is lost, nothing comes twice."""

import asyncio
import collections
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.server_process import free_port, start_homeserver, wait_until_up

WORKERS = 40
ROUNDS = 40
KEYS = 900
KILL_AFTER = 120


def test_attack_12_kill_9_loses_no_message_and_gives_no_key_out_twice(
    tmp_path: Path, fresh_database: str
) -> None:
    asyncio.run(_scenario(tmp_path, {"database": {"url": fresh_database}}))


class _Client:
    """Calls as one device; anything but 200 is a failure."""

    def __init__(self, session: aiohttp.ClientSession, token: str = "") -> None:
        self._session = session
        self.token = token

    async def call(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = f"/_matrix/client/v3/{path}"
        async with self._session.request(method, url, json=body, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json()


async def _scenario(directory: Path, sections: Mapping[str, Any]) -> None:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    server = start_homeserver(directory, port, sections)
    try:
        wait_until_up(server, base_url, directory)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(base_url, connector=connector) as session:
            alice = await _register(session, "alice")
            bob = await _register(session, "bob")
            device = await bob.call("GET", "account/whoami")
            keys = {f"curve25519:K{n}": f"key {n}" for n in range(KEYS)}
            await bob.call("POST", "keys/upload", {"one_time_keys": keys})
            since = (await bob.call("GET", "sync"))["next_batch"]

            sent: list[str] = []
            claimed: list[str] = []
            await _work_until_killed(
                server,
                [
                    lambda name: _send(alice, device, name, sent),
                    lambda _name: _claim(alice, device, claimed),
                ],
                done=lambda: min(len(sent), len(claimed)) >= KILL_AFTER,
            )
        server.wait()

        server = start_homeserver(directory, port, sections)
        wait_until_up(server, base_url, directory)
        async with aiohttp.ClientSession(base_url) as session:
            alice, bob = _Client(session, alice.token), _Client(session, bob.token)
            for name in sent[:5]:
                await _send(alice, device, name, [])
            arrived = await _receive_all(bob, since)
            for _ in range(20):
                await _claim(alice, device, claimed)

        assert len(sent) < WORKERS * ROUNDS // 2, "the kill came too late to prove anything"
        assert not [name for name, n in collections.Counter(arrived).items() if n > 1]
        assert set(sent) <= set(arrived)
        assert not [key for key, n in collections.Counter(claimed).items() if n > 1]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


async def _register(session: aiohttp.ClientSession, username: str) -> _Client:
    body = {"username": username, "password": "long enough", "auth": {"type": "m.login.dummy"}}
    return _Client(session, (await _Client(session).call("POST", "register", body))["access_token"])


async def _work_until_killed(
    server: Any, kinds: list[Callable[[str], Awaitable[None]]], done: Callable[[], bool]
) -> None:
    async def work(number: int) -> None:
        for turn in range(ROUNDS):
            try:
                await kinds[number % len(kinds)](f"{number}-{turn}")
            except (aiohttp.ClientError, OSError):
                return
            if done():
                server.send_signal(signal.SIGKILL)

    await asyncio.gather(*(work(number) for number in range(WORKERS)))


async def _send(sender: _Client, device: Any, name: str, sent: list[str]) -> None:
    messages = {device["user_id"]: {device["device_id"]: {"name": name}}}
    await sender.call("PUT", f"sendToDevice/m.test/{name}", {"messages": messages})
    sent.append(name)


async def _claim(claimer: _Client, device: Any, claimed: list[str]) -> None:
    wanted = {device["user_id"]: {device["device_id"]: "curve25519"}}
    answer = await claimer.call("POST", "keys/claim", {"one_time_keys": wanted})
    claimed += answer["one_time_keys"][device["user_id"]][device["device_id"]]


async def _receive_all(receiver: _Client, since: str) -> list[str]:
    arrived: list[str] = []
    while True:
        synced = await receiver.call("GET", f"sync?since={since}")
        events = synced.get("to_device", {}).get("events", [])
        if not events:
            return arrived
        arrived += [event["content"]["name"] for event in events]
        since = synced["next_batch"]
