"""Devices and cross-signing keys of other servers' users, as far as they share a room with ours.

spec: server-server-api/#device-management, #end-to-end-encryption, v1.19. Invariants: an update
goes into a list only if it follows the last one that is in it, else the whole list is asked for; a
list that is wanting is marked so in the database until an answer that was asked for after the mark
is stored; and local users are told of a change in the transaction that makes it.
"""

from collections.abc import Collection, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.background import Background
from homeserver.core.identifiers import ServerName, UserID, server_name_of
from homeserver.services.device_lists import DeviceLists, KeyChange
from homeserver.services.federation.device_contents import (
    MAX_DEVICES,
    DeviceUpdate,
    Snapshot,
    parse_snapshot,
)
from homeserver.services.federation.requests import FederationRequests
from homeserver.services.federation.shared_rooms import SharedRooms
from homeserver.services.key_lists import MASTER, SELF_SIGNING
from homeserver.services.key_objects import CrossSigningUpload, encode_key, is_signed_by
from homeserver.storage import cross_signing_keys, device_lists, memberships, remote_devices
from homeserver.storage.cross_signing_keys import CrossSigningKey
from homeserver.storage.database import Database
from homeserver.storage.dictionaries import find_user_nid, intern_users
from homeserver.storage.query import Txn
from homeserver.storage.remote_devices import RemoteDevice
from homeserver.transport.federation_client import ErrorAnswer


class RemoteDevices:
    def __init__(
        self,
        database: Database,
        device_lists: DeviceLists,
        shared_rooms: SharedRooms,
        requests: FederationRequests,
        background: Background,
    ) -> None:
        self._db = database
        self._device_lists = device_lists
        self._shared_rooms = shared_rooms
        self._requests = requests
        self._background = background
        self._under_way: dict[UserID, list[Deferred[bool]]] = {}

    async def start(self) -> list[UserID]:
        """Forget those who are out of sight; return those whose lists must be asked for."""
        strangers = await self._db.read(remote_devices.list_strangers, memberships.NUMBERS["join"])
        await self.forget(strangers)
        return await self._db.read(remote_devices.list_to_resync)

    async def concerns(self, user_id: UserID) -> bool:
        """Tell whether anything that is said of a user is of interest here."""
        return await self.is_followed(user_id) or await self._shared_rooms.is_seen_here(user_id)

    async def is_followed(self, user_id: UserID) -> bool:
        return bool(await self._db.read(remote_devices.list_followed, [user_id]))

    async def list_wanting(self, user_ids: Sequence[UserID]) -> tuple[list[UserID], list[UserID]]:
        """Return (wanting, strangers): whose lists are to be kept but are not up to date, and
        those who share no room with a local user.
        """
        settled = await self._db.read(remote_devices.list_followed, user_ids, settled=True)
        wanting: list[UserID] = []
        strangers: list[UserID] = []
        for user_id in user_ids:
            if user_id not in settled:
                is_seen = await self._shared_rooms.is_seen_here(user_id)
                (wanting if is_seen else strangers).append(user_id)
        return wanting, strangers

    async def mark(self, user_ids: Collection[UserID]) -> None:
        """Note that the lists of these users are to be asked for."""
        for user_id in user_ids:
            await self._db.run(_mark, user_id)

    async def apply_update(self, update: DeviceUpdate) -> bool:
        """Put an update into its list; False: it does not fit, the list must be asked for."""
        return await self._device_lists.write(
            update.user_id,
            lambda position: self._db.run(_apply_update, position, update),
        )

    async def apply_signing_keys(
        self, user_id: UserID, keys: dict[str, CrossSigningUpload]
    ) -> bool:
        """Put cross-signing keys in the place of older ones; False as for `apply_update`."""
        return await self._device_lists.write(
            user_id,
            lambda position: self._db.run(_apply_signing_keys, position, user_id, keys),
        )

    async def refresh(self, user_id: UserID) -> bool:
        """Ask a user's server for his list; False: it must be asked again, it has changed since.

        Asked once, whoever waits for it. Raises RequestFailed, BadJSON.
        """
        waiting: Deferred[bool] = Deferred()
        others = self._under_way.get(user_id)
        if others is not None:
            others.append(waiting)
            return await waiting
        self._under_way[user_id] = [waiting]
        asking = self._background.run("list of devices", self._refresh(user_id))
        # At shutdown it is not run at all.
        asking.addCallback(lambda _: None if waiting.called else waiting.cancel())
        return await waiting

    async def _refresh(self, user_id: UserID) -> None:
        try:
            is_settled = await self._ask(user_id)
        except BaseException:  # noqa: BLE001 - carried to whoever waits
            failure = Failure()
            for waiting in self._under_way.pop(user_id):
                if not waiting.called:
                    waiting.errback(failure)
            return
        for waiting in self._under_way.pop(user_id):
            if not waiting.called:
                waiting.callback(is_settled)

    async def _ask(self, user_id: UserID) -> bool:
        """1 mark the list, so that it is asked for again after a crash 2 ask 3 store."""
        server = server_name_of(user_id)
        assert server is not None, "a user id has a server"
        marks = await self._db.run(_mark, user_id)  # 1
        try:
            answer = await self._requests.get_user_devices(server, user_id)  # 2
            snapshot = parse_snapshot(user_id, answer)
        except ErrorAnswer as error:
            if error.errcode != "M_NOT_FOUND":
                raise
            snapshot = Snapshot(0, {}, {})
        return await self._device_lists.write(  # 3
            user_id,
            lambda position: self._db.run(_store_snapshot, position, user_id, snapshot, marks),
        )

    async def forget_if_unseen(self, user_ids: Collection[UserID]) -> None:
        """Forget those who no longer share a room with a local user: nobody tells of them now."""
        followed = await self._db.read(remote_devices.list_followed, list(user_ids))
        await self.forget(
            [user_id for user_id in followed if not await self._shared_rooms.is_seen_here(user_id)]
        )

    async def forget(self, user_ids: Collection[UserID]) -> None:
        if user_ids:
            await self._db.run(_forget, user_ids)

    def is_remote(self, user_id: UserID) -> bool:
        return server_name_of(user_id) != self._shared_rooms.server_name

    @property
    def server_name(self) -> ServerName:
        return self._shared_rooms.server_name


def _mark(txn: Txn, user_id: UserID) -> int:
    return remote_devices.mark_for_resync(txn, intern_users(txn, [user_id])[user_id])


def _apply_update(txn: Txn, position: int, update: DeviceUpdate) -> KeyChange[bool]:
    """1. A repetition is no change.    2. What does not follow the last update marks the list.
    3. Change the device, unless there are too many.
    """
    user_nid = intern_users(txn, [update.user_id])[update.user_id]
    known = remote_devices.find_list(txn, user_nid)
    is_settled = known is not None and not known.needs_resync
    if known is not None and is_settled and known.stream_id == update.stream_id:  # 1
        return KeyChange(True, changed=False)
    if known is None or not is_settled or set(update.prev_ids) != {known.stream_id}:  # 2
        remote_devices.mark_for_resync(txn, user_nid)
        return KeyChange(False, changed=False)
    remote_devices.update_stream_id(txn, user_nid, update.stream_id)
    before = {d.device_id: d for d in remote_devices.list_devices(txn, [user_nid])}
    old, new = before.get(update.device_id), update.device
    if new is None:  # 3
        remote_devices.delete_devices(txn, user_nid, [update.device_id])
        changed = old is not None
    elif old is None and len(before) >= MAX_DEVICES:
        changed = False
    else:
        remote_devices.upsert_devices(txn, user_nid, [new])
        changed = old is None or (old.keys, old.display_name) != (new.keys, new.display_name)
    if changed:
        device_lists.upsert_change(txn, position, user_nid)
    return KeyChange(True, changed=changed)


def _apply_signing_keys(
    txn: Txn, position: int, user_id: UserID, keys: dict[str, CrossSigningUpload]
) -> KeyChange[bool]:
    user_nid = intern_users(txn, [user_id])[user_id]
    known = remote_devices.find_list(txn, user_nid)
    if known is None or known.needs_resync:
        remote_devices.mark_for_resync(txn, user_nid)
        return KeyChange(False, changed=False)
    changed = _store_signing_keys(txn, user_id, user_nid, keys)
    if changed:
        device_lists.upsert_change(txn, position, user_nid)
    return KeyChange(True, changed=changed)


def _store_snapshot(
    txn: Txn, position: int, user_id: UserID, snapshot: Snapshot, marks: int
) -> KeyChange[bool]:
    """Make the list that of an answer; False: it was found wanting again meanwhile."""
    user_nid = find_user_nid(txn, user_id)
    known = None if user_nid is None else remote_devices.find_list(txn, user_nid)
    if user_nid is None or known is None:
        return KeyChange(True, changed=False)  # the user went out of sight
    before = {
        d.device_id: RemoteDevice(d.device_id, d.keys, d.display_name)
        for d in remote_devices.list_devices(txn, [user_nid])
    }
    changed = before != snapshot.devices
    if changed:
        gone = [device_id for device_id in before if device_id not in snapshot.devices]
        fresh = [d for d in snapshot.devices.values() if before.get(d.device_id) != d]
        remote_devices.delete_devices(txn, user_nid, gone)
        remote_devices.upsert_devices(txn, user_nid, fresh)
    changed |= _store_signing_keys(txn, user_id, user_nid, snapshot.keys, is_whole=True)
    remote_devices.settle(txn, user_nid, snapshot.stream_id, marks)
    if changed:
        device_lists.upsert_change(txn, position, user_nid)
    return KeyChange(known.marks == marks, changed=changed)


def _store_signing_keys(
    txn: Txn,
    user_id: UserID,
    user_nid: int,
    keys: dict[str, CrossSigningUpload],
    *,
    is_whole: bool = False,
) -> bool:
    """Return whether anything is new.

    1. A self-signing key must be signed by the master key.    2. One that only the old master
    key has signed goes with it; and with `is_whole` whatever is not there any more.
    """
    stored = {k.usage: k for k in cross_signing_keys.list_cross_signing_keys(txn, [user_nid])}
    master = keys.get(MASTER)
    master_key = master.public_key if master is not None else None
    if master_key is None and not is_whole and MASTER in stored:
        master_key = stored[MASTER].public_key
    good = dict(keys)
    signing = keys.get(SELF_SIGNING)
    if signing is not None and (
        master_key is None
        or signing.public_key == master_key
        or not is_signed_by(signing.key, user_id, master_key, master_key)
    ):  # 1
        del good[SELF_SIGNING]
    fresh = [
        CrossSigningKey(user_nid, k.usage, k.public_key, encode_key(k.key)) for k in good.values()
    ]
    fresh = [key for key in fresh if stored.get(key.usage) != key]
    new_master = MASTER in stored and stored[MASTER].public_key != master_key
    kept = {upload.public_key for upload in good.values()}
    gone = [  # 2
        key
        for usage, key in stored.items()
        if key.public_key not in kept and (usage in good or is_whole or new_master)
    ]
    cross_signing_keys.delete_cross_signing_keys(txn, gone)
    cross_signing_keys.upsert_cross_signing_keys(txn, fresh)
    return bool(fresh or gone)


def _forget(txn: Txn, user_ids: Collection[UserID]) -> None:
    gone = remote_devices.delete_lists(txn, list(user_ids))
    cross_signing_keys.delete_keys_of(txn, gone)
