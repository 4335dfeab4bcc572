"""matrix-nio as a chat client, with its vodozemac encryption."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import nio
from nio.store.database import SqliteMemoryStore

from tests.clients.chat_client import Account
from tests.clients.sightings import (
    PATIENCE_SECONDS,
    Invited,
    Joined,
    Message,
    Named,
    Read,
    Typing,
    View,
)

ENCRYPTION = nio.EnableEncryptionBuilder().as_dict()


class NioClient:
    def __init__(self, client: nio.AsyncClient) -> None:
        self._client = client
        self.view = View()
        client.add_response_callback(self._show, nio.SyncResponse)

    @property
    def user_id(self) -> str:
        return str(self._client.user_id)

    async def create_room(self, *, invite: Sequence[str], encrypted: bool = False) -> str:
        response = await self._client.room_create(
            preset=nio.RoomPreset.private_chat,
            invite=invite,
            initial_state=[ENCRYPTION] if encrypted else [],
        )
        assert isinstance(response, nio.RoomCreateResponse), response
        # nio sends only into rooms that it has seen in a sync.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while response.room_id not in self._client.rooms:
                await self._client.synced.wait()
        return str(response.room_id)

    async def join(self, room_id: str) -> None:
        response = await self._client.join(room_id)
        assert isinstance(response, nio.JoinResponse), response

    async def send(self, room_id: str, text: str) -> str:
        if self._client.should_query_keys:
            await self._client.keys_query()
        response = await self._client.room_send(
            room_id,
            "m.room.message",
            {"msgtype": "m.text", "body": text},
            ignore_unverified_devices=True,
        )
        assert isinstance(response, nio.RoomSendResponse), response
        return str(response.event_id)

    async def mark_read(self, room_id: str, event_id: str) -> None:
        response = await self._client.room_read_markers(room_id, event_id, event_id)
        assert isinstance(response, nio.RoomReadMarkersResponse), response

    async def start_typing(self, room_id: str) -> None:
        response = await self._client.room_typing(room_id, typing_state=True)
        assert isinstance(response, nio.RoomTypingResponse), response

    async def set_display_name(self, name: str) -> None:
        response = await self._client.set_displayname(name)
        assert isinstance(response, nio.ProfileSetDisplayNameResponse), response

    def _show(self, response: nio.SyncResponse) -> None:
        for room_id in response.rooms.invite:
            self.view.show(Invited(room_id))
        for room_id, room in response.rooms.join.items():
            for event in [*room.state, *room.timeline.events]:
                self._show_event(room_id, event)
            for event in room.ephemeral:
                self._show_ephemeral(room_id, event)

    def _show_event(self, room_id: str, event: nio.Event) -> None:
        if isinstance(event, nio.RoomMemberEvent) and event.membership == "join":
            self.view.show(Joined(room_id, event.state_key))
            if name := event.content.get("displayname"):
                self.view.show(Named(room_id, event.state_key, name))
        elif isinstance(event, nio.RoomMessageText) and event.sender != self.user_id:
            message = Message(room_id, event.sender, event.body, event.event_id, event.decrypted)
            self.view.show(message)

    def _show_ephemeral(self, room_id: str, event: nio.EphemeralEvent) -> None:
        if isinstance(event, nio.TypingNoticeEvent):
            for user_id in event.users:
                self.view.show(Typing(room_id, user_id))
        elif isinstance(event, nio.ReceiptEvent):
            for receipt in event.receipts:
                if receipt.receipt_type == "m.read":
                    self.view.show(Read(room_id, receipt.user_id, receipt.event_id))


@asynccontextmanager
async def log_in_nio(base_url: str, account: Account) -> AsyncIterator[NioClient]:
    config = nio.AsyncClientConfig(
        encryption_enabled=True, store=SqliteMemoryStore, store_sync_tokens=False
    )
    # The store keeps everything in memory, but nio makes none without a path.
    client = nio.AsyncClient(base_url, account.username, store_path="unused", config=config)
    syncing = None
    try:
        response = await client.login(account.password)
        assert isinstance(response, nio.LoginResponse), response
        chat = NioClient(client)
        syncing = asyncio.create_task(client.sync_forever(timeout=30_000, full_state=True))
        await client.synced.wait()
        yield chat
    finally:
        if syncing:
            syncing.cancel()
            with suppress(asyncio.CancelledError):
                await syncing
        if client.store:
            client.store.database.close()
        await client.close()
