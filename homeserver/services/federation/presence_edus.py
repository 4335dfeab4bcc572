"""Presence between servers.

spec: server-server-api/#presence, v1.19. Invariant: a server says of its own users alone whether
they are there, and hears only of users it shares a room with.
"""

import logging
from collections.abc import Collection, Sequence

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.errors import CoreError
from homeserver.core.identifiers import RoomID, ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject, JsonValue
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER
from homeserver.engine.live_rooms import LiveRooms
from homeserver.errors import BadJSON, MatrixError
from homeserver.services.federation.edu_contents import get_number, get_user_of
from homeserver.services.federation.sender import FederationSender
from homeserver.services.federation.shared_rooms import SharedRooms
from homeserver.services.federation.transmission import EDU
from homeserver.services.presence import (
    MAX_STATUS_LENGTH,
    OFFLINE,
    ONLINE,
    UNAVAILABLE,
    Presence,
    RemotePresence,
)

logger = logging.getLogger(__name__)

PRESENCE = "m.presence"
_MAX_PUSHED = 1_000
"""Users of one EDU that are looked at."""
_MAX_GREETED = 100
"""Members of a room whose presence a server is told when it comes in."""
_GREET_SECONDS = 5.0
"""A server that comes in needs a moment to take in the room before it knows whom it hears of."""
REMIND_SECONDS = 1_500.0
"""Other servers are told again before they take somebody for gone."""


class PresenceEDUs:
    def __init__(
        self,
        presence: Presence,
        live_rooms: LiveRooms,
        shared_rooms: SharedRooms,
        sender: FederationSender,
        background: Background,
        clock: Clock,
    ) -> None:
        self._presence = presence
        self._live_rooms = live_rooms
        self._shared_rooms = shared_rooms
        self._sender = sender
        self._background = background
        self._clock = clock

    def note(self, changed: Collection[UserID]) -> None:
        """Listen to `Presence`."""
        ours = [user_id for user_id in changed if self._is_local(user_id)]
        if ours:
            self._background.run("presence for other servers", self._tell(ours))

    async def remind(self) -> None:
        """Tell again who is there."""
        await self._tell([u for u in self._presence.list_all_present() if self._is_local(u)])

    async def _tell(self, user_ids: Collection[UserID]) -> None:
        for user_id in user_ids:
            servers = await self._shared_rooms.servers_of_user(user_id)
            if servers:
                self._send(servers, user_id, self._presence.content_of(user_id))

    def _send(self, servers: Collection[ServerName], user_id: UserID, presence: JsonObject) -> None:
        content: JsonObject = {"push": [{"last_active_ago": 0, **presence, "user_id": user_id}]}
        edu = EDU(PRESENCE, encode_canonical_json(content))
        self._sender.send_edu(servers, (PRESENCE, user_id), edu)

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Who comes into a room is told who is there, and the others that he is."""
        for each in committed:
            event = each.event.event
            if event.type != MEMBER or event.membership != "join" or event.state_key is None:
                continue
            before = each.event.replaced
            if before is not None and before.membership == "join":
                continue
            user_id = UserID(event.state_key)
            if self._is_local(user_id):
                if self._presence.list_present([user_id]):
                    self._background.run("presence for other servers", self._tell([user_id]))
            else:
                self._greet(each.room_id, user_id)

    def _greet(self, room_id: RoomID, newcomer: UserID) -> None:
        server = server_name_of(newcomer)
        room = self._live_rooms.find_loaded(room_id)
        if room is None or server is None or room.servers.get(server, 0) > 1:
            return
        if len(room.joined) <= _MAX_GREETED:
            self._background.run("presence for a newcomer", self._welcome(room_id, server))

    async def _welcome(self, room_id: RoomID, server: ServerName) -> None:
        await self._clock.sleep(_GREET_SECONDS)
        room = self._live_rooms.find_loaded(room_id)
        if room is not None and server in room.servers:
            ours = [user_id for user_id in room.joined if self._is_local(user_id)]
            for user_id, content in self._presence.list_present(ours):
                self._send([server], user_id, content)

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        pushed = content.get("push")
        if not isinstance(pushed, list):
            raise BadJSON("push must be a list")
        for entry in pushed[:_MAX_PUSHED]:
            try:
                said = _parse(origin, entry)
                if await self._shared_rooms.is_seen_here(said.user_id):
                    self._presence.set_remote(said)
            except (CoreError, MatrixError) as error:
                logger.info("Presence left out origin=%s: %s", origin, error)

    def _is_local(self, user_id: UserID) -> bool:
        return server_name_of(user_id) == self._shared_rooms.server_name


def _parse(origin: ServerName, entry: JsonValue) -> RemotePresence:
    """Raises BadJSON, IdentifierInvalid, Forbidden."""
    if not isinstance(entry, dict):
        raise BadJSON("a presence must be an object")
    user_id = get_user_of(origin, entry)
    state = entry.get("presence")
    if not isinstance(state, str) or state not in (ONLINE, UNAVAILABLE, OFFLINE):
        raise BadJSON("presence must be online, unavailable or offline")
    status = entry.get("status_msg")
    if status is not None and (not isinstance(status, str) or len(status) > MAX_STATUS_LENGTH):
        raise BadJSON(f"status_msg must be a text of at most {MAX_STATUS_LENGTH} characters")
    idle_ms = get_number(entry, "last_active_ago") if "last_active_ago" in entry else 0
    return RemotePresence(
        user_id, state, status, idle_ms / 1000, entry.get("currently_active") is True
    )
