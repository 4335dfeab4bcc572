"""Hands waiting events to the bot, one at a time, in order, at least once.

Invariant: an event is finished only after its handler returned, was refused by the homeserver for
good, or failed `MAX_FAILURES` times for a reason of its own; an unreachable homeserver never loses
an event.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from appservices.kit.backoff import Jitter, Sleep, backoff_seconds
from appservices.kit.errors import HomeserverRefused, HomeserverUnavailable
from appservices.kit.inbox import Inbox, WaitingEvent
from homeserver.core.json_types import JsonObject

logger = logging.getLogger(__name__)

MAX_FAILURES = 3


class Consumer:
    def __init__(
        self,
        inbox: Inbox,
        handle: Callable[[JsonObject], Awaitable[None]],
        *,
        sleep: Sleep,
        jitter: Jitter,
    ) -> None:
        self._inbox = inbox
        self._handle = handle
        self._sleep = sleep
        self._jitter = jitter
        self._arrived = asyncio.Event()

    def wake(self) -> None:
        self._arrived.set()

    async def run(self) -> None:
        """Process events until cancelled."""
        while True:
            self._arrived.clear()
            await self.drain()
            await self._arrived.wait()

    async def drain(self) -> None:
        """Process everything that waits."""
        failures = 0
        while (waiting := self._inbox.find_next()) is not None:
            if await self._process(waiting):
                failures = 0
                continue
            failures += 1
            await self._sleep(backoff_seconds(failures, self._jitter()))

    async def _process(self, waiting: WaitingEvent) -> bool:
        """Return whether the event is finished."""
        try:
            await self._handle(waiting.event)
        except HomeserverUnavailable as error:
            logger.warning("homeserver unavailable, event kept reason=%s", error)
            return False
        except HomeserverRefused as error:
            logger.warning("event given up, homeserver refused reason=%s", error)
        except Exception:
            logger.exception("handling an event failed failures=%d", waiting.failures + 1)
            if waiting.failures + 1 < MAX_FAILURES:
                self._inbox.count_failure(waiting.position)
                return False
        self._inbox.finish(waiting.position)
        return True
