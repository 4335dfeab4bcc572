"""The server as a process: reactor, threads, sockets, signals.

Importing this installs the asyncio reactor on uvloop, so that asyncio libraries can be used beside
Twisted.
"""

import contextlib
import gc
import logging
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

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
from homeserver.randomness import Randomness
from homeserver.server import Server, build
from homeserver.services.appservices import Appservice, Appservices
from homeserver.services.passwords import InlineThreads, PooledThreads
from homeserver.storage.database import ThreadedDatabase
from homeserver.transport.outbound import OutboundHttp
from homeserver.transport.pipeline import BoundedSite

logger = logging.getLogger(__name__)
reactor: Any = _reactor

_EXIT_FAILED = 1


def run_server(
    config: Config,
    url: str,
    signing_key: SigningKey,
    registrations: Sequence[Registration],
    listening: socket.socket,
) -> int:
    """Serve until a signal; return the exit code."""
    clock = Clock(reactor)
    database = ThreadedDatabase(reactor, url, threads=config.database.threads)
    threads = PooledThreads(reactor)
    server = build(
        config,
        clock=clock,
        randomness=Randomness(),
        database=database,
        signing_key=signing_key,
        http=OutboundHttp(reactor),
        appservices=Appservices(
            [Appservice(registration, config.server.name) for registration in registrations]
        ),
        threads=threads,
    )
    outcome = {"code": 0}

    async def start() -> None:
        await server.start()
        site = BoundedSite(
            server.root,
            max_body_bytes=config.listen.max_body_bytes,
            timeout_seconds=config.listen.idle_timeout_seconds,
        )
        reactor.adoptStreamPort(listening.fileno(), listening.family, site)
        if config.listen.metrics_port is not None:
            pages = Resource()
            pages.putChild(b"metrics", MetricsResource())  # type: ignore[no-untyped-call]  # untyped
            reactor.listenTCP(config.listen.metrics_port, Site(pages), interface="127.0.0.1")
        listening.close()
        gc.collect()
        gc.freeze()
        address = f"http://{config.listen.address}:{config.listen.port}"
        logger.info("Listening address=%s name=%s", address, config.server.name)

    def failed(failure: Failure) -> None:
        logger.error("Cannot start", exc_info=failure.value)
        outcome["code"] = _EXIT_FAILED
        reactor.stop()

    async def stop() -> None:
        logger.info("Stopping")
        await server.stop()

    def begin() -> None:
        Deferred.fromCoroutine(start()).addErrback(failed)

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    reactor.run()
    threads.close()
    database.close()
    return outcome["code"]


def list_routes(config: Config) -> Iterator[str]:
    """Build the server without starting it, and say what it answers."""
    clock = Clock(reactor)
    with contextlib.closing(ThreadedDatabase(reactor, "", threads=0)) as database:
        server: Server = build(
            config,
            clock=clock,
            randomness=Randomness(),
            database=database,
            signing_key=SigningKey("ed25519:none", bytes(32)),
            http=OutboundHttp(reactor),
            appservices=Appservices([]),
            threads=InlineThreads(),
        )
        for route in sorted(server.routes, key=lambda r: r.declaration.path):
            d = route.declaration
            yield f"{d.operation_id:32} {d.method:7} {d.path}  {d.auth.value}  {route.location}"
