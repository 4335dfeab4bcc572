"""What application services ask of the homeserver.

spec: application-service-api/#pinging, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.json_types import JsonObject
from homeserver.requester import Requester
from homeserver.services.appservice_ping import AppservicePing
from homeserver.transport.endpoint import Auth, endpoint


@dataclass(frozen=True)
class Ping:
    transaction_id: str | None = None


class AppservicesAPI:
    """Asking whether the homeserver reaches the service."""

    def __init__(self, ping: AppservicePing) -> None:
        self._ping = ping

    @endpoint(
        "pingAppservice", "POST", "/_matrix/client/v1/appservice/{appserviceId}/ping",
        auth=Auth.APPSERVICE,
    )  # fmt: skip
    async def ping_appservice(
        self, requester: Requester, appservice_id: str, body: Ping
    ) -> JsonObject:
        duration_ms = await self._ping.ping(requester, appservice_id, body.transaction_id)
        return {"duration_ms": duration_ms}
