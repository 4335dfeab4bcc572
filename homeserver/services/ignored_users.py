"""Whom a user ignores.

spec: client-server-api/#ignoring-users, v1.19
"""

from homeserver.core.identifiers import UserID
from homeserver.services.account_data import GLOBAL, AccountData

_IGNORED_USERS = "m.ignored_user_list"


class IgnoredUsers:
    def __init__(self, account_data: AccountData) -> None:
        self._account_data = account_data

    async def of(self, user_id: UserID) -> frozenset[UserID]:
        content = await self._account_data.find(user_id, GLOBAL, _IGNORED_USERS)
        listed = (content or {}).get("ignored_users")
        if not isinstance(listed, dict):
            return frozenset()
        # Ignoring oneself would hide one's own words on one's own devices.
        return frozenset(UserID(name) for name in listed if name != user_id and "\0" not in name)
