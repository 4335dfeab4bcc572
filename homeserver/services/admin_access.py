"""Who may administer the server: its administrators, and whoever holds its signing key.

Accounts are administrators from their registration on (`accounts.is_admin`). Commands on the
server's own machine prove by a console token that they can read the signing key, so that nobody
must log in to find out what is broken. Invariant: a console token opens no other operation, and is
good for two hours at most.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping

from homeserver.clock import Clock
from homeserver.core.signing import SigningKey
from homeserver.errors import Forbidden
from homeserver.requester import Requester
from homeserver.services.accounts import Accounts

_HOUR_MS = 3_600_000
_PURPOSE = b"countersign console token "

Authenticate = Callable[[str, Mapping[str, str]], Awaitable[Requester]]
"""From an access token to its user. Raises UnknownToken."""


class AdminAccess:
    def __init__(
        self, accounts: Accounts, authenticate: Authenticate, signing_key: SigningKey, clock: Clock
    ) -> None:
        self._accounts = accounts
        self._authenticate = authenticate
        self._signing_key = signing_key
        self._clock = clock

    async def check(self, token: str) -> None:
        """Raise UnknownToken or Forbidden unless it is an administrator's."""
        now_ms = self._clock.now_ms()
        given = token.encode("utf-8", "surrogatepass")
        for at_ms in (now_ms, now_ms - _HOUR_MS):
            if hmac.compare_digest(given, console_token(self._signing_key, at_ms).encode()):
                return
        requester = await self._authenticate(token, {})
        account = await self._accounts.find(requester.user_id)
        if account is None or account.is_deactivated or not account.is_admin:
            raise Forbidden("Only administrators of this server may do this")


def console_token(signing_key: SigningKey, at_ms: int) -> str:
    """Return the token of the hour that is good for whoever can read the signing key."""
    hour = b"%d" % (at_ms // _HOUR_MS)
    return "console_" + hmac.new(signing_key.seed, _PURPOSE + hour, hashlib.sha256).hexdigest()
