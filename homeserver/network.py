"""How the process reaches the network: clients for other machines, and TLS for other servers."""

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.names.client import createResolver

from homeserver.clock import Clock
from homeserver.config import Config, ConfigInvalid
from homeserver.core.signing import SigningKey
from homeserver.randomness import Randomness
from homeserver.services.own_keys import read_old_keys
from homeserver.storage.server_keys import StoredKey
from homeserver.transport.address_filter import AddressFilter
from homeserver.transport.connections import Connections
from homeserver.transport.federation_client import SignedClient, allowed_servers
from homeserver.transport.outbound import OutboundHttp
from homeserver.transport.server_discovery import ServerDiscovery

logger = logging.getLogger(__name__)

_EVERYWHERE = ("0.0.0.0/0", "::/0")


def make_appservice_client(reactor: Any) -> OutboundHttp:
    """Application services are where the administrator says, on this machine for the most part."""
    return OutboundHttp(reactor, Connections(reactor, AddressFilter(_EVERYWHERE)))


def make_federation_client(
    reactor: Any, config: Config, signing_key: SigningKey, clock: Clock, randomness: Randomness
) -> SignedClient:
    ca_file = config.federation.ca_file
    connections = Connections(
        reactor,
        AddressFilter(config.outbound.allowed_networks),
        None if ca_file is None else str(config.path(ca_file)),
    )
    discovery = ServerDiscovery(
        OutboundHttp(reactor, connections), createResolver(), clock, randomness
    )
    return SignedClient(
        reactor,
        connections,
        discovery,
        allowed_servers(config.federation),
        server_name=config.server.name,
        signing_key=signing_key,
        timeout_seconds=float(config.federation.timeout_seconds),
    )


def load_old_keys(config: Config) -> Mapping[str, StoredKey]:
    """Raises ConfigInvalid."""
    if config.federation.old_keys_file is None:
        return {}
    file = config.path(config.federation.old_keys_file)
    try:
        return read_old_keys(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"federation.old_keys_file {file}: {error}") from error


class RenewedCertificate:
    """TLS for other servers; a certificate that was renewed is taken without a restart."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises ConfigInvalid."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._certificate = certificate
        self._key = key
        self._seen: tuple[int, int] | None = None
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            raise ConfigInvalid(
                f"federation.tls_certificate_file {certificate} and tls_key_file {key}"
                f" cannot be used: {error}"
            ) from error

    async def renew(self) -> None:
        """Read the files again if they have changed; connections from now on use them."""
        try:
            self._load()
        except (OSError, ssl.SSLError) as error:
            logger.warning("The certificate cannot be read; the old one stays: %s", error)

    def _load(self) -> None:
        seen = (self._certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns)
        if seen != self._seen:
            # First apart: a key that is not the certificate's would spoil those in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            self.context.load_cert_chain(self._certificate, self._key)
            self._seen = seen


def load_certificate(config: Config) -> RenewedCertificate | None:
    """Raises ConfigInvalid. None: other servers are served by a proxy in front."""
    section = config.federation
    if section.tls_certificate_file is None or section.tls_key_file is None:
        return None
    return RenewedCertificate(
        config.path(section.tls_certificate_file), config.path(section.tls_key_file)
    )
