"""A server whose .well-known is broken: what is said when it cannot be reached for that reason."""

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock as FakeReactor
from twisted.names.error import DNSNameError
from zope.interface import implementer

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.services.federation.failure_causes import FailureCause, cause_of
from homeserver.transport.connections import Place
from homeserver.transport.federation_client import AllowedServers, SignedClient
from homeserver.transport.outbound import Answer, Cause, RequestFailed
from homeserver.transport.server_discovery import ServerDiscovery
from tests.homeserver import START_MS, SteadyRandomness, key_of

US, THEM = ServerName("us.test"), ServerName("them.test")


class Web:
    def __init__(self, answer: Answer | RequestFailed) -> None:
        self._answer = answer

    async def get(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer:
        assert url == "https://them.test/.well-known/matrix/server"
        assert timeout_seconds > 0
        assert max_bytes > 0
        if isinstance(self._answer, RequestFailed):
            raise self._answer
        return self._answer


class NoServices:
    def lookupService(self, name: str, timeout: Sequence[int] = ()) -> "Deferred[Any]":  # noqa: N802 - Twisted's name
        del timeout
        return fail(DNSNameError(name))


@implementer(IStreamClientEndpoint)
class ClosedPort:
    def connect(self, protocolFactory: object) -> "Deferred[Any]":  # noqa: N803 - Twisted's name
        del protocolFactory
        return fail(Refused())


class ClosedPorts:
    """Connections to machines where nothing listens."""

    def endpoint(self, places: Sequence[Place], tls_name: str | None) -> ClosedPort:
        assert [(place.port, tls_name) for place in places] == [(8448, "them.test")]
        return ClosedPort()


@pytest.mark.parametrize(
    ("well_known", "cause"),
    [
        (Answer(404, b""), FailureCause.CONNECT),
        (RequestFailed("nothing listens", Cause.CONNECT), FailureCause.CONNECT),
        (Answer(500, b""), FailureCause.WELL_KNOWN),
        (Answer(200, b"<html>"), FailureCause.WELL_KNOWN),
    ],
)
def test_a_broken_well_known_is_the_cause_only_when_it_is_there(
    well_known: Answer | RequestFailed, cause: FailureCause
) -> None:
    reactor = FakeReactor()
    clock = Clock(reactor, wall=lambda: START_MS / 1000)
    client = SignedClient(
        reactor,
        ClosedPorts(),  # type: ignore[arg-type]  # the one method of it that is used
        ServerDiscovery(Web(well_known), NoServices(), clock, SteadyRandomness()),
        AllowedServers(None, []),
        server_name=US,
        signing_key=key_of(US),
        timeout_seconds=10,
    )
    failures: list[Any] = []

    asking = Deferred.fromCoroutine(client.request("GET", THEM, "/_matrix/federation/v1/version"))
    asking.addErrback(failures.append)

    [failure] = failures
    assert failure.check(RequestFailed)
    assert cause_of(failure.value) is cause
