"""mautrix-python as a chat client, without encryption (its own needs libolm)."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mautrix.client import Client
from mautrix.types import (
    EventType,
    Membership,
    MessageEvent,
    MessageType,
    ReceiptEvent,
    ReceiptType,
    RoomCreatePreset,
    RoomID,
    StateEvent,
    TextMessageEventContent,
    TypingEvent,
    UserID,
)

from tests.clients.chat_client import Account
from tests.clients.sightings import Invited, Joined, Message, Named, Read, Typing, View

TYPING_MILLISECONDS = 30_000


class MautrixClient:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.view = View()
        client.add_event_handler(EventType.ROOM_MEMBER, self._show_member)
        client.add_event_handler(EventType.ROOM_MESSAGE, self._show_message)
        client.add_event_handler(EventType.RECEIPT, self._show_receipts)
        client.add_event_handler(EventType.TYPING, self._show_typing)

    @property
    def user_id(self) -> str:
        return str(self._client.mxid)

    async def create_room(self, *, invite: Sequence[str], encrypted: bool = False) -> str:
        assert not encrypted, "mautrix is driven without encryption"
        return str(
            await self._client.create_room(preset=RoomCreatePreset.PRIVATE, invitees=list(invite))
        )

    async def join(self, room_id: str) -> None:
        await self._client.join_room_by_id(RoomID(room_id))

    async def send(self, room_id: str, text: str) -> str:
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        return str(await self._client.send_message(RoomID(room_id), content))

    async def mark_read(self, room_id: str, event_id: str) -> None:
        await self._client.send_receipt(RoomID(room_id), event_id)

    async def start_typing(self, room_id: str) -> None:
        await self._client.set_typing(RoomID(room_id), timeout=TYPING_MILLISECONDS)

    async def set_display_name(self, name: str) -> None:
        await self._client.set_displayname(name)

    async def _show_member(self, event: StateEvent) -> None:
        user_id = str(event.state_key)
        if event.content.membership == Membership.INVITE and user_id == self.user_id:
            self.view.show(Invited(event.room_id))
        elif event.content.membership == Membership.JOIN:
            self.view.show(Joined(event.room_id, user_id))
            if event.content.displayname:
                self.view.show(Named(event.room_id, user_id, event.content.displayname))

    async def _show_message(self, event: MessageEvent) -> None:
        if event.sender != self.user_id:
            text = event.content.body
            self.view.show(Message(event.room_id, event.sender, text, event.event_id))

    async def _show_receipts(self, event: ReceiptEvent) -> None:
        for event_id, kinds in event.content.items():
            for user_id in kinds.get(ReceiptType.READ, {}):
                self.view.show(Read(event.room_id, user_id, event_id))

    async def _show_typing(self, event: TypingEvent) -> None:
        for user_id in event.content.user_ids:
            self.view.show(Typing(event.room_id, user_id))


@asynccontextmanager
async def log_in_mautrix(base_url: str, account: Account) -> AsyncIterator[MautrixClient]:
    client = Client(mxid=UserID(account.user_id), base_url=base_url)
    syncing = None
    try:
        await client.login(password=account.password)
        chat = MautrixClient(client)
        syncing = client.start(None)
        yield chat
    finally:
        client.stop()
        if syncing:
            await syncing
        await client.api.session.close()
