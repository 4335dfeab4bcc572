"""Which addresses the server may call on behalf of others.

Invariant: an address that does not lead to the public network, in whatever way it is written, is
allowed only by configuration.
"""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV4_INSIDE = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("::/96"),
)
"""Networks whose packets may be sent on to the IPv4 address in the last 32 bits."""
_SITE_LOCAL = ipaddress.IPv6Network("fec0::/10")
"""No longer in use by the book, and so not private by Python's."""


class AddressFilter:
    def __init__(self, allowed_networks: Sequence[str] = ()) -> None:
        """Raises ValueError unless these are networks such as 10.1.0.0/16."""
        self._allowed = [ipaddress.ip_network(network) for network in allowed_networks]

    def allows(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        meant = _inside(address) or [address]
        if all(any(one in network for network in self._allowed) for one in meant):
            return True
        return all(_is_public(one) for one in (address, *meant))


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and address not in _SITE_LOCAL


def _inside(address: Address) -> list[Address]:
    """Return the IPv4 addresses that packets to an IPv6 address may end up at."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if any(address in network for network in _IPV4_INSIDE) and int(address) > 1:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return []
