"""Class 5: requests of one address in the names of servers that hang when asked for their keys."""

from collections.abc import Sequence

from homeserver.core.identifiers import ServerName
from homeserver.core.request_signing import make_authorization
from homeserver.services.server_keys import MAX_FETCHES_OF_STRANGER
from tests.federation.network import MemoryNetwork
from tests.homeserver import Homeserver, key_of
from tests.wire import Wire, parse_answer

EVIL = "9.9.9.9"
OTHER = "8.8.8.8"
URI = "/_matrix/federation/v1/query/profile?user_id=%40nobody%3Aa.test"
HANGING = [ServerName(f"hanging{number}.test") for number in range(MAX_FETCHES_OF_STRANGER + 1)]


def hold(network: MemoryNetwork, names: Sequence[ServerName] = HANGING) -> None:
    for name in names:
        network.hold(name, "/key/")


def ask_from(address: str, server: Homeserver, origin: str) -> Wire:
    """Begin a signed request."""
    header = make_authorization(
        key_of(ServerName(origin)),
        method="GET",
        uri=URI,
        origin=ServerName(origin),
        destination=server.name,
        content=None,
    )
    return send_from(address, server, "GET", URI, f"Authorization: {header}\r\n")


def send_from(address: str, server: Homeserver, method: str, target: str, head: str) -> Wire:
    wire = Wire(server.http_server, peername=(address, 1))
    wire.send(f"{method} {target} HTTP/1.1\r\nHost: {server.name}\r\n{head}\r\n".encode())
    server.settle()
    return wire


def status_of(wire: Wire) -> int | None:
    answer = parse_answer(bytes(wire.received))
    return None if answer is None else answer[0]


def test_attack_5_one_address_may_have_so_many_servers_asked_for_their_keys(
    network: MemoryNetwork, a: Homeserver
) -> None:
    hold(network)

    asking = [ask_from(EVIL, a, name) for name in HANGING]

    assert [status_of(one) for one in asking] == [*[None] * MAX_FETCHES_OF_STRANGER, 429]
    assert b"retry_after_ms" in bytes(asking[-1].received)
    assert len(network.requests) == MAX_FETCHES_OF_STRANGER


def test_attack_5_meanwhile_servers_at_other_addresses_and_known_ones_are_answered(
    network: MemoryNetwork, a: Homeserver, b: Homeserver, c: Homeserver
) -> None:
    assert status_of(ask_from(EVIL, a, c.name)) == 404
    hold(network)
    for name in HANGING:
        ask_from(EVIL, a, name)

    assert status_of(ask_from(OTHER, a, b.name)) == 404
    assert status_of(ask_from(EVIL, a, c.name)) == 404


def test_attack_5_who_was_refused_is_answered_once_those_that_hang_are_given_up(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    hold(network)
    for name in HANGING:
        ask_from(EVIL, a, name)
    assert status_of(ask_from(EVIL, a, b.name)) == 429

    network.advance(60)

    assert status_of(ask_from(EVIL, a, b.name)) == 404


def test_attack_5_all_addresses_of_an_ipv6_network_are_one(
    network: MemoryNetwork, a: Homeserver
) -> None:
    hold(network)

    for number, name in enumerate(HANGING):
        last = ask_from(f"2a00:1450:1:2::{number:x}", a, name)

    assert status_of(last) == 429
    assert status_of(ask_from("2a00:1450:1:3::1", a, HANGING[-1])) is None


def test_attack_5_a_proxy_that_does_not_say_for_whom_it_asks_is_not_one_address(
    network: MemoryNetwork, a: Homeserver, b: Homeserver
) -> None:
    hold(network)

    asking = [ask_from("172.17.0.1", a, name) for name in HANGING]

    assert {status_of(one) for one in asking} == {None}
    assert status_of(ask_from("172.17.0.1", a, b.name)) == 404


def test_attack_5_a_notary_is_not_made_to_ask_more_servers(
    network: MemoryNetwork, a: Homeserver
) -> None:
    hold(network)

    asking = [send_from(EVIL, a, "GET", f"/_matrix/key/v2/query/{name}", "") for name in HANGING]

    assert [status_of(one) for one in asking] == [*[None] * MAX_FETCHES_OF_STRANGER, 429]
    assert len(network.requests) == MAX_FETCHES_OF_STRANGER


def test_attack_5_who_hangs_up_has_not_ended_what_was_begun_for_him(
    network: MemoryNetwork, a: Homeserver
) -> None:
    hold(network)

    for name in HANGING[:-1]:
        ask_from(EVIL, a, name).disconnect()

    assert status_of(ask_from(EVIL, a, HANGING[-1])) == 429
