"""Which event each transaction id of a device has made, so that a repeated send answers the first.

spec: client-server-api/#transaction-identifiers, v1.19. Scope: device, room and transaction id; 24
hours. A device's newest are read once from the database, then memory follows the commits.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

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

_Device = tuple[UserID, DeviceID]
_Key = tuple[int, str]
"""(room number, transaction id)"""


class SentTransactions:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._db = database
        self._clock = clock
        self._known: OrderedDict[_Device, OrderedDict[_Key, EventID]] = OrderedDict()
        self._under_way: dict[tuple[_Device, _Key], list[Deferred[None]]] = {}

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
            if len(known) >= _MAX_PER_DEVICE:
                forgotten = await self._find_stored(device, key)
                if forgotten is not None:
                    return forgotten
            waiting = self._under_way.get((device, key))
            if waiting is None:
                break
            ended: Deferred[None] = Deferred()
            waiting.append(ended)
            await ended
        self._under_way[(device, key)] = []
        try:
            event_id = await send()
        except BaseException:
            # Whether it was committed may not be known: ask the database next time.
            self._known.pop(device, None)
            raise
        else:
            known[key] = event_id
            while len(known) > _MAX_PER_DEVICE:
                known.popitem(last=False)
            return event_id
        finally:
            for ended in self._under_way.pop((device, key)):
                if not ended.called:
                    ended.callback(None)

    async def _load(self, device: _Device) -> OrderedDict[_Key, EventID]:
        known = self._known.get(device)
        if known is None:
            rows = await self._db.read(
                client_transactions.list_transactions,
                *device,
                self._clock.now_ms() - _KEPT_MS,
                _MAX_PER_DEVICE,
            )
            known = self._known.setdefault(device, OrderedDict())
            for row in rows:
                known[(row.room_nid, row.txn_id)] = decode_event_id(
                    ROOM_VERSIONS[row.room_version], row.event_id
                )
            while len(self._known) > _MAX_DEVICES:
                self._known.popitem(last=False)
        return known

    async def _find_stored(self, device: _Device, key: _Key) -> EventID | None:
        row = await self._db.read(
            client_transactions.find_transaction, *device, *key, self._clock.now_ms() - _KEPT_MS
        )
        if row is None:
            return None
        return decode_event_id(ROOM_VERSIONS[row.room_version], row.event_id)

    async def delete_old(self) -> None:
        await self._db.run(
            client_transactions.delete_old_transactions, self._clock.now_ms() - _KEPT_MS
        )
