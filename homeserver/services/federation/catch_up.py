"""What a server has missed, read from the database.

Invariant: pages are in the order of positions, and a server is sent nothing of a room from before
it was in it, but for memberships of its own users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from homeserver.core.identifiers import RoomID, ServerName, server_name_of
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.streams import Stream
from homeserver.services.federation.transmission import MAX_PDUS
from homeserver.storage import outgoing_events
from homeserver.storage.database import Database
from homeserver.storage.outgoing_events import OutgoingPDU

MAX_MISSED = 500
"""Of one room; who has missed more is sent the last event and asks for what was before it."""
_READ_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Page:
    pdus: Sequence[bytes]
    reached: int
    """Everything up to this position that concerns the server is in the page, or was before it."""
    is_end: bool


class CatchUp:
    def __init__(
        self,
        server_name: ServerName,
        database: Database,
        live_rooms: LiveRooms,
        stream: Stream,
    ) -> None:
        self._server_name = server_name
        self._db = database
        self._live_rooms = live_rooms
        self._stream = stream

    @property
    def settled(self) -> int:
        """Nothing up to this position is still on its way into the database."""
        return self._stream.current

    async def next_page(self, server: ServerName, after: int) -> Page:
        """Return the next events for a server; the first of those after `after`."""
        up_to = self._stream.current
        rooms = await self._db.read(outgoing_events.list_outgoing_rooms, after)
        tips = {room.room_id: room.last_position for room in rooms if room.count > MAX_MISSED}
        pdus: list[bytes] = []
        since: dict[RoomID, int | None] = {}
        while True:
            rows = await self._db.read(outgoing_events.list_outgoing, after, up_to, _READ_AT_ONCE)
            for row in rows:
                is_skipped = row.room_id in tips and row.position != tips[row.room_id]
                if row.room_id not in since:
                    since[row.room_id] = await self._in_room_since(server, row.room_id)
                # That it is there no more follows from nothing later: nothing later is for it.
                if _concerns(server, row, None if is_skipped else since[row.room_id]):
                    pdus.append(row.pdu)
                after = row.position
                if len(pdus) == MAX_PDUS:
                    return Page(pdus, after, is_end=False)
            if len(rows) < _READ_AT_ONCE:
                return Page(pdus, max(after, up_to), is_end=up_to == self._stream.current)

    async def _in_room_since(self, server: ServerName, room_id: RoomID) -> int | None:
        """Return the position of the join by which a server is in a room; None: it is not."""
        room = await self._live_rooms.find(room_id)
        if room is None or server not in room.list_servers():
            return None
        return in_room_since(room, server)

    async def list_sent_away(self, after: int) -> dict[ServerName, int]:
        """Return whose users' stays have been ended since a position, and where it was last."""
        found: dict[ServerName, int] = {}
        while True:
            rows = await self._db.read(outgoing_events.list_outgoing_members, after, _READ_AT_ONCE)
            for row in rows:
                after = row.position
                for server in target_servers(orjson.loads(row.pdu)) - {self._server_name}:
                    found[server] = row.position
            if len(rows) < _READ_AT_ONCE:
                return found

    async def list_servers(self, room_id: RoomID) -> set[ServerName]:
        """Return the other servers of a room."""
        room = await self._live_rooms.find(room_id)
        if room is None:
            return set()
        return room.list_servers() - {self._server_name}


def in_room_since(room: LiveRoom, server: ServerName) -> int:
    """Return the position of the first join of its users there; 0 if none is known."""
    joined = (
        room.members[user_id].joined_nid or 0
        for user_id in room.joined
        if server_name_of(user_id) == server
    )
    return min(joined, default=0)


def _concerns(server: ServerName, row: OutgoingPDU, since: int | None) -> bool:
    if server == row.origin:
        return False
    if since is not None and row.position > since:
        return True
    return server in target_servers(orjson.loads(row.pdu))


def target_servers(pdu: object) -> set[ServerName]:
    """Return the server of the user whom a membership event is about, who may have left by it."""
    if not isinstance(pdu, dict) or pdu.get("type") != "m.room.member":
        return set()
    state_key = pdu.get("state_key")
    content = pdu.get("content")
    if not isinstance(state_key, str) or not isinstance(content, dict):
        return set()
    if content.get("membership") not in ("leave", "ban"):
        return set()  # invitations go by an operation of their own
    name = server_name_of(state_key)
    return {name} if name is not None else set()
