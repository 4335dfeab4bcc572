"""Profiles of other servers' users.

spec: server-server-api/#querying-for-information, v1.19. Invariants: only the user's own server is
asked, and not again for what it has answered a moment ago; what it says is passed on only as far
as it is a profile. Anybody may make this server ask, so what is under way is bounded.
"""

import logging
from collections import Counter

import orjson

from homeserver.clock import Clock
from homeserver.core.identifiers import (
    IdentifierInvalid,
    ServerName,
    UserID,
    parse_server_name,
    server_name_of,
)
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden, MatrixError, NotFound, ServersFailed
from homeserver.services.expiring_cache import ExpiringCache
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.profiles import MAX_FIELD_BYTES, MAX_PROFILE_BYTES
from homeserver.transport.federation_client import ErrorAnswer
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_KNOWN_SECONDS = 300.0
_FAILED_SECONDS = 30.0
"""A server that did not answer is asked again after this."""
_MAX_REMEMBERED_BYTES = 4 * 1_048_576
_ENTRY_BYTES = 500
_MAX_UNDER_WAY = 200
_MAX_UNDER_WAY_AT_ONE = 10
_TEXTS = ("displayname", "avatar_url", "m.tz")


class RemoteProfiles:
    def __init__(self, requests: FederationRequests, clock: Clock) -> None:
        self._requests = requests
        self._known: ExpiringCache[UserID, JsonObject | MatrixError] = ExpiringCache(
            clock, budget=_MAX_REMEMBERED_BYTES
        )
        self._under_way: Counter[ServerName] = Counter()

    async def fetch(self, user_id: UserID) -> JsonObject:
        """Return every field.

        Raises NotFound and Forbidden as the user's server does, ServersFailed when it gives no
        answer that is one.
        """
        known = self._known.find(user_id)
        if known is None:
            known = await self._ask(user_id)
            has_failed = isinstance(known, ServersFailed)
            size = _ENTRY_BYTES if isinstance(known, MatrixError) else len(orjson.dumps(known))
            self._known.put(
                user_id,
                known,
                seconds=_FAILED_SECONDS if has_failed else _KNOWN_SECONDS,
                size=size + _ENTRY_BYTES,
            )
        if isinstance(known, MatrixError):
            raise type(known)(known.message, errcode=known.errcode)
        return known

    async def _ask(self, user_id: UserID) -> JsonObject | MatrixError:
        try:
            server = parse_server_name(server_name_of(user_id) or "")
        except IdentifierInvalid:
            return NotFound("There is no such user")
        if (
            self._under_way[server] >= _MAX_UNDER_WAY_AT_ONE
            or self._under_way.total() >= _MAX_UNDER_WAY
        ):
            raise ServersFailed(f"{server} is being asked too much already")
        self._under_way[server] += 1
        try:
            answer = await self._requests.query_profile(server, user_id)
        except ErrorAnswer as error:
            if error.status == NotFound.status:
                return NotFound("There is no such user")
            if error.status == Forbidden.status:
                return Forbidden(f"{server} does not show this profile")
            return ServersFailed(f"{server} cannot be asked for the profile: {error}")
        except RequestFailed as error:
            logger.info("Profile not fetched server=%s: %s", server, error)
            return ServersFailed(f"{server} cannot be asked for the profile: {error}")
        finally:
            self._under_way[server] -= 1
            self._under_way += Counter()  # forget whom nobody asks any more
        profile = _clean(answer)
        return ServersFailed(f"{server} gave no profile") if profile is None else profile


def _clean(answer: JsonObject) -> JsonObject | None:
    """Leave out what cannot be a field; None if it is too much."""
    profile: JsonObject = {}
    for field, value in answer.items():
        if value is None or (field in _TEXTS and not isinstance(value, str)):
            continue
        if len(field.encode("utf-8", "surrogatepass")) <= MAX_FIELD_BYTES:
            profile[field] = value
    return profile if len(orjson.dumps(profile)) <= MAX_PROFILE_BYTES else None
