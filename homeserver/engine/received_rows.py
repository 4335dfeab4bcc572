"""The rows that only events of other servers write; part of a room's change.

Written by `change_writer` in the transaction of the events that they are about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from homeserver.core.identifiers import ServerName
from homeserver.storage.event_graph import MissingParent, WaitingRedaction
from homeserver.storage.events import PlacedEvent
from homeserver.storage.introductions import NewIntroduction
from homeserver.storage.out_of_band import NewOutOfBand


@dataclass(frozen=True, slots=True)
class JoinedRow:
    """A join by which the server has entered a room."""

    room_nid: int
    join_nid: int
    servers: Sequence[ServerName] | None
    """Set if members were left out of the state: the servers that are in the room."""


@dataclass(slots=True)
class ReceivedRows:
    """What only events from elsewhere write."""

    placed: list[PlacedEvent] = field(default_factory=list)
    """Outliers that have found their place, and events whose place has changed."""
    missing_parents: list[MissingParent] = field(default_factory=list)
    now_known: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(room, event number, event id) of those that others may have named before they were there."""
    waiting_redactions: list[WaitingRedaction] = field(default_factory=list)
    out_of_band: list[NewOutOfBand] = field(default_factory=list)
    joined: list[JoinedRow] = field(default_factory=list)
    whole: list[tuple[int, int]] = field(default_factory=list)
    """(room, position) where the members have come that the state lacked."""
    introductions: list[NewIntroduction] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.placed or self.out_of_band or self.whole)

    @property
    def last_position(self) -> int:
        return self.out_of_band[-1].event_nid if self.out_of_band else 0

    def copy(self) -> "ReceivedRows":
        return ReceivedRows(*([*getattr(self, each.name)] for each in fields(self)))
