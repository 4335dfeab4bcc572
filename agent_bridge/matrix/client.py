"""An end-to-end encrypted Matrix client over one store.

spec: client-server-api, v1.19
Invariant: a batch is handed out again until it is acknowledged, so its consumer must be idempotent
by event id; nothing that comes in is dropped without a word.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from agent_bridge.matrix.api import MatrixAPI, Session, make_txn_id
from agent_bridge.matrix.crypto import Crypto
from agent_bridge.matrix.device_keys import DeviceChain, UserKeys
from agent_bridge.matrix.errors import AccessTokenRefused, MatrixFailure
from agent_bridge.matrix.events import CryptoProblem, DeviceTrust, HistoryPage, SyncBatch
from agent_bridge.matrix.megolm import NowMs, now_ms
from agent_bridge.matrix.olm import make_account_pickle
from agent_bridge.matrix.rooms import Rooms
from agent_bridge.matrix.share_policy import AllDevices, SharePolicy, ShareReport
from agent_bridge.matrix.store import Credentials, Store
from agent_bridge.matrix.sync import SyncReader
from agent_bridge.matrix.transport import Sleep, Transport, back_off_seconds
from homeserver.core.identifiers import DeviceID, EventID, RoomID, UserID
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

_ALL_DEVICES = AllDevices()


class MatrixClient:
    """One device of one account; made by register(), login() or open()."""

    def __init__(
        self,
        store: Store,
        transport: Transport,
        *,
        now: NowMs = now_ms,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.api = MatrixAPI(transport)
        self._store = store
        self._transport = transport
        self._sleep = sleep
        self._crypto = Crypto(store, self.api, now)
        self._rooms = Rooms(store, self._crypto.outbound)
        self._reader = SyncReader(store, self.api, self._crypto, self._rooms)

    @classmethod
    async def register(
        cls, base_url: str, directory: Path, username: str, password: str, device_name: str = "gate"
    ) -> Self:
        """Make an account and its store. Raises MatrixFailure, StoreFailure."""
        transport = Transport(base_url)
        api = MatrixAPI(transport)
        return await cls._start(
            transport, directory, lambda: api.register(username, password, device_name)
        )

    @classmethod
    async def login(
        cls, base_url: str, directory: Path, user: str, password: str, device_name: str = "gate"
    ) -> Self:
        """Make a new device of an account, and its store. Raises MatrixFailure, StoreFailure."""
        transport = Transport(base_url)
        api = MatrixAPI(transport)
        return await cls._start(
            transport, directory, lambda: api.login(user, password, device_name)
        )

    @classmethod
    async def _start(
        cls, transport: Transport, directory: Path, get_session: Callable[[], Awaitable[Session]]
    ) -> Self:
        store = Store(directory, create=True)
        try:
            store.check_empty()
            session = await get_session()
            store.create_account(
                Credentials(
                    transport.base_url, session.user_id, session.device_id, session.access_token
                ),
                make_account_pickle(store.pickle_key),
            )
            client = cls(store, transport)
            await client._crypto.upload_keys({}, ())
        except BaseException:
            await transport.close()
            store.close()
            raise
        return client

    @classmethod
    async def open(cls, directory: Path) -> Self:
        """Open the account kept in this directory. Raises StoreFailure."""
        store = Store(directory, create=False)
        try:
            credentials = store.get_credentials()
            transport = Transport(credentials.base_url, access_token=credentials.access_token)
            return cls(store, transport)
        except BaseException:
            store.close()
            raise

    async def close(self) -> None:
        """Give up the connection and the store; acknowledges nothing."""
        await self._transport.close()
        self._store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def logout(self) -> None:
        """End this device on the server; the store stays, but is of no more use."""
        await self.api.logout()

    @property
    def user_id(self) -> UserID:
        return self._crypto.user_id

    @property
    def device_id(self) -> DeviceID:
        return self._crypto.device_id

    @property
    def ed25519_key(self) -> str:
        return self._crypto.device.ed25519_key

    @property
    def curve25519_key(self) -> str:
        return self._crypto.device.curve25519_key

    # Sync

    async def sync_once(self, timeout_seconds: float = 30) -> SyncBatch:
        """Fetch what came after the last acknowledged batch; may be repeated."""
        return await self._reader.read(timeout_seconds)

    async def acknowledge(self, batch: SyncBatch) -> None:
        """Say that a batch was processed: only now does the sync position move."""
        with self._store.transaction():
            self._rooms.acknowledge(batch)
            self._store.acknowledge(batch.next_batch)

    async def sync_forever(self, timeout_seconds: float = 30) -> AsyncIterator[SyncBatch]:
        """Yield batches; asking for the next acknowledges the last.

        Rides out an unreachable or failing server. Raises AccessTokenRefused.
        """
        failures = 0
        while True:
            try:
                batch = await self.sync_once(timeout_seconds)
            except AccessTokenRefused:
                raise
            except MatrixFailure as error:
                failures += 1
                logger.warning("Sync failed, trying again failures=%d error=%r", failures, error)
                await self._sleep(back_off_seconds(failures))
                continue
            failures = 0
            yield batch
            await self.acknowledge(batch)

    # Rooms

    async def create_room(
        self,
        *,
        name: str | None = None,
        topic: str | None = None,
        invite: Sequence[UserID] = (),
        encrypted: bool = True,
        preset: str = "private_chat",
        is_direct: bool = False,
        extra: JsonObject | None = None,
    ) -> RoomID:
        """Create a room; extra adds to or replaces fields of the /createRoom body."""
        body: JsonObject = {"preset": preset, "invite": list(invite), "is_direct": is_direct}
        if name is not None:
            body["name"] = name
        if topic is not None:
            body["topic"] = topic
        if encrypted:
            body["initial_state"] = [
                {
                    "type": "m.room.encryption",
                    "state_key": "",
                    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
                }
            ]
        room_id = await self.api.create_room({**body, **(extra or {})})
        await self._load_members(room_id)
        return room_id

    async def invite(self, room_id: RoomID, user_id: UserID) -> None:
        await self.api.invite(room_id, user_id)
        if self._rooms.members(room_id).get(user_id) != "join":
            self._rooms.put_member(room_id, user_id, "invite")

    async def join(self, room: str, via: Sequence[str] = ()) -> RoomID:
        """Join by room id or alias."""
        room_id = await self.api.join(room, via)
        await self._load_members(room_id)
        return room_id

    async def leave(self, room_id: RoomID) -> None:
        await self.api.leave(room_id)

    def members(self, room_id: RoomID) -> Mapping[UserID, str]:
        """Return each user's membership as the server last told it."""
        return self._rooms.members(room_id)

    async def _load_members(self, room_id: RoomID) -> None:
        events = await self.api.list_members(room_id)
        with self._store.transaction():
            for event in events:
                self._rooms.apply_state(room_id, event)

    async def send_event(
        self,
        room_id: RoomID,
        event_type: str,
        content: JsonObject,
        *,
        encrypt: bool,
        policy: SharePolicy = _ALL_DEVICES,
        txn_id: str | None = None,
    ) -> EventID:
        """Send an event; the same txn_id again is the same event, also after a crash.

        Whether to encrypt is the caller's knowledge: what the server says of the room plays no
        part. Raises NoRecipients, MatrixFailure.
        """
        txn_id = txn_id or make_txn_id()
        if not encrypt:
            return await self.api.send_event(room_id, event_type, content, txn_id)
        readers = self._rooms.list_readers(room_id)
        if self.user_id not in readers:
            await self._load_members(room_id)
            readers = self._rooms.list_readers(room_id)
        encrypted = await self._crypto.encrypt_room_event(
            room_id,
            event_type,
            content,
            members=readers,
            policy=policy,
            limits=self._rooms.rotation_limits(room_id),
        )
        return await self.api.send_event(room_id, "m.room.encrypted", encrypted, txn_id)

    async def send_message(
        self,
        room_id: RoomID,
        text: str,
        *,
        encrypt: bool,
        policy: SharePolicy = _ALL_DEVICES,
        msgtype: str = "m.text",
        extra: JsonObject | None = None,
        txn_id: str | None = None,
    ) -> EventID:
        content: JsonObject = {"msgtype": msgtype, "body": text, **(extra or {})}
        return await self.send_event(
            room_id, "m.room.message", content, encrypt=encrypt, policy=policy, txn_id=txn_id
        )

    async def send_state(
        self, room_id: RoomID, event_type: str, state_key: str, content: JsonObject
    ) -> EventID:
        return await self.api.send_state(room_id, event_type, state_key, content)

    async def get_state(
        self, room_id: RoomID, event_type: str, state_key: str = ""
    ) -> JsonObject | None:
        """Return the content of a state event as the server states it; None when there is none."""
        return await self.api.find_state(room_id, event_type, state_key)

    async def redact(
        self,
        room_id: RoomID,
        event_id: EventID,
        reason: str | None = None,
        txn_id: str | None = None,
    ) -> EventID:
        return await self.api.redact(room_id, event_id, reason, txn_id or make_txn_id())

    async def history(
        self, room_id: RoomID, *, from_token: str | None = None, limit: int = 50
    ) -> HistoryPage:
        """Read backwards from a page's end, or from now."""
        return await self._reader.read_history(room_id, from_token, limit)

    def last_share(self, room_id: RoomID) -> ShareReport | None:
        """Say who holds the current room key; None while there is none."""
        return self._crypto.share_report(room_id)

    # Identities

    async def bootstrap_cross_signing(self, password: str, *, replace: bool = False) -> None:
        """Give our user a cross-signing identity held by this device, and sign this device.

        Harmless to repeat. An identity made elsewhere stays unless replace is set: KeysRefused.
        """
        await self._crypto.bootstrap_cross_signing(password, replace=replace)

    async def sign_user(self, user_id: UserID, master_key: str) -> None:
        """Sign a user's master key after comparing it. Raises KeysRefused, CrossSigningMissing."""
        await self._crypto.sign_user(user_id, master_key)

    async def sign_own_device(self, device_id: DeviceID, ed25519_key: str) -> None:
        """Sign another device of ours after comparing its key."""
        await self._crypto.sign_own_device(device_id, ed25519_key)

    async def refresh_devices(self, users: Iterable[UserID]) -> list[CryptoProblem]:
        """Ask the server about these users' keys now, and follow them from now on."""
        return await self._crypto.refresh(users)

    def pin_master_key(self, user_id: UserID, master_key: str) -> None:
        """Take a master key, learned out of band, as the user's. Raises KeysRefused."""
        self._crypto.lists.pin(user_id, master_key)

    def find_pin(self, user_id: UserID) -> str | None:
        """Return the master key pinned or first seen."""
        return self._crypto.lists.find_pin(user_id)[0]

    def key_objects(self, user_id: UserID) -> UserKeys:
        return self._crypto.lists.key_objects(user_id)

    def find_device_chain(self, user_id: UserID, device_id: DeviceID) -> DeviceChain | None:
        return self._crypto.lists.find_chain(user_id, device_id)

    def trust_of(self, user_id: UserID, device_id: DeviceID) -> DeviceTrust:
        lists = self._crypto.lists
        return lists.judge(lists.find_device(user_id, device_id))[0]

    def sign_bytes(self, payload: bytes) -> str:
        """Sign with this device's Ed25519 key; unpadded base64.

        Raises ValueError for what could be a signed JSON object: those signatures mean something
        to every Matrix client.
        """
        if payload.lstrip()[:1] == b"{":
            raise ValueError("refusing to sign a JSON object")
        return self._crypto.device.sign(payload)
