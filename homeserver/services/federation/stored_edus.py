"""Bounds of what is stored for servers that stay away.

Messages to devices are kept in number, bytes and time, the newest of them: they are what a device
that comes back can still use. Of changes of a user's devices and keys the last is enough, as
whoever gets one that follows none it knows asks for the whole list. Invariants: a server that
answers loses nothing unless all together have too much, and whatever is dropped is logged, counted
and shown to administrators.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.metrics import DROPPED_MESSAGES
from homeserver.storage import destinations, outgoing_edus
from homeserver.storage.database import Database
from homeserver.storage.outgoing_edus import WaitingMessages
from homeserver.storage.query import Txn

logger = logging.getLogger(__name__)

TIDY_SECONDS = 60.0
MAX_MESSAGES = 10_000
"""EDUs; one may have messages for many devices."""
MAX_AGE_SECONDS = 60 * 86_400
_MAX_CHANGES = 5
"""Of the devices or keys of one user, told one by one."""


@dataclass(frozen=True, slots=True)
class Limits:
    messages_of_one: int = MAX_MESSAGES
    bytes_of_one: int = 64 * 1_048_576
    bytes_of_all: int = 2 * 1_073_741_824


class StoredEDUs:
    def __init__(self, database: Database, clock: Clock, limits: Limits | None = None) -> None:
        self._db = database
        self._clock = clock
        self._limits = limits or Limits()

    async def tidy(self) -> None:
        """1 changes that later ones stand for 2 messages beyond a bound, of each server alone."""
        await self._db.run(outgoing_edus.delete_superseded, _MAX_CHANGES)  # 1
        found = await self._db.read(outgoing_edus.list_waiting_messages)
        share = fair_share([one.size for one in found], self._limits.bytes_of_all)
        for one in found:  # 2
            await self._drop_from(one, share)

    async def _drop_from(self, waiting: WaitingMessages, share: int) -> None:
        now = self._clock.now_ms()
        limits = self._limits
        if waiting.is_failing:
            bounds = (
                limits.messages_of_one,
                min(limits.bytes_of_one, share),
                now - MAX_AGE_SECONDS * 1000,
            )
        else:
            bounds = (waiting.count, share, 0)
        messages, size, since = bounds
        if waiting.count <= messages and waiting.size <= size and waiting.oldest_ts > since:
            return
        dropped = await self._db.run(_drop_txn, waiting.server_name, messages, size, since, now)
        if dropped:
            DROPPED_MESSAGES.inc(dropped)
            logger.warning(
                "Messages to devices dropped; they have waited too long, or are too many"
                " server=%s count=%d waiting=%d bytes=%d days=%d",
                waiting.server_name, dropped, waiting.count - dropped, waiting.size,
                (now - waiting.oldest_ts) // 86_400_000,
            )  # fmt: skip


def _drop_txn(
    txn: Txn, server: ServerName, max_count: int, max_bytes: int, since_ts: int, now_ms: int
) -> int:
    dropped = outgoing_edus.delete_oldest_messages(txn, server, max_count, max_bytes, since_ts)
    destinations.add_dropped(txn, server, dropped, now_ms)
    return dropped


def fair_share(sizes: Sequence[int], total: int) -> int:
    """Return how much each may have so that all have no more than `total` together.

    Who has less leaves the rest of his share to the others.
    """
    for index, size in enumerate(sorted(sizes)):
        share = total // (len(sizes) - index)
        if size > share:
            return share
        total -= size
    return max(sizes, default=total)
