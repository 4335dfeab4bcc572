"""What the tests need of any stock client, and the accounts they log in with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.clients.sightings import View


@dataclass(frozen=True)
class Account:
    user_id: str
    username: str
    password: str


class ChatClient(Protocol):
    """One logged-in, syncing device of a stock client library."""

    @property
    def user_id(self) -> str: ...

    @property
    def view(self) -> View: ...

    async def create_room(self, *, invite: Sequence[str], encrypted: bool = False) -> str: ...

    async def join(self, room_id: str) -> None: ...

    async def send(self, room_id: str, text: str) -> str:
        """Send a text, encrypted if the room is, and return its event id."""
        ...

    async def mark_read(self, room_id: str, event_id: str) -> None: ...

    async def start_typing(self, room_id: str) -> None: ...

    async def set_display_name(self, name: str) -> None: ...
