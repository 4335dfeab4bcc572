"""Queries of a type that nobody knows.

spec: server-server-api/#querying-for-information, v1.19. Each known type of query is an operation
of its own (`directory`, `profiles`), which the router prefers; here ends what is left.
"""

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject
from homeserver.errors import Unrecognized
from homeserver.transport.endpoint import Auth, endpoint


class QueriesAPI:
    @endpoint(
        "queryInfo", "GET", "/_matrix/federation/v1/query/{queryType}", auth=Auth.FEDERATION
    )  # fmt: skip
    async def query_info(self, origin: ServerName, query_type: str) -> JsonObject:
        del origin  # nothing is known of such a type to anybody
        raise Unrecognized(f"There is no query of type {query_type[:50]}")
