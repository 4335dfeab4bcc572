"""Typing notifications.

spec: client-server-api/#typing-notifications, v1.19.
"""

from dataclasses import dataclass

from homeserver.core.identifiers import RoomID, UserID
from homeserver.core.json_types import JsonObject
from homeserver.errors import Forbidden
from homeserver.requester import Requester
from homeserver.services.typing import DEFAULT_TIMEOUT_MS, Typing
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class TypingState:
    typing: bool
    timeout: int = DEFAULT_TIMEOUT_MS


class TypingAPI:
    """Who is writing just now."""

    def __init__(self, typing: Typing) -> None:
        self._typing = typing

    @endpoint(
        "setTyping", "PUT", "/_matrix/client/v3/rooms/{roomId}/typing/{userId}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def set_typing(
        self, requester: Requester, room_id: RoomID, user_id: UserID, body: TypingState
    ) -> JsonObject:
        if user_id != requester.user_id:
            raise Forbidden("Nobody types for somebody else")
        if body.typing:
            await self._typing.start(user_id, room_id, body.timeout)
        else:
            await self._typing.stop(user_id, room_id)
        return EMPTY
