"""Clients that never give up: each write is repeated until it is acknowledged.

What a server may do in trouble is refuse with 503 and Retry-After, or be away; nothing else.
"""

import asyncio
import collections
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp

PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
WORKERS = 12


class Client:
    def __init__(self, session: aiohttp.ClientSession, token: str = "") -> None:
        self.session = session
        self.token = token
        self.refusals: list[tuple[int, Any, str | None]] = []
        """(status, body, Retry-After) of all that was not 200"""

    async def once(self, method: str, path: str, body: object = None) -> Any:
        """None: refused, or the server was away."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            async with self.session.request(
                method, f"/_matrix/client/v3/{path}", json=body, headers=headers
            ) as reply:
                answer = await reply.json()
                if reply.status == 200:
                    return answer
                self.refusals.append((reply.status, answer, reply.headers.get("Retry-After")))
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        return None

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """Repeat it until it is acknowledged."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                answer = await self.once(method, path, body)
                if answer is not None:
                    return answer
                await asyncio.sleep(PAUSE_SECONDS)


async def register(session: aiohttp.ClientSession, name: str) -> Client:
    body = {"username": name, "password": "long enough", "auth": {"type": "m.login.dummy"}}
    client = Client(session)
    client.token = (await client.call("POST", "register", body))["access_token"]
    return client


class Load:
    """Alice's devices write all the time, in all the ways there are; bob follows by long polls."""

    def __init__(self, alice: Client, bob: Client, room_id: str, since: str, bob_id: Any) -> None:
        self.alice = alice
        self.bob = bob
        self.room_id = room_id
        self.since = since
        self.bob_id = bob_id
        self.events: dict[str, str] = {}
        """Event id by transaction."""
        self.states: dict[str, str] = {}
        self.to_device: set[str] = set()
        self.polled: set[str] = set()
        self.arrived: list[str] = []
        self._done = asyncio.Event()
        self._changed = asyncio.Event()

    @classmethod
    async def begin(cls, session: aiohttp.ClientSession) -> "Load":
        alice, bob = await register(session, "alice"), await register(session, "bob")
        room = await alice.call("POST", "createRoom", {"preset": "public_chat"})
        await bob.call("POST", f"rooms/{room['room_id']}/join", {})
        since = (await bob.call("GET", "sync"))["next_batch"]
        bob_id = await bob.call("GET", "account/whoami")
        return cls(alice, bob, room["room_id"], since, bob_id)

    async def run(self, disturb: Callable[[], Awaitable[None]]) -> None:
        """Write until `disturb` has ended, and let what is under way be acknowledged."""
        poller = asyncio.create_task(self._poll())
        workers = [asyncio.create_task(self._work(number)) for number in range(WORKERS)]
        try:
            await disturb()
        finally:
            self._done.set()
            await asyncio.gather(*workers)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._has_all_been_told():
                await self._next_change()
        poller.cancel()
        with suppress(asyncio.CancelledError):
            await poller

    async def more(self, count: int) -> None:
        """Wait until so many more events are acknowledged."""
        wanted = len(self.events) + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.events) < wanted:
                await self._next_change()

    def _has_all_been_told(self) -> bool:
        return set(self.events.values()) <= self.polled and self.to_device <= set(self.arrived)

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _work(self, number: int) -> None:
        for turn in itertools.count():
            if self._done.is_set():
                return
            name = f"{number}-{turn}"
            if number % 4 == 3:
                messages = {self.bob_id["user_id"]: {self.bob_id["device_id"]: {"name": name}}}
                path = f"sendToDevice/m.test/{name}"
                await self.alice.call("PUT", path, {"messages": messages})
                self.to_device.add(name)
            elif number % 4 == 2:
                path = f"rooms/{self.room_id}/state/org.test/{number}"
                await self.alice.call("PUT", path, {"name": name})
                self.states[str(number)] = name
            else:
                self.events[name] = await self.send(name)
                self._changed.set()

    async def send(self, name: str) -> str:
        path = f"rooms/{self.room_id}/send/m.room.message/{name}"
        answer = await self.alice.call("PUT", path, {"msgtype": "m.text", "body": name})
        return str(answer["event_id"])

    async def _poll(self) -> None:
        since = self.since
        while True:
            synced = await self.bob.once("GET", f"sync?timeout=30000&since={since}")
            if synced is None:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self.polled |= {event["event_id"] for event in await self._told(self.bob, synced)}
            self.arrived += [
                e["content"]["name"] for e in synced.get("to_device", {}).get("events", [])
            ]
            since = synced["next_batch"]
            self._changed.set()

    async def _told(self, client: Client, synced: Any) -> list[Any]:
        """Return the room's new events, the gap of a limited timeline filled."""
        part = synced.get("rooms", {}).get("join", {}).get(self.room_id)
        if part is None:
            return []
        events = list(part["timeline"]["events"])
        place = part["timeline"]["prev_batch"] if part["timeline"]["limited"] else None
        while place is not None:
            path = f"rooms/{self.room_id}/messages?dir=b&limit=1000&from={place}"
            page = await client.call("GET", path)
            events += page["chunk"]
            place = page.get("end")
        return events

    async def check(self) -> None:
        """Nothing acknowledged is lost, nothing is there twice, and nothing else was answered."""
        for client in (self.alice, self.bob):
            wrong = [
                refusal
                for refusal in client.refusals
                if refusal[0] != 503 or refusal[1]["errcode"] != "M_UNKNOWN" or not refusal[2]
            ]
            assert not wrong, wrong[:3]
        synced = await self.bob.call("GET", f"sync?since={self.since}")
        told = await self._told(self.bob, synced)
        found = {
            event["event_id"]: event["content"]["body"]
            for event in told
            if event["type"] == "m.room.message"
        }
        doubled = [b for b, n in collections.Counter(found.values()).items() if n > 1]
        assert not doubled, doubled
        assert {name: found.get(event_id) for name, event_id in self.events.items()} == {
            name: name for name in self.events
        }
        for name in list(self.events)[:: max(1, len(self.events) // 20)]:
            assert await self.send(name) == self.events[name]
        for key, name in self.states.items():
            path = f"rooms/{self.room_id}/state/org.test/{key}"
            assert (await self.bob.call("GET", path))["name"] == name
        assert self.to_device <= set(self.arrived)
