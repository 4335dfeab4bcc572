"""A port where other machines come over TLS: connections before the first request.

asyncio's own server says nothing of a connection before its handshake has ended, and with those
who only want to take up room it never does. Invariants: so many handshakes are under way and no
more, with one address a share of them; who takes too long is cut off, and as soon as there are too
many, who has taken longest.
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from homeserver.transport.client_networks import network_of

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 100
_PAUSE_SECONDS = 1.0
"""After the system has refused to give a connection: there can be no more open files."""


@dataclass(frozen=True, slots=True)
class HandshakeLimits:
    """An honest handshake is over in much less than a second; each takes an open file."""

    seconds: float = 15.0
    at_once: int = 1_000
    at_once_of_network: int = 100
    """Many servers may share one address."""


HANDSHAKE_LIMITS = HandshakeLimits()


class TLSListener:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        tls: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.Protocol],
        limits: HandshakeLimits,
    ) -> None:
        """`make_protocol`: the protocol is told of a connection when its handshake has ended."""
        self._loop = loop
        self._listening = listening
        self._tls = tls
        self._make_protocol = make_protocol
        self._limits = limits
        self._under_way: dict[asyncio.Task[None], str] = {}
        """Handshakes by the network that they are with, the oldest first."""
        self._of_network: Counter[str] = Counter()
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._listening.setblocking(False)
        self._listening.listen(_BACKLOG)
        self._accept_when_ready()

    def close(self) -> None:
        """Take no more connections, and cut off those whose handshakes are under way."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for handshake in list(self._under_way):
            handshake.cancel()

    def _accept_when_ready(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                taken, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                logger.error("No connection can be accepted: %s", error)  # noqa: TRY400 - its text is all
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(_PAUSE_SECONDS, self._accept_when_ready)
                return
            self._begin(taken, network_of(str(address[0])))

    def _begin(self, taken: socket.socket, network: str) -> None:
        if self._of_network[network] >= self._limits.at_once_of_network:
            taken.close()
            return
        handshake = self._loop.create_task(self._shake_hands(taken))
        handshake.add_done_callback(lambda _: self._end(handshake, taken))
        self._under_way[handshake] = network
        self._of_network[network] += 1
        if len(self._under_way) > self._limits.at_once:
            oldest = next(iter(self._under_way))
            oldest.cancel()
            self._forget(oldest)

    async def _shake_hands(self, taken: socket.socket) -> None:
        taken.setblocking(False)
        with suppress(OSError):  # TLS's are too
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                taken,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.seconds,
            )

    def _end(self, handshake: asyncio.Task[None], taken: socket.socket) -> None:
        self._forget(handshake)
        if handshake.cancelled():
            taken.close()  # perhaps before it began
        elif (error := handshake.exception()) is not None:
            logger.error("A handshake failed", exc_info=error)

    def _forget(self, handshake: asyncio.Task[None]) -> None:
        network = self._under_way.pop(handshake, None)
        if network is not None:
            self._of_network[network] -= 1
            if not self._of_network[network]:
                del self._of_network[network]
