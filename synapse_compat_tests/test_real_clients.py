"""matrix-nio on one server and matrix-js-sdk on the other read each other's secrets.

spec: client-server-api/#end-to-end-encryption and server-server-api/#end-to-end-encryption, v1.19
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synapse_compat_tests.client import WAIT_SECONDS, User, eventually, register
from synapse_compat_tests.conftest import Pair
from synapse_compat_tests.servers import Server
from tests.clients.chat_client import ChatClient
from tests.clients.js_client import NodeProcess, install_js_sdk, run_node
from tests.clients.sightings import Invited, Joined, Message, Sighting
from tests.clients.stage import Stage as ClientStage

_OUTAGE_SECONDS = 120.0
"""Servers and clients wait longer and longer before they try again."""


@dataclass(frozen=True)
class Clients:
    """Where every client of this file runs: one event loop, and one Node process."""

    runner: asyncio.Runner
    node: NodeProcess

    def on(self, server: Server) -> ClientStage:
        return ClientStage(server.client_url, self.runner, self.node)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    install_js_sdk()
    log_file: Path = tmp_path_factory.mktemp("node") / "stderr.log"
    with asyncio.Runner() as runner, log_file.open("wb") as log:
        resources = AsyncExitStack()
        try:
            yield Clients(runner, runner.run(resources.enter_async_context(run_node(log))))
        finally:
            runner.run(resources.aclose())


@dataclass(frozen=True)
class Room:
    """An encrypted room: alice with nio here, bob with the JavaScript SDK there."""

    room_id: str
    alice: ChatClient
    bob: ChatClient


async def until(look: Callable[[], bool], what: str, client: ChatClient, seconds: float) -> None:
    try:
        await asyncio.to_thread(eventually, look, what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; {client.user_id} sees {client.view.shown}") from None


async def shows(client: ChatClient, sighting: Sighting) -> None:
    await until(lambda: sighting in client.view.shown, str(sighting), client, WAIT_SECONDS)


@asynccontextmanager
async def encrypted_room(clients: Clients, pair: Pair, *others: User) -> AsyncIterator[Room]:
    async with (
        clients.on(pair.here).client("nio") as alice,
        clients.on(pair.there).client("js") as bob,
    ):
        guests = [bob.user_id, *(user.user_id for user in others)]
        room_id = await alice.create_room(invite=guests, encrypted=True)
        await shows(bob, Invited(room_id))
        await bob.join(room_id)
        for user in others:
            await asyncio.to_thread(user.see_invite, room_id)
            await asyncio.to_thread(user.join, room_id)
        for client in (alice, bob):
            for user_id in (alice.user_id, *guests):
                await shows(client, Joined(room_id, user_id))
        yield Room(room_id, alice, bob)


async def tell(room: Room, sender: ChatClient, reader: ChatClient, text: str) -> None:
    """Send a text, and wait until the other side has read it."""
    event_id = await sender.send(room.room_id, text)
    await shows(reader, Message(room.room_id, sender.user_id, text, event_id, encrypted=True))


def read_by(reader: ChatClient, sender: ChatClient) -> list[Message]:
    return [
        sighting
        for sighting in reader.view.shown
        if isinstance(sighting, Message) and sighting.sender == sender.user_id
    ]


def sync_secrets(user: User, room: Room, since: str, last: str) -> list[Any]:
    """Return the encrypted messages that syncs show from there on, until this last one."""
    found: list[Any] = []

    def look(answer: Any) -> bool:
        timeline = answer.get("rooms", {}).get("join", {}).get(room.room_id, {}).get("timeline", {})
        found.extend(e for e in timeline.get("events", []) if e["type"] == "m.room.encrypted")
        return any(event["event_id"] == last for event in found)

    user.sync_until(look, since, filter=json.dumps({"room": {"timeline": {"limit": 50}}}))
    return found


def play(clients: Clients, scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    clients.runner.run(scenario())


def test_clients_on_two_servers_read_each_other(clients: Clients, pair: Pair) -> None:
    async def scenario() -> None:
        async with encrypted_room(clients, pair) as room:
            await tell(room, room.alice, room.bob, "a secret")
            await tell(room, room.bob, room.alice, "kept")
            await tell(room, room.alice, room.bob, "another one")

    play(clients, scenario)


@pytest.mark.parametrize("away", ["nios-server", "javascripts-server"])
def test_secrets_sent_during_an_outage_are_read_in_order_and_once(
    clients: Clients, pair: Pair, away: str
) -> None:
    """Someone leaves meanwhile, so that the key changes and has to outlast the outage too."""
    stopped, running = (pair.here, pair.there) if away == "nios-server" else (pair.there, pair.here)
    leaver, witness, neighbour = (
        register(running, "carol"),
        register(running, "dave"),
        register(stopped, "erin"),
    )

    async def scenario() -> None:
        async with encrypted_room(clients, pair, leaver, witness, neighbour) as room:
            sender, reader = (
                (room.bob, room.alice) if stopped is pair.here else (room.alice, room.bob)
            )
            await tell(room, sender, reader, "before")
            await tell(room, reader, sender, "answer")
            before = read_by(reader, sender)
            since = str((await asyncio.to_thread(neighbour.sync))["next_batch"])
            sent: list[Message] = []

            async def send(text: str) -> None:
                event_id = await sender.send(room.room_id, text)
                sent.append(Message(room.room_id, sender.user_id, text, event_id, encrypted=True))

            await asyncio.to_thread(stopped.process.stop)
            try:
                await send("with the old key")
                await asyncio.to_thread(leaver.leave, room.room_id)
                gone = await asyncio.to_thread(witness.send, room.room_id, "carol is gone")
                await shows(sender, Message(room.room_id, witness.user_id, "carol is gone", gone))
                for number in range(4):
                    await send(f"with the new key {number}")
            finally:
                await asyncio.to_thread(stopped.process.start)

            await until(
                lambda: set(sent) <= set(read_by(reader, sender)),
                str(sent),
                reader,
                _OUTAGE_SECONDS,
            )
            await send("welcome back")
            await shows(reader, sent[-1])
            read = read_by(reader, sender)
            last = sent[-1].event_id
            secrets = await asyncio.to_thread(sync_secrets, neighbour, room, since, last)
            # The JavaScript SDK decrypts side by side; the order it shows is that of the sync.
            assert Counter(read) == Counter([*before, *sent])
            assert [event["event_id"] for event in secrets] == [m.event_id for m in sent]
            assert len({event["content"]["session_id"] for event in secrets}) > 1
            await tell(room, reader, sender, "I am back")

    play(clients, scenario)
