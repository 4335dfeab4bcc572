"""Keys of this server, and of others whose word it passes on.

spec: server-server-api/#retrieving-server-keys, v1.19.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import BadRequest
from homeserver.services.own_keys import OwnKeys
from homeserver.services.server_keys import ServerKeys, list_queried
from homeserver.transport.endpoint import Auth, endpoint

_MAX_SERVERS = 100


@dataclass(frozen=True)
class KeyQuery:
    server_keys: JsonObject


class KeysAPI:
    def __init__(self, own: OwnKeys, keys: ServerKeys) -> None:
        self._own = own
        self._keys = keys

    # COMPAT: older servers name the key that they want, as the specification once said.
    @endpoint(
        "getServerKey", "GET", "/_matrix/key/v2/server", auth=Auth.NONE,
        also=("/_matrix/key/v2/server/{keyId}",),
    )  # fmt: skip
    async def get_server_key(self) -> JsonObject:
        return self._own.response()

    @endpoint(
        "perspectivesKeyQuery", "GET", "/_matrix/key/v2/query/{serverName}", auth=Auth.NONE
    )  # fmt: skip
    async def perspectives_key_query(
        self, server_name: ServerName, *, minimum_valid_until_ts: int = 0
    ) -> JsonObject:
        return await self._answer([(server_name, minimum_valid_until_ts)])

    @endpoint("bulkPerspectivesKeyQuery", "POST", "/_matrix/key/v2/query", auth=Auth.NONE)
    async def bulk_perspectives_key_query(self, body: KeyQuery) -> JsonObject:
        return await self._answer(list_queried(body.server_keys))

    async def _answer(self, wanted: Sequence[tuple[ServerName, int]]) -> JsonObject:
        if len(wanted) > _MAX_SERVERS:
            raise BadRequest(f"Ask for at most {_MAX_SERVERS} servers at once")
        found: list[JsonValue] = [*await self._keys.vouch_for_all(wanted)]
        return {"server_keys": found}
