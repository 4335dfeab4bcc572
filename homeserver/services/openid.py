"""Tokens by which a user proves to a third party who he is, without giving away his session.

spec: client-server-api/#openid, server-server-api/#openid, v1.19. Invariant: such a token is good
for this one question, for an hour; stored is its hash alone.
"""

import hashlib

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName, UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden, Unauthorized
from homeserver.randomness import Randomness
from homeserver.requester import Requester
from homeserver.storage import openid_tokens
from homeserver.storage.database import Database
from homeserver.storage.query import Txn

_VALID_SECONDS = 3600
_TOKEN_LETTERS = 43


class OpenID:
    def __init__(
        self, database: Database, clock: Clock, randomness: Randomness, server_name: ServerName
    ) -> None:
        self._db = database
        self._clock = clock
        self._randomness = randomness
        self._server_name = server_name

    async def request_token(self, requester: Requester, user_id: UserID) -> JsonObject:
        """Raises Forbidden for another user."""
        if requester.user_id != user_id:
            raise Forbidden("This is another user")
        token = self._randomness.token(_TOKEN_LETTERS)
        await self._db.run(add_token_txn, _hash(token), user_id, self._clock.now_ms())
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": _VALID_SECONDS,
        }

    async def exchange(self, token: str) -> UserID:
        """Return whose token it is. Raises Unauthorized."""
        found = await self._db.read(openid_tokens.find_user, _hash(token), self._clock.now_ms())
        if found is None:
            raise Unauthorized("The token is unknown or has expired", errcode="M_UNKNOWN_TOKEN")
        return found


def add_token_txn(txn: Txn, token_hash: bytes, user_id: UserID, now_ms: int) -> None:
    """Add a token; the expired ones go, so that no more are kept than an hour brings."""
    openid_tokens.delete_expired(txn, now_ms)
    openid_tokens.insert_token(txn, token_hash, user_id, now_ms + _VALID_SECONDS * 1000)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
