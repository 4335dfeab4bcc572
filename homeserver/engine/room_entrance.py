"""Entering rooms of other servers: a room in memory that has no state here yet.

Invariant: until a commit has given the room its state, nobody but the commit loop finds it; and
what is done to a room from outside is done one after another.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twisted.internet.defer import DeferredLock

from homeserver.core.identifiers import RoomID
from homeserver.core.room_versions import RoomVersion
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.members import Member
from homeserver.errors import BadRequest
from homeserver.storage import memberships, out_of_band, rooms
from homeserver.storage.database import Database
from homeserver.storage.memberships import MemberOfRoom
from homeserver.storage.query import Txn
from homeserver.storage.rooms import KnownRoom


class RoomEntrance:
    def __init__(self, database: Database, live_rooms: LiveRooms) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._locks: dict[RoomID, DeferredLock] = {}

    @asynccontextmanager
    async def open(
        self, room_id: RoomID, version: RoomVersion, *, is_certain: bool = False
    ) -> AsyncIterator[LiveRoom]:
        """Have the room to oneself among those who enter it; it is made known if it is not.

        is_certain  its m.room.create says that it is of this version, whatever was said of the room
                    as long as nobody here was in it: everybody can make an invitation
        Raises BadRequest when the room is known to be of another version.
        """
        lock = self._locks.setdefault(room_id, DeferredLock())
        await lock.acquire()
        try:
            room = await self._live_rooms.find(room_id)
            if room is None:
                room = await self._begin(room_id, version, is_certain=is_certain)
                self._live_rooms.enter(room)
            _check_version(room.version.id, version)
            try:
                yield room
            finally:
                self._live_rooms.end_entering(room)
        finally:
            lock.release()
            if not lock.locked:
                self._locks.pop(room_id, None)

    async def _begin(self, room_id: RoomID, version: RoomVersion, *, is_certain: bool) -> LiveRoom:
        known, members = await self._db.run(begin_txn, room_id, version, is_certain=is_certain)
        _check_version(known.room_version, version)
        room = LiveRoom(known.room_nid, room_id, version)
        for member in members:
            room.set_member(
                member.user_id,
                Member(
                    memberships.NAMES[member.membership],
                    member.event_nid,
                    member.joined_nid,
                    member.left_nid,
                    other_event=0,
                ),
            )
        return room


def begin_txn(
    txn: Txn, room_id: RoomID, version: RoomVersion, *, is_certain: bool
) -> tuple[KnownRoom, list[MemberOfRoom]]:
    """Return the room and whom is known to be invited, say, or to have been there.

    What was taken for events of another version is forgotten: it may not be readable any more.
    """
    room_nid = rooms.insert_room(txn, room_id, version.id)
    if room_nid is not None:
        return KnownRoom(room_nid, version.id), []
    known = rooms.find_room(txn, room_id)
    assert known is not None, "rooms are not deleted while the server runs"
    is_wrong = is_certain and known.room_version != version.id
    if is_wrong and rooms.correct_version(txn, known.room_nid, version.id):
        out_of_band.delete_out_of_band(txn, known.room_nid)
        known = KnownRoom(known.room_nid, version.id)
    return known, memberships.list_members(txn, known.room_nid)


def _check_version(known: str, version: RoomVersion) -> None:
    if known != version.id:
        raise BadRequest(f"The room is of version {known}", errcode="M_INCOMPATIBLE_ROOM_VERSION")
