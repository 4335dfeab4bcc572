"""Forward extremities: the events that a room's next event cites as its parents."""

from dataclasses import dataclass

from homeserver.core.events import Event, reference_hash
from homeserver.core.identifiers import EventID, server_name_of
from homeserver.core.room_versions import EventIDFormat


@dataclass(frozen=True, slots=True)
class Tip:
    """A forward extremity."""

    event_nid: int
    event_id: EventID
    depth: int
    state_nid: int
    """The state after it."""
    server: str
    """The sender's."""
    reference_hash: str | None
    """By which events of versions 1 and 2 name their parents; None from version 3 on."""


def make_tip(event: Event, event_nid: int, state_nid: int) -> Tip:
    is_hashed = event.room_version.event_id_format is EventIDFormat.DOMAIN
    return Tip(
        event_nid,
        event.event_id,
        event.depth,
        state_nid,
        server_name_of(event.sender) or "",
        reference_hash(event) if is_hashed else None,
    )
