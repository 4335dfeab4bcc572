"""Federation health, for administrators.

Not of the specification. Times are milliseconds since 1970; what is unknown or does not apply is
null. `countersign federation` shows all of this as text.
"""

from base64 import b64encode

from homeserver.core.identifiers import RoomID, ServerName
from homeserver.core.json_types import JsonObject
from homeserver.services.federation.health import DestinationHealth, FederationHealth
from homeserver.transport.endpoint import Auth, endpoint

_PATH = "/_countersign/admin/v1/federation"
_WHY = "administrators must see who cannot be reached, and why"
_MAX_LISTED = 1_000


class FederationHealthAPI:
    def __init__(self, health: FederationHealth) -> None:
        self._health = health

    @endpoint("listDestinations", "GET", f"{_PATH}/destinations", auth=Auth.ADMIN, extra=_WHY)
    async def list_destinations(self, *, limit: int = 100) -> JsonObject:
        found = await self._health.list_destinations()
        return {
            "total": len(found),
            "failing": sum(one.is_failing for one in found),
            "events_waiting": sum(one.lag.events for one in found),
            "destinations": [_body(one) for one in found[: max(0, min(limit, _MAX_LISTED))]],
        }

    @endpoint(
        "getDestination", "GET", f"{_PATH}/destinations/{{serverName}}", auth=Auth.ADMIN, extra=_WHY
    )
    async def get_destination(self, server_name: ServerName) -> JsonObject:
        found = await self._health.get_destination(server_name)
        letters = await self._health.list_dead_letters(server_name)
        return {
            **_body(found),
            "refused_items": [
                {
                    "kind": letter.kind,
                    "error": letter.error,
                    "refused_ts": letter.created_ts,
                    "item_base64": b64encode(letter.item).decode(),
                }
                for letter in letters
            ],
        }

    @endpoint(
        "retryDestination",
        "POST",
        f"{_PATH}/destinations/{{serverName}}/retry",
        auth=Auth.ADMIN,
        extra=_WHY,
    )
    async def retry_destination(self, server_name: ServerName) -> JsonObject:
        return {"is_tried": await self._health.retry(server_name)}

    @endpoint("getRoomFederation", "GET", f"{_PATH}/rooms/{{roomId}}", auth=Auth.ADMIN, extra=_WHY)
    async def get_room_federation(self, room_id: RoomID) -> JsonObject:
        found = await self._health.get_room(room_id)
        return {"servers": found.servers, "behind": [_body(one) for one in found.behind]}


def _body(one: DestinationHealth) -> JsonObject:
    row, lag = one.row, one.lag
    return {
        "server_name": row.server_name,
        "is_failing": one.is_failing,
        "is_sending": one.is_sending,
        "events_waiting": lag.events,
        "events_waiting_is_at_least": lag.is_at_least,
        "oldest_waiting_ts": lag.oldest_ts,
        "light_edus_waiting": one.light_edus,
        "stored_edus_waiting": one.stored_edus,
        "dead_letters": one.dead_letters,
        "dropped_messages": row.dropped_messages,
        "dropped_ts": row.dropped_ts,
        "failures": row.failures,
        "failing_since_ts": row.failing_since_ts,
        "next_try_ts": row.next_try_ts,
        "last_success_ts": row.last_success_ts,
        "last_cause": row.last_cause,
        "last_error": row.last_error,
    }
