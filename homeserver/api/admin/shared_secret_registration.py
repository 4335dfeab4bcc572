"""Registration of accounts by whoever holds the server's shared secret.

Not of the specification: the API of the Synapse administration documents, which deployment tools
speak. Invariant: a nonce is good once, and for a minute.
"""

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from homeserver.clock import Clock
from homeserver.core.json_types import JsonObject
from homeserver.errors import BadRequest, Forbidden
from homeserver.randomness import Randomness
from homeserver.services.accounts import Accounts, NewAccount
from homeserver.services.sessions import NewSession, Sessions
from homeserver.transport.endpoint import Auth, RequestInfo, endpoint

_PATH = "/_synapse/admin/v1/register"
_WHY = "deployment tools register the first accounts by it"
_MAX_NONCES = 1000
_NONCE_SECONDS = 60.0
_NONCE_LETTERS = 64


@dataclass(frozen=True)
class SharedSecretRegistration:
    nonce: str
    username: str
    password: str = field(repr=False)
    mac: str = field(repr=False)
    admin: bool = False
    displayname: str | None = None
    user_type: str | None = None


class SharedSecretRegistrationAPI:
    """Accounts by proof of the shared secret; off without one.

    secret_file   read at each registration, so that it can be changed
    """

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        clock: Clock,
        randomness: Randomness,
        *,
        secret_file: Path | None,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._clock = clock
        self._randomness = randomness
        self._secret_file = secret_file
        self._nonces: OrderedDict[str, float] = OrderedDict()

    @endpoint("getRegistrationNonce", "GET", _PATH, auth=Auth.NONE, extra=_WHY)
    async def get_registration_nonce(self) -> JsonObject:
        self._read_secret()
        nonce = self._randomness.token(_NONCE_LETTERS)
        self._nonces[nonce] = self._clock.monotonic() + _NONCE_SECONDS
        if len(self._nonces) > _MAX_NONCES:
            self._nonces.popitem(last=False)
        return {"nonce": nonce}

    @endpoint("registerWithSharedSecret", "POST", _PATH, auth=Auth.NONE, extra=_WHY)
    async def register_with_shared_secret(
        self, request: RequestInfo, body: SharedSecretRegistration
    ) -> JsonObject:
        secret = self._read_secret()
        if self._nonces.pop(body.nonce, 0.0) <= self._clock.monotonic():
            raise BadRequest("The nonce is not known, was used, or is too old", errcode="M_UNKNOWN")
        if not hmac.compare_digest(_mac(secret, body).encode(), body.mac.lower().encode()):
            raise Forbidden("The MAC is wrong")
        user_id = self._accounts.make_user_id(body.username)
        await self._accounts.check_free(user_id)
        grant = self._sessions.make_grant(NewSession(client_ip=request.client_ip))
        new = NewAccount(
            user_id,
            password_hash=await self._accounts.hash_password(body.password),
            is_admin=body.admin,
            display_name=body.displayname or None,
        )
        await self._accounts.register(new, grant)
        return grant.session_body(user_id)

    def _read_secret(self) -> bytes:
        if self._secret_file is None:
            raise BadRequest("Registration by shared secret is off", errcode="M_UNKNOWN")
        return self._secret_file.read_bytes().strip()


def _mac(secret: bytes, body: SharedSecretRegistration) -> str:
    """HMAC-SHA1, as the protocol has it. NULs cannot be smuggled between the parts."""
    parts = [body.nonce, body.username, body.password, "admin" if body.admin else "notadmin"]
    if body.user_type is not None:
        parts.append(body.user_type)
    if any("\0" in part for part in parts):
        raise BadRequest("NUL is not possible here", errcode="M_UNKNOWN")
    return hmac.new(secret, "\0".join(parts).encode(), hashlib.sha1).hexdigest()
