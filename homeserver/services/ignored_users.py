"""Whom a user ignores.

spec: client-server-api/#ignoring-users, v1.19. Of those ignored, a client is told state events
only, and no invitation.
"""

from collections import OrderedDict

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.change_feed import ChangeFeed
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.services.account_data import GLOBAL, AccountData

_IGNORED_USERS = "m.ignored_user_list"
_MAX_REMEMBERED = 50_000


class IgnoredUsers:
    """`feed` is that of account data."""

    def __init__(self, account_data: AccountData, feed: ChangeFeed) -> None:
        self._account_data = account_data
        self._feed = feed
        self._remembered: OrderedDict[UserID, tuple[int, frozenset[UserID]]] = OrderedDict()
        """With the position of the feed at which they were read."""

    async def of(self, user_id: UserID) -> frozenset[UserID]:
        """Read only after the user's account data have changed."""
        known = self._remembered.get(user_id)
        if known is not None and not self._feed.has_changed(user_id, known[0]):
            self._remembered.move_to_end(user_id)
            return known[1]
        position = self._feed.current
        content = await self._account_data.find(user_id, GLOBAL, _IGNORED_USERS)
        ignored = _read(user_id, content or {})
        self._remembered[user_id] = (position, ignored)
        while len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return ignored


def _read(user_id: UserID, content: JsonObject) -> frozenset[UserID]:
    listed = content.get("ignored_users")
    if not isinstance(listed, dict):
        return frozenset()
    # Ignoring oneself would hide one's own words on one's own devices.
    return frozenset(UserID(name) for name in listed if name != user_id and "\0" not in name)


def is_told(found: TimelineEvent, ignored: frozenset[UserID]) -> bool:
    return found.event.is_state or found.event.sender not in ignored
