"""Which event each transaction id of a device has made.

A repeated send answers the first, and the device is told the id with the event.
spec: client-server-api/#transaction-identifiers, v1.19. Scope: device, room and transaction id; 24
hours, but delayed events for ever. A device's newest are read once from the database, then memory
follows the commits. Invariant: what is read of a device is older than nothing that it has under
way; so a device is not forgotten while it sends, and not read again for one send that has failed.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

from twisted.internet.defer import Deferred

from homeserver.clock import Clock
from homeserver.core.identifiers import DeviceID, EventID, UserID
from homeserver.core.room_versions import ROOM_VERSIONS
from homeserver.storage import client_transactions
from homeserver.storage.database import Database
from homeserver.storage.events import decode_event_id

_KEPT_MS = 24 * 3600 * 1000
_MAX_DEVICES = 20_000
_MAX_PER_DEVICE = 1_000
_MAX_IN_ALL = 200_000

DELAYED = DeviceID("\x1fdelayed")
"""Sends users' delayed events, each with its `delay_id` as transaction id. No client's device can
be called so. The partial index of `client_transactions` names it too."""
REDACT_SCOPE = "redact "
"""Transaction ids of redactions are others than those of sends."""

_Device = tuple[UserID, DeviceID]
_Key = tuple[int, str]
"""(room number, transaction id within its scope)"""


class _Sent(OrderedDict[_Key, EventID]):
    """A device's newest, and the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.by_event: dict[EventID, str] = {}
        self.under_way: dict[_Key, list[Deferred[None]]] = {}
        """Who waits for the end of each transaction that is being sent."""
        self.doubtful: set[_Key] = set()
        """Those that have failed, which may have been committed: the database knows."""
        self.is_whole = True
        """What is neither here nor doubtful has not been sent."""

    def note(self, key: _Key, event_id: EventID) -> None:
        self[key] = event_id
        self.by_event[event_id] = key[1]
        self.doubtful.discard(key)
        while len(self) > _MAX_PER_DEVICE:
            _, forgotten = self.popitem(last=False)
            self.by_event.pop(forgotten, None)
            self.is_whole = False

    def doubt(self, key: _Key) -> None:
        self.doubtful.add(key)
        if len(self.doubtful) > _MAX_PER_DEVICE:
            self.doubtful.clear()
            self.is_whole = False


class SentTransactions:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock
        self._known: OrderedDict[_Device, _Sent] = OrderedDict()
        """Who was looked for last is last."""
        self._count = 0
        """Of transactions in all of them."""

    async def once(
        self, device: _Device, key: _Key, send: Callable[[], Awaitable[EventID]]
    ) -> EventID:
        """Return the event this transaction made, making it by `send` if it is new.

        A repetition waits for the first to end; if that failed, it tries itself.
        """
        while True:
            known = await self._load(device)
            if key in known:
                return known[key]
            waiting = known.under_way.get(key)
            if waiting is None:
                break
            ended: Deferred[None] = Deferred()
            waiting.append(ended)
            await ended
        known.under_way[key] = []
        try:
            event_id = await self._find(device, key, known) or await send()
        except BaseException:
            known.doubt(key)
            raise
        else:
            self._note(known, key, event_id)
            self._forget_idle(but=device)
            return event_id
        finally:
            for ended in known.under_way.pop(key):
                if not ended.called:
                    ended.callback(None)

    async def find(self, device: _Device, key: _Key) -> EventID | None:
        """Return the event that this transaction has made."""
        return await self._find(device, key, await self._load(device))

    async def find_many(self, device: _Device, event_ids: Iterable[EventID]) -> dict[EventID, str]:
        """Return the transaction ids, as the client chose them, of what the device has sent.

        Of its newest `_MAX_PER_DEVICE` events, and for as long as they are kept.
        """
        by_event = (await self._load(device)).by_event
        return {
            event_id: by_event[event_id].removeprefix(REDACT_SCOPE)
            for event_id in event_ids
            if event_id in by_event
        }

    async def _load(self, device: _Device) -> _Sent:
        known = self._known.get(device)
        if known is None:
            rows = await self._db.read(
                client_transactions.list_transactions,
                *device,
                self._since(device),
                _MAX_PER_DEVICE,
            )
            known = self._known.setdefault(device, _Sent())
            for row in rows:
                event_id = decode_event_id(ROOM_VERSIONS[row.room_version], row.event_id)
                self._note(known, (row.room_nid, row.txn_id), event_id)
            known.is_whole = known.is_whole and len(rows) < _MAX_PER_DEVICE
            self._forget_idle(but=device)
        self._known.move_to_end(device)
        return known

    def _note(self, known: _Sent, key: _Key, event_id: EventID) -> None:
        self._count -= len(known)
        known.note(key, event_id)
        self._count += len(known)

    def _forget_idle(self, *, but: _Device) -> None:
        """Forget the devices looked for longest ago, but none that is sending."""
        idle = []
        devices, count = len(self._known), self._count
        for device, known in self._known.items():
            if devices <= _MAX_DEVICES and count <= _MAX_IN_ALL:
                break
            if device != but and not known.under_way:
                idle.append(device)
                devices, count = devices - 1, count - len(known)
        for device in idle:
            del self._known[device]
        self._count = count

    async def _find(self, device: _Device, key: _Key, known: _Sent) -> EventID | None:
        if key in known:
            return known[key]
        if known.is_whole and key not in known.doubtful:
            return None
        row = await self._db.read(
            client_transactions.find_transaction, *device, *key, self._since(device)
        )
        if row is None:
            return None
        return decode_event_id(ROOM_VERSIONS[row.room_version], row.event_id)

    def _since(self, device: _Device) -> int:
        return 0 if device[1] == DELAYED else self._clock.now_ms() - _KEPT_MS

    async def delete_old(self) -> None:
        await self._db.run(
            client_transactions.delete_old_transactions, self._clock.now_ms() - _KEPT_MS
        )
