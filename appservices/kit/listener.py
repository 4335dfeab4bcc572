"""The HTTP side of an appservice: what the homeserver calls.

spec: application-service-api/#homeserver---application-service-api, v1.19
Invariant: a transaction is answered 200 only after its events are on disk. Only what is served
exists: any other path, third-party lookups included, is 404 M_UNRECOGNIZED.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from appservices.kit.errors import InboxFull
from appservices.kit.inbox import Inbox
from homeserver.core.canonical_json import decode_json
from homeserver.core.errors import JsonInvalid
from homeserver.core.identifiers import (
    IdentifierInvalid,
    RoomAlias,
    UserID,
    parse_room_alias,
    parse_user_id,
)
from homeserver.core.json_types import JsonObject, JsonValue

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
_PREFIX = "/_matrix/app/v1"
_BEARER = "Bearer "

FindUser = Callable[[UserID], Awaitable[bool]]
"""Creates the user if it should exist and says whether it does."""
FindRoom = Callable[[RoomAlias], Awaitable[bool]]


async def find_nobody(_: str) -> bool:
    """Answer for an appservice that creates nothing on demand."""
    return False


class Listener:
    def __init__(
        self,
        hs_token: str,
        inbox: Inbox,
        *,
        on_events: Callable[[], None],
        find_user: FindUser = find_nobody,
        find_room: FindRoom = find_nobody,
    ) -> None:
        self._hs_token = hs_token
        self._inbox = inbox
        self._on_events = on_events
        self._find_user = find_user
        self._find_room = find_room

    def application(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> web.Application:
        app = web.Application(client_max_size=max_body_bytes, middlewares=[self._guard])
        app.router.add_put(_PREFIX + "/transactions/{txnId}", self.send_transaction)
        app.router.add_get(_PREFIX + "/users/{userId}", self.query_user_by_id, allow_head=False)
        app.router.add_get(
            _PREFIX + "/rooms/{roomAlias}", self.query_room_by_alias, allow_head=False
        )
        app.router.add_post(_PREFIX + "/ping", self.ping)
        return app

    async def send_transaction(self, request: web.Request) -> web.StreamResponse:
        """`sendTransaction`; ephemeral data is not asked for in the registration and is ignored."""
        body = await _read_object(request)
        events = body.get("events")
        if not isinstance(events, list):
            return _error(400, "M_BAD_JSON", "events must be a list")
        try:
            added = self._inbox.accept(request.match_info["txnId"], events)
        except InboxFull:
            return _error(503, "M_LIMIT_EXCEEDED", "Too many events wait already.")
        if added:
            self._on_events()
        return web.json_response({})

    async def query_user_by_id(self, request: web.Request) -> web.StreamResponse:
        """`queryUserById`."""
        try:
            found = await self._find_user(parse_user_id(request.match_info["userId"]))
        except IdentifierInvalid:
            found = False
        return _found(found)

    async def query_room_by_alias(self, request: web.Request) -> web.StreamResponse:
        """`queryRoomByAlias`."""
        try:
            found = await self._find_room(parse_room_alias(request.match_info["roomAlias"]))
        except IdentifierInvalid:
            found = False
        return _found(found)

    async def ping(self, _: web.Request) -> web.StreamResponse:
        """`ping`: reaching this point proves the token."""
        return web.json_response({})

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Authenticate, and turn the library's errors into Matrix errors."""
        try:
            if request.match_info.http_exception is not None:
                raise request.match_info.http_exception
            return self._refuse_stranger(request) or await handler(request)
        except web.HTTPRequestEntityTooLarge:
            return _error(413, "M_TOO_LARGE", "The request is too large.")
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            return _error(error.status, "M_UNRECOGNIZED", "Not served here.")
        except JsonInvalid:
            return _error(400, "M_NOT_JSON", "The body must be a JSON object.")

    def _refuse_stranger(self, request: web.Request) -> web.StreamResponse | None:
        """Check the bearer token; a legacy access_token in the query must agree with it."""
        header = request.headers.get("Authorization", "")
        if not header.startswith(_BEARER):
            return _error(401, "M_MISSING_TOKEN", "Bearer token missing.")
        offered = [header.removeprefix(_BEARER), *request.query.getall("access_token", [])]
        expected = self._hs_token.encode()
        # Headers may hold bytes that are no UTF-8; they come as surrogates.
        matches = [
            hmac.compare_digest(token.encode("utf-8", "surrogateescape"), expected)
            for token in offered
        ]
        return None if all(matches) else _error(403, "M_FORBIDDEN", "Wrong token.")


async def _read_object(request: web.Request) -> JsonObject:
    body: JsonValue = decode_json(await request.read())
    if not isinstance(body, dict):
        raise JsonInvalid("not an object")
    return body


def _found(found: bool) -> web.Response:  # noqa: FBT001 - the one thing it says
    return web.json_response({}) if found else _error(404, "M_NOT_FOUND", "Not known here.")


def _error(status: int, errcode: str, message: str) -> web.Response:
    return web.json_response({"errcode": errcode, "error": message}, status=status)
