"""Whether users of this server can be invited.

spec: client-server-api/#invite-permission, v1.19.
"""

from collections.abc import Iterable

from homeserver.core.identifiers import UserID
from homeserver.errors import Forbidden, NotFound
from homeserver.services.accounts import Accounts
from homeserver.services.ignored_users import IgnoredUsers


class Invitees:
    def __init__(self, accounts: Accounts, ignored_users: IgnoredUsers) -> None:
        self._accounts = accounts
        self._ignored_users = ignored_users

    async def check_willing(self, user_ids: Iterable[UserID]) -> None:
        """Raises Forbidden for one who blocks invitations; those of other servers are not known."""
        for user_id in user_ids:
            if await self._ignored_users.blocks_invites(user_id):
                raise Forbidden(f"{user_id} cannot be invited", errcode="M_INVITE_BLOCKED")

    async def check_account(self, user_id: UserID) -> None:
        """Raises NotFound, and Forbidden as `check_willing`."""
        account = await self._accounts.find(user_id)
        if account is None or account.is_deactivated:
            raise NotFound("There is no such user")
        await self.check_willing([user_id])
