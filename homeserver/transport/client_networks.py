"""Whom a limit counts a stranger's request for: the network of the address that it came from."""

import ipaddress
from functools import lru_cache

_OWN_BITS = 64
"""Of an IPv6 address, at the end: whoever has one has all that differ in these, or more."""
_MAX_REMEMBERED = 10_000


@lru_cache(maxsize=_MAX_REMEMBERED)
def network_of(address: str) -> str:
    """Return what stands for an address in limits: itself, or of an IPv6 one what is not its own.

    address  it may also be any text, as a proxy said it
    """
    found = _parse(address)
    if found is None:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.IPv6Address(int(found) >> _OWN_BITS << _OWN_BITS))


@lru_cache(maxsize=_MAX_REMEMBERED)
def stranger_at(address: str) -> str | None:
    """Return the network of an address; None if it is a proxy's, behind which anybody may be.

    That is every address that does not lead to the public network.
    """
    found = _parse(address)
    return network_of(address) if found is None or found.is_global else None


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = address
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:  # some proxies name the port too, another one each time
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    # A socket for both takes IPv4 as IPv6 that begins so.
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
