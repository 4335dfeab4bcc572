"""Connections to other machines: resolve, filter, connect, TLS.

Invariant: the address that was checked is the one that is connected to. A name is resolved once a
connection, or less often; there is no second look-up whose answer could be another (DNS rebinding).
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL
from twisted.internet._sslverify import IOpenSSLTrustRoot  # it has no public name
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from zope.interface import implementer

from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.certificates import CheckedTLS
from homeserver.transport.name_lookups import NameLookups, look_up_by

_CONNECT_SECONDS = 10.0
_MAX_ADDRESSES = 4
"""Of one host that are tried."""
_MAX_LABEL = 63
_MAX_NAME = 254


class AddressRefused(ConnectError):
    """The name leads only to addresses that the server does not call."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted has no types here
        self._message = (
            f"{host} is at {address}, a private address; outbound.allowed_networks can allow it"
        )

    def __str__(self) -> str:
        return self._message


@dataclass(frozen=True, slots=True)
class Place:
    host: str
    """A name or an address; an IPv6 address without brackets."""
    port: int


@implementer(IOpenSSLTrustRoot)
class TrustRoot:
    """The system's authorities, and those of a file."""

    def __init__(self, ca_file: str | None) -> None:
        self._ca_file = ca_file

    def _addCACertsToContext(self, context: SSL.Context) -> None:  # noqa: N802 - Twisted's name
        context.set_default_verify_paths()
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)


class Connections:
    def __init__(
        self,
        reactor: Any,
        addresses: AddressFilter,
        ca_file: str | None = None,
        names: NameLookups | None = None,
    ) -> None:
        """`names`: None: the operating system's."""
        self._reactor = reactor
        self._addresses = addresses
        self._trust_root = TrustRoot(ca_file)
        self._names = names or NameLookups(reactor, look_up_by(reactor))

    def endpoint(self, places: Sequence[Place], tls_name: str | None) -> IStreamClientEndpoint:
        """Return what connects to the first of these places that answers.

        tls_name  host name or address that the certificate must be for; None: no TLS
        """
        plain = _FirstThatAnswers(self, places)
        return plain if tls_name is None else _OverTLS(plain, tls_name, self._trust_root)

    async def connect(self, place: Place, factory: IProtocolFactory) -> IProtocol:
        """Raises ConnectError (AddressRefused, the connection's) and DNSLookupError."""
        failure: Exception = DNSLookupError(f"{place.host} has no address")
        for address in (await self._resolve(place.host))[:_MAX_ADDRESSES]:
            make = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            endpoint = make(self._reactor, address, place.port, timeout=_CONNECT_SECONDS)
            try:
                return await endpoint.connect(factory)
            except ConnectError as error:
                failure = error
        self._names.forget(place.host)  # it may have moved
        raise failure

    async def _resolve(self, host: str) -> list[str]:
        try:
            found: Sequence[str] = [str(ipaddress.ip_address(host))]
        except ValueError:
            if not _is_name(host):
                raise DNSLookupError(f"{host} is no host name") from None
            found = await self._names.find(host)
        allowed = [address for address in found if self._addresses.allows(address)]
        if not allowed:
            raise AddressRefused(host, found[0])
        return allowed


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return all(0 < len(label) <= _MAX_LABEL for label in labels) and len(host) <= _MAX_NAME


@implementer(IStreamClientEndpoint)
class _OverTLS:
    """Prepares TLS when it connects: most requests find a kept connection instead."""

    def __init__(
        self, plain: IStreamClientEndpoint, tls_name: str, trust_root: IOpenSSLTrustRoot
    ) -> None:
        self._plain = plain
        self._tls_name = tls_name
        self._trust_root = trust_root

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803 - Twisted's name
        options = CheckedTLS(self._tls_name, self._trust_root)
        connecting: Deferred[IProtocol] = wrapClientTLS(options, self._plain).connect(
            protocolFactory
        )
        return connecting


@implementer(IStreamClientEndpoint)
class _FirstThatAnswers:
    def __init__(self, connections: Connections, places: Sequence[Place]) -> None:
        self._connections = connections
        self._places = places

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803 - Twisted's name
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        failure: Exception = DNSLookupError("there is no place to connect to")
        for place in self._places:
            try:
                return await self._connections.connect(place, factory)
            except (ConnectError, DNSLookupError) as error:
                failure = error
        raise failure
