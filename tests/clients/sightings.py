"""What a stock client shows its user, in one vocabulary for all clients.

Invariant: a client's view keeps everything ever shown, so a test may wait for a thing that has
already come by.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Invited:
    room_id: str


@dataclass(frozen=True)
class Joined:
    room_id: str
    user_id: str


@dataclass(frozen=True)
class Named:
    """A joined member goes by this display name."""

    room_id: str
    user_id: str
    name: str


@dataclass(frozen=True)
class Message:
    """A text of somebody else's; `encrypted` when it came encrypted and could be read."""

    room_id: str
    sender: str
    text: str
    event_id: str
    encrypted: bool = False


@dataclass(frozen=True)
class Read:
    """A member has read up to this event."""

    room_id: str
    user_id: str
    event_id: str


@dataclass(frozen=True)
class Typing:
    room_id: str
    user_id: str


@dataclass(frozen=True)
class OwnerSigned:
    """A user's device carries the signature of that user's own cross-signing key."""

    user_id: str
    device_id: str


Sighting = Invited | Joined | Named | Message | Read | Typing | OwnerSigned


@dataclass
class View:
    """Everything one client has shown, in order."""

    shown: list[Sighting] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, sighting: Sighting) -> None:
        self.shown.append(sighting)
        self._news.set()

    async def wait_for(self, sighting: Sighting) -> None:
        await self._wait(lambda shown: shown == sighting, repr(sighting))

    async def wait_for_text(self, room_id: str, text: str) -> None:
        """Wait for a message of whatever sender and event id."""

        def is_it(shown: Sighting) -> bool:
            return isinstance(shown, Message) and (shown.room_id, shown.text) == (room_id, text)

        await self._wait(is_it, repr(text))

    async def _wait(self, is_wanted: Callable[[Sighting], bool], wanted: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not any(map(is_wanted, self.shown)):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            listing = "\n  ".join(map(repr, self.shown))
            raise AssertionError(f"never saw {wanted}, but:\n  {listing}") from None
