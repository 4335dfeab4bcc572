"""Whom a user ignores, and whether he wants to be invited at all.

spec: client-server-api/#ignoring-users, #invite-permission, v1.19. Of those ignored, a client is
told state events only, and no invitation.
"""

from collections import OrderedDict
from dataclasses import dataclass

from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject
from homeserver.engine.change_feed import ChangeFeed
from homeserver.engine.timeline_event import TimelineEvent
from homeserver.services.account_data import GLOBAL, AccountData

_IGNORED_USERS = "m.ignored_user_list"
_INVITE_PERMISSION = "m.invite_permission_config"
_MAX_REMEMBERED = 50_000


@dataclass(slots=True)
class _Wish:
    position: int
    """Of the feed before it was read."""
    ignored: frozenset[UserID]
    blocks_invites: bool | None = None
    """None: not asked for yet. Every sync asks whom he ignores, few whether he is invited."""


class IgnoredUsers:
    """`feed` is that of account data."""

    def __init__(self, account_data: AccountData, feed: ChangeFeed) -> None:
        self._account_data = account_data
        self._feed = feed
        self._remembered: OrderedDict[UserID, _Wish] = OrderedDict()

    async def of(self, user_id: UserID) -> frozenset[UserID]:
        return (await self._find(user_id)).ignored

    async def blocks_invites(self, user_id: UserID) -> bool:
        wish = await self._find(user_id)
        if wish.blocks_invites is None:
            content = await self._account_data.find(user_id, GLOBAL, _INVITE_PERMISSION)
            wish.blocks_invites = (content or {}).get("default_action") == "block"
        return wish.blocks_invites

    async def _find(self, user_id: UserID) -> _Wish:
        """Read only after the user's account data have changed."""
        known = self._remembered.get(user_id)
        if known is not None and not self._feed.has_changed(user_id, known.position):
            self._remembered.move_to_end(user_id)
            return known
        position = self._feed.current
        content = await self._account_data.find(user_id, GLOBAL, _IGNORED_USERS)
        wish = self._remembered[user_id] = _Wish(position, _read(user_id, content or {}))
        while len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return wish


def _read(user_id: UserID, content: JsonObject) -> frozenset[UserID]:
    listed = content.get("ignored_users")
    if not isinstance(listed, dict):
        return frozenset()
    # Ignoring oneself would hide one's own words on one's own devices.
    return frozenset(UserID(name) for name in listed if name != user_id and "\0" not in name)


def is_told(found: TimelineEvent, ignored: frozenset[UserID]) -> bool:
    return found.event.is_state or found.event.sender not in ignored
