"""Tells other servers of changes of local users' devices and cross-signing keys.

spec: server-server-api/#device-management, #end-to-end-encryption, v1.19. A change is noted in the
transaction that makes it (`storage/device_updates.py`); here each note becomes an EDU for every
server that shares a room with the user; and so does each user who has come into a room, for the
servers that he shared no room with (`storage/introductions.py`). Invariants: a note is deleted in
the transaction that stores its EDUs, and the updates of a user form a chain without gaps.

NOTSPEC: devices without keys are not told of, as the list of a user's devices has keys for each.
"""

import logging
from collections.abc import Collection, Sequence
from itertools import groupby

from homeserver.background import Background
from homeserver.clock import Clock
from homeserver.core.canonical_json import encode_canonical_json
from homeserver.core.identifiers import ServerName, UserID, server_name_of
from homeserver.core.json_types import JsonObject
from homeserver.engine.commit_loop import Committed
from homeserver.engine.live_room import MEMBER
from homeserver.engine.streams import Stream
from homeserver.errors import DatabaseUnavailable
from homeserver.services.federation.sender import FederationSender, store_edus
from homeserver.services.federation.shared_rooms import SharedRooms
from homeserver.services.key_lists import MASTER, SELF_SIGNING, KeyLists, list_local_keys
from homeserver.storage import device_updates, introductions
from homeserver.storage.database import Database
from homeserver.storage.device_updates import CROSS_SIGNING_KEYS
from homeserver.storage.dictionaries import find_user_nid
from homeserver.storage.introductions import Introduction
from homeserver.storage.outgoing_edus import DEVICES_AND_KEYS, NewEDU
from homeserver.storage.query import Txn

logger = logging.getLogger(__name__)

DEVICE_LIST_UPDATE = "m.device_list_update"
SIGNING_KEY_UPDATE = "m.signing_key_update"
_MAX_UPDATES = 20
"""When more devices change at once, other servers are let ask for the list."""
_RETRY_SECONDS = 10.0
_LOOK_AGAIN_SECONDS = 0.05
_USERS_AT_ONCE = 100
"""Newcomers that are read at once."""


class DeviceUpdates:
    def __init__(
        self,
        database: Database,
        shared_rooms: SharedRooms,
        sender: FederationSender,
        background: Background,
        clock: Clock,
        events: Stream,
    ) -> None:
        self._db = database
        self._shared_rooms = shared_rooms
        self._sender = sender
        self._background = background
        self._clock = clock
        self._events = events
        self._waiting: set[UserID] = set()
        self._is_running = False
        self._has_newcomers = False
        self._is_introducing = False

    async def start(self) -> None:
        """Go on where the last process stopped."""
        for user_id in await self._db.read(device_updates.list_waiting_users):
            self.note_changed(user_id)
        self.note_newcomers()

    def note_changed(self, user_id: UserID) -> None:
        """Listen to `DeviceLists`: there may be something to tell of a user."""
        if server_name_of(user_id) != self._shared_rooms.server_name:
            return
        self._waiting.add(user_id)
        if not self._is_running:
            self._is_running = True
            self._background.run("device updates", self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                user_id = self._waiting.pop()
                try:
                    await self._tell(user_id)
                except DatabaseUnavailable as error:
                    logger.warning("Device updates wait for the database: %s", error)
                    self._waiting.add(user_id)
                    await self._clock.sleep(_RETRY_SECONDS)
        finally:
            self._is_running = False

    async def _tell(self, user_id: UserID) -> None:
        servers = await self._shared_rooms.servers_of_user(user_id)
        await self._db.run(_store_updates, user_id, servers, self._clock.now_ms())
        self._sender.note_stored_edus(servers)

    def note_committed(self, committed: Sequence[Committed]) -> None:
        """Who joins a room makes himself known to servers that he shared no room with."""
        for each in committed:
            event, before = each.event.event, each.event.replaced
            if (
                event.type == MEMBER
                and event.membership == "join"
                and event.state_key is not None
                and server_name_of(event.state_key) == self._shared_rooms.server_name
                and (before is None or before.membership != "join")
                and self._shared_rooms.has_others(each.room_id)
            ):
                self.note_newcomers()
                return

    def note_newcomers(self) -> None:
        """Say that `storage/introductions.py` may have something."""
        self._has_newcomers = True
        if not self._is_introducing:
            self._is_introducing = True
            self._background.run("devices of newcomers", self._introduce_all())

    async def _introduce_all(self) -> None:
        try:
            while self._has_newcomers:
                self._has_newcomers = False
                try:
                    rows = await self._db.read(introductions.list_introductions, _USERS_AT_ONCE)
                    await self._wait_for_memory()
                    for user_id, his in groupby(rows, key=lambda row: row.user_id):
                        await self._introduce(user_id, list(his))
                        self._has_newcomers = True
                except DatabaseUnavailable as error:
                    logger.warning("Introductions wait for the database: %s", error)
                    self._has_newcomers = True
                    await self._clock.sleep(_RETRY_SECONDS)
        finally:
            self._is_introducing = False

    async def _wait_for_memory(self) -> None:
        """Return when memory knows of every join that has been committed by now."""
        newest = self._events.newest
        while self._events.current < newest:
            await self._clock.sleep(_LOOK_AGAIN_SECONDS)

    async def _introduce(self, user_id: UserID, rows: Sequence[Introduction]) -> None:
        new = {row.room_id: row.servers for row in rows}
        servers = await self._shared_rooms.list_met(user_id, new)
        await self._db.run(_store_introduction, user_id, rows, servers, self._clock.now_ms())
        self._sender.note_stored_edus(servers)


def _store_updates(txn: Txn, user_id: UserID, servers: Collection[ServerName], now_ms: int) -> None:
    """1 take what has changed 2 first the keys that sign, then what they have signed."""
    user_nid = find_user_nid(txn, user_id)
    changed = [] if user_nid is None else device_updates.take(txn, user_nid)  # 1
    if user_nid is None or not changed:
        return
    keys = list_local_keys(txn, [user_id], None)
    contents: list[tuple[str, JsonObject]] = []
    if CROSS_SIGNING_KEYS in changed:  # 2
        changed.remove(CROSS_SIGNING_KEYS)
        contents.append((SIGNING_KEY_UPDATE, _signing_keys(user_id, keys)))
    is_gap = len(changed) > _MAX_UPDATES
    for device_id in changed[:1] if is_gap else changed:
        before = device_updates.last_stream_id(txn, user_nid)
        stream_id = device_updates.next_stream_id(txn, user_nid, now_ms)
        content = _device(user_id, device_id, keys)
        content["stream_id"] = stream_id
        content["prev_id"] = [before] if before and not is_gap else []
        contents.append((DEVICE_LIST_UPDATE, content))
    _store(txn, user_id, servers, contents, now_ms)


def _store_introduction(
    txn: Txn,
    user_id: UserID,
    rows: Sequence[Introduction],
    servers: Collection[ServerName],
    now_ms: int,
) -> None:
    """Store an update that follows no other: whoever gets it asks for the list."""
    if introductions.lock_introductions(txn, rows[0].user_nid) != list(rows):
        return  # he has come into a room, or servers have turned up in one: they are read again
    introductions.delete_introductions(txn, rows)
    if not servers:
        return
    keys = list_local_keys(txn, [user_id], None)
    devices = keys.devices.get(user_id)
    if not devices:
        return
    content = _device(user_id, next(iter(devices)), keys)
    content["stream_id"] = device_updates.last_stream_id(txn, rows[0].user_nid)
    content["prev_id"] = []
    _store(txn, user_id, servers, [(DEVICE_LIST_UPDATE, content)], now_ms)


def _device(user_id: UserID, device_id: str, keys: KeyLists) -> JsonObject:
    content: JsonObject = {"user_id": user_id, "device_id": device_id}
    device = keys.devices.get(user_id, {}).get(device_id)
    if device is None:
        content["deleted"] = True
        return content
    unsigned = device.pop("unsigned")
    assert isinstance(unsigned, dict)
    return {**content, "deleted": False, "keys": device, **unsigned}


def _signing_keys(user_id: UserID, keys: KeyLists) -> JsonObject:
    content: JsonObject = {"user_id": user_id}
    for usage in (MASTER, SELF_SIGNING):
        key = keys.cross_signing[usage].get(user_id)
        if key is not None:
            content[f"{usage}_key"] = key
    return content


def _store(
    txn: Txn,
    user_id: UserID,
    servers: Collection[ServerName],
    contents: Sequence[tuple[str, JsonObject]],
    now_ms: int,
) -> None:
    encoded = [(edu_type, encode_canonical_json(content)) for edu_type, content in contents]
    store_edus(
        txn,
        [
            NewEDU(server, DEVICES_AND_KEYS, edu_type, content, user_id)
            for server in servers
            for edu_type, content in encoded
        ],
        now_ms,
    )
