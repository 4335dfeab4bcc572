"""What a sync asks of every room, and the part of a room's timeline that answers it."""

from dataclasses import dataclass

from homeserver.core.filters import SyncFilter
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.requester import Requester
from homeserver.services.sync.sent_members import SentTo


@dataclass(frozen=True, slots=True)
class Wish:
    """What a sync asks of every room."""

    requester: Requester
    chosen: SyncFilter
    since: int | None
    """Position in the events stream; None: an initial sync."""
    now: int
    full_state: bool
    use_state_after: bool
    sent: SentTo
    """Which member events need not be repeated."""

    @property
    def state_key(self) -> bytes:
        return b'"state_after"' if self.use_state_after else b'"state"'


@dataclass(frozen=True, slots=True)
class Span:
    """The timeline and what comes just before it."""

    timeline: list[TimelineEvent]
    """Oldest first, all that the user may see, before the filter's types."""
    is_limited: bool
    is_cut: bool = False
    """Events just before it are left out, which the filter does not ask for."""
