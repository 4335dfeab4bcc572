"""Whom the events of a room may notify: its local members, grouped by equal push rules.

Part of the live room, and its newest notifications with it. Invariant: `log` holds what every event
after `log_from` said, in order, so that a count of an earlier position can be brought up to date.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from homeserver.core.display_names import NamedMembers
from homeserver.core.identifiers import UserID
from homeserver.core.push_evaluation import CompiledRuleset

_LOG_LENGTH = 300


class Verdict(NamedTuple):
    """How a member is notified of an event; None in its place: not at all."""

    actions: str
    """JSON text."""
    is_highlight: bool


@dataclass(frozen=True, slots=True)
class Notified:
    """What the push rules of all members said of one event."""

    event_nid: int
    sender: UserID
    thread_id: str
    is_mark: bool
    """By sending it, the sender has read the thread."""
    everybody: Verdict | None
    others: Mapping[str, Verdict | None]
    """Members of whom `everybody` is not true."""

    def of_member(self, user_id: UserID) -> Verdict | None:
        if user_id == self.sender:
            return None
        return self.others.get(user_id, self.everybody)


@dataclass(slots=True)
class Group:
    rules: CompiledRuleset
    members: NamedMembers = field(default_factory=NamedMembers)


class Audience:
    def __init__(self, log_from: int) -> None:
        self.groups: dict[str, Group] = {}
        """By what distinguishes their rules."""
        self.waiting: dict[UserID, str | None] = {}
        """Display names of members whose rules are yet to be looked up."""
        self.log: deque[Notified] = deque()
        self.log_from = log_from
        self.rows_since_deletion = 0
        self._key_of: dict[UserID, str] = {}

    def __len__(self) -> int:
        return len(self._key_of) + len(self.waiting)

    def set_member(self, user_id: UserID, name: str | None) -> None:
        key = self._key_of.get(user_id)
        if key is None:
            self.waiting[user_id] = name
        else:
            self.groups[key].members.add(user_id, name)

    def remove_member(self, user_id: UserID) -> None:
        self.forget_rules(user_id)
        self.waiting.pop(user_id, None)

    def set_rules(self, user_id: UserID, key: str, rules: CompiledRuleset) -> None:
        """Nothing happens when the user is no longer waited for."""
        if user_id in self.waiting:
            group = self.groups.setdefault(key, Group(rules))
            group.members.add(user_id, self.waiting.pop(user_id))
            self._key_of[user_id] = key

    def forget_rules(self, user_id: UserID) -> None:
        key = self._key_of.pop(user_id, None)
        if key is not None:
            members = self.groups[key].members
            self.waiting[user_id] = members.remove(user_id)
            if not members:
                del self.groups[key]

    def append(self, notified: Iterable[Notified]) -> None:
        self.log.extend(notified)
        while len(self.log) > _LOG_LENGTH:
            self.log_from = self.log.popleft().event_nid

    def list_after(self, event_nid: int) -> list[Notified]:
        """Oldest first; all there is when `event_nid` is not before `log_from`."""
        found = []
        for notified in reversed(self.log):
            if notified.event_nid <= event_nid:
                break
            found.append(notified)
        found.reverse()
        return found
