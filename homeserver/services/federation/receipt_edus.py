"""Read receipts between servers.

spec: server-server-api/#receipts, v1.19. Invariant: private receipts never leave this server, and
a server says of its own users alone what they have read, in rooms that it is not shut out of.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.background import Background
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import CoreError
from homeserver.core.identifiers import (
    EventID,
    RoomID,
    ServerName,
    UserID,
    parse_event_id,
    parse_room_id,
    server_name_of,
)
from homeserver.core.json_types import JsonObject
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import LiveRoom
from homeserver.errors import BadJSON, Forbidden, MatrixError, NotFound
from homeserver.services.federation.edu_contents import (
    check_user_of,
    get_number,
    get_text,
    list_members,
)
from homeserver.services.federation.room_guard import RoomGuard
from homeserver.services.federation.sender import FederationSender
from homeserver.services.federation.shared_rooms import SharedRooms
from homeserver.services.federation.transmission import EDU
from homeserver.services.receipts import READ, UNTHREADED, PublicReceipt, Receipts

logger = logging.getLogger(__name__)

RECEIPT = "m.receipt"
_MAX_ROOMS = 500
_MAX_USERS = 1_000
"""Of one EDU: in a room."""
_MAX_EARLY = 5_000
"""Receipts that came before their events."""


@dataclass(frozen=True, slots=True)
class _Early:
    origin: ServerName
    room_id: RoomID
    receipt: PublicReceipt


class ReceiptEDUs:
    def __init__(
        self,
        receipts: Receipts,
        guard: RoomGuard,
        shared_rooms: SharedRooms,
        sender: FederationSender,
        background: Background,
    ) -> None:
        self._receipts = receipts
        self._guard = guard
        self._shared_rooms = shared_rooms
        self._sender = sender
        self._background = background
        self._early: OrderedDict[tuple[EventID, UserID, str], _Early] = OrderedDict()

    def note(self, room_id: RoomID, receipt: PublicReceipt) -> None:
        """Listen to `Receipts`."""
        if server_name_of(receipt.user_id) == self._shared_rooms.server_name:
            self._background.run("receipt", self._tell(room_id, receipt))

    async def _tell(self, room_id: RoomID, receipt: PublicReceipt) -> None:
        servers = await self._shared_rooms.servers_of_room(room_id)
        if not servers:
            return
        data: JsonObject = {"ts": receipt.ts}
        if receipt.thread_id != UNTHREADED:
            data["thread_id"] = receipt.thread_id
        content: JsonObject = {
            room_id: {READ: {receipt.user_id: {"event_ids": [receipt.event_id], "data": data}}}
        }
        key = (RECEIPT, room_id, receipt.user_id, receipt.thread_id)
        self._sender.send_edu(servers, key, EDU(RECEIPT, encode_canonical_json(content)))

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        """Take in each receipt by itself: what makes no sense is left out."""
        for room_name, of_room in list_members(content, _MAX_ROOMS):
            try:
                room_id = parse_room_id(room_name)
                room = await self._guard.access_room(origin, room_id)
            except (CoreError, MatrixError) as error:
                logger.info("Receipts left out origin=%s: %s", origin, error)
                continue
            for user, of_user in list_members(of_room.get(READ), _MAX_USERS):
                try:
                    receipt = _parse(check_user_of(origin, user), of_user)
                    await self._take_in(origin, room, receipt)
                except (CoreError, MatrixError) as error:
                    logger.info("Receipt left out origin=%s: %s", origin, error)

    async def _take_in(self, origin: ServerName, room: LiveRoom, receipt: PublicReceipt) -> None:
        if not room.may_be_joined(receipt.user_id):
            raise Forbidden("The user is not in this room")
        try:
            await self._receipts.set_remote(room, receipt)
        except NotFound:
            # It may be in the very transaction that is being read: then it is here soon.
            key = (receipt.event_id, receipt.user_id, receipt.thread_id)
            self._early[key] = _Early(origin, room.room_id, receipt)
            if len(self._early) > _MAX_EARLY:
                self._early.popitem(last=False)

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Take in the receipts that came before these events."""
        if not self._early:
            return
        here = {each.event.event_id for each in committed}
        for key in [key for key in self._early if key[0] in here]:
            self._background.run("early receipt", self._take_in_early(self._early.pop(key)))

    async def _take_in_early(self, early: _Early) -> None:
        try:
            room = await self._guard.access_room(early.origin, early.room_id)
            await self._take_in(early.origin, room, early.receipt)
        except MatrixError as error:
            logger.info("Receipt left out origin=%s: %s", early.origin, error)


def _parse(user_id: UserID, of_user: JsonObject) -> PublicReceipt:
    """Raises BadJSON, IdentifierInvalid."""
    event_ids, data = of_user.get("event_ids"), of_user.get("data")
    if not isinstance(event_ids, list) or len(event_ids) != 1 or not isinstance(event_ids[0], str):
        raise BadJSON("event_ids must be a list of one event id")
    if not isinstance(data, dict):
        raise BadJSON("data must be an object")
    thread_id = get_text(data, "thread_id") if "thread_id" in data else UNTHREADED
    return PublicReceipt(user_id, parse_event_id(event_ids[0]), thread_id, get_number(data, "ts"))
