"""Filters that clients upload once and name afterwards.

spec: client-server-api/#filtering, v1.19. A filter's id is the hash of its definition, so that
the same filter uploaded again is the same filter.
"""

import hashlib
from collections import OrderedDict

from homeserver.core.canonical_json import JsonInvalid, decode_json, encode_json
from homeserver.core.filters import (
    FilterInvalid,
    RoomEventFilter,
    SyncFilter,
    parse_filter,
    parse_room_event_filter,
)
from homeserver.core.identifiers import UserID
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import BadJSON, InvalidParam, NotFound, TooLarge
from homeserver.storage import filters
from homeserver.storage.database import Database

_MAX_DEFINITION_BYTES = 65_536
_MAX_FILTERS_OF_USER = 200
_MAX_REMEMBERED = 10_000
_MAX_REMEMBERED_LENGTH = 2_048
_EVERYTHING = SyncFilter()


class Filters:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._remembered: OrderedDict[tuple[UserID, str], SyncFilter] = OrderedDict()
        """Filters never change, so this never goes stale."""

    async def define(self, user_id: UserID, definition: JsonObject) -> str:
        """Store a filter and return its id. Raises BadJSON and TooLarge."""
        try:
            parsed = parse_filter(definition)
        except FilterInvalid as error:
            raise BadJSON(str(error)) from error
        encoded = encode_json(definition)
        if len(encoded) > _MAX_DEFINITION_BYTES:
            raise TooLarge(f"A filter may have at most {_MAX_DEFINITION_BYTES} bytes")
        filter_id = hashlib.sha256(encoded).hexdigest()[:24]
        text = encoded.decode()
        await self._db.run(
            filters.insert_filter, user_id, filter_id, text, keep=_MAX_FILTERS_OF_USER
        )
        self._remember(user_id, filter_id, text, parsed)
        return filter_id

    async def get_definition(self, user_id: UserID, filter_id: str) -> bytes:
        """Return the JSON as it was uploaded. Raises NotFound."""
        found = await self._find_definition(user_id, filter_id)
        if found is None:
            raise NotFound("There is no such filter")
        return found.encode()

    async def find(self, user_id: UserID, filter_id_or_json: str | None) -> SyncFilter:
        """Return the filter named or written out; None or empty: everything.

        Raises InvalidParam.
        """
        if not filter_id_or_json:
            return _EVERYTHING
        known = self._remembered.get((user_id, filter_id_or_json))
        if known is not None:
            self._remembered.move_to_end((user_id, filter_id_or_json))
            return known
        definition: str | None = filter_id_or_json
        if not filter_id_or_json.startswith("{"):
            definition = await self._find_definition(user_id, filter_id_or_json)
        if definition is None:
            raise InvalidParam("There is no such filter")
        parsed = _parse(definition)
        self._remember(user_id, filter_id_or_json, definition, parsed)
        return parsed

    async def _find_definition(self, user_id: UserID, filter_id: str) -> str | None:
        if "\0" in filter_id:
            return None
        return await self._db.read(filters.find_filter, user_id, filter_id)

    def _remember(self, user_id: UserID, key: str, definition: str, parsed: SyncFilter) -> None:
        if len(definition) > _MAX_REMEMBERED_LENGTH:
            return
        self._remembered[(user_id, key)] = parsed
        while len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def read_room_event_filter(text: str | None) -> RoomEventFilter:
    """Read a filter written out in a query; None: everything. Raises BadJSON."""
    if text is None:
        return RoomEventFilter()
    try:
        definition: JsonValue = decode_json(text)
        return parse_room_event_filter(definition)
    except (JsonInvalid, FilterInvalid) as error:
        raise BadJSON(f"filter: {error}") from error


def _parse(text: str) -> SyncFilter:
    try:
        definition: JsonValue = decode_json(text)
        return parse_filter(definition)
    except (JsonInvalid, FilterInvalid) as error:
        raise InvalidParam(f"filter: {error}") from error
