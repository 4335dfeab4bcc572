"""Sync. spec: client-server-api/#syncing, v1.19."""

from typing import Literal

from homeserver.requester import Requester
from homeserver.services.filters import Filters
from homeserver.services.presence import Presence
from homeserver.services.sync.service import Sync, SyncRequest
from homeserver.transport.endpoint import Auth, RawJSON, endpoint


class SyncAPI:
    """The client's view of everything, and how it learns of changes."""

    def __init__(
        self, sync: Sync, filters: Filters, presence: Presence, *, max_timeout_seconds: int
    ) -> None:
        self._sync = sync
        self._filters = filters
        self._presence = presence
        self._max_timeout_ms = max_timeout_seconds * 1000

    @endpoint(
        "sync", "GET", "/_matrix/client/v3/sync", auth=Auth.CLIENT, wire={"filter_": "filter"}
    )
    async def sync(
        self,
        requester: Requester,
        *,
        filter_: str | None = None,
        since: str | None = None,
        full_state: bool = False,
        set_presence: Literal["offline", "online", "unavailable"] = "online",
        timeout: int = 0,  # noqa: ASYNC109 - the wire name
        use_state_after: bool = False,
    ) -> RawJSON:
        wanted = SyncRequest(
            requester=requester,
            since=since or None,
            timeout_ms=max(0, min(timeout, self._max_timeout_ms)),
            chosen=await self._filters.find(requester.user_id, filter_),
            full_state=full_state,
            use_state_after=use_state_after,
        )
        with self._presence.syncing(requester.user_id, requester.device_id, set_presence):
            return RawJSON(await self._sync.sync(wanted))
