"""Whether a certificate is good for a name.

Invariant: a certificate that cannot be read, or not understood, is good for no name. Twisted's own
check takes it for any name if reading it fails (26.10: `*.test` in it is enough).
"""

import ipaddress
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity.hazmat import DNS_ID, IPAddress_ID, ServiceID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

_PROBLEMS = {9: "it is not valid yet", 10: "it has expired", 23: "it was revoked"}
_UNTRUSTED = (
    "its authority is not known here (trusted are the system's authorities and federation.ca_file)"
)


class CertificateRefused(Exception):
    """The message says why."""


@implementer(IOpenSSLClientConnectionCreator)
class CheckedTLS:
    def __init__(self, name: str, trust_root: Any) -> None:
        """Raises ValueError for what is no host name.

        name  host name or address that the certificate must be for
        """
        self._options = optionsForClientTLS(name, trustRoot=trust_root)
        self._service = _service_of(name)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:  # noqa: N802, N803 - Twisted's names
        connection: SSL.Connection = self._options.clientConnectionForTLS(tlsProtocol)
        connection.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
            _check_for(self._service, tlsProtocol),
        )
        return connection


def _service_of(name: str) -> ServiceID:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return DNS_ID(name)
    return IPAddress_ID(name)


def _check_for(
    service: ServiceID, tls_protocol: Any
) -> Callable[[SSL.Connection, X509, int, int, int], bool]:
    def check(_: SSL.Connection, certificate: X509, error: int, depth: int, is_good: int) -> bool:
        problem = None
        if not is_good:
            problem = f"the certificate is not trusted: {_PROBLEMS.get(error, _UNTRUSTED)}"
        elif depth == 0:
            try:
                verify_service_identity(extract_patterns(certificate), [service], [])
            except Exception as failure:  # noqa: BLE001 - whatever it is, the name is not proven
                problem = f"the certificate is not for this server's name: {failure}"[:300]
        if problem is not None:
            tls_protocol.failVerification(Failure(CertificateRefused(problem)))
        return problem is None

    return check
