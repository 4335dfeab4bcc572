"""What a room's next change needs and memory lacks: load it, then try again.

The commit loop builds changes without waiting for anything, so whatever it misses is named here
and loaded by whoever submitted the change.
"""

from collections.abc import Collection
from dataclasses import dataclass

from homeserver.core.identifiers import EventID, UserID

Slot = tuple[str, str]
"""(event type, state key)"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Parts of a room's event graph, by kind."""

    event_ids: Collection[EventID] = ()
    event_nids: Collection[int] = ()
    timeline: Collection[int] = ()
    """Events with all that clients are shown of them, by number."""
    states: Collection[int] = ()
    """State numbers."""
    slots: Collection[Slot] = ()
    slot_nids: Collection[int] = ()
    citations: Collection[int] = ()
    """Events whose auth events are asked for, and theirs, but none with a number..."""
    above: int = 0
    """... below this one."""
    resolution: bool = False
    """The outcome of a resolution that takes too long to be waited for."""


class NotLoaded(Exception):
    def __init__(
        self,
        what: str,
        *,
        user: UserID | None = None,
        event_type: str = "",
        slot: Slot | None = None,
        graph: Wanted | None = None,
    ) -> None:
        super().__init__(what)
        self.user = user
        self.event_type = event_type
        self.slot = slot
        self.graph = graph
        """What events from elsewhere need; events made here never do."""
