"""Whose keys have changed, so that clients ask for them again.

spec: client-server-api/#tracking-the-device-list-for-a-user, #e2e-extensions-to-sync, v1.19
Invariant: a change of keys has its position in the transaction that makes it; only the deletion of
devices is settled right after its own transaction, or at the next start.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from homeserver.background import Background
from homeserver.core.identifiers import DeviceID, UserID
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_rooms import LiveRooms
from homeserver.engine.notifier import Notifier
from homeserver.engine.stream_writer import StreamWriter
from homeserver.engine.streams import Streams
from homeserver.engine.user_rooms import UserRooms
from homeserver.errors import MatrixError
from homeserver.services.sync.token import parse_token
from homeserver.storage import cross_signing_keys, device_keys, device_lists, device_updates
from homeserver.storage.database import Database
from homeserver.storage.dictionaries import find_user_nid
from homeserver.storage.query import Txn

T = TypeVar("T")
_MAX_REMEMBERED = 100_000


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

    def since(self, position: int, users: Collection[UserID]) -> list[UserID] | None:
        """Return those of `users` that changed after `position`; None: the database must say."""
        if position < self.known_from:
            return None
        found = []
        for user_id in reversed(self._last):
            if self._last[user_id] <= position:
                break
            if user_id in users:
                found.append(user_id)
        return found


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
                self._notifier.wake({user_id, *await self._user_rooms.sharing_users(user_id)})
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
        sharing = {user_id, *await self._user_rooms.sharing_users(user_id)}
        changed = self._changed.since(since, sharing)
        if changed is None:
            changed = await self._db.read(device_lists.list_changed_since, since, list(sharing))
        signer = self._signed.since(since, (user_id,))
        if signer is None or signer:
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
        met, left = await self.members_since(user_id, since.events)
        return sorted(met.union(changed)), sorted(left)

    async def members_since(self, user_id: UserID, since: int) -> tuple[set[UserID], set[UserID]]:
        """Return (changed, left): with whom the user may have begun or ceased to share a room.

        since  position in the events stream
        Somebody who only changed his name may be among the changed.
        """
        changed: set[UserID] = set()
        gone: set[UserID] = set()
        for mine in (await self._user_rooms.rooms_of(user_id)).values():
            is_in = mine.membership == "join"
            if not is_in and (mine.event_nid <= since or mine.membership not in ("leave", "ban")):
                continue
            room = await self._live_rooms.find(mine.room_id)
            if room is None:
                continue
            i_moved = max(mine.event_nid, mine.new_at) > since
            for other, member in list(room.members.items()):
                moved = member.event_nid > since
                if member.membership == "join" and (moved or i_moved):
                    (changed if is_in else gone).add(other)
                elif moved:
                    gone.add(other)
        sharing = await self._user_rooms.sharing_users(user_id)
        return changed - {user_id}, gone - sharing


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
