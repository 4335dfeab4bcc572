"""The directories of published rooms of other servers.

spec: server-server-api/#published-room-directory, v1.19. Invariant: what another server says of its
rooms is passed on entry by entry, as far as each has the form.
"""

from homeserver.core.identifiers import ServerName
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.errors import MatrixError, ServersFailed
from homeserver.services.federation.remote_membership import passed_on
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.public_rooms import RoomsQuery
from homeserver.services.room_summaries import clean_published_entry
from homeserver.transport.federation_client import ErrorAnswer
from homeserver.transport.outbound import RequestFailed

_MAX_PAGE = 500
_MAX_UNDER_WAY = 50
_MAX_TOKEN_LETTERS = 4_000


class RemoteDirectory:
    def __init__(self, requests: FederationRequests) -> None:
        self._requests = requests
        self._under_way = 0

    async def list_page(self, server: ServerName, query: RoomsQuery) -> JsonObject:
        """Return a page of another server's directory.

        Raises ServersFailed, and what the other server has answered.
        """
        limit = min(query.limit or _MAX_PAGE, _MAX_PAGE)
        wanted: JsonObject = {"limit": limit, "include_all_networks": query.include_all_networks}
        if query.since is not None:
            wanted["since"] = query.since
        if query.third_party_instance_id is not None:
            wanted["third_party_instance_id"] = query.third_party_instance_id
        filters: JsonObject = {}
        if query.filter.generic_search_term is not None:
            filters["generic_search_term"] = query.filter.generic_search_term
        if query.filter.room_types is not None:
            filters["room_types"] = list(query.filter.room_types)
        if filters:
            wanted["filter"] = filters
        return _clean(await self._ask(server, wanted), limit)

    async def _ask(self, server: ServerName, wanted: JsonObject) -> JsonObject:
        if self._under_way >= _MAX_UNDER_WAY:
            raise ServersFailed("Too many directories are being asked for already; try again soon")
        self._under_way += 1
        problem: MatrixError
        try:
            return await self._requests.get_public_rooms(server, wanted)
        except ErrorAnswer as error:
            problem = passed_on(error)
        except RequestFailed as error:
            problem = ServersFailed(f"{server} cannot be asked for its rooms: {error}")
        finally:
            self._under_way -= 1
        raise problem


def _clean(answer: JsonObject, limit: int) -> JsonObject:
    chunk = answer.get("chunk")
    if not isinstance(chunk, list):
        raise ServersFailed("The other server gave no list of rooms")
    entries = (clean_published_entry(entry) for entry in chunk[:limit])
    page: JsonObject = {"chunk": [entry for entry in entries if entry is not None]}
    for name in ("next_batch", "prev_batch"):
        token: JsonValue = answer.get(name)
        if isinstance(token, str) and len(token) <= _MAX_TOKEN_LETTERS:
            page[name] = token
    if type(answer.get("total_room_count_estimate")) is int:
        page["total_room_count_estimate"] = answer["total_room_count_estimate"]
    return page
