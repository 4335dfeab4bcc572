"""What the specification says a user may see of a room's history, worked out from the history.

spec: client-server-api/#room-history-visibility, v1.19. Written from its text and from nothing of
the server's: a list of events in the order they happened, and the rules applied to each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_KNOWN = ("world_readable", "shared", "invited", "joined")


@dataclass(frozen=True)
class Moment:
    """An event, with the rule and everybody's membership just before it and just after."""

    event: dict[str, Any]
    rule_before: str
    rule_after: str
    members_before: dict[str, str]
    members_after: dict[str, str]


class Oracle:
    """Of one room; `history` is all of its events, oldest first."""

    def __init__(self, history: Sequence[dict[str, Any]], forgotten_by: Sequence[str] = ()) -> None:
        self.moments: list[Moment] = []
        self._forgotten_by = set(forgotten_by)
        rule, members = "shared", dict[str, str]()
        for event in history:
            rule_before, members_before = rule, members
            if event["type"] == "m.room.history_visibility":
                said = event["content"].get("history_visibility")
                rule = said if said in _KNOWN else "shared"
            if event["type"] == "m.room.member":
                members = {**members, event["state_key"]: event["content"]["membership"]}
            self.moments.append(Moment(event, rule_before, rule, members_before, members))
        self.rule_now, self.members_now = rule, members
        self.places = {event["event_id"]: place for place, event in enumerate(history)}

    def membership_at(self, user_id: str, event_id: str) -> str:
        """What `unsigned.membership` has to be."""
        return self.moments[self.places[event_id]].members_after.get(user_id, "leave")

    def may_enter(self, user_id: str) -> bool:
        """Everybody into a world-readable room, else who is or was in it and has not forgotten."""
        now = self.members_now.get(user_id)
        return (
            self.rule_now == "world_readable"
            or now == "join"
            or (
                now in ("leave", "ban")
                and user_id not in self._forgotten_by
                and any(m.members_after.get(user_id) == "join" for m in self.moments)
            )
        )

    def left_at(self, user_id: str) -> int:
        """Place of the last event that he may see: the one that ended his last stay, if it did."""
        if self.rule_now == "world_readable" or self.members_now.get(user_id) == "join":
            return len(self.moments) - 1
        return max(
            (
                place
                for place, moment in enumerate(self.moments)
                if moment.members_before.get(user_id) == "join"
                and moment.members_after.get(user_id) != "join"
            ),
            default=-1,
        )

    def may_see(self, user_id: str, event_id: str) -> bool:
        """Apply the five rules; what a change of rule or of membership allows either way, it does.

        "After a user has left a room, they may see any events which they were allowed to see before
        they left the room, but no events received after they left." Stays that he has forgotten
        do not count as a joining later.
        """
        place = self.places[event_id]
        if not self.may_enter(user_id) or place > self.left_at(user_id):
            return False
        moment = self.moments[place]
        joins_later = user_id not in self._forgotten_by and any(
            later.members_before.get(user_id) != "join"
            and later.members_after.get(user_id) == "join"
            for later in self.moments[place + 1 :]
        )
        return any(
            rule == "world_readable"
            or membership == "join"
            or (rule == "shared" and joins_later)
            or (membership == "invite" and rule == "invited")
            for rule in (moment.rule_before, moment.rule_after)
            for membership in (
                moment.members_before.get(user_id),
                moment.members_after.get(user_id),
            )
        )

    def seen_by(self, user_id: str) -> list[str]:
        """Oldest first."""
        return [
            moment.event["event_id"]
            for moment in self.moments
            if self.may_see(user_id, moment.event["event_id"])
        ]

    def newest_seen_by(self, user_id: str) -> list[str]:
        """The end of what he sees, back to the first event that he does not."""
        found: list[str] = []
        for moment in reversed(self.moments[: self.left_at(user_id) + 1]):
            if not self.may_see(user_id, moment.event["event_id"]):
                break
            found.append(moment.event["event_id"])
        return found[::-1]
