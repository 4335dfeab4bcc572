"""What other servers say of spaces and rooms that this one is not in.

spec: server-server-api/#spaces, client-server-api/#discovering-rooms-within-spaces, v1.19.
Invariant: an answer stands for what the server that gave it says, and for nothing else: nobody is
told it who has not come to that server by the space he looks at.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from homeserver.clock import Clock
from homeserver.core.identifiers import RoomID, ServerName
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.services.expiring_cache import ExpiringCache
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.room_summaries import (
    clean_children,
    clean_summary,
    find_room_id,
)
from homeserver.transport.federation_client import ErrorAnswer
from homeserver.transport.outbound import RequestFailed

logger = logging.getLogger(__name__)

_KNOWN_SECONDS = 300.0
_MAX_FAILING = 1_000
_MAX_REMEMBERED_BYTES = 8 * 1_048_576
"""As JSON; in memory it is some three times as much."""
_ENTRY_BYTES = 500
_MAX_SERVERS = 3
"""Asked for one room."""
_MAX_CHILDREN = 1_000
_MAX_UNDER_WAY = 50


@dataclass(frozen=True, slots=True)
class RemoteSpace:
    summary: JsonObject
    children_state: Sequence[JsonObject]
    children: Mapping[RoomID, JsonObject]
    """Summaries of its rooms, of those that the other server knows."""
    inaccessible: frozenset[str]
    """Rooms that this server could not join, as far as the other one knows."""


@dataclass
class Allowance:
    """How many servers may be asked for the sake of one request of a client, and until when."""

    requests: int
    until: float


class RemoteSpaces:
    def __init__(self, requests: FederationRequests, clock: Clock, own_name: ServerName) -> None:
        self._requests = requests
        self._clock = clock
        self._own_name = own_name
        self._known: ExpiringCache[tuple[ServerName, RoomID, bool], tuple[RemoteSpace | None]] = (
            ExpiringCache(clock, budget=_MAX_REMEMBERED_BYTES)
        )
        self._failing: ExpiringCache[ServerName, bool] = ExpiringCache(clock, budget=_MAX_FAILING)
        """Servers that have just not answered: not asked about their other rooms, either."""
        self._under_way = 0

    def allowance(self, requests: int, seconds: float) -> Allowance:
        return Allowance(requests, self._clock.monotonic() + seconds)

    async def find(
        self,
        room_id: RoomID,
        servers: Sequence[ServerName],
        allowance: Allowance,
        *,
        suggested_only: bool,
    ) -> RemoteSpace | None:
        """Return what the first server that knows the room says; None if none does.

        Raises AllowanceSpent when there is nobody left to ask but by asking too much.
        """
        others = [server for server in servers if server != self._own_name]
        for server in others[:_MAX_SERVERS]:
            key = (server, room_id, suggested_only)
            known = self._known.find(key)
            if known is None and self._failing.find(server):
                continue
            if known is None:
                if (
                    allowance.requests <= 0
                    or self._clock.monotonic() >= allowance.until
                    or self._under_way >= _MAX_UNDER_WAY
                ):
                    raise AllowanceSpent
                allowance.requests -= 1
                known = (await self._ask(server, room_id, suggested_only=suggested_only),)
            if known[0] is not None:
                return known[0]
        return None

    async def _ask(
        self, server: ServerName, room_id: RoomID, *, suggested_only: bool
    ) -> RemoteSpace | None:
        found = None
        self._under_way += 1
        try:
            answer = await self._requests.get_hierarchy(
                server, room_id, suggested_only=suggested_only
            )
            found = _clean(answer, room_id, suggested_only=suggested_only)
        except RequestFailed as error:
            logger.info("Space not fetched server=%s room=%s: %s", server, room_id, error)
            if not isinstance(error, ErrorAnswer):
                self._failing.put(server, True, seconds=_KNOWN_SECONDS)
        finally:
            self._under_way -= 1
        key = (server, room_id, suggested_only)
        self._known.put(key, (found,), seconds=_KNOWN_SECONDS, size=_size(found))
        return found


class AllowanceSpent(Exception):
    """Other servers have been asked enough for one request."""


def _clean(answer: JsonObject, room_id: RoomID, *, suggested_only: bool) -> RemoteSpace | None:
    """Return what an answer says as far as it has the form; None if it is not of this room."""
    room = answer.get("room")
    summary = clean_summary(room)
    if summary is None or not isinstance(room, dict) or summary["room_id"] != room_id:
        return None
    children_state = clean_children(room.get("children_state"), suggested_only=suggested_only)
    children: dict[RoomID, JsonObject] = {}
    for child in _bounded(answer.get("children")):
        child_summary = clean_summary(child)
        child_id = None if child_summary is None else find_room_id(child_summary["room_id"])
        if child_summary is not None and child_id is not None:
            children[child_id] = child_summary
    inaccessible = frozenset(
        child for child in _bounded(answer.get("inaccessible_children")) if isinstance(child, str)
    )
    return RemoteSpace(summary, children_state[:_MAX_CHILDREN], children, inaccessible)


def _bounded(value: JsonValue) -> list[JsonValue]:
    return value[:_MAX_CHILDREN] if isinstance(value, list) else []


def _size(found: RemoteSpace | None) -> int:
    if found is None:
        return _ENTRY_BYTES
    told = [found.summary, list(found.children_state), list(found.children.values())]
    return _ENTRY_BYTES + len(orjson.dumps(told)) + sum(len(name) for name in found.inaccessible)
