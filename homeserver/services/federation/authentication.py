"""Which server a request is from.

spec: server-server-api/#request-authentication, v1.19. Invariant: the name that comes out signed
this very request, with a key that is valid now.
"""

import logging
from collections.abc import Callable

from homeserver.core.errors import SignatureInvalid
from homeserver.core.identifiers import ServerName
from homeserver.core.request_signing import parse_authorization
from homeserver.errors import Forbidden, Unauthorized
from homeserver.services.server_keys import ServerKeys
from homeserver.transport.federation_client import AllowedServers

logger = logging.getLogger(__name__)


class ServerAuthentication:
    def __init__(
        self,
        server_name: ServerName,
        keys: ServerKeys,
        allowed: AllowedServers,
        reached: Callable[[ServerName], None],
        *,
        enabled: bool,
    ) -> None:
        """Make it.

        reached  is told of each server that a request has come from
        enabled  whether this server talks with others at all
        """
        self._reached = reached
        self._server_name = server_name
        self._keys = keys
        self._allowed = allowed
        self._is_enabled = enabled

    async def authenticate(
        self, method: str, uri: str, header: str | None, body: bytes, stranger: str | None
    ) -> ServerName:
        """Return the server that a request is from.

        stranger  as `RequestInfo` has it: whom to count what must be asked first
        Raises Unauthorized, Forbidden for a server that is not talked with, LimitExceeded.
        """
        if not self._is_enabled:
            raise Forbidden("This server does not federate")
        if header is None:
            raise _unauthorized("The Authorization header is missing: X-Matrix origin=…")
        try:
            claim = parse_authorization(header)
        except SignatureInvalid as error:
            raise _unauthorized(str(error)) from error
        if claim.destination not in (None, self._server_name):
            raise _unauthorized(f"This is {self._server_name}, not {claim.destination}")
        if claim.origin == self._server_name:
            raise _unauthorized("This server does not talk to itself")
        if not self._allowed.allows(claim.origin):
            raise Forbidden("Federation with your server is not allowed here")
        try:
            await self._keys.verify_request(
                claim, method=method, uri=uri, body=body, stranger=stranger
            )
        except SignatureInvalid as error:
            logger.info("Request not authenticated origin=%s: %s", claim.origin, error)
            raise _unauthorized(f"The request's signature is not valid: {error}") from error
        self._reached(claim.origin)
        return claim.origin


def _unauthorized(message: str) -> Unauthorized:
    return Unauthorized(message, errcode="M_UNAUTHORIZED")
