"""Whom limits by address count: what one customer of a provider can choose freely is one."""

import pytest

from homeserver.transport.client_networks import network_of, stranger_at


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("9.9.9.9", "9.9.9.9"),
        ("2a00:1450:1:2::3", "2a00:1450:1:2::"),
        ("2a00:1450:1:2:ffff:ffff:ffff:ffff", "2a00:1450:1:2::"),
        ("2a00:1450:1:3::3", "2a00:1450:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("9.9.9.9:41000", "9.9.9.9"),
        ("[2a00:1450:1:2::3]:41000", "2a00:1450:1:2::"),
        ("[fe80::1%eth0]", "fe80::"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("unknown", "unknown"),
    ],
)
def test_the_address_counts_and_of_an_ipv6_one_the_network(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "172.17.0.1", "fd00::1", "100.64.0.1"])
def test_at_an_address_that_is_not_public_is_a_proxy_and_nobody_to_count(address: str) -> None:
    assert stranger_at(address) is None


@pytest.mark.parametrize("address", ["9.9.9.9", "2a00:1450:1:2::3", "what a proxy says"])
def test_at_any_other_address_is_a_stranger(address: str) -> None:
    assert stranger_at(address) == network_of(address)
