"""The server as a process: reactor, threads, sockets, signals.

Importing this installs the asyncio reactor on uvloop, so that asyncio libraries can be used beside
Twisted.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2
import uvloop
from twisted.internet import asyncioreactor

if "twisted.internet.reactor" not in sys.modules:
    asyncioreactor.install(uvloop.new_event_loop())

from prometheus_client.twisted import MetricsResource
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from homeserver.appservice_registrations import Registration
from homeserver.clock import Clock
from homeserver.config import Config
from homeserver.core.signing import SigningKey
from homeserver.network import (
    load_certificate,
    load_old_keys,
    make_appservice_client,
    make_federation_client,
)
from homeserver.randomness import Randomness
from homeserver.server import MEDIA_THREADS, Server, build
from homeserver.services.appservices import Appservice, Appservices
from homeserver.services.passwords import InlineThreads, PooledThreads
from homeserver.storage import access_tokens, events, stream_epochs
from homeserver.storage.database import DatabaseTaken, ThreadedDatabase
from homeserver.storage.embedded import EmbeddedPostgres, PostgresUnusable
from homeserver.storage.ownership import DatabaseOwnership
from homeserver.storage.query import Txn
from homeserver.transport.http_server import HttpServer

logger = logging.getLogger(__name__)
reactor: Any = _reactor

_EXIT_FAILED = 1
_EXIT_TAKEN = 3
_WATCH_SECONDS = 3.0
_GC_THRESHOLDS = (700, 10, 50)
"""Python's own but for the last: a full collection stops the server for 40 ms and more, and nearly
all memory is freed without one. Garbage in cycles comes to some 350,000 objects at most."""
_SWITCH_SECONDS = 0.001
"""A thread that computes (a state resolution, say) lets the reactor on after so long. With Python's
own 5 ms the reactor waits that long again and again, and everybody with it."""
_CERTIFICATE_SECONDS = 60.0
_URGENT_READS = (access_tokens.find_session, events.has_event)
"""Without them no request is answered, and no commit."""


@dataclass(frozen=True)
class OwnDatabase:
    """The database of this process, and nobody else's."""

    url: str
    ownership: DatabaseOwnership
    embedded: EmbeddedPostgres | None

    def watch(self) -> None:
        """Keep the lock, and the embedded PostgreSQL alive; takes its time.

        Raises DatabaseTaken.
        """
        try:
            self.ownership.keep()
        except psycopg2.Error as error:
            logger.error("The database does not answer cause=%s", " ".join(str(error).split()))  # noqa: TRY400 - the cause says all
            if self.embedded is not None:
                self._revive(self.embedded)

    def _revive(self, embedded: EmbeddedPostgres) -> None:
        try:
            embedded.revive()
        except PostgresUnusable as error:
            logger.error("%s", error)  # noqa: TRY400 - the message says what to do


class FromThreads:
    """The reactor as its threads know it: a call goes to its loop. Twisted would set a timer."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop  # noqa: SLF001 - see above
        self.callLater = reactor.callLater

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:  # noqa: N802 - Twisted's name
        self._loop.call_soon_threadsafe(call, *args)


def run_server(
    config: Config,
    own: OwnDatabase,
    signing_key: SigningKey,
    registrations: Sequence[Registration],
    listening: socket.socket,
    listening_tls: socket.socket | None,
) -> int:
    """Serve until a signal; return the exit code.

    listening_tls  where other servers connect; needs a certificate in the configuration
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    certificate = None if listening_tls is None else load_certificate(config)
    clock = Clock(reactor)
    outcome = {"code": 0}

    def taken(error: DatabaseTaken) -> None:
        if not outcome["code"]:
            logger.error("%s", error)
            outcome["code"] = _EXIT_TAKEN
            reactor.stop()

    database = ThreadedDatabase(
        FromThreads(),
        own.url,
        threads=config.database.threads,
        urgent=_URGENT_READS,
        ownership=own.ownership,
        taken=taken,
    )
    threads = PooledThreads(reactor)
    media_threads = PooledThreads(reactor, threads=MEDIA_THREADS)
    watching = PooledThreads(reactor, threads=1)
    randomness = Randomness()
    server = build(
        config,
        clock=clock,
        randomness=randomness,
        database=database,
        signing_key=signing_key,
        http=make_appservice_client(reactor),
        federation_client=make_federation_client(reactor, config, signing_key, clock, randomness),
        old_keys=load_old_keys(config),
        appservices=Appservices(
            [Appservice(registration, config.server.name) for registration in registrations]
        ),
        threads=threads,
        media_threads=media_threads,
    )
    http_server = HttpServer(
        server.root.answer,
        clock,
        max_body_bytes=config.listen.max_body_bytes,
        larger_bodies=server.larger_bodies,
        timeout_seconds=config.listen.idle_timeout_seconds,
    )

    async def watch() -> None:
        try:
            await watching.call(own.watch)
        except DatabaseTaken as error:
            taken(error)

    async def start() -> None:
        await server.start()
        own.ownership.check_unchanged_by(await _same_as_now(server))
        server.background.loop("database watch", watch, every_seconds=_WATCH_SECONDS)
        await http_server.listen(asyncio.get_running_loop(), listening)
        if certificate is not None and listening_tls is not None:
            await http_server.listen(
                asyncio.get_running_loop(), listening_tls, tls=certificate.context
            )
            server.background.loop(
                "certificate", certificate.renew, every_seconds=_CERTIFICATE_SECONDS
            )
        if config.listen.metrics_port is not None:
            pages = Resource()
            pages.putChild(b"metrics", MetricsResource())  # type: ignore[no-untyped-call]  # untyped
            reactor.listenTCP(config.listen.metrics_port, Site(pages), interface="127.0.0.1")
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        address = f"http://{config.listen.address}:{config.listen.port}"
        logger.info("Listening address=%s name=%s", address, config.server.name)

    def failed(failure: Failure) -> None:
        logger.error("Cannot start", exc_info=failure.value)
        outcome["code"] = _EXIT_FAILED
        reactor.stop()

    async def stop() -> None:
        logger.info("Stopping")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end_at_once)
        http_server.stop_listening()
        await server.drain()
        await clock.sleep(0)  # until the last answers are written
        http_server.close()
        await server.stop()

    def begin() -> None:
        Deferred.fromCoroutine(start()).addErrback(failed)

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    reactor.run()
    threads.close()
    media_threads.close()
    watching.close()
    database.close()
    return outcome["code"]


def _end_at_once(number: int, _frame: object) -> None:
    """Do what a second signal asks for. As after kill -9, nothing acknowledged is lost."""
    os._exit(128 + number)


async def _same_as_now(server: Server) -> Callable[[Txn], None]:
    """Make the check that nobody else has used the database, whenever its lock was lost."""
    epoch = await server.database.read(stream_epochs.last_epoch)
    began_at = server.streams.events.current

    def check(txn: Txn) -> None:
        shown = server.streams.events.current
        if stream_epochs.last_epoch(txn) != epoch:
            raise DatabaseTaken(
                "Another server process has used this database meanwhile: this one ends. Start "
                "only one."
            )
        if shown > began_at and events.max_event_nid(txn) < shown:
            raise DatabaseTaken(
                "The database lacks events that were committed: it was restored, or a standby that "
                "was behind has taken over. This process ends; start the server again."
            )

    return check


def list_routes(config: Config) -> Iterator[str]:
    """Build the server without starting it, and say what it answers."""
    clock = Clock(reactor)
    randomness = Randomness()
    key = SigningKey("ed25519:none", bytes(32))
    with contextlib.closing(ThreadedDatabase(reactor, "", threads=0)) as database:
        server: Server = build(
            config,
            clock=clock,
            randomness=randomness,
            database=database,
            signing_key=key,
            http=make_appservice_client(reactor),
            federation_client=make_federation_client(reactor, config, key, clock, randomness),
            old_keys={},
            appservices=Appservices([]),
            threads=InlineThreads(),
            media_threads=InlineThreads(),
        )
        for route in sorted(server.routes, key=lambda r: r.declaration.path):
            d = route.declaration
            yield f"{d.operation_id:32} {d.method:7} {d.path}  {d.auth.value}  {route.location}"
