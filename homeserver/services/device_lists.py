"""Whose keys have changed, so that clients ask for them again.

spec: client-server-api/#tracking-the-device-list-for-a-user, #e2e-extensions-to-sync, v1.19
Invariant: a change of keys has its position in the transaction that makes it; only the deletion of
devices is settled right after its own transaction, or at the next start.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, TypeVar

from homeserver.background import Background
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER, LiveRoom
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.notifier import Notifier
from homeserver.engine.stream_writer import StreamWriter
from homeserver.engine.streams import Streams
from homeserver.engine.user_rooms import RoomOfUser, UserRooms
from homeserver.errors import MatrixError
from homeserver.services.sync.token import parse_token
from homeserver.storage import cross_signing_keys, device_keys, device_lists, device_updates
from homeserver.storage.database import Database
from homeserver.storage.dictionaries import find_user_nid
from homeserver.storage.query import Txn

T = TypeVar("T")
_MAX_REMEMBERED = 100_000
_FEW = 50
"""Users whose rooms are compared one by one; for more, everybody's in the user's rooms are."""


@dataclass(frozen=True, slots=True)
class KeyChange(Generic[T]):
    """What a transaction has done to keys."""

    result: T
    changed: bool
    """Everybody who shares a room with the user must hear of it."""
    signed_others: bool = False
    """The user has signed keys of others: his own devices must hear of it."""


class _Changes:
    """The last position of each user, in memory, for changes after `known_from`."""

    def __init__(self) -> None:
        self.known_from = 0
        self._last: OrderedDict[UserID, int] = OrderedDict()

    def add(self, user_id: UserID, position: int) -> None:
        # Transactions may end out of order. A larger position than the true one only makes a
        # client ask once more; a smaller one would break the order of `since`.
        newest = next(reversed(self._last.values()), 0)
        self._last[user_id] = max(position, newest)
        self._last.move_to_end(user_id)
        if len(self._last) > _MAX_REMEMBERED:
            _, self.known_from = self._last.popitem(last=False)

    def forget(self, position: int) -> None:
        """Let the database say what happened up to `position`."""
        self.known_from = max(self.known_from, position)

    def since(self, position: int) -> list[UserID] | None:
        """Return who changed after `position`, newest first; None: the database must say."""
        if position < self.known_from:
            return None
        newest_first = reversed(self._last.items())
        return [user_id for user_id, _ in takewhile(lambda one: one[1] > position, newest_first)]

    def has_changed(self, user_id: UserID, position: int) -> bool:
        """Tell whether the user may have changed after `position`."""
        return position < self.known_from or self._last.get(user_id, 0) > position


class DeviceLists:
    def __init__(
        self,
        database: Database,
        streams: Streams,
        notifier: Notifier[Committed],
        background: Background,
        user_rooms: UserRooms,
        live_rooms: LiveRooms,
    ) -> None:
        self._db = database
        self._streams = streams
        self._notifier = notifier
        self._writer = StreamWriter(streams.device_lists, background)
        self._user_rooms = user_rooms
        self._live_rooms = live_rooms
        self._changed = _Changes()
        self._signed = _Changes()
        self._listeners: list[Callable[[UserID], None]] = []

    def subscribe(self, listener: Callable[[UserID], None]) -> None:
        """Call `listener` with each user whose keys have changed, local or not."""
        self._listeners.append(listener)

    async def start_at(self, position: int) -> None:
        """Begin after `position`, and settle what the last process did not get to."""
        stream = self._streams.device_lists
        stream.start_at(position)
        await stream.write(lambda first: self._db.run(device_lists.settle_pending, first))
        self._changed.forget(stream.current)
        self._signed.forget(stream.current)

    async def write(
        self, user_id: UserID, transaction: Callable[[int], Awaitable[KeyChange[T]]]
    ) -> T:
        """Run a transaction that may change keys of the user, and tell whom it concerns.

        `transaction` gets the position that it must store with what it changes.
        """

        async def run(position: int) -> KeyChange[T]:
            try:
                change = await transaction(position)
            except MatrixError:
                raise
            except BaseException:
                # Whether it was committed may not be known: let the database say.
                self._changed.forget(position)
                self._signed.forget(position)
                raise
            if change.changed:
                self._changed.add(user_id, position)
            if change.signed_others:
                self._signed.add(user_id, position)
            return change

        async def wake(change: KeyChange[T]) -> None:
            if change.changed:
                for listener in self._listeners:
                    listener(user_id)
                self._notifier.wake([user_id, *await self._user_rooms.joined(user_id)])
            elif change.signed_others:
                self._notifier.wake([user_id])

        return (await self._writer.write(run, wake)).result

    async def devices_changed(self, user_id: UserID, device_ids: Sequence[DeviceID]) -> None:
        """Devices were renamed or deleted (see `delete_for_devices` of services/e2e_keys)."""
        await self.write(
            user_id,
            lambda position: self._db.run(_settle_devices, position, user_id, device_ids),
        )

    async def changed_since(self, user_id: UserID, since: int) -> list[UserID]:
        """Return those whose keys changed after `since`, among those who share a room.

        What changes after a token is made may be told with it already; it is told again then.
        """
        changed = self._changed.since(since)
        if changed is None:
            sharing = await self._user_rooms.sharing_users(user_id)
            changed = await self._db.read(device_lists.list_changed_since, since, list(sharing))
        else:
            sharing = await self._sharing(user_id, changed)
            changed = [other for other in changed if other in sharing]
        if self._signed.has_changed(user_id, since):
            signed = await self._db.read(cross_signing_keys.list_signed_since, user_id, since)
            changed += [other for other in signed if other not in changed]
        return changed

    async def changes_between(
        self, user_id: UserID, from_token: str, to_token: str
    ) -> tuple[list[UserID], list[UserID]]:
        """Return (changed, left) since a sync token. Raises InvalidParam.

        What happened after `to_token` is told, too: it only says how far the client has come.
        """
        parse_token(to_token, self._streams)
        since = parse_token(from_token, self._streams)
        changed = await self.changed_since(user_id, since.device_lists)
        rooms = (await self._user_rooms.rooms_of(user_id)).values()
        met, left = await self.members_since(user_id, rooms, since.events)
        return sorted(met.union(changed)), sorted(left)

    async def members_since(
        self, user_id: UserID, rooms: Iterable[RoomOfUser], since: int
    ) -> tuple[set[UserID], set[UserID]]:
        """Return with whom the user has begun to share a room, and with whom he shares none more.

        1. Who has come into a room of his or gone.   2. Who is where he has come himself.
        3. Who was where he has left: of who came later, or where he never was, he hears nothing.

        since  position in the events stream
        """
        met: set[UserID] = set()
        gone: set[UserID] = set()
        rooms = list(rooms)
        joined = [mine for mine in rooms if mine.membership == "join"]
        for mine in await self._user_rooms.moved_since(joined, since):
            room = await self._live_rooms.find(mine.room_id)
            if room is not None and mine.new_at <= since:  # 1
                came, went = _moved_members(room, since)
                met |= came
                gone |= went
        for mine in joined:
            if mine.new_at > since:  # 2
                met.update(await self._user_rooms.joined_users(mine.room_id))
        for mine in rooms:
            left_at = mine.left_nid or 0
            if mine.membership != "join" and left_at > since:  # 3
                room = await self._live_rooms.find(mine.room_id)
                gone.update(() if room is None else _members_at(room, left_at))
        gone.discard(user_id)
        return met - {user_id}, gone - await self._sharing(user_id, gone)

    async def _sharing(self, user_id: UserID, others: Collection[UserID]) -> set[UserID]:
        """Return those of the others who share a room with the user, and maybe more users."""
        if len(others) > _FEW:
            return await self._user_rooms.sharing_users(user_id)
        return {other for other in others if await self._user_rooms.share_a_room(user_id, other)}


def _moved_members(room: LiveRoom, since: int) -> tuple[set[UserID], set[UserID]]:
    """Return who has come into a room and who has gone; its newest events are in memory.

    A fork may move members of whom no event tells.
    """
    asked: Iterable[UserID] = room.members
    if since >= max(room.recent_from, room.forked_at):
        named = {
            UserID(found.state_key or "")
            for found in room.recent_after(since)
            if found.type == MEMBER
        }
        asked = named & room.members.keys()
    came = set()
    went = set()
    for user_id in asked:
        member = room.members[user_id]
        if member.membership == "join":
            if (member.joined_nid or 0) > since:
                came.add(user_id)
        elif member.membership in ("leave", "ban") and member.event_nid > since:
            went.add(user_id)
    return came, went


def _members_at(room: LiveRoom, position: int) -> list[UserID]:
    """Return who was in the room at a position, but for those who have come again since."""
    return [
        user_id
        for user_id, member in room.members.items()
        if member.joined_nid is not None
        and member.joined_nid < position
        and (member.left_nid is None or member.left_nid > position)
    ]


def _settle_devices(
    txn: Txn, position: int, user_id: UserID, device_ids: Sequence[DeviceID]
) -> KeyChange[None]:
    user_nid = find_user_nid(txn, user_id)
    if user_nid is None:
        return KeyChange(None, changed=False)
    is_change = device_lists.settle_pending(txn, position, user_nid)
    if not is_change and device_keys.has_device_keys(txn, user_nid, device_ids):
        device_lists.upsert_change(txn, position, user_nid)
        device_updates.mark(txn, user_nid, device_ids)
        is_change = True
    return KeyChange(None, changed=is_change)
