"""From server names to places, step by step."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock as FakeReactor
from twisted.names import dns
from twisted.names.error import DomainError

from homeserver.clock import Clock
from homeserver.core.identifiers import ServerName
from homeserver.transport.connections import Place
from homeserver.transport.outbound import Answer, RequestFailed
from homeserver.transport.server_discovery import Destination, ServerDiscovery
from tests.homeserver import SteadyRandomness

START = 1_700_000_000


class FakeNetwork:
    """What .well-known and DNS say."""

    def __init__(self) -> None:
        self.well_known: dict[str, Answer | RequestFailed] = {}
        self.services: dict[str, list[tuple[int, int, int, str]]] = {}
        """Priority, weight, port, target."""
        self.asked: list[str] = []
        self.reactor = FakeReactor()
        self.discovery = ServerDiscovery(
            self,
            self,
            Clock(self.reactor, wall=lambda: START + self.reactor.seconds()),
            SteadyRandomness(),
        )

    async def get(self, url: str, *, timeout_seconds: float, max_bytes: int) -> Answer:
        assert timeout_seconds <= 30
        assert max_bytes <= 51_200
        host = url.removeprefix("https://").removesuffix("/.well-known/matrix/server")
        self.asked.append(host)
        answer = self.well_known.get(host, RequestFailed("nobody there"))
        if isinstance(answer, RequestFailed):
            raise answer
        return answer

    def lookupService(self, name: str, timeout: Sequence[int] = ()) -> Deferred[Any]:  # noqa: N802 - Twisted's name
        del timeout
        self.asked.append(name)
        if name not in self.services:
            return fail(DomainError(name))
        records = [
            SimpleNamespace(type=dns.SRV, payload=dns.Record_SRV(priority, weight, port, target))
            for priority, weight, port, target in self.services[name]
        ]
        return succeed((records, [], []))

    def delegate(self, host: str, body: str, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.well_known[host] = Answer(status, body.encode(), named)

    def find(self, server: str) -> Destination:
        found: list[Any] = []
        Deferred.fromCoroutine(self.discovery.find(ServerName(server))).addBoth(found.append)
        if not isinstance(found[0], Destination):
            found[0].raiseException()
        destination = found[0]
        assert isinstance(destination, Destination)
        return destination

    def where(self, server: str) -> tuple[list[Place], str, str]:
        found = self.find(server)
        return list(found.places), found.host_header, found.tls_name


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


FED, OLD = "_matrix-fed._tcp.", "_matrix._tcp."


@pytest.mark.parametrize(
    ("server", "place", "tls_name"),
    [
        ("1.2.3.4", Place("1.2.3.4", 8448), "1.2.3.4"),
        ("1.2.3.4:80", Place("1.2.3.4", 80), "1.2.3.4"),
        ("[2001:db8::1]", Place("2001:db8::1", 8448), "2001:db8::1"),
        ("[2001:db8::1]:80", Place("2001:db8::1", 80), "2001:db8::1"),
        ("host.test:80", Place("host.test", 80), "host.test"),
    ],
)
def test_a_name_that_says_its_place_is_not_looked_up(
    network: FakeNetwork, server: str, place: Place, tls_name: str
) -> None:
    assert network.where(server) == ([place], server, tls_name)
    assert network.asked == []


@pytest.mark.parametrize(
    ("said", "places", "header", "tls_name"),
    [
        ("1.2.3.4", [Place("1.2.3.4", 8448)], "1.2.3.4", "1.2.3.4"),
        ("[2001:db8::1]:1", [Place("2001:db8::1", 1)], "[2001:db8::1]:1", "2001:db8::1"),
        ("m.test:443", [Place("m.test", 443)], "m.test:443", "m.test"),
        ("m.test", [Place("m.test", 8448)], "m.test", "m.test"),
        ("fed.test", [Place("there.test", 1)], "fed.test", "fed.test"),
        ("old.test", [Place("there.test", 2)], "old.test", "old.test"),
    ],
)
def test_a_delegated_name_leads_on(
    network: FakeNetwork, said: str, places: list[Place], header: str, tls_name: str
) -> None:
    network.delegate("host.test", f'{{"m.server": "{said}"}}')
    network.services[f"{FED}fed.test"] = [(0, 0, 1, "there.test")]
    network.services[f"{OLD}fed.test"] = [(0, 0, 9, "not.test")]
    network.services[f"{OLD}old.test"] = [(0, 0, 2, "there.test.")]

    assert network.where("host.test") == (places, header, tls_name)


def test_without_a_delegation_services_come_first_and_then_the_usual_port(
    network: FakeNetwork,
) -> None:
    network.services[f"{OLD}srv.test"] = [(20, 0, 1, "b.test"), (10, 5, 2, "a.test")]

    assert network.where("srv.test") == (
        [Place("a.test", 2), Place("b.test", 1)], "srv.test", "srv.test",
    )  # fmt: skip
    assert network.where("plain.test") == ([Place("plain.test", 8448)], "plain.test", "plain.test")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, '{"m.server": "evil.test"}'),
        (301, ""),
        (200, ""),
        (200, "[]"),
        (200, "{}"),
        (200, '{"m.server": 7}'),
        (200, '{"m.server": ""}'),
        (200, '{"m.server": "https://evil.test"}'),
        (200, '{"m.server": "evil.test/path"}'),
        (200, '{"m.server": "evil.test:99999"}'),
        (200, '{"m.server": "evil.test:0"}'),
        (200, '{"m.server": "evil.test\\u0000"}'),
        (200, '{"m.server": "@evil.test"}'),
        (200, '{"m.server": "' + "x" * 300 + '"}'),
    ],
)
def test_attack_9_a_well_known_that_makes_no_sense_is_as_none(
    network: FakeNetwork, status: int, body: str
) -> None:
    network.delegate("host.test", body, status)

    assert network.where("host.test") == ([Place("host.test", 8448)], "host.test", "host.test")


def test_attack_9_services_never_change_the_name_of_the_certificate(network: FakeNetwork) -> None:
    network.services[f"{FED}host.test"] = [(0, 0, 80, "evil.test"), (0, 0, 1, "")]

    assert network.where("host.test") == ([Place("evil.test", 80)], "host.test", "host.test")


def test_attack_5_of_very_many_services_a_few_are_tried(network: FakeNetwork) -> None:
    network.services[f"{FED}host.test"] = [(0, 1, 80, f"h{n}.test") for n in range(500)]

    assert len(network.find("host.test").places) == 8


DAY = 86_400


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({}, DAY),
        ({"cache_control": "max-age=3600"}, 3600),
        ({"cache_control": "public, MAX-AGE = 3600"}, 3600),
        ({"cache_control": "max-age=0"}, 300),
        ({"cache_control": "no-store, max-age=3600"}, 300),
        ({"cache_control": "max-age=" + "9" * 4000}, 2 * DAY),
        ({"cache_control": "max-age=-5"}, DAY),
        ({"expires": "Tue, 14 Nov 2023 23:13:20 GMT"}, 3600),
        ({"expires": "0"}, 300),
        ({"expires": "Fri, 31 Dec 9999 23:59:59 -2359"}, 2 * DAY),
        ({"expires": "Mon, 01 Jan 0001 00:00:00 +2359"}, 300),
        ({"expires": "\xff, 99 Foo 99999999999999999999 99:99:99 +99999999999"}, 300),
    ],
)
def test_a_delegation_is_kept_as_long_as_it_says_within_bounds(
    network: FakeNetwork, headers: dict[str, str], kept: int
) -> None:
    network.delegate("host.test", '{"m.server": "m.test:1"}', 200, **headers)
    network.find("host.test")
    network.well_known.clear()

    network.reactor.advance(kept - 1)
    network.find("host.test")
    before = network.asked.count("host.test")
    network.reactor.advance(2)
    network.find("host.test")

    assert (before, network.asked.count("host.test")) == (1, 2)


def test_a_delegation_that_was_right_is_believed_once_more_when_it_cannot_be_had(
    network: FakeNetwork,
) -> None:
    network.delegate("host.test", '{"m.server": "m.test:1"}', cache_control="max-age=300")
    network.find("host.test")
    network.well_known.clear()
    network.reactor.advance(301)
    still = network.find("host.test")
    network.reactor.advance(61)
    gone = network.find("host.test")

    assert [still.places, gone.places] == [[Place("m.test", 1)], [Place("host.test", 8448)]]


def test_attack_5_who_has_no_well_known_is_asked_ever_more_seldom(network: FakeNetwork) -> None:
    for _ in range(24 * 60):
        network.find("host.test")
        network.reactor.advance(60)

    assert network.asked.count("host.test") < 35


def test_what_is_forgotten_is_looked_up_again(network: FakeNetwork) -> None:
    network.find("host.test")
    network.delegate("host.test", '{"m.server": "m.test:1"}')

    network.discovery.forget(ServerName("host.test"))

    assert network.find("host.test").places == [Place("m.test", 1)]


def test_attack_5_what_is_kept_is_bounded(network: FakeNetwork) -> None:
    for number in range(20_050):
        network.find(f"h{number}.test")

    network.find("h0.test")

    assert network.asked.count("h0.test") == 2
