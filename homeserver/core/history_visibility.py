"""Whether a user may see an event of a room's history.

spec: client-server-api/#room-history-visibility, v1.19
Invariant: the answer depends only on the room state at the event and on whether the user joined
the room after it; nothing set later hides or shows an event.
"""

from collections.abc import Mapping
from enum import StrEnum

from homeserver.core.json_types import JsonObject, JsonValue


class HistoryVisibility(StrEnum):
    WORLD_READABLE = "world_readable"
    SHARED = "shared"
    INVITED = "invited"
    JOINED = "joined"


_KNOWN: dict[str, HistoryVisibility] = {
    visibility.value: visibility for visibility in HistoryVisibility
}


def parse_history_visibility(value: JsonValue) -> HistoryVisibility:
    """Read `history_visibility` of an event's content; absent or unknown means shared."""
    known = _KNOWN.get(value) if isinstance(value, str) else None
    return known or HistoryVisibility.SHARED


def can_see_event(
    visibility: HistoryVisibility,
    membership: str | None,
    *,
    has_joined_later: bool,
    new_visibility: HistoryVisibility | None = None,
    new_membership: str | None = None,
) -> bool:
    """Apply the visibility rules to one event and one user.

    visibility, membership           in force in the state before the event; None: never a member
    has_joined_later                 the user joined at any time after the event, even if gone since
    new_visibility, new_membership   what the event itself sets, see `find_changes`; seeing it with
                                     either the old or the new value is enough
    """
    visibilities = {visibility, new_visibility or visibility}
    memberships = {membership, new_membership or membership}
    return any(
        _is_allowed(seen_as, seen_by, has_joined_later=has_joined_later)
        for seen_as in visibilities
        for seen_by in memberships
    )


def can_server_see_event(
    visibility: HistoryVisibility,
    memberships: Mapping[str, str],
    *,
    is_in_room: bool,
    event_type: str,
    state_key: str | None,
    content: JsonObject,
) -> bool:
    """Tell whether a server may be given an event as it is: whether any of its users may see it.

    visibility   in force in the state before the event
    memberships  of the server's users in that state
    is_in_room   a user of the server is in the room now, who may see what is shared
    """
    users = [*memberships, state_key or ""] if event_type == "m.room.member" else [*memberships]
    for user_id in users or [""]:
        new_visibility, new_membership = find_changes(event_type, state_key, content, user_id)
        if can_see_event(
            visibility,
            memberships.get(user_id),
            has_joined_later=is_in_room,
            new_visibility=new_visibility,
            new_membership=new_membership,
        ):
            return True
    return False


def find_changes(
    event_type: str, state_key: str | None, content: JsonObject, user_id: str
) -> tuple[HistoryVisibility | None, str | None]:
    """Return the history visibility and the membership of this user that an event sets, if any."""
    if event_type == "m.room.history_visibility" and state_key == "":
        return parse_history_visibility(content.get("history_visibility")), None
    if event_type == "m.room.member" and state_key == user_id:
        membership = content.get("membership")
        return None, membership if isinstance(membership, str) else None
    return None, None


def _is_allowed(
    visibility: HistoryVisibility, membership: str | None, *, has_joined_later: bool
) -> bool:
    return (
        visibility is HistoryVisibility.WORLD_READABLE
        or membership == "join"
        or (visibility is HistoryVisibility.SHARED and has_joined_later)
        or (visibility is HistoryVisibility.INVITED and membership == "invite")
    )
