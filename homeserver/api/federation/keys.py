"""Keys of this server, and of others whose word it passes on.

spec: server-server-api/#retrieving-server-keys, v1.19.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.core.errors import IdentifierInvalid
from homeserver.core.identifiers import ServerName, parse_server_name
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import BadRequest
from homeserver.services.own_keys import OwnKeys
from homeserver.services.server_keys import ServerKeys
from homeserver.transport.endpoint import Auth, RequestInfo, endpoint

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
        self, request: RequestInfo, server_name: ServerName, *, minimum_valid_until_ts: int = 0
    ) -> JsonObject:
        return await self._answer(request, [(server_name, minimum_valid_until_ts)])

    @endpoint("bulkPerspectivesKeyQuery", "POST", "/_matrix/key/v2/query", auth=Auth.NONE)
    async def bulk_perspectives_key_query(self, request: RequestInfo, body: KeyQuery) -> JsonObject:
        return await self._answer(request, _list_queried(body.server_keys))

    async def _answer(
        self, request: RequestInfo, wanted: Sequence[tuple[ServerName, int]]
    ) -> JsonObject:
        if len(wanted) > _MAX_SERVERS:
            raise BadRequest(f"Ask for at most {_MAX_SERVERS} servers at once")
        found: list[JsonValue] = [*await self._keys.vouch_for_all(wanted, request.stranger)]
        return {"server_keys": found}


def _list_queried(server_keys_of: JsonValue) -> list[tuple[ServerName, int]]:
    """Return the servers a notary is asked about, and until when the keys should be valid."""
    found = []
    for name, criteria in server_keys_of.items() if isinstance(server_keys_of, dict) else ():
        try:
            server = parse_server_name(name)
        except IdentifierInvalid:
            continue
        untils = [0]
        for criterion in criteria.values() if isinstance(criteria, dict) else ():
            until = criterion.get("minimum_valid_until_ts") if isinstance(criterion, dict) else 0
            if isinstance(until, int):
                untils.append(until)
        found.append((server, max(untils)))
    return found
