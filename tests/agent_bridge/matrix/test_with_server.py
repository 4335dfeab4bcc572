"""The client against a real homeserver: several people, several devices, restarts."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agent_bridge.matrix import (
    CrossSignedDevices,
    DecryptedEvent,
    DeviceTrust,
    MatrixClient,
    RequestRefused,
    TimelineEvent,
    UndecryptableEvent,
)
from homeserver.core.identifiers import EventID, RoomID
from tests.agent_bridge.matrix.people import master_key_of, news

PASSWORD = "correct horse battery staple"

ROUNDS = 20


class Crew:
    """Clients of one real server; leaving the crew closes them."""

    def __init__(self, base_url: str, directory: Path, stack: AsyncExitStack) -> None:
        self._base_url = base_url
        self._directory = directory
        self._stack = stack

    async def register(self, name: str, *, cross_signed: bool = True) -> MatrixClient:
        username = f"{name}-{secrets.token_hex(6)}"
        directory = self._directory / username
        client = await MatrixClient.register(self._base_url, directory, username, PASSWORD)
        await self._stack.enter_async_context(client)
        if cross_signed:
            await client.bootstrap_cross_signing(PASSWORD)
        return client

    async def login(self, client: MatrixClient) -> MatrixClient:
        directory = self._directory / secrets.token_hex(6)
        device = await MatrixClient.login(self._base_url, directory, client.user_id, PASSWORD)
        return await self._stack.enter_async_context(device)

    async def restart(self, client: MatrixClient) -> MatrixClient:
        await client.close()
        localpart = client.user_id[1:].partition(":")[0]
        return await self._stack.enter_async_context(
            await MatrixClient.open(self._directory / localpart)
        )


@asynccontextmanager
async def gather(base_url: str, directory: Path) -> AsyncIterator[Crew]:
    async with AsyncExitStack() as stack:
        yield Crew(base_url, directory, stack)


async def receive(client: MatrixClient, room_id: RoomID, *wanted: EventID) -> list[TimelineEvent]:
    """Sync until these events have come and return them in the order given."""
    found: dict[EventID, TimelineEvent] = {}
    for _ in range(ROUNDS):
        batch = await client.sync_once(2)
        await client.acknowledge(batch)
        assert batch.problems == ()
        found |= {event.event_id: event for event in news(batch, room_id)}
        found |= {event.event_id: event for event in batch.late}
        if found.keys() >= set(wanted):
            return [found[event_id] for event_id in wanted]
    raise AssertionError(f"only {list(found)} came")


async def settle(*clients: MatrixClient) -> None:
    """Let clients take in what the server already has for them."""
    for client in clients:
        await client.acknowledge(await client.sync_once(0))


async def meet(
    crew: Crew, *names: str, encrypted: bool = True
) -> tuple[RoomID, tuple[MatrixClient, ...]]:
    clients = tuple([await crew.register(name) for name in names])
    host, *guests = clients
    room_id = await host.create_room(
        name="Approvals", invite=[guest.user_id for guest in guests], encrypted=encrypted
    )
    for guest in guests:
        await guest.join(room_id)
    await settle(*clients)
    return room_id, clients


async def test_three_people_talk_and_know_who_said_what(matrix_server: str, tmp_path: Path) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        room_id, (alice, bob, carol) = await meet(crew, "alice", "bob", "carol")

        for speaker in (alice, bob, carol):
            event_id = await speaker.send_message(room_id, f"I am {speaker.user_id}", encrypt=True)
            for listener in (alice, bob, carol):
                (event,) = await receive(listener, room_id, event_id)
                assert isinstance(event, DecryptedEvent)
                assert event.content["body"] == f"I am {speaker.user_id}"
                assert event.device.ed25519 == speaker.ed25519_key
                assert event.device.master_key == master_key_of(speaker)
                assert event.device.trust is (
                    DeviceTrust.VERIFIED if listener is speaker else DeviceTrust.CROSS_SIGNED
                )


async def test_both_sides_go_on_after_a_restart(matrix_server: str, tmp_path: Path) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        room_id, (alice, bob) = await meet(crew, "alice", "bob")
        first = await alice.send_message(room_id, "before", encrypt=True)
        await receive(bob, room_id, first)

        bob = await crew.restart(bob)
        alice = await crew.restart(alice)
        second = await alice.send_message(room_id, "after", encrypt=True)
        third = await bob.send_message(room_id, "answer", encrypt=True)

        (event,) = await receive(bob, room_id, second)
        assert isinstance(event, DecryptedEvent)
        assert event.message_index == 1
        (event,) = await receive(alice, room_id, third)
        assert isinstance(event, DecryptedEvent)


async def test_a_replay_by_a_member_is_refused_after_a_restart(
    matrix_server: str, tmp_path: Path
) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        room_id, (alice, bob) = await meet(crew, "alice", "bob")
        event_id = await alice.send_message(room_id, "approve", encrypt=True)
        (event,) = await receive(bob, room_id, event_id)
        content = event.raw["content"]
        assert isinstance(content, dict)
        bob = await crew.restart(bob)

        replay = await alice.api.send_event(room_id, "m.room.encrypted", content, "replay")
        (again,) = await receive(bob, room_id, replay)

        assert isinstance(again, UndecryptableEvent)
        assert again.reason.value == "replayed"


async def test_an_unsigned_login_is_seen_as_such_and_reads_nothing(
    matrix_server: str, tmp_path: Path
) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        room_id, (alice, bob) = await meet(crew, "alice", "bob")
        thief = await crew.login(bob)
        await settle(thief)
        await alice.refresh_devices([bob.user_id])

        policy = CrossSignedDevices({bob.user_id: master_key_of(bob)})
        secret = await alice.send_message(room_id, "secret", encrypt=True, policy=policy)
        forged = await thief.send_message(room_id, "approve", encrypt=True)

        (event,) = await receive(bob, room_id, secret)
        assert isinstance(event, DecryptedEvent)
        (event,) = await receive(thief, room_id, secret)
        assert isinstance(event, UndecryptableEvent)
        (event,) = await receive(alice, room_id, forged)
        assert isinstance(event, DecryptedEvent)
        assert event.device.trust is DeviceTrust.UNSIGNED
        assert event.device.device_id == thief.device_id

        await bob.refresh_devices([bob.user_id])
        await bob.sign_own_device(thief.device_id, thief.ed25519_key)
        await alice.refresh_devices([bob.user_id])
        assert alice.trust_of(bob.user_id, thief.device_id) is DeviceTrust.CROSS_SIGNED


async def test_a_logged_out_device_is_revoked(matrix_server: str, tmp_path: Path) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        _, (alice, bob) = await meet(crew, "alice", "bob")
        spare = await crew.login(bob)
        await alice.refresh_devices([bob.user_id])
        assert alice.trust_of(bob.user_id, spare.device_id) is DeviceTrust.UNSIGNED

        await spare.logout()
        await alice.refresh_devices([bob.user_id])

        assert alice.trust_of(bob.user_id, spare.device_id) is DeviceTrust.REVOKED
        assert alice.trust_of(bob.user_id, bob.device_id) is DeviceTrust.CROSS_SIGNED


async def test_a_long_gap_is_filled(matrix_server: str, tmp_path: Path) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        room_id, (alice, bob) = await meet(crew, "alice", "bob")
        sent = [
            await alice.send_message(room_id, f"{number}", encrypt=True) for number in range(130)
        ]

        batch = await bob.sync_once(0)

        events = news(batch, room_id)
        assert [event.event_id for event in events] == sent
        assert all(isinstance(event, DecryptedEvent) for event in events)
        assert not batch.rooms[room_id].gap_unfilled


async def test_a_signature_on_a_user_survives_the_server(
    matrix_server: str, tmp_path: Path
) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        _, (alice, bob) = await meet(crew, "alice", "bob")
        await alice.refresh_devices([bob.user_id])

        await alice.sign_user(bob.user_id, master_key_of(bob))

        assert alice.trust_of(bob.user_id, bob.device_id) is DeviceTrust.VERIFIED
        chain = alice.find_device_chain(bob.user_id, bob.device_id)
        assert chain is not None


async def test_plain_rooms_state_invites_and_redactions(matrix_server: str, tmp_path: Path) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        alice = await crew.register("alice", cross_signed=False)
        bob = await crew.register("bob", cross_signed=False)
        room_id = await alice.create_room(name="Plain", encrypted=False)
        await alice.invite(room_id, bob.user_id)
        batch = await bob.sync_once(2)
        assert room_id in batch.invites
        await bob.acknowledge(batch)
        await bob.join(room_id)

        assert await alice.get_state(room_id, "org.example.none") is None
        await alice.send_state(room_id, "org.example.x", "key", {"a": 1})
        assert await bob.get_state(room_id, "org.example.x", "key") == {"a": 1}
        first = await alice.send_message(room_id, "plain", encrypt=False, txn_id="once")
        again = await alice.send_message(room_id, "plain", encrypt=False, txn_id="once")
        assert first == again
        (event,) = await receive(bob, room_id, first)
        assert event.encrypted is False
        await alice.redact(room_id, first, "enough")
        redacted = await bob.api.get_event(room_id, first)
        assert redacted["content"] == {}
        await bob.leave(room_id)
        left = await bob.sync_once(2)
        assert room_id in left.left
        with pytest.raises(RequestRefused) as refused:
            await bob.send_message(room_id, "too late", encrypt=False)
        assert refused.value.errcode == "M_FORBIDDEN"


async def test_an_account_is_known_and_named_as_its_owner_says(
    matrix_server: str, tmp_path: Path
) -> None:
    async with gather(matrix_server, tmp_path) as crew:
        alice = await crew.register("alice", cross_signed=False)

        await alice.api.set_display_name(alice.user_id, "Alice")

        assert "v1.11" in await alice.api.versions()
        assert (await alice.api.whoami())["device_id"] == alice.device_id
        assert (await alice.api.get_profile(alice.user_id))["displayname"] == "Alice"
