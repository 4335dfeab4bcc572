"""What other servers say is elsewhere: fetched over https and never inside (attack class 9)."""

from typing import Any, cast

import pytest
from twisted.internet import reactor

from homeserver.core.identifiers import ServerName
from homeserver.randomness import Randomness
from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.connections import Connections
from homeserver.transport.federation_client import AllowedServers, SignedClient
from homeserver.transport.outbound import OutboundHttp, RequestFailed
from homeserver.transport.server_discovery import ServerDiscovery
from tests.homeserver import key_of
from tests.transport.sockets import OK, answering, result, serving


def make_client() -> SignedClient:
    connections = Connections(reactor, AddressFilter())
    # Discovery is for server names; who asks for a URL asks neither a resolver nor the time.
    discovery = ServerDiscovery(
        OutboundHttp(reactor, connections), cast("Any", None), cast("Any", None), Randomness()
    )
    return SignedClient(
        reactor,
        connections,
        discovery,
        AllowedServers(None, []),
        server_name=ServerName("a.test"),
        signing_key=key_of(ServerName("a.test")),
        timeout_seconds=10,
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://2130706433:{port}/",
        "file:///etc/passwd",
        "HTTPS://127.0.0.1:{port}/",
        "https://",
        "https://é.test/",
        "https://a b/",
        "https://[",
        "https://127.0.0.1:port/",
        "https://user@127.0.0.1:{port}/",
        "//127.0.0.1:{port}/",
        "",
    ],
)
def test_attack_9_media_that_are_said_to_be_inside_are_not_fetched(url: str) -> None:
    with serving(answering(OK)) as server:
        fetching = make_client().fetch_url(
            url.format(port=server.port), timeout_seconds=10, max_bytes=1000
        )
        with pytest.raises(RequestFailed):
            result(fetching)

        assert server.connections == 0
