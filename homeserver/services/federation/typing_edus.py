"""Who is typing, between servers.

spec: server-server-api/#typing-notifications, v1.19. Invariant: a server says of its own users
alone that they type, in rooms that both are in and that it is not shut out of.
"""

from homeserver.background import Background
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import RoomID, ServerName, UserID, parse_room_id, server_name_of
from homeserver.core.json_types import JsonObject
from homeserver.errors import BadJSON, Forbidden
from homeserver.services.federation.edu_contents import get_text, get_user_of
from homeserver.services.federation.room_guard import RoomGuard
from homeserver.services.federation.sender import FederationSender
from homeserver.services.federation.shared_rooms import SharedRooms
from homeserver.services.federation.transmission import EDU
from homeserver.services.typing import Typing

TYPING = "m.typing"


class TypingEDUs:
    def __init__(
        self,
        typing: Typing,
        guard: RoomGuard,
        shared_rooms: SharedRooms,
        sender: FederationSender,
        background: Background,
    ) -> None:
        self._typing = typing
        self._guard = guard
        self._shared_rooms = shared_rooms
        self._sender = sender
        self._background = background

    def note(self, room_id: RoomID, user_id: UserID, *, is_typing: bool) -> None:
        """Listen to `Typing`."""
        if server_name_of(user_id) == self._shared_rooms.server_name:
            self._background.run("typing", self._tell(room_id, user_id, is_typing=is_typing))

    async def _tell(self, room_id: RoomID, user_id: UserID, *, is_typing: bool) -> None:
        servers = await self._shared_rooms.servers_of_room(room_id)
        if servers:
            content = {"room_id": room_id, "user_id": user_id, "typing": is_typing}
            edu = EDU(TYPING, encode_canonical_json(content))  # type: ignore[arg-type]  # JSON
            self._sender.send_edu(servers, (TYPING, room_id, user_id), edu)

    async def receive(self, origin: ServerName, content: JsonObject) -> None:
        user_id = get_user_of(origin, content)
        room_id = parse_room_id(get_text(content, "room_id"))
        is_typing = content.get("typing")
        if not isinstance(is_typing, bool):
            raise BadJSON("typing must be true or false")
        room = await self._guard.access_room(origin, room_id)
        is_here = self._shared_rooms.server_name in room.servers
        if not is_here or not room.may_be_joined(user_id):
            raise Forbidden("They are not in this room")
        if is_typing:
            self._typing.start_remote(user_id, room_id)
        else:
            self._typing.stop_remote(user_id, room_id)
