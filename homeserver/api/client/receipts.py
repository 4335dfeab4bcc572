"""Read receipts and read markers.

spec: client-server-api/#receipts, #read-and-unread-markers, v1.19.
"""

from dataclasses import dataclass, field
from typing import Literal

from homeserver.core.identifiers import EventID, RoomID
from homeserver.core.json_types import JsonObject
from homeserver.errors import InvalidParam
from homeserver.requester import Requester
from homeserver.services.receipts import PRIVATE_READ, READ, UNTHREADED, Receipts
from homeserver.transport.endpoint import EMPTY, Auth, endpoint


@dataclass(frozen=True)
class ReadMarkers:
    fully_read: EventID | None = field(default=None, metadata={"wire": "m.fully_read"})
    read: EventID | None = field(default=None, metadata={"wire": "m.read"})
    private_read: EventID | None = field(default=None, metadata={"wire": "m.read.private"})


class ReceiptsAPI:
    """Up to where a user has read."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts

    @endpoint(
        "postReceipt", "POST",
        "/_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def post_receipt(
        self,
        requester: Requester,
        room_id: RoomID,
        receipt_type: Literal["m.read", "m.read.private", "m.fully_read"],
        event_id: EventID,
        body: JsonObject,
    ) -> JsonObject:
        user_id = requester.user_id
        thread_id = body.get("thread_id", UNTHREADED)
        if not isinstance(thread_id, str) or ("thread_id" in body and not thread_id):
            raise InvalidParam("thread_id must be a string that is not empty")
        if receipt_type == "m.fully_read":
            if thread_id != UNTHREADED:
                raise InvalidParam("m.fully_read is of the room, not of a thread")
            await self._receipts.set_fully_read(user_id, room_id, event_id)
        else:
            await self._receipts.set_read(user_id, room_id, receipt_type, event_id, thread_id)
        return EMPTY

    @endpoint(
        "setReadMarker", "POST", "/_matrix/client/v3/rooms/{roomId}/read_markers",
        auth=Auth.CLIENT, rate_limited=True,
    )  # fmt: skip
    async def set_read_marker(
        self, requester: Requester, room_id: RoomID, body: ReadMarkers
    ) -> JsonObject:
        user_id = requester.user_id
        if body.fully_read is not None:
            await self._receipts.set_fully_read(user_id, room_id, body.fully_read)
        for kind, event_id in ((READ, body.read), (PRIVATE_READ, body.private_read)):
            if event_id is not None:
                await self._receipts.set_read(user_id, room_id, kind, event_id, UNTHREADED)
        return EMPTY
