"""Class 9: which addresses are called on behalf of others."""

import pytest

from homeserver.transport.address_filter import AddressFilter

INSIDE = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:0:a00:1::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
NO_ADDRESSES = [
    "",
    "localhost",
    "2130706433",
    "0x7f.1",
    "127.1",
    "0177.0.0.1",
    "1.2.3.4.5",
    "[::1]",
]
OUTSIDE = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "2606:4700::1111",
    "64:ff9b::8.8.8.8",
    "2002:808:808::",
]


@pytest.mark.parametrize("address", INSIDE + NO_ADDRESSES)
def test_attack_9_what_does_not_lead_outside_is_not_called(address: str) -> None:
    assert not AddressFilter().allows(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_public_addresses_are_called(address: str) -> None:
    assert AddressFilter().allows(address)


def test_allowed_networks_are_called_however_their_addresses_are_written() -> None:
    addresses = AddressFilter(["10.1.0.0/16", "fd00::/8"])

    called = ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00::1"]
    assert all(addresses.allows(address) for address in called)
    assert not any(addresses.allows(a) for a in ["10.2.0.1", "::ffff:10.2.0.1", "fc00::1"])


def test_what_leads_into_an_allowed_network_and_elsewhere_is_not_called() -> None:
    teredo = "2001:0:a01:203:0:0:80ff:fffe"  # server 10.1.2.3, client 127.0.0.1

    assert not AddressFilter(["10.1.0.0/16"]).allows(teredo)


def test_a_network_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        AddressFilter(["10.0.0.1/8"])
