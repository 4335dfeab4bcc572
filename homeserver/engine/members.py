"""How a user stands to a room, in memory, and what a membership event makes of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    membership: str
    event_nid: int
    joined_nid: int | None = None
    """Number of the event that began the last stay; None: never joined."""
    left_nid: int | None = None
    """Number of the event that ended it; None: it goes on, or there was none."""
    other_event: int | None = None
    """Number of the member event if a resolution, at `event_nid`, brought in another; 0: none."""

    @property
    def member_event(self) -> int:
        """Number of the m.room.member event in the current state; 0: there is none."""
        return self.event_nid if self.other_event is None else self.other_event


def next_member(before: Member | None, membership: str, event_nid: int) -> Member:
    """Return what a membership event makes of a member."""
    was_joined = before is not None and before.membership == "join"
    if membership == "join":
        joined_nid = before.joined_nid if before is not None and was_joined else event_nid
        return Member(membership, event_nid, joined_nid)
    if before is None:
        return Member(membership, event_nid)
    left_nid = event_nid if was_joined else before.left_nid
    return Member(membership, event_nid, before.joined_nid, left_nid)
