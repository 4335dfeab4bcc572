"""Class 9 over TLS on real sockets: whose certificate is believed, and what is kept."""

import datetime as dt
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, fail
from twisted.names.error import DomainError

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.randomness import Randomness
from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.connections import Connections
from homeserver.transport.federation_client import AllowedServers, SignedClient, request_json
from homeserver.transport.outbound import Cause, OutboundHttp, RequestFailed
from homeserver.transport.server_discovery import ServerDiscovery
from tests.homeserver import key_of
from tests.transport.sockets import (
    OK,
    Names,
    answering,
    flooding,
    result,
    serving,
    turn_until,
)

OWN = ServerName("a.test")
PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


class NoServices:
    def lookupService(self, name: str, timeout: Sequence[int] = ()) -> Deferred[Any]:  # noqa: N802 - Twisted's name
        del timeout
        return fail(DomainError(name))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def names_known() -> Names:
    return Names()


@pytest.fixture
def client(names_known: Names, authority: trustme.CA, tmp_path: Path) -> SignedClient:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    connections = Connections(
        _reactor, AddressFilter(["127.0.0.1/32"]), str(ca_file), names_known.lookups
    )
    clock = Clock(_reactor)
    discovery = ServerDiscovery(
        OutboundHttp(_reactor, connections), NoServices(), clock, Randomness()
    )
    return SignedClient(
        _reactor,
        connections,
        discovery,
        AllowedServers(None, []),
        server_name=OWN,
        signing_key=key_of(OWN),
        timeout_seconds=10,
    )


def tls(authority: trustme.CA, *names: str, **more: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    return context


def ask(client: SignedClient, server: str, **options: Any) -> Any:
    path = "/_matrix/federation/v1/version"
    return result(request_json(client, "GET", ServerName(server), path, **options))


def failure(client: SignedClient, server: str, **options: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as failed:
        ask(client, server, **options)
    return failed.value


def test_a_certificate_for_the_servers_address_is_believed(
    client: SignedClient, authority: trustme.CA
) -> None:
    with serving(answering(OK), tls=tls(authority, "127.0.0.1")) as server:
        assert ask(client, f"127.0.0.1:{server.port}") == {}


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["other.test"], {}, "not for this server's name"),
        (["*.test"], {}, "not for this server's name"),
        (["127.0.0.1"], {"not_before": PAST, "not_after": PAST}, "expired"),
    ],
)
def test_attack_9_a_certificate_that_is_not_good_is_not_believed(
    client: SignedClient,
    authority: trustme.CA,
    names: list[str],
    more: dict[str, Any],
    message: str,
) -> None:
    with serving(answering(OK), tls=tls(authority, *names, **more)) as server:
        failed = failure(client, f"127.0.0.1:{server.port}")

    assert failed.cause is Cause.TLS
    assert message in str(failed)


def test_attack_9_a_certificate_of_an_unknown_authority_is_not_believed(
    client: SignedClient,
) -> None:
    with serving(answering(OK), tls=tls(trustme.CA(), "127.0.0.1")) as server:
        failed = failure(client, f"127.0.0.1:{server.port}")

    assert failed.cause is Cause.TLS
    assert "federation.ca_file" in str(failed)


def test_attack_9_what_does_not_speak_tls_is_not_asked(client: SignedClient) -> None:
    with serving(lambda connection: connection.sendall(OK)) as server:
        assert failure(client, f"127.0.0.1:{server.port}").cause is Cause.TLS


def test_a_connection_is_kept_for_the_next_request(
    client: SignedClient, authority: trustme.CA
) -> None:
    with serving(answering(OK), tls=tls(authority, "127.0.0.1")) as server:
        for _ in range(3):
            ask(client, f"127.0.0.1:{server.port}")

        assert server.connections == 1


def test_attack_9_a_connection_is_not_kept_for_a_server_of_another_name(
    client: SignedClient, names_known: Names, authority: trustme.CA
) -> None:
    names_known.known = {"one.test": [["127.0.0.1"]], "two.test": [["127.0.0.1"]]}
    with serving(answering(OK), tls=tls(authority, "one.test")) as server:
        ask(client, f"one.test:{server.port}")

        failed = failure(client, f"two.test:{server.port}")

        assert server.connections == 2
    assert failed.cause is Cause.TLS


def test_attack_5_over_tls_too_an_answer_without_end_is_cut_off(
    client: SignedClient, authority: trustme.CA
) -> None:
    endless = flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000)
    with serving(endless, tls=tls(authority, "127.0.0.1")) as server:
        failed = failure(client, f"127.0.0.1:{server.port}", max_bytes=100_000)

        turn_until(server.ended.is_set)
    assert failed.cause is Cause.TOO_LARGE


@pytest.mark.parametrize(
    "name",
    ["evil.test:99999", "evil.test:0", "-bad.test:8448", "a..b:8448", "ab--cd.test:1", "x" * 230],
)
def test_attack_9_a_name_that_can_have_no_place_has_failed_and_nothing_else(
    client: SignedClient, name: str
) -> None:
    assert isinstance(failure(client, name), RequestFailed)


@pytest.mark.parametrize("server", ["127.0.0.2", "[::1]", "10.0.0.1:8448", "169.254.169.254:80"])
def test_attack_9_a_server_whose_name_is_a_private_address_is_not_called(
    client: SignedClient, server: str
) -> None:
    failed = failure(client, server)

    assert failed.cause is Cause.CONNECT
    assert "private address" in str(failed)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_attack_9_a_redirect_of_a_signed_request_is_not_followed(
    client: SignedClient, authority: trustme.CA, status: int
) -> None:
    with serving(answering(OK), tls=tls(authority, "127.0.0.1")) as other:
        location = f"https://127.0.0.1:{other.port}/"
        moved = f"HTTP/1.1 {status} x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        with serving(answering(moved), tls=tls(authority, "127.0.0.1")) as server:
            failure(client, f"127.0.0.1:{server.port}")

        assert other.connections == 0
