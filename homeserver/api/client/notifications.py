"""Notifications. spec: client-server-api/#listing-notifications, v1.19."""

import orjson

from homeserver.requester import Requester
from homeserver.services.notifications import Notifications
from homeserver.transport.endpoint import Auth, RawJSON, endpoint


class NotificationsAPI:
    """What a user has been notified of."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    @endpoint(
        "getNotifications", "GET", "/_matrix/client/v3/notifications", auth=Auth.CLIENT,
    )  # fmt: skip
    async def get_notifications(
        self,
        requester: Requester,
        *,
        from_: str | None = None,
        limit: int | None = None,
        only: str | None = None,
    ) -> RawJSON:
        page = await self._notifications.list_newest(
            requester, from_ or None, limit, only_highlights=only == "highlight"
        )
        parts = [b'{"notifications":', page.json]
        if page.next_token is not None:
            parts += [b',"next_token":', orjson.dumps(page.next_token)]
        return RawJSON(b"".join([*parts, b"}"]))
