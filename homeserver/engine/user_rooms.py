"""Which rooms a user is in, in memory, and how far each room has moved.

Filled from the database when a user is first asked for; kept current by the commit loop.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from twisted.internet.defer import Deferred

from homeserver.core.identifiers import RoomID, UserID
from homeserver.engine.live_room import LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.members import Member
from homeserver.storage import memberships, rooms
from homeserver.storage.database import Database

_MAX_USERS = 50_000
_MAX_STANDINGS = 500_000
"""Of all users together: some 150 MB."""
_MAX_ROOM_POSITIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class RoomOfUser:
    room_id: RoomID
    room_nid: int
    membership: str
    event_nid: int
    """Number of the membership event."""
    joined_nid: int | None
    """Number of the event that began the last stay; None: never joined."""
    left_nid: int | None
    """Number of the event that ended it."""
    whole_nid: int = 0
    """The position at which the members came that a join had been answered without."""

    @property
    def new_at(self) -> int:
        """The position at which the room was last new to the user: what he knew of it is void."""
        return max(self.joined_nid or 0, self.whole_nid)


class UserRooms:
    def __init__(self, database: Database, live_rooms: LiveRooms) -> None:
        self._db = database
        self._live_rooms = live_rooms
        self._users: OrderedDict[UserID, dict[RoomID, RoomOfUser]] = OrderedDict()
        self._forgotten: dict[UserID, dict[RoomID, RoomOfUser]] = {}
        """Of the same users; only those who have forgotten any."""
        self._standings = 0
        """How many rooms `_users` has in all."""
        self._loading: dict[UserID, list[Deferred[None]]] = {}
        self._changed_while_loading: dict[UserID, list[RoomOfUser]] = {}
        self._room_positions: dict[int, int] = {}
        self._positions_known_from = 0

    def start_at(self, position: int) -> None:
        """Room positions after this one will all be reported."""
        self._positions_known_from = position

    async def rooms_of(self, user_id: UserID) -> Mapping[RoomID, RoomOfUser]:
        """Return every room with any membership that is not forgotten. Not to be altered."""
        while True:
            known = self._users.get(user_id)
            if known is not None:
                self._users.move_to_end(user_id)
                return known
            waiting = self._loading.get(user_id)
            if waiting is None:
                break
            loaded: Deferred[None] = Deferred()
            waiting.append(loaded)
            await loaded
        self._loading[user_id] = []
        self._changed_while_loading[user_id] = []
        try:
            rows = await self._db.read(memberships.list_rooms_of_user, user_id)
            known = {}
            forgotten: dict[RoomID, RoomOfUser] = {}
            for row in rows:
                (forgotten if row.is_forgotten else known)[row.room_id] = RoomOfUser(
                    row.room_id,
                    row.room_nid,
                    memberships.NAMES[row.membership],
                    row.event_nid,
                    row.joined_nid,
                    row.left_nid,
                    row.whole_nid or 0,
                )
            for change in self._changed_while_loading[user_id]:
                forgotten.pop(change.room_id, None)
                known[change.room_id] = change
            self._users[user_id] = known
            if forgotten:
                self._forgotten[user_id] = forgotten
            self._standings += len(known) + len(forgotten)
            while len(self._users) > _MAX_USERS or (
                self._standings > _MAX_STANDINGS and len(self._users) > 1
            ):
                self.drop(next(iter(self._users)))
            return known
        finally:
            del self._changed_while_loading[user_id]
            for loaded in self._loading.pop(user_id):
                loaded.callback(None)

    def changed(self, user_id: UserID, room: LiveRoom, member: Member) -> None:
        known = self._users.get(user_id)
        if known is None and user_id not in self._changed_while_loading:
            return
        room_id = room.room_id
        change = RoomOfUser(
            room_id,
            room.room_nid,
            member.membership,
            member.event_nid,
            member.joined_nid,
            member.left_nid,
            room.whole_nid,
        )
        if known is not None:
            was_forgotten = self._forgotten.get(user_id, {}).pop(room_id, None) is not None
            self._standings += room_id not in known and not was_forgotten
            known[room_id] = change
        else:
            self._changed_while_loading[user_id].append(change)

    def drop(self, user_id: UserID) -> None:
        """Ask the database next time: nobody knows whether a commit has happened."""
        self._standings -= len(self._users.pop(user_id, ()))
        self._standings -= len(self._forgotten.pop(user_id, ()))

    async def forget(self, user_id: UserID, room: LiveRoom) -> None:
        """Leave the room out from now on, until the user is invited or joins again.

        What he has seen of it before he does not see again unless he joins.
        """
        await self._db.run(memberships.update_forgotten, user_id, room.room_nid)
        member = room.members[user_id]
        if member.membership != "join":
            room.set_member(user_id, replace(member, joined_nid=None, left_nid=None))
        standing = self._users.get(user_id, {}).pop(room.room_id, None)
        if standing is not None:
            standing = replace(standing, joined_nid=None, left_nid=None)
            self._forgotten.setdefault(user_id, {})[room.room_id] = standing

    def forgotten_since(self, user_id: UserID, position: int) -> list[RoomOfUser]:
        """Return rooms left after a position and forgotten, of a user just asked for.

        Those of his devices that have not heard of the leaving still must.
        """
        forgotten = self._forgotten.get(user_id, {}).values()
        return [room for room in forgotten if room.event_nid > position]

    async def joined(self, user_id: UserID) -> Mapping[RoomID, int]:
        """Return room id -> room number of the rooms the user is joined to."""
        known = await self.rooms_of(user_id)
        return {
            room_id: room.room_nid for room_id, room in known.items() if room.membership == "join"
        }

    async def joined_users(self, room_id: RoomID) -> list[UserID]:
        room = await self._live_rooms.find(room_id)
        return list(room.joined) if room is not None else []

    async def sharing_users(self, user_id: UserID) -> set[UserID]:
        """Return everybody who is joined to a room that this user is joined to; also himself."""
        sharing = {user_id}
        for room_id in await self.joined(user_id):
            room = await self._live_rooms.find(room_id)
            if room is not None:
                sharing |= room.joined.keys()
        return sharing

    async def share_a_room(self, one: UserID, other: UserID) -> bool:
        if one == other:
            return True
        return bool((await self.joined(one)).keys() & (await self.joined(other)).keys())

    def room_moved(self, room_nid: int, position: int) -> None:
        if len(self._room_positions) >= _MAX_ROOM_POSITIONS:
            self._positions_known_from = position
            self._room_positions.clear()
        self._room_positions[room_nid] = position

    async def moved_since(self, joined: Collection[RoomOfUser], position: int) -> list[RoomOfUser]:
        """Return those of `joined` with an event after `position`; memory knows, usually."""
        if position >= self._positions_known_from:
            positions = self._room_positions
            return [room for room in joined if positions.get(room.room_nid, 0) > position]
        last = await self._db.read(rooms.list_last_events, [room.room_nid for room in joined])
        return [room for room in joined if last.get(room.room_nid, 0) > position]

    async def last_events(self, asked: Collection[RoomOfUser]) -> Mapping[int, int]:
        """Return room number -> its newest event; from memory but for rooms not asked for yet.

        Not to be altered; rooms that the server does not know are left out.
        """
        positions = self._room_positions
        unknown = [room.room_nid for room in asked if room.room_nid not in positions]
        if unknown:
            found = await self._db.read(rooms.list_last_events, unknown)
            positions = self._room_positions
            for room_nid, position in found.items():
                positions.setdefault(room_nid, position)
        return positions
